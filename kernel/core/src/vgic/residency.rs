//! A vCPU that enters or leaves a core.

use core::sync::atomic::Ordering::SeqCst;

use penumbra_abi::GicVersion;

use super::interface::{CpuInterface, MAX_LIST_REGISTERS, write_list_register};
use super::rebuild::{Rebuild, Released};
use super::vcpu_set::Bits;
use super::{Hardware, ListReg, VcpuSet, Vgic};
use crate::machine::intid;

impl Vgic {
    /// Loads the virtual interface of a vCPU that enters this core. It [flushes](Self::flush) before it
    /// runs, after `load_sysregs`: the state of the virtual timer is looked at.
    #[inline]
    pub fn load<M: Hardware + ?Sized>(&self, interface: &mut CpuInterface, machine: &mut M) {
        if interface.all == 0 {
            // All cores have as many.
            let count = machine.list_registers().min(MAX_LIST_REGISTERS);
            interface.all = (1u32 << count).wrapping_sub(1);
        }
        interface.direct = self.version() == GicVersion::V3;
        machine.load_virtual_interface(&interface.frame);
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
        let live = interface.read_list_registers(machine);
        for slot in Bits(live) {
            write_list_register(machine, slot, ListReg::EMPTY);
        }
        // If any is in use, something may also wait in memory for one: SPIs too, if they overflow.
        if live != 0 || overflow {
            irqs.work.store(1, SeqCst);
        }
        let quiet = live == 0 && irqs.work.load(SeqCst) == 0;
        if interface.used != 0 && !(quiet && interface.forget_private(irqs)) {
            let mut spis = self.spis.lock_inline();
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
        if interface.timer_active {
            machine.set_ppi_active(intid::VIRTUAL_TIMER, false);
            interface.timer_active = false;
        }
        flush.without(vcpu)
    }
}
