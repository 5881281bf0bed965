//! Which calls of EL2 go through pointers, and which functions these can lead to.
//!
//! Both are read from the image, not guessed from names: a branch through a register that is not the
//! table of a `match`, and a function whose address an instruction takes or a word holds that the image
//! relocates when it starts. Each must belong to a family of [`FAMILIES`] or [`ENTRIES`]; whoever adds a
//! pointer has to say here what it is for.

use std::collections::{BTreeMap, BTreeSet};

use super::{holder, number};
use crate::disassembly::{self, Function, Instruction};
use crate::problem::Problem;

/// Pointers of one purpose.
struct Family {
    /// Parts of the file and line of the calls through them.
    calls: &'static [&'static str],
    /// Parts of the names of the functions that they lead to.
    functions: &'static [&'static str],
}

const FAMILIES: [Family; 2] = [
    // What formats, logs and takes text.
    Family {
        calls: &["core/src/fmt/", "log-0.4."],
        functions: &[" as core::fmt::", "core::fmt::Write::", " as log::Log>::"],
    },
    // What a board brings along: its firmware's answers at boot, and how it is switched off and reset.
    Family {
        calls: &["common/src/start.rs:", "hal/src/power.rs:"],
        functions: &[
            "penumbra_qemu_virt::ask_nobody",
            "penumbra_rpi4::mailbox::ask_firmware",
            "penumbra_rpi4::watchdog::off",
            "penumbra_rpi4::watchdog::reset",
        ],
    },
];

/// Where firmware and exceptions enter, with a stack that is empty or a vCPU's: nobody calls these. The
/// first is `_start`: start.S reckons from it.
const ENTRIES: [&str; 4] = [
    "penumbra_image_start",
    "penumbra_secondary",
    "penumbra_spin_secondary",
    "penumbra_vectors",
];

/// The pointers of an image.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pointers {
    /// Functions that call, or end in, what a pointer leads to.
    pub(super) callers: BTreeSet<u64>,
    /// Functions that a pointer may lead to.
    pub(super) reached: BTreeSet<u64>,
}

/// Finds the pointers among functions and words.
///
/// # Errors
/// A call or a function belongs to no family.
pub(super) fn find(functions: &[Function<'_>], words: &[u64]) -> Result<Pointers, Problem> {
    let mut pointers = Pointers::default();
    let mut unknown = Vec::new();
    for function in functions {
        for call in function.body.iter().filter(|one| is_call(function, one)) {
            let place = disassembly::short(call.place);
            if !belongs(place, |family| family.calls) {
                let name = disassembly::readable(function.name);
                unknown.push(format!("{name} calls through a pointer at {place}"));
            }
            pointers.callers.insert(function.address);
        }
    }
    for (address, place) in taken(functions, words) {
        let Some(function) = functions.iter().find(|one| one.address == address) else {
            continue;
        };
        let name = disassembly::readable(function.name);
        if belongs(&name, |family| family.functions) {
            pointers.reached.insert(address);
        } else if !ENTRIES.contains(&name.as_str()) {
            unknown.push(format!("{name} is pointed to from {place}"));
        }
    }
    if unknown.is_empty() {
        return Ok(pointers);
    }
    unknown.sort();
    unknown.dedup();
    let message = format!("EL2 has unknown pointers:\n{}", unknown.join("\n"));
    Err(Problem::new(message)
        .help("name the family of each in tools/penumbra/src/stacks/pointers.rs"))
}

fn belongs(text: &str, parts: impl Fn(&Family) -> &'static [&'static str]) -> bool {
    let mut families = FAMILIES.iter();
    families.any(|family| parts(family).iter().any(|part| text.contains(part)))
}

/// Whether an instruction goes where a pointer says. `ret` goes back to a caller, whatever register it names.
fn is_call(function: &Function<'_>, one: &Instruction<'_>) -> bool {
    let calls = one.operation.starts_with("blr");
    let jumps = one.operation == "br" || one.operation.starts_with("bra");
    calls || jumps && !is_table(function, one)
}

/// Whether a `br` is the table of a `match`: its register was last set by `add` of an offset to what
/// `adr` took of this very function. Everything else counts as a pointer.
fn is_table(function: &Function<'_>, jump: &Instruction<'_>) -> bool {
    let register = jump.operands;
    let before = function.body.iter().rev();
    let mut setters = before
        .skip_while(|one| one.address >= jump.address)
        .filter(|one| one.operands.split(',').next() == Some(register));
    let Some(("add", sum)) = setters.next().map(|one| (one.operation, one.operands)) else {
        return false;
    };
    let base = setters
        .next()
        .filter(|one| one.operation == "adr")
        .and_then(|one| one.target);
    sum.starts_with(&format!("{register}, {register}, "))
        && base.is_some_and(|base| function.holds(base.address))
}

/// Every function whose address is taken, and one of the places where.
fn taken<'a>(functions: &[Function<'a>], words: &[u64]) -> BTreeMap<u64, &'a str> {
    let mut taken = BTreeMap::new();
    for &word in words {
        if let Some(address) = holder(functions, word) {
            taken.insert(address, "data");
        }
    }
    for function in functions {
        let mut pages: BTreeSet<(&str, u64)> = BTreeSet::new();
        for one in &function.body {
            let mut operands = one.operands.split(", ");
            let register = operands.next().unwrap_or_default();
            let from = operands.next().unwrap_or_default();
            let addresses: Vec<u64> = match (one.operation, one.target) {
                ("adr", Some(target)) => vec![target.address],
                ("adrp", Some(target)) => {
                    pages.insert((register, target.address));
                    Vec::new()
                }
                // Whichever page the register holds by then: one too many is reported, none is missed.
                ("add", _) => {
                    let offset = operands
                        .next()
                        .and_then(|text| number(text.strip_prefix('#')?));
                    let held = pages.iter().filter(|(register, _)| *register == from);
                    held.filter_map(|(_, page)| page.checked_add(offset?))
                        .collect()
                }
                _ => Vec::new(),
            };
            for address in addresses {
                // Within itself it takes tables and labels; its first instruction is itself.
                if let Some(holder) = holder(functions, address)
                    && (holder != function.address || address == holder)
                {
                    taken.insert(holder, disassembly::short(one.place));
                }
            }
        }
    }
    taken
}

/// The words of a flat image, linked at 0, that it relocates when it starts: a table in ELF's RELR
/// format, of an even address and, in odd words after it, a bit for each of the 63 words that follow.
pub(super) fn relocated(image: &[u8], table: std::ops::Range<usize>) -> Vec<u64> {
    let word = |at: usize| {
        let bytes = image.get(at..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let mut words = Vec::new();
    let mut next = 0_usize;
    for entry in table.step_by(8).filter_map(word) {
        if entry & 1 == 0 {
            let at = usize::try_from(entry).unwrap_or(usize::MAX);
            words.extend(word(at));
            next = at.saturating_add(8);
            continue;
        }
        let marked = (0..63_usize).filter(|bit| entry >> (bit + 1) & 1 == 1);
        words.extend(marked.filter_map(|bit| word(next.checked_add(8 * bit)?)));
        next = next.saturating_add(63 * 8);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `match`, a call of each kind, and the addresses of a function and of a vtable's entries.
    const KNOWN: &str = "
0000000000001000 <penumbra_core::exit::answer>:
    1000:      \tadr\tx9, 0x1014 <penumbra_core::exit::answer+0x14>
    1004:      \tldrb\tw10, [x8, x0]
    1008:      \tadd\tx9, x9, w10, lsl #2
    100c:      \tmov\tw8, #0x4
    1010:      \tbr\tx9
    1014:      \tret\tx5

0000000000002000 <core::fmt::write>:
; /rustc/5980/library/core/src/fmt/mod.rs:1664
    2000:      \tblr\tx8
    2004:      \tldr\tx3, [x8, #0x18]
    2008:      \tbr\tx3

0000000000003000 <penumbra_platform::start::Platform::start>:
; /home/me/penumbra/platforms/common/src/start.rs:70
    3000:      \tblr\tx9
    3004:      \tadrp\tx8, 0x4000 <penumbra_start>
    3008:      \tadd\tx8, x8, #0x10
    300c:      \tadr\tx9, 0x5000 <penumbra_image_start>

0000000000004010 <_$LT$penumbra_platform..firmware..Firmware$u20$as$u20$core..fmt..Display$GT$::fmt>:
    4010:      \tret

0000000000004020 <penumbra_rpi4::watchdog::off>:
    4020:      \tret

0000000000004030 <penumbra_core::not::pointed::to>:
    4030:      \tret

0000000000005000 <penumbra_image_start>:
    5000:      \tret
";

    fn find_in(text: &str, words: &[u64]) -> Result<Pointers, String> {
        find(&disassembly::functions(text), words).map_err(|problem| problem.message)
    }

    #[test]
    fn pointers_are_calls_and_addresses_but_not_tables() {
        let pointers = find_in(KNOWN, &[0x4020, 0x9_0000]).expect("all known");
        assert_eq!(pointers.callers, BTreeSet::from([0x2000, 0x3000]));
        assert_eq!(pointers.reached, BTreeSet::from([0x4010, 0x4020]));
    }

    #[test]
    fn a_call_of_no_family_is_refused() {
        let elsewhere = KNOWN.replace("common/src/start.rs:70", "common/src/new.rs:7");
        let message = find_in(&elsewhere, &[]).expect_err("unknown call");
        assert_eq!(
            message,
            "EL2 has unknown pointers:\n\
             penumbra_platform::start::Platform::start calls through a pointer at common/src/new.rs:7"
        );
        // Neither a table outside the function nor an unusual way to reckon with one is a `match`.
        for (of, to) in [
            ("x9, 0x1014", "x9, 0x4030"),
            ("x9, x9, w10, lsl #2", "x9, x11, w10, lsl #2"),
            ("mov\tw8, #0x4", "ldr\tx9, [x8]"),
        ] {
            let message = find_in(&KNOWN.replace(of, to), &[]).expect_err("no table");
            assert!(
                message.contains("penumbra_core::exit::answer calls through a pointer at ?"),
                "{message}"
            );
        }
    }

    #[test]
    fn an_address_of_no_family_is_refused() {
        // In data, by one instruction, by two, and in the middle of a function.
        let adr = KNOWN.replace("adr\tx9, 0x5000", "adr\tx9, 0x4030");
        let adrp = KNOWN.replace("x8, x8, #0x10", "x8, x8, #0x30");
        let middle = KNOWN.replace("adr\tx9, 0x5000", "adr\tx9, 0x1004");
        for (text, words, name) in [
            (
                KNOWN,
                [0x4030].as_slice(),
                "penumbra_core::not::pointed::to is pointed to from data",
            ),
            (
                &adr,
                &[],
                "penumbra_core::not::pointed::to is pointed to from common/src/start.rs:70",
            ),
            (
                &adrp,
                &[],
                "penumbra_core::not::pointed::to is pointed to from common/src/start.rs:70",
            ),
            (
                &middle,
                &[],
                "penumbra_core::exit::answer is pointed to from common/src/start.rs:70",
            ),
        ] {
            let message = find_in(text, words).expect_err("unknown address");
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn relocated_words_are_those_of_the_table() {
        let words: [u64; 8] = [16, 0b1011, 0x1111, 0x2222, 0x3333, 0x4444, 32, 0x5555];
        let image: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(relocated(&image, 0..16), [0x1111, 0x2222, 0x4444]);
        assert_eq!(relocated(&image, 48..56), [0x3333]);
        assert!(relocated(&image, 64..80).is_empty(), "beyond the image");
    }
}
