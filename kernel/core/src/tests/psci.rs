//! PSCI: turning vCPUs on and off, and who wins.

use penumbra_abi::{Call, StopReason, VmState};

use super::fake::{GICD, Op, RAM, UART};
use super::{Bench, hvc};

const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0xc400_0003;
const AFFINITY_INFO: u32 = 0xc400_0004;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const SYSTEM_RESET2: u32 = 0xc400_0012;
const CPU_SUSPEND: u32 = 0xc400_0001;

const INVALID_PARAMETERS: u64 = (-2i64).cast_unsigned();
const ALREADY_ON: u64 = (-4i64).cast_unsigned();
const ON_PENDING: u64 = (-5i64).cast_unsigned();

#[test]
fn a_vcpu_starts_where_it_is_told_with_nothing_of_others() {
    let mut bench = Bench::new(3);
    let vm = bench.guest(&[1, 2]);
    bench.program(vm, 0, [hvc(CPU_ON, &[1, RAM + 0x100, 0xc0ffee])]);
    bench.steps(10);
    assert_eq!(bench.log(vm, 0)[0][0], 0);
    let frame = bench.cores[2].sysregs;
    assert_eq!(frame.pc, RAM + 0x100);
    assert_eq!(frame.pstate, 0x3c5);
    assert_eq!(frame.sctlr_el1, 0x30d0_0800);
    assert_eq!(
        (frame.vbar_el1, frame.ttbr0_el1, frame.tpidr_el1),
        (0, 0, 0)
    );
    assert_eq!(bench.cores[2].controls.vmpidr_el2, 0x8000_0001);
    bench.ok(Call::VmStop, &[vm]);
    bench.steps(3);
    assert_eq!(bench.ok(Call::VcpuRegister, &[vm, 1, 0]), 0xc0ffee);
    assert_eq!(bench.ok(Call::VcpuRegister, &[vm, 1, 1]), 0);
    assert_eq!(bench.ok(Call::VcpuRegister, &[vm, 1, 32]), RAM + 0x100);
}

#[test]
fn of_two_that_turn_on_the_same_vcpu_one_wins() {
    let mut bench = Bench::new(4);
    let vm = bench.guest(&[1, 2, 3]);
    bench.program(
        vm,
        0,
        [
            hvc(CPU_ON, &[1, RAM, 0]),
            Op::Spin(1),
            hvc(CPU_ON, &[2, RAM, 1]),
        ],
    );
    bench.program(vm, 1, [hvc(CPU_ON, &[2, RAM, 2])]);
    bench.steps(40);
    let first = bench.log(vm, 0)[2][0];
    let second = bench.log(vm, 1)[0][0];
    assert!(first == 0 || second == 0, "{first:x} {second:x}");
    assert!(
        [first, second]
            .iter()
            .any(|x| *x == ALREADY_ON || *x == ON_PENDING)
    );
}

#[test]
fn pending_and_on_are_told_apart() {
    let mut bench = Bench::new(2);
    // Both on one core: the target cannot run before the caller leaves.
    let vm = bench.guest(&[1, 1]);
    bench.program(
        vm,
        0,
        [hvc(AFFINITY_INFO, &[1, 0]), hvc(CPU_ON, &[1, RAM, 0])],
    );
    bench.steps(30);
    assert_eq!(bench.log(vm, 0)[0][0], 1);
    bench.program(
        vm,
        0,
        [
            hvc(CPU_ON, &[1, RAM, 0]),
            hvc(AFFINITY_INFO, &[1, 0]),
            hvc(AFFINITY_INFO, &[0, 1]),
            hvc(AFFINITY_INFO, &[9, 0]),
            hvc(AFFINITY_INFO, &[0, 4]),
            hvc(CPU_ON, &[2, RAM, 0]),
            hvc(CPU_ON, &[0x1_0000_0001, RAM, 0]),
        ],
    );
    bench.steps(30);
    let log: Vec<u64> = bench.log(vm, 0).iter().skip(2).map(|x| x[0]).collect();
    assert_eq!(
        log,
        [
            ALREADY_ON,
            0,
            0,
            INVALID_PARAMETERS,
            INVALID_PARAMETERS,
            INVALID_PARAMETERS,
            INVALID_PARAMETERS
        ]
    );
}

#[test]
fn off_and_on_again_a_thousand_times() {
    let mut bench = Bench::new(3);
    let vm = bench.guest(&[1, 2]);
    for round in 0..1000 {
        bench.program(vm, 0, [hvc(CPU_ON, &[1, RAM, round])]);
        bench.program(vm, 1, [hvc(CPU_OFF, &[])]);
        bench.cores[0].interrupt(1, 0);
        bench.steps(12);
    }
    let log = bench.log(vm, 0);
    assert_eq!(log.len(), 1000);
    assert!(log.iter().all(|x| x[0] == 0), "{log:x?}");
    assert_eq!(bench.status(vm).state, VmState::Running);
}

#[test]
fn the_last_one_off_stops_the_vm() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.program(vm, 0, [hvc(CPU_OFF, &[])]);
    bench.steps(10);
    let status = bench.status(vm);
    assert_eq!(
        (status.state, status.reason),
        (VmState::Stopped, StopReason::AllOff)
    );
    bench.destroy(vm);
}

#[test]
fn off_and_reset_stop_with_their_reason() {
    for (id, reason) in [
        (SYSTEM_OFF, StopReason::PowerOff),
        (SYSTEM_RESET, StopReason::Reset),
        (SYSTEM_RESET2, StopReason::Reset),
    ] {
        let mut bench = Bench::new(3);
        let vm = bench.guest(&[1, 2]);
        bench.program(vm, 0, [hvc(CPU_ON, &[1, RAM, 0])]);
        bench.program(vm, 1, [hvc(id, &[])]);
        bench.steps(20);
        let status = bench.status(vm);
        assert_eq!(
            (status.state, status.reason, status.vcpu),
            (VmState::Stopped, reason, 1)
        );
        bench.destroy(vm);
        assert_eq!(bench.audit(), 0);
    }
}

#[test]
fn a_suspended_vcpu_wakes_by_an_interrupt() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.program(
        vm,
        0,
        [
            // The UART's SPI: group 1, enabled, at the default route; its receive interrupt on.
            Op::Store(GICD, 4, 0b10),
            Op::Store(GICD + 0x84, 4, 0b10),
            Op::Store(GICD + 0x104, 4, 0b10),
            Op::Store(UART + 0x38, 4, 1 << 4),
            hvc(CPU_SUSPEND, &[0, 0, 0]),
            Op::Spin(1),
        ],
    );
    bench.steps(50);
    assert_eq!(bench.log(vm, 0).len(), 4);
    bench.ok(Call::ConsoleWrite, &[vm, 1, 65]);
    bench.steps(5);
    assert_eq!(bench.log(vm, 0).len(), 6);
    assert_eq!(bench.log(vm, 0)[4][0], 0);
}
