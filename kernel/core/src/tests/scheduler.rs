//! Sharing cores: turns, sleep and wake-up.

use penumbra_abi::Call;

use penumbra_vmsa::{CpuIndex, VmId};

use super::Bench;
use super::fake::{Fake, GICD, GICR, HZ, Op, RAM};
use crate::run_loop::SLICE_MS;

#[test]
fn vcpus_of_a_core_take_turns() {
    let mut bench = Bench::new(2);
    let vms = [bench.guest(&[1]), bench.guest(&[1]), bench.guest(&[1])];
    for vm in vms {
        bench.program(vm, 0, (0..200).map(|_| Op::Spin(HZ / 1000)));
    }
    bench.cores[0].program(0, [super::call(Call::Wait, &[u64::MAX])]);
    bench.cores[0].interrupt(0, 0);
    bench.steps(3 * 10);
    let done: Vec<usize> = vms.iter().map(|vm| bench.log(*vm, 0).len()).collect();
    let slice = usize::try_from(SLICE_MS).unwrap();
    assert!(done.iter().all(|n| *n >= 8 * slice), "{done:?}");
    let spread = done.iter().max().unwrap() - done.iter().min().unwrap();
    assert!(spread <= 2 * slice, "{done:?}");
}

#[test]
fn a_timer_that_fires_too_early_is_set_anew() {
    let mut bench = Bench::new(2);
    let vms = [bench.guest(&[1]), bench.guest(&[1])];
    bench.steps(4);
    for vm in vms {
        bench.program(vm, 0, (0..20_000).map(|_| Op::Spin(50)));
    }
    bench.steps(10);
    let done = |bench: &Bench| vms.map(|vm| bench.log(vm, 0).len()).iter().sum::<usize>();
    for _ in 0..10 {
        // The interrupt of a deadline that EL2 has put off while it was on its way.
        bench.cores[0].interrupt(1, crate::machine::intid::HYP_TIMER);
        bench.steps(1);
        let before = done(&bench);
        bench.steps(2);
        let slice = usize::try_from(SLICE_MS * HZ / 1000 / 50).unwrap();
        let ran = done(&bench) - before;
        assert!(ran <= 2 * slice, "{ran} of {slice}");
    }
}

#[test]
fn a_core_with_one_vcpu_is_left_alone() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.steps(2);
    let hcr = bench.cores[1].controls.hcr_el2;
    assert_eq!(hcr & penumbra_trap::controls::hcr::TWI, 0);
    assert_eq!(hcr & penumbra_trap::controls::hcr::FB, 0);
    // A second one on the core: now waiting gives it up.
    let other = bench.create(1);
    bench.ok(Call::VcpuPin, &[other, 0, 1]);
    bench.steps(3);
    assert_ne!(
        bench.cores[1].controls.hcr_el2 & penumbra_trap::controls::hcr::TWI,
        0
    );
    bench.destroy(other);
    bench.steps(3);
    assert_eq!(
        bench.cores[1].controls.hcr_el2 & penumbra_trap::controls::hcr::TWI,
        0
    );
    assert_eq!(bench.log(vm, 0).len(), 0);
}

#[test]
fn a_guest_made_anew_on_one_core_costs_the_others_nothing() {
    let mut bench = Bench::new(3);
    let vm = bench.guest(&[1]);
    bench.steps(3);
    let pins = |bench: &Bench| {
        let core = |n| bench.system.core(CpuIndex::new(n, 3).unwrap()).unwrap();
        [core(1).pins(), core(2).pins()]
    };
    let before = pins(&bench);
    for _ in 0..3 {
        let other = bench.guest(&[2]);
        bench.steps(3);
        bench.ok(Call::VmStop, &[other]);
        bench.destroy(other);
    }
    let after = pins(&bench);
    // Nothing that would make core 1 find out anew what it is to trap.
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    // A change of what is trapped of a VM's roots is told to the VM's cores alone.
    bench.system.note_traps(VmId::new(vm, 8).unwrap());
    assert_ne!(pins(&bench)[0], before[0]);
    assert_eq!(pins(&bench)[1], after[1]);
}

#[test]
fn siblings_on_one_core_do_not_see_each_others_translations() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1, 1]);
    bench.program(vm, 0, [super::hvc(0xc400_0003, &[1, RAM, 0])]);
    bench.program(vm, 0, (0..20).map(|_| Op::Spin(HZ / 1000)));
    bench.program(vm, 1, (0..20).map(|_| Op::Spin(HZ / 1000)));
    bench.steps(20);
    assert!(bench.cores[1].local_flushes > 3);
    assert_ne!(
        bench.cores[1].controls.hcr_el2 & penumbra_trap::controls::hcr::FB,
        0
    );
}

#[test]
fn a_sleeper_wakes_when_its_virtual_timer_expires() {
    let mut bench = Bench::new(2);
    let sleeper = bench.guest(&[1]);
    let busy = bench.guest(&[1]);
    bench.steps(4);
    bench.program(busy, 0, (0..2000).map(|_| Op::Spin(HZ / 1000)));
    // Its timer is in hardware while it is; there it expires after the vCPU has left.
    bench.program(sleeper, 0, [Op::Timer(30_000), Op::Wfi, Op::Spin(1)]);
    bench.steps(60);
    assert_eq!(bench.log(sleeper, 0).len(), 3);
}

#[test]
fn the_physical_timer_is_emulated() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    let cntp = |op2| [3, 3, 14, 2, op2];
    bench.program(
        vm,
        0,
        [
            Op::Msr(cntp(0), 3000),
            Op::Msr(cntp(1), 1),
            Op::Mrs(cntp(1)),
            Op::Spin(4000),
            Op::Mrs(cntp(1)),
            Op::Mrs([3, 3, 14, 0, 1]),
        ],
    );
    bench.steps(10);
    let log = bench.log(vm, 0);
    assert_eq!(log[2][1], 1);
    assert_eq!(log[4][1], 5);
    assert!(log[5][1] > 4000);
}

#[test]
fn a_vcpu_that_starts_again_has_no_line_of_its_old_timer() {
    const CPU_OFF: u32 = 0x8400_0002;
    const CPU_ON: u32 = 0xc400_0003;
    const PHYSICAL_TIMER: u64 = 30;
    let mut bench = Bench::new(3);
    let vm = bench.guest(&[1, 2]);
    let cntp = |op2| [3, 3, 14, 2, op2];
    let expire = [Op::Msr(cntp(2), 0), Op::Msr(cntp(1), 1)];
    let on = || super::hvc(CPU_ON, &[1, RAM, 0]);
    bench.program(vm, 0, [Op::Store(GICD, 4, 0x12), on()]);
    bench.program(vm, 1, expire.clone());
    bench.program(vm, 1, [super::hvc(CPU_OFF, &[])]);
    bench.steps(20);
    assert_eq!(bench.log(vm, 1).len(), 3);
    let enable = GICR + 0x3_0100;
    bench.program(vm, 1, [Op::Store(enable, 4, 1 << PHYSICAL_TIMER)]);
    bench.program(vm, 0, [on()]);
    bench.cores[0].interrupt(1, 0);
    bench.steps(20);
    let listed = |bench: &Bench| {
        let mut lrs = bench.cores[2].lr.iter();
        lrs.any(|lr| lr >> 62 != 0 && lr & 0x3ff == PHYSICAL_TIMER)
    };
    assert_eq!(bench.log(vm, 0).last().unwrap()[0], 0);
    assert!(!listed(&bench), "{:x?}", bench.cores[2].lr);
    // Its new one's it has.
    bench.program(vm, 1, expire);
    bench.cores[0].interrupt(2, 0);
    bench.steps(5);
    assert!(listed(&bench), "{:x?}", bench.cores[2].lr);
}

#[test]
fn a_vcpu_that_is_kept_out_with_an_interrupt_pending_lets_others_go_on() {
    const SGI: u64 = 2;
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.program(vm, 0, [Op::Store(GICD, 4, 0x12)]);
    bench.program(vm, 0, [Op::Store(GICR + 0x1_0100, 4, 1 << SGI)]);
    bench.steps(5);
    let relaxed = |bench: &Bench| bench.cores[0].shared.lock().unwrap().relaxed;
    let held = bench.system.vm(usize::try_from(vm).unwrap()).unwrap();
    for pending in [false, true] {
        if pending {
            bench.program(vm, 0, [Op::Sgi(SGI << 24 | 1)]);
            bench.steps(2);
        }
        let listed = bench.cores[1].lr.iter().any(|lr| lr >> 62 == 1);
        assert_eq!(listed, pending, "{:x?}", bench.cores[1].lr);
        assert!(held.try_hold());
        bench.cores[0].interrupt(1, crate::machine::intid::KICK);
        bench.steps(2);
        let before = relaxed(&bench);
        bench.steps(10);
        // A wait that ends at once would keep a core from going on that takes turns with this one.
        let waits = relaxed(&bench) - before;
        assert_eq!(waits, if pending { 10 } else { 0 });
        held.release_hold();
        let id = crate::vcpu::VcpuId::new(VmId::new(vm, 8).unwrap(), 0).unwrap();
        bench.system.wake(id, &mut bench.cores[0]);
        bench.steps(2);
    }
}

#[test]
fn who_waits_for_a_vms_tables_lets_others_go_on() {
    use super::trapped::{OTHER, TTBR0, asid, trapped};
    let (mut bench, vm) = trapped();
    let tables = bench.system.vm(usize::try_from(vm).unwrap()).unwrap();
    let relaxed = |core: &Fake| core.shared.lock().unwrap().relaxed;
    for (round, memory) in [(1, false), (2, true)] {
        // A root that the vCPU does not know.
        bench.program(vm, 0, [Op::Msr(TTBR0, OTHER | asid(10 + round))]);
        let before = relaxed(&bench.cores[0]);
        let (others, own) = bench.cores.split_at_mut(1);
        let (held, is_held) = std::sync::mpsc::channel();
        let other = &others[0];
        std::thread::scope(|threads| {
            threads.spawn(move || {
                // Until the waiter has let others go on, or for two seconds.
                let keep = || {
                    held.send(()).unwrap();
                    let begun = std::time::Instant::now();
                    while relaxed(other) == before && begun.elapsed().as_secs() < 2 {}
                };
                if memory {
                    let _guard = tables.memory.lock();
                    keep();
                } else {
                    tables.paging.change(other, |_| keep());
                }
            });
            is_held.recv().unwrap();
            for _ in 0..2 {
                bench.loops[1].step(&mut own[0]);
            }
        });
        assert_eq!(own[0].sysregs.ttbr0_el1, OTHER | asid(10 + round));
        assert!(relaxed(&own[0]) > before, "memory: {memory}");
    }
}

#[test]
fn a_vcpu_that_wakes_up_while_its_vm_is_held_lets_others_go_on() {
    use crate::machine::intid;
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.program(vm, 0, [Op::Store(GICD, 4, 0x12)]);
    let timer = 1 << intid::VIRTUAL_TIMER;
    bench.program(vm, 0, [Op::Store(GICR + 0x1_0100, 4, timer)]);
    bench.steps(5);
    bench.cores[1].controls.hcr_el2 |= penumbra_trap::controls::hcr::TWI;
    bench.program(vm, 0, [Op::Wfi]);
    bench.steps(3);
    let relaxed = |bench: &Bench| bench.cores[0].shared.lock().unwrap().relaxed;
    let held = bench.system.vm(usize::try_from(vm).unwrap()).unwrap();
    assert!(held.try_hold());
    let before = relaxed(&bench);
    bench.steps(3);
    assert_eq!(relaxed(&bench), before);
    bench.cores[0].interrupt(1, intid::VIRTUAL_TIMER);
    bench.steps(1);
    assert!(bench.cores[1].lr.iter().any(|lr| lr >> 62 == 1));
    bench.steps(9);
    assert_eq!(relaxed(&bench), before + 10);
    held.release_hold();
    bench.program(vm, 0, [Op::Spin(1)]);
    let done = bench.log(vm, 0).len();
    bench.steps(3);
    // The WFI is over, and what comes behind it.
    assert_eq!(bench.log(vm, 0).len(), done + 2);
}
