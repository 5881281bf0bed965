//! Compound roots in the guest's TTBRs.
//!
//! The *sticky* kernel root: the alias of its compound root is put into TTBR1_EL1 once, at an exit from
//! EL0 or a WFI, where no guest is between reading and writing that register. Linux changes only the
//! ASID of what it reads back, so the alias stays, without a trap. Where the guest's own root is found
//! again, or an address computed from the alias leads into the window, that is a loss: planting
//! pauses, twice as long each time, and ends after [`MAX_LOSSES`].

use core::sync::atomic::Ordering;

use penumbra_abi::{PagingCounter, PagingMode, PagingRefusal, paging_roots};
use penumbra_paging::{Stage1Regs, WINDOW_BIT};
use penumbra_vmsa::{Half, Ipa, PAGE_SIZE, Tcr, Ttbr};

use super::fault::{EL, HALVES};
use super::{From, Paging, refusal};
use crate::machine::{Core, GuestRegister, GuestRegisters, Machine};
use crate::vcpu::{Place, Vcpu};

/// Losses after which planting ends.
const MAX_LOSSES: u8 = 10;
/// Pause after the first loss.
const FIRST_PAUSE_MS: u64 = 10;

/// What a try to plant came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Planting {
    /// Nothing more to do for now.
    Done,
    /// The vCPU was not where it can be done: try again soon.
    TryAgain,
}

/// The registers of the resident vCPU's stage 1, with the roots that the guest means.
pub(super) fn registers<M: GuestRegisters>(machine: &M) -> Stage1Regs {
    let raw = |register| Ttbr::new(machine.guest(register) & !WINDOW_BIT);
    Stage1Regs {
        sctlr: machine.guest(GuestRegister::SctlrEl1),
        tcr: Tcr::new(machine.guest(GuestRegister::TcrEl1)),
        ttbr0: raw(GuestRegister::Ttbr0El1),
        ttbr1: raw(GuestRegister::Ttbr1El1),
    }
}

/// Whether a vCPU's roots are to be looked at soon: a look without locks.
pub(crate) fn wants(paging: &Paging, index: usize, now: u64) -> bool {
    paging.wants_look(index) || wants_planting(paging, index, now)
}

/// Whether planting is to be tried for a vCPU.
fn wants_planting(paging: &Paging, index: usize, now: u64) -> bool {
    paging.is_used()
        && paging.mode() != PagingMode::Nested
        && paging.roots() & paging_roots::STICKY != 0
        && !paging.is_planted(index)
        && now >= paging.not_before.load(Ordering::Relaxed)
}

/// Looks at the kernel's root of the resident vCPU, which has left its guest by an exit from EL0 or
/// by a WFI if `between`, and plants the compound root if it may.
pub(crate) fn plant<M: Machine>(
    vcpu: &Vcpu,
    place: &'static Place,
    machine: &mut M,
    waits: bool,
) -> Planting {
    let paging = &place.vm.paging;
    if !paging.is_used() {
        return Planting::Done;
    }
    let index = vcpu.id.index();
    let ttbr1 = machine.guest(GuestRegister::Ttbr1El1);
    let now = machine.counter();
    if ttbr1 & WINDOW_BIT != 0 {
        paging.set_planted(index, true);
        return Planting::Done;
    }
    if paging.is_planted(index) {
        // What was walked from the compound root may be in the TLB still.
        machine.flush_guest_translations();
        paging.count(PagingCounter::Lost, 1);
        paging.lose(place, index, now);
    }
    if !wants_planting(paging, index, now) {
        return Planting::Done;
    }
    if !is_between(machine, waits) {
        return Planting::TryAgain;
    }
    let regs = registers(machine);
    let planted = place.vm.with_tables(machine, From::Spare, |state, access| {
        state.tables.plant(access, &regs, Half::High)
    });
    match planted {
        Ok((_, alias)) => {
            machine.set_root(Half::High, Ttbr::new(ttbr1).with_root(alias).raw());
            paging.set_planted(index, true);
            paging.count(PagingCounter::Planted, 1);
            paging.refuse(PagingRefusal::None);
        }
        Err(error) => {
            paging.refuse(refusal(error));
            // The guest may be booting: look again, but not all the time.
            let pause = pause_ticks(place, MAX_LOSSES);
            paging
                .not_before
                .store(now.saturating_add(pause), Ordering::Relaxed);
        }
    }
    Planting::Done
}

/// Whether the exit of the resident vCPU was taken where no kernel is between reading and writing a
/// root: from EL0, or by a WFI if it `waits`.
pub(super) fn is_between<M: GuestRegisters>(machine: &M, waits: bool) -> bool {
    waits || machine.guest(GuestRegister::Pstate) & EL == 0
}

/// Puts the guest's own root back where an alias is. Returns whether there was one.
pub(super) fn restore_root<M: Machine>(machine: &mut M, half: Half) -> bool {
    let value = machine.guest(root_register(half));
    let alias = value & WINDOW_BIT != 0;
    if alias {
        machine.set_root(half, value & !WINDOW_BIT);
    }
    alias
}

/// The half whose alias leads to a page of the window.
pub(super) fn half_at<M: GuestRegisters>(machine: &M, page: Ipa) -> Option<Half> {
    HALVES.into_iter().find(|half| {
        let root = Ttbr::new(machine.guest(root_register(*half))).root(PAGE_SIZE);
        root == page
    })
}

const fn root_register(half: Half) -> GuestRegister {
    match half {
        Half::Low => GuestRegister::Ttbr0El1,
        Half::High => GuestRegister::Ttbr1El1,
    }
}

/// The pause before a root is planted again.
fn pause_ticks(place: &Place, losses: u8) -> u64 {
    let ms = FIRST_PAUSE_MS << losses.min(MAX_LOSSES);
    (place.board.facts.counter_hz / 1000).saturating_mul(ms)
}

impl Paging {
    fn is_planted(&self, index: usize) -> bool {
        self.planted() & bit(index) != 0
    }

    pub(super) fn set_planted(&self, index: usize, planted: bool) {
        if planted {
            self.planted.fetch_or(bit(index), Ordering::Relaxed);
        } else {
            self.planted.fetch_and(!bit(index), Ordering::Relaxed);
        }
    }

    /// A root was lost.
    pub(super) fn lose(&self, place: &Place, index: usize, now: u64) {
        self.set_planted(index, false);
        let losses = self
            .losses
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let pause = pause_ticks(place, losses);
        self.not_before
            .store(now.saturating_add(pause), Ordering::Relaxed);
        if losses >= MAX_LOSSES {
            self.stop_planting();
            self.refuse(PagingRefusal::Storm);
        }
    }

    /// Allows ways to put roots in place, and forgets losses.
    pub(crate) fn allow_roots(&self, roots: u64) {
        self.forgive();
        self.set_roots(roots);
    }

    /// Forgets losses and why roots were not planted.
    pub(crate) fn forgive(&self) {
        self.losses.store(0, Ordering::Relaxed);
        self.not_before.store(0, Ordering::Relaxed);
        self.refuse(PagingRefusal::None);
    }

    /// A vCPU starts from reset: it holds no root, and that is no loss.
    pub(crate) fn forget_vcpu(&self, machine: &impl Core, index: usize) {
        self.set_planted(index, false);
        if self.traps_roots() {
            self.change(machine, |state| state.seen.hold(index, 0));
        }
    }

    /// A vCPU is not ready because the VM is held.
    pub(crate) fn note_parked(&self, index: usize) {
        self.parked.fetch_or(bit(index), Ordering::SeqCst);
    }

    /// The vCPUs that a hold kept out.
    pub(crate) fn take_parked(&self) -> u8 {
        self.parked.swap(0, Ordering::SeqCst)
    }
}

/// The bit of a vCPU in a set of one VM's.
pub(super) fn bit(index: usize) -> u8 {
    1 << (index & 7)
}
