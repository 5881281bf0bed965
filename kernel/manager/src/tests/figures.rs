//! What the shell shows of load and memory, and the manager's own death.

use penumbra_abi::{CrashCause, StopReason};

use super::shell::{at_shell, pair, shows, typed};
use super::*;
use crate::hypervisor::Death;

#[test]
fn the_operator_lets_the_manager_die() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    let screen = typed(&mut manager, &mut fake, "manager sleep\r");
    shows(
        &screen,
        &["cannot die by 'sleep'; the ways are panic, store"],
    );
    let usage = typed(&mut manager, &mut fake, "manager\r");
    shows(&usage, &["written `manager HOW`"]);
    assert_eq!(fake.deaths, []);
    for (word, death) in Death::ALL {
        typed(&mut manager, &mut fake, &format!("manager {word}\r"));
        assert_eq!(fake.deaths.last(), Some(&death));
    }
}

#[test]
fn a_restarted_manager_says_why() {
    let mut fake = Fake::new();
    let bundle = pair();
    booted(&mut fake, &bundle);
    let revival = Revival {
        restarts: 3,
        end: StopReason::Crash as u64 | (CrashCause::Hung as u64) << 8,
        pc: 0x4000_1234,
    };
    assert!(Manager::boot(&mut fake, &bundle, revival).is_ok());
    shows(
        &fake.screen,
        &[
            "was restarted (3: it used its core for long",
            "at 0x40001234)",
        ],
    );
}

#[test]
fn the_load_is_that_since_the_last_look() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    typed(&mut manager, &mut fake, "load\r");
    fake.clock += 5000;
    let screen = typed(&mut manager, &mut fake, "load\r");
    shows(
        &screen,
        &[
            "linux           0    1  25.0 %          0            0\r\n",
            "linux           1    2  50.0 %",
            "bare            0    1  25.0 %",
            "(manager)       0    0  25.0 %",
        ],
    );
    // A guest that was started anew is looked at from its start.
    typed(&mut manager, &mut fake, "restart linux\r");
    let screen = typed(&mut manager, &mut fake, "load\r");
    shows(&screen, &["linux           0    1 100.0 %"]);
    fake.forget();
    fake.keys.extend(b"top\r");
    for _ in 0..4 {
        assert_eq!(manager.step(&mut fake), None);
    }
    let times = fake
        .screen
        .matches("guest        vCPU core     CPU")
        .count();
    assert!(times >= 3, "{}", fake.screen);
}

#[test]
fn the_figures_say_how_memory_is_mapped() {
    let mut fake = Fake::new();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    let screen = typed(&mut manager, &mut fake, "stats linux\r");
    shows(
        &screen,
        &[
            "mapped by 0 blocks of 1 GiB, 32 of 2 MiB (2 runs of 32 MiB), 17 pages of 4 KiB; 3 pages of tables",
        ],
    );
}
