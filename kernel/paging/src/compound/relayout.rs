//! Re-layout: the frames behind a shadowed region are put in VA order into one 2 MiB frame of the
//! VM, so that one leaf can stand for the region, through an alias IPA of the window.
//!
//! Frames are exchanged, not added: the 2 MiB frame lies behind pages of the guest's own, those of the region
//! among them or others, and what lay there moves to the frames that become free. Pages go one by one, each
//! behind stage-2 break-before-make: a vCPU that touches one meanwhile waits for the VM's lock, for
//! one page copy. Should the guest edit its table on the way, the work done so far is harmless.

use penumbra_vmsa::{
    Ipa, Level, Pa, Stage1Desc, Stage2Attrs, TABLE_ENTRIES, TableLimits, Va, bits,
};

use super::access::guest_entry;
use super::coalesce::as_block;
use super::node::{Node, NodeId};
use super::placing::{Donor, Found, OwnFrames, Search, frame_of};
use super::{ALIAS_BASE, Access, Compound, IGNORED, Parked, ShadowError, SpaceId};
use crate::memory::{TableMemory, entry};
use crate::stage2::Mapping;
use crate::thin::REGION_BYTES;
use crate::tlb::TlbSink;

/// Pages that are where they belong, and that one step passes over.
const IN_PLACE_PER_STEP: u32 = 16;
/// Data aliases of one VM at most.
const MAX_ALIASES: usize = 128;

/// Exchanges the contents of two frames.
pub trait FrameMover {
    /// Exchanges the contents of two pages that no guest can reach, with the cache maintenance that
    /// a guest needs which maps them executable or uncached (DC CIVAC of both, and for fetches DC
    /// CVAU and IC as CTR_EL0 says).
    fn exchange(&mut self, a: Pa, b: Pa);
}

/// Number of a data alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AliasId(u8);

/// The 2 MiB frames that data aliases show.
#[derive(Debug)]
pub(super) struct Aliases([Option<Pa>; MAX_ALIASES]);

impl Aliases {
    pub(super) const fn new() -> Self {
        Self([None; MAX_ALIASES])
    }

    fn take(&mut self, frame: Pa) -> Option<AliasId> {
        let free = self.0.iter().position(Option::is_none)?;
        *self.0.get_mut(free)? = Some(frame);
        Some(AliasId(u8::try_from(free).ok()?))
    }

    fn give(&mut self, id: AliasId) {
        if let Some(slot) = self.0.get_mut(usize::from(id.0)) {
            *slot = None;
        }
    }

    /// No alias is left, in place.
    pub(super) fn clear(&mut self) {
        self.0.fill(None);
    }

    fn is_full(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }

    /// The alias that shows a frame.
    pub(super) fn of(&self, pa: Pa) -> Option<AliasId> {
        let base = pa.align_down(REGION_BYTES);
        let found = self.0.iter().position(|slot| *slot == Some(base))?;
        Some(AliasId(u8::try_from(found).ok()?))
    }

    fn ipa(id: AliasId) -> Ipa {
        Ipa::truncated(ALIAS_BASE.saturating_add(u64::from(id.0).saturating_mul(REGION_BYTES)))
    }
}

/// A re-layout that has begun.
#[derive(Debug)]
pub struct Relayout {
    space: SpaceId,
    va: Va,
    /// [`Donor::number`] of what was named.
    donor: u64,
    frame: Pa,
    search: Search,
    /// 1: also what only EL1 may access. No `bool`, whose niche would make a `None` of this other than
    /// zero bytes, and EL2's state with it.
    kernel: u8,
    /// 1: where the pages of the frame are is known.
    placed: u8,
    next: u64,
}

impl Relayout {
    /// Pages that have been looked at, of 512.
    #[must_use]
    pub const fn progress(&self) -> u64 {
        self.next
    }

    /// Whether it is about this region and this frame.
    #[must_use]
    pub fn is_for(&self, space: SpaceId, va: Va, donor: Donor) -> bool {
        (self.space, self.va, self.donor) == (space, va, donor.number())
    }
}

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// Begins to re-lay out the region of `va`, whose level-3 table is mirrored, with the frame that
    /// `donor` names. Moves nothing yet. One work at a time: another that begins ends this one.
    ///
    /// With `kernel` unset, only regions that EL0 may access qualify: what AT says of them nobody
    /// relies on.
    ///
    /// # Errors
    /// `NoSpace`, `NoTable` (no mirror there), `NotUniform` (not full, unequal attributes, or global in the
    /// low half), `NotRam`
    /// (pages, or no such frame that no alias shows), `Full`.
    pub fn relayout<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &Access<'_, M, T>,
        space: SpaceId,
        va: Va,
        donor: Donor,
        kernel: bool,
    ) -> Result<Relayout, ShadowError> {
        let (_, node) = self.region_node(space, va)?;
        if self.aliases.is_full() {
            return Err(ShadowError::Full);
        }
        let first = self.movable(vm, &node, 0)?;
        if !self.may_go(space, first, kernel) {
            return Err(ShadowError::NotUniform);
        }
        let mut own = OwnFrames::default();
        for index in 0..TABLE_ENTRIES {
            let raw = self.movable(vm, &node, index)?;
            let page = Ipa::truncated(raw & bits::TABLE_ADDRESS);
            if let Some(frame) = frame_of(vm, page) {
                own.note(frame, page);
            }
            if (raw ^ first) & !(IGNORED | bits::TABLE_ADDRESS | bits::CONTIGUOUS) != 0 {
                return Err(ShadowError::NotUniform);
            }
        }
        let page = match donor {
            Donor::Own(number) => own.get(number, &self.aliases),
            Donor::At(page) => Some(page),
        };
        let page = page.ok_or(ShadowError::NotRam)?;
        let frame = frame_of(vm, page).ok_or(ShadowError::NotRam)?;
        if self.aliases.of(frame).is_some() {
            return Err(ShadowError::NotRam);
        }
        self.residents.clear();
        Ok(Relayout {
            space,
            va,
            donor: donor.number(),
            frame,
            search: Search::from(page),
            kernel: kernel.into(),
            placed: 0,
            next: 0,
        })
    }

    /// Looks for a while at what lies in the frame, or moves one page at most. Returns whether all pages
    /// are in place. Other vCPUs may run.
    ///
    /// # Errors
    /// `NoTable`, `NotUniform`, `NotRam`: the guest has changed something, or something of the frame may not
    /// be moved; give the work up.
    pub fn relayout_step<M: TableMemory + FrameMover + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        work: &mut Relayout,
    ) -> Result<bool, ShadowError> {
        let (_, node) = self.region_node(work.space, work.va)?;
        if work.placed == 0 {
            let stage2 = (&*vm.stage2, &*vm.memory);
            match self.residents.search(stage2, work.frame, &mut work.search) {
                Found::All => work.placed = 1,
                Found::Some => {}
                Found::NotAll => return Err(ShadowError::NotRam),
            }
            return Ok(false);
        }
        for _ in 0..IN_PLACE_PER_STEP {
            if work.next >= TABLE_ENTRIES {
                return Ok(true);
            }
            let raw = self.movable(vm, &node, work.next)?;
            let page = Ipa::truncated(raw & bits::TABLE_ADDRESS);
            let moved = self.place(vm, work, page)?;
            work.next = work.next.saturating_add(1);
            if moved {
                break;
            }
        }
        Ok(work.next >= TABLE_ENTRIES)
    }

    /// Brings a page to where it belongs. Returns whether it had to be moved.
    fn place<M: TableMemory + FrameMover + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        work: &Relayout,
        page: Ipa,
    ) -> Result<bool, ShadowError> {
        let wanted = Pa::truncated(work.frame.raw() | work.next << Level::L3.shift());
        let now = vm.table_ram(page).ok_or(ShadowError::NotRam)?.pa_of(page);
        if now == wanted {
            return Ok(false);
        }
        let holder = self.residents.get(work.next).ok_or(ShadowError::NotRam)?;
        self.may_move(vm, holder)?;
        let held = vm.table_ram(holder).ok_or(ShadowError::NotRam)?;
        if held.pa_of(holder) != wanted {
            // Something else has moved since the frame was looked at.
            return Err(ShadowError::NotRam);
        }
        vm.stage2.split(vm.memory, vm.tlb, page)?;
        vm.stage2.split(vm.memory, vm.tlb, holder)?;
        vm.stage2
            .exchange_pages(vm.memory, vm.tlb, page, holder, FrameMover::exchange)?;
        self.residents.set(work.next, page);
        if now.align_down(REGION_BYTES) == work.frame {
            let place = now.raw() >> Level::L3.shift() & 0x1ff;
            self.residents.set(place, holder);
        }
        self.counters.moved = self.counters.moved.saturating_add(1);
        Ok(true)
    }

    /// Lets one leaf stand for the region, if its pages lie as they should: all steps done, and the
    /// guest's table still the same.
    ///
    /// # Errors
    /// `NoTable`, `NotUniform`, `NotRam`, `Full`, `Stage2`.
    pub fn relayout_finish<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        work: &Relayout,
        _parked: &Parked,
    ) -> Result<(), ShadowError> {
        let (id, node) = self.region_node(work.space, work.va)?;
        let (Some(parent), Some(mirror)) = (node.parent, node.mirror) else {
            return Err(ShadowError::NoTable);
        };
        let first = self.movable(vm, &node, 0)?;
        if !self.may_go(work.space, first, work.kernel != 0) {
            return Err(ShadowError::NotUniform);
        }
        for index in 0..TABLE_ENTRIES {
            let raw = self.movable(vm, &node, index)?;
            let page = Ipa::truncated(raw & bits::TABLE_ADDRESS);
            let now = vm.table_ram(page).ok_or(ShadowError::NotRam)?.pa_of(page);
            let wanted = work.frame.raw() | index << Level::L3.shift();
            let alike = (raw ^ first) & !(IGNORED | bits::TABLE_ADDRESS | bits::CONTIGUOUS) == 0;
            if now.raw() != wanted || !alike {
                return Err(ShadowError::NotUniform);
            }
        }
        let above = self.nodes.get(parent);
        let link = guest_entry(vm, above.guest, u64::from(node.slot));
        let Stage1Desc::Table { limits, .. } = Stage1Desc::decode(above.level, link) else {
            return Err(ShadowError::NoTable);
        };
        let flat = self
            .spaces
            .get(work.space)
            .is_some_and(|space| space.flat_hierarchy);
        let limits = if flat { TableLimits::default() } else { limits };
        let alias = self.aliases.take(work.frame).ok_or(ShadowError::Full)?;
        let ipa = Aliases::ipa(alias);
        let mapping = Mapping::new(ipa, work.frame, REGION_BYTES, Stage2Attrs::RAM);
        if let Err(error) = vm.stage2.map(vm.memory, mapping) {
            self.aliases.give(alias);
            return Err(error.into());
        }
        if let (Some(table), Some(leaf)) = (above.mirror, as_block(Level::L3, first, ipa, limits)) {
            vm.memory
                .store(entry(self.pool.pa(table), u64::from(node.slot)), leaf);
        }
        vm.flush();
        self.pool.give(vm.memory, mirror);
        if let Some(node) = self.nodes.get_mut(id) {
            node.mirror = None;
            node.alias = Some(alias);
        }
        self.counters.relaid = self.counters.relaid.saturating_add(1);
        Ok(())
    }

    /// Whether a region of leaves like `leaf` may be shown through an alias.
    fn may_go(&self, space: SpaceId, leaf: u64, kernel: bool) -> bool {
        let space = self.spaces.get(space);
        let merges = space.is_some_and(|space| space.may_merge(leaf));
        let Stage1Desc::Leaf { attrs, .. } = Stage1Desc::decode(Level::L3, leaf) else {
            return false;
        };
        merges && (kernel || attrs.user)
    }

    /// Takes an alias out of stage 2. Nothing links it any more; the flush is the caller's.
    pub(super) fn drop_alias<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        alias: AliasId,
    ) {
        let ipa = Aliases::ipa(alias);
        let gone = vm.stage2.unmap(vm.memory, vm.tlb, ipa, REGION_BYTES);
        debug_assert!(gone.is_ok(), "the alias is a block of its own");
        drop(gone);
        self.aliases.give(alias);
    }

    /// The leaf that stands for a re-laid-out region, for the audit.
    pub(super) fn alias_leaf<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        vm: &Access<'_, M, T>,
        node: &Node,
        limits: TableLimits,
    ) -> Option<u64> {
        let ipa = Aliases::ipa(node.alias?);
        let shown = vm.stage2.lookup(vm.memory, ipa).ok()?;
        let first = guest_entry(vm, node.guest, 0);
        for index in 0..TABLE_ENTRIES {
            let raw = guest_entry(vm, node.guest, index);
            let page = Ipa::truncated(raw & bits::TABLE_ADDRESS);
            let wanted = shown.pa.raw() | index << Level::L3.shift();
            let behind = vm.stage2.lookup(vm.memory, page).ok()?.pa_of(page);
            let alike = (raw ^ first) & !(IGNORED | bits::TABLE_ADDRESS | bits::CONTIGUOUS) == 0;
            if behind.raw() != wanted || !alike {
                return None;
            }
        }
        as_block(Level::L3, first, ipa, limits)
    }

    /// The mirror of the level-3 table around `va`.
    fn region_node(&self, space: SpaceId, va: Va) -> Result<(NodeId, Node), ShadowError> {
        let root = self.spaces.get(space).and_then(|space| space.node);
        let mut id = root.ok_or(ShadowError::NoSpace)?;
        for _ in 0..3 {
            let node = self.nodes.get(id);
            let slot = u16::try_from(node.level.index(va.raw())).unwrap_or(0);
            id = self.nodes.child(id, slot).ok_or(ShadowError::NoTable)?;
            let node = self.nodes.get(id);
            if node.level == Level::L3 && node.mirror.is_some() {
                return Ok((id, node));
            }
        }
        Err(ShadowError::NoTable)
    }

    /// The descriptor at an entry of a region, if its page may be moved: a cached, accessible leaf
    /// over RAM that is neither a watched table nor part of an alias.
    fn movable<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        node: &Node,
        index: u64,
    ) -> Result<u64, ShadowError> {
        let raw = guest_entry(vm, node.guest, index);
        if bits::kind(Level::L3, raw) != bits::Kind::Leaf || raw & bits::AF == 0 {
            return Err(ShadowError::NotUniform);
        }
        self.may_move(vm, Ipa::truncated(raw & bits::TABLE_ADDRESS))?;
        Ok(raw)
    }

    pub(super) fn may_move<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        page: Ipa,
    ) -> Result<(), ShadowError> {
        let leaf = vm.table_ram(page).ok_or(ShadowError::NotRam)?;
        let aliased = self.aliases.of(leaf.pa_of(page)).is_some();
        // A root that was demoted is shown, as it is, by its alias.
        if self.is_watched(page) || aliased || self.spaces.find(page).is_some() {
            return Err(ShadowError::NotRam);
        }
        Ok(())
    }
}
