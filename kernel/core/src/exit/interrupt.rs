//! Physical interrupts.

use super::first::{Next, done};
use super::{Flow, notify};
use crate::machine::{Machine, intid};
use crate::system::System;
use crate::vcpu::{Counter, Deferred, Place, Vcpu};
use crate::vgic::VcpuSet;

/// INTIDs from here on say that there is no interrupt (IHI 0069 H, 2.2 "INTIDs").
const SPECIAL: u32 = 1020;

/// The virtual timer of a running guest was acknowledged.
// Without a call but the last, here and in `kick`, so that no register needs saving.
#[inline(never)]
pub(super) fn virtual_timer(
    vcpu: &mut Vcpu,
    machine: &mut impl Machine,
    place: &'static Place,
) -> Next {
    let me = vcpu.id.index();
    machine.drop_priority(intid::VIRTUAL_TIMER);
    place.shared.count(Counter::Interrupts);
    let gic = &place.vm.gic;
    if gic.inject_vtimer_shortly(me, &mut vcpu.gic, machine) {
        done(vcpu)
    } else {
        virtual_timer_otherwise(vcpu, machine, place)
    }
}

#[cold]
#[inline(never)]
fn virtual_timer_otherwise(
    vcpu: &mut Vcpu,
    machine: &mut impl Machine,
    place: &'static Place,
) -> Next {
    let me = vcpu.id.index();
    let set = place.vm.gic.inject_vtimer(me, &mut vcpu.gic, machine);
    notify(vcpu, place, machine, set.without(me));
    done(vcpu)
}

/// The kick was acknowledged by which another core tells this one that there is something to see.
#[inline(never)]
pub(super) fn kick(vcpu: &mut Vcpu, machine: &mut impl Machine, place: &'static Place) -> Next {
    let me = vcpu.id.index();
    machine.end(intid::KICK);
    place.shared.count(Counter::Interrupts);
    if place.vm.gic.flush_shortly(me, &mut vcpu.gic, machine) {
        done(vcpu)
    } else {
        kick_otherwise(vcpu, machine, place)
    }
}

#[cold]
#[inline(never)]
fn kick_otherwise(vcpu: &mut Vcpu, machine: &mut impl Machine, place: &'static Place) -> Next {
    let me = vcpu.id.index();
    let set = place.vm.gic.flush(me, &mut vcpu.gic, machine);
    notify(vcpu, place, machine, set.without(me));
    done(vcpu)
}

/// An interrupt is pending while the vCPU is resident, whether it runs or not.
pub(crate) fn taken(vcpu: &mut Vcpu, place: &'static Place, machine: &mut impl Machine) -> Flow {
    let number = machine.acknowledge();
    match number {
        intid::VIRTUAL_TIMER => {
            // Whether the core is wanted elsewhere, the run loop looks.
            let _ = virtual_timer(vcpu, machine, place);
        }
        intid::KICK => {
            let _ = kick(vcpu, machine, place);
        }
        intid::HYP_TIMER => {
            deadline(machine);
            return Some(Deferred::Deadline);
        }
        _ => return acknowledged(vcpu, place, machine, number),
    }
    None
}

/// EL2's own timer was acknowledged. It is level-triggered, so it must be off before it ends.
#[inline]
pub(super) fn deadline(machine: &mut impl Machine) {
    machine.set_deadline(None);
    machine.end(intid::HYP_TIMER);
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
    if common(place.system, machine, number) {
        return None;
    }
    if number == intid::MAINTENANCE {
        let me = vcpu.id.index();
        let set = place.vm.gic.on_maintenance(me, &mut vcpu.gic, machine);
        notify(vcpu, place, machine, set.without(me));
    }
    None
}

/// An interrupt is pending while no vCPU is resident.
pub(crate) fn taken_idle(system: &System, machine: &mut impl Machine) -> Flow {
    let number = machine.acknowledge();
    if number == intid::HYP_TIMER {
        deadline(machine);
        return Some(Deferred::Deadline);
    }
    if number >= SPECIAL {
        return None;
    }
    match system.passthrough.owner_of_spi(number) {
        Some(owner) => {
            let _awake = passed_on(system, machine, number, owner);
        }
        None => {
            common(system, machine, number);
        }
    }
    None
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

/// Ends the interrupt and does what concerns no vCPU. Returns whether that was all.
fn common(system: &System, machine: &mut impl Machine, number: u32) -> bool {
    machine.drop_priority(number);
    let console = system.board().map_or(0, |board| board.facts.console_intid);
    if number == console && console != 0 {
        // Its line stays high until the manager has read: keep it out until then.
        machine.set_spi_enabled(number, false);
        machine.deactivate(number);
        system.events.set_input(true);
        system.wake_manager(machine);
        return true;
    }
    machine.deactivate(number);
    false
}
