//! What the modes of paging cost on work that changes translation tables: `just bench paging`.
//!
//! One boot of Debian's kernel for each mode and backing, under `-icount` and eventscope, runs every workload between
//! markers. Counted is what ran in the guest, at EL2 and in the manager, which has the guest's core as well; compound
//! mode is to be within 1 % of nested mode. The workloads last for seconds of the guest's time, and it is idle between
//! them, so that a trial of trapped roots falls into each that the policy takes for one that computes.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use penumbra::initramfs::{self, Contents};
use serde_json::{Value, json};

use crate::bench::{self, Counts, LIMIT, number};
use crate::board::Board;
use crate::workshop::Workshop;

/// What the guest runs.
const SCRIPT: &str = include_str!("../guest/paging.sh");
/// A group of workloads: its name, and the workloads by marker.
type Group = (&'static str, &'static [(u64, &'static str)]);
/// The workloads of the script. Those of `churn` and `trials` are to cost no more than with nested paging: the others gain
/// walks, which instructions do not show. In `trials` are those that compute for long enough that user spaces are tried.
const GROUPS: [Group; 3] = [
    (
        "churn",
        &[
            (1, "fork, exec, exit"),
            (2, "shell pipelines"),
            (3, FAULTS.0),
            (4, "pipe, to and fro"),
        ],
    ),
    (
        "trials",
        &[
            (5, "jobs of a second"),
            (6, "two that take turns"),
            (7, "redis, not pipelined"),
        ],
    ),
    (
        "gain",
        &[
            (8, "random, anonymous 64 MiB"),
            (9, "random, mapped file 64 MiB"),
        ],
    ),
];
/// The workload whose page faults are counted, and how many: 10,000 times 64 KiB. Each is one of the guest's own.
const FAULTS: (&str, u64) = ("mmap, touch, munmap", 10_000 * 16);
const MODES: [&str; 3] = ["nested", "compound", "shadow"];
const BACKINGS: [&str; 2] = ["reserved", "thin"];
/// Compound mode may cost so much more than nested mode, in 1/100 %.
const NEVER_WORSE: i64 = 100;
/// An instruction takes 2^SHIFT ns: a window of ten seconds has 1,250 million.
const SHIFT: u8 = 3;
/// A boot with all workloads, on a host that does other things as well.
const BOOT_LIMIT: Duration = Duration::from_secs(3600);
/// What `paging show` counts and is worth a row.
const COUNTERS: [&str; 10] = [
    "trapped root writes",
    "roots planted",
    "tables shadowed",
    "of these as one leaf",
    "regions re-laid out",
    "pages moved",
    "stores mirrored",
    "tables given up",
    "holds of its vCPUs",
    "walks sampled",
];
/// Redis: where Debian's packages have its parts, and the guest. Its server is the program that also checks dumps.
const REDIS: [(&str, &str); 3] = [
    ("usr/bin/redis-check-rdb", "bin/redis-server"),
    ("usr/bin/redis-benchmark", "bin/redis-benchmark"),
    ("lib/ld-linux-aarch64.so.1", "lib/ld-linux-aarch64.so.1"),
];
/// The libraries that it needs, and those that they need.
const LIBRARIES: [&str; 16] = [
    "libatomic.so.1",
    "libc.so.6",
    "libcap.so.2",
    "libcrypto.so.3",
    "libgcc_s.so.1",
    "libgcrypt.so.20",
    "libgpg-error.so.0",
    "libjemalloc.so.2",
    "liblz4.so.1",
    "liblzf.so.1",
    "liblzma.so.5",
    "libm.so.6",
    "libssl.so.3",
    "libstdc++.so.6",
    "libsystemd.so.0",
    "libzstd.so.1",
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

/// What of it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    groups: Vec<Group>,
    backings: Vec<&'static str>,
    modes: Vec<&'static str>,
}

impl Wanted {
    /// Words: groups, backings and `shadow`. Without a group or backing: all of them.
    fn parse(words: &[&str]) -> Result<Self, String> {
        // `just bench paging -- churn` passes the dashes on.
        let words = words.strip_prefix(&["--"]).unwrap_or(words);
        let known = |word: &&&str| {
            let group = GROUPS.iter().any(|(name, _)| *name == **word);
            group || BACKINGS.contains(word) || **word == "shadow"
        };
        if let Some(word) = words.iter().find(|word| !known(word)) {
            return Err(format!(
                "bench paging: '{word}' is none of churn, trials, gain, reserved, thin, shadow"
            ));
        }
        let mut groups: Vec<Group> = GROUPS.to_vec();
        groups.retain(|(name, _)| words.contains(name));
        if groups.is_empty() {
            groups = GROUPS.to_vec();
        }
        let mut backings = BACKINGS.to_vec();
        backings.retain(|name| words.contains(name));
        if backings.is_empty() {
            backings = BACKINGS.to_vec();
        }
        let modes = MODES
            .into_iter()
            .filter(|mode| *mode != "shadow" || words.contains(mode));
        Ok(Self {
            groups,
            backings,
            modes: modes.collect(),
        })
    }

    fn workloads(&self) -> impl Iterator<Item = (u64, &'static str)> {
        self.groups
            .iter()
            .flat_map(|(_, list)| list.iter().copied())
    }

    /// As the guest's script wants them.
    fn names(&self) -> String {
        let names: Vec<&str> = self.groups.iter().map(|(name, _)| *name).collect();
        names.join(",")
    }
}

/// Whether a workload is to cost no more than with nested paging.
fn is_churn(name: &str) -> bool {
    let [churn, trials, _] = GROUPS;
    let mut both = churn.1.iter().chain(trials.1);
    both.any(|(_, known)| *known == name)
}

/// Measures what the words say, prints the tables, writes `target/bench/paging.json`. Whether compound mode kept
/// within its limit.
///
/// # Errors
/// A word that is none, a guest that did not come to its end, or a file that is missing or cannot be written.
pub fn paging(w: &Workshop, words: &[&str]) -> Result<bool, String> {
    let wanted = Wanted::parse(words)?;
    pack(w, SCRIPT, "paging", redis(w)?)?;
    let mut rows = Vec::new();
    let mut good = true;
    for backing in &wanted.backings {
        let mut runs = Vec::new();
        for mode in &wanted.modes {
            runs.push((*mode, run(w, &wanted, backing, mode)?));
        }
        good &= print(&wanted, backing, &runs);
        rows.extend(json_rows(&wanted, backing, &runs));
    }
    bench::write(w, "paging", &rows)?;
    Ok(good)
}

/// Redis with its libraries: path in the guest, and what it holds.
fn redis(w: &Workshop) -> Result<Vec<(String, Vec<u8>)>, String> {
    let packages = w.cached("programs");
    let read = |from: &std::path::Path, to: String| {
        let bytes = fs::read(from).map_err(|error| {
            let path = from.display();
            format!("cannot read {path}: {error}; `tools/fetch-arm64 programs` fetches it")
        })?;
        Ok::<_, String>((to, bytes))
    };
    let mut files = Vec::new();
    for (from, to) in REDIS {
        files.push(read(&packages.join(from), to.to_owned())?);
    }
    for library in LIBRARIES {
        let places = ["lib", "usr/lib"].map(|lib| packages.join(lib).join("aarch64-linux-gnu"));
        let mut places = places.into_iter().map(|place| place.join(library));
        let found = places.find(|path| path.is_file());
        let from = found.unwrap_or_else(|| packages.join(library));
        files.push(read(&from, format!("lib/aarch64-linux-gnu/{library}"))?);
    }
    Ok(files)
}

/// An initramfs with the workloads, a script and more files, `NAME-initramfs.gz`.
pub(crate) fn pack(
    w: &Workshop,
    script: &str,
    name: &str,
    mut files: Vec<(String, Vec<u8>)>,
) -> Result<(), String> {
    let said = |problem: penumbra::problem::Problem| problem.message;
    let program = w
        .project()
        .cargo_build("penumbra-walkscope-workload", "walkload", &[])
        .map_err(said)?;
    let read = |path: &std::path::Path| {
        fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    files.push(("bin/walkload".into(), read(&program)?));
    let contents = Contents {
        busybox: read(&w.cached("busybox/busybox"))?,
        script: Some(script.as_bytes().to_vec()),
        files,
        modules: Vec::new(),
    };
    let bytes = initramfs::build(&contents)?;
    fs::write(w.file(&format!("{name}-initramfs.gz")), bytes)
        .map_err(|error| format!("cannot write an initramfs: {error}"))
}

/// One boot. The manager has the guest's core, so that nothing it does is hidden.
fn run(w: &Workshop, wanted: &Wanted, backing: &str, mode: &str) -> Result<Run, String> {
    let toml = format!(
        "[[guest]]\nname = \"linux\"\nvcpus = 1\nmemory = \"256 MiB\"\nbacking = \"{backing}\"\n\
         paging = \"{mode}\"\npaging_copy = \"64 MiB\"\nkernel = \"{}\"\ninitrd = \"{}\"\n\
         cmdline = \"console=ttyAMA0 quiet nokaslr transparent_hugepage=never bench.paging={}\"\n",
        w.cached("linux-cloud/vmlinuz").display(),
        w.file("paging-initramfs.gz").display(),
        wanted.names(),
    );
    let name = format!("paging-{mode}-{backing}");
    let (mut board, out) = bench::scope(w, &name, &toml, (3, 1), (SHIFT, ",blocks=on"))?;
    for (_, workload) in wanted.workloads() {
        board.expect("bench: next", BOOT_LIMIT)?;
        eprintln!("{name}: {workload}");
    }
    board.expect("bench: done", BOOT_LIMIT)?;
    let shown = show(&mut board)?;
    board.send("console linux")?;
    board.expect("console of guest", LIMIT)?;
    board.send("")?;
    let counts = bench::finish(board, &out)?;
    let counter = |what: &str| {
        let (_, rest) = shown.split_once(&format!("{what:<24}"))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    // For whoever wants to know what was decided.
    fs::write(w.file(&format!("{name}.txt")), &shown)
        .map_err(|error| format!("cannot write what was shown: {error}"))?;
    let leaves = shown.lines().find_map(|line| {
        let (_, rest) = line.split_once("under 2 MiB leaves: ")?;
        Some(rest.trim().to_owned())
    });
    Ok(Run {
        costs: costs(wanted, &counts)?,
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

fn costs(wanted: &Wanted, counts: &Counts) -> Result<BTreeMap<&'static str, Cost>, String> {
    let mut costs = BTreeMap::new();
    for (test, name) in wanted.workloads() {
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

/// Prints a table. Whether compound mode kept within its limit.
fn print(wanted: &Wanted, backing: &str, runs: &[(&str, Run)]) -> bool {
    let mut good = true;
    println!("\nDebian 6.1 (cloud), one vCPU, GICv3, {backing}: instructions\n");
    println!(
        "| workload                     | mode     |      guest |      EL2 |  manager | against nested |"
    );
    println!(
        "|------------------------------|----------|-----------:|---------:|---------:|---------------:|"
    );
    let Some((_, nested)) = runs.first() else {
        return good;
    };
    for (_, name) in wanted.workloads() {
        let base = cost_of(nested, name);
        for (mode, run) in runs {
            let cost = cost_of(run, name);
            let over = cost.over(base);
            let worse = *mode == "compound" && is_churn(name) && over > NEVER_WORSE;
            good &= !worse;
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
    good
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

fn json_rows(wanted: &Wanted, backing: &str, runs: &[(&str, Run)]) -> Vec<Value> {
    let mut rows = Vec::new();
    let Some((_, nested)) = runs.first() else {
        return rows;
    };
    for (mode, run) in runs {
        for (_, name) in wanted.workloads() {
            let case = format!("{name}/{mode}/{backing}");
            let cost = cost_of(run, name);
            // Within 1 % of nested.
            let limit = (*mode == "compound" && is_churn(name))
                .then(|| cost_of(nested, name).all() * 101 / 100);
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
    fn words_choose_groups_backings_and_modes() {
        let all = Wanted::parse(&[]).unwrap();
        assert_eq!(
            (all.names(), all.workloads().count()),
            ("churn,trials,gain".into(), 9)
        );
        assert_eq!(
            (&all.backings[..], &all.modes[..]),
            (&BACKINGS[..], &MODES[..2])
        );
        let some = Wanted::parse(&["--", "churn", "thin", "shadow"]).unwrap();
        assert_eq!(
            (some.names(), some.workloads().count()),
            ("churn".into(), 4)
        );
        assert_eq!(
            (&some.backings[..], &some.modes[..]),
            (&["thin"][..], &MODES[..])
        );
        assert!(some.workloads().all(|(_, name)| is_churn(name)));
        assert!(Wanted::parse(&["fast"]).unwrap_err().contains("'fast'"));
    }

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
