//! The VM's controller as a whole: creation and the lines that devices drive.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use penumbra_abi::{GicVersion, MAX_VCPUS_PER_VM};
use spin::mutex::SpinMutex;

use super::VcpuSet;
use super::private::PrivateIrqs;
use super::spi::Spis;
use crate::machine::{GuestRegisters, PhysicalInterrupts, VirtualInterface};

/// What the vGIC needs of a core.
pub trait Hardware: VirtualInterface + PhysicalInterrupts + GuestRegisters {}

impl<T: VirtualInterface + PhysicalInterrupts + GuestRegisters + ?Sized> Hardware for T {}

/// The interrupt controller of a VM. vCPU n has affinity 0.0.0.n (GICv3) or CPU interface n (GICv2).
#[derive(Debug)]
pub struct Vgic {
    /// 2 or 3.
    pub(super) version: AtomicU32,
    pub(super) vcpus: AtomicU32,
    /// GICD_CTLR, bits EnableGrp0 and EnableGrp1.
    pub(super) groups: AtomicU32,
    pub(super) private: [PrivateIrqs; MAX_VCPUS_PER_VM],
    pub(super) spis: SpinMutex<Spis>,
}

impl Vgic {
    /// A controller of a VM that does not exist yet. [`configure`](Self::configure) it before use.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "const, and not useful before configure")]
    pub const fn new() -> Self {
        Self {
            version: AtomicU32::new(3),
            vcpus: AtomicU32::new(0),
            groups: AtomicU32::new(0),
            private: [const { PrivateIrqs::new() }; MAX_VCPUS_PER_VM],
            spis: SpinMutex::new(Spis::new()),
        }
    }

    /// Resets everything and makes it a GIC of `version` for `vcpus` vCPUs. No vCPU of the VM may be
    /// resident anywhere.
    pub fn configure(&self, version: GicVersion, vcpus: usize) {
        let _ = (version, vcpus);
    }

    /// The version that the guest sees.
    #[must_use]
    pub fn version(&self) -> GicVersion {
        if self.version.load(SeqCst) == 2 { GicVersion::V2 } else { GicVersion::V3 }
    }

    /// Makes PPI `intid` of `vcpu` pending, as an edge of its line does. For PPI 27 of a vCPU that
    /// is not resident: its virtual timer has expired.
    pub fn raise_ppi(&self, vcpu: usize, intid: u32) -> VcpuSet {
        let _ = (vcpu, intid);
        VcpuSet::EMPTY
    }

    /// Sets the line of level-triggered PPI `intid` of `vcpu`.
    pub fn set_ppi_level(&self, vcpu: usize, intid: u32, high: bool) -> VcpuSet {
        let _ = (vcpu, intid, high);
        VcpuSet::EMPTY
    }

    /// Sets the line of SPI `intid`, driven by an emulated device. An SPI that the guest configured
    /// as edge-triggered becomes pending when its line rises.
    pub fn set_level(&self, intid: u32, high: bool) -> VcpuSet {
        let _ = (intid, high);
        VcpuSet::EMPTY
    }

    /// Whether `vcpu`, which is not resident, has an interrupt that would end its WFI. Its priority
    /// mask is not considered.
    #[must_use]
    pub fn has_deliverable(&self, vcpu: usize) -> bool {
        let _ = vcpu;
        false
    }
}
