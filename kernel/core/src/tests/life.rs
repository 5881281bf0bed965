//! States of a VM, and that no state of a vCPU outlives it.

use penumbra_abi::{Call, Error, StopReason, VmState};
use penumbra_vmsa::MIB;

use super::fake::{Op, RAM};
use super::{Bench, hvc, number};
use crate::vcpu::VcpuId;

#[test]
fn a_vm_goes_through_its_states() {
    let mut bench = Bench::new(2);
    let vm = bench.create(1);
    assert_eq!(bench.status(vm).state, VmState::Created);
    bench.reserve(vm, 2 * MIB);
    bench.start(vm, &[1]);
    assert_eq!(bench.status(vm).state, VmState::Running);
    assert_eq!(bench.error(Call::VmDestroy, &[vm]), Error::BadState);
    bench.ok(Call::VmPause, &[vm]);
    bench.steps(3);
    bench.program(vm, 0, [Op::Spin(1)]);
    bench.steps(5);
    assert_eq!(bench.log(vm, 0).len(), 0);
    // Out of its core, but not dead.
    let register = [vm, 0, 0];
    assert_eq!(bench.error(Call::VcpuRegister, &register), Error::BadState);
    bench.ok(Call::VmResume, &[vm]);
    bench.steps(3);
    assert_eq!(bench.log(vm, 0).len(), 1);
    assert_eq!(bench.error(Call::VcpuRegister, &register), Error::BadState);
    bench.ok(Call::VmStop, &[vm]);
    bench.steps(3);
    assert_eq!(bench.ok(Call::VcpuRegister, &register), 0x5005);
    let status = bench.status(vm);
    assert_eq!(
        (status.state, status.reason),
        (VmState::Stopped, StopReason::Killed)
    );
    assert_eq!(bench.error(Call::VmStart, &[vm, RAM, 0]), Error::BadState);
    bench.destroy(vm);
    assert_eq!(bench.error(Call::VmStatus, &[vm]), Error::NoSuchObject);
}

#[test]
fn registers_of_a_vm_that_may_run_are_its_own() {
    let mut bench = Bench::new(2);
    // Its second vCPU is off, so no core holds that, and the first waits while the other VM has the core.
    let vm = bench.guest(&[1, 1]);
    bench.guest(&[1]);
    bench.program(vm, 0, [Op::Wfi]);
    bench.steps(20);
    for vcpu in 0..2 {
        for register in [0, 30, 32, 38] {
            let said = bench.error(Call::VcpuRegister, &[vm, vcpu, register]);
            assert_eq!(said, Error::BadState, "{vcpu} {register}");
        }
    }
}

#[test]
fn all_numbers_can_be_used_and_used_again() {
    let mut bench = Bench::new(1);
    for _ in 0..60 {
        let vms: Vec<u64> = (1..8).map(|_| bench.create(8)).collect();
        assert_eq!(vms, (1..8).collect::<Vec<_>>());
        assert_eq!(bench.error(Call::VmCreate, &[1, 3, 0]), Error::NoSlot);
        vms.into_iter().for_each(|vm| bench.destroy(vm));
    }
}

#[test]
fn fp_state_does_not_pass_from_one_vm_to_the_next() {
    let mut bench = Bench::new(2);
    let first = bench.guest(&[1]);
    let second = bench.guest(&[1]);
    bench.program(first, 0, [Op::Fp(11), Op::Spin(6000), Op::Fp(12)]);
    bench.program(second, 0, [Op::Fp(21), Op::Spin(6000), Op::Fp(22)]);
    bench.steps(60);
    let seen = |bench: &Bench, vm| {
        let log = bench.log(vm, 0);
        (log[0][1], log[2][1])
    };
    assert_eq!(seen(&bench, first), (0, 11));
    assert_eq!(seen(&bench, second), (0, 21));
    // A stopped VM's registers are nobody's.
    bench.ok(Call::VmStop, &[first]);
    bench.ok(Call::VmStop, &[second]);
    bench.destroy(first);
    bench.destroy(second);
    bench.cores[0].shared.lock().unwrap().log.clear();
    let third = bench.guest(&[1]);
    bench.program(third, 0, [Op::Fp(31)]);
    bench.steps(10);
    assert_eq!(bench.log(third, 0)[0][1], 0);
}

#[test]
fn a_destroyed_vcpu_leaves_an_empty_slot() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.program(vm, 0, [hvc(0x8400_0000, &[7, 8, 9]), Op::Fp(3)]);
    bench.steps(5);
    bench.ok(Call::VmStop, &[vm]);
    bench.destroy(vm);
    let id = VcpuId::from_number(number(vm, 0)).unwrap();
    assert!(
        bench
            .system
            .slot(id)
            .unwrap()
            .try_lock()
            .unwrap()
            .is_vacant()
    );
}

#[test]
fn a_vm_that_goes_while_its_core_turns_to_it_is_not_entered() {
    let mut bench = Bench::new(2);
    let first = bench.guest(&[1]);
    let second = bench.guest(&[1]);
    for vm in [first, second] {
        bench.program(vm, 0, (0..100).map(|_| Op::Spin(1000)));
    }
    bench.cores[0].program(0, [super::call(Call::Wait, &[u64::MAX])]);
    bench.cores[0].interrupt(0, 0);
    bench.steps(3);
    // The core has chosen one of them when the other one's registers are saved.
    let next = if bench.log(first, 0).is_empty() {
        first
    } else {
        second
    };
    bench.cores[0].shared.lock().unwrap().ambush = Some(next);
    bench.steps(40);
    assert!(bench.cores[0].shared.lock().unwrap().ambush.is_none());
    assert_eq!(bench.system.held() >> (8 * next) & 0xff, 0);
    bench.destroy(next);
    assert_eq!(bench.audit(), 0);
}
