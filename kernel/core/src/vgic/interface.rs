//! Moving interrupts between memory and the list registers of the core that runs a vCPU.

use super::{Hardware, VcpuSet, Vgic};
use crate::machine::VirtualInterfaceFrame;

/// What a core knows of the list registers of the vCPU that is resident on it, and of its own
/// unfinished questions to others. Keep it with the vCPU.
#[derive(Debug)]
pub struct CpuInterface {
    /// The interface while the vCPU is not resident.
    frame: VirtualInterfaceFrame,
}

impl CpuInterface {
    /// The interface of a vCPU that is about to be switched on.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "const")]
    pub const fn new() -> Self {
        Self {
            frame: VirtualInterfaceFrame { lr: [0; 16], vmcr: 0, ap0r: [0; 4], ap1r: [0; 4] },
        }
    }
}

impl Vgic {
    /// Puts what became deliverable to `vcpu`, resident on this core, into list registers and serves
    /// what others asked of it. Call it before the vCPU runs guest code when the vCPU was in a
    /// [`VcpuSet`] or its core was kicked. Returns other vCPUs that got something to flush.
    pub fn flush<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        let _ = (vcpu, interface, machine);
        VcpuSet::EMPTY
    }

    /// Answers the maintenance interrupt on the core where `vcpu` is resident.
    pub fn on_maintenance<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        let _ = (vcpu, interface, machine);
        VcpuSet::EMPTY
    }

    /// The physical virtual-timer PPI (27) was acknowledged and its priority dropped on this core,
    /// where `vcpu` is resident: hands it to the guest, which will deactivate it.
    #[inline]
    pub fn inject_vtimer<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) {
        let _ = (vcpu, interface, machine);
    }

    /// Loads the virtual interface of `vcpu`, which enters this core. Call it after
    /// `load_sysregs`: the state of the virtual timer is looked at. Includes a flush.
    pub fn load<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        let _ = vcpu;
        machine.load_virtual_interface(&interface.frame);
        VcpuSet::EMPTY
    }

    /// Takes `vcpu` off this core: everything in its list registers goes to memory, and the physical
    /// virtual-timer PPI is left inactive. Call it before `save_sysregs`.
    pub fn save<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        let _ = vcpu;
        machine.save_virtual_interface(&mut interface.frame);
        VcpuSet::EMPTY
    }

    /// As [`has_deliverable`](Self::has_deliverable), for the vCPU that is resident on this core.
    #[must_use]
    pub fn has_deliverable_here<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &CpuInterface,
        machine: &M,
    ) -> bool {
        let _ = (interface, machine);
        self.has_deliverable(vcpu)
    }
}
