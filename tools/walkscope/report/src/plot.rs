//! A bar chart of walk shares as SVG, written by hand: a few rectangles need no library.

use std::fmt::Write as _;

use crate::CostArgs;
use crate::figures::Run;
use crate::systems::WORKLOADS;

const LABEL: f64 = 300.0;
const WIDTH: f64 = 500.0;
const BAR: f64 = 9.0;
const COLOURS: [&str; 6] = [
    "#4c78a8", "#e45756", "#f58518", "#72b7b2", "#54a24b", "#b279a2",
];

/// One group of bars for each workload, one bar for each column of the core `cortex-a72` or the first.
pub(crate) fn svg(runs: &[Run], cost: &CostArgs) -> String {
    let cores: Vec<&String> = runs
        .iter()
        .flat_map(|run| &run.columns)
        .map(|(core, _)| core)
        .collect();
    let core = cores
        .iter()
        .find(|core| core.as_str() == "cortex-a72")
        .or(cores.first());
    let Some(core) = core else {
        return String::new();
    };
    let mut bars: Vec<(String, Vec<f64>)> = Vec::new();
    for run in runs {
        for (index, (_, mode)) in run
            .columns
            .iter()
            .enumerate()
            .filter(|(_, (c, _))| c == *core)
        {
            // Without a hypervisor the tables as they are and the native column are the same.
            if (run.system == "bare metal") == (mode == "as-is") {
                continue;
            }
            if run.system != "bare metal" && mode != "as-is" {
                continue;
            }
            let share = |number: &u64| {
                let test = run.tests.get(number);
                test.and_then(|test| Some(test.walk_share(test.cells.get(index)?, cost)))
            };
            let values = WORKLOADS
                .iter()
                .map(|(number, _)| share(number).unwrap_or(0.0))
                .collect();
            bars.push((format!("{}: {mode}", run.system), values));
        }
    }
    draw(core, &bars)
}

fn draw(core: &str, bars: &[(String, Vec<f64>)]) -> String {
    let count = f64::from(u32::try_from(bars.len()).unwrap_or(0));
    let group = count * BAR + 12.0;
    let rows = f64::from(u32::try_from(WORKLOADS.len()).unwrap_or(0));
    let legend = 24.0 + 16.0 * count;
    let height = legend + rows * group + 20.0;
    let most = bars
        .iter()
        .flat_map(|(_, values)| values)
        .fold(1.0_f64, |a, &b| a.max(b));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"16\" font-size=\"13\">{core}: share of time in page walks, %</text>\n",
        LABEL + WIDTH + 70.0
    );
    let mut y = 32.0;
    for ((name, _), colour) in bars.iter().zip(COLOURS.iter().cycle()) {
        let _ = writeln!(
            text,
            "<rect x=\"8\" y=\"{:.0}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"24\" y=\"{y:.0}\">{name}</text>",
            y - 9.0
        );
        y += 16.0;
    }
    for (row, (_, name)) in WORKLOADS.iter().enumerate() {
        let top = legend + f64::from(u32::try_from(row).unwrap_or(0)) * group;
        let _ = writeln!(
            text,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{name}</text>",
            LABEL - 8.0,
            top + group / 2.0
        );
        for (index, ((_, values), colour)) in bars.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let value = values.get(row).copied().unwrap_or(0.0);
            let y = top + f64::from(u32::try_from(index).unwrap_or(0)) * BAR;
            let width = WIDTH * value / most;
            let _ = writeln!(
                text,
                "<rect x=\"{LABEL:.0}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\">{value:.2}</text>",
                BAR - 1.0,
                LABEL + width + 3.0,
                y + BAR - 2.0
            );
        }
    }
    text.push_str("</svg>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_has_a_bar_for_each_workload_and_column() {
        let bars = [
            ("a".to_owned(), vec![1.0; 13]),
            ("b".to_owned(), vec![50.0; 13]),
        ];
        let text = draw("cortex-a72", &bars);
        assert!(text.ends_with("</svg>\n"));
        assert_eq!(text.matches("<rect").count(), 1 + 2 + 2 * WORKLOADS.len());
    }
}
