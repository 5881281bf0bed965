//! Runs of sixteen blocks of 2 MiB.

use super::*;

/// Bytes of a run of blocks.
const RUN: u64 = 32 * MIB;

fn read_only() -> Stage2Change {
    Stage2Change::access(Stage2Access::Read)
}

impl Rig {
    fn protect(&mut self, at: u64, bytes: u64, change: Stage2Change) -> TlbScope {
        let Self {
            memory,
            tlb,
            stage2,
        } = self;
        let work = stage2.protect(memory, tlb, ipa(at), bytes, change).unwrap();
        let scope = work.scope();
        let _flushed = tlb.flush(work);
        scope
    }

    fn merge(&mut self, at: u64, into: Level) {
        self.stage2
            .merge(&mut self.memory, &mut self.tlb, ipa(at), into)
            .unwrap();
    }

    /// Bookkeeping and runs are right, and so are these counts.
    fn check(&self, wanted: LeafCounts) {
        assert_eq!(self.stage2.counts(), wanted);
        assert_eq!(self.census(), wanted);
        assert_eq!(self.stage2.audit(&self.memory), 0);
    }
}

fn flush_of_run(start: u64) -> TlbScope {
    TlbScope::Leaves {
        start: ipa(start),
        end: ipa(start + RUN),
        step: 2 * MIB,
    }
}

#[test]
fn blocks_in_a_row_are_a_run_where_both_addresses_allow() {
    let mut rig = Rig::new();
    // 30 MiB, two runs, 2 MiB.
    rig.map(GIB + 2 * MIB, 4 * GIB + 2 * MIB, 96 * MIB);
    rig.check(counts(0, 48, 0, 2));
    assert!(!rig.leaf(GIB + 30 * MIB).contiguous && rig.leaf(GIB + RUN).contiguous);
    assert_eq!(
        rig.leaf(GIB + RUN + 5 * MIB).pa,
        pa(4 * GIB + RUN + 4 * MIB)
    );
    // Blocks, but not congruent to a run.
    rig.map(2 * GIB, 5 * GIB + 2 * MIB, 64 * MIB);
    rig.check(counts(0, 80, 0, 2));
    // Neither where no blocks are wanted, nor where single blocks are.
    for (at, largest) in [(3 * GIB, Level::L3), (6 * GIB, Level::L2)] {
        let mapping = Mapping {
            largest,
            ..Mapping::new(ipa(at), pa(at), RUN, RAM)
        };
        rig.stage2.map(&mut rig.memory, mapping).unwrap();
    }
    rig.check(counts(0, 96, 16 * 512, 2));
    assert!(rig.leaf(6 * GIB).level == Level::L2 && !rig.leaf(3 * GIB).contiguous);
    rig.teardown();
}

#[test]
fn a_page_of_a_run_of_blocks_breaks_all_of_it_once() {
    let mut rig = Rig::new();
    rig.map(GIB, 4 * GIB, 3 * RUN);
    let page = GIB + RUN + 6 * MIB + 0x13000;
    rig.protect(page, 4 * KIB, read_only());
    // One flush for the run and the block that is split, one for the page.
    let [run, leaf] = rig.tlb.flushed[..] else {
        panic!("{:?}", rig.tlb.flushed);
    };
    assert_eq!(run, flush_of_run(GIB + RUN));
    assert!(matches!(leaf, TlbScope::Leaves { step: 4096, .. }));
    rig.check(counts(0, 47, 512, 2));
    assert_eq!(rig.leaf(page).attrs.access, Stage2Access::Read);
    for (at, hint) in [(GIB, true), (GIB + RUN, false), (GIB + 2 * RUN, true)] {
        assert_eq!(rig.leaf(at).contiguous, hint, "{at:#x}");
    }
    let behind = rig.leaf(GIB + 2 * RUN - MIB);
    assert_eq!(
        (behind.pa, behind.attrs),
        (pa(4 * GIB + 2 * RUN - 2 * MIB), RAM)
    );
    rig.teardown();
}

#[test]
fn an_edit_keeps_the_runs_that_it_covers() {
    let mut rig = Rig::new();
    rig.map(GIB, 4 * GIB, 3 * RUN);
    // From the middle of a block in the first run to the middle of a block in the last.
    let scope = rig.protect(GIB + MIB, 2 * RUN + 4 * MIB, read_only());
    assert_ne!(scope, TlbScope::None);
    rig.check(counts(0, 46, 1024, 1));
    for (at, access) in [
        (GIB, Stage2Access::ReadWrite),
        (GIB + MIB, Stage2Access::Read),
        (GIB + RUN - MIB, Stage2Access::Read),
        (GIB + RUN, Stage2Access::Read),
        (GIB + 2 * RUN + 4 * MIB, Stage2Access::Read),
        (GIB + 2 * RUN + 5 * MIB, Stage2Access::ReadWrite),
        (GIB + 3 * RUN - MIB, Stage2Access::ReadWrite),
    ] {
        assert_eq!(rig.leaf(at).attrs.access, access, "{at:#x}");
    }
    assert!(rig.leaf(GIB + RUN).contiguous && !rig.leaf(GIB + 2 * RUN + 6 * MIB).contiguous);
    rig.teardown();
}

#[test]
fn blocks_of_a_run_change_and_go_only_behind_a_break() {
    let mut rig = Rig::new();
    rig.map(GIB, 4 * GIB, 2 * RUN);
    rig.protect(GIB + 4 * MIB, 2 * MIB, Stage2Change::accessed(false));
    assert_eq!(rig.tlb.flushed[0], flush_of_run(GIB));
    rig.check(counts(0, 32, 0, 1));
    assert!(!rig.leaf(GIB + 4 * MIB).attrs.accessed && rig.leaf(GIB + 6 * MIB).attrs.accessed);
    let Rig {
        memory,
        tlb,
        stage2,
    } = &mut rig;
    // A block from the middle of the second run, then all of it.
    let _ = stage2.unmap(memory, tlb, ipa(GIB + RUN + 8 * MIB), 2 * MIB);
    assert!(stage2.lookup(memory, ipa(GIB + RUN + 8 * MIB)).is_err());
    rig.check(counts(0, 31, 0, 0));
    let Rig {
        memory,
        tlb,
        stage2,
    } = &mut rig;
    let _ = stage2.unmap(memory, tlb, ipa(GIB), 2 * RUN);
    rig.check(counts(0, 0, 0, 0));
    assert_eq!(rig.stage2.table_frames(), 1, "in quarantine");
    rig.teardown();
}

#[test]
fn the_last_block_to_be_whole_makes_a_run() {
    let mut rig = Rig::new();
    rig.map(GIB, 4 * GIB, GIB / 2);
    let (page, other) = (GIB + RUN + 6 * MIB, GIB + RUN + 10 * MIB);
    let back = Stage2Change::access(Stage2Access::ReadWrite);
    rig.protect(page, 4 * KIB, read_only());
    rig.protect(other, 4 * KIB, read_only());
    rig.check(counts(0, 254, 1024, 15));
    for at in [page, other] {
        rig.protect(at, 4 * KIB, back);
    }
    rig.merge(page, Level::L2);
    rig.check(counts(0, 255, 512, 15));
    rig.tlb.flushed.clear();
    rig.merge(other, Level::L2);
    assert_eq!(
        rig.tlb.flushed,
        [TlbScope::Vm],
        "one break for block and run"
    );
    rig.check(counts(0, 256, 0, 16));
    // All of a GiB, runs and others, becomes one leaf.
    rig.map(GIB + GIB / 2, 4 * GIB + GIB / 2, GIB / 2);
    rig.protect(page, 2 * MIB, read_only());
    rig.protect(page, 2 * MIB, back);
    rig.check(counts(0, 512, 0, 31));
    rig.merge(page, Level::L1);
    rig.check(counts(1, 0, 0, 0));
    rig.teardown();
}

#[test]
fn blocks_that_are_not_alike_make_no_run() {
    let at = |index: u64| GIB + index * 2 * MIB;
    // What is other in one block of sixteen: its frame, an attribute, or it is not there.
    for case in 0..4 {
        let mut rig = Rig::new();
        let skew = if case == 3 { 2 * MIB } else { 0 };
        for index in 0..15 {
            let frame = 4 * GIB + index * 2 * MIB + skew;
            match (case, index) {
                (0, 5) => rig.map(at(index), 6 * GIB, 2 * MIB),
                (2, 5) => {}
                _ => rig.map(at(index), frame, 2 * MIB),
            }
        }
        if case == 1 {
            rig.protect(at(5), 2 * MIB, read_only());
        }
        let last = 4 * GIB + 30 * MIB + skew;
        let Rig {
            memory,
            tlb,
            stage2,
        } = &mut rig;
        stage2
            .reserve_region(memory, ipa(at(15)), pa(last), RAM)
            .unwrap();
        stage2.promote(memory, tlb, ipa(at(15))).unwrap();
        rig.check(counts(0, if case == 2 { 15 } else { 16 }, 0, 0));
        rig.teardown();
    }
}

#[test]
fn thin_regions_in_a_row_become_a_run() {
    let mut rig = Rig::new();
    let Rig {
        memory,
        tlb,
        stage2,
    } = &mut rig;
    // In any order, over frames that lie as their IPAs do.
    for index in (0..16).map(|index| index * 7 % 16) {
        let (at, frame) = (GIB + index * 2 * MIB, 4 * GIB + index * 2 * MIB);
        stage2
            .reserve_region(memory, ipa(at), pa(frame), RAM)
            .unwrap();
        let _ = stage2.touch(memory, ipa(at)).unwrap();
        stage2.promote(memory, tlb, ipa(at)).unwrap();
    }
    assert_eq!(stage2.counts(), counts(0, 16, 0, 1));
    // A page goes back, and its region may be whole again.
    let (_, work) = stage2.untouch(memory, tlb, ipa(GIB + 9 * MIB)).unwrap();
    let _flushed = tlb.flush(work);
    assert_eq!(stage2.counts(), counts(0, 15, 511, 0));
    stage2.promote(memory, tlb, ipa(GIB + 9 * MIB)).unwrap();
    assert_eq!(stage2.counts(), counts(0, 16, 0, 1));
    let (frame, work) = stage2
        .vacate_region(memory, tlb, ipa(GIB + 8 * MIB))
        .unwrap();
    let _flushed = tlb.flush(work);
    assert_eq!(frame, pa(4 * GIB + 8 * MIB));
    rig.check(counts(0, 15, 0, 0));
    rig.teardown();
}

#[test]
fn the_audit_finds_a_run_that_is_none() {
    let mut rig = Rig::new();
    rig.map(GIB, 4 * GIB, 3 * RUN);
    rig.map(2 * GIB, 5 * GIB, 64 * KIB);
    let entry = |rig: &Rig, at: u64| rig.stage2.slot(&rig.memory, at).entry;
    for (at, change) in [
        (GIB + RUN + 4 * MIB, bits::CONTIGUOUS),
        (GIB + RUN + 4 * MIB, 2 * MIB),
        (GIB + RUN + 4 * MIB, 1 << 7),
        (GIB + RUN, 1 << 7),
        (2 * GIB + 0x3000, 1 << 7),
        (2 * GIB + 0x3000, bits::CONTIGUOUS),
    ] {
        let slot = entry(&rig, at);
        let raw = rig.memory.load(slot);
        assert_eq!(rig.stage2.audit(&rig.memory), 0);
        rig.memory.store(slot, raw ^ change);
        assert!(rig.stage2.audit(&rig.memory) > 0, "{at:#x} ^ {change:#x}");
        rig.memory.store(slot, raw);
    }
}
