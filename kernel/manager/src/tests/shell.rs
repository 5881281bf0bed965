//! The operator's shell, typed at.

use penumbra_abi::{CrashCause, Error, StopReason, VmState, WatchdogStatus};

use super::*;

/// Types into the shell and returns what the screen showed for it.
pub(super) fn typed(manager: &mut Manager<'_>, fake: &mut Fake, text: &str) -> String {
    fake.screen.clear();
    fake.waits = 0;
    fake.keys.extend(text.bytes());
    assert_eq!(settle(manager, fake), None, "{}", fake.screen);
    fake.screen.clone()
}

#[track_caller]
pub(super) fn shows(screen: &str, parts: &[&str]) {
    for part in parts {
        assert!(screen.contains(part), "{part:?} in\n{screen}");
    }
}

/// Two guests, the shell on the screen.
pub(super) fn at_shell<'a>(fake: &mut Fake, bundle: &'a [u8]) -> Manager<'a> {
    let mut manager = booted(fake, bundle);
    let screen = typed(&mut manager, fake, "\x1ds");
    shows(&screen, &["the operator's shell"]);
    assert!(screen.ends_with("\rpenumbra> \x1b[K"), "{screen:?}");
    manager
}

pub(super) fn pair() -> Vec<u8> {
    bundle(vec![guest("linux"), thin("bare", 16 * MIB)])
}

#[test]
fn help_shows_every_command_with_an_example() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    let screen = typed(&mut manager, &mut fake, "help\r");
    for command in [
        "help", "list", "start", "stop", "pause", "resume", "restart", "destroy", "create",
        "console", "log", "stats", "watch", "board", "audit", "version", "exit", "poweroff",
    ] {
        assert!(
            screen.contains(&format!("\r\n  {command}")),
            "{command} in\n{screen}"
        );
    }
    let one = typed(&mut manager, &mut fake, "help stop\r");
    shows(
        &one,
        &[
            "stop GUEST",
            "as if its power was cut",
            "for example: stop linux",
        ],
    );
    shows(
        &typed(&mut manager, &mut fake, "help nix\r"),
        &["no command 'nix'"],
    );
    shows(
        &typed(&mut manager, &mut fake, "frobnicate\r"),
        &["no command 'frobnicate'; `help`"],
    );
    shows(
        &typed(&mut manager, &mut fake, "list all\r"),
        &["written `list`\r\n"],
    );
    for (line, words) in [
        ("watch", "COMMAND is one of: list, stats, traps"),
        ("watch exit", "COMMAND is one of: list, stats, traps"),
        ("help watch", "COMMAND is one of: list, stats, traps"),
        ("manager", "HOW is one of: panic, store"),
        (
            "paging mode linux flat",
            "no mode 'flat'; the modes are nested, ",
        ),
    ] {
        shows(
            &typed(&mut manager, &mut fake, &format!("{line}\r")),
            &[words],
        );
    }
    shows(
        &typed(&mut manager, &mut fake, "stop\r"),
        &["written `stop GUEST`, like `stop linux`"],
    );
    shows(
        &typed(&mut manager, &mut fake, "stop a b\r"),
        &["written `stop GUEST`"],
    );
    shows(
        &typed(&mut manager, &mut fake, "stop nobody\r"),
        &["no guest 'nobody'; there are linux, bare"],
    );
    assert_eq!(fake.misuse, Vec::<String>::new());
}

#[test]
fn the_list_shows_every_guest() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    let screen = typed(&mut manager, &mut fake, "list\r");
    shows(
        &screen,
        &[
            " * 1 linux        running      1,2             0  64 MiB of 64 MiB reserved",
            "   2 bare         running      1,2             0  0 bytes of 64 MiB thin, quota 16 MiB",
        ],
    );
}

#[test]
fn a_guest_goes_through_its_whole_life() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    let mut says = |fake: &mut Fake, line: &str, part: &str| {
        let screen = typed(&mut manager, fake, &format!("{line}\r"));
        assert!(screen.contains(part), "{line}: {part:?} in\n{screen}");
    };
    says(&mut fake, "pause linux", "guest 'linux' is paused");
    says(&mut fake, "pause linux", "is paused already");
    says(&mut fake, "list", "paused");
    assert_eq!(fake.vm(1).status.state, VmState::Paused);
    says(&mut fake, "resume 1", "guest 'linux' runs on");
    says(&mut fake, "resume 1", "is not paused");
    says(
        &mut fake,
        "create linux",
        "has a VM; `destroy linux` frees it",
    );
    says(&mut fake, "destroy linux", "runs; `stop linux` first");
    says(&mut fake, "start linux", "'linux' has been started");
    says(&mut fake, "stop linux", "stopped by the operator");
    says(&mut fake, "list", "stopped");
    says(&mut fake, "stop linux", "'linux' does not run");
    says(&mut fake, "pause linux", "'linux' does not run");
    assert_eq!(
        fake.vm(1).status.state,
        VmState::Stopped,
        "kept for inspection"
    );
    says(&mut fake, "destroy linux", "its memory is free");
    says(&mut fake, "destroy linux", "has no VM");
    says(
        &mut fake,
        "list",
        "off          1,2             0  0 bytes of",
    );
    says(
        &mut fake,
        "create linux",
        "is loaded; `start linux` runs it",
    );
    says(&mut fake, "list", "loaded");
    assert_eq!(fake.vm(1).status.state, VmState::Created);
    says(&mut fake, "start linux", "started by the operator");
    assert_eq!(fake.vm(1).status.state, VmState::Running);
    says(&mut fake, "restart linux", "started by the operator");
    assert_eq!(fake.vm(1).status.state, VmState::Running);
    says(&mut fake, "stop linux", "stopped");
    says(&mut fake, "start linux", "started");
    says(&mut fake, "pause linux", "paused");
    says(&mut fake, "stop linux", "stopped");
    says(&mut fake, "restart linux", "started");
    says(&mut fake, "log linux", "guest 'linux' is loaded");
    assert_eq!(
        fake.vm(2).status.state,
        VmState::Running,
        "the other one is left alone"
    );
    assert_eq!(fake.vms.len(), 2, "no VM is left over");
    assert_eq!(fake.misuse, Vec::<String>::new());
}

#[test]
fn what_the_operator_did_outlives_the_manager() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a"), guest("b"), guest("c")]);
    let mut manager = at_shell(&mut fake, &bundle);
    typed(
        &mut manager,
        &mut fake,
        "stop a\rdestroy a\rstop b\rdestroy b\rcreate b\rstop c\r",
    );
    let mut again =
        Manager::boot(&mut fake, &bundle, revival(1)).unwrap_or_else(|_| panic!("{}", fake.screen));
    // Nobody runs, but the operator is not there any more to say so.
    let _ = settle(&mut again, &mut fake);
    assert!(
        fake.vms
            .values()
            .all(|vm| vm.status.state != VmState::Running),
        "{:?}",
        fake.vms
    );
    assert_eq!(fake.misuse, Vec::<String>::new());

    let mut fake = Fake::new();
    let bundle = super::bundle(vec![guest("a"), guest("b")]);
    let mut manager = at_shell(&mut fake, &bundle);
    typed(
        &mut manager,
        &mut fake,
        "stop a\rdestroy a\rcreate a\rstart a\rpause b\r",
    );
    fake.log.clear();
    let mut again = Manager::boot(&mut fake, &bundle, revival(1)).unwrap_or_else(|_| panic!());
    assert_eq!(settle(&mut again, &mut fake), None);
    assert_eq!(fake.log, Vec::<String>::new(), "both go on as they were");
}

#[test]
fn a_guest_that_cannot_be_started_is_refused_in_a_sentence() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    typed(&mut manager, &mut fake, "stop linux\rdestroy linux\r");
    fake.failures.insert("VmMapRam", Error::NoMemory);
    let screen = typed(&mut manager, &mut fake, "create linux\r");
    shows(&screen, &["the guests need 64 MiB", "(demo.toml, line 5)"]);
    shows(
        &typed(&mut manager, &mut fake, "start linux\r"),
        &["the guests need 64 MiB"],
    );
    shows(&typed(&mut manager, &mut fake, "list\r"), &["failed"]);
    fake.failures.clear();
    shows(
        &typed(&mut manager, &mut fake, "start linux\r"),
        &["started by the operator"],
    );
}

#[test]
fn the_board_stays_on_while_the_shell_is_open() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = at_shell(&mut fake, &bundle);
    typed(&mut manager, &mut fake, "stop linux\r");
    typed(&mut manager, &mut fake, "start linux\r");
    fake.stop(1, StopReason::PowerOff, CrashCause::None);
    shows(&typed(&mut manager, &mut fake, "list\r"), &["off"]);
    fake.keys.extend(b"exit\r");
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Off));
}

#[test]
fn power_off_asks_before_a_guest_loses_power() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    let screen = typed(&mut manager, &mut fake, "poweroff\r");
    shows(
        &screen,
        &["linux, bare would lose power; `poweroff now` does it"],
    );
    shows(
        &typed(&mut manager, &mut fake, "poweroff soon\r"),
        &["written `poweroff [now]`"],
    );
    fake.keys.extend(b"poweroff now\r");
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Off));
    shows(&fake.screen, &["the operator switches the board off"]);
    assert_eq!(fake.vm(1).status.reason, StopReason::Killed);
}

#[test]
fn figures_are_shown_for_every_vcpu() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    let screen = typed(&mut manager, &mut fake, "stats bare\r");
    shows(
        &screen,
        &[
            "guest 'bare': running for ",
            "thin, quota 16 MiB, 8 frames of 2 MiB in stock",
            "vCPU 0      vCPU 1",
            "  exits                       1421        1491",
            "  waits (WFI)                  206         216",
            "208 bytes of its console output were lost",
        ],
    );
    assert!(!screen.contains("watchdog"), "{screen}");
    for (wcs, said) in [
        (0, "  watchdog: off: the guest has not enabled it"),
        (
            1,
            "  watchdog: on, refreshed 3 times, 0.250 s ago; twice 5.000 s are allowed",
        ),
        (3, "about to expire (WS0), not refreshed for 0.250 s"),
        (7, "  watchdog: expired, not refreshed for 0.250 s"),
    ] {
        fake.vm(2).watchdog = WatchdogStatus {
            placed: true,
            wcs,
            offset: 5000,
            age: 250,
            refreshes: 3,
        };
        shows(&typed(&mut manager, &mut fake, "stats bare\r"), &[said]);
    }
    shows(
        &typed(&mut manager, &mut fake, "stats\r"),
        &["guest 'linux'", "guest 'bare'"],
    );
    shows(
        &typed(&mut manager, &mut fake, "board\r"),
        &["4 cores, GICv3, counter at 1000 Hz", "1024 MiB free"],
    );
    shows(
        &typed(&mut manager, &mut fake, "version\r"),
        &["interface 1.9 and bundle format 5"],
    );
    shows(
        &typed(&mut manager, &mut fake, "audit\r"),
        &["every frame that a VM sees is its own"],
    );
    fake.differences = 3;
    shows(
        &typed(&mut manager, &mut fake, "audit\r"),
        &["3 differences"],
    );
    assert_eq!(fake.misuse, Vec::<String>::new());
}

#[test]
fn a_view_is_repeated_until_a_key() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    shows(
        &typed(&mut manager, &mut fake, "watch stop linux\r"),
        &["written `watch COMMAND`"],
    );
    fake.forget();
    fake.keys.extend(b"watch list\r");
    let began = fake.clock;
    for _ in 0..6 {
        assert_eq!(manager.step(&mut fake), None);
    }
    assert!(fake.clock - began >= 4000, "a second between two");
    let times = fake.screen.matches("(any key ends this)").count();
    assert!((5..=6).contains(&times), "{times}");
    let screen = typed(&mut manager, &mut fake, "q");
    assert!(screen.ends_with("penumbra> \x1b[K"), "{screen:?}");
    // The hot key ends it too.
    fake.keys.extend(b"watch stats bare\r\x1d1");
    fake.screen.clear();
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert!(
        fake.screen.ends_with("(Ctrl-] ? shows the keys)\r\n"),
        "{}",
        fake.screen
    );
}

#[test]
fn the_log_keeps_events_and_the_last_crash() {
    let mut fake = Fake::new();
    let mut linux = guest("linux");
    linux.on_crash = OnCrash::Restart;
    let bundle = bundle(vec![linux, guest("other")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).status.far = 0x1234;
    fake.stop(1, StopReason::Crash, CrashCause::Serror);
    assert_eq!(settle(&mut manager, &mut fake), None);
    typed(&mut manager, &mut fake, "\x1ds");
    let screen = typed(&mut manager, &mut fake, "log linux\r");
    shows(
        &screen,
        &[
            "guest 'linux' crashed: vCPU 0 took an SError",
            "guest 'linux' is started again",
            "its last crash:",
            "virtual address 0x1234",
            "VBAR_EL1",
            "defined here: (demo.toml, line 1)",
        ],
    );
    shows(
        &typed(&mut manager, &mut fake, "log other\r"),
        &["nothing has happened"],
    );
    for _ in 0..50 {
        typed(&mut manager, &mut fake, "pause other\rresume other\r");
    }
    let screen = typed(&mut manager, &mut fake, "log other\r");
    assert_eq!(screen.matches("guest 'other' ").count(), 32, "bounded");
}

#[test]
fn guests_are_silent_in_the_shell_and_come_back_behind_it() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    fake.vm(1).output.extend(b"a line\r\n/ # ");
    assert_eq!(typed(&mut manager, &mut fake, "li"), "li");
    let screen = typed(&mut manager, &mut fake, "\x15console linux\r");
    assert!(screen.ends_with("a line\r\n/ # "), "{screen:?}");
    typed(&mut manager, &mut fake, "\x1ds");
    let screen = typed(&mut manager, &mut fake, "console\r");
    assert!(
        screen.ends_with("each line behind its name; the input goes to 'linux'\r\nlinux| / # "),
        "{screen:?}"
    );
    // Ctrl-D goes back to where the operator came from.
    typed(&mut manager, &mut fake, "\x1ds");
    shows(
        &typed(&mut manager, &mut fake, "\x04"),
        &["all guests, each line"],
    );
    typed(&mut manager, &mut fake, "\x1d2\x1ds");
    shows(
        &typed(&mut manager, &mut fake, "exit\r"),
        &["console of guest 2, 'bare'"],
    );
}

#[test]
fn a_line_of_the_manager_does_not_spoil_the_prompt() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    typed(&mut manager, &mut fake, "stats li");
    fake.screen.clear();
    fake.stop(2, StopReason::PowerOff, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(
        fake.screen,
        "\r\x1b[Kpenumbra: guest 'bare' is off\r\n\rpenumbra> stats li\x1b[K"
    );
}

#[test]
fn tab_completes() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    assert_eq!(typed(&mut manager, &mut fake, "sto\tli\t"), "stop linux ");
    shows(
        &typed(&mut manager, &mut fake, "\r"),
        &["guest 'linux' was stopped"],
    );
    let screen = typed(&mut manager, &mut fake, "st\t");
    assert!(
        screen.ends_with("start  stop  stats\r\n\rpenumbra> st\x1b[K"),
        "{screen:?}"
    );
    assert_eq!(typed(&mut manager, &mut fake, "zzz\t"), "zzz");
}

#[test]
fn any_bytes_may_be_typed() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    fake.vm(1).input_room = usize::MAX;
    fake.vm(2).input_room = usize::MAX;
    let mut state = 1_u64;
    for _ in 0..20_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let byte = (state >> 56) as u8;
        // No letters, so that nothing is switched off.
        if !byte.is_ascii_alphabetic() {
            fake.keys.push_back(byte);
        }
    }
    fake.waits = 0;
    assert_eq!(settle(&mut manager, &mut fake), None);
    typed(&mut manager, &mut fake, "\x1d1\x1ds\x15");
    shows(&typed(&mut manager, &mut fake, "list\r"), &["linux"]);
}
