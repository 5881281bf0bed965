//! Which functions of a built image can panic.
//!
//! A panic in EL2 that a guest causes is a vulnerability, and overflow checks are on, so every
//! place that is left is a question. The image is disassembled and every call of a panic function is
//! attributed to the function that holds it. An allow list names the callers that may, with a reason.

use std::collections::BTreeMap;
use std::path::Path;

use crate::problem::Problem;
use crate::toolchain::{Project, output};

/// Functions of `core` that never return and mean a panic.
const PANICS: [&str; 7] = [
    "core::panicking::",
    "core::slice::index::slice_",
    "core::slice::copy_from_slice_impl::len_mismatch_fail",
    "core::str::slice_error_fail",
    "core::option::",
    "core::result::unwrap_failed",
    "core::cell::panic_already",
];

/// One function that can panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name, without the compiler's hash.
    pub name: String,
    /// The panic function it calls.
    pub panic: String,
    /// Number of calls.
    pub calls: usize,
}

/// Callers, sorted by the allow list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Panics {
    /// Callers that the list does not name.
    pub surplus: Vec<Caller>,
    /// Callers that it names.
    pub allowed: Vec<Caller>,
    /// Lines of the list that match nothing.
    pub unused: Vec<String>,
}

/// Looks for panics in an ELF file. The allow list has lines of `start of a name # reason`.
///
/// # Errors
/// The file is not there, or the toolchain lacks its tool.
pub fn find(project: &Project, elf: &Path, allow_list: &str) -> Result<Panics, Problem> {
    let mut command = project.llvm("llvm-objdump")?;
    command
        .args(["-d", "--demangle", "--no-show-raw-insn"])
        .arg(elf);
    Ok(sort(callers(&output(&mut command)?), allow_list))
}

/// Every call of a panic function in a disassembly, apart from those among panic functions.
fn callers(disassembly: &str) -> Vec<Caller> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut function = "";
    for line in disassembly.lines() {
        let Some((before, name)) = line.split_once('<') else {
            continue;
        };
        if let Some(name) = name.strip_suffix(">:") {
            function = plain(name);
            continue;
        }
        let Some((name, "")) = name.rsplit_once('>') else {
            continue;
        };
        let branch = before
            .split_whitespace()
            .any(|word| word == "bl" || word == "b");
        let name = plain(name);
        if branch && is_panic(name) && !is_panic(function) {
            *counts.entry((function, name)).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .map(|((name, panic), calls)| Caller {
            name: name.into(),
            panic: panic.into(),
            calls,
        })
        .collect()
}

fn sort(callers: Vec<Caller>, allow_list: &str) -> Panics {
    let mut rules: Vec<(&str, bool)> = allow_list
        .lines()
        .filter_map(|line| line.split_once('#'))
        .map(|(start, _)| (start.trim(), false))
        .filter(|(start, _)| !start.is_empty())
        .collect();
    let mut panics = Panics::default();
    for caller in callers {
        let mut allowed = false;
        for (start, used) in &mut rules {
            if caller.name.trim_start_matches('<').starts_with(*start) {
                (*used, allowed) = (true, true);
            }
        }
        if allowed {
            &mut panics.allowed
        } else {
            &mut panics.surplus
        }
        .push(caller);
    }
    let unused = rules.into_iter().filter(|(_, used)| !used);
    panics.unused = unused.map(|(start, _)| start.to_owned()).collect();
    panics
}

fn is_panic(name: &str) -> bool {
    PANICS.iter().any(|start| name.starts_with(start))
}

/// A symbol without the compiler's hash and without an offset.
fn plain(name: &str) -> &str {
    let name = name.split_once("+0x").map_or(name, |(name, _)| name);
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            path
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISASSEMBLY: &str = "
00000000000010a0 <penumbra_hal::boot::main::h0123456789abcdef>:
    10a0:      \tbl\t0x6880 <core::panicking::panic_const::panic_const_add_overflow>
    10a4:      \tbl\t0x6880 <core::panicking::panic_const::panic_const_add_overflow>
    10a8:      \tbl\t0x7000 <penumbra_hal::other::hd366c7a6a3b22275>
    10ac:      \tadrp\tx0, 0x6000 <core::panicking::panic>

00000000000010b0 <fdt::node::find>:
    10b0:      \tb\t0x6524 <core::option::unwrap_failed>
    10b4:      \tcbz\tx0, 0x10b0 <fdt::node::find>

00000000000010c0 <core::option::unwrap_failed>:
    10c0:      \tbl\t0x6700 <core::panicking::panic_fmt>
    10c4:      \tbl\t0x6700 <core::panicking::panic_fmt+0x10>
";

    #[test]
    fn calls_are_attributed_to_the_function_that_holds_them() {
        let found = callers(DISASSEMBLY);
        let names: Vec<(&str, usize)> = found.iter().map(|c| (c.name.as_str(), c.calls)).collect();
        assert_eq!(
            names,
            [("fdt::node::find", 1), ("penumbra_hal::boot::main", 2)]
        );
        assert_eq!(found[0].panic, "core::option::unwrap_failed");
    }

    #[test]
    fn the_list_allows_by_the_start_of_a_name() {
        let list = "# Comment.\nfdt:: # boot only\npenumbra_trap:: # gone\n";
        let panics = sort(callers(DISASSEMBLY), list);
        assert_eq!(panics.surplus.len(), 1);
        assert_eq!(panics.surplus[0].name, "penumbra_hal::boot::main");
        assert_eq!(panics.allowed.len(), 1);
        assert_eq!(panics.unused, ["penumbra_trap::"]);
    }
}
