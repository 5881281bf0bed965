//! A QEMU run with its console: what it prints is kept, and what it waits for is typed.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// A step of a conversation: once the first text has come, type the second.
pub(crate) type Step = (&'static str, &'static str);

/// Asks Penumbra's shell what became of the guest's tables, then lets the guest, which waits for a line, go off.
pub(crate) const SHOW_PAGING: [Step; 4] = [
    (DONE, "\x1ds\n"),
    ("penumbra> ", "paging show linux\n"),
    ("last decisions", "console linux\n"),
    ("console of guest 1", "\n"),
];

/// Ends QEMU: a board does not go off with a guest of Xen's.
pub(crate) const QUIT: [Step; 1] = [(DONE, "\x01x")];

/// The guest's last words.
pub(crate) const DONE: &str = "walkscope: done";

/// Runs QEMU until it ends; returns what its console printed.
///
/// # Errors
/// A sentence: QEMU cannot be started, or its console is lost.
pub(crate) fn run(mut command: Command, steps: &[Step]) -> Result<String, String> {
    let lost = |error: std::io::Error| format!("QEMU's console is lost: {error}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| format!("cannot start QEMU: {error}"))?;
    let input = child.stdin.take();
    let output = child.stdout.take();
    let (mut input, mut output) = input.zip(output).ok_or("QEMU has no console")?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let mut talk = Talk { steps, seen: 0 };
    loop {
        let count = output.read(&mut buffer).map_err(lost)?;
        if count == 0 {
            break;
        }
        bytes.extend(buffer.get(..count).unwrap_or_default());
        while let Some(answer) = talk.next(&bytes) {
            // A guest that has gone off takes no input.
            let _ = input.write_all(answer.as_bytes());
            input.flush().map_err(lost)?;
        }
    }
    child.wait().map_err(lost)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Where a conversation is.
struct Talk<'a> {
    steps: &'a [Step],
    seen: usize,
}

impl Talk<'_> {
    /// What to type, given all that was printed so far.
    fn next(&mut self, printed: &[u8]) -> Option<&'static str> {
        let ((wanted, answer), rest) = self.steps.split_first()?;
        let new = printed.get(self.seen..)?;
        let at = new
            .windows(wanted.len())
            .position(|window| window == wanted.as_bytes())?;
        self.seen += at + wanted.len();
        self.steps = rest;
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_answered_once_and_in_order() {
        let steps = [("a>", "1"), ("b", "2"), ("a>", "3")];
        let mut talk = Talk {
            steps: &steps,
            seen: 0,
        };
        assert_eq!(talk.next(b"xx a"), None);
        assert_eq!(talk.next(b"xx a> "), Some("1"));
        assert_eq!(talk.next(b"xx a> "), None);
        assert_eq!(talk.next(b"xx a> b a>"), Some("2"));
        assert_eq!(talk.next(b"xx a> b a>"), Some("3"));
        assert_eq!(talk.next(b"xx a> b a> a>"), None);
    }
}
