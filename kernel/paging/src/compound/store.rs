//! Guest stores to watched pages.

use penumbra_vmsa::{Ipa, PAGE_SIZE, bits};

use super::access::guest_entry;
use super::node::NodeId;
use super::{Access, Compound, entry_ipa, translates_alike};
use crate::memory::{TableMemory, entry};
use crate::tlb::TlbSink;

/// What became of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stored {
    /// Guest table and mirrors have it: skip the instruction.
    Mirrored,
    /// Something of ours stands where it would show. Park the other vCPUs, call
    /// [`Compound::soften`] or [`Compound::demote_page`], and let the guest store again.
    Structural,
    /// The page is not watched, any more or ever: drop the vCPU's stale TLB entry and let the guest
    /// store again.
    NotWatched,
}

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// Does a 64-bit store of the guest to `ipa`, 8-byte aligned, in a watched page: mirrors first,
    /// DSB ISHST, then the guest's table. No TLB work: what the store takes away, the guest itself
    /// has to flush, and its flush hits our entries, whose VAs and ASIDs are the guest's.
    ///
    /// The caller has checked that the store is one that may be emulated, and holds the VM's lock.
    pub fn store<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        ipa: Ipa,
        value: u64,
    ) -> Stored {
        let page = Ipa::truncated(ipa.raw() & !(PAGE_SIZE - 1));
        let index = (ipa.raw() & (PAGE_SIZE - 1)) >> 3;
        let Some(first) = self.nodes.first_of(page) else {
            self.wrote(vm, page);
            return Stored::NotWatched;
        };
        let old = guest_entry(vm, page, index);
        let mut at = Some(first);
        while let Some(id) = at {
            if !self.takes(vm, id, index, old, value) {
                self.counters.structural = self.counters.structural.saturating_add(1);
                return Stored::Structural;
            }
            if let Some(node) = self.nodes.get_mut(id) {
                node.writes = node.writes.saturating_add(1);
            }
            at = self.nodes.next_of(id);
        }
        let mut at = Some(first);
        while let Some(id) = at {
            if let Some(frame) = self.nodes.get(id).mirror {
                let slot = entry(self.pool.pa(frame), index);
                // A run of ours keeps its hint: the store changes ignored bits only there.
                let hint = vm.memory.load(slot) ^ old;
                vm.memory.store(slot, value ^ hint);
            }
            at = self.nodes.next_of(id);
        }
        vm.memory.publish();
        vm.guest_store(entry_ipa(page, index), value);
        self.counters.mirrored = self.counters.mirrored.saturating_add(1);
        Stored::Mirrored
    }

    /// Whether a node's form can follow a store without a structural change.
    fn takes<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        id: NodeId,
        index: u64,
        old: u64,
        value: u64,
    ) -> bool {
        let node = self.nodes.get(id);
        let Some(frame) = node.mirror else {
            return translates_alike(node.level, old, value);
        };
        if node.raised {
            return translates_alike(node.level, old, value);
        }
        let ours = vm.memory.load(entry(self.pool.pa(frame), index));
        // A link of ours, or a run of ours: only a store that changes no translation goes through.
        ours == old || (old ^ ours == bits::CONTIGUOUS && translates_alike(node.level, old, value))
    }
}
