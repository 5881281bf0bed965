//! SGIs: decoding, groups, sources.

use penumbra_abi::GicVersion::{V2, V3};

use super::Board;
use crate::vgic::{Frame, SgiRegister, VcpuSet};

fn send(board: &mut Board, from: usize, value: u64) -> VcpuSet {
    let set = board.gic.send_sgi(from, SgiRegister::Sgi1, value);
    board.notify(set);
    set
}

#[test]
fn target_lists_and_affinities_are_decoded() {
    let mut board = Board::ready(V3, 4);
    let intid = 5 << 24;
    assert_eq!(send(&mut board, 0, intid | 0b1010).bits(), 0b1010);
    assert_eq!(
        (board.drain(1), board.drain(3), board.drain(0)),
        (vec![5], vec![5], vec![])
    );
    // Only vCPUs that exist; nobody else's affinity; no other range; everyone but the sender.
    assert_eq!(send(&mut board, 0, intid | 0xfff0).bits(), 0);
    for other in [1 << 16, 1 << 32, 1 << 48, 1 << 44] {
        assert_eq!(send(&mut board, 0, intid | other | 0xf).bits(), 0);
    }
    assert_eq!(
        send(&mut board, 2, intid | 1 << 40 | 1 << 16 | 0xf).bits(),
        0b1011
    );
    assert_eq!(send(&mut board, 2, u64::MAX).bits(), 0b1011);
}

#[test]
fn an_sgi_to_oneself_and_twice_is_delivered_once() {
    let mut board = Board::ready(V3, 1);
    let _ = board.gic.send_sgi(0, SgiRegister::Sgi1, 1);
    assert_eq!(send(&mut board, 0, 1).bits(), 1);
    assert_eq!(board.ack(0), Some(0));
    assert_eq!(send(&mut board, 0, 1).bits(), 1);
    assert_eq!(board.ack(0), None);
    board.end(0, 0);
    assert_eq!(board.drain(0), [0]);
}

#[test]
fn only_enabled_targets_are_kicked_but_the_sgi_waits() {
    let mut board = Board::ready(V3, 2);
    board.write_private(1, 0x180, 1 << 3);
    assert_eq!(send(&mut board, 0, 3 << 24 | 2).bits(), 0);
    board.write_private(1, 0x100, 1 << 3);
    assert_eq!(board.drain(1), [3]);
}

#[test]
fn group_0_registers_reach_only_group_0() {
    let mut board = Board::ready(V3, 2);
    for register in [SgiRegister::Sgi0, SgiRegister::AliasedSgi1] {
        assert!(board.gic.send_sgi(0, register, 2).is_empty());
    }
    board.write_private(1, 0x80, 0);
    let set = board.gic.send_sgi(0, SgiRegister::Sgi0, 2);
    board.notify(set);
    assert_eq!(board.drain(1), [0]);
}

#[test]
fn all_sixteen_sgis_at_once_go_through_four_list_registers() {
    for version in [V2, V3] {
        let mut board = Board::ready(version, 2);
        for sgi in 0..16u32 {
            if version == V2 {
                board.write(0, 0xf00, 2 << 16 | sgi);
            } else {
                let _ = send(&mut board, 0, u64::from(sgi) << 24 | 2);
            }
        }
        assert_eq!(board.drain(1), (0..16).collect::<Vec<_>>());
    }
}

#[test]
fn gicv2_filters() {
    let mut board = Board::ready(V2, 4);
    for (value, expected) in [
        (0b0110 << 16, 0b0110),
        (1 << 24 | 0xff << 16, 0b1011),
        (2 << 24 | 0xff << 16, 0b0100),
        (3 << 24 | 0xff << 16, 0),
    ] {
        board.write(2, 0xf00, value | 9);
        let got = (0..4)
            .filter(|&vcpu| board.drain(vcpu) == [9])
            .fold(0, |set, n| set | 1 << n);
        assert_eq!(got, expected, "{value:#x}");
    }
}

#[test]
fn gicv2_delivers_each_source() {
    let mut board = Board::ready(V2, 4);
    for source in [0, 2, 3] {
        board.write(source, 0xf00, 1 << (16 + 1) | 4);
        board.write(source, 0xf00, 1 << (16 + 1) | 4);
    }
    assert_eq!(board.read(1, 0xf24), 0b1101);
    assert_eq!(board.read_private(1, 0x200), 1 << 4);
    let mut sources = vec![];
    for _ in 0..3 {
        board.settle(1);
        let (intid, source) = board.cores[1].acknowledge_virtual().unwrap();
        assert_eq!(intid, 4);
        // The vCPU may move while it handles the interrupt; its source stays.
        board.save(1);
        board.load(1);
        sources.push(source);
        board.end(1, 4);
    }
    assert_eq!(sources, [0, 2, 3]);
    assert_eq!((board.ack(1), board.read(1, 0xf24)), (None, 0));
}

#[test]
fn gicv2_pending_sources_can_be_set_and_cleared() {
    let mut board = Board::ready(V2, 4);
    // SGI pending bits of ISPENDR are read-only.
    board.write(1, 0x200, 0xffff);
    assert_eq!((board.ack(1), board.read(1, 0x200)), (None, 0));
    board.access(1, Frame::Distributor, 0xf20 + 7, 1, 0b1001);
    board.write(1, 0x280, 0xffff);
    assert_eq!(board.read(1, 0xf24), 0b1001 << 24);
    board.access(1, Frame::Distributor, 0xf10 + 7, 1, 0b0001);
    assert_eq!(board.read_any(1, Frame::Distributor, 0xf17, 1), 0b1000);
    board.settle(1);
    assert_eq!(board.cores[1].acknowledge_virtual(), Some((7, 3)));
    board.end(1, 7);
    // Sources that no vCPU has do nothing; nor does clearing what is not there.
    board.write(1, 0xf24, 0xf0f0_f0f0);
    board.write(1, 0xf14, 0xffff_ffff);
    assert_eq!((board.ack(1), board.read(1, 0xf24)), (None, 0));
    board.write(1, 0xf20, 0x0000_0300);
    board.write(1, 0xf10, 0xffff_ffff);
    assert_eq!(board.ack(1), None);
}
