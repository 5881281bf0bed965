//! What EL2 adds to the wake-ups of a real-time task: `just bench wakeups`.
//!
//! Debian's PREEMPT_RT kernel on a core of its own runs a task of priority 80 that sleeps until the next millisecond.
//! Counted is what EL2 executes on that core from one wake-up to the next: the task's own timer interrupt, and
//! whatever else the kernel needs in that time, such as its tick. Once alone, once beside two guests that flood
//! EL2 and the manager from cores of their own.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::bench::{self, Counts, LIMIT, number};
use crate::bench_floods::{self, WORST};
use crate::bench_paging;
use crate::workshop::Workshop;

/// What the guest runs.
const SCRIPT: &str = include_str!("../guest/wake.sh");
/// Wake-ups alone, and beside floods, where each takes much longer to count.
const WAKE_UPS: usize = 2000;
const FLOODED: usize = 300;
/// When the floods begin, in milliseconds after the board's reset: before the first wake-up, which is looked at.
const FLOOD_MS: u64 = 800;
/// The marker of the windows.
const TEST: u64 = 1;
/// Instructions of the worst wake-up at most.
const WORST_WAKE_UP: u64 = 1000;

/// Measures, prints the table, writes `target/bench/wakeups.json`.
///
/// # Errors
/// A guest that did not come to its end, or a file that cannot be written.
pub fn wakeups(w: &Workshop) -> Result<bool, String> {
    bench_paging::pack(w, SCRIPT, "wakeups", Vec::new())?;
    println!("\nPREEMPT_RT 6.1, one vCPU, period 1 ms: EL2 instructions on its core per wake-up\n");
    println!(
        "|                     | wake-ups |  min | median |  p99 |  max | how often each figure |"
    );
    println!(
        "|---------------------|---------:|-----:|-------:|-----:|-----:|-----------------------|"
    );
    let mut rows = Vec::new();
    let mut good = true;
    for (gic, floods) in [(3, false), (3, true), (2, false), (2, true)] {
        let counts = run(w, gic, floods)?;
        let line = counts.tests.get(&TEST);
        let get = |key| line.and_then(|line| number(line, key));
        let figures = ["n", "min", "median", "p99", "max"].map(get);
        let [Some(n), Some(min), Some(median), Some(p99), Some(max)] = figures else {
            return Err(format!("no wake-ups with GICv{gic}"));
        };
        let how = if floods { "beside floods" } else { "alone" };
        println!(
            "| {:19} | {n:>8} | {min:>4} | {median:>6} | {p99:>4} | {max:>4} | {} |",
            format!("GICv{gic}, {how}"),
            line.map(distribution).unwrap_or_default()
        );
        good &= max <= WORST_WAKE_UP;
        let suffix = if floods { "-floods" } else { "" };
        let case = format!("wake-up-gicv{gic}{suffix}");
        let row = |metric, value, limit: Option<u64>| json!({"case": case, "metric": metric, "value": value, "unit": "instructions", "limit": limit});
        rows.extend([
            row("min", min, None),
            row("median", median, None),
            row("p99", p99, None),
            row("max", max, Some(WORST_WAKE_UP)),
        ]);
    }
    bench::write(w, "wakeups", &rows)?;
    Ok(good)
}

/// The samples of a line, each value once with how often it was seen.
fn distribution(line: &Value) -> String {
    let samples = line.get("samples").and_then(Value::as_array);
    let mut often = BTreeMap::new();
    for sample in samples.into_iter().flatten().filter_map(Value::as_u64) {
        *often.entry(sample).or_insert(0_usize) += 1;
    }
    let parts: Vec<String> = often
        .iter()
        .map(|(sample, times)| format!("{sample}: {times}"))
        .collect();
    parts.join(", ")
}

fn run(w: &Workshop, gic: u8, floods: bool) -> Result<Counts, String> {
    let count = if floods { FLOODED } else { WAKE_UPS };
    let mut toml = format!(
        "[[guest]]\nname = \"rt\"\nvcpus = 1\ncores = [1]\nmemory = \"256 MiB\"\nkernel = \"{}\"\n\
         initrd = \"{}\"\ncmdline = \"console=ttyAMA0 quiet nokaslr bench.wakeups={count}\"\n",
        w.cached("linux-rt/vmlinuz").display(),
        w.file("wakeups-initramfs.gz").display()
    );
    let (mut name, mut cores) = (format!("wakeups-gicv{gic}"), 2);
    if floods {
        for (core, kinds) in (2..).zip(WORST) {
            toml += &bench_floods::flood(w, core, &format!("{kinds} after_ms={FLOOD_MS}"));
        }
        (name, cores) = (name + "-floods", 4);
    }
    let (mut board, out) = bench::start_with(w, &name, &toml, gic, cores, ",cores=1,guests=off")?;
    let before = board.until("bench: begins", LIMIT)?;
    board.expect("bench: done", LIMIT)?;
    if floods {
        if WORST.len() > before.matches("flood: begins").count() {
            return Err("the wake-ups began before the floods did".into());
        }
        bench_floods::switch_off(&mut board)?;
    }
    bench::finish(board, &out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_counts_each_value() {
        let line = json!({"samples": [115, 230, 115, 115, 7]});
        assert_eq!(distribution(&line), "7: 1, 115: 3, 230: 1");
    }
}
