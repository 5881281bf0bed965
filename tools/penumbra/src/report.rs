//! The sizes of a built image.

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
