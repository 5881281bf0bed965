//! The payload that takes every trap, and two payloads that share a core.

use std::time::Duration;

use super::guest;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(180);

/// A point of the matrix.
#[derive(Clone, Copy, Debug)]
struct Point {
    gic: u8,
    cpu: &'static str,
    vcpus: u8,
    backing: &'static str,
}

const QUICK: [Point; 5] = [
    Point {
        gic: 3,
        cpu: "cortex-a72",
        vcpus: 3,
        backing: "thin",
    },
    Point {
        gic: 2,
        cpu: "cortex-a72",
        vcpus: 4,
        backing: "reserved",
    },
    Point {
        gic: 3,
        cpu: "max",
        vcpus: 2,
        backing: "reserved",
    },
    Point {
        gic: 2,
        cpu: "cortex-a53",
        vcpus: 1,
        backing: "thin",
    },
    Point {
        gic: 3,
        cpu: "neoverse-n1",
        vcpus: 1,
        backing: "reserved",
    },
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
                    let point = Point {
                        gic,
                        cpu,
                        vcpus,
                        backing,
                    };
                    let quick = QUICK
                        .iter()
                        .any(|q| (q.gic, q.cpu, q.vcpus, q.backing) == (gic, cpu, vcpus, backing));
                    let name = format!("traps-gicv{gic}-{cpu}-{vcpus}vcpu-{backing}");
                    let own = name.clone();
                    cases.push(Case::new(name, quick, move |w| traps(w, &own, point)));
                }
            }
        }
    }
    for gic in [3, 2] {
        let name = format!("traps-one-core-gicv{gic}");
        let own = name.clone();
        cases.push(Case::new(name, gic == 3, move |w| {
            one_core(w, &own, &setup(gic))
        }));
        let name = format!("twins-gicv{gic}");
        let own = name.clone();
        cases.push(Case::new(name, true, move |w| twins(w, &own, &setup(gic))));
    }
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

fn traps(workshop: &Workshop, name: &str, point: Point) -> Result<(), String> {
    let setup = Setup {
        gic: point.gic,
        cpu: point.cpu,
        ..Setup::default()
    };
    traps_on(workshop, name, &setup, point.vcpus, point.backing)
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
