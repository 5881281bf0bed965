//! What happens when a guest stops executing, fastest answers first.
//!
//! [`first_synchronous`] and [`first_interrupt`] answer what is frequent with half of the registers still
//! live, [`fast`] everything that
//! needs no scheduling. What is left is a [`Deferred`] that the run loop reads.
//!
//! Who is to blame picks the answer:
//!
//! | what happened | answer |
//! |---|---|
//! | a call with a bad argument, or one the caller may not make | an error code |
//! | an instruction that a guest may not use | UNDEFINED, as if the hardware had no such thing |
//! | an access to what is not there | External abort, as from a bus without that device |
//! | policy or resources needed | an event for the manager; the vCPU waits |
//! | something that has no answer (vector loop, quota, SError) | the VM stops, with a report |
//! | the manager did something that has no answer | it is restarted |

mod abort;
mod call;
mod first;
mod inject;
mod interrupt;
mod sysreg;
mod uart;
mod watchdog;

use penumbra_abi::{CrashCause, StopReason};
use penumbra_trap::condition;
use penumbra_trap::esr::{Esr, TrapCause};
use penumbra_trap::inject::Exception;
use penumbra_vmsa::{Ipa, VmId};

pub use first::{Next, first_interrupt, first_synchronous};
pub(crate) use inject::check_vector_loop;
pub(crate) use interrupt::{taken as interrupt, taken_idle as interrupt_idle};
pub(crate) use sysreg::drive_physical_timer;
pub(crate) use uart::{check_stall, drain, receive};
pub(crate) use watchdog::{check_watchdog, tell_watcher};

use crate::events::Source;
use crate::machine::{Core, ExitKind, GuestRegister, Machine, PhysicalInterrupts};
use crate::system::System;
use crate::traps;
use crate::vcpu::{Counter, Deferred, Left, Place, Vcpu};
use crate::vgic::{Hardware, VcpuSet};
use crate::vm::Report;

/// How an exit ends: `None` resumes the guest, else the run loop has to do something first.
type Flow = Option<Deferred>;

/// Handles an exit that needs no scheduling. All general-purpose registers are in the frame.
/// Returns whether the guest is to be entered again at once.
pub fn fast(vcpu: &mut Vcpu, machine: &mut impl Machine, kind: ExitKind) -> bool {
    let Some(place) = vcpu.place else {
        return false;
    };
    let flow = match core::mem::replace(&mut vcpu.left, Left::Everything) {
        Left::Everything => unanswered(vcpu, place, machine, kind),
        Left::Acknowledged(intid) => interrupt::acknowledged(vcpu, place, machine, intid),
    };
    match flow {
        None if !vcpu.wants_attention() => true,
        None => {
            vcpu.deferred = Deferred::Nothing;
            false
        }
        Some(deferred) => {
            vcpu.deferred = deferred;
            false
        }
    }
}

/// An exit from its beginning.
fn unanswered(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    kind: ExitKind,
) -> Flow {
    match kind {
        ExitKind::Irq => interrupt::taken(vcpu, place, machine),
        ExitKind::Sync => synchronous(vcpu, place, machine),
        ExitKind::Serror => crash(vcpu, place, machine, CrashCause::Serror, None),
    }
}

fn synchronous(vcpu: &mut Vcpu, place: &'static Place, machine: &mut impl Machine) -> Flow {
    let esr = Esr::new(machine.syndrome().esr);
    match esr.cause() {
        TrapCause::SysReg(access) => sysreg::accessed(vcpu, place, machine, access),
        TrapCause::DataAbort(abort) => abort::data(vcpu, place, machine, abort),
        TrapCause::Hvc64(immediate) => call::made(vcpu, place, machine, immediate),
        TrapCause::Smc64(immediate) => {
            machine.skip_instruction();
            call::made(vcpu, place, machine, immediate)
        }
        TrapCause::InstructionAbort(abort) => abort::instruction(vcpu, place, machine, abort),
        TrapCause::Wait(_) => waits(place, machine),
        TrapCause::FpSimd => {
            vcpu.count(Counter::Others);
            Some(Deferred::Fp)
        }
        _ => rare(vcpu, place, machine, esr),
    }
}

/// The relatives of WFI. Whatever the reason, a return at once would be allowed.
fn waits(place: &'static Place, machine: &mut impl Machine) -> Flow {
    place.shared.count(Counter::Waits);
    machine.skip_instruction();
    // WFI was answered first. With a time limit, the limit is not kept: the vCPU yields and looks again.
    None
}

/// Exception classes off the beaten track.
fn rare(vcpu: &mut Vcpu, place: &'static Place, machine: &mut impl Machine, esr: Esr) -> Flow {
    place.shared.count(Counter::Others);
    match esr.cause() {
        TrapCause::Coprocessor
            if !condition::passed(esr.iss(), machine.guest(GuestRegister::Pstate)) =>
        {
            machine.skip_instruction();
            None
        }
        TrapCause::Unknown
        | TrapCause::Coprocessor
        | TrapCause::Sve
        | TrapCause::Sme
        | TrapCause::PauthTrapped
        | TrapCause::HiddenInstruction
        | TrapCause::Hvc32(_)
        | TrapCause::Smc32 => {
            traps::note(vcpu, place, machine, traps::NOTHING, 0);
            inject::exception(vcpu, place, machine, Exception::Undefined)
        }
        TrapCause::PacFail
        | TrapCause::Bti
        | TrapCause::IllegalState
        | TrapCause::PcAlignment
        | TrapCause::SpAlignment
        | TrapCause::FpException => {
            let far = machine.syndrome().far;
            inject::exception(vcpu, place, machine, Exception::Forwarded { esr, far })
        }
        TrapCause::Serror => crash(vcpu, place, machine, CrashCause::Serror, None),
        _ => crash(vcpu, place, machine, CrashCause::UnexpectedException, None),
    }
}

/// Stops the vCPU's VM for what the vCPU did.
fn crash(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    cause: CrashCause,
    ipa: Option<Ipa>,
) -> Flow {
    stop(vcpu, place, machine, (StopReason::Crash, cause), ipa);
    Some(Deferred::Nothing)
}

/// Stops the vCPU's VM.
fn stop(
    vcpu: &Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    (reason, cause): (StopReason, CrashCause),
    ipa: Option<Ipa>,
) {
    let syndrome = machine.syndrome();
    let index = u8::try_from(vcpu.id.index()).unwrap_or(u8::MAX);
    let report = Report {
        esr: syndrome.esr,
        far: syndrome.far,
        ipa,
    };
    if place.vm.stop_with((reason, cause, index), report) {
        announce_stop(place.system, vcpu.id.vm(), machine);
    }
}

/// Tells cores and manager that a VM has stopped.
pub(crate) fn announce_stop<M: PhysicalInterrupts + Core>(
    system: &System,
    vm: usize,
    machine: &mut M,
) {
    let number = u64::try_from(vm)
        .ok()
        .and_then(|vm| VmId::new(vm, penumbra_abi::MAX_VMS));
    if let Some(vm) = number {
        system.alert(vm, machine);
        system.raise(Source::Status, vm, machine);
    }
}

/// Lets the vCPUs of `set` see what changed for them: this one at once, the others when they run.
#[inline]
pub(crate) fn notify<M: Hardware + Core>(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut M,
    set: VcpuSet,
) {
    if set.is_empty() {
        return;
    }
    let me = vcpu.id.index();
    let mut others = set.without(me);
    if set.contains(me) {
        let more = place.vm.gic.flush(me, &mut vcpu.gic, machine);
        others = others.union(more.without(me));
    }
    place.system.wake_set(vcpu.id.vm(), others, machine);
}
