//! Tables for people, in Markdown.

use std::fmt::Write as _;

use crate::CostArgs;
use crate::figures::{Run, Test, float};
use crate::systems::{WORKLOADS, counts, describes};
use crate::{spaces, stage2};

/// The columns of the comparison: which run, which mode, heading.
fn comparison(runs: &[Run]) -> Vec<(&Run, &'static str, String)> {
    let mut columns = Vec::new();
    for run in runs {
        if run.system == "bare metal" {
            for (mode, name) in [
                ("native", "bare metal"),
                ("nested-4k", "+ 4 KiB stage 2"),
                ("nested-2m", "+ 2 MiB stage 2"),
                ("nested-1g", "+ 1 GiB stage 2"),
            ] {
                columns.push((run, mode, name.to_owned()));
            }
        } else {
            columns.push((run, "as-is", run.system.clone()));
        }
    }
    columns
}

/// The workloads that any of the systems ran.
fn present(runs: &[Run]) -> impl Iterator<Item = (u64, &'static str)> {
    let ran = |number| runs.iter().any(|run| run.tests.contains_key(&number));
    WORKLOADS
        .into_iter()
        .filter(move |(number, _)| ran(*number))
}

fn cores(runs: &[Run]) -> Vec<String> {
    let mut cores: Vec<String> = Vec::new();
    for (core, _) in runs.iter().flat_map(|run| &run.columns) {
        if !cores.contains(core) {
            cores.push(core.clone());
        }
    }
    cores
}

/// One table for each core, one for what Penumbra adds, one for where misses fall.
pub(crate) fn document(runs: &[Run], cost: &CostArgs, facts: &str) -> String {
    let mut text = format!("{facts}\n");
    for core in cores(runs) {
        let columns = comparison(runs);
        let _ = write!(
            text,
            "\n### {core}: misses per 1000 instructions / share of time in walks, %\n\n| workload |"
        );
        for (_, _, heading) in &columns {
            let _ = write!(text, " {heading} |");
        }
        let _ = writeln!(text, "\n|---|{}", "--:|".repeat(columns.len()));
        for (number, name) in present(runs) {
            let _ = write!(text, "| {name} |");
            for (run, mode, _) in &columns {
                let cell = run.column(&core, mode).and_then(|index| {
                    let test = run.tests.get(&number)?;
                    Some((test, test.cells.get(index)?))
                });
                let _ = match cell {
                    Some((test, cell)) => write!(
                        text,
                        " {:.2} / {:.2} |",
                        test.mpki(cell),
                        test.walk_share(cell, cost)
                    ),
                    None => write!(text, " - |"),
                };
            }
            text.push('\n');
        }
        text.push_str("| all but boot and check |");
        for (run, mode, _) in &columns {
            let test = run.total(counts);
            let cell = run.column(&core, mode).and_then(|i| test.cells.get(i));
            let _ = match cell {
                Some(cell) => write!(
                    text,
                    " {:.2} / {:.2} |",
                    test.mpki(cell),
                    test.walk_share(cell, cost)
                ),
                None => write!(text, " - |"),
            };
        }
        text.push('\n');
        text.push_str(&regions(runs, &core));
        text.push_str(&spaces::document(runs, &core));
        text.push_str(&linear(runs, &core));
        text.push_str(&stage2::document(runs, &core));
    }
    text.push_str(&outside(runs, cost));
    text.push_str(&spaces::partitions(runs));
    text
}

/// Where the misses of the first run fall.
fn regions(runs: &[Run], core: &str) -> String {
    let Some(run) = runs.first() else {
        return String::new();
    };
    let Some(index) = run.column(core, "as-is") else {
        return String::new();
    };
    let names = [
        "kernel_linear",
        "kernel_other",
        "user_file",
        "user_anonymous",
    ];
    let mut text = format!(
        "\nWhere the misses fall ({core}, {}), in %:\n\n\
         | workload | misses | reads per miss | kernel, linear map | kernel, other | user, file | user, anonymous | main-TLB entries in use at the end | reach, MiB |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        run.system
    );
    for (number, name) in WORKLOADS {
        let Some(cell) = run
            .tests
            .get(&number)
            .and_then(|test| test.cells.get(index))
        else {
            continue;
        };
        let misses = cell.misses.max(1);
        let _ = write!(
            text,
            "| {name} | {} | {:.2} |",
            cell.misses,
            float(cell.reads()) / float(misses)
        );
        // Results of an older plugin have other names for the user's part.
        let known = |name: &String| name == "flat" || names.contains(&name.as_str());
        let known = cell.regions.keys().all(known);
        for region in names {
            if !known && region.starts_with("user") {
                text.push_str(" - |");
                continue;
            }
            let count = cell.regions.get(region).copied().unwrap_or(0);
            let _ = write!(text, " {:.0} |", 100.0 * float(count) / float(misses));
        }
        let _ = writeln!(
            text,
            " {} | {:.1} |",
            cell.reach_entries,
            float(cell.reach_bytes) / f64::from(1 << 20)
        );
    }
    text
}

/// Misses in the kernel's linear map beside all others, system by system: what compound paging acts on.
fn linear(runs: &[Run], core: &str) -> String {
    let shown: Vec<(&Run, usize)> = runs
        .iter()
        .filter_map(|run| Some((run, run.column(core, "as-is")?)))
        .collect();
    if shown.len() < 2 {
        return String::new();
    }
    let mut text = format!(
        "\nMisses in the kernel's linear map / elsewhere, and descriptors read ({core}):\n\n| workload |"
    );
    for (run, _) in &shown {
        let _ = write!(text, " {} |", run.system);
    }
    let _ = writeln!(text, "\n|---|{}", "--:|".repeat(shown.len()));
    for (number, name) in present(runs) {
        let _ = write!(text, "| {name} |");
        for (run, index) in &shown {
            let cell = run.tests.get(&number).and_then(|t| t.cells.get(*index));
            let _ = match cell {
                Some(cell) => {
                    let linear = cell.regions.get("kernel_linear").copied().unwrap_or(0);
                    let other = cell.misses - linear;
                    write!(text, " {linear} / {other}, {} |", cell.reads())
                }
                None => write!(text, " - |"),
            };
        }
        text.push('\n');
    }
    text
}

/// Exits and EL2's part, for systems that have an EL2.
fn outside(runs: &[Run], cost: &CostArgs) -> String {
    let mut text = String::new();
    for run in runs
        .iter()
        .filter(|run| run.tests.values().any(|test| test.el2 > 0))
    {
        let hosted = run.tests.values().any(|test| test.host > 0);
        let (others, beside) = if hosted {
            ("EL2, host and traps", "the host")
        } else {
            ("EL2 and traps", "the manager's core")
        };
        let _ = write!(
            text,
            "\n### {}: exits of the guest's core\n\n\
             | workload | instructions | exits | EL2 instructions | share of {others}, % | instructions of {beside} | reasons |\n|---|--:|--:|--:|--:|--:|---|\n",
            run.system
        );
        for (number, name) in WORKLOADS {
            let Some(test) = run.tests.get(&number) else {
                continue;
            };
            let share = test
                .cells
                .first()
                .map_or(0.0, |cell| test.outside_share(cell, cost));
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {share:.2} | {} | {} |",
                test.instructions,
                test.all_exits(),
                test.el2,
                test.host + test.elsewhere,
                reasons(test)
            );
        }
    }
    text
}

/// The most frequent reasons.
fn reasons(test: &Test) -> String {
    let mut all: Vec<(&String, &u64)> = test.exits.iter().collect();
    all.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let words: Vec<String> = all
        .into_iter()
        .take(4)
        .map(|(reason, count)| format!("{} {count}", reason_name(reason)))
        .collect();
    words.join(", ")
}

/// Exception classes by name: Arm ARM DDI 0487 L.b, D24.2.41 "ESR_EL2".
fn reason_name(reason: &str) -> &str {
    match reason {
        "ec_0x01" => "WFI",
        "ec_0x16" => "HVC",
        "ec_0x17" => "SMC",
        "ec_0x18" => "system register",
        "ec_0x20" => "instruction abort",
        "ec_0x24" => "data abort",
        other => other,
    }
}

/// Everything about one file.
pub(crate) fn details(run: &Run, cost: &CostArgs) -> String {
    let mut text = format!(
        "{} events, {} accesses without a walk, {} writable shared mappings of files that nobody told of\n",
        run.events, run.faults, run.untold_maps
    );
    for (number, test) in &run.tests {
        let _ = writeln!(
            text,
            "\n{}: {} instructions, {} of EL2, {} of a host, {} exits ({}), {} TVM writes, {} TLBIs",
            describes(*number),
            test.instructions,
            test.el2,
            test.host,
            test.all_exits(),
            reasons(test),
            test.tvm_writes,
            test.tlbi
        );
        for ((core, mode), cell) in run.columns.iter().zip(&test.cells) {
            let _ = writeln!(
                text,
                "  {core:<14} {mode:<10} {:>9} misses {:>8.3} per 1000, {:.2} reads each, {:>6.2} % of time",
                cell.misses,
                test.mpki(cell),
                float(cell.reads()) / float(cell.misses.max(1)),
                test.walk_share(cell, cost)
            );
        }
        text.push_str(&spaces::details(test, &run.columns));
        text.push_str(&stage2::details(test));
    }
    text.push_str(&spaces::partitions(std::slice::from_ref(run)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::{example, hosted};

    const COST: CostArgs = CostArgs {
        read_cycles: 20.0,
        cpi: 1.0,
        trap_cycles: 200.0,
    };

    #[test]
    fn tables_have_a_row_for_each_workload_that_ran() {
        let mut run = example();
        run.system = "Penumbra nested, thin".into();
        let other = run.tests[&3].clone();
        run.tests.insert(17, other);
        let text = document(&[run], &COST, "facts");
        for (number, name) in WORKLOADS {
            let row = text.contains(&format!("| {name} |"));
            assert_eq!(row, [3, 17].contains(&number), "{name}");
        }
        assert!(
            text.contains("| random pread, 64 bytes | 10.00 / 37.74 |"),
            "{text}"
        );
        assert!(text.contains("HVC 4, interrupt 2"), "{text}");
        // 100 of EL2, 20 elsewhere; no host.
        assert!(
            text.contains("of EL2 and traps, % |") && text.contains("| 100 | 24.53 | 20 |"),
            "{text}"
        );
    }

    #[test]
    fn regions_of_older_results_are_not_taken_for_zero() {
        let mut run = example();
        let text = document(std::slice::from_ref(&run), &COST, "facts");
        assert!(text.contains("| 20 | 5.00 | 100 | 0 | 0 | 0 |"), "{text}");
        let regions = &mut run.tests.get_mut(&3).unwrap().cells[0].regions;
        regions.insert("user_writable".into(), 4);
        let text = document(&[run], &COST, "facts");
        assert!(text.contains("| 20 | 5.00 | 100 | 0 | - | - |"), "{text}");
    }

    #[test]
    fn what_a_host_does_is_shown_as_its_own() {
        let text = document(&[hosted()], &COST, "facts");
        assert!(
            text.contains("of EL2, host and traps, % | instructions of the host |"),
            "{text}"
        );
        assert!(text.contains("| 100 | 72.54 | 2014 |"), "{text}");
    }

    #[test]
    fn two_systems_are_compared_in_the_linear_map() {
        let mut other = example();
        other.system = "Penumbra compound, thin".into();
        let text = document(&[example(), other], &COST, "facts");
        let row = "| random pread, 64 bytes | 20 / 0, 100 | 20 / 0, 100 |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn details_name_every_column() {
        let text = details(&example(), &COST);
        assert!(
            text.contains("cortex-a72") && text.contains("5.00 reads each"),
            "{text}"
        );
    }
}
