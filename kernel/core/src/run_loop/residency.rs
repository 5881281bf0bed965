//! Bringing vCPUs in and out of the hardware.

use penumbra_abi::VmState;

use super::{NEVER, Resident, RunLoop};
use crate::machine::{Machine, intid};
use crate::vcpu::{Blocked, Counter, Place, Power, Vcpu, VcpuId};
use crate::vm::Vm;
use crate::{controls, manager, timer};

impl RunLoop {
    /// Brings a vCPU into the hardware; `false` if there is none.
    pub(super) fn make_resident<M: Machine>(
        &mut self,
        id: VcpuId,
        machine: &mut M,
        now: u64,
    ) -> bool {
        if self
            .resident
            .as_ref()
            .is_some_and(|resident| resident.id == id)
        {
            return true;
        }
        self.evict(machine, now);
        // Said before it is asked: whoever destroys the VM takes it out of the running ones first and asks then whose state
        // cores hold. One of the two sees the other.
        self.core.set_resident(id.bit());
        if self.may_run(id) && self.enter_hardware(id, machine, now) {
            return true;
        }
        self.publish_resident();
        false
    }

    /// Brings a vCPU into the hardware, which holds none; `false` if it is off.
    fn enter_hardware<M: Machine>(&mut self, id: VcpuId, machine: &mut M, now: u64) -> bool {
        let (Some(slot), Some(place)) = (self.system.slot(id), self.system.place(id)) else {
            self.core.make_unready(id);
            return false;
        };
        let mut vcpu = slot.lock_inline();
        if let Some((entry, context)) = place.shared.take_request() {
            vcpu.reset(entry, context);
            (vcpu.id, vcpu.place, vcpu.core) = (id, Some(place), Some(self.core));
            // The line of its physical timer falls with the reset, whatever it was when it was turned off.
            let gic = &place.vm.gic;
            let _ = gic.set_ppi_level(id.index(), intid::PHYSICAL_TIMER, false);
            place.vm.paging.forget_vcpu(machine, id.index());
            if id == VcpuId::MANAGER {
                manager::greet(self.system, &mut vcpu, now);
            }
        } else if place.shared.power() != Power::On {
            self.core.make_unready(id);
            if place.shared.power() != Power::Off {
                self.core.make_ready(id);
            }
            return false;
        }
        self.load(id, &mut vcpu, place, machine);
        self.resident = Some(Resident { id, vcpu, place });
        true
    }

    fn load<M: Machine>(
        &mut self,
        id: VcpuId,
        vcpu: &mut Vcpu,
        place: &'static Place,
        machine: &mut M,
    ) {
        self.set_deadline_of(id, NEVER);
        let pins = self.core.pins();
        if vcpu.pins != pins {
            vcpu.pins = pins;
            vcpu.controls = controls::for_vcpu(self.system, self.board, id);
        }
        controls::trap_fp(&mut vcpu.controls, self.fp != Some(id));
        if vcpu.uses_debug && self.debug != Some(id) {
            self.take_debug(id, vcpu, machine);
        }
        controls::trap_debug(&mut vcpu.controls, self.debug != Some(id));
        machine.load_sysregs(&vcpu.sysregs, &vcpu.controls);
        if let Some(last) = self.last.get_mut(id.vm()) {
            if last.is_some_and(|last| last != id) {
                machine.flush_guest_translations();
            }
            *last = Some(id);
        }
        place.vm.gic.load(&mut vcpu.gic, machine);
        place.shared.count(Counter::Switches);
    }

    /// Takes the resident vCPU out of the hardware, FP and debug registers apart. The caller publishes
    /// who is in it now.
    pub(super) fn evict<M: Machine>(&mut self, machine: &mut M, now: u64) {
        let Some(mut resident) = self.resident.take() else {
            return;
        };
        let Resident { id, vcpu, place } = &mut resident;
        place.shared.stop_clock(now);
        let set = place.vm.gic.save(id.index(), &mut vcpu.gic, machine);
        machine.save_sysregs(&mut vcpu.sysregs);
        let sysregs = &vcpu.sysregs;
        let virtual_timer = timer::expiry(sysregs.cntv_ctl_el0, sysregs.cntv_cval_el0);
        let deadline = virtual_timer.unwrap_or(NEVER).min(deadline_off_core(vcpu));
        let id = *id;
        self.set_deadline_of(id, deadline);
        drop(resident);
        self.system
            .wake_set(id.vm(), set.without(id.index()), machine);
    }

    /// Gives up the state of vCPUs whose VM does not run (any more), so that others may have it.
    pub(super) fn release_stopped<M: Machine>(&mut self, machine: &mut M) {
        let system = self.system;
        let stopped = |id: VcpuId| !system.vm(id.vm()).is_some_and(Vm::is_running);
        if let Some(id) = self.fp.filter(|id| stopped(*id)) {
            self.save_fp(id, machine);
        }
        if let Some(id) = self.debug.filter(|id| stopped(*id)) {
            self.save_debug(id, machine);
        }
        let resident = self.resident.as_ref().map(|resident| resident.id);
        if resident.is_some_and(stopped) {
            let now = machine.counter();
            self.evict(machine, now);
        }
        for (last, (_, vm)) in self.last.iter_mut().zip(system.vms()) {
            if !vm.exists() || vm.life().state == VmState::Dying {
                *last = None;
            }
        }
        self.publish_resident();
        manager::revive(self.system, machine);
    }

    /// Who shares the core may have changed, and with it what is trapped.
    pub(super) fn refresh_traps<M: Machine>(&mut self, machine: &mut M) {
        let pins = self.core.pins();
        if let Some(resident) = &mut self.resident
            && resident.vcpu.pins != pins
        {
            resident.vcpu.pins = pins;
            let controls = &mut resident.vcpu.controls;
            let board = (self.system, self.board);
            if controls::refresh(controls, board, resident.id, false) {
                machine.set_controls(controls);
            }
        }
    }

    /// Tells others which vCPU is in the hardware.
    pub(super) fn publish_resident(&self) {
        let resident = self.resident.as_ref();
        let set = resident.map_or(0, |resident| resident.id.bit());
        self.core.set_resident(set);
    }
}

/// When a vCPU that does not run wants to be looked at, its virtual timer apart.
#[inline]
pub(super) fn deadline_off_core(vcpu: &Vcpu) -> u64 {
    let wait = match vcpu.blocked {
        Blocked::Events(deadline) | Blocked::Restart(deadline) => deadline,
        _ => NEVER,
    };
    wait.min(vcpu.physical_timer.expiry().unwrap_or(NEVER))
}
