//! What a guest gets for each trapped system register.
//!
//! The default is UNDEFINED: [`classify`] lists what has another answer. Which accesses come here at
//! all follows from [`crate::controls`]; for those that the controls let through the entry says what
//! would be right if they did come.

use penumbra_abi::GicVersion;

use super::{SgiKind, SysReg, SysRegAccess};
use crate::idregs::{GuestFeatures, IdReg};

/// What EL2 does for a trapped access. Unless the action says otherwise, PC then advances.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Rt = the filtered value of the ID register.
    Id(IdReg),
    /// Rt = this constant.
    Read(u64),
    /// The write has no effect.
    Ignore,
    /// Generate software interrupts, see [`SgiRequest`](super::SgiRequest).
    Sgi(SgiKind),
    /// Read or write the emulated physical timer.
    Timer(PhysicalTimer),
    /// Read or write debug state of the vCPU.
    Debug(DebugReg),
    /// A write that moves stage-1 translation, trapped only under HCR_EL2.TVM.
    Stage1(Stage1Reg),
    /// Data cache maintenance by set and way, trapped only under HCR_EL2.TSW: clean and invalidate
    /// the memory of the VM, because a set or way names other VMs' lines as well.
    SetWay,
    /// Deactivate a virtual interrupt, trapped only under ICH_HCR_EL2.TDIR.
    Deactivate,
    /// Inject an UNDEFINED exception; PC does not advance.
    Undefined,
}

/// A register of the physical timer or its counter (Arm ARM DDI 0487 L.b, D12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PhysicalTimer {
    /// CNTPCT_EL0, read only.
    Count,
    /// CNTP_TVAL_EL0.
    Value,
    /// CNTP_CTL_EL0.
    Control,
    /// CNTP_CVAL_EL0.
    Compare,
}

/// A debug register that has state of its own in each vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugReg {
    /// MDSCR_EL1.
    Control,
    /// OSLAR_EL1, write only: bit 0 of what is written becomes the OS lock.
    OsLockAccess,
    /// OSLSR_EL1, read only: see [`os_lock_status`](Self::os_lock_status).
    OsLockStatus,
    /// `DBGBVR<n>_EL1`.
    BreakpointValue(u8),
    /// `DBGBCR<n>_EL1`.
    BreakpointControl(u8),
    /// `DBGWVR<n>_EL1`.
    WatchpointValue(u8),
    /// `DBGWCR<n>_EL1`.
    WatchpointControl(u8),
}

impl DebugReg {
    /// OSLSR_EL1 for a lock that is set or not: OSLM = 0b10 (implemented), OSLK.
    #[must_use]
    pub const fn os_lock_status(locked: bool) -> u64 {
        1 << 3 | (locked as u64) << 1
    }
}

/// A register whose writes HCR_EL2.TVM traps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage1Reg {
    /// SCTLR_EL1.
    Sctlr,
    /// TTBR0_EL1.
    Ttbr0,
    /// TTBR1_EL1.
    Ttbr1,
    /// TCR_EL1.
    Tcr,
    /// ESR_EL1.
    Esr,
    /// FAR_EL1.
    Far,
    /// AFSR0_EL1.
    Afsr0,
    /// AFSR1_EL1.
    Afsr1,
    /// MAIR_EL1.
    Mair,
    /// AMAIR_EL1.
    Amair,
    /// CONTEXTIDR_EL1.
    Contextidr,
}

/// What a guest with `features` gets for `access`.
#[inline]
#[must_use]
pub const fn classify(access: SysRegAccess, features: &GuestFeatures) -> Action {
    let register = access.register();
    // Ordered by how often a running guest comes here: SGIs, ID registers, then the rest.
    if let Some(kind) = sgi(register) {
        return match (features.gic, access.is_read()) {
            (GicVersion::V3, false) => Action::Sgi(kind),
            _ => Action::Undefined,
        };
    }
    if let Some(id) = IdReg::from_sysreg(register) {
        return if access.is_read() {
            Action::Id(id)
        } else {
            Action::Undefined
        };
    }
    rare(register, access.is_read(), features)
}

/// The SGI registers.
#[inline]
const fn sgi(register: SysReg) -> Option<SgiKind> {
    match register {
        SysReg::ICC_SGI1R_EL1 => Some(SgiKind::Group1),
        SysReg::ICC_ASGI1R_EL1 => Some(SgiKind::AliasGroup1),
        SysReg::ICC_SGI0R_EL1 => Some(SgiKind::Group0),
        _ => None,
    }
}

/// Everything else, by the first register field.
const fn rare(register: SysReg, read: bool, features: &GuestFeatures) -> Action {
    match register.op0() {
        1 => instruction(register, read),
        2 => debug(register, read, features),
        3 => moved(register, read, features),
        _ => Action::Undefined,
    }
}

/// op0 = 1: system instructions.
const fn instruction(register: SysReg, read: bool) -> Action {
    match register {
        SysReg::DC_ISW | SysReg::DC_CSW | SysReg::DC_CISW if !read => Action::SetWay,
        _ => Action::Undefined,
    }
}

/// op0 = 3: registers for MRS and MSR.
const fn moved(register: SysReg, read: bool, features: &GuestFeatures) -> Action {
    let gic_v3 = matches!(features.gic, GicVersion::V3);
    match register {
        // IMPLEMENTATION DEFINED controls of the core: none of them is the guest's.
        SysReg::ACTLR_EL1 => raz_wi(read),
        SysReg::ICC_SRE_EL1 if gic_v3 && read => Action::Read(SRE_ONLY),
        SysReg::ICC_SRE_EL1 if gic_v3 => Action::Ignore,
        SysReg::ICC_DIR_EL1 if gic_v3 && !read => Action::Deactivate,
        SysReg::CNTPCT_EL0 if read => Action::Timer(PhysicalTimer::Count),
        SysReg::CNTP_TVAL_EL0 => Action::Timer(PhysicalTimer::Value),
        SysReg::CNTP_CTL_EL0 => Action::Timer(PhysicalTimer::Control),
        SysReg::CNTP_CVAL_EL0 => Action::Timer(PhysicalTimer::Compare),
        // PMU, statistical profiling, trace, activity monitors, RAS, LORegions, pointer keys,
        // IMPLEMENTATION DEFINED registers: hidden in the ID registers, so UNDEFINED.
        _ if read => Action::Undefined,
        _ => stage1_write(register),
    }
}

/// Writes under HCR_EL2.TVM (D24.2 "HCR_EL2", field TVM).
const fn stage1_write(register: SysReg) -> Action {
    Action::Stage1(match register {
        SysReg::SCTLR_EL1 => Stage1Reg::Sctlr,
        SysReg::TTBR0_EL1 => Stage1Reg::Ttbr0,
        SysReg::TTBR1_EL1 => Stage1Reg::Ttbr1,
        SysReg::TCR_EL1 => Stage1Reg::Tcr,
        SysReg::ESR_EL1 => Stage1Reg::Esr,
        SysReg::FAR_EL1 => Stage1Reg::Far,
        SysReg::AFSR0_EL1 => Stage1Reg::Afsr0,
        SysReg::AFSR1_EL1 => Stage1Reg::Afsr1,
        SysReg::MAIR_EL1 => Stage1Reg::Mair,
        SysReg::AMAIR_EL1 => Stage1Reg::Amair,
        SysReg::CONTEXTIDR_EL1 => Stage1Reg::Contextidr,
        _ => return Action::Undefined,
    })
}

/// ICC_SRE_EL1 of an interface that has system registers only: SRE, DFB and DIB are RAO/WI.
const SRE_ONLY: u64 = 0b111;

/// op0 = 2: debug registers, under MDCR_EL2.TDA, TDOSA and TDRA. Trace (op1 = 1) is UNDEFINED.
const fn debug(register: SysReg, read: bool, features: &GuestFeatures) -> Action {
    match register {
        SysReg::MDSCR_EL1 => Action::Debug(DebugReg::Control),
        SysReg::OSLAR_EL1 if !read => Action::Debug(DebugReg::OsLockAccess),
        SysReg::OSLSR_EL1 if read => Action::Debug(DebugReg::OsLockStatus),
        // The OS double lock is not implemented (ID_AA64DFR0_EL1.DoubleLock), no external debugger
        // is there to talk to, no claim tag is implemented and there is no debug ROM.
        SysReg::OSDLR_EL1
        | SysReg::DBGPRCR_EL1
        | SysReg::DBGCLAIMSET_EL1
        | SysReg::DBGCLAIMCLR_EL1
        | SysReg::MDCCINT_EL1
        | SysReg::OSDTRRX_EL1
        | SysReg::OSDTRTX_EL1
        | SysReg::OSECCR_EL1
        | SysReg::DBGDTR_EL0
        | SysReg::DBGDTRX_EL0 => raz_wi(read),
        SysReg::MDRAR_EL1 | SysReg::DBGAUTHSTATUS_EL1 | SysReg::MDCCSR_EL0 if read => {
            Action::Read(0)
        }
        _ => point(register, features),
    }
}

/// Breakpoints and watchpoints; those that the core does not have are UNDEFINED.
const fn point(register: SysReg, features: &GuestFeatures) -> Action {
    let number = register.crm();
    let (count, kind) = if register.same_but_crm(SysReg::DBGBVR0_EL1) {
        (features.breakpoints, DebugReg::BreakpointValue(number))
    } else if register.same_but_crm(SysReg::DBGBCR0_EL1) {
        (features.breakpoints, DebugReg::BreakpointControl(number))
    } else if register.same_but_crm(SysReg::DBGWVR0_EL1) {
        (features.watchpoints, DebugReg::WatchpointValue(number))
    } else if register.same_but_crm(SysReg::DBGWCR0_EL1) {
        (features.watchpoints, DebugReg::WatchpointControl(number))
    } else {
        return Action::Undefined;
    };
    if number < count {
        Action::Debug(kind)
    } else {
        Action::Undefined
    }
}

/// Reads as zero, writes are ignored.
const fn raz_wi(read: bool) -> Action {
    if read {
        Action::Read(0)
    } else {
        Action::Ignore
    }
}
