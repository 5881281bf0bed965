//! Cores under a fixed cyclic schedule.

use penumbra_abi::{Call, Error, ScheduleStatus, ScheduleWindow, VmState, paging_roots};

use super::compound::{EL0, prepared};
use super::fake::{GICD, GICR, HZ, Op, RAM, UART};
use super::{Bench, hvc, ok};

/// Microseconds in ticks of the tests' counter: one.
const US: u64 = HZ / 1_000_000;
const FRAME: u64 = 10_000;

impl Bench {
    /// Gives core 1 windows: tags of VMs and microseconds.
    fn schedule(&mut self, windows: &[(u64, u64)], frame: u64) {
        for (place, (owner, us)) in (0..).zip(windows) {
            self.ok(Call::ScheduleSet, &[1, place, *owner, *us]);
        }
        self.ok(Call::ScheduleInstall, &[1, windows.len() as u64, frame]);
    }

    fn tagged(&mut self, tag: u64) -> u64 {
        let vm = self.ok(Call::VmCreate, &[1, 3, tag]);
        self.ok(Call::VmGic, &[vm, GICD, GICR]);
        self.ok(Call::VmUart, &[vm, UART, 33]);
        self.reserve(vm, 4 << 20);
        self.start(vm, &[1]);
        vm
    }

    fn schedule_status(&mut self) -> ScheduleStatus {
        let x = self.call(Call::ScheduleStatus, &[1]);
        ScheduleStatus::from_regs([ok(x), x[2], x[3], x[4], x[5], x[6]])
    }

    fn window(&mut self, place: u64) -> ScheduleWindow {
        let x = self.call(Call::ScheduleWindow, &[1, place]);
        ScheduleWindow::from_regs([ok(x), x[2], x[3], x[4], x[5], x[6]])
    }

    /// For how long a VM has had its core.
    fn ran(&mut self, vm: u64) -> u64 {
        self.ok(Call::VcpuTime, &[vm, 0])
    }

    /// Lets so many ticks go by, in small steps of all guests.
    fn pass(&mut self, ticks: u64) {
        let end = self.cores[0].shared.lock().unwrap().now + ticks;
        while self.cores[0].shared.lock().unwrap().now < end {
            self.steps(1);
        }
    }
}

fn hog() -> impl Iterator<Item = Op> {
    (0..100_000).map(|_| Op::Spin(20))
}

#[test]
fn a_hog_takes_nothing_from_the_windows_of_others() {
    let mut bench = Bench::new(2);
    let (hog_vm, quiet, outsider) = (bench.tagged(1), bench.tagged(2), bench.tagged(3));
    for vm in [hog_vm, quiet, outsider] {
        bench.program(vm, 0, hog());
    }
    bench.schedule(&[(1, 5000 * US), (2, 2000 * US)], FRAME * US);
    bench.pass(2 * FRAME);
    let before = [hog_vm, quiet, outsider].map(|vm| bench.ran(vm));
    let frames = bench.schedule_status().frames;
    bench.pass(20 * FRAME);
    let after = [hog_vm, quiet, outsider].map(|vm| bench.ran(vm));
    let status = bench.schedule_status();
    let frames = status.frames - frames;
    assert!((19..=22).contains(&frames), "{frames}");
    // Figures are taken at any point of a frame.
    let ran: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    let near = |ran: u64, each: u64| ran.abs_diff(frames * each) <= each + 500;
    assert!(
        near(ran[0], 5000) && near(ran[1], 2000),
        "{ran:?} in {frames}"
    );
    assert_eq!(ran[2], 0);
    assert_eq!(
        (status.windows, status.missed, status.pending),
        (2, 0, false)
    );
    for place in 0..2 {
        let window = bench.window(place);
        assert!(window.starts >= 19, "{window:?}");
        // Cores step in turn: 100 ticks of the manager's, and an operation here is not interrupted.
        assert!(window.most_ticks <= 150, "{window:?}");
        assert!(window.least_ticks <= window.most_ticks);
    }
}

#[test]
fn one_wake_up_of_a_sibling_outside_its_window_is_all_that_a_guest_can_send() {
    const CPU_ON: u32 = 0xc400_0003;
    const WATCHDOG: u64 = 0x0a00_0000;
    let mut bench = Bench::new(3);
    let quiet = bench.tagged(2);
    bench.program(quiet, 0, hog());
    let flooder = bench.ok(Call::VmCreate, &[2, 3, 1]);
    bench.ok(Call::VmGic, &[flooder, GICD, GICR]);
    bench.ok(Call::VmWatchdog, &[flooder, WATCHDOG, 34]);
    bench.reserve(flooder, 4 << 20);
    bench.start(flooder, &[1, 2]);
    let setup = [
        Op::Store(GICD, 4, 0x12),
        Op::Store(GICR + 0x1_0100, 4, 1),
        // A guest's FP state stays behind in the core.
        Op::Fp(1),
        hvc(CPU_ON, &[1, RAM, 0]),
        Op::Wfi,
    ];
    bench.program(flooder, 0, setup);
    bench.schedule(&[(1, 2000 * US), (2, 8000 * US)], FRAME * US);
    bench.pass(2 * FRAME);
    let interrupts = |bench: &mut Bench| bench.ok(Call::VcpuCounter, &[quiet, 0, 5]);
    // SGIs, and a watchdog whose time is up sooner each time.
    let sooner = |n: u64| Op::Store(WATCHDOG + 8, 4, 1_000_000_000 - 20_000 * n);
    let floods: [&dyn Fn(u64) -> Op; 2] = [&|_| Op::Sgi(1), &sooner];
    let enable = [sooner(0), Op::Store(WATCHDOG, 4, 1)];
    bench.program(flooder, 1, enable);
    for flood in floods {
        let before = (interrupts(&mut bench), bench.schedule_status().frames);
        let done = bench.log(flooder, 1).len();
        for round in 0..400 {
            let ops = (0..10).map(|n| flood(10 * round + n));
            bench.program(flooder, 1, ops);
            bench.pass(FRAME / 80);
        }
        let frames = bench.schedule_status().frames - before.1;
        let taken = interrupts(&mut bench) - before.0;
        assert!(bench.log(flooder, 1).len() >= done + 4000);
        assert!(taken <= 4 * frames, "{taken} in {frames}");
    }
    assert_eq!(bench.status(flooder).state, VmState::Running);
}

#[test]
fn a_root_to_be_planted_disturbs_nobody_elses_window() {
    for window in [2000, 400] {
        let (mut bench, vm) = prepared(&[1]);
        let quiet = bench.tagged(2);
        bench.program(vm, 0, (0..200_000).map(|_| Op::Spin(20)));
        bench.program(quiet, 0, (0..200_000).map(|_| Op::Spin(20)));
        bench.schedule(&[(77, window * US), (2, (FRAME - window) * US)], FRAME * US);
        bench.ok(Call::PagingRoots, &[vm, paging_roots::STICKY]);
        bench.pass(2 * FRAME);
        let before = (bench.cores[1].deadlines, bench.schedule_status().frames);
        bench.pass(50 * FRAME);
        let frames = bench.schedule_status().frames - before.1;
        let taken = bench.cores[1].deadlines - before.0;
        // The ends of both windows, and looks at the guest within its own.
        let looks = 1.max(window / 1000);
        assert!(frames >= 49, "{frames}");
        assert!(taken <= (2 + looks) * frames + 5, "{taken} in {frames}");
        assert_eq!(bench.paging(vm).planted, 0);
        // From EL0 it is planted in its own window.
        bench.pass(FRAME);
        while bench.cores[1].sysregs.ttbr1_el1 == 0 {
            bench.steps(1);
        }
        bench.cores[1].sysregs.pstate = EL0;
        bench.pass(3 * FRAME);
        assert_eq!(bench.paging(vm).planted, 1, "{window}");
    }
}

#[test]
fn a_slice_that_begins_late_in_a_window_ends_with_it() {
    let mut bench = Bench::new(2);
    let (eager, quiet) = (bench.tagged(1), bench.tagged(2));
    // It comes to the run loop all the time, and so gets a new slice as soon as one is over: 5000 us after
    // its window has begun, 200 before that ends.
    let off = Op::Msr([3, 3, 14, 2, 1], 0);
    bench.program(
        eager,
        0,
        (0..50_000).flat_map(|_| [Op::Spin(20), off.clone()]),
    );
    bench.program(quiet, 0, hog());
    bench.schedule(&[(1, 5200 * US), (2, 2000 * US)], FRAME * US);
    bench.pass(12 * FRAME);
    let window = bench.window(1);
    assert!(window.starts >= 10, "{window:?}");
    assert!(window.most_ticks <= 150, "{window:?}");
}

#[test]
fn what_a_guest_leaves_of_its_window_is_nobodys() {
    let mut bench = Bench::new(2);
    let (idle, hog_vm) = (bench.tagged(1), bench.tagged(2));
    bench.program(idle, 0, [Op::Wfi]);
    bench.program(hog_vm, 0, hog());
    bench.schedule(&[(1, 8000 * US), (2, 2000 * US)], FRAME * US);
    bench.pass(2 * FRAME);
    let before = bench.ran(hog_vm);
    bench.pass(10 * FRAME);
    let ran = bench.ran(hog_vm) - before;
    assert!((18_000..=24_000).contains(&ran), "{ran}");
}

#[test]
fn a_guest_that_is_started_anew_finds_its_window() {
    let mut bench = Bench::new(2);
    let (first, other) = (bench.tagged(1), bench.tagged(2));
    bench.program(other, 0, hog());
    bench.schedule(&[(1, 3000 * US), (2, 3000 * US)], FRAME * US);
    bench.pass(FRAME);
    bench.ok(Call::VmStop, &[first]);
    bench.destroy(first);
    bench.pass(2 * FRAME);
    let again = bench.tagged(1);
    bench.program(again, 0, hog());
    bench.pass(5 * FRAME);
    let ran = bench.ran(again);
    assert!((9_000..=19_000).contains(&ran), "{ran}");
}

#[test]
fn the_end_of_a_schedule_lets_everybody_run() {
    let mut bench = Bench::new(2);
    let (scheduled, outsider) = (bench.tagged(1), bench.tagged(2));
    bench.program(outsider, 0, hog());
    bench.schedule(&[(1, 3000 * US)], FRAME * US);
    bench.pass(3 * FRAME);
    assert_eq!(bench.schedule_status().windows, 1);
    bench.ok(Call::VmStop, &[scheduled]);
    let before = bench.ran(outsider);
    bench.ok(Call::ScheduleInstall, &[1, 0, 0]);
    assert!(bench.schedule_status().pending);
    bench.pass(3 * FRAME);
    assert_eq!(
        bench.schedule_status(),
        ScheduleStatus {
            missed: bench.schedule_status().missed,
            frames: bench.schedule_status().frames,
            ..ScheduleStatus::default()
        }
    );
    assert!(bench.ran(outsider) - before > FRAME);
}

#[test]
fn the_manager_is_a_partition_of_its_core() {
    let mut bench = Bench::new(1);
    let call = Call::ScheduleSet;
    bench.ok(call, &[0, 0, 0, 2000]);
    bench.ok(call, &[0, 1, 1, 6000]);
    bench.ok(Call::ScheduleInstall, &[0, 2, FRAME]);
    // It goes on making calls, in its windows.
    for _ in 0..3 {
        bench.ok(Call::Version, &[]);
        bench.pass(FRAME);
    }
    let before = bench.ok(Call::VcpuTime, &[0, 0]);
    bench.pass(10 * FRAME);
    let ran = bench.ok(Call::VcpuTime, &[0, 0]) - before;
    assert!((16_000..=26_000).contains(&ran), "{ran}");
}

#[test]
fn tables_are_checked() {
    let mut bench = Bench::new(2);
    let refused = Error::InvalidParameter;
    bench.ok(Call::ScheduleSet, &[0, 0, 1, 6000]);
    bench.ok(Call::ScheduleSet, &[1, 0, 0, 6000]);
    assert_eq!(bench.error(Call::ScheduleSet, &[1, 16, 1, 500]), refused);
    assert_eq!(
        bench.error(Call::ScheduleSet, &[1, u64::MAX, 1, 500]),
        refused
    );
    // Core 0 without the manager, core 1 with it.
    assert_eq!(bench.error(Call::ScheduleInstall, &[0, 1, FRAME]), refused);
    assert_eq!(bench.error(Call::ScheduleInstall, &[1, 1, FRAME]), refused);
    assert_eq!(bench.error(Call::ScheduleInstall, &[1, 17, FRAME]), refused);
    for core in [2, u64::MAX] {
        for call in [
            Call::ScheduleSet,
            Call::ScheduleInstall,
            Call::ScheduleStatus,
        ] {
            assert_eq!(bench.error(call, &[core, 0, 0, 0]), Error::NoSuchObject);
        }
    }
    assert_eq!(bench.schedule_status(), ScheduleStatus::default());
    assert_eq!(
        bench.error(Call::ScheduleWindow, &[1, 0]),
        Error::NoSuchObject
    );
}
