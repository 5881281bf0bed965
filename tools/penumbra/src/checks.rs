//! What is checked and told of a built image.

use std::process::ExitCode;

use penumbra::build::{self, Built};
use penumbra::panics;
use penumbra::problem::{Problem, Problems};
use penumbra::report;
use penumbra::scenario::size::show;
use penumbra::stacks;
use penumbra::toolchain::Project;

use crate::cli::{PanicArgs, SizeArgs};
use crate::commands::read;
use crate::say::say;

/// Prints the sizes of a platform's image, and refuses one whose EL2 is larger than it may be.
pub(crate) fn size(args: &SizeArgs) -> Result<(), Problem> {
    let project = &Project::find()?;
    let platform = &args.platform.platform;
    let built: Built = build::build(project, platform)?;
    say!("{}", built.summary());
    say!("  EL2 without the manager {} bytes", built.el2_bytes());
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
    match args.at_most {
        Some(most) if built.el2_bytes() > most => Err(Problem::new(format!(
            "EL2 of {platform} takes {} bytes of the image, {} more than the {} it may",
            built.el2_bytes(),
            built.el2_bytes() - most,
            show(most)
        ))
        .help(
            "make it smaller (docs/performance.md, \"Size of the image\"), or raise the limit in the justfile's \
             `size-check` and the figure in docs/status.md together, and say why",
        )),
        _ => Ok(()),
    }
}

/// Names the calls of panics that are left in a platform's image.
pub(crate) fn panics(args: &PanicArgs) -> Result<ExitCode, Problems> {
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

/// Adds up the deepest path of calls in a platform's image, and refuses one that is deeper than its stack.
pub(crate) fn stack(platform: &str) -> Result<ExitCode, Problems> {
    let project = Project::find()?;
    let built = build::build(&project, platform)?;
    let depth = stacks::deepest(&project, &project.elf(&build::binary(platform)), &built)?;
    for (function, bytes) in &depth.path {
        say!("{bytes:>8} {function}");
    }
    let within = depth.bytes <= depth.limit;
    say!(
        "{}stack-check: {} bytes at most, of {}",
        if within { "" } else { "error: " },
        depth.bytes,
        depth.limit
    );
    Ok(if within {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
