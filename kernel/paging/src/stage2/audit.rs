//! Whether stage-2 tables are what their bookkeeping says.

use penumbra_vmsa::{CONTIGUOUS_ENTRIES, Level, Pa, TABLE_ENTRIES, bits};

use super::{GEOMETRY, Stage2, children, next_table};
use crate::memory::{TableMemory, entry};

/// What was found in the tree.
#[derive(Default)]
struct Census {
    wrong: u32,
    tables: u32,
    leaves: [u64; 4],
    runs: u64,
}

impl Stage2 {
    /// Looks at all tables of a VM whose vCPUs stand still, and returns the number of differences:
    /// children that are not counted, counts of leaves, runs and tables that are off, tables in stock or in
    /// quarantine that the tree still links, descriptors that are unlike the others of their run. Unbounded but for the size of the tables.
    pub fn audit<M: TableMemory + ?Sized>(&self, memory: &M) -> u32 {
        let mut census = Census::default();
        for index in 0..GEOMETRY.root_entries() {
            let at = Pa::truncated(self.root.raw() | index << 3);
            self.take_in(memory, Level::L1, memory.load(at), &mut census);
        }
        let [_, gib, mib2, pages] = census.leaves;
        let counts = self.counts;
        for (found, counted) in [
            (gib, counts.gib),
            (mib2, counts.mib2),
            (pages, counts.pages),
            (census.runs, counts.runs),
        ] {
            census.wrong = census.wrong.saturating_add(u32::from(found != counted));
        }
        let off = u32::from(census.tables != self.tables);
        census.wrong.saturating_add(off)
    }

    /// Counts one descriptor with all below it.
    fn take_in<M: TableMemory + ?Sized>(
        &self,
        memory: &M,
        level: Level,
        raw: u64,
        census: &mut Census,
    ) {
        match (bits::kind(level, raw), level.below()) {
            (bits::Kind::Leaf, _) => {
                if let Some(count) = census.leaves.get_mut(level.number() as usize) {
                    *count = count.saturating_add(1);
                }
            }
            (bits::Kind::Table, Some(below)) => {
                let table = next_table(raw);
                let spare =
                    self.stock.contains(memory, table) || self.quarantine.contains(memory, table);
                let mut valid: u64 = 0;
                let mut first = 0;
                for index in 0..TABLE_ENTRIES {
                    let raw = memory.load(entry(table, index));
                    let place = index % CONTIGUOUS_ENTRIES;
                    if place == 0 {
                        first = raw;
                        let run = below == Level::L2 && raw & bits::CONTIGUOUS != 0;
                        census.runs = census.runs.saturating_add(run.into());
                    }
                    let off = u32::from(!agrees(below, first, place, raw));
                    census.wrong = census.wrong.saturating_add(off);
                    valid = valid.saturating_add(raw & bits::VALID);
                    self.take_in(memory, below, raw, census);
                }
                let off = u32::from(spare).saturating_add(u32::from(valid != children(raw)));
                census.wrong = census.wrong.saturating_add(off);
                census.tables = census.tables.saturating_add(1);
            }
            _ => {}
        }
    }
}

/// Whether a descriptor of `level` and the first of the sixteen around it are of one run, or both of none.
const fn agrees(level: Level, first: u64, place: u64, raw: u64) -> bool {
    if (first | raw) & bits::CONTIGUOUS == 0 {
        return true;
    }
    let aligned = first & bits::leaf_address(level) & (level.run_bytes() - 1) == 0;
    let leaf = matches!(bits::kind(level, raw), bits::Kind::Leaf);
    leaf && aligned && raw == first.wrapping_add(place << level.shift())
}
