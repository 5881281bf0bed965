//! The board's interrupt controller, GICv2 or GICv3, chosen at run time.
//!
//! [`Gic`] is the board's controller, the same for all cores; [`GicCore`] is one core's view of it:
//! the physical CPU interface and the virtual interface of the resident vCPU. Priority drop and
//! deactivation are apart (EOImode = 1), so that an interrupt handed on by a list register stays
//! active until the guest deactivates it. Interrupts are in the group that signals IRQ to EL2.

mod v2;
mod v3;

use penumbra_abi::GicVersion;
use penumbra_core::machine::{VirtualInterfaceFrame, intid};

use crate::mmio::Mmio;

pub use v2::GicV2;
pub use v3::{GicV3, RedistributorRegion};

/// PPIs and the SGI that EL2 takes on every core.
const OWN_PRIVATE: u32 =
    1 << intid::KICK | 1 << intid::MAINTENANCE | 1 << intid::HYP_TIMER | 1 << intid::VIRTUAL_TIMER;
/// One priority for everything: EL2 takes interrupts one at a time.
const PRIORITY: u32 = 0xa0a0_a0a0;
/// First shared interrupt.
const FIRST_SPI: u32 = 32;

/// Registers of the distributor that GICv2 and GICv3 share (IHI 0048 B.b, "Distributor register
/// map"; IHI 0069 H, "The GIC Distributor register map").
mod gicd {
    pub(super) const CTLR: usize = 0x0;
    pub(super) const TYPER: usize = 0x4;
    pub(super) const IGROUPR: usize = 0x80;
    pub(super) const ISENABLER: usize = 0x100;
    pub(super) const ICENABLER: usize = 0x180;
    pub(super) const ICPENDR: usize = 0x280;
    pub(super) const ISACTIVER: usize = 0x300;
    pub(super) const ICACTIVER: usize = 0x380;
    pub(super) const IPRIORITYR: usize = 0x400;
    pub(super) const ITARGETSR: usize = 0x800;
    pub(super) const ICFGR: usize = 0xc00;
    pub(super) const SGIR: usize = 0xf00;
    pub(super) const IROUTER: usize = 0x6000;
}

/// The board's interrupt controller.
#[derive(Clone, Copy, Debug)]
pub enum Gic {
    /// GICv2 with virtualization extensions (GIC-400).
    V2(GicV2),
    /// GICv3 or later, with system registers.
    V3(GicV3),
}

/// Why the interrupt controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum GicError {
    /// No redistributor belongs to this core.
    NoRedistributor,
    /// The redistributor does not wake.
    Asleep,
    /// The CPU interface has no system registers.
    NoSystemRegisters,
    /// Interrupts that EL2 enables do not become enabled: they are Secure, because firmware has not set
    /// the controller up, or there is no controller.
    NotOurs,
}

/// One core's side of the interrupt controller.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GicCore {
    V2(v2::Core),
    V3(v3::Core),
}

impl Gic {
    /// Version as guests will see it.
    #[must_use]
    pub const fn version(&self) -> GicVersion {
        match self {
            Self::V2(_) => GicVersion::V2,
            Self::V3(_) => GicVersion::V3,
        }
    }

    /// Sets up the distributor: every shared interrupt off, in the right group, at one priority.
    pub(crate) fn start(&self) {
        match self {
            Self::V2(gic) => gic.start(),
            Self::V3(gic) => gic.start(),
        }
    }

    /// Sets up this core's interfaces and enables EL2's own interrupts.
    pub(crate) fn start_core(&self, mpidr: u64) -> Result<GicCore, GicError> {
        match self {
            Self::V2(gic) => gic.start_core().map(GicCore::V2),
            Self::V3(gic) => gic.start_core(mpidr).map(GicCore::V3),
        }
    }

    const fn distributor(&self) -> Mmio {
        match self {
            Self::V2(gic) => gic.distributor,
            Self::V3(gic) => gic.distributor,
        }
    }

    /// Disables a shared interrupt and makes it neither pending nor active; a write that takes time
    /// is waited for.
    pub(crate) fn stop_spi(&self, intid: u32) {
        if !(FIRST_SPI..1020).contains(&intid) {
            return;
        }
        let offset = 4 * (intid / 32) as usize;
        let bit = 1 << (intid % 32);
        let distributor = self.distributor();
        distributor.write32(gicd::ICENABLER + offset, bit);
        if let Self::V3(gic) = self {
            gic.wait();
        }
        distributor.write32(gicd::ICPENDR + offset, bit);
        distributor.write32(gicd::ICACTIVER + offset, bit);
    }

    /// Sets how a shared interrupt that is disabled is triggered.
    pub(crate) fn set_spi_edge(&self, intid: u32, edge: bool) {
        if !(FIRST_SPI..1020).contains(&intid) {
            return;
        }
        // Two bits each; the upper one chooses (IHI 0069 H, "GICD_ICFGR<n>").
        let offset = gicd::ICFGR + 4 * (intid / 16) as usize;
        let bit = 2 << (2 * (intid % 16));
        let distributor = self.distributor();
        let others = distributor.read32(offset) & !bit;
        distributor.write32(offset, others | if edge { bit } else { 0 });
    }

    /// Enables or disables a shared interrupt and routes it to a core.
    pub(crate) fn set_spi_enabled(&self, intid: u32, mpidr: u64, mask: u8, enabled: bool) {
        let distributor = self.distributor();
        if !(FIRST_SPI..1020).contains(&intid) {
            return;
        }
        let offset = 4 * (intid / 32) as usize;
        let bit = 1 << (intid % 32);
        if !enabled {
            distributor.write32(gicd::ICENABLER + offset, bit);
            return;
        }
        match self {
            Self::V2(_) => distributor.write8(gicd::ITARGETSR + intid as usize, mask),
            Self::V3(_) => {
                distributor.write64(gicd::IROUTER + 8 * intid as usize, mpidr & 0xff_00ff_ffff);
            }
        }
        distributor.write32(gicd::ISENABLER + offset, bit);
    }
}

/// Lines of registers of 32 interrupts that a distributor has, from GICD_TYPER.
fn lines(distributor: Mmio) -> usize {
    (distributor.read32(gicd::TYPER) & 0x1f) as usize + 1
}

/// Disables every shared interrupt, and sets its group and priority.
fn reset_shared(distributor: Mmio, group: u32) {
    for line in 1..lines(distributor) {
        distributor.write32(gicd::ICENABLER + 4 * line, u32::MAX);
        distributor.write32(gicd::ICPENDR + 4 * line, u32::MAX);
        distributor.write32(gicd::ICACTIVER + 4 * line, u32::MAX);
        distributor.write32(gicd::IGROUPR + 4 * line, group);
        for word in 0..8 {
            distributor.write32(gicd::IPRIORITYR + 32 * line + 4 * word, PRIORITY);
        }
    }
}

/// Sets up the private interrupts: the distributor's first registers on GICv2, the
/// redistributor's SGI frame on GICv3.
fn reset_private(frame: Mmio, group: u32) {
    frame.write32(gicd::ICENABLER, u32::MAX);
    frame.write32(gicd::ICPENDR, u32::MAX);
    frame.write32(gicd::ICACTIVER, u32::MAX);
    frame.write32(gicd::IGROUPR, group);
    for word in 0..8 {
        frame.write32(gicd::IPRIORITYR + 4 * word, PRIORITY);
    }
    frame.write32(gicd::ISENABLER, OWN_PRIVATE);
}

macro_rules! forward {
    ($($(#[$doc:meta])* fn $name:ident(&self $(, $arg:ident: $type:ty)*) $(-> $out:ty)?;)*) => {
        impl GicCore {
            $($(#[$doc])*
            #[inline(always)]
            pub(crate) fn $name(&self $(, $arg: $type)*) $(-> $out)? {
                match self {
                    Self::V2(core) => core.$name($($arg),*),
                    Self::V3(core) => core.$name($($arg),*),
                }
            })*
        }
    };
}

forward! {
    /// Takes the highest pending interrupt; 1020 to 1023 if there is none.
    fn acknowledge(&self) -> u32;
    /// Drops the running priority.
    fn drop_priority(&self, intid: u32);
    /// Deactivates an interrupt.
    fn deactivate(&self, intid: u32);
    /// Drops the running priority and deactivates an interrupt.
    fn end(&self, intid: u32);
    /// Sets or clears the active state of a PPI of this core.
    fn set_ppi_active(&self, intid: u32, active: bool);
    /// Sends EL2's SGI to a core, by the value that the core gave for it.
    fn kick(&self, value: u64);
    /// The value by which others kick this core.
    fn own_kick_value(&self, mpidr: u64) -> u64;
    /// Number of list registers.
    fn list_registers(&self) -> usize;
    /// Reads a list register in the format of ICH_LR.
    fn list_register(&self, n: usize) -> u64;
    /// Writes a list register in the format of ICH_LR.
    fn set_list_register(&self, n: usize, value: u64);
    /// ICH_ELRSR_EL2.
    fn empty_list_registers(&self) -> u32;
    /// ICH_EISR_EL2.
    fn eoi_list_registers(&self) -> u32;
    /// Sets or clears the underflow interrupt enable.
    fn set_underflow_interrupt(&self, on: bool);
    /// Sets or clears the interrupt enable for "none is pending".
    fn set_no_pending_interrupt(&self, on: bool);
    /// Saves the virtual interface, list registers apart, and switches it off.
    fn save(&self, frame: &mut VirtualInterfaceFrame);
    /// Loads the virtual interface and switches it on.
    fn load(&self, frame: &VirtualInterfaceFrame);
}

/// How each version of the GIC names a core.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Target {
    /// MPIDR affinity fields.
    pub(crate) mpidr: u64,
    /// GICv2 CPU interface, as a mask.
    pub(crate) mask: u8,
}
