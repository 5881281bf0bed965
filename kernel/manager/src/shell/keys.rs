//! Keys, from the bytes that a terminal sends for them (ECMA-48, and what xterm and the VT220 made of it).

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A printable ASCII character.
    Char(u8),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    /// Deletes to the end of the line (Ctrl-K).
    CutRight,
    /// Deletes to the start of the line (Ctrl-U).
    CutLeft,
    /// Deletes a word (Ctrl-W).
    CutWord,
    /// Clears the screen (Ctrl-L).
    Clear,
    /// Gives the line up (Ctrl-C).
    Cancel,
    /// Ctrl-D: deletes, or leaves on an empty line.
    Leave,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// A carriage return was an Enter; a line feed right behind it belongs to it.
    Return,
    Escape,
    /// Behind `ESC [` or `ESC O`, with the number read so far.
    Control(u16),
}

/// Turns bytes into keys.
#[derive(Debug, Default)]
pub(crate) struct Decoder(State);

impl Decoder {
    /// Takes a byte; the key that it completes, if it does and if we know it.
    pub(crate) fn feed(&mut self, byte: u8) -> Option<Key> {
        let state = core::mem::take(&mut self.0);
        match (state, byte) {
            (_, 0x1b) => {
                self.0 = State::Escape;
                None
            }
            (State::Escape, b'[' | b'O') => {
                self.0 = State::Control(0);
                None
            }
            (State::Escape, _) => None,
            (State::Control(number), b'0'..=b'9') => {
                let digit = u16::from(byte.wrapping_sub(b'0'));
                self.0 = State::Control(number.saturating_mul(10).saturating_add(digit));
                None
            }
            // Modifiers do not matter.
            (State::Control(number), 0x20..=0x3f) => {
                self.0 = State::Control(number);
                None
            }
            (State::Control(number), _) => control(number, byte),
            (State::Return, b'\n') => None,
            (State::Ground | State::Return, _) => {
                if byte == b'\r' {
                    self.0 = State::Return;
                }
                plain(byte)
            }
        }
    }
}

const fn plain(byte: u8) -> Option<Key> {
    Some(match byte {
        0x01 => Key::Home,
        0x02 => Key::Left,
        0x03 => Key::Cancel,
        0x04 => Key::Leave,
        0x05 => Key::End,
        0x06 => Key::Right,
        0x08 | 0x7f => Key::Backspace,
        b'\t' => Key::Tab,
        b'\n' | b'\r' => Key::Enter,
        0x0b => Key::CutRight,
        0x0c => Key::Clear,
        0x0e => Key::Down,
        0x10 => Key::Up,
        0x15 => Key::CutLeft,
        0x17 => Key::CutWord,
        b' '..=b'~' => Key::Char(byte),
        _ => return None,
    })
}

const fn control(number: u16, last: u8) -> Option<Key> {
    Some(match (last, number) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', 1 | 7) => Key::Home,
        (b'F', _) | (b'~', 4 | 8) => Key::End,
        (b'~', 3) => Key::Delete,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|b| decoder.feed(*b)).collect()
    }

    #[test]
    fn terminals_agree_more_or_less() {
        use Key::*;
        assert_eq!(keys(b"\x1b[A\x1b[B\x1bOC\x1b[D"), [Up, Down, Right, Left]);
        assert_eq!(keys(b"\x1b[H\x1bOH\x1b[1~\x1b[7~\x01"), [Home; 5]);
        assert_eq!(keys(b"\x1b[F\x1bOF\x1b[4~\x1b[8~\x05"), [End; 5]);
        assert_eq!(keys(b"\x1b[3~\x7f\x08"), [Delete, Backspace, Backspace]);
        assert_eq!(keys(b"\x1b[1;5C"), [Right]);
        assert_eq!(
            keys(b"\x0b\x15\x17\x0c\x03\x04\t"),
            [CutRight, CutLeft, CutWord, Clear, Cancel, Leave, Tab]
        );
    }

    #[test]
    fn one_line_end_is_one_enter() {
        use Key::*;
        assert_eq!(
            keys(b"a\r\nb\rc\nd\n\n"),
            [
                Char(b'a'),
                Enter,
                Char(b'b'),
                Enter,
                Char(b'c'),
                Enter,
                Char(b'd'),
                Enter,
                Enter
            ]
        );
    }

    #[test]
    fn what_is_unknown_is_no_key() {
        assert_eq!(keys(b"\x1b[99~\x1b[20;3R\x1bx\x00\xc3\xa4"), []);
        assert_eq!(keys(b"\x1b[99999999999999A"), [Key::Up]);
    }
}
