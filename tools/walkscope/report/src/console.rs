//! A QEMU run with its console: what it prints is kept, and what it waits for is typed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

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

/// What a run of QEMU is watched by.
pub(crate) struct Watch<'a> {
    /// QEMU is asked to end after this time.
    pub(crate) limit: Duration,
    /// Called with each line of QEMU's standard error.
    pub(crate) line: &'a (dyn Fn(&str) + Sync),
}

/// How a run went.
pub(crate) struct Ended {
    /// What the console printed.
    pub(crate) printed: String,
    /// CPU time that QEMU took; 0 where the host does not say.
    pub(crate) cpu: Duration,
}

/// Runs QEMU until it ends, or this program does.
///
/// # Errors
/// A sentence: QEMU cannot be started, or its console is lost.
pub(crate) fn run(command: Command, steps: &[Step], watch: &Watch<'_>) -> Result<Ended, String> {
    let mut child = penumbra::qemu::tied(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start QEMU: {error}"))?;
    let id = child.id();
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (input, output) = input.zip(output).ok_or("QEMU has no console")?;
    let (ended, end) = channel::<()>();
    let (limit, line) = (watch.limit, watch.line);
    let printed = thread::scope(|scope| {
        scope.spawn(move || {
            // No message ever comes: either the other side goes, or time does.
            if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                // SIGTERM, so that the plugin writes what it has.
                let _ = Command::new("kill").arg(id.to_string()).status();
            }
        });
        scope.spawn(move || {
            let lines = errors.into_iter().flat_map(|e| BufReader::new(e).lines());
            lines.map_while(Result::ok).for_each(|text| line(&text));
        });
        let printed = talk(input, output, steps);
        drop(ended);
        printed
    });
    let cpu = cpu_time(id);
    let lost = |error: std::io::Error| format!("QEMU's console is lost: {error}");
    child.wait().map_err(lost)?;
    Ok(Ended {
        printed: printed.map_err(lost)?,
        cpu,
    })
}

/// Holds the conversation until the console ends.
fn talk(mut input: impl Write, mut output: impl Read, steps: &[Step]) -> std::io::Result<String> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let mut talk = Talk { steps, seen: 0 };
    loop {
        let count = output.read(&mut buffer)?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        bytes.extend(buffer.get(..count).unwrap_or_default());
        while let Some(answer) = talk.next(&bytes) {
            // A guest that has gone off takes no input.
            let _ = input.write_all(answer.as_bytes());
            input.flush()?;
        }
    }
}

/// CPU time of a process that has not been waited for, from the host's `/proc` (proc_pid_stat(5): utime and stime, in
/// hundredths of a second on every Linux).
fn cpu_time(id: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The program's name, in brackets, may hold spaces; state is field 3.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
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
    use std::sync::Mutex;
    use std::time::Instant;

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

    /// A shell in QEMU's place.
    fn shell(script: &str, steps: &[Step], limit: Duration) -> (Ended, Vec<String>) {
        let lines = Mutex::new(Vec::new());
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let watch = Watch {
            limit,
            line: &|line| lines.lock().unwrap().push(line.to_owned()),
        };
        let ended = run(command, steps, &watch).unwrap();
        (ended, lines.into_inner().unwrap())
    }

    #[test]
    fn the_console_is_answered_and_errors_are_passed_on() {
        let script = "echo error >&2; printf 'name> '; read name; echo hello $name";
        let (ended, lines) = shell(script, &[("name> ", "you\n")], Duration::from_secs(60));
        assert_eq!(ended.printed, "name> hello you\n");
        assert_eq!(lines, ["error"]);
    }

    #[test]
    fn what_takes_too_long_is_ended_in_an_orderly_way() {
        let start = Instant::now();
        let script = "trap 'echo written; exit' TERM; echo here; while :; do :; done";
        let (ended, _) = shell(script, &[], Duration::from_secs(1));
        assert_eq!(ended.printed, "here\nwritten\n");
        assert!(start.elapsed() < Duration::from_secs(60));
        // It was busy all the time, as far as the host let it.
        assert!(ended.cpu > Duration::ZERO);
    }
}
