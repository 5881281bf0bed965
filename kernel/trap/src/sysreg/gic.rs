//! Software generated interrupts asked for by system register (IHI 0069 H, 12.2 "ICC_SGI1R_EL1").

use crate::bits::{bit, byte, field};

/// Which of the three registers asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SgiKind {
    /// ICC_SGI1R_EL1: group 1 of the caller's Security state.
    Group1,
    /// ICC_ASGI1R_EL1: group 1 of the other Security state. With one Security state, as a guest
    /// has it, it reaches interrupts that are in group 0.
    AliasGroup1,
    /// ICC_SGI0R_EL1: group 0.
    Group0,
}

/// A value written to an SGI register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct SgiRequest(u64);

impl SgiRequest {
    /// Takes the value written.
    #[inline]
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// INTID, 0 to 15.
    #[inline]
    #[must_use]
    pub const fn intid(self) -> u8 {
        byte(self.0, 27, 24)
    }

    /// IRM: every vCPU but the caller, instead of a list.
    #[inline]
    #[must_use]
    pub const fn all_others(self) -> bool {
        bit(self.0, 40)
    }

    /// Aff3, Aff2 and Aff1 of the targets, as bits 31:8 of a number whose low byte is zero.
    #[inline]
    #[must_use]
    pub const fn cluster(self) -> u32 {
        let (aff3, aff2, aff1) = (
            byte(self.0, 55, 48),
            byte(self.0, 39, 32),
            byte(self.0, 23, 16),
        );
        u32::from_be_bytes([aff3, aff2, aff1, 0])
    }

    /// Aff0 of the first target that [`Self::targets`] can name: 16 times RS.
    #[inline]
    #[must_use]
    pub const fn first_target(self) -> u8 {
        byte(self.0, 47, 44) << 4
    }

    /// Bit n: the PE whose Aff0 is [`Self::first_target`] + n is a target.
    #[inline]
    #[must_use]
    pub const fn targets(self) -> u16 {
        (field(self.0, 15, 0) & 0xffff) as u16
    }
}
