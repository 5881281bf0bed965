//! Output, input and the guest at the front.

use super::*;
use crate::console::NEXT_GUEST_KEY;

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
fn input_reaches_the_guest_and_every_key_is_its_own_when_it_is_alone() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.keys.extend(b"ls\r");
    fake.keys.push_back(NEXT_GUEST_KEY);
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

#[test]
fn a_key_brings_the_next_guest_to_the_front() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a"), guest("b")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.keys.extend(b"1");
    fake.keys.push_back(NEXT_GUEST_KEY);
    fake.keys.extend(b"2");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.vm(1).input, b"1");
    assert_eq!(fake.vm(2).input, b"2");
    assert!(
        fake.screen.contains("the console is now guest 'b'"),
        "{}",
        fake.screen
    );
    fake.forget();
    fake.vm(1).output.extend(b"from a\r\n");
    fake.vm(2).output.extend(b"from b ");
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.screen, "a| from a\r\nfrom b ");
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
