//! Physical interrupts.

use super::{Flow, notify};
use crate::machine::{Machine, intid};
use crate::system::System;
use crate::vcpu::{Counter, Deferred, Place, Vcpu};
use crate::vgic::VcpuSet;

/// INTIDs from here on say that there is no interrupt (IHI 0069 H, 2.2 "INTIDs").
const SPECIAL: u32 = 1020;

/// The virtual timer of a running guest was acknowledged.
#[inline(always)]
pub(super) fn virtual_timer(vcpu: &mut Vcpu, place: &'static Place, machine: &mut impl Machine) {
    let me = vcpu.id.index();
    machine.drop_priority(intid::VIRTUAL_TIMER);
    place.shared.count(Counter::Interrupts);
    let set = place.vm.gic.inject_vtimer(me, &mut vcpu.gic, machine);
    if !set.is_empty() {
        notify(vcpu, place, machine, set.without(me));
    }
}

/// The kick was acknowledged by which another core tells this one that there is something to see.
#[inline(always)]
pub(super) fn kick(vcpu: &mut Vcpu, place: &'static Place, machine: &mut impl Machine) {
    let me = vcpu.id.index();
    machine.drop_priority(intid::KICK);
    machine.deactivate(intid::KICK);
    place.shared.count(Counter::Interrupts);
    let set = place.vm.gic.flush(me, &mut vcpu.gic, machine);
    if !set.is_empty() {
        notify(vcpu, place, machine, set.without(me));
    }
}

/// An interrupt is pending while the vCPU is resident, whether it runs or not.
pub(crate) fn taken(vcpu: &mut Vcpu, place: &'static Place, machine: &mut impl Machine) -> Flow {
    let number = machine.acknowledge();
    match number {
        intid::VIRTUAL_TIMER => virtual_timer(vcpu, place, machine),
        intid::KICK => kick(vcpu, place, machine),
        _ => return acknowledged(vcpu, place, machine, number),
    }
    None
}

/// An interrupt other than the frequent ones was acknowledged.
pub(super) fn acknowledged(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    number: u32,
) -> Flow {
    if number >= SPECIAL {
        return None;
    }
    place.shared.count(Counter::Interrupts);
    if let Some((vm, intid)) = place.system.passthrough.owner_of_spi(number) {
        let set = passed_on(place.system, machine, number, (vm, intid));
        if vm == vcpu.id.vm() && set.contains(vcpu.id.index()) {
            notify(vcpu, place, machine, VcpuSet::single(vcpu.id.index()));
        }
        return None;
    }
    if let Some(flow) = common(place.system, machine, number) {
        return flow;
    }
    if number == intid::MAINTENANCE {
        let me = vcpu.id.index();
        let set = place.vm.gic.on_maintenance(me, &mut vcpu.gic, machine);
        notify(vcpu, place, machine, set.without(me));
    }
    None
}

/// An interrupt is pending while no vCPU is resident.
pub(crate) fn taken_idle(system: &System, machine: &mut impl Machine) {
    let number = machine.acknowledge();
    if number >= SPECIAL {
        return;
    }
    match system.passthrough.owner_of_spi(number) {
        Some(owner) => {
            let _awake = passed_on(system, machine, number, owner);
        }
        None => {
            common(system, machine, number);
        }
    }
}

/// A guest's physical interrupt: it stays active until the guest deactivates it. Returns the vCPUs that
/// must see it; they are awake.
fn passed_on(
    system: &System,
    machine: &mut impl Machine,
    number: u32,
    (vm, intid): (usize, u32),
) -> VcpuSet {
    machine.drop_priority(number);
    let set = system
        .vm(vm)
        .map_or(VcpuSet::EMPTY, |vm| vm.gic.inject_spi(intid));
    system.wake_set(vm, set, machine);
    set
}

/// Ends the interrupt and does what concerns no vCPU. `Some` if that was all.
fn common(system: &System, machine: &mut impl Machine, number: u32) -> Option<Flow> {
    if number == intid::HYP_TIMER {
        // Level-triggered: it must be off before it is deactivated.
        machine.set_deadline(None);
    }
    machine.drop_priority(number);
    let console = system.board().map_or(0, |board| board.facts.console_intid);
    if number == console && console != 0 {
        // Its line stays high until the manager has read: keep it out until then.
        machine.set_spi_enabled(number, false);
        machine.deactivate(number);
        system.events.set_input(true);
        system.wake_manager(machine);
        return Some(None);
    }
    machine.deactivate(number);
    (number == intid::HYP_TIMER).then_some(Some(Deferred::Nothing))
}
