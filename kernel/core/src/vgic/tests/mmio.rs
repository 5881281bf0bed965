//! Registers: values, sizes, what reads zero; and that nothing a guest does panics.

use penumbra_abi::GicVersion::{self, V2, V3};

use super::Board;
use super::random::Random;
use crate::vgic::Frame::{self, Distributor, Redistributors};
use crate::vgic::{CpuInterface, MmioRead, SgiRegister, Vgic};

fn value(board: &mut Board, frame: Frame, offset: u64, size: u32) -> u64 {
    board.read_any(0, frame, offset, size)
}

#[test]
fn identity_of_a_gicv3() {
    let mut board = Board::new(V3, 3);
    let table = [
        (0x0, 0x50),
        (0x4, 0x0248_0006),
        (0x8, 0x5000_043b),
        (0xc, 0),
        (0x10, 0),
        (0xffe8, 0x3b),
        (0xfff0, 0x0d),
        (0xfff4, 0xf0),
        (0xfff8, 0x05),
        (0xfffc, 0xb1),
    ];
    for (offset, expected) in table {
        assert_eq!(
            value(&mut board, Distributor, offset, 4),
            expected,
            "{offset:#x}"
        );
    }
    board.write(0, 0, 0xffff_ffff);
    assert_eq!(board.read(0, 0), 0x53);
    board.write(0, 0, 0);
    assert_eq!(board.read(0, 0), 0x50);
}

#[test]
fn identity_of_a_gicv2() {
    let mut board = Board::new(V2, 3);
    for (offset, expected) in [(0x0, 0), (0x4, 0x46), (0x8, 0x5000_043b), (0xfe8, 0x2b)] {
        assert_eq!(
            value(&mut board, Distributor, offset, 4),
            expected,
            "{offset:#x}"
        );
    }
    board.write(0, 0, 0xffff_ffff);
    assert_eq!(board.read(0, 0), 3);
    // SGIs are enabled from the start, and everything is in group 0: Linux relies on both.
    assert_eq!((board.read(0, 0x100), board.read(0, 0x80)), (0xffff, 0));
}

#[test]
fn redistributors_tell_who_they_are() {
    let mut board = Board::new(V3, 2);
    assert_eq!(value(&mut board, Redistributors, 0x8, 8), 0);
    assert_eq!(
        value(&mut board, Redistributors, 0x2_0008, 8),
        0x1_0000_0110
    );
    assert_eq!(value(&mut board, Redistributors, 0x2_0008, 4), 0x110);
    assert_eq!(value(&mut board, Redistributors, 0x2_000c, 4), 1);
    assert_eq!(value(&mut board, Redistributors, 0x2_ffe8, 4), 0x3b);
    assert_eq!(
        value(&mut board, Redistributors, 0x4_0008, 8),
        0,
        "beyond the last"
    );
    let full = Board::new(V3, 8);
    assert_eq!(full.gic.version(), V3);
    let mut full = full;
    assert_eq!(
        value(&mut full, Redistributors, 0x2_0000 * 7 + 8, 8),
        0x7_0000_0710
    );
}

#[test]
fn waker_shakes_hands() {
    let mut board = Board::new(V3, 1);
    assert_eq!(value(&mut board, Redistributors, 0x14, 4), 6);
    board.access(0, Redistributors, 0x14, 4, 0);
    assert_eq!(value(&mut board, Redistributors, 0x14, 4), 0);
    board.access(0, Redistributors, 0x14, 4, 2);
    assert_eq!(value(&mut board, Redistributors, 0x14, 4), 6);
}

#[test]
fn set_and_clear_registers_work_on_the_same_bits() {
    for version in [V2, V3] {
        let mut board = Board::new(version, 2);
        for (set, clear) in [(0x100, 0x180), (0x200, 0x280), (0x300, 0x380)] {
            for word in 1..7 {
                board.write(0, set + 4 * word, 0xf0f0_1234);
                board.write(0, clear + 4 * word, 0x0000_0234);
                assert_eq!(board.read(1, set + 4 * word), 0xf0f0_1000);
                assert_eq!(board.read(1, clear + 4 * word), 0xf0f0_1000);
            }
            for beyond in [7, 8, 31] {
                board.write(0, set + 4 * beyond, 0xffff_ffff);
                assert_eq!(board.read(0, set + 4 * beyond), 0);
            }
            board.write_private(1, set, 0xff00_0000);
            board.write_private(1, clear, 0x0f00_0000);
            assert_eq!(
                board.read_private(1, clear),
                0xf000_0000 | own_sgis(version, set)
            );
        }
    }
}

const fn own_sgis(version: GicVersion, bank: u64) -> u32 {
    if matches!(version, V2) && bank == 0x100 {
        0xffff
    } else {
        0
    }
}

#[test]
fn the_distributor_of_a_gicv3_has_no_private_interrupts() {
    let mut board = Board::new(V3, 2);
    for bank in (0x80..0x400).step_by(0x80) {
        board.write(0, bank, 0xffff_ffff);
        assert_eq!(board.read(0, bank), 0, "{bank:#x}");
    }
    let absent = [
        0x400, 0x41c, 0x800, 0x820, 0xc00, 0xc04, 0xd00, 0xd04, 0xe00, 0xe08, 0xf00,
    ];
    for offset in absent
        .into_iter()
        .chain([0xf10, 0xf20, 0x40, 0x48, 0x50, 0x6000, 0x60f8])
    {
        board.write(0, offset, 0xffff_ffff);
        assert_eq!(board.read(0, offset), 0, "{offset:#x}");
    }
    assert_eq!(board.drain(0), []);
}

#[test]
fn frames_of_another_version_read_zero() {
    let mut board = Board::new(V2, 2);
    board.access(0, Redistributors, 0x1_0100, 4, 0xffff_ffff);
    assert_eq!(value(&mut board, Redistributors, 0x1_0100, 4), 0);
    assert_eq!(value(&mut board, Redistributors, 0x8, 8), 0);
    for offset in [0x6100, 0xffe8] {
        board.access(0, Distributor, offset, 4, 1);
        assert_eq!(value(&mut board, Distributor, offset, 4), 0);
    }
}

#[test]
fn only_the_sizes_of_the_architecture_reach_a_register() {
    for version in [V2, V3] {
        let mut board = Board::new(version, 2);
        for (offset, sizes) in [
            (0x104, [4, 0]),
            (0x420, [1, 4]),
            (0xc08, [4, 0]),
            (0x84, [4, 0]),
            (0x4, [4, 0]),
        ] {
            board.write(0, offset, 0x8080_8080);
            for size in [1, 2, 4, 8] {
                let read = value(&mut board, Distributor, offset, size);
                assert_eq!(
                    read != 0,
                    sizes.contains(&size),
                    "{version:?} {offset:#x} {size}"
                );
            }
        }
        for size in [2, 8] {
            board.access(0, Distributor, 0x428, size, u64::MAX);
            board.access(0, Distributor, 0x108, size, u64::MAX);
        }
        board.access(0, Distributor, 0x10a, 4, u64::MAX);
        assert_eq!((board.read(0, 0x428), board.read(0, 0x108)), (0, 0));
    }
}

#[test]
fn priorities_have_five_bits_and_bytes() {
    for version in [V2, V3] {
        let mut board = Board::new(version, 1);
        board.access(0, Distributor, 0x400 + 35, 1, 0xff);
        assert_eq!(board.read(0, 0x420), 0xf800_0000);
        assert_eq!(value(&mut board, Distributor, 0x423, 1), 0xf8);
        board.write(0, 0x420, 0x0102_0408);
        assert_eq!(board.read(0, 0x420), 0x8);
        board.write_private(0, 0x404, 0xffff_ffff);
        assert_eq!(board.read_private(0, 0x404), 0xf8f8_f8f8);
        board.write(0, 0x4e0, 0xffff_ffff);
        assert_eq!(board.read(0, 0x4e0), 0, "beyond the last SPI");
    }
}

#[test]
fn configuration_of_sgis_is_fixed() {
    for version in [V2, V3] {
        let mut board = Board::new(version, 1);
        board.write_private(0, 0xc00, 0);
        assert_eq!(board.read_private(0, 0xc00), 0xaaaa_aaaa);
        board.write_private(0, 0xc04, 0x8000_0002);
        assert_eq!(board.read_private(0, 0xc04), 0x8000_0002);
        board.write(0, 0xc08 + 4 * 11, 0xffff_ffff);
        assert_eq!(board.read(0, 0xc08 + 4 * 11), 0xaaaa_aaaa);
        board.write(0, 0xc08 + 4 * 12, 0xffff_ffff);
        assert_eq!(board.read(0, 0xc08 + 4 * 12), 0);
    }
}

#[test]
fn routes_are_read_and_written_whole_or_by_halves() {
    let mut board = Board::new(V3, 2);
    let route = 0x6000 + 8 * 223;
    board.access(0, Distributor, route, 8, u64::MAX);
    assert_eq!(value(&mut board, Distributor, route, 8), 0xff_00ff_ffff);
    board.access(0, Distributor, route, 4, 0x8000_0001);
    assert_eq!(value(&mut board, Distributor, route, 8), 0xff_0000_0001);
    board.access(0, Distributor, route + 4, 4, 0);
    assert_eq!(value(&mut board, Distributor, route + 4, 4), 0);
    assert_eq!(value(&mut board, Distributor, route, 4), 1);
    board.access(0, Distributor, route + 8, 8, 1);
    assert_eq!(
        value(&mut board, Distributor, route + 8, 8),
        0,
        "beyond the last SPI"
    );
}

#[test]
fn targets_of_a_gicv2() {
    let mut board = Board::new(V2, 3);
    assert_eq!(board.read(2, 0x800), 0x0404_0404);
    assert_eq!(value(&mut board, Distributor, 0x81f, 1), 1);
    board.write(0, 0x800, 0xffff_ffff);
    board.write(0, 0x820, 0xffff_ffff);
    assert_eq!(
        (board.read(0, 0x800), board.read(0, 0x820)),
        (0x0101_0101, 0x0707_0707)
    );
    assert_eq!(board.read(0, 0x8e0), 0);
    let mut single = Board::new(V2, 1);
    single.write(0, 0x820, 0xffff_ffff);
    assert_eq!((single.read(0, 0x820), single.read(0, 0x800)), (0, 0));
}

#[test]
fn every_offset_can_be_accessed_in_every_size() {
    for version in [V2, V3] {
        let mut board = Board::ready(version, 2);
        let ends = [(Distributor, 0x1_0000), (Redistributors, 0x6_0000)];
        for (frame, end) in ends {
            for offset in (0..end).chain([u64::MAX - 8, u64::MAX, 1 << 63, 1 << 40]) {
                for size in [0, 1, 2, 3, 4, 8, 16, u32::MAX] {
                    let (core, interface) = (&mut board.cores[1], &mut board.interfaces[1]);
                    let _ = board
                        .gic
                        .mmio_read(1, interface, core, (frame, offset, size));
                    let _ =
                        board
                            .gic
                            .mmio_write(1, (frame, offset, size), u64::MAX >> (offset & 7));
                }
            }
        }
    }
}

/// Whatever a guest writes, in whatever order, nothing panics, no core waits for ever, and what is
/// in list registers stays consistent (the board checks that at every entry).
#[test]
fn random_accesses_keep_the_invariants() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let version = if seed & 1 == 0 { V2 } else { V3 };
        let mut board = Board::ready(version, 3);
        for _ in 0..300 {
            random_step(&mut board, &mut random);
        }
    }
}

fn random_step(board: &mut Board, random: &mut Random) {
    let vcpu = random.below(3);
    let size = [1, 4, 4, 4, 8][random.below(5)];
    let offset = match random.below(3) {
        0 => random.below(0x1000),
        1 => 0x80 * random.below(8) + 4 * random.below(8),
        _ => 0x6100 + 8 * random.below(192),
    } as u64;
    let base = 0x1_0000 * random.below(7) as u64;
    let access = match random.below(2) {
        0 => (Distributor, offset, size),
        _ => (Redistributors, base | offset, size),
    };
    match random.below(8) {
        0..4 => board.access(vcpu, access.0, access.1, access.2, random.next()),
        4 => {
            let _ = board.read_any(vcpu, access.0, access.1, access.2);
        }
        5 => {
            let set = board
                .gic
                .send_sgi(vcpu, SgiRegister::Sgi1, random.next() & 0xf00_00ff);
            board.notify(set);
        }
        6 => board.set_line(32 + random.below(192) as u32, random.below(2) == 0),
        _ => {
            board.cores[vcpu].timer = [1, 5][random.below(2)];
            board.settle_at_most(vcpu);
        }
    }
}

#[test]
fn a_vcpu_that_does_not_exist_is_nobody() {
    let board = Board::new(V3, 1);
    let gic = Vgic::new();
    let mut interface = CpuInterface::new();
    let mut cores = board.cores;
    for vcpu in [0, 1, 8, usize::MAX] {
        let core = &mut cores[0];
        assert!(gic.flush(vcpu, &mut interface, core).is_empty());
        assert!(gic.on_maintenance(vcpu, &mut interface, core).is_empty());
        gic.load(&mut interface, core);
        assert!(gic.flush(vcpu, &mut interface, core).is_empty());
        assert!(gic.save(vcpu, &mut interface, core).is_empty());
        assert!(!gic.has_deliverable_here(vcpu, &interface, core));
        assert!(gic.send_sgi(vcpu, SgiRegister::Sgi1, u64::MAX).is_empty());
        let read = gic.mmio_read(vcpu, &mut interface, core, (Redistributors, 0x1_0200, 4));
        assert_eq!(read, MmioRead::Value(0));
    }
}
