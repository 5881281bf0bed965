//! Random guests and random decisions to shadow and demote, against the guest's own machine.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test: its panic is a finding"
)]

mod apply;
mod guest;
mod rig;
mod scripts;
mod stores;

use std::cell::Cell;
use std::time::Instant;

use guest::{Op, op};
use penumbra_oracle::compound::{Mutation, Shape};
use penumbra_paging::Counters;
use penumbra_vmsa::Level;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use rig::{Rig, Setup};

/// Steps of one run.
const RUN: u64 = 100;
/// Independent seeds.
const SEEDS: u64 = 4;
/// Steps without `PENUMBRA_ORACLE_STEPS`: what `just unit` takes.
const QUICK: u64 = 4_000;

fn setup() -> impl Strategy<Value = Setup> {
    let shape = (
        any::<bool>(),
        prop::bool::weighted(0.2),
        1..15_u64,
        17..511_u64,
    );
    let shape = shape.prop_map(|(wide, flat, a, b)| Shape {
        start: if wide { Level::L0 } else { Level::L1 },
        flat,
        lows: [0, a, 15, 16, b, 511],
    });
    let spare = prop_oneof![3 => Just(None), 1 => (0..12_usize).prop_map(Some)];
    (any::<bool>(), spare, shape).prop_map(|(thin, spare, shape)| Setup { thin, spare, shape })
}

#[test]
fn compound_is_what_the_guest_could_have_had() {
    let steps = std::env::var("PENUMBRA_ORACLE_STEPS").ok();
    let steps = steps.map_or(QUICK, |steps| steps.parse().expect("a number of steps"));
    let cases = u32::try_from(steps.div_ceil(SEEDS * RUN)).unwrap();
    let (begun, looks) = (Instant::now(), Cell::new(0));
    for seed in 0..SEEDS {
        let config = ProptestConfig {
            failure_persistence: None,
            cases,
            // Leaving steps out shrinks further, and faster, than making them simpler.
            max_shrink_iters: 0,
            ..ProptestConfig::default()
        };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed as u8 + 1; 32]);
        let script = prop::collection::vec(op(), RUN as usize);
        let tested =
            TestRunner::new_with_rng(config, rng).run(&(setup(), script), |(setup, ops)| {
                let mut rig = Rig::new(Mutation::Honest, setup);
                let judged = rig.run(&ops);
                looks.set(looks.get() + rig.world.0.borrow().looks);
                judged.map_err(TestCaseError::fail)
            });
        match tested {
            Ok(()) => {}
            Err(TestError::Fail(_, (setup, ops))) => {
                let (why, ops) = shortest(Mutation::Honest, setup, ops);
                let steps: String = ops.iter().map(|op| format!("\n    {op:?}")).collect();
                panic!("seed {seed}, {setup:?}: {why}{steps}");
            }
            Err(abort) => panic!("seed {seed}: {abort}"),
        }
    }
    let done = u64::from(cases) * SEEDS * RUN;
    let looks = looks.get();
    println!(
        "{done} steps, {looks} looks at every probe, in {:?}",
        begun.elapsed()
    );
}

/// What goes wrong in a run, if something does; a panic does as well. A mutation has to be noticed by the machines, in
/// a step, and not by what a run looks at when all is over.
fn failure(mutation: Mutation, setup: Setup, ops: &[Op]) -> Option<String> {
    let run = || Rig::new(mutation, setup).run(ops).err();
    let why = std::panic::catch_unwind(run).unwrap_or_else(|_| Some("a panic".into()));
    why.filter(|why| mutation == Mutation::Honest || why.starts_with("step"))
}

/// Leaves out every step without which a run still fails.
fn shortest(mutation: Mutation, setup: Setup, mut ops: Vec<Op>) -> (String, Vec<Op>) {
    let mut why = failure(mutation, setup, &ops).unwrap_or_else(|| "not again".into());
    let mut chunk = ops.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + chunk).min(ops.len()));
            match failure(mutation, setup, &fewer) {
                Some(again) => (why, ops) = (again, fewer),
                None => at += chunk,
            }
        }
        chunk /= 2;
    }
    (why, ops)
}

/// Random runs, the same every time.
fn sequences(count: usize) -> impl Iterator<Item = (Setup, Vec<Op>)> {
    let mut runner = TestRunner::deterministic();
    let strategy = (setup(), prop::collection::vec(op(), RUN as usize));
    (0..count).map(move |_| strategy.new_tree(&mut runner).unwrap().current())
}

#[test]
fn the_sequences_reach_what_there_is_to_reach() {
    let mut sum = Counters::default();
    for (setup, ops) in sequences(24) {
        let mut rig = Rig::new(Mutation::Honest, setup);
        rig.run(&ops).unwrap();
        let counters = rig.compound.counters();
        sum.mirrored += counters.mirrored;
        sum.structural += counters.structural;
        sum.shadowed += counters.shadowed;
        sum.coalesced += counters.coalesced;
        sum.demoted += counters.demoted;
        sum.evicted += counters.evicted;
        sum.moved += counters.moved;
        sum.relaid += counters.relaid;
        sum.raised += counters.raised;
        sum.walked += counters.walked;
        sum.wrote += counters.wrote;
    }
    println!("{sum:?}");
    assert!(sum.moved > 100 && sum.relaid > 5, "{sum:?}");
    assert!(
        sum.mirrored > 50 && sum.structural > 10 && sum.shadowed > 50,
        "{sum:?}"
    );
    assert!(
        sum.coalesced > 10 && sum.demoted > 50 && sum.evicted > 3,
        "{sum:?}"
    );
    assert!(sum.raised > 1 && sum.walked > 3 && sum.wrote > 3, "{sum:?}");
}

#[test]
fn the_oracle_notices_each_mutation() {
    let mut missed = Vec::new();
    for &mutation in Mutation::ALL {
        let mut steps = 0;
        let found = sequences(128).find_map(|(setup, mut ops)| {
            let mut rig = Rig::new(mutation, setup);
            let failed = rig.run(&ops).err();
            steps += rig.steps;
            failed.filter(|why| why.starts_with("step"))?;
            ops.truncate(rig.steps);
            Some(shortest(mutation, setup, ops))
        });
        match found {
            Some((why, ops)) => {
                let script = ops.len();
                println!("{mutation:?}: {steps} steps, shortest script {script}: {why}");
            }
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
