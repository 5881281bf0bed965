//! FP and debug registers, which move only when another vCPU uses them.

use super::RunLoop;
use crate::controls;
use crate::machine::Machine;
use crate::vcpu::{Vcpu, VcpuId};

impl RunLoop {
    /// Saves the FP state in the hardware, which is that of `id`.
    pub(super) fn save_fp<M: Machine>(&mut self, id: VcpuId, machine: &mut M) {
        match &mut self.resident {
            Some(resident) if resident.id == id => {
                machine.save_fp(&mut resident.vcpu.fp);
                controls::trap_fp(&mut resident.vcpu.controls, true);
                machine.set_controls(&resident.vcpu.controls);
            }
            _ => {
                if let Some(slot) = self.system.slot(id) {
                    machine.save_fp(&mut slot.lock().fp);
                }
            }
        }
        self.fp = None;
    }

    /// The resident vCPU uses FP registers that are not its own.
    pub(super) fn switch_fp<M: Machine>(&mut self, machine: &mut M) {
        if let Some(old) = self.fp {
            self.save_fp(old, machine);
        }
        if let Some(resident) = &mut self.resident {
            machine.load_fp(&resident.vcpu.fp);
            controls::trap_fp(&mut resident.vcpu.controls, false);
            machine.set_controls(&resident.vcpu.controls);
            self.fp = Some(resident.id);
        }
        self.publish_holds();
    }

    /// Saves the debug state in the hardware, which is that of `id`.
    pub(super) fn save_debug<M: Machine>(&mut self, id: VcpuId, machine: &mut M) {
        match &mut self.resident {
            Some(resident) if resident.id == id => {
                machine.save_debug(&mut resident.vcpu.debug);
                controls::trap_debug(&mut resident.vcpu.controls, true);
                machine.set_controls(&resident.vcpu.controls);
            }
            _ => {
                if let Some(slot) = self.system.slot(id) {
                    machine.save_debug(&mut slot.lock().debug);
                }
            }
        }
        self.debug = None;
    }

    /// Gives the debug registers to `vcpu`, whose slot is locked.
    pub(super) fn take_debug<M: Machine>(&mut self, id: VcpuId, vcpu: &mut Vcpu, machine: &mut M) {
        if let Some(old) = self.debug.filter(|old| *old != id) {
            self.save_debug(old, machine);
        }
        machine.load_debug(&vcpu.debug);
        vcpu.uses_debug = true;
        self.debug = Some(id);
    }

    /// The resident vCPU uses debug registers that are not its own.
    pub(super) fn switch_debug<M: Machine>(&mut self, machine: &mut M) {
        let Some(mut resident) = self.resident.take() else {
            return;
        };
        self.take_debug(resident.id, &mut resident.vcpu, machine);
        controls::trap_debug(&mut resident.vcpu.controls, false);
        machine.set_controls(&resident.vcpu.controls);
        self.resident = Some(resident);
        self.publish_holds();
    }
}
