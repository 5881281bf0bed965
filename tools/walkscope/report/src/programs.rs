//! Programs from Debian's packages for the guest, with the shared libraries that they need.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::abi::{DT_NEEDED, PT_INTERP};
use elf::endian::LittleEndian;

/// Programs: where they lie in the packages, and in the guest. Debian's redis server is the program
/// that also checks dumps: it goes by its name.
const PROGRAMS: [(&str, &str); 6] = [
    ("usr/bin/redis-check-rdb", "bin/redis-server"),
    ("usr/bin/redis-benchmark", "bin/redis-benchmark"),
    ("usr/bin/sqlite3", "bin/sqlite3"),
    ("usr/bin/cyclictest", "bin/cyclictest"),
    (
        "usr/lib/xapian-examples/examples/simpleindex",
        "bin/simpleindex",
    ),
    (
        "usr/lib/xapian-examples/examples/simplesearch",
        "bin/simplesearch",
    ),
];

/// Where libraries lie in the packages.
const LIBRARIES: [&str; 2] = ["lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu"];

/// Files to add to the initramfs: on the host, and their path in the guest.
///
/// # Errors
/// A sentence: a file is missing or no ELF file.
pub(crate) fn files(packages: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let mut files = Vec::new();
    let mut wanted = Vec::new();
    for (from, to) in PROGRAMS {
        let path = packages.join(from);
        wanted.extend(needs(&path)?);
        files.push((path, to.to_owned()));
    }
    let mut known = BTreeSet::new();
    while let Some(need) = wanted.pop() {
        if !known.insert(need.clone()) {
            continue;
        }
        let path = find(packages, &need)?;
        wanted.extend(needs(&path)?);
        let to = match need {
            Need::Interpreter(path) => path.trim_start_matches('/').to_owned(),
            Need::Library(name) => format!("lib/aarch64-linux-gnu/{name}"),
        };
        files.push((path, to));
    }
    Ok(files)
}

/// What a program or library asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// The dynamic linker, by its path.
    Interpreter(String),
    /// A library, by its name.
    Library(String),
}

fn find(packages: &Path, need: &Need) -> Result<PathBuf, String> {
    let found = match need {
        Need::Interpreter(path) => {
            let path = path.trim_start_matches('/');
            [packages.join(path), packages.join("usr").join(path)]
                .into_iter()
                .find(|path| path.is_file())
        }
        Need::Library(name) => LIBRARIES
            .iter()
            .map(|folder| packages.join(folder).join(name))
            .find(|path| path.is_file()),
    };
    found.ok_or_else(|| {
        format!(
            "{need:?} is not in {}: remove that folder and run `tools/fetch-arm64 programs`",
            packages.display()
        )
    })
}

fn needs(path: &Path) -> Result<Vec<Need>, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&bytes).map_err(|why| format!("{}: {why}", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Vec<Need>, String> {
    let sentence = |error: elf::ParseError| error.to_string();
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(sentence)?;
    let mut needs = Vec::new();
    for segment in file.segments().into_iter().flatten() {
        if segment.p_type == PT_INTERP {
            let data = file.segment_data(&segment).map_err(sentence)?;
            let text = String::from_utf8_lossy(data);
            needs.push(Need::Interpreter(text.trim_end_matches('\0').to_owned()));
        }
    }
    let common = file.find_common_data().map_err(sentence)?;
    if let (Some(dynamic), Some(strings)) = (common.dynamic, common.dynsyms_strs) {
        for entry in dynamic.into_iter().filter(|entry| entry.d_tag == DT_NEEDED) {
            let at = usize::try_from(entry.d_val()).map_err(|_| "a name out of range")?;
            needs.push(Need::Library(strings.get(at).map_err(sentence)?.to_owned()));
        }
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_program_is_refused() {
        assert!(parse(b"#!/bin/sh\n").is_err());
        assert!(parse(&[]).is_err());
    }

    #[test]
    fn a_missing_library_names_the_recipe() {
        let need = Need::Library("libnothing.so.1".into());
        let sentence = find(Path::new("nowhere"), &need).unwrap_err();
        assert!(sentence.contains("libnothing.so.1") && sentence.contains("fetch-arm64 programs"));
    }
}
