//! Reports about a built image: its size, and the panics that are left in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::problem::Problem;
use crate::toolchain::{Project, output};

/// Sizes of the sections of an ELF file, as a table for people.
///
/// # Errors
/// The file is not there, or the toolchain lacks its tool.
pub fn sections(project: &Project, elf: &Path) -> Result<String, Problem> {
    let text = output(project.llvm("llvm-size")?.arg("-A").arg(elf))?;
    let mut table = String::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(section), Some(bytes)) = (words.next(), words.next()) else {
            continue;
        };
        let loaded = section.starts_with('.')
            && ![".debug", ".symtab", ".strtab", ".shstrtab", ".comment"]
                .iter()
                .any(|prefix| section.starts_with(prefix));
        if loaded && bytes != "0" {
            let _ = writeln!(table, "  {section:<16}{bytes:>10}");
        }
    }
    Ok(table)
}

/// Functions of `core` that only a panic calls, in the image of a platform: those that the allow
/// list does not name, and names of the list that are not there any more.
///
/// # Errors
/// The file is not there, or the toolchain lacks its tool.
pub fn panics(project: &Project, elf: &Path, allowed: &str) -> Result<Panics, Problem> {
    let text = output(project.llvm("llvm-nm")?.arg("--demangle").arg(elf))?;
    Ok(Panics::sort(&text, allowed))
}

/// What [`panics`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Panics {
    /// Symbols that are not allowed.
    pub surplus: Vec<String>,
    /// Symbols that are allowed and there, with the reason.
    pub allowed: Vec<(String, String)>,
    /// Lines of the allow list that match nothing.
    pub unused: Vec<String>,
}

impl Panics {
    /// Sorts symbols by the allow list: one `symbol # reason` per line.
    fn sort(symbols: &str, allowed: &str) -> Self {
        let reasons: BTreeMap<&str, &str> = allowed
            .lines()
            .filter_map(|line| line.split_once('#'))
            .map(|(symbol, reason)| (symbol.trim(), reason.trim()))
            .filter(|(symbol, _)| !symbol.is_empty())
            .collect();
        let mut found: Vec<&str> = symbols
            .lines()
            .filter_map(symbol)
            .filter(|name| is_panic(name))
            .collect();
        found.sort_unstable();
        found.dedup();
        let mut panics = Self::default();
        for name in &found {
            match reasons.get(name) {
                Some(reason) => panics
                    .allowed
                    .push(((*name).to_owned(), (*reason).to_owned())),
                None => panics.surplus.push((*name).to_owned()),
            }
        }
        let unused = reasons.keys().filter(|name| !found.contains(name));
        panics.unused = unused.map(|name| (*name).to_owned()).collect();
        panics
    }
}

/// The name in a line of `nm`: address, kind, name.
fn symbol(line: &str) -> Option<&str> {
    let (_, rest) = line.trim_start().split_once(' ')?;
    let (kind, name) = rest.trim_start().split_once(' ')?;
    matches!(kind, "t" | "T" | "w" | "W").then_some(name.trim())
}

fn is_panic(name: &str) -> bool {
    [
        "core::panicking::",
        "core::slice::index::slice_",
        "core::str::slice_error_fail",
        "core::option::unwrap_failed",
        "core::option::expect_failed",
        "core::result::unwrap_failed",
        "core::cell::panic_already",
        "core::slice::copy_from_slice_impl::len_mismatch_fail",
    ]
    .iter()
    .any(|prefix| name.trim_start_matches('<').starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_sorted_by_the_allow_list() {
        let symbols = "\
0000000000001000 t core::panicking::panic_fmt
0000000000001010 t core::panicking::panic_bounds_check
0000000000001020 T penumbra_hal::start
0000000000001030 d core::panicking::SOME_DATA
                 U memcpy
0000000000001040 t core::option::unwrap_failed
0000000000001010 t core::panicking::panic_bounds_check
";
        let allowed = "\
# A comment.
core::panicking::panic_fmt # the handler's own entry
core::panicking::panic     # gone
";
        let panics = Panics::sort(symbols, allowed);
        assert_eq!(
            panics.surplus,
            [
                "core::option::unwrap_failed",
                "core::panicking::panic_bounds_check"
            ]
        );
        assert_eq!(panics.allowed.len(), 1);
        assert_eq!(panics.unused, ["core::panicking::panic"]);
    }
}
