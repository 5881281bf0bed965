//! What stage 2 costs, by what maps each 2 MiB: why a block is not one leaf.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::figures::{Run, Test};
use crate::systems::WORKLOADS;

/// IPAs from here on hold what a hypervisor puts beside the guest's RAM: Penumbra's mirrors and aliases.
const WINDOW: u64 = 1 << 39;

/// The kinds of blocks, in the order of the tables, with headings.
const KINDS: [(&str, &str); 8] = [
    ("window", "window"),
    ("large", "2 MiB and more"),
    ("whole", "512 pages"),
    ("part", "pages, some untouched"),
    ("watched", "pages, some read-only"),
    ("watched part", "both"),
    ("moved", "pages out of order"),
    ("absent", "gone"),
];

/// What misses found of stage 2 in blocks of a kind, in a column.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// Descriptors read to translate the guest's tables.
    pub(crate) tables: u64,
    /// Descriptors read to translate what its leaves name.
    pub(crate) outputs: u64,
}

/// Stage 2 in a test.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stage2 {
    /// By kind, in the order of the columns.
    pub(crate) kinds: BTreeMap<String, Vec<Found>>,
    /// Blocks: reads in the first column, and a line about it.
    spots: Vec<(u64, String)>,
}

impl Stage2 {
    /// Adds a window of the plugin's.
    pub(crate) fn add(&mut self, window: &Value, columns: usize) -> Option<()> {
        let own = window.get("vmid")?.as_u64()?;
        // Files from before there were blocks have none.
        let Some(blocks) = window.get("blocks") else {
            return Some(());
        };
        for block in blocks.as_array()? {
            if block.get("vmid")?.as_u64()? != own {
                continue;
            }
            let text = block.get("ipa")?.as_str()?;
            let ipa = u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()?;
            let shape = block.get("shape")?.as_str()?;
            let kind = if ipa >= WINDOW { "window" } else { shape };
            let tables = block.get("tables")?.as_bool()?;
            let found = self.kinds.entry(kind.to_owned()).or_default();
            found.resize(columns, Found::default());
            let reads = block.get("reads")?.as_array()?;
            for (found, reads) in found.iter_mut().zip(reads) {
                let reads = reads.as_u64()?;
                if tables {
                    found.tables += reads;
                } else {
                    found.outputs += reads;
                }
            }
            let number = |key: &str| block.get(key).and_then(Value::as_u64);
            let pages = number("valid").map_or_else(String::new, |valid| {
                format!(
                    ", {valid} pages, {} read-only",
                    number("read_only").unwrap_or(0)
                )
            });
            let what = if tables { "tables" } else { "output" };
            let first = reads.first()?.as_u64()?;
            self.spots
                .push((first, format!("{text} ({what}, {kind}{pages}): {first}")));
        }
        Some(())
    }

    /// Whether stage 2 was anything but large leaves.
    fn is_fine(&self) -> bool {
        let coarse = ["window", "large", "absent"];
        let reads = |found: &Found| found.tables + found.outputs > 0;
        let mut kinds = self.kinds.iter();
        kinds.any(|(kind, found)| !coarse.contains(&kind.as_str()) && found.iter().any(reads))
    }
}

/// A table for each core of a system whose stage 2 has pages; nothing for others.
pub(crate) fn document(runs: &[Run], core: &str) -> String {
    let mut text = String::new();
    for run in runs {
        let fine = run.tests.values().any(|test| test.stage2.is_fine());
        let Some(index) = run.column(core, "as-is").filter(|_| fine) else {
            continue;
        };
        let _ = write!(
            text,
            "\nDescriptors of stage 2 that were read, by what mapped the 2 MiB when the window closed, for the guest's tables / for what its leaves name ({core}, {}):\n\n| workload | stage 1 |",
            run.system
        );
        let ran: Vec<(&str, &Test)> = WORKLOADS
            .iter()
            .filter_map(|(number, name)| Some((*name, run.tests.get(number)?)))
            .collect();
        let kinds = KINDS.iter().filter(|(kind, _)| {
            let mut tests = ran.iter();
            tests.any(|(_, test)| test.stage2.kinds.contains_key(*kind))
        });
        let kinds: Vec<_> = kinds.collect();
        kinds.iter().for_each(|(_, heading)| {
            let _ = write!(text, " {heading} |");
        });
        let _ = writeln!(text, "\n|---|--:|{}", "--:|".repeat(kinds.len()));
        for (name, test) in &ran {
            let stage1 = test.cells.get(index).map_or(0, |cell| cell.stage1_reads);
            let _ = write!(text, "| {name} | {stage1} |");
            for (kind, _) in &kinds {
                let found = test.stage2.kinds.get(*kind);
                let found = found.and_then(|found| found.get(index)).copied();
                let Found { tables, outputs } = found.unwrap_or_default();
                let _ = write!(text, " {tables} / {outputs} |");
            }
            text.push('\n');
        }
    }
    text
}

/// The blocks with the most reads, for one test.
pub(crate) fn details(test: &Test) -> String {
    let mut spots: Vec<_> = test.stage2.spots.iter().filter(|(n, _)| *n > 0).collect();
    spots.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut text = String::new();
    for (_, line) in spots.into_iter().take(12) {
        let _ = writeln!(text, "  stage-2 reads at {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::example;
    use serde_json::json;

    #[test]
    fn reads_go_to_kinds_of_blocks_and_the_window_is_one() {
        let block = |ipa: &str, tables: bool, shape: &str, reads: u64| {
            json!({"vmid": 2, "ipa": ipa, "tables": tables, "shape": shape, "valid": 77, "read_only": 1,
                "translations": [reads], "reads": [reads]})
        };
        let mut other = block("0x40000000", false, "part", 1000);
        other["vmid"] = json!(1);
        let window = json!({"vmid": 2, "blocks": [
            block("0x40000000", false, "part", 30), block("0x40200000", false, "part", 3),
            block("0x40000000", true, "part", 7), block("0x8000000000", true, "large", 4), other]});
        let mut run = example();
        run.system = "thin".into();
        let test = run.tests.get_mut(&3).unwrap();
        test.stage2.add(&window, 1).unwrap();
        let part = test.stage2.kinds["part"][0];
        assert_eq!((part.tables, part.outputs), (7, 33));
        assert!(
            details(test).starts_with(
                "  stage-2 reads at 0x40000000 (output, part, 77 pages, 1 read-only): 30\n"
            ),
            "{}",
            details(test)
        );
        let text = document(&[run], "cortex-a72");
        assert!(
            text.contains("| workload | stage 1 | window | pages, some untouched |")
                && text.contains("| random pread, 64 bytes | 40 | 4 / 0 | 7 / 33 |"),
            "{text}"
        );
        // Nothing is said of a system with large leaves alone.
        assert_eq!(document(&[example()], "cortex-a72"), "");
    }
}
