//! Random guests and random decisions to shadow and demote, against the guest's own machine.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test: its panic is a finding"
)]

mod guest;
mod rig;

use guest::{Op, op};
use penumbra_oracle::compound::Mutation;
use penumbra_paging::Counters;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rig::Rig;

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(penumbra_oracle::cases(32))
    })]
    #[test]
    fn compound_is_what_the_guest_could_have_had(
        thin in any::<bool>(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let result = Rig::new(Mutation::Honest, thin).run(&ops);
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}

/// Random sequences, the same in every run.
fn sequences(count: usize) -> impl Iterator<Item = Vec<Op>> {
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(op(), 60);
    (0..count).map(move |_| strategy.new_tree(&mut runner).unwrap().current())
}

#[test]
fn the_sequences_reach_what_there_is_to_reach() {
    let mut sum = Counters::default();
    for ops in sequences(24) {
        let mut rig = Rig::new(Mutation::Honest, false);
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
    }
    println!("{sum:?}");
    assert!(sum.moved > 100 && sum.relaid > 1, "{sum:?}");
    assert!(
        sum.mirrored > 50 && sum.structural > 10 && sum.shadowed > 50,
        "{sum:?}"
    );
    assert!(
        sum.coalesced > 10 && sum.demoted > 50 && sum.evicted > 3,
        "{sum:?}"
    );
}

#[test]
fn the_oracle_notices_each_mutation() {
    let mut missed = Vec::new();
    for mutation in Mutation::ALL {
        let found = sequences(64).enumerate().find_map(|(count, ops)| {
            let mut rig = Rig::new(mutation, false);
            rig.run(&ops).err().map(|violation| (count, violation))
        });
        match found {
            Some((count, violation)) => println!("{mutation:?}, sequence {count}: {violation}"),
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
