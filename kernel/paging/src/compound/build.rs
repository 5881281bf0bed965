//! Making spaces and nodes.

use penumbra_vmsa::{
    Half, Ipa, Level, PAGE_SIZE, Pa, Stage1Desc, Stage2Attrs, TableLimits, Va, bits,
};

use super::access::guest_entry;
use super::coalesce::{leaf_for, mark_runs};
use super::node::{Node, NodeId};
use super::pool::{Pool, PoolFrame};
use super::space::{Space, eligible};
use super::{Access, Compound, Form, Parked, Refusal, ShadowError, SpaceId, WINDOW_BIT};
use crate::memory::{TableMemory, entry};
use crate::stage1::Stage1Regs;
use crate::stage2::Mapping;
use crate::tlb::TlbSink;

/// Places at which one page may serve as a shadowed table, those of pages that are looked up with it among them. A store
/// to the page goes to the mirrors of all its places, and an edit of it may end what is below each, while no guest
/// runs on that core and the VM is held.
const MAX_PLACES: usize = 32;

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// Gives the pool a 2 MiB frame of the VM, zeroed and cleaned.
    ///
    /// # Errors
    /// `Full`, `Stage2`.
    pub fn add_pool_block<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        frame: Pa,
    ) -> Result<(), ShadowError> {
        self.pool.add(vm, frame)
    }

    /// Makes the compound root for a guest root, all nested, and returns the IPA to put into TTBRx
    /// in place of it. A root that has one keeps it.
    ///
    /// The root page is protected and the flush done before it is copied, so other vCPUs may run.
    ///
    /// # Errors
    /// `Refused`, `Full`, `NotRam`, `Stage2`.
    pub fn plant<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        regs: &Stage1Regs,
        half: Half,
    ) -> Result<(SpaceId, Ipa), ShadowError> {
        let (root, start) = eligible(regs, half).map_err(ShadowError::Refused)?;
        let alias = alias_of(root);
        let flat_hierarchy = regs.tcr.half(half).hierarchy_disabled;
        if let Some((id, space)) = self.spaces.find(root) {
            if (space.start, space.flat_hierarchy, space.half) != (start, flat_hierarchy, half) {
                return Err(ShadowError::Refused(Refusal::Geometry));
            }
            return Ok((id, alias));
        }
        let id = self.spaces.vacant().ok_or(ShadowError::Full)?;
        let space = Space {
            used: true,
            root,
            start,
            flat_hierarchy,
            half,
            node: None,
        };
        let node = self.mirror_root(vm, id, &space)?;
        self.spaces.set(
            id,
            Some(Space {
                node: Some(node),
                ..space
            }),
        );
        Ok((id, alias))
    }

    /// Mirrors the root of a space again that was demoted to its root. All below is nested.
    ///
    /// # Errors
    /// `NoSpace`, `Already`, `Full`, `NotRam`, `Stage2`.
    pub fn revive<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        id: SpaceId,
        _parked: &Parked,
    ) -> Result<(), ShadowError> {
        let space = self.spaces.get(id).ok_or(ShadowError::NoSpace)?;
        if space.node.is_some() {
            return Err(ShadowError::Already);
        }
        let node = self.mirror_root(vm, id, &space)?;
        self.spaces.set(
            id,
            Some(Space {
                node: Some(node),
                ..space
            }),
        );
        Ok(())
    }

    /// Protects and copies a root, and lets its alias show the copy.
    fn mirror_root<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        id: SpaceId,
        space: &Space,
    ) -> Result<NodeId, ShadowError> {
        let Space { root, start, .. } = *space;
        let frame = self.frame_for(vm, root)?;
        let mirror = self.pool.pa(frame);
        if let Err(error) = self.watch(vm, root) {
            self.pool.give(vm.memory, frame);
            return Err(error);
        }
        vm.flush();
        vm.copy_table(root, mirror);
        let node = show(vm, alias_of(root), mirror).and_then(|()| {
            self.nodes
                .insert(Node::root(root, start, id.0, frame))
                .ok_or(ShadowError::Full)
        });
        match node {
            Ok(_) => self.counters.shadowed = self.counters.shadowed.saturating_add(1),
            Err(_) => {
                self.pool.give(vm.memory, frame);
                self.unwatch(vm, root);
                vm.flush();
            }
        }
        node
    }

    /// Shadows the guest table of `level` that the walk for `va` passes, and what leads there.
    /// Tables that the guest filled with one run of leaves become one leaf of the table above.
    /// Returns the form that the table took.
    ///
    /// One table of 512 descriptors is read for each new level.
    ///
    /// # Errors
    /// `NoSpace`, `NoTable`, `Already`, `NotRam`, `Full`, `Stage2`. Levels above the one that failed
    /// may have been mirrored, which changes nothing for the guest.
    pub fn shadow<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        space: SpaceId,
        va: Va,
        level: Level,
        parked: &Parked,
    ) -> Result<Form, ShadowError> {
        let entry = self.spaces.get(space).ok_or(ShadowError::NoSpace)?;
        let mut node = entry.node.ok_or(ShadowError::NoSpace)?;
        let mut made = Err(ShadowError::Already);
        // One step for each level below the start: three at most.
        for _ in 0..3 {
            let here = self.nodes.get(node);
            if here.level >= level || here.mirror.is_none() {
                break;
            }
            let slot = u16::try_from(here.level.index(va.raw())).unwrap_or(0);
            let raw = guest_entry(vm, here.guest, u64::from(slot));
            node = match self.child_behind(vm, node, (slot, raw)) {
                Some(child) => child,
                None => {
                    let (child, form) = self.grow(vm, node, (slot, raw), &entry, parked)?;
                    made = Ok(form);
                    child
                }
            };
        }
        made
    }

    /// The node below an entry of a node, of which the guest's own descriptor is `raw`. Where the mirror says the
    /// same there is none: no guest's table that a node stands for lies in the window, to which a link leads.
    fn child_behind<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        parent: NodeId,
        (slot, raw): (u16, u64),
    ) -> Option<NodeId> {
        let node = self.nodes.get(parent);
        let mirror = self.pool.pa(node.mirror?);
        let ours = vm.memory.load(entry(mirror, u64::from(slot)));
        if ours == raw && !node.raised {
            return None;
        }
        self.nodes.child(parent, slot)
    }

    /// Makes the node below an entry of a mirror: protect, copy, link, flush; nobody else runs.
    fn grow<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        parent: NodeId,
        (slot, raw): (u16, u64),
        space: &Space,
        _parked: &Parked,
    ) -> Result<(NodeId, Form), ShadowError> {
        let above = self.nodes.get(parent);
        let level = above.level.below().ok_or(ShadowError::NoTable)?;
        let Stage1Desc::Table { next, limits } = Stage1Desc::decode(above.level, raw) else {
            return Err(ShadowError::NoTable);
        };
        let limits = if space.flat_hierarchy {
            TableLimits::default()
        } else {
            limits
        };
        let frame = self.frame_for(vm, next)?;
        if let Err(error) = self.watch(vm, next) {
            self.pool.put_back(frame);
            return Err(error);
        }
        let leaf = vm
            .table_pa(next)
            .and_then(|table| leaf_for(vm.memory, table, level, limits))
            .filter(|leaf| space.may_merge(*leaf));
        let (link, mirror) = match leaf {
            Some(leaf) => {
                self.pool.put_back(frame);
                self.counters.coalesced = self.counters.coalesced.saturating_add(1);
                (leaf, None)
            }
            None => {
                let mirror = self.pool.pa(frame);
                vm.copy_table(next, mirror);
                if level >= Level::L2 {
                    mark_runs(vm.memory, mirror, level, |leaf| space.may_merge(leaf));
                }
                let link = raw & !bits::TABLE_ADDRESS | Pool::<BLOCKS>::ipa(frame).raw();
                (link, Some(frame))
            }
        };
        let node = Node::below(next, level, above.space, (parent, slot), mirror);
        let Some(id) = self.nodes.insert(node) else {
            return Err(ShadowError::Full);
        };
        if let Some(table) = above.mirror {
            vm.memory
                .store(entry(self.pool.pa(table), u64::from(slot)), link);
        }
        vm.flush();
        self.counters.shadowed = self.counters.shadowed.saturating_add(1);
        Ok((id, node.form()))
    }

    /// A pool frame, with room for a node, for a guest page that may be watched.
    fn frame_for<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        page: Ipa,
    ) -> Result<PoolFrame, ShadowError> {
        if self.nodes.crowd_of(page) >= MAX_PLACES {
            return Err(ShadowError::Crowded);
        }
        if !self.is_watched(page) {
            let leaf = if self.samples.awaits_write(page) {
                vm.ram(page)
            } else {
                vm.table_ram(page)
            };
            let leaf = leaf.ok_or(ShadowError::NotRam)?;
            // Protection would have to cover the data alias as well.
            if self.aliases.of(leaf.pa_of(page)).is_some() {
                return Err(ShadowError::NotRam);
            }
        }
        if self.nodes.is_full() || self.pool.is_full() {
            // Room may be in what was given up.
            self.give_back(vm, 1);
        }
        if self.nodes.is_full() {
            return Err(ShadowError::Full);
        }
        self.pool.take().ok_or(ShadowError::Full)
    }

    /// Protects a page unless a node has done so already. The flush is the caller's.
    fn watch<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        page: Ipa,
    ) -> Result<(), ShadowError> {
        if !self.is_watched(page) {
            vm.protect(page)?;
            self.samples.watched(page);
        }
        Ok(())
    }

    /// Drops the protection of a page that no node needs any more. The flush is the caller's.
    pub(super) fn unwatch<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &mut Access<'_, M, T>,
        page: Ipa,
    ) {
        if !self.is_watched(page) {
            // The page is a leaf of its own since it was protected: no table can be lacking.
            let done = vm.unprotect(page);
            debug_assert!(done.is_ok(), "{done:?}");
        }
    }
}

/// Maps a page of the window, read-only, in place of what was there.
pub(super) fn show<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
    vm: &mut Access<'_, M, T>,
    ipa: Ipa,
    pa: Pa,
) -> Result<(), ShadowError> {
    if vm.stage2.lookup(vm.memory, ipa).is_ok() {
        return Ok(vm.stage2.remap_page(vm.memory, vm.tlb, ipa, pa)?);
    }
    let mapping = Mapping::new(ipa, pa, PAGE_SIZE, Stage2Attrs::READ_ONLY);
    Ok(vm.stage2.map(vm.memory, mapping)?)
}

/// The alias of a guest root in the window.
pub(super) const fn alias_of(root: Ipa) -> Ipa {
    Ipa::truncated(root.raw() | WINDOW_BIT)
}
