//! The three kinds of address and the small numbers that name things. None converts into another by
//! itself: a [`Pa`] that came from an [`Ipa`] went through stage 2.

use core::fmt;

/// 2^10 bytes.
pub const KIB: u64 = 1 << 10;
/// 2^20 bytes.
pub const MIB: u64 = 1 << 20;
/// 2^30 bytes.
pub const GIB: u64 = 1 << 30;
/// Bytes of a frame and of a page: the 4 KiB granule.
pub const PAGE_SIZE: u64 = 4 * KIB;

/// An address beyond what the architecture can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct AddressError;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $bits:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Bits that the largest address has.
            pub const BITS: u32 = $bits;

            /// Takes an address, refusing one beyond [`Self::BITS`] bits.
            ///
            /// # Errors
            /// [`AddressError`] if `raw` has more bits.
            pub const fn new(raw: u64) -> Result<Self, AddressError> {
                if Self::BITS < 64 && raw >> (Self::BITS % 64) != 0 {
                    return Err(AddressError);
                }
                Ok(Self(raw))
            }

            /// Takes an address, dropping bits above [`Self::BITS`], as hardware does with an
            /// output address field.
            #[must_use]
            pub const fn truncated(raw: u64) -> Self {
                if Self::BITS < 64 { Self(raw & ((1 << (Self::BITS % 64)) - 1)) } else { Self(raw) }
            }

            /// The address as a number.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The address plus `bytes`, unless it leaves the address space.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => match Self::new(sum) {
                        Ok(address) => Some(address),
                        Err(AddressError) => None,
                    },
                    None => None,
                }
            }

            /// Bytes from `base` up to this address, unless `base` is above it.
            #[must_use]
            pub const fn offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// The largest multiple of `align` (a power of two) at or below this address.
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !align.wrapping_sub(1))
            }

            /// Whether the address is a multiple of `align`, a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & align.wrapping_sub(1) == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    };
}

address!(
    /// A virtual address: input of stage 1. All 64 bits count, for the two halves and for tags.
    Va, 64
);
address!(
    /// An intermediate physical address: output of a guest's stage 1, input of its stage 2.
    Ipa, 48
);
address!(
    /// A physical address: output of stage 2.
    Pa, 48
);

/// Index of a physical core, from 0; ours, not Arm's (that is MPIDR).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuIndex(u8);

impl CpuIndex {
    /// Takes an index below `count`.
    #[must_use]
    pub const fn new(index: usize, count: usize) -> Option<Self> {
        if index < count && index < 256 {
            Some(Self(index as u8))
        } else {
            None
        }
    }

    /// The index as a number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// Number of a VM: software's identity, not the TLB tag (that is a VMID).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmId(u8);

impl VmId {
    /// Takes a number below `count`.
    #[must_use]
    pub const fn new(index: u64, count: usize) -> Option<Self> {
        if index < count as u64 && index < 256 {
            Some(Self(index as u8))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_refuse_what_they_cannot_hold() {
        assert_eq!(Ipa::new(1 << 48), Err(AddressError));
        assert_eq!(Pa::new((1 << 48) - 1).map(Pa::raw), Ok((1 << 48) - 1));
        assert_eq!(Va::new(u64::MAX).map(Va::raw), Ok(u64::MAX));
        assert_eq!(Ipa::truncated(u64::MAX).checked_add(1), None);
        assert_eq!(
            Ipa::truncated(0x12_3456).align_down(PAGE_SIZE).raw(),
            0x12_3000
        );
    }
}
