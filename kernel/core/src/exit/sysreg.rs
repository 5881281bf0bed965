//! Trapped system registers.

use penumbra_trap::inject::Exception;
use penumbra_trap::sysreg::{
    Action, DebugReg, PhysicalTimer as TimerReg, SgiKind, SysRegAccess, classify,
};

use super::{Flow, inject, notify};
use crate::compound;
use crate::controls;
use crate::machine::{Machine, intid};
use crate::traps;
use crate::vcpu::{Counter, Deferred, Place, Vcpu};
use crate::vgic::SgiRegister;

/// Carries out MSR or MRS.
pub(super) fn accessed(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    access: SysRegAccess,
) -> Flow {
    let board = place.board;
    let rt = access.rt();
    let action = classify(access, &board.features);
    if let Action::Stage1(register) = action {
        let value = vcpu.gpr.get(rt);
        return compound::written(vcpu, place, machine, register, value);
    }
    vcpu.count(Counter::SystemRegisters);
    let value = match action {
        Action::Id(register) => board.id.get(register.index()).copied().unwrap_or(0),
        Action::Read(value) => value,
        Action::Ignore | Action::SetWay | Action::Deactivate => {
            machine.skip_instruction();
            return None;
        }
        Action::Sgi(kind) => {
            let register = match kind {
                SgiKind::Group1 => SgiRegister::Sgi1,
                SgiKind::Group0 => SgiRegister::Sgi0,
                SgiKind::AliasGroup1 => SgiRegister::AliasedSgi1,
            };
            machine.skip_instruction();
            let set = place
                .vm
                .gic
                .send_sgi(vcpu.id.index(), register, vcpu.gpr.get(rt));
            notify(vcpu, place, machine, set);
            return None;
        }
        Action::Timer(register) => return timer(vcpu, place, machine, (register, access)),
        Action::Debug(register) => return debug(vcpu, place, machine, (register, access)),
        Action::Stage1(_) | Action::Undefined => return refuse(vcpu, place, machine),
    };
    vcpu.gpr.set(rt, value);
    machine.skip_instruction();
    None
}

/// The physical timer.
fn timer(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    (register, access): (TimerReg, SysRegAccess),
) -> Flow {
    let now = machine.counter();
    let rt = access.rt();
    machine.skip_instruction();
    if access.is_read() {
        let value = match register {
            TimerReg::Count => now,
            TimerReg::Value => vcpu.physical_timer.tval(now),
            TimerReg::Control => vcpu.physical_timer.ctl(now),
            TimerReg::Compare => vcpu.physical_timer.cval(),
        };
        vcpu.gpr.set(rt, value);
        return None;
    }
    let value = vcpu.gpr.get(rt);
    match register {
        TimerReg::Count => return None,
        TimerReg::Value => vcpu.physical_timer.set_tval(value, now),
        TimerReg::Control => vcpu.physical_timer.set_ctl(value),
        TimerReg::Compare => vcpu.physical_timer.set_cval(value),
    }
    drive_physical_timer(vcpu, place, machine, now);
    // The run loop arms the deadline.
    Some(Deferred::Nothing)
}

/// Sets the line of the physical timer as the time says.
pub(crate) fn drive_physical_timer(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    now: u64,
) {
    let line = vcpu.physical_timer.line(now);
    let set = place
        .vm
        .gic
        .set_ppi_level(vcpu.id.index(), intid::PHYSICAL_TIMER, line);
    notify(vcpu, place, machine, set);
}

/// Debug registers. The first access makes them this vCPU's, and is repeated.
fn debug(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    (register, access): (DebugReg, SysRegAccess),
) -> Flow {
    match register {
        DebugReg::OsLockAccess => vcpu.os_lock = vcpu.gpr.get(access.rt()) & 1 == 1,
        DebugReg::OsLockStatus => {
            vcpu.gpr
                .set(access.rt(), DebugReg::os_lock_status(vcpu.os_lock));
        }
        _ if controls::debug_is_trapped(&vcpu.controls) => return Some(Deferred::Debug),
        // Not trapped any more, and here nevertheless: there is no such register.
        _ => return refuse(vcpu, place, machine),
    }
    machine.skip_instruction();
    None
}

/// There is no such register for guests.
fn refuse(vcpu: &mut Vcpu, place: &'static Place, machine: &mut impl Machine) -> Flow {
    traps::note(vcpu, place, machine, traps::NOTHING, 0);
    inject::exception(vcpu, place, machine, Exception::Undefined)
}
