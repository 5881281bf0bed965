//! Who may depend on whom.

use crate::graph::{Dependency, Package};

/// What a crate may depend on.
pub(crate) enum Rule {
    /// A crate of the kernel or a guest: exactly these, external ones pinned.
    Only(&'static [&'static str]),
    /// A host tool or test: any external crate, of ours the pure ones and these.
    Host(&'static [&'static str]),
}

/// Crates without a line of code for the target only; they build and test on the host.
const PURE: [&str; 9] = [
    "penumbra-abi",
    "penumbra-board",
    "penumbra-bundle",
    "penumbra-devices",
    "penumbra-vmsa",
    "penumbra-paging",
    "penumbra-trap",
    "penumbra-core",
    "penumbra-manager",
];

const PLATFORM: Rule = Rule::Only(&["penumbra-core", "penumbra-hal", "penumbra-platform", "log"]);

const RULES: [(&str, Rule); 25] = [
    ("penumbra-abi", Rule::Only(&[])),
    ("penumbra-vmsa", Rule::Only(&[])),
    (
        "penumbra-board",
        Rule::Only(&["penumbra-abi", "penumbra-vmsa"]),
    ),
    ("penumbra-bundle", Rule::Only(&["sha2"])),
    ("penumbra-devices", Rule::Only(&["dtoolkit"])),
    ("penumbra-paging", Rule::Only(&["penumbra-vmsa"])),
    (
        "penumbra-trap",
        Rule::Only(&["penumbra-vmsa", "penumbra-abi"]),
    ),
    (
        "penumbra-core",
        Rule::Only(&[
            "penumbra-abi",
            "penumbra-vmsa",
            "penumbra-paging",
            "penumbra-trap",
            "spin",
        ]),
    ),
    (
        "penumbra-hal",
        Rule::Only(&[
            "penumbra-abi",
            "penumbra-core",
            "penumbra-paging",
            "penumbra-trap",
            "penumbra-vmsa",
            "aarch64-cpu",
            "buddy_system_allocator",
            "log",
            "spin",
            "tock-registers",
        ]),
    ),
    (
        "penumbra-manager",
        Rule::Only(&[
            "penumbra-abi",
            "penumbra-bundle",
            "penumbra-devices",
            "buddy_system_allocator",
            "dtoolkit",
            "spin",
        ]),
    ),
    (
        "penumbra-platform",
        Rule::Only(&[
            "penumbra-abi",
            "penumbra-board",
            "penumbra-core",
            "penumbra-hal",
            "penumbra-vmsa",
            "log",
        ]),
    ),
    ("penumbra-qemu-virt", PLATFORM),
    ("penumbra-rpi4", PLATFORM),
    ("penumbra-payloads", Rule::Only(&["penumbra-abi"])),
    ("penumbra-periodic", Rule::Only(&["penumbra-payloads"])),
    ("penumbra", Rule::Host(&["penumbra-manager"])),
    ("penumbra-eventscope", Rule::Host(&["penumbra-qemu-plugin"])),
    ("penumbra-layer-check", Rule::Host(&[])),
    ("penumbra-oracle", Rule::Host(&[])),
    ("penumbra-suites", Rule::Host(&["penumbra"])),
    (
        "penumbra-walkscope",
        Rule::Host(&["penumbra", "penumbra-walkscope-model"]),
    ),
    ("penumbra-walkscope-model", Rule::Host(&[])),
    (
        "penumbra-walkscope-plugin",
        Rule::Host(&["penumbra-qemu-plugin", "penumbra-walkscope-model"]),
    ),
    ("penumbra-qemu-plugin", Rule::Host(&[])),
    ("penumbra-walkscope-workload", Rule::Host(&[])),
];

/// Every arrow that no rule allows, as sentences.
pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    let mut sentences = Vec::new();
    for package in packages {
        let Some((_, rule)) = RULES.iter().find(|(name, _)| *name == package.name) else {
            sentences.push(format!(
                "{} has no rule: say in tools/layer-check/src/rules.rs what it may depend on",
                package.name
            ));
            continue;
        };
        let found = package
            .dependencies
            .iter()
            .filter_map(|arrow| violation(rule, arrow));
        sentences.extend(found.map(|what| format!("{} {what}", package.name)));
    }
    sentences
}

fn violation(rule: &Rule, arrow: &Dependency) -> Option<String> {
    let name = arrow.name.as_str();
    let pure = PURE.contains(&name);
    if arrow.for_tests {
        let allowed = !arrow.ours || pure;
        return (!allowed).then(|| format!("may not depend on {name}, not even for tests"));
    }
    match rule {
        Rule::Only(list) if !list.contains(&name) => Some(format!("may not depend on {name}")),
        Rule::Only(_) if !arrow.ours && !arrow.version.starts_with('=') => Some(format!(
            "takes {name} {}: pin it to one version",
            arrow.version
        )),
        Rule::Host(list) if arrow.ours && !pure && !list.contains(&name) => {
            Some(format!("may not depend on {name}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrow(from: &str, to: &str) -> Package {
        let ours = to.starts_with("penumbra");
        let version = if ours { "*" } else { "=1.0.0" };
        let dependency = Dependency {
            name: to.into(),
            version: version.into(),
            for_tests: false,
            ours,
        };
        Package {
            name: from.into(),
            dependencies: vec![dependency],
        }
    }

    fn found(package: Package) -> String {
        check(&[package]).join("; ")
    }

    #[test]
    fn arrows_of_the_picture_are_allowed() {
        for (from, to) in [
            ("penumbra-paging", "penumbra-vmsa"),
            ("penumbra-hal", "aarch64-cpu"),
            ("penumbra-qemu-virt", "penumbra-hal"),
            ("penumbra", "clap"),
            ("penumbra-suites", "penumbra"),
        ] {
            assert_eq!(found(arrow(from, to)), "", "{from} -> {to}");
        }
    }

    #[test]
    fn other_arrows_are_not() {
        for (from, to) in [
            ("penumbra-vmsa", "penumbra-paging"),
            ("penumbra-core", "penumbra-hal"),
            ("penumbra-core", "aarch64-cpu"),
            ("penumbra-manager", "penumbra-vmsa"),
            ("penumbra", "penumbra-hal"),
            ("penumbra-payloads", "penumbra-core"),
        ] {
            assert!(
                found(arrow(from, to)).contains("may not depend on"),
                "{from} -> {to}"
            );
        }
    }

    #[test]
    fn tests_are_freer_but_not_free() {
        let mut package = arrow("penumbra-vmsa", "proptest");
        package.dependencies[0].for_tests = true;
        assert_eq!(found(package), "");
        let mut package = arrow("penumbra-vmsa", "penumbra-hal");
        package.dependencies[0].for_tests = true;
        assert!(found(package).contains("not even for tests"));
    }

    #[test]
    fn what_is_linked_into_el2_is_pinned() {
        let mut package = arrow("penumbra-core", "spin");
        package.dependencies[0].version = "^0.12".into();
        assert!(found(package).contains("pin it"));
    }

    #[test]
    fn a_crate_without_a_rule_is_refused() {
        assert!(found(arrow("penumbra-new", "log")).contains("has no rule"));
    }
}
