//! What the documents name is there: files, links, functions, suites, tests, recipes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::cases;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the tree but what is built or fetched, and every folder with a slash behind it.
fn tree() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{folder}{name}");
            if !entry.file_type().unwrap().is_dir() {
                found.push(path);
            } else if !["target", ".git", ".cache"].contains(&name.as_str()) {
                found.push(format!("{path}/"));
                folders.push(format!("{path}/"));
            }
        }
    }
    found
}

fn documents(tree: &[String]) -> Vec<(&str, String)> {
    let is_document =
        |path: &&String| *path == "README.md" || path.starts_with("docs/") && path.ends_with(".md");
    let paths = tree.iter().filter(is_document);
    paths.map(|path| (path.as_str(), read(path))).collect()
}

/// The text between back-ticks, each with the text behind it up to the next; nothing of fenced blocks.
fn spans(text: &str) -> Vec<(String, String)> {
    let open = text.split("```").step_by(2).collect::<String>();
    let words: Vec<&str> = open.split_whitespace().collect();
    let line = words.join(" ");
    let pieces: Vec<&str> = line.split('`').skip(1).collect();
    let pair = |pair: &[&str]| (pair[0].to_owned(), pair.get(1).unwrap_or(&"").to_string());
    pieces.chunks(2).map(pair).collect()
}

fn is_source(word: &str) -> bool {
    word.ends_with(".rs") || word.ends_with(".S")
}

/// Whether a name of the tree may be meant: whole, or its end.
fn is_there(tree: &[String], word: &str) -> bool {
    let word = word.trim_end_matches('/');
    tree.iter()
        .map(|path| path.trim_end_matches('/'))
        .any(|path| {
            path.strip_suffix(word)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        })
}

fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with(|first: char| first.is_alphabetic() || first == '_'))
}

/// The identifiers of a source file, without its comments.
fn code(path: &str) -> BTreeSet<String> {
    let text = read(path);
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.flat_map(identifiers).map(str::to_owned).collect()
}

fn none(missing: Vec<String>) {
    assert!(missing.is_empty(), "not there:\n{}", missing.join("\n"));
}

#[test]
fn links_and_paths_exist() {
    let tree = tree();
    let mut missing = Vec::new();
    for (document, text) in documents(&tree) {
        let folder = root().join(document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if !target.contains(':') && !folder.join(target).exists() {
                missing.push(format!("{document}: link {target}"));
            }
        }
        let blocks = text.lines().filter(|line| line.starts_with("    "));
        let spans = spans(&text);
        let words = spans.iter().map(|(span, _)| span.as_str()).chain(blocks);
        for word in words.flat_map(str::split_whitespace) {
            let word = word.trim_end_matches(['.', ',', ':', ';']);
            let plain = |letter: char| letter.is_ascii_alphanumeric() || "_./-".contains(letter);
            let elsewhere = ["/", "-", "target/", ".cache/", "path/to/"];
            if word.chars().all(plain)
                && word.starts_with(|first: char| !first.is_ascii_digit())
                && (word.contains('/') || is_source(word))
                && !elsewhere.iter().any(|start| word.starts_with(start))
                && !is_there(&tree, word)
            {
                missing.push(format!("{document}: {word}"));
            }
        }
    }
    none(missing);
}

/// Of the pages that lead through the code: what they call by name, and where they say it is.
#[test]
fn names_in_the_tour_exist() {
    let tree = tree();
    let sources: BTreeMap<&str, BTreeSet<String>> = tree
        .iter()
        .filter(|path| is_source(path) || path.ends_with(".sh"))
        .map(|path| (path.as_str(), code(path)))
        .collect();
    let mut missing = Vec::new();
    for document in ["docs/tour.md", "docs/architecture.md", "docs/compound.md"] {
        let spans = spans(&read(document));
        for (name, _) in spans
            .iter()
            .filter(|(span, _)| !span.contains(['/', ' ', '-']))
        {
            if !is_source(name) {
                let gone = |word: &&str| !sources.values().any(|code| code.contains(*word));
                let gone = identifiers(name).filter(gone);
                missing.extend(gone.map(|word| format!("{document}: {word} of {name}")));
            }
        }
        for pair in spans.windows(2) {
            let [(first, between), (second, _)] = pair else {
                unreachable!("windows of two");
            };
            // `name` (`place`), or `place`, `name`.
            let (name, place) = match between.as_str() {
                " (" if is_source(second) => (first, second),
                ", " if is_source(first) => (second, first),
                _ => continue,
            };
            let Some(last) = identifiers(name).last().filter(|_| !is_source(name)) else {
                continue;
            };
            let mut files = sources
                .iter()
                .filter(|(path, _)| path.ends_with(place.as_str()));
            if !files.any(|(_, code)| code.contains(last)) {
                missing.push(format!("{document}: {name} in {place}"));
            }
        }
    }
    none(missing);
}

/// Whether a name matches a pattern with `*` for any letters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name
            .strip_prefix(start)
            .is_some_and(|name| (0..=name.len()).any(|at| matches(rest, &name[at..]))),
    }
}

#[test]
fn suites_exist() {
    let all = cases::all();
    let mut missing = Vec::new();
    for (document, column) in [("docs/status.md", 3), ("docs/testing.md", 1)] {
        let text = read(document);
        let rows = text.split("## ").filter(|part| {
            document != "docs/testing.md" || part.starts_with("The suites (tests/suites)")
        });
        let mut looked_at = 0;
        for row in rows
            .flat_map(str::lines)
            .filter(|line| line.starts_with('|'))
        {
            for (pattern, _) in spans(row.split('|').nth(column).unwrap_or_default()) {
                let letter = |one: char| {
                    one.is_ascii_lowercase() || one.is_ascii_digit() || "-*".contains(one)
                };
                let is_suite = !pattern.starts_with('-') && pattern.contains('-');
                if is_suite && pattern.chars().all(letter) {
                    looked_at += 1;
                    if !all.iter().any(|case| matches(&pattern, &case.name)) {
                        missing.push(format!("{document}: suite {pattern}"));
                    }
                }
            }
        }
        assert!(looked_at > 15, "{document}: {looked_at} suites looked at");
    }
    none(missing);
}

/// The tests of each crate, by the crate's name: file within the crate as a path of modules, and function.
fn tests(tree: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut tests = BTreeMap::new();
    for manifest in tree.iter().filter(|path| path.ends_with("Cargo.toml")) {
        let text = read(manifest);
        let Some(name) = text.lines().find_map(|line| line.strip_prefix("name = \"")) else {
            continue;
        };
        let folder = manifest.trim_end_matches("Cargo.toml");
        let mut found = Vec::new();
        for path in tree
            .iter()
            .filter(|path| path.starts_with(folder) && path.ends_with(".rs"))
        {
            let module = path[folder.len()..]
                .trim_end_matches(".rs")
                .replace('/', "::");
            let text = read(path);
            for test in text.split("#[test]").skip(1) {
                let function = test.split("fn ").nth(1).unwrap_or_default();
                found.extend(
                    identifiers(function)
                        .next()
                        .map(|name| format!("{module}::{name}")),
                );
            }
        }
        tests.insert(name.trim_end_matches('"').to_owned(), found);
    }
    tests
}

#[test]
fn filters_of_host_tests_match() {
    let tree = tree();
    let tests = tests(&tree);
    let mut missing = Vec::new();
    let mut looked_at = 0;
    for (document, text) in documents(&tree) {
        for (span, _) in spans(&text) {
            let words: Vec<&str> = span.split_whitespace().collect();
            if !span.starts_with("cargo test -p ") && !span.starts_with("-p penumbra") {
                continue;
            }
            looked_at += 1;
            let packages = words
                .windows(2)
                .filter(|pair| pair[0] == "-p")
                .map(|pair| pair[1]);
            let after = words
                .iter()
                .rposition(|word| *word == "-p")
                .map_or(0, |at| at + 2);
            // `--test NAME` is a file of the folder tests, and `--` ends what cargo reads.
            let filter = words[after..].iter().find(|word| **word != "--test");
            for package in packages {
                let filter = filter.filter(|word| **word != "--").unwrap_or(&"");
                let of = tests.get(package).map_or(&[][..], Vec::as_slice);
                if !of.iter().any(|test| test.contains(filter)) {
                    missing.push(format!("{document}: {span}"));
                }
            }
        }
    }
    assert!(looked_at > 50, "{looked_at} commands looked at");
    none(missing);
}

#[test]
fn recipes_exist() {
    let tree = tree();
    let justfile = read("justfile");
    let recipes: BTreeSet<&str> = justfile
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()))
        .filter_map(|line| line.split([' ', ':']).next())
        .collect();
    let mut missing = Vec::new();
    for (document, text) in documents(&tree) {
        let spans = spans(&text);
        let blocks = text.lines().filter_map(|line| line.strip_prefix("    "));
        for command in spans.iter().map(|(span, _)| span.as_str()).chain(blocks) {
            let Some(recipe) = command.strip_prefix("just ") else {
                continue;
            };
            let mut words = recipe.split_whitespace();
            let (recipe, argument) = (words.next().unwrap_or_default(), words.next());
            let bench = argument.filter(|_| recipe == "bench").unwrap_or("walks");
            let known = ["walks", "NAME"].contains(&bench)
                || read("tests/suites/src/main.rs").contains(&format!("\"bench-{bench}\""));
            if !recipes.contains(recipe) || !known {
                missing.push(format!("{document}: {command}"));
            }
        }
    }
    none(missing);
}

#[test]
fn the_readers_of_documents_read() {
    assert_eq!(
        spans("a `b` (`c/d.rs`), ```x `y` z``` and\n`e\nf`."),
        [("b", " ("), ("c/d.rs", "), and "), ("e f", ".")].map(|(a, b)| (a.into(), b.into()))
    );
    let tree = [
        "kernel/".to_owned(),
        "kernel/core/src/run_loop.rs".to_owned(),
    ];
    assert!(is_there(&tree, "run_loop.rs") && is_there(&tree, "kernel"));
    assert!(!is_there(&tree, "loop.rs") && !is_there(&tree, "core/src/gone.rs"));
    assert!(matches("linux-*-thin-*", "linux-cloud-thin-4s") && !matches("linux-*", "linu"));
    let words: Vec<&str> = identifiers("Compound::store(a1, .Lroot)").collect();
    assert_eq!(words, ["Compound", "store", "a1", "Lroot"]);
}
