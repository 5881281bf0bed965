//! Which functions of a built image can panic.
//!
//! A panic in EL2 that a guest causes is a vulnerability, and overflow checks are on, so every
//! place that is left is a question. The image is disassembled and every call of a panic function is
//! attributed to the function that holds it and, as far as the debug information goes, to a line. An
//! allow list names the callers or places that may, with a reason.

use std::collections::BTreeSet;
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
    let mut command = project.llvm("llvm-objdump")?;
    command
        .args(["-d", "-l", "--demangle", "--no-show-raw-insn"])
        .arg(elf);
    Ok(sort(callers(&output(&mut command)?), allow_list))
}

/// One branch or other instruction of a function.
struct Instruction<'a> {
    address: u64,
    place: &'a str,
    operation: &'a str,
    /// Where it branches to: address and symbol.
    target: Option<(u64, &'a str)>,
}

impl<'a> Instruction<'a> {
    /// Reads a line: address, colon, operation, operands, the symbol of a target in angle brackets.
    fn parse(line: &'a str, place: &'a str) -> Option<Self> {
        let (address, text) = line.trim_start().split_once(':')?;
        let (operation, operands) = text.trim().split_once('\t').unwrap_or((text.trim(), ""));
        let target = operands.split_once(" <").and_then(|(before, symbol)| {
            let target = before.rsplit_once("0x")?.1;
            Some((
                u64::from_str_radix(target, 16).ok()?,
                plain(symbol.strip_suffix('>')?),
            ))
        });
        let address = u64::from_str_radix(address, 16).ok()?;
        Some(Self {
            address,
            place,
            operation,
            target,
        })
    }

    /// The panic function that it calls.
    fn panic(&self) -> Option<&'a str> {
        let (_, symbol) = self.target?;
        (matches!(self.operation, "b" | "bl") && is_panic(symbol)).then_some(symbol)
    }

    /// Whether what follows is not reached from here.
    fn ends_block(&self) -> bool {
        matches!(self.operation, "b" | "br" | "ret" | "eret" | "brk" | "udf")
            || self.panic().is_some()
    }
}

/// Every place that leads to a panic function, apart from those in panic functions.
fn callers(disassembly: &str) -> Vec<Caller> {
    let mut found: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
    let (mut function, mut place) = ("", "?");
    let mut body: Vec<Instruction<'_>> = Vec::new();
    for line in disassembly.lines().chain(["0 <>:"]) {
        if let Some(comment) = line.strip_prefix("; ") {
            place = if comment.ends_with("():") {
                place
            } else {
                short(comment)
            };
        } else if let Some((_, name)) = line.split_once('<')
            && let Some(name) = name.strip_suffix(">:")
        {
            if !is_panic(function) {
                collect(function, &body, &mut found);
            }
            body.clear();
            (function, place) = (plain(name), "?");
        } else if let Some(instruction) = Instruction::parse(line, place) {
            body.push(instruction);
        }
    }
    let caller = |(name, panic, place): (&str, &str, &str)| Caller {
        name: name.into(),
        panic: panic.into(),
        place: place.into(),
    };
    found.into_iter().map(caller).collect()
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
        if let Some(panic) = instruction.panic() {
            let range = block..=instruction.address;
            let leads_here = |other: &&Instruction<'_>| {
                other
                    .target
                    .is_some_and(|(target, _)| range.contains(&target))
            };
            let before = found.len();
            found.extend(
                body.iter()
                    .filter(leads_here)
                    .map(|from| (function, panic, from.place)),
            );
            if found.len() == before {
                found.insert((function, panic, instruction.place));
            }
        }
        if instruction.ends_block() {
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

/// A path without what is before the crate's own folder.
fn short(place: &str) -> &str {
    ["/registry/src/", "/library/", "/kernel/", "/platforms/"]
        .iter()
        .find_map(|&mark| {
            let (_, rest) = place.split_once(mark)?;
            // The registry has one more folder, named after itself.
            if mark == "/registry/src/" {
                rest.split_once('/').map(|(_, rest)| rest)
            } else {
                Some(rest)
            }
        })
        .unwrap_or(place)
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
