//! A guest that attacks the service which shadows its tables, beside a Linux that must not notice.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::guest;
use super::lives::Neighbour;
use crate::case::Case;
use crate::shown::counter;
use crate::workshop::{Setup, Workshop};

/// How long each life of the attacker lasts in the quick suite.
const QUICK_SECONDS: u64 = 10;
/// The same in the full suite.
pub(super) const FULL_SECONDS: u64 = 40;
/// What a busy workstation may take to let an attacker reach everything.
const REACH: Duration = Duration::from_secs(60);
/// When the attacker ends by itself: long after it was told to.
const ATTACKER_SECONDS: u64 = 900;
/// What the operator makes of the attacker's paging meanwhile. A mode that is set anew forgives lost roots.
const MODES: [&str; 3] = ["nested", "compound", "shadow"];
/// What the attack has to have reached, in the words of `paging show`.
const REACHED: [&str; 6] = [
    "roots planted",
    "tables shadowed",
    "stores mirrored",
    "structural stores",
    "stores not decodable",
    "holds of its vCPUs",
];

/// An attacker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) vcpus: u8,
    pub(super) backing: &'static str,
    pub(super) seconds: u64,
}

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![case(true, 3, "cortex-a72", 2, "thin")];
    for gic in [2, 3] {
        for vcpus in [1, 2, 4] {
            for backing in ["reserved", "thin"] {
                cases.push(case(false, gic, "cortex-a72", vcpus, backing));
            }
        }
    }
    // A core whose walker can set flags, and with more than Armv8.0 in TCR_EL1.
    cases.push(case(false, 3, "max", 2, "reserved"));
    cases
}

fn case(quick: bool, gic: u8, cpu: &'static str, vcpus: u8, backing: &'static str) -> Case {
    let seconds = if quick { QUICK_SECONDS } else { FULL_SECONDS };
    let name = format!("compound-attack-{cpu}-gicv{gic}-{vcpus}vcpu-{backing}-{seconds}s");
    let point = Point {
        vcpus,
        backing,
        seconds,
    };
    let setup = Setup {
        gic,
        cpu,
        ram_mib: 2048,
        ..Setup::default()
    };
    Case::named(name, quick, move |w, name| attack(w, name, &setup, point))
}

/// Two lives of the attacker, the first of which is cut off; audits, and modes that change under it.
pub(super) fn attack(w: &Workshop, name: &str, setup: &Setup, point: Point) -> Result<(), String> {
    let cores = match point.vcpus {
        1 => "[3]",
        2 => "[2, 3]",
        _ => "[0, 1, 2, 3]",
    };
    let attacker = format!(
        "cores = {cores}\nautostart = false\nbacking = \"{}\"\npaging = \"shadow\"\nkernel = \"{}\"\n\
         cmdline = \"seconds={ATTACKER_SECONDS}\"",
        point.backing,
        w.payload("attack").display(),
    );
    let attacker = guest("attack", point.vcpus, "64 MiB", &attacker);
    let mut neighbour = Neighbour::boot(w, name, &attacker, setup)?;
    let free = neighbour.free()?;
    neighbour.order("start attack", &["'attack' was started by the operator"])?;
    pester(&mut neighbour, point.seconds * 3 / 4)?;
    neighbour.order("restart attack", &["'attack' was started by the operator"])?;
    pester(&mut neighbour, point.seconds * 3 / 4)?;
    neighbour.order(
        "paging mode attack shadow",
        &["set the paging of 'attack' to shadow"],
    )?;
    await_reached(&mut neighbour)?;
    neighbour.order("console attack", &["console of guest"])?;
    neighbour.left_shell();
    neighbour.type_line("end")?;
    let said = neighbour.upto(" failed")?;
    if said.contains("FAIL") || !said.trim_end().ends_with("passed, 0") {
        return Err(format!("the attacker was not served well: {}", said.trim()));
    }
    neighbour.await_text("guest 'attack' is off")?;
    neighbour.audit()?;
    let left = neighbour.free()?;
    if left != free {
        return Err(format!("{free} were free before the attack, {left} after"));
    }
    neighbour.order("console linux", &["console of guest"])?;
    neighbour.left_shell();
    neighbour.verdict()
}

/// Audits the attacker at odd moments, and changes its mode at every second one.
fn pester(neighbour: &mut Neighbour, seconds: u64) -> Result<(), String> {
    let began = Instant::now();
    let mut pauses = [1700, 900, 2300, 300].into_iter().cycle();
    for mode in MODES.into_iter().cycle() {
        for pause in pauses.by_ref().take(2) {
            neighbour.order(
                "paging audit attack",
                &["every mirror agrees with the guest's tables"],
            )?;
            if began.elapsed() > Duration::from_secs(seconds) {
                return Ok(());
            }
            sleep(Duration::from_millis(pause));
        }
        let says = format!("set the paging of 'attack' to {mode}");
        neighbour.order(&format!("paging mode attack {mode}"), &[&says])?;
        neighbour.audit()?;
    }
    Ok(())
}

/// Waits until this life of the attacker has reached all that was to be attacked.
fn await_reached(neighbour: &mut Neighbour) -> Result<(), String> {
    let end = Instant::now() + REACH;
    loop {
        // The counters stand before this line in every mode.
        let shown = neighbour.answer("paging show attack", "guest 'attack': ", "violations")?;
        let missing = reached(&shown);
        if missing.is_ok() || Instant::now() > end {
            return missing;
        }
        sleep(Duration::from_millis(500));
    }
}

/// Whether what was to be attacked was there at all.
fn reached(shown: &str) -> Result<(), String> {
    for what in REACHED {
        if counter(shown, what).unwrap_or(0) == 0 {
            return Err(format!("the attack reached nothing: no {what}; {shown}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_missed() {
        let mut shown = "  table frames 0 of 512, tables shadowed 0 of 1024\n".to_owned();
        for what in REACHED {
            shown += &format!("{what:<24}{:>10}   ", 7);
        }
        assert_eq!(counter(&shown, "stores mirrored"), Ok(7));
        assert_eq!(reached(&shown), Ok(()));
        assert!(reached(&shown.replacen("  7  ", "  0  ", 1)).is_err());
        assert!(reached("").is_err());
    }
}
