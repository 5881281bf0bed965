//! Unit tests of the walker for guests.

use penumbra_vmsa::{GIB, MIB, bits};

use super::*;
use crate::fake::FakeGuest;

const ROOT0: u64 = 0x4000_0000;
const ROOT1: u64 = 0x4000_1000;
const UXN: u64 = 1 << 54;
const PXN: u64 = 1 << 53;
const USER: u64 = 1 << 6;
const RO: u64 = 1 << 7;
const PAGE: u64 = bits::TABLE | bits::AF;
const BLOCK: u64 = bits::VALID | bits::AF;

/// Both halves with `va_bits`, 4 KiB, cached walks, 40-bit output.
fn regs(va_bits: u64) -> Stage1Regs {
    let size = 64 - va_bits;
    let cached = 0b11_01_01;
    let tcr = size | size << 16 | cached << 8 | cached << 24 | 2 << 30 | 2 << 32;
    Stage1Regs {
        sctlr: SCTLR_M,
        tcr: Tcr::new(tcr),
        ttbr0: Ttbr::new(7 << 48 | ROOT0),
        ttbr1: Ttbr::new(ROOT1),
    }
}

fn guest(words: &[(u64, u64)]) -> FakeGuest {
    FakeGuest {
        words: words.iter().copied().collect(),
        reads: Vec::new(),
    }
}

/// A 48-bit low-half tree with one page at VA 0x1000, one 2 MiB block, one 1 GiB block.
fn tree(page: u64, table_bits: u64) -> FakeGuest {
    guest(&[
        (ROOT0, 0x5000_0000 | bits::TABLE),
        (0x5000_0000, 0x5000_1000 | bits::TABLE | table_bits),
        (0x5000_0000 + 8, (3 * GIB) | BLOCK),
        (0x5000_1000, 0x5000_2000 | bits::TABLE),
        (0x5000_1000 + 8, (6 * MIB) | BLOCK | bits::CONTIGUOUS),
        (0x5000_2000, 0),
        (0x5000_2000 + 8, 0x7000 | page),
    ])
}

fn va(raw: u64) -> Va {
    Va::truncated(raw)
}

fn go(
    regs: &Stage1Regs,
    guest: &mut FakeGuest,
    at: u64,
    who: Privilege,
    how: AccessKind,
) -> Result<u64, Stage1Fault> {
    regs.translate(guest, va(at), who, how)
        .map(|translation| translation.ipa.raw())
}

use AccessKind::{Execute, Read, Write};
use Privilege::{El0, El1, El1Pan};

#[test]
fn all_leaf_sizes_translate() {
    let regs = regs(48);
    let mut guest = tree(PAGE, 0);
    assert_eq!(go(&regs, &mut guest, 0x1234, El1, Read), Ok(0x7234));
    assert_eq!(
        guest.reads,
        [ROOT0, 0x5000_0000, 0x5000_1000, 0x5000_2008],
        "each once"
    );
    assert_eq!(
        go(&regs, &mut guest, 2 * MIB + 0x1_2345, El1, Write),
        Ok(6 * MIB + 0x1_2345)
    );
    assert_eq!(
        go(&regs, &mut guest, GIB + 0x123_4567, El1, Read),
        Ok(3 * GIB + 0x123_4567)
    );
    let block = regs.walk(&mut guest, va(2 * MIB)).unwrap();
    assert!(block.contiguous && block.level == Level::L2);
    assert_eq!(block.path.descriptors[2], Some(Ipa::truncated(0x5000_1008)));
    assert_eq!(block.path.descriptors[3], None);
}

#[test]
fn faults_carry_their_level() {
    let regs = regs(48);
    let mut guest = tree(PAGE & !bits::AF, 0);
    let mut at = |address| go(&regs, &mut guest, address, El1, Read);
    assert_eq!(at(0), Err(Stage1Fault::Translation(Level::L3)));
    assert_eq!(at(0x1000), Err(Stage1Fault::AccessFlag(Level::L3)));
    let nowhere = Ipa::truncated(0x5000_2010);
    assert_eq!(at(0x2000), Err(Stage1Fault::Walk(Level::L3, nowhere)));
    assert_eq!(at(1 << 48), Err(Stage1Fault::Translation(Level::L0)));
    let root = Ipa::truncated(ROOT1 + 256 * 8);
    assert_eq!(
        at(0xffff_8000_0000_0000),
        Err(Stage1Fault::Walk(Level::L0, root))
    );
    // A block at level 0 and a level-3 descriptor that says block are reserved.
    let mut reserved = tree(bits::AF | bits::VALID, 0);
    let fault = go(&regs, &mut reserved, 0x1000, El1, Read);
    assert_eq!(fault, Err(Stage1Fault::Translation(Level::L3)));
    reserved.words.insert(ROOT0, BLOCK);
    let fault = go(&regs, &mut reserved, 0x1000, El1, Read);
    assert_eq!(fault, Err(Stage1Fault::Translation(Level::L0)));
}

#[test]
fn output_addresses_obey_ips() {
    let regs = regs(48);
    let mut guest = tree(PAGE | 1 << 41, 0);
    let fault = go(&regs, &mut guest, 0x1000, El1, Read);
    assert_eq!(fault, Err(Stage1Fault::AddressSize(Level::L3)));
    guest.words.insert(0x5000_0000, 1 << 40 | bits::TABLE);
    let fault = go(&regs, &mut guest, 0x1000, El1, Read);
    assert_eq!(fault, Err(Stage1Fault::AddressSize(Level::L1)));
    let far = Stage1Regs {
        ttbr0: Ttbr::new(1 << 44),
        ..regs
    };
    let fault = go(&far, &mut guest, 0x1000, El1, Read);
    assert_eq!(fault, Err(Stage1Fault::AddressSize(Level::L0)));
}

#[test]
fn permissions_of_leaf_table_and_wxn() {
    let plain = regs(48);
    let wxn = Stage1Regs {
        sctlr: SCTLR_M | SCTLR_WXN,
        ..plain
    };
    // Leaf bits, table bits, registers -> EL0 r w x, EL1 w x, EL1 with PAN reads.
    let cases: &[(u64, u64, &Stage1Regs, [bool; 6])] = &[
        (0, 0, &plain, [false, false, true, true, true, true]),
        (0, 0, &wxn, [false, false, true, true, false, true]),
        (RO, 0, &wxn, [false, false, true, false, true, true]),
        (USER, 0, &plain, [true, true, true, true, false, false]),
        (USER, 0, &wxn, [true, true, false, true, false, false]),
        (
            USER | RO,
            0,
            &plain,
            [true, false, true, false, true, false],
        ),
        (
            USER | RO | PXN,
            0,
            &plain,
            [true, false, true, false, false, false],
        ),
        (
            USER | UXN,
            0,
            &plain,
            [true, true, false, true, false, false],
        ),
        (
            USER,
            1 << 61,
            &plain,
            [false, false, true, true, true, true],
        ),
        (
            USER,
            1 << 62,
            &plain,
            [true, false, true, false, true, false],
        ),
        (
            USER,
            3 << 61,
            &plain,
            [false, false, true, false, true, true],
        ),
        (0, 1 << 59, &plain, [false, false, true, true, false, true]),
        (0, 1 << 60, &plain, [false, false, false, true, true, true]),
    ];
    for &(leaf, table, regs, want) in cases {
        let mut guest = tree(PAGE | leaf, table);
        let mut may = |who, how| match go(regs, &mut guest, 0x1000, who, how) {
            Ok(_) => true,
            Err(fault) => {
                assert_eq!(fault, Stage1Fault::Permission(Level::L3));
                false
            }
        };
        let got = [
            may(El0, Read),
            may(El0, Write),
            may(El0, Execute),
            may(El1, Write),
            may(El1, Execute),
            may(El1Pan, Read),
        ];
        assert_eq!(
            got, want,
            "leaf {leaf:#x} table {table:#x} sctlr {:#x}",
            regs.sctlr
        );
        assert!(may(El1, Read));
    }
}

#[test]
fn hierarchy_can_be_disabled_and_hardware_can_manage_flags() {
    let mut regs = regs(48);
    let mut guest = tree(PAGE & !bits::AF | USER | RO | bits::DBM, 3 << 61);
    regs.tcr = Tcr::new(regs.tcr.raw() | 1 << 39 | 1 << 41);
    assert_eq!(go(&regs, &mut guest, 0x1000, El0, Read), Ok(0x7000));
    assert!(go(&regs, &mut guest, 0x1000, El0, Write).is_err());
    regs.tcr = Tcr::new(regs.tcr.raw() | 1 << 40);
    assert_eq!(go(&regs, &mut guest, 0x1000, El0, Write), Ok(0x7000));
}

#[test]
fn smaller_address_spaces_start_lower() {
    for (bits_of_va, start) in [
        (36, Level::L1),
        (39, Level::L1),
        (42, Level::L0),
        (48, Level::L0),
    ] {
        let regs = regs(bits_of_va);
        assert_eq!(regs.root(Half::High).unwrap().1, start);
        // The last page of the high half.
        let top = u64::MAX << 12;
        let mut words = vec![];
        let mut table = regs.root(Half::High).unwrap().0.raw();
        let mut level = start;
        let entries = 1_u64 << (bits_of_va - u64::from(start.shift()));
        let mut index = entries.min(512) - 1;
        while let Some(below) = level.below() {
            words.push((
                table | index << 3,
                0x6000_0000 + u64::from(level.number()) * 0x1000 + 3,
            ));
            table = 0x6000_0000 + u64::from(level.number()) * 0x1000;
            (level, index) = (below, 511);
        }
        words.push((table | 511 << 3, 0x9000 | PAGE));
        let mut guest = guest(&words);
        assert_eq!(
            go(&regs, &mut guest, top | 0xabc, El1, Read),
            Ok(0x9abc),
            "{bits_of_va}"
        );
        let beyond = u64::MAX << bits_of_va & !(1 << bits_of_va);
        assert_eq!(
            go(&regs, &mut guest, beyond, El1, Read),
            Err(Stage1Fault::Translation(Level::L0))
        );
    }
}

#[test]
fn what_is_not_done_says_so() {
    let base = regs(48);
    let mut guest = tree(PAGE, 0);
    let big_granule = Stage1Regs {
        tcr: Tcr::new(base.tcr.raw() | 1 << 14),
        ..base
    };
    let big_endian = Stage1Regs {
        sctlr: SCTLR_M | SCTLR_EE,
        ..base
    };
    let wide_addresses = Stage1Regs {
        tcr: Tcr::new(base.tcr.raw() | 1 << 59),
        ..base
    };
    for regs in [regs(52), regs(20), big_granule, wide_addresses, big_endian] {
        let fault = go(&regs, &mut guest, 0x1000, El1, Read);
        assert_eq!(fault, Err(Stage1Fault::Unsupported));
    }
    let disabled = Stage1Regs {
        tcr: Tcr::new(base.tcr.raw() | 1 << 7),
        ..base
    };
    let fault = go(&disabled, &mut guest, 0x1000, El1, Read);
    assert_eq!(fault, Err(Stage1Fault::Translation(Level::L0)));
    let e0pd = Stage1Regs {
        tcr: Tcr::new(base.tcr.raw() | 1 << 55),
        ..base
    };
    let fault = go(&e0pd, &mut guest, 0x1000, El0, Execute);
    assert_eq!(fault, Err(Stage1Fault::Translation(Level::L0)));
    assert_eq!(go(&e0pd, &mut guest, 0x1000, El1, Read), Ok(0x7000));
}

#[test]
fn stage_one_off_is_flat() {
    let mut off = Stage1Regs {
        sctlr: 0,
        ..regs(48)
    };
    let mut guest = guest(&[]);
    assert_eq!(
        go(&off, &mut guest, 0x1234_5678, El0, Write),
        Ok(0x1234_5678)
    );
    let tagged = 0xab00_0000_1234_5678;
    let fault = go(&off, &mut guest, tagged, El1, Read);
    assert_eq!(fault, Err(Stage1Fault::AddressSize(Level::L0)));
    off.tcr = Tcr::new(off.tcr.raw() | 1 << 37);
    assert_eq!(
        go(
            &off,
            &mut guest,
            0xab00_0000_1234_5678 & !(1 << 55),
            El1,
            Read
        ),
        Ok(0x1234_5678)
    );
}

#[test]
fn a_table_that_loops_ends_at_level_three() {
    let regs = regs(48);
    let mut guest = guest(&[(ROOT0, ROOT0 | bits::TABLE | bits::AF)]);
    assert_eq!(go(&regs, &mut guest, 0x123, El1, Read), Ok(ROOT0 | 0x123));
    assert_eq!(guest.reads, [ROOT0; 4]);
}
