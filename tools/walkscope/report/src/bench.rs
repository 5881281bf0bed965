//! `walkscope bench`: builds what is needed, runs every system, and writes the results.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use clap::Args;
use penumbra::toolchain::Project;
use serde_json::json;

use crate::figures::{self, Run};
use crate::guest::Guest;
use crate::systems::{self, Files, System};
use crate::tree::{Load, Tree, first_line};
use crate::{CostArgs, jobs, plot, sweep, table};

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
    /// Runs of each system; their counts must be equal.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Guests that run beside each other; each takes one of the host's cores and up to 2 GiB of its memory.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// About a tenth of the work: 32 MB of data instead of 256, and smaller counts.
    #[arg(long)]
    pub(crate) short: bool,
    /// Compare each modelled TLB hit with a fresh walk (slow).
    #[arg(long)]
    pub(crate) verify: bool,
    /// Take a system's results from its last run, where that was with these options; the tables name its commit.
    #[arg(long)]
    reuse: bool,
    /// Where to put the RAM of the guest while it runs.
    #[arg(long, default_value = "/dev/shm")]
    pub(crate) scratch: PathBuf,
    /// Write the tables into this file, too.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    cost: CostArgs,
}

/// Runs the benchmark.
pub(crate) fn run(args: &BenchArgs) -> Result<(), String> {
    let project = Project::find().map_err(|_| "this is not inside a tree of Penumbra's sources")?;
    let tree = Tree::new(project)?;
    let loads: Vec<Load> = args
        .systems
        .iter()
        .flat_map(|&system| args.guests.iter().map(move |&guest| (system, guest)))
        .filter(|(system, guest)| system.takes(*guest))
        .collect();
    let last: Vec<_> = loads
        .iter()
        .map(|&load| (load, tree.last(load, args).filter(|_| args.reuse)))
        .collect();
    // What has run already needs no guest.
    let files = if args.repeat <= 1 && last.iter().all(|(_, last)| last.is_some()) {
        None
    } else {
        Some(tree.build(&loads, args.short)?)
    };
    let done = jobs::each(&last, args.jobs, |(load, last)| {
        measure(&tree, files.as_ref(), args, *load, last.clone())
    });
    let mut runs: Vec<Run> = Vec::new();
    let (mut times, mut elder) = (Vec::new(), Vec::new());
    for (
        Done {
            name,
            commit,
            run,
            seconds,
        },
        (_, guest),
    ) in done
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .zip(loads)
    {
        times.push(format!("{name} {seconds:.0} s"));
        if let Some(commit) = commit.filter(|commit| *commit != tree.commit()) {
            elder.push(format!("{name} at {commit}"));
        }
        if run.faults > 0 {
            eprintln!("walkscope: {name}: {} accesses without a walk", run.faults);
        }
        if runs.last().is_none_or(|last| last.system != run.system) {
            runs.push(Run {
                system: run.system.clone(),
                ..Run::default()
            });
        }
        if let Some(all) = runs.last_mut() {
            all.merge(run, guest.boot())?;
        }
    }
    let text = document(&tree, args, &runs, &elder)?;
    print!("{text}");
    eprintln!("walkscope: {} at a time: {}", args.jobs, times.join(", "));
    tree.save("walks.json", &results(&runs, &args.cost))?;
    tree.save("walks.svg", &plot::svg(&runs, &args.cost))?;
    if let Some(path) = &args.write {
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// The results of a load.
struct Done {
    /// System and guest.
    name: String,
    /// The commit of the run, where it is an earlier one.
    commit: Option<String>,
    run: Run,
    /// What it took, with its repetitions.
    seconds: f64,
}

/// Runs a load, and again as often as is asked for, unless there is a run to take.
fn measure(
    tree: &Tree,
    files: Option<&Files>,
    args: &BenchArgs,
    load: Load,
    last: Option<(String, Run)>,
) -> Result<Done, String> {
    let start = Instant::now();
    let measure = || match files {
        Some(files) => tree.measure(load, files, args),
        None => Err("nothing was built".to_owned()),
    };
    let (commit, run) = match last {
        Some((commit, run)) => (Some(commit), run),
        None => (None, measure()?),
    };
    for number in 1..args.repeat {
        compare(number, &measure()?, &run)?;
    }
    let (system, guest) = load;
    Ok(Done {
        name: format!("{}{}", system.short(), guest.suffix()),
        commit,
        run,
        seconds: start.elapsed().as_secs_f64(),
    })
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

/// The document with the tables.
fn document(
    tree: &Tree,
    args: &BenchArgs,
    runs: &[Run],
    elder: &[String],
) -> Result<String, String> {
    let mut commit = tree.commit();
    if !elder.is_empty() {
        commit = format!("{commit} ({})", elder.join(", "));
    }
    let qemu = first_line(Command::new(penumbra::qemu::program()).arg("--version"));
    let kernel = fs::read_to_string(tree.root.join(".cache/arm64/linux-cloud/version"));
    let kernel = kernel.map_err(|error| format!("the kernel's version: {error}"))?;
    let repeat = match args.repeat {
        1 => "one run of each system".to_owned(),
        n => format!("{n} runs of each system, their counts equal (spread 0)"),
    };
    let facts = format!(
        "Commit {commit}; {qemu}; {} workloads; guest {}; {repeat}; {} cycles for a read, CPI {}, {} cycles for a trap.",
        if args.short {
            "short (32 MB)"
        } else {
            "full (256 MB)"
        },
        kernel.trim(),
        args.cost.read_cycles,
        args.cost.cpi,
        args.cost.trap_cycles
    );
    Ok(if sweep::is_one(runs) {
        sweep::document(runs, &args.cost, &facts)
    } else {
        table::document(runs, &args.cost, &facts)
    })
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
