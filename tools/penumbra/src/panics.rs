//! Which functions of a built image can panic.
//!
//! A panic in EL2 that a guest causes is a vulnerability, and overflow checks are on, so every
//! place that is left is a question. The image is disassembled and every call of a panic function is
//! attributed to the function that holds it and, as far as the debug information goes, to a line. An
//! allow list names the callers or places that may, with a reason.

use std::collections::BTreeSet;
use std::path::Path;

use crate::disassembly::{self, Instruction};
use crate::problem::Problem;
use crate::toolchain::Project;

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

/// One place that can panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The function, without the compiler's hash.
    pub name: String,
    /// The panic function it calls.
    pub panic: String,
    /// File and line, innermost of what was inlined; `?` where nothing is known.
    pub place: String,
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

/// Looks for panics in an ELF file. The allow list has lines of `start of a function's name # reason` or
/// `@part of a place # reason`.
///
/// # Errors
/// The file is not there, or the toolchain lacks its tool.
pub fn find(project: &Project, elf: &Path, allow_list: &str) -> Result<Panics, Problem> {
    Ok(sort(
        callers(&disassembly::with_lines(project, elf)?),
        allow_list,
    ))
}

/// Every place that leads to a panic function, apart from those in panic functions.
fn callers(disassembly: &str) -> Vec<Caller> {
    let mut found: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
    for function in disassembly::functions(disassembly) {
        if !is_panic(function.name) {
            collect(function.name, &function.body, &mut found);
        }
    }
    let caller = |(name, panic, place): (&str, &str, &str)| Caller {
        name: name.into(),
        panic: panic.into(),
        place: place.into(),
    };
    found.into_iter().map(caller).collect()
}

/// The panic function that an instruction calls.
fn panic<'a>(instruction: &Instruction<'a>) -> Option<&'a str> {
    let target = instruction.target?;
    (matches!(instruction.operation, "b" | "bl") && is_panic(target.symbol))
        .then_some(target.symbol)
}

/// Whether what follows is not reached from here.
fn ends_block(instruction: &Instruction<'_>) -> bool {
    matches!(
        instruction.operation,
        "b" | "br" | "ret" | "eret" | "brk" | "udf"
    ) || panic(instruction).is_some()
}

/// The places in one function. Compilers put panics behind the function's last line and share them,
/// so what counts is where the branches to them come from.
fn collect<'a>(
    function: &'a str,
    body: &[Instruction<'a>],
    found: &mut BTreeSet<(&'a str, &'a str, &'a str)>,
) {
    let mut block = 0;
    for instruction in body {
        if let Some(called) = panic(instruction) {
            let range = block..=instruction.address;
            let leads_here = |other: &&Instruction<'_>| {
                other
                    .target
                    .is_some_and(|target| range.contains(&target.address))
            };
            let before = found.len();
            found.extend(
                body.iter()
                    .filter(leads_here)
                    .map(|from| (function, called, disassembly::short(from.place))),
            );
            if found.len() == before {
                found.insert((function, called, disassembly::short(instruction.place)));
            }
        }
        if ends_block(instruction) {
            block = instruction.address.saturating_add(4);
        }
    }
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
        for (rule, used) in &mut rules {
            let applies = match rule.strip_prefix('@') {
                Some(part) => caller.place.contains(part),
                None => caller.name.trim_start_matches('<').starts_with(*rule),
            };
            if applies {
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
    panics.unused = unused.map(|(rule, _)| rule.to_owned()).collect();
    panics
}

fn is_panic(name: &str) -> bool {
    PANICS.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISASSEMBLY: &str = "
00000000000010a0 <penumbra_hal::boot::main::h0123456789abcdef>:
; penumbra_hal::boot::main::h0123456789abcdef():
; /home/me/penumbra/kernel/hal/src/boot.rs:12
    10a0:      \tbl\t0x6880 <core::panicking::panic_const::panic_const_add_overflow>
; /home/me/.cargo/registry/src/some-registry/spin-0.12.3/src/once.rs:269
    10a4:      \tbl\t0x6880 <core::panicking::panic_const::panic_const_add_overflow>
    10a8:      \tbl\t0x7000 <penumbra_hal::other::hd366c7a6a3b22275>
    10ac:      \tadrp\tx0, 0x6000 <core::panicking::panic>

00000000000010d0 <penumbra_core::late>:
; /home/me/penumbra/kernel/core/src/late.rs:1
    10d0:      \tcbz\tx0, 0x10e0 <penumbra_core::late+0x10>
; /home/me/penumbra/kernel/core/src/late.rs:2
    10d4:      \tb.lo\t0x10e4 <penumbra_core::late+0x14>
; /home/me/penumbra/kernel/core/src/late.rs:3
    10d8:      \tret
    10dc:      \tnop
    10e0:      \tnop
    10e4:      \tbl\t0x6880 <core::panicking::panic>

00000000000010b0 <fdt::node::find>:
    10b0:      \tb\t0x6524 <core::option::unwrap_failed>
    10b4:      \tret

00000000000010c0 <core::option::unwrap_failed>:
    10c0:      \tbl\t0x6700 <core::panicking::panic_fmt>
    10c4:      \tbl\t0x6700 <core::panicking::panic_fmt+0x10>
";

    #[test]
    fn calls_are_attributed_to_function_and_line() {
        let found = callers(DISASSEMBLY);
        let places: Vec<(&str, &str)> = found
            .iter()
            .map(|c| (c.name.as_str(), c.place.as_str()))
            .collect();
        assert_eq!(
            places,
            [
                ("fdt::node::find", "?"),
                ("penumbra_core::late", "core/src/late.rs:1"),
                ("penumbra_core::late", "core/src/late.rs:2"),
                ("penumbra_hal::boot::main", "hal/src/boot.rs:12"),
                ("penumbra_hal::boot::main", "spin-0.12.3/src/once.rs:269"),
            ]
        );
        assert_eq!(found[0].panic, "core::option::unwrap_failed");
    }

    #[test]
    fn the_list_allows_by_function_or_place() {
        let list = "# Comment.\nfdt:: # boot\n@spin-0.12.3/ # boot\n@late.rs # bounded\npenumbra_trap:: # gone\n";
        let panics = sort(callers(DISASSEMBLY), list);
        assert_eq!(panics.surplus.len(), 1);
        assert_eq!(panics.surplus[0].place, "hal/src/boot.rs:12");
        assert_eq!(panics.allowed.len(), 4);
        assert_eq!(panics.unused, ["penumbra_trap::"]);
    }
}
