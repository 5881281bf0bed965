//! What becomes of a guest that ends, and its watchdog.

use super::*;

#[test]
fn an_unknown_payload() {
    extra(
        "payload = \"elf\"",
        &["cannot be \"elf\"", "\"linux\" or \"flat\""],
    );
}

#[test]
fn an_unknown_crash_policy() {
    extra(
        "on_crash = \"reboot\"",
        &[
            "cannot be \"reboot\"",
            "\"stay\" or \"restart\" or \"power-off\"",
        ],
    );
}

#[test]
fn an_unknown_power_off_policy() {
    extra(
        "on_power_off = \"restrat\"",
        &["cannot be \"restrat\"", "did you mean \"restart\""],
    );
}

#[test]
fn policies_are_text() {
    extra("on_crash = true", &["text in quotes, not boolean"]);
    extra("on_power_off = 1", &["text in quotes, not integer"]);
}

#[test]
fn a_restart_limit_out_of_range() {
    for (value, part) in [
        ("0", "1 to 1000, not 0"),
        ("-1", "not -1"),
        ("1001", "not 1001"),
        ("\"3\"", "a whole number, not string"),
    ] {
        let text = format!("{GOOD}on_crash = \"restart\"\nrestart_limit = {value}\n");
        one(&text, "7: ", &[part]);
    }
}

#[test]
fn a_restart_delay_that_is_no_time() {
    for (value, part) in [
        ("\"500\"", "has no unit"),
        ("\"1 h\"", "unknown unit \"h\""),
        ("\"2000 s\"", "longer than 60 s"),
        ("500", "a time in quotes, not integer"),
    ] {
        let text = format!("{GOOD}on_power_off = \"restart\"\nrestart_delay = {value}\n");
        one(&text, "7: ", &[part]);
    }
}

#[test]
fn restart_keys_count_for_a_guest_that_resets_itself() {
    let text = format!("{GOOD}restart_limit = 7\nrestart_delay = \"1 s\"\n");
    let guest = &read(&text).unwrap().guests[0];
    assert_eq!((guest.restart_limit, guest.restart_delay_ms), (7, 1000));
}

#[test]
fn a_watchdog_is_asked_for_by_itself_or_by_its_policy() {
    let watchdog = |lines: &str| {
        let scenario = read(&format!("{GOOD}{lines}\n")).unwrap();
        scenario.guests[0].watchdog
    };
    assert_eq!(watchdog(""), None);
    assert_eq!(watchdog("watchdog = false"), None);
    assert_eq!(watchdog("watchdog = true"), Some(OnWatchdog::Restart));
    assert_eq!(watchdog("on_watchdog = \"stay\""), Some(OnWatchdog::Stay));
    let both = "watchdog = true\non_watchdog = \"power-off\"";
    assert_eq!(watchdog(both), Some(OnWatchdog::PowerOff));
}

#[test]
fn a_watchdog_in_quotes() {
    extra("watchdog = \"yes\"", &["true or false", "watchdog = true"]);
}

#[test]
fn a_watchdog_policy_that_does_not_exist() {
    extra("on_watchdog = \"reboot\"", &["cannot be \"reboot\""]);
}

#[test]
fn a_policy_without_a_watchdog() {
    one(
        &format!("{GOOD}watchdog = false\non_watchdog = \"stay\"\n"),
        "7: ",
        &["has no effect without a watchdog", "watchdog = true"],
    );
}

#[test]
fn autostart_in_quotes() {
    extra(
        "autostart = \"no\"",
        &["true or false without quotes", "string"],
    );
}

#[test]
fn no_guest_that_is_started() {
    one(
        &format!("{GOOD}autostart = false\n"),
        "1: ",
        &["no guest is started", "when_all_off"],
    );
    let waits = format!("{GOOD}autostart = false\n[board]\nwhen_all_off = \"wait\"\n");
    assert!(!read(&waits).unwrap().guests[0].autostart);
}

#[test]
fn the_policies_of_a_guest_are_read() {
    let text = format!(
        "{GOOD}on_crash = \"power-off\"\non_power_off = \"restart\"\nrestart_limit = 9\n\
         restart_delay = \"2 s\"\n"
    );
    let guest = read(&text).unwrap().guests.remove(0);
    assert_eq!(
        (guest.on_crash, guest.on_power_off),
        (OnCrash::PowerOff, OnPowerOff::Restart)
    );
    assert_eq!((guest.restart_limit, guest.restart_delay_ms), (9, 2000));
    assert!(guest.autostart);
}
