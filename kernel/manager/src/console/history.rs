//! What a guest has written last: kept for the moment when somebody looks.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::escape::{Filter, Keep};

/// Bytes kept of each guest. Seven guests take little of the manager's heap.
pub(crate) const HISTORY_BYTES: usize = 16 * 1024;

/// The last output of one guest.
#[derive(Debug, Default)]
pub(crate) struct History {
    bytes: VecDeque<u8>,
    /// Older bytes were dropped, so the first line may have lost its start.
    cut: bool,
}

impl History {
    /// Adds what the guest wrote; the oldest bytes make room.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let surplus = self.bytes.len().saturating_sub(HISTORY_BYTES);
        if surplus > 0 {
            self.bytes.drain(..surplus);
            self.cut = true;
        }
    }

    /// Ends a line that is open.
    pub(crate) fn end_line(&mut self) {
        if self.bytes.back().is_some_and(|last| *last != b'\n') {
            self.push(b"\r\n");
        }
    }

    /// All that is kept, from the first whole line, without the questions to a terminal that it
    /// would answer a second time.
    pub(crate) fn replay(&self) -> Vec<u8> {
        let whole = self.bytes.iter().position(|byte| *byte == b'\n');
        let start = match whole {
            Some(end) if self.cut => end.saturating_add(1),
            _ => 0,
        };
        filtered(self.bytes.iter().skip(start), Keep::AllButQuestions)
    }

    /// What the guest wrote behind its last line end: a prompt, mostly.
    pub(crate) fn open_line(&self, most: usize) -> Vec<u8> {
        let behind = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let end = self.bytes.iter().rposition(behind);
        let start = end.map_or(0, |end| end.saturating_add(1));
        let start = start.max(self.bytes.len().saturating_sub(most));
        filtered(self.bytes.iter().skip(start), Keep::TextAndColour)
    }
}

fn filtered<'b>(bytes: impl Iterator<Item = &'b u8>, keep: Keep) -> Vec<u8> {
    let mut out = Vec::new();
    let mut filter = Filter::new(keep);
    for byte in bytes {
        filter.feed(*byte, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_kept_until_the_ring_is_full() {
        let mut history = History::default();
        history.push(b"one\r\ntwo\r\n$ ");
        assert_eq!(history.replay(), b"one\r\ntwo\r\n$ ");
        assert_eq!(history.open_line(100), b"$ ");
    }

    #[test]
    fn a_full_ring_starts_with_a_whole_line() {
        let mut history = History::default();
        for line in 0..5000 {
            history.push(format!("line {line}\r\n").as_bytes());
        }
        let text = String::from_utf8(history.replay()).unwrap();
        assert!(text.len() <= HISTORY_BYTES && text.len() > HISTORY_BYTES - 20);
        assert!(text.starts_with("line 3"), "{}", &text[..20]);
        assert!(text.ends_with("line 4999\r\n"));
    }

    #[test]
    fn a_line_longer_than_the_ring_is_shown_as_it_is() {
        let mut history = History::default();
        history.push(&[b'x'; 3 * HISTORY_BYTES]);
        assert_eq!(history.replay().len(), HISTORY_BYTES);
        assert_eq!(history.open_line(10).len(), 10);
    }

    #[test]
    fn questions_are_not_asked_again() {
        let mut history = History::default();
        history.push(b"\x1b[31m/ # \x1b[6n");
        assert_eq!(history.replay(), b"\x1b[31m/ # ");
    }
}
