//! What each sub-command does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use penumbra::build;
use penumbra::card;
use penumbra::hardware;
use penumbra::initramfs::{self, Contents};
use penumbra::paging_sim::{self, Limits};
use penumbra::problem::{Problem, Problems};
use penumbra::qemu::{self, Board, Machine, Outcome, Rpi4};
use penumbra::scenario::{File, Scenario, size};
use penumbra::toolchain::Project;
use penumbra_bundle::{Backing, PagingChanges, PagingMode};
use penumbra_manager::paging::policy::Mode;

use crate::checks;
use crate::cli::{
    BackingArg, BoardArg, CardArgs, CheckArgs, Command, DEFAULT_CPU, DEFAULT_GIC,
    DEFAULT_RAM_BYTES, DEFAULT_SCENARIO, ImageArgs, InitramfsArgs, ONE_GUEST_SCENARIO, PagingArg,
    PagingSimArgs, RunArgs, ScenarioArgs,
};
use crate::say::say;

/// Where tools/fetch-arm64 puts the Raspberry Pi 4's firmware.
const RPI4_FIRMWARE: &str = ".cache/arm64/rpi4/firmware";

/// Executes a sub-command.
pub(crate) fn execute(command: Command) -> Result<ExitCode, Problems> {
    match command {
        Command::Card(CardArgs { scenario, .. }) if scenario.needs => needs(&scenario)?,
        Command::Run(args) if args.scenario.needs => needs(&args.scenario)?,
        Command::Check(args) if args.scenario.needs => needs(&args.scenario)?,
        Command::Image(args) if args.scenario.needs => needs(&args.scenario)?,
        Command::Guest(args) => {
            let file = shorten(build::guest(&Project::find()?, &args.name)?);
            say!("{}", file.display());
        }
        Command::Check(args) => check(&args)?,
        Command::Image(args) => image(&args)?,
        Command::Build(args) => {
            let build = if args.mitigations {
                build::build_mitigated
            } else {
                build::build
            };
            say!(
                "{}",
                build(&Project::find()?, &args.platform.platform)?.summary()
            );
        }
        Command::Card(args) => card(&args)?,
        Command::Run(args) => return run(&args),
        Command::Initramfs(args) => initramfs(&args)?,
        Command::PagingSim(args) => paging_sim(&args)?,
        Command::Size(args) => checks::size(&args)?,
        Command::PanicCheck(args) => return checks::panics(&args),
        Command::StackCheck(args) => return checks::stack(&args.platform),
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the scenario and applies the changes from the command line.
fn open(args: &ScenarioArgs) -> Result<Scenario, Problems> {
    let path = match args.scenario.as_ref().or(args.scenario_option.as_ref()) {
        Some(path) => path.clone(),
        None => {
            let one = args.is_about_one_guest();
            let usual = if one {
                ONE_GUEST_SCENARIO
            } else {
                DEFAULT_SCENARIO
            };
            shorten(Project::find()?.root().join(usual))
        }
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
        BackingArg::Direct => Backing::Direct,
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
    if let Some(bytes) = args.paging_copy {
        guest.paging.copy_bytes = bytes;
    }
    Ok(scenario)
}

/// Names the files that the guests are made of, so that whoever calls can fetch them.
fn needs(args: &ScenarioArgs) -> Result<(), Problems> {
    for guest in &open(args)?.guests {
        for file in [Some(&guest.kernel), guest.initrd.as_ref()]
            .into_iter()
            .flatten()
        {
            say!("{}", file.path.display());
        }
    }
    Ok(())
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
    say!("{}", shown.trim_end());
    Ok(())
}

/// A path seen from the current folder, where it lies in it.
fn shorten(path: PathBuf) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here)
        .map(Path::to_path_buf)
        .unwrap_or(path)
}

/// Packs a scenario for a board: the one whose device tree was named, else a QEMU machine.
fn pack(args: &ScenarioArgs, scenario: &Scenario, machine: &Machine) -> Result<Vec<u8>, Problems> {
    let tree = match &args.board_dtb {
        Some(file) => Some(read(file)?),
        None if hardware::is_wanted(scenario) => Some(qemu::device_tree(machine)?),
        None => None,
    };
    if tree.is_none() && (machine.board == Board::Virt || args.ram.is_some()) {
        within_ram(scenario, machine)?;
    }
    penumbra::image::bundle(scenario, machine.cores, tree.as_deref())
}

/// Checks that the guests fit into the RAM of a machine whose tree nobody needs.
fn within_ram(scenario: &Scenario, machine: &Machine) -> Result<(), Problems> {
    hardware::budget(scenario, machine.ram_bytes)
        .map_err(|problem| Problems::of(&scenario.source, vec![problem]))
}

/// The machine that `run` starts if no more is said than the board.
fn usual_machine(args: &ScenarioArgs, board: Board) -> Machine {
    Machine {
        gic: match board {
            Board::Virt => DEFAULT_GIC,
            Board::Rpi4(_) => 2,
        },
        board,
        cores: args.board_cores,
        cpu: DEFAULT_CPU.into(),
        ram_bytes: args.ram.unwrap_or(DEFAULT_RAM_BYTES),
        el2: true,
    }
}

fn check(args: &CheckArgs) -> Result<(), Problems> {
    let scenario = open(&args.scenario)?;
    let machine = usual_machine(&args.scenario, Board::Virt);
    if args.no_files {
        scenario.placement(args.scenario.board_cores)?;
        match &args.scenario.board_dtb {
            Some(file) => drop(hardware::find(&scenario, &read(file)?)?),
            None => within_ram(&scenario, &machine)?,
        }
    } else {
        pack(&args.scenario, &scenario, &machine)?;
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
    let machine = usual_machine(&args.scenario, Board::Virt);
    let bytes = pack(&args.scenario, &scenario, &machine)?;
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

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    fs::read(path).map_err(|error| Problem::new(format!("cannot read {}: {error}", path.display())))
}

fn run(args: &RunArgs) -> Result<ExitCode, Problems> {
    let project = Project::find()?;
    qemu::check_version(&qemu::program())?;
    let machine = machine(args, &project)?;
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
    let leave = if guests.lines().count() > 1 {
        "Leave at any time with Ctrl-A X (Ctrl-A C: QEMU's monitor), or switch the board off: Ctrl-] s, then `poweroff now`. \
         `poweroff` in a guest switches that one off.\n"
    } else {
        "Leave with `poweroff` in the guest, or at any time with Ctrl-A X (Ctrl-A C: QEMU's monitor).\n"
    };
    say!(
        "\nQEMU {}: {} cores ({}), GICv{}, {}{}\n{guests}{leave}",
        if machine.board == Board::Virt {
            "virt"
        } else {
            "raspi4b"
        },
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

/// The machine that the arguments ask for.
fn machine(args: &RunArgs, project: &Project) -> Result<Machine, Problem> {
    let board = match args.board {
        BoardArg::Virt if args.dtb.is_some() => {
            return Err(Problem::new(
                "QEMU's virt makes its own device tree: leave out --dtb",
            ));
        }
        BoardArg::Virt => Board::Virt,
        BoardArg::Rpi4 => rpi4(args, project)?,
    };
    let usual = usual_machine(&args.scenario, board);
    Ok(Machine {
        gic: args.gic.unwrap_or(usual.gic),
        cpu: args.cpu.clone().unwrap_or(usual.cpu),
        el2: !args.no_el2,
        ..usual
    })
}

/// The Raspberry Pi 4, if nothing is asked for that it does not have.
fn rpi4(args: &RunArgs, project: &Project) -> Result<Board, Problem> {
    let odd = [
        ("--ram", args.scenario.ram.is_some()),
        ("--gic", args.gic.is_some_and(|gic| gic != 2)),
        (
            "--cpu",
            args.cpu.as_ref().is_some_and(|cpu| cpu != DEFAULT_CPU),
        ),
        ("--smp", args.scenario.board_cores != 4),
        ("--no-el2", args.no_el2),
        ("--bare", args.bare),
    ];
    if let Some((option, _)) = odd.into_iter().find(|&(_, given)| given) {
        return Err(Problem::new(format!(
            "QEMU's raspi4b has four Cortex-A72 with EL2, a GICv2 and 2 GiB of RAM: leave out {option}"
        )));
    }
    let tree = rpi4_tree(args.dtb.as_ref(), project)?;
    Ok(Board::Rpi4(Rpi4 { tree, pl011: false }))
}

/// The device tree that is named, or Debian's.
fn rpi4_tree(named: Option<&PathBuf>, project: &Project) -> Result<PathBuf, Problem> {
    let tree = match named {
        Some(tree) => tree.clone(),
        None => shorten(project.root().join(qemu::RPI4_TREE)),
    };
    if !tree.is_file() {
        return Err(
            Problem::new(format!("there is no device tree {}", tree.display()))
                .help("`tools/fetch-arm64 rpi4-tree` fetches the one of Debian's kernel"),
        );
    }
    Ok(tree)
}

/// The image of an SD card.
fn card(args: &CardArgs) -> Result<(), Problems> {
    let project = Project::find()?;
    let scenario = open(&args.scenario)?;
    let tree = rpi4_tree(args.dtb.as_ref(), &project)?;
    let board = Board::Rpi4(Rpi4 {
        tree: tree.clone(),
        pl011: false,
    });
    let machine = usual_machine(&args.scenario, board);
    let bundle = pack(&args.scenario, &scenario, &machine)?;
    let tree = read(&tree)?;
    let folder = match &args.firmware {
        Some(folder) => folder.clone(),
        None => shorten(project.root().join(RPI4_FIRMWARE)),
    };
    let firmware = card::firmware(&folder)?;
    say!("Building Penumbra ...");
    let kernel = read(&build::build(&project, "rpi4")?.image)?;
    let output = match &args.output {
        Some(output) => output.clone(),
        None => shorten(project.output().join("rpi4-card.img")),
    };
    let bytes = card::build(kernel, bundle, tree, firmware)?;
    write(&output, &bytes)?;
    say!(
        "{}",
        legend(&scenario, args.scenario.board_cores)?.trim_end()
    );
    say!(
        "{}: {} bytes. Write it to a card (all that is on the card is lost):\n\n    \
         sudo dd if={} of=/dev/sdX bs=4M conv=fsync status=progress\n\n\
         X is the letter that `lsblk` shows for the card. Serial line: pins 8 (the board's TX), 10 (its RX) and 6\n\
         (ground), 3.3 V, 115200 baud, 8N1. Expect within some seconds:\n\n    \
         penumbra: etrm\n    penumbra: MMU on; console at 0xfe215040 until the device tree is read\n    ...\n\n\
         docs/rpi4.md explains each line, and what to do when nothing appears.",
        output.display(),
        bytes.len(),
        output.display()
    );
    Ok(())
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
            write(&bundle, &pack(&args.scenario, &scenario, machine)?)?;
            (bundle, legend(&scenario, machine.cores)?)
        }
    };
    let image = match &args.image {
        Some(image) => image.clone(),
        None => {
            say!("Building Penumbra ...");
            let platform = match machine.board {
                Board::Virt => "qemu-virt",
                Board::Rpi4(_) => "rpi4",
            };
            shorten(build::build(project, platform)?.image)
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
            (Backing::Direct, _) => "direct".to_owned(),
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
    let modules = match &args.modules_from {
        Some(folder) => initramfs::modules::read(folder, &args.modules).map_err(Problem::new)?,
        None => Vec::new(),
    };
    let contents = Contents {
        busybox: read(&args.busybox)?,
        script: args.script.as_deref().map(read).transpose()?,
        files,
        modules,
    };
    let bytes = initramfs::build(&contents).map_err(Problem::new)?;
    write(&args.output, &bytes)
}
