//! `walkscope bench`: builds what is needed, runs every system, and writes the results.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::figures::{self, Run};
use crate::guest::Guest;
use crate::progress::Progress;
use crate::systems::{self, Files, Load, System};
use crate::tree::{Measured, Tree, first_line, free_bytes};
use crate::{CostArgs, jobs, plot, spread, sweep, table};

/// `bench`
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Systems to run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = System::ALL)]
    systems: Vec<System>,
    /// Guests to run on each.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Guest::ALL)]
    guests: Vec<Guest>,
    /// Core models, like a53+a72. a72@walk_holds:all changes a parameter; a72@sweep changes each in turn, all on one
    /// stream of accesses, and shows what each change does to the walk shares.
    #[arg(long, default_value = "a53+a72")]
    pub(crate) cores: String,
    /// Equal runs of each system; their counts must be equal.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Runs of each system with Linux, each with the guest's memory scattered in another way; the spread of their shares is
    /// stated.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Guests that run beside each other; each takes one of the host's cores and up to 2 GiB of its memory.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// About a tenth of the work: 32 MB of data instead of 256, and smaller counts.
    #[arg(long)]
    pub(crate) short: bool,
    /// Compare each modelled TLB hit with a fresh walk (slow).
    #[arg(long)]
    pub(crate) verify: bool,
    /// Take a load's results from its last run, where that was with these options: goes on where a run was stopped. The
    /// tables name each commit.
    #[arg(long)]
    reuse: bool,
    /// Run nothing: the tables of what has run with these options.
    #[arg(long)]
    tables: bool,
    /// Minutes after which a guest is ended; what it has done until then is shown.
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    pub(crate) limit: u64,
    /// Where to put the RAM of the guests while they run.
    #[arg(long, default_value = "/dev/shm")]
    pub(crate) scratch: PathBuf,
    /// Write the tables into this file, too: after the line `<!-- tables -->` if it has one.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    cost: CostArgs,
}

impl BenchArgs {
    /// What is to run, in the order of the tables: layouts of a guest after one another.
    fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for &system in &self.systems {
            for &guest in &self.guests {
                let layouts = if guest.linux() { self.runs.max(1) } else { 1 };
                loads.extend((0..layouts).map(|layout| Load {
                    system,
                    guest,
                    layout,
                }));
            }
        }
        loads
    }
}

/// Where the tables begin in a file that has more than them.
const MARK: &str = "<!-- tables -->\n";

/// Runs the benchmark.
pub(crate) fn run(args: &BenchArgs) -> Result<(), String> {
    let tree = Tree::find()?;
    let loads = args.loads();
    let start = Instant::now();
    let mut problems = Vec::new();
    let mut done: Vec<(Load, Measured)> = Vec::new();
    for (load, result) in loads.iter().zip(results_of(&tree, args, &loads)?) {
        match result {
            Ok(measured) => {
                problems.extend(measured.problem.clone());
                done.push((*load, measured));
            }
            Err(problem) => problems.push(problem),
        }
    }
    if done.is_empty() {
        return Err(problems.join("\n"));
    }
    let elapsed = (!args.tables).then(|| start.elapsed());
    let text = document(&tree, args, &done, elapsed)?;
    print!("{text}");
    let runs = merged(&done, 0)?;
    tree.save("walks.md", &text)?;
    tree.save("walks.json", &results(&runs, &args.cost))?;
    tree.save("walks.svg", &plot::svg(&runs, &args.cost))?;
    if let Some(path) = &args.write {
        write(path, &text)?;
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(format!("not everything ran:\n{}", problems.join("\n")))
    }
}

/// Runs the loads, or takes what has run.
fn results_of(
    tree: &Tree,
    args: &BenchArgs,
    loads: &[Load],
) -> Result<Vec<Result<Measured, String>>, String> {
    let last = |load: &Load| tree.last(*load, args);
    if args.tables {
        let missing = |load: &Load| format!("{} has not run with these options", load.name());
        let each = loads
            .iter()
            .map(|load| last(load).ok_or_else(|| missing(load)));
        return Ok(each.collect());
    }
    let last: Vec<_> = loads
        .iter()
        .map(|load| (*load, last(load).filter(|_| args.reuse)))
        .collect();
    let to_run = |last: &Option<Measured>| last.is_none() || args.repeat > 1;
    let left: Vec<Load> = last
        .iter()
        .filter(|(_, last)| to_run(last))
        .map(|(load, _)| *load)
        .collect();
    // What has run already needs no guest.
    let files = if left.is_empty() {
        None
    } else {
        room(args)?;
        Some(tree.build(&left, &systems::script(args.short))?)
    };
    let progress = Progress::new(left.into_iter(), args.short);
    Ok(jobs::each(&last, args.jobs, |(load, last)| {
        measure(tree, files.as_ref(), args, (*load, last.clone()), &progress)
    }))
}

/// Looks for room for the guests' RAM: without it QEMU would be killed half-way, by SIGBUS.
fn room(args: &BenchArgs) -> Result<(), String> {
    let wanted = u64::try_from(args.jobs)
        .unwrap_or(u64::MAX)
        .saturating_mul(2 << 30);
    match free_bytes(&args.scratch) {
        Some(free) if free < wanted => Err(format!(
            "{} has {} MiB free and the RAM of {} guests takes up to {}: name another folder (--scratch) or run fewer at a time (--jobs)",
            args.scratch.display(),
            free >> 20,
            args.jobs,
            wanted >> 20
        )),
        _ => Ok(()),
    }
}

/// Runs a load, and again as often as is asked for, unless there is a run to take.
fn measure(
    tree: &Tree,
    files: Option<&Files>,
    args: &BenchArgs,
    (load, last): (Load, Option<Measured>),
    progress: &Progress,
) -> Result<Measured, String> {
    let measure = || match files {
        Some(files) => tree
            .measure(load, files, args, progress)
            .map_err(|why| format!("{}: {why}", load.name())),
        None => Err("nothing was built".to_owned()),
    };
    let measured = match last {
        Some(last) => last,
        None => measure()?,
    };
    if measured.run.faults > 0 {
        eprintln!(
            "walkscope: {}: {} accesses without a walk",
            load.name(),
            measured.run.faults
        );
    }
    if args.verify {
        eprintln!(
            "walkscope: {}: {} hits of a main TLB that a fresh walk contradicts",
            load.name(),
            measured.run.stale
        );
    }
    if measured.run.untold_maps > 0 {
        eprintln!(
            "walkscope: {}: {} writable shared mappings of files that no load told of count as anonymous",
            load.name(),
            measured.run.untold_maps
        );
    }
    for number in 1..args.repeat {
        compare(number, &measure()?.run, &measured.run)?;
    }
    Ok(measured)
}

/// Two runs must have the same counts. What comes after the last window depends on when the shell's commands come.
fn compare(number: u32, again: &Run, first: &Run) -> Result<(), String> {
    if again.tests == first.tests {
        return Ok(());
    }
    let differs = |number: &&u64| again.tests.get(number) != first.tests.get(number);
    let tests = first.tests.keys().filter(differs);
    let names: Vec<String> = tests.map(|number| systems::describes(*number)).collect();
    Err(format!(
        "run {} of {} differs from the first in: {}",
        number + 1,
        first.system,
        names.join(", ")
    ))
}

/// The runs of a layout, the guests of a system as one.
fn merged(done: &[(Load, Measured)], layout: u32) -> Result<Vec<Run>, String> {
    let mut runs: Vec<Run> = Vec::new();
    for (load, measured) in done.iter().filter(|(load, _)| load.layout == layout) {
        let system = &measured.run.system;
        if runs.last().is_none_or(|last| last.system != *system) {
            runs.push(Run {
                system: system.clone(),
                ..Run::default()
            });
        }
        if let Some(all) = runs.last_mut() {
            all.merge(measured.run.clone(), load.guest.boot())?;
        }
    }
    Ok(runs)
}

/// The document with the tables.
fn document(
    tree: &Tree,
    args: &BenchArgs,
    done: &[(Load, Measured)],
    elapsed: Option<Duration>,
) -> Result<String, String> {
    let facts = facts(tree, args, done, elapsed);
    let runs = merged(done, 0)?;
    if sweep::is_one(&runs) {
        return Ok(sweep::document(&runs, &args.cost, &facts));
    }
    let mut text = table::document(&runs, &args.cost, &facts);
    let layouts = done.iter().map(|(load, _)| load.layout).max().unwrap_or(0);
    let others: Result<Vec<_>, String> = (1..=layouts).map(|n| merged(done, n)).collect();
    text.push_str(&spread::document(&runs, &others?, &args.cost));
    Ok(text)
}

/// What ran, of which versions, and how long it took.
fn facts(
    tree: &Tree,
    args: &BenchArgs,
    done: &[(Load, Measured)],
    elapsed: Option<Duration>,
) -> String {
    let commits = commits(&tree.commit(), done);
    let qemu = first_line(Command::new(penumbra::qemu::program()).arg("--version"));
    let mut programs: Vec<&str> = done
        .iter()
        .filter_map(|(load, _)| load.guest.kernel())
        .collect();
    if done.iter().any(|(load, _)| load.system == System::Xen) {
        programs.push("xen");
    }
    programs.sort_unstable();
    programs.dedup();
    let version = |program: &&str| {
        let path = tree.root.join(".cache/arm64").join(program).join("version");
        let version = fs::read_to_string(path).unwrap_or_default();
        format!("; {}", version.trim())
    };
    let versions: String = programs.iter().map(version).collect();
    let runs = match (args.repeat, args.runs) {
        (0 | 1, 0 | 1) => "one run of each system, its memory in one layout".to_owned(),
        (0 | 1, n) => format!("{n} runs of each Linux, each in another layout of memory"),
        (n, _) => format!("{n} runs of each system, their counts equal"),
    };
    let cpu: Duration = done.iter().map(|(_, measured)| measured.cpu).sum();
    let took = elapsed.map_or_else(String::new, |elapsed| {
        format!(" and {} minutes", elapsed.as_secs() / 60)
    });
    let mut command = "just bench walks".to_owned();
    if args.short {
        command.push_str(" --short");
    }
    if args.runs > 1 {
        command.push_str(&format!(" --runs {}", args.runs));
    }
    format!(
        "`{command}`. {commits}; {qemu}{versions}; {} loads; {runs}; {} cycles for a read, CPI {}, {} cycles for a trap. It took {} s of CPU time{took}.",
        if args.short {
            "short (32 MB)"
        } else {
            "full (256 MB)"
        },
        args.cost.read_cycles,
        args.cost.cpi,
        args.cost.trap_cycles,
        cpu.as_secs()
    )
}

/// The commit, and what ran at others.
fn commits(now: &str, done: &[(Load, Measured)]) -> String {
    let elder: Vec<String> = done
        .iter()
        .filter(|(_, measured)| measured.commit != now)
        .map(|(load, measured)| format!("{} at {}", load.name(), measured.commit))
        .collect();
    if elder.is_empty() {
        format!("Commit {now}")
    } else {
        format!("Commit {now} ({})", elder.join(", "))
    }
}

/// Writes the tables into a file, keeping what stands before its mark.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let old = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, replaced(&old, text)).map_err(|error| format!("{}: {error}", path.display()))
}

fn replaced(old: &str, text: &str) -> String {
    match old.find(MARK) {
        Some(at) => format!("{}{MARK}\n{text}", old.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The results for programs: `{"case", "metric", "value", "unit", "limit"}`.
fn results(runs: &[Run], cost: &CostArgs) -> String {
    let mut list = Vec::new();
    for run in runs {
        for (number, test) in &run.tests {
            for ((core, mode), cell) in run.columns.iter().zip(&test.cells) {
                let case = format!(
                    "{}/{}/{core}/{mode}",
                    systems::describes(*number),
                    run.system
                );
                let mut put = |metric: &str, value: f64, unit: &str| {
                    list.push(json!({"case": case, "metric": metric, "value": value,
                        "unit": unit, "limit": null}));
                };
                put("misses", test.mpki(cell), "1/1000 instructions");
                put("walk share", test.walk_share(cell, cost), "%");
                put("EL2 share", test.outside_share(cell, cost), "%");
                put("reads", figures::float(cell.reads()), "descriptors");
                put("reach", figures::float(cell.reach_bytes), "bytes");
            }
        }
    }
    format!("{:#}\n", serde_json::Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_replace_what_follows_the_mark() {
        assert_eq!(replaced("", "new"), "new");
        let old = format!("# Title\n\nWords.\n\n{MARK}\nold\n");
        let expected = format!("# Title\n\nWords.\n\n{MARK}\nnew\n");
        assert_eq!(replaced(&old, "new\n"), expected);
        assert_eq!(replaced(&expected, "new\n"), expected);
    }
}
