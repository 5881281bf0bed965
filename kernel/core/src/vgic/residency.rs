//! A vCPU that enters or leaves a core.

use core::sync::atomic::Ordering::SeqCst;

use super::interface::{CpuInterface, MAX_LIST_REGISTERS};
use super::rebuild::{Rebuild, Released};
use super::{Hardware, ListReg, VcpuSet, Vgic};
use crate::machine::intid;

impl Vgic {
    /// Loads the virtual interface of `vcpu`, which enters this core. Call it after
    /// `load_sysregs`: the state of the virtual timer is looked at. Includes a flush.
    pub fn load<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        let count = machine.list_registers().min(MAX_LIST_REGISTERS);
        interface.all = (1u32 << count).wrapping_sub(1);
        machine.load_virtual_interface(&interface.frame);
        self.flush(vcpu, interface, machine)
    }

    /// Takes `vcpu` off this core: everything in its list registers goes to memory, and the physical
    /// virtual-timer PPI is left inactive, as the next vCPU's timer needs it. Call it before
    /// `save_sysregs`. Returns other vCPUs that got something to flush.
    pub fn save<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        let Some(irqs) = self.private.get(vcpu) else {
            return VcpuSet::EMPTY;
        };
        machine.save_virtual_interface(&mut interface.frame);
        let overflow = core::mem::replace(&mut interface.overflow, false);
        interface.underflow = false;
        interface.no_pending = false;
        let mut flush = VcpuSet::EMPTY;
        let mut live = 0;
        let count = machine.list_registers();
        for (slot, entry) in interface.frame.lr.iter().take(count).enumerate() {
            live |= u32::from(!ListReg::from_raw(*entry).is_empty()) << (slot & 31);
        }
        // If any is in use, something may also wait in memory for one: SPIs too, if they overflow.
        if live != 0 || overflow {
            irqs.work.store(1, SeqCst);
        }
        let quiet = live == 0 && irqs.work.load(SeqCst) == 0;
        if interface.used != 0 && !(quiet && interface.forget_private(irqs)) {
            let mut spis = self.spis.lock();
            let mut rebuild = Rebuild {
                vgic: self,
                vcpu,
                irqs,
                spis: &mut spis,
                interface: &mut *interface,
            };
            let mut released = Released::NONE;
            rebuild.fold(live, &mut released, machine);
            flush = released.notify(self, &spis);
        }
        interface.frame.lr = [0; MAX_LIST_REGISTERS];
        if interface.timer_active {
            machine.set_ppi_active(intid::VIRTUAL_TIMER, false);
            interface.timer_active = false;
        }
        flush.without(vcpu)
    }
}
