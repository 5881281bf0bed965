//! What a guest sees in the ID registers.
//!
//! Every field is allow-listed: a field that is not named here reads zero, and a value above the
//! highest that is understood reads as that highest. So a feature that is newer than this file does
//! not exist for a guest. Sources: the registers' descriptions in Arm ARM DDI 0487 L.b, D24.2, and
//! D24.1.3 "Principles of the ID scheme for fields in ID registers".
//!
//! All ID registers have op0=3, op1=0, CRn=0 and CRm=1 to 7; HCR_EL2.TID3 traps their reads. EL2
//! filters each of the [`IdReg::COUNT`] encodings once per board and answers from that table.
//! MIDR_EL1 and MPIDR_EL1 come from VPIDR_EL2 and VMPIDR_EL2; CTR_EL0, CLIDR_EL1 and CCSIDR_EL1 are
//! the hardware's.

mod aarch32;
mod aarch64;
mod filter;

use penumbra_abi::GicVersion;

use crate::bits::byte;
use crate::sysreg::SysReg;

/// What a filtered value depends on besides the hardware's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestFeatures {
    /// The interrupt controller that the guest has.
    pub gic: GicVersion,
    /// EL0 may use AArch32. Without it the AArch32 ID registers read zero.
    pub aarch32_el0: bool,
    /// Hardware breakpoints (`DBGBVR<n>_EL1`).
    pub breakpoints: u8,
    /// Hardware watchpoints (`DBGWVR<n>_EL1`).
    pub watchpoints: u8,
}

impl GuestFeatures {
    /// The features of a guest with `gic` on a core with these values of ID_AA64PFR0_EL1 and
    /// ID_AA64DFR0_EL1.
    #[must_use]
    pub const fn new(gic: GicVersion, pfr0: u64, dfr0: u64) -> Self {
        Self {
            gic,
            aarch32_el0: byte(pfr0, 3, 0) == 2,
            breakpoints: byte(dfr0, 15, 12) + 1,
            watchpoints: byte(dfr0, 23, 20) + 1,
        }
    }
}

/// An ID register: one of the encodings that HCR_EL2.TID3 traps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct IdReg(u8);

impl IdReg {
    /// Encodings in the group.
    pub const COUNT: usize = 56;

    /// The ID register that `register` is, if it is one.
    #[inline]
    #[must_use]
    pub const fn from_sysreg(register: SysReg) -> Option<Self> {
        let crm = register.crm();
        if register.same_group(SysReg::ID_PFR0_EL1) && crm >= 1 && crm <= 7 {
            Some(Self((crm - 1) << 3 | register.op2()))
        } else {
            None
        }
    }

    /// The register with this index.
    #[must_use]
    pub const fn from_index(index: usize) -> Option<Self> {
        if index < Self::COUNT {
            Some(Self((index & 0x3f) as u8))
        } else {
            None
        }
    }

    /// The place of the register in a table of [`Self::COUNT`] values: (CRm - 1) * 8 + op2.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The register's encoding.
    #[must_use]
    pub const fn sysreg(self) -> SysReg {
        SysReg::new(3, 0, 0, (self.0 >> 3) + 1, self.0 & 7)
    }

    /// Names the register with this CRm (1 to 7) and op2.
    const fn at(crm: u8, op2: u8) -> Self {
        Self((crm - 1) << 3 | op2)
    }
}

macro_rules! id_registers {
    ($($name:ident = ($crm:expr, $op2:expr);)*) => {
        #[expect(missing_docs, reason = "Arm's names say it")]
        impl IdReg {
            $(pub const $name: Self = Self::at($crm, $op2);)*

            /// The encodings that the architecture has given a name, with it.
            pub const NAMED: &[(&str, Self)] = &[$((stringify!($name), Self::$name),)*];
        }
    };
}

id_registers! {
    ID_PFR0 = (1, 0);
    ID_PFR1 = (1, 1);
    ID_DFR0 = (1, 2);
    ID_AFR0 = (1, 3);
    ID_MMFR0 = (1, 4);
    ID_MMFR1 = (1, 5);
    ID_MMFR2 = (1, 6);
    ID_MMFR3 = (1, 7);
    ID_ISAR0 = (2, 0);
    ID_ISAR1 = (2, 1);
    ID_ISAR2 = (2, 2);
    ID_ISAR3 = (2, 3);
    ID_ISAR4 = (2, 4);
    ID_ISAR5 = (2, 5);
    ID_MMFR4 = (2, 6);
    ID_ISAR6 = (2, 7);
    MVFR0 = (3, 0);
    MVFR1 = (3, 1);
    MVFR2 = (3, 2);
    ID_PFR2 = (3, 4);
    ID_DFR1 = (3, 5);
    ID_MMFR5 = (3, 6);
    ID_AA64PFR0 = (4, 0);
    ID_AA64PFR1 = (4, 1);
    ID_AA64PFR2 = (4, 2);
    ID_AA64ZFR0 = (4, 4);
    ID_AA64SMFR0 = (4, 5);
    ID_AA64FPFR0 = (4, 7);
    ID_AA64DFR0 = (5, 0);
    ID_AA64DFR1 = (5, 1);
    ID_AA64DFR2 = (5, 2);
    ID_AA64AFR0 = (5, 4);
    ID_AA64AFR1 = (5, 5);
    ID_AA64ISAR0 = (6, 0);
    ID_AA64ISAR1 = (6, 1);
    ID_AA64ISAR2 = (6, 2);
    ID_AA64ISAR3 = (6, 3);
    ID_AA64MMFR0 = (7, 0);
    ID_AA64MMFR1 = (7, 1);
    ID_AA64MMFR2 = (7, 2);
    ID_AA64MMFR3 = (7, 3);
    ID_AA64MMFR4 = (7, 4);
}

/// What a guest with `features` reads from `register` on a core whose register holds `hardware`.
#[must_use]
pub const fn filter(register: IdReg, hardware: u64, features: &GuestFeatures) -> u64 {
    if register.0 < IdReg::ID_AA64PFR0.0 {
        if features.aarch32_el0 {
            aarch32::filter(register, hardware, features)
        } else {
            0
        }
    } else {
        aarch64::filter(register, hardware, features)
    }
}

#[cfg(test)]
mod tests;
