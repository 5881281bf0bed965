//! User spaces: what trapped roots and re-layout are worth to what guests do.

use super::*;

/// Samples that are hit after 125 us: 8,000 walks a second.
const WALKS: &str = "window 64 64 8000000\n";

/// 128 regions of a file that is mapped and read at random.
fn mapped_file(thin: bool, traps_per_pass: u64) -> Script {
    let mut script = Script::new(thin);
    for pass in 0..80 {
        script.traps += traps_per_pass;
        script.pass(500);
        script.user(1, 0x4900_0000, pass * traps_per_pass / 4);
        for n in 0..128 {
            script.region(1, USER + n * REGION_BYTES, "512 2 full nested 0 1");
        }
        script.text.push_str(WALKS);
    }
    script
}

#[test]
fn a_mapped_file_is_put_in_order_where_stage_2_has_pages_and_roots_may_be_trapped() {
    let script = mapped_file(true, 50);
    assert_eq!(
        script.run(config(true)).done(|_| true),
        0,
        "not without traps"
    );
    let mut free = config(true);
    free.may_trap = true;
    let replay = script.run(free);
    assert!(replay.policy.traps_roots());
    assert_eq!(replay.done(demotes), 0);
    // 1024 pages a second are two regions: what the limit allows in 23 s, and no more.
    let moved = replay.done(relays);
    assert!((46..=54).contains(&moved), "{moved}");
    assert_eq!(replay.count(Form::Relaid), moved);
    let waits = replay.policy.records().last().unwrap();
    assert!(matches!(waits.why, Reason::Budget), "{}", waits.why);
    free.copy_pages_per_s = 65_536;
    let replay = script.run(free);
    assert_eq!(replay.count(Form::Relaid), 128);
    let ledger = replay.policy.ledger();
    assert!(ledger.moves > 0 && ledger.saved > 0);
    // A limit of 0 leaves mirrors.
    free.copy_pages_per_s = 0;
    let replay = script.run(free);
    assert_eq!((replay.done(relays), replay.count(Form::Mirror)), (0, 128));
}

#[test]
fn a_mapped_file_stays_nested_over_blocks() {
    let mut free = config(false);
    free.may_trap = true;
    let replay = mapped_file(false, 50).run(free);
    assert_eq!(replay.done(relays) + replay.done(shadows), 0);
}

#[test]
fn traps_that_cost_more_than_they_save_end() {
    let mut free = config(true);
    (free.may_trap, free.copy_pages_per_s) = (true, 65_536);
    // 10 million traps a second: a storm, at once.
    let replay = mapped_file(true, 5_000_000).run(free);
    let on = replay.done(|action| action == Action::Trap(true));
    let off = replay.done(|action| action == Action::Trap(false));
    assert_eq!(
        (on, off),
        (1, 1),
        "its cost has to be earned before the next"
    );
    assert!(!replay.policy.traps_roots());
}

/// A shell that runs pipelines: its own root is written all the time, those of its children live short.
fn pipelines(thin: bool) -> Script {
    let mut script = Script::new(thin);
    let (shell, mut writes) = (0x4a00_0000, 0);
    for pass in 0..240_u64 {
        (script.traps, writes) = (script.traps + 4_000, writes + 300);
        script.pass(500);
        script.linear_map(60);
        script.user(1, shell, writes);
        for n in 0..3 {
            script.region(1, USER + n * REGION_BYTES, "90 3 partial nested 0 1");
        }
        let child = 0x4b00_0000 + pass * 0x4000;
        script.user(2, child, 40);
        script.region(2, USER, "41 0 partial nested 0 1");
    }
    script
}

#[test]
fn shell_pipelines_pay_for_short_trials_that_become_rare() {
    for thin in [false, true] {
        let mut free = config(thin);
        free.may_trap = true;
        let replay = pipelines(thin).run(free);
        let on = replay.done(|action| action == Action::Trap(true));
        // Behind each trial twice as long has to be earned for.
        assert_eq!((on, replay.done(traps)), (5, 10), "in two minutes");
        assert!(!replay.policy.traps_roots());
        assert_eq!(replay.done(relays), 0);
        let users = replay
            .policy
            .records()
            .iter()
            .filter(|r| r.half == Half::User);
        assert_eq!(users.count(), 0, "without traps no user space is known");
        // 8,000 traps a second: 0.05 % of a core with 10^9 cycles a second, over two minutes.
        let ledger = replay.policy.ledger();
        assert!(ledger.traps < 60_000_000, "{}", ledger.traps);
    }
}

/// A server that holds its data in 60 regions, in one process that seldom switches.
fn server(thin: bool) -> Script {
    let mut script = Script::new(thin);
    for pass in 0..120_u64 {
        script.traps += 200;
        script.pass(500);
        script.linear_map(60);
        script.user(1, 0x4900_0000, pass * 50);
        for n in 0..60 {
            script.region(1, USER + n * REGION_BYTES, "512 2 full nested 0 1");
        }
        // What it allocates next is written all the time.
        let writes = 1 + pass % 3;
        let rest = format!("{} 1 partial nested {writes} 1", 200 + pass);
        script.region(1, USER + 60 * REGION_BYTES, &rest);
        if thin {
            script.text.push_str(WALKS);
        }
    }
    script
}

#[test]
fn a_servers_data_is_put_in_order_over_pages_and_left_alone_over_blocks() {
    let mut free = config(true);
    (free.may_trap, free.copy_pages_per_s) = (true, 4_096);
    let replay = server(true).run(free);
    assert!(replay.policy.traps_roots(), "one trial, which pays");
    assert_eq!(replay.done(traps), 1);
    assert_eq!(replay.count(Form::Relaid), 60);
    assert_eq!(replay.done(demotes), 0);
    let ledger = replay.policy.ledger();
    assert!(ledger.saved > ledger.spent(), "{ledger:?}");
    let mut blocks = config(false);
    (blocks.may_trap, blocks.copy_pages_per_s) = (true, 4_096);
    let replay = server(false).run(blocks);
    // Three trials: so many walks as are assumed do not pay for moving pages.
    assert_eq!((replay.done(relays), replay.done(traps)), (0, 6));
}

#[test]
fn a_guest_that_idles_or_may_not_copy_is_never_trapped() {
    let mut free = config(true);
    free.may_trap = true;
    let mut script = Script::new(true);
    script.busy_permille = 700;
    for pass in 0..80 {
        script.pass(500);
        script.user(1, 0x4900_0000, pass);
        script.region(1, USER, "512 2 full nested 0 1");
    }
    assert_eq!(script.run(free).done(|_| true), 0, "700 permille of a core");
    assert_eq!(mapped_file(true, 50).run(config(true)).done(|_| true), 0);
}

#[test]
fn a_region_that_dies_is_given_up_and_its_space_with_its_process() {
    let mut free = config(true);
    (free.may_trap, free.copy_pages_per_s) = (true, 65_536);
    let mut script = mapped_file(true, 50);
    for _ in 0..130 {
        script.traps += 50;
        script.pass(500);
        script.user(1, 0x4900_0000, 5_000);
        script.region(1, USER, "3 0 partial nested 2 0");
    }
    let replay = script.run(free);
    assert_eq!(replay.count(Form::Relaid), 0);
    let dropped = replay.done(|action| matches!(action, Action::DropSpace { .. }));
    let off = replay.done(|action| action == Action::Trap(false));
    assert_eq!((dropped, off), (3, 3), "and with it the traps");
}

/// A process of so many regions, all of which are walked; the first hits of a sample come as `window` says.
fn reader(thin: bool, regions: u64, window: &str) -> Script {
    let mut script = Script::new(thin);
    for pass in 0..120 {
        script.traps += 50;
        script.pass(500);
        script.user(1, 0x4900_0000, pass * 12);
        for n in 0..regions {
            script.region(1, USER + n * REGION_BYTES, "512 2 full nested 0 1");
        }
        if !window.is_empty() {
            writeln!(script.text, "window {window}").unwrap();
        }
    }
    script
}

#[test]
fn how_soon_walks_come_decides_over_blocks() {
    let mut free = config(false);
    (free.may_trap, free.copy_pages_per_s) = (true, 65_536);
    // All of 64, each after 25 us: 40,000 a second; nine of 64 within 100 us: 1,500.
    for (window, relaid) in [
        ("64 64 1600000", 128),
        ("64 9 6000000", 0),
        ("64 0 6400000", 0),
    ] {
        let replay = reader(false, 128, window).run(free);
        assert_eq!(replay.count(Form::Relaid), relaid, "{window}");
    }
    let replay = reader(false, 128, "64 64 1600000").run(free);
    assert_eq!(replay.policy.walk_rate(), 40_000);
    let many = replay.steps.iter().find(|step| relays(step.action));
    let at_ms = many.unwrap().at_ms;
    assert!((15_000..20_000).contains(&at_ms), "{at_ms}");
}

#[test]
fn a_process_is_as_old_as_its_first_sight_in_an_earlier_trial() {
    let mut free = config(false);
    (free.may_trap, free.copy_pages_per_s) = (true, 65_536);
    // 18,000 walks a second pay within 23 s, which a process of 13 s may be expected to have. A trial lasts ten.
    for (moved, relaid) in [(0, 128), (0x10_0000, 0)] {
        let mut script = Script::new(false);
        for pass in 0..100 {
            script.traps += 50;
            script.pass(500);
            script.user(1, 0x4900_0000, pass * 12);
            // Another process, whose root is the same page, in the second half.
            let tables = 0x5000_0000 + if pass < 56 { 0 } else { moved };
            for n in 0..128 {
                let (va, table) = (USER + n * REGION_BYTES, tables + n * 4096);
                let rest = "512 2 full nested 0 1";
                writeln!(script.text, "region 1 {va:#x} {table:#x} {rest}").unwrap();
            }
            script.text.push_str("window 64 64 3555555\n");
        }
        let replay = script.run(free);
        let on = replay.done(|action| action == Action::Trap(true));
        assert_eq!((on, replay.count(Form::Relaid)), (2, relaid));
    }
}

#[test]
fn what_a_tlb_holds_gains_nothing() {
    let mut free = config(true);
    (free.may_trap, free.copy_pages_per_s) = (true, 65_536);
    // Samples begin behind a flush, so that each page that is used is walked for once.
    let replay = reader(true, 2, "2 2 50000").run(free);
    assert_eq!(replay.done(relays) + replay.done(shadows), 0);
    let replay = reader(true, 8, "8 8 200000").run(free);
    assert_eq!(replay.count(Form::Relaid), 8);
}

#[test]
fn processes_that_end_after_a_second_are_left_alone() {
    let mut free = config(true);
    (free.may_trap, free.copy_pages_per_s) = (true, 65_536);
    let mut script = Script::new(true);
    for pass in 0..120_u64 {
        script.traps += 50;
        script.pass(500);
        let (space, root) = (1 + (pass / 2 % 4) as u8, 0x4900_0000 + pass / 2 * 0x1000);
        script.user(space, root, pass);
        for n in 0..8 {
            script.region(space, USER + n * REGION_BYTES, "512 2 full nested 0 1");
        }
    }
    let replay = script.run(free);
    assert_eq!(replay.done(relays) + replay.done(shadows), 0);
}

#[test]
fn stage_2_says_whether_a_mirror_saves_anything() {
    let mut script = Script::new(true);
    for pass in 0..12 {
        script.pass(500);
        if pass == 6 {
            script.text.push_str("machine reserved 2\n");
        }
        script.region(0, KERNEL, "300 10 partial nested 0 -");
    }
    let replay = script.run(config(true));
    assert_eq!((replay.done(shadows), replay.done(demotes)), (1, 1));
    let mut policy = Policy::new(config(true));
    assert!(!policy.mapped(0, 0), "nothing is known yet");
    assert!(!policy.mapped(100, 200), "more than a quarter");
    assert!(policy.mapped(100, 301) && !policy.config().machine.thin);
    assert!(!policy.mapped(200, 200), "not more than half");
    assert!(policy.mapped(201, 200) && policy.config().machine.thin);
}
