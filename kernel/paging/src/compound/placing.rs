//! Which 2 MiB frame a region is put into, and which pages of the guest lie in it now.
//!
//! Stage 2 says where a page lies, not what lies in a frame. So the tables are gone through once for each
//! re-layout, a bounded piece at a time, and what is found is kept in step with the exchanges that follow.

use penumbra_vmsa::{Ipa, Level, Pa, TABLE_ENTRIES, bits};

use super::alias::Aliases;
use super::{Access, WINDOW_BIT};
use crate::memory::{TableMemory, entry};
use crate::stage2::{Stage2, next_table};
use crate::thin::REGION_BYTES;
use crate::tlb::TlbSink;

/// Frames in which a region's own pages lie that are told apart.
pub const OWN_FRAMES: usize = 8;
/// Entries of stage 2 that one step of the search looks at, if no level-3 table comes first.
const SLOTS_PER_STEP: u32 = 64;
/// Of a level-3 descriptor: the 2 MiB frame, and the kind, which is a page's if both bits are set.
const FRAME: u64 = bits::TABLE_ADDRESS & !(REGION_BYTES - 1);
const LEAF: u64 = 0b11;
/// Pages of a frame.
const PAGES: usize = TABLE_ENTRIES as usize;

/// Names the 2 MiB frame for a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Donor {
    /// One in which pages of the region lie already, below [`OWN_FRAMES`]: 0 has most of them.
    Own(u8),
    /// The one in which this page of guest RAM lies.
    At(Ipa),
}

impl Donor {
    /// The one of the region's own frames that a number stands for.
    pub(super) fn own(number: u64) -> Option<u8> {
        u8::try_from(number ^ 1 << 63).ok()
    }

    /// A number of its own: an enum within `Relayout` would keep its absence from being all zero.
    pub(super) const fn number(self) -> u64 {
        match self {
            Self::Own(number) => 1 << 63 | number as u64,
            Self::At(page) => page.raw(),
        }
    }
}

/// The pages of the guest that lie in one frame, by their place in it.
#[derive(Debug)]
pub(super) struct Residents {
    /// Number of the IPA's page, and 1; 0: not found yet.
    pages: [u32; PAGES],
    found: u16,
}

impl Residents {
    /// None found: all zero.
    pub(super) const fn new() -> Self {
        Self {
            pages: [0; PAGES],
            found: 0,
        }
    }

    /// Starts anew.
    pub(super) fn clear(&mut self) {
        self.pages.fill(0);
        self.found = 0;
    }

    /// The page at a place.
    pub(super) fn get(&self, place: u64) -> Option<Ipa> {
        let number = self
            .pages
            .get(usize::try_from(place).ok()?)?
            .checked_sub(1)?;
        Some(Ipa::truncated(u64::from(number) << Level::L3.shift()))
    }

    /// A page lies there now.
    pub(super) fn set(&mut self, place: u64, page: Ipa) {
        let number = u32::try_from(page.raw() >> Level::L3.shift()).unwrap_or(0);
        let slot = usize::try_from(place).ok();
        if let Some(slot) = slot.and_then(|place| self.pages.get_mut(place)) {
            self.found = self.found.saturating_add(u16::from(*slot == 0));
            *slot = number.saturating_add(1);
        }
    }

    fn is_complete(&self) -> bool {
        usize::from(self.found) >= PAGES
    }

    /// Looks at a piece of stage 2 for pages in `frame`.
    pub(super) fn search<M: TableMemory + ?Sized>(
        &mut self,
        (stage2, memory): (&Stage2, &M),
        frame: Pa,
        search: &mut Search,
    ) -> Found {
        for _ in 0..SLOTS_PER_STEP {
            let (next, table) = self.look(stage2, memory, frame, search.at);
            if self.is_complete() {
                return Found::All;
            }
            let end = if search.wrapped == 0 {
                WINDOW_BIT
            } else {
                search.first
            };
            search.at = next;
            if next >= end {
                if search.wrapped != 0 {
                    return Found::NotAll;
                }
                (search.at, search.wrapped) = (0, 1);
            }
            if table {
                break;
            }
        }
        Found::Some
    }

    /// Takes in what the entry for `at` says. Returns where the next one begins, and whether this was a
    /// whole table of level 3.
    fn look<M: TableMemory + ?Sized>(
        &mut self,
        stage2: &Stage2,
        memory: &M,
        frame: Pa,
        at: u64,
    ) -> (u64, bool) {
        let slot = stage2.slot(memory, at);
        if let (Level::L3, Some(above)) = (slot.level, slot.above[0]) {
            let table = next_table(memory.load(above));
            let first = at & !(REGION_BYTES - 1);
            let mut index = 0;
            while index < TABLE_ENTRIES {
                let row = entry(table, index);
                let mut lie = memory.equal(row, frame.raw() | LEAF, FRAME | LEAF);
                while lie != 0 {
                    let index = index | u64::from(lie.trailing_zeros());
                    lie &= lie.wrapping_sub(1);
                    let raw = memory.load(entry(table, index));
                    let page = index << Level::L3.shift();
                    let place = raw >> Level::L3.shift() & 0x1ff;
                    self.set(place, Ipa::truncated(first | page));
                }
                index = index.saturating_add(u64::BITS.into());
            }
            return (first.saturating_add(REGION_BYTES), true);
        }
        let base = slot.base();
        if slot.kind() == bits::Kind::Leaf {
            let pa = slot.raw & bits::leaf_address(slot.level);
            let offset = frame.raw().checked_sub(pa);
            if let Some(offset) = offset.filter(|offset| *offset < slot.level.entry_bytes()) {
                let first = base.saturating_add(offset);
                for place in 0..TABLE_ENTRIES {
                    self.set(place, Ipa::truncated(first | place << Level::L3.shift()));
                }
            }
        }
        (base.saturating_add(slot.level.entry_bytes()), false)
    }
}

/// How far the search through stage 2 is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    first: u64,
    at: u64,
    /// 1 behind the end of guest RAM. No `bool`, for the sake of `Relayout`.
    wrapped: u8,
}

impl Search {
    /// From the 2 MiB around a page on, where most of what lies in its frame may be.
    pub(super) const fn from(page: Ipa) -> Self {
        let first = page.raw() & !(REGION_BYTES - 1);
        Self {
            first,
            at: first,
            wrapped: 0,
        }
    }
}

/// What a step of the search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is more to look at.
    Some,
    /// Every page of the frame.
    All,
    /// The search is over, and something of the frame is not the guest's, or not touched yet.
    NotAll,
}

/// The frames in which the pages of a region lie, and one page in each.
#[derive(Debug, Default)]
pub(super) struct OwnFrames([(u64, u64, u16); OWN_FRAMES]);

impl OwnFrames {
    pub(super) fn note(&mut self, pa: Pa, page: Ipa) {
        let frame = pa.align_down(REGION_BYTES).raw();
        let known = |entry: &&mut (u64, u64, u16)| entry.2 == 0 || entry.0 == frame;
        if let Some(entry) = self.0.iter_mut().find(known) {
            *entry = (frame, page.raw(), entry.2.saturating_add(1));
        }
    }

    /// The page that stands for the frame of a number, the one with most pages first, among those that
    /// no alias shows.
    pub(super) fn get(&mut self, number: u8, aliases: &Aliases) -> Option<Ipa> {
        let mut page = None;
        for _ in 0..=number {
            let free = |entry: &&mut (u64, u64, u16)| {
                entry.2 > 0 && aliases.of(Pa::truncated(entry.0)).is_none()
            };
            let most = self.0.iter_mut().filter(free).max_by_key(|entry| entry.2)?;
            page = Some(Ipa::truncated(most.1));
            most.2 = 0;
        }
        page
    }
}

/// Where a page of guest RAM lies: the frame.
pub(super) fn frame_of<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
    vm: &Access<'_, M, T>,
    page: Ipa,
) -> Option<Pa> {
    let leaf = vm.table_ram(page)?;
    Some(leaf.pa_of(page).align_down(REGION_BYTES))
}
