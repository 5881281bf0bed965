//! Giving the guest's own tables back their place. Always possible, and the answer to every doubt.
//!
//! However much is given up, it is taken out of the tree by one store for its topmost table and by one flush: no walker
//! comes there any more. What it consists of, frames, aliases and the protection of pages, is then given
//! back a little at a time ([`Compound::give_back`]), with all vCPUs running. Until its turn has come a page
//! stays protected, and a store to it is done as before or lets the protection go.

use penumbra_vmsa::{CONTIGUOUS_ENTRIES, Ipa, PAGE_SIZE, bits};

use super::access::guest_entry;
use super::build::{alias_of, show};
use super::node::NodeId;
use super::{Access, Compound, Parked, SpaceId};
use crate::memory::{TableMemory, entry};
use crate::tlb::TlbSink;

/// Places of a page that are given up, or made plain, at once.
const PLACES_AT_ONCE: u32 = 3;
/// Samples ended at once.
const SAMPLES_AT_ONCE: u32 = 4;

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// Makes entry `index` of the mirrors of a guest page plain, so that a store to it can be
    /// mirrored: gives up what is linked there, and the run that it is part of. A page that one
    /// leaf stands for is given up. Of a page that serves at many places some are left for the next time, which the
    /// repeated store asks for.
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
        if !self.is_watched(page) {
            return;
        }
        let raw = guest_entry(vm, page, index);
        let linked = Ipa::truncated(raw & bits::TABLE_ADDRESS);
        let mut left = PLACES_AT_ONCE;
        let mut at = self.nodes.first_of(page);
        while let Some(id) = at.filter(|_| left > 0) {
            let node = self.nodes.get(id);
            let mirror = node.mirror.map(|frame| self.pool.pa(frame));
            let plain = mirror.is_some_and(|at| vm.memory.load(entry(at, index)) == raw);
            if plain && !node.raised {
                at = self.nodes.next_of(id);
                continue;
            }
            left = left.saturating_sub(1);
            if self.nodes.is_detached(id) {
                at = self.nodes.next_of(id);
                self.nodes.blind(id);
                continue;
            }
            self.lower(vm, id);
            let Some(mirror) = mirror else {
                at = self.nodes.next_of(id);
                self.detach(vm, id, parked);
                continue;
            };
            let child = self.nodes.child_on(id, slot, linked);
            if let Some(child) = child.or_else(|| self.nodes.child(id, slot)) {
                self.detach(vm, child, parked);
            }
            if vm.memory.load(entry(mirror, index)) != raw {
                let run = index & !(CONTIGUOUS_ENTRIES - 1);
                for index in run..run.saturating_add(CONTIGUOUS_ENTRIES) {
                    let raw = guest_entry(vm, page, index);
                    vm.memory.store(entry(mirror, index), raw);
                }
            }
            // What went with a child may have been of this page as well, but for this node.
            at = self.nodes.next_of(id);
        }
        self.unwatch(vm, page);
        self.flush_detached(vm);
    }

    /// Gives up the nodes of a guest page, with what is below: for stores that cannot be decoded.
    /// Afterwards the guest may write the page; one that serves at many places it may have to ask for again.
    pub fn demote_page<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        page: Ipa,
        parked: &Parked,
    ) {
        let page = page.align_down(PAGE_SIZE);
        self.wrote(vm, page);
        if !self.is_watched(page) {
            return;
        }
        for _ in 0..PLACES_AT_ONCE {
            let Some(id) = self.nodes.first_of(page) else {
                break;
            };
            if self.nodes.is_detached(id) {
                self.nodes.blind(id);
            } else {
                self.detach(vm, id, parked);
            }
        }
        self.unwatch(vm, page);
        self.flush_detached(vm);
    }

    /// Gives up everything, a root at a time, whose alias shows the guest's own then: repeat until it returns
    /// `true`. One that is left is as good as before.
    #[must_use]
    pub fn nest<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        parked: &Parked,
    ) -> bool {
        let mut spaces = (0..SPACES).filter_map(|number| {
            let id = SpaceId(u8::try_from(number).ok()?);
            self.spaces.get(id)?.node
        });
        let (first, left) = (spaces.next(), spaces.next().is_some());
        if let Some(root) = first {
            self.detach(vm, root, parked);
            vm.flush();
        }
        !left
    }

    /// Ends a space, or some of its samples first: repeat until it returns `true`. A TTBR that still holds its
    /// alias faults in stage 2, at the next walk that fetches from it, and is to be put right then.
    #[must_use]
    pub fn drop_space<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        space: SpaceId,
        parked: &Parked,
    ) -> bool {
        let Some(entry) = self.spaces.get(space) else {
            return true;
        };
        if let Some(node) = entry.node {
            self.detach(vm, node, parked);
        }
        let ended = self.end_some_samples(vm, SAMPLES_AT_ONCE, |sample| sample.space == space);
        if ended {
            hide(vm, alias_of(entry.root));
            self.spaces.set(space, None);
        }
        self.flush_detached(vm);
        ended
    }

    /// Gives up the mirror without children that is worth least, or gives back what was given up before. Roots stay.
    /// Returns whether there was one. One pass over the nodes.
    pub fn evict<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        parked: &Parked,
    ) -> bool {
        if self.nodes.has_detached() {
            self.give_back(vm, 1);
            return true;
        }
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

    /// Links the guest's table in place of a node, then drops the node and all below it.
    pub(super) fn demote_node<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        top: NodeId,
        parked: &Parked,
    ) {
        self.detach(vm, top, parked);
        self.flush_detached(vm);
    }

    /// Links the guest's table in place of a node, which is taken out of the tree with all below it. The flush is
    /// the caller's: behind it no walker knows their tables.
    fn detach<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        top: NodeId,
        _parked: &Parked,
    ) {
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
        self.nodes.detach(top);
        self.unwatch(vm, node.guest);
    }

    /// The flush behind which what was detached is nobody's. A table without any below, as it mostly is, is given back at
    /// once.
    fn flush_detached<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
    ) {
        vm.flush();
        if self.nodes.has_detached_one() {
            self.give_back(vm, 1);
        }
    }

    /// Gives back so many tables at most of those that were given up. Returns how many. All vCPUs may run: behind
    /// the flush that followed, no walker has come there.
    ///
    /// A vCPU whose TLB holds that a page is read-only faults once more, and finds that it is not.
    pub fn give_back<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        tables: u32,
    ) -> u32 {
        let (mut gone, mut aliases) = (0_u32, false);
        while gone < tables {
            let Some(node) = self.nodes.take_detached() else {
                break;
            };
            if let Some(alias) = node.alias {
                self.drop_alias(vm, alias);
                aliases = true;
            }
            if let Some(frame) = node.mirror {
                self.pool.give(vm.memory, frame);
            }
            if node.watches() {
                self.unwatch(vm, node.guest);
            }
            gone = gone.saturating_add(1);
        }
        if aliases {
            vm.flush();
        }
        self.counters.demoted = self.counters.demoted.saturating_add(u64::from(gone));
        gone
    }

    /// Gives back so many tables at most, and some samples, of a VM that was nested. Returns whether that was all:
    /// no page is protected any more. All vCPUs may run.
    #[must_use]
    pub fn wind_up<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        tables: u32,
    ) -> bool {
        let given = self.give_back(vm, tables);
        given < tables && self.end_some_samples(vm, SAMPLES_AT_ONCE, |_| true)
    }

    /// Whether a root is mirrored.
    #[must_use]
    pub fn has_roots(&self) -> bool {
        self.spaces.has_roots()
    }

    /// Whether what was given up waits to be given back.
    #[must_use]
    pub const fn has_detached(&self) -> bool {
        self.nodes.has_detached()
    }

    /// Whether any table is shadowed or waits to be given back, or anything is sampled.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.nodes.used() != 0 || self.samples.is_used()
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
