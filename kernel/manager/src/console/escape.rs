//! Control sequences in a guest's output (ECMA-48), for the moments when they must not reach the
//! terminal: a question would be answered into another guest's input, a cursor movement would
//! overwrite another guest's line.

use alloc::vec::Vec;

/// A sequence with more bytes is dropped.
const SEQUENCE_BYTES: usize = 32;
const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

/// What passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Everything but questions that a terminal answers.
    AllButQuestions,
    /// Printable bytes, tabs and colours.
    #[default]
    TextAndColour,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// Behind ESC.
    Escape,
    /// Behind `ESC [`.
    Control,
    /// In a string that ends with BEL or ST.
    Text,
}

/// Passes a stream byte by byte.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    keep: Keep,
    state: State,
    held: Vec<u8>,
}

impl Filter {
    pub(crate) const fn new(keep: Keep) -> Self {
        Self {
            keep,
            state: State::Ground,
            held: Vec::new(),
        }
    }

    /// Takes a byte; what passes is added to `out`.
    pub(crate) fn feed(&mut self, byte: u8, out: &mut Vec<u8>) {
        match (self.state, byte) {
            (_, ESC) => {
                self.held.clear();
                self.held.push(ESC);
                self.state = State::Escape;
            }
            (State::Ground, _) => {
                let plain = byte >= b' ' && byte != 0x7f || byte == b'\t';
                if plain || self.keep == Keep::AllButQuestions {
                    out.push(byte);
                }
            }
            (State::Escape, b'[') => {
                self.held.push(byte);
                self.state = State::Control;
            }
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => self.state = State::Text,
            (State::Escape, 0x20..=0x2f) => self.hold(byte),
            (State::Escape, _) => self.finish(byte, byte != b'Z', out),
            (State::Control, 0x20..=0x3f) => self.hold(byte),
            (State::Control, _) => self.finish(byte, !matches!(byte, b'c' | b'n' | b'x'), out),
            (State::Text, BEL) => self.state = State::Ground,
            (State::Text, _) => {}
        }
    }

    fn hold(&mut self, byte: u8) {
        if self.held.len() < SEQUENCE_BYTES {
            self.held.push(byte);
        }
    }

    fn finish(&mut self, last: u8, harmless: bool, out: &mut Vec<u8>) {
        let whole = self.held.len() < SEQUENCE_BYTES;
        let colour = self.state == State::Control && last == b'm';
        let pass = match self.keep {
            Keep::AllButQuestions => harmless,
            Keep::TextAndColour => colour,
        };
        if pass && whole {
            out.append(&mut self.held);
            out.push(last);
        }
        self.held.clear();
        self.state = State::Ground;
    }
}

/// What the terminal is left with: a sequence or a string that has no end, or attributes and a character set that would hide or
/// disguise the next line. Whoever writes after another one ends that first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leftover {
    state: State,
    /// The parameter being read is not 0.
    set: bool,
    /// The last change of attributes did not take them back.
    attributes: bool,
    /// SHIFT OUT without SHIFT IN.
    shifted: bool,
}

impl Leftover {
    /// Follows a byte to the terminal.
    pub(crate) fn feed(&mut self, byte: u8) {
        const SHIFT_OUT: u8 = 0x0e;
        const SHIFT_IN: u8 = 0x0f;
        self.state = match (self.state, byte) {
            (_, ESC) => State::Escape,
            // CANCEL and SUBSTITUTE end anything.
            (_, 0x18 | 0x1a) | (State::Text, BEL) => State::Ground,
            (State::Text, _) => State::Text,
            (state, SHIFT_OUT | SHIFT_IN) => {
                self.shifted = byte == SHIFT_OUT;
                state
            }
            // Other controls work in the midst of a sequence.
            (state, 0..=0x1f) => state,
            (State::Ground, _) => State::Ground,
            (State::Escape, b'[') => {
                self.set = false;
                State::Control
            }
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::Text,
            (State::Escape, 0x20..=0x2f) => State::Escape,
            (State::Control, 0x20..=0x3f) => {
                self.set = byte != b';' && (self.set || matches!(byte, b'1'..=b'9'));
                State::Control
            }
            (State::Control, b'm') => {
                self.attributes = self.set;
                State::Ground
            }
            (State::Escape | State::Control, _) => State::Ground,
        };
    }

    /// What brings the terminal back; nothing, if it needs nothing.
    pub(crate) fn end(&self, out: &mut Vec<u8>) {
        if self.state != State::Ground {
            out.extend(b"\x1b\\");
        }
        if self.attributes {
            out.extend(b"\x1b[0m");
        }
        if self.shifted {
            out.push(0x0f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(keep: Keep, text: &str) -> String {
        let mut filter = Filter::new(keep);
        let mut out = Vec::new();
        for byte in text.bytes() {
            filter.feed(byte, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn questions_are_left_out() {
        for (text, rest) in [
            ("a\x1b[6nb", "ab"),
            ("a\x1b[>cb", "ab"),
            ("a\x1bZb", "ab"),
            ("a\x1b]11;?\x07b", "ab"),
            ("a\x1bP$q\x1b\\b", "a\x1b\\b"),
            ("a\x1b[2J\x1b[1;31mb\r\n", "a\x1b[2J\x1b[1;31mb\r\n"),
        ] {
            assert_eq!(pass(Keep::AllButQuestions, text), rest, "{text:?}");
        }
    }

    #[test]
    fn text_and_colour_have_no_movement() {
        assert_eq!(
            pass(
                Keep::TextAndColour,
                "\x1b[2Ja\x08\tb\x1b[32mc\x1b[0m\x1b(B\x07d\x1b[A"
            ),
            "a\tb\x1b[32mc\x1b[0md"
        );
    }

    #[test]
    fn a_sequence_without_end_takes_no_memory() {
        let mut filter = Filter::new(Keep::TextAndColour);
        let mut out = Vec::new();
        for byte in b"\x1b[".iter().chain([b'1'; 100_000].iter()).chain(b"mx") {
            filter.feed(*byte, &mut out);
        }
        assert_eq!(out, b"x");
        assert!(filter.held.capacity() < 1000);
    }

    #[test]
    fn what_is_left_open_is_ended() {
        for (text, end) in [
            ("plain\r\n", ""),
            ("\x1b[31mred\x1b[m \x1b[1;33mx\x1b[0m", ""),
            ("\x1b[8m", "\x1b[0m"),
            ("\x1b[0;30m", "\x1b[0m"),
            ("\x1b[1;31", "\x1b\\"),
            ("\x1b[31\r\n", "\x1b\\"),
            ("\x1b]0;title", "\x1b\\"),
            ("\x1b]0;title\x07", ""),
            ("\x1bPq\r\nx\x1b\\", ""),
            ("\x1b", "\x1b\\"),
            ("\x0e", "\x0f"),
            ("\x1b[7m\x0e\x1b^", "\x1b\\\x1b[0m\x0f"),
        ] {
            let mut leftover = Leftover::default();
            text.bytes().for_each(|byte| leftover.feed(byte));
            let mut out = Vec::new();
            leftover.end(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), end, "{text:?}");
            end.bytes().for_each(|byte| leftover.feed(byte));
            let mut more = Vec::new();
            leftover.end(&mut more);
            assert!(more.is_empty(), "{text:?}");
        }
    }
}
