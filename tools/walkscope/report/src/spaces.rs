//! Tables by address space and by partition.

use std::fmt::Write as _;

use crate::figures::{Part, Run, SpaceKey, Test, float};
use crate::systems::WORKLOADS;

/// Processes that are named in a row, those with the most misses.
const NAMED: usize = 3;

/// The address spaces of a test that missed in a column, most misses first.
fn ranked(test: &Test, column: usize) -> Vec<(&SpaceKey, &Part, u64)> {
    let mut found: Vec<(&SpaceKey, &Part, u64)> = test
        .spaces
        .iter()
        .filter_map(|(key, part)| Some((key, part, part.cells.get(column)?.misses)))
        .filter(|(.., misses)| *misses > 0)
        .collect();
    found.sort_by(|a, b| b.2.cmp(&a.2).then(a.0.cmp(b.0)));
    found
}

fn name((vmid, root, asid): &SpaceKey) -> String {
    match asid {
        Some(asid) => format!("{root}, ASID {asid}"),
        None => format!("{root}, kernel of VMID {vmid}"),
    }
}

/// For each workload of the first run: how the misses are spread over address spaces.
pub(crate) fn document(runs: &[Run], core: &str) -> String {
    let Some((run, column)) = runs
        .first()
        .and_then(|run| Some((run, run.column(core, "as-is")?)))
    else {
        return String::new();
    };
    let mut text = format!(
        "\nMisses by address space ({core}, {}): the processes by root and ASID, with misses per 1000 instructions \
         while they were in place\n\n\
         | workload | processes | kernel, % | first | second | third | all others, % |\n|---|--:|--:|---|---|---|--:|\n",
        run.system
    );
    for (number, workload) in WORKLOADS {
        let Some(test) = run.tests.get(&number) else {
            continue;
        };
        let spaces = ranked(test, column);
        let all: u64 = spaces.iter().map(|(.., misses)| misses).sum();
        let percent = |misses: u64| 100.0 * float(misses) / float(all.max(1));
        let (processes, kernels): (Vec<_>, Vec<_>) =
            spaces.into_iter().partition(|(key, ..)| key.2.is_some());
        let kernel: u64 = kernels.iter().map(|(.., misses)| misses).sum();
        let _ = write!(
            text,
            "| {workload} | {} | {:.0} |",
            processes.len(),
            percent(kernel)
        );
        let named = processes.len().min(NAMED);
        let (first, others) = processes.split_at(named);
        for (key, part, misses) in first {
            let _ = write!(
                text,
                " {}: {:.0} %, {:.2} |",
                name(key),
                percent(*misses),
                part.mpki(column)
            );
        }
        text.push_str(&" - |".repeat(NAMED - named));
        let rest: u64 = others.iter().map(|(.., misses)| misses).sum();
        let _ = writeln!(text, " {:.0} |", percent(rest));
    }
    text
}

/// The address spaces with the most misses of a test, for a list.
pub(crate) fn details(test: &Test, columns: &[(String, String)]) -> String {
    let mut text = String::new();
    let Some(column) = columns.iter().position(|(_, mode)| mode == "as-is") else {
        return text;
    };
    for (key, part, misses) in ranked(test, column).into_iter().take(2 * NAMED) {
        let _ = writeln!(
            text,
            "  space {:<40} {misses:>9} misses {:>8.3} per 1000 of its {} instructions",
            name(key),
            part.mpki(column),
            part.instructions
        );
    }
    text
}

/// The whole runs by partition: the guest and the manager are told apart by their VMID.
pub(crate) fn partitions(runs: &[Run]) -> String {
    let mut text = String::from(
        "\n### Whole runs by partition (as-is)\n\n\
         | system | core | VMID | instructions | misses | per 1000 | reads per miss |\n|---|---|--:|--:|--:|--:|--:|\n",
    );
    for run in runs {
        for (column, (core, _)) in run
            .columns
            .iter()
            .enumerate()
            .filter(|(_, (_, mode))| mode == "as-is")
        {
            for (vmid, part) in &run.partitions {
                let Some(cell) = part.cells.get(column) else {
                    continue;
                };
                let _ = writeln!(
                    text,
                    "| {} | {core} | {vmid} | {} | {} | {:.3} | {:.2} |",
                    run.system,
                    part.instructions,
                    cell.misses,
                    part.mpki(column),
                    float(cell.reads()) / float(cell.misses.max(1))
                );
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::example;

    #[test]
    fn processes_come_by_their_misses_beside_the_kernel() {
        let text = document(&[example()], "cortex-a72");
        let row = "| random pread, 64 bytes | 1 | 40 | 0x1000, ASID 7: 60 %, 15.00 | - | - | 0 |";
        assert!(text.contains(row), "{text}");
        let text = details(&example().tests[&3], &example().columns);
        assert!(text.contains("0x2000, kernel of VMID 0"), "{text}");
    }

    #[test]
    fn every_partition_has_a_row() {
        let text = partitions(&[example()]);
        assert!(
            text.contains("| bare | cortex-a72 | 0 | 1200 | 12 | 10.000 | 5.00 |"),
            "{text}"
        );
        assert!(
            text.contains("| bare | cortex-a72 | 1 | 6 | 0 | 0.000 | 0.00 |"),
            "{text}"
        );
    }
}
