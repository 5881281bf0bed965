//! Attacks the service that shadows its translation tables, and checks that it gets what it asked for
//! wherever it keeps the architecture's rules.
//!
//! Code and stacks are in the low half, where the runtime's identity map stays as it is. The high half
//! is the battlefield: a linear map of the tables, and in each round a new GiB whose eight 2 MiB regions
//! map memory in order by pages, so that there is something to shadow. Each round waits until that may
//! have happened, attacks from all vCPUs at once, puts its tables in order and looks at all its memory.
//! It ends after `seconds=`, or behind the round in which something is typed. Without a hypervisor, or
//! under one that does not shadow, all checks hold as well.
#![no_std]
#![no_main]

mod regime;
mod stores;
mod tables;
mod wild;

use payload::println;
use payload::rt::{check, console, cpu, fdt, sysreg, time};
use tables::Round;

payload::entry!(main);

/// What a vCPU may take for its part of a round on a busy host.
const PATIENCE_US: u64 = 60_000_000;

/// One vCPU's part in a step.
#[derive(Clone, Copy, Debug)]
struct Part {
    round: Round,
    vcpu: usize,
    vcpus: usize,
}

/// What the vCPUs do in a round, all at once and one after the other. Each returns how often it did not get
/// what the architecture promises.
type Step = (&'static str, fn(Part) -> u64);
const STEPS: [Step; 6] = [
    ("ledger", stores::ledger),
    ("remap", stores::remap),
    ("forms", stores::forms),
    ("count", stores::count),
    ("wild", wild::descriptors),
    ("regime", regime::disturb),
];

fn main() {
    let vcpus = cpu::count();
    let seconds = fdt::number("seconds").unwrap_or(10);
    let quiet_us = fdt::number("quiet-ms").unwrap_or(700) * 1000;
    sysreg::irq_on();
    for index in 1..vcpus {
        if !cpu::start(index) {
            check::that("attack.start", false, index);
            return;
        }
    }
    tables::build();
    everywhere(vcpus, install, 0);
    let end = time::now() + time::ticks(seconds * 1_000_000);
    let (mut rounds, mut planted) = (0, 0);
    while time::now() < end && console::get().is_none() {
        planted += u32::from(play(Round(rounds), vcpus, quiet_us));
        rounds += 1;
    }
    println!("attack: {rounds} rounds, {planted} of them under a compound root");
    check::that("attack.rounds", rounds > 0, rounds);
    check::summary();
}

/// One round; says whether EL2's root was in place when the attack began.
fn play(round: Round, vcpus: usize, quiet_us: u64) -> bool {
    round.prepare();
    everywhere(vcpus, quiet, quiet_us);
    expect(round, "before", round.differences());
    let planted = tables::has_alias();
    stores::start_count(round);
    for (number, (name, _)) in STEPS.iter().enumerate() {
        let argument = (round.0 << 16 | number << 8 | vcpus) as u64;
        expect(round, name, everywhere(vcpus, act, argument));
        if *name == "count" {
            expect(round, "sum", stores::lost(round));
        }
    }
    // What was made of the tables while they were wild is for the policy to see as well.
    everywhere(vcpus, quiet, quiet_us / 4);
    everywhere(vcpus, install, 0);
    round.restore();
    expect(round, "after", round.differences());
    planted
}

fn expect(round: Round, what: &str, wrong: u64) {
    if wrong != 0 {
        check::that("attack.round", false, (round.0, what, wrong));
    }
}

fn act(argument: u64) -> u64 {
    let argument = argument as usize;
    let part = Part {
        round: Round(argument >> 16),
        vcpu: cpu::index(),
        vcpus: argument & 0xff,
    };
    (STEPS[argument >> 8 & 0xff].1)(part)
}

fn install(_: u64) -> u64 {
    tables::install();
    0
}

fn quiet(microseconds: u64) -> u64 {
    time::sleep(microseconds);
    0
}

/// Lets every vCPU do it; the sum of what they return.
fn everywhere(vcpus: usize, work: fn(u64) -> u64, argument: u64) -> u64 {
    for index in 1..vcpus {
        cpu::give(index, work, argument);
    }
    let own = work(argument);
    (1..vcpus).fold(own, |sum, index| {
        sum + cpu::finish(index, PATIENCE_US).unwrap_or(1 << 32)
    })
}
