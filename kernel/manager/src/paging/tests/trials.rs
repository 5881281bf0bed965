//! Trials of trapped roots: what they cost, when they end, and which roots get spaces in them.

use super::*;

#[test]
fn a_trial_ends_with_what_it_may_cost() {
    let (mut policy, now) = tried();
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

/// A policy that has just begun a trial, and its time.
fn tried() -> (Policy, u64) {
    let mut free = config(true);
    free.may_trap = true;
    let mut policy = Policy::new(free);
    let mut now = 0;
    for _ in 0..40 {
        begin_next(&mut policy, &mut now);
        if let Some(action) = policy.trap_roots(now) {
            assert_eq!(action, Action::Trap(true));
            assert_eq!(policy.done(now, action, Ok(Form::Nested)), None);
            return (policy, now);
        }
        let _ = policy.end(now);
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
    let (mut policy, now) = tried();
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
    let (mut policy, mut now) = tried();
    let mut asked = 0;
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
    let (mut policy, mut now) = tried();
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
    let (mut policy, mut now) = tried();
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
    let (mut policy, mut now) = tried();
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
