//! Trapped accesses to AArch64 system registers (exception class 0x18).
//!
//! [`SysRegAccess`] decodes the syndrome, [`SysReg`] names registers, [`classify`] says what a guest
//! gets. Sources: Arm ARM DDI 0487 L.b, D24.2 "ESR_EL2", "ISS encoding for an exception from MSR,
//! MRS, or System instruction execution in AArch64 state"; encodings from the register descriptions
//! in D24 and, for the GIC's, from IHI 0069 H, 12.2.

mod action;
mod gic;
mod name;

pub use action::{Action, DebugReg, PhysicalTimer, Stage1Reg, classify};
pub use gic::{SgiKind, SgiRequest};
pub use name::SysReg;

use crate::bits::{bit, byte};

/// A trapped MSR, MRS or system instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct SysRegAccess(u32);

impl SysRegAccess {
    /// Takes the ISS.
    #[inline]
    #[must_use]
    pub const fn new(iss: u32) -> Self {
        Self(iss)
    }

    /// The register or instruction.
    #[inline]
    #[must_use]
    pub const fn register(self) -> SysReg {
        SysReg::from_iss(self.0)
    }

    /// Rt: 0 to 30 are X0 to X30, 31 is XZR, which reads zero and ignores writes.
    #[inline]
    #[must_use]
    pub const fn rt(self) -> u8 {
        byte(self.0 as u64, 9, 5)
    }

    /// Direction: the register is read (MRS or SYSL).
    #[inline]
    #[must_use]
    pub const fn is_read(self) -> bool {
        bit(self.0 as u64, 0)
    }
}

#[cfg(test)]
mod tests;
