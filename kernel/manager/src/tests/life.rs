//! Power-off, reset, crash, and frames for thin guests.

use penumbra_abi::{CrashCause, Error, StopReason, VmState};

use penumbra_bundle::OnWatchdog;

use super::*;

#[test]
fn power_off_of_the_last_guest_switches_the_board_off() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a"), guest("b")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.stop(1, StopReason::PowerOff, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.vm(2).status.state, VmState::Running);
    fake.stop(2, StopReason::AllOff, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Off));
    assert!(!fake.screen.contains("fatal"), "{}", fake.screen);
    assert_eq!(fake.misuse, Vec::<String>::new());
}

#[test]
fn the_board_stays_on_where_the_scenario_says_so() {
    let mut fake = Fake::new();
    let bundle = bundle_of(vec![guest("a")], WhenAllOff::Wait);
    let mut manager = booted(&mut fake, &bundle);
    fake.stop(1, StopReason::PowerOff, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), None);
}

#[test]
fn last_words_come_before_the_end() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).output.extend([b'.'; 5000]);
    fake.vm(1).output.extend(b"reboot: Power down");
    fake.stop(1, StopReason::PowerOff, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Off));
    assert!(
        fake.screen
            .contains("reboot: Power down\r\npenumbra: guest 'a' is off\r\n"),
        "{}",
        fake.screen
    );
}

#[test]
fn reset_destroys_loads_and_starts_again() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    let first = fake.vm(1).written.clone();
    for _ in 0..3 {
        fake.forget();
        fake.clock += 20_000;
        fake.stop(1, StopReason::Reset, CrashCause::None);
        assert_eq!(settle(&mut manager, &mut fake), None);
        let order = [
            "VmDestroy 1",
            "VmCreate 1",
            "VmMapRam 1",
            "GrantBegin 1",
            "VmStart 1",
        ];
        assert!(
            order.map(|call| fake.position(call)).is_sorted(),
            "{:?}",
            fake.log
        );
        assert_eq!(fake.vm(1).written, first);
        assert_eq!(fake.vm(1).status.state, VmState::Running);
        // The console is connected to the new VM.
        fake.vm(1).output.extend(b"again");
        assert_eq!(settle(&mut manager, &mut fake), None);
        assert!(fake.screen.ends_with("again"), "{}", fake.screen);
    }
    assert_eq!(fake.misuse, Vec::<String>::new());
}

#[test]
fn a_guest_that_resets_itself_at_once_waits_longer_and_stays_off_in_the_end() {
    let mut fake = Fake::new();
    let mut spec = guest("linux");
    (spec.restart_limit, spec.restart_delay_ms) = (3, 500);
    let bundle = bundle(vec![spec]);
    let mut manager = booted(&mut fake, &bundle);
    for delay in [500, 1000, 2000] {
        fake.forget();
        fake.stop(1, StopReason::Reset, CrashCause::None);
        let before = fake.clock;
        assert_eq!(settle(&mut manager, &mut fake), None);
        assert!((delay..delay + 200).contains(&(fake.clock - before)));
        assert_eq!(fake.vm(1).status.state, VmState::Running);
    }
    fake.stop(1, StopReason::Reset, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Off));
    assert!(
        fake.screen
            .contains("stays off: it was started again 3 times in a row (`restart_limit`)"),
        "{}",
        fake.screen
    );
}

#[test]
fn a_reset_that_cannot_be_loaded_ends_in_a_sentence() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.failures.insert("VmCreate", Error::NoMemory);
    fake.stop(1, StopReason::Reset, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Fatal));
    assert!(
        fake.screen.contains("would not create the VM"),
        "{}",
        fake.screen
    );
    assert!(
        fake.screen
            .contains("penumbra: fatal: guest 'linux' could not be started, and")
    );
}

fn crash(fake: &mut Fake, cause: CrashCause, ipa: u64) {
    let vm = fake.vm(1);
    vm.status.vcpu = 1;
    vm.status.esr = 0x9200_0046;
    vm.status.far = 0xffff_8000_0900_0018;
    vm.status.ipa = ipa;
    fake.stop(1, StopReason::Crash, cause);
}

#[test]
fn a_crash_is_reported_with_all_that_helps() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    crash(&mut fake, CrashCause::VectorLoop, 0x0900_1018);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Fatal));
    for text in [
        "guest 'linux' crashed: vCPU 1 faults for ever at its own exception vector",
        "PC 0000000000001020",
        "data abort on a write: translation fault at level 2 (syndrome 0x92000046)",
        "virtual address 0xffff800009000018, address in the guest 0x9001018",
        "in no node of its device tree; the nearest, /pl011@9000000, ends 0x18 before",
        "X30 000000000000101e",
        "VBAR_EL1 0000000000001027",
        "(demo.toml, line 6)",
        "penumbra: fatal: guest 'linux' crashed, and no guest runs any more",
    ] {
        assert!(fake.screen.contains(text), "{text} in\n{}", fake.screen);
    }
    assert_eq!(
        fake.vm(1).status.state,
        VmState::Stopped,
        "kept for inspection"
    );
}

#[test]
fn a_crash_beyond_memory_names_the_memory_key() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux"), guest("other")]);
    let mut manager = booted(&mut fake, &bundle);
    crash(
        &mut fake,
        CrashCause::TableOutsideMemory,
        0x4000_0000 + 64 * MIB,
    );
    assert_eq!(
        settle(&mut manager, &mut fake),
        None,
        "the other guest runs on"
    );
    assert!(
        fake.screen.contains("raise `memory` (demo.toml, line 5)"),
        "{}",
        fake.screen
    );
    assert_eq!(fake.vm(2).status.state, VmState::Running);
}

#[test]
fn a_crash_without_an_address_says_so() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![thin("linux", 16 * MIB)]);
    let mut manager = booted(&mut fake, &bundle);
    crash(&mut fake, CrashCause::QuotaExceeded, u64::MAX);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Fatal));
    assert!(
        !fake.screen.contains("address in the guest"),
        "{}",
        fake.screen
    );
    assert!(
        fake.screen.contains("raise `quota` (demo.toml, line 1)"),
        "{}",
        fake.screen
    );
}

#[test]
fn a_guest_may_be_restarted_after_a_crash_but_not_for_ever() {
    let mut fake = Fake::new();
    let mut linux = guest("linux");
    linux.on_crash = OnCrash::Restart;
    let bundle = bundle(vec![linux]);
    let mut manager = booted(&mut fake, &bundle);
    for _ in 0..5 {
        // Each after an hour of good work: that is not a row.
        fake.clock += 3_600_000;
        crash(&mut fake, CrashCause::Serror, u64::MAX);
        assert_eq!(settle(&mut manager, &mut fake), None);
        assert_eq!(fake.vm(1).status.state, VmState::Running);
    }
    crash(&mut fake, CrashCause::Serror, u64::MAX);
    assert_eq!(settle(&mut manager, &mut fake), None);
    crash(&mut fake, CrashCause::Serror, u64::MAX);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Fatal));
    assert!(
        fake.screen
            .contains("started again 2 times in a row (`restart_limit`)"),
        "{}",
        fake.screen
    );
}

#[test]
fn a_thin_guest_is_fed_when_it_asks() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![thin("linux", 64 * MIB)]);
    let mut manager = booted(&mut fake, &bundle);
    fake.forget();
    fake.vm(1).status.stock_frames = 0;
    fake.vm(1).status.wants_stock = true;
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.vm(1).status.stock_frames, 8);
    assert_eq!(fake.vm(1).status.state, VmState::Running);
}

#[test]
fn a_guest_that_waits_gets_a_frame_though_it_has_enough() {
    // Tables come with it, of which EL2 may have none for those that are there.
    let mut fake = Fake::new();
    let bundle = bundle(vec![thin("linux", 64 * MIB)]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).status.stock_frames = 8;
    fake.vm(1).status.wants_stock = true;
    assert_eq!(settle(&mut manager, &mut fake), None, "no spinning");
    assert_eq!(fake.vm(1).status.stock_frames, 9);
}

#[test]
fn a_little_is_better_than_nothing() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![thin("linux", 64 * MIB)]);
    let mut manager = booted(&mut fake, &bundle);
    fake.frames = 2;
    fake.vm(1).status.stock_frames = 0;
    fake.vm(1).status.wants_stock = true;
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.vm(1).status.stock_frames, 2);
}

#[test]
fn a_guest_that_cannot_be_fed_is_stopped_with_a_reason() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![thin("linux", 64 * MIB), guest("other")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.frames = 0;
    fake.vm(1).status.stock_frames = 0;
    fake.vm(1).status.wants_stock = true;
    assert_eq!(
        settle(&mut manager, &mut fake),
        None,
        "no spinning, and the other guest runs on"
    );
    assert_eq!(fake.vm(1).status.state, VmState::Stopped);
    assert!(
        fake.screen.contains("the board has no memory left"),
        "{}",
        fake.screen
    );
}

#[test]
fn a_restart_waits_for_its_delay_and_the_board_stays_on() {
    let mut fake = Fake::new();
    let mut linux = guest("linux");
    (linux.on_crash, linux.restart_limit, linux.restart_delay_ms) = (OnCrash::Restart, 3, 500);
    let bundle = bundle(vec![linux]);
    let mut manager = booted(&mut fake, &bundle);
    for delay in [500, 1000, 2000] {
        fake.forget();
        let down = fake.clock;
        crash(&mut fake, CrashCause::Serror, u64::MAX);
        // The fake counts milliseconds, and a call takes one.
        assert_eq!(manager.step(&mut fake), None);
        assert_eq!(
            fake.vm(1).status.state,
            VmState::Stopped,
            "kept for inspection"
        );
        let text = format!("guest 'linux' is started again in {delay} ms");
        assert!(fake.screen.contains(&text), "{}", fake.screen);
        assert_eq!(manager.step(&mut fake), None);
        assert_eq!(fake.vm(1).status.state, VmState::Running);
        assert!(
            (delay..delay + 60).contains(&(fake.clock - down)),
            "{}",
            fake.clock - down
        );
    }
    crash(&mut fake, CrashCause::Serror, u64::MAX);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Fatal));
    assert_eq!(fake.misuse, Vec::<String>::new());
}

#[test]
fn a_crash_may_take_the_board_with_it() {
    let mut fake = Fake::new();
    let mut vital = guest("vital");
    vital.on_crash = OnCrash::PowerOff;
    vital.lines.set(Key::OnCrash, 9);
    let bundle = bundle(vec![vital, guest("other")]);
    let mut manager = booted(&mut fake, &bundle);
    crash(&mut fake, CrashCause::Serror, u64::MAX);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Fatal));
    let text = "penumbra: fatal: guest 'vital' crashed, and the board is to go off with it \
                (demo.toml, line 9)";
    assert!(fake.screen.contains(text), "{}", fake.screen);
}

#[test]
fn a_guest_may_come_back_after_it_has_switched_itself_off() {
    let mut fake = Fake::new();
    let mut linux = guest("linux");
    linux.on_power_off = OnPowerOff::Restart;
    let bundle = bundle(vec![linux]);
    let mut manager = booted(&mut fake, &bundle);
    for _ in 0..2 {
        fake.stop(1, StopReason::PowerOff, CrashCause::None);
        assert_eq!(settle(&mut manager, &mut fake), None);
        assert_eq!(fake.vm(1).status.state, VmState::Running);
    }
    fake.stop(1, StopReason::PowerOff, CrashCause::None);
    assert_eq!(
        settle(&mut manager, &mut fake),
        Some(Ending::Off),
        "enough in a row"
    );
}

#[test]
fn a_guest_may_take_the_board_off_with_it() {
    let mut fake = Fake::new();
    let mut main = guest("main");
    main.on_power_off = OnPowerOff::PowerOff;
    let bundle = bundle(vec![main, guest("other")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.stop(1, StopReason::PowerOff, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Off));
    assert!(
        fake.screen.contains("the board is switched off with it"),
        "{}",
        fake.screen
    );
}

#[test]
fn a_guest_without_autostart_is_checked_and_left_off() {
    let mut fake = Fake::new();
    let mut later = guest("later");
    later.autostart = false;
    let bundle = bundle(vec![guest("now"), later.clone()]);
    let mut manager = booted(&mut fake, &bundle);
    assert_eq!(fake.count("VmCreate"), 1);
    assert!(
        fake.screen.contains("not started (`autostart`)"),
        "{}",
        fake.screen
    );
    // Not after a restart of the manager either.
    let mut again = Manager::boot(&mut fake, &bundle, revival(1)).unwrap_or_else(|_| panic!());
    assert_eq!(settle(&mut again, &mut fake), None);
    assert_eq!(fake.count("VmCreate"), 1);
    fake.stop(1, StopReason::PowerOff, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Off));

    later.kernel.bytes = vec![0; 5000].into();
    let bundle = super::bundle(vec![guest("now"), later]);
    assert!(
        Manager::boot(&mut Fake::new(), &bundle, revival(0)).is_err(),
        "checked with the others"
    );
}

fn watched(policy: OnWatchdog) -> GuestSpec<'static> {
    let mut guest = guest("linux");
    guest.lines.set(Key::Watchdog, 9);
    guest.lines.set(Key::RestartLimit, 11);
    guest.watchdog = Some(policy);
    guest
}

/// The guest has not refreshed its watchdog for 2.5 s.
fn expire(fake: &mut Fake) {
    fake.vm(1).watchdog.age = 2500;
    fake.vm(1).watchdog.wcs = 7;
    fake.stop(1, StopReason::Watchdog, CrashCause::None);
}

#[test]
fn a_watchdog_restarts_its_guest_so_often_as_the_scenario_says() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![watched(OnWatchdog::Restart), guest("other")]);
    let mut manager = booted(&mut fake, &bundle);
    assert_eq!(fake.count("VmWatchdog"), 1);
    for _ in 0..2 {
        fake.forget();
        expire(&mut fake);
        assert_eq!(settle(&mut manager, &mut fake), None);
        let said = "penumbra: guest 'linux' is stopped: it has not refreshed its watchdog for 2500 ms \
                    (demo.toml, line 9)";
        assert!(fake.screen.contains(said), "{}", fake.screen);
        assert_eq!(fake.count("VmStart 1"), 1);
        assert!(fake.vm(1).watchdog.placed);
    }
    expire(&mut fake);
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert!(
        fake.screen.contains("(demo.toml, line 11)"),
        "{}",
        fake.screen
    );
    assert_eq!(fake.vm(1).status.state, VmState::Stopped);
    assert_eq!(fake.vm(2).status.state, VmState::Running);
    assert_eq!(fake.misuse, Vec::<String>::new());
}

#[test]
fn a_watchdog_may_leave_its_guest_or_switch_the_board_off() {
    for (policy, ending) in [
        (OnWatchdog::Stay, None),
        (OnWatchdog::PowerOff, Some(Ending::Fatal)),
    ] {
        let mut fake = Fake::new();
        let mut spec = watched(policy);
        spec.lines.set(Key::OnWatchdog, 10);
        let bundle = bundle(vec![spec, guest("other")]);
        let mut manager = booted(&mut fake, &bundle);
        fake.forget();
        expire(&mut fake);
        assert_eq!(settle(&mut manager, &mut fake), ending, "{}", fake.screen);
        assert!(
            fake.screen.contains("(demo.toml, line 10)"),
            "{}",
            fake.screen
        );
        assert_eq!(fake.screen.contains("penumbra: fatal: "), ending.is_some());
        assert_eq!(fake.count("VmStart"), 0);
        assert_eq!(fake.vm(1).status.state, VmState::Stopped);
    }
}
