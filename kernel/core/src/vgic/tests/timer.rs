//! The virtual timer: linked to the physical PPI, on and off the core.

use penumbra_abi::GicVersion::{V2, V3};

use super::Board;

const EXPIRED: u64 = 0b101;
const RUNNING: u64 = 0b001;
const TIMER: u32 = 1 << 27;

#[test]
fn fires_is_taken_ends_and_fires_again_while_expired() {
    for version in [V2, V3] {
        let mut board = Board::ready(version, 1);
        board.cores[0].timer = EXPIRED;
        for _ in 0..3 {
            assert_eq!(board.ack(0), Some(27));
            assert!(board.cores[0].timer_active);
            board.cores[0].end_virtual(27);
            assert!(!board.cores[0].timer_active);
        }
        board.cores[0].timer = RUNNING;
        assert_eq!(board.ack(0), None);
    }
}

#[test]
fn the_usual_injection_is_one_list_register_write_without_the_lock() {
    let mut board = Board::ready(V3, 1);
    board.cores[0].timer = EXPIRED;
    assert_eq!(board.ack(0), Some(27));
    board.cores[0].timer = RUNNING;
    board.end(0, 27);
    board.cores[0].timer = EXPIRED;
    board.cores[0].timer_active = true;
    let writes = board.cores[0].writes;
    let lock = board.gic.spis.lock();
    let set = board
        .gic
        .inject_vtimer(0, &mut board.interfaces[0], &mut board.cores[0]);
    drop(lock);
    assert!(set.is_empty());
    assert_eq!(board.cores[0].writes, writes + 1);
    assert_eq!(board.ack(0), Some(27));
}

#[test]
fn disabled_it_waits_without_a_storm_and_is_looked_at_again() {
    let mut board = Board::ready(V3, 1);
    board.write_private(0, 0x180, TIMER);
    board.cores[0].timer = EXPIRED;
    board.settle(0);
    assert_eq!(board.ack(0), None);
    assert!(board.cores[0].timer_active);
    assert_eq!(board.read_private(0, 0x200), TIMER);
    // Still expired when enabled: delivered.
    board.write_private(0, 0x100, TIMER);
    assert_eq!(board.ack(0), Some(27));
    board.end(0, 27);
    // Re-armed before it is enabled: not delivered, and it can fire later.
    board.write_private(0, 0x180, TIMER);
    board.settle(0);
    board.cores[0].timer = RUNNING;
    board.write_private(0, 0x100, TIMER);
    assert_eq!(board.ack(0), None);
    assert!(!board.cores[0].timer_active);
    board.cores[0].timer = EXPIRED;
    assert_eq!(board.ack(0), Some(27));
}

#[test]
fn disabling_it_while_pending_takes_it_back() {
    let mut board = Board::ready(V3, 1);
    board.cores[0].timer = EXPIRED;
    board.settle(0);
    board.write_private(0, 0x180, TIMER);
    assert_eq!(board.ack(0), None);
    board.write_private(0, 0x100, TIMER);
    assert_eq!(board.drain_one(0), Some(27));
}

#[test]
fn active_state_moves_with_the_vcpu() {
    let mut board = Board::ready(V3, 1);
    board.cores[0].timer = EXPIRED;
    assert_eq!(board.ack(0), Some(27));
    board.save(0);
    assert_eq!(board.cores[0].timer, EXPIRED);
    board.load(0);
    assert!(
        board.cores[0].timer_active,
        "it is in the handler: no second delivery"
    );
    assert_eq!(board.ack(0), None);
    board.cores[0].timer = RUNNING;
    board.end(0, 27);
    assert!(!board.cores[0].timer_active);
    assert_eq!(board.ack(0), None);
}

#[test]
fn pending_state_moves_with_the_vcpu() {
    let mut board = Board::ready(V3, 1);
    board.cores[0].timer = EXPIRED;
    board.settle(0);
    board.save(0);
    assert!(board.gic.has_deliverable(0));
    board.load(0);
    assert_eq!(board.drain_one(0), Some(27));
    // Nothing of it is left behind on the core of the next vCPU.
    board.cores[0].timer = RUNNING;
    board.save(0);
    assert!(!board.gic.has_deliverable(0));
}

#[test]
fn expiry_off_the_core_wakes_and_is_delivered() {
    let mut board = Board::ready(V3, 1);
    board.save(0);
    assert_eq!(board.gic.raise_ppi(0, 27).bits(), 1);
    assert!(board.gic.has_deliverable(0));
    board.cores[0].timer = EXPIRED;
    board.load(0);
    assert_eq!(board.drain_one(0), Some(27));
}

#[test]
fn clearing_its_active_state_lets_it_fire() {
    let mut board = Board::ready(V3, 1);
    board.cores[0].timer = EXPIRED;
    assert_eq!(board.ack(0), Some(27));
    board.cores[0].running.clear();
    board.write_private(0, 0x380, TIMER);
    assert!(!board.cores[0].timer_active);
    assert_eq!(board.ack(0), Some(27));
}

#[test]
fn pending_state_shows_the_line() {
    let mut board = Board::ready(V3, 1);
    assert_eq!(board.read_private(0, 0x200), 0);
    board.cores[0].timer = EXPIRED;
    assert_eq!(board.read_private(0, 0x200), TIMER);
    assert_eq!(board.ack(0), Some(27));
    board.write_private(0, 0x280, TIMER);
    assert_eq!(
        board.read_private(0, 0x200),
        TIMER,
        "a level cannot be cleared"
    );
    assert_eq!(board.read_private(0, 0x300), TIMER);
    board.cores[0].timer = RUNNING;
    assert_eq!(board.read_private(0, 0x200), 0);
}

#[test]
fn written_pending_it_is_delivered_once() {
    let mut board = Board::ready(V3, 1);
    board.write_private(0, 0x200, TIMER);
    assert_eq!(board.drain(0), [27]);
    assert!(!board.cores[0].timer_active);
}

#[test]
fn evicted_while_active_it_neither_storms_nor_is_lost() {
    let mut board = Board::with_list_registers(V3, 1, 2);
    board.write(0, 0, 3);
    board.enable_all(0);
    board.write(0, 0xc08, 0xaaaa_aaaa);
    for (intid, priority) in [(32, 0x70), (33, 0x60)] {
        board.access(
            0,
            crate::vgic::Frame::Distributor,
            0x400 + intid,
            1,
            priority,
        );
    }
    board.cores[0].timer = EXPIRED;
    assert_eq!(board.ack(0), Some(27));
    for intid in [32, 33] {
        board.write(0, 0x204, 1 << (intid - 32));
        assert_eq!(board.ack(0), Some(intid));
    }
    board.write(0, 0x204, 1 << 5);
    board.settle(0);
    board.end(0, 33);
    board.end(0, 32);
    board.cores[0].timer = RUNNING;
    board.end(0, 27);
    assert_eq!(board.drain(0), [37]);
    assert!(!board.cores[0].timer_active);
}
