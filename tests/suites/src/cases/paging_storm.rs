//! Debian's kernels under storms on their processes' address spaces, with user spaces in compound mode: mappings,
//! permissions, copies on write, huge pages, swap, traced children, modules, vCPUs that come and go. Every
//! page's content is known, and mirrors are audited meanwhile.

use std::time::Duration;

use super::paging_load::{FULL_SECONDS, Point, run};
use crate::board::Board;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(300);
/// Storm of the quick suite.
const QUICK_SECONDS: u64 = 10;
/// Compound with as much copying as makes user spaces worth a trial; and everything mirrored.
const COMPOUND: (&str, &str) = ("compound", "paging_copy = \"64 MiB\"");
const SHADOW: (&str, &str) = ("shadow", "");

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    [
        (true, 3, 2, "thin", "linux-cloud", COMPOUND),
        (false, 3, 1, "reserved", "linux", COMPOUND),
        (false, 2, 2, "reserved", "linux", COMPOUND),
        (false, 3, 4, "thin", "linux", COMPOUND),
        (false, 2, 1, "thin", "linux", COMPOUND),
        (false, 3, 2, "thin", "linux-rt", COMPOUND),
        (false, 3, 1, "thin", "linux", SHADOW),
        (false, 3, 2, "reserved", "linux", SHADOW),
        (false, 2, 4, "thin", "linux", SHADOW),
    ]
    .into_iter()
    .map(|(quick, gic, vcpus, backing, kernel, settings)| {
        let seconds = if quick { QUICK_SECONDS } else { FULL_SECONDS };
        let group = if settings == SHADOW {
            "compound-shadow"
        } else {
            "compound"
        };
        let name = format!("{group}-storm-{kernel}-gicv{gic}-{vcpus}vcpu-{backing}-{seconds}s");
        let point = Point {
            kernel,
            vcpus,
            backing,
            seconds,
        };
        Case::named(name, quick, move |w, name| {
            watched(w, name, gic, point, settings, |_| Ok(()))
        })
    })
    .collect()
}

/// A storm with audits, and `watch` after each.
fn watched(
    w: &Workshop,
    name: &str,
    gic: u8,
    point: Point,
    settings: (&str, &str),
    watch: impl FnMut(&mut Board) -> Result<(), String>,
) -> Result<(), String> {
    let setup = Setup {
        gic,
        ram_mib: 2048,
        ..Setup::default()
    };
    let initramfs = w.storm_initramfs(name, point.kernel)?;
    run(w, name, &setup, point, (settings, &initramfs), watch)
}

/// The storm for so many minutes. The frames that mirrors take must not grow with time.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn soak(w: &Workshop, minutes: u64) -> Result<(), String> {
    let point = Point {
        kernel: "linux",
        vcpus: 2,
        backing: "thin",
        seconds: 60 * minutes,
    };
    let mut frames = Vec::new();
    watched(w, "soak-paging", 3, point, COMPOUND, |board| {
        board.send("paging show linux")?;
        board.expect("table frames ", LIMIT)?;
        let used = board.until(" of ", LIMIT)?;
        frames.push(used.parse().map_err(|_| format!("\"{used}\" frames"))?);
        Ok(())
    })?;
    println!("{minutes} minutes of storm: {}", growth(&frames)?);
    Ok(())
}

/// Frames by quarters of the time, after a first one in which the policy finds its work. What leaks makes the
/// fewest of the last quarter more than the most of the second.
fn growth(frames: &[u32]) -> Result<String, String> {
    let quarter = frames.len() / 4;
    let of = |n: usize| frames.get(n * quarter..(n + 1) * quarter);
    let (Some(second), Some(last)) = (of(1), of(3)) else {
        return Err(format!("{} looks are too few", frames.len()));
    };
    let (most, least) = (second.iter().max(), last.iter().min());
    let (Some(most), Some(least)) = (most, least) else {
        return Err(format!("{} looks are too few", frames.len()));
    };
    let said = format!(
        "{} looks; at most {most} table frames in the second quarter, at least {least} in the last",
        frames.len()
    );
    if least > most {
        return Err(format!("mirrors grow: {said}"));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::growth;

    #[test]
    fn growth_is_told_from_ups_and_downs() {
        assert!(growth(&[1, 5, 6, 4, 7, 3, 5, 6]).is_ok());
        assert!(growth(&[1, 5, 6, 4, 7, 3, 7, 8]).is_err());
        assert!(growth(&[1, 2, 3]).is_err());
    }
}
