//! What whoever owns the compound tables needs besides: spaces by number, giving back by VA or bit by
//! bit, and forgetting all.

use penumbra_vmsa::{Half, Ipa, Level, TABLE_ENTRIES, Va, bits};

use super::build::alias_of;
use super::node::NodeId;
use super::relayout::Guarded;
use super::{Access, Compound, Counters, Parked, SpaceId};
use crate::memory::{TableMemory, entry};
use crate::tlb::TlbSink;

/// A space as seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceView {
    /// Its name.
    pub id: SpaceId,
    /// The guest's root.
    pub root: Ipa,
    /// Where its compound root answers.
    pub alias: Ipa,
    /// Its half.
    pub half: Half,
    /// First VA of the half.
    pub first: Va,
    /// Whether its root is mirrored. If not, the alias shows the guest's own root.
    pub mirrored: bool,
}

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// The name of the space of a number, if it is in use.
    #[must_use]
    pub fn space_id(&self, number: usize) -> Option<SpaceId> {
        let id = SpaceId(u8::try_from(number).ok()?);
        self.spaces.is_used(id).then_some(id)
    }

    /// The space of a number, if it is in use.
    #[must_use]
    pub fn space(&self, number: usize) -> Option<SpaceView> {
        let id = SpaceId(u8::try_from(number).ok()?);
        let space = self.spaces.get(id)?;
        let span = 1_u64 << space.start.shift() << 9;
        let first = match space.half {
            Half::Low => 0,
            Half::High => !(span - 1),
        };
        Some(SpaceView {
            id,
            root: space.root,
            alias: alias_of(space.root),
            half: space.half,
            first: Va::truncated(first),
            mirrored: space.node.is_some(),
        })
    }

    /// Whether `root` is a page of the VM's RAM without a valid entry.
    #[must_use]
    pub fn is_empty<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        root: Ipa,
    ) -> bool {
        let Some(page) = vm.table_pa(root) else {
            return false;
        };
        (0..TABLE_ENTRIES).all(|index| vm.memory.load(entry(page, index)) & bits::VALID == 0)
    }

    /// The node of `level` around `va`, or where the mirrors end.
    fn node_at(&self, space: SpaceId, va: Va, level: Level) -> Option<NodeId> {
        let mut id = self.spaces.get(space)?.node?;
        for _ in 0..3 {
            let node = self.nodes.get(id);
            if node.level >= level {
                break;
            }
            let slot = u16::try_from(node.level.index(va.raw())).unwrap_or(0);
            id = self.nodes.child(id, slot)?;
        }
        (self.nodes.get(id).level == level).then_some(id)
    }

    /// Gives up the shadowed table of `level` around `va`, with all below it; `false` if there is none.
    pub fn demote<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        space: SpaceId,
        va: Va,
        level: Level,
        parked: &Parked,
    ) -> bool {
        let found = self.node_at(space, va, level);
        if let Some(id) = found {
            self.demote_node(vm, id, parked);
        }
        found.is_some()
    }

    /// Forgets everything, in place: for a VM whose stage 2 and frames are gone.
    pub fn clear(&mut self) {
        self.spaces.clear();
        self.nodes.clear();
        self.pool.clear();
        self.aliases.clear();
        self.residents.clear();
        self.guarded = Guarded::NOTHING;
        self.known.clear();
        self.samples.clear();
        self.counters = Counters::default();
    }
}
