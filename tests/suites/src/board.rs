//! A QEMU process with its console: what it prints is kept, what is expected is waited for.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the console has printed, and whether it has ended.
#[derive(Debug, Default)]
struct Console {
    bytes: Vec<u8>,
    ended: bool,
}

/// A running board. It is killed when dropped.
#[derive(Debug)]
pub struct Board {
    child: Child,
    input: Option<ChildStdin>,
    console: Arc<(Mutex<Console>, Condvar)>,
    /// Everything before this has been looked at by [`Board::expect`].
    seen: usize,
}

impl Board {
    /// Starts QEMU with its serial port on pipes.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn start(command: Command) -> Result<Self, String> {
        let mut child = penumbra::qemu::tied(command)
            .args(["-serial", "stdio", "-monitor", "none", "-no-reboot"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start QEMU: {error}"))?;
        if let Some(errors) = child.stderr.take() {
            std::thread::spawn(move || pass_on(errors));
        }
        let console = Arc::new((Mutex::new(Console::default()), Condvar::new()));
        let input = child.stdin.take();
        if let Some(output) = child.stdout.take() {
            let console = Arc::clone(&console);
            std::thread::spawn(move || collect(output, &console));
        }
        Ok(Self {
            child,
            input,
            console,
            seen: 0,
        })
    }

    /// Waits for `text` after what was expected before.
    ///
    /// # Errors
    /// The text did not come within `limit`, or the board ended before.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<(), String> {
        self.until(text, limit).map(drop)
    }

    /// As [`Self::expect`]; returns what was printed before `text`.
    ///
    /// # Errors
    /// The text did not come within `limit`, or the board ended before.
    pub fn until(&mut self, text: &str, limit: Duration) -> Result<String, String> {
        let end = Instant::now() + limit;
        let (lock, changed) = &*self.console;
        let mut console = lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let rest = console.bytes.get(self.seen..).unwrap_or_default();
            if let Some(at) = find(rest, text.as_bytes()) {
                let before = String::from_utf8_lossy(rest.get(..at).unwrap_or_default());
                self.seen += at + text.len();
                return Ok(before.into_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            if console.ended || left.is_zero() {
                let why = if console.ended {
                    "the board ended"
                } else {
                    "time was up"
                };
                return Err(format!(
                    "{why} before \"{text}\" came; {}",
                    tail(&console.bytes)
                ));
            }
            console = changed
                .wait_timeout(console, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Types a line.
    ///
    /// # Errors
    /// The board has ended.
    pub fn send(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("the board has no input")?;
        input
            .write_all(line.as_bytes())
            .and_then(|()| input.write_all(b"\n"))
            .and_then(|()| input.flush())
            .map_err(|error| format!("cannot type: {error}"))
    }

    /// Types a command, unless it is empty, and waits for its answers, one after the other.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::expect`]; the latter with the command before it.
    pub fn ask(&mut self, command: &str, answers: &[&str], limit: Duration) -> Result<(), String> {
        if !command.is_empty() {
            self.send(command)?;
        }
        for answer in answers {
            self.expect(answer, limit)
                .map_err(|why| format!("`{command}`: {why}"))?;
        }
        Ok(())
    }

    /// Waits until the board is off; returns all that its console printed.
    ///
    /// # Errors
    /// It is not off within `limit`, or QEMU failed.
    pub fn off(mut self, limit: Duration) -> Result<String, String> {
        let end = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => break,
                Ok(Some(status)) => return Err(format!("QEMU failed: {status}; {}", self.tail())),
                Ok(None) if Instant::now() > end => {
                    return Err(format!("the board is still on; {}", self.tail()));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(format!("QEMU is lost: {error}")),
            }
        }
        let (lock, changed) = &*self.console;
        let mut console = lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !console.ended && Instant::now() < end + Duration::from_secs(2) {
            console = changed
                .wait_timeout(console, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(String::from_utf8_lossy(&console.bytes).into_owned())
    }

    /// The last lines of the console.
    #[must_use]
    pub fn tail(&self) -> String {
        let console = self
            .console
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        tail(&console.bytes)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes on what QEMU complains of, but for what `raspi4b` says at each start: which devices of the
/// board it has not.
fn pass_on(errors: impl Read) {
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        if !line.ends_with("has been disabled!") {
            eprintln!("{line}");
        }
    }
}

fn collect(mut output: impl Read, console: &(Mutex<Console>, Condvar)) {
    let mut buffer = [0; 4096];
    loop {
        let count = output.read(&mut buffer).unwrap_or(0);
        let mut state = console.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.bytes.extend(buffer.get(..count).unwrap_or_default());
        state.ended = count == 0;
        console.1.notify_all();
        if count == 0 {
            return;
        }
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes
        .windows(text.len().max(1))
        .position(|window| window == text)
}

/// The last lines, on one line.
fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(6)
        .collect();
    if lines.is_empty() {
        return "the console is empty".into();
    }
    let lines: Vec<&str> = lines.into_iter().rev().map(str::trim_end).collect();
    format!("the console ended with: {}", lines.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_where_it_is() {
        assert_eq!(find(b"abc def", b"def"), Some(4));
        assert_eq!(find(b"abc", b"abcd"), None);
    }

    #[test]
    fn the_tail_has_the_last_lines() {
        assert_eq!(
            tail(b"one\r\n\r\ntwo\n"),
            "the console ended with: one | two"
        );
        assert_eq!(tail(b""), "the console is empty");
    }
}
