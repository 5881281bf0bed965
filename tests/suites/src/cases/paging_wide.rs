//! A guest that makes EL2 give up a thousand tables at once: it is not kept there for longer than by anything else.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::bench;
use crate::board::Board;
use crate::case::Case;
use crate::workshop::Workshop;

/// Under a plugin, on a host that may be busy.
const LIMIT: Duration = Duration::from_secs(600);
/// Instructions at EL2 at once: what the longest takes, 4,925, and room. 3,500, as for floods, is to be reached.
const LONGEST_STAY: u64 = 5500;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// Tables of level 3 that are shadowed.
const TABLES: u64 = 1000;
/// What makes EL2 give them up, as the payload numbers it.
const ENDS: [(&str, u8); 3] = [("store", 1), ("pair", 2), ("tcr", 3)];

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let case = |(word, end): (&str, u8)| {
        let name = format!("compound-gives-up-{word}");
        Case::named(name, end == 1, move |w, name| gives_up(w, name, end))
    };
    ENDS.into_iter().map(case).collect()
}

fn gives_up(w: &Workshop, name: &str, end: u8) -> Result<(), String> {
    let toml = format!(
        "[[guest]]\nname = \"wide\"\nvcpus = 1\ncores = [1]\nmemory = \"64 MiB\"\nbacking = \"thin\"\n\
         paging = \"shadow\"\npaging_pool = \"8 MiB\"\npayload = \"flat\"\nkernel = \"{}\"\n\
         cmdline = \"regions={TABLES} end={end}\"\n",
        w.payload("wide").display()
    );
    let (mut board, out) = bench::start_with(w, name, &toml, 3, 2, ",cores=1,calls=on")?;
    board.expect("wide: 1000 tables", LIMIT)?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    await_tables(&mut board, |tables| tables > TABLES)?;
    board.send("console wide")?;
    board.expect("console of guest", LIMIT)?;
    board.send("")?;
    board.expect("wide: given up", LIMIT)?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    // The root may stay, or come back, and then what is left is not below it.
    await_tables(&mut board, |tables| tables < 8)?;
    board.send("paging audit wide")?;
    board.expect("every mirror agrees with the guest's tables", LIMIT)?;
    board.send("console wide")?;
    board.expect("console of guest", LIMIT)?;
    board.send("")?;
    let counts = bench::finish(board, &out)?;
    let stay = counts
        .tests
        .get(&1)
        .and_then(|line| bench::number(line, "longest_stay"));
    let stay = stay.ok_or("nothing was counted")?;
    let limit = LONGEST_STAY;
    println!("{TABLES} tables; longest stay at EL2: {stay}");
    if stay == 0 || stay > limit {
        return Err(format!(
            "EL2 kept the core for {stay} instructions at once, not up to {limit}"
        ));
    }
    Ok(())
}

/// Waits until so many tables are shadowed, or wait to be given back, as `paging show` says.
fn await_tables(board: &mut Board, wanted: impl Fn(u64) -> bool) -> Result<(), String> {
    let end = Instant::now() + LIMIT;
    loop {
        board.send("paging show wide")?;
        board.expect("tables shadowed ", LIMIT)?;
        let line = board.until("of 1024", LIMIT)?;
        board.expect("penumbra> ", LIMIT)?;
        let tables: Option<u64> = line
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok());
        match tables {
            Some(tables) if wanted(tables) => return Ok(()),
            Some(_) if Instant::now() < end => sleep(PAUSE),
            _ => return Err(format!("tables shadowed: {line}")),
        }
    }
}
