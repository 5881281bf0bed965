//! `walkscope speed`: how much the plugin slows QEMU.
//!
//! The same guest runs without the plugin and with it, both under `-icount`. What the guest prints, its kernel's times included,
//! must be the same: then both executed the same instructions.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Args;

use crate::figures::{self, float};
use crate::guest::Guest;
use crate::systems::{self, Load, System};
use crate::tree::{Tree, first_line};

/// `speed`
#[derive(Debug, Args)]
pub(crate) struct SpeedArgs {
    /// Core models of the plugin, like a53+a72.
    #[arg(long, default_value = "a53+a72")]
    cores: String,
    /// Runs of each; the fastest counts, because others disturb a run but never help it.
    #[arg(long, default_value_t = 2)]
    repeat: u32,
    /// Where to put the RAM of the guest while it runs.
    #[arg(long, default_value = "/dev/shm")]
    scratch: PathBuf,
    /// Fail if the plugin slows QEMU by more than this.
    #[arg(long, default_value_t = 25.0)]
    at_most: f64,
}

/// A guest should be done long before.
const LIMIT: Duration = Duration::from_secs(3600);

/// Runs the guest with and without the plugin, in turns.
pub(crate) fn run(args: &SpeedArgs) -> Result<(), String> {
    let tree = Tree::find()?;
    let load = Load {
        system: System::Bare,
        guest: Guest::Linux,
        layout: 0,
    };
    let files = tree.build(&[load], &systems::script(true))?;
    let out = tree.output("speed.plugin.json");
    // On bare metal the bench has all columns: both cores in five modes each.
    let options = format!("out={},cores={}", out.display(), args.cores);
    let how = (true, args.scratch.as_path());
    let line = |line: &str| eprintln!("{line}");
    let once = |plugin| tree.run(load, &files, how, plugin, (LIMIT, &line));
    let [mut plain, mut watched] = [Duration::MAX; 2];
    for _ in 0..args.repeat.max(1) {
        let [without, with] = [once(None)?, once(Some(&options))?];
        if without.printed != with.printed {
            return Err(format!(
                "the two guests did not do the same: {}",
                difference(&without.printed, &with.printed)
            ));
        }
        plain = plain.min(without.cpu);
        watched = watched.min(with.cpu);
    }
    let run = figures::read(load.system.name(), &out)?;
    let instructions: u64 = run.partitions.values().map(|part| part.instructions).sum();
    let factor = watched.as_secs_f64() / plain.as_secs_f64().max(0.01);
    let rate = |time: Duration| float(instructions) / 1e6 / time.as_secs_f64().max(0.01);
    println!(
        "Commit {}; {}; boot and short loads of Linux on bare metal, {instructions} instructions, the same console to the byte; {} columns ({}); fastest of {}.",
        tree.commit(),
        first_line(Command::new(penumbra::qemu::program()).arg("--version")),
        run.columns.len(),
        args.cores,
        args.repeat.max(1)
    );
    println!(
        "without the plugin {:.1} s of CPU time ({:.0} million instructions a second), with it {:.1} s ({:.0}): {factor:.1} times slower",
        plain.as_secs_f64(),
        rate(plain),
        watched.as_secs_f64(),
        rate(watched)
    );
    if factor > args.at_most {
        return Err(format!("that is more than {} times", args.at_most));
    }
    Ok(())
}

/// The first lines that differ.
fn difference(one: &str, other: &str) -> String {
    let mut pairs = one.lines().zip(other.lines());
    let found = pairs.find(|(one, other)| one != other);
    found.map_or_else(
        || "one printed more".to_owned(),
        |(one, other)| format!("{one:?} and {other:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_shown() {
        assert_eq!(difference("a\nb\nc", "a\nx\ny"), "\"b\" and \"x\"");
        assert_eq!(difference("a", "a\nb"), "one printed more");
    }
}
