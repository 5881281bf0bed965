//! Bad input: one clear sentence and an end, from the host tool or from the board.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::guest;
use crate::board::Board;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(30);
const FATAL: &str = "penumbra: fatal: ";

/// Scenarios that the host tool refuses: a name, the guest table and the sentence.
const REFUSED: [(&str, &str, &str); 9] = [
    (
        "unknown-key",
        "KERNEL\ncolour = \"red\"",
        "a guest has no key `colour`",
    ),
    (
        "missing-payload",
        "kernel = \"/nonexistent/Image\"",
        "cannot read the kernel /nonexistent/Image",
    ),
    ("not-arm64", "kernel = \"OTHER\"", "is not an arm64 Image"),
    (
        "odd-memory",
        "KERNEL\nmemory = \"63 MiB\"",
        "63 MiB is not a multiple of 2 MiB",
    ),
    (
        "no-vcpus",
        "KERNEL\nvcpus = 0",
        "a guest has 1 to 8 vCPUs, not 0",
    ),
    (
        "many-vcpus",
        "KERNEL\nvcpus = 9",
        "a guest has 1 to 8 vCPUs, not 9",
    ),
    ("absent-core", "KERNEL\ncores = [9]", "core 9"),
    ("unknown-backing", "KERNEL\nbacking = \"rubber\"", "rubber"),
    ("bad-initrd", "KERNEL\ninitrd = \"OTHER\"", "the initrd"),
];

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, table, sentence) in REFUSED {
        let name = format!("refused-{what}");
        cases.push(Case::named(name, true, move |w, name| {
            refused(w, name, table, sentence)
        }));
    }
    cases.push(Case::new("refused-exit-code", true, exit_code));
    cases.push(Case::new("fatal-no-el2", true, no_el2));
    cases.push(Case::new("fatal-no-bundle", true, no_bundle));
    cases.push(Case::new("fatal-little-ram", true, little_ram));
    for gic in [2, 3] {
        let name = format!("fatal-truncated-gicv{gic}");
        cases.push(Case::new(name, true, move |w| truncated(w, gic)));
    }
    cases.push(Case::new("fatal-bit-flips", true, bit_flips));
    cases
}

/// The host tool refuses, with a sentence that has the words.
fn refused(w: &Workshop, name: &str, table: &str, sentence: &str) -> Result<(), String> {
    let other = w.file(&format!("{name}.not-an-image"));
    fs::write(&other, [0x55; 4096]).map_err(|error| error.to_string())?;
    let kernel = format!("kernel = \"{}\"", w.payload("twin").display());
    let table = table
        .replace("KERNEL", &kernel)
        .replace("OTHER", &other.display().to_string());
    let mut toml = "[[guest]]\nname = \"g\"\n".to_owned();
    for (key, line) in [("vcpus", "vcpus = 1"), ("memory", "memory = \"64 MiB\"")] {
        if !table.contains(key) {
            toml += line;
            toml.push('\n');
        }
    }
    match w.bundle(name, &(toml + &table + "\n"), 4) {
        Ok(_) => Err("it was accepted".into()),
        Err(said) if said.contains(sentence) => Ok(()),
        Err(said) => Err(format!("it says \"{said}\", not \"{sentence}\"")),
    }
}

/// The command ends with a status other than 0.
fn exit_code(w: &Workshop) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .current_dir(w.project().root())
        .args(["run", "-q", "--release", "-p", "penumbra", "--", "check"])
        .arg(w.file("no-such-scenario.toml"))
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(1) if said.contains("cannot read the scenario") => Ok(()),
        code => Err(format!("exit status {code:?}, \"{}\"", said.trim())),
    }
}

/// Boots a board that gives up; returns the sentence.
fn fatal(w: &Workshop, setup: &Setup, bundle: Option<&Path>) -> Result<String, String> {
    let mut board = Board::start(w.command(setup, bundle))?;
    board.expect(FATAL, LIMIT)?;
    board.expect("\n", LIMIT)?;
    // Without EL2 nothing can switch the board off; then the tail is all there is.
    let console = board.tail();
    Ok(console)
}

fn says(console: &str, words: &[&str]) -> Result<(), String> {
    match words.iter().find(|word| !console.contains(**word)) {
        None => Ok(()),
        Some(word) => Err(format!("\"{word}\" is not said: {console}")),
    }
}

fn good_bundle(w: &Workshop, name: &str) -> Result<std::path::PathBuf, String> {
    let kernel = format!("kernel = \"{}\"", w.payload("twin").display());
    w.bundle(name, &guest("g", 1, "64 MiB", &kernel), 4)
}

fn no_el2(w: &Workshop) -> Result<(), String> {
    let bundle = good_bundle(w, "fatal-no-el2")?;
    let setup = Setup {
        el2: false,
        ..Setup::default()
    };
    says(
        &fatal(w, &setup, Some(&bundle))?,
        &["entered at EL1, not EL2", "virtualization=on"],
    )
}

fn no_bundle(w: &Workshop) -> Result<(), String> {
    says(&fatal(w, &Setup::default(), None)?, &["there is no bundle"])
}

fn little_ram(w: &Workshop) -> Result<(), String> {
    let bundle = good_bundle(w, "fatal-little-ram")?;
    let setup = Setup {
        ram_mib: 64,
        ..Setup::default()
    };
    let words = [
        "guest 'g'",
        "need 64 MiB",
        "free",
        "lower `memory`",
        "line 4",
    ];
    says(&fatal(w, &setup, Some(&bundle))?, &words)
}

fn truncated(w: &Workshop, gic: u8) -> Result<(), String> {
    let name = format!("fatal-truncated-{gic}");
    let bundle = good_bundle(w, &name)?;
    let bytes = fs::read(&bundle).map_err(|error| error.to_string())?;
    for keep in [20, 300, bytes.len() / 2, bytes.len() - 1] {
        let cut = w.file(&format!("{name}.cut"));
        fs::write(&cut, bytes.get(..keep).unwrap_or_default()).map_err(|e| e.to_string())?;
        let setup = Setup {
            gic,
            ..Setup::default()
        };
        says(
            &fatal(w, &setup, Some(&cut))?,
            &["the bundle is cut short", "make the bundle again"],
        )
        .map_err(|why| format!("{keep} bytes: {why}"))?;
    }
    Ok(())
}

/// One bit in each region of the bundle: every flip is noticed.
fn bit_flips(w: &Workshop) -> Result<(), String> {
    let bundle = good_bundle(w, "fatal-bit-flips")?;
    let bytes = fs::read(&bundle).map_err(|error| error.to_string())?;
    for place in [
        0,
        9,
        17,
        40,
        70,
        100,
        4096 + 17,
        bytes.len() / 2,
        bytes.len() - 200,
    ] {
        let mut flipped = bytes.clone();
        if let Some(byte) = flipped.get_mut(place) {
            *byte ^= 0x10;
        }
        let file = w.file("fatal-bit-flips.flipped");
        fs::write(&file, flipped).map_err(|error| error.to_string())?;
        let console = fatal(w, &Setup::default(), Some(&file))
            .map_err(|why| format!("byte {place}: {why}"))?;
        says(&console, &["make the bundle again"]).map_err(|why| format!("byte {place}: {why}"))?;
    }
    Ok(())
}
