//! Output, input and the guest at the front.

use super::*;
use crate::console::HOT_KEY;

#[test]
fn output_of_the_only_guest_passes_unchanged() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.forget();
    let text = "a\x1b[31mred\r\nand a long line, longer than one chunk of forty bytes can carry $ ";
    fake.vm(1).output.extend(text.as_bytes());
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.screen, text);
}

#[test]
fn input_reaches_the_guest_and_the_hot_key_twice_is_its_own() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.keys.extend(b"ls\r");
    fake.keys.extend([HOT_KEY, HOT_KEY]);
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.vm(1).input, b"ls\r\x1d");
}

#[test]
fn input_that_is_not_taken_waits() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).input_room = 3;
    fake.keys.extend(b"abcdef");
    for _ in 0..4 {
        assert_eq!(manager.step(&mut fake), None);
    }
    assert_eq!(fake.vm(1).input, b"abc");
    fake.vm(1).input_room = 100;
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.vm(1).input, b"abcdef");
}

#[test]
fn a_flood_of_input_is_cut_off_and_harms_nobody() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).input_room = 0;
    fake.keys.extend([b'x'; 100_000]);
    for _ in 0..10 {
        assert_eq!(manager.step(&mut fake), None);
    }
    fake.vm(1).input_room = usize::MAX;
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.vm(1).input.len(), 1024);
}

/// Two guests, booted; the screen is empty.
fn two<'a>(fake: &mut Fake, bundle: &'a [u8]) -> Manager<'a> {
    let manager = booted(fake, bundle);
    fake.forget();
    manager
}

fn a_and_bb() -> Vec<u8> {
    bundle(vec![guest("a"), guest("bb")])
}

#[test]
fn a_key_brings_another_guest_to_the_front() {
    let mut fake = Fake::new();
    let bundle = a_and_bb();
    let mut manager = two(&mut fake, &bundle);
    fake.keys.extend(b"1\x1d22\x1dn3\x1dp4\x1d9");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.vm(1).input, b"13");
    assert_eq!(fake.vm(2).input, b"24");
    for text in [
        "console of guest 2, 'bb'",
        "console of guest 1, 'a'",
        "no guest 9: 1 to 2",
    ] {
        assert!(fake.screen.contains(text), "{text} in\n{}", fake.screen);
    }
}

#[test]
fn the_history_of_a_guest_is_shown_when_it_comes_to_the_front() {
    let mut fake = Fake::new();
    let bundle = a_and_bb();
    let mut manager = two(&mut fake, &bundle);
    fake.keys.extend(b"\x1d1");
    assert_eq!(settle(&mut manager, &mut fake), None);
    fake.forget();
    fake.vm(2).output.extend(b"booting\r\n\x1b[6n/ # ");
    fake.vm(1).output.extend(b"hello\r\n");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.screen, "hello\r\n", "the other guest is silent");
    fake.forget();
    fake.keys.extend(b"\x1d2");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert!(
        fake.screen.ends_with("the keys)\r\nbooting\r\n/ # "),
        "{:?}",
        fake.screen
    );
    fake.forget();
    fake.vm(2).output.extend(b"ls\r\n");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.screen, "ls\r\n");
}

#[test]
fn several_guests_are_shown_with_labels_at_first() {
    let mut fake = Fake::new();
    let bundle = a_and_bb();
    let mut manager = two(&mut fake, &bundle);
    fake.vm(1).output.extend(b"one\r\ntwo\r\n\r\n");
    fake.vm(2).output.extend(b"\x1b[2Jeins\r\nzw");
    assert_eq!(settle(&mut manager, &mut fake), None);
    fake.vm(2).output.extend(b"ei\r\n");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(
        fake.screen,
        "a | one\r\na | two\r\na | \r\nbb| eins\r\nbb| zwei\r\n"
    );
}

#[test]
fn a_line_that_is_interrupted_is_shown_again() {
    let mut fake = Fake::new();
    let bundle = a_and_bb();
    let mut manager = two(&mut fake, &bundle);
    fake.vm(1).output.extend(b"login: ro");
    assert_eq!(settle(&mut manager, &mut fake), None);
    fake.vm(2).output.extend(b"tick\r\ntock\r\n");
    assert_eq!(settle(&mut manager, &mut fake), None);
    fake.vm(1).output.extend(b"ot\r\n");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(
        fake.screen,
        "a | login: ro\r\nbb| tick\r\nbb| tock\r\na | login: root\r\n"
    );
}

#[test]
fn bytes_of_guests_never_mix() {
    let mut fake = Fake::new();
    let bundle = a_and_bb();
    let mut manager = two(&mut fake, &bundle);
    // Odd pieces of lines, from both sides, with a line of the manager now and then.
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for number in 0..200 {
        a.extend(format!("<a{number}>\r\n").bytes());
        b.extend(format!("<b{number}>\r\n").bytes());
    }
    while !a.is_empty() || !b.is_empty() {
        let (m, n) = (a.len().min(7), b.len().min(11));
        fake.vm(1).output.extend(a.drain(..m));
        fake.vm(2).output.extend(b.drain(..n));
        fake.waits = 0;
        assert_eq!(settle(&mut manager, &mut fake), None);
        if m % 3 == 0 {
            manager.console.say(&mut fake, format_args!("<m>"));
        }
    }
    for line in fake.screen.lines() {
        let good =
            line.starts_with("a | <a") || line.starts_with("bb| <b") || line == "penumbra: <m>";
        assert!(good || line == "a | <", "{line:?}");
    }
    for number in 0..200 {
        assert!(fake.screen.contains(&format!("a | <a{number}>\r\n")));
        assert_eq!(
            fake.screen.matches(&format!("bb| <b{number}>\r\n")).count(),
            1
        );
    }
}

#[test]
fn labels_come_and_go_by_a_key() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = two(&mut fake, &bundle);
    fake.vm(1).output.extend(b"hi\r\n/ # ");
    assert_eq!(settle(&mut manager, &mut fake), None);
    fake.forget();
    fake.keys.extend(b"\x1dl");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert!(
        fake.screen.ends_with("'linux'\r\nlinux| / # "),
        "{:?}",
        fake.screen
    );
    fake.vm(1).output.extend(b"ls\r\nbin\r\n10%\r20%\r\n");
    fake.forget();
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(
        fake.screen,
        "ls\r\nlinux| bin\r\nlinux| 10%\rlinux| 20%\r\n"
    );
    fake.forget();
    fake.keys.extend(b"\x1dl");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert!(fake.screen.ends_with("hi\r\n/ # ls\r\nbin\r\n10%\r20%\r\n"));
}

#[test]
fn long_lines_of_the_background_are_cut_into_pieces() {
    let mut fake = Fake::new();
    let bundle = a_and_bb();
    let mut manager = two(&mut fake, &bundle);
    fake.vm(2).output.extend([b'x'; 1000]);
    fake.vm(2).output.extend(b"\r\n");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.screen.lines().count(), 5);
    assert!(
        fake.screen
            .lines()
            .all(|line| line.starts_with("bb| x") && line.len() <= 244)
    );
}

#[test]
fn help_and_unknown_keys_are_answered() {
    let mut fake = Fake::new();
    let bundle = a_and_bb();
    let mut manager = two(&mut fake, &bundle);
    fake.keys.extend(b"\x1d?\x1dx");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert!(
        fake.screen.contains("the operator's shell; Ctrl-D"),
        "{}",
        fake.screen
    );
    assert!(
        fake.screen.contains("no such key: Ctrl-] ?"),
        "{}",
        fake.screen
    );
    assert_eq!(fake.vm(1).input, b"");
}

#[test]
fn input_for_a_guest_that_is_off_is_answered_once() {
    let mut fake = Fake::new();
    let bundle = a_and_bb();
    let mut manager = two(&mut fake, &bundle);
    fake.stop(
        1,
        penumbra_abi::StopReason::PowerOff,
        penumbra_abi::CrashCause::None,
    );
    assert_eq!(settle(&mut manager, &mut fake), None);
    for _ in 0..3 {
        fake.keys.extend(b"hello?\r");
        assert_eq!(settle(&mut manager, &mut fake), None);
    }
    assert_eq!(
        fake.screen.matches("guest 'a' does not run").count(),
        1,
        "{}",
        fake.screen
    );
}

#[test]
fn lines_of_the_manager_begin_at_a_line_start() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.forget();
    fake.vm(1).output.extend(b"login: ");
    assert_eq!(manager.step(&mut fake), None);
    manager.console.say(&mut fake, format_args!("hello"));
    assert_eq!(fake.screen, "login: \r\npenumbra: hello\r\n");
}

#[test]
fn a_board_console_that_hangs_does_not_hang_the_manager() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.screen_room = 10;
    fake.vm(1).output.extend([b'y'; 200]);
    for _ in 0..20 {
        assert_eq!(manager.step(&mut fake), None);
        if fake.vm(1).output.is_empty() {
            break;
        }
    }
    assert!(fake.vm(1).output.is_empty());
}

#[test]
fn no_guest_hides_what_comes_behind_its_output() {
    // The guest in the background conceals; the one at the front begins a title and never ends it.
    let mut fake = Fake::new();
    let both = a_and_bb();
    let mut manager = two(&mut fake, &both);
    fake.vm(2).output.extend(b"\x1b[8mgone\r\n");
    assert_eq!(settle(&mut manager, &mut fake), None);
    fake.vm(1).output.extend(b"one\r\n\x1b]0;");
    assert_eq!(settle(&mut manager, &mut fake), None);
    fake.vm(2).output.extend(b"two\r\n");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(
        fake.screen,
        "bb| \x1b[8mgone\x1b[0m\r\na | one\r\na | \x1b]0;\x1b\\\r\nbb| two\r\na | "
    );
    // Of the only guest every byte is shown, but our line begins a line of its own.
    let bundle = bundle(vec![guest("linux")]);
    let mut fake = Fake::new();
    let mut manager = booted(&mut fake, &bundle);
    fake.forget();
    fake.vm(1).output.extend(b"\x1b[30;40mdark\r\n");
    assert_eq!(settle(&mut manager, &mut fake), None);
    manager.console.say(&mut fake, format_args!("hello"));
    assert_eq!(
        fake.screen,
        "\x1b[30;40mdark\r\n\x1b[0m\r\npenumbra: hello\r\n"
    );
}
