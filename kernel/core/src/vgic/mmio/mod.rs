//! The guest's accesses to the distributor's and redistributors' registers.
//!
//! What the architecture does not define reads zero and ignores writes, and so does an access of a
//! size that a register does not support: bytes reach priorities, targets and per-source pending
//! bits; everything else takes 32 bits, and 64-bit registers also 64.
//!
//! The guest has one Security state: GICD_CTLR.DS is set on GICv3 (IHI 0069 H, 4.6 "Interrupt
//! grouping and security"), so both groups are its own and NSACR and IGRPMODR do not exist.

mod ask;
mod distributor;
mod private_bank;
mod redistributor;
mod spi_bank;

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

/// A register of one bit per interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bank {
    Group,
    SetEnable,
    ClearEnable,
    SetPending,
    ClearPending,
    SetActive,
    ClearActive,
}

impl Bank {
    /// The bank and word at `offset` of the distributor or of a redistributor's SGI frame: they are
    /// laid out alike, 128 bytes each.
    #[inline]
    fn at(offset: u64) -> Option<(Self, usize)> {
        let bank = match offset >> 7 {
            1 => Self::Group,
            2 => Self::SetEnable,
            3 => Self::ClearEnable,
            4 => Self::SetPending,
            5 => Self::ClearPending,
            6 => Self::SetActive,
            7 => Self::ClearActive,
            _ => return None,
        };
        Some((bank, (offset >> 2 & 31) as usize))
    }
}

/// The part of a 32-bit register that an access of `size` bytes at `offset` covers: its mask and
/// its shift. Nothing for 64-bit accesses.
#[inline]
const fn lane(offset: u64, size: u32) -> (u32, u32) {
    let shift = ((offset & 3) << 3) as u32;
    match size {
        1 => (0xff << shift, shift),
        4 => (u32::MAX, 0),
        _ => (0, 0),
    }
}

/// The word in which `offset` is, counted from `base`.
#[inline]
const fn word_from(offset: u64, base: u64) -> usize {
    (offset.saturating_sub(base) >> 2 & 0x3fff) as usize
}

impl Vgic {
    /// vCPU `vcpu`, resident on this core, reads `size` bytes (1, 2, 4 or 8) at `offset` of `frame`.
    #[inline(always)]
    pub fn mmio_read<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
        (frame, offset, size): (Frame, u64, u32),
    ) -> MmioRead {
        if !is_aligned(offset, size) {
            return MmioRead::Value(0);
        }
        match frame {
            Frame::Distributor => self.read_distributor(vcpu, interface, machine, (offset, size)),
            Frame::Redistributors => {
                self.read_redistributor(vcpu, interface, machine, (offset, size))
            }
        }
    }

    /// vCPU `vcpu` writes. Returns the vCPUs that must flush, which may include `vcpu`.
    #[inline]
    pub fn mmio_write(
        &self,
        vcpu: usize,
        (frame, offset, size): (Frame, u64, u32),
        value: u64,
    ) -> VcpuSet {
        if !is_aligned(offset, size) {
            return VcpuSet::EMPTY;
        }
        match frame {
            Frame::Distributor => self.write_distributor(vcpu, (offset, size), value),
            Frame::Redistributors => self.write_redistributor((offset, size), value),
        }
    }
}

#[inline]
const fn is_aligned(offset: u64, size: u32) -> bool {
    size != 0 && offset & (size as u64).wrapping_sub(1) == 0
}
