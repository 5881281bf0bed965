use super::*;

const V3: GuestFeatures = GuestFeatures {
    gic: GicVersion::V3,
    aarch32_el0: true,
    breakpoints: 6,
    watchpoints: 4,
};
const V2: GuestFeatures = GuestFeatures {
    gic: GicVersion::V2,
    ..V3
};
const NO_AARCH32: GuestFeatures = GuestFeatures {
    aarch32_el0: false,
    ..V3
};

fn all() -> impl Iterator<Item = IdReg> {
    (0..IdReg::COUNT).map(|index| IdReg::from_index(index).unwrap())
}

#[test]
fn a_hidden_field_stays_zero_whatever_the_hardware_has() {
    let rows: [(IdReg, &[(&str, u32)]); 9] = [
        (
            IdReg::ID_AA64PFR0,
            &[
                ("EL2", 8),
                ("EL3", 12),
                ("RAS", 28),
                ("SVE", 32),
                ("SEL2", 36),
                ("MPAM", 40),
                ("AMU", 44),
                ("RME", 52),
            ],
        ),
        (
            IdReg::ID_AA64PFR1,
            &[
                ("MTE", 8),
                ("RAS_frac", 12),
                ("MPAM_frac", 16),
                ("reserved", 20),
                ("SME", 24),
                ("RNDR_trap", 28),
                ("CSV2_frac", 32),
                ("NMI", 36),
                ("MTE_frac", 40),
                ("GCS", 44),
                ("THE", 48),
                ("MTEX", 52),
                ("DF2", 56),
                ("PFAR", 60),
            ],
        ),
        (
            IdReg::ID_AA64DFR0,
            &[
                ("TraceVer", 4),
                ("PMUVer", 8),
                ("PMSS", 16),
                ("SEBEP", 24),
                ("PMSVer", 32),
                ("TraceFilt", 40),
                ("TraceBuffer", 44),
                ("MTPMU", 48),
                ("BRBE", 52),
                ("ExtTrcBuff", 56),
                ("HPMN0", 60),
            ],
        ),
        (
            IdReg::ID_AA64ISAR0,
            &[("reserved", 0), ("TME", 24), ("RNDR", 60)],
        ),
        (
            IdReg::ID_AA64ISAR1,
            &[
                ("APA", 4),
                ("API", 8),
                ("GPA", 24),
                ("GPI", 28),
                ("XS", 56),
                ("LS64", 60),
            ],
        ),
        (
            IdReg::ID_AA64ISAR2,
            &[
                ("WFxT", 0),
                ("GPA3", 8),
                ("APA3", 12),
                ("MOPS", 16),
                ("PAC_frac", 24),
                ("SYSREG_128", 32),
                ("SYSINSTR_128", 36),
                ("PRFMSLC", 40),
                ("reserved", 44),
                ("LUT", 56),
                ("ATS1A", 60),
            ],
        ),
        (
            IdReg::ID_AA64MMFR0,
            &[
                ("TGRAN16_2", 32),
                ("TGRAN64_2", 36),
                ("TGRAN4_2", 40),
                ("reserved", 48),
                ("FGT2", 52),
                ("FGT", 56),
                ("ECV", 60),
            ],
        ),
        (
            IdReg::ID_AA64MMFR1,
            &[
                ("HAFDBS", 0),
                ("VMIDBits", 4),
                ("VH", 8),
                ("HPDS", 12),
                ("LO", 16),
                ("XNX", 28),
                ("TWED", 32),
                ("ETS", 36),
                ("HCX", 40),
                ("TIDCP1", 52),
                ("CMOW", 56),
            ],
        ),
        (
            IdReg::ID_AA64MMFR2,
            &[
                ("CnP", 0),
                ("IESB", 12),
                ("VARange", 16),
                ("NV", 24),
                ("FWB", 40),
                ("reserved", 44),
                ("TTL", 48),
                ("BBM", 52),
                ("EVT", 56),
            ],
        ),
    ];
    for (register, fields) in rows {
        for (name, low) in fields {
            for value in 0..16 {
                // The field alone, and with every other field at the same value.
                for hardware in [value << low, value * 0x1111_1111_1111_1111] {
                    let guest = filter(register, hardware, &V3) >> low & 0xf;
                    assert_eq!(guest, 0, "{register:?} {name} {value}");
                }
            }
        }
    }
}

#[test]
fn no_field_leaks_into_another_and_none_exceeds_the_hardware() {
    for register in all() {
        let nothing = filter(register, 0, &V3);
        for low in (0..64).step_by(4) {
            for value in 0..16 {
                let guest = filter(register, value << low, &V3);
                let mask = 0xf << low;
                assert_eq!(guest & !mask, nothing & !mask, "{register:?} {low} {value}");
                let (got, fixed) = (guest >> low & 0xf, nothing >> low & 0xf);
                // A signed "not implemented" may be normalised to 0b1111.
                assert!(
                    got <= value || got == fixed || (value >= 8 && got == 0xf),
                    "{register:?}"
                );
            }
        }
    }
}

#[test]
fn registers_without_a_name_or_a_use_read_zero() {
    let hidden = [
        IdReg::ID_AFR0,
        IdReg::ID_DFR1,
        IdReg::ID_AA64PFR2,
        IdReg::ID_AA64ZFR0,
        IdReg::ID_AA64SMFR0,
        IdReg::ID_AA64FPFR0,
        IdReg::ID_AA64DFR1,
        IdReg::ID_AA64DFR2,
        IdReg::ID_AA64AFR0,
        IdReg::ID_AA64AFR1,
        IdReg::ID_AA64ISAR3,
        IdReg::ID_AA64MMFR3,
        IdReg::ID_AA64MMFR4,
    ];
    for register in all() {
        let named = IdReg::NAMED.iter().any(|(_, named)| *named == register);
        let guest = filter(register, u64::MAX, &V3);
        assert_eq!(
            guest == 0,
            !named || hidden.contains(&register),
            "{register:?}"
        );
    }
}

#[test]
fn fields_that_are_told_are_told_up_to_what_is_understood() {
    let rows = [
        // register, lowest bit, hardware, guest
        (IdReg::ID_AA64PFR0, 0, 2, 2),
        (IdReg::ID_AA64PFR0, 0, 1, 1),
        (IdReg::ID_AA64PFR0, 4, 2, 1),
        (IdReg::ID_AA64PFR0, 16, 0xf, 0xf),
        (IdReg::ID_AA64PFR0, 16, 1, 1),
        (IdReg::ID_AA64PFR0, 20, 0, 0),
        (IdReg::ID_AA64PFR0, 48, 1, 1),
        (IdReg::ID_AA64PFR0, 56, 3, 1),
        (IdReg::ID_AA64PFR0, 60, 1, 1),
        (IdReg::ID_AA64PFR1, 4, 2, 2),
        (IdReg::ID_AA64PFR1, 0, 1, 1),
        (IdReg::ID_AA64DFR0, 0, 6, 6),
        (IdReg::ID_AA64DFR0, 0, 0xa, 8),
        (IdReg::ID_AA64DFR0, 36, 0, 0xf),
        (IdReg::ID_AA64ISAR0, 20, 2, 2),
        (IdReg::ID_AA64ISAR0, 20, 3, 2),
        (IdReg::ID_AA64ISAR0, 56, 2, 1),
        (IdReg::ID_AA64ISAR2, 28, 1, 1),
        (IdReg::ID_AA64MMFR0, 0, 1, 1),
        (IdReg::ID_AA64MMFR0, 0, 6, 2),
        (IdReg::ID_AA64MMFR0, 4, 2, 2),
        (IdReg::ID_AA64MMFR0, 20, 2, 1),
        (IdReg::ID_AA64MMFR0, 24, 0xf, 0xf),
        (IdReg::ID_AA64MMFR0, 28, 0xf, 0xf),
        (IdReg::ID_AA64MMFR0, 28, 1, 0),
        (IdReg::ID_AA64MMFR1, 20, 3, 3),
        (IdReg::ID_AA64MMFR1, 60, 1, 1),
        (IdReg::ID_AA64MMFR2, 60, 1, 1),
        (IdReg::ID_AA64MMFR2, 20, 1, 1),
        (IdReg::ID_AA64MMFR2, 36, 1, 1),
        (IdReg::ID_PFR2, 0, 1, 1),
        (IdReg::ID_PFR2, 8, 1, 0),
    ];
    for (register, low, hardware, guest) in rows {
        let got = filter(register, hardware << low, &V3) >> low & 0xf;
        assert_eq!(got, guest, "{register:?} {low} {hardware}");
    }
}

#[test]
fn the_gic_fields_follow_the_guest() {
    for hardware in [0, u64::MAX] {
        assert_eq!(filter(IdReg::ID_AA64PFR0, hardware, &V3) >> 24 & 0xf, 1);
        assert_eq!(filter(IdReg::ID_AA64PFR0, hardware, &V2) >> 24 & 0xf, 0);
        assert_eq!(filter(IdReg::ID_PFR1, hardware, &V3) >> 28 & 0xf, 1);
        assert_eq!(filter(IdReg::ID_PFR1, hardware, &V2) >> 28 & 0xf, 0);
    }
}

#[test]
fn without_aarch32_its_registers_read_zero() {
    for register in all().filter(|register| register.index() < IdReg::ID_AA64PFR0.index()) {
        assert_eq!(filter(register, u64::MAX, &NO_AARCH32), 0, "{register:?}");
    }
    assert_ne!(filter(IdReg::ID_AA64ISAR0, u64::MAX, &NO_AARCH32), 0);
}

#[test]
fn a_cortex_a72_as_a_guest_sees_it() {
    let rows = [
        // register, Cortex-A72 r0p3 TRM (100095_0003_06, 4.3), guest
        (IdReg::ID_AA64PFR0, 0x0000_2222, 0x0100_0012),
        (IdReg::ID_AA64DFR0, 0x1030_5106, 0x00f0_1030_5006),
        (IdReg::ID_AA64ISAR0, 0x0001_1120, 0x0001_1120),
        (IdReg::ID_AA64MMFR0, 0x0000_1124, 0x0000_1122),
        (IdReg::ID_AA64MMFR1, 0, 0),
        (IdReg::ID_PFR0, 0x0000_0131, 0x0000_0131),
        (IdReg::ID_PFR1, 0x0001_1011, 0x1001_0001),
        (IdReg::ID_DFR0, 0x0301_0066, 0x0000_0006),
        (IdReg::ID_MMFR0, 0x1020_1105, 0x1020_1105),
        (IdReg::ID_MMFR1, 0x4000_0000, 0x4000_0000),
        (IdReg::ID_MMFR2, 0x0126_0000, 0x0126_0000),
        (IdReg::ID_MMFR3, 0x0210_2211, 0x0210_2211),
        (IdReg::ID_ISAR0, 0x0210_1110, 0x0210_1110),
        (IdReg::ID_ISAR5, 0x0001_1121, 0x0001_1121),
        (IdReg::MVFR0, 0x1011_0222, 0x1011_0222),
        (IdReg::MVFR1, 0x1211_1111, 0x1211_1111),
        (IdReg::MVFR2, 0x0000_0043, 0x0000_0043),
    ];
    let features = GuestFeatures::new(GicVersion::V3, 0x2222, 0x1030_5106);
    assert_eq!(features, V3);
    for (register, hardware, guest) in rows {
        assert_eq!(filter(register, hardware, &features), guest, "{register:?}");
    }
}

#[test]
fn names_are_distinct_and_in_order() {
    for pair in IdReg::NAMED.windows(2) {
        assert!(pair[0].1 < pair[1].1, "{} {}", pair[0].0, pair[1].0);
    }
    for register in all() {
        assert_eq!(IdReg::from_sysreg(register.sysreg()), Some(register));
    }
}
