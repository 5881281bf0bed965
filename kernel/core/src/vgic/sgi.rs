//! Sending SGIs: GICv3 by system register, GICv2 by GICD_SGIR.

use core::sync::atomic::Ordering::SeqCst;

use penumbra_abi::MAX_VCPUS_PER_VM;

use super::private::PrivateIrqs;
use super::{VcpuSet, Vgic};

/// The system register by which a GICv3 guest sends an SGI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgiRegister {
    /// ICC_SGI0R_EL1.
    Sgi0,
    /// ICC_SGI1R_EL1.
    Sgi1,
    /// ICC_ASGI1R_EL1.
    AliasedSgi1,
}

/// What has become of an SGI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// Nobody can take it now.
    Nobody,
    /// This vCPU must flush.
    Flush(usize),
    /// It was not sent: it is not for one other vCPU.
    NotYet,
}

impl Vgic {
    /// As [`send_sgi`](Self::send_sgi) by ICC_SGI1R_EL1, if the SGI has one target, which is not the
    /// sender, or none.
    #[inline]
    pub fn send_sgi_to_other(&self, from: usize, value: u64) -> Sent {
        let targets = sgi_targets(from, value) & self.vcpu_mask.load(SeqCst);
        if targets == 0 {
            return Sent::Nobody;
        }
        let vcpu = targets.trailing_zeros() as usize % MAX_VCPUS_PER_VM;
        let only = targets & targets.wrapping_sub(1) == 0;
        let Some(irqs) = self.private.get(vcpu).filter(|_| only && vcpu != from) else {
            return Sent::NotYet;
        };
        if self.make_pending(irqs, sgi_bit(value)) {
            Sent::Flush(vcpu)
        } else {
            Sent::Nobody
        }
    }

    /// Makes an SGI pending; whether it can be delivered.
    #[inline]
    fn make_pending(&self, irqs: &PrivateIrqs, sgi: u32) -> bool {
        irqs.pending.fetch_or(sgi, SeqCst);
        irqs.deliverable(self.groups.load(SeqCst)) & sgi != 0
    }

    /// vCPU `from` of a GICv3 guest wrote `value` to `register`. Returns the vCPUs that must flush,
    /// which may include `from`.
    ///
    /// As under KVM, ICC_SGI1R_EL1 sends SGIs of either group, the others only those that the target
    /// has in group 0 (IHI 0069 H, 12.2.19 "ICC_SGI1R_EL1", with one Security state).
    pub fn send_sgi(&self, from: usize, register: SgiRegister, value: u64) -> VcpuSet {
        let vcpus = self.vcpu_mask.load(SeqCst);
        let targets = sgi_targets(from, value) & vcpus;
        if targets == 0 {
            return VcpuSet::EMPTY;
        }
        let sgi = sgi_bit(value);
        let any_group = matches!(register, SgiRegister::Sgi1);
        let mut flush = VcpuSet::EMPTY;
        for vcpu in VcpuSet::from_bits(targets).iter() {
            let Some(irqs) = self.private.get(vcpu) else {
                continue;
            };
            if !any_group && irqs.group.load(SeqCst) & sgi != 0 {
                continue;
            }
            if self.make_pending(irqs, sgi) {
                flush = flush.union(VcpuSet::single(vcpu));
            }
        }
        flush
    }

    /// vCPU `from` of a GICv2 guest wrote `value` to GICD_SGIR (IHI 0048 B.b, 4.3.15 "Software
    /// Generated Interrupt Register").
    pub(super) fn write_sgir(&self, from: usize, value: u32) -> VcpuSet {
        let me = VcpuSet::single(from).bits();
        let targets = match value >> 24 & 3 {
            0 => value >> 16 & 0xff,
            1 => !me,
            2 => me,
            _ => 0,
        };
        let targets = targets & self.vcpu_mask.load(SeqCst);
        let mut flush = VcpuSet::EMPTY;
        for vcpu in VcpuSet::from_bits(targets).iter() {
            flush = flush.union(self.add_sgi_sources(vcpu, value & 0xf, me));
        }
        flush
    }

    /// Makes `sgi` pending at `vcpu` from `sources` (GICv2).
    pub(super) fn add_sgi_sources(&self, vcpu: usize, sgi: u32, sources: u32) -> VcpuSet {
        let sources = sources & self.vcpu_mask.load(SeqCst);
        let Some(irqs) = self.private.get(vcpu) else {
            return VcpuSet::EMPTY;
        };
        let Ok(index) = usize::try_from(sgi & 0xf) else {
            return VcpuSet::EMPTY;
        };
        if sources == 0 {
            return VcpuSet::EMPTY;
        }
        let sgi = 1u32 << (sgi & 0xf);
        irqs.add_sources(index, sources);
        irqs.pending.fetch_or(sgi, SeqCst);
        if irqs.deliverable(self.groups.load(SeqCst)) & sgi == 0 {
            return VcpuSet::EMPTY;
        }
        VcpuSet::single(vcpu)
    }
}

/// The SGI that a system register's value names.
#[inline]
const fn sgi_bit(value: u64) -> u32 {
    1 << (value >> 24 & 0xf)
}

/// Targets of an SGI system register, as a bitmap of Aff0 values; the caller keeps those that exist.
/// Our vCPUs have Aff1 to Aff3 zero and Aff0 below 16, so only range selector 0 reaches them.
#[inline]
fn sgi_targets(from: usize, value: u64) -> u32 {
    const IRM: u64 = 1 << 40;
    const AFF3: u64 = 0xff << 48;
    const RANGE: u64 = 0xf << 44;
    const AFF2: u64 = 0xff << 32;
    const AFF1: u64 = 0xff << 16;
    if value & IRM != 0 {
        return !VcpuSet::single(from).bits();
    }
    if value & (AFF3 | RANGE | AFF2 | AFF1) != 0 {
        return 0;
    }
    (value & 0xffff) as u32
}
