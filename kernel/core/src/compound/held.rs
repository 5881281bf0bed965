//! Looks at a vCPU between its exits: roots of the lower half that it holds, and what is to be given back.
//!
//! A process that computes without a pause is never switched to, so no trapped write shows its root, and
//! none would put a compound root in its place. So while roots are trapped EL2 looks at TTBR0_EL1 itself:
//! once a second on each vCPU that runs, and soon after the manager has wanted something.
//!
//! A root that is held is exchanged where a sticky root would be planted: at an exit from EL0 or by a WFI,
//! where no kernel is between reading and writing it (rule 5), under the same conditions as at a
//! write (rule 4), and behind a flush of the vCPU's stage 1: its TLB holds what the guest's own root said
//! until now. From then on every write of the root is exchanged.

use core::sync::atomic::Ordering;

use penumbra_abi::PagingCounter;
use penumbra_paging::WINDOW_BIT;

use super::roots::{bit, is_between};
use super::spaces::low_space;
use super::trapped::{ROOT, forget, install};
use super::{From, Paging, Planting};
use crate::machine::{Core, GuestRegister, Machine};
use crate::vcpu::{Place, Vcpu};

/// Looks at the root in TTBR0_EL1 of the resident vCPU, which has left its guest by a WFI if it `waits`, and
/// puts its compound root in place if there is one, or one is wanted.
pub(crate) fn look_at_held<M: Machine>(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut M,
    waits: bool,
) -> Planting {
    let paging = &place.vm.paging;
    let index = vcpu.id.index();
    // First, so that a wish that comes now is looked at again.
    let looks = paging.looks.fetch_and(!bit(index), Ordering::AcqRel);
    if looks & bit(index) != 0 && paging.state(machine, |state| state.tables.has_detached()) {
        give_back(place, machine);
    }
    if !paging.traps_roots() {
        return Planting::Done;
    }
    let value = machine.guest(GuestRegister::Ttbr0El1);
    let root = value & ROOT;
    let concerns = paging.change(machine, |state| {
        state.seen.hold(index, root);
        state.seen.is_wanted(root) || low_space(state, root).is_some()
    });
    if !concerns || value & WINDOW_BIT != 0 {
        return Planting::Done;
    }
    if !is_between(machine, waits) {
        paging.look_again(bit(index));
        return Planting::TryAgain;
    }
    // Whatever it had entered before, its TLB has met the guest's own root since.
    forget(vcpu, place, machine);
    install(vcpu, place, machine, value);
    Planting::Done
}

/// Gives back a table of those that were given up, at a look of the vCPU's; the next one at the next look.
fn give_back<M: Machine>(place: &'static Place, machine: &M) {
    place.vm.with_tables(machine, From::Spare, |state, access| {
        state.tables.give_back(access, 1);
    });
    place.vm.paging.look_if_detached(machine);
}

/// Notes that the resident vCPU, whose exit this is, was found at EL0 so many ticks after the last look.
pub(crate) fn note_user_time<M: Machine>(place: &Place, machine: &M, ticks: u64) {
    let paging = &place.vm.paging;
    if paging.is_used() && is_between(machine, false) {
        paging.count(PagingCounter::UserTicks, ticks);
    }
}

impl Paging {
    /// The roots that vCPUs (a bit each) hold are to be looked at soon.
    pub(crate) fn look_again(&self, vcpus: u8) {
        self.looks.fetch_or(vcpus, Ordering::AcqRel);
    }

    /// If tables wait to be given back the VM's vCPUs do it, one at each look: from their next one on, which comes within a
    /// second, in each millisecond.
    pub(crate) fn look_if_detached(&self, machine: &impl Core) {
        if self.state(machine, |state| state.tables.has_detached()) {
            self.look_again(u8::MAX);
        }
    }

    /// Whether a vCPU's is.
    pub(super) fn wants_look(&self, index: usize) -> bool {
        self.looks.load(Ordering::Acquire) & bit(index) != 0
    }
}
