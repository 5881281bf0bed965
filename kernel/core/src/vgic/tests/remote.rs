//! State that sits in the list registers of another core.

use penumbra_abi::GicVersion::V3;

use super::Board;
use crate::vgic::{Frame, MmioRead, SgiRegister, VcpuSet};

const ISPENDR: u64 = 0x200;
const ISACTIVER: u64 = 0x300;
const ICPENDR: u64 = 0x280;
const ICACTIVER: u64 = 0x380;

#[test]
fn another_redistributor_tells_what_its_list_registers_hold() {
    let mut board = Board::ready(V3, 2);
    let set = board.gic.send_sgi(0, SgiRegister::Sgi1, 6 << 24 | 2);
    board.notify(set);
    assert_eq!(board.read_redistributor(0, 1, ISPENDR), 1 << 6);
    assert_eq!(board.ack(1), Some(6));
    assert_eq!(board.read_redistributor(0, 1, ISPENDR), 0);
    assert_eq!(board.read_redistributor(0, 1, ISACTIVER), 1 << 6);
    board.end(1, 6);
    assert_eq!(board.read_redistributor(0, 1, ISACTIVER), 0);
}

#[test]
fn spis_in_other_list_registers_are_read_right() {
    let mut board = Board::ready(V3, 3);
    for intid in [40u64, 41] {
        board.access(0, Frame::Distributor, 0x6000 + 8 * intid, 8, intid - 39);
    }
    board.set_line(40, true);
    board.set_line(41, true);
    board.set_line(42, true);
    assert_eq!(board.read(0, ISPENDR + 4), 0b111 << 8);
    assert_eq!((board.ack(1), board.ack(0)), (Some(40), Some(42)));
    board.set_line(40, false);
    assert_eq!(board.read(2, ISPENDR + 4), 0b110 << 8);
    assert_eq!(board.read(2, ISACTIVER + 4), 0b101 << 8);
}

#[test]
fn writes_reach_interrupts_in_other_list_registers() {
    let mut board = Board::ready(V3, 2);
    let redistributor = 0x2_0000 + 0x1_0000;
    let set = board.gic.send_sgi(0, SgiRegister::Sgi1, 6 << 24 | 2);
    board.notify(set);
    board.access(0, Frame::Redistributors, redistributor + ICPENDR, 4, 1 << 6);
    assert_eq!(board.ack(1), None);
    board.access(0, Frame::Redistributors, redistributor + ISPENDR, 4, 1 << 6);
    assert_eq!(board.ack(1), Some(6));
    board.cores[1].running.clear();
    board.access(
        0,
        Frame::Redistributors,
        redistributor + ICACTIVER,
        4,
        1 << 6,
    );
    assert_eq!(board.read_redistributor(0, 1, ISACTIVER), 0);
    board.access(
        0,
        Frame::Redistributors,
        redistributor + ISACTIVER,
        4,
        1 << 6,
    );
    let set = board.gic.send_sgi(0, SgiRegister::Sgi1, 6 << 24 | 2);
    board.notify(set);
    assert_eq!(board.ack(1), None);
    assert_eq!(board.read_redistributor(0, 1, ISACTIVER), 1 << 6);
}

/// Both vCPUs read each other's state and only ever flush when asked: both get an answer, the first
/// attempt after the other flushed.
#[test]
fn two_that_ask_each_other_are_both_served() {
    let mut board = Board::ready(V3, 2);
    let set = board.gic.send_sgi(0, SgiRegister::Sgi1, 1 << 40);
    board.notify(set);
    let set = board.gic.send_sgi(1, SgiRegister::Sgi1, 1 << 40);
    board.notify(set);
    let ask = |board: &mut Board, vcpu: usize| {
        let offset = 0x2_0000 * (1 - vcpu as u64) + 0x1_0000 + ISPENDR;
        let (core, interface) = (&mut board.cores[vcpu], &mut board.interfaces[vcpu]);
        board
            .gic
            .mmio_read(vcpu, interface, core, (Frame::Redistributors, offset, 4))
    };
    assert_eq!(ask(&mut board, 0), MmioRead::Retry(VcpuSet::single(1)));
    assert_eq!(ask(&mut board, 1), MmioRead::Retry(VcpuSet::single(0)));
    assert_eq!(ask(&mut board, 0), MmioRead::Retry(VcpuSet::single(1)));
    let _ = board.flush(0);
    let _ = board.flush(1);
    assert_eq!(ask(&mut board, 0), MmioRead::Value(1));
    assert_eq!(ask(&mut board, 1), MmioRead::Value(1));
    // The question is over: the next one is a new one.
    assert_eq!(ask(&mut board, 0), MmioRead::Retry(VcpuSet::single(1)));
}

#[test]
fn an_answer_is_forgotten_when_the_reader_takes_an_interrupt_instead() {
    let mut board = Board::ready(V3, 2);
    let set = board.gic.send_sgi(0, SgiRegister::Sgi1, 2);
    board.notify(set);
    let ask = |board: &mut Board| {
        let (core, interface) = (&mut board.cores[0], &mut board.interfaces[0]);
        board.gic.mmio_read(
            0,
            interface,
            core,
            (Frame::Redistributors, 0x3_0000 + ISPENDR, 4),
        )
    };
    assert_eq!(ask(&mut board), MmioRead::Retry(VcpuSet::single(1)));
    let _ = board.flush(1);
    let set = board.gic.send_sgi(1, SgiRegister::Sgi1, 1);
    board.notify(set);
    assert_eq!(board.drain(1), [0]);
    assert_eq!(board.drain(0), [0]);
    assert_eq!(ask(&mut board), MmioRead::Retry(VcpuSet::single(1)));
    let _ = board.flush(1);
    assert_eq!(ask(&mut board), MmioRead::Value(0));
}

#[test]
fn who_leaves_its_core_need_not_be_asked() {
    let mut board = Board::ready(V3, 2);
    let set = board.gic.send_sgi(0, SgiRegister::Sgi1, 2);
    board.notify(set);
    board.save(1);
    let (core, interface) = (&mut board.cores[0], &mut board.interfaces[0]);
    let access = (Frame::Redistributors, 0x3_0000 + ISPENDR, 4);
    assert_eq!(
        board.gic.mmio_read(0, interface, core, access),
        MmioRead::Value(1)
    );
}
