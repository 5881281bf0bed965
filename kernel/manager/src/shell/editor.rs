//! One line of input, edited, with the lines before it.
//!
//! The editor draws with two control sequences only (erase to the end of the line, move left), so it
//! works on every terminal and a log of the console stays readable.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::keys::{Decoder, Key};

/// What stands before the line.
pub(crate) const PROMPT: &str = "penumbra> ";
/// Characters of a line at most.
const LINE_BYTES: usize = 200;
/// Lines remembered.
const LINES: usize = 32;
const ERASE: &[u8] = b"\x1b[K";

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing more than was drawn.
    None,
    /// A line is complete; the screen is at the start of the next one.
    Run(String),
    /// The word before the cursor is to be completed.
    Complete,
    /// The prompt is to be shown again.
    Prompt,
    /// The shell is to be left.
    Leave,
}

/// The editor.
#[derive(Debug, Default)]
pub(crate) struct Editor {
    keys: Decoder,
    /// ASCII, printable.
    line: Vec<u8>,
    /// At most `line.len()`.
    cursor: usize,
    past: VecDeque<Vec<u8>>,
    /// Which line of the past is shown, counted from the last one; 0: none.
    back: usize,
    /// The line that was being edited when the past came up.
    kept: Vec<u8>,
}

impl Editor {
    /// Takes a byte; what is to be drawn is added to `out`.
    pub(crate) fn feed(&mut self, byte: u8, out: &mut Vec<u8>) -> Action {
        let Some(key) = self.keys.feed(byte) else {
            return Action::None;
        };
        match key {
            Key::Char(byte) => self.insert(&[byte], out),
            Key::Enter => return self.enter(out),
            Key::Tab => return Action::Complete,
            Key::Cancel => {
                out.extend(b"^C\r\n");
                self.clear();
                return Action::Prompt;
            }
            Key::Leave if self.line.is_empty() => return Action::Leave,
            Key::Clear => {
                out.extend(b"\x1b[H\x1b[2J");
                return Action::Prompt;
            }
            key => {
                self.edit(key);
                self.redraw(out);
            }
        }
        Action::None
    }

    fn edit(&mut self, key: Key) {
        let end = self.line.len();
        match key {
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = self.cursor.saturating_add(1).min(end),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = end,
            Key::Backspace => self.cut(self.cursor.saturating_sub(1), self.cursor),
            Key::Delete | Key::Leave => self.cut(self.cursor, self.cursor.saturating_add(1)),
            Key::CutLeft => self.cut(0, self.cursor),
            Key::CutRight => self.cut(self.cursor, end),
            Key::CutWord => self.cut(self.word_start(), self.cursor),
            Key::Up => self.recall(self.back.saturating_add(1).min(self.past.len())),
            Key::Down => self.recall(self.back.saturating_sub(1)),
            _ => {}
        }
    }

    /// Where the word before the cursor begins, blanks behind it included.
    fn word_start(&self) -> usize {
        let before = self.line.get(..self.cursor).unwrap_or_default();
        let word = before.trim_ascii_end();
        let blank = word.iter().rposition(|byte| *byte == b' ');
        blank.map_or(0, |blank| blank.saturating_add(1))
    }

    fn cut(&mut self, from: usize, to: usize) {
        let to = to.min(self.line.len());
        if from < to {
            self.line.drain(from..to);
            self.cursor = from;
        }
    }

    fn recall(&mut self, back: usize) {
        if self.back == 0 && back != 0 {
            self.kept.clone_from(&self.line);
        }
        let line = match back.checked_sub(1) {
            None if self.back == 0 => return,
            None => Some(&self.kept),
            Some(age) => {
                let index = self.past.len().checked_sub(age.saturating_add(1));
                index.and_then(|index| self.past.get(index))
            }
        };
        if let Some(line) = line {
            self.line.clone_from(line);
            self.cursor = self.line.len();
            self.back = back;
        }
    }

    fn enter(&mut self, out: &mut Vec<u8>) -> Action {
        out.extend(b"\r\n");
        let line = self.line.trim_ascii().to_vec();
        self.clear();
        if !line.is_empty() && self.past.back() != Some(&line) {
            self.past.push_back(line.clone());
            if self.past.len() > LINES {
                self.past.pop_front();
            }
        }
        // It is ASCII.
        Action::Run(String::from_utf8(line).unwrap_or_default())
    }

    fn clear(&mut self) {
        self.line.clear();
        self.cursor = 0;
        self.back = 0;
    }

    /// Inserts printable ASCII at the cursor, as much as there is room for.
    pub(crate) fn insert(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let room = LINE_BYTES.saturating_sub(self.line.len());
        let text = text.get(..room.min(text.len())).unwrap_or_default();
        let at_end = self.cursor == self.line.len();
        self.line
            .splice(self.cursor..self.cursor, text.iter().copied());
        self.cursor = self.cursor.saturating_add(text.len());
        if at_end {
            out.extend(text);
        } else {
            self.redraw(out);
        }
    }

    /// The line up to the cursor.
    pub(crate) fn before_cursor(&self) -> &str {
        let before = self.line.get(..self.cursor).unwrap_or_default();
        core::str::from_utf8(before).unwrap_or_default()
    }

    /// Shows prompt and line from the start of the screen's line.
    pub(crate) fn redraw(&self, out: &mut Vec<u8>) {
        out.push(b'\r');
        out.extend(PROMPT.as_bytes());
        out.extend(&self.line);
        out.extend(ERASE);
        let left = self.line.len().saturating_sub(self.cursor);
        if left > 0 {
            out.extend(b"\x1b[");
            let mut digits = [0; 3];
            let mut rest = left;
            for digit in digits.iter_mut().rev() {
                *digit = b'0'.wrapping_add(u8::try_from(rest % 10).unwrap_or(0));
                rest /= 10;
            }
            let first = digits.iter().position(|digit| *digit != b'0');
            out.extend(digits.iter().skip(first.unwrap_or(0)));
            out.push(b'D');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A terminal of one line that knows what the editor draws.
    fn screen(drawn: &[u8]) -> (String, usize) {
        let text = String::from_utf8(drawn.to_vec()).unwrap();
        let mut line: Vec<char> = Vec::new();
        let mut column = 0;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\r' => column = 0,
                '\n' => line.clear(),
                '\x1b' => {
                    assert_eq!(chars.next(), Some('['));
                    let mut number = 0;
                    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                        number = number * 10 + digit as usize;
                        chars.next();
                    }
                    match chars.next() {
                        Some('K') => line.truncate(column),
                        Some('D') => column -= number,
                        Some('H') => column = 0,
                        Some('J') => line.clear(),
                        other => panic!("{other:?}"),
                    }
                }
                c => {
                    line.resize(line.len().max(column + 1), ' ');
                    line[column] = c;
                    column += 1;
                }
            }
        }
        (line.into_iter().collect(), column)
    }

    fn type_in(editor: &mut Editor, bytes: &[u8]) -> (Vec<u8>, Vec<Action>) {
        let mut out = Vec::new();
        editor.redraw(&mut out);
        let actions = bytes.iter().map(|byte| editor.feed(*byte, &mut out));
        let actions = actions.filter(|action| *action != Action::None).collect();
        (out, actions)
    }

    #[track_caller]
    fn edited(keys: &[u8], line: &str, cursor: usize) {
        let mut editor = Editor::default();
        let (drawn, _) = type_in(&mut editor, keys);
        assert_eq!(editor.line, line.as_bytes());
        assert_eq!(editor.cursor, cursor);
        let (shown, column) = screen(&drawn);
        assert_eq!(shown, format!("{PROMPT}{line}"));
        assert_eq!(column, PROMPT.len() + cursor);
    }

    #[test]
    fn every_editing_key() {
        edited(b"list", "list", 4);
        edited(b"lst\x1b[D\x1b[Di", "list", 2);
        edited(b"xist\x1b[H\x1b[3~l", "list", 1);
        edited(b"istx\x7f\x01l\x05 ", "list ", 5);
        edited(b"stop linux\x17", "stop ", 5);
        edited(b"stop linux  \x17", "stop ", 5);
        edited(b"stop linux\x15", "", 0);
        edited(b"stop linux\x1b[D\x1b[D\x0b", "stop lin", 8);
        edited(b"abc\x02\x02\x02\x02\x06\x06\x06\x06d", "abcd", 4);
        edited(b"abc\x01\x04", "bc", 0);
        edited(b"\x7f\x1b[3~\x15\x0b\x17", "", 0);
        edited(b"a\xc3\xa4b\x00", "ab", 2);
    }

    #[test]
    fn a_line_is_run_and_remembered() {
        let mut editor = Editor::default();
        let (_, actions) = type_in(&mut editor, b" list \rstats\r\nstats\n\r");
        let run = |line: &str| Action::Run(line.into());
        assert_eq!(actions, [run("list"), run("stats"), run("stats"), run("")]);
        let (_, actions) = type_in(&mut editor, b"new\x1b[A\x1b[A\x1b[A\r");
        assert_eq!(actions, [run("list")]);
        let (_, actions) = type_in(&mut editor, b"new\x1b[A\x1b[B\x1b[B\r");
        assert_eq!(actions, [run("new")]);
    }

    #[test]
    fn the_past_is_bounded() {
        let mut editor = Editor::default();
        for number in 0..100 {
            type_in(&mut editor, format!("line {number}\r").as_bytes());
        }
        let up: Vec<u8> = b"\x1b[A".repeat(200);
        type_in(&mut editor, &up);
        assert_eq!(editor.line, b"line 68");
    }

    #[test]
    fn control_d_leaves_only_an_empty_line() {
        let mut editor = Editor::default();
        assert_eq!(type_in(&mut editor, b"x\x04").1, []);
        assert_eq!(type_in(&mut editor, b"\x03").1, [Action::Prompt]);
        assert_eq!(type_in(&mut editor, b"\x04").1, [Action::Leave]);
    }

    proptest! {
        /// Whatever is typed, the screen shows the line and the cursor is where it is.
        #[test]
        fn the_screen_shows_the_line(
            keys in prop::collection::vec(
                prop_oneof![
                    5 => (b' '..=b'~').prop_map(|c| vec![c]),
                    1 => prop::sample::select(vec![
                        &b"\x1b[A"[..], b"\x1b[B", b"\x1b[C", b"\x1b[D", b"\x1b[H", b"\x1b[F",
                        b"\x1b[3~", b"\x7f", b"\x0b", b"\x15", b"\x17", b"\x01", b"\x05", b"\r",
                    ]).prop_map(<[u8]>::to_vec),
                ],
                0..300,
            ),
        ) {
            let mut editor = Editor::default();
            let mut out = Vec::new();
            editor.redraw(&mut out);
            for key in keys {
                for byte in key {
                    if matches!(editor.feed(byte, &mut out), Action::Run(_)) {
                        editor.redraw(&mut out);
                    }
                }
                prop_assert!(editor.cursor <= editor.line.len() && editor.line.len() <= LINE_BYTES);
            }
            let (shown, column) = screen(&out);
            let line = String::from_utf8(editor.line.clone()).unwrap();
            prop_assert_eq!(shown, format!("{PROMPT}{line}"));
            prop_assert_eq!(column, PROMPT.len() + editor.cursor);
        }
    }
}
