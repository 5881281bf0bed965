//! Streams whose misses and reads can be worked out by hand.

use super::space::Machine;
use crate::{Access, Column, Core, Mode, Scope, Tally, walk};

const BASE: u64 = 0x1000_0000_0000;

fn scope(core: &str, mode: Mode, machine: &Machine) -> Scope {
    let core = Core::preset(core).unwrap();
    let mut scope = Scope::new(vec![Column { core, mode }], 1);
    scope.set_regime(0, machine.regime);
    scope
}

fn total(scope: &Scope) -> Tally {
    assert_eq!(scope.faults, 0);
    scope
        .partitions()
        .first()
        .map_or_else(Tally::default, |(_, counts)| counts[0].total())
}

/// Scattered pages: no two neighbours follow each other in IPA, so nothing merges.
fn scatter(machine: &mut Machine, pages: u64) {
    for page in 0..pages {
        machine.map(BASE + page * 0x1000, 0x1_0000_0000 + page * 0x2000, 12, 0);
    }
}

/// `passes` over `pages` pages in order; returns misses and reads of all passes but the first.
fn chase(core: &str, mode: Mode, machine: &Machine, pages: u64, passes: u64) -> Tally {
    let mut scope = scope(core, mode, machine);
    let mut first = Tally::default();
    for pass in 0..passes {
        for page in 0..pages {
            scope.access(
                0,
                BASE + page * 0x1000 + 8 * pass,
                Access::Data,
                &machine.ram,
            );
        }
        if pass == 0 {
            first = total(&scope);
        }
    }
    let all = total(&scope);
    Tally {
        misses: all.misses - first.misses,
        fetch_misses: 0,
        stage1_reads: all.stage1_reads - first.stage1_reads,
        stage2_reads: all.stage2_reads - first.stage2_reads,
    }
}

#[test]
fn a_chase_within_the_main_tlb_never_misses_and_beyond_it_always_does() {
    let mut machine = Machine::new(None);
    scatter(&mut machine, 2048);
    for (core, entries, sets) in [("a53", 512, 128), ("a72", 1024, 256), ("a76", 1280, 256)] {
        // In order, pages spread evenly over the sets, so all ways are used.
        for pages in [entries / 4, entries / 2, entries - 1, entries] {
            let found = chase(core, Mode::Native, &machine, pages, 3);
            assert_eq!(found.misses, 0, "{core} {pages}");
        }
        // LRU over a cyclic stream that is a set too large: the sets with one page more than ways
        // always miss, the others never.
        let ways = entries / sets;
        for extra in (1..=8).map(|eighths| eighths * sets / 8) {
            let found = chase(core, Mode::Native, &machine, entries + extra, 3);
            let expected = 2 * extra * (ways + 1);
            assert_eq!(found.misses, expected, "{core} {extra}");
        }
    }
}

#[test]
fn a_stride_of_the_sets_shows_the_associativity() {
    for (core, sets, ways) in [("a53", 128_u64, 4_u64), ("a72", 256, 4), ("a76", 256, 5)] {
        for pages in 1..=2 * ways {
            let mut machine = Machine::new(None);
            let va = |page: u64| BASE + page * sets * 0x1000;
            // Enough other pages, in another set, to push these out of the micro-TLB each pass.
            let other = |page: u64| BASE + (page * sets + 1) * 0x1000;
            for page in 0..64 {
                machine.map(va(page), 0x1_0000_0000 + page * 0x4000, 12, 0);
                machine.map(other(page), 0x2_0000_0000 + page * 0x4000, 12, 0);
            }
            let mut scope = scope(core, Mode::Native, &machine);
            let mut misses = 0;
            for pass in 0..4 {
                let before = total(&scope).misses;
                for page in 0..pages {
                    scope.access(0, va(page), Access::Data, &machine.ram);
                }
                misses = total(&scope).misses - before;
                let _ = pass;
                for page in 0..64 {
                    scope.access(0, other(page), Access::Data, &machine.ram);
                }
            }
            let expected = if pages <= ways { 0 } else { pages };
            assert_eq!(misses, expected, "{core} {pages}");
        }
    }
}

#[test]
fn a_cold_walk_reads_what_the_architecture_says() {
    // Levels of stage 1 by size of its leaf, from level 0; stage 2 from level 1.
    for (log2, levels) in [(12, 4), (21, 3), (30, 2)] {
        for (stage2, steps) in [(None, 0), (Some(12), 3), (Some(21), 2), (Some(30), 1)] {
            // A large leaf needs many stage-2 entries; one page of it is enough for a walk.
            if log2 == 30 && stage2 == Some(12) {
                continue;
            }
            let mut machine = Machine::new(stage2);
            machine.map(BASE, 0x1_0000_0000, log2, 0);
            let path = walk(&machine.regime, BASE, &machine.ram).unwrap();
            assert_eq!(path.depth, levels);
            let mut core = Core::preset("a53").unwrap();
            core.ipa_entries = 0;
            let mut mmu = crate::Mmu::new(&core, Mode::AsIs);
            let space = machine.regime.space();
            let miss = mmu.walk(BASE, space, false, &path);
            // (levels + 1) translations of IPAs, and the descriptors themselves.
            let expected = (u32::try_from(levels).unwrap() + 1) * steps;
            assert_eq!(
                (miss.stage1_reads, miss.stage2_reads),
                (u32::try_from(levels).unwrap(), expected)
            );
        }
    }
}

#[test]
fn a_warm_nested_miss_costs_one_read_with_blocks_and_more_with_pages() {
    // More pages than any TLB holds: the walk cache has the last table, the IPA cache has large
    // blocks but not scattered pages.
    let mut machine = Machine::new(None);
    let pages = 8192;
    scatter(&mut machine, pages);
    let native = chase("a53", Mode::Native, &machine, pages, 2);
    // 16 tables of 512 pages fit the walk cache: one read for each miss.
    assert_eq!((native.misses, native.reads()), (pages, pages));
    let large = chase("a53", Mode::Synthetic(30), &machine, pages, 2);
    assert_eq!((large.misses, large.reads()), (pages, pages));
    // 64 MiB of IPA: the 32 blocks of 2 MiB fit the IPA cache.
    let blocks = chase("a53", Mode::Synthetic(21), &machine, pages, 2);
    assert_eq!((blocks.misses, blocks.reads()), (pages, pages));
    // Pages: the table's address is in the walk cache, the output's page never is in the IPA cache.
    let small = chase("a53", Mode::Synthetic(12), &machine, pages, 2);
    assert_eq!(
        (small.misses, small.stage1_reads, small.stage2_reads),
        (pages, pages, 3 * pages)
    );
}

#[test]
fn a_walk_cache_of_all_levels_saves_the_upper_reads() {
    // A page in each of 4096 tables: the last table's pointer is never cached, the one above is.
    let mut machine = Machine::new(None);
    let count = 4096;
    for index in 0..count {
        machine.map(BASE + (index << 21), 0x1_0000_0000 + (index << 13), 12, 0);
    }
    let reads = |core: &str| {
        let mut scope = scope(core, Mode::Native, &machine);
        for _ in 0..2 {
            for index in 0..count {
                scope.access(0, BASE + (index << 21), Access::Data, &machine.ram);
            }
        }
        let found = total(&scope);
        (found.misses, found.stage1_reads)
    };
    // Sets see strides of 512 pages: every access misses. The A53 walks four levels each time.
    assert_eq!(reads("a53"), (2 * count, 2 * 4 * count));
    // The A76 holds level-2 table pointers (8 of them): two reads, and two more at the start of
    // each level-2 table the first time it is met. LRU keeps pointers that are in use.
    let (misses, found) = reads("a76");
    assert_eq!(misses, 2 * count);
    assert!(
        (2 * 2 * count..2 * 2 * count + 64).contains(&found),
        "{found}"
    );
}

#[test]
fn contiguous_and_mergeable_runs_reach_further() {
    let mut machine = Machine::new(None);
    // 64 KiB runs with the Contiguous bit, and behind them neighbours without it.
    for page in 0..256 {
        machine.map(
            BASE + page * 0x1000,
            0x1_0000_0000 + page * 0x1000,
            12,
            1 << 52,
        );
    }
    let plain = BASE + (1 << 30);
    for page in 0..256 {
        machine.map(plain + page * 0x1000, 0x2_0000_0000 + page * 0x1000, 12, 0);
    }
    let cold = |core: &str, base: u64| {
        let mut scope = scope(core, Mode::Native, &machine);
        for page in 0..256 {
            scope.access(0, base + page * 0x1000, Access::Data, &machine.ram);
        }
        total(&scope).misses
    };
    assert_eq!((cold("a72", BASE), cold("a72", plain)), (16, 256));
    assert_eq!((cold("a76", BASE), cold("a76", plain)), (16, 64));
}

#[test]
fn the_smaller_stage_decides_the_size_of_an_entry() {
    // A 2 MiB block over 4 KiB of stage 2: 512 misses; over 2 MiB: one.
    for (stage2, expected) in [(Some(12), 512), (Some(21), 1), (Some(30), 1), (None, 1)] {
        let mut machine = Machine::new(stage2);
        machine.map(BASE, 0x1_0000_0000, 21, 0);
        let mut scope = scope("a72", Mode::AsIs, &machine);
        for page in 0..512 {
            scope.access(0, BASE + page * 0x1000, Access::Data, &machine.ram);
        }
        assert_eq!(total(&scope).misses, expected, "{stage2:?}");
    }
}

#[test]
fn random_access_misses_as_often_as_the_main_tlb_is_too_small() {
    // 65,536 scattered pages at random on the A72: the miss rate tends to 1 - 1056/65536 = 98.4 %
    // (1024 entries of the main TLB, and a micro-TLB whose entries the main TLB may have lost).
    let mut machine = Machine::new(None);
    scatter(&mut machine, 65536);
    let mut scope = scope("a72", Mode::Native, &machine);
    let (mut state, accesses) = (1_u64, 400_000);
    for _ in 0..accesses {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let page = state >> 40 & 0xffff;
        scope.access(0, BASE + page * 0x1000, Access::Data, &machine.ram);
    }
    let found = total(&scope);
    let rate = found.misses * 10_000 / accesses;
    assert!((9_830..9_860).contains(&rate), "{rate}");
    // 64 of 128 tables are in the walk cache: one read in half of the misses, four in the others.
    let reads = found.reads() * 100 / found.misses;
    assert!((245..=255).contains(&reads), "{reads}");
}

#[test]
fn verification_finds_an_entry_that_should_have_gone() {
    let mut machine = Machine::new(None);
    scatter(&mut machine, 64);
    let mut scope = scope("a72", Mode::Native, &machine);
    scope.verify = true;
    let pass = |scope: &mut Scope, machine: &Machine| {
        for page in 0..64 {
            scope.access(0, BASE + page * 0x1000, Access::Data, &machine.ram);
        }
    };
    pass(&mut scope, &machine);
    pass(&mut scope, &machine);
    assert_eq!(scope.partitions()[0].1[0].stale, 0);
    // Another page without a TLBI.
    machine.map(BASE, 0x9_0000_0000, 12, 0);
    pass(&mut scope, &machine);
    assert_eq!(scope.partitions()[0].1[0].stale, 1);
}

#[test]
fn verification_follows_the_tables_of_each_column() {
    // 2 MiB of stage 1 over pages of stage 2, of which two have changed places.
    let mut machine = Machine::new(Some(12));
    machine.map(BASE, 0x1_0000_0000, 21, 0);
    machine.map_stage2(0x1_0000_3000, 0x1_0000_5000, 12);
    machine.map_stage2(0x1_0000_5000, 0x1_0000_3000, 12);
    for mode in [Mode::AsIs, Mode::Native, Mode::Synthetic(21)] {
        let mut scope = scope("a72", mode, &machine);
        scope.verify = true;
        for page in (3..512).chain(0..512) {
            scope.access(0, BASE + page * 0x1000, Access::Data, &machine.ram);
        }
        let counts = scope.partitions()[0].1[0];
        assert_eq!((counts.stale, counts.main_hits > 0), (0, true), "{mode:?}");
    }
}
