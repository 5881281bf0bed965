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
}
