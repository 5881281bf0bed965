//! `walkscope regions`: whether the regions of the user's memory hold on Debian's kernel, by memory whose kind is known.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::figures::{self, Run};
use crate::guest::Guest;
use crate::systems::{Load, System};
use crate::tree::Tree;

/// `regions`
#[derive(Debug, Args)]
pub(crate) struct RegionsArgs {
    /// Where to put the RAM of the guest while it runs.
    #[arg(long, default_value = "/dev/shm")]
    scratch: PathBuf,
}

const FILE: &str = "user_file";
const ANONYMOUS: &str = "user_anonymous";
/// Kinds of memory as `walkload shown` takes them, and the region of each; their tests count from 1.
const KINDS: [(&str, &str); 8] = [
    // Never written to: the page of zeroes.
    ("zeroes", ANONYMOUS),
    ("written", ANONYMOUS),
    // By a child that has not written to it yet.
    ("inherited", ANONYMOUS),
    // Written to, then read-only.
    ("protected", ANONYMOUS),
    // A file that could be written to, as a program's data; and that was, so they are copies.
    ("private", FILE),
    ("copied", ANONYMOUS),
    // A file mapped shared, for reading and for writing.
    ("seen", FILE),
    ("shared", FILE),
];
/// More than the main TLB has entries, so that each page misses.
const PAGES: u64 = 4096;
/// The program has a stack and code of its own.
const OWN_PAGES: u64 = 32;
const LIMIT: Duration = Duration::from_secs(1800);

fn script() -> String {
    let bytes = 4096 * PAGES;
    let mut text = format!(
        "#!/bin/busybox sh\nw=/opt/walkload\n$w 0 off\nhead -c {bytes} /dev/zero >/tmp/data\n"
    );
    for (test, (kind, _)) in (1..).zip(KINDS) {
        text.push_str(&format!("$w {test} shown {kind} {bytes} /tmp/data\n"));
    }
    text.push_str("echo walkscope: done\npoweroff -f\n");
    text
}

/// Boots the guest and compares.
pub(crate) fn run(args: &RegionsArgs) -> Result<(), String> {
    let tree = Tree::find()?;
    let load = Load {
        system: System::Bare,
        guest: Guest::Linux,
        layout: 0,
    };
    let files = tree.build(&[load], &script())?;
    let out = tree.output("regions.plugin.json");
    let options = format!("out={},cores=a72,modes=as-is", out.display());
    let line = |line: &str| eprintln!("{line}");
    let how = (true, args.scratch.as_path());
    tree.run(load, &files, how, Some(&options), (LIMIT, &line))?;
    let run = figures::read(load.system.name(), &out)?;
    let wrong = wrong(&run);
    if wrong.is_empty() {
        println!("{} kinds of memory, each in its region", KINDS.len());
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

/// What is not as it has to be.
fn wrong(run: &Run) -> Vec<String> {
    let mut all = Vec::new();
    for (test, (kind, region)) in (1..).zip(KINDS) {
        let cell = run.tests.get(&test).and_then(|test| test.cells.first());
        let misses = |name| {
            let found = cell.and_then(|cell| cell.regions.get(name));
            found.copied().unwrap_or(0)
        };
        let other = if region == FILE { ANONYMOUS } else { FILE };
        let (right, left) = (misses(region), misses(other));
        if right < PAGES || left > OWN_PAGES {
            all.push(format!(
                "{kind}: {right} misses in {region} and {left} in {other}, of {PAGES} pages"
            ));
        }
    }
    if run.untold_maps > 0 {
        all.push(format!(
            "{} mappings that walkload did not tell of",
            run.untold_maps
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Cell, Test};

    #[test]
    fn what_lies_in_another_region_is_named() {
        let mut run = Run::default();
        for (test, (_, region)) in (1..).zip(KINDS) {
            let regions = [(region.to_owned(), PAGES + 3), ("kernel_linear".into(), 9)];
            let cell = Cell {
                regions: regions.into(),
                ..Cell::default()
            };
            let cells = vec![cell];
            run.tests.insert(
                test,
                Test {
                    cells,
                    ..Test::default()
                },
            );
        }
        assert!(wrong(&run).is_empty());
        let cell = &mut run.tests.get_mut(&3).unwrap().cells[0];
        cell.regions.insert(FILE.into(), 40);
        run.tests.remove(&7);
        run.untold_maps = 1;
        let found = wrong(&run).join("; ");
        assert_eq!(
            found,
            "inherited: 4099 misses in user_anonymous and 40 in user_file, of 4096 pages; \
             seen: 0 misses in user_file and 0 in user_anonymous, of 4096 pages; \
             1 mappings that walkload did not tell of"
        );
    }
}
