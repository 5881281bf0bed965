//! Memory of VMs: reserved, thin, grants, destruction, ownership.

use penumbra_abi::{
    Call, CrashCause, Error, Events, GicVersion, MANAGER_WINDOW_IPA, StopReason, VmState,
};
use penumbra_vmsa::{MIB, PAGE_SIZE};

use super::Bench;
use super::fake::{GICD, Op, RAM, UART};

#[test]
fn reserved_memory_is_there_and_ends_where_it_ends() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.program(
        vm,
        0,
        [Op::Load(RAM, 8), Op::Store(RAM + 4 * MIB - 8, 8, 1)],
    );
    bench.steps(5);
    assert_eq!(bench.log(vm, 0).len(), 2);
    assert_eq!(bench.audit(), 0);
}

#[test]
fn no_frame_is_lost_in_a_thousand_lives() {
    let mut bench = Bench::new(2);
    let before = bench.cores[0].used_bytes();
    for round in 0..1000 {
        let vm = bench.create(1);
        if round % 2 == 0 {
            bench.reserve(vm, 2 * MIB);
        } else {
            bench.ok(Call::VmMapRam, &[vm, RAM, 8 * MIB, 1, 4 * MIB]);
            bench.finish(Call::VmStockAdd, &[vm], 1);
        }
        bench.start(vm, &[1]);
        bench.program(vm, 0, [Op::Store(RAM + 8, 8, 5)]);
        bench.steps(2);
        bench.ok(Call::VmStop, &[vm]);
        bench.destroy(vm);
        bench.cores[0].shared.lock().unwrap().log.clear();
    }
    assert_eq!(bench.cores[0].used_bytes(), before);
    assert_eq!(bench.audit(), 0);
}

#[test]
fn a_life_may_end_at_any_point_of_its_building() {
    let mut bench = Bench::new(1);
    let before = bench.cores[0].used_bytes();
    for pieces in 0..70 {
        let vm = bench.create(1);
        for _ in 0..pieces {
            // The last pieces are one too many.
            if bench.ok(Call::VmMapRam, &[vm, RAM, 4 * MIB, 0, 0]) == 4 * MIB {
                break;
            }
        }
        assert_eq!(bench.audit(), 0);
        bench.destroy(vm);
    }
    assert_eq!(bench.cores[0].used_bytes(), before);
}

#[test]
fn work_goes_on_until_an_interrupt_waits() {
    let mut bench = Bench::new(1);
    let before = bench.cores[0].used_bytes();
    for (quiet, calls) in [(false, 32), (true, 1)] {
        bench.cores[0].shared.lock().unwrap().quiet = quiet;
        let vm = bench.create(1);
        let one_frame = bench.count(Call::VmMapRam, &[vm, RAM, 2 * MIB, 0, 0], 2 * MIB);
        assert_eq!(one_frame, calls);
        bench.ok(Call::VmMapRam, &[vm, RAM + 4 * MIB, 8 * MIB, 1, 8 * MIB]);
        assert_eq!(bench.count(Call::VmStockAdd, &[vm], 1), calls);
        // Likewise once the guest runs: its lock is free while a piece is zeroed.
        bench.start(vm, &[0]);
        assert_eq!(bench.count(Call::VmStockAdd, &[vm], 1), calls);
        bench.ok(Call::VmStop, &[vm]);
        assert_eq!(bench.audit(), 0);
        let end = bench.count(Call::VmDestroy, &[vm], 1);
        assert!(end == 1 || !quiet && end > 64, "{end}");
        assert_eq!(bench.cores[0].used_bytes(), before);
    }
}

#[test]
fn thin_memory_fills_from_the_stock_and_becomes_a_block() {
    let mut bench = Bench::new(2);
    let vm = bench.create(1);
    bench.ok(Call::VmMapRam, &[vm, RAM, 8 * MIB, 1, 4 * MIB]);
    bench.start(vm, &[1]);
    bench.program(
        vm,
        0,
        (0..512).map(|page| Op::Store(RAM + page * PAGE_SIZE, 8, page)),
    );
    bench.steps(10);
    // The stock is empty: the manager is asked, and asked again until it has given.
    assert_eq!(bench.log(vm, 0).len(), 0);
    assert!(bench.status(vm).wants_stock);
    assert_eq!(bench.ok(Call::Wait, &[u64::MAX]), Events::STATUS.0);
    bench.finish(Call::VmStockAdd, &[vm], 1);
    bench.steps(20);
    assert_eq!(bench.log(vm, 0).len(), 512);
    let x = bench.call(Call::VcpuCounter, &[vm, 0, 4]);
    // Sixteen pages are touched; the rest of the frame comes with the last of them.
    assert_eq!(x[1], 16);
    let [_, gib, mib2, pages, ..] = bench.call(Call::VmLeaves, &[vm]);
    assert_eq!((gib, mib2, pages), (0, 1, 0));
    assert_eq!(bench.audit(), 0);
    // The second frame is the last that the quota allows.
    bench.finish(Call::VmStockAdd, &[vm], 1);
    assert_eq!(bench.error(Call::VmStockAdd, &[vm]), Error::QuotaExceeded);
    bench.program(
        vm,
        0,
        [Op::Load(RAM + 2 * MIB, 8), Op::Load(RAM + 4 * MIB, 8)],
    );
    bench.cores[0].interrupt(1, 0);
    bench.steps(20);
    let status = bench.status(vm);
    assert_eq!(
        (status.state, status.reason),
        (VmState::Stopped, StopReason::Crash)
    );
    assert_eq!(
        (status.cause, status.ipa),
        (CrashCause::QuotaExceeded, RAM + 4 * MIB)
    );
    assert_eq!(status.held_bytes, 4 * MIB);
    bench.destroy(vm);
    assert_eq!(bench.audit(), 0);
}

#[test]
fn a_grant_shows_the_manager_guest_memory_until_it_ends() {
    let mut bench = Bench::new(2);
    let before = bench.cores[0].used_bytes();
    for backing in [0, 1] {
        let vm = bench.create(1);
        let bytes = 4 * MIB;
        bench.finish(Call::VmMapRam, &[vm, RAM, bytes, backing, bytes], bytes);
        let lent = 2 * MIB + 3 * PAGE_SIZE;
        let window = MANAGER_WINDOW_IPA;
        bench.finish(Call::GrantBegin, &[vm, RAM + PAGE_SIZE, lent, window], lent);
        bench.finish(
            Call::GrantBegin,
            &[vm, RAM, PAGE_SIZE, window + 16 * MIB],
            PAGE_SIZE,
        );
        bench.cores[0].program(0, [Op::Store(window + lent - 8, 8, 1)]);
        bench.cores[0].interrupt(0, 0);
        bench.steps(2);
        assert_eq!(bench.audit(), 0);
        bench.ok(Call::VcpuPin, &[vm, 0, 1]);
        assert_eq!(bench.error(Call::VmStart, &[vm, RAM, 0]), Error::BadState);
        bench.finish(Call::GrantEnd, &[vm], 1);
        bench.start(vm, &[1]);
        bench.program(vm, 0, [Op::Load(RAM + PAGE_SIZE, 8)]);
        bench.steps(2);
        assert_eq!(bench.log(vm, 0).len(), 1);
        bench.cores[0].shared.lock().unwrap().log.clear();
        bench.ok(Call::VmStop, &[vm]);
        bench.destroy(vm);
    }
    // A VM may be destroyed with its grants live; the manager keeps some tables for its window.
    let vm = bench.create(1);
    bench.reserve(vm, 4 * MIB);
    bench.finish(
        Call::GrantBegin,
        &[vm, RAM, 4 * MIB, MANAGER_WINDOW_IPA],
        4 * MIB,
    );
    bench.destroy(vm);
    assert_eq!(bench.audit(), 0);
    assert!(bench.cores[0].used_bytes() - before <= 8 * PAGE_SIZE);
}

#[test]
fn a_grant_takes_nothing_from_a_region_that_is_being_built() {
    let mut bench = Bench::new(1);
    let vm = bench.create(1);
    bench.ok(Call::VmMapRam, &[vm, RAM, 4 * MIB, 1, 16 * MIB]);
    let reserve = [vm, RAM + 4 * MIB, 2 * MIB, 0, 0];
    assert_eq!(bench.ok(Call::VmMapRam, &reserve), 0);
    let grant = [vm, RAM, PAGE_SIZE, MANAGER_WINDOW_IPA];
    assert_eq!(bench.error(Call::GrantBegin, &grant), Error::BadState);
    bench.finish(Call::VmMapRam, &reserve, 2 * MIB);
    let [_, gib, mib2, pages, ..] = bench.call(Call::VmLeaves, &[vm]);
    assert_eq!((gib, mib2, pages), (0, 1, 0));
    bench.finish(Call::GrantBegin, &grant, PAGE_SIZE);
    bench.finish(Call::GrantEnd, &[vm], 1);
    bench.destroy(vm);
    assert_eq!(bench.audit(), 0);
}

#[test]
fn without_memory_the_answer_is_an_error_and_nothing_is_lost() {
    let mut bench = Bench::new(1);
    let before = bench.cores[0].used_bytes();
    let vm = bench.create(1);
    let arguments = [vm, RAM, 512 * MIB, 0, 0];
    let error = loop {
        let x = bench.call(Call::VmMapRam, &arguments);
        if let Err(error) = Error::check(x[0]) {
            break error;
        }
    };
    assert_eq!(error, Error::NoMemory);
    bench.destroy(vm);
    assert_eq!(bench.cores[0].used_bytes(), before);
    assert_eq!(bench.audit(), 0);
}

#[test]
fn nothing_lies_on_the_cpu_interface_of_a_gicv2() {
    let mut bench = Bench::with(1, 0, GicVersion::V2);
    let vm = bench.ok(Call::VmCreate, &[1, 2, 7]);
    let cpu_interface = RAM + 2 * PAGE_SIZE;
    bench.ok(Call::VmGic, &[vm, GICD, cpu_interface]);
    // A grant of it would have EL2 clean the board's registers, which it does not even map.
    for backing in [0, 1] {
        let arguments = [vm, RAM, 2 * MIB, backing, 2 * MIB];
        let error = bench.error(Call::VmMapRam, &arguments);
        assert_eq!(error, Error::AlreadyMapped);
    }
    for page in [cpu_interface, cpu_interface + PAGE_SIZE] {
        assert_eq!(
            bench.error(Call::VmUart, &[vm, page, 33]),
            Error::AlreadyMapped
        );
    }
    bench.ok(Call::VmUart, &[vm, UART, 33]);
    bench.ok(Call::VmMapRam, &[vm, RAM + 2 * MIB, 2 * MIB, 1, 2 * MIB]);
    bench.destroy(vm);
    assert_eq!(bench.audit(), 0);
}
