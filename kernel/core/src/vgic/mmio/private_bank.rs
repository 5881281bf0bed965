//! Registers of SGIs and PPIs: in the redistributor, or banked in a GICv2's distributor.

use core::sync::atomic::Ordering::SeqCst;

use penumbra_abi::GicVersion;

use super::{Bank, MmioRead, lane};
use crate::vgic::private::{PrivateIrqs, SGIS, TIMER};
use crate::vgic::vcpu_set::Bits;
use crate::vgic::{CpuInterface, Hardware, ListReg, VcpuSet, Vgic};

impl Vgic {
    /// Reads a bank that is in memory; not pending or active state.
    pub(super) fn read_private_bank(&self, owner: usize, bank: Bank) -> u32 {
        self.private.get(owner).map_or(0, |irqs| match bank {
            Bank::Group => irqs.group.load(SeqCst),
            Bank::SetEnable | Bank::ClearEnable => irqs.enabled.load(SeqCst),
            _ => 0,
        })
    }

    /// Writes a bank of `owner`'s.
    pub(super) fn write_private_bank(&self, owner: usize, bank: Bank, bits: u32) -> VcpuSet {
        let Some(irqs) = self.private.get(owner) else {
            return VcpuSet::EMPTY;
        };
        // The pending state of a GICv2's SGIs is per source, in other registers.
        let sourced = if self.version() == GicVersion::V2 {
            SGIS
        } else {
            0
        };
        let changed = match bank {
            Bank::Group => irqs.group.swap(bits, SeqCst) ^ bits,
            Bank::SetEnable => bits & !irqs.enabled.fetch_or(bits, SeqCst),
            Bank::ClearEnable => bits & irqs.enabled.fetch_and(!bits, SeqCst),
            Bank::SetPending => {
                irqs.pending.fetch_or(bits & !sourced, SeqCst);
                bits & !sourced
            }
            Bank::SetActive => {
                irqs.active.fetch_or(bits, SeqCst);
                bits
            }
            Bank::ClearPending => return self.clear_private_pending(owner, irqs, bits & !sourced),
            Bank::ClearActive => return self.clear_private_active(owner, irqs, bits),
        };
        self.private_changed(owner, irqs, changed)
    }

    fn clear_private_pending(&self, owner: usize, irqs: &PrivateIrqs, bits: u32) -> VcpuSet {
        let mut spis = self.spis.lock();
        irqs.pending.fetch_and(!bits, SeqCst);
        let held = irqs.held.load(SeqCst) & bits;
        // The timer's line is looked at by a rebuild.
        let concerned = held | (irqs.level.load(SeqCst) & bits & TIMER);
        if concerned == 0 {
            return VcpuSet::EMPTY;
        }
        if let Some(dialogue) = spis.dialogue(owner) {
            dialogue.clear_pending |= held;
        }
        self.ask_rebuild(Some(owner))
    }

    fn clear_private_active(&self, owner: usize, irqs: &PrivateIrqs, bits: u32) -> VcpuSet {
        let mut spis = self.spis.lock();
        let cleared = irqs.active.fetch_and(!bits, SeqCst) & bits;
        let held = irqs.held.load(SeqCst) & bits;
        if cleared | held == 0 {
            return VcpuSet::EMPTY;
        }
        if let Some(dialogue) = spis.dialogue(owner) {
            dialogue.clear_active |= held;
        }
        self.ask_rebuild(Some(owner))
    }

    pub(super) fn read_private_priorities(&self, owner: usize, word: usize) -> u32 {
        self.private
            .get(owner)
            .map_or(0, |irqs| irqs.priorities(word))
    }

    /// Writes the bytes of a priority word that `mask` covers.
    pub(super) fn write_private_priorities(
        &self,
        owner: usize,
        word: usize,
        mask: u32,
        value: u32,
    ) -> VcpuSet {
        let Some(irqs) = self.private.get(owner) else {
            return VcpuSet::EMPTY;
        };
        irqs.set_priorities(word, mask, value);
        let touched = 0xfu32.checked_shl((word as u32 & 7) << 2).unwrap_or(0);
        self.private_changed(owner, irqs, touched)
    }

    /// ICFGR: two bits per interrupt, the upper one set for edge-triggered.
    pub(super) fn read_private_config(&self, owner: usize, word: usize) -> u32 {
        let edge = self
            .private
            .get(owner)
            .map_or(0, |irqs| irqs.edge.load(SeqCst));
        spread(edge >> if word == 0 { 0 } else { 16 })
    }

    /// SGIs are always edge-triggered.
    pub(super) fn write_private_config(&self, owner: usize, word: usize, value: u32) -> VcpuSet {
        let Some(irqs) = self.private.get(owner) else {
            return VcpuSet::EMPTY;
        };
        if word != 1 {
            return VcpuSet::EMPTY;
        }
        let edge = SGIS | gather(value) << 16;
        let changed = irqs.edge.swap(edge, SeqCst) ^ edge;
        self.private_changed(owner, irqs, changed)
    }

    /// `GICD_CPENDSGIR<n>` and `GICD_SPENDSGIR<n>`: the sources of each SGI that is pending here.
    pub(super) fn read_sgi_sources<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
        (offset, size): (u64, u32),
    ) -> MmioRead {
        let Some(irqs) = self.private.get(vcpu) else {
            return MmioRead::Value(0);
        };
        let moved = self.fold_own(vcpu, irqs, interface, machine, SGIS);
        if !moved.is_empty() {
            return MmioRead::Retry(moved);
        }
        let held = irqs.held.load(SeqCst);
        let (mask, shift) = lane(offset, size);
        let first = (offset & 0xc) as usize;
        let mut value = 0;
        for byte in 0..4 {
            let sgi = first | byte;
            let slot = interface
                .slots
                .get(sgi)
                .copied()
                .map_or(usize::MAX, usize::from);
            let mut sources = irqs.sources(sgi);
            if held >> sgi & 1 != 0 && slot < machine.list_registers() {
                let entry = ListReg::from_raw(machine.list_register(slot));
                sources |= if entry.is_pending() {
                    1 << entry.source()
                } else {
                    0
                };
            }
            value |= sources << (byte << 3);
        }
        MmioRead::Value(u64::from((value & mask) >> shift))
    }

    /// Writes `GICD_CPENDSGIR<n>` (0xf10) or `GICD_SPENDSGIR<n>` (0xf20); `value` is in its lane.
    pub(super) fn write_sgi_sources(&self, vcpu: usize, offset: u64, value: u32) -> VcpuSet {
        let first = (offset & 0xc) as u32;
        let mut flush = VcpuSet::EMPTY;
        for byte in 0..4 {
            let sources = value >> (byte << 3) & 0xff;
            let sgi = first | byte;
            flush = flush.union(match (sources, offset < 0xf20) {
                (0, _) => VcpuSet::EMPTY,
                (_, true) => self.clear_sgi_sources(vcpu, sgi, sources),
                (_, false) => self.add_sgi_sources(vcpu, sgi, sources),
            });
        }
        flush
    }

    fn clear_sgi_sources(&self, vcpu: usize, sgi: u32, sources: u32) -> VcpuSet {
        let (Some(irqs), Ok(index)) = (self.private.get(vcpu), usize::try_from(sgi)) else {
            return VcpuSet::EMPTY;
        };
        let mut spis = self.spis.lock();
        let bit = 1u32 << (sgi & 15);
        // A sender that adds a source meanwhile sets the pending bit after it.
        irqs.pending.fetch_and(!bit, SeqCst);
        if irqs.remove_sources(index, sources) & !sources != 0 {
            irqs.pending.fetch_or(bit, SeqCst);
        }
        if irqs.held.load(SeqCst) & bit == 0 {
            return VcpuSet::EMPTY;
        }
        let asked = spis
            .dialogue(vcpu)
            .and_then(|asked| asked.clear_sources.get_mut(index));
        if let Some(asked) = asked {
            *asked |= (sources & 0xff) as u8;
        }
        self.ask_rebuild(Some(vcpu))
    }
}

/// Sixteen bits to the upper bits of sixteen pairs.
pub(super) fn spread(bits: u32) -> u32 {
    Bits(bits & 0xffff).fold(0, |word, bit| word | 2 << (bit << 1))
}

/// The upper bits of sixteen pairs.
pub(super) fn gather(word: u32) -> u32 {
    (0..16).fold(0, |bits, bit| bits | (word >> (2 * bit + 1) & 1) << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_pairs_round_trip() {
        for bits in [0, 1, 0x8000, 0xffff, 0xa5a5] {
            assert_eq!(gather(spread(bits)), bits);
        }
        assert_eq!(spread(0xffff), 0xaaaa_aaaa);
        assert_eq!(gather(0x5555_5555), 0);
    }
}
