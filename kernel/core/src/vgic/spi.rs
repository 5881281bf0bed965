//! SPIs: what the distributor knows of them.

use super::{Hardware, VcpuSet, Vgic};

/// First INTID of an SPI.
pub const FIRST_SPI: u32 = 32;
/// SPIs that a VM's distributor has: INTIDs 32 to 223.
pub const SPI_COUNT: usize = 192;

/// Why an SPI could not be assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SpiError {
    /// The guest's distributor has no such SPI.
    NotAnSpi,
    /// The SPI is linked already.
    Taken,
}

/// State of all SPIs of a VM.
#[derive(Debug)]
pub(super) struct Spis {}

impl Spis {
    /// All at reset.
    pub(super) const fn new() -> Self {
        Self {}
    }
}

impl Vgic {
    /// Links SPI `intid` of the guest to physical interrupt `physical`: the guest's deactivation of
    /// the one deactivates the other. The caller enables and routes the physical interrupt.
    ///
    /// # Errors
    /// [`SpiError`] by its cause; nothing changes then.
    pub fn assign_spi(&self, intid: u32, physical: u32) -> Result<(), SpiError> {
        let _ = (intid, physical);
        Err(SpiError::NotAnSpi)
    }

    /// Unlinks SPI `intid` and deactivates the physical interrupt if the guest had it. No vCPU of the
    /// VM may be resident.
    pub fn unassign_spi<M: Hardware + ?Sized>(&self, intid: u32, machine: &mut M) {
        let _ = (intid, machine);
    }

    /// The physical interrupt linked to SPI `intid` was acknowledged and its priority dropped: the
    /// guest gets it and will deactivate it.
    pub fn inject_spi(&self, intid: u32) -> VcpuSet {
        let _ = intid;
        VcpuSet::EMPTY
    }
}
