//! Debian's kernels under the compound page table: what the default policy makes of them.

use std::thread::sleep;
use std::time::Duration;

use super::guest;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(200);
/// Percent of the kernel's coalescable regions that are to be under 2 MiB leaves.
const LEAST_PERCENT: f64 = 95.0;
/// How long after the first prompt the policy may take for it.
const SETTLING: Duration = Duration::from_secs(15);

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
    sleep(SETTLING);
    for (command, answers) in [
        ("\x1ds", &["penumbra> "][..]),
        (
            "paging show linux",
            &[
                "guest 'linux': compound; kernel root in place",
                "penumbra> ",
            ],
        ),
        (
            "paging audit linux",
            &["every mirror agrees with the guest's tables"],
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
        ("paging show linux", &["last decisions", "penumbra> "]),
        (
            "paging mode linux nested",
            &["the paging of 'linux' to nested"],
        ),
        (
            "paging show linux",
            &["guest 'linux': nested", "penumbra> "],
        ),
        ("audit", &["every frame that a VM sees is its own"]),
        ("console linux", &["console of guest 1"]),
        ("echo still-$((40 + 3))", &["still-43"]),
        ("poweroff", &["guest 'linux' is off"]),
    ] {
        board.send(command)?;
        for answer in answers {
            board
                .expect(answer, LIMIT)
                .map_err(|why| format!("`{command}`: {why}"))?;
        }
    }
    judge(&board.off(LIMIT)?)
}

/// What the two `paging show` say.
fn judge(console: &str) -> Result<(), String> {
    let shares: Vec<f64> = console.lines().filter_map(share).collect();
    if shares.len() != 2 {
        return Err(format!("{} lines about leaves, not 2", shares.len()));
    }
    if let Some(share) = shares.iter().find(|share| **share < LEAST_PERCENT) {
        return Err(format!("{share} % under leaves, not {LEAST_PERCENT}"));
    }
    let trapped = console
        .matches("trapped root writes              0 ")
        .count();
    if trapped != 3 {
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
        let good = format!("{line}{counter}{line}{counter}{counter}");
        assert_eq!(judge(&good), Ok(()));
        assert!(judge(&good.replacen("98.0", "94.9", 1)).is_err());
        assert!(judge(&good.replacen("0   roots", "1   roots", 1)).is_err());
        assert!(judge(line).is_err());
    }
}
