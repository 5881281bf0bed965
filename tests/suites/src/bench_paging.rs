//! What the modes of paging cost on work that changes translation tables: `just bench paging`.
//!
//! One boot of Debian's kernel for each mode and backing, under `-icount` and eventscope, runs every workload between
//! markers. Counted is what ran in the guest, at EL2 and in the manager; compound mode is to
//! be within 1 % of nested mode.

use std::collections::BTreeMap;
use std::fs;

use penumbra::initramfs::{self, Contents};
use serde_json::{Value, json};

use crate::bench::{self, Counts, LIMIT, number};
use crate::board::Board;
use crate::workshop::Workshop;

/// What the guest runs.
const SCRIPT: &str = include_str!("../guest/paging.sh");
/// The workloads of the script, by marker.
const WORKLOADS: [(u64, &str); 5] = [
    (1, "fork, exec, exit (300)"),
    (2, "shell pipelines (15)"),
    (3, "mmap, touch, munmap (1500)"),
    (4, "pipe, to and fro (1500)"),
    (5, "random access, 8 MiB (60000)"),
];
/// Pages that workload 3 touches: 1500 times 64 KiB. Each is a fault of the guest's own.
const FAULTS: (&str, u64) = ("mmap, touch, munmap (1500)", 1500 * 16);
const MODES: [&str; 3] = ["nested", "compound", "shadow"];
const BACKINGS: [&str; 2] = ["reserved", "thin"];
/// Compound mode may cost so much more than nested mode, in 1/100 %.
const NEVER_WORSE: i64 = 100;
/// What `paging show` counts and is worth a row.
const COUNTERS: [&str; 6] = [
    "roots planted",
    "of these as one leaf",
    "stores mirrored",
    "structural stores",
    "tables given up",
    "holds of its vCPUs",
];

/// Instructions of one workload in one mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    guest: u64,
    el2: u64,
    manager: u64,
}

impl Cost {
    const fn all(self) -> u64 {
        self.guest + self.el2 + self.manager
    }

    /// How much more than `base`, in 1/100 %.
    fn over(self, base: Self) -> i64 {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (here, there) = (signed(self.all()), signed(base.all()).max(1));
        (here - there).saturating_mul(10_000) / there
    }
}

/// One boot.
#[derive(Debug)]
struct Run {
    costs: BTreeMap<&'static str, Cost>,
    counters: Vec<u64>,
    /// Share of the kernel's coalescable regions under leaves, as `paging show` says.
    leaves: String,
}

/// Measures, prints the tables, writes `target/bench/paging.json`.
///
/// # Errors
/// A guest that did not come to its end, or a file that cannot be written.
pub fn paging(w: &Workshop) -> Result<bool, String> {
    pack(w, SCRIPT, "paging")?;
    let mut rows = Vec::new();
    for backing in BACKINGS {
        let mut runs = Vec::new();
        for mode in MODES {
            runs.push((mode, run(w, backing, mode)?));
        }
        print(backing, &runs);
        rows.extend(json_rows(backing, &runs));
    }
    bench::write(w, "paging", &rows)?;
    Ok(true)
}

/// An initramfs with the workloads and a script, `NAME-initramfs.gz`.
pub(crate) fn pack(w: &Workshop, script: &str, name: &str) -> Result<(), String> {
    let said = |problem: penumbra::problem::Problem| problem.message;
    let program = w
        .project()
        .cargo_build("penumbra-walkscope-workload", "walkload", &[])
        .map_err(said)?;
    let read = |path: &std::path::Path| {
        fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let contents = Contents {
        busybox: read(&w.cached("busybox/busybox"))?,
        script: Some(script.as_bytes().to_vec()),
        files: vec![("bin/walkload".into(), read(&program)?)],
        modules: Vec::new(),
    };
    let bytes = initramfs::build(&contents)?;
    fs::write(w.file(&format!("{name}-initramfs.gz")), bytes)
        .map_err(|error| format!("cannot write an initramfs: {error}"))
}

fn run(w: &Workshop, backing: &str, mode: &str) -> Result<Run, String> {
    let toml = format!(
        "[[guest]]\nname = \"linux\"\nvcpus = 1\ncores = [1]\nmemory = \"256 MiB\"\nbacking = \"{backing}\"\n\
         paging = \"{mode}\"\nkernel = \"{}\"\ninitrd = \"{}\"\n\
         cmdline = \"console=ttyAMA0 quiet nokaslr bench.paging\"\n",
        w.cached("linux-cloud/vmlinuz").display(),
        w.file("paging-initramfs.gz").display()
    );
    let name = format!("paging-{mode}-{backing}");
    let (mut board, out) = bench::start(w, &name, &toml, 3, 2, &[])?;
    board.expect("bench: done", LIMIT)?;
    let shown = show(&mut board)?;
    board.send("console linux")?;
    board.expect("console of guest", LIMIT)?;
    board.send("")?;
    let counts = bench::finish(board, &out)?;
    let counter = |what: &str| {
        let (_, rest) = shown.split_once(&format!("{what:<24}"))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let leaves = shown.lines().find_map(|line| {
        let (_, rest) = line.split_once("under 2 MiB leaves: ")?;
        Some(rest.trim().to_owned())
    });
    Ok(Run {
        costs: costs(&counts)?,
        counters: COUNTERS.map(|what| counter(what).unwrap_or(0)).to_vec(),
        leaves: leaves.unwrap_or_else(|| "none".into()),
    })
}

/// What `paging show` says; the operator's part is outside all markers.
fn show(board: &mut Board) -> Result<String, String> {
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    board.send("paging show linux")?;
    board.expect("guest 'linux': ", LIMIT)?;
    board.until("penumbra> ", LIMIT)
}

fn costs(counts: &Counts) -> Result<BTreeMap<&'static str, Cost>, String> {
    let mut costs = BTreeMap::new();
    for (test, name) in WORKLOADS {
        let line = counts.tests.get(&test);
        let get = |key| line.and_then(|line| number(line, key));
        let cost = (|| {
            Some(Cost {
                guest: get("guests_median")?,
                el2: get("median")?,
                manager: get("manager_median")?,
            })
        })();
        costs.insert(name, cost.ok_or(format!("no window of \"{name}\""))?);
    }
    Ok(costs)
}

fn print(backing: &str, runs: &[(&str, Run)]) {
    println!("\nDebian 6.1 (cloud), one vCPU, GICv3, {backing}: instructions\n");
    println!(
        "| workload                     | mode     |      guest |      EL2 |  manager | against nested |"
    );
    println!(
        "|------------------------------|----------|-----------:|---------:|---------:|---------------:|"
    );
    let Some((_, nested)) = runs.first() else {
        return;
    };
    for (_, name) in WORKLOADS {
        let base = cost_of(nested, name);
        for (mode, run) in runs {
            let cost = cost_of(run, name);
            let over = cost.over(base);
            let worse = *mode == "compound" && over > NEVER_WORSE;
            println!(
                "| {name:28} | {mode:8} | {:>10} | {:>8} | {:>8} | {:>12} %{} |",
                cost.guest,
                cost.el2,
                cost.manager,
                percent(over),
                if worse { '!' } else { ' ' },
            );
        }
    }
    for (mode, run) in runs {
        let counted: Vec<String> = COUNTERS
            .iter()
            .zip(&run.counters)
            .map(|(what, n)| format!("{what} {n}"))
            .collect();
        let faults = cost_of(run, FAULTS.0).el2;
        println!(
            "\n{mode}: {}; under 2 MiB leaves: {}; EL2 per page fault of the guest: {}.{:02}",
            counted.join(", "),
            run.leaves,
            faults / FAULTS.1,
            faults * 100 / FAULTS.1 % 100
        );
    }
}

fn cost_of(run: &Run, name: &str) -> Cost {
    run.costs.get(name).copied().unwrap_or_default()
}

/// 1/100 % as text with a sign.
fn percent(hundredths: i64) -> String {
    let sign = if hundredths < 0 { '-' } else { '+' };
    let size = hundredths.unsigned_abs();
    format!("{sign}{}.{:02}", size / 100, size % 100)
}

fn json_rows(backing: &str, runs: &[(&str, Run)]) -> Vec<Value> {
    let mut rows = Vec::new();
    let Some((_, nested)) = runs.first() else {
        return rows;
    };
    for (mode, run) in runs {
        for (_, name) in WORKLOADS {
            let case = format!("{name}/{mode}/{backing}");
            let cost = cost_of(run, name);
            // Within 1 % of nested.
            let limit = (*mode == "compound").then(|| cost_of(nested, name).all() * 101 / 100);
            for (metric, value, limit) in [
                ("guest", cost.guest, None),
                ("el2", cost.el2, None),
                ("manager", cost.manager, None),
                ("all", cost.all(), limit),
            ] {
                rows.push(json!({"case": case, "metric": metric, "value": value,
                    "unit": "instructions", "limit": limit}));
            }
        }
        for (what, value) in COUNTERS.iter().zip(&run.counters) {
            rows.push(
                json!({"case": format!("counters/{mode}/{backing}"), "metric": what, "value": value,
                "unit": "events", "limit": Value::Null}),
            );
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_compared_in_hundredths_of_a_percent() {
        let base = Cost {
            guest: 10_000,
            el2: 0,
            manager: 0,
        };
        let more = Cost { el2: 101, ..base };
        assert_eq!(more.over(base), 101);
        assert_eq!(base.over(base), 0);
        assert_eq!(percent(-205), "-2.05");
        assert_eq!(percent(99), "+0.99");
    }
}
