//! The guest's watchdog: accesses from inside, and what it does to the VM when its time is up.

use penumbra_abi::{CrashCause, StopReason};
use penumbra_trap::abort::MmioAccess;
use penumbra_vmsa::VmId;
use spin::MutexGuard;

use super::{announce_stop, notify};
use crate::machine::Machine;
use crate::system::System;
use crate::vcpu::{Place, Vcpu, VcpuId, VcpuShared};
use crate::vgic::VcpuSet;
use crate::vm::{Report, Vm};
use crate::watchdog::{Watchdog, status};

/// A guest's load or store at `offset` from the control frame.
pub(super) fn access(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    offset: u64,
    access: MmioAccess,
) {
    let now = machine.counter();
    let size = 1u64 << (access.size() as u32);
    let register = offset & !3;
    let mut watchdog = place.vm.watchdog.lock();
    watchdog.advance(now);
    if access.is_write() {
        let value = access.stored(vcpu.gpr.get(access.register()));
        // The registers are words; what is narrower has no effect.
        for (register, word) in [(register, value), (register.wrapping_add(4), value >> 32)]
            .into_iter()
            .take(usize::try_from(size / 4).unwrap_or(0))
        {
            watchdog.write(register, (word & 0xffff_ffff) as u32, now);
        }
    } else {
        let high = u64::from(watchdog.read(register.wrapping_add(4)));
        let value = (high << 32 | u64::from(watchdog.read(register))) >> ((offset & 3) << 3);
        vcpu.gpr.set(access.register(), access.loaded(value));
    }
    let sooner = watchdog
        .deadline()
        .is_some_and(|deadline| watchdog.known == 0 || deadline < watchdog.known);
    let set = settle(place.system, vcpu.id.vm(), place.vm, machine, watchdog);
    machine.skip_instruction();
    if sooner {
        tell_watcher(place.system, vcpu.id.vm(), machine);
    }
    notify(vcpu, place, machine, set);
}

/// Looks at the watchdog of a VM. Returns when it has to be looked at again.
pub(crate) fn check_watchdog(system: &System, vm: usize, machine: &mut impl Machine) -> u64 {
    let Some(state) = system.vm(vm) else {
        return u64::MAX;
    };
    if !state.is_running() {
        return u64::MAX;
    }
    let mut watchdog = state.watchdog.lock();
    watchdog.advance(machine.counter());
    let deadline = watchdog.deadline();
    watchdog.known = deadline.unwrap_or(0);
    let set = settle(system, vm, state, machine, watchdog);
    system.wake_set(vm, set, machine);
    deadline.unwrap_or(u64::MAX)
}

/// Makes the core that watches a VM's watchdog look at it: its time is up sooner than that core thinks. While vCPU 0 waits for
/// that core, whoever has it is not interrupted again, and the look may come as late as its turn.
pub(crate) fn tell_watcher(system: &System, vm: usize, machine: &mut impl Machine) {
    let Some(first) = number(vm).and_then(|vm| VcpuId::new(vm, 0)) else {
        return;
    };
    let core = system.shared(first).and_then(VcpuShared::core);
    if let Some(core) = core.and_then(|cpu| system.core(cpu)) {
        core.call_attention_to_change();
    }
    system.wake(first, machine);
}

/// Drives the interrupt line as the device says, under its lock so that changes reach the distributor in
/// the order in which they happen; then stops the VM if the second time is up.
fn settle(
    system: &System,
    vm: usize,
    state: &Vm,
    machine: &mut impl Machine,
    mut watchdog: MutexGuard<'_, Watchdog>,
) -> VcpuSet {
    let line = watchdog.level();
    let mut set = VcpuSet::EMPTY;
    if line != watchdog.line {
        watchdog.line = line;
        set = state.gic.set_level(state.devices.watchdog_intid(), line);
    }
    let over = watchdog.status() & status::WS1 != 0;
    drop(watchdog);
    let stop = (StopReason::Watchdog, CrashCause::None, 0);
    if over && state.stop_with(stop, Report::default()) {
        announce_stop(system, vm, machine);
    }
    set
}

fn number(vm: usize) -> Option<VmId> {
    VmId::new(u64::try_from(vm).ok()?, penumbra_abi::MAX_VMS)
}
