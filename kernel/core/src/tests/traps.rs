//! What a guest gets for what it may not do, and for what is not there.

use penumbra_abi::{Call, CrashCause, Error, StopReason, TrapRecord, VmState};
use penumbra_trap::advance::{BTYPE, STEP_BIT};

use super::compound::EL1H;
use super::fake::{GICD, HZ, Op, RAM, UART};
use super::{Bench, hvc, ok};

const SS: u64 = 1 << STEP_BIT;

/// A guest with vectors at a place of its RAM, on core 1.
fn with_vectors() -> (Bench, u64) {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.steps(2);
    bench.cores[1].sysregs.vbar_el1 = RAM + 0x1_0000;
    (bench, vm)
}

#[test]
fn what_does_not_exist_is_undefined() {
    let unknown = [
        Op::Mrs([3, 7, 15, 15, 7]),
        Op::Msr([3, 0, 1, 0, 5], 1),
        Op::Mrs([2, 1, 0, 0, 6]),
        Op::Class(0x00, 0),
        Op::Class(0x19, 0),
        Op::Class(0x0a, 0),
    ];
    for op in unknown {
        let (mut bench, vm) = with_vectors();
        bench.program(vm, 0, [op.clone()]);
        bench.cores[0].interrupt(1, 0);
        bench.steps(3);
        let frame = bench.cores[1].sysregs;
        assert_eq!((frame.pc, frame.elr_el1), (RAM + 0x1_0200, RAM), "{op:?}");
        assert_eq!(frame.esr_el1, 0x0200_0000, "{op:?}");
    }
}

#[test]
fn what_is_not_there_aborts() {
    for op in [
        Op::Load(0x1000, 4),
        Op::Store(0x3000_0000, 8, 1),
        Op::Load(RAM + 0x1000_0000, 8),
        Op::Fetch(0x5000),
        Op::Class(0x24, 0b00_0101),
    ] {
        let (mut bench, vm) = with_vectors();
        bench.program(vm, 0, [op.clone()]);
        bench.cores[0].interrupt(1, 0);
        bench.steps(2);
        let frame = bench.cores[1].sysregs;
        assert_eq!(frame.pc, RAM + 0x1_0200, "{op:?}");
        assert_eq!(frame.esr_el1 & 0x3f, 0x10, "{op:?}");
    }
}

#[test]
fn a_vcpu_without_vectors_stops_its_vm_with_a_report() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.steps(2);
    bench.cores[1].sysregs.pc = 0x200;
    bench.program(vm, 0, [Op::Fetch(0x200)]);
    bench.cores[0].interrupt(1, 0);
    bench.steps(3);
    let status = bench.status(vm);
    assert_eq!(
        (status.state, status.reason),
        (VmState::Stopped, StopReason::Crash)
    );
    assert_eq!(
        (status.cause, status.ipa, status.far),
        (CrashCause::VectorLoop, 0x200, 0x200)
    );
    assert_eq!(status.esr >> 26, 0x20);
}

#[test]
fn a_loop_that_makes_no_exits_is_found_by_the_heartbeat() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.steps(2);
    let frame = &mut bench.cores[1].sysregs;
    frame.vbar_el1 = 0xffff_8000_0000_0000;
    frame.pc = frame.vbar_el1 + 0x200;
    frame.elr_el1 = frame.pc;
    frame.esr_el1 = 0x8600_0005;
    frame.pstate = 0x3c5;
    bench.cores[1].pass(HZ + 1);
    bench.steps(4);
    assert_eq!(bench.status(vm).cause, CrashCause::VectorLoop);
}

#[test]
fn an_serror_stops_the_vm() {
    let (mut bench, vm) = with_vectors();
    bench.program(vm, 0, [Op::Class(0x2f, 0)]);
    bench.cores[0].interrupt(1, 0);
    bench.steps(3);
    assert_eq!(bench.status(vm).cause, CrashCause::Serror);
}

#[test]
fn every_exception_class_has_an_answer() {
    for class in 0..64 {
        for iss in [0, 0x7, 0x1ff_ffff, 0x155_5555] {
            let (mut bench, vm) = with_vectors();
            bench.program(vm, 0, [Op::Class(class, iss)]);
            bench.cores[0].interrupt(1, 0);
            bench.steps(3);
            assert!(matches!(
                bench.status(vm).state,
                VmState::Running | VmState::Stopped
            ));
        }
    }
}

#[test]
fn cheap_calls_and_unknown_ones() {
    let (mut bench, vm) = with_vectors();
    bench.program(
        vm,
        0,
        [
            hvc(0x8000_0000, &[]),
            hvc(0x8400_0000, &[]),
            hvc(0x8400_000a, &[0xc400_0003]),
            hvc(0x1234_5678, &[]),
            hvc(0x8000_0001, &[0x8000_8000]),
        ],
    );
    bench.cores[0].interrupt(1, 0);
    bench.steps(3);
    let log: Vec<u64> = bench.log(vm, 0).iter().map(|x| x[0]).collect();
    assert_eq!(log, [0x1_0001, 0x1_0001, 0, u64::MAX, u64::MAX]);
}

/// PC, as bytes behind where it was, and PSTATE after an operation.
fn after(op: &Op, pstate: u64, narrow: bool) -> (u64, u64) {
    let (mut bench, vm) = with_vectors();
    let core = &mut bench.cores[1];
    (core.sysregs.pstate, core.narrow) = (pstate, narrow);
    bench.program(vm, 0, [op.clone()]);
    bench.cores[0].interrupt(1, 0);
    bench.steps(3);
    let frame = bench.cores[1].sysregs;
    (frame.pc - RAM, frame.pstate)
}

#[test]
fn what_is_emulated_ends_a_software_step_and_a_branch_type() {
    let done = |pstate| (4, pstate);
    let whole = [
        Op::Mrs([3, 0, 0, 4, 0]),
        Op::Mrs([3, 0, 1, 0, 1]),
        Op::Mrs([3, 3, 14, 2, 1]),
        Op::Msr([3, 3, 14, 2, 1], 0),
        Op::Msr([2, 0, 1, 0, 4], 1),
        Op::Load(UART + 0x18, 4),
        Op::Store(UART, 4, 1),
        Op::Store(UART + 0x38, 4, 0),
        Op::Load(GICD + 4, 4),
        Op::Store(GICD + 0x104, 4, 1),
        Op::Class(0x01, 0),
        Op::Class(0x01, 1),
        // Cache maintenance of what is no memory.
        Op::Class(0x24, 1 << 8 | 0b00_0111),
        Op::Smc(0x8000_0001),
    ];
    for op in whole {
        assert_eq!(after(&op, EL1H | SS | BTYPE, false), done(EL1H), "{op:?}");
        assert_eq!(after(&op, EL1H | BTYPE, false), done(EL1H), "{op:?}");
        assert_eq!(after(&op, EL1H, false), done(EL1H), "{op:?}");
    }
    // Nobody can tell a branch type here, and each instruction counts.
    for op in [Op::Sgi(1 << 40), Op::Sgi(0), Op::Smc(0x8400_0000)] {
        assert_eq!(after(&op, EL1H | SS | BTYPE, false), done(EL1H), "{op:?}");
        let pstate = EL1H | BTYPE;
        assert_eq!(after(&op, pstate, false), done(pstate), "{op:?}");
    }
}

#[test]
fn what_a_32_bit_program_has_emulated_is_as_long_as_it_is() {
    const THUMB: u64 = 0x30;
    // IT[7:2] is at bit 10, IT[1:0] at bit 25: the second and the last of a block.
    let it = |it: u64| THUMB | it >> 2 << 10 | (it & 3) << 25;
    let operations = [
        Op::Class(0x01, 0),
        Op::Class(0x01, 1),
        Op::Load(UART + 0x18, 4),
        Op::Store(UART, 1, 7),
        Op::Load(GICD + 4, 4),
        Op::Store(GICD + 0x104, 4, 1),
        // MCR whose condition, NE, fails.
        Op::Class(0x03, 1 << 24 | 1 << 20),
    ];
    for op in operations {
        let pstate = it(0b0000_1100) | 1 << 30 | SS;
        let next = it(0b0001_1000) | 1 << 30;
        assert_eq!(after(&op, pstate, true), (2, next), "{op:?}");
        assert_eq!(after(&op, pstate, false), (4, next), "{op:?}");
        let pstate = it(0b0000_1000) | 1 << 30;
        assert_eq!(after(&op, pstate, true), (2, THUMB | 1 << 30), "{op:?}");
    }
}

#[test]
fn registers_and_devices_answer() {
    let (mut bench, vm) = with_vectors();
    bench.program(
        vm,
        0,
        [
            Op::Mrs([3, 0, 0, 4, 0]),
            Op::Mrs([3, 0, 1, 0, 1]),
            Op::Load(GICD + 4, 4),
            Op::Sgi(1 << 40),
        ],
    );
    bench.cores[0].interrupt(1, 0);
    bench.steps(3);
    let log = bench.log(vm, 0);
    assert_eq!(log.len(), 4);
    // EL0 and EL1 and the GIC's system registers; EL2 is hidden.
    assert_eq!(log[0][1], 0x0100_0012);
    assert_eq!(log[1][1], 0);
    assert_ne!(log[2][1], 0);
}

/// The log of what a VM was refused.
fn refused(bench: &mut Bench, vm: u64) -> Vec<TrapRecord> {
    let all = bench.call(Call::VmTraps, &[vm]);
    (0..ok(all))
        .map(|number| {
            let [x0, values @ ..] = bench.call(Call::VmTrap, &[vm, number]);
            assert_eq!(x0, 0);
            TrapRecord::from_regs(values)
        })
        .collect()
}

#[test]
fn what_is_refused_is_logged_with_pc_address_and_count() {
    let mut bench = Bench::new(3);
    let (vm, other) = (bench.guest(&[1]), bench.guest(&[2]));
    bench.steps(2);
    bench.cores[1].sysregs.vbar_el1 = RAM + 0x1_0000;
    for (op, class, what) in [
        (Op::Mrs([3, 3, 9, 13, 0]), 0x18, u64::MAX),
        (Op::Load(0x3000_0010, 4), 0x24, 0x3000_0010),
        (Op::Fetch(0x5000), 0x20, 0x5000),
        (Op::Class(0x0a, 0), 0x0a, u64::MAX),
        (hvc(0x8600_1234, &[]), 0x16, 0x8600_1234),
        // A call of the manager's.
        (hvc(Call::VmStop.id(), &[1]), 0x16, Call::VmStop.id().into()),
        (Op::Class(0x16, 5), 0x16, 5 << 32 | u64::from(u32::MAX)),
    ] {
        let before = refused(&mut bench, vm).len();
        bench.cores[1].sysregs.pc = RAM + 0x100;
        bench.program(vm, 0, [op.clone()]);
        bench.cores[0].interrupt(1, 0);
        bench.steps(4);
        let log = refused(&mut bench, vm);
        assert_eq!(log.len(), before + 1, "{op:?}");
        let last = log[before];
        assert_eq!((last.esr >> 26, last.what, last.count), (class, what, 1));
        let call_is_behind = u64::from(op_is_forged(&op)) * 4;
        assert_eq!(last.pc, RAM + 0x100 - call_is_behind, "{op:?}");
    }
    let [_, records, all, forgotten, ..] = bench.call(Call::VmTraps, &[vm]);
    assert_eq!((records, all, forgotten), (7, 7, 0));
    // Nobody else's log has any of it, and the log goes with its VM.
    assert_eq!(refused(&mut bench, other), []);
    bench.call(Call::VmStop, &[vm]);
    assert_eq!(refused(&mut bench, vm).len(), 7);
    while ok(bench.call(Call::VmDestroy, &[vm])) == 0 {}
    let gone = bench.call(Call::VmTraps, &[vm])[0];
    assert_eq!(Error::check(gone), Err(Error::NoSuchObject));
    let again = bench.guest(&[1]);
    assert_eq!((again, refused(&mut bench, again)), (vm, vec![]));
}

/// Whether an operation forges a syndrome of HVC without moving PC, as HVC does.
fn op_is_forged(op: &Op) -> bool {
    matches!(op, Op::Class(0x16, _))
}

#[test]
fn what_is_answered_is_not_logged() {
    let (mut bench, vm) = with_vectors();
    bench.program(
        vm,
        0,
        [
            Op::Load(GICD, 4),
            Op::Mrs([3, 0, 0, 4, 0]),
            hvc(0x8000_0000, &[]),
            hvc(0x8400_0050, &[]),
            hvc(0x8400_000a, &[]),
        ],
    );
    bench.cores[0].interrupt(1, 0);
    bench.steps(8);
    assert_eq!(refused(&mut bench, vm), []);
}
