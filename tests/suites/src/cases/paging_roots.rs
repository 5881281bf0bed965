//! A guest that switches between two address spaces while its roots are trapped: what a write of a known root leaves
//! in its registers and translations, and how a storm of writes ends it. Of all payloads this is the one that the
//! vectors' own answer to such writes serves.

use std::time::Duration;

use super::guest;
use super::payload::verdict;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(300);

/// The tests. `max` traps roots alone (FEAT_FGT), the others all of HCR_EL2.TVM's registers.
pub(super) fn cases() -> Vec<Case> {
    let points = [
        (true, 3, "cortex-a72", "thin"),
        (true, 3, "max", "reserved"),
        (false, 2, "cortex-a72", "reserved"),
        (false, 3, "cortex-a53", "thin"),
        (false, 3, "neoverse-n1", "reserved"),
    ];
    let case = |(quick, gic, cpu, backing)| {
        let name = format!("compound-roots-{cpu}-gicv{gic}-{backing}");
        let setup = Setup {
            gic,
            cpu,
            ..Setup::default()
        };
        Case::named(name, quick, move |w, name| roots(w, name, backing, &setup))
    };
    points.map(case).into()
}

fn roots(w: &Workshop, name: &str, backing: &str, setup: &Setup) -> Result<(), String> {
    let settings = format!(
        "backing = \"{backing}\"\npaging = \"shadow\"\nkernel = \"{}\"\ncmdline = \"n=50\"",
        w.payload("roots").display()
    );
    let board = w.boot(name, &guest("roots", 1, "64 MiB", &settings), setup)?;
    verdict(&board.off(LIMIT)?, 1)
}
