//! The way in for every exit: what is frequent and short is answered here, with half of the guest's
//! registers still where they were.
//!
//! Only X0 to X17 are in the frame, and only they may change; and the register that a trapped load or store
//! moves, for which the hal saves the others where it must. What needs others is left to
//! [`fast`](super::fast), which sees the exit from its beginning, unless [`Left`] says otherwise.
//! Each longer answer is a function of its own, so that none pays for the registers that another needs.

use penumbra_trap::abort::{DataAbort, FaultStatus, MmioAccess};
use penumbra_trap::esr::{Esr, TrapCause, Wait, ec};
use penumbra_trap::idregs::IdReg;
use penumbra_trap::sysreg::{SysReg, SysRegAccess};
use penumbra_trap::{psci, smccc};
use penumbra_vmsa::{Half, Ipa};

use super::abort::{self, Touched};
use super::{interrupt, notify, uart};
use crate::compound;
use crate::machine::{Machine, intid};
use crate::vcpu::{Blocked, Counter, Deferred, Left, Place, Vcpu};
use crate::vgic::{Frame, Sent, SgiRegister};

/// Registers from here on are not in the frame yet.
const FIRST_LIVE: u8 = 18;

/// How an exit goes on after the first look. The hal's assembly knows the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[must_use]
pub enum Next {
    /// The hal saves the rest of the registers and calls [`fast`](super::fast).
    Fast = 0,
    /// It is answered: the guest is entered again at once.
    Enter = 1,
    /// The hal saves the rest of the registers and goes back to the run loop.
    RunLoop = 2,
}

/// Answers a synchronous exit with its ESR_EL2, or leaves it to [`fast`](super::fast). Only X0 to X17 of the
/// guest are in the frame (the others are live), and only they may change; and the register that an
/// access moves.
#[inline]
pub fn first_synchronous(vcpu: &mut Vcpu, machine: &mut impl Machine, esr: u64) -> Next {
    let esr = Esr::new(esr);
    match esr.class() {
        ec::HVC64 | ec::SMC64 => call(vcpu, machine, esr),
        ec::SYSREG => register(vcpu, machine, SysRegAccess::new(esr.iss())),
        ec::DATA_ABORT_LOWER => data_abort(vcpu, machine, DataAbort::new(esr.iss())),
        _ => wait(vcpu, machine, esr),
    }
}

/// Answers an interrupt, the virtual timer's or a kick, as [`first_synchronous`] does its exits.
#[inline]
pub fn first_interrupt(vcpu: &mut Vcpu, machine: &mut impl Machine) -> Next {
    let Some(place) = vcpu.place else {
        return Next::Fast;
    };
    let number = machine.acknowledge();
    match number {
        intid::VIRTUAL_TIMER => interrupt::virtual_timer(vcpu, machine, place),
        intid::KICK => interrupt::kick(vcpu, machine, place),
        intid::HYP_TIMER => {
            interrupt::deadline(machine);
            vcpu.deferred = Deferred::Deadline;
            Next::RunLoop
        }
        _ => {
            vcpu.left = Left::Acknowledged(number);
            Next::Fast
        }
    }
}

/// WFI, without a look at whether there is an interrupt: a core that has one for its guest does not trap
/// it, and the run loop looks.
// Not part of the decision above: it would make that longer for the others.
#[inline(never)]
fn wait(vcpu: &mut Vcpu, machine: &mut impl Machine, esr: Esr) -> Next {
    if esr.cause() != TrapCause::Wait(Wait::Interrupt) {
        return Next::Fast;
    }
    vcpu.count(Counter::Waits);
    machine.skip_instruction();
    vcpu.deferred = Deferred::Block(Blocked::Interrupt);
    Next::RunLoop
}

/// The cheapest calls.
#[inline]
fn call(vcpu: &mut Vcpu, machine: &mut impl Machine, esr: Esr) -> Next {
    const SMCCC_VERSION: u64 = 0x8000_0000;
    const PSCI_VERSION: u64 = 0x8400_0000;
    let reply = match vcpu.gpr.get(0) & 0xffff_ffff {
        SMCCC_VERSION => smccc::VERSION,
        PSCI_VERSION => psci::VERSION,
        _ => return Next::Fast,
    };
    match esr.cause() {
        TrapCause::Hvc64(0) => {}
        TrapCause::Smc64(0) if !machine.is_stepped() => machine.skip_unstepped(),
        _ => return Next::Fast,
    }
    vcpu.gpr.set(0, reply);
    vcpu.count(Counter::Calls);
    Next::Enter
}

/// Reads of ID registers and of ACTLR_EL1; software generated interrupts.
#[inline]
fn register(vcpu: &mut Vcpu, machine: &mut impl Machine, access: SysRegAccess) -> Next {
    let rt = access.rt();
    if rt >= FIRST_LIVE {
        return Next::Fast;
    }
    let Some(place) = vcpu.place else {
        return Next::Fast;
    };
    let register = access.register();
    if !access.is_read() {
        if vcpu.gic.is_direct() && register == SysReg::ICC_SGI1R_EL1 {
            return sgi(vcpu, machine, vcpu.gpr.get(rt), place);
        }
        return root(vcpu, machine, place, access);
    }
    let value = if let Some(id) = IdReg::from_sysreg(register) {
        place.board.id.get(id.index()).copied().unwrap_or(0)
    } else if register == SysReg::ACTLR_EL1 {
        0
    } else {
        return Next::Fast;
    };
    place.shared.count(Counter::SystemRegisters);
    vcpu.gpr.set(rt, value);
    machine.skip_instruction();
    Next::Enter
}

/// A write of `value` to ICC_SGI1R_EL1: mostly to one other vCPU, or to none.
// The place comes last, of which `sgi_to_more` gets two fields instead: what comes before it stays where it is.
#[inline(never)]
fn sgi(vcpu: &mut Vcpu, machine: &mut impl Machine, value: u64, place: &'static Place) -> Next {
    if machine.is_stepped() {
        return Next::Fast;
    }
    machine.skip_unstepped();
    place.shared.count(Counter::SystemRegisters);
    match place.vm.gic.send_sgi_to_other(vcpu.id.index(), value) {
        Sent::Nobody => Next::Enter,
        Sent::Flush(other) => {
            place.system.wake(vcpu.id.sibling(other), machine);
            done(vcpu)
        }
        Sent::NotYet => sgi_to_more(vcpu, machine, value, place),
    }
}

/// A root that is trapped, and known; CONTEXTIDR_EL1, which is trapped with it.
// Not part of the decision above: the compiler would put its comparisons before that of SGIs.
#[inline(never)]
fn root(
    vcpu: &mut Vcpu,
    machine: &mut impl Machine,
    place: &'static Place,
    access: SysRegAccess,
) -> Next {
    let value = vcpu.gpr.get(access.rt());
    let done = match access.register() {
        SysReg::TTBR0_EL1 => compound::known(vcpu, place, machine, Half::Low, value),
        SysReg::TTBR1_EL1 => compound::known(vcpu, place, machine, Half::High, value),
        SysReg::CONTEXTIDR_EL1 => compound::context(place, machine, value),
        _ => false,
    };
    if !done {
        return Next::Fast;
    }
    place.shared.count(Counter::RootTraps);
    machine.skip_instruction();
    Next::Enter
}

#[inline(never)]
fn sgi_to_more(
    vcpu: &mut Vcpu,
    machine: &mut impl Machine,
    value: u64,
    place: &'static Place,
) -> Next {
    let me = vcpu.id.index();
    let set = place.vm.gic.send_sgi(me, SgiRegister::Sgi1, value);
    notify(vcpu, place, machine, set);
    done(vcpu)
}

/// Loads, stores and table walks that stage 2 refuses: emulated devices, and first touch of thin memory.
#[inline(never)]
fn data_abort(vcpu: &mut Vcpu, machine: &mut impl Machine, abort: DataAbort) -> Next {
    let Some(place) = vcpu.place else {
        return Next::Fast;
    };
    let syndrome = machine.syndrome();
    let Some(ipa) = abort.ipa(syndrome.hpfar, syndrome.far) else {
        return store(vcpu, machine, place, abort, syndrome.far);
    };
    if let Ok(access) = abort.access() {
        let devices = &place.vm.devices;
        if let Some(offset) = devices.find_uart(ipa) {
            return uart::first(vcpu, machine, place, offset, access);
        }
        if let Some(at) = devices.find_gic(ipa, place.vm.vcpu_count()) {
            return gic(vcpu, machine, place, at, access);
        }
    }
    first_touch(vcpu, machine, place, abort, ipa)
}

/// A store to a table that is mirrored.
#[inline(never)]
fn store(
    vcpu: &mut Vcpu,
    machine: &mut impl Machine,
    place: &'static Place,
    abort: DataAbort,
    far: u64,
) -> Next {
    if !compound::known_store(vcpu, place, machine, abort, far) {
        return Next::Fast;
    }
    vcpu.count(Counter::Others);
    done(vcpu)
}

/// The interrupt controller.
#[inline(never)]
fn gic(
    vcpu: &mut Vcpu,
    machine: &mut impl Machine,
    place: &'static Place,
    at: (Frame, u64),
    access: MmioAccess,
) -> Next {
    place.shared.count(Counter::Mmio);
    if abort::gic_access(vcpu, place, machine, at, access) {
        done(vcpu)
    } else {
        Next::Enter
    }
}

/// Thin memory that nothing was in yet.
#[inline(never)]
fn first_touch(
    vcpu: &mut Vcpu,
    machine: &mut impl Machine,
    place: &'static Place,
    abort: DataAbort,
    ipa: Ipa,
) -> Next {
    if !matches!(abort.status(), FaultStatus::Translation(_)) {
        return Next::Fast;
    }
    match abort::first_touch(vcpu, place, machine, ipa) {
        Touched::Yes(None) => done(vcpu),
        Touched::Yes(Some(deferred)) => {
            vcpu.deferred = deferred;
            Next::RunLoop
        }
        Touched::No => Next::Fast,
    }
}

/// The exit is answered; the core may be wanted elsewhere.
#[inline]
pub(super) fn done(vcpu: &mut Vcpu) -> Next {
    if vcpu.wants_attention() {
        vcpu.deferred = Deferred::Nothing;
        Next::RunLoop
    } else {
        Next::Enter
    }
}
