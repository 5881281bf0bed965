//! The plugin's results as figures.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::CostArgs;

/// A column of the model in one test.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell {
    pub(crate) misses: u64,
    pub(crate) stage1_reads: u64,
    pub(crate) stage2_reads: u64,
    /// Misses by region.
    pub(crate) regions: BTreeMap<String, u64>,
    /// Bytes that the main TLB covered at the end.
    pub(crate) reach_bytes: u64,
}

impl Cell {
    pub(crate) fn reads(&self) -> u64 {
        self.stage1_reads + self.stage2_reads
    }
}

/// A test, all its windows together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Test {
    /// Instructions of the guest.
    pub(crate) instructions: u64,
    /// EL2 instructions on the guest's core.
    pub(crate) el2: u64,
    /// Instructions of other cores meanwhile: the manager's, and EL2's there. They take no time of the guest's.
    pub(crate) elsewhere: u64,
    /// Exits of the guest's core, by reason.
    pub(crate) exits: BTreeMap<String, u64>,
    /// What HCR_EL2.TVM would trap.
    pub(crate) tvm_writes: u64,
    pub(crate) tlbi: u64,
    /// In the order of [`Run::columns`].
    pub(crate) cells: Vec<Cell>,
}

impl Test {
    pub(crate) fn all_exits(&self) -> u64 {
        self.exits.values().sum()
    }

    /// Misses for a thousand instructions of the guest.
    pub(crate) fn mpki(&self, cell: &Cell) -> f64 {
        1000.0 * float(cell.misses) / float(self.instructions.max(1))
    }

    /// Cycles for what EL2 does, the traps included.
    fn outside(&self, cost: &CostArgs) -> f64 {
        float(self.el2) * cost.cpi + float(self.all_exits()) * cost.trap_cycles
    }

    /// Share of the time that goes to walks, in percent.
    pub(crate) fn walk_share(&self, cell: &Cell, cost: &CostArgs) -> f64 {
        let walks = float(cell.reads()) * cost.read_cycles;
        100.0 * walks / (float(self.instructions) * cost.cpi + walks + self.outside(cost)).max(1.0)
    }

    /// Share of the time that goes to EL2 and the way there, in percent.
    pub(crate) fn outside_share(&self, cell: &Cell, cost: &CostArgs) -> f64 {
        let walks = float(cell.reads()) * cost.read_cycles;
        let outside = self.outside(cost);
        100.0 * outside / (float(self.instructions) * cost.cpi + walks + outside).max(1.0)
    }
}

/// A number for a report: counts here stay far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// One system's run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    pub(crate) system: String,
    /// Core and mode.
    pub(crate) columns: Vec<(String, String)>,
    pub(crate) tests: BTreeMap<u64, Test>,
    /// Accesses that no walk explained.
    pub(crate) faults: u64,
    /// Accesses that the models saw.
    pub(crate) events: u64,
}

impl Run {
    pub(crate) fn column(&self, core: &str, mode: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|(c, m)| c == core && m == mode)
    }
}

/// Reads what the plugin wrote.
pub(crate) fn read(system: &str, path: &Path) -> Result<Run, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let json: Value = serde_json::from_str(&text)
        .map_err(|error| format!("{} is not the plugin's: {error}", path.display()))?;
    parse(system, &json).ok_or_else(|| format!("{} has an unknown form", path.display()))
}

fn parse(system: &str, json: &Value) -> Option<Run> {
    let mut run = Run {
        system: system.to_owned(),
        faults: json.get("faults")?.as_u64()?,
        events: json.get("events")?.as_u64()?,
        ..Run::default()
    };
    for column in json.get("columns")?.as_array()? {
        let text = |key: &str| Some(column.get(key)?.as_str()?.to_owned());
        run.columns.push((text("core")?, text("mode")?));
    }
    for window in json.get("windows")?.as_array()? {
        let vmid = window.get("vmid")?.as_u64()?.to_string();
        // The boot of a guest under a hypervisor starts before its VMID is known.
        let guest = window.get("guests")?.get(&vmid)?;
        let test = run.tests.entry(window.get("test")?.as_u64()?).or_default();
        test.instructions += guest.get("el0")?.as_u64()? + guest.get("el1")?.as_u64()?;
        test.el2 += window.get("el2")?.as_u64()?;
        test.elsewhere += window.get("el2_elsewhere")?.as_u64()?;
        for (_, other) in window
            .get("guests")?
            .as_object()?
            .iter()
            .filter(|(id, _)| **id != vmid)
        {
            test.elsewhere += other.get("el0")?.as_u64()? + other.get("el1")?.as_u64()?;
        }
        test.tlbi += window.get("tlbi")?.as_u64()?;
        let writes = window.get("writes")?.as_object()?.values();
        test.tvm_writes += writes.filter_map(Value::as_u64).sum::<u64>();
        for (reason, count) in window.get("exits")?.as_object()? {
            *test.exits.entry(reason.clone()).or_default() += count.as_u64()?;
        }
        test.cells.resize(run.columns.len(), Cell::default());
        let columns = guest.get("columns")?.as_array()?;
        for (index, (cell, found)) in test.cells.iter_mut().zip(columns).enumerate() {
            cell.misses += found.get("misses")?.as_u64()?;
            cell.stage1_reads += found.get("stage1_reads")?.as_u64()?;
            cell.stage2_reads += found.get("stage2_reads")?.as_u64()?;
            cell.reach_bytes = window.get("reach_bytes")?.get(index)?.as_u64()?;
            for (region, tally) in found.get("regions")?.as_object()? {
                let misses = tally.get("misses")?.as_u64()?;
                *cell.regions.entry(region.clone()).or_default() += misses;
            }
        }
    }
    Some(run)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn example() -> Run {
        let column = json!({"misses": 10, "stage1_reads": 20, "stage2_reads": 30, "regions":
            {"kernel_linear": {"misses": 10}}});
        let window = json!({"test": 3, "vmid": 0, "core": 0, "el2": 50, "el2_elsewhere": 7, "tlbi": 2,
            "exits": {"interrupt": 1, "ec_0x16": 2}, "writes": {"ttbr0": 1, "ttbr1": 2},
            "reach_bytes": [4096], "guests": {"0": {"el0": 400, "el1": 600, "columns": [column]},
                "1": {"el0": 0, "el1": 3, "columns": [column]}}});
        let json = json!({"faults": 0, "events": 9, "windows": [window, window],
            "columns": [{"core": "cortex-a72", "mode": "as-is"}]});
        parse("bare", &json).unwrap()
    }

    #[test]
    fn windows_of_a_test_add_up() {
        let run = example();
        let test = &run.tests[&3];
        assert_eq!(
            (
                test.instructions,
                test.el2,
                test.all_exits(),
                test.tvm_writes
            ),
            (2000, 100, 6, 6)
        );
        assert_eq!((test.cells[0].misses, test.cells[0].reads()), (20, 100));
        assert_eq!(test.elsewhere, 20);
        assert_eq!(test.cells[0].regions["kernel_linear"], 20);
        assert_eq!(run.column("cortex-a72", "as-is"), Some(0));
    }

    #[test]
    fn the_linear_model_adds_reads_traps_and_instructions() {
        let run = example();
        let test = &run.tests[&3];
        let cost = CostArgs {
            read_cycles: 20.0,
            cpi: 1.0,
            trap_cycles: 200.0,
        };
        // 2000 instructions, 100 reads of 20, 100 of EL2 and 6 traps of 200: 5300 cycles.
        assert!((test.walk_share(&test.cells[0], &cost) - 100.0 * 2000.0 / 5300.0).abs() < 1e-9);
        assert!((test.outside_share(&test.cells[0], &cost) - 100.0 * 1300.0 / 5300.0).abs() < 1e-9);
        assert!((test.mpki(&test.cells[0]) - 10.0).abs() < 1e-9);
    }
}
