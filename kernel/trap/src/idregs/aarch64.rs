//! The allow-list of the AArch64 ID registers.
//!
//! What is missing from a list is hidden; the comments name what is hidden on purpose and why.
//! Besides features that EL2 does not virtualise (SVE, SME, PMU, ...) those are hidden that would
//! defeat a compound page table: see `docs/traps.md`.

use penumbra_abi::GicVersion;

use super::filter::Filter;
use super::{GuestFeatures, IdReg};

/// What a guest reads from an AArch64 ID register.
pub(super) const fn filter(register: IdReg, hardware: u64, features: &GuestFeatures) -> u64 {
    let all = Filter::of(hardware);
    match register {
        IdReg::ID_AA64PFR0 => pfr0(all, features.gic),
        IdReg::ID_AA64PFR1 => pfr1(all),
        IdReg::ID_AA64DFR0 => dfr0(all),
        IdReg::ID_AA64ISAR0 => isar0(all),
        IdReg::ID_AA64ISAR1 => isar1(all),
        IdReg::ID_AA64ISAR2 => isar2(all),
        IdReg::ID_AA64MMFR0 => mmfr0(all),
        IdReg::ID_AA64MMFR1 => mmfr1(all),
        IdReg::ID_AA64MMFR2 => mmfr2(all),
        // ZFR0, SMFR0, FPFR0, PFR2, DFR1, DFR2, AFR0, AFR1, ISAR3, MMFR3, MMFR4 and what has no name
        // yet: nothing in them is for a guest.
        _ => Filter::of(0),
    }
    .value()
}

/// Hidden: SVE, RAS, AMU, MPAM, SEL2, RME; EL2 and EL3 do not exist for a guest.
const fn pfr0(all: Filter, gic: GicVersion) -> Filter {
    const EL0: u32 = 0;
    const EL1: u32 = 4;
    const FP: u32 = 16;
    const ADV_SIMD: u32 = 20;
    const GIC: u32 = 24;
    const DIT: u32 = 48;
    const CSV2: u32 = 56;
    const CSV3: u32 = 60;
    const AARCH64_ONLY: u8 = 1;
    // CSV2 = 2 would promise SCXTNUM_ELx, which HCR_EL2.EnSCXT = 0 traps.
    all.at_most(EL0, 2)
        .fixed(EL1, AARCH64_ONLY)
        .signed_at_most(FP, 1)
        .signed_at_most(ADV_SIMD, 1)
        .fixed(
            GIC,
            match gic {
                GicVersion::V2 => 0,
                GicVersion::V3 => 1,
            },
        )
        .at_most(DIT, 1)
        .at_most(CSV2, 1)
        .at_most(CSV3, 1)
}

/// Hidden: MTE, RAS_frac, MPAM_frac, SME, RNDR_trap, CSV2_frac, NMI, GCS, THE, DF2, PFAR.
const fn pfr1(all: Filter) -> Filter {
    const BT: u32 = 0;
    const SSBS: u32 = 4;
    all.at_most(BT, 1).at_most(SSBS, 2)
}

/// Hidden: trace, PMU, statistical profiling, trace buffer, branch records.
const fn dfr0(all: Filter) -> Filter {
    const DEBUG_VER: u32 = 0;
    const BRPS: u32 = 12;
    const WRPS: u32 = 20;
    const CTX_CMPS: u32 = 28;
    const DOUBLE_LOCK: u32 = 36;
    const ARMV8_2_DEBUG: u8 = 8;
    const NOT_IMPLEMENTED: u8 = 0xf;
    // OSDLR_EL1 is RAZ/WI, which is what the architecture says of it without a double lock.
    all.at_most(DEBUG_VER, ARMV8_2_DEBUG)
        .pass_all(&[BRPS, WRPS, CTX_CMPS])
        .fixed(DOUBLE_LOCK, NOT_IMPLEMENTED)
}

/// Hidden: RNDR (Linux would seed KASLR from it, which forces KPTI on), TME; TLB = 2 (TLBIRANGE: its
/// operand carries a TTL).
const fn isar0(all: Filter) -> Filter {
    const AES: u32 = 4;
    const SHA1: u32 = 8;
    const SHA2: u32 = 12;
    const CRC32: u32 = 16;
    const ATOMIC: u32 = 20;
    const RDM: u32 = 28;
    const SHA3: u32 = 32;
    const SM3: u32 = 36;
    const SM4: u32 = 40;
    const DP: u32 = 44;
    const FHM: u32 = 48;
    const TS: u32 = 52;
    const TLB: u32 = 56;
    const OUTER_SHAREABLE: u8 = 1;
    all.at_most(AES, 2)
        .at_most(SHA1, 1)
        .at_most(SHA2, 2)
        .at_most(CRC32, 1)
        .at_most(ATOMIC, 2)
        .at_most(RDM, 1)
        .at_most(SHA3, 1)
        .at_most(SM3, 1)
        .at_most(SM4, 1)
        .at_most(DP, 1)
        .at_most(FHM, 1)
        .at_most(TS, 2)
        .at_most(TLB, OUTER_SHAREABLE)
}

/// Hidden: APA, API, GPA, GPI (pointer authentication: HCR_EL2.API and APK trap it), XS, LS64 (their
/// controls are in HCRX_EL2, which is zero).
const fn isar1(all: Filter) -> Filter {
    const DPB: u32 = 0;
    const JSCVT: u32 = 12;
    const FCMA: u32 = 16;
    const LRCPC: u32 = 20;
    const FRINTTS: u32 = 32;
    const SB: u32 = 36;
    const SPECRES: u32 = 40;
    const BF16: u32 = 44;
    const DGH: u32 = 48;
    const I8MM: u32 = 52;
    all.at_most(DPB, 2)
        .at_most(JSCVT, 1)
        .at_most(FCMA, 1)
        .at_most(LRCPC, 2)
        .at_most(FRINTTS, 1)
        .at_most(SB, 1)
        .at_most(SPECRES, 1)
        .at_most(BF16, 2)
        .at_most(DGH, 1)
        .at_most(I8MM, 1)
}

/// Hidden: WFxT (a trapped WFIT would need a timer of EL2's), GPA3, APA3, PAC_frac, MOPS, SYSREG_128.
const fn isar2(all: Filter) -> Filter {
    const RPRES: u32 = 4;
    const BC: u32 = 20;
    const CLRBHB: u32 = 28;
    const RPRFM: u32 = 48;
    const CSSC: u32 = 52;
    all.at_most(RPRES, 1)
        .at_most(BC, 1)
        .at_most(CLRBHB, 1)
        .at_most(RPRFM, 1)
        .at_most(CSSC, 1)
}

/// Hidden: FGT, ECV; the stage-2 granules, which only EL2 could use; LPA2 (TGRAN4 and TGRAN16 with 52
/// bits). A guest's physical address space has 40 bits, its IPA space.
const fn mmfr0(all: Filter) -> Filter {
    const PA_RANGE: u32 = 0;
    const ASID_BITS: u32 = 4;
    const BIG_END: u32 = 8;
    const SNS_MEM: u32 = 12;
    const BIG_END_EL0: u32 = 16;
    const TGRAN16: u32 = 20;
    const TGRAN64: u32 = 24;
    const TGRAN4: u32 = 28;
    const EXS: u32 = 44;
    const BITS_40: u8 = 2;
    all.at_most(PA_RANGE, BITS_40)
        .at_most(ASID_BITS, 2)
        .at_most(BIG_END, 1)
        .at_most(SNS_MEM, 1)
        .at_most(BIG_END_EL0, 1)
        .at_most(TGRAN16, 1)
        .signed_at_most(TGRAN64, 0)
        .signed_at_most(TGRAN4, 0)
        .at_most(EXS, 1)
}

/// Hidden: HAFDBS (hardware would set Access flag and dirty state in EL2's copy of a table), HPDS,
/// LO, VH, VMIDBits, XNX, TWED, HCX, TIDCP1, CMOW; ETS (a promise about table walks that a mirrored
/// table does not keep).
const fn mmfr1(all: Filter) -> Filter {
    const PAN: u32 = 20;
    const SPEC_SEI: u32 = 24;
    const AFP: u32 = 44;
    const N_TLBPA: u32 = 48;
    const ECBHB: u32 = 60;
    all.at_most(PAN, 3)
        .at_most(SPEC_SEI, 1)
        .at_most(AFP, 1)
        .at_most(N_TLBPA, 1)
        .at_most(ECBHB, 1)
}

/// Hidden: CnP, TTL, BBM, LVA (VARange), NV, FWB, EVT, IESB (part of RAS).
const fn mmfr2(all: Filter) -> Filter {
    const UAO: u32 = 4;
    const LSM: u32 = 8;
    const CCIDX: u32 = 20;
    const ST: u32 = 28;
    const AT: u32 = 32;
    const IDS: u32 = 36;
    const E0PD: u32 = 60;
    all.at_most(UAO, 1)
        .at_most(LSM, 1)
        .at_most(CCIDX, 1)
        .at_most(ST, 1)
        .at_most(AT, 1)
        .at_most(IDS, 1)
        .at_most(E0PD, 1)
}
