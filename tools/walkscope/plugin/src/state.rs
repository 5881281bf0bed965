//! Everything that is counted, and the windows of tests.

use std::collections::BTreeMap;

use penumbra_walkscope_model::{AddressSpace, BlockKey, BlockTally, Counts, Tally};
#[cfg(not(test))]
use penumbra_walkscope_model::{Scope, Shape, Use};

use crate::decode::Written;

/// Cores at most.
pub(crate) const CORES: usize = 16;
/// Reasons of exits: an exception class (0 to 63), an interrupt, anything else.
pub(crate) const REASONS: usize = 66;
/// Index of interrupts among the reasons.
pub(crate) const INTERRUPT: usize = 64;

#[cfg(not(test))]
/// Files that programs mapped shared and writable: only where they tell is such memory known not to be anonymous.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileMaps {
    /// Calls of `mmap` for one.
    pub(crate) made: u64,
    /// Those that a marker told of.
    pub(crate) told: u64,
}

/// Instructions of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Instructions {
    pub(crate) el0: u64,
    pub(crate) el1: u64,
}

/// What belongs to an address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// Instructions at EL0 and EL1 while its root was in place.
    pub(crate) instructions: u64,
    /// Misses in its half, by column; empty if there were none.
    pub(crate) columns: Vec<Tally>,
}

impl Space {
    fn since(&self, before: &Self) -> Self {
        let then = before.columns.iter().copied();
        let then = then.chain(std::iter::repeat(Tally::default()));
        let columns = self.columns.iter().zip(then);
        Self {
            instructions: self.instructions - before.instructions,
            columns: columns.map(|(now, then)| now.since(&then)).collect(),
        }
    }

    /// Misses of all columns: zero says that there is nothing to tell.
    pub(crate) fn misses(&self) -> u64 {
        self.columns.iter().map(|tally| tally.misses).sum()
    }
}

/// Running totals of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    /// By VMID.
    pub(crate) guests: BTreeMap<u16, Instructions>,
    /// EL2 instructions of each core.
    pub(crate) el2: [u64; CORES],
    /// Exits to EL2 of each core, by reason.
    pub(crate) exits: [[u64; REASONS]; CORES],
    /// Writes by EL1 of TTBR0, TTBR1, CONTEXTIDR, and SCTLR or TCR.
    pub(crate) writes: [u64; 4],
    /// TLBIs by EL1.
    pub(crate) tlbi: u64,
    /// Counts of each column by VMID.
    pub(crate) columns: BTreeMap<u16, Vec<Counts>>,
    /// Address spaces: both halves of each core's regime are charged with what the core executes.
    pub(crate) spaces: BTreeMap<AddressSpace, Space>,
    /// What misses found of stage 2, by 2 MiB of IPA.
    pub(crate) blocks: BTreeMap<BlockKey, Vec<BlockTally>>,
}

impl Totals {
    pub(crate) const fn new() -> Self {
        Self {
            guests: BTreeMap::new(),
            el2: [0; CORES],
            exits: [[0; REASONS]; CORES],
            writes: [0; 4],
            tlbi: 0,
            columns: BTreeMap::new(),
            spaces: BTreeMap::new(),
            blocks: BTreeMap::new(),
        }
    }

    /// Notes instructions that ran with these two halves in place.
    pub(crate) fn ran(&mut self, halves: [AddressSpace; 2], instructions: u64) {
        for half in halves {
            self.spaces.entry(half).or_default().instructions += instructions;
        }
    }

    /// Notes a write by EL1.
    pub(crate) fn write(&mut self, written: Written) {
        let [ttbr0, ttbr1, context, control] = &mut self.writes;
        match written {
            Written::Ttbr0 => *ttbr0 += 1,
            Written::Ttbr1 => *ttbr1 += 1,
            Written::ContextId => *context += 1,
            Written::Control => *control += 1,
            Written::Stage2 => {}
        }
    }

    /// Notes an exit.
    pub(crate) fn exit(&mut self, core: usize, reason: usize) {
        if let Some(count) = self.exits.get_mut(core).and_then(|row| row.get_mut(reason)) {
            *count += 1;
        }
    }

    #[cfg(not(test))]
    /// With the columns as they stand in the models.
    pub(crate) fn with(&self, scope: &Scope) -> Self {
        let mut now = self.clone();
        now.columns = scope.partitions().iter().cloned().collect();
        now.blocks.clone_from(scope.blocks());
        for (key, columns) in scope.spaces() {
            now.spaces
                .entry(*key)
                .or_default()
                .columns
                .clone_from(columns);
        }
        now
    }

    /// What came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut difference = self.clone();
        for (vmid, now) in &mut difference.guests {
            if let Some(then) = before.guests.get(vmid) {
                now.el0 -= then.el0;
                now.el1 -= then.el1;
            }
        }
        for (now, then) in difference.el2.iter_mut().zip(&before.el2) {
            *now -= then;
        }
        let rows = difference
            .exits
            .iter_mut()
            .flatten()
            .zip(before.exits.iter().flatten());
        for (now, then) in rows {
            *now -= then;
        }
        for (now, then) in difference.writes.iter_mut().zip(&before.writes) {
            *now -= then;
        }
        difference.tlbi -= before.tlbi;
        for (vmid, now) in &mut difference.columns {
            let Some(then) = before.columns.get(vmid) else {
                continue;
            };
            for (now, then) in now.iter_mut().zip(then) {
                *now = now.since(then);
            }
        }
        for (key, now) in &mut difference.spaces {
            if let Some(then) = before.spaces.get(key) {
                *now = now.since(then);
            }
        }
        for (key, now) in &mut difference.blocks {
            let then = before.blocks.get(key).into_iter().flatten();
            for (now, then) in now.iter_mut().zip(then) {
                *now = now.since(then);
            }
        }
        let found = |tallies: &mut Vec<BlockTally>| tallies.iter().any(|t| t.translations > 0);
        difference.blocks.retain(|_, tallies| found(tallies));
        difference
    }
}

#[cfg(not(test))]
/// A window that was closed.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) test: usize,
    /// The core and VMID that executed the closing marker.
    pub(crate) core: usize,
    pub(crate) vmid: u16,
    pub(crate) totals: Totals,
    /// What the VM has in the core's main TLB, in each column, when the window closes.
    pub(crate) reach: Vec<Use>,
    /// What maps each of the blocks in its totals then.
    pub(crate) shapes: Vec<Shape>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_space_has_what_ran_and_missed_since() {
        let space = |root, asid| AddressSpace {
            vmid: 1,
            root,
            asid,
        };
        let halves = [space(0x1000, Some(7)), space(0x2000, None)];
        let tally = |misses| Tally {
            misses,
            ..Tally::default()
        };
        let mut totals = Totals::new();
        totals.ran(halves, 100);
        let before = totals.clone();
        totals.ran(halves, 20);
        totals.ran([space(0x1000, Some(8)), space(0x2000, None)], 3);
        // The first misses come within the window.
        totals.spaces.get_mut(&halves[0]).unwrap().columns = vec![tally(5)];
        let window = totals.since(&before);
        let found = |key| {
            let space: &Space = &window.spaces[&key];
            (space.instructions, space.misses())
        };
        assert_eq!(found(halves[0]), (20, 5));
        assert_eq!(found(halves[1]), (23, 0));
        assert_eq!(found(space(0x1000, Some(8))), (3, 0));
    }

    #[test]
    fn a_window_is_a_difference() {
        let mut totals = Totals::new();
        totals.guests.insert(1, Instructions { el0: 5, el1: 6 });
        let before = totals.clone();
        totals.guests.insert(1, Instructions { el0: 15, el1: 6 });
        totals.guests.insert(2, Instructions { el0: 1, el1: 0 });
        totals.exit(3, INTERRUPT);
        totals.write(Written::Ttbr1);
        totals.tlbi = 4;
        let block = |ipa| BlockKey::around(2, ipa, false);
        let tally = |reads| {
            vec![BlockTally {
                translations: reads,
                reads,
            }]
        };
        totals.blocks.insert(block(0), tally(5));
        totals.blocks.insert(block(1 << 21), tally(5));
        let before = Totals {
            blocks: totals.blocks.clone(),
            ..before
        };
        totals.blocks.insert(block(0), tally(7));
        totals.blocks.insert(block(1 << 22), tally(3));
        let window = totals.since(&before);
        assert_eq!(window.guests[&1], Instructions { el0: 10, el1: 0 });
        assert_eq!(window.guests[&2], Instructions { el0: 1, el1: 0 });
        assert_eq!(
            (window.exits[3][INTERRUPT], window.writes, window.tlbi),
            (1, [0, 1, 0, 0], 4)
        );
        // A block that nothing was translated in is not in the window.
        let blocks: Vec<_> = window.blocks.into_iter().collect();
        assert_eq!(blocks, [(block(0), tally(2)), (block(1 << 22), tally(3))]);
    }
}
