//! The policy on traces of what guests do. The decisions are pinned: a change of a constant that moves
//! one has to be seen here.

use core::fmt::Write;

use super::cost::Machine;
use super::policy::{
    Action, Changes, Config, LAST_EPOCH_MS, MAX_REGIONS, Mode, Policy, REGION_BYTES, State,
};
use super::reason::{Deed, Failure, Reason};
use super::replay::Replay;
use super::sample::{Form, Half, RegionSample, SpaceSample, VmSample};

const KERNEL: u64 = 0xffff_0000_4000_0000;
const USER: u64 = 0xffff_8000_0000;

fn config(thin: bool) -> Config {
    Config {
        mode: Mode::Compound,
        changes: Changes::Free,
        pool_frames: 512,
        copy_pages_per_s: 1024,
        may_trap: false,
        machine: Machine { thin, vcpus: 2 },
    }
}

/// A trace that is written pass by pass.
struct Script {
    text: String,
    thin: bool,
    now_ms: u64,
    traps: u64,
}

impl Script {
    fn new(thin: bool) -> Self {
        let backing = if thin { "thin" } else { "reserved" };
        Self {
            text: format!("machine {backing} 2\n"),
            thin,
            now_ms: 0,
            traps: 0,
        }
    }

    /// A pass; the next one comes `ms` later.
    fn pass(&mut self, ms: u64) {
        let (now, traps) = (self.now_ms, self.traps);
        writeln!(self.text, "pass {now} {traps} 0 0 0 0 512").unwrap();
        writeln!(self.text, "space 0 kernel 0x41000000").unwrap();
        self.now_ms += ms;
    }

    fn user(&mut self, space: u8, root: u64) {
        writeln!(self.text, "space {space} user {root:#x}").unwrap();
    }

    /// The kernel's linear map: so many regions, their tables side by side.
    fn linear_map(&mut self, regions: u64) {
        for n in 0..regions {
            let (va, table) = (KERNEL + n * REGION_BYTES, 0x7fe0_0000 + n * 4096);
            let line = format!("region 0 {va:#x} {table:#x} 512 32 uniform nested 0 -");
            writeln!(self.text, "{line}").unwrap();
        }
    }

    fn region(&mut self, space: u8, va: u64, rest: &str) {
        let table = 0x5000_0000 + (va & 0x3fff_ffff) / REGION_BYTES * 4096;
        writeln!(self.text, "region {space} {va:#x} {table:#x} {rest}").unwrap();
    }

    #[track_caller]
    fn run(&self, config: Config) -> Replay {
        let config = Config {
            machine: Machine {
                thin: self.thin,
                vcpus: 2,
            },
            ..config
        };
        Replay::run(&self.text, config).unwrap()
    }
}

fn shadows(action: Action) -> bool {
    matches!(action, Action::Shadow { .. })
}

fn demotes(action: Action) -> bool {
    matches!(action, Action::Demote { .. })
}

fn relays(action: Action) -> bool {
    matches!(action, Action::Relayout { .. })
}

#[test]
fn a_stable_linear_map_is_under_leaves_two_passes_after_it_is_found() {
    for thin in [false, true] {
        let mut script = Script::new(thin);
        for _ in 0..3 {
            script.pass(500);
            script.linear_map(150);
            script.region(0, KERNEL + (1 << 30), "300 10 partial nested 0 -");
        }
        let replay = script.run(config(thin));
        assert_eq!(replay.count(Form::Leaf), 150);
        assert_eq!(replay.done(|_| true), replay.done(shadows));
        let last = replay.policy.records().last().unwrap();
        if thin {
            assert_eq!(last.seen.form, Form::Mirror, "a mirror pays over pages");
        } else {
            assert_eq!(last.why, Reason::Partial { valid: 300 });
            assert_eq!(last.state(), State::Probation);
        }
        // One line for the operator, not 150.
        let decision = replay.policy.decisions().next().unwrap();
        assert_eq!((decision.deed, decision.count), (Deed::Leaf, 150));
        assert!(matches!(decision.why, Reason::Pays(_)));
    }
}

#[test]
fn a_few_regions_do_not_pay_for_the_block_that_their_tables_splinter() {
    let mut script = Script::new(false);
    for _ in 0..10 {
        script.pass(500);
        script.linear_map(1);
    }
    let replay = script.run(config(false));
    assert_eq!(replay.done(|_| true), 0);
    let record = replay.policy.records().first().unwrap();
    assert!(matches!(record.why, Reason::Unprofitable(_)));
}

#[test]
fn passes_become_rare_when_there_is_nothing_to_learn() {
    let mut script = Script::new(false);
    for pass in 0..14 {
        let wait = if pass < 3 { 500 } else { 500 << (pass - 2) };
        script.pass(wait.min(LAST_EPOCH_MS));
        script.linear_map(20);
    }
    let replay = script.run(config(false));
    assert_eq!(replay.count(Form::Leaf), 20);
    assert_eq!(replay.policy.epoch_ms(), LAST_EPOCH_MS);
    assert_eq!(replay.early, 0, "the script is as slow as the policy");
}

#[test]
fn a_fork_storm_moves_nothing() {
    let mut script = Script::new(false);
    for pass in 0..100_u64 {
        script.traps += 8_000;
        script.pass(500);
        script.linear_map(100);
        for space in 1..8_u8 {
            script.user(space, 0x4800_0000 + (pass * 8 + u64::from(space)) * 4096);
            script.region(space, USER, "37 0 partial nested 0 1");
        }
    }
    let mut free = config(false);
    free.may_trap = true;
    let replay = script.run(free);
    assert_eq!(replay.done(shadows), 100, "the linear map and nothing else");
    assert_eq!(replay.done(|_| true), 100);
    assert_eq!(
        replay.policy.records().len(),
        107,
        "dead spaces are forgotten"
    );
}

#[test]
fn mapping_churn_is_tried_less_and_less_often() {
    let mut script = Script::new(false);
    for pass in 0..600_u64 {
        script.pass(500);
        script.linear_map(50);
        // Written every two seconds, in between as uniform as can be.
        let writes = u64::from(pass % 4 == 0);
        let line = format!("512 32 uniform nested {writes} -");
        script.region(0, KERNEL + (1 << 30), &line);
    }
    let replay = script.run(config(false));
    let tries = replay.done(|action| match action {
        Action::Shadow { va, .. } => va == KERNEL + (1 << 30),
        _ => false,
    });
    assert_eq!(replay.count(Form::Leaf), 50);
    assert!(tries <= 2, "{tries} times in five minutes");
    assert_eq!(replay.taken_back, u64::try_from(tries).unwrap());
}

/// 128 regions of a file that is mapped and read at random.
fn mapped_file(thin: bool, traps_per_pass: u64) -> Script {
    let mut script = Script::new(thin);
    for _ in 0..40 {
        script.traps += traps_per_pass;
        script.pass(500);
        script.user(1, 0x4900_0000);
        for n in 0..128 {
            script.region(1, USER + n * REGION_BYTES, "512 2 full nested 0 1");
        }
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
    // 1024 pages a second are two regions: what the limit allows in 20 s, and no more.
    let moved = replay.done(relays);
    assert!((40..=48).contains(&moved), "{moved}");
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
    assert_eq!((on, off), (1, 1), "retries double");
    assert!(!replay.policy.traps_roots());
}

/// A policy that is told of one kernel region again and again.
struct One {
    policy: Policy,
    now_ms: u64,
    sample: RegionSample,
}

impl One {
    fn new(config: Config) -> Self {
        let sample = RegionSample {
            va: KERNEL,
            table: 0x5000_0000,
            valid: 512,
            runs: 32,
            uniform: true,
            full: true,
            ..RegionSample::default()
        };
        Self {
            policy: Policy::new(config),
            now_ms: 0,
            sample,
        }
    }

    fn pass(&mut self) -> Option<Action> {
        let counters = VmSample {
            frames: 512,
            ..VmSample::default()
        };
        self.policy.begin(self.now_ms, &counters);
        self.policy.space(&SpaceSample {
            space: 0,
            half: Half::Kernel,
            root: 0x4100_0000,
        });
        let action = self.policy.region(self.now_ms, &self.sample);
        let _ = self.policy.end(self.now_ms);
        self.now_ms += 500;
        action
    }

    fn tries_until_shadowed(&mut self) -> u32 {
        for tries in 0..10_000 {
            if self.pass().is_some() {
                return tries;
            }
        }
        panic!("never shadowed");
    }

    fn done(&mut self, form: Form) {
        let action = Action::Shadow {
            space: 0,
            va: KERNEL,
        };
        let next = self.policy.done(self.now_ms, action, Ok(form));
        assert_eq!(next, None);
        self.sample.form = form;
    }
}

#[test]
fn a_second_store_within_an_interval_demotes_and_doubles_probation() {
    let mut one = One::new(config(true));
    let mut waits = Vec::new();
    for _ in 0..5 {
        waits.push(one.tries_until_shadowed());
        one.done(Form::Mirror);
        one.sample.uniform = false;
        one.sample.writes = 1;
        // The shape changed with the store: that is one store.
        let first = one.pass();
        let action = first.or_else(|| one.pass());
        let demote = Action::Demote {
            space: 0,
            va: KERNEL,
        };
        assert_eq!(action, Some(demote));
        assert_eq!(one.policy.why(demote), Reason::Busy);
        assert_eq!(one.policy.done(one.now_ms, demote, Ok(Form::Nested)), None);
        (one.sample.form, one.sample.writes) = (Form::Nested, 0);
        one.sample.uniform = true;
    }
    assert!(
        waits.windows(2).all(|pair| pair[1] * 2 > pair[0] * 3),
        "{waits:?}"
    );
}

#[test]
fn a_locked_layout_is_left_alone_and_nobody_looks_any_more() {
    let mut one = One::new(Config {
        changes: Changes::Lock,
        ..config(true)
    });
    assert_eq!(one.tries_until_shadowed(), 2);
    one.done(Form::Mirror);
    one.now_ms = super::policy::LOCK_AFTER_MS;
    one.sample.writes = 5;
    assert_eq!(one.pass(), None, "stores are mirrored, for ever");
    assert!(!one.policy.is_active(one.now_ms));
    let never = Policy::new(Config {
        changes: Changes::Never,
        ..config(true)
    });
    assert!(!never.is_active(0));
}

#[test]
fn room_is_taken_from_what_is_worth_half() {
    let mut policy = Policy::new(config(true));
    let region = |n: u64, walked| RegionSample {
        va: KERNEL + n * REGION_BYTES,
        table: 0x5000_0000,
        valid: 512,
        runs: 32,
        uniform: true,
        full: true,
        walked: Some(walked),
        ..RegionSample::default()
    };
    let mut idle = region(0, false);
    let mut asked = None;
    for pass in 0..8 {
        let now = pass * 500;
        policy.begin(
            now,
            &VmSample {
                frames: 512,
                ..VmSample::default()
            },
        );
        policy.space(&SpaceSample {
            space: 0,
            half: Half::Kernel,
            root: 0,
        });
        if let Some(action) = policy.region(now, &idle) {
            assert_eq!(policy.done(now, action, Ok(Form::Leaf)), None);
            idle.form = Form::Leaf;
        }
        if pass > 3
            && let Some(action) = policy.region(now, &region(1, true))
        {
            asked = policy.done(now, action, Err(Failure::Full));
            break;
        }
        let _ = policy.end(now);
    }
    assert_eq!(
        asked,
        Some(Action::Demote {
            space: 0,
            va: KERNEL
        })
    );
}

#[test]
fn shadow_mode_mirrors_everything_at_once() {
    let mut all = config(false);
    all.mode = Mode::Shadow;
    let mut script = Script::new(false);
    for _ in 0..3 {
        script.pass(500);
        script.linear_map(10);
        script.region(0, KERNEL + (1 << 30), "3 0 partial nested 0 -");
    }
    let replay = script.run(all);
    assert_eq!(
        (replay.count(Form::Leaf), replay.count(Form::Mirror)),
        (10, 1)
    );
    assert_eq!(replay.done(|_| true), 11, "once each");
}

#[test]
fn nested_mode_never_looks() {
    let mut none = config(false);
    none.mode = Mode::Nested;
    let mut policy = Policy::new(none);
    assert!(!policy.is_active(0));
    policy.set_mode(Mode::Compound);
    assert!(policy.is_active(0));
}

#[test]
fn memory_is_bounded_whatever_a_guest_maps() {
    let mut policy = Policy::new(config(false));
    policy.begin(0, &VmSample::default());
    for space in 0..=255 {
        policy.space(&SpaceSample {
            space,
            half: Half::Kernel,
            root: 0,
        });
        for n in 0..100 {
            let sample = RegionSample {
                space,
                va: n * REGION_BYTES,
                ..RegionSample::default()
            };
            let _ = policy.region(0, &sample);
        }
    }
    assert_eq!(policy.records().len(), MAX_REGIONS);
    assert_eq!(policy.spaces().count(), super::policy::MAX_SPACES);
    let _ = policy.end(0);
    assert!(policy.untracked() > 0);
}

proptest::proptest! {
    /// Whatever EL2 says, the policy answers, keeps its bounds, and asks for nothing that makes no sense.
    #[test]
    fn any_samples_are_borne(
        samples in proptest::collection::vec(
            (0_u8..20, 0_u64..40, 0_u16..600, 0_u8..3, 0_u8..4, 0_u16..3, 0_u64..5000, 0_u8..4),
            1..400,
        )
    ) {
        let mut free = config(true);
        free.may_trap = true;
        let mut policy = Policy::new(free);
        let mut now = 0_u64;
        for (space, n, valid, shape, form, writes, wait, outcome) in samples {
            now += wait;
            policy.begin(now, &VmSample { traps: now, frames: n, ..VmSample::default() });
            let half = if space % 2 == 0 { Half::Kernel } else { Half::User };
            policy.space(&SpaceSample { space, half, root: n });
            let forms = [Form::Nested, Form::Mirror, Form::Leaf, Form::Relaid];
            let sample = RegionSample {
                space,
                va: n * REGION_BYTES,
                table: n * 4096,
                valid,
                runs: valid % 33,
                uniform: shape == 2,
                full: shape >= 1,
                form: forms[usize::from(form)],
                writes,
                walked: Some(shape == 1),
            };
            let mut action = policy.region(now, &sample);
            for _ in 0..3 {
                let Some(asked) = action else { break };
                let known = |s, v| policy.records().iter().any(|r| (r.seen.space, r.seen.va) == (s, v));
                match asked {
                    Action::Shadow { space, va } | Action::Relayout { space, va }
                    | Action::Demote { space, va } => proptest::prop_assert!(known(space, va)),
                    Action::Trap(_) => {}
                }
                let result = match outcome {
                    0 => Err(Failure::Full),
                    1 => Err(Failure::Busy),
                    _ => Ok(forms[usize::from(outcome)]),
                };
                action = policy.done(now, asked, result);
            }
            proptest::prop_assert!(action.is_none(), "an answer to an answer");
            if let Some(action) = policy.roots(now) {
                let _ = policy.done(now, action, Ok(Form::Nested));
            }
            if let Some(next) = policy.end(now) {
                proptest::prop_assert!(next > now && next <= now + LAST_EPOCH_MS);
            }
        }
    }
}
