//! Repairing stage 2 once its reasons are gone: pages go home, blocks merge again.

use penumbra_vmsa::{Ipa, Level, PAGE_SIZE, Pa, TABLE_ENTRIES, bits};

use super::node::Node;
use super::relayout::exchange;
use super::{Access, Compound, FrameMover, ShadowError, WINDOW_BIT};
use crate::memory::TableMemory;
use crate::stage2::next_table;
use crate::thin::REGION_BYTES;
use crate::tlb::TlbSink;

/// Entries of stage 2 that one step looks at.
const LOOKS_PER_STEP: u32 = 16;

/// What a step towards home came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct HomeStep {
    /// Where to go on; `None` at the end of guest RAM.
    pub next: Option<Ipa>,
    /// Whether a page was moved.
    pub moved: bool,
}

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// Undoes re-layouts, from an IPA on: moves two pages at most, of which one is at home then, and merges what
    /// is a block again. Whoever calls it until `next` is `None` has brought home all that may be moved:
    /// what is watched or shown by an alias stays where it is, and so does what lies in its frame. Other
    /// vCPUs may run.
    pub fn bring_home<M: TableMemory + FrameMover + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        from: Ipa,
    ) -> HomeStep {
        let mut at = from.align_down(PAGE_SIZE);
        for _ in 0..LOOKS_PER_STEP {
            if at.raw() >= WINDOW_BIT {
                return HomeStep {
                    next: None,
                    moved: false,
                };
            }
            let slot = vm.stage2.slot(vm.memory, at.raw());
            let region = at.align_down(REGION_BYTES);
            let (mut bytes, mut may_be_block) = (slot.level.entry_bytes(), false);
            if let (Level::L3, Some(above)) = (slot.level, slot.above[0]) {
                let table = next_table(vm.memory.load(above));
                let whole = (at == region).then(|| disorder(vm, region, table));
                if let Some(differ) = whole.filter(|differ| differ & bits::TABLE_ADDRESS == 0) {
                    // A page that is watched differs from others.
                    (bytes, may_be_block) = (REGION_BYTES, differ & !bits::CONTIGUOUS == 0);
                } else if self.send_home(vm, at).is_ok() {
                    // What lies here now may belong elsewhere, too.
                    return HomeStep {
                        next: Some(at),
                        moved: true,
                    };
                } else {
                    may_be_block = Level::L3.index(at.raw()) == TABLE_ENTRIES - 1;
                }
            }
            at = Ipa::truncated(at.align_down(bytes).raw().saturating_add(bytes));
            if may_be_block {
                let _is_block = self.settle(vm, region);
                break;
            }
        }
        HomeStep {
            next: Some(at),
            moved: false,
        }
    }

    /// Brings the page home in whose frame `page` lies.
    ///
    /// # Errors
    /// `Already`: it is this one. `NotRam`: one of the two may not be moved. `Stage2`.
    fn send_home<M: TableMemory + FrameMover + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        page: Ipa,
    ) -> Result<(), ShadowError> {
        let here = self.may_move(vm, page)?;
        let owner = vm.stage2.home(vm.memory, here.pa).unwrap_or(page);
        if owner == page {
            return Err(ShadowError::Already);
        }
        let there = self.may_move(vm, owner)?;
        exchange(vm, (page, here), (owner, there))?;
        self.counters.moved = self.counters.moved.saturating_add(1);
        Ok(())
    }

    /// Merges the 2 MiB around `ipa` into one stage-2 block again, if no watched page and no page out of
    /// place is left there. Returns whether it is a block now. Flushes the VM if it merges.
    pub fn settle<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &mut Access<'_, M, T>,
        ipa: Ipa,
    ) -> bool {
        let region = ipa.align_down(REGION_BYTES);
        match vm.stage2.lookup(vm.memory, region) {
            Ok(leaf) if leaf.level < Level::L3 => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
        let watches = |node: &Node| node.watches() && node.guest.align_down(REGION_BYTES) == region;
        if self.nodes.iter().any(|(_, node)| watches(node)) {
            return false;
        }
        vm.stage2
            .merge(vm.memory, vm.tlb, region, Level::L2)
            .is_ok()
    }
}

/// In which bits the pages of a region differ from those of the frame that was put behind it, in order and with equal
/// attributes.
fn disorder<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
    vm: &Access<'_, M, T>,
    region: Ipa,
    table: Pa,
) -> u64 {
    let first = vm.memory.load(table);
    let pa = Pa::truncated(first & bits::TABLE_ADDRESS);
    let home = vm.stage2.home(vm.memory, pa);
    if !pa.is_aligned(REGION_BYTES) || home.is_some_and(|home| home != region) {
        return bits::TABLE_ADDRESS;
    }
    vm.memory
        .differences(table, TABLE_ENTRIES, first, PAGE_SIZE)
}
