//! One leaf for a level-2 table whose entries came to be leaves in a row: 512 x 2 MiB as 1 GiB.
//!
//! The mirror stays behind the leaf, up to date, and with it the nodes below: whatever changes there
//! first *lowers* the leaf again, that is, links the mirror in its place.

use penumbra_vmsa::{Level, Stage1Desc, TableLimits, Va, bits};

use super::access::guest_entry;
use super::coalesce::leaf_for;
use super::node::{Node, NodeId};
use super::pool::Pool;
use super::{Access, Compound, Parked, ShadowError, SpaceId};
use crate::memory::{TableMemory, entry};
use crate::tlb::TlbSink;

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// Lets one 1 GiB leaf stand for the mirrored level-2 table around `va`, if the mirror's entries
    /// are 512 leaves in a row: the guest's own blocks, and leaves that stand for its level-3 tables.
    ///
    /// # Errors
    /// `NoSpace`, `NoTable` (no mirror there), `Already`, `NotUniform`.
    pub fn raise<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        space: SpaceId,
        va: Va,
        _parked: &Parked,
    ) -> Result<(), ShadowError> {
        let id = self.gib_node(space, va)?;
        let node = self.nodes.get(id);
        if node.raised {
            return Err(ShadowError::Already);
        }
        let leaf = self.raised_leaf(vm, &node).ok_or(ShadowError::NotUniform)?;
        self.put_in_parent(vm, &node, leaf);
        vm.flush();
        if let Some(node) = self.nodes.get_mut(id) {
            node.raised = true;
        }
        self.counters.raised = self.counters.raised.saturating_add(1);
        Ok(())
    }

    /// Links the mirror of a raised node again. The flush is the caller's.
    pub(super) fn lower<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        id: NodeId,
    ) {
        let node = self.nodes.get(id);
        if !node.raised {
            return;
        }
        if let Some(link) = self.link_of(vm, &node) {
            self.put_in_parent(vm, &node, link);
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.raised = false;
        }
    }

    /// The leaf that may stand for a mirrored table, as the mirror is now.
    pub(super) fn raised_leaf<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        node: &Node,
    ) -> Option<u64> {
        let above = self.nodes.get(node.parent?);
        let raw = guest_entry(vm, above.guest, u64::from(node.slot));
        let Stage1Desc::Table { limits, .. } = Stage1Desc::decode(above.level, raw) else {
            return None;
        };
        let space = self.spaces.get(SpaceId(node.space))?;
        let limits = if space.flat_hierarchy {
            TableLimits::default()
        } else {
            limits
        };
        let leaf = leaf_for(vm.memory, self.pool.pa(node.mirror?), node.level, limits)?;
        space.may_merge(leaf).then_some(leaf)
    }

    /// The table descriptor that links a node's mirror.
    pub(super) fn link_of<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        node: &Node,
    ) -> Option<u64> {
        let above = self.nodes.get(node.parent?);
        let raw = guest_entry(vm, above.guest, u64::from(node.slot));
        Some(raw & !bits::TABLE_ADDRESS | Pool::<BLOCKS>::ipa(node.mirror?).raw())
    }

    fn put_in_parent<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &mut Access<'_, M, T>,
        node: &Node,
        raw: u64,
    ) {
        let table = node.parent.and_then(|parent| self.nodes.get(parent).mirror);
        if let Some(table) = table {
            let slot = entry(self.pool.pa(table), u64::from(node.slot));
            vm.memory.store(slot, raw);
        }
    }

    /// The mirrored level-2 table around `va`.
    fn gib_node(&self, space: SpaceId, va: Va) -> Result<NodeId, ShadowError> {
        let root = self.spaces.get(space).and_then(|space| space.node);
        let mut id = root.ok_or(ShadowError::NoSpace)?;
        for _ in 0..2 {
            let node = self.nodes.get(id);
            if node.level == Level::L2 {
                break;
            }
            let slot = u16::try_from(node.level.index(va.raw())).unwrap_or(0);
            id = self.nodes.child(id, slot).ok_or(ShadowError::NoTable)?;
        }
        let node = self.nodes.get(id);
        if node.level == Level::L2 && node.mirror.is_some() && node.parent.is_some() {
            Ok(id)
        } else {
            Err(ShadowError::NoTable)
        }
    }
}
