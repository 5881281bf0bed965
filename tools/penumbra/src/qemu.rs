//! Running an image and a bundle on QEMU's `virt` or `raspi4b`, with the person's terminal as console.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::problem::Problem;
use crate::toolchain::output;

/// What a line of EL2 or the manager starts with when they give up.
pub const FATAL: &[u8] = b"penumbra: fatal:";
/// Oldest QEMU whose virtualization of the GIC and EL2 is known to be good enough.
const OLDEST_QEMU: u32 = 9;
/// How long QEMU may go on after a fatal line before it is ended.
const GRACE: Duration = Duration::from_secs(2);

/// The Raspberry Pi 4's device tree in the project's cache.
pub const RPI4_TREE: &str = ".cache/arm64/rpi4/bcm2711-rpi-4-b.dtb";

/// Which machine QEMU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Board {
    /// QEMU's own `virt`.
    Virt,
    /// `raspi4b`, which is handed a device tree as the firmware would.
    Rpi4(Rpi4),
}

/// What is open about `raspi4b`; cores, CPU model, GIC and RAM are fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rpi4 {
    /// The device tree.
    pub tree: PathBuf,
    /// Whether that names the PL011 as stdout: else the console is the mini UART, QEMU's second
    /// serial port.
    pub pl011: bool,
}

/// The machine to run on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Which board.
    pub board: Board,
    /// Cores.
    pub cores: u8,
    /// GIC version, 2 or 3.
    pub gic: u8,
    /// CPU model.
    pub cpu: String,
    /// RAM in bytes.
    pub ram_bytes: u64,
    /// Whether the machine has EL2.
    pub el2: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The machine was powered off, or the person left it.
    Ended,
    /// EL2 or the manager gave up, and said why.
    Fatal,
    /// The time was up.
    TimedOut,
}

/// QEMU's program: `$PENUMBRA_QEMU`, or the one in `$PATH`.
#[must_use]
pub fn program() -> PathBuf {
    std::env::var_os("PENUMBRA_QEMU").map_or_else(|| "qemu-system-aarch64".into(), PathBuf::from)
}

/// Checks that QEMU is there and new enough.
///
/// # Errors
/// A sentence that says what is missing.
pub fn check_version(program: &Path) -> Result<(), Problem> {
    let hint = "`tools/dev setup` installs one; $PENUMBRA_QEMU may name your own";
    let text =
        output(Command::new(program).arg("--version")).map_err(|problem| problem.help(hint))?;
    match major_version(&text) {
        Some(major) if major >= OLDEST_QEMU => Ok(()),
        Some(major) => Err(Problem::new(format!(
            "QEMU {major} is too old: Penumbra needs QEMU {OLDEST_QEMU} or newer"
        ))
        .help(hint)),
        None => Err(Problem::new(format!(
            "{} does not say its version",
            program.display()
        ))),
    }
}

fn major_version(text: &str) -> Option<u32> {
    let rest = text.split("version ").nth(1)?;
    rest.split('.').next()?.trim().parse().ok()
}

/// The command line of QEMU, the console apart.
#[must_use]
pub fn command(machine: &Machine, image: &Path, bundle: Option<&Path>) -> Command {
    let mut command = hardware(machine, "");
    command.arg("-kernel").arg(image);
    if let Some(bundle) = bundle {
        command.arg("-initrd").arg(bundle);
    }
    command
}

/// The device tree of a machine, as QEMU makes or completes it.
///
/// # Errors
/// QEMU cannot be run, or gives none.
pub fn device_tree(machine: &Machine) -> Result<Vec<u8>, Problem> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let file = std::env::temp_dir().join(format!("penumbra-board-{process}-{number}.dtb"));
    let said = output(&mut hardware(
        machine,
        &format!(",dumpdtb={}", file.display()),
    ));
    let blob = std::fs::read(&file);
    let _ = std::fs::remove_file(&file);
    said?;
    blob.map_err(|error| Problem::new(format!("QEMU gave no device tree: {error}")))
}

/// QEMU with a machine's hardware and nothing that is not asked for. `properties` are more of the
/// machine's, each after a comma.
fn hardware(machine: &Machine, properties: &str) -> Command {
    let mut command = Command::new(program());
    match &machine.board {
        Board::Virt => add_virt(&mut command, machine, properties),
        Board::Rpi4(board) => add_raspi4b(&mut command, board, properties),
    }
    command.args(["-display", "none"]);
    command
}

fn add_raspi4b(command: &mut Command, board: &Rpi4, properties: &str) {
    command
        .args(["-machine", &format!("raspi4b{properties}"), "-dtb"])
        .arg(&board.tree);
    if !board.pl011 {
        command.args(["-serial", "null"]);
    }
}

fn add_virt(command: &mut Command, machine: &Machine, properties: &str) {
    let virtualization = if machine.el2 { "on" } else { "off" };
    command
        .args([
            "-machine",
            &format!(
                "virt,virtualization={virtualization},gic-version={}{properties}",
                machine.gic
            ),
        ])
        .args(["-cpu", &machine.cpu])
        .args(["-smp", &machine.cores.to_string()])
        .args(["-m", &format!("{}M", machine.ram_bytes >> 20)])
        .args(["-nic", "none"]);
}

/// A command as one would type it.
#[must_use]
pub fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// The command, but with an end of its own when this program ends, in whatever way: a QEMU that nobody waits for any more
/// would run for ever.
///
/// setpriv(1) of util-linux sets it up; where that is missing the command stays as it is. The kernel looks at the *thread*
/// that starts the program (PR_SET_PDEATHSIG(2const)), so the one that starts it has to wait for it, too.
#[must_use]
pub fn tied(command: Command) -> Command {
    const TIE: [&str; 2] = ["--pdeathsig", "TERM"];
    let mut try_out = Command::new("setpriv");
    try_out.args(TIE).arg("true").stderr(Stdio::null());
    if !try_out.status().is_ok_and(|status| status.success()) {
        return command;
    }
    let mut tied = Command::new("setpriv");
    tied.args(TIE).arg("--").arg(command.get_program());
    tied.args(command.get_args());
    tied
}

/// Runs QEMU with serial port and monitor on the terminal until it ends.
///
/// Output passes through this program, which looks for [`FATAL`]; input goes to QEMU directly, which
/// puts the terminal into raw mode and back.
///
/// # Errors
/// QEMU cannot be started or fails.
pub fn run(command: Command, timeout: Option<Duration>) -> Result<Outcome, Problem> {
    let mut command = tied(command);
    command
        .args(["-serial", "mon:stdio"])
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        Problem::new(format!(
            "cannot start {}: {error}",
            command.get_program().to_string_lossy()
        ))
    })?;
    let fatal = Arc::new(AtomicBool::new(false));
    let console = child.stdout.take();
    let seen = Arc::clone(&fatal);
    let reader = std::thread::spawn(move || console.map(|console| copy(console, &seen)));
    let (outcome, status) = wait(&mut child, &fatal, timeout);
    let _ = reader.join();
    // The last lines may have been read after QEMU was gone.
    if fatal.load(Ordering::Relaxed) {
        return Ok(Outcome::Fatal);
    }
    match status {
        Some(status) if outcome == Outcome::Ended && !status.success() => {
            Err(Problem::new(format!("QEMU failed ({status})")))
        }
        _ => Ok(outcome),
    }
}

fn wait(
    child: &mut Child,
    fatal: &AtomicBool,
    timeout: Option<Duration>,
) -> (Outcome, Option<ExitStatus>) {
    let start = Instant::now();
    let mut fatal_since = None;
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(status) => return (Outcome::Ended, status),
            Err(_) => return (Outcome::Ended, None),
        }
        if fatal.load(Ordering::Relaxed) {
            let since = *fatal_since.get_or_insert_with(Instant::now);
            if since.elapsed() > GRACE {
                return (Outcome::Fatal, end(child));
            }
        }
        if timeout.is_some_and(|timeout| start.elapsed() > timeout) {
            return (Outcome::TimedOut, end(child));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks QEMU to end, so that it puts the terminal back, and waits for it.
fn end(child: &mut Child) -> Option<ExitStatus> {
    let asked = Command::new("kill").arg(child.id().to_string()).status();
    if !asked.is_ok_and(|status| status.success()) {
        let _ = child.kill();
    }
    child.wait().ok()
}

/// Copies the console to standard output and notes a fatal line.
fn copy(mut console: impl Read, fatal: &AtomicBool) {
    let mut watch = Watch::default();
    let mut buffer = [0; 4096];
    let mut out = std::io::stdout();
    while let Ok(count) = console.read(&mut buffer) {
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        if watch.feed(bytes) {
            fatal.store(true, Ordering::Relaxed);
        }
        if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

/// Looks for a line that starts with [`FATAL`] in bytes that come piece by piece.
#[derive(Default)]
struct Watch {
    /// Bytes of the pattern matched since the line began; `None`: this line is another one.
    line: Option<usize>,
    started: bool,
}

impl Watch {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        if !self.started {
            (self.started, self.line) = (true, Some(0));
        }
        let mut found = false;
        for &byte in bytes {
            self.line = match (byte, self.line) {
                (b'\n' | b'\r', _) => Some(0),
                (byte, Some(matched)) if FATAL.get(matched) == Some(&byte) => Some(matched + 1),
                _ => None,
            };
            found |= self.line == Some(FATAL.len());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pieces: &[&str]) -> bool {
        let mut watch = Watch::default();
        pieces.iter().any(|piece| watch.feed(piece.as_bytes()))
    }

    #[test]
    fn a_fatal_line_is_found_wherever_it_is_cut() {
        assert!(found(&["penumbra: fatal: no EL2\n"]));
        assert!(found(&["hello\r\npenum", "bra: fat", "al: x"]));
        assert!(!found(&["penumbra: fine\n", "a penumbra: fatal: quoted\n"]));
        assert!(!found(&["penumbra: fatal"]));
    }

    /// A thread stands for this program: it starts a program, sees it run, and ends without waiting for it.
    #[test]
    fn what_is_tied_ends_with_who_started_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo it runs; exec sleep 600"]);
        let start = || {
            let mut command = tied(command);
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut said = [0; 8];
            child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut said)
                .unwrap();
            assert_eq!(&said, b"it runs\n");
            child
        };
        let mut child = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
        let status = child.wait().unwrap();
        assert!(!status.success(), "{status}");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(
            major_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2)"),
            Some(10)
        );
        assert_eq!(major_version("QEMU emulator version 7.2.17"), Some(7));
        assert_eq!(major_version("something else"), None);
    }

    #[test]
    fn the_machine_becomes_arguments() {
        let mut machine = Machine {
            board: Board::Virt,
            cores: 4,
            gic: 3,
            cpu: "cortex-a72".into(),
            ram_bytes: 2 << 30,
            el2: true,
        };
        let line = show(&command(&machine, Path::new("img"), Some(Path::new("b"))));
        for part in [
            "virt,virtualization=on,gic-version=3",
            "-cpu cortex-a72",
            "-smp 4",
            "-m 2048M",
            "-nic none",
            "-kernel img",
            "-initrd b",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let mut rpi4 = Rpi4 {
            tree: "t.dtb".into(),
            pl011: false,
        };
        machine.board = Board::Rpi4(rpi4.clone());
        let line = show(&command(&machine, Path::new("img"), Some(Path::new("b"))));
        let wanted = "-machine raspi4b -dtb t.dtb -serial null -display none -kernel img -initrd b";
        assert!(line.ends_with(wanted), "{line}");
        rpi4.pl011 = true;
        machine.board = Board::Rpi4(rpi4);
        let line = show(&command(&machine, Path::new("img"), None));
        assert!(
            !line.contains("-serial") && !line.contains("-initrd"),
            "{line}"
        );
    }
}
