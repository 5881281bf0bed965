//! Registers of SPIs, in the distributor. Word numbers count from INTID 32, except for those of
//! priorities, targets and configuration, which come as the offset has them: from INTID 0.

use core::sync::atomic::Ordering::SeqCst;

use super::Bank;
use super::private_bank::{gather, spread};
use crate::vgic::private::PRIORITY_MASK;
use crate::vgic::spi::{SPI_COUNT, SPI_WORDS, Spi, Spis};
use crate::vgic::vcpu_set::Bits;
use crate::vgic::{VcpuSet, Vgic};

/// The four SPIs of byte-per-interrupt word `word`.
fn quad(word: usize) -> Option<[Spi; 4]> {
    let first = word.checked_sub(8)?.checked_mul(4)?;
    if first >= SPI_COUNT {
        return None;
    }
    Some([0, 1, 2, 3].map(|byte| Spi::at(first >> 5, (first & 31) + byte)))
}

impl Vgic {
    /// Reads a bank that is in memory; not pending or active state.
    pub(super) fn read_spi_bank(&self, bank: Bank, word: usize) -> u32 {
        let spis = self.spis.lock();
        match bank {
            Bank::Group => spis.group.word(word),
            Bank::SetEnable | Bank::ClearEnable => spis.enabled.word(word),
            _ => 0,
        }
    }

    /// vCPU `vcpu` writes a bank.
    #[inline]
    pub(super) fn write_spi_bank(
        &self,
        vcpu: usize,
        bank: Bank,
        word: usize,
        bits: u32,
    ) -> VcpuSet {
        if word >= SPI_WORDS || (bits == 0 && bank != Bank::Group) {
            return VcpuSet::EMPTY;
        }
        let mut spis = self.spis.lock();
        spis.mark_busy(word);
        let changed = match bank {
            Bank::Group => {
                let changed = spis.group.word(word) ^ bits;
                spis.group.clear(word, !bits);
                spis.group.set(word, bits);
                changed
            }
            Bank::SetEnable => {
                let changed = bits & !spis.enabled.word(word);
                spis.enabled.set(word, bits);
                changed
            }
            Bank::ClearEnable => spis.enabled.clear(word, bits),
            Bank::SetPending => {
                spis.pending.set(word, bits);
                bits
            }
            Bank::SetActive => {
                set_active(&mut spis, vcpu, word, bits);
                bits
            }
            Bank::ClearPending => return self.clear_spi_pending(&mut spis, vcpu, word, bits),
            Bank::ClearActive => return self.clear_spi_active(&mut spis, vcpu, word, bits),
        };
        self.spis_changed(&spis, word, changed)
    }

    fn clear_spi_pending(&self, spis: &mut Spis, vcpu: usize, word: usize, bits: u32) -> VcpuSet {
        let cleared = spis.pending.clear(word, bits);
        let held = spis.held.word(word) & bits;
        spis.clear_pending.set(word, held);
        // A linked interrupt that will not be delivered must be able to fire again.
        let release = cleared & spis.linked.word(word) & !spis.active.word(word) & !held;
        spis.release.set(word, release);
        let me = if release == 0 {
            VcpuSet::EMPTY
        } else {
            self.ask_rebuild(Some(vcpu))
        };
        self.spis_changed(spis, word, held).union(me)
    }

    fn clear_spi_active(&self, spis: &mut Spis, vcpu: usize, word: usize, bits: u32) -> VcpuSet {
        let cleared = spis.active.clear(word, bits);
        let held = spis.held.word(word) & bits;
        spis.clear_active.set(word, held);
        let release = cleared & spis.linked.word(word) & !held;
        spis.release.set(word, release);
        let me = if release == 0 {
            VcpuSet::EMPTY
        } else {
            self.ask_rebuild(Some(vcpu))
        };
        self.spis_changed(spis, word, cleared | held).union(me)
    }

    pub(super) fn read_spi_priorities(&self, word: usize) -> u32 {
        let Some(quad) = quad(word) else { return 0 };
        let spis = self.spis.lock();
        u32::from_le_bytes(quad.map(|spi| spis.priority(spi)))
    }

    /// Writes the bytes of a priority word that `mask` covers.
    pub(super) fn write_spi_priorities(&self, word: usize, mask: u32, value: u32) -> VcpuSet {
        let Some(quad) = quad(word) else {
            return VcpuSet::EMPTY;
        };
        let mut spis = self.spis.lock();
        let mut flush = VcpuSet::EMPTY;
        for (spi, (mask, value)) in quad.into_iter().zip(bytes(mask, value)) {
            let changed = spis.priority(spi) != value & PRIORITY_MASK;
            if mask != 0 && changed {
                spis.set_priority(spi, value);
                flush = flush.union(self.spi_changed(&spis, spi));
            }
        }
        flush
    }

    /// `GICD_ITARGETSR<n>`. With one CPU interface there is nothing to choose, and they read zero.
    pub(super) fn read_targets(&self, vcpu: usize, word: usize) -> u32 {
        if self.vcpu_mask.load(SeqCst).count_ones() <= 1 {
            return 0;
        }
        let Some(quad) = quad(word) else {
            // SGIs and PPIs of the reader itself; zero beyond the last SPI.
            let me = VcpuSet::single(vcpu).bits();
            return if word < 8 {
                me.wrapping_mul(0x0101_0101)
            } else {
                0
            };
        };
        let spis = self.spis.lock();
        u32::from_le_bytes(quad.map(|spi| (spis.route(spi) & 0xff) as u8))
    }

    /// Sends each SPI to the lowest vCPU of its list, which is one of the ways in which a GICv2 may
    /// choose one (IHI 0048 B.b, 3.1.1 "Distributor behaviour": 1-N model).
    pub(super) fn write_targets(&self, word: usize, mask: u32, value: u32) -> VcpuSet {
        let vcpus = self.vcpu_mask.load(SeqCst);
        let Some(quad) = quad(word).filter(|_| vcpus.count_ones() > 1) else {
            return VcpuSet::EMPTY;
        };
        let mut spis = self.spis.lock();
        let mut flush = VcpuSet::EMPTY;
        for (spi, (mask, list)) in quad.into_iter().zip(bytes(mask, value)) {
            let list = u32::from(list) & vcpus;
            if mask != 0 && spis.route(spi) != list {
                spis.set_route(spi, list, VcpuSet::from_bits(list).iter().next());
                flush = flush.union(self.spi_changed(&spis, spi));
            }
        }
        flush
    }

    pub(super) fn read_spi_config(&self, word: usize) -> u32 {
        let Some(word) = word.checked_sub(2) else {
            return 0;
        };
        let edge = self.spis.lock().edge.word(word >> 1);
        spread(edge >> ((word & 1) << 4))
    }

    pub(super) fn write_spi_config(&self, word: usize, value: u32) -> VcpuSet {
        let Some(word) = word.checked_sub(2).filter(|word| word >> 1 < SPI_WORDS) else {
            return VcpuSet::EMPTY;
        };
        let shift = (word & 1) << 4;
        let edge = gather(value) << shift;
        let mut spis = self.spis.lock();
        let changed = (spis.edge.word(word >> 1) ^ edge) & 0xffff << shift;
        spis.edge.clear(word >> 1, changed & !edge);
        spis.edge.set(word >> 1, changed & edge);
        self.spis_changed(&spis, word >> 1, changed)
    }

    /// `GICD_IROUTER<n>`, whole or by halves.
    pub(super) fn read_route(&self, offset: u64, size: u32) -> u64 {
        let Some(spi) = routed_spi(offset) else {
            return 0;
        };
        let route = u64::from(self.spis.lock().route(spi));
        let (low, high) = (route & 0x00ff_ffff, route >> 24);
        match (size, offset & 4) {
            (8, _) => high << 32 | low,
            (4, 0) => low,
            (4, _) => high,
            _ => 0,
        }
    }

    /// Interrupt_Routing_Mode is RES0: GICD_TYPER.No1N says so. An affinity that no vCPU has keeps
    /// the interrupt pending.
    pub(super) fn write_route(&self, offset: u64, size: u32, value: u64) -> VcpuSet {
        let Some(spi) = routed_spi(offset) else {
            return VcpuSet::EMPTY;
        };
        let mut spis = self.spis.lock();
        let old = u64::from(spis.route(spi));
        let route = match (size, offset & 4) {
            (8, _) => (value >> 32 & 0xff) << 24 | (value & 0x00ff_ffff),
            (4, 0) => (old & 0xff00_0000) | (value & 0x00ff_ffff),
            (4, _) => (value & 0xff) << 24 | (old & 0x00ff_ffff),
            _ => return VcpuSet::EMPTY,
        };
        if route == old {
            return VcpuSet::EMPTY;
        }
        let Ok(route) = u32::try_from(route) else {
            return VcpuSet::EMPTY;
        };
        spis.set_route(spi, route, usize::try_from(route).ok());
        self.spi_changed(&spis, spi)
    }
}

/// Makes SPIs active in memory. One that is active nowhere yet becomes its target's.
fn set_active(spis: &mut Spis, vcpu: usize, word: usize, bits: u32) {
    let owned = spis.held.word(word) | spis.active.word(word);
    for bit in Bits(bits & !owned) {
        let spi = Spi::at(word, bit);
        let owner = spis.target(spi).unwrap_or(vcpu);
        spis.set_owner(spi, owner);
    }
    spis.active.set(word, bits);
}

/// The bytes of a mask and a value.
fn bytes(mask: u32, value: u32) -> impl Iterator<Item = (u8, u8)> {
    mask.to_le_bytes().into_iter().zip(value.to_le_bytes())
}

/// The SPI whose `GICD_IROUTER<n>` is at `offset`.
fn routed_spi(offset: u64) -> Option<Spi> {
    Spi::from_intid(u32::try_from(offset.checked_sub(0x6000)? >> 3).ok()?)
}
