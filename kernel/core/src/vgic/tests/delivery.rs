//! Edge and level, masking, priorities, overflow, pending and active, linked SPIs.

use penumbra_abi::GicVersion::{V2, V3};

use super::Board;
use crate::vgic::{SpiError, VcpuSet};

const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
const ISACTIVER: u64 = 0x300;
const ICACTIVER: u64 = 0x380;
const ICENABLER: u64 = 0x180;
const ISENABLER: u64 = 0x100;
const ICFGR: u64 = 0xc00;

/// Makes SPIs 32 to 47 edge-triggered.
fn edges(board: &mut Board) {
    board.write(0, ICFGR + 8, 0xaaaa_aaaa);
}

fn priority(board: &mut Board, intid: u64, value: u64) {
    board.access(0, crate::vgic::Frame::Distributor, 0x400 + intid, 1, value);
}

#[test]
fn a_level_is_delivered_until_it_is_lowered() {
    for version in [V2, V3] {
        let mut board = Board::ready(version, 1);
        board.set_line(33, true);
        for _ in 0..3 {
            assert_eq!(board.ack(0), Some(33));
            assert_eq!(board.ack(0), None);
            board.end(0, 33);
        }
        assert_eq!(board.ack(0), Some(33));
        board.set_line(33, false);
        board.end(0, 33);
        assert_eq!(board.ack(0), None);
    }
}

#[test]
fn a_level_that_falls_before_it_is_taken_is_not_delivered() {
    let mut board = Board::ready(V3, 1);
    board.set_line(33, true);
    board.set_line(33, false);
    assert_eq!(board.ack(0), None);
    assert_eq!(board.cores[0].valid(), 0);
}

#[test]
fn a_level_serviced_in_the_handler_costs_no_maintenance_interrupt() {
    let mut board = Board::ready(V3, 1);
    board.set_line(33, true);
    assert_eq!(board.ack(0), Some(33));
    board.set_line(33, false);
    board.cores[0].end_virtual(33);
    assert!(!board.cores[0].maintenance());
}

#[test]
fn a_level_that_rises_while_active_comes_again() {
    let mut board = Board::ready(V3, 1);
    board.set_line(33, true);
    assert_eq!(board.ack(0), Some(33));
    board.set_line(33, false);
    board.set_line(33, true);
    assert_eq!(board.ack(0), None);
    board.end(0, 33);
    assert_eq!(board.ack(0), Some(33));
}

#[test]
fn an_edge_is_delivered_once_and_merges_only_while_pending() {
    let mut board = Board::ready(V3, 1);
    edges(&mut board);
    for _ in 0..3 {
        board.set_line(40, true);
        board.set_line(40, false);
    }
    assert_eq!(board.ack(0), Some(40));
    board.set_line(40, true);
    board.set_line(40, false);
    board.end(0, 40);
    assert_eq!(board.drain(0), [40]);
}

#[test]
fn disabling_takes_a_pending_interrupt_back() {
    let mut board = Board::ready(V3, 1);
    edges(&mut board);
    board.write(0, ISPENDR + 4, 1 << 5);
    board.write(0, ICENABLER + 4, 1 << 5);
    assert_eq!(board.ack(0), None);
    assert_eq!(board.read(0, ISPENDR + 4), 1 << 5);
    board.write(0, ISENABLER + 4, 1 << 5);
    assert_eq!(board.drain(0), [37]);
}

#[test]
fn disabled_groups_are_not_delivered() {
    let mut board = Board::ready(V3, 1);
    board.write(0, 0x80 + 4, !(1 << 3));
    board.write(0, ISPENDR + 4, 3 << 2);
    board.write(0, 0, 1);
    assert_eq!(board.drain(0), [35]);
    board.write(0, 0, 2);
    assert_eq!(board.drain(0), [34]);
    assert!(!board.gic.has_deliverable(0));
}

#[test]
fn priorities_decide_even_beyond_the_list_registers() {
    let mut board = Board::ready(V3, 1);
    edges(&mut board);
    board.write(0, 0, 0);
    for intid in 32..48u64 {
        priority(&mut board, intid, 0xf0 - 8 * (intid - 32));
    }
    board.write(0, ISPENDR + 4, 0xffff);
    board.write(0, 0, 3);
    assert_eq!(board.cores[0].valid(), 4);
    assert_eq!(board.drain(0), (32..48).rev().collect::<Vec<_>>());
    assert!(!board.cores[0].underflow && !board.cores[0].no_pending);
}

#[test]
fn interrupts_that_stay_active_do_not_hold_up_the_rest() {
    let mut board = Board::ready(V3, 1);
    edges(&mut board);
    board.write(0, ISPENDR + 4, 0xfff);
    // EOImode 1: all are acknowledged before any is deactivated.
    for intid in 32..44 {
        assert_eq!(board.ack(0), Some(intid));
        board.cores[0].running.pop();
    }
}

#[test]
fn a_more_urgent_late_comer_displaces_what_waits() {
    let mut board = Board::ready(V3, 1);
    edges(&mut board);
    board.write(0, ISPENDR + 4, 0xf);
    priority(&mut board, 45, 0x10);
    board.write(0, ISPENDR + 4, 1 << 13);
    assert_eq!(board.ack(0), Some(45));
    board.end(0, 45);
    assert_eq!(board.drain(0), [32, 33, 34, 35]);
}

#[test]
fn changing_a_priority_reaches_the_list_register() {
    let mut board = Board::ready(V3, 1);
    board.write(0, ISPENDR + 4, 3);
    priority(&mut board, 33, 0x10);
    assert_eq!(board.drain(0), [33, 32]);
}

#[test]
fn nesting_deeper_than_the_list_registers_preempts_and_unwinds() {
    for list_registers in [1, 2, 4] {
        let mut board = Board::with_list_registers(V3, 1, list_registers);
        board.write(0, 0, 3);
        board.enable_all(0);
        edges(&mut board);
        for intid in 32..44u64 {
            priority(&mut board, intid, 0xe0 - 8 * (intid - 32));
        }
        for intid in 32..44 {
            board.write(0, ISPENDR + 4, 1 << (intid - 32));
            assert_eq!(board.ack(0), Some(intid), "{list_registers} list registers");
        }
        assert_eq!(board.read(0, ISACTIVER + 4), 0xfff);
        for intid in (32..44).rev() {
            board.end(0, intid);
        }
        assert_eq!(board.read(0, ISACTIVER + 4), 0);
        assert_eq!(board.cores[0].valid(), 0);
    }
}

#[test]
fn an_interrupt_left_active_does_not_starve_others() {
    let mut board = Board::ready(V3, 1);
    edges(&mut board);
    for intid in 32..36 {
        board.write(0, ISPENDR + 4, 1 << (intid - 32));
        assert_eq!(board.ack(0), Some(intid));
        // EOImode 1: priority drop now, deactivation by a thread later.
        board.cores[0].running.pop();
    }
    board.write(0, ISPENDR + 4, 0x3f0);
    for intid in 36..42 {
        assert_eq!(board.ack(0), Some(intid));
        board.end(0, intid);
    }
    for intid in 32..36 {
        board.settle(0);
        let held = board.cores[0]
            .lr
            .iter()
            .any(|&lr| lr >> 63 != 0 && lr as u32 & 0x3ff == intid);
        assert!(held, "{intid} came back to a list register");
        board.cores[0].deactivate_virtual(intid);
    }
}

#[test]
fn pending_and_active_state_can_be_written() {
    for version in [V2, V3] {
        let mut board = Board::ready(version, 1);
        edges(&mut board);
        board.write(0, ISPENDR + 4, 1);
        assert_eq!(board.read(0, ISPENDR + 4), 1);
        board.write(0, ICPENDR + 4, 1);
        assert_eq!((board.ack(0), board.read(0, ICPENDR + 4)), (None, 0));
        board.write(0, ISACTIVER + 4, 2);
        board.write(0, ISPENDR + 4, 2);
        assert_eq!((board.ack(0), board.read(0, ISACTIVER + 4)), (None, 2));
        board.write(0, ICACTIVER + 4, 2);
        assert_eq!(board.drain(0), [33]);
        board.write_private(0, ISPENDR, 1 << 20);
        assert_eq!(board.ack(0), Some(20));
        assert_eq!(board.read_private(0, ISACTIVER), 1 << 20);
        assert_eq!(board.read_private(0, ISPENDR), 0);
        board.write_private(0, ICACTIVER, 1 << 20);
        assert_eq!(board.read_private(0, ISACTIVER), 0);
        assert_eq!(board.cores[0].valid(), 0);
    }
}

#[test]
fn a_latched_level_interrupt_is_delivered_once() {
    let mut board = Board::ready(V3, 1);
    board.write(0, ISPENDR + 4, 1);
    board.write_private(0, ISPENDR, 1 << 21);
    // Folding and placing again must not lose the latch.
    assert_eq!(board.read(0, ISPENDR + 4), 1);
    assert_eq!(board.read_private(0, ISPENDR), 1 << 21);
    board.save(0);
    board.load(0);
    assert_eq!(board.drain(0), [21, 32]);
}

#[test]
fn an_spi_follows_its_route() {
    let mut board = Board::ready(V3, 2);
    edges(&mut board);
    board.access(0, crate::vgic::Frame::Distributor, 0x6000 + 8 * 40, 8, 1);
    board.set_line(40, true);
    assert_eq!((board.ack(0), board.ack(1)), (None, Some(40)));
    board.end(1, 40);
    // Pending in a list register when it is sent elsewhere.
    board.set_line(40, false);
    board.set_line(40, true);
    board.access(0, crate::vgic::Frame::Distributor, 0x6000 + 8 * 40, 8, 0);
    assert_eq!((board.ack(1), board.ack(0)), (None, Some(40)));
    // To nobody: it stays pending.
    board.end(0, 40);
    board.access(0, crate::vgic::Frame::Distributor, 0x6000 + 8 * 40, 8, 7);
    board.set_line(40, false);
    board.set_line(40, true);
    assert_eq!((board.ack(1), board.ack(0)), (None, None));
    assert_eq!(board.read(0, ISPENDR + 4), 1 << 8);
}

#[test]
fn an_active_spi_that_was_sent_elsewhere_ends_where_it_is_active() {
    let mut board = Board::ready(V3, 2);
    edges(&mut board);
    board.set_line(40, true);
    assert_eq!(board.ack(0), Some(40));
    board.access(0, crate::vgic::Frame::Distributor, 0x6000 + 8 * 40, 8, 1);
    board.set_line(40, false);
    board.set_line(40, true);
    assert_eq!(board.ack(1), None);
    board.end(0, 40);
    assert_eq!(board.drain(0), []);
    assert_eq!(board.drain(1), [40]);
}

#[test]
fn gicv2_targets_choose_the_lowest_vcpu() {
    let mut board = Board::ready(V2, 4);
    board.access(2, crate::vgic::Frame::Distributor, 0x800 + 33, 1, 0b1100);
    assert_eq!(board.read(0, 0x800 + 32), 0b1100 << 8);
    board.set_line(33, true);
    assert_eq!(board.ack(3), None);
    assert_eq!(board.ack(2), Some(33));
}

#[test]
fn nothing_is_in_hardware_between_save_and_load() {
    let mut board = Board::ready(V3, 1);
    edges(&mut board);
    board.write(0, ISPENDR + 4, 0xff);
    board.write_private(0, ISPENDR, 1 << 5);
    assert_eq!(board.ack(0), Some(5));
    board.save(0);
    assert!(board.gic.has_deliverable(0));
    board.cores[0].lr.fill(0);
    board.load(0);
    board.end(0, 5);
    assert_eq!(board.drain(0), (32..40).collect::<Vec<_>>());
}

#[test]
fn what_waited_for_a_list_register_is_not_forgotten_by_a_save() {
    let mut board = Board::ready(V3, 1);
    edges(&mut board);
    board.write(0, ISPENDR + 4, 0xff);
    // The maintenance interrupt is pending, but the vCPU leaves before it is taken.
    for _ in 0..4 {
        let (intid, _) = board.cores[0].acknowledge_virtual().unwrap();
        board.cores[0].end_virtual(intid);
    }
    assert!(board.cores[0].maintenance());
    board.save(0);
    board.load(0);
    assert_eq!(board.drain(0), [36, 37, 38, 39]);
}

#[test]
fn wake_up_looks_at_memory_and_list_registers() {
    let mut board = Board::ready(V3, 1);
    let here = |board: &Board| {
        board
            .gic
            .has_deliverable_here(0, &board.interfaces[0], &board.cores[0])
    };
    assert!(!here(&board));
    board.set_line(33, true);
    assert!(here(&board));
    assert_eq!(board.ack(0), Some(33));
    assert!(!here(&board));
    board.write(0, ICENABLER + 4, 2);
    board.end(0, 33);
    assert!(!here(&board));
    assert!(!board.gic.has_deliverable(99));
}

#[test]
fn a_level_ppi_is_resampled() {
    let mut board = Board::ready(V3, 1);
    let set = board.gic.set_ppi_level(0, 30, true);
    board.notify(set);
    for _ in 0..2 {
        assert_eq!(board.ack(0), Some(30));
        board.end(0, 30);
    }
    let set = board.gic.set_ppi_level(0, 30, false);
    board.notify(set);
    assert_eq!(board.ack(0), None);
    assert_eq!(board.gic.raise_ppi(0, 3), VcpuSet::EMPTY);
    assert_eq!(board.gic.raise_ppi(0, 32), VcpuSet::EMPTY);
    assert_eq!(board.gic.raise_ppi(8, 20), VcpuSet::EMPTY);
}

#[test]
fn a_linked_spi_is_deactivated_by_the_guest() {
    let mut board = Board::ready(V3, 2);
    assert_eq!(board.gic.assign_spi(50, 96), Ok(()));
    assert_eq!(board.gic.assign_spi(50, 97), Err(SpiError::Taken));
    assert_eq!(board.gic.assign_spi(31, 97), Err(SpiError::NotAnSpi));
    assert_eq!(board.gic.assign_spi(224, 97), Err(SpiError::NotAnSpi));
    assert_eq!(board.gic.assign_spi(51, 27), Err(SpiError::NotPhysical));
    let set = board.gic.inject_spi(50);
    board.notify(set);
    assert_eq!(board.ack(0), Some(50));
    board.save(0);
    board.load(0);
    board.end(0, 50);
    assert_eq!(board.cores[0].deactivated, [96]);
}

#[test]
fn a_linked_spi_that_is_dropped_is_deactivated_by_us() {
    let mut board = Board::ready(V3, 1);
    assert_eq!(board.gic.assign_spi(50, 96), Ok(()));
    for (step, drop) in [ICPENDR, ICACTIVER, ICPENDR].into_iter().enumerate() {
        if step == 2 {
            board.write(0, ICENABLER + 4, 1 << 18);
        }
        let set = board.gic.inject_spi(50);
        board.notify(set);
        if drop == ICACTIVER {
            assert_eq!(board.ack(0), Some(50));
        }
        board.write(0, drop + 4, 1 << 18);
        assert_eq!(board.cores[0].deactivated.len(), step + 1);
        assert_eq!(board.cores[0].valid(), 0);
    }
    assert!(board.gic.inject_spi(51).is_empty());
}
