//! Roots that vCPUs hold and do not write: how they are found, and how their compound roots get in place.

use penumbra_abi::{Call, PagingCounter, PagingForm, PagingMode, PagingRefusal, paging_roots};
use penumbra_paging::WINDOW_BIT;

use super::Bench;
use super::compound::{EL0, EL1H, LEVEL2, ROOT, TABLE, prepared, settle};
use super::trapped::{OTHER, TTBR0, asid, make_private, trapped};

/// A guest whose roots are trapped, which holds `ROOT` and is at EL1.
fn holding() -> (Bench, u64) {
    let (mut bench, vm) = prepared(&[1]);
    make_private(&mut bench);
    bench.cores[1].sysregs.ttbr0_el1 = ROOT | asid(7);
    bench.cores[1].sysregs.ttbr1_el1 = OTHER;
    bench.ok(Call::PagingRoots, &[vm, paging_roots::TRAPPED]);
    settle(&mut bench);
    (bench, vm)
}

impl Bench {
    /// Its core looks around so often, a millisecond apart.
    fn looks(&mut self) {
        for _ in 0..3 {
            self.cores[0].pass(2000);
            settle(self);
        }
    }

    fn held_root(&self) -> u64 {
        self.cores[1].sysregs.ttbr0_el1
    }
}

#[test]
fn a_root_that_is_only_held_is_seen_and_exchanged() {
    let (mut bench, vm) = holding();
    let seen = bench.root(vm, ROOT).unwrap();
    assert_eq!((seen.held, seen.writes, seen.space), (1, 0, false));
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, ROOT]), 0);
    bench.looks();
    // A kernel may be between reading and writing it.
    assert_eq!(bench.held_root(), ROOT | asid(7));
    let before = bench.flushes();
    bench.cores[1].sysregs.pstate = EL0;
    bench.looks();
    assert_eq!(bench.held_root(), ROOT | WINDOW_BIT | asid(7));
    assert_eq!(bench.flushes(), (before.0 + 1, before.1), "once, all of it");
    let seen = bench.root(vm, ROOT).unwrap();
    assert_eq!((seen.held, seen.wanted, seen.space), (1, false, true));
    assert_eq!(bench.shadow(vm, 0), Some(PagingForm::Leaf));
    assert_eq!(bench.differences(vm), 0);
    // It is as if the guest had written it.
    bench.cores[1].sysregs.pstate = EL1H;
    let before = bench.flushes();
    assert_eq!(bench.msr(vm, TTBR0, OTHER | asid(5)), OTHER | asid(5));
    let alias = ROOT | WINDOW_BIT | asid(7);
    assert_eq!(bench.msr(vm, TTBR0, ROOT | asid(7)), alias);
    assert_eq!(bench.flushes(), before);
    bench.cores[0].pass(2_000_000);
    settle(&mut bench);
    assert_eq!(bench.root(vm, ROOT).unwrap().held, 1);
    assert_eq!(bench.root(vm, OTHER).unwrap().held, 0);
}

#[test]
fn a_space_that_ended_and_is_wanted_again_is_entered_behind_a_flush() {
    let (mut bench, vm) = holding();
    bench.cores[1].sysregs.pstate = EL0;
    for _ in 0..2 {
        let before = bench.flushes().0;
        bench.ok(Call::PagingSpaceAdd, &[vm, ROOT]);
        bench.looks();
        assert_eq!(bench.held_root(), ROOT | WINDOW_BIT | asid(7));
        assert_eq!(bench.flushes().0, before + 1);
        bench.finish(Call::PagingSpaceDrop, &[vm, ROOT], 1);
        bench.program(
            vm,
            0,
            [super::fake::Op::WalkFault(ROOT | WINDOW_BIT, 0b00_0101)],
        );
        bench.steps(2);
        assert_eq!(bench.held_root(), ROOT | asid(7));
    }
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn what_stands_for_no_process_gets_no_space() {
    let (mut bench, vm) = trapped();
    bench.cores[1].sysregs.ttbr0_el1 = OTHER | asid(7);
    bench.cores[1].sysregs.pstate = EL0;
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, OTHER]), 0);
    bench.looks();
    assert_eq!(bench.held_root(), OTHER | asid(7));
    let seen = bench.root(vm, OTHER).unwrap();
    assert_eq!(
        (seen.wanted, seen.space, seen.refusal),
        (false, false, PagingRefusal::Empty)
    );
    // By a write neither; with an entry it stands for one.
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, OTHER]), 0);
    bench.cores[1].sysregs.pstate = EL1H;
    assert_eq!(bench.msr(vm, TTBR0, OTHER | asid(7)), OTHER | asid(7));
    bench.cores[1].write_guest(OTHER, LEVEL2 | TABLE);
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, OTHER]), 0);
    bench.cores[1].sysregs.pstate = EL0;
    bench.looks();
    assert_eq!(bench.held_root(), OTHER | WINDOW_BIT | asid(7));
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn the_conditions_hold_for_what_is_held() {
    let (mut bench, vm) = holding();
    bench.cores[1].sysregs.pstate = EL0;
    // The root no longer fills a page.
    bench.cores[1].sysregs.tcr_el1 += 1;
    bench.ok(Call::PagingSpaceAdd, &[vm, ROOT]);
    bench.looks();
    assert_eq!(bench.held_root(), ROOT | asid(7));
    let seen = bench.root(vm, ROOT).unwrap();
    assert_eq!(
        (seen.wanted, seen.refusal),
        (false, PagingRefusal::RootSize)
    );
}

#[test]
fn nothing_is_looked_at_where_roots_are_not_trapped() {
    for nested in [false, true] {
        let (mut bench, vm) = holding();
        bench.ok(Call::PagingSpaceAdd, &[vm, ROOT]);
        if nested {
            bench.finish(Call::PagingMode, &[vm, PagingMode::Nested as u64], 1);
        } else {
            bench.finish(Call::PagingRoots, &[vm, 0], 1);
        }
        bench.cores[1].sysregs.pstate = EL0;
        bench.looks();
        assert_eq!(bench.held_root(), ROOT | asid(7));
        let seen = bench.root(vm, ROOT);
        assert!(seen.is_none_or(|seen| seen.held == 0 && !seen.wanted));
    }
}

#[test]
fn time_at_el0_is_what_looks_at_it_say() {
    let (mut bench, vm) = holding();
    let mut second = |pstate| {
        bench.cores[1].sysregs.pstate = pstate;
        bench.cores[0].pass(1_100_000);
        settle(&mut bench);
        bench.counts(vm, PagingCounter::UserTicks)
    };
    let idle = second(EL1H);
    let busy = second(EL0);
    // One look a second, that counts for a second at most.
    assert_eq!(busy - idle, 1_000_000);
    assert_eq!(second(EL1H), busy);
}
