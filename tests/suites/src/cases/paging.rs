//! Debian's kernels under the compound page table: what the default policy makes of them, and the mode
//! that mirrors everything.

use std::thread::sleep;
use std::time::Duration;

use super::guest;
use crate::board::Board;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(200);
/// Percent of the kernel's coalescable regions that are to be under 2 MiB leaves.
const LEAST_PERCENT: f64 = 95.0;
/// Runs of 32 MiB, of the sixteen that 512 MiB could be, that reserved memory has at least.
const RUNS: u64 = 8;
/// Looks at the policy's work, a second apart, until it has to be done.
const LOOKS: u32 = 90;

/// A guest to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) kernel: &'static str,
    pub(super) vcpus: u8,
    pub(super) backing: &'static str,
    pub(super) mode: Mode,
}

/// How the guest is paged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// What pays.
    Compound,
    /// Everything, for comparison.
    Shadow,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Compound => "compound",
            Self::Shadow => "shadow",
        }
    }

    /// The first part of the names of its tests.
    pub(super) const fn family(self) -> &'static str {
        match self {
            Self::Compound => "compound",
            Self::Shadow => "compound-shadow",
        }
    }

    /// Without copying no trapped root is ever tried: the kernel's half is to do without.
    const fn limits(self) -> &'static str {
        match self {
            Self::Compound => "paging_copy = \"0 KiB\"\n",
            Self::Shadow => "",
        }
    }
}

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let compound = Mode::Compound;
    let points = [
        (true, "linux-cloud", 3, 2, "reserved", compound),
        (false, "linux", 3, 2, "reserved", compound),
        (false, "linux", 3, 4, "thin", compound),
        (false, "linux", 2, 1, "reserved", compound),
        (false, "linux-backports", 3, 2, "reserved", compound),
        (false, "linux-cloud", 3, 2, "reserved", Mode::Shadow),
        (false, "linux", 3, 2, "thin", Mode::Shadow),
    ];
    points
        .into_iter()
        .map(|(quick, kernel, gic, vcpus, backing, mode)| {
            let point = Point {
                kernel,
                vcpus,
                backing,
                mode,
            };
            let setup = Setup {
                gic,
                ram_mib: 2048,
                ..Setup::default()
            };
            let family = mode.family();
            let name = format!("{family}-{kernel}-gicv{gic}-{vcpus}vcpu-{backing}");
            Case::named(name, quick, move |w, name| {
                kernel_map(w, name, &setup, point)
            })
        })
        .collect()
}

/// The linear map comes under leaves without a trap, survives processes that come and go, agrees with
/// the guest's tables, and goes when the operator says so.
pub(super) fn kernel_map(
    w: &Workshop,
    name: &str,
    setup: &Setup,
    point: Point,
) -> Result<(), String> {
    let Point {
        kernel,
        vcpus,
        backing,
        mode,
    } = point;
    let more = format!(
        "backing = \"{backing}\"\npaging = \"{}\"\n{}kernel = \"{}\"\ninitrd = \"{}\"\n\
         cmdline = \"console=ttyAMA0 quiet\"",
        mode.name(),
        mode.limits(),
        w.cached(&format!("{kernel}/vmlinuz")).display(),
        w.initramfs().display(),
    );
    let toml = guest("linux", vcpus, "512 MiB", &more);
    let mut board = w.boot(name, &toml, setup)?;
    board.expect("This is a busybox shell", LIMIT)?;
    board.expect("# ", LIMIT)?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    await_shadows(&mut board, "linux", mode)?;
    if (mode, backing) == (Mode::Compound, "reserved") {
        expect_runs(&mut board, "linux", RUNS)?;
    }
    for (command, answers) in [
        (
            "paging audit linux",
            &["every mirror agrees with the guest's tables"][..],
        ),
        ("console linux", &["console of guest 1"]),
        (
            "for i in $(seq 300); do /bin/busybox true; done; echo done-$((40 + 2))",
            &["done-42"],
        ),
        ("\x1ds", &["penumbra> "]),
        (
            "paging audit linux",
            &["every mirror agrees with the guest's tables"],
        ),
        ("audit", &["every frame that a VM sees is its own"]),
    ] {
        board.ask(command, answers, LIMIT)?;
    }
    await_shadows(&mut board, "linux", mode)?;
    for (command, answers) in [
        (
            "paging mode linux nested",
            &["the paging of 'linux' to nested"][..],
        ),
        ("paging show linux", &["guest 'linux': nested"]),
        ("audit", &["every frame that a VM sees is its own"]),
        ("console linux", &["console of guest 1"]),
        ("echo still-$((40 + 3))", &["still-43"]),
        ("poweroff", &["guest 'linux' is off"]),
    ] {
        board.ask(command, answers, LIMIT)?;
    }
    board.off(LIMIT).map(drop)
}

/// Of the guest's RAM so much has to lie in runs of sixteen blocks of 2 MiB, though pages of it are watched.
fn expect_runs(board: &mut Board, guest: &str, least: u64) -> Result<(), String> {
    board.send(&format!("stats {guest}"))?;
    board.expect("mapped by ", LIMIT)?;
    let shown = board.until("pages of tables", LIMIT)?;
    match runs(&shown) {
        Some(runs) if runs >= least => Ok(()),
        _ => Err(format!("mapped by {shown}: not {least} runs of 32 MiB")),
    }
}

/// The number of runs in the line of `stats` about a guest's memory.
fn runs(line: &str) -> Option<u64> {
    let (before, _) = line.split_once(" runs of 32 MiB")?;
    before.rsplit_once('(')?.1.parse().ok()
}

/// What `paging show` shows of a guest.
fn show(board: &mut Board, guest: &str) -> Result<String, String> {
    board.send(&format!("paging show {guest}"))?;
    board.expect(&format!("guest '{guest}': "), LIMIT)?;
    board.until("last decisions", LIMIT)
}

/// Waits until the policy has done for a guest what it has to do. A busy host makes each stop of the vCPUs long.
pub(super) fn await_shadows(board: &mut Board, guest: &str, mode: Mode) -> Result<(), String> {
    let mut why = String::new();
    for _ in 0..LOOKS {
        match judge(&show(board, guest)?, mode) {
            Ok(()) => return Ok(()),
            Err(sentence) => why = sentence,
        }
        sleep(Duration::from_secs(1));
    }
    Err(why)
}

/// Judges what `paging show` shows.
fn judge(shown: &str, mode: Mode) -> Result<(), String> {
    let head = format!("{}; kernel root in place on vCPU 0", mode.name());
    if !shown.contains(&head) {
        return Err("no root is in place on vCPU 0".into());
    }
    let kernel = shown
        .split("  space ")
        .find(|space| space.contains(": kernel"));
    let share = kernel.and_then(|space| space.lines().find_map(|line| share(line, mode)));
    let share = share.ok_or("nothing can be shadowed")?;
    if share < LEAST_PERCENT {
        return Err(format!("{share} % shadowed, not {LEAST_PERCENT}"));
    }
    if mode == Mode::Compound && !shown.contains("trapped root writes              0 ") {
        return Err("roots were trapped".into());
    }
    Ok(())
}

/// The percentage in the line about the kernel's leaves, or its shadowed regions.
fn share(line: &str, mode: Mode) -> Option<f64> {
    match mode {
        Mode::Compound => {
            let (_, rest) = line.split_once("under 2 MiB leaves: ")?;
            let (_, percent) = rest.split_once('(')?;
            percent.split_once(" %")?.0.parse().ok()
        }
        Mode::Shadow => {
            let (_, rest) = line.split_once("regions shadowed: ")?;
            let (are, all) = rest.trim_end().split_once(" of ")?;
            let (are, all): (f64, f64) = (are.parse().ok()?, all.parse().ok()?);
            (all > 0.0).then(|| are * 100.0 / all)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read() {
        let line = "0 blocks of 1 GiB, 248 of 2 MiB (13 runs of 32 MiB), 4096 pages of 4 KiB; ";
        assert_eq!(runs(line), Some(13));
        assert_eq!(runs("0 blocks of 1 GiB, 248 of 2 MiB, 4096 pages"), None);
    }

    #[test]
    fn shares_are_read_and_judged() {
        let line = "    under 2 MiB leaves: 500 MiB of 510 MiB that can be coalesced (98.0 %)\r\n";
        assert_eq!(share(line, Mode::Compound), Some(98.0));
        assert_eq!(share("under 2 MiB", Mode::Compound), None);
        let all = "    regions shadowed: 266 of 270\r\n";
        assert_eq!(share(all, Mode::Shadow), Some(26_600.0 / 270.0));
        assert_eq!(
            share("    regions shadowed: 0 of 0\r\n", Mode::Shadow),
            None
        );
        let space = "  space 0: kernel, root 0x41200000; compound root planted, no traps\r\n";
        let counter = "  trapped root writes              0   roots planted 2\n";
        let good =
            format!("compound; kernel root in place on vCPU 0, 1\r\n{space}{line}{all}{counter}");
        assert_eq!(judge(&good, Mode::Compound), Ok(()));
        assert!(judge(&good, Mode::Shadow).is_err());
        let shadow = good.replace("compound;", "shadow;");
        assert_eq!(judge(&shadow, Mode::Shadow), Ok(()));
        assert!(judge(&shadow.replace("266", "250"), Mode::Shadow).is_err());
        let judge = |text: &str| judge(text, Mode::Compound);
        assert!(judge(&good.replace("98.0", "94.9")).is_err());
        assert!(judge(&good.replace("0   roots", "1   roots")).is_err());
        assert!(judge(&good.replace("vCPU 0, 1", "vCPU 1")).is_err());
        assert!(judge(&good.replace(line, "")).is_err());
    }
}
