//! What a model's parameters do to the results: one row for each change of a sweep.

use std::fmt::Write as _;

use crate::CostArgs;
use crate::figures::Run;
use crate::systems::{counts, describes};

/// Whether a run has columns with changed parameters.
pub(crate) fn is_one(runs: &[Run]) -> bool {
    let mut columns = runs.iter().flat_map(|run| &run.columns);
    columns.any(|(core, _)| core.contains('@'))
}

/// A row: what was changed, the column that has it, the linear model.
type Row = (String, usize, CostArgs);

/// The linear model's own parameters, halved and doubled.
fn costs(cost: &CostArgs) -> Vec<(String, CostArgs)> {
    let mut all = Vec::new();
    for factor in [0.5, 2.0] {
        let read_cycles = cost.read_cycles * factor;
        let name = format!("read_cycles:{read_cycles}");
        all.push((
            name,
            CostArgs {
                read_cycles,
                ..*cost
            },
        ));
        let cpi = cost.cpi * factor;
        all.push((format!("cpi:{cpi}"), CostArgs { cpi, ..*cost }));
        let trap_cycles = cost.trap_cycles * factor;
        let name = format!("trap_cycles:{trap_cycles}");
        all.push((
            name,
            CostArgs {
                trap_cycles,
                ..*cost
            },
        ));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The rows of a core: its own column first, then the changes.
fn rows(run: &Run, base: &str, cost: &CostArgs) -> Vec<Row> {
    let columns = run.columns.iter().enumerate();
    let as_is = columns.filter(|(_, (_, mode))| mode == "as-is");
    let mut rows: Vec<Row> = Vec::new();
    for (column, (core, _)) in as_is {
        match core.split_once('@') {
            None if core == base => rows.push(("as the core is".into(), column, *cost)),
            Some((name, change)) if name == base => rows.push((change.into(), column, *cost)),
            _ => {}
        }
    }
    if let Some(&(_, column, _)) = rows.first() {
        let own = costs(cost).into_iter();
        rows.extend(own.map(|(name, cost)| (name, column, cost)));
    }
    rows
}

/// Share of walks in percent: in all workloads together, and in each.
fn shares(run: &Run, (_, column, cost): &Row) -> (f64, Vec<(u64, f64)>) {
    let total = run.total(counts);
    let share = |test: &crate::figures::Test| {
        let cell = test.cells.get(*column)?;
        Some(test.walk_share(cell, cost))
    };
    let each = run.tests.iter().filter(|(number, _)| counts(**number));
    let each = each.filter_map(|(number, test)| Some((*number, share(test)?)));
    (share(&total).unwrap_or(0.0), each.collect())
}

/// One table for each system and core that was swept.
pub(crate) fn document(runs: &[Run], cost: &CostArgs, facts: &str) -> String {
    let mut text = format!("{facts}\n");
    for run in runs {
        let cores = run.columns.iter().map(|(core, _)| core.as_str());
        for base in cores.filter(|core| !core.contains('@')) {
            let rows = rows(run, base, cost);
            let Some((total, each)) = rows.first().map(|first| shares(run, first)) else {
                continue;
            };
            let _ = write!(
                text,
                "\n### {base}, {}: share of time in walks when a parameter changes\n\n\
                 | parameter | all workloads, % | change, points | largest change, points | in |\n|---|--:|--:|--:|---|\n",
                run.system
            );
            for row in &rows {
                let (now, which) = shares(run, row);
                let pairs = which.iter().zip(&each);
                let changes = pairs.map(|((number, now), (_, then))| (*number, now - then));
                let largest = changes.max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
                let (number, change) = largest.unwrap_or((0, 0.0));
                let workload = if change == 0.0 {
                    "-".to_owned()
                } else {
                    describes(number)
                };
                let _ = writeln!(
                    text,
                    "| {} | {now:.3} | {:+.3} | {change:+.2} | {workload} |",
                    row.0,
                    now - total
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

    const COST: CostArgs = CostArgs {
        read_cycles: 20.0,
        cpi: 1.0,
        trap_cycles: 200.0,
    };

    /// The example with a second column, whose misses read half as much.
    fn swept() -> Run {
        let mut run = example();
        let core = "cortex-a72@main_entries:2048".to_owned();
        run.columns.push((core, "as-is".into()));
        let test = run.tests.get_mut(&3).unwrap();
        let mut cell = test.cells[0].clone();
        cell.stage1_reads /= 2;
        cell.stage2_reads /= 2;
        test.cells.push(cell);
        run
    }

    #[test]
    fn a_row_for_each_change_and_for_the_linear_model() {
        assert!(!is_one(&[example()]) && is_one(&[swept()]));
        let text = document(&[swept()], &COST, "facts");
        // 5300 cycles, 2000 of them for 100 reads; with 50 reads 4300 and 1000.
        for row in [
            "| as the core is | 37.736 | +0.000 | +0.00 | - |",
            "| main_entries:2048 | 23.256 | -14.480 | -14.48 | random pread, 64 bytes |",
            "| read_cycles:10 | 23.256 | -14.480 | -14.48 | random pread, 64 bytes |",
            // 1300 cycles outside the guest: 100 instructions and 6 traps.
            "| trap_cycles:100 | 42.553 | +4.817 | +4.82 | random pread, 64 bytes |",
            "| cpi:2 | 27.027 |",
        ] {
            assert!(text.contains(row), "{row}\n{text}");
        }
    }
}
