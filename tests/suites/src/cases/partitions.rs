//! What `tools/dev run` shows: the scenario that it boots, with its three consoles and the shell.

use std::time::Duration;

use super::paging::{Mode, await_shadows};
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(150);
/// What an audit says that finds nothing.
const AUDITED: &str = "every mirror agrees with the guest's tables";
/// The scenario, seen from the project's folder.
const SCENARIO: &str = "guest-configs/partitions.toml";

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for gic in [3, 2] {
        let name = format!("partitions-gicv{gic}");
        cases.push(Case::named(name, gic == 3, move |w, name| {
            let setup = Setup {
                gic,
                ram_mib: 2048,
                ..Setup::default()
            };
            partitions(w, name, &setup)
        }));
    }
    cases.push(Case::new("partitions-compound-gicv3", false, |w| {
        compound(w, "partitions-compound-gicv3")
    }));
    cases.push(Case::new("partitions-rpi4", false, |w| {
        partitions(w, "partitions-rpi4", &w.rpi4())
    }));
    cases
}

/// A person who tries everything once.
fn partitions(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let mut board = w.boot_scenario(name, SCENARIO, setup)?;
    for (command, answers) in [
        // All guests behind their labels; the input goes to the first one.
        (
            "",
            &[
                "guest 'rt-linux'",
                "the input goes to 'linux'",
                "linux   | This is a busybox shell",
            ][..],
        ),
        ("echo answer-$((40 + 2))-$(nproc)", &["answer-42-2"]),
        // Each console alone.
        (
            "\x1d2",
            &[
                "console of guest 2, 'rt-linux'",
                "-rt-arm64: 1 of 1 vCPUs on line",
                "# ",
            ],
        ),
        ("uname -v", &["PREEMPT_RT"]),
        (
            "\x1d3",
            &[
                "console of guest 3, 'periodic'",
                "periodic: wakes up each 10000 us",
                "wake-ups, late by",
            ],
        ),
        (
            "\x1d1",
            &["console of guest 1, 'linux'", "answer-42-2", "# "],
        ),
        // The shell.
        ("\x1ds", &["the operator's shell", "penumbra> "]),
        (
            "list",
            &[
                "1 linux        running      1,2",
                "2 rt-linux     running      3",
                "3 periodic     running      0",
            ],
        ),
        (
            "schedule",
            &[
                "core 0: frame of 10000 us",
                "2000  periodic",
                "8000  the manager",
            ],
        ),
        (
            "top",
            &["linux           0    1", "(manager)", "(any key ends this)"],
        ),
        ("x", &["penumbra> "]),
        ("paging show linux", &["guest 'linux': compound"]),
        ("audit", &["every frame that a VM sees is its own"]),
        // In windows beside a guest that sleeps most of the time.
        ("manager loop", &["the manager was restarted"]),
        ("\x1ds", &["the operator's shell", "penumbra> "]),
        ("poweroff", &["linux, rt-linux, periodic would lose power"]),
        ("poweroff now", &["the operator switches the board off"]),
    ] {
        board.ask(command, answers, LIMIT)?;
    }
    board.off(LIMIT).map(drop)
}

/// All three guests in compound mode: the first from its start, the others by the operator's wish.
fn compound(w: &Workshop, name: &str) -> Result<(), String> {
    let setup = Setup {
        ram_mib: 2048,
        ..Setup::default()
    };
    let mut board = w.boot_scenario(name, SCENARIO, &setup)?;
    board.ask("", &["linux   | This is a busybox shell"], LIMIT)?;
    board.ask("\x1d2", &["1 of 1 vCPUs on line", "# "], LIMIT)?;
    board.ask("\x1ds", &["penumbra> "], LIMIT)?;
    for guest in ["rt-linux", "periodic"] {
        let order = format!("paging mode {guest} compound");
        let answer = format!("the paging of '{guest}' to compound");
        board.ask(&order, &[&answer, "penumbra> "], LIMIT)?;
    }
    for guest in ["linux", "rt-linux"] {
        await_shadows(&mut board, guest, Mode::Compound)
            .map_err(|why| format!("{guest}: {why}"))?;
    }
    for (command, answers) in [
        ("console linux", &["console of guest 1"][..]),
        (
            "for i in $(seq 200); do /bin/busybox true; done; echo done-$((40 + 2))",
            &["done-42"],
        ),
        ("\x1d2", &["console of guest 2"]),
        (
            "for i in $(seq 200); do /bin/busybox true; done; echo done-$((40 + 3))",
            &["done-43"],
        ),
        ("\x1d3", &["console of guest 3", "wake-ups, late by"]),
        ("\x1ds", &["penumbra> "]),
        ("paging audit linux", &[AUDITED]),
        ("paging audit rt-linux", &[AUDITED]),
        ("paging show periodic", &["guest 'periodic': compound"]),
        ("audit", &["every frame that a VM sees is its own"]),
        ("poweroff now", &["the operator switches the board off"]),
    ] {
        board.ask(command, answers, LIMIT)?;
    }
    board.off(LIMIT).map(drop)
}
