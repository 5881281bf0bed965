//! Two Linux guests, one console, and an operator at the shell.

use std::time::Duration;

use super::guest;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(150);

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    vec![Case::new("operator-shell-two-linux", true, |w| {
        let setup = Setup {
            ram_mib: 2048,
            ..Setup::default()
        };
        shell(w, "operator-shell", &setup)
    })]
}

fn linux(w: &Workshop, name: &str, more: &str) -> String {
    let files = format!(
        "backing = \"thin\"\nkernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"console=ttyAMA0 quiet\"\n{more}",
        w.cached("linux-cloud/vmlinuz").display(),
        w.initramfs().display(),
    );
    guest(name, 1, "256 MiB", &files)
}

/// Consoles are chosen, guests are stopped, restarted, paused and audited; a policy brings one back.
pub(super) fn shell(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let toml = linux(w, "one", "cores = [1]")
        + &linux(
            w,
            "two",
            "cores = [2]\non_power_off = \"restart\"\nrestart_delay = \"200 ms\"",
        );
    let mut board = w.boot(name, &toml, setup)?;
    for (command, answers) in [
        ("", &["one| This is a busybox shell"][..]),
        (
            "\x1d2",
            &["console of guest 2, 'two'", "This is a busybox shell", "# "],
        ),
        ("echo answer-$((40 + 2))", &["answer-42"]),
        ("\x1ds", &["the operator's shell", "penumbra> "]),
        ("list", &["1 one ", "running", "2 two ", "running"]),
        ("pause one", &["guest 'one' is paused"]),
        ("resume one", &["guest 'one' runs on"]),
        ("stop one", &["guest 'one' was stopped"]),
        ("destroy one", &["its memory is free"]),
        ("audit", &["every frame that a VM sees is its own"]),
        ("create one", &["is loaded"]),
        ("start one", &["started by the operator"]),
        (
            "stats one",
            &[
                "guest 'one': running for",
                "mapped by",
                "of 2 MiB",
                "interrupts",
            ],
        ),
        (
            "load",
            &["one             0    1", " %", "(manager)       0    0"],
        ),
        ("top", &["two             0    2", "(any key ends this)"]),
        ("x", &["penumbra> "]),
        (
            "console one",
            &["console of guest 1, 'one'", "This is a busybox shell", "# "],
        ),
        ("\x1d2", &["console of guest 2, 'two'", "answer-42"]),
        (
            "poweroff",
            &[
                "guest 'two' is off",
                "started again in 200 ms",
                "This is a busybox shell",
            ],
        ),
        ("\x1ds", &["penumbra> "]),
        ("audit", &["every frame that a VM sees is its own"]),
        ("poweroff", &["one, two would lose power"]),
        ("poweroff now", &["the operator switches the board off"]),
    ] {
        board.ask(command, answers, LIMIT)?;
    }
    board.off(LIMIT).map(drop)
}
