//! Giving the guest's own tables back their place. Always possible, and the answer to every doubt.

use penumbra_vmsa::{CONTIGUOUS_ENTRIES, Ipa, PAGE_SIZE};

use super::access::guest_entry;
use super::build::{alias_of, show};
use super::node::NodeId;
use super::{Access, Compound, Parked, SpaceId};
use crate::memory::{TableMemory, entry};
use crate::tlb::TlbSink;

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// Makes entry `index` of every mirror of a guest page plain, so that a store to it can be
    /// mirrored: demotes what is linked there, gives up the run that it is part of. A page that one
    /// leaf stands for is demoted.
    pub fn soften<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        ipa: Ipa,
        parked: &Parked,
    ) {
        let page = ipa.align_down(PAGE_SIZE);
        let index = (ipa.raw() & (PAGE_SIZE - 1)) >> 3;
        let slot = u16::try_from(index).unwrap_or(0);
        self.wrote(vm, page);
        let mut at = self.nodes.first_of(page);
        while let Some(id) = at {
            let node = self.nodes.get(id);
            if node.raised {
                self.lower(vm, id);
                vm.flush();
            }
            let Some(frame) = node.mirror else {
                self.demote_node(vm, id, parked);
                // The chain has changed: from its start again. Each round takes a node away.
                at = self.nodes.first_of(page);
                continue;
            };
            if let Some(child) = self.nodes.child(id, slot) {
                self.demote_node(vm, child, parked);
                at = self.nodes.first_of(page);
                continue;
            }
            let mirror = self.pool.pa(frame);
            let run = index & !(CONTIGUOUS_ENTRIES - 1);
            let old = guest_entry(vm, page, index);
            if vm.memory.load(entry(mirror, index)) != old {
                for index in run..run.saturating_add(CONTIGUOUS_ENTRIES) {
                    let raw = guest_entry(vm, page, index);
                    vm.memory.store(entry(mirror, index), raw);
                }
                vm.flush();
            }
            at = self.nodes.next_of(id);
        }
    }

    /// Gives up every node of a guest page, with what is below: for stores that cannot be decoded.
    /// Afterwards the guest may write the page. Returns the number of nodes given up.
    pub fn demote_page<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        page: Ipa,
        parked: &Parked,
    ) -> u32 {
        let page = page.align_down(PAGE_SIZE);
        self.wrote(vm, page);
        let mut nodes: u32 = 0;
        // Each round takes one node of the page away at least.
        while let Some(id) = self.nodes.first_of(page) {
            nodes = nodes.saturating_add(self.demote_node(vm, id, parked));
        }
        nodes
    }

    /// Ends a space. A TTBR that still holds its alias faults in stage 2, at the next walk that
    /// fetches from it, and is to be put right then.
    pub fn drop_space<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        space: SpaceId,
        parked: &Parked,
    ) {
        let Some(entry) = self.spaces.get(space) else {
            return;
        };
        self.end_samples_where(vm, |sample| sample.space == space);
        if let Some(node) = entry.node {
            self.demote_node(vm, node, parked);
        }
        hide(vm, alias_of(entry.root));
        self.spaces.set(space, None);
    }

    /// Gives up the mirror or leaf without children that is worth least. Roots stay. Returns whether
    /// there was one. One pass over the nodes.
    pub fn evict<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        parked: &Parked,
    ) -> bool {
        let mut least: Option<(u16, NodeId)> = None;
        for (id, node) in self.nodes.iter() {
            let holds_frame = node.mirror.is_some() && node.parent.is_some();
            let better = least.is_none_or(|(worth, _)| node.worth < worth);
            if holds_frame && better && self.nodes.deepest(id) == id {
                least = Some((node.worth, id));
            }
        }
        let Some((_, id)) = least else { return false };
        self.demote_node(vm, id, parked);
        self.counters.evicted = self.counters.evicted.saturating_add(1);
        true
    }

    /// Links the guest's table in place of a node, then drops the node and all below it. Returns
    /// how many went.
    pub(super) fn demote_node<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        top: NodeId,
        _parked: &Parked,
    ) -> u32 {
        let node = self.nodes.get(top);
        match node.parent {
            Some(parent) => {
                self.lower(vm, parent);
                let above = self.nodes.get(parent);
                let slot = u64::from(node.slot);
                let raw = guest_entry(vm, above.guest, slot);
                if let Some(table) = above.mirror {
                    vm.memory.store(entry(self.pool.pa(table), slot), raw);
                }
            }
            None => self.nest_root(vm, node.space, node.guest),
        }
        // No walker fills anything now; after this none knows the nodes' tables.
        vm.flush();
        let mut gone: u32 = 0;
        loop {
            let id = self.nodes.deepest(top);
            let node = self.nodes.get(id);
            self.nodes.remove(id);
            if let Some(alias) = node.alias {
                self.drop_alias(vm, alias);
            }
            if let Some(frame) = node.mirror {
                self.pool.give(vm.memory, frame);
            }
            self.unwatch(vm, node.guest);
            gone = gone.saturating_add(1);
            if id == top {
                break;
            }
        }
        vm.flush();
        self.counters.demoted = self.counters.demoted.saturating_add(u64::from(gone));
        gone
    }

    /// Lets the alias of a root show the guest's own root: whoever has the alias in a TTBR goes on,
    /// nested. Should the guest's root not be mapped, the alias faults in stage 2.
    fn nest_root<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        space: u8,
        root: Ipa,
    ) {
        let alias = alias_of(root);
        let shown = match vm.stage2.lookup(vm.memory, root) {
            Ok(leaf) => show(vm, alias, leaf.pa_of(root)),
            Err(_) => {
                hide(vm, alias);
                Ok(())
            }
        };
        debug_assert!(shown.is_ok(), "the alias has a table of its own: {shown:?}");
        let id = SpaceId(space);
        if let Some(mut entry) = self.spaces.get(id) {
            entry.node = None;
            self.spaces.set(id, Some(entry));
        }
    }
}

/// Unmaps a page of the window.
fn hide<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(vm: &mut Access<'_, M, T>, alias: Ipa) {
    let gone = vm.stage2.unmap(vm.memory, vm.tlb, alias, PAGE_SIZE);
    debug_assert!(gone.is_ok(), "the alias is a page of its own");
    drop(gone);
    vm.flush();
}
