//! Guests that die: each is reported, EL2 and the manager live on, and so does another guest.

use std::time::Duration;

use super::guest;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(60);

/// Ways to die and words that the report must have.
pub(super) const DEATHS: [(&str, &[&str]); 5] = [
    (
        "wild-jump",
        &[
            "guest 'crash' crashed: vCPU 0",
            "PC 0000003000",
            "to change:",
        ],
    ),
    (
        "vector-loop",
        &["guest 'crash' crashed: vCPU 0", "vector", "to change:"],
    ),
    ("quota", &["guest 'crash'", "quota", "line "]),
    (
        "table-outside",
        &["guest 'crash' crashed: vCPU 0", "to change:"],
    ),
    ("last-off", &["guest 'crash'", "off"]),
];

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (way, words) in DEATHS {
        let name = format!("crash-{way}");
        cases.push(Case::named(name, true, move |w, name| {
            dies(w, name, &Setup::default(), way, words)
        }));
    }
    for (way, end) in LIVES {
        let name = format!("crash-{way}");
        cases.push(Case::named(name, true, move |w, name| {
            lives(w, name, &Setup::default(), way, end)
        }));
    }
    for (name, run) in BESIDES {
        cases.push(Case::new(name, true, move |w| {
            run(w, name, &Setup::default())
        }));
    }
    cases
}

/// A test of a name on a board.
type Run = fn(&Workshop, &str, &Setup) -> Result<(), String>;

/// What else befalls guests.
pub(super) const BESIDES: [(&str, Run); 3] = [
    ("crash-endless-fault", spins),
    ("crash-beside-another", beside),
    ("crash-reset", resets),
];

/// Ways in which a guest harms nobody, and its last words.
pub(super) const LIVES: [(&str, &str); 2] = [
    ("undefined-storm", "storm survived"),
    ("misuse", "misuse over"),
];

fn scenario(workshop: &Workshop, way: &str) -> String {
    let backing = if way == "quota" {
        "backing = \"thin\"\nquota = \"48 MiB\"\n"
    } else {
        ""
    };
    let kernel = workshop.payload("crash");
    guest(
        "crash",
        2,
        "128 MiB",
        &format!(
            "{backing}cmdline = \"{way}\"\nkernel = \"{}\"",
            kernel.display()
        ),
    )
}

/// The guest dies, the report has the words, and the board goes off in order.
pub(super) fn dies(
    w: &Workshop,
    name: &str,
    setup: &Setup,
    way: &str,
    words: &[&str],
) -> Result<(), String> {
    let console = w.boot(name, &scenario(w, way), setup)?.off(LIMIT)?;
    let report = console
        .split(&format!("crash: {way}"))
        .nth(1)
        .unwrap_or_default();
    for word in words {
        if !report.contains(word) {
            return Err(format!("the report lacks \"{word}\": {}", report.trim()));
        }
    }
    if report.contains("survived") {
        return Err("the guest survived".into());
    }
    Ok(())
}

/// The guest does what no hypervisor should mind, and the board goes off in order.
pub(super) fn lives(
    w: &Workshop,
    name: &str,
    setup: &Setup,
    way: &str,
    end: &str,
) -> Result<(), String> {
    let mut board = w.boot(name, &scenario(w, way), setup)?;
    board.expect(end, LIMIT)?;
    board.off(LIMIT).map(drop)
}

/// A guest that faults for ever at a mapped vector harms nobody: another one on the same core ends.
fn spins(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let twin = format!(
        "cores = [1]\ncmdline = \"seed=5\"\nkernel = \"{}\"",
        w.payload("twin").display()
    );
    let toml = scenario(w, "endless-fault").replace("vcpus = 2", "vcpus = 1\ncores = [1]")
        + &guest("twin", 1, "16 MiB", &twin);
    let mut board = w.boot(name, &toml, setup)?;
    board.expect(" passed, 0 failed", LIMIT)
}

/// One guest dies while another works on the same core; the other comes to its end.
fn beside(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let twin = format!(
        "cores = [1]\ncmdline = \"seed=5\"\nkernel = \"{}\"",
        w.payload("twin").display()
    );
    let toml = scenario(w, "wild-jump").replace("vcpus = 2", "vcpus = 1\ncores = [1]")
        + &guest("twin", 1, "16 MiB", &twin);
    let console = w.boot(name, &toml, setup)?.off(LIMIT)?;
    for word in ["guest 'crash' crashed", " passed, 0 failed"] {
        if !console.contains(word) {
            return Err(format!("\"{word}\" did not come"));
        }
    }
    Ok(())
}

/// SYSTEM_RESET loads the guest anew: it starts again and again.
fn resets(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let mut board = w.boot(name, &scenario(w, "reset"), setup)?;
    for _ in 0..3 {
        board.expect("crash: reset", LIMIT)?;
    }
    Ok(())
}
