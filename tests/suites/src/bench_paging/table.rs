//! What is printed of the boots, and written for programs.

use serde_json::{Value, json};

use super::windows::{Verdict, Windows};
use super::{Boot, COUNTERS, FAULTS, Group, is_churn};

/// What the marks of a table mean.
pub(super) const MARKS: &str = "! more than 1 % and what nested mode's own windows allow for. ? nested mode's own windows are too far apart to tell 1.5 % \
     from 1 %: run it again, with more rounds.";

/// The boots of a group, by mode; nested mode is the first.
type Runs = [(&'static str, Vec<Boot>)];

fn windows(boots: &[Boot], name: &str) -> Windows {
    Windows::new(
        boots
            .iter()
            .filter_map(|boot| boot.costs.get(name).copied()),
    )
}

/// The head of a backing's table.
pub(super) fn head(backing: &str) {
    println!(
        "\nDebian 6.1 (cloud), one vCPU, GICv3, {backing}: instructions, the median of the rounds; the least and the most against it"
    );
}

/// Prints a group's part. Whether compound mode kept within its limit.
pub(super) fn print(group: Group, runs: &Runs) -> bool {
    let mut good = true;
    println!(
        "\n| workload                     | mode     | rounds |      guest |      EL2 |  manager |   min..max, % | against nested |"
    );
    println!(
        "|------------------------------|----------|-------:|-----------:|---------:|---------:|--------------:|---------------:|"
    );
    let Some((_, nested)) = runs.first() else {
        return good;
    };
    for (_, name) in group.1 {
        let base = windows(nested, name);
        for (mode, boots) in runs {
            let found = windows(boots, name);
            let (cost, (least, most)) = (found.median(), found.ends());
            let compared = *mode == "compound" && is_churn(name);
            let mark = match found.against(&base) {
                Verdict::Worse if compared => '!',
                Verdict::Unsteady if compared => '?',
                _ => ' ',
            };
            good &= mark == ' ';
            println!(
                "| {name:28} | {mode:8} | {:>6} | {:>10} | {:>8} | {:>8} | {:>13} | {:>12} %{mark} |",
                boots.len(),
                cost.guest,
                cost.el2,
                cost.manager,
                format!(
                    "{}..{}",
                    percent(least.over(cost)),
                    percent(most.over(cost))
                ),
                percent(cost.over(base.median())),
            );
        }
    }
    for (mode, boots) in runs {
        counted(group, mode, boots);
    }
    good
}

/// What `paging show` counted in the boots of a mode, from the least to the most.
fn counted(group: Group, mode: &str, boots: &[Boot]) {
    let counted: Vec<String> = COUNTERS
        .iter()
        .enumerate()
        .map(|(index, what)| {
            let (least, most) = ends(boots, index);
            let range = if least == most {
                least.to_string()
            } else {
                format!("{least}..{most}")
            };
            format!("{what} {range}")
        })
        .collect();
    let leaves = boots.last().map_or("none", |boot| &boot.leaves);
    print!(
        "\n{mode}: {}; under 2 MiB leaves: {leaves}",
        counted.join(", ")
    );
    if group.1.iter().any(|(_, name)| *name == FAULTS.0) {
        let faults = windows(boots, FAULTS.0).median().el2 * 100 / FAULTS.1;
        print!(
            "; EL2 per page fault of the guest: {}.{:02}",
            faults / 100,
            faults % 100
        );
    }
    println!();
}

/// The least and the most of a counter.
fn ends(boots: &[Boot], index: usize) -> (u64, u64) {
    let values = || boots.iter().filter_map(|boot| boot.counters.get(index));
    let or_none = |value: Option<&u64>| value.copied().unwrap_or(0);
    (or_none(values().min()), or_none(values().max()))
}

/// 1/100 % as text with a sign.
fn percent(hundredths: i64) -> String {
    let sign = if hundredths < 0 { '-' } else { '+' };
    let size = hundredths.unsigned_abs();
    format!("{sign}{}.{:02}", size / 100, size % 100)
}

/// The same for programs: medians, the least and the most, and counters at most.
pub(super) fn json_rows(group: Group, backing: &str, runs: &Runs) -> Vec<Value> {
    let mut rows = Vec::new();
    let Some((_, nested)) = runs.first() else {
        return rows;
    };
    for (mode, boots) in runs {
        for (_, name) in group.1 {
            let found = windows(boots, name);
            let (cost, (least, most)) = (found.median(), found.ends());
            // Within 1 % of nested.
            let limit = (*mode == "compound" && is_churn(name))
                .then(|| windows(nested, name).median().all() * 101 / 100);
            for (metric, value, limit) in [
                ("guest", cost.guest, None),
                ("el2", cost.el2, None),
                ("manager", cost.manager, None),
                ("all", cost.all(), limit),
                ("all-min", least.all(), None),
                ("all-max", most.all(), None),
            ] {
                rows.push(
                    json!({"case": format!("{name}/{mode}/{backing}"), "metric": metric, "value": value,
                    "unit": "instructions", "limit": limit}),
                );
            }
        }
        for (index, what) in COUNTERS.iter().enumerate() {
            rows.push(
                json!({"case": format!("counters/{}/{mode}/{backing}", group.0), "metric": what,
                "value": ends(boots, index).1, "unit": "events", "limit": Value::Null}),
            );
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_has_a_sign() {
        assert_eq!(percent(-205), "-2.05");
        assert_eq!(percent(99), "+0.99");
    }
}
