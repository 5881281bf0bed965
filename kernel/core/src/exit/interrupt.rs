//! Physical interrupts.

use super::{Flow, notify};
use crate::machine::{Machine, intid};
use crate::system::System;
use crate::vcpu::{Counter, Deferred, Place, Vcpu};

/// INTIDs from here on say that there is no interrupt (IHI 0069 H, 2.2 "INTIDs").
const SPECIAL: u32 = 1020;

/// An interrupt is pending while the vCPU is resident, whether it runs or not.
#[inline]
pub(crate) fn taken(vcpu: &mut Vcpu, place: Place, machine: &mut impl Machine) -> Flow {
    let number = machine.acknowledge();
    if number == intid::VIRTUAL_TIMER {
        machine.drop_priority(number);
        place.shared.count(Counter::Interrupts);
        let me = vcpu.id.index();
        let set = place.vm.gic.inject_vtimer(me, &mut vcpu.gic, machine);
        notify(vcpu, place, machine, set.without(me));
        return None;
    }
    if number >= SPECIAL {
        return None;
    }
    place.shared.count(Counter::Interrupts);
    if let Some(flow) = common(place.system, machine, number) {
        return flow;
    }
    let me = vcpu.id.index();
    match number {
        intid::KICK => {
            let set = place.vm.gic.flush(me, &mut vcpu.gic, machine);
            notify(vcpu, place, machine, set.without(me));
        }
        intid::MAINTENANCE => {
            let set = place.vm.gic.on_maintenance(me, &mut vcpu.gic, machine);
            notify(vcpu, place, machine, set.without(me));
        }
        _ => {}
    }
    None
}

/// An interrupt is pending while no vCPU is resident.
pub(crate) fn taken_idle(system: &System, machine: &mut impl Machine) {
    let number = machine.acknowledge();
    if number < SPECIAL {
        common(system, machine, number);
    }
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
