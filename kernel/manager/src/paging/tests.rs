//! The policy on traces of what guests do. The decisions are pinned: a change of a constant that moves
//! one has to be seen here.

mod steps;
mod trials;
mod users;

use core::fmt::Write;

use super::cost::Machine;
use super::policy::{
    Action, Changes, Config, LAST_EPOCH_MS, MAX_REGIONS, Mode, Policy, REGION_BYTES, State,
};
use super::reason::{Deed, Failure, Reason};
use super::replay::Replay;
use super::sample::{Form, Half, RegionSample, RootSample, SpaceSample, VmSample};

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
    busy_ms: u64,
    busy_permille: u64,
}

impl Script {
    fn new(thin: bool) -> Self {
        let backing = if thin { "thin" } else { "reserved" };
        Self {
            text: format!("machine {backing} 2\n"),
            thin,
            now_ms: 0,
            traps: 0,
            busy_ms: 0,
            busy_permille: 1000,
        }
    }

    /// A pass; the next one comes `ms` later.
    fn pass(&mut self, ms: u64) {
        let (now, traps, busy) = (self.now_ms, self.traps, self.busy_ms);
        writeln!(self.text, "pass {now} {traps} 0 0 0 0 512 {busy}").unwrap();
        writeln!(self.text, "space 0 kernel 0x41000000 mirrored").unwrap();
        self.now_ms += ms;
        self.busy_ms += ms * self.busy_permille / 1000;
    }

    /// A user space, whose root was written so often and is in place.
    fn user(&mut self, space: u8, root: u64, writes: u64) {
        writeln!(self.text, "root {root:#x} {writes} held").unwrap();
        writeln!(self.text, "space {space} user {root:#x} mirrored").unwrap();
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

fn traps(action: Action) -> bool {
    matches!(action, Action::Trap(_))
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
    let mut script = Script::new(true);
    for pass in 0..100_u64 {
        script.traps += 8_000;
        script.pass(500);
        script.linear_map(100);
        for space in 1..8_u8 {
            script.user(
                space,
                0x4800_0000 + (pass * 8 + u64::from(space)) * 4096,
                500,
            );
            script.region(space, USER, "37 0 partial nested 0 1");
        }
    }
    let mut free = config(true);
    free.may_trap = true;
    let replay = script.run(free);
    assert_eq!(replay.done(shadows), 100, "the linear map and nothing else");
    // Three trials in 50 s; no root lives long enough for a space.
    assert_eq!(replay.done(traps), 6);
    assert_eq!(replay.done(|_| true), 106);
    assert!(!replay.policy.traps_roots());
    // 16,000 traps a second for 13 s of 50: 0.11 % of a core with 10^9 cycles a second.
    let ledger = replay.policy.ledger();
    assert!(ledger.traps <= 16_000 * 13 * 260, "{}", ledger.traps);
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
    assert_eq!(replay.done(shadows), 11, "once each");
}

#[test]
fn shadow_mode_mirrors_again_what_a_store_took_and_what_is_new() {
    let mut all = config(false);
    all.mode = Mode::Shadow;
    let mut script = Script::new(false);
    for pass in 0..60_u64 {
        script.pass(1_000);
        // Every fourth pass a store; in compound mode the wait for it would have doubled.
        let writes = u64::from(pass % 4 == 0);
        script.region(0, KERNEL, &format!("512 32 uniform nested {writes} -"));
        if pass >= 30 {
            script.region(0, KERNEL + REGION_BYTES, "3 0 partial nested 0 -");
        }
    }
    let replay = script.run(all);
    let made =
        |wanted| replay.done(|action| matches!(action, Action::Shadow { va, .. } if va == wanted));
    assert!(made(KERNEL) >= 14, "{} of 15", made(KERNEL));
    assert_eq!(made(KERNEL + REGION_BYTES), 1);
    assert_eq!(replay.count(Form::Mirror), 1);
}
