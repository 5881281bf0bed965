//! What a vCPU remembers of the roots that it writes.
//!
//! A root has two places. The vectors look at the first, [`known`](super::known) at both: so two roots whose first
//! place is the same can take turns.

use penumbra_abi::PAGING_SPACES;
use penumbra_paging::WINDOW_BIT;
use penumbra_vmsa::Tcr;

use super::ROOT;
use crate::compound::seen::Seen;

const ASID_SHIFT: u32 = 48;
/// The ASID of a TTBR.
const ASID: u64 = 0xffff << ASID_SHIFT;
/// No ASID.
const NO_ASID: u64 = u64::MAX;
/// Roots that a vCPU remembers.
pub(super) const SLOTS: usize = 16;

/// A root that was written to TTBR0_EL1. All zero is the root at address 0, as the guest writes it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Slot {
    /// What the guest wrote, without [`WINDOW_BIT`].
    pub(super) value: u64,
    /// What is put there for it: the same, or the same with [`WINDOW_BIT`].
    pub(super) planted: u64,
    /// If it is exchanged: what [`RootCache::asid_mask`] has to leave of TTBR1_EL1; [`NO_ASID`] if it has to be
    /// entered anew.
    pub(super) asid: u64,
    /// Writes since they were last told to the VM.
    pub(super) writes: u64,
}

impl Slot {
    pub(super) const EMPTY: Self = Self {
        value: 0,
        planted: 0,
        asid: 0,
        writes: 0,
    };

    pub(super) const fn is_exchanged(&self) -> bool {
        self.planted & WINDOW_BIT != 0
    }
}

/// The ASID that TTBR0_EL1 and TTBR1_EL1 give. `high` is where it is in TTBR1_EL1, or 0.
pub(super) const fn asid_of(ttbr0: u64, ttbr1: u64, high: u64) -> u64 {
    (ttbr0 & !high | ttbr1 & high) >> ASID_SHIFT
}

/// The two places of a root.
#[inline]
fn places(root: u64) -> [usize; 2] {
    let first = usize::try_from(root >> 12).unwrap_or(0) % SLOTS;
    [first, first ^ (SLOTS / 2)]
}

/// What a vCPU remembers of its roots. The hal's vectors read it (see [`vectors`](super::vectors)).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct RootCache {
    /// [`Paging::generation`](crate::compound::Paging::generation) for which the rest holds; 0: none.
    pub(super) generation: u64,
    /// Where the ASID is in TTBR1_EL1, if it is there (TCR_EL1.A1), else 0.
    pub(super) asid_mask: u64,
    pub(super) slots: [Slot; SLOTS],
    /// Spaces entered on this vCPU since the generation began, a bit each, and their ASIDs.
    entered: u16,
    asids: [u64; PAGING_SPACES],
    /// Where the measurement of the rate began: trapped writes, and the counter.
    pub(super) measured: (u64, u64),
}

impl RootCache {
    /// Nothing: all zero.
    pub(crate) const EMPTY: Self = Self {
        generation: 0,
        asid_mask: 0,
        slots: [Slot::EMPTY; SLOTS],
        entered: 0,
        asids: [0; PAGING_SPACES],
        measured: (0, 0),
    };

    /// Whether it holds for a generation of its VM.
    #[inline]
    pub(super) fn holds_for(&self, generation: u32) -> bool {
        self.generation != 0 && self.generation == u64::from(generation)
    }

    /// Where a root is, or a value of TTBR0_EL1 with that root.
    #[inline]
    pub(super) fn find(&mut self, root: u64) -> Option<&mut Slot> {
        let [first, second] = places(root);
        let at = if self.holds(first, root) {
            first
        } else if self.holds(second, root) {
            second
        } else {
            return None;
        };
        self.slots.get_mut(at)
    }

    /// Where a root is to be put: where it is, or at its first place, whose root moves to the second. What is there
    /// is given up.
    pub(super) fn room_for(&mut self, root: u64) -> Option<&mut Slot> {
        let [first, second] = places(root);
        if !self.holds(first, root) {
            if self.holds(second, root) {
                return self.slots.get_mut(second);
            }
            if !self.holds(first, 0) {
                self.slots.swap(first, second);
            }
        }
        self.slots.get_mut(first)
    }

    fn holds(&self, place: usize, root: u64) -> bool {
        let slot = self.slots.get(place);
        slot.is_some_and(|slot| (slot.value ^ root) & ROOT == 0)
    }

    /// Tells the VM what was counted.
    pub(super) fn report(&mut self, seen: &mut Seen) {
        for slot in &mut self.slots {
            seen.note(slot.value & ROOT, core::mem::take(&mut slot.writes));
        }
    }

    /// Starts anew.
    pub(super) fn renew(&mut self, generation: u32, tcr: Tcr) {
        let measured = self.measured;
        *self = Self::EMPTY;
        self.measured = measured;
        self.generation = generation.into();
        self.asid_mask = if tcr.asid_in_ttbr1() { ASID } else { 0 };
    }

    /// Notes that a space is entered under an ASID. Returns what of the TLB must go before.
    pub(super) fn enter(&mut self, space: usize, asid: u64) -> Flush {
        let bit = 1_u16 << (space & 15);
        let fresh = self.entered & bit == 0;
        self.entered |= bit;
        let mut taken = false;
        for (number, other) in self.asids.iter_mut().enumerate() {
            let is_entered = self.entered & 1 << (number & 15) != 0;
            if number == space {
                taken |= *other != asid;
                *other = asid;
            } else if is_entered && *other == asid {
                taken = true;
                *other = NO_ASID;
            }
        }
        for slot in &mut self.slots {
            if slot.is_exchanged() && asid_of(slot.planted, slot.asid, self.asid_mask) == asid {
                slot.asid = NO_ASID;
            }
        }
        match (fresh, taken) {
            (true, _) => Flush::All,
            (false, true) => Flush::Asid,
            (false, false) => Flush::Nothing,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    Nothing,
    Asid,
    All,
}
