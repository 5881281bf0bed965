//! What is answered at the first look at the exit: stores to watched pages through a mapping that is known, and
//! CONTEXTIDR_EL1.

use penumbra_paging::StoredBy;
use penumbra_trap::abort::{AccessSize, DataAbort, FaultStatus};
use penumbra_vmsa::{Half, PAGE_SIZE, Va};

use super::From;
use super::fault::{EL, PAN};
use super::trapped::{LOOK, ROOT};
use crate::machine::{GuestRegister, GuestRegisters, Machine};
use crate::vcpu::{Place, Vcpu};

/// Does a store that stage 2 has refused, if it is a plain one through a mapping that the service knows. Whether it
/// was. The instruction is done then, and nothing else but its register was looked at.
pub(crate) fn known_store<M: Machine>(
    vcpu: &Vcpu,
    place: &'static Place,
    machine: &mut M,
    abort: DataAbort,
    far: u64,
) -> bool {
    let Ok(access) = abort.access() else {
        return false;
    };
    let plain = access.is_write() && access.size() == AccessSize::Double && !access.is_ordered();
    let refused = matches!(abort.status(), FaultStatus::Permission(_));
    let pstate = machine.guest(GuestRegister::Pstate);
    if !plain
        || !refused
        || !far.is_multiple_of(8)
        // It may have begun in the page before (see `whole`).
        || far.is_multiple_of(PAGE_SIZE)
        || pstate & EL == 0
        || !place.vm.paging.is_used()
    {
        return false;
    }
    let (va, value) = (
        Va::truncated(far),
        access.stored(vcpu.gpr.get(access.register())),
    );
    let by = stored_by(machine, va, pstate);
    // As `with_tables`, whose other users do not wait for their locks.
    let mut memory = place.vm.memory.lock_patiently(machine);
    let mut state = place.vm.paging.state.lock_patiently(machine);
    let done = memory.lend(machine, From::Spare, |access| {
        state.tables.store_known(access, va, &by, value)
    });
    drop(state);
    drop(memory);
    if done {
        machine.skip_instruction();
    }
    done
}

/// A write of CONTEXTIDR_EL1, of which nothing here depends. A kernel that keeps the process there writes it at each switch,
/// between threads of one address space too. Returns whether it was done; the PC is not moved.
#[inline]
pub(crate) fn context(place: &Place, machine: &mut impl Machine, value: u64) -> bool {
    // Now and then a longer look, in which storms are noticed.
    if place.shared.root_traps() % LOOK == LOOK - 1 {
        return false;
    }
    machine.set_guest(GuestRegister::ContextidrEl1, value);
    true
}

/// What the walk for a store of the resident vCPU depends on.
#[inline]
pub(super) fn stored_by<M: GuestRegisters>(machine: &M, va: Va, pstate: u64) -> StoredBy {
    let ttbr = match Half::of(va) {
        Half::Low => machine.guest(GuestRegister::Ttbr0El1),
        Half::High => machine.guest(GuestRegister::Ttbr1El1),
    };
    StoredBy {
        sctlr: machine.guest(GuestRegister::SctlrEl1),
        tcr: machine.guest(GuestRegister::TcrEl1),
        root: ttbr & ROOT,
        mair: machine.guest(GuestRegister::MairEl1),
        rights: pstate & (EL | PAN),
    }
}
