//! The EL2 controls under which [`sysreg`](crate::sysreg) and [`idregs`](crate::idregs) hold.
//!
//! Each function gives a register's whole value while a guest runs. What an ID register hides is
//! trapped, or disabled, wherever the architecture has a control for it; the rest (RNDR, range TLBIs
//! before FEAT_FGT, instructions without state) a guest can use although it is not told.
//! Bits that a core does not implement are RES0 and are left zero. Source: Arm ARM DDI 0487 L.b,
//! D24.2, the description of each register.

use crate::bits::byte;

/// HCR_EL2.
pub mod hcr {
    /// Stage 2 is on.
    pub const VM: u64 = 1 << 0;
    /// DC ISW cleans as well, so that it drops nobody's lines.
    pub const SWIO: u64 = 1 << 1;
    /// A stage-1 walk through Device memory is a Permission fault.
    pub const PTW: u64 = 1 << 2;
    /// FIQ goes to EL2.
    pub const FMO: u64 = 1 << 3;
    /// IRQ goes to EL2.
    pub const IMO: u64 = 1 << 4;
    /// SError goes to EL2.
    pub const AMO: u64 = 1 << 5;
    /// Virtual SError pending.
    pub const VSE: u64 = 1 << 8;
    /// Local TLB and instruction cache maintenance is broadcast.
    pub const FB: u64 = 1 << 9;
    /// Barriers reach the inner shareable domain at least.
    pub const BSU_INNER: u64 = 0b01 << 10;
    /// Default cacheable: never set.
    pub const DC: u64 = 1 << 12;
    /// Trap WFI.
    pub const TWI: u64 = 1 << 13;
    /// Trap WFE.
    pub const TWE: u64 = 1 << 14;
    /// Trap reads of the ID group.
    pub const TID3: u64 = 1 << 18;
    /// Trap SMC.
    pub const TSC: u64 = 1 << 19;
    /// Trap IMPLEMENTATION DEFINED registers.
    pub const TIDCP: u64 = 1 << 20;
    /// Trap ACTLR_EL1.
    pub const TACR: u64 = 1 << 21;
    /// Trap cache maintenance by set and way.
    pub const TSW: u64 = 1 << 22;
    /// Trap writes of the registers that control stage 1.
    pub const TVM: u64 = 1 << 26;
    /// Route EL0's exceptions to EL2: never set.
    pub const TGE: u64 = 1 << 27;
    /// Trap reads of the registers that control stage 1: never set.
    pub const TRVM: u64 = 1 << 30;
    /// EL1 is AArch64.
    pub const RW: u64 = 1 << 31;
    /// Trap LORegion registers.
    pub const TLOR: u64 = 1 << 35;
    /// Trap RAS error records (FEAT_RAS).
    pub const TERR: u64 = 1 << 36;
    /// Synchronous External aborts go to EL2 (FEAT_RAS).
    pub const TEA: u64 = 1 << 37;
    /// Do not trap pointer authentication keys: never set.
    pub const APK: u64 = 1 << 40;
    /// Do not trap pointer authentication instructions: never set.
    pub const API: u64 = 1 << 41;
    /// Do not trap SCXTNUM_ELx: never set.
    pub const EN_SCXT: u64 = 1 << 53;
    /// Allow allocation tags: never set.
    pub const ATA: u64 = 1 << 56;
    /// Trap GMID_EL1 (FEAT_MTE2).
    pub const TID5: u64 = 1 << 58;
}

/// CPTR_EL2, as it is with HCR_EL2.E2H = 0.
pub mod cptr {
    /// RES1.
    pub const RES1: u64 = 0b10_0010_1111_1111;
    /// Trap SVE; RES1 without it.
    pub const TZ: u64 = 1 << 8;
    /// Trap floating point and Advanced SIMD.
    pub const TFP: u64 = 1 << 10;
    /// Trap SME; RES1 without it.
    pub const TSM: u64 = 1 << 12;
    /// Trap trace registers.
    pub const TTA: u64 = 1 << 20;
    /// Trap activity monitors (FEAT_AMUv1).
    pub const TAM: u64 = 1 << 30;
}

/// MDCR_EL2.
pub mod mdcr {
    /// Event counters that EL1 and EL0 may use; more than PMCR_EL0.N is CONSTRAINED UNPREDICTABLE.
    pub const HPMN: u64 = 0x1f;
    /// Trap PMCR_EL0.
    pub const TPMCR: u64 = 1 << 5;
    /// Trap the PMU.
    pub const TPM: u64 = 1 << 6;
    /// Route debug exceptions to EL2.
    pub const TDE: u64 = 1 << 8;
    /// Trap debug registers.
    pub const TDA: u64 = 1 << 9;
    /// Trap OS lock registers.
    pub const TDOSA: u64 = 1 << 10;
    /// Trap debug ROM registers.
    pub const TDRA: u64 = 1 << 11;
    /// Trap statistical profiling controls (FEAT_SPE). Its buffer (E2PB = 0) is EL2's.
    pub const TPMS: u64 = 1 << 14;
    /// No event counting at EL2 (FEAT_PMUv3p1).
    pub const HPMD: u64 = 1 << 17;
    /// Trap trace filter controls (FEAT_TRF). The trace buffer (E2TB = 0) is EL2's.
    pub const TTRF: u64 = 1 << 19;
}

/// CNTHCTL_EL2, as it is with HCR_EL2.E2H = 0.
pub mod cnthctl {
    /// EL1 and EL0 may read the physical counter.
    pub const EL1PCTEN: u64 = 1 << 0;
    /// EL1 and EL0 may use the physical timer.
    pub const EL1PCEN: u64 = 1 << 1;
}

/// ICC_SRE_EL2 (IHI 0069 H, 12.2).
pub mod icc_sre {
    /// EL2 uses system registers.
    pub const SRE: u64 = 1 << 0;
    /// No FIQ bypass.
    pub const DFB: u64 = 1 << 1;
    /// No IRQ bypass.
    pub const DIB: u64 = 1 << 2;
    /// Do not trap ICC_SRE_EL1.
    pub const ENABLE: u64 = 1 << 3;
}

/// HFGWTR_EL2 (FEAT_FGT): traps of writes at EL1.
pub mod hfgwtr {
    /// SCTLR_EL1.
    pub const SCTLR_EL1: u64 = 1 << 29;
    /// TCR_EL1.
    pub const TCR_EL1: u64 = 1 << 32;
    /// TTBR0_EL1.
    pub const TTBR0_EL1: u64 = 1 << 36;
    /// TTBR1_EL1.
    pub const TTBR1_EL1: u64 = 1 << 37;
}

/// HFGITR_EL2 (FEAT_FGT).
pub mod hfgitr {
    /// Trap TLBI by range: outer shareable in bits 27:24, inner shareable in 37:34, local in 41:38.
    pub const TLBI_RANGE: u64 = 0xf << 24 | 0xf << 34 | 0xf << 38;
}

/// What a core implements of what these controls depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuFeatures {
    /// FEAT_RAS.
    pub ras: bool,
    /// FEAT_MTE2.
    pub mte: bool,
    /// FEAT_AMUv1.
    pub amu: bool,
    /// FEAT_SPE.
    pub spe: bool,
    /// FEAT_TRF.
    pub trf: bool,
    /// FEAT_PMUv3.
    pub pmu: bool,
    /// FEAT_PMUv3p1.
    pub pmu_v3p1: bool,
    /// FEAT_FGT: HFGRTR_EL2 and its relatives exist.
    pub fgt: bool,
    /// FEAT_HCX: HCRX_EL2 exists.
    pub hcx: bool,
}

impl CpuFeatures {
    /// The features of a core with these values of ID_AA64PFR0_EL1, ID_AA64PFR1_EL1,
    /// ID_AA64DFR0_EL1, ID_AA64MMFR0_EL1 and ID_AA64MMFR1_EL1.
    #[must_use]
    pub const fn new(pfr0: u64, pfr1: u64, dfr0: u64, mmfr0: u64, mmfr1: u64) -> Self {
        let pmu_version = byte(dfr0, 11, 8);
        let pmu = pmu_version != 0 && pmu_version != 0xf;
        Self {
            ras: byte(pfr0, 31, 28) != 0,
            mte: byte(pfr1, 11, 8) >= 2,
            amu: byte(pfr0, 47, 44) != 0,
            spe: byte(dfr0, 35, 32) != 0,
            trf: byte(dfr0, 43, 40) != 0,
            pmu,
            pmu_v3p1: pmu && pmu_version >= 4,
            fgt: byte(mmfr0, 59, 56) != 0,
            hcx: byte(mmfr1, 43, 40) != 0,
        }
    }
}

/// What varies in HCR_EL2 from VM to VM and in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HcrPolicy {
    /// vCPUs of the VM move between cores, or share one: local maintenance has to be broadcast.
    pub broadcast: bool,
    /// Another vCPU wants the core: WFI gives it up.
    pub trap_wfi: bool,
    /// Likewise WFE.
    pub trap_wfe: bool,
    /// Set/way maintenance is to be answered by EL2.
    pub trap_set_way: bool,
    /// TTBR and its relatives are exchanged by EL2.
    pub trap_stage1: bool,
}

/// HCR_EL2 while a guest runs.
#[must_use]
pub const fn hcr_el2(cpu: &CpuFeatures, policy: HcrPolicy) -> u64 {
    hcr::VM
        | hcr::SWIO
        | hcr::PTW
        | hcr::FMO
        | hcr::IMO
        | hcr::AMO
        | hcr::TID3
        | hcr::TSC
        | hcr::TIDCP
        | hcr::TACR
        | hcr::RW
        | hcr::TLOR
        | when(cpu.ras, hcr::TERR | hcr::TEA)
        | when(cpu.mte, hcr::TID5)
        | when(policy.broadcast, hcr::FB | hcr::BSU_INNER)
        | when(policy.trap_wfi, hcr::TWI)
        | when(policy.trap_wfe, hcr::TWE)
        | when(policy.trap_set_way, hcr::TSW)
        | when(policy.trap_stage1 && !cpu.fgt, hcr::TVM)
}

/// HFGWTR_EL2 while a guest runs, where it exists: what says which roots there are and how they are
/// walked is trapped with [`HcrPolicy::trap_stage1`], and none of the seven other registers that
/// HCR_EL2.TVM would trap with them. The traps of hidden features are active low.
#[must_use]
pub const fn hfgwtr_el2(policy: HcrPolicy) -> u64 {
    when(
        policy.trap_stage1,
        hfgwtr::SCTLR_EL1 | hfgwtr::TCR_EL1 | hfgwtr::TTBR0_EL1 | hfgwtr::TTBR1_EL1,
    )
}

/// CPTR_EL2 while a guest runs; `trap_fp` as long as the registers hold another vCPU's state.
#[must_use]
pub const fn cptr_el2(cpu: &CpuFeatures, trap_fp: bool) -> u64 {
    cptr::RES1
        | cptr::TZ
        | cptr::TSM
        | cptr::TTA
        | when(cpu.amu, cptr::TAM)
        | when(trap_fp, cptr::TFP)
}

/// MDCR_EL2 while a guest runs; `event_counters` is PMCR_EL0.N.
#[must_use]
pub const fn mdcr_el2(cpu: &CpuFeatures, event_counters: u64) -> u64 {
    mdcr::TDA
        | mdcr::TDOSA
        | mdcr::TDRA
        | when(
            cpu.pmu,
            mdcr::TPM | mdcr::TPMCR | (event_counters & mdcr::HPMN),
        )
        | when(cpu.pmu_v3p1, mdcr::HPMD)
        | when(cpu.spe, mdcr::TPMS)
        | when(cpu.trf, mdcr::TTRF)
}

/// CNTHCTL_EL2 while a guest runs: the counter is the guest's, the physical timer is emulated.
pub const CNTHCTL_EL2: u64 = cnthctl::EL1PCTEN;

/// HSTR_EL2 while a guest runs: AArch32 EL0 is the guest kernel's business.
pub const HSTR_EL2: u64 = 0;

/// HCRX_EL2 while a guest runs, where it exists: every enable in it belongs to a hidden feature.
pub const HCRX_EL2: u64 = 0;

/// HFGRTR_EL2, HDFGRTR_EL2 and HDFGWTR_EL2 while a guest runs, where they
/// exist: zero traps the registers of hidden features (their bits are active low) and nothing else.
pub const FINE_GRAINED_REGISTER_TRAPS: u64 = 0;

/// HFGITR_EL2 while a guest runs, where it exists: TLBI by range is hidden, so it is UNDEFINED.
pub const HFGITR_EL2: u64 = hfgitr::TLBI_RANGE;

/// ICC_SRE_EL2: system registers only, and ICC_SRE_EL1 traps where that can be had.
pub const ICC_SRE_EL2: u64 = icc_sre::SRE | icc_sre::DFB | icc_sre::DIB;

/// `bits` if `condition` holds.
const fn when(condition: bool, bits: u64) -> u64 {
    if condition { bits } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: CpuFeatures = CpuFeatures {
        ras: true,
        mte: true,
        amu: true,
        spe: true,
        trf: true,
        pmu: true,
        pmu_v3p1: true,
        fgt: true,
        hcx: true,
    };
    const NOTHING: CpuFeatures = CpuFeatures {
        ras: false,
        mte: false,
        amu: false,
        spe: false,
        trf: false,
        pmu: false,
        pmu_v3p1: false,
        fgt: false,
        hcx: false,
    };

    #[test]
    fn hcr_has_what_the_design_demands() {
        let policies = (0..32u8).map(|bits| HcrPolicy {
            broadcast: bits & 1 != 0,
            trap_wfi: bits & 2 != 0,
            trap_wfe: bits & 4 != 0,
            trap_set_way: bits & 8 != 0,
            trap_stage1: bits & 16 != 0,
        });
        // Rule 2 of docs/rules.md: VM RW IMO FMO AMO SWIO PTW TSC TACR TIDCP TID3 TLOR.
        let always = 0x0000_0008_803c_003f;
        let never = hcr::TRVM | hcr::DC | hcr::TGE | hcr::API | hcr::APK | hcr::ATA | hcr::EN_SCXT;
        for policy in policies {
            for cpu in [&NOTHING, &EVERYTHING] {
                let value = hcr_el2(cpu, policy);
                assert_eq!(value & always, always);
                assert_eq!(value & never, 0);
                assert_eq!(value & hcr::FB != 0, policy.broadcast);
                assert_eq!(value & hcr::BSU_INNER != 0, policy.broadcast);
                assert_eq!(value & hcr::TWI != 0, policy.trap_wfi);
                assert_eq!(value & hcr::TWE != 0, policy.trap_wfe);
                assert_eq!(value & hcr::TSW != 0, policy.trap_set_way);
                let traps = value & hcr::TVM != 0;
                assert_eq!(traps, policy.trap_stage1 && !cpu.fgt);
                let roots = 1 << 29 | 1 << 32 | 1 << 36 | 1 << 37;
                let traps = hfgwtr_el2(policy);
                assert_eq!(traps, if policy.trap_stage1 { roots } else { 0 });
            }
        }
        assert_eq!(hcr_el2(&NOTHING, HcrPolicy::default()), always);
        assert_eq!(
            hcr_el2(&EVERYTHING, HcrPolicy::default()),
            always | 0x0400_0030_0000_0000
        );
    }

    #[test]
    fn values_on_an_armv8_0_core() {
        assert_eq!(cptr_el2(&NOTHING, false), 0x10_33ff);
        assert_eq!(cptr_el2(&NOTHING, true), 0x10_37ff);
        assert_eq!(mdcr_el2(&NOTHING, 6), 0xe00);
        let pmu_v3 = CpuFeatures {
            pmu: true,
            ..NOTHING
        };
        assert_eq!(mdcr_el2(&pmu_v3, 6), 0xe66);
        assert_eq!(ICC_SRE_EL2 & icc_sre::ENABLE, 0);
        assert_eq!(CNTHCTL_EL2 & cnthctl::EL1PCEN, 0);
    }

    #[test]
    fn values_with_every_feature() {
        assert_eq!(cptr_el2(&EVERYTHING, false), 0x4010_33ff);
        assert_eq!(mdcr_el2(&EVERYTHING, u64::MAX), 0xa_4e7f);
        assert_eq!(mdcr_el2(&EVERYTHING, 0) & mdcr::TDE, 0);
    }

    #[test]
    fn features_come_from_id_registers() {
        assert_eq!(CpuFeatures::new(0, 0, 0, 0, 0), NOTHING);
        let pfr0 = 1 << 28 | 1 << 44;
        let dfr0 = 6 << 8 | 1 << 32 | 1 << 40;
        assert_eq!(
            CpuFeatures::new(pfr0, 2 << 8, dfr0, 1 << 56, 1 << 40),
            EVERYTHING
        );
        // An IMPLEMENTATION DEFINED PMU is not FEAT_PMUv3.
        assert!(!CpuFeatures::new(0, 0, 0xf << 8, 0, 0).pmu_v3p1);
    }

    #[test]
    fn range_tlbis_are_the_trapped_instructions() {
        let bits = (24..=27)
            .chain(34..=41)
            .fold(0, |all, bit| all | 1u64 << bit);
        assert_eq!(HFGITR_EL2, bits);
    }
}
