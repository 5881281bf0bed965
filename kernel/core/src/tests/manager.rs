//! The manager's own life: boot, waits, crash and restart, a hang.

use penumbra_abi::{
    ABI_VERSION, Call, CrashCause, Error, Events, MANAGER_BUNDLE_IPA, MANAGER_RAM_IPA,
    MANAGER_TREE_IPA, MANAGER_VM, MANAGER_WINDOW_IPA, StopReason,
};
use penumbra_vmsa::MIB;

use super::fake::{HZ, Op, RAM, call};
use super::{Bench, hvc};

#[test]
fn the_manager_starts_and_finds_its_input() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.ok(Call::Version, &[]), ABI_VERSION.to_bits());
    let x = bench.call(Call::BootInfo, &[]);
    assert_eq!(x[1] & !(2 * MIB - 1), MANAGER_BUNDLE_IPA);
    assert_eq!((x[1] & 0xfff, x[2]), (0x234, 5000));
    assert_eq!((x[3] & !(2 * MIB - 1), x[4]), (MANAGER_TREE_IPA, 100));
    let x = bench.call(Call::BoardInfo, &[]);
    assert_eq!([x[1], x[2], x[3]], [3, 1, HZ]);
    for (number, hz) in [(19, 48_000_000), (20, 0), (0, 0), (19 << 32, 0)] {
        assert_eq!(bench.ok(Call::BoardClock, &[number]), hz);
    }
    // Its RAM and input are there, nothing else is.
    bench.cores[0].program(
        0,
        [
            Op::Load(MANAGER_RAM_IPA, 8),
            Op::Load(MANAGER_BUNDLE_IPA + 0x1000, 8),
        ],
    );
    assert_eq!(bench.audit(), 0);
}

#[test]
fn only_the_manager_may_call() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.program(
        vm,
        0,
        Call::ALL.into_iter().map(|which| call(which, &[1, 2, 3])),
    );
    bench.steps(60);
    let log = bench.log(vm, 0);
    assert_eq!(log.len(), Call::ALL.len());
    assert!(
        log.iter().all(|x| x[0] == Error::NotSupported.to_bits()),
        "{log:x?}"
    );
}

#[test]
fn a_wait_ends_by_events_and_by_its_deadline() {
    let mut bench = Bench::new(2);
    let now = crate::machine::Core::counter(&bench.cores[0]);
    let x = bench.call(Call::Wait, &[now + 500]);
    assert_eq!(x[1], Events::DEADLINE.0);
    assert!(crate::machine::Core::counter(&bench.cores[0]) >= now + 500);
    let vm = bench.guest(&[1]);
    bench.program(vm, 0, [hvc(0x8400_0008, &[])]);
    let x = bench.call(Call::Wait, &[u64::MAX]);
    assert_eq!(x[1], Events::STATUS.0);
    // A level: seen again until the status was read.
    assert_eq!(bench.ok(Call::Wait, &[u64::MAX]), Events::STATUS.0);
    bench.status(vm);
    let now = crate::machine::Core::counter(&bench.cores[0]);
    assert_eq!(bench.ok(Call::Wait, &[now + 50]), Events::DEADLINE.0);
}

#[test]
fn console_input_is_an_event() {
    let mut bench = Bench::new(1);
    bench.cores[0].shared.lock().unwrap().input.extend(b"hello");
    bench.cores[0].interrupt(0, 33);
    assert_eq!(bench.ok(Call::Wait, &[u64::MAX]), Events::INPUT.0);
    let x = bench.call(Call::ConsoleRead, &[0]);
    assert_eq!(x[1], 5);
    assert_eq!(&x[2].to_le_bytes()[..5], b"hello");
    bench.ok(
        Call::ConsoleWrite,
        &[0, 3, u64::from_le_bytes(*b"abcdefgh")],
    );
    assert_eq!(bench.cores[0].shared.lock().unwrap().console, b"abc");
}

#[test]
fn a_crashed_manager_starts_anew_and_guests_run_on() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    for restart in 1..4 {
        // A fetch from nowhere with the vectors nowhere: no way on.
        bench.ok(Call::Version, &[]);
        bench.cores[0].program(0, [Op::Fetch(0x200)]);
        bench.cores[0].sysregs.pc = 0x200;
        bench.steps(3);
        // It waits a little longer each time.
        bench.cores[0].pass((HZ / 100) << restart);
        assert_eq!(bench.system.manager.restarts(), restart);
        bench.program(vm, 0, [hvc(0x8400_0000, &[])]);
        assert_eq!(bench.ok(Call::Version, &[]), ABI_VERSION.to_bits());
        assert_eq!(bench.log(vm, 0).len() as u32, restart);
        // It finds the VM again by what it called it.
        assert_eq!(bench.status(vm).tag, 77);
    }
}

#[test]
fn a_manager_that_hangs_does_not_starve_its_core() {
    let mut bench = Bench::new(1);
    let vm = bench.guest(&[0]);
    bench.cores[0].program(0, (0..1000).map(|_| Op::Spin(1000)));
    bench.program(vm, 0, (0..1000).map(|_| Op::Spin(1000)));
    bench.steps(200);
    assert!(bench.log(vm, 0).len() > 100);
    assert!(bench.cores[0].log_of(0).len() > 100);
}

#[test]
fn bad_arguments_get_an_error_each() {
    use Error::*;
    let mut bench = Bench::new(2);
    let vm = bench.create(2);
    let window = MANAGER_WINDOW_IPA;
    let rows: &[(Call, &[u64], Error)] = &[
        (Call::VmCreate, &[0, 3, 0], InvalidParameter),
        (Call::VmCreate, &[9, 3, 0], InvalidParameter),
        (Call::VmCreate, &[1, 2, 0], InvalidParameter),
        (Call::VmCreate, &[u64::MAX, u64::MAX, 0], InvalidParameter),
        (Call::VmMapRam, &[0, RAM, 2 * MIB, 0, 0], NoSuchObject),
        (Call::VmMapRam, &[7, RAM, 2 * MIB, 0, 0], NoSuchObject),
        (
            Call::VmMapRam,
            &[u64::MAX, RAM, 2 * MIB, 0, 0],
            NoSuchObject,
        ),
        (
            Call::VmMapRam,
            &[vm, RAM + 4096, 2 * MIB, 0, 0],
            InvalidParameter,
        ),
        (Call::VmMapRam, &[vm, RAM, 4096, 0, 0], InvalidParameter),
        (Call::VmMapRam, &[vm, RAM, 0, 0, 0], InvalidParameter),
        (Call::VmMapRam, &[vm, RAM, 2 * MIB, 9, 0], InvalidParameter),
        (
            Call::VmMapRam,
            &[vm, 0u64.wrapping_sub(2 * MIB), 4 * MIB, 0, 0],
            InvalidParameter,
        ),
        (
            Call::VmMapRam,
            &[vm, (1 << 39) - 2 * MIB, 4 * MIB, 0, 0],
            InvalidParameter,
        ),
        (
            Call::VmMapRam,
            &[vm, 0x0900_0000 & !(2 * MIB - 1), 2 * MIB, 0, 0],
            AlreadyMapped,
        ),
        (Call::VmStockAdd, &[vm], BadState),
        (Call::VmUart, &[vm, 0x0900_0001, 33], InvalidParameter),
        (Call::VmUart, &[vm, 0x0900_0000, 31], InvalidParameter),
        (Call::VmUart, &[vm, 0x0900_0000, 5000], InvalidParameter),
        (Call::VmUart, &[vm, 0x0800_1000, 33], AlreadyMapped),
        (Call::VmGic, &[vm, 0x0800_0000, 0x080a_0000], BadState),
        (Call::VcpuPin, &[vm, 2, 0], NoSuchObject),
        (Call::VcpuPin, &[vm, 0, 2], InvalidParameter),
        (Call::GrantBegin, &[vm, RAM, 4096, window], NotMapped),
        (
            Call::GrantBegin,
            &[vm, RAM, 4096, window + 1],
            InvalidParameter,
        ),
        (
            Call::GrantBegin,
            &[vm, RAM, 4096, MANAGER_RAM_IPA],
            InvalidParameter,
        ),
        (
            Call::GrantBegin,
            &[vm, RAM, !4095, window],
            InvalidParameter,
        ),
        (Call::VmStart, &[vm, RAM, 0], InvalidParameter),
        (Call::VmStatus, &[0], NoSuchObject),
        (Call::VmStop, &[vm], BadState),
        (Call::VmPause, &[vm], BadState),
        (Call::VmResume, &[vm], BadState),
        (Call::VcpuRegister, &[vm, 0, 40], InvalidParameter),
        (Call::VcpuRegister, &[vm, 8, 0], NoSuchObject),
        (Call::VcpuCounter, &[vm, 0, 9], InvalidParameter),
        (Call::VcpuTime, &[0, 1], NoSuchObject),
        (Call::VcpuTime, &[vm, 2], NoSuchObject),
        (Call::VcpuTime, &[6, 0], NoSuchObject),
        (Call::VmLeaves, &[0], NoSuchObject),
        (Call::VmLeaves, &[u64::MAX], NoSuchObject),
        (Call::ConsoleWrite, &[vm, 0], InvalidParameter),
        (Call::ConsoleWrite, &[vm, 41], InvalidParameter),
        (Call::ConsoleRead, &[6], NoSuchObject),
    ];
    for (which, arguments, error) in rows {
        assert_eq!(
            bench.error(*which, arguments),
            *error,
            "{which:?} {arguments:x?}"
        );
    }
    bench.reserve(vm, 2 * MIB);
    assert_eq!(
        bench.error(Call::VmMapRam, &[vm, RAM, 2 * MIB, 0, 0]),
        AlreadyMapped
    );
    assert_eq!(bench.error(Call::VmStart, &[vm, RAM, 0]), BadState);
    assert_eq!(
        bench.error(Call::VmStart, &[vm, RAM + 2 * MIB, 0]),
        InvalidParameter
    );
    assert_eq!(bench.audit(), 0);
}

#[test]
fn any_registers_are_survived() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    let values = [
        0,
        1,
        vm,
        7,
        40,
        RAM,
        2 * MIB,
        MANAGER_WINDOW_IPA,
        1 << 39,
        u64::MAX,
    ];
    let mut seed = 1u64;
    let mut next = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        values[usize::try_from(seed >> 33).unwrap() % values.len()]
    };
    for _ in 0..300 {
        for which in Call::ALL {
            if which != Call::Wait {
                let arguments = [next(), next(), next(), next(), next()];
                bench.call(which, &arguments);
            }
        }
    }
    assert_eq!(bench.audit(), 0);
}

#[test]
fn a_manager_that_makes_no_call_is_started_again() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    // Calls keep it alive, refused ones do not, and a board that stood still is no proof of a hang.
    for _ in 0..20 {
        bench.cores[0].program(0, (0..10).map(|_| Op::Spin(HZ / 10)));
        bench.ok(Call::Version, &[]);
        bench.cores[0].pass(3600 * HZ);
    }
    assert_eq!(bench.system.manager.restarts(), 0);
    let refused = |n| match n % 3 {
        2 => call(Call::VmStop, &[99]),
        _ => Op::Spin(HZ / 20),
    };
    bench.cores[0].program(0, (0..250).map(refused));
    bench.program(vm, 0, [hvc(0x8400_0000, &[])]);
    let began = crate::machine::Core::counter(&bench.cores[0]);
    while bench.system.manager.restarts() == 0 {
        bench.steps(1);
    }
    // Five seconds, found within two looks.
    let took = crate::machine::Core::counter(&bench.cores[0]) - began;
    assert!((5 * HZ..7 * HZ).contains(&took), "{took}");
    assert_eq!(bench.log(vm, 0).len(), 1);
    // The first pause of a row; then it is told why.
    bench.cores[0].shared.lock().unwrap().programs.clear();
    bench.cores[0].pass(HZ / 50);
    bench.cores[0].program(0, [Op::Spin(1)]);
    bench.steps(20);
    let why = StopReason::Crash as u64 | (CrashCause::Hung as u64) << 8;
    assert_eq!(bench.cores[0].log_of(0).last().unwrap()[3..5], [1, why]);
    assert_eq!(bench.ok(Call::Version, &[]), ABI_VERSION.to_bits());
    assert_eq!(bench.status(vm).tag, 77);
}

#[test]
fn a_hang_is_found_behind_a_wait_and_a_change() {
    let mut bench = Bench::new(1);
    let now = crate::machine::Core::counter(&bench.cores[0]);
    bench.cores[0].program(0, [call(Call::Wait, &[now + 5000])]);
    bench.cores[0].program(0, (0..200).map(|_| Op::Spin(HZ / 10)));
    bench.steps(10);
    let core = penumbra_vmsa::CpuIndex::new(0, 1).unwrap();
    bench.system.alert_core(core, &mut bench.cores[0]);
    bench.cores[0].pass(5000);
    while crate::machine::Core::counter(&bench.cores[0]) < 10 * HZ {
        bench.steps(1);
    }
    assert_eq!(bench.system.manager.restarts(), 1);
}

/// Its core idles in each frame.
#[test]
fn a_hang_is_found_in_the_windows_of_a_schedule() {
    let mut bench = Bench::new(1);
    bench.ok(Call::ScheduleSet, &[0, 0, MANAGER_VM, 7000]);
    bench.ok(Call::ScheduleInstall, &[0, 1, 10_000]);
    bench.cores[0].program(0, (0..20_000).map(|_| Op::Spin(HZ / 1000)));
    let began = crate::machine::Core::counter(&bench.cores[0]);
    let mut took = 0;
    while bench.system.manager.restarts() == 0 && took < 20 * HZ {
        bench.steps(1);
        took = crate::machine::Core::counter(&bench.cores[0]) - began;
    }
    // Five to seven seconds of its own, of which it has seven in ten.
    assert!((7 * HZ..10 * HZ + HZ / 10).contains(&took), "{took}");
}

#[test]
fn a_manager_that_never_waits_is_started_again() {
    let mut bench = Bench::new(1);
    let circle = |n| match n % 2 {
        0 => Op::Spin(HZ),
        _ => call(Call::Version, &[]),
    };
    bench.cores[0].program(0, (0..1000).map(circle));
    while crate::machine::Core::counter(&bench.cores[0]) < 299 * HZ {
        bench.steps(1);
        assert_eq!(bench.system.manager.restarts(), 0);
    }
    while crate::machine::Core::counter(&bench.cores[0]) < 303 * HZ {
        bench.steps(1);
    }
    assert_eq!(bench.system.manager.restarts(), 1);
}

#[test]
fn a_steady_life_ends_the_row_of_restarts() {
    let mut bench = Bench::new(1);
    for restart in 1..40 {
        bench.ok(Call::Version, &[]);
        bench.cores[0].pass(2 * HZ);
        bench.cores[0].program(0, [hvc(0x8400_0009, &[])]);
        bench.steps(3);
        assert_eq!(bench.system.manager.restarts(), restart);
        // The first pause of a row, each time.
        bench.cores[0].pass(HZ / 100);
    }
}

#[test]
fn core_time_is_counted_for_whoever_has_the_core() {
    let mut bench = Bench::new(1);
    let vm = bench.guest(&[0]);
    let ran = |bench: &Bench, vm| {
        let id = crate::vcpu::VcpuId::from_number(super::number(vm, 0)).unwrap();
        let now = crate::machine::Core::counter(&bench.cores[0]);
        bench.system.shared(id).unwrap().ran(now)
    };
    let (manager, guest) = (ran(&bench, 0), ran(&bench, vm));
    let began = crate::machine::Core::counter(&bench.cores[0]);
    bench.cores[0].program(0, (0..300).map(|_| Op::Spin(100)));
    bench.program(vm, 0, (0..100).map(|_| Op::Spin(100)).chain([Op::Wfi]));
    bench.steps(500);
    let took = crate::machine::Core::counter(&bench.cores[0]) - began;
    let (manager, guest) = (ran(&bench, 0) - manager, ran(&bench, vm) - guest);
    assert!((10_000..14_000).contains(&guest), "{guest}");
    assert!(manager + guest <= took, "{manager} {guest} {took}");
    assert!(manager >= 30_000, "{manager}");
    let asked = bench.call(Call::VcpuTime, &[vm, 0]);
    assert_eq!((asked[1], asked[3]), (ran(&bench, vm), 1));
}
