//! SPIs of the guest that are physical SPIs of the board.
//!
//! A physical interrupt that was acknowledged and not deactivated stays active, so it cannot fire
//! again until the guest deactivates the virtual one, which the list register links to it. That is
//! also what makes one delivery of a level-triggered line a latch: while the device holds its line,
//! the physical interrupt fires again after the deactivation.

use super::spi::Spi;
use super::{VcpuSet, Vgic};

/// Why an SPI could not be assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum SpiError {
    /// The guest's distributor has no such SPI.
    NotAnSpi,
    /// The physical INTID is none of an SPI.
    NotPhysical,
    /// The guest's SPI is linked already.
    Taken,
}

impl Vgic {
    /// Links SPI `intid` of the guest to physical interrupt `physical`: the guest's deactivation of
    /// the one deactivates the other. The caller enables and routes the physical interrupt.
    ///
    /// # Errors
    /// [`SpiError`] by its cause; nothing changes then.
    pub fn assign_spi(&self, intid: u32, physical: u32) -> Result<(), SpiError> {
        let spi = Spi::from_intid(intid).ok_or(SpiError::NotAnSpi)?;
        if !(32..1020).contains(&physical) {
            return Err(SpiError::NotPhysical);
        }
        let physical = u16::try_from(physical).map_err(|_| SpiError::NotPhysical)?;
        let mut spis = self.spis.lock();
        if spis.linked.has(spi) || spis.held.has(spi) {
            return Err(SpiError::Taken);
        }
        spis.set_physical(spi, Some(physical));
        Ok(())
    }

    /// Whether SPI `intid` is linked to a physical interrupt.
    #[must_use]
    pub fn is_assigned(&self, intid: u32) -> bool {
        Spi::from_intid(intid).is_some_and(|spi| self.spis.lock().linked.has(spi))
    }

    /// The physical interrupt linked to SPI `intid` was acknowledged and its priority dropped: the
    /// guest gets it and will deactivate it. Returns who must flush.
    pub fn inject_spi(&self, intid: u32) -> VcpuSet {
        let Some(spi) = Spi::from_intid(intid) else {
            return VcpuSet::EMPTY;
        };
        let mut spis = self.spis.lock();
        if !spis.linked.has(spi) {
            return VcpuSet::EMPTY;
        }
        spis.pending.put(spi, true);
        spis.mark_busy(spi.position().0);
        self.spi_changed(&spis, spi)
    }
}
