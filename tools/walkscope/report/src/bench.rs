//! `walkscope bench`: builds what is needed, runs every system, and writes the results.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;
use penumbra::toolchain::Project;
use serde_json::json;

use crate::figures::{self, Run};
use crate::systems::{self, CMDLINE, CMDLINE_WAIT, Files, System};
use crate::{CostArgs, console, plot, programs, sweep, table};

/// `bench`
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Systems to run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = System::ALL)]
    systems: Vec<System>,
    /// Core models, like a53+a72. a72@walk_holds:all changes a parameter; a72@sweep changes each in turn, all on one
    /// stream of accesses, and shows what each change does to the walk shares.
    #[arg(long, default_value = "a53+a72")]
    cores: String,
    /// Runs of each system; their counts must be equal.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// About a tenth of the work: 32 MB of data instead of 256, and smaller counts.
    #[arg(long)]
    short: bool,
    /// Compare each modelled TLB hit with a fresh walk (slow).
    #[arg(long)]
    verify: bool,
    /// Take a system's results from its last run, where that was with these options; the tables name its commit.
    #[arg(long)]
    reuse: bool,
    /// Where to put the RAM of the guest while it runs.
    #[arg(long, default_value = "/dev/shm")]
    scratch: PathBuf,
    /// Write the tables into this file, too.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    cost: CostArgs,
}

/// Runs the benchmark.
pub(crate) fn run(args: &BenchArgs) -> Result<(), String> {
    let project = Project::find().map_err(|_| "this is not inside a tree of Penumbra's sources")?;
    let tree = Tree::new(&project)?;
    let mut last: Vec<_> = args
        .systems
        .iter()
        .map(|&system| tree.last(system, args).filter(|_| args.reuse))
        .collect();
    // What has run already needs no guest.
    let files = if args.repeat <= 1 && last.iter().all(Option::is_some) {
        None
    } else {
        Some(tree.build(&args.systems, args.short)?)
    };
    let measure = |system| match &files {
        Some(files) => tree.measure(system, files, args),
        None => Err("nothing was built".to_owned()),
    };
    let mut runs = Vec::new();
    let mut facts = Vec::new();
    let mut elder = Vec::new();
    for (&system, last) in args.systems.iter().zip(&mut last) {
        let start = Instant::now();
        let first = match last.take() {
            Some((commit, run)) => {
                if commit != tree.commit() {
                    elder.push(format!("{} at {commit}", system.name()));
                }
                run
            }
            None => measure(system)?,
        };
        facts.push(format!(
            "{} {:.0} s",
            system.name(),
            start.elapsed().as_secs_f64()
        ));
        for number in 1..args.repeat {
            let again = measure(system)?;
            // What comes after the last window depends on when the shell's commands come.
            if again.tests != first.tests {
                return Err(format!(
                    "run {} of {} differs from the first",
                    number + 1,
                    system.name()
                ));
            }
        }
        if first.faults > 0 {
            eprintln!(
                "walkscope: {}: {} accesses without a walk",
                system.name(),
                first.faults
            );
        }
        runs.push(first);
    }
    let text = document(&tree, args, &runs, &elder)?;
    print!("{text}");
    eprintln!("walkscope: time of the first runs: {}", facts.join(", "));
    tree.save("walks.json", &results(&runs, &args.cost))?;
    tree.save("walks.svg", &plot::svg(&runs, &args.cost))?;
    if let Some(path) = &args.write {
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Where things are.
struct Tree {
    root: PathBuf,
    target: PathBuf,
    out: PathBuf,
}

impl Tree {
    fn new(project: &Project) -> Result<Self, String> {
        let root = project.root().to_path_buf();
        let target = project
            .output()
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default();
        let out = target.join("bench");
        fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        Ok(Self { root, target, out })
    }

    fn cargo(&self, words: &[&str]) -> Result<(), String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        succeed(Command::new(cargo).args(words).current_dir(&self.root))
    }

    fn build(&self, systems: &[System], short: bool) -> Result<Files, String> {
        const TARGET: &str = penumbra::toolchain::TARGET;
        let cache = self.root.join(".cache/arm64");
        let (kernel, busybox) = (
            cache.join("linux-cloud/vmlinuz"),
            cache.join("busybox/busybox"),
        );
        if !kernel.is_file() || !busybox.is_file() || !cache.join("programs").is_dir() {
            return Err(
                "the guest is missing: `tools/fetch-arm64 busybox linux-cloud programs` fetches it"
                    .into(),
            );
        }
        self.cargo(&[
            "build",
            "-q",
            "--release",
            "-p",
            "penumbra-walkscope-plugin",
            "-p",
            "penumbra",
        ])?;
        let workload = [
            "build",
            "-q",
            "--release",
            "-p",
            "penumbra-walkscope-workload",
        ];
        self.cargo(&[&workload[..], &["--target", TARGET]].concat())?;
        let files = Files {
            plugin: self.target.join("release/libwalkscope.so"),
            initramfs: self.out.join("walks.initramfs.gz"),
            image: self.target.join("penumbra/penumbra-qemu-virt.img"),
            kernel,
        };
        let script = self.out.join("walks.sh");
        fs::write(&script, systems::script(short))
            .map_err(|error| format!("{}: {error}", script.display()))?;
        let load = self.target.join(TARGET).join("release/walkload");
        let mut pack = self.penumbra();
        pack.arg("initramfs").arg("--busybox").arg(&busybox);
        pack.arg("--script").arg(&script);
        let mut added = programs::files(&cache.join("programs"))?;
        added.push((load, "opt/walkload".into()));
        for (from, to) in added {
            pack.arg("--add").arg(format!("{}=/{to}", from.display()));
        }
        succeed(pack.arg("-o").arg(&files.initramfs))?;
        if systems.iter().any(|&system| system != System::Bare) {
            succeed(self.penumbra().arg("build").stdout(Stdio::null()))?;
        }
        Ok(files)
    }

    fn penumbra(&self) -> Command {
        let mut command = Command::new(self.target.join("release/penumbra"));
        command.current_dir(&self.root);
        command
    }

    /// Packs the guest for Penumbra.
    fn bundle(&self, system: System, files: &Files) -> Result<String, String> {
        let bundle = self.out.join(format!("walks-{}.bundle", system.short()));
        if system != System::Bare {
            let mut command = self.penumbra();
            command.args(["image", "--vcpus", "1", "--memory", "1 GiB", "--smp", "2"]);
            let [backing, paging] = system.guest();
            let cmdline = if system.compound() {
                CMDLINE_WAIT
            } else {
                CMDLINE
            };
            command.args(["--backing", backing, "--paging", paging]);
            command.args(["--cmdline", cmdline]);
            command.arg("--kernel").arg(&files.kernel);
            command.arg("--initrd").arg(&files.initramfs);
            command.arg("-o").arg(&bundle).stdout(Stdio::null());
            succeed(&mut command)?;
        }
        Ok(bundle.to_string_lossy().into_owned())
    }

    /// One run of one system.
    fn measure(&self, system: System, files: &Files, args: &BenchArgs) -> Result<Run, String> {
        let commit = self.commit();
        let bundle = self.bundle(system, files)?;
        let ram = args
            .scratch
            .join(format!("walkscope-{}.ram", std::process::id()));
        let file = fs::File::create(&ram).map_err(|error| format!("{}: {error}", ram.display()))?;
        file.set_len(system.ram_mib() << 20)
            .map_err(|error| format!("{}: {error}", ram.display()))?;
        let out = self
            .out
            .join(format!("walks-{}.plugin.json", system.short()));
        let _ = fs::remove_file(&out);
        let mut options = format!("out={},cores={}", out.display(), args.cores);
        if args.cores.contains("@sweep") {
            options.push_str(",modes=as-is");
        } else if system != System::Bare {
            // The synthetic columns are compared on bare metal.
            options.push_str(",modes=as-is+native");
        }
        if args.verify {
            options.push_str(",verify=on");
        }
        let words = systems::arguments(system, files, &bundle, &ram.to_string_lossy(), &options, 3);
        let mut qemu = Command::new(penumbra::qemu::program());
        qemu.args(words);
        let steps: &[console::Step] = if system.compound() {
            &console::SHOW_PAGING
        } else {
            &[]
        };
        let printed = console::run(qemu, steps);
        let _ = fs::remove_file(&ram);
        let printed = printed?;
        self.save(&format!("walks-{}.log", system.short()), &printed)?;
        if !printed.contains(console::DONE) {
            return Err(format!(
                "{}: the workloads did not come to their end; the console is in {}",
                system.name(),
                self.out
                    .join(format!("walks-{}.log", system.short()))
                    .display()
            ));
        }
        let run = figures::read(system.name(), &out)?;
        self.save(&stamp_name(system), &stamp(&commit, args))?;
        Ok(run)
    }

    /// The commit and results of the last run of a system, if it was with these options.
    fn last(&self, system: System, args: &BenchArgs) -> Option<(String, Run)> {
        let found = fs::read_to_string(self.out.join(stamp_name(system))).ok()?;
        let commit = found.split(' ').next()?.to_owned();
        if found != stamp(&commit, args) {
            return None;
        }
        let file = format!("walks-{}.plugin.json", system.short());
        let run = figures::read(system.name(), &self.out.join(file)).ok()?;
        Some((commit, run))
    }

    fn commit(&self) -> String {
        first_line(
            Command::new("git")
                .args(["describe", "--always", "--dirty"])
                .current_dir(&self.root),
        )
    }

    fn save(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.out.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// What a run was of.
fn stamp(commit: &str, args: &BenchArgs) -> String {
    format!("{commit} short={} cores={}\n", args.short, args.cores)
}

fn stamp_name(system: System) -> String {
    format!("walks-{}.stamp", system.short())
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let name = Path::new(command.get_program()).display().to_string();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} failed ({status})")),
        Err(error) => Err(format!("cannot start {name}: {error}")),
    }
}

fn first_line(command: &mut Command) -> String {
    let output = command
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    String::from_utf8_lossy(&output)
        .lines()
        .next()
        .unwrap_or("unknown")
        .to_owned()
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
