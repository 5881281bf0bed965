//! What the events of compound paging cost at EL2: `just bench paging-events`.
//!
//! The payload `shadowed` has tables that the manager's policy shadows, one call each, and stores to them between
//! markers; once on a core of its own, whose vCPU has to be stopped for each edit, and once beside the manager, where
//! nobody has to be. Debian runs a process whose pages the policy puts in order. eventscope counts each of the
//! manager's calls from its HVC until the manager goes on, and in it the copying and the cache maintenance apart.

use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{self, Counts};
use crate::bench_reset;
use crate::board::Board;
use crate::shown::{self, counter};
use crate::workshop::{LOAD_ADDRESS, Workshop};

/// Ten thousand million instructions under a plugin, on a host that may be busy.
const LIMIT: Duration = Duration::from_secs(3600);

/// `PagingShadow`, `PagingRelayout` and `PagingHome`, as eventscope numbers calls.
const SHADOW: u64 = 0x46;
const RELAYOUT: u64 = 0x49;
const HOME: u64 = 0x51;
/// The manager's calls that have to do with paging, by number.
const CALLS: [(u64, &str); 18] = [
    (0x40, "PagingMode"),
    (0x41, "PagingStatus"),
    (0x42, "PagingRoots"),
    (0x43, "PagingPool"),
    (0x44, "PagingSpace"),
    (0x45, "PagingSurvey"),
    (SHADOW, "PagingShadow"),
    (0x47, "PagingDemote"),
    (0x48, "PagingWorth"),
    (RELAYOUT, "PagingRelayout"),
    (0x4a, "PagingSettle"),
    (0x4b, "PagingEpoch"),
    (0x4c, "PagingCounter"),
    (0x4d, "PagingAudit"),
    (0x4e, "PagingRoot"),
    (0x4f, "PagingSpaceAdd"),
    (0x50, "PagingSpaceDrop"),
    (HOME, "PagingHome"),
];
/// Regions of the payload.
const REGIONS: u64 = 64;
/// Stores of each kind.
const STORES: u64 = 200;
/// Bytes of the process whose pages are moved, and for how many seconds it works.
const PROCESS: (u64, u64) = (16 << 20, 12);
/// Functions whose instructions in a call are counted apart, by group and a part of their symbol.
const GROUPS: [(&str, &str); 5] = [
    ("copy", "cache14exchange_words"),
    ("cache", "cache16clean_invalidate"),
    ("cache", "cache12publish_code"),
    ("zero", "cache4zero"),
    ("hold", "compound4hold"),
];

/// Median, minimum and 99th percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figure {
    n: usize,
    median: u64,
    min: u64,
    p99: u64,
}

impl Figure {
    fn of(samples: &[u64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let at = |percent: usize| sorted.get((last * percent).div_ceil(100)).copied();
        Some(Self {
            n: sorted.len(),
            median: at(50)?,
            min: at(0)?,
            p99: at(99)?,
        })
    }
}

/// The table and the rows of the JSON file.
#[derive(Debug, Default)]
struct Table {
    text: String,
    rows: Vec<Value>,
    /// A median is above its limit.
    over: bool,
}

impl Table {
    fn add(&mut self, (case, what): (&str, &str), samples: &[u64], limit: Option<u64>) {
        let Some(figure) = Figure::of(samples) else {
            let _ = writeln!(self.text, "| {what:<52} | no event |");
            return;
        };
        let Figure {
            n,
            median,
            min,
            p99,
        } = figure;
        let over = limit.is_some_and(|limit| median > limit);
        self.over |= over;
        let limit_text = limit.map_or("-".to_owned(), |limit| limit.to_string());
        let _ = writeln!(
            self.text,
            "| {what:<52} | {n:>5} | {median:>7}{} | {min:>6}..{p99:<8} | {limit_text:>8} |",
            if over { '!' } else { ' ' },
        );
        for (metric, value, limit) in [
            ("median", median, limit),
            ("min", min, None),
            ("p99", p99, None),
        ] {
            self.rows.push(bench::row(case, metric, value, limit));
        }
    }
}

/// Measures, prints the tables, writes `target/bench/paging-events.json`. Whether all medians are within their limits.
///
/// # Errors
/// A guest that did not come to its end, or a file that cannot be written.
pub fn paging_events(w: &Workshop) -> Result<bool, String> {
    let ranges = ranges(w)?;
    let mut table = Table::default();
    shadowed(w, &ranges, &mut table)?;
    let calls = moved(w, &ranges, &mut table)?;
    println!("\nEL2 instructions (QEMU virt, cortex-a72, GICv3)\n");
    println!(
        "| event                                                |     n |   median |      min..p99    | to reach |"
    );
    println!(
        "|------------------------------------------------------|------:|---------:|------------------|---------:|"
    );
    print!("{}", table.text);
    print!("{calls}");
    bench::write(w, "paging-events", &table.rows)?;
    Ok(!table.over)
}

/// EL2's functions, those of a group with its name before theirs.
fn ranges(w: &Workshop) -> Result<Vec<String>, String> {
    let functions = bench_reset::functions(w, "penumbra-qemu-virt", LOAD_ADDRESS)?;
    let named = functions.into_iter().map(|function| {
        let group = GROUPS.iter().find(|(_, part)| function.contains(part));
        match group {
            Some((group, _)) => format!("{group}/{function}"),
            None => function,
        }
    });
    Ok(named.collect())
}

/// What a call cost each time, or of it a group of functions.
fn samples(counts: &Counts, what: &str, number: u64) -> Vec<u64> {
    let line = counts.calls.get(&(what.to_owned(), number));
    let samples = line.and_then(|line| line.get("samples")?.as_array());
    samples
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .collect()
}

/// The payload on a core of its own, then beside the manager.
fn shadowed(w: &Workshop, ranges: &[String], table: &mut Table) -> Result<(), String> {
    for (core, case, with) in [
        (1, "other-core", "stopping a core"),
        (0, "same-core", "no core to stop"),
    ] {
        let toml = format!(
            "[[guest]]\nname = \"shadowed\"\nvcpus = 1\ncores = [{core}]\nmemory = \"64 MiB\"\n\
             backing = \"thin\"\npaging = \"compound\"\nkernel = \"{}\"\n\
             cmdline = \"n={STORES} regions={REGIONS}\"\n",
            w.payload("shadowed").display()
        );
        let name = format!("paging-events-{case}");
        let options = bench::ranges_option(w, &name, ranges)? + ",calls=on";
        let (mut board, out) = bench::start_with(w, &name, &toml, 3, 2, &options)?;
        board.expect("0 failed", LIMIT)?;
        let shown = show(&mut board, "shadowed")?;
        board.send("poweroff now")?;
        let counts = bench::finish(board, &out)?;
        for (what, wanted) in [
            ("stores mirrored", 2 * STORES),
            ("of these as one leaf", REGIONS),
        ] {
            let found = counter(&shown, what)?;
            if found < wanted {
                return Err(format!("{what}: {found}, not {wanted}:\n{shown}"));
            }
        }
        if core == 1 {
            for (test, case, how) in [
                (
                    1,
                    "mirrored-store",
                    "mirrored store, through a map of pages",
                ),
                (
                    2,
                    "mirrored-store-identity",
                    "mirrored store, through blocks of 1 GiB",
                ),
            ] {
                let line = counts
                    .tests
                    .get(&test)
                    .and_then(|line| line.get("samples")?.as_array());
                let all: Vec<u64> = line
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_u64)
                    .collect();
                table.add((case, how), &all, Some(350));
                // Behind the other kind's stores nothing is known of this mapping.
                let first = all.get(..1).unwrap_or_default();
                table.add(
                    (&format!("{case}-first"), "  the first one of them"),
                    first,
                    None,
                );
            }
        }
        let limit = (core == 0).then_some(6_000);
        let case = format!("shadow-region-{case}");
        let what = format!("shadow a region as one leaf, {with}");
        table.add((&case, &what), &samples(&counts, "call", SHADOW), limit);
    }
    Ok(())
}

/// Debian and a process whose pages are put in order; the lines about the manager's calls.
fn moved(w: &Workshop, ranges: &[String], table: &mut Table) -> Result<String, String> {
    let name = "paging-events-moved";
    let toml = format!(
        "[[guest]]\nname = \"linux\"\nvcpus = 1\ncores = [0]\nmemory = \"256 MiB\"\nbacking = \"thin\"\n\
         paging = \"compound\"\npaging_copy = \"256 MiB\"\nkernel = \"{}\"\ninitrd = \"{}\"\n\
         cmdline = \"console=ttyAMA0 quiet nokaslr transparent_hugepage=never\"\n",
        w.cached("linux-cloud/vmlinuz").display(),
        w.walkload_initramfs(name)?.display()
    );
    let (bytes, seconds) = PROCESS;
    let options = bench::ranges_option(w, name, ranges)? + ",calls=on";
    let (mut board, out) = bench::start_with(w, name, &toml, 3, 1, &options)?;
    board.expect("# ", LIMIT)?;
    board.send(&format!(
        "sleep 20; walkload 0 check {bytes} {seconds} /tmp/stop small &"
    ))?;
    board.expect("walkload: measured", LIMIT)?;
    let shown = show(&mut board, "linux")?;
    let pages = counter(&shown, "pages moved")?;
    let regions = counter(&shown, "regions re-laid out")?;
    board.send("console linux")?;
    board.expect("console of guest 1", LIMIT)?;
    board.send("touch /tmp/stop; wait; sleep 10; echo rest\"ed\"")?;
    board.expect("rested", LIMIT)?;
    let shown = show(&mut board, "linux")?;
    board.send("poweroff now")?;
    let counts = bench::finish(board, &out)?;
    let home = counter(&shown, "pages moved")?.saturating_sub(pages);
    let Some((calls, each)) = moves(&counts, table, (RELAYOUT, pages), "move-page") else {
        return Err(format!("no page was moved:\n{shown}"));
    };
    let Some((home_calls, home_each)) = moves(&counts, table, (HOME, home), "home-page") else {
        return Err(format!("no page went home:\n{shown}"));
    };
    let mut text = format!(
        "\n{pages} pages moved for {regions} regions, {calls} calls of PagingRelayout: {each} instructions of EL2's a page \
         in all of them\n{home} pages went home, {home_calls} calls of PagingHome: {home_each} instructions\n\n\
         | call            |     n |  median |      min..p99    |  a page |\n\
         |-----------------|------:|--------:|------------------|--------:|\n",
    );
    for (number, name) in CALLS {
        let all = samples(&counts, "call", number);
        if let Some(Figure {
            n,
            median,
            min,
            p99,
        }) = Figure::of(&all)
        {
            let each = all.iter().sum::<u64>() / pages.max(1);
            let _ = writeln!(
                text,
                "| {name:<15} | {n:>5} | {median:>7} | {min:>6}..{p99:<8} | {each:>7} |"
            );
        }
    }
    if std::env::var_os("PENUMBRA_PROFILE").is_some() {
        let _ = write!(text, "{}", bench_reset::longest(&counts.total, 40));
    }
    Ok(text)
}

/// What moving so many pages took in the calls of a number. How many calls there were, and the instructions of all of
/// them for each page; `None`: none moved any.
fn moves(
    counts: &Counts,
    table: &mut Table,
    (call, pages): (u64, u64),
    case: &str,
) -> Option<(usize, u64)> {
    let all = samples(counts, "call", call);
    let copies = samples(counts, "call_copy", call);
    let caches = samples(counts, "call_cache", call);
    let one = copies.iter().copied().filter(|copy| *copy > 0).min()?;
    let (mut work, mut copy, mut cache) = (Vec::new(), Vec::new(), Vec::new());
    for ((all, copied), cached) in all.iter().zip(&copies).zip(&caches) {
        // Calls that move nothing have no part in it.
        let Some(pages) = NonZeroU64::new((copied + one / 2) / one) else {
            continue;
        };
        work.push((all - copied - cached) / pages);
        copy.push(*copied / pages);
        cache.push(*cached / pages);
    }
    let (what, limit) = match call {
        HOME => ("bring a page home, without the next two rows", None),
        _ => ("move a page, without the next two rows", Some(1_500)),
    };
    table.add((case, what), &work, limit);
    for (part, what, samples) in [
        ("copy", "  the copy: two pages are exchanged", copy),
        ("cache", "  cache maintenance of both", cache),
    ] {
        table.add((&format!("{case}-{part}"), what), &samples, None);
    }
    let each = all.iter().sum::<u64>() / pages.max(1);
    let row = bench::row(&format!("{case}-all"), "mean", each, None);
    table.rows.push(row);
    Some((all.len(), each))
}

/// What `paging show` says of a guest; leaves the operator's shell open.
fn show(board: &mut Board, guest: &str) -> Result<String, String> {
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    shown::paging(board, guest, LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_taken_of_sorted_samples() {
        assert_eq!(Figure::of(&[]), None);
        let figure = Figure::of(&[30, 10, 20]);
        let wanted = Figure {
            n: 3,
            median: 20,
            min: 10,
            p99: 30,
        };
        assert_eq!(figure, Some(wanted));
    }
}
