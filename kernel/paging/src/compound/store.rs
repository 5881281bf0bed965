//! Guest stores to watched pages.

use penumbra_vmsa::{Ipa, PAGE_SIZE, Pa, bits};

use super::node::NodeId;
use super::{Access, Compound, translates_alike};
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
        let page = ipa.align_down(PAGE_SIZE);
        let watched = self.nodes.first_of(page).and(vm.table_pa(page));
        let Some(pa) = watched else {
            self.wrote(vm, page);
            return Stored::NotWatched;
        };
        if self.store_at(vm, (ipa, pa), value) {
            return Stored::Mirrored;
        }
        self.counters.structural = self.counters.structural.saturating_add(1);
        Stored::Structural
    }

    /// Does a store to `ipa`, in the watched page at `pa`, unless it needs a structural change. Whether it did.
    #[inline]
    pub(super) fn store_at<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        (ipa, pa): (Ipa, Pa),
        value: u64,
    ) -> bool {
        let page = ipa.align_down(PAGE_SIZE);
        let index = (ipa.raw() & (PAGE_SIZE - 1)) >> 3;
        let guests = entry(pa, index);
        let old = vm.memory.load(guests);
        let Some(first) = self.nodes.first_of(page) else {
            return false;
        };
        // Mostly there is one, and its mirror says what the guest's table says.
        let Some(slot) = self.plain(vm, first, index, old) else {
            return self.store_everywhere(vm, (page, index), (old, value), guests);
        };
        if let Some(node) = self.nodes.get_mut(first) {
            node.writes = node.writes.saturating_add(1);
        }
        vm.memory.store(slot, value);
        self.end_store(vm, page, (guests, value));
        true
    }

    /// Where the mirror of a node says `old`, if that is the page's only node and nothing larger stands for it.
    #[inline]
    fn plain<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        only: NodeId,
        index: u64,
        old: u64,
    ) -> Option<Pa> {
        let node = self.nodes.peek(only)?;
        let slot = entry(self.pool.pa(node.mirror?), index);
        let plain = vm.memory.load(slot) == old && !node.raised;
        (plain && self.nodes.next_of(only).is_none()).then_some(slot)
    }

    /// A store whose mirrors are done.
    #[inline]
    fn end_store<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        page: Ipa,
        (guests, value): (Pa, u64),
    ) {
        self.guarded.note(page);
        vm.memory.publish();
        vm.memory.store(guests, value);
        self.counters.mirrored = self.counters.mirrored.saturating_add(1);
    }

    /// A store to a page of several nodes, or where something of ours stands.
    #[inline(never)]
    fn store_everywhere<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        (page, index): (Ipa, u64),
        (old, value): (u64, u64),
        guests: Pa,
    ) -> bool {
        let first = self.nodes.first_of(page);
        let mut at = first;
        while let Some(id) = at {
            if !self.takes(vm, id, index, old, value) {
                return false;
            }
            at = self.nodes.next_of(id);
        }
        let mut at = first;
        while let Some(id) = at {
            let mirror = self.nodes.get_mut(id).and_then(|node| {
                node.writes = node.writes.saturating_add(1);
                node.mirror
            });
            if let Some(frame) = mirror {
                let slot = entry(self.pool.pa(frame), index);
                // A run of ours keeps its hint: the store changes ignored bits only there.
                let hint = vm.memory.load(slot) ^ old;
                vm.memory.store(slot, value ^ hint);
            }
            at = self.nodes.next_of(id);
        }
        self.end_store(vm, page, (guests, value));
        true
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
        let Some(node) = self.nodes.peek(id) else {
            return false;
        };
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
