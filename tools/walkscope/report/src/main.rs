//! `walkscope`: runs guests under QEMU with the plugin that models their MMU, and reports what walks cost.
//!
//! - [`mod@bench`]: the systems and workloads of `just bench walks`, as initramfs and QEMU command lines.
//! - [`speed`]: what the plugin costs. [`regions`]: whether misses are told apart as they should.
//! - [`guest`]: the guests that they are measured with. [`xen`]: how Xen is given one.
//! - [`tree`]: what is built and run. [`jobs`]: several at a time. [`console`]: a run of QEMU. [`progress`]: what is said meanwhile.
//! - [`figures`]: the plugin's results, and the linear model that turns reads into a share of time.
//! - [`programs`]: Debian's programs and their libraries, for the guest.
//! - [`table`], [`spaces`], [`stage2`], [`spread`], [`sweep`], [`plot`]: what people read.
#![forbid(unsafe_code)]

mod bench;
mod console;
mod figures;
mod guest;
mod jobs;
mod kvm;
mod plot;
mod programs;
mod progress;
mod regions;
mod spaces;
mod speed;
mod spread;
mod stage2;
mod sweep;
mod systems;
mod table;
mod tree;
mod xen;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use penumbra_walkscope_model::Core;

/// What address translation costs, modelled: TLB misses, descriptor reads, exits, EL2 instructions.
#[derive(Debug, Parser)]
#[command(name = "walkscope")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the workloads on bare metal and under Penumbra; table, plot and results.
    Bench(bench::BenchArgs),
    /// Measure how much the plugin slows QEMU.
    Speed(speed::SpeedArgs),
    /// Check on Debian's kernel that misses of files and of anonymous memory are told apart.
    Regions(regions::RegionsArgs),
    /// Print a file of the plugin as a table.
    Report(ReportArgs),
    /// Print the modelled cores: parameters and their sources.
    Cores,
}

/// The linear model.
#[derive(Clone, Copy, Debug, Args)]
struct CostArgs {
    /// Cycles for a descriptor that is read.
    #[arg(long, default_value_t = 20.0)]
    read_cycles: f64,
    /// Cycles for an instruction.
    #[arg(long, default_value_t = 1.0)]
    cpi: f64,
    /// Cycles for the way to EL2 and back, beside EL2's instructions.
    #[arg(long, default_value_t = 200.0)]
    trap_cycles: f64,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// What the plugin wrote.
    file: PathBuf,
    #[command(flatten)]
    cost: CostArgs,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Speed(args) => speed::run(&args),
        Command::Regions(args) => regions::run(&args),
        Command::Report(args) => report(&args),
        Command::Cores => {
            cores();
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("walkscope: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn report(args: &ReportArgs) -> Result<(), String> {
    let run = figures::read("run", &args.file)?;
    print!("{}", table::details(&run, &args.cost));
    Ok(())
}

fn cores() {
    for core in Core::PRESETS.iter().filter_map(|name| Core::preset(name)) {
        println!("{}", core.name);
        for parameter in core.parameters() {
            println!(
                "  {:<22} {:<22} {}",
                parameter.name, parameter.value, parameter.source
            );
        }
    }
}
