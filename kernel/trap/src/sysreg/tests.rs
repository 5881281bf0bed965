use penumbra_abi::GicVersion;

use super::*;
use crate::idregs::{GuestFeatures, IdReg};

const FEATURES: GuestFeatures = GuestFeatures {
    gic: GicVersion::V3,
    aarch32_el0: true,
    breakpoints: 6,
    watchpoints: 4,
};
const ON_GICV2: GuestFeatures = GuestFeatures {
    gic: GicVersion::V2,
    ..FEATURES
};

/// Builds the syndrome the way the ISS table has it.
fn iss(name: SysReg, rt: u32, read: bool) -> u32 {
    u32::from(name.op0()) << 20
        | u32::from(name.op2()) << 17
        | u32::from(name.op1()) << 14
        | u32::from(name.crn()) << 10
        | rt << 5
        | u32::from(name.crm()) << 1
        | u32::from(read)
}

fn answer(name: SysReg, read: bool) -> Action {
    classify(SysRegAccess::new(iss(name, 3, read)), &FEATURES)
}

#[test]
fn decoding_is_the_inverse_of_naming_for_every_syndrome() {
    let step = if cfg!(debug_assertions) { 13 } else { 1 };
    for raw in (0..1 << 25).step_by(step) {
        let access = SysRegAccess::new(raw);
        let name = access.register();
        assert_eq!(
            iss(name, access.rt().into(), access.is_read()),
            raw & 0x3f_ffff
        );
        let rebuilt = SysReg::new(name.op0(), name.op1(), name.crn(), name.crm(), name.op2());
        assert_eq!(rebuilt, name);
    }
}

#[test]
fn every_syndrome_has_an_answer_that_suits_it() {
    let step = if cfg!(debug_assertions) { 7 } else { 1 };
    for raw in (0..1 << 22).step_by(step) {
        let access = SysRegAccess::new(raw);
        for features in [&FEATURES, &ON_GICV2] {
            let action = classify(access, features);
            match action {
                Action::Read(_) | Action::Id(_) => assert!(access.is_read(), "{raw:#x}"),
                Action::Ignore
                | Action::Sgi(_)
                | Action::Stage1(_)
                | Action::SetWay
                | Action::Deactivate => assert!(!access.is_read(), "{raw:#x}"),
                Action::Debug(_) => assert_eq!(access.register().op0(), 2),
                Action::Timer(_) => assert_eq!(access.register().crn(), 14),
                Action::Undefined => {}
            }
        }
    }
}

#[test]
fn rt_31_is_reported_as_such() {
    assert_eq!(SysRegAccess::new(iss(SysReg::ACTLR_EL1, 31, true)).rt(), 31);
}

#[test]
fn names_are_distinct_and_print_as_assemblers_take_them() {
    for (index, (name, register)) in SysReg::NAMED.iter().enumerate() {
        for (other, same) in &SysReg::NAMED[..index] {
            assert_ne!(register, same, "{name} and {other}");
        }
    }
    assert_eq!(format!("{:?}", SysReg::ICC_SGI1R_EL1), "S3_0_C12_C11_5");
    assert_eq!(format!("{:?}", SysReg::CNTP_CTL_EL0), "S3_3_C14_C2_1");
}

#[test]
fn answers_table() {
    use Action as A;
    let undefined = A::Undefined;
    let rows = [
        // register, on read, on write
        (SysReg::ACTLR_EL1, A::Read(0), A::Ignore),
        (SysReg::ICC_SRE_EL1, A::Read(7), A::Ignore),
        (SysReg::ICC_SGI1R_EL1, undefined, A::Sgi(SgiKind::Group1)),
        (
            SysReg::ICC_ASGI1R_EL1,
            undefined,
            A::Sgi(SgiKind::AliasGroup1),
        ),
        (SysReg::ICC_SGI0R_EL1, undefined, A::Sgi(SgiKind::Group0)),
        (SysReg::ICC_DIR_EL1, undefined, A::Deactivate),
        (SysReg::ICC_PMR_EL1, undefined, undefined),
        (
            SysReg::CNTPCT_EL0,
            A::Timer(PhysicalTimer::Count),
            undefined,
        ),
        (
            SysReg::CNTP_TVAL_EL0,
            A::Timer(PhysicalTimer::Value),
            A::Timer(PhysicalTimer::Value),
        ),
        (
            SysReg::CNTP_CTL_EL0,
            A::Timer(PhysicalTimer::Control),
            A::Timer(PhysicalTimer::Control),
        ),
        (
            SysReg::CNTP_CVAL_EL0,
            A::Timer(PhysicalTimer::Compare),
            A::Timer(PhysicalTimer::Compare),
        ),
        (SysReg::DC_ISW, undefined, A::SetWay),
        (SysReg::DC_CSW, undefined, A::SetWay),
        (SysReg::DC_CISW, undefined, A::SetWay),
        (
            SysReg::MDSCR_EL1,
            A::Debug(DebugReg::Control),
            A::Debug(DebugReg::Control),
        ),
        (
            SysReg::OSLAR_EL1,
            undefined,
            A::Debug(DebugReg::OsLockAccess),
        ),
        (
            SysReg::OSLSR_EL1,
            A::Debug(DebugReg::OsLockStatus),
            undefined,
        ),
        (SysReg::OSDLR_EL1, A::Read(0), A::Ignore),
        (SysReg::DBGPRCR_EL1, A::Read(0), A::Ignore),
        (SysReg::DBGCLAIMSET_EL1, A::Read(0), A::Ignore),
        (SysReg::DBGCLAIMCLR_EL1, A::Read(0), A::Ignore),
        (SysReg::MDCCINT_EL1, A::Read(0), A::Ignore),
        (SysReg::OSDTRRX_EL1, A::Read(0), A::Ignore),
        (SysReg::OSDTRTX_EL1, A::Read(0), A::Ignore),
        (SysReg::OSECCR_EL1, A::Read(0), A::Ignore),
        (SysReg::DBGDTR_EL0, A::Read(0), A::Ignore),
        (SysReg::DBGDTRX_EL0, A::Read(0), A::Ignore),
        (SysReg::MDRAR_EL1, A::Read(0), undefined),
        (SysReg::DBGAUTHSTATUS_EL1, A::Read(0), undefined),
        (SysReg::MDCCSR_EL0, A::Read(0), undefined),
        // Hidden features.
        (SysReg::PMCR_EL0, undefined, undefined),
        (SysReg::PMINTENSET_EL1, undefined, undefined),
        (SysReg::AMCR_EL0, undefined, undefined),
        (SysReg::ERRIDR_EL1, undefined, undefined),
        (SysReg::LORSA_EL1, undefined, undefined),
        (SysReg::LORID_EL1, undefined, undefined),
        // HCR_EL2.TVM traps writes only; a read is a bug of the controls and gets nothing.
        (SysReg::SCTLR_EL1, undefined, A::Stage1(Stage1Reg::Sctlr)),
        (SysReg::TTBR0_EL1, undefined, A::Stage1(Stage1Reg::Ttbr0)),
        (SysReg::TTBR1_EL1, undefined, A::Stage1(Stage1Reg::Ttbr1)),
        (SysReg::TCR_EL1, undefined, A::Stage1(Stage1Reg::Tcr)),
        (SysReg::ESR_EL1, undefined, A::Stage1(Stage1Reg::Esr)),
        (SysReg::FAR_EL1, undefined, A::Stage1(Stage1Reg::Far)),
        (SysReg::AFSR0_EL1, undefined, A::Stage1(Stage1Reg::Afsr0)),
        (SysReg::AFSR1_EL1, undefined, A::Stage1(Stage1Reg::Afsr1)),
        (SysReg::MAIR_EL1, undefined, A::Stage1(Stage1Reg::Mair)),
        (SysReg::AMAIR_EL1, undefined, A::Stage1(Stage1Reg::Amair)),
        (
            SysReg::CONTEXTIDR_EL1,
            undefined,
            A::Stage1(Stage1Reg::Contextidr),
        ),
    ];
    for (register, on_read, on_write) in rows {
        assert_eq!(answer(register, true), on_read, "read {register:?}");
        assert_eq!(answer(register, false), on_write, "write {register:?}");
    }
}

#[test]
fn hidden_and_unknown_registers_are_undefined() {
    let rows = [
        (
            "IMPLEMENTATION DEFINED, CRn 15",
            SysReg::new(3, 1, 15, 2, 1),
        ),
        (
            "IMPLEMENTATION DEFINED, CRn 11",
            SysReg::new(3, 3, 11, 0, 0),
        ),
        (
            "IMPLEMENTATION DEFINED instruction",
            SysReg::new(1, 0, 11, 0, 0),
        ),
        ("PMEVCNTR3_EL0", SysReg::new(3, 3, 14, 8, 3)),
        ("PMCCFILTR_EL0", SysReg::new(3, 3, 14, 15, 7)),
        ("PMUSERENR_EL0", SysReg::new(3, 3, 9, 14, 0)),
        ("PMSCR_EL1", SysReg::new(3, 0, 9, 9, 0)),
        ("PMBLIMITR_EL1", SysReg::new(3, 0, 9, 10, 0)),
        ("TRBLIMITR_EL1", SysReg::new(3, 0, 9, 11, 0)),
        ("TRFCR_EL1", SysReg::new(3, 0, 1, 2, 1)),
        ("TRCIDR0", SysReg::new(2, 1, 0, 8, 7)),
        ("BRBCR_EL1", SysReg::new(2, 1, 9, 0, 0)),
        ("DBGVCR32_EL2", SysReg::new(2, 4, 0, 7, 0)),
        ("ERXFR_EL1", SysReg::new(3, 0, 5, 4, 0)),
        ("APIAKEYLO_EL1", SysReg::new(3, 0, 2, 1, 0)),
        ("SCXTNUM_EL1", SysReg::new(3, 0, 13, 0, 7)),
        ("GMID_EL1", SysReg::new(3, 1, 0, 0, 4)),
        ("SMIDR_EL1", SysReg::new(3, 1, 0, 0, 6)),
        ("ZCR_EL1", SysReg::new(3, 0, 1, 2, 0)),
        ("TCR2_EL1", SysReg::new(3, 0, 2, 0, 3)),
        ("PIR_EL1", SysReg::new(3, 0, 10, 2, 3)),
        ("MPAM1_EL1", SysReg::new(3, 0, 10, 5, 0)),
        ("CNTPS_CTL_EL1", SysReg::new(3, 7, 14, 2, 1)),
        ("CNTPCTSS_EL0", SysReg::new(3, 3, 14, 0, 5)),
        ("TLBI RVAE1IS", SysReg::new(1, 0, 8, 2, 1)),
        ("AT S1E1R", SysReg::new(1, 0, 7, 8, 0)),
        ("HCR_EL2", SysReg::new(3, 4, 1, 1, 0)),
        ("op0 = 0", SysReg::new(0, 3, 4, 0, 3)),
    ];
    for (name, register) in rows {
        for read in [false, true] {
            assert_eq!(
                answer(register, read),
                Action::Undefined,
                "{name}, read {read}"
            );
        }
    }
}

#[test]
fn breakpoints_and_watchpoints_end_where_the_core_has_no_more() {
    for number in 0..16 {
        let registers = [
            (4, 6, DebugReg::BreakpointValue(number)),
            (5, 6, DebugReg::BreakpointControl(number)),
            (6, 4, DebugReg::WatchpointValue(number)),
            (7, 4, DebugReg::WatchpointControl(number)),
        ];
        for (op2, count, register) in registers {
            let expected = if number < count {
                Action::Debug(register)
            } else {
                Action::Undefined
            };
            assert_eq!(answer(SysReg::new(2, 0, 0, number, op2), true), expected);
            assert_eq!(answer(SysReg::new(2, 0, 0, number, op2), false), expected);
        }
    }
    assert_eq!(DebugReg::os_lock_status(false), 0x8);
    assert_eq!(DebugReg::os_lock_status(true), 0xa);
}

#[test]
fn the_id_group_is_filtered_and_read_only() {
    for crm in 1..=7 {
        for op2 in 0..8 {
            let register = SysReg::new(3, 0, 0, crm, op2);
            let index = usize::from(crm - 1) * 8 + usize::from(op2);
            let id = IdReg::from_index(index).unwrap();
            assert_eq!(id.sysreg(), register);
            assert_eq!(answer(register, true), Action::Id(id));
            assert_eq!(answer(register, false), Action::Undefined);
        }
    }
    // MIDR_EL1 and its neighbours are not in the group.
    for register in [SysReg::new(3, 0, 0, 0, 0), SysReg::new(3, 0, 0, 8, 0)] {
        assert_eq!(answer(register, true), Action::Undefined);
    }
    assert_eq!(IdReg::from_index(IdReg::COUNT), None);
}

#[test]
fn a_gicv2_guest_has_no_gic_registers() {
    for register in [
        SysReg::ICC_SGI1R_EL1,
        SysReg::ICC_ASGI1R_EL1,
        SysReg::ICC_SGI0R_EL1,
        SysReg::ICC_SRE_EL1,
        SysReg::ICC_DIR_EL1,
    ] {
        for read in [false, true] {
            let access = SysRegAccess::new(iss(register, 0, read));
            assert_eq!(
                classify(access, &ON_GICV2),
                Action::Undefined,
                "{register:?}"
            );
        }
    }
}

#[test]
fn sgi_fields() {
    let request =
        SgiRequest::new(0x12 << 48 | 3 << 44 | 0x34 << 32 | 7 << 24 | 0x56 << 16 | 0x8001);
    assert_eq!(request.intid(), 7);
    assert!(!request.all_others());
    assert_eq!(request.cluster(), 0x1234_5600);
    assert_eq!(request.first_target(), 48);
    assert_eq!(request.targets(), 0x8001);
    assert!(SgiRequest::new(1 << 40).all_others());
    assert_eq!(SgiRequest::new(u64::MAX).first_target(), 240);
}
