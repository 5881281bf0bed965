//! From reset to the first guest instruction: how many instructions, and in which functions.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::bench::{count, fields, number, row, write};
use crate::workshop::{LOAD_ADDRESS, Workshop};

/// Functions that copy, digest, zero and clean memory as much as the scenario has, by part of their symbol.
/// Memory is cleaned because it was zeroed or written, by the rule that frames reach DRAM before they
/// change owner.
const APART: [&str; 7] = [
    "cache4zero",
    "cache16clean_invalidate",
    "cache12publish_code",
    "cache7copy_in",
    "memcpy",
    "memset",
    "compress256",
];
/// Functions to name, the longest first.
const NAMED: usize = 20;

/// Address ranges of the functions of a binary that is loaded at `base`.
pub(crate) fn functions(w: &Workshop, binary: &str, base: u64) -> Result<Vec<String>, String> {
    let mut nm = w
        .project()
        .llvm("llvm-nm")
        .map_err(|problem| problem.message)?;
    nm.arg("-S").arg(w.project().elf(binary));
    let text = penumbra::toolchain::output(&mut nm).map_err(|problem| problem.message)?;
    let mut found = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, size, "t" | "T" | "w" | "W", symbol] = words.as_slice() else {
            continue;
        };
        let parse = |hex: &str| u64::from_str_radix(hex, 16).map_err(|e| e.to_string());
        let low = parse(address)? + base;
        found.push(format!(
            "{binary}.{symbol}:{low:x}:{:x}",
            low + parse(size)?
        ));
    }
    Ok(found)
}

/// A mangled symbol of Rust, shorter: its path without lengths and hash.
fn short(symbol: &str) -> String {
    let (binary, mangled) = symbol.split_once('.').unwrap_or(("", symbol));
    let Some(mut rest) = mangled.strip_prefix("_ZN") else {
        return symbol.into();
    };
    let mut path = Vec::new();
    while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) {
        let Ok(length) = rest[..end].parse::<usize>() else {
            break;
        };
        let Some(part) = rest.get(end..end + length) else {
            break;
        };
        path.push(part);
        rest = &rest[end + length..];
    }
    if path.len() > 1 {
        path.pop();
    }
    format!("{binary} {}", path.join("::"))
}

/// Measures reset to the first guest instruction, prints it, and writes `target/bench/reset.json`.
///
/// # Errors
/// A guest that did not come to its end, or a file that cannot be written.
pub fn reset(w: &Workshop) -> Result<bool, String> {
    let mut rows = Vec::new();
    reset_to_guest(w, &mut rows)?;
    write(w, "reset", &rows)?;
    Ok(true)
}

pub(crate) fn reset_to_guest(w: &Workshop, rows: &mut Vec<Value>) -> Result<(), String> {
    let toml = format!(
        "[[guest]]\nname = \"events\"\nvcpus = 1\ncores = [0]\nmemory = \"16 MiB\"\nbacking = \"thin\"\n\
         kernel = \"{}\"\ncmdline = \"n=1\"\n",
        w.payload("events").display()
    );
    let mut counted = functions(w, "penumbra-qemu-virt", LOAD_ADDRESS)?;
    counted.extend(functions(w, "manager", 0)?);
    let counts = count(w, "boot-first", &toml, 3, 1, &counted)?;
    let [manager, guest, ..] = counts.firsts.as_slice() else {
        return Err("no guest ran".into());
    };
    let el2_to_manager = number(manager, "el2").unwrap_or(0);
    let el2 = number(guest, "el2").unwrap_or(0);
    let el1: u64 = fields(guest, |key| key.ends_with("_el1"));
    println!(
        "Reset to the first guest instruction, one core, a payload of a few pages (instructions):\n"
    );
    println!("  EL2 until the manager runs           {el2_to_manager:>10}");
    println!("  EL2 until the guest runs             {el2:>10}");
    println!("  manager until the guest runs         {el1:>10}");
    println!("  both                                 {:>10}", el2 + el1);
    let (apart, mut others) = by_function(guest);
    for (name, value) in &apart {
        println!("    of which {name:42} {value:>8}");
    }
    let rest = (el2 + el1).saturating_sub(apart.values().sum());
    println!(
        "  without copies, digests and zeroing  {rest:>10}   (to reach: 400000; Xen 16.8 M, Bao 0.42 M)"
    );
    others.sort_by_key(|(_, value)| std::cmp::Reverse(*value));
    for (name, value) in others.iter().take(NAMED) {
        println!("    {value:>8} {name}");
    }
    println!();
    rows.push(row("reset-to-guest", "all", el2 + el1, None));
    rows.push(row(
        "reset-to-guest",
        "without-copies-digests-zeroing",
        rest,
        Some(400_000),
    ));
    Ok(())
}

/// The functions that ran longest, a line each.
pub(crate) fn longest(total: &Value, most: usize) -> String {
    let (apart, mut all) = by_function(total);
    all.extend(apart);
    all.sort_by_key(|(_, value)| std::cmp::Reverse(*value));
    let lines = all.iter().take(most);
    lines
        .map(|(name, value)| format!("{value:>12} {name}\n"))
        .collect()
}

/// The functions that ran longest after `before` was counted, a line each.
pub(crate) fn longest_since(before: &Value, total: &Value, most: usize) -> String {
    let since = total.as_object().into_iter().flatten().map(|(key, value)| {
        let then = number(before, key).unwrap_or(0);
        (
            key.clone(),
            value
                .as_u64()
                .map_or(Value::Null, |now| (now - then).into()),
        )
    });
    longest(&since.collect(), most)
}

/// Instructions by function: those of [`APART`], and the others.
fn by_function(guest: &Value) -> (BTreeMap<String, u64>, Vec<(String, u64)>) {
    let mut apart = BTreeMap::new();
    let mut others = Vec::new();
    for (key, value) in guest.as_object().into_iter().flatten() {
        let (Some(symbol), Some(value)) = (key.strip_prefix("range_"), value.as_u64()) else {
            continue;
        };
        if APART.iter().any(|part| symbol.contains(part)) {
            *apart.entry(short(symbol)).or_insert(0) += value;
        } else {
            others.push((short(symbol), value));
        }
    }
    (apart, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_shortened_to_their_path() {
        assert_eq!(
            short("el2._ZN4core3fmt5write17h0123456789abcdefE"),
            "el2 core::fmt::write"
        );
        assert_eq!(short("el2.memcpy"), "el2.memcpy");
    }
}
