//! FP and debug registers, which move only when another vCPU uses them.

use super::RunLoop;
use crate::controls;
use crate::machine::Machine;
use crate::vcpu::{Vcpu, VcpuId};

impl RunLoop {
    /// Notes whose FP and debug state is in the hardware, and tells others.
    fn hold(&mut self, fp: Option<VcpuId>, debug: Option<VcpuId>) {
        (self.fp, self.debug) = (fp, debug);
        let [fp, debug] = [fp, debug].map(|id| id.map_or(0, VcpuId::bit));
        self.core.set_lazy(fp | debug);
    }

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
        self.hold(None, self.debug);
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
            let id = resident.id;
            self.hold(Some(id), self.debug);
        }
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
        self.hold(self.fp, None);
    }

    /// Gives the debug registers to `vcpu`, whose slot is locked.
    pub(super) fn take_debug<M: Machine>(&mut self, id: VcpuId, vcpu: &mut Vcpu, machine: &mut M) {
        if let Some(old) = self.debug.filter(|old| *old != id) {
            self.save_debug(old, machine);
        }
        machine.load_debug(&vcpu.debug);
        vcpu.uses_debug = true;
        self.hold(self.fp, Some(id));
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
    }
}
