//! The image whose vectors clear the branch history that a guest leaves.

use std::time::Duration;

use super::linux::{CLOUD, DEBIAN, Point, QUICK_SECONDS, load_on};
use super::{guest, payload::verdict};
use crate::bench;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(180);

/// The tests. Each builds that image, which takes as long as the quick suite should.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![Case::new("mitigated-exits", false, bench::mitigated_exits)];
    for (cpu, says) in [
        ("cortex-a53", "its branch history needs no clearing"),
        ("cortex-a72", "by 8 turns of a loop"),
        ("cortex-a76", "by 24 turns of a loop"),
        ("neoverse-n1", "by 24 turns of a loop"),
    ] {
        let name = format!("mitigated-traps-{cpu}");
        cases.push(Case::named(name, false, move |w, name| {
            traps(w, name, cpu, says)
        }));
    }
    for (cpu, kernel) in [
        ("cortex-a72", CLOUD),
        ("cortex-a72", DEBIAN),
        ("max", CLOUD),
    ] {
        let name = format!("mitigated-{kernel}-{cpu}");
        let point = Point {
            gic: 3,
            cpu,
            vcpus: 2,
            backing: "thin",
            kernel,
            seconds: QUICK_SECONDS,
        };
        cases.push(Case::named(name, false, move |w, name| {
            let setup = Setup {
                cpu,
                ram_mib: 2048,
                ..Setup::default()
            };
            load_on(&w.mitigated()?, name, &setup, point)
        }));
    }
    cases
}

/// Every trap, on cores that need different things; each says which.
fn traps(w: &Workshop, name: &str, cpu: &'static str, says: &str) -> Result<(), String> {
    let kernel = format!("kernel = \"{}\"", w.payload("traps").display());
    let setup = Setup {
        cpu,
        ..Setup::default()
    };
    let board = w
        .mitigated()?
        .boot(name, &guest("traps", 2, "64 MiB", &kernel), &setup)?;
    let console = board.off(LIMIT)?;
    for core in 0..setup.cores {
        let line = format!("core {core}: ");
        let said = console
            .lines()
            .any(|l| l.contains(&line) && l.contains(says));
        if !said {
            return Err(format!("core {core} does not say that {says}"));
        }
    }
    verdict(&console, 1)
}
