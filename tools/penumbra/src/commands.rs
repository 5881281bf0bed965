//! What each sub-command does.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use penumbra::build::{self, Built};
use penumbra::initramfs::{self, Contents};
use penumbra::paging_sim::{self, Limits};
use penumbra::panics;
use penumbra::problem::{Problem, Problems};
use penumbra::qemu::{self, Machine, Outcome};
use penumbra::report;
use penumbra::scenario::{File, Scenario, size};
use penumbra::toolchain::Project;
use penumbra_bundle::{Backing, PagingChanges, PagingMode};
use penumbra_manager::paging::policy::Mode;

use crate::cli::{
    BackingArg, CheckArgs, Command, DEFAULT_SCENARIO, ImageArgs, InitramfsArgs, PagingArg,
    PagingSimArgs, PanicArgs, RunArgs, ScenarioArgs,
};

/// Prints a line. A reader that has gone away (`| head`) is no reason to panic.
macro_rules! say {
    ($($argument:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

/// Executes a sub-command.
pub(crate) fn execute(command: Command) -> Result<ExitCode, Problems> {
    match command {
        Command::Check(args) => check(&args)?,
        Command::Image(args) => image(&args)?,
        Command::Build(args) => {
            say!(
                "{}",
                build::build(&Project::find()?, &args.platform.platform)?.summary()
            );
        }
        Command::Run(args) => return run(&args),
        Command::Initramfs(args) => initramfs(&args)?,
        Command::PagingSim(args) => paging_sim(&args)?,
        Command::Size(args) => print_size(&Project::find()?, &args.platform)?,
        Command::PanicCheck(args) => return panic_check(&args),
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the scenario and applies the changes from the command line.
fn open(args: &ScenarioArgs) -> Result<Scenario, Problems> {
    let path = match args.scenario.as_ref().or(args.scenario_option.as_ref()) {
        Some(path) => path.clone(),
        None => shorten(Project::find()?.root().join(DEFAULT_SCENARIO)),
    };
    let mut scenario = Scenario::open(&path)?;
    let Some(guest) = scenario.guests.first_mut() else {
        return Ok(scenario);
    };
    let file = |path: &PathBuf| File {
        path: path.clone(),
        span: None,
    };
    if let Some(kernel) = &args.kernel {
        guest.kernel = file(kernel);
    }
    if let Some(initrd) = &args.initrd {
        guest.initrd = Some(file(initrd));
    }
    if let Some(cmdline) = &args.cmdline {
        guest.set_cmdline(cmdline)?;
    }
    if let Some(vcpus) = args.vcpus {
        guest.vcpus = vcpus;
        guest.cores = guest
            .cores
            .take()
            .filter(|cores| cores.len() == usize::from(vcpus));
    }
    let backing = args.backing.map(|backing| match backing {
        BackingArg::Reserved => Backing::Reserved,
        BackingArg::Thin => Backing::Thin,
    });
    guest.set_memory(args.memory, backing, args.quota)?;
    if let Some(paging) = args.paging {
        guest.paging.mode = match paging {
            PagingArg::Nested => PagingMode::Nested,
            PagingArg::Shadow => PagingMode::Shadow,
            PagingArg::Compound => PagingMode::Compound,
        };
        if guest.paging.changes == PagingChanges::Never {
            guest.paging.changes = PagingChanges::Free;
        }
    }
    Ok(scenario)
}

fn paging_sim(args: &PagingSimArgs) -> Result<(), Problem> {
    let text = fs::read(&args.trace).map_err(|error| {
        let path = args.trace.display();
        Problem::new(format!("cannot read the trace {path}: {error}"))
    })?;
    let limits = Limits {
        mode: match args.mode {
            PagingArg::Nested => Mode::Nested,
            PagingArg::Shadow => Mode::Shadow,
            PagingArg::Compound => Mode::Compound,
        },
        pool_bytes: args.pool,
        copy_bytes: args.copy,
        may_trap: args.trap,
    };
    // A console may show any bytes.
    let shown = paging_sim::simulate(&String::from_utf8_lossy(&text), &limits)?;
    let _ = write!(std::io::stdout(), "{shown}");
    Ok(())
}

/// A path seen from the current folder, where it lies in it.
fn shorten(path: PathBuf) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here)
        .map(Path::to_path_buf)
        .unwrap_or(path)
}

fn check(args: &CheckArgs) -> Result<(), Problems> {
    let scenario = open(&args.scenario)?;
    if args.no_files {
        scenario.placement(args.scenario.board_cores)?;
    } else {
        penumbra::image::bundle(&scenario, args.scenario.board_cores)?;
    }
    say!("{}: good", scenario.source.path.display());
    say!(
        "{}",
        legend(&scenario, args.scenario.board_cores)?.trim_end()
    );
    Ok(())
}

fn image(args: &ImageArgs) -> Result<(), Problems> {
    let scenario = open(&args.scenario)?;
    let bytes = penumbra::image::bundle(&scenario, args.scenario.board_cores)?;
    write(&args.output, &bytes)?;
    say!(
        "{}: {} bytes, {} guest(s)",
        args.output.display(),
        bytes.len(),
        scenario.guests.len()
    );
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, bytes))
        .map_err(|error| Problem::new(format!("cannot write {}: {error}", path.display())))
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    fs::read(path).map_err(|error| Problem::new(format!("cannot read {}: {error}", path.display())))
}

fn run(args: &RunArgs) -> Result<ExitCode, Problems> {
    let project = Project::find()?;
    qemu::check_version(&qemu::program())?;
    let machine = Machine {
        cores: args.scenario.board_cores,
        gic: args.gic,
        cpu: args.cpu.clone(),
        ram_bytes: args.ram,
        el2: !args.no_el2,
    };
    let (mut command, guests) = if args.bare {
        bare(args, &machine)?
    } else {
        partitioned(args, &project, &machine)?
    };
    command.args(&args.qemu);
    if args.show {
        say!("{} -serial mon:stdio", qemu::show(&command));
        return Ok(ExitCode::SUCCESS);
    }
    say!(
        "\nQEMU virt: {} cores ({}), GICv{}, {}{}\n{guests}\
         Leave with `poweroff` in the guest, or at any time with Ctrl-A X (Ctrl-A C: QEMU's monitor).\n",
        machine.cores,
        machine.cpu,
        machine.gic,
        size::show(machine.ram_bytes),
        if machine.el2 { "" } else { ", without EL2" },
    );
    match qemu::run(command, args.timeout.map(Duration::from_secs))? {
        Outcome::Ended => Ok(ExitCode::SUCCESS),
        Outcome::Fatal => {
            eprintln!("\nPenumbra gave up; its line above (`penumbra: fatal: ...`) says why.");
            Ok(ExitCode::FAILURE)
        }
        Outcome::TimedOut => {
            eprintln!("\nThe time given with --timeout is up; QEMU was ended.");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Penumbra and a bundle.
fn partitioned(
    args: &RunArgs,
    project: &Project,
    machine: &Machine,
) -> Result<(std::process::Command, String), Problems> {
    let (bundle, guests) = match &args.bundle {
        Some(bundle) => (bundle.clone(), format!("  bundle {}\n", bundle.display())),
        None => {
            let scenario = open(&args.scenario)?;
            let bundle = shorten(project.output().join("run.bundle"));
            write(&bundle, &penumbra::image::bundle(&scenario, machine.cores)?)?;
            (bundle, legend(&scenario, machine.cores)?)
        }
    };
    let image = match &args.image {
        Some(image) => image.clone(),
        None => {
            say!("Building Penumbra ...");
            shorten(build::build(project, "qemu-virt")?.image)
        }
    };
    Ok((qemu::command(machine, &image, Some(&bundle)), guests))
}

/// The first guest's kernel with all the board to itself.
fn bare(args: &RunArgs, machine: &Machine) -> Result<(std::process::Command, String), Problems> {
    let scenario = open(&args.scenario)?;
    let guest = scenario
        .guests
        .first()
        .ok_or_else(|| Problem::new("the scenario has no guest"))?;
    let initrd = guest.initrd.as_ref().map(|file| file.path.as_path());
    let mut command = qemu::command(machine, &guest.kernel.path, initrd);
    command.args(["-append", &guest.cmdline]);
    Ok((
        command,
        format!("  {} on the bare board\n", guest.kernel.path.display()),
    ))
}

/// One line for each guest.
fn legend(scenario: &Scenario, board_cores: u8) -> Result<String, Problem> {
    let placement = scenario.placement(board_cores)?;
    let lines = scenario.guests.iter().zip(placement).map(|(guest, cores)| {
        let cores: Vec<String> = cores.iter().map(ToString::to_string).collect();
        let backing = match (guest.backing, guest.quota_bytes) {
            (Backing::Reserved, _) => "reserved".to_owned(),
            (Backing::Thin, None) => "thin".to_owned(),
            (Backing::Thin, Some(quota)) => format!("thin, at most {} at once", size::show(quota)),
        };
        format!(
            "  guest \"{}\": {} vCPU(s) on core(s) {}, {} of memory ({backing}), {}\n",
            guest.name,
            guest.vcpus,
            cores.join(", "),
            size::show(guest.memory_bytes),
            guest.kernel.path.display(),
        )
    });
    Ok(lines.collect())
}

fn initramfs(args: &InitramfsArgs) -> Result<(), Problem> {
    let mut files = Vec::new();
    for pair in &args.files {
        let (from, to) = pair
            .split_once('=')
            .ok_or_else(|| Problem::new(format!("--add {pair}: write FILE=PATH IN THE GUEST")))?;
        files.push((to.to_owned(), read(Path::new(from))?));
    }
    let contents = Contents {
        busybox: read(&args.busybox)?,
        script: args.script.as_deref().map(read).transpose()?,
        files,
    };
    let bytes = initramfs::build(&contents).map_err(Problem::new)?;
    write(&args.output, &bytes)
}

fn print_size(project: &Project, platform: &str) -> Result<(), Problem> {
    let built: Built = build::build(project, platform)?;
    say!("{}", built.summary());
    say!(
        "  EL2 without the manager {} bytes",
        built.image_bytes - built.manager_bytes
    );
    let binary = build::binary(platform);
    for (what, name) in [
        ("EL2 (.rodata holds the manager)", binary.as_str()),
        ("manager", "manager"),
    ] {
        say!("{what}:");
        say!(
            "{}",
            report::sections(project, &project.elf(name))?.trim_end()
        );
    }
    Ok(())
}

fn panic_check(args: &PanicArgs) -> Result<ExitCode, Problems> {
    let project = Project::find()?;
    build::build(&project, &args.platform.platform)?;
    let elf = project.elf(&build::binary(&args.platform.platform));
    let list = project.root().join(&args.allow);
    let allowed = String::from_utf8_lossy(&read(&list)?).into_owned();
    let found = panics::find(&project, &elf, &allowed)?;
    for start in &found.unused {
        say!(
            "note: {} allows {start}, which does not panic",
            args.allow.display()
        );
    }
    for caller in &found.surplus {
        say!(
            "error: {} calls {} at {}",
            caller.name,
            caller.panic,
            caller.place
        );
    }
    let (surplus, allowed) = (found.surplus.len(), found.allowed.len());
    say!("panic-check: {surplus} calls of a panic too many, {allowed} allowed");
    Ok(if surplus == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
