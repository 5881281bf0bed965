//! What EL2 adds to the wake-ups of a real-time task: `just bench wakeups`.
//!
//! Debian's PREEMPT_RT kernel on a core of its own runs a task of priority 80 that sleeps until the next millisecond.
//! Counted is what EL2 executes, on all cores, from one wake-up to the next: the task's own timer interrupt, and
//! whatever else the kernel needs in that time, such as its tick.
//!
//! No other guest runs: QEMU's plugins are told the core that translated a block, not the one that executes it, where
//! one thread runs all cores, so what others do at EL2 meanwhile could not be told apart.

use serde_json::{Value, json};

use crate::bench::{self, Counts, LIMIT, number};
use crate::bench_paging;
use crate::workshop::Workshop;

/// What the guest runs.
const SCRIPT: &str = include_str!("../guest/wake.sh");
/// Wake-ups.
const WAKE_UPS: usize = 2000;
/// The marker of the windows.
const TEST: u64 = 1;
/// Instructions of the worst wake-up at most.
const WORST: u64 = 1000;

/// Measures, prints the table, writes `target/bench/wakeups.json`.
///
/// # Errors
/// A guest that did not come to its end, or a file that cannot be written.
pub fn wakeups(w: &Workshop) -> Result<bool, String> {
    bench_paging::pack(w, SCRIPT, "wakeups")?;
    println!("\nPREEMPT_RT 6.1, one vCPU, period 1 ms: EL2 instructions per wake-up\n");
    println!("| interrupt controller | wake-ups |  min | median |  p99 |  max |");
    println!("|----------------------|---------:|-----:|-------:|-----:|-----:|");
    let mut rows = Vec::new();
    let mut good = true;
    for gic in [3, 2] {
        let counts = run(w, gic)?;
        let line = counts.tests.get(&TEST);
        let get = |key| line.and_then(|line| number(line, key));
        let figures = ["n", "min", "median", "p99", "max"].map(get);
        let [Some(n), Some(min), Some(median), Some(p99), Some(max)] = figures else {
            return Err(format!("no wake-ups with GICv{gic}"));
        };
        println!(
            "| GICv{gic}                | {n:>8} | {min:>4} | {median:>6} | {p99:>4} | {max:>4} |"
        );
        good &= max <= WORST;
        let row = |metric, value, limit| row(gic, metric, value, limit);
        rows.extend([
            row("min", min, None),
            row("median", median, None),
            row("p99", p99, None),
            row("max", max, Some(WORST)),
        ]);
    }
    bench::write(w, "wakeups", &rows)?;
    Ok(good)
}

fn row(gic: u8, metric: &str, value: u64, limit: Option<u64>) -> Value {
    let case = format!("wake-up-gicv{gic}");
    json!({"case": case, "metric": metric, "value": value, "unit": "instructions", "limit": limit})
}

fn run(w: &Workshop, gic: u8) -> Result<Counts, String> {
    let toml = format!(
        "[[guest]]\nname = \"rt\"\nvcpus = 1\ncores = [1]\nmemory = \"256 MiB\"\nkernel = \"{}\"\n\
         initrd = \"{}\"\ncmdline = \"console=ttyAMA0 quiet nokaslr bench.wakeups={WAKE_UPS}\"\n",
        w.cached("linux-rt/vmlinuz").display(),
        w.file("wakeups-initramfs.gz").display()
    );
    let (mut board, out) = bench::start(w, &format!("wakeups-gicv{gic}"), &toml, gic, 2, &[])?;
    board.expect("bench: done", LIMIT)?;
    bench::finish(board, &out)
}
