//! Names of system registers.

use core::fmt;

use crate::bits::byte;

/// A system register or system instruction: op0, op1, CRn, CRm and op2, where a syndrome has them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SysReg(u32);

impl SysReg {
    /// Names a register by its encoding.
    #[must_use]
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        debug_assert!(op0 < 4 && op1 < 8 && crn < 16 && crm < 16 && op2 < 8);
        Self(
            (op0 as u32) << 20
                | (op2 as u32) << 17
                | (op1 as u32) << 14
                | (crn as u32) << 10
                | (crm as u32) << 1,
        )
    }

    /// The register of a syndrome, without Rt and direction.
    #[inline]
    pub(super) const fn from_iss(iss: u32) -> Self {
        Self(iss & NAME_MASK)
    }

    /// The ISS of a write of it from X0.
    #[inline]
    #[must_use]
    pub const fn write_iss(self) -> u32 {
        self.0
    }

    /// op0.
    #[inline]
    #[must_use]
    pub const fn op0(self) -> u8 {
        byte(self.0 as u64, 21, 20)
    }

    /// op1.
    #[inline]
    #[must_use]
    pub const fn op1(self) -> u8 {
        byte(self.0 as u64, 16, 14)
    }

    /// CRn.
    #[inline]
    #[must_use]
    pub const fn crn(self) -> u8 {
        byte(self.0 as u64, 13, 10)
    }

    /// CRm.
    #[inline]
    #[must_use]
    pub const fn crm(self) -> u8 {
        byte(self.0 as u64, 4, 1)
    }

    /// op2.
    #[inline]
    #[must_use]
    pub const fn op2(self) -> u8 {
        byte(self.0 as u64, 19, 17)
    }

    /// Whether op0, op1 and CRn are those of `other`.
    #[inline]
    pub(crate) const fn same_group(self, other: Self) -> bool {
        (self.0 ^ other.0) & GROUP_MASK == 0
    }

    /// Whether all but CRm are those of `other`.
    #[inline]
    pub(crate) const fn same_but_crm(self, other: Self) -> bool {
        (self.0 ^ other.0) & !CRM_MASK == 0
    }
}

/// op0, op2, op1, CRn and CRm in a syndrome.
const NAME_MASK: u32 = 0x3f_fc1e;
/// CRm.
const CRM_MASK: u32 = 0x1e;
/// op0, op1 and CRn.
const GROUP_MASK: u32 = 0x31_fc00;

impl fmt::Debug for SysReg {
    /// Writes the generic name, as assemblers take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (op0, op1, crn) = (self.op0(), self.op1(), self.crn());
        write!(f, "S{op0}_{op1}_C{crn}_C{}_{}", self.crm(), self.op2())
    }
}

macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident = ($op0:expr, $op1:expr, $crn:expr, $crm:expr, $op2:expr);)*) => {
        impl SysReg {
            $($(#[$doc])* pub const $name: Self = Self::new($op0, $op1, $crn, $crm, $op2);)*

            /// Every register that has a name here, for tables and tests.
            pub const NAMED: &[(&str, Self)] = &[$((stringify!($name), Self::$name),)*];
        }
    };
}

registers! {
    /// Set/way invalidation of data caches.
    DC_ISW = (1, 0, 7, 6, 2);
    /// Set/way cleaning of data caches.
    DC_CSW = (1, 0, 7, 10, 2);
    /// Set/way cleaning and invalidation of data caches.
    DC_CISW = (1, 0, 7, 14, 2);

    /// OS lock data transfer, receive.
    OSDTRRX_EL1 = (2, 0, 0, 0, 2);
    /// Monitor DCC interrupt enable.
    MDCCINT_EL1 = (2, 0, 0, 2, 0);
    /// Monitor debug system control.
    MDSCR_EL1 = (2, 0, 0, 2, 2);
    /// OS lock data transfer, transmit.
    OSDTRTX_EL1 = (2, 0, 0, 3, 2);
    /// OS lock exception catch control.
    OSECCR_EL1 = (2, 0, 0, 6, 2);
    /// First breakpoint value.
    DBGBVR0_EL1 = (2, 0, 0, 0, 4);
    /// First breakpoint control.
    DBGBCR0_EL1 = (2, 0, 0, 0, 5);
    /// First watchpoint value.
    DBGWVR0_EL1 = (2, 0, 0, 0, 6);
    /// First watchpoint control.
    DBGWCR0_EL1 = (2, 0, 0, 0, 7);
    /// Debug ROM address.
    MDRAR_EL1 = (2, 0, 1, 0, 0);
    /// OS lock access.
    OSLAR_EL1 = (2, 0, 1, 0, 4);
    /// OS lock status.
    OSLSR_EL1 = (2, 0, 1, 1, 4);
    /// OS double lock.
    OSDLR_EL1 = (2, 0, 1, 3, 4);
    /// Debug power control.
    DBGPRCR_EL1 = (2, 0, 1, 4, 4);
    /// Debug claim tag set.
    DBGCLAIMSET_EL1 = (2, 0, 7, 8, 6);
    /// Debug claim tag clear.
    DBGCLAIMCLR_EL1 = (2, 0, 7, 9, 6);
    /// Debug authentication status.
    DBGAUTHSTATUS_EL1 = (2, 0, 7, 14, 6);
    /// Monitor DCC status.
    MDCCSR_EL0 = (2, 3, 0, 1, 0);
    /// Debug data transfer, half-duplex.
    DBGDTR_EL0 = (2, 3, 0, 4, 0);
    /// Debug data transfer, receive (read) and transmit (write).
    DBGDTRX_EL0 = (2, 3, 0, 5, 0);

    /// First register of the ID group: op0=3, op1=0, CRn=0, CRm=1 to 7.
    ID_PFR0_EL1 = (3, 0, 0, 1, 0);
    /// Processor features 0.
    ID_AA64PFR0_EL1 = (3, 0, 0, 4, 0);
    /// Last encoding of the ID group.
    ID_GROUP_LAST = (3, 0, 0, 7, 7);

    /// System control.
    SCTLR_EL1 = (3, 0, 1, 0, 0);
    /// Auxiliary control.
    ACTLR_EL1 = (3, 0, 1, 0, 1);
    /// Translation table base 0.
    TTBR0_EL1 = (3, 0, 2, 0, 0);
    /// Translation table base 1.
    TTBR1_EL1 = (3, 0, 2, 0, 1);
    /// Translation control.
    TCR_EL1 = (3, 0, 2, 0, 2);
    /// Interrupt priority mask.
    ICC_PMR_EL1 = (3, 0, 4, 6, 0);
    /// Auxiliary fault status 0.
    AFSR0_EL1 = (3, 0, 5, 1, 0);
    /// Auxiliary fault status 1.
    AFSR1_EL1 = (3, 0, 5, 1, 1);
    /// Exception syndrome.
    ESR_EL1 = (3, 0, 5, 2, 0);
    /// Error record identification (FEAT_RAS).
    ERRIDR_EL1 = (3, 0, 5, 3, 0);
    /// Fault address.
    FAR_EL1 = (3, 0, 6, 0, 0);
    /// Performance monitors interrupt enable set.
    PMINTENSET_EL1 = (3, 0, 9, 14, 1);
    /// Memory attribute indirection.
    MAIR_EL1 = (3, 0, 10, 2, 0);
    /// Auxiliary memory attribute indirection.
    AMAIR_EL1 = (3, 0, 10, 3, 0);
    /// Limited ordering region start.
    LORSA_EL1 = (3, 0, 10, 4, 0);
    /// Limited ordering region identification.
    LORID_EL1 = (3, 0, 10, 4, 7);
    /// Deactivate interrupt.
    ICC_DIR_EL1 = (3, 0, 12, 11, 1);
    /// Generate group 1 SGI.
    ICC_SGI1R_EL1 = (3, 0, 12, 11, 5);
    /// Generate alias group 1 SGI.
    ICC_ASGI1R_EL1 = (3, 0, 12, 11, 6);
    /// Generate group 0 SGI.
    ICC_SGI0R_EL1 = (3, 0, 12, 11, 7);
    /// System register interface enable.
    ICC_SRE_EL1 = (3, 0, 12, 12, 5);
    /// Context identification.
    CONTEXTIDR_EL1 = (3, 0, 13, 0, 1);
    /// Performance monitors control.
    PMCR_EL0 = (3, 3, 9, 12, 0);
    /// Activity monitors control.
    AMCR_EL0 = (3, 3, 13, 2, 0);
    /// Physical counter.
    CNTPCT_EL0 = (3, 3, 14, 0, 1);
    /// Physical timer value.
    CNTP_TVAL_EL0 = (3, 3, 14, 2, 0);
    /// Physical timer control.
    CNTP_CTL_EL0 = (3, 3, 14, 2, 1);
    /// Physical timer compare value.
    CNTP_CVAL_EL0 = (3, 3, 14, 2, 2);
}
