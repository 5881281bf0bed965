use super::*;

const ALL: EntryFeatures = EntryFeatures {
    pan: true,
    ssbs: true,
    mte: true,
};
const NONE: EntryFeatures = EntryFeatures {
    pan: false,
    ssbs: false,
    mte: false,
};
const EL0T: u64 = 0;
const EL1T: u64 = 4;
const EL1H: u64 = 5;
const AARCH32_USER: u64 = 0x10;
const SPAN: u64 = 1 << 23;
const DSSBS: u64 = 1 << 44;
const PLACE: Abort = Abort {
    far: Some(0xffff_8000_dead_b000),
    walk_level: None,
};

fn at(pstate: u64, sctlr: u64) -> Interrupted {
    Interrupted {
        pc: 0xffff_8000_0000_1234,
        pstate,
        vbar: 0xffff_8000_0010_0800,
        sctlr,
    }
}

fn undefined(pstate: u64, sctlr: u64, features: EntryFeatures) -> Entry {
    enter_el1(Exception::Undefined, &at(pstate, sctlr), features)
}

#[test]
fn vectors_by_origin() {
    let rows = [
        (EL1T, 0x000),
        (EL1H, 0x200),
        (EL0T, 0x400),
        (AARCH32_USER, 0x600),
        // Modes that no guest can be in still give a vector.
        (0x8, 0x400),
        (0x1f, 0x600),
    ];
    for (mode, offset) in rows {
        let entry = undefined(mode, SPAN, NONE);
        assert_eq!(entry.pc, 0xffff_8000_0010_0800 + offset, "{mode:#x}");
        let serror = enter_el1(Exception::Serror, &at(mode, SPAN), NONE);
        assert_eq!(serror.pc, entry.pc + 0x180);
    }
}

#[test]
fn vbar_is_masked_and_may_wrap() {
    let from = Interrupted {
        vbar: u64::MAX,
        ..at(AARCH32_USER, 0)
    };
    assert_eq!(
        enter_el1(Exception::Undefined, &from, NONE).pc,
        0xffff_ffff_ffff_fe00
    );
    let serror = enter_el1(Exception::Serror, &from, NONE);
    assert_eq!(serror.pc, 0xffff_ffff_ffff_ff80);
}

#[test]
fn the_old_state_is_saved() {
    let pstate = 0xf160_0c05;
    let entry = undefined(pstate, SPAN, ALL);
    assert_eq!(entry.elr, 0xffff_8000_0000_1234);
    assert_eq!(entry.spsr, pstate);
    assert_eq!(entry.far, None);
}

#[test]
fn pstate_table() {
    let masked = 0x3c0 | EL1H;
    let (nzcv, dit, uao, pan) = (0xf << 28, 1 << 24, 1 << 23, 1 << 22);
    let (ss, il, ssbs, btype, tco) = (1 << 21, 1 << 20, 1 << 12, 3 << 10, 1 << 25);
    let rows = [
        // old, SCTLR_EL1, features, new
        (EL0T, SPAN, NONE, masked),
        (EL1H | nzcv | dit, SPAN, NONE, masked | nzcv | dit),
        (EL1H | uao | ss | il | btype, SPAN, ALL, masked | tco),
        (EL1H | pan, SPAN, ALL, masked | pan | tco),
        (EL1H, 0, ALL, masked | pan | tco),
        // SPAN is RES1 without FEAT_PAN: a zero there means nothing.
        (EL1H | pan, 0, NONE, masked),
        (EL1H | ssbs, SPAN, ALL, masked | tco),
        (EL1H, SPAN | DSSBS, ALL, masked | ssbs | tco),
        (EL1H, SPAN | DSSBS, NONE, masked),
        // From AArch32: nRW goes, Q, GE, IT, E and T do not come along.
        (0x0e0f_ff30 | nzcv, SPAN, NONE, masked | nzcv),
        (u64::MAX, SPAN, NONE, masked | nzcv | dit),
    ];
    for (old, sctlr, features, new) in rows {
        let dit_from_old = old & dit;
        let got = undefined(old, sctlr, features).pstate;
        // DIT is kept in every row.
        assert_eq!(got & dit, dit_from_old);
        assert_eq!(got & !dit, new & !dit, "{old:#x} {sctlr:#x} {features:?}");
    }
}

#[test]
fn undefined_has_no_syndrome() {
    for mode in [EL0T, EL1T, EL1H, AARCH32_USER] {
        assert_eq!(undefined(mode, 0, ALL).esr, 0x0200_0000);
    }
}

#[test]
fn abort_syndromes() {
    let data = |mode, abort, write, cache_maintenance| {
        let exception = Exception::DataAbort {
            abort,
            write,
            cache_maintenance,
        };
        enter_el1(exception, &at(mode, 0), NONE)
    };
    let unknown = Abort {
        far: None,
        walk_level: None,
    };
    let walk = |level| Abort {
        walk_level: Some(level),
        ..PLACE
    };
    let rows = [
        (data(EL0T, PLACE, false, false), 0x9200_0010),
        (data(AARCH32_USER, PLACE, true, false), 0x9200_0050),
        (data(EL1H, PLACE, true, false), 0x9600_0050),
        (data(EL1T, PLACE, true, true), 0x9600_0150),
        (data(EL1H, unknown, false, false), 0x9600_0410),
        (data(EL1H, walk(0), false, false), 0x9600_0014),
        (data(EL1H, walk(3), false, false), 0x9600_0017),
        (data(EL1H, walk(-1), false, false), 0x9600_0013),
        (
            enter_el1(Exception::InstructionAbort(PLACE), &at(EL0T, 0), NONE),
            0x8200_0010,
        ),
        (
            enter_el1(Exception::InstructionAbort(walk(2)), &at(EL1H, 0), NONE),
            0x8600_0016,
        ),
    ];
    for (entry, esr) in rows {
        assert_eq!(entry.esr, esr, "{esr:#x}");
        assert_eq!(entry.far, if esr & FNV == 0 { PLACE.far } else { None });
    }
}

#[test]
fn forwarded_syndromes_stay_as_they_are() {
    let forward = |class: u8, iss| {
        let esr = Esr::new(u64::from(class) << 26 | IL | iss);
        enter_el1(
            Exception::Forwarded { esr, far: 0x1235 },
            &at(EL0T, 0),
            NONE,
        )
    };
    let entry = forward(ec::PC_ALIGNMENT, 0);
    assert_eq!((entry.esr, entry.far), (0x8a00_0000, Some(0x1235)));
    let entry = forward(ec::FP_EXCEPTION64, 0x80_0001);
    assert_eq!((entry.esr, entry.far), (0xb280_0001, None));
}

#[test]
fn serror_syndrome_is_implementation_defined() {
    assert_eq!(
        enter_el1(Exception::Serror, &at(EL1H, 0), NONE).esr,
        0xbf00_0000
    );
}

#[test]
fn features_come_from_id_registers() {
    assert_eq!(EntryFeatures::new(0, 0), NONE);
    assert_eq!(EntryFeatures::new(2 << 20, 1 << 4 | 3 << 8), ALL);
    assert!(!EntryFeatures::new(0, 1 << 8).mte);
}
