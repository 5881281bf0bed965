//! Device registers, accessed by single load and store instructions.
//!
//! [`Mmio`] stands for one device's register block. It never forms a reference to device memory:
//! a reference lets the compiler read speculatively or in other widths.

use core::arch::asm;

/// A block of device registers, mapped as Device memory.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: usize,
    bytes: usize,
}

impl Mmio {
    /// Takes a block of registers.
    ///
    /// # Safety
    /// `base..base + bytes` is mapped as Device memory at EL2 whenever an access is made, and the
    /// registers in it cannot make the device write to memory of EL2.
    #[must_use]
    pub const unsafe fn new(base: usize, bytes: usize) -> Self {
        Self { base, bytes }
    }

    /// Physical address of the block; EL2 maps devices at their own address.
    #[must_use]
    pub const fn base(self) -> usize {
        self.base
    }

    /// Bytes of the block.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.bytes
    }

    /// Part of the block, from `offset`.
    #[must_use]
    pub const fn part(self, offset: usize, bytes: usize) -> Option<Self> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Some(Self {
                base: self.base.wrapping_add(offset),
                bytes,
            }),
            _ => None,
        }
    }

    const fn address(self, offset: usize, width: usize) -> Option<usize> {
        if offset.wrapping_add(width) <= self.bytes && offset & (width - 1) == 0 {
            Some(self.base.wrapping_add(offset))
        } else {
            None
        }
    }

    /// Reads a 32-bit register; 0 outside the block.
    #[must_use]
    #[inline]
    pub fn read32(self, offset: usize) -> u32 {
        let Some(address) = self.address(offset, 4) else {
            return 0;
        };
        let value: u32;
        // SAFETY: `address` lies in a mapped device block by the contract of `new`.
        unsafe {
            asm!("ldr {v:w}, [{a}]", v = out(reg) value, a = in(reg) address,
                options(nostack, preserves_flags));
        }
        value
    }

    /// Writes a 32-bit register; nothing outside the block.
    #[inline]
    pub fn write32(self, offset: usize, value: u32) {
        let Some(address) = self.address(offset, 4) else {
            return;
        };
        // SAFETY: `address` lies in a mapped device block by the contract of `new`.
        unsafe {
            asm!("str {v:w}, [{a}]", v = in(reg) value, a = in(reg) address,
                options(nostack, preserves_flags));
        }
    }

    /// Writes a byte register; nothing outside the block.
    #[inline]
    pub fn write8(self, offset: usize, value: u8) {
        let Some(address) = self.address(offset, 1) else {
            return;
        };
        // SAFETY: `address` lies in a mapped device block by the contract of `new`.
        unsafe {
            asm!("strb {v:w}, [{a}]", v = in(reg) u32::from(value), a = in(reg) address,
                options(nostack, preserves_flags));
        }
    }

    /// Reads a 64-bit register; 0 outside the block.
    #[must_use]
    #[inline]
    pub fn read64(self, offset: usize) -> u64 {
        let Some(address) = self.address(offset, 8) else {
            return 0;
        };
        let value: u64;
        // SAFETY: `address` lies in a mapped device block by the contract of `new`.
        unsafe {
            asm!("ldr {v}, [{a}]", v = out(reg) value, a = in(reg) address,
                options(nostack, preserves_flags));
        }
        value
    }

    /// Writes a 64-bit register; nothing outside the block.
    #[inline]
    pub fn write64(self, offset: usize, value: u64) {
        let Some(address) = self.address(offset, 8) else {
            return;
        };
        // SAFETY: `address` lies in a mapped device block by the contract of `new`.
        unsafe {
            asm!("str {v}, [{a}]", v = in(reg) value, a = in(reg) address,
                options(nostack, preserves_flags));
        }
    }
}
