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
use super::alias::{AliasId, Aliases};
use super::coalesce::as_block;
use super::node::{Node, NodeId};
use super::placing::{Donor, Found, OwnFrames, Search, frame_of};
use super::{Access, Compound, IGNORED, Parked, ShadowError, SpaceId, WINDOW_BIT};
use crate::memory::{TableMemory, entry};
use crate::stage2::{Mapping, RamPage};
use crate::thin::REGION_BYTES;
use crate::tlb::TlbSink;

/// Entries that one step looks at.
const LOOKS_PER_STEP: u32 = 16;
/// How often a re-layout looks at everything again because something has changed.
const MAX_RESTARTS: u16 = 64;

/// Exchanges the contents of two frames.
pub trait FrameMover {
    /// Exchanges the contents of two pages that no guest can reach, with the cache maintenance that
    /// a guest needs which maps them executable or uncached (DC CIVAC of both, and for fetches DC
    /// CVAU and IC as CTR_EL0 says).
    fn exchange(&mut self, a: Pa, b: Pa);
}

/// What a re-layout has found holds as long as none of these changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// [`Stage2::changes`](crate::stage2::Stage2::changes).
    changes: u64,
    /// Nodes that were removed.
    removed: u64,
    /// Stores to the guest's table.
    stores: u64,
}

/// The guest's table whose region is re-laid out, and how often it was stored to.
#[derive(Debug)]
pub(super) struct Guarded {
    table: Ipa,
    stores: u64,
}

impl Guarded {
    /// No table: all zero.
    pub(super) const NOTHING: Self = Self {
        table: Ipa::truncated(0),
        stores: 0,
    };

    /// A guest stores to a watched page.
    #[inline]
    pub(super) fn note(&mut self, page: Ipa) {
        self.stores = self.stores.wrapping_add(u64::from(page == self.table));
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
    own: OwnFrames,
    /// 1: also what only EL1 may access. No `bool`, whose niche would make a `None` of this other than
    /// zero bytes, and EL2's state with it.
    kernel: u8,
    /// One of [`LOOK`], [`SEARCH`] and [`MOVE`].
    phase: u8,
    restarts: u16,
    /// The entry to look at, or the page to move, next.
    next: u64,
    node: NodeId,
    /// The guest's table, and its first descriptor.
    table: Pa,
    first: u64,
    seen: Seen,
}

/// The guest's entries are looked at: whether they are of one kind, and in which frames their pages lie.
const LOOK: u8 = 0;
/// Stage 2 is searched for what lies in the frame.
const SEARCH: u8 = 1;
/// Pages are moved.
const MOVE: u8 = 2;

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

    const fn go_on_to(&mut self, phase: u8) {
        self.phase = phase;
        self.next = 0;
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
    /// `NoSpace`, `NoTable` (no mirror there), `NotUniform` (as a look at the first entry says), `NotRam`
    /// (no frame that no alias shows), `Full`.
    pub fn relayout<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &Access<'_, M, T>,
        space: SpaceId,
        va: Va,
        donor: Donor,
        kernel: bool,
    ) -> Result<Relayout, ShadowError> {
        let (node, _) = self.region_node(space, va)?;
        if self.aliases.is_full() {
            return Err(ShadowError::Full);
        }
        let mut work = Relayout {
            space,
            va,
            donor: donor.number(),
            frame: Pa::truncated(0),
            search: Search::from(Ipa::truncated(0)),
            own: OwnFrames::default(),
            kernel: kernel.into(),
            phase: LOOK,
            restarts: 0,
            next: 0,
            node,
            table: Pa::truncated(0),
            first: 0,
            seen: self.seen(vm),
        };
        self.start(vm, &mut work)?;
        if let Donor::At(page) = donor {
            self.choose(vm, &mut work, page)?;
        }
        Ok(work)
    }

    /// What a re-layout relies on, as it is now.
    fn seen<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(&self, vm: &Access<'_, M, T>) -> Seen {
        Seen {
            changes: vm.stage2.changes(),
            removed: self.nodes.removed(),
            stores: self.guarded.stores,
        }
    }

    /// Finds the region's table, from whose first entry on it is to be looked at.
    fn start<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &Access<'_, M, T>,
        work: &mut Relayout,
    ) -> Result<(), ShadowError> {
        let (id, node) = self.region_node(work.space, work.va)?;
        self.guarded.table = node.guest;
        work.node = id;
        work.table = vm.table_pa(node.guest).ok_or(ShadowError::NotRam)?;
        work.first = vm.memory.load(work.table);
        if !self.may_go(work.space, work.first, work.kernel != 0) {
            return Err(ShadowError::NotUniform);
        }
        work.own = OwnFrames::default();
        work.next = 0;
        work.seen = self.seen(vm);
        Ok(())
    }

    /// Takes the frame in which a page lies.
    fn choose<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &Access<'_, M, T>,
        work: &mut Relayout,
        page: Ipa,
    ) -> Result<(), ShadowError> {
        let frame = frame_of(vm, page).ok_or(ShadowError::NotRam)?;
        if self.aliases.of(frame).is_some() {
            return Err(ShadowError::NotRam);
        }
        self.residents.clear();
        (work.frame, work.search) = (frame, Search::from(page));
        Ok(())
    }

    /// Looks for a while at the region, or at what lies in the frame, or moves one page at most. Returns whether
    /// all pages are in place. Other vCPUs may run.
    ///
    /// # Errors
    /// `NoTable`, `NotUniform` (not full, unequal attributes, a page twice, global in the low half, or changed too
    /// often meanwhile), `NotRam`: something may not be moved; give the work up.
    pub fn relayout_step<M: TableMemory + FrameMover + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        work: &mut Relayout,
    ) -> Result<bool, ShadowError> {
        if work.seen != self.seen(vm) {
            work.restarts = work.restarts.saturating_add(1);
            if work.restarts > MAX_RESTARTS {
                return Err(ShadowError::NotUniform);
            }
            self.start(vm, work)?;
        }
        match work.phase {
            LOOK => self.look(vm, work).map(|()| false),
            SEARCH => {
                let stage2 = (&*vm.stage2, &*vm.memory);
                match self.residents.search(stage2, work.frame, &mut work.search) {
                    Found::All => work.go_on_to(MOVE),
                    Found::Some => {}
                    Found::NotAll => return Err(ShadowError::NotRam),
                }
                Ok(false)
            }
            _ => self.put_in_place(vm, work),
        }
    }

    /// Looks at some of the guest's entries.
    fn look<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &Access<'_, M, T>,
        work: &mut Relayout,
    ) -> Result<(), ShadowError> {
        for _ in 0..LOOKS_PER_STEP {
            let (page, now) = self.movable(vm, work)?;
            work.own.note(now.pa, page);
            work.next = work.next.saturating_add(1);
            if work.next >= TABLE_ENTRIES {
                if let Some(number) = Donor::own(work.donor) {
                    let page = work.own.get(number, &self.aliases);
                    self.choose(vm, work, page.ok_or(ShadowError::NotRam)?)?;
                }
                work.go_on_to(SEARCH);
                break;
            }
        }
        Ok(())
    }

    /// Passes over what is in place, and moves one page at most. Whether that was the last one.
    fn put_in_place<M: TableMemory + FrameMover + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        work: &mut Relayout,
    ) -> Result<bool, ShadowError> {
        for _ in 0..LOOKS_PER_STEP {
            if work.next >= TABLE_ENTRIES {
                break;
            }
            let (page, now) = self.movable(vm, work)?;
            let moved = self.place(vm, work, (page, now))?;
            work.next = work.next.saturating_add(1);
            if moved {
                // Nothing but this has changed.
                work.seen = self.seen(vm);
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
        (page, now): (Ipa, RamPage),
    ) -> Result<bool, ShadowError> {
        let wanted = Pa::truncated(work.frame.raw() | work.next << Level::L3.shift());
        if now.pa == wanted {
            return Ok(false);
        }
        if now.pa >= work.frame && now.pa < wanted {
            // An entry before this one shows it as well, and there it lies: no leaf has it in two places.
            return Err(ShadowError::NotUniform);
        }
        let holder = self.residents.get(work.next).ok_or(ShadowError::NotRam)?;
        let held = self.may_move(vm, holder)?;
        if held.pa != wanted {
            // Something else has moved since the frame was looked at.
            return Err(ShadowError::NotRam);
        }
        exchange(vm, (page, now), (holder, held))?;
        self.residents.set(work.next, page);
        if now.pa.align_down(REGION_BYTES) == work.frame {
            let place = now.pa.raw() >> Level::L3.shift() & 0x1ff;
            self.residents.set(place, holder);
        }
        self.counters.moved = self.counters.moved.saturating_add(1);
        Ok(true)
    }

    /// Lets one leaf stand for the region, if all steps are done and nothing has changed since the last one: then
    /// its pages lie as they should. Returns `false` if there are steps to do again.
    ///
    /// # Errors
    /// `NoTable`, `Full`, `Stage2`.
    pub fn relayout_finish<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        work: &Relayout,
        _parked: &Parked,
    ) -> Result<bool, ShadowError> {
        let placed = work.phase == MOVE && work.next >= TABLE_ENTRIES;
        if !placed || work.seen != self.seen(vm) {
            return Ok(false);
        }
        let node = self.nodes.get(work.node);
        let (Some(parent), Some(mirror)) = (node.parent, node.mirror) else {
            return Err(ShadowError::NoTable);
        };
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
        if let (Some(table), Some(leaf)) =
            (above.mirror, as_block(Level::L3, work.first, ipa, limits))
        {
            vm.memory
                .store(entry(self.pool.pa(table), u64::from(node.slot)), leaf);
        }
        vm.flush();
        self.pool.give(vm.memory, mirror);
        if let Some(node) = self.nodes.get_mut(work.node) {
            node.mirror = None;
            node.alias = Some(alias);
        }
        self.counters.relaid = self.counters.relaid.saturating_add(1);
        Ok(true)
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

    /// The page at the next entry of a region and where it lies, if it may be moved: by a cached, accessible leaf
    /// like the first one, over RAM that is neither a watched table nor part of an alias.
    fn movable<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        work: &Relayout,
    ) -> Result<(Ipa, RamPage), ShadowError> {
        let raw = vm.memory.load(entry(work.table, work.next));
        let alike = (raw ^ work.first) & !(IGNORED | bits::TABLE_ADDRESS | bits::CONTIGUOUS) == 0;
        if !alike || bits::kind(Level::L3, raw) != bits::Kind::Leaf || raw & bits::AF == 0 {
            return Err(ShadowError::NotUniform);
        }
        let page = Ipa::truncated(raw & bits::TABLE_ADDRESS);
        Ok((page, self.may_move(vm, page)?))
    }

    /// A page of guest RAM, if it may be moved.
    pub(super) fn may_move<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        page: Ipa,
    ) -> Result<RamPage, ShadowError> {
        if page.raw() >= WINDOW_BIT {
            return Err(ShadowError::NotRam);
        }
        let found = vm.stage2.writable_ram(vm.memory, page);
        let found = found.ok_or(ShadowError::NotRam)?;
        // A root that was demoted is shown, as it is, by its alias.
        let used = self.is_watched(page)
            || self.aliases.of(found.pa).is_some()
            || self.spaces.is_bare_root(page);
        if used {
            Err(ShadowError::NotRam)
        } else {
            Ok(found)
        }
    }
}

/// Exchanges the frames of two pages, as they have just been found; what lies in something larger is split off
/// first.
pub(super) fn exchange<M: TableMemory + FrameMover + ?Sized, T: TlbSink + ?Sized>(
    vm: &mut Access<'_, M, T>,
    mut a: (Ipa, RamPage),
    mut b: (Ipa, RamPage),
) -> Result<(), ShadowError> {
    vm.stage2.note_home(vm.memory, a.0, a.1.pa)?;
    vm.stage2.note_home(vm.memory, b.0, b.1.pa)?;
    if !a.1.is_alone || !b.1.is_alone {
        for page in [a.0, b.0] {
            vm.stage2.split(vm.memory, vm.tlb, page)?;
        }
        for (page, found) in [&mut a, &mut b] {
            let again = vm.stage2.writable_ram(vm.memory, *page);
            *found = again.ok_or(ShadowError::NotRam)?;
        }
    }
    let pages = (a.1, b.1);
    vm.stage2
        .exchange_pages(vm.memory, vm.tlb, pages, FrameMover::exchange)?;
    Ok(())
}
