//! The log of refused accesses, beside a guest that floods its own.

use std::time::Duration;

use super::guest;
use crate::board::Board;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(60);

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let case = |gic: u8| {
        let name = format!("trap-log-gicv{gic}");
        Case::named(name, gic == 3, move |w, name| log(w, name, gic))
    };
    vec![case(3), case(2)]
}

/// What a command of the shell shows, up to what the next one does.
fn shown(board: &mut Board, command: &str) -> Result<String, String> {
    board.send(command)?;
    board.send("version")?;
    board.until("made for interface", LIMIT)
}

fn log(w: &Workshop, name: &str, gic: u8) -> Result<(), String> {
    let kernel = w.payload("refused");
    let keys = |core: u8, words: &str| {
        let kernel = kernel.display();
        format!("cores = [{core}]\ncmdline = \"{words}\"\nkernel = \"{kernel}\"")
    };
    let toml =
        guest("quiet", 1, "16 MiB", &keys(1, "")) + &guest("flood", 1, "16 MiB", &keys(2, "flood"));
    let setup = Setup {
        gic,
        ..Setup::default()
    };
    let mut board = w.boot(name, &toml, &setup)?;
    for _ in ["quiet", "flood"] {
        board.expect("refused: done", LIMIT)?;
    }
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    let quiet = shown(&mut board, "traps quiet")?;
    for wanted in [
        "15 accesses were refused",
        "5 times, last ",
        "HVC #0, function 0x86001234: there is no such function; NOT_SUPPORTED",
        "3 times, last ",
        "read of S3_3_C9_C13_0 (performance monitors): UNDEFINED",
        "2 times, last ",
        "address 0x9010000 (virtual 0x9010000)",
        "the board has /pl031@9010000 there; to change: name it in `devices` (",
        "4 times, last ",
        "data abort on a write: translation fault",
        "address 0x30000000 (virtual 0x30000000)",
        "1 times, last ",
        "to change: raise `memory` (",
    ] {
        if !quiet.contains(wanted) {
            return Err(format!("\"{wanted}\" is not in the log: {quiet}"));
        }
    }
    let flood = shown(&mut board, "traps flood")?;
    for wanted in [
        "data abort on a read",
        "of other kinds: the log keeps the last 16 kinds",
    ] {
        if !flood.contains(wanted) {
            return Err(format!("\"{wanted}\" is not in the flood's log: {flood}"));
        }
    }
    // The flood has gone on, and the other one's log is as it was.
    board.send("traps quiet")?;
    board.expect("15 accesses were refused", LIMIT)?;
    board.send("poweroff now")?;
    board.expect("the operator switches the board off", LIMIT)?;
    board.off(LIMIT).map(drop)
}
