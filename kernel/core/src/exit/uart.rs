//! The guest's UART: accesses from inside, bytes from and to the manager.

use penumbra_trap::abort::MmioAccess;
use penumbra_vmsa::VmId;

use super::first::{Next, done};
use super::notify;
use crate::events::Source;
use crate::machine::Machine;
use crate::pl011::{self, Time};
use crate::system::System;
use crate::vcpu::{Counter, Place, Vcpu};
use crate::vgic::VcpuSet;
use crate::vm::{Uart, Vm};

/// A guest's load or store at `offset`: what it does for each byte that it sends is answered here.
#[inline(always)]
pub(super) fn first(
    vcpu: &mut Vcpu,
    machine: &mut impl Machine,
    place: &'static Place,
    offset: u64,
    access: MmioAccess,
) -> Next {
    place.shared.count(Counter::Mmio);
    if !access.is_write() {
        if offset == pl011::FLAGS && place.vm.is_uart_calm() {
            let value = access.loaded(u64::from(pl011::CALM_FLAGS));
            vcpu.gpr.set(access.register(), value);
            machine.skip_instruction();
            return Next::Enter;
        }
    } else if offset == pl011::DATA
        && let Some(mut uart) = place.vm.uart.try_lock()
    {
        // The low byte, whatever the size.
        let [byte, ..] = vcpu.gpr.get(access.register()).to_le_bytes();
        if uart.device.append(byte) {
            drop(uart);
            machine.skip_instruction();
            return Next::Enter;
        }
    }
    otherwise(vcpu, machine, place, offset, access)
}

/// The rest of the accesses.
#[inline(never)]
fn otherwise(
    vcpu: &mut Vcpu,
    machine: &mut impl Machine,
    place: &'static Place,
    offset: u64,
    access: MmioAccess,
) -> Next {
    let time = || time(place.system, machine);
    // Registers are words; a narrower access moves the bytes that it names.
    let shift = (offset & 3) << 3;
    let register = offset & !3;
    let mut uart = place.vm.uart.lock_patiently(machine);
    let before = uart.device.has_output();
    if access.is_write() {
        let value = access.stored(vcpu.gpr.get(access.register())) << shift;
        uart.device
            .write(register, (value & 0xffff_ffff) as u32, time);
    } else {
        let value = u64::from(uart.device.read(register, time)) >> shift;
        vcpu.gpr.set(access.register(), access.loaded(value));
    }
    let output = !before && uart.device.has_output();
    let set = update(place.vm, &mut uart);
    drop(uart);
    machine.skip_instruction();
    if !output && set.is_empty() {
        return Next::Enter;
    }
    if output {
        raise_output(place.system, vcpu.id.vm(), machine);
    }
    notify(vcpu, place, machine, set);
    done(vcpu)
}

/// Gives bytes from the manager to the guest; returns how many fitted.
pub(crate) fn receive(
    system: &System,
    vm: VmId,
    machine: &mut impl Machine,
    bytes: &[u8],
) -> usize {
    let Some(state) = system.vm(vm.get()) else {
        return 0;
    };
    let mut uart = state.uart.lock_patiently(machine);
    let taken = uart.device.receive(bytes);
    let set = update(state, &mut uart);
    drop(uart);
    system.wake_set(vm.get(), set, machine);
    taken
}

/// Takes output for the manager; returns how many bytes.
pub(crate) fn drain(
    system: &System,
    vm: VmId,
    machine: &mut impl Machine,
    out: &mut [u8],
) -> usize {
    let Some(state) = system.vm(vm.get()) else {
        return 0;
    };
    let mut uart = state.uart.lock_patiently(machine);
    let taken = uart.device.drain(out);
    if !uart.device.has_output() {
        // Under the lock: output that comes later raises the event anew.
        system.events.clear(Source::Output, vm);
    }
    let set = update(state, &mut uart);
    drop(uart);
    system.wake_set(vm.get(), set, machine);
    taken
}

/// Looks whether a guest waits for a manager that does not drain its output.
pub(crate) fn check_stall(system: &System, vm: usize, machine: &mut impl Machine) {
    let Some(state) = system.vm(vm) else { return };
    let time = time(system, machine);
    let mut uart = state.uart.lock_patiently(machine);
    uart.device.check_stall(time);
    let set = update(state, &mut uart);
    drop(uart);
    system.wake_set(vm, set, machine);
}

#[inline]
fn time(system: &System, machine: &impl Machine) -> Time {
    Time {
        now: machine.counter(),
        hz: system.board().map_or(1, |board| board.facts.counter_hz),
    }
}

/// Publishes whether the device is calm and drives the interrupt line as it says. Under the UART's lock,
/// so that changes are seen in the order in which they happen.
#[inline]
fn update(vm: &Vm, uart: &mut Uart) -> VcpuSet {
    vm.set_uart_calm(uart.device.is_calm());
    let line = uart.device.level();
    if line == uart.line {
        return VcpuSet::EMPTY;
    }
    uart.line = line;
    vm.gic.set_level(vm.devices.uart_intid(), line)
}

fn raise_output(system: &System, vm: usize, machine: &mut impl Machine) {
    let number = u64::try_from(vm)
        .ok()
        .and_then(|vm| VmId::new(vm, penumbra_abi::MAX_VMS));
    if let Some(vm) = number {
        system.raise(Source::Output, vm, machine);
    }
}
