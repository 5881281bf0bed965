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

#[test]
fn a_trial_ends_with_what_it_may_cost() {
    let mut free = config(true);
    free.may_trap = true;
    let mut policy = Policy::new(free);
    let mut now = 0;
    trial(&mut policy, &mut now);
    policy.looked(15_000_000);
    assert_eq!(policy.overspent(), None);
    policy.looked(11_000_000);
    let end = Action::Trap(false);
    assert_eq!(policy.overspent(), Some(end));
    assert_eq!(policy.why(end), Reason::Spent { ms: 26 });
    let _ = policy.done(now, end, Ok(Form::Nested));
    assert_eq!(policy.overspent(), None);
    // 1 ms over, and half of 25 for the next one, at half of 0.5 % of the time in user mode.
    assert_eq!(policy.budget().wait_ms(), 5_400);
    policy.looked(1_000_000);
    assert_eq!(policy.budget().wait_ms(), 5_800, "what its end took");
}

/// What is asked of a policy that traps roots, pass by pass.
fn trial(policy: &mut Policy, now: &mut u64) {
    for _ in 0..40 {
        let busy_ms = *now;
        policy.begin(
            *now,
            &VmSample {
                busy_ms,
                ..VmSample::default()
            },
        );
        if let Some(action) = policy.trap_roots(*now) {
            assert_eq!(action, Action::Trap(true));
            assert_eq!(policy.done(*now, action, Ok(Form::Nested)), None);
            return;
        }
        let _ = policy.end(*now);
        *now += 500;
    }
    panic!("no trial in 20 s");
}

/// Begins the next pass, half a second later, in which the guest was busy.
fn begin_next(policy: &mut Policy, now: &mut u64) {
    *now += 500;
    let counters = VmSample {
        busy_ms: *now,
        ..VmSample::default()
    };
    policy.begin(*now, &counters);
}

#[test]
fn a_trial_that_meets_a_storm_ends_before_the_next_pass() {
    let mut free = config(true);
    free.may_trap = true;
    let mut policy = Policy::new(free);
    let mut now = 0;
    trial(&mut policy, &mut now);
    assert_eq!(policy.glance_ms(now), 50);
    // 19,000 a second are none; then 21,000.
    assert_eq!(policy.probe(now + 20, 1_000), None, "too soon to say");
    assert_eq!(policy.probe(now + 50, 950), None);
    let end = Action::Trap(false);
    assert_eq!(policy.probe(now + 100, 2_000), Some(end));
    let _ = policy.done(now + 100, end, Ok(Form::Nested));
    let last = policy.decisions().last().unwrap();
    assert_eq!(last.why, Reason::Storm { rate: 21_000 });
    assert!(!policy.traps_roots());
    assert_eq!(policy.probe(now + 200, 9_000), None, "nothing is trapped");
    assert_eq!(policy.glance_ms(now + 200), 1_000);
}

#[test]
fn a_root_that_stands_for_no_process_is_asked_for_later_and_later() {
    let mut free = config(true);
    free.may_trap = true;
    let mut policy = Policy::new(free);
    let (mut now, mut asked) = (0, 0);
    trial(&mut policy, &mut now);
    let empty = RootSample {
        root: 0x4123_0000,
        held: true,
        refusal: Some(Failure::NoProcess),
        ..RootSample::default()
    };
    for _ in 0..110 {
        begin_next(&mut policy, &mut now);
        if let Some(action) = policy.root(now, &empty) {
            assert_eq!(action, Action::AddSpace { root: empty.root });
            let _ = policy.done(now, action, Ok(Form::Nested));
            asked += 1;
        }
        let _ = policy.end(now);
    }
    // At once, then after 10, 20 and 40 s.
    assert_eq!(asked, 3);
    let why = policy.user_roots().next().unwrap().why;
    assert_eq!(why, Reason::Refused(Failure::NoProcess));
}

#[test]
fn a_space_whose_process_is_gone_is_dropped_and_not_revived() {
    let mut free = config(true);
    free.may_trap = true;
    let mut policy = Policy::new(free);
    let mut now = 0;
    trial(&mut policy, &mut now);
    let root = RootSample {
        root: 0x4123_0000,
        space: true,
        ..RootSample::default()
    };
    let space = SpaceSample {
        space: 3,
        half: Half::User,
        root: root.root,
        mirrored: true,
    };
    let drop = Action::DropSpace { root: root.root };
    for (seen, mirrored) in [(true, false), (false, true)] {
        begin_next(&mut policy, &mut now);
        assert_eq!(policy.root(now, &root), None);
        assert_eq!(policy.space(now, &space), None);
        let _ = policy.end(now);
        begin_next(&mut policy, &mut now);
        if seen {
            assert_eq!(policy.root(now, &root), None);
        }
        let lost = SpaceSample { mirrored, ..space };
        assert_eq!(policy.space(now, &lost), Some(drop));
        let _ = policy.done(now, drop, Ok(Form::Nested));
        assert_eq!(policy.spaces().count(), 0);
        assert_eq!(policy.decisions().last().unwrap().why, Reason::Gone);
        let _ = policy.end(now);
    }
}

#[test]
fn a_wish_that_nobody_fulfils_is_taken_back() {
    let mut free = config(true);
    free.may_trap = true;
    let mut policy = Policy::new(free);
    let mut now = 0;
    trial(&mut policy, &mut now);
    let mut wanted = [false; 12];
    let (mut most, mut dropped, mut writes) = (0, 0, 0);
    // Roots of processes that end as soon as they are to have spaces, as EL2 goes on to list them.
    for _ in 0..40 {
        begin_next(&mut policy, &mut now);
        for (number, wanted) in (1..).zip(&mut wanted) {
            writes += u64::from(!*wanted);
            let sample = RootSample {
                root: number << 12,
                wanted: *wanted,
                writes,
                ..RootSample::default()
            };
            if let Some(action) = policy.root(now, &sample) {
                *wanted = matches!(action, Action::AddSpace { .. });
                dropped += u32::from(!*wanted);
                let _ = policy.done(now, action, Ok(Form::Nested));
            }
        }
        most = most.max(wanted.iter().filter(|wanted| **wanted).count());
        let _ = policy.end(now);
    }
    assert_eq!(most, 8, "room for others is left");
    assert!(dropped >= 12, "each had its turn: {dropped}");
}

#[test]
fn roots_that_nobody_holds_take_no_place_from_one_that_runs() {
    let mut free = config(true);
    free.may_trap = true;
    let mut policy = Policy::new(free);
    let mut now = 0;
    trial(&mut policy, &mut now);
    let runs = 0x4123_0000;
    let mut asked = Vec::new();
    for _ in 0..4 {
        begin_next(&mut policy, &mut now);
        // A storm's processes are gone before they are looked at. EL2 lists their roots all the same.
        for number in 1..=12 {
            let gone = RootSample {
                root: number << 12,
                writes: 2,
                ..RootSample::default()
            };
            asked.extend(policy.root(now, &gone));
        }
        let held = RootSample {
            root: runs,
            held: true,
            wanted: !asked.is_empty(),
            ..RootSample::default()
        };
        asked.extend(policy.root(now, &held));
        let _ = policy.end(now);
    }
    assert_eq!(asked, [Action::AddSpace { root: runs }]);
}
