//! The plugin's results as figures.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::CostArgs;
use crate::stage2::Stage2;

/// A column of the model in one test.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell {
    pub(crate) misses: u64,
    pub(crate) stage1_reads: u64,
    pub(crate) stage2_reads: u64,
    /// Descriptors that a host's kernel and programs read meanwhile on the guest's core.
    pub(crate) host_reads: u64,
    /// Misses by region.
    pub(crate) regions: BTreeMap<String, u64>,
    /// Bytes that the guest's entries in the main TLB covered at the end: the reach in use.
    pub(crate) reach_bytes: u64,
    /// Those entries.
    pub(crate) reach_entries: u64,
}

/// Adds misses and reads, column by column.
fn merge(cells: &mut Vec<Cell>, others: &[Cell]) {
    cells.resize(others.len(), Cell::default());
    for (cell, other) in cells.iter_mut().zip(others) {
        cell.misses += other.misses;
        cell.stage1_reads += other.stage1_reads;
        cell.stage2_reads += other.stage2_reads;
        cell.host_reads += other.host_reads;
    }
}

/// An address space: VMID, root of the tables, ASID. The half that all processes share has no ASID.
pub(crate) type SpaceKey = (u64, String, Option<u64>);

/// What an address space or a partition has of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Part {
    /// Instructions while it was in place.
    pub(crate) instructions: u64,
    /// In the order of [`Run::columns`].
    pub(crate) cells: Vec<Cell>,
}

impl Part {
    /// Adds what a window has of it.
    fn add(&mut self, instructions: u64, columns: &[Value]) -> Option<()> {
        self.instructions += instructions;
        self.cells.resize(columns.len(), Cell::default());
        for (cell, found) in self.cells.iter_mut().zip(columns) {
            cell.add(found)?;
        }
        Some(())
    }

    fn merge(&mut self, other: &Self) {
        self.instructions += other.instructions;
        merge(&mut self.cells, &other.cells);
    }

    /// Misses for a thousand of its instructions.
    pub(crate) fn mpki(&self, column: usize) -> f64 {
        let misses = self.cells.get(column).map_or(0, |cell| cell.misses);
        1000.0 * float(misses) / float(self.instructions.max(1))
    }
}

impl Cell {
    pub(crate) fn reads(&self) -> u64 {
        self.stage1_reads + self.stage2_reads
    }

    /// Adds a tally of the plugin's.
    fn add(&mut self, found: &Value) -> Option<()> {
        self.misses += found.get("misses")?.as_u64()?;
        self.stage1_reads += found.get("stage1_reads")?.as_u64()?;
        self.stage2_reads += found.get("stage2_reads")?.as_u64()?;
        Some(())
    }
}

/// A test, all its windows together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Test {
    /// Instructions of the guest.
    pub(crate) instructions: u64,
    /// EL2 instructions on the guest's core.
    pub(crate) el2: u64,
    /// Instructions of a host at EL1 and EL0 of the guest's core: KVM's, whose EL2 is only the way there.
    pub(crate) host: u64,
    /// Instructions of other cores meanwhile: the manager's, and EL2's there. They take no time of the guest's.
    pub(crate) elsewhere: u64,
    /// Exits of the guest's core, by reason.
    pub(crate) exits: BTreeMap<String, u64>,
    /// What HCR_EL2.TVM would trap.
    pub(crate) tvm_writes: u64,
    pub(crate) tlbi: u64,
    /// In the order of [`Run::columns`].
    pub(crate) cells: Vec<Cell>,
    /// By address space, the kernels' and the processes'.
    pub(crate) spaces: BTreeMap<SpaceKey, Part>,
    /// What its misses found of stage 2.
    pub(crate) stage2: Stage2,
}

impl Test {
    /// Adds what the linear model needs of another test.
    fn add(&mut self, other: &Self) {
        self.instructions += other.instructions;
        self.el2 += other.el2;
        self.host += other.host;
        for (reason, count) in &other.exits {
            *self.exits.entry(reason.clone()).or_default() += count;
        }
        merge(&mut self.cells, &other.cells);
    }

    pub(crate) fn all_exits(&self) -> u64 {
        self.exits.values().sum()
    }

    /// Misses for a thousand instructions of the guest.
    pub(crate) fn mpki(&self, cell: &Cell) -> f64 {
        1000.0 * float(cell.misses) / float(self.instructions.max(1))
    }

    /// Cycles for walks of the guest.
    fn walks(cell: &Cell, cost: &CostArgs) -> f64 {
        float(cell.reads()) * cost.read_cycles
    }

    /// Cycles for what EL2 and a host do, the traps included.
    fn outside(&self, cell: &Cell, cost: &CostArgs) -> f64 {
        float(self.el2 + self.host) * cost.cpi
            + float(self.all_exits()) * cost.trap_cycles
            + float(cell.host_reads) * cost.read_cycles
    }

    /// What is so many cycles of all, in percent.
    fn share(&self, of: f64, cell: &Cell, cost: &CostArgs) -> f64 {
        let guest = float(self.instructions) * cost.cpi + Self::walks(cell, cost);
        100.0 * of / (guest + self.outside(cell, cost)).max(1.0)
    }

    /// Share of the time that goes to walks, in percent.
    pub(crate) fn walk_share(&self, cell: &Cell, cost: &CostArgs) -> f64 {
        self.share(Self::walks(cell, cost), cell, cost)
    }

    /// Share of the time that goes to EL2, a host and the way there, in percent.
    pub(crate) fn outside_share(&self, cell: &Cell, cost: &CostArgs) -> f64 {
        self.share(self.outside(cell, cost), cell, cost)
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
    /// The whole run by VMID.
    pub(crate) partitions: BTreeMap<u64, Part>,
    /// Accesses that no walk explained.
    pub(crate) faults: u64,
    /// Accesses that the models saw.
    pub(crate) events: u64,
    /// Hits of a main TLB, in any column, that a fresh walk contradicted; counted where that was asked for.
    pub(crate) stale: u64,
    /// Writable shared mappings of files that no marker told of: their misses count as anonymous.
    pub(crate) untold_maps: u64,
}

impl Run {
    /// Adds the run of another guest on the same system: its test 0 is `boot` here.
    ///
    /// # Errors
    /// A sentence: the models differ.
    pub(crate) fn merge(&mut self, other: Self, boot: u64) -> Result<(), String> {
        if self.columns.is_empty() {
            self.columns = other.columns;
        } else if self.columns != other.columns {
            return Err(format!("the runs of {} have different models", self.system));
        }
        for (number, test) in other.tests {
            self.tests
                .insert(if number == 0 { boot } else { number }, test);
        }
        for (vmid, part) in other.partitions {
            self.partitions.entry(vmid).or_default().merge(&part);
        }
        self.faults += other.faults;
        self.events += other.events;
        self.stale += other.stale;
        self.untold_maps += other.untold_maps;
        Ok(())
    }

    /// The workloads together, for one figure: all tests that `counts` admits.
    pub(crate) fn total(&self, counts: impl Fn(u64) -> bool) -> Test {
        let mut total = Test::default();
        let chosen = self.tests.iter().filter(|(number, _)| counts(**number));
        chosen.for_each(|(_, test)| total.add(test));
        total
    }

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

/// Adds what ran beside the guest. VMID 0 beside another one is a host without stage 2, on the guest's core.
fn add_others(test: &mut Test, own: &str, guests: &Map<String, Value>) -> Option<()> {
    for (vmid, other) in guests.iter().filter(|(vmid, _)| *vmid != own) {
        let instructions = other.get("el0")?.as_u64()? + other.get("el1")?.as_u64()?;
        if vmid != "0" {
            test.elsewhere += instructions;
            continue;
        }
        test.host += instructions;
        let columns = other.get("columns")?.as_array()?;
        for (cell, found) in test.cells.iter_mut().zip(columns) {
            cell.host_reads +=
                found.get("stage1_reads")?.as_u64()? + found.get("stage2_reads")?.as_u64()?;
        }
    }
    Some(())
}

/// What results of before this was counted do not have.
fn untold_maps(json: &Value) -> Option<u64> {
    let maps = |which: &str| json.get("file_maps")?.get(which)?.as_u64();
    Some(maps("made")?.saturating_sub(maps("told")?))
}

fn parse(system: &str, json: &Value) -> Option<Run> {
    let mut run = Run {
        system: system.to_owned(),
        faults: json.get("faults")?.as_u64()?,
        events: json.get("events")?.as_u64()?,
        untold_maps: untold_maps(json).unwrap_or(0),
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
        test.tlbi += window.get("tlbi")?.as_u64()?;
        let writes = window.get("writes")?.as_object()?.values();
        test.tvm_writes += writes.filter_map(Value::as_u64).sum::<u64>();
        for (reason, count) in window.get("exits")?.as_object()? {
            *test.exits.entry(reason.clone()).or_default() += count.as_u64()?;
        }
        test.cells.resize(run.columns.len(), Cell::default());
        let columns = guest.get("columns")?.as_array()?;
        for (index, (cell, found)) in test.cells.iter_mut().zip(columns).enumerate() {
            cell.add(found)?;
            cell.reach_bytes = window.get("reach_bytes")?.get(index)?.as_u64()?;
            cell.reach_entries = window.get("reach_entries")?.get(index)?.as_u64()?;
            for (region, tally) in found.get("regions")?.as_object()? {
                let misses = tally.get("misses")?.as_u64()?;
                *cell.regions.entry(region.clone()).or_default() += misses;
            }
        }
        add_others(test, &vmid, window.get("guests")?.as_object()?)?;
        test.stage2.add(window, run.columns.len())?;
        for space in window.get("spaces")?.as_array()? {
            let key = (
                space.get("vmid")?.as_u64()?,
                space.get("root")?.as_str()?.to_owned(),
                space.get("asid")?.as_u64(),
            );
            let columns = space.get("columns")?.as_array()?;
            let instructions = space.get("instructions")?.as_u64()?;
            test.spaces
                .entry(key)
                .or_default()
                .add(instructions, columns)?;
        }
    }
    for (vmid, guest) in json.get("run")?.get("guests")?.as_object()? {
        let instructions = guest.get("el0")?.as_u64()? + guest.get("el1")?.as_u64()?;
        let part = run.partitions.entry(vmid.parse().ok()?).or_default();
        let columns = guest.get("columns")?.as_array()?;
        part.add(instructions, columns)?;
        let stale = columns
            .iter()
            .filter_map(|column| column.get("stale")?.as_u64());
        run.stale += stale.sum::<u64>();
    }
    Some(run)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn example() -> Run {
        parse("bare", &output(0)).unwrap()
    }

    /// The same with a guest of VMID 1 on a host of VMID 0.
    pub(crate) fn hosted() -> Run {
        parse("KVM", &output(1)).unwrap()
    }

    /// What the plugin writes of two equal windows of a guest with this VMID; another one is there, too.
    fn output(vmid: u16) -> Value {
        let column = json!({"misses": 10, "stage1_reads": 20, "stage2_reads": 30, "regions":
            {"kernel_linear": {"misses": 10}}});
        let tally = |n: u64| json!({"misses": n, "stage1_reads": 2 * n, "stage2_reads": 3 * n});
        let window = json!({"test": 3, "vmid": vmid, "core": 0, "el2": 50, "el2_elsewhere": 7, "tlbi": 2,
            "exits": {"interrupt": 1, "ec_0x16": 2}, "writes": {"ttbr0": 1, "ttbr1": 2},
            "reach_bytes": [4096], "reach_entries": [1],
            "spaces": [{"vmid": 0, "root": "0x1000", "asid": 7, "instructions": 400, "columns": [tally(6)]},
                {"vmid": 0, "root": "0x2000", "asid": null, "instructions": 1000, "columns": [tally(4)]}],
            "guests": {"0": {"el0": 400, "el1": 600, "columns": [column]},
                "1": {"el0": 0, "el1": 3, "columns": [column]}}});
        json!({"faults": 0, "events": 9, "file_maps": {"made": 3, "told": 2}, "windows": [window, window],
            "run": {"guests": {"0": {"el0": 400, "el1": 800, "columns": [{"misses": 12, "stage1_reads": 24, "stage2_reads": 36, "stale": 5}]},
                "1": {"el0": 0, "el1": 6, "columns": [tally(0)]}}},
            "columns": [{"core": "cortex-a72", "mode": "as-is"}]})
    }

    #[test]
    fn a_host_beside_the_guest_takes_its_time() {
        let run = hosted();
        let test = &run.tests[&3];
        assert_eq!(
            (test.instructions, test.host, test.elsewhere),
            (6, 2000, 14)
        );
        assert_eq!(test.cells[0].host_reads, 100);
        let cost = CostArgs {
            read_cycles: 20.0,
            cpi: 1.0,
            trap_cycles: 200.0,
        };
        // 6 instructions and 100 reads; outside 100 of EL2, 2000 of the host, 6 traps and 100 reads: 5300 of 7306 cycles.
        let share = test.outside_share(&test.cells[0], &cost);
        assert!((share - 100.0 * 5300.0 / 7306.0).abs() < 1e-9);
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
        assert_eq!(test.cells[0].reach_entries, 1);
        let user = &test.spaces[&(0, "0x1000".to_owned(), Some(7))];
        assert_eq!((user.instructions, user.cells[0].misses), (800, 12));
        assert!((user.mpki(0) - 15.0).abs() < 1e-9);
        assert_eq!(run.partitions[&0].cells[0].reads(), 60);
        assert_eq!(run.partitions[&1].instructions, 6);
        assert_eq!(test.cells[0].regions["kernel_linear"], 20);
        assert_eq!(run.column("cortex-a72", "as-is"), Some(0));
    }

    #[test]
    fn the_runs_of_two_guests_become_one() {
        let mut second = example();
        let test = second.tests.remove(&3).unwrap();
        second.tests.insert(0, test.clone());
        let mut run = Run::default();
        run.merge(example(), 0).unwrap();
        run.merge(second.clone(), 18).unwrap();
        assert_eq!((&run.tests[&3], &run.tests[&18]), (&test, &test));
        assert_eq!((run.partitions[&0].instructions, run.events), (2400, 18));
        assert_eq!((run.untold_maps, run.stale), (2, 10));
        second.columns.clear();
        assert!(run.merge(second, 18).is_err());
    }

    #[test]
    fn a_total_adds_the_tests_that_count() {
        let mut run = example();
        let other = run.tests[&3].clone();
        run.tests.insert(5, other.clone());
        run.tests.insert(0, other);
        let total = run.total(|number| number != 0);
        assert_eq!((total.instructions, total.all_exits()), (4000, 12));
        assert_eq!(total.cells[0].reads(), 200);
        // The mean of two equal tests is each of them.
        let cost = CostArgs {
            read_cycles: 20.0,
            cpi: 1.0,
            trap_cycles: 200.0,
        };
        let share = run.tests[&3].walk_share(&run.tests[&3].cells[0], &cost);
        assert!((total.walk_share(&total.cells[0], &cost) - share).abs() < 1e-9);
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
