//! What the modes of paging cost on work that changes translation tables: `just bench paging`.
//!
//! A boot of Debian's kernel for each group of workloads, mode, backing and round, under `-icount` and eventscope, runs every
//! workload of the group between markers. Counted is what ran in the guest, at EL2 and in the manager, which has the guest's core as
//! well; the medians of the rounds are compared (module `windows`): compound mode is to be within 1 % of nested mode. The workloads
//! last for seconds of the guest's time, and it is idle between them, so that a trial of trapped roots falls into each that
//! the policy takes for one that computes. A round is a boot of its own, because a trial that fails makes the next one rarer.

mod table;
mod windows;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::bench::{self, Counts, LIMIT, number};
use crate::board::Board;
use crate::shown;
use crate::workshop::Workshop;
use penumbra::initramfs::{self, Contents};

use windows::Cost;

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
/// Rounds unless the words say otherwise, and at most: the guest's script wants a digit.
const ROUNDS: usize = 3;
const MOST_ROUNDS: usize = 9;
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

/// One boot.
#[derive(Debug)]
struct Boot {
    costs: BTreeMap<&'static str, Cost>,
    counters: Vec<u64>,
    /// Share of the kernel's coalescable regions under leaves, as `paging show` says.
    leaves: String,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    groups: Vec<Group>,
    backings: Vec<&'static str>,
    modes: Vec<&'static str>,
    /// Windows of each workload that is compared.
    rounds: usize,
}

impl Wanted {
    /// Words: groups, backings, `shadow` and a number of rounds. Without a group or backing: all of them.
    fn parse(words: &[&str]) -> Result<Self, String> {
        // `just bench paging -- churn` passes the dashes on.
        let words = words.strip_prefix(&["--"]).unwrap_or(words);
        let mut wanted = Self {
            groups: Vec::new(),
            backings: Vec::new(),
            modes: MODES[..2].to_vec(),
            rounds: ROUNDS,
        };
        for word in words {
            if let Some(group) = GROUPS.iter().find(|(name, _)| name == word) {
                wanted.groups.push(*group);
            } else if let Some(backing) = BACKINGS.iter().find(|name| *name == word) {
                wanted.backings.push(backing);
            } else if *word == MODES[2] {
                wanted.modes = MODES.to_vec();
            } else if let Ok(rounds) = word.parse() {
                wanted.rounds = rounds;
            } else {
                return Err(format!(
                    "bench paging: '{word}' is none of churn, trials, gain, reserved, thin, shadow, nor a number of rounds"
                ));
            }
        }
        if wanted.rounds.is_multiple_of(2) || wanted.rounds > MOST_ROUNDS {
            return Err(format!(
                "bench paging: {} rounds have no one in the middle; say 1, 3, 5, 7 or 9",
                wanted.rounds
            ));
        }
        if wanted.groups.is_empty() {
            wanted.groups = GROUPS.to_vec();
        }
        if wanted.backings.is_empty() {
            wanted.backings = BACKINGS.to_vec();
        }
        Ok(wanted)
    }

    /// Boots of a group in a mode. What is not compared is run once.
    fn rounds(&self, group: Group, mode: &str) -> usize {
        let compared = mode != MODES[2] && group.1.iter().any(|(_, name)| is_churn(name));
        if compared { self.rounds } else { 1 }
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
        table::head(backing);
        for group in &wanted.groups {
            let runs = measure(w, &wanted, *group, backing)?;
            good &= table::print(*group, &runs);
            rows.extend(table::json_rows(*group, backing, &runs));
        }
    }
    if !good {
        println!("\n{}", table::MARKS);
    }
    bench::write(w, "paging", &rows)?;
    Ok(good)
}

/// The boots of a group, by mode. The modes take turns, so that whatever else the host does falls upon both.
fn measure(
    w: &Workshop,
    wanted: &Wanted,
    group: Group,
    backing: &str,
) -> Result<Vec<(&'static str, Vec<Boot>)>, String> {
    let mut runs: Vec<(&str, Vec<Boot>)> = wanted
        .modes
        .iter()
        .map(|mode| (*mode, Vec::new()))
        .collect();
    for round in 1..=wanted.rounds {
        for (mode, boots) in &mut runs {
            if round <= wanted.rounds(group, mode) {
                boots.push(run(w, group, backing, mode, round)?);
            }
        }
    }
    Ok(runs)
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
fn run(
    w: &Workshop,
    group: Group,
    backing: &str,
    mode: &str,
    round: usize,
) -> Result<Boot, String> {
    let (group, workloads) = group;
    let toml = format!(
        "[[guest]]\nname = \"linux\"\nvcpus = 1\nmemory = \"256 MiB\"\nbacking = \"{backing}\"\n\
         paging = \"{mode}\"\npaging_copy = \"64 MiB\"\nkernel = \"{}\"\ninitrd = \"{}\"\n\
         cmdline = \"console=ttyAMA0 quiet nokaslr transparent_hugepage=never bench.paging={group} bench.round={round}\"\n",
        w.cached("linux-cloud/vmlinuz").display(),
        w.file("paging-initramfs.gz").display(),
    );
    let name = format!("paging-{mode}-{backing}-{group}");
    let (mut board, out) = bench::scope(w, &name, &toml, (3, 1), (SHIFT, ",blocks=on"))?;
    for (_, workload) in workloads {
        board.expect("bench: next", BOOT_LIMIT)?;
        eprintln!("{name}, round {round}: {workload}");
    }
    board.expect("bench: done", BOOT_LIMIT)?;
    let shown = show(&mut board)?;
    if mode != MODES[0] {
        shown::has_worked(&shown, mode)?;
    }
    board.send("console linux")?;
    board.expect("console of guest", LIMIT)?;
    board.send("")?;
    let counts = bench::finish(board, &out)?;
    // For whoever wants to know what was decided.
    fs::write(w.file(&format!("{name}-{round}.txt")), &shown)
        .map_err(|error| format!("cannot write what was shown: {error}"))?;
    let leaves = shown.lines().find_map(|line| {
        let (_, rest) = line.split_once("under 2 MiB leaves: ")?;
        Some(rest.trim().to_owned())
    });
    Ok(Boot {
        costs: costs(workloads, &counts)?,
        counters: COUNTERS
            .map(|what| shown::counter(&shown, what).unwrap_or(0))
            .to_vec(),
        leaves: leaves.unwrap_or_else(|| "none".into()),
    })
}

/// What `paging show` says; the operator's part is outside all markers.
fn show(board: &mut Board) -> Result<String, String> {
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    shown::paging(board, "linux", LIMIT)
}

fn costs(
    workloads: &[(u64, &'static str)],
    counts: &Counts,
) -> Result<BTreeMap<&'static str, Cost>, String> {
    let mut costs = BTreeMap::new();
    for (test, name) in workloads {
        let line = counts.tests.get(test);
        let get = |key| line.and_then(|line| number(line, key));
        let cost = (|| {
            Some(Cost {
                guest: get("guests_sum")?,
                el2: get("sum")?,
                manager: get("manager_sum")?,
            })
        })();
        costs.insert(*name, cost.ok_or(format!("no window of \"{name}\""))?);
    }
    Ok(costs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_choose_groups_backings_modes_and_rounds() {
        let all = Wanted::parse(&[]).unwrap();
        assert_eq!((&all.groups[..], all.rounds), (&GROUPS[..], ROUNDS));
        assert_eq!(
            (&all.backings[..], &all.modes[..]),
            (&BACKINGS[..], &MODES[..2])
        );
        let some = Wanted::parse(&["--", "churn", "5", "thin", "shadow"]).unwrap();
        assert_eq!((&some.groups[..], some.rounds), (&GROUPS[..1], 5));
        assert_eq!(
            (&some.backings[..], &some.modes[..]),
            (&["thin"][..], &MODES[..])
        );
        assert!(GROUPS[0].1.iter().all(|(_, name)| is_churn(name)));
        for bad in ["fast", "0", "4", "11"] {
            let said = Wanted::parse(&[bad]).unwrap_err();
            assert!(said.contains(bad), "{said}");
        }
    }

    #[test]
    fn only_what_is_compared_is_repeated() {
        let wanted = Wanted::parse(&["5", "shadow"]).unwrap();
        let [churn, trials, gain] = GROUPS;
        let rounds = |group| MODES.map(|mode| wanted.rounds(group, mode));
        assert_eq!(rounds(churn), [5, 5, 1]);
        assert_eq!(rounds(trials), [5, 5, 1]);
        assert_eq!(rounds(gain), [1, 1, 1]);
    }
}
