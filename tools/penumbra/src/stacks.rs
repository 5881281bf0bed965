//! How much of its stack EL2 can use.
//!
//! Each core has one stack of fixed size with a guard page below it, and an overflow is the end of the
//! machine. The image is disassembled, every function's frame is read from what it takes from SP, and
//! the deepest path of calls is added up. Recursion and frames of unknown size are refused: nothing in
//! EL2 may need a stack that depends on what a guest does.
//!
//! A call through a pointer is followed to every function that a pointer may lead to, nested
//! `NESTED_POINTERS` deep; `pointers` finds both, and refuses what nobody has accounted for.

mod pointers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use pointers::Pointers;

use crate::build::Built;
use crate::disassembly::{self, Function};
use crate::problem::Problem;
use crate::toolchain::{Project, output};

/// A message, a type in it that formats itself by another `write!`, a type in that, its number, and what
/// takes the text.
const NESTED_POINTERS: usize = 5;

/// What a core's stack holds at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Bytes of the deepest path.
    pub bytes: u64,
    /// Bytes of a core's stack.
    pub limit: u64,
    /// The path: functions and the bytes of their frames, from the outermost.
    pub path: Vec<(String, u64)>,
}

/// Adds up the deepest path of calls in an EL2 image, given as ELF file and as what was built of it.
///
/// # Errors
/// A file is not there, the toolchain lacks a tool, or a depth cannot be told: a function calls
/// itself, takes a number of bytes that is not in its text, or has to do with an unknown pointer.
pub fn deepest(project: &Project, elf: &Path, built: &Built) -> Result<Depth, Problem> {
    let symbols = output(project.llvm("llvm-nm")?.arg(elf))?;
    let symbol = |name| {
        symbol(&symbols, name)
            .ok_or_else(|| Problem::new(format!("{} has no symbol {name}", elf.display())))
    };
    let index = |name| Ok(usize::try_from(symbol(name)?).unwrap_or(usize::MAX));
    let image = fs::read(&built.image)
        .map_err(|error| Problem::new(format!("cannot read {}: {error}", built.image.display())))?;
    let table = index("penumbra_relr_start")?..index("penumbra_relr_end")?;
    let words = pointers::relocated(&image, table);

    let text = disassembly::with_lines(project, elf)?;
    let functions = disassembly::functions(&text);
    let calls = Calls::read(&functions, &pointers::find(&functions, &words)?)?;
    let (bytes, path) = calls.deepest()?;
    let frames = path.iter().filter(|call| call.frame > 0);
    Ok(Depth {
        bytes,
        limit: symbol("penumbra_stack_bytes")?,
        path: frames
            .map(|call| (disassembly::readable(call.name), call.frame))
            .collect(),
    })
}

/// An absolute symbol's value, from the list that `llvm-nm` prints.
fn symbol(symbols: &str, name: &str) -> Option<u64> {
    let mut lines = symbols.lines().map(str::split_whitespace);
    lines.find_map(|mut words| {
        let value = words.next()?;
        (words.nth(1)? == name).then(|| u64::from_str_radix(value, 16).ok())?
    })
}

/// A branch from one function to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Branch {
    /// The other function's first address.
    function: u64,
    /// Whether it goes there, and takes the frame once more, or behind that.
    to_start: bool,
}

/// One function and what it calls.
#[derive(Debug)]
struct Call<'a> {
    name: &'a str,
    frame: u64,
    /// What it branches to.
    to: BTreeSet<Branch>,
    through_pointer: bool,
    is_pointed_to: bool,
}

/// All functions, by address.
#[derive(Debug, Default)]
struct Calls<'a>(BTreeMap<u64, Call<'a>>);

/// The bytes below a function, its own included, and the way there.
type Deepest<'c> = (u64, Vec<&'c Call<'c>>);

impl<'a> Calls<'a> {
    fn read(functions: &[Function<'a>], pointers: &Pointers) -> Result<Self, Problem> {
        let mut calls = Self::default();
        for function in functions {
            let branches = function.body.iter().filter(|one| is_branch(one.operation));
            let to = branches
                .filter_map(|one| {
                    let target = one.target?.address;
                    let branch = Branch {
                        function: holder(functions, target)?,
                        to_start: one.operation == "bl" || holder(functions, target)? == target,
                    };
                    // A loop is a branch of a function to itself; a call is recursion.
                    (one.operation == "bl" || branch.function != function.address).then_some(branch)
                })
                .collect();
            let call = Call {
                name: function.name,
                frame: frame(function)?,
                to,
                through_pointer: pointers.callers.contains(&function.address),
                is_pointed_to: pointers.reached.contains(&function.address),
            };
            calls.0.insert(function.address, call);
        }
        Ok(calls)
    }

    fn deepest(&'a self) -> Result<Deepest<'a>, Problem> {
        let mut known = BTreeMap::new();
        let mut most: Deepest<'a> = (0, Vec::new());
        for &address in self.0.keys() {
            let found = self.below(address, NESTED_POINTERS, &mut Vec::new(), &mut known)?;
            if found.0 > most.0 {
                most = found;
            }
        }
        Ok(most)
    }

    /// The deepest path from a function, with so many more calls through pointers.
    fn below(
        &'a self,
        address: u64,
        pointers: usize,
        above: &mut Vec<u64>,
        known: &mut BTreeMap<(u64, usize), Deepest<'a>>,
    ) -> Result<Deepest<'a>, Problem> {
        let Some(call) = self.0.get(&address) else {
            return Ok((0, Vec::new()));
        };
        if let Some(found) = known.get(&(address, pointers)) {
            return Ok(found.clone());
        }
        above.push(address);
        let mut most: Deepest<'a> = (0, Vec::new());
        for &next in &call.to {
            if let Some(at) = above.iter().position(|&one| one == next.function) {
                self.accept_loop(next, above.get(at..).unwrap_or_default())?;
                continue;
            }
            let found = self.below(next.function, pointers, above, known)?;
            if found.0 > most.0 {
                most = found;
            }
        }
        if let (true, Some(fewer)) = (call.through_pointer, pointers.checked_sub(1)) {
            let pointed = self.0.iter().filter(|(_, call)| call.is_pointed_to);
            for (&next, _) in pointed {
                // Its own path: that messages nest in messages is what the count is for.
                let found = self.below(next, fewer, &mut Vec::new(), known)?;
                if found.0 > most.0 {
                    most = found;
                }
            }
        }
        above.pop();
        most.0 = most.0.saturating_add(call.frame);
        most.1.insert(0, call);
        // Assembly in a loop has seen less than the whole: asked from elsewhere, it looks again.
        if call.frame > 0 {
            known.insert((address, pointers), most.clone());
        }
        Ok(most)
    }

    /// Assembly may branch to and fro, where that takes nothing from the stack; all else is recursion.
    fn accept_loop(&self, closing: Branch, around: &[u64]) -> Result<(), Problem> {
        let calls: Vec<&Call<'_>> = around.iter().filter_map(|at| self.0.get(at)).collect();
        if !closing.to_start || calls.iter().all(|call| call.frame == 0) {
            return Ok(());
        }
        let names: Vec<&str> = calls.iter().map(|call| call.name).collect();
        Err(Problem::new(format!(
            "EL2's stack has no bound: {} calls itself",
            names.join(" -> ")
        )))
    }
}

fn is_branch(operation: &str) -> bool {
    matches!(operation, "b" | "bl" | "cbz" | "cbnz" | "tbz" | "tbnz") || operation.starts_with("b.")
}

/// The first address of the function that holds an address.
fn holder(functions: &[Function<'_>], address: u64) -> Option<u64> {
    let after = functions.partition_point(|function| function.address <= address);
    let function = functions.get(after.checked_sub(1)?)?;
    function.holds(address).then_some(function.address)
}

/// What a function takes from SP: all that its text takes, whether one path does it all or not.
fn frame(function: &Function<'_>) -> Result<u64, Problem> {
    let mut bytes = 0_u64;
    for one in &function.body {
        let taken = match (one.operation, one.operands) {
            ("sub", operands) if operands.starts_with("sp, ") => operands
                .strip_prefix("sp, sp, #")
                .and_then(|amount| match amount.split_once(", lsl #12") {
                    Some((pages, _)) => number(pages)?.checked_mul(4096),
                    None => number(amount),
                }),
            ("str" | "stp" | "stur", operands) if operands.ends_with("]!") => {
                match operands.split_once("[sp, #-") {
                    Some((_, amount)) => number(amount.trim_end_matches("]!")),
                    None => Some(0),
                }
            }
            _ => Some(0),
        };
        let Some(taken) = taken else {
            return Err(Problem::new(format!(
                "EL2's stack has no bound: {} takes `{} {}` from it",
                function.name, one.operation, one.operands
            )));
        };
        bytes = bytes.saturating_add(taken);
    }
    Ok(bytes)
}

/// A number as the disassembler writes it, without a comment.
fn number(text: &str) -> Option<u64> {
    let text = text.split_once("//").map_or(text, |(text, _)| text).trim();
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deepest_of(text: &str) -> Result<(u64, Vec<String>), String> {
        deepest_through(text, &[])
    }

    /// With words that hold pointers.
    fn deepest_through(text: &str, words: &[u64]) -> Result<(u64, Vec<String>), String> {
        let functions = disassembly::functions(text);
        let read = pointers::find(&functions, words)
            .and_then(|pointers| Calls::read(&functions, &pointers));
        let calls = read.map_err(|problem| problem.message)?;
        let (bytes, path) = calls.deepest().map_err(|problem| problem.message)?;
        Ok((
            bytes,
            path.iter().map(|call| call.name.to_owned()).collect(),
        ))
    }

    #[test]
    fn frames_on_the_deepest_path_add_up() {
        let text = "
0000000000001000 <outer>:
    1000:      \tsub\tsp, sp, #0x1, lsl #12 // =0x1000
    1004:      \tsub\tsp, sp, #0x10
    1008:      \tcbz\tx0, 0x1000 <outer>
    100c:      \tbl\t0x2000 <shallow>
    1010:      \tb\t0x3000 <deep>

0000000000002000 <shallow>:
    2000:      \tstr\tx30, [sp, #-16]!
    2004:      \tret

0000000000003000 <deep>:
    3000:      \tstp\tx29, x30, [sp, #-0x20]!
    3004:      \tstr\tx0, [x1, #8]!
    3008:      \tret
";
        let (bytes, path) = deepest_of(text).expect("bounded");
        assert_eq!(bytes, 0x1000 + 0x10 + 0x20);
        assert_eq!(path, ["outer", "deep"]);
    }

    #[test]
    fn recursion_and_unknown_frames_are_refused() {
        let itself = "
0000000000001000 <walk>:
    1000:      \tsub\tsp, sp, #0x10
    1004:      \tbl\t0x1000 <walk>
";
        assert!(
            deepest_of(itself)
                .expect_err("recursion")
                .contains("walk calls itself")
        );
        let pair = "
0000000000001000 <even>:
    1000:      \tstr\tx30, [sp, #-16]!
    1004:      \tbl\t0x2000 <odd>

0000000000002000 <odd>:
    2000:      \tb\t0x1000 <even>
";
        assert!(
            deepest_of(pair)
                .expect_err("recursion")
                .contains("even -> odd")
        );
        let array = "
0000000000001000 <array>:
    1000:      \tsub\tsp, sp, x8
";
        assert!(deepest_of(array).expect_err("unknown").contains("array"));
    }

    #[test]
    fn assembly_may_branch_to_and_fro() {
        let text = "
0000000000001000 <run>:
    1000:      \tsub\tsp, sp, #0x80
    1004:      \tb\t0x2000 <vectors>

0000000000002000 <vectors>:
    2000:      \tbl\t0x3000 <handle>
    2004:      \tb\t0x1004 <run+0x4>

0000000000003000 <handle>:
    3000:      \tsub\tsp, sp, #0x40
";
        let (bytes, _) = deepest_of(text).expect("bounded");
        assert_eq!(bytes, 0xc0);
    }

    #[test]
    fn calls_through_pointers_nest_as_messages_do() {
        let text = "
0000000000001000 <core::fmt::write>:
; /rustc/5980/library/core/src/fmt/mod.rs:1664
    1000:      \tsub\tsp, sp, #0x100
    1004:      \tblr\tx8

0000000000002000 <<u64 as core::fmt::Display>::fmt>:
    2000:      \tsub\tsp, sp, #0x20
    2004:      \tbl\t0x1000 <core::fmt::write>

0000000000003000 <penumbra_core::unrelated::flush>:
    3000:      \tsub\tsp, sp, #0x1f0
";
        let (bytes, _) = deepest_through(text, &[0x2000]).expect("bounded");
        let nested = u64::try_from(NESTED_POINTERS).expect("small");
        assert_eq!(bytes, (nested + 1) * 0x120);
    }
}
