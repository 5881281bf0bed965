//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use penumbra::scenario::{DEFAULT_BOARD_CORES, MAX_BOARD_CORES, size};
use penumbra_bundle::{MAX_MEMORY_BYTES, MAX_PAGING_COPY_BYTES, MAX_VCPUS, MEMORY_UNIT_BYTES};

/// The scenario that runs where none is named.
pub(crate) const DEFAULT_SCENARIO: &str = "guest-configs/partitions.toml";
/// The one that runs where an option asks for another first guest or fewer cores.
pub(crate) const ONE_GUEST_SCENARIO: &str = "guest-configs/linux.toml";
/// The QEMU machine where nothing else is said.
pub(crate) const DEFAULT_GIC: u8 = 3;
pub(crate) const DEFAULT_CPU: &str = "cortex-a72";
pub(crate) const DEFAULT_RAM_BYTES: u64 = 2 << 30;

/// Penumbra on the workstation: check scenarios, pack bundles, build images, run them on QEMU.
#[derive(Debug, Parser)]
#[command(name = "penumbra", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a scenario, and the files it names.
    Check(CheckArgs),
    /// Pack a scenario and its files into a bundle.
    Image(ImageArgs),
    /// Build the bootable image.
    Build(BuildArgs),
    /// Build the image of an SD card for a Raspberry Pi 4.
    Card(CardArgs),
    /// Build, pack and run on QEMU; the terminal is the console.
    Run(Box<RunArgs>),
    /// Build a bare-metal guest of the folder guests/.
    Guest(GuestArgs),
    /// Build the initial RAM file system of the default guest.
    Initramfs(InitramfsArgs),
    /// Replay a recorded trace of a guest's paging against the manager's policy.
    PagingSim(PagingSimArgs),
    /// Print the sizes of the built image.
    Size(SizeArgs),
    /// Check that no panic is left in the built image but the allowed ones.
    PanicCheck(PanicArgs),
    /// Check that the deepest path of calls in the built image fits a core's stack.
    StackCheck(PlatformArgs),
}

/// A scenario, and changes to its first guest.
#[derive(Debug, Args)]
pub(crate) struct ScenarioArgs {
    /// The scenario (default: guest-configs/partitions.toml; with an option about the first guest, or
    /// another number of cores: guest-configs/linux.toml).
    #[arg(value_name = "SCENARIO")]
    pub(crate) scenario: Option<PathBuf>,
    /// The scenario, as an option.
    #[arg(
        long = "scenario",
        value_name = "FILE",
        conflicts_with = "scenario",
        hide = true
    )]
    pub(crate) scenario_option: Option<PathBuf>,
    /// Kernel of the first guest instead of the scenario's.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Initial RAM disk of the first guest instead of the scenario's.
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Command line of the first guest instead of the scenario's.
    #[arg(long, value_name = "TEXT")]
    pub(crate) cmdline: Option<String>,
    /// Number of vCPUs of the first guest.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_VCPUS)))]
    pub(crate) vcpus: Option<u8>,
    /// Memory of the first guest, like "512 MiB".
    #[arg(long, value_name = "SIZE", value_parser = guest_size)]
    pub(crate) memory: Option<u64>,
    /// How the memory of the first guest is backed.
    #[arg(long, value_enum)]
    pub(crate) backing: Option<BackingArg>,
    /// Quota of the first guest (with --backing thin).
    #[arg(long, value_name = "SIZE", value_parser = guest_size)]
    pub(crate) quota: Option<u64>,
    /// What stands for the translation tables of the first guest.
    #[arg(long, value_enum)]
    pub(crate) paging: Option<PagingArg>,
    /// How much of the first guest's memory may be moved each second, like "64MiB".
    #[arg(long, value_name = "SIZE", value_parser = copy_size)]
    pub(crate) paging_copy: Option<u64>,
    /// Cores of the board.
    #[arg(long = "smp", value_name = "N", default_value_t = DEFAULT_BOARD_CORES,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_BOARD_CORES)))]
    pub(crate) board_cores: u8,
    /// RAM of the board, like "2 GiB" (default; the Raspberry Pi 4's varies and is compared only if it is given).
    #[arg(long, value_name = "SIZE", value_parser = ram_size)]
    pub(crate) ram: Option<u64>,
    /// Device tree (blob) of the board, which then says how much RAM there is and what devices (default: where
    /// the scenario wants devices or direct memory, that of the QEMU machine).
    #[arg(long, value_name = "FILE")]
    pub(crate) board_dtb: Option<PathBuf>,
    /// Print the files that the scenario names, a line each, and stop.
    #[arg(long)]
    pub(crate) needs: bool,
}

impl ScenarioArgs {
    /// Whether something is asked for that speaks of one guest, or of a board with other cores.
    pub(crate) fn is_about_one_guest(&self) -> bool {
        self.kernel.is_some()
            || self.initrd.is_some()
            || self.cmdline.is_some()
            || self.vcpus.is_some()
            || self.memory.is_some()
            || self.backing.is_some()
            || self.quota.is_some()
            || self.paging.is_some()
            || self.paging_copy.is_some()
            || self.board_cores != DEFAULT_BOARD_CORES
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BackingArg {
    Reserved,
    Thin,
    Direct,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PagingArg {
    Nested,
    Shadow,
    Compound,
}

#[derive(Debug, Args)]
pub(crate) struct PagingSimArgs {
    /// The trace, or console output with the trace in it.
    #[arg(value_name = "TRACE")]
    pub(crate) trace: PathBuf,
    /// The mode.
    #[arg(long, value_enum, default_value = "compound")]
    pub(crate) mode: PagingArg,
    /// Memory for mirror tables.
    #[arg(long, value_name = "SIZE", default_value = "2 MiB", value_parser = size::parse)]
    pub(crate) pool: u64,
    /// What may be moved each second.
    #[arg(long, value_name = "SIZE", default_value = "4 MiB", value_parser = size::parse)]
    pub(crate) copy: u64,
    /// Let the policy trap roots, for user spaces; a scenario does that by `paging_copy`.
    #[arg(long)]
    pub(crate) trap: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BoardArg {
    Virt,
    Rpi4,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) scenario: ScenarioArgs,
    /// Do not look at the files that the scenario names.
    #[arg(long)]
    pub(crate) no_files: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    pub(crate) scenario: ScenarioArgs,
    /// The bundle to write.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CardArgs {
    #[command(flatten)]
    pub(crate) scenario: ScenarioArgs,
    /// Folder with start4.elf and fixup4.dat (default: Debian's, from .cache).
    #[arg(long, value_name = "FOLDER")]
    pub(crate) firmware: Option<PathBuf>,
    /// Device tree (default: Debian's, from .cache).
    #[arg(long, value_name = "FILE")]
    pub(crate) dtb: Option<PathBuf>,
    /// The image to write (default: target/penumbra/rpi4-card.img).
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PlatformArgs {
    /// The platform: a folder of platforms/.
    #[arg(long, default_value = "qemu-virt")]
    pub(crate) platform: String,
}

#[derive(Debug, Args)]
pub(crate) struct SizeArgs {
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
    /// Fail if EL2's part of the image is larger.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) at_most: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
    /// Clear the branch history that guests leave at each exit, as the core needs it
    #[arg(long)]
    pub(crate) mitigations: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PanicArgs {
    #[command(flatten)]
    pub(crate) platform: PlatformArgs,
    /// The allow list: lines of `start of a function # reason` or `@part of a place # reason`.
    #[arg(long, value_name = "FILE", default_value = "tools/panic-allow.txt")]
    pub(crate) allow: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) scenario: ScenarioArgs,
    /// The board: QEMU's virt, or its raspi4b, whose hardware is fixed.
    #[arg(long, value_enum, default_value = "virt")]
    pub(crate) board: BoardArg,
    /// Device tree for raspi4b (default: Debian's, from .cache).
    #[arg(long, value_name = "FILE")]
    pub(crate) dtb: Option<PathBuf>,
    /// Interrupt controller of virt (default: 3).
    #[arg(long, value_name = "2|3", value_parser = clap::value_parser!(u8).range(2..=3))]
    pub(crate) gic: Option<u8>,
    /// CPU model of virt (default: cortex-a72).
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu: Option<String>,
    /// Run this image instead of building one.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Run this bundle instead of packing the scenario.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "kernel", "initrd"])]
    pub(crate) bundle: Option<PathBuf>,
    /// A board without EL2, to see what is said about it.
    #[arg(long)]
    pub(crate) no_el2: bool,
    /// Run the first guest's kernel on the bare board, without Penumbra, to compare.
    #[arg(long, conflicts_with_all = ["image", "bundle"])]
    pub(crate) bare: bool,
    /// End QEMU after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Print the QEMU command instead of running it.
    #[arg(long)]
    pub(crate) show: bool,
    /// More arguments for QEMU.
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    pub(crate) qemu: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GuestArgs {
    /// The guest: a folder of guests/.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct InitramfsArgs {
    /// A statically linked arm64 busybox.
    #[arg(long, value_name = "FILE")]
    pub(crate) busybox: PathBuf,
    /// A script to run at the end of start-up, before the shell.
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<PathBuf>,
    /// One more file for the guest (may be repeated).
    #[arg(long = "add", value_name = "FILE=PATH IN THE GUEST")]
    pub(crate) files: Vec<String>,
    /// One kernel module that the start-up loads, with those it needs (may be repeated).
    #[arg(long = "module", value_name = "NAME", requires = "modules_from")]
    pub(crate) modules: Vec<String>,
    /// The folder of the kernel's modules, as tools/fetch-arm64 leaves it.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) modules_from: Option<PathBuf>,
    /// The archive to write.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// A size of memory or quota of a guest.
fn guest_size(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    if bytes == 0 || !bytes.is_multiple_of(MEMORY_UNIT_BYTES) || bytes > MAX_MEMORY_BYTES {
        return Err(format!(
            "a guest's memory is a multiple of 2 MiB up to {}",
            size::show(MAX_MEMORY_BYTES)
        ));
    }
    Ok(bytes)
}

/// What may be moved each second, as a scenario takes it.
fn copy_size(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    if !bytes.is_multiple_of(4096) || bytes > MAX_PAGING_COPY_BYTES {
        return Err(format!(
            "what may be moved each second is a multiple of 4 KiB up to {}",
            size::show(MAX_PAGING_COPY_BYTES)
        ));
    }
    Ok(bytes)
}

/// A size of a board's RAM, which QEMU takes in MiB.
fn ram_size(text: &str) -> Result<u64, String> {
    match size::parse(text)? {
        bytes if bytes > 0 && bytes.is_multiple_of(1 << 20) => Ok(bytes),
        _ => Err("a board's RAM is a multiple of 1 MiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_values_are_refused() {
        for line in [
            "penumbra run --vcpus 9",
            "penumbra run --vcpus 0",
            "penumbra run --gic 4",
            "penumbra run --smp 9",
            "penumbra run --memory 3MiB",
            "penumbra run --memory 512",
            "penumbra run --ram 0MiB",
            "penumbra check --ram 1500KiB",
            "penumbra image",
            "penumbra run --backing thick",
            "penumbra run --paging flat",
            "penumbra run --paging-copy 2GiB",
            "penumbra run --paging-copy 1",
            "penumbra paging-sim",
            "penumbra run --scenario a.toml b.toml",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        let line = "penumbra run my.toml --kernel k --memory 64MiB --gic 2 -- -d int";
        assert!(Cli::try_parse_from(line.split(' ')).is_ok());
    }
}
