//! How much the shares differ with where Linux happens to put its pages.

use std::fmt::Write as _;

use crate::CostArgs;
use crate::figures::Run;
use crate::systems::{WORKLOADS, counts};

/// The share of one row in one run: a test, or the total of all that count.
fn share(run: &Run, core: &str, number: Option<u64>, cost: &CostArgs) -> Option<f64> {
    let index = run.column(core, "as-is")?;
    match number {
        Some(number) => {
            let test = run.tests.get(&number)?;
            Some(test.walk_share(test.cells.get(index)?, cost))
        }
        None => {
            let total = run.total(counts);
            Some(total.walk_share(total.cells.get(index)?, cost))
        }
    }
}

/// A table for each core with the least and the greatest share of each workload in all layouts; nothing if there is one.
pub(crate) fn document(first: &[Run], others: &[Vec<Run>], cost: &CostArgs) -> String {
    let mut text = String::new();
    if others.is_empty() {
        return text;
    }
    let mut cores: Vec<&String> = Vec::new();
    for (core, _) in first.iter().flat_map(|run| &run.columns) {
        if !cores.contains(&core) {
            cores.push(core);
        }
    }
    for core in cores {
        let _ = write!(
            text,
            "\n### {core}: least and greatest share of time in walks over {} layouts of memory, %\n\n| workload |",
            others.len() + 1
        );
        first.iter().for_each(|run| {
            let _ = write!(text, " {} |", run.system);
        });
        let _ = writeln!(text, "\n|---|{}", "--:|".repeat(first.len()));
        let rows = WORKLOADS
            .iter()
            .map(|(number, name)| (Some(*number), *name));
        for (number, name) in rows.chain([(None, "all but boot and check")]) {
            let mut cells = String::new();
            let mut ran = false;
            for run in first {
                let same = others.iter().flatten().filter(|r| r.system == run.system);
                let shares: Vec<f64> = std::iter::once(run)
                    .chain(same)
                    .filter_map(|run| share(run, core, number, cost))
                    .collect();
                // With one run there is no spread: the guest has no layouts.
                if shares.len() < 2 {
                    cells.push_str(" - |");
                    continue;
                }
                ran = true;
                let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
                let greatest = shares.iter().copied().fold(0.0, f64::max);
                let _ = write!(cells, " {least:.2} to {greatest:.2} |");
            }
            if ran {
                let _ = writeln!(text, "| {name} |{cells}");
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
    fn the_spread_is_between_the_least_and_the_greatest() {
        let cost = CostArgs {
            read_cycles: 20.0,
            cpi: 1.0,
            trap_cycles: 200.0,
        };
        let mut other = example();
        other.tests.get_mut(&3).unwrap().cells[0].stage1_reads += 100;
        let text = document(&[example()], &[vec![other]], &cost);
        // 100 and 200 reads of 20 beside 3300 cycles.
        assert!(
            text.contains("| random pread, 64 bytes | 37.74 to 54.79 |")
                && text.contains("over 2 layouts"),
            "{text}"
        );
        assert_eq!(document(&[example()], &[], &cost), "");
    }
}
