use super::*;

#[test]
fn every_row_of_the_status_table() {
    use FaultStatus as S;
    let reserved = |code: u8| matches!(code, 0x12 | 0x19 | 0x1a | 0x20 | 0x2a | 0x2c..=0x2f | 0x32 | 0x33 | 0x36..=0x3f);
    for code in 0..=0x3f {
        let level = (code & 3) as i8;
        let expected = match code {
            0x00..=0x03 => S::AddressSize(level),
            0x04..=0x07 => S::Translation(level),
            0x08..=0x0b => S::AccessFlag(level),
            0x0c..=0x0f => S::Permission(level),
            0x10 => S::External,
            0x11 => S::TagCheck,
            0x13 => S::ExternalOnWalk(-1),
            0x14..=0x17 => S::ExternalOnWalk(level),
            0x18 => S::Parity,
            0x1b => S::ParityOnWalk(-1),
            0x1c..=0x1f => S::ParityOnWalk(level),
            0x21 => S::Alignment,
            0x22..=0x28 => S::GranuleProtection,
            0x29 => S::AddressSize(-1),
            0x2b => S::Translation(-1),
            0x30 => S::TlbConflict,
            0x31 => S::UnsupportedAtomicUpdate,
            0x34 | 0x35 => S::ImplementationDefined,
            code => {
                assert!(reserved(code), "{code:#x}");
                S::Reserved
            }
        };
        assert_eq!(S::decode(code), expected, "{code:#x}");
        assert_eq!(S::decode(code | 0xc0), expected);
    }
}

#[test]
fn hpfar_is_refused_where_it_is_unknown() {
    use FaultStatus as S;
    let far = 0xffff_8000_1234_5678;
    let hpfar = 0x4_0123 << 4;
    let page = 0x4012_3000;
    for code in 0..=0x3f {
        for on_walk in [false, true] {
            let iss = u32::from(code) | if on_walk { 1 << 7 } else { 0 };
            let valid = match S::decode(code) {
                S::Translation(_) | S::AccessFlag(_) | S::AddressSize(_) => true,
                S::Permission(_) => on_walk,
                _ => false,
            };
            assert_eq!(hpfar_is_valid(iss), valid, "{code:#x} {on_walk}");
            let address = if on_walk { page } else { page | 0x678 };
            let expected = valid.then(|| Ipa::new(address).unwrap());
            assert_eq!(DataAbort::new(iss).ipa(hpfar, far), expected);
            assert_eq!(InstructionAbort::new(iss).ipa(hpfar, far), expected);
        }
    }
}

#[test]
fn an_ipa_too_large_is_refused_and_ns_is_ignored() {
    let ipa = |hpfar| DataAbort::new(0x04).ipa(hpfar, 0);
    assert_eq!(ipa(u64::MAX), None);
    assert_eq!(ipa(1 << 63 | 0x10).unwrap().raw(), 0x1000);
    assert_eq!(ipa(0xff_ffff_fff0).unwrap().raw(), 0xffff_ffff_f000);
    assert_eq!(ipa(0x100_0000_0000), None);
}

#[test]
fn extension_table() {
    use AccessSize::{Byte, Double, Half, Word};
    let rows = [
        // value, size, sign, wide, result
        (0x80, Byte, false, false, 0x80),
        (0x80, Byte, false, true, 0x80),
        (0x80, Byte, true, false, 0xffff_ff80),
        (0x80, Byte, true, true, 0xffff_ffff_ffff_ff80),
        (0x7f, Byte, true, true, 0x7f),
        (0x8000, Half, false, true, 0x8000),
        (0x8000, Half, true, false, 0xffff_8000),
        (0x8000, Half, true, true, 0xffff_ffff_ffff_8000),
        (0x7fff, Half, true, false, 0x7fff),
        (0x8000_0000, Word, false, false, 0x8000_0000),
        (0x8000_0000, Word, false, true, 0x8000_0000),
        (0x8000_0000, Word, true, false, 0x8000_0000),
        (0x8000_0000, Word, true, true, 0xffff_ffff_8000_0000),
        (u64::MAX, Double, false, true, u64::MAX),
        (1 << 63, Double, true, true, 1 << 63),
        // What a device returns beyond the size of the access does not reach the register.
        (0xabcd_ef01_2345_6789, Byte, false, true, 0x89),
        (
            0xabcd_ef01_2345_6789,
            Byte,
            true,
            true,
            0xffff_ffff_ffff_ff89,
        ),
        (0xabcd_ef01_2345_6789, Half, false, true, 0x6789),
        (0xabcd_ef01_2345_6789, Word, false, true, 0x2345_6789),
    ];
    for (value, size, sign, wide, result) in rows {
        assert_eq!(
            extend(value, size, sign, wide),
            result,
            "{value:#x} {size:?} {sign} {wide}"
        );
    }
}

/// The specification of `access`, bit by bit as the ISS table has it.
fn plain(iss: u32) -> bool {
    let bit = |n: u32| iss >> n & 1 == 1;
    let (isv, fnv, ea, cm, s1ptw) = (bit(24), bit(10), bit(9), bit(8), bit(7));
    let translation_or_permission = matches!(iss & 0x3f, 4..=7 | 12..=15 | 0x2b);
    isv && !fnv && !ea && !cm && !s1ptw && translation_or_permission
}

fn check(iss: u32) {
    let abort = DataAbort::new(iss);
    let access = abort.access();
    assert_eq!(access.is_ok(), plain(iss), "{iss:#x}");
    if let Ok(access) = access {
        assert_eq!(access.is_write(), iss >> 6 & 1 == 1);
        assert_eq!(u32::from(access.register()), iss >> 16 & 0x1f);
        assert_eq!(access.size().bytes(), 1 << (iss >> 22 & 3));
        assert_eq!(access.is_ordered(), iss >> 14 & 1 == 1);
        let loaded = access.loaded(u64::MAX);
        assert_eq!(loaded & access.size().mask(), access.size().mask());
        let (sign, wide) = (iss >> 21 & 1 == 1, iss >> 15 & 1 == 1);
        if !sign {
            assert_eq!(loaded, access.size().mask());
        } else if wide {
            assert_eq!(loaded, u64::MAX);
        } else {
            assert_eq!(loaded, 0xffff_ffff | access.size().mask());
        }
        assert_eq!(access.stored(u64::MAX), access.size().mask());
    }
    assert_eq!(abort.ipa(0, 0).is_some(), hpfar_is_valid(iss));
}

#[test]
fn decoding_agrees_with_the_table_for_every_syndrome() {
    // All 2^25 take a second in release; a debug build strides, with a step prime to every field.
    let step = if cfg!(debug_assertions) { 29 } else { 1 };
    for iss in (0..1 << 25).step_by(step) {
        check(iss);
    }
}

#[test]
fn both_outcomes_occur() {
    // The peers' mistake that this guards against: a test that holds for every syndrome.
    assert!(DataAbort::new(1 << 24 | 0x07).access().is_ok());
    assert_eq!(DataAbort::new(0x07).access(), Err(Undecodable::NoSyndrome));
    let described = 1 << 24;
    let rows = [
        (1 << 7 | 0x07, Undecodable::TableWalk),
        (1 << 8 | 0x07, Undecodable::CacheMaintenance),
        (described | 1 << 10 | 0x10, Undecodable::External),
        (described | 1 << 9 | 0x10, Undecodable::External),
        (described | 0x10, Undecodable::Status),
        (described | 0x0b, Undecodable::Status),
        (described | 0x21, Undecodable::Status),
        (described | 0x30, Undecodable::Status),
    ];
    for (iss, reason) in rows {
        assert_eq!(DataAbort::new(iss).access(), Err(reason), "{iss:#x}");
    }
}

#[test]
fn instruction_aborts() {
    let abort = InstructionAbort::new(1 << 10 | 1 << 7 | 0x0f);
    assert_eq!(abort.status(), FaultStatus::Permission(3));
    assert!(abort.is_on_table_walk() && abort.far_is_unknown());
    assert_eq!(abort.ipa(0x10, 0xfff).unwrap().raw(), 0x1000);
    assert_eq!(InstructionAbort::new(0x0f).ipa(0x10, 0xfff), None);
}
