//! The VM's controller as a whole: creation, lines that devices drive, and who must hear of a change.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use penumbra_abi::{GicVersion, MAX_VCPUS_PER_VM};

use super::VcpuSet;
use super::private::{PrivateIrqs, SGIS, TIMER};
use super::spi::{Spi, Spis};
use super::vcpu_set::Bits;
use crate::lock::Mutex;
use crate::machine::{GuestRegisters, PhysicalInterrupts, VirtualInterface};

/// What the vGIC needs of a core.
pub trait Hardware: VirtualInterface + PhysicalInterrupts + GuestRegisters {}

impl<T: VirtualInterface + PhysicalInterrupts + GuestRegisters + ?Sized> Hardware for T {}

/// The interrupt controller of a VM. vCPU n has affinity 0.0.0.n (GICv3) or CPU interface n (GICv2).
#[derive(Debug)]
// In this order: what an exit looks at is within reach of one instruction.
#[repr(C)]
pub struct Vgic {
    /// 2 or 3; 0 before `configure`.
    version: AtomicU32,
    /// Bit n: vCPU n exists.
    pub(super) vcpu_mask: AtomicU32,
    /// GICD_CTLR, bits EnableGrp0 and EnableGrp1.
    pub(super) groups: AtomicU32,
    pub(super) private: [PrivateIrqs; MAX_VCPUS_PER_VM],
    pub(super) spis: Mutex<Spis>,
}

impl Vgic {
    /// A controller of a VM that does not exist yet. [`configure`](Self::configure) it before use.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "const, and not useful before configure"
    )]
    pub const fn new() -> Self {
        Self {
            // Zero as everything here: the system's static then takes no room in the image.
            version: AtomicU32::new(0),
            vcpu_mask: AtomicU32::new(0),
            groups: AtomicU32::new(0),
            private: [const { PrivateIrqs::new() }; MAX_VCPUS_PER_VM],
            spis: Mutex::new(Spis::vacant()),
        }
    }

    /// Resets everything and makes it a GIC of `version` for `vcpus` vCPUs. No vCPU of the VM may be
    /// resident anywhere, and each gets a new [`CpuInterface`](super::CpuInterface).
    pub fn configure(&self, version: GicVersion, vcpus: usize) {
        let vcpus = vcpus.min(MAX_VCPUS_PER_VM);
        let number = if version == GicVersion::V2 { 2 } else { 3 };
        self.version.store(number, SeqCst);
        let mask = (0..vcpus).fold(0, |mask, vcpu| mask | VcpuSet::single(vcpu).bits());
        self.vcpu_mask.store(mask, SeqCst);
        self.groups.store(0, SeqCst);
        for irqs in &self.private {
            irqs.reset(version);
        }
        self.spis.lock().reset(version, vcpus);
    }

    /// The version that the guest sees.
    #[must_use]
    pub fn version(&self) -> GicVersion {
        if self.version.load(SeqCst) == 2 {
            GicVersion::V2
        } else {
            GicVersion::V3
        }
    }

    /// Makes PPI `intid` of `vcpu` pending, as an edge of its line does. For PPI 27 of a vCPU that
    /// is not resident: its virtual timer has expired.
    pub fn raise_ppi(&self, vcpu: usize, intid: u32) -> VcpuSet {
        let Some((irqs, bit)) = self.ppi(vcpu, intid) else {
            return VcpuSet::EMPTY;
        };
        if bit == TIMER {
            irqs.level.fetch_or(bit, SeqCst);
        } else {
            irqs.pending.fetch_or(bit, SeqCst);
        }
        self.private_changed(vcpu, irqs, bit)
    }

    /// Sets the line of level-triggered PPI `intid` of `vcpu`. A PPI that the guest configured as
    /// edge-triggered becomes pending when its line rises.
    pub fn set_ppi_level(&self, vcpu: usize, intid: u32, high: bool) -> VcpuSet {
        let Some((irqs, bit)) = self.ppi(vcpu, intid) else {
            return VcpuSet::EMPTY;
        };
        if high {
            let rose = irqs.level.fetch_or(bit, SeqCst) & bit == 0;
            if rose && irqs.edge.load(SeqCst) & bit != 0 {
                irqs.pending.fetch_or(bit, SeqCst);
            }
        } else {
            irqs.level.fetch_and(!bit, SeqCst);
        }
        self.private_changed(vcpu, irqs, bit)
    }

    /// Sets the line of SPI `intid`, driven by an emulated device. An SPI that the guest configured
    /// as edge-triggered becomes pending when its line rises.
    pub fn set_level(&self, intid: u32, high: bool) -> VcpuSet {
        let Some(spi) = Spi::from_intid(intid) else {
            return VcpuSet::EMPTY;
        };
        let mut spis = self.spis.lock();
        if spis.level.put(spi, high) == high {
            return VcpuSet::EMPTY;
        }
        if high {
            spis.mark_busy(spi.position().0);
        }
        if high && spis.edge.has(spi) {
            spis.pending.put(spi, true);
        }
        self.spi_changed(&spis, spi)
    }

    /// Whether `vcpu`, which is not resident, has an interrupt that would end its WFI. Its priority
    /// mask is not considered.
    #[must_use]
    pub fn has_deliverable(&self, vcpu: usize) -> bool {
        let Some(irqs) = self.private.get(vcpu) else {
            return false;
        };
        let groups = self.groups.load(SeqCst);
        let raised = irqs.pending.load(SeqCst) | irqs.high();
        if raised & irqs.deliverable(groups) & !irqs.active.load(SeqCst) != 0 {
            return true;
        }
        let spis = self.spis.lock();
        let mut busy = spis.busy();
        busy.any(|word| spis.candidates(word, groups) & spis.routed_to(vcpu, word) != 0)
    }

    /// The PPI `intid` of `vcpu` as its word and bit.
    fn ppi(&self, vcpu: usize, intid: u32) -> Option<(&PrivateIrqs, u32)> {
        let bit = 1u32.checked_shl(intid)?;
        if bit & SGIS != 0 {
            return None;
        }
        Some((self.private.get(vcpu)?, bit))
    }

    /// Interrupts `bits` of `vcpu` changed in memory: whether it must flush.
    pub(super) fn private_changed(&self, vcpu: usize, irqs: &PrivateIrqs, bits: u32) -> VcpuSet {
        let raised = irqs.pending.load(SeqCst) | irqs.high();
        let candidates = raised & irqs.deliverable(self.groups.load(SeqCst));
        if (candidates | irqs.active.load(SeqCst) | irqs.held.load(SeqCst)) & bits == 0 {
            return VcpuSet::EMPTY;
        }
        irqs.ask_rebuild();
        VcpuSet::single(vcpu)
    }

    /// `spi` changed: who must flush.
    pub(super) fn spi_changed(&self, spis: &Spis, spi: Spi) -> VcpuSet {
        let (word, bit) = spi.position();
        self.spis_changed(spis, word, bit)
    }

    /// SPIs `bits` of `word` changed: who must flush. That is the owner of one that is held or
    /// active, and the target of one that can be delivered.
    #[inline(never)]
    pub(super) fn spis_changed(&self, spis: &Spis, word: usize, bits: u32) -> VcpuSet {
        let owned = spis.held.word(word) | spis.active.word(word);
        let concerned = owned | spis.candidates(word, self.groups.load(SeqCst));
        let mut flush = VcpuSet::EMPTY;
        for bit in Bits(concerned & bits) {
            let spi = Spi::at(word, bit);
            let vcpu = if owned & 1 << bit != 0 {
                spis.owner(spi)
            } else {
                spis.target(spi)
            };
            flush = flush.union(self.ask_rebuild(vcpu));
        }
        flush
    }

    /// Makes `vcpu` rebuild at its next flush.
    pub(super) fn ask_rebuild(&self, vcpu: Option<usize>) -> VcpuSet {
        let Some(irqs) = vcpu.and_then(|vcpu| self.private.get(vcpu)) else {
            return VcpuSet::EMPTY;
        };
        irqs.ask_rebuild();
        vcpu.map_or(VcpuSet::EMPTY, VcpuSet::single)
    }
}
