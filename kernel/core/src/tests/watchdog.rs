//! A guest's watchdog, from its registers to the stopped VM.

use penumbra_abi::{Call, Error, StopReason, VmState, WatchdogStatus};
use penumbra_vmsa::MIB;

use super::fake::{Op, RAM, UART};
use super::{Bench, ok};

/// Control frame; the refresh frame lies 64 KiB behind.
const CONTROL: u64 = 0x0a00_0000;
const WRR: u64 = CONTROL + 0x1_0000;
const WCS: u64 = CONTROL;
const WOR: u64 = CONTROL + 8;
const WCV: u64 = CONTROL + 0x10;
const INTID: u64 = 34;
/// Ticks of the counter, at 1 MHz: 20 ms.
const OFFSET: u64 = 20_000;

impl Bench {
    fn watched(&mut self, cores: &[u64]) -> u64 {
        let vm = self.create(cores.len() as u64);
        self.reserve(vm, 4 * MIB);
        self.ok(Call::VmWatchdog, &[vm, CONTROL, INTID]);
        self.start(vm, cores);
        vm
    }

    fn watchdog(&mut self, vm: u64) -> WatchdogStatus {
        let x = self.call(Call::VmWatchdogStatus, &[vm]);
        WatchdogStatus::from_regs([ok(x), x[2], x[3], x[4], x[5], x[6]])
    }
}

impl Bench {
    fn now(&self) -> u64 {
        self.cores[0].shared.lock().unwrap().now
    }

    /// Lets time pass until the VM does not run any more.
    fn until_stopped(&mut self, vm: u64) {
        for _ in 0..2000 {
            if self.status(vm).state != VmState::Running {
                return;
            }
            self.steps(1);
        }
        panic!("the VM is not stopped: {:?}", self.watchdog(vm));
    }
}

fn enable() -> [Op; 2] {
    [Op::Store(WOR, 4, OFFSET), Op::Store(WCS, 4, 1)]
}

#[test]
fn a_guest_that_does_not_refresh_is_stopped_after_two_offsets() {
    let mut bench = Bench::new(2);
    let vm = bench.watched(&[1]);
    let neighbour = bench.guest(&[1]);
    bench.program(vm, 0, enable());
    bench.program(vm, 0, (0..1000).map(|_| Op::Spin(500)));
    bench.program(neighbour, 0, (0..1000).map(|_| Op::Spin(500)));
    bench.until_stopped(vm);
    let status = bench.status(vm);
    assert_eq!(
        (status.state, status.reason),
        (VmState::Stopped, StopReason::Watchdog)
    );
    let watchdog = bench.watchdog(vm);
    assert_eq!((watchdog.placed, watchdog.wcs), (true, 7));
    assert_eq!((watchdog.offset, watchdog.refreshes), (OFFSET, 2));
    assert!((2 * OFFSET..3 * OFFSET).contains(&watchdog.age));
    assert_eq!(bench.status(neighbour).state, VmState::Running);
    bench.destroy(vm);
    assert_eq!(bench.audit(), 0);
    assert_eq!(
        bench.error(Call::VmWatchdogStatus, &[vm]),
        Error::NoSuchObject
    );
}

#[test]
fn a_guest_that_refreshes_runs_on_and_one_that_waits_is_stopped() {
    let mut bench = Bench::new(2);
    let vm = bench.watched(&[1]);
    bench.program(vm, 0, enable());
    for _ in 0..20 {
        bench.program(vm, 0, [Op::Spin(OFFSET / 2), Op::Store(WRR, 4, 0)]);
    }
    bench.steps(100);
    assert_eq!(bench.log(vm, 0).len(), 42);
    assert_eq!(bench.status(vm).state, VmState::Running);
    assert_eq!(bench.watchdog(vm).refreshes, 22);
    // It sleeps for ever: only EL2's own timer can find that out.
    bench.program(vm, 0, [Op::Wfi]);
    bench.until_stopped(vm);
    assert_eq!(bench.status(vm).reason, StopReason::Watchdog);
}

#[test]
fn the_first_stage_is_an_interrupt() {
    let mut bench = Bench::new(2);
    let vm = bench.watched(&[1]);
    let pending = super::fake::GICD + 0x200 + 4;
    bench.program(vm, 0, enable());
    bench.program(
        vm,
        0,
        [
            Op::Load(pending, 4),
            Op::Spin(OFFSET * 3 / 2),
            Op::Load(pending, 4),
            Op::Load(WCS, 4),
            Op::Store(WRR, 4, 0),
            Op::Load(WCS, 4),
            Op::Load(pending, 4),
        ],
    );
    bench.steps(40);
    let values: Vec<u64> = bench.log(vm, 0).iter().map(|x| x[1]).collect();
    assert_eq!([values[2], values[4]], [0, 1 << (INTID - 32)]);
    assert_eq!([values[5], values[7]], [0b011, 0b001]);
    assert_eq!(values[8], 0);
}

#[test]
fn paused_time_does_not_count() {
    let mut bench = Bench::new(2);
    let vm = bench.watched(&[1]);
    bench.program(vm, 0, enable());
    bench.program(vm, 0, [Op::Spin(10)]);
    bench.steps(10);
    bench.ok(Call::VmPause, &[vm]);
    let start = bench.now();
    while bench.now() < start + 10 * OFFSET {
        bench.steps(1);
    }
    assert_eq!(bench.status(vm).state, VmState::Paused);
    let age = bench.watchdog(vm).age;
    assert!(age < OFFSET, "{age}");
    bench.ok(Call::VmResume, &[vm]);
    bench.steps(3);
    assert_eq!(bench.status(vm).state, VmState::Running);
    bench.until_stopped(vm);
    assert_eq!(bench.status(vm).reason, StopReason::Watchdog);
}

#[test]
fn a_vcpu_on_another_core_may_enable_it_and_expiry_may_come_nearer() {
    let mut bench = Bench::new(3);
    let vm = bench.watched(&[1, 2]);
    // vCPU 1 is turned on and enables the watchdog: core 1 must hear of it.
    let on = super::hvc(0xc400_0003, &[1, RAM, 0]);
    bench.program(vm, 0, [on]);
    bench.steps(4);
    bench.program(vm, 1, [Op::Store(WOR, 4, 1 << 30), Op::Store(WCS, 4, 1)]);
    bench.program(vm, 1, [Op::Store(WOR, 4, OFFSET)]);
    bench.steps(4);
    bench.until_stopped(vm);
    let watchdog = bench.watchdog(vm);
    assert_eq!(watchdog.wcs, 7);
    assert!(watchdog.age < 3 * OFFSET, "{}", watchdog.age);
}

#[test]
fn registers_are_words_and_pairs_of_words() {
    let mut bench = Bench::new(2);
    let vm = bench.watched(&[1]);
    bench.program(
        vm,
        0,
        [
            Op::Store(WOR, 8, 0x1234_9999_0000),
            Op::Load(WOR, 8),
            Op::Store(WOR, 1, 0xff),
            Op::Load(WOR, 4),
            Op::Load(WOR + 5, 1),
            Op::Store(WCV, 8, 0x55),
            Op::Load(WCV, 4),
            Op::Load(CONTROL + 0xfcc, 4),
            Op::Load(WRR + 0xfcc, 4),
            Op::Load(CONTROL + 0x2000, 8),
        ],
    );
    bench.steps(20);
    let values: Vec<u64> = bench.log(vm, 0).iter().map(|x| x[1]).collect();
    assert_eq!([values[1], values[3]], [0x1234_9999_0000, 0x9999_0000]);
    assert_eq!([values[4], values[6]], [0x12, 0x55]);
    assert_eq!(values[7..], [0x1_043b, 0x1_043b, 0]);
}

#[test]
fn its_place_is_checked() {
    let mut bench = Bench::new(1);
    let vm = bench.create(1);
    bench.reserve(vm, 2 * MIB);
    let mut refuse = |ipa, intid, why| {
        assert_eq!(bench.error(Call::VmWatchdog, &[vm, ipa, intid]), why);
    };
    refuse(CONTROL + 0x1000, INTID, Error::InvalidParameter);
    refuse(CONTROL, 31, Error::InvalidParameter);
    refuse(CONTROL, u64::MAX, Error::InvalidParameter);
    refuse(1 << 39, INTID, Error::InvalidParameter);
    refuse(u64::MAX - 0xffff, INTID, Error::InvalidParameter);
    refuse(UART - 0x1_0000, INTID, Error::AlreadyMapped);
    refuse(RAM, INTID, Error::AlreadyMapped);
    assert!(!bench.watchdog(vm).placed);
    bench.ok(Call::VmWatchdog, &[vm, CONTROL, INTID]);
    let uart = [vm, CONTROL + 0x1_f000, 33];
    assert_eq!(bench.error(Call::VmUart, &uart), Error::AlreadyMapped);
    assert!(bench.watchdog(vm).placed);
    bench.destroy(vm);
    let next = bench.create(1);
    assert!(!bench.watchdog(next).placed);
}
