//! The guest's accesses to the distributor's and redistributors' registers.

use super::{CpuInterface, Hardware, VcpuSet, Vgic};

/// The frame that an access hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The distributor, 64 KiB (GICv3) or 4 KiB (GICv2).
    Distributor,
    /// All redistributors, one after the other, 128 KiB per vCPU. GICv3 only.
    Redistributors,
}

/// The answer to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum MmioRead {
    /// The value, zero-extended.
    Value(u64),
    /// Other cores must be asked first: notify these vCPUs as for a flush, do not skip the
    /// instruction, and resume the guest.
    Retry(VcpuSet),
}

impl Vgic {
    /// vCPU `vcpu`, resident on this core, reads `size` bytes (1, 2, 4 or 8) at `offset` of `frame`.
    /// What the architecture does not define there reads zero.
    pub fn mmio_read<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
        (frame, offset, size): (Frame, u64, u32),
    ) -> MmioRead {
        let _ = (vcpu, interface, machine, frame, offset, size);
        MmioRead::Value(0)
    }

    /// vCPU `vcpu` writes. What the architecture does not define there is ignored. Returns the vCPUs
    /// that must flush, which may include `vcpu`.
    pub fn mmio_write(
        &self,
        vcpu: usize,
        (frame, offset, size): (Frame, u64, u32),
        value: u64,
    ) -> VcpuSet {
        let _ = (vcpu, frame, offset, size, value);
        VcpuSet::EMPTY
    }
}
