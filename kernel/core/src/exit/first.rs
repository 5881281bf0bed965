//! The way in for every exit: what is frequent and short is answered here, with half of the guest's
//! registers still where they were.
//!
//! Only X0 to X17 are in the frame, and only they may change. What needs others is left to
//! [`fast`](super::fast), which sees the exit from its beginning, unless [`Left`] says otherwise.
//! Each longer answer is a function of its own, so that none pays for the registers that another needs.

use penumbra_abi::GicVersion;
use penumbra_trap::abort::DataAbort;
use penumbra_trap::esr::{Esr, TrapCause, ec};
use penumbra_trap::idregs::IdReg;
use penumbra_trap::sysreg::{SysReg, SysRegAccess};
use penumbra_trap::{psci, smccc};

use super::{abort, interrupt, notify};
use crate::machine::{Machine, intid};
use crate::vcpu::{Counter, Left, Vcpu};
use crate::vgic::SgiRegister;

/// Registers from here on are not in the frame yet.
const FIRST_LIVE: u8 = 18;

/// Answers a synchronous exit, or leaves it to [`fast`](super::fast). Only X0 to X17 of the guest are
/// in the frame (the others are live), and only they may change. Returns whether the guest is to be
/// entered again at once; if not, the hal saves the rest and calls `fast`.
#[inline]
pub fn first_synchronous(vcpu: &mut Vcpu, machine: &mut impl Machine) -> bool {
    let esr = Esr::new(machine.esr());
    match esr.class() {
        ec::HVC64 | ec::SMC64 => call(vcpu, machine, esr),
        ec::SYSREG => register(vcpu, machine, SysRegAccess::new(esr.iss())),
        ec::DATA_ABORT_LOWER => device(vcpu, machine, DataAbort::new(esr.iss())),
        _ => false,
    }
}

/// Answers an interrupt, the virtual timer's or a kick, as [`first_synchronous`] does its exits.
#[inline]
pub fn first_interrupt(vcpu: &mut Vcpu, machine: &mut impl Machine) -> bool {
    let Some(place) = vcpu.place else {
        return false;
    };
    let number = machine.acknowledge();
    match number {
        intid::VIRTUAL_TIMER => interrupt::virtual_timer(vcpu, place, machine),
        intid::KICK => interrupt::kick(vcpu, place, machine),
        _ => {
            vcpu.left = Left::Acknowledged(number);
            return false;
        }
    }
    done(vcpu)
}

/// The cheapest calls.
#[inline]
fn call(vcpu: &mut Vcpu, machine: &mut impl Machine, esr: Esr) -> bool {
    const SMCCC_VERSION: u64 = 0x8000_0000;
    const PSCI_VERSION: u64 = 0x8400_0000;
    let reply = match vcpu.gpr.get(0) & 0xffff_ffff {
        SMCCC_VERSION => smccc::VERSION,
        PSCI_VERSION => psci::VERSION,
        _ => return false,
    };
    match esr.cause() {
        TrapCause::Hvc64(0) => {}
        TrapCause::Smc64(0) => machine.skip_instruction(),
        _ => return false,
    }
    vcpu.gpr.set(0, reply);
    vcpu.count(Counter::Calls);
    true
}

/// Reads of ID registers and of ACTLR_EL1; software generated interrupts.
#[inline]
fn register(vcpu: &mut Vcpu, machine: &mut impl Machine, access: SysRegAccess) -> bool {
    let rt = access.rt();
    if rt >= FIRST_LIVE {
        return false;
    }
    let Some(place) = vcpu.place else {
        return false;
    };
    let register = access.register();
    if !access.is_read() {
        let v3 = place.board.features.gic == GicVersion::V3;
        return v3 && register == SysReg::ICC_SGI1R_EL1 && sgi(vcpu, machine, rt);
    }
    let value = if let Some(id) = IdReg::from_sysreg(register) {
        place.board.id.get(id.index()).copied().unwrap_or(0)
    } else if register == SysReg::ACTLR_EL1 {
        0
    } else {
        return false;
    };
    place.shared.count(Counter::SystemRegisters);
    vcpu.gpr.set(rt, value);
    machine.skip_instruction();
    true
}

#[inline(never)]
fn sgi(vcpu: &mut Vcpu, machine: &mut impl Machine, rt: u8) -> bool {
    let Some(place) = vcpu.place else {
        return false;
    };
    machine.skip_instruction();
    place.shared.count(Counter::SystemRegisters);
    let set = place
        .vm
        .gic
        .send_sgi(vcpu.id.index(), SgiRegister::Sgi1, vcpu.gpr.get(rt));
    if set.is_empty() {
        return true;
    }
    if let Some(other) = set.only().filter(|only| *only != vcpu.id.index()) {
        place.system.wake(vcpu.id.sibling(other), machine);
    } else {
        notify(vcpu, place, machine, set);
    }
    done(vcpu)
}

/// Emulated devices.
#[inline(never)]
fn device(vcpu: &mut Vcpu, machine: &mut impl Machine, abort: DataAbort) -> bool {
    let Ok(access) = abort.access() else {
        return false;
    };
    if access.register() >= FIRST_LIVE && access.register() != 31 {
        return false;
    }
    let Some(place) = vcpu.place else {
        return false;
    };
    let syndrome = machine.syndrome();
    let Some(ipa) = abort.ipa(syndrome.hpfar, syndrome.far) else {
        return false;
    };
    let Some(found) = place.vm.devices.find(ipa, place.vm.vcpu_count()) else {
        return false;
    };
    place.shared.count(Counter::Mmio);
    !abort::device_access(vcpu, place, machine, found, access) || done(vcpu)
}

/// The exit is answered: whether the guest may be entered again at once.
#[inline]
fn done(vcpu: &mut Vcpu) -> bool {
    let wanted = vcpu.wants_attention();
    if wanted {
        vcpu.left = Left::Answered;
    }
    !wanted
}
