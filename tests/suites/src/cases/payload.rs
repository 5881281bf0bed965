//! The payload that takes every trap, and two payloads that share a core.

use std::time::Duration;

use super::guest;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(180);

const QUICK: [(u8, &str, u8, &str); 5] = [
    (3, "cortex-a72", 3, "thin"),
    (2, "cortex-a72", 4, "reserved"),
    (3, "max", 2, "reserved"),
    (2, "cortex-a53", 1, "thin"),
    (3, "neoverse-n1", 1, "reserved"),
];

const CPUS: [&str; 5] = [
    "cortex-a53",
    "cortex-a72",
    "cortex-a76",
    "neoverse-n1",
    "max",
];

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for gic in [3, 2] {
        for cpu in CPUS {
            for vcpus in 1..=4 {
                for backing in ["reserved", "thin"] {
                    let quick = QUICK.contains(&(gic, cpu, vcpus, backing));
                    let name = format!("traps-gicv{gic}-{cpu}-{vcpus}vcpu-{backing}");
                    let setup = Setup { cpu, ..setup(gic) };
                    cases.push(Case::named(name, quick, move |w, name| {
                        traps_on(w, name, &setup, vcpus, backing)
                    }));
                }
            }
        }
    }
    for gic in [3, 2] {
        let name = format!("traps-one-core-gicv{gic}");
        cases.push(Case::named(name, gic == 3, move |w, name| {
            one_core(w, name, &setup(gic))
        }));
        let name = format!("twins-gicv{gic}");
        cases.push(Case::named(name, true, move |w, name| {
            twins(w, name, &setup(gic))
        }));
    }
    // A core with more that a guest could leave behind.
    cases.push(Case::new("twins-max", false, |w| {
        let setup = Setup {
            cpu: "max",
            ..setup(3)
        };
        twins(w, "twins-max", &setup)
    }));
    cases
}

fn setup(gic: u8) -> Setup {
    Setup {
        gic,
        ..Setup::default()
    }
}

/// What a payload's checks said: its failures, if any, as a sentence.
pub(super) fn verdict(console: &str, closings: usize) -> Result<(), String> {
    let failures: Vec<&str> = console
        .lines()
        .filter(|line| line.contains("FAIL "))
        .collect();
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    let closed = console.matches(" passed, 0 failed").count();
    if closed != closings {
        let last = console
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty());
        return Err(format!(
            "{closed} of {closings} payloads came to their end; the last line is: {}",
            last.unwrap_or("none")
        ));
    }
    Ok(())
}

/// Every trap, on a board.
pub(super) fn traps_on(
    workshop: &Workshop,
    name: &str,
    setup: &Setup,
    vcpus: u8,
    backing: &str,
) -> Result<(), String> {
    let kernel = workshop.payload("traps");
    let more = format!("backing = \"{backing}\"\nkernel = \"{}\"", kernel.display());
    let toml = guest("traps", vcpus, "64 MiB", &more);
    let console = workshop.boot(name, &toml, setup)?.off(LIMIT)?;
    verdict(&console, 1)
}

/// Two vCPUs of the guest on one core, together with the manager: time slices and lost residency.
pub(super) fn one_core(workshop: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let kernel = workshop.payload("traps");
    let toml = guest(
        "traps",
        2,
        "64 MiB",
        &format!("cores = [0, 0]\nkernel = \"{}\"", kernel.display()),
    );
    let toml = toml.replace("cores = [0, 0]", "cores = [0, 1]");
    let setup = Setup {
        cores: 2,
        ..setup.clone()
    };
    let console = workshop.boot(name, &toml, &setup)?.off(LIMIT)?;
    verdict(&console, 1)
}

/// Two guests on one core keep their registers to themselves.
pub(super) fn twins(workshop: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let kernel = workshop.payload("twin");
    let mut toml = String::new();
    for (twin, seed) in [("castor", 17), ("pollux", 4242)] {
        toml += &guest(
            twin,
            1,
            "16 MiB",
            &format!(
                "cores = [1]\ncmdline = \"seed={seed}\"\nkernel = \"{}\"",
                kernel.display()
            ),
        );
    }
    let console = workshop.boot(name, &toml, setup)?.off(LIMIT)?;
    verdict(&console, 2)
}
