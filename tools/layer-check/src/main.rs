//! Checks the dependency arrows between the crates, as `docs/architecture.md` draws them.
//!
//! Each crate has a [`Rule`]: what it may depend on. A crate without a rule is refused, so a new crate
//! says where it stands. Dependencies for tests are free, except that nothing pure may reach the
//! crates that only exist on the target. External crates of the kernel are pinned to one version.
#![forbid(unsafe_code)]

mod graph;
mod rules;

use std::process::ExitCode;

use graph::Package;
#[cfg(doc)]
use rules::Rule;

fn main() -> ExitCode {
    let packages = match graph::workspace() {
        Ok(packages) => packages,
        Err(sentence) => {
            eprintln!("layer-check: {sentence}");
            return ExitCode::FAILURE;
        }
    };
    let violations = rules::check(&packages);
    for sentence in &violations {
        eprintln!("layer-check: {sentence}");
    }
    let arrows: usize = packages
        .iter()
        .map(|package: &Package| package.dependencies.len())
        .sum();
    println!(
        "layer-check: {} crates, {arrows} arrows, {} not allowed",
        packages.len(),
        violations.len()
    );
    if violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_keeps_its_layers() {
        let packages = graph::workspace().unwrap();
        assert!(packages.len() > 10);
        assert_eq!(rules::check(&packages), Vec::<String>::new());
    }
}
