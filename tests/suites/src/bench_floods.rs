//! What a guest that floods costs its neighbours: `just bench floods`, and the column of `just bench events`
//! beside two such guests.
//!
//! The measured guest has cores 1 and 2; what EL2 executes there while an event is measured counts, and nothing else. The
//! floods have cores of their own, the manager core 0.

use serde_json::{Value, json};

use crate::bench::{self, Counts, LIMIT};
use crate::board::Board;
use crate::cases::{self, Windows};
use crate::peers::EVENTS;
use crate::workshop::{Setup, Workshop};

/// What a guest can flood with: words of the payload `flood`'s command line.
pub(crate) const KINDS: [&str; 6] = [
    "exits",
    "interrupts",
    "console",
    "faults",
    "hypercalls",
    "watchdog",
];
/// All but the watchdog's, which would end them.
pub(crate) const ALL: &str = "exits interrupts console faults hypercalls";
/// What two guests flood with to be as bad as they can.
pub(crate) const WORST: [&str; 2] = [ALL, "watchdog console"];
/// The first core of the floods beside events.
pub(crate) const FIRST: usize = 3;
/// Events of each kind.
const N: u64 = 20;
/// Windows that are looked at.
const WINDOWS: u8 = 12;

/// Instructions that a guest which floods may keep its core at EL2 at once: a stay that ends with a region of thin memory in
/// one block is the longest. With a watchdog that resets its guest the core waits at EL2 for the manager to make it anew, and what
/// it does between such waits, each of which an interrupt ends, counts as one stay.
const STAY: u64 = 3500;
const STAY_OF_RESET: u64 = 8000;

/// A guest that floods.
pub(crate) fn flood(w: &Workshop, core: usize, words: &str) -> String {
    let name = format!("[[guest]]\nname = \"flood{core}\"\nvcpus = 1\n");
    name + &keys(w, core, words)
}

/// The rest of its table.
fn keys(w: &Workshop, core: usize, words: &str) -> String {
    // As often and as soon as a scenario can have it.
    let restart = if words.contains("watchdog") {
        "on_watchdog = \"restart\"\nrestart_limit = 1000\nrestart_delay = \"0 ms\"\n"
    } else {
        ""
    };
    format!(
        "payload = \"flat\"\ncores = [{core}]\nmemory = \"16 MiB\"\nbacking = \"thin\"\nkernel = \"{}\"\n\
         cmdline = \"{words}\"\n{restart}",
        w.payload("flood").display()
    )
}

/// Switches a board off on which guests flood.
pub(crate) fn switch_off(board: &mut Board) -> Result<(), String> {
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    board.send("poweroff now")
}

/// Counts the events, each `n` times, beside guests that flood with `kinds`, one for each.
pub(crate) fn crowded(
    w: &Workshop,
    name: &str,
    gic: u8,
    n: u64,
    kinds: &[&str],
) -> Result<Counts, String> {
    let mut toml = format!(
        "[[guest]]\nname = \"events\"\nvcpus = 2\ncores = [1, 2]\nmemory = \"256 MiB\"\nbacking = \"thin\"\n\
         kernel = \"{}\"\ncmdline = \"n={n} drain_us=1000\"\n",
        w.payload("events").display()
    );
    for (core, kind) in (FIRST..).zip(kinds) {
        toml += &flood(w, core, kind);
    }
    let cores = u8::try_from(FIRST + kinds.len()).unwrap_or(u8::MAX);
    let (mut board, out) = bench::start_with(w, name, &toml, gic, cores, ",cores=1+2,guests=off")?;
    board.expect("events: done", LIMIT)?;
    if !kinds.is_empty() {
        switch_off(&mut board)?;
    }
    bench::finish(board, &out)
}

/// The events that take more beside floods than alone: of the samples in order, one is more than its like.
pub(crate) fn dearer(alone: &Counts, beside: &Counts) -> Vec<&'static str> {
    let samples = |counts: &Counts, test| {
        let samples = counts.tests.get(&test).and_then(|line| line.get("samples"));
        let samples = samples.and_then(Value::as_array).into_iter().flatten();
        let mut sorted: Vec<u64> = samples.filter_map(Value::as_u64).collect();
        sorted.sort_unstable();
        sorted
    };
    EVENTS
        .iter()
        .filter(|event| {
            let (alone, beside) = (samples(alone, event.test), samples(beside, event.test));
            alone.len() != beside.len() || alone.iter().zip(&beside).any(|(a, b)| b > a)
        })
        .map(|event| event.name)
        .collect()
}

/// Measures, prints the tables, writes `target/bench/floods.json`.
///
/// # Errors
/// A guest that did not come to its end, or a file that cannot be written.
pub fn floods(w: &Workshop) -> Result<bool, String> {
    let mut rows = Vec::new();
    let short = on_one_core(w, &mut rows)?;
    let good = on_other_cores(w, &mut rows)? && short;
    bench::write(w, "floods", &rows)?;
    Ok(good)
}

/// Events beside floods on other cores, kind by kind.
fn on_other_cores(w: &Workshop, rows: &mut Vec<Value>) -> Result<bool, String> {
    println!(
        "\nEvents of a guest on cores 1 and 2 ({N} each) beside a flood on core 3 (`all`: two floods), against the same alone;\n\
         EL2 instructions of the whole run in millions.\n"
    );
    println!(
        "| flood              | EL2, flood's cores | EL2, manager's core | events that cost more |"
    );
    println!(
        "|--------------------|-------------------:|--------------------:|---------------------|"
    );
    let mut good = true;
    for gic in [3, 2] {
        let alone = crowded(w, &format!("floods-alone-gicv{gic}"), gic, N, &[])?;
        let mut cases: Vec<(&str, Vec<&str>)> = vec![("all", WORST.to_vec())];
        if gic == 3 {
            cases.splice(0..0, KINDS.map(|kind| (kind, vec![kind])));
        }
        for (case, kinds) in cases {
            let counts = crowded(w, &format!("floods-{case}-gicv{gic}"), gic, N, &kinds)?;
            let dearer = dearer(&alone, &counts);
            let el2 = |core| counts.of_core(core, "el2");
            let flood: u64 = (FIRST..FIRST + kinds.len()).map(el2).sum();
            let manager = el2(0);
            let millions = |n: u64| format!("{}.{}", n / 1_000_000, n / 100_000 % 10);
            let said = if dearer.is_empty() {
                "none".to_owned()
            } else {
                dearer.join(", ")
            };
            println!(
                "| {:18} | {:>18} | {:>19} | {said} |",
                format!("{case}, GICv{gic}"),
                millions(flood),
                millions(manager)
            );
            good &= dearer.is_empty();
            let case = format!("flood-{case}-gicv{gic}");
            let row = |metric, value: u64, unit, limit: Option<u64>| json!({"case": case, "metric": metric, "value": value, "unit": unit, "limit": limit});
            let number = u64::try_from(dearer.len()).unwrap_or(u64::MAX);
            rows.extend([
                row("events-dearer", number, "events", Some(0)),
                row("el2-flood", flood, "instructions", None),
            ]);
        }
    }
    Ok(good)
}

/// Windows of a guest beside a flood on the same core.
fn on_one_core(w: &Workshop, rows: &mut Vec<Value>) -> Result<bool, String> {
    println!(
        "\nWindows of 2000 us in a frame of 10000 us beside a flood in the core's other window (GICv3). `late`: least, average and most\n\
         us, as EL2 counts. `stay`: instructions of the core's longest stay at EL2, from one exit to the next.\n"
    );
    println!("| flood            | stay | late                | the guest's own words |");
    println!("|------------------|-----:|---------------------|-----------------------|");
    // QEMU runs the cores in turns on one clock: what others execute makes a window late, too. The last row shows how much a
    // loop does that never comes to EL2.
    let spin = format!(
        "[[guest]]\nname = \"spin\"\nvcpus = 1\ncores = [2]\nmemory = \"16 MiB\"\nkernel = \"{}\"\ncmdline = \"role=partner\"\n",
        w.payload("events").display()
    );
    let cases = KINDS.into_iter().chain([ALL]).map(|kind| {
        let case = if kind == ALL { "all" } else { kind };
        (case, kind, "")
    });
    let mut good = true;
    for (case, kind, beside) in cases.chain([("exits-and-a-loop", "exits", spin.as_str())]) {
        let (windows, stay) = windows(w, &format!("floods-window-{case}"), 3, (kind, beside))?;
        let [least, average, most] = windows.late_us;
        println!(
            "| {case:16} | {stay:>4} | {least:.3}, {average:.3}, {most:.3} | {}; {} |",
            windows.said,
            windows.failures.join(", ")
        );
        let case = format!("flood-window-{case}");
        let limit = longest_stay(kind);
        good &= stay <= limit;
        rows.extend([
            json!({"case": case, "metric": "longest-stay", "value": stay, "unit": "instructions", "limit": limit}),
            json!({"case": case, "metric": "late-most", "value": most, "unit": "us", "limit": null}),
        ]);
    }
    Ok(good)
}

/// Instructions that a guest which floods with `kind` may keep its core at EL2 at once.
pub(crate) fn longest_stay(kind: &str) -> u64 {
    if kind == "watchdog" {
        STAY_OF_RESET
    } else {
        STAY
    }
}

/// Windows of a guest beside another on its core that floods with `kind`, with what else the scenario has; and the longest
/// stay at EL2 on that core meanwhile, in instructions.
pub(crate) fn windows(
    w: &Workshop,
    name: &str,
    gic: u8,
    (kind, beside): (&str, &str),
) -> Result<(Windows, u64), String> {
    let (arguments, out) = bench::arguments(w, name, (0, ",cores=1,guests=off"))?;
    let setup = Setup {
        cores: 3,
        gic,
        arguments,
        ..Setup::default()
    };
    let other = keys(w, 1, kind) + beside;
    let windows = cases::beside(w, name, &setup, (&other, "flood: begins"), WINDOWS)?;
    let counts = Counts::read(&out)?;
    let line = counts.tests.get(&0).ok_or("the windows were not counted")?;
    let stay = bench::number(line, "longest_stay").ok_or("no stay at EL2 was counted")?;
    Ok((windows, stay))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_takes_more_once_is_dearer() {
        let counts = |first: [u64; 3], other: [u64; 1]| {
            let mut counts = Counts::default();
            let line = |samples: &[u64]| json!({"samples": samples});
            counts.tests.insert(EVENTS[0].test, line(&first));
            counts.tests.insert(EVENTS[1].test, line(&other));
            counts
        };
        let alone = counts([5, 5, 9], [54]);
        assert!(dearer(&alone, &counts([9, 5, 5], [54])).is_empty());
        assert!(dearer(&alone, &counts([9, 4, 5], [54])).is_empty());
        assert_eq!(dearer(&alone, &counts([9, 6, 5], [54])), [EVENTS[0].name]);
        assert_eq!(dearer(&alone, &counts([9, 5, 5], [55])), [EVENTS[1].name]);
    }
}
