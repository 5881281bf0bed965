//! Debian's kernels under the compound page table: what the default policy makes of them.

use std::thread::sleep;
use std::time::Duration;

use super::guest;
use crate::board::Board;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(200);
/// Percent of the kernel's coalescable regions that are to be under 2 MiB leaves.
const LEAST_PERCENT: f64 = 95.0;
/// Looks at the policy's work, a second apart, until it has to be done.
const LOOKS: u32 = 90;

/// A guest to run.
#[derive(Clone, Copy, Debug)]
struct Point {
    kernel: &'static str,
    gic: u8,
    vcpus: u8,
    backing: &'static str,
}

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let points = [
        (true, "linux-cloud", 3, 2, "reserved"),
        (false, "linux", 3, 2, "reserved"),
        (false, "linux", 3, 4, "thin"),
        (false, "linux", 2, 1, "reserved"),
        (false, "linux-backports", 3, 2, "reserved"),
    ];
    points
        .into_iter()
        .map(|(quick, kernel, gic, vcpus, backing)| {
            let point = Point {
                kernel,
                gic,
                vcpus,
                backing,
            };
            let name = format!("compound-{kernel}-gicv{gic}-{vcpus}vcpu-{backing}");
            let own = name.clone();
            Case::new(name, quick, move |w| kernel_map(w, &own, point))
        })
        .collect()
}

/// The linear map comes under leaves without a trap, survives processes that come and go, agrees with
/// the guest's tables, and goes when the operator says so.
fn kernel_map(w: &Workshop, name: &str, point: Point) -> Result<(), String> {
    let Point {
        kernel,
        gic,
        vcpus,
        backing,
    } = point;
    let more = format!(
        "backing = \"{backing}\"\npaging = \"compound\"\nkernel = \"{}\"\ninitrd = \"{}\"\n\
         cmdline = \"console=ttyAMA0 quiet\"",
        w.cached(&format!("{kernel}/vmlinuz")).display(),
        w.initramfs().display(),
    );
    let toml = guest("linux", vcpus, "512 MiB", &more);
    let setup = Setup {
        gic,
        ram_mib: 2048,
        ..Setup::default()
    };
    let mut board = w.boot(name, &toml, &setup)?;
    board.expect("This is a busybox shell", LIMIT)?;
    board.expect("# ", LIMIT)?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    await_leaves(&mut board)?;
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
        ask(&mut board, command, answers)?;
    }
    judge(&show(&mut board)?)?;
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
        ask(&mut board, command, answers)?;
    }
    board.off(LIMIT).map(drop)
}

fn ask(board: &mut Board, command: &str, answers: &[&str]) -> Result<(), String> {
    board.send(command)?;
    for answer in answers {
        board
            .expect(answer, LIMIT)
            .map_err(|why| format!("`{command}`: {why}"))?;
    }
    Ok(())
}

/// What `paging show` shows.
fn show(board: &mut Board) -> Result<String, String> {
    board.send("paging show linux")?;
    board.expect("guest 'linux': ", LIMIT)?;
    board.until("last decisions", LIMIT)
}

/// Waits until the policy has done what it has to do. A busy host makes each stop of the vCPUs long.
fn await_leaves(board: &mut Board) -> Result<(), String> {
    let mut why = String::new();
    for _ in 0..LOOKS {
        match judge(&show(board)?) {
            Ok(()) => return Ok(()),
            Err(sentence) => why = sentence,
        }
        sleep(Duration::from_secs(1));
    }
    Err(why)
}

/// Judges what `paging show` shows.
fn judge(shown: &str) -> Result<(), String> {
    if !shown.contains("compound; kernel root in place on vCPU 0") {
        return Err("no root is in place on vCPU 0".into());
    }
    let share = shown.lines().find_map(share);
    let share = share.ok_or("nothing can be coalesced")?;
    if share < LEAST_PERCENT {
        return Err(format!("{share} % under leaves, not {LEAST_PERCENT}"));
    }
    if !shown.contains("trapped root writes              0 ") {
        return Err("roots were trapped".into());
    }
    Ok(())
}

/// The percentage in a line about leaves.
fn share(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("under 2 MiB leaves: ")?;
    let (_, percent) = rest.split_once('(')?;
    percent.split_once(" %")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_judged() {
        let line = "    under 2 MiB leaves: 500 MiB of 510 MiB that can be coalesced (98.0 %)\r\n";
        assert_eq!(share(line), Some(98.0));
        assert_eq!(share("under 2 MiB"), None);
        let counter = "  trapped root writes              0   roots planted 2\n";
        let good = format!("compound; kernel root in place on vCPU 0, 1\r\n{line}{counter}");
        assert_eq!(judge(&good), Ok(()));
        assert!(judge(&good.replace("98.0", "94.9")).is_err());
        assert!(judge(&good.replace("0   roots", "1   roots")).is_err());
        assert!(judge(&good.replace("vCPU 0, 1", "vCPU 1")).is_err());
        assert!(judge(&good.replace(line, "")).is_err());
    }
}
