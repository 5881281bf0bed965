//! Looking at VMs, stopping and holding them.

use penumbra_abi::{CrashCause, Error, MANAGER_VM, StopReason, VmState, VmStatus, WatchdogStatus};
use penumbra_vmsa::Ipa;

use super::{NOTHING, Reply, guest, one};
use crate::events::Source;
use crate::exit;
use crate::machine::Machine;
use crate::system::System;
use crate::vcpu::{Counter, Vcpu, VcpuId};
use crate::vm::Vm;

pub(super) fn status(system: &System, machine: &impl Machine, number: u64) -> Reply {
    let (id, vm) = guest(system, number)?;
    // Before the state is read: what changes later is reported again.
    system.events.clear(Source::Status, id);
    let (life, report) = vm.seen();
    let memory = vm.memory.lock_patiently(machine);
    let status = VmStatus {
        state: life.state,
        reason: life.reason,
        cause: life.cause,
        vcpu: life.vcpu,
        wants_stock: system.events.is_set(Source::Stock, id),
        stock_frames: u64::try_from(memory.stocked()).unwrap_or(0),
        esr: report.esr,
        far: report.far,
        ipa: report.ipa.map_or(u64::MAX, Ipa::raw),
        held_bytes: memory.held(),
        tag: vm.tag(),
    };
    Ok(status.to_regs())
}

pub(super) fn stop(system: &System, machine: &mut impl Machine, number: u64) -> Reply {
    let (id, vm) = guest(system, number)?;
    if !vm.stop(StopReason::Killed, CrashCause::None, 0) {
        return Err(Error::BadState);
    }
    exit::announce_stop(system, id.get(), machine);
    Ok(NOTHING)
}

pub(super) fn pause(system: &System, machine: &mut impl Machine, number: u64) -> Reply {
    let (id, vm) = guest(system, number)?;
    if !vm.change(VmState::Running, VmState::Paused) {
        return Err(Error::BadState);
    }
    vm.watchdog.lock().pause(machine.counter());
    system.alert(id, machine);
    Ok(NOTHING)
}

pub(super) fn resume(system: &System, machine: &mut impl Machine, number: u64) -> Reply {
    let (id, vm) = guest(system, number)?;
    if !vm.change(VmState::Paused, VmState::Running) {
        return Err(Error::BadState);
    }
    vm.watchdog.lock().resume(machine.counter());
    exit::tell_watcher(system, id.get(), machine);
    for index in 0..vm.vcpu_count() {
        // Those that are off find that out for themselves.
        if let Some(vcpu) = VcpuId::new(id, index) {
            system.wake(vcpu, machine);
        }
    }
    Ok(NOTHING)
}

/// The vCPU of a guest.
fn vcpu(system: &System, number: u64, index: u64) -> Result<VcpuId, Error> {
    let (id, vm) = guest(system, number)?;
    let index = usize::try_from(index).map_err(|_| Error::NoSuchObject)?;
    if index >= vm.vcpu_count() {
        return Err(Error::NoSuchObject);
    }
    VcpuId::new(id, index).ok_or(Error::NoSuchObject)
}

pub(super) fn register(system: &System, (number, index, register): (u64, u64, u64)) -> Reply {
    let id = vcpu(system, number, index)?;
    // What runs, or may go on, keeps its registers to itself.
    let life = system.vm(id.vm()).map(Vm::life);
    if life.is_none_or(|life| matches!(life.state, VmState::Running | VmState::Paused)) {
        return Err(Error::BadState);
    }
    // A slot that is locked is in the hardware of a core.
    let slot = system
        .slot(id)
        .and_then(|slot| slot.try_lock())
        .ok_or(Error::BadState)?;
    value(&slot, register)
        .map(one)
        .ok_or(Error::InvalidParameter)
}

fn value(vcpu: &Vcpu, register: u64) -> Option<u64> {
    let sysregs = &vcpu.sysregs;
    Some(match register {
        0..=30 => vcpu.gpr.get(u8::try_from(register).ok()?),
        31 => sysregs.sp_el1,
        32 => sysregs.pc,
        33 => sysregs.pstate,
        34 => sysregs.elr_el1,
        35 => sysregs.esr_el1,
        36 => sysregs.far_el1,
        37 => sysregs.sp_el0,
        38 => sysregs.sctlr_el1,
        39 => sysregs.vbar_el1,
        _ => return None,
    })
}

/// Run time of a vCPU, the manager's included.
pub(super) fn time(system: &System, machine: &impl Machine, (number, index): (u64, u64)) -> Reply {
    let id = match (number, index) {
        (MANAGER_VM, 0) => VcpuId::MANAGER,
        _ => vcpu(system, number, index)?,
    };
    let shared = system.shared(id).ok_or(Error::NoSuchObject)?;
    let now = machine.counter();
    let core = shared.core().map_or(0, |core| core.get().saturating_add(1));
    let core = u64::try_from(core).unwrap_or(0);
    Ok([shared.ran(now), now, core, 0, 0, 0])
}

pub(super) fn leaves(system: &System, number: u64) -> Reply {
    let (_, vm) = guest(system, number)?;
    let (counts, tables) = vm.memory.lock().leaves();
    Ok([
        counts.gib,
        counts.mib2,
        counts.pages,
        tables,
        counts.runs,
        0,
    ])
}

/// How much of a guest was refused, in any state.
pub(super) fn traps(system: &System, number: u64) -> Reply {
    let (_, vm) = guest(system, number)?;
    Ok(vm.traps.lock().status().to_regs())
}

/// A record of that.
pub(super) fn trap(system: &System, (number, record): (u64, u64)) -> Reply {
    let (_, vm) = guest(system, number)?;
    let record = vm.traps.lock().record(record)?;
    Ok(record.to_regs())
}

/// The watchdog of a guest, in any state.
pub(super) fn watchdog(system: &System, machine: &impl Machine, number: u64) -> Reply {
    let (_, vm) = guest(system, number)?;
    let placed = vm.devices.has_watchdog();
    let watchdog = vm.watchdog.lock();
    Ok(WatchdogStatus {
        placed,
        wcs: watchdog.status(),
        offset: watchdog.offset(),
        age: watchdog.age(machine.counter()),
        refreshes: watchdog.refreshes(),
    }
    .to_regs())
}

/// Index behind the vCPU's own counters: what the whole VM lost of its output.
const LOST_CONSOLE_BYTES: usize = 8;
/// Index that counts roots as well, which are counted apart.
const SYSTEM_REGISTERS: usize = Counter::SystemRegisters as usize;

pub(super) fn counter(system: &System, (number, index, counter): (u64, u64, u64)) -> Reply {
    let id = vcpu(system, number, index)?;
    let counter = usize::try_from(counter).map_err(|_| Error::InvalidParameter)?;
    let value = match counter {
        LOST_CONSOLE_BYTES => system
            .vm(id.vm())
            .map(|vm| vm.uart.lock().device.lost_bytes()),
        SYSTEM_REGISTERS => system
            .shared(id)
            .and_then(|shared| Some(shared.counter(counter)?.wrapping_add(shared.root_traps()))),
        _ => system.shared(id).and_then(|shared| shared.counter(counter)),
    };
    value.map(one).ok_or(Error::InvalidParameter)
}
