//! The distributor's registers (IHI 0069 H, 12.9 "The GIC Distributor register descriptions";
//! IHI 0048 B.b, 4.3 "Distributor register descriptions").

use core::sync::atomic::Ordering::SeqCst;

use penumbra_abi::GicVersion;

use super::ask::State;
use super::{Bank, MmioRead, lane, word_from};
use crate::vgic::spi::SPI_WORDS;
use crate::vgic::{CpuInterface, Hardware, VcpuSet, Vgic};

const CTLR: u64 = 0;
const TYPER: u64 = 4;
const IIDR: u64 = 8;
const SGIR: u64 = 0xf00;
/// `GICD_IROUTER<32>`; those of SGIs and PPIs do not exist.
const IROUTER: u64 = 0x6100;
const IROUTER_END: u64 = 0x8000;

/// GICD_CTLR of a GICv3 with one Security state: DS and ARE, which cannot be cleared.
const CTLR_V3: u32 = 1 << 6 | 1 << 4;
const CTLR_GROUPS: u32 = 0b11;
/// GICD_TYPER.ITLinesNumber: 32 * (n + 1) INTIDs.
const LINES: u32 = SPI_WORDS as u32;
/// GICD_TYPER of a GICv3: IDbits = 10 bits, no 1 of N delivery, no LPIs, no extended SPIs, no
/// message-based SPIs.
const TYPER_V3: u32 = LINES | 9 << 19 | 1 << 25;
/// Implementer Arm, as the guest expects of a GIC of Arm's architecture; product 'P'.
pub(super) const IIDR_VALUE: u32 = 0x5000_043b;

impl Vgic {
    #[inline]
    pub(super) fn read_distributor<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
        (offset, size): (u64, u32),
    ) -> MmioRead {
        let version = self.version();
        if offset < 0x80 {
            let value = if size == 4 {
                self.read_identity(version, offset)
            } else {
                0
            };
            return MmioRead::Value(u64::from(value));
        }
        if let Some((bank, word)) = Bank::at(offset) {
            if size != 4 || (word == 0 && version == GicVersion::V3) {
                return MmioRead::Value(0);
            }
            let state = match bank {
                Bank::SetPending | Bank::ClearPending => State::Pending,
                Bank::SetActive | Bank::ClearActive => State::Active,
                _ => {
                    let value = match word.checked_sub(1) {
                        None => self.read_private_bank(vcpu, bank),
                        Some(word) => self.read_spi_bank(bank, word),
                    };
                    return MmioRead::Value(u64::from(value));
                }
            };
            let key = (u64::from(bank as u8) << 8) | word as u64;
            return match word.checked_sub(1) {
                None => self.read_private_state(vcpu, vcpu, interface, machine, (state, key)),
                Some(word) => self.read_spi_state(vcpu, word, interface, machine, (state, key)),
            };
        }
        if version == GicVersion::V2 && (0xf10..0xf30).contains(&offset) {
            return self.read_sgi_sources(vcpu, interface, machine, (offset, size));
        }
        MmioRead::Value(self.read_plain(version, vcpu, offset, size))
    }

    fn read_identity(&self, version: GicVersion, offset: u64) -> u32 {
        match (offset, version) {
            (TYPER, GicVersion::V3) => TYPER_V3,
            (TYPER, GicVersion::V2) => {
                LINES | self.vcpu_mask.load(SeqCst).count_ones().saturating_sub(1) << 5
            }
            (CTLR, GicVersion::V3) => self.groups.load(SeqCst) | CTLR_V3,
            (CTLR, GicVersion::V2) => self.groups.load(SeqCst),
            (IIDR, _) => IIDR_VALUE,
            _ => 0,
        }
    }

    /// Registers that are plain values.
    fn read_plain(&self, version: GicVersion, vcpu: usize, offset: u64, size: u32) -> u64 {
        let (mask, shift) = lane(offset, size);
        let has_private = version == GicVersion::V2;
        let value = match offset {
            0x400..0x800 => match word_from(offset, 0x400) {
                word @ 0..8 if has_private => self.read_private_priorities(vcpu, word),
                word => self.read_spi_priorities(word),
            },
            0x800..0xc00 if has_private => self.read_targets(vcpu, word_from(offset, 0x800)),
            0xc00..0xd00 if size == 4 => match word_from(offset, 0xc00) {
                word @ 0..2 if has_private => self.read_private_config(vcpu, word),
                word => self.read_spi_config(word),
            },
            IROUTER..IROUTER_END if version == GicVersion::V3 => {
                return self.read_route(offset, size);
            }
            0xfd0..0x1000 if has_private && size == 4 => {
                id_register([0x90, 0xb4, 0x2b, 0x04], offset)
            }
            0xffd0..0x1_0000 if !has_private && size == 4 => {
                id_register([0x92, 0xb4, 0x3b, 0x44], offset)
            }
            _ => 0,
        };
        u64::from((value & mask) >> shift)
    }

    #[inline]
    pub(super) fn write_distributor(
        &self,
        vcpu: usize,
        (offset, size): (u64, u32),
        value: u64,
    ) -> VcpuSet {
        let version = self.version();
        let has_private = version == GicVersion::V2;
        let (mask, shift) = lane(offset, size);
        // Registers but IROUTER are 32 bits wide; `lane` covers nothing for wider accesses.
        let word_value = ((value & 0xffff_ffff) as u32) << shift & mask;
        if let Some((bank, word)) = Bank::at(offset) {
            return match word.checked_sub(1) {
                _ if size != 4 => VcpuSet::EMPTY,
                Some(word) => self.write_spi_bank(vcpu, bank, word, word_value),
                None if has_private => self.write_private_bank(vcpu, bank, word_value),
                None => VcpuSet::EMPTY,
            };
        }
        match offset {
            CTLR if size == 4 => self.write_control(word_value),
            0x400..0x800 => match word_from(offset, 0x400) {
                word @ 0..8 if has_private => {
                    self.write_private_priorities(vcpu, word, mask, word_value)
                }
                word => self.write_spi_priorities(word, mask, word_value),
            },
            0x800..0xc00 if has_private => {
                self.write_targets(word_from(offset, 0x800), mask, word_value)
            }
            0xc00..0xd00 if size == 4 => match word_from(offset, 0xc00) {
                word @ 0..2 if has_private => self.write_private_config(vcpu, word, word_value),
                word => self.write_spi_config(word, word_value),
            },
            SGIR if has_private && size == 4 => self.write_sgir(vcpu, word_value),
            0xf10..0xf30 if has_private => self.write_sgi_sources(vcpu, offset, word_value),
            IROUTER..IROUTER_END if !has_private => self.write_route(offset, size, value),
            _ => VcpuSet::EMPTY,
        }
    }

    /// GICD_CTLR: only the groups' enables can change.
    fn write_control(&self, value: u32) -> VcpuSet {
        let new = value & CTLR_GROUPS;
        if self.groups.swap(new, SeqCst) == new {
            return VcpuSet::EMPTY;
        }
        let mut flush = VcpuSet::EMPTY;
        for (vcpu, irqs) in self.private.iter().enumerate() {
            flush = flush.union(self.private_changed(vcpu, irqs, u32::MAX));
        }
        let spis = self.spis.lock();
        for word in 0..SPI_WORDS {
            flush = flush.union(self.spis_changed(&spis, word, u32::MAX));
        }
        flush
    }
}

/// Peripheral and component identification registers: `parts` are PIDR0, PIDR1, PIDR2 and PIDR4.
pub(super) const fn id_register(parts: [u8; 4], offset: u64) -> u32 {
    let [pidr0, pidr1, pidr2, pidr4] = parts;
    let byte = match offset & 0x3f {
        0x10 => pidr4,
        0x20 => pidr0,
        0x24 => pidr1,
        0x28 => pidr2,
        0x30 => 0x0d,
        0x34 => 0xf0,
        0x38 => 0x05,
        0x3c => 0xb1,
        _ => 0,
    };
    byte as u32
}
