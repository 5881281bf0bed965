//! The allow-list of the AArch32 ID registers, which describe AArch32 at EL0: EL1 of a guest is
//! AArch64.

use penumbra_abi::GicVersion;

use super::filter::Filter;
use super::{GuestFeatures, IdReg};

/// Every four-bit field of a 32-bit register.
const EVERY_FIELD: [u32; 8] = [0, 4, 8, 12, 16, 20, 24, 28];

/// What a guest reads from an AArch32 ID register.
pub(super) const fn filter(register: IdReg, hardware: u64, features: &GuestFeatures) -> u64 {
    let all = Filter::of(hardware);
    match register {
        IdReg::ID_PFR0 => pfr0(all),
        IdReg::ID_PFR1 => pfr1(all, features.gic),
        // SSBS and CSV3, not RAS_frac.
        IdReg::ID_PFR2 => all.at_most(0, 1).at_most(4, 1),
        // CopDbg, not trace or PMU.
        IdReg::ID_DFR0 => all.at_most(0, ARMV8_2_DEBUG),
        IdReg::ID_MMFR0 => mmfr0(all),
        // BPred; the other fields are zero in Armv8.
        IdReg::ID_MMFR1 => all.at_most(28, 4),
        // UniTLB, MemBarr, WFIStall; not HWAccFlg.
        IdReg::ID_MMFR2 => all.at_most(16, 6).at_most(20, 2).at_most(24, 1),
        IdReg::ID_MMFR3 => mmfr3(all),
        // SpecSEI, AC2, LSM, CCIDX; not XNX, CnP, HPDS, EVT.
        IdReg::ID_MMFR4 => all
            .at_most(0, 1)
            .at_most(4, 1)
            .at_most(20, 1)
            .at_most(24, 1),
        // nTLBPA, not ETS.
        IdReg::ID_MMFR5 => all.at_most(4, 1),
        // Instructions, all of whose fields are defined: none has state or control of its own.
        IdReg::ID_ISAR0
        | IdReg::ID_ISAR1
        | IdReg::ID_ISAR2
        | IdReg::ID_ISAR3
        | IdReg::ID_ISAR4
        | IdReg::ID_ISAR6
        | IdReg::MVFR0
        | IdReg::MVFR1 => all.pass_all(&EVERY_FIELD),
        // Bits 23:20 are reserved.
        IdReg::ID_ISAR5 => all.pass_all(&[0, 4, 8, 12, 16, 24, 28]),
        // SIMDMisc, FPMisc.
        IdReg::MVFR2 => all.at_most(0, 3).at_most(4, 4),
        // AFR0, DFR1 and what has no name.
        _ => Filter::of(0),
    }
    .value()
}

/// ID_DFR0_EL1.CopDbg: the debug architecture of Armv8.2, as ID_AA64DFR0_EL1 has it.
const ARMV8_2_DEBUG: u8 = 8;

/// State0 to State3, CSV2, DIT; not AMU, RAS.
const fn pfr0(all: Filter) -> Filter {
    all.at_most(0, 1)
        .at_most(4, 3)
        .at_most(8, 2)
        .at_most(12, 1)
        .at_most(16, 1)
        .at_most(24, 1)
}

/// ProgMod, GenTimer, GIC; not Security, MProgMod, Virtualization and their fractions.
const fn pfr1(all: Filter, gic: GicVersion) -> Filter {
    const PROG_MOD: u32 = 0;
    const GEN_TIMER: u32 = 16;
    const GIC: u32 = 28;
    all.at_most(PROG_MOD, 1).at_most(GEN_TIMER, 1).fixed(
        GIC,
        match gic {
            GicVersion::V2 => 0,
            GicVersion::V3 => 1,
        },
    )
}

/// VMSA, OuterShr, ShareLvl, AuxReg, InnerShr; not PMSA, TCM, FCSE.
const fn mmfr0(all: Filter) -> Filter {
    all.at_most(0, 5)
        .signed_at_most(8, 1)
        .at_most(12, 1)
        .at_most(20, 2)
        .signed_at_most(28, 1)
}

/// CMaintVA, CMaintSW, BPMaint, MaintBcst, PAN, CohWalk, CMemSz, Supersec.
const fn mmfr3(all: Filter) -> Filter {
    all.at_most(0, 1)
        .at_most(4, 1)
        .at_most(8, 2)
        .at_most(12, 2)
        .at_most(16, 2)
        .at_most(20, 1)
        .at_most(24, 2)
        .signed_at_most(28, 0)
}
