//! Exceptions that EL2 gives to a guest.

use penumbra_abi::CrashCause;
use penumbra_trap::inject::{Abort, Exception, Interrupted, enter_el1};
use penumbra_vmsa::Ipa;

use super::{Flow, crash};
use crate::machine::{GuestRegister, Machine};
use crate::vcpu::{Place, Vcpu};

/// Lets the vCPU take `exception` to EL1.
pub(super) fn exception(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    exception: Exception,
) -> Flow {
    at(vcpu, place, machine, exception, None)
}

/// As [`exception`], for an access to `ipa`.
pub(super) fn at(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    exception: Exception,
    ipa: Option<Ipa>,
) -> Flow {
    let board = place.board;
    let from = Interrupted {
        pc: machine.guest(GuestRegister::Pc),
        pstate: machine.guest(GuestRegister::Pstate),
        vbar: machine.guest(GuestRegister::VbarEl1),
        sctlr: machine.guest(GuestRegister::SctlrEl1),
    };
    let entry = enter_el1(exception, &from, board.entry);
    if entry.pc == from.pc {
        // The first instruction of the vector is what cannot be executed: it never will be.
        let cause = if walks(exception) {
            CrashCause::TableOutsideMemory
        } else {
            CrashCause::VectorLoop
        };
        return crash(vcpu, place, machine, cause, ipa);
    }
    machine.set_guest(GuestRegister::ElrEl1, entry.elr);
    machine.set_guest(GuestRegister::SpsrEl1, entry.spsr);
    machine.set_guest(GuestRegister::EsrEl1, entry.esr);
    if let Some(far) = entry.far {
        machine.set_guest(GuestRegister::FarEl1, far);
    }
    machine.set_guest(GuestRegister::Pc, entry.pc);
    machine.set_guest(GuestRegister::Pstate, entry.pstate);
    None
}

/// Whether a table walk failed, not an access.
const fn walks(exception: Exception) -> bool {
    match exception {
        Exception::InstructionAbort(abort) | Exception::DataAbort { abort, .. } => {
            abort.walk_level.is_some()
        }
        _ => false,
    }
}

/// An abort at FAR_EL2. The level of a refused walk is not in the syndrome; EL1 is told level 0.
pub(super) const fn abort(far: u64, far_is_unknown: bool, on_table_walk: bool) -> Abort {
    Abort {
        far: if far_is_unknown { None } else { Some(far) },
        walk_level: if on_table_walk { Some(0) } else { None },
    }
}

/// Stops a VM whose vCPU takes exceptions at its own vector without end. Such a loop stays inside
/// EL1 (its vectors are not mapped by its own stage 1, or are no instructions), so nothing but a look now
/// and then finds it.
pub(crate) fn check_vector_loop(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
) {
    /// EL1 with SP_EL1.
    const EL1H: u64 = 0b0101;
    /// The vector of synchronous exceptions from EL1 with SP_EL1.
    const SYNCHRONOUS_EL1H: u64 = 0x200;
    let vector = (machine.guest(GuestRegister::VbarEl1) & !0x7ff).wrapping_add(SYNCHRONOUS_EL1H);
    // The instruction at the vector has taken the last exception, and is where the vCPU is again.
    let loops = machine.guest(GuestRegister::Pc) == vector
        && machine.guest(GuestRegister::ElrEl1) == vector
        && machine.guest(GuestRegister::Pstate) & 0b1_1111 == EL1H;
    if loops {
        let _ = crash(vcpu, place, machine, CrashCause::VectorLoop, None);
    }
}
