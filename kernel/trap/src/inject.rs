//! How EL1 takes an exception that EL2 injects.
//!
//! EL2 does what the hardware would have done had the exception gone to EL1: new PC and PSTATE,
//! ELR_EL1, SPSR_EL1, ESR_EL1 and, where the architecture defines it, FAR_EL1. Sources: Arm ARM DDI
//! 0487 L.b, D1.3 "Exceptions", `AArch64.TakeException`; C5.2 "SPSR_EL1"; D24.2 "ESR_EL1".

use crate::bits::{bit, byte};
use crate::esr::{Esr, ec};

/// PSTATE as SPSR_ELx holds it.
mod pstate {
    /// N, Z, C and V.
    pub(super) const FLAGS: u64 = 0xf << 28;
    /// Tag check override.
    pub(super) const TCO: u64 = 1 << 25;
    /// Data independent timing.
    pub(super) const DIT: u64 = 1 << 24;
    /// Privileged access never.
    pub(super) const PAN: u64 = 1 << 22;
    /// Speculative store bypass safe, AArch64 layout.
    pub(super) const SSBS: u64 = 1 << 12;
    /// D, A, I and F masks.
    pub(super) const DAIF: u64 = 0xf << 6;
    /// nRW: AArch32 state.
    pub(super) const AARCH32: u32 = 4;
    /// EL1 with SP_EL1.
    pub(super) const EL1H: u64 = 0b0101;
    /// EL1 with SP_EL0.
    pub(super) const EL1T: u64 = 0b0100;
    /// M[3:0].
    pub(super) const MODE: u64 = 0xf;
}

/// SCTLR_EL1.SPAN: 0 sets PAN on an exception to EL1.
const SCTLR_SPAN: u32 = 23;
/// SCTLR_EL1.DSSBS: the value of SSBS on an exception to EL1.
const SCTLR_DSSBS: u32 = 44;

/// Where the vCPU is interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupted {
    /// ELR_EL2: the instruction that takes the exception.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
    /// VBAR_EL1.
    pub vbar: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
}

/// What the hardware implements and an exception entry must therefore keep up, whether or not the
/// guest is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EntryFeatures {
    /// FEAT_PAN.
    pub pan: bool,
    /// FEAT_SSBS.
    pub ssbs: bool,
    /// FEAT_MTE2.
    pub mte: bool,
}

impl EntryFeatures {
    /// The features of a core with these values of ID_AA64MMFR1_EL1 and ID_AA64PFR1_EL1.
    #[must_use]
    pub const fn new(mmfr1: u64, pfr1: u64) -> Self {
        Self {
            pan: byte(mmfr1, 23, 20) >= 1,
            ssbs: byte(pfr1, 7, 4) >= 1,
            mte: byte(pfr1, 11, 8) >= 2,
        }
    }
}

/// An exception to inject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exception {
    /// The instruction is UNDEFINED.
    Undefined,
    /// Synchronous External abort of an instruction fetch.
    InstructionAbort(Abort),
    /// Synchronous External abort of a data access.
    DataAbort {
        /// Where.
        abort: Abort,
        /// WnR.
        write: bool,
        /// CM: the access is cache maintenance.
        cache_maintenance: bool,
    },
    /// A synchronous exception that hardware reported to EL2 as it would have to EL1 (alignment of PC
    /// or SP, illegal state, BTI, FP exceptions, pointer authentication failure ...): the syndrome as
    /// it is, and FAR if the class defines it.
    Forwarded {
        /// ESR_EL2.
        esr: Esr,
        /// FAR_EL2.
        far: u64,
    },
    /// SError interrupt, without a syndrome that software could use. This ignores PSTATE.A;
    /// HCR_EL2.VSE makes one pending that respects it.
    Serror,
}

/// Where an aborting access went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// The virtual address, or `None` if it is not known (FnV).
    pub far: Option<u64>,
    /// The level of stage 1 whose table walk was refused, -1 to 3, or `None` for the access itself.
    pub walk_level: Option<i8>,
}

/// The state of the vCPU after the exception was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Entry {
    /// ELR_EL2 to return to: the vector.
    pub pc: u64,
    /// SPSR_EL2 to return with.
    pub pstate: u64,
    /// ELR_EL1.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1, or `None` to leave it.
    pub far: Option<u64>,
}

/// The state of the vCPU after it took `exception`.
pub const fn enter_el1(exception: Exception, from: &Interrupted, features: EntryFeatures) -> Entry {
    let base = match exception {
        Exception::Serror => SERROR_VECTOR,
        _ => SYNCHRONOUS_VECTOR,
    };
    let (esr, far) = syndrome(exception, from.pstate);
    Entry {
        // A guest's VBAR_EL1 may be at the top of the address space; hardware wraps as well.
        pc: (from.vbar & VBAR_BASE).wrapping_add(vector_group(from.pstate) + base),
        pstate: new_pstate(from, features),
        elr: from.pc,
        spsr: from.pstate,
        esr,
        far,
    }
}

/// Offset of synchronous exceptions in a group of vectors.
const SYNCHRONOUS_VECTOR: u64 = 0x000;
/// Offset of SError interrupts in a group of vectors.
const SERROR_VECTOR: u64 = 0x180;
/// VBAR_EL1: bits 10:0 are RES0.
const VBAR_BASE: u64 = !0x7ff;

/// The vectors for where the exception comes from (D1.3.1 "Exception vectors").
const fn vector_group(pstate: u64) -> u64 {
    if bit(pstate, pstate::AARCH32) {
        return 0x600;
    }
    match pstate & pstate::MODE {
        pstate::EL1T => 0x000,
        pstate::EL1H => 0x200,
        _ => 0x400,
    }
}

/// Whether the exception comes from EL0.
const fn from_el0(pstate: u64) -> bool {
    bit(pstate, pstate::AARCH32) || (pstate & pstate::MODE) == 0
}

/// PSTATE at the first instruction of the vector: EL1h, everything masked, AArch64; UAO, SS, IL,
/// BTYPE zero; NZCV and DIT kept.
const fn new_pstate(from: &Interrupted, features: EntryFeatures) -> u64 {
    let mut new = from.pstate & (pstate::FLAGS | pstate::DIT) | pstate::DAIF | pstate::EL1H;
    if features.pan {
        new |= from.pstate & pstate::PAN;
        if !bit(from.sctlr, SCTLR_SPAN) {
            new |= pstate::PAN;
        }
    }
    if features.ssbs && bit(from.sctlr, SCTLR_DSSBS) {
        new |= pstate::SSBS;
    }
    if features.mte {
        new |= pstate::TCO;
    }
    new
}

/// ESR_ELx.IL.
const IL: u64 = 1 << 25;
/// ISS of an abort: FnV.
const FNV: u64 = 1 << 10;
/// ISS of a data abort: CM.
const CM: u64 = 1 << 8;
/// ISS of a data abort: WnR.
const WNR: u64 = 1 << 6;
/// Status code: synchronous External abort, not on a table walk.
const EXTERNAL: u64 = 0x10;
/// Status code: synchronous External abort on a table walk, level 0.
const EXTERNAL_ON_WALK: u64 = 0x14;
/// Status code: synchronous External abort on a table walk, level -1.
const EXTERNAL_ON_WALK_MINUS_1: u64 = 0x13;

/// ESR_EL1 and FAR_EL1.
const fn syndrome(exception: Exception, pstate: u64) -> (u64, Option<u64>) {
    match exception {
        Exception::Undefined => (class(ec::UNKNOWN) | IL, None),
        Exception::InstructionAbort(abort) => {
            let lower = ec::INSTRUCTION_ABORT_LOWER;
            abort_syndrome(lower, pstate, abort, 0)
        }
        Exception::DataAbort {
            abort,
            write,
            cache_maintenance,
        } => {
            let wnr = if write { WNR } else { 0 };
            let iss = wnr | if cache_maintenance { CM } else { 0 };
            abort_syndrome(ec::DATA_ABORT_LOWER, pstate, abort, iss)
        }
        Exception::Forwarded { esr, far } => {
            let far = match esr.class() {
                ec::PC_ALIGNMENT => Some(far),
                _ => None,
            };
            (esr.raw(), far)
        }
        Exception::Serror => (class(ec::SERROR) | IL | SERROR_IDS, None),
    }
}

/// ESR_ELx of an SError: IDS, the rest of the syndrome is IMPLEMENTATION DEFINED (and zero).
const SERROR_IDS: u64 = 1 << 24;

/// The syndrome of an External abort. ISV is 0: EL1 never sees it set.
const fn abort_syndrome(
    class_from_lower: u8,
    pstate: u64,
    abort: Abort,
    iss: u64,
) -> (u64, Option<u64>) {
    // The class without a change of Exception level is the next one.
    let class = class(if from_el0(pstate) {
        class_from_lower
    } else {
        class_from_lower + 1
    });
    let status = match abort.walk_level {
        None => EXTERNAL,
        Some(level @ 0..=3) => EXTERNAL_ON_WALK + level.cast_unsigned() as u64,
        Some(_) => EXTERNAL_ON_WALK_MINUS_1,
    };
    // FnV is defined for an abort that is not on a table walk; on a walk FAR is always valid, and
    // EL2 has it then: the address under translation.
    let fnv = if abort.far.is_none() { FNV } else { 0 };
    (class | IL | fnv | iss | status, abort.far)
}

/// An exception class at its place in ESR_ELx.
const fn class(class: u8) -> u64 {
    (class as u64) << 26
}

#[cfg(test)]
#[path = "inject_tests.rs"]
mod tests;
