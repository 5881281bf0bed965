//! Unit tests of the stage-2 builder; random sequences are in tests/oracle.

use penumbra_vmsa::{GIB, KIB, MIB, Stage2Access, Stage2Attrs};

mod runs;

use super::*;
use crate::fake::{FakeMemory, FakeTlb};
use crate::{TlbScope, TlbSink, Touch};

const ROOT: Pa = Pa::truncated(0x2000);
const RAM: Stage2Attrs = Stage2Attrs::RAM;

fn ipa(raw: u64) -> Ipa {
    Ipa::new(raw).unwrap()
}

fn pa(raw: u64) -> Pa {
    Pa::new(raw).unwrap()
}

fn counts(gib: u64, mib2: u64, pages: u64, runs: u64) -> LeafCounts {
    LeafCounts {
        gib,
        mib2,
        pages,
        runs,
    }
}

struct Rig {
    memory: FakeMemory,
    tlb: FakeTlb,
    stage2: Stage2,
}

impl Rig {
    fn new() -> Self {
        let stage2 = Stage2::new(ROOT).unwrap();
        Self {
            memory: FakeMemory::default(),
            tlb: FakeTlb::default(),
            stage2,
        }
    }

    fn map(&mut self, from: u64, to: u64, bytes: u64) {
        self.stage2
            .map(
                &mut self.memory,
                Mapping::new(ipa(from), pa(to), bytes, RAM),
            )
            .unwrap();
    }

    fn leaf(&self, at: u64) -> Leaf {
        self.stage2.lookup(&self.memory, ipa(at)).unwrap()
    }

    /// Counts leaves by enumeration, to hold against the running counts.
    fn census(&self) -> LeafCounts {
        let mut counts = LeafCounts::default();
        let mut from = Some(ipa(0));
        while let Some(leaf) = from.and_then(|from| self.stage2.next_leaf(&self.memory, from)) {
            match leaf.level {
                Level::L1 => counts.gib += 1,
                Level::L2 => {
                    counts.mib2 += 1;
                    let first = leaf.ipa.is_aligned(32 * MIB);
                    counts.runs += u64::from(leaf.contiguous && first);
                }
                _ => counts.pages += 1,
            }
            from = leaf.end();
        }
        counts
    }

    fn teardown(mut self) {
        let flushed = self.tlb.flush(self.stage2.flush_all());
        while !self.stage2.teardown(&mut self.memory, &flushed, 1).unwrap() {}
        assert!(self.memory.live.is_empty(), "tables leaked");
        assert_eq!(self.stage2.table_frames(), 0);
        let root = ROOT.raw()..ROOT.raw() + ROOT_BYTES;
        assert!(self.memory.words.range(root).all(|(_, &raw)| raw == 0));
    }
}

#[test]
fn the_largest_leaves_that_congruence_allows() {
    let mut rig = Rig::new();
    // From 2 MiB below 2 GiB: 2 MiB block, 1 GiB block, 2 MiB block, 64 KiB run, a page.
    rig.map(
        2 * GIB - 2 * MIB,
        6 * GIB - 2 * MIB,
        GIB + 4 * MIB + 68 * KIB,
    );
    assert_eq!(rig.stage2.counts(), counts(1, 2, 17, 0));
    assert_eq!(rig.census(), rig.stage2.counts());
    assert_eq!(rig.leaf(2 * GIB + 5).pa, pa(6 * GIB));
    assert!(rig.leaf(3 * GIB + 2 * MIB).contiguous);
    assert!(!rig.leaf(3 * GIB + 2 * MIB + 64 * KIB).contiguous);
    assert_eq!(rig.stage2.table_frames(), 3);
    rig.teardown();
}

#[test]
fn incongruent_ranges_use_pages() {
    let mut rig = Rig::new();
    rig.map(4 * MIB, 6 * MIB + 4 * KIB, 2 * MIB);
    assert_eq!(rig.stage2.counts(), counts(0, 0, 512, 0));
    assert!(!rig.leaf(4 * MIB).contiguous);
    assert_eq!(
        rig.leaf(4 * MIB + 0x1234).pa_of(ipa(4 * MIB + 0x1234)),
        pa(6 * MIB + 0x2234)
    );
    rig.teardown();
}

#[test]
fn a_failed_map_changes_nothing() {
    let mut rig = Rig::new();
    rig.map(GIB, GIB, 4 * KIB);
    let words = rig.memory.words.clone();
    let over = Mapping::new(ipa(GIB - 2 * MIB), pa(0), 4 * MIB, RAM);
    assert_eq!(
        rig.stage2.map(&mut rig.memory, over),
        Err(Stage2Error::AlreadyMapped)
    );
    assert_eq!(rig.memory.words, words);
    rig.memory.limit = Some(3);
    let wants_two = Mapping::new(ipa(3 * GIB), pa(0), 4 * KIB, RAM);
    assert_eq!(
        rig.stage2.map(&mut rig.memory, wants_two),
        Err(Stage2Error::NoTable)
    );
    assert!(rig.stage2.lookup(&rig.memory, ipa(3 * GIB)).is_err());
    for (mapping, error) in [
        (
            Mapping::new(ipa(1), pa(0), 4 * KIB, RAM),
            Stage2Error::Misaligned,
        ),
        (
            Mapping::new(ipa(0), pa(1), 4 * KIB, RAM),
            Stage2Error::Misaligned,
        ),
        (Mapping::new(ipa(0), pa(0), 5, RAM), Stage2Error::Misaligned),
        (Mapping::new(ipa(0), pa(0), 0, RAM), Stage2Error::OutOfRange),
        (
            Mapping::new(ipa(1 << 40), pa(0), 4 * KIB, RAM),
            Stage2Error::OutOfRange,
        ),
        (
            Mapping::new(ipa((1 << 40) - 4096), pa(0), 8 * KIB, RAM),
            Stage2Error::OutOfRange,
        ),
    ] {
        assert_eq!(rig.stage2.map(&mut rig.memory, mapping), Err(error));
    }
    rig.teardown();
}

#[test]
fn protecting_a_page_keeps_runs_around_it() {
    let mut rig = Rig::new();
    rig.map(GIB, GIB, GIB);
    let page = GIB + 6 * MIB + 0x13000;
    let change = Stage2Change::access(Stage2Access::Read);
    let work = rig
        .stage2
        .protect(&mut rig.memory, &mut rig.tlb, ipa(page), 4 * KIB, change)
        .unwrap();
    let scope = TlbScope::Leaves {
        start: ipa(page),
        end: ipa(page + 4096),
        step: 4096,
    };
    assert_eq!(work.scope(), scope);
    assert_eq!(rig.tlb.flushed.len(), 2, "one break for each block split");
    assert_eq!(rig.leaf(page).attrs.access, Stage2Access::Read);
    assert!(!rig.leaf(page).contiguous && !rig.leaf(page - 0x1000).contiguous);
    assert!(rig.leaf(page + 0xd000).contiguous && rig.leaf(GIB + 6 * MIB).contiguous);
    assert!(!rig.leaf(GIB + 8 * MIB).contiguous && rig.leaf(GIB + 32 * MIB).contiguous);
    assert_eq!(
        rig.leaf(page + 0x1000).attrs.access,
        Stage2Access::ReadWrite
    );
    assert_eq!(rig.census(), counts(0, 511, 512, 31));
    assert_eq!(rig.census(), rig.stage2.counts());
    let merged = rig
        .stage2
        .merge(&mut rig.memory, &mut rig.tlb, ipa(page), Level::L2);
    assert_eq!(merged, Err(Stage2Error::NotUniform));
    let back = Stage2Change::access(Stage2Access::ReadWrite);
    let _ = rig
        .stage2
        .protect(&mut rig.memory, &mut rig.tlb, ipa(page), 4 * KIB, back)
        .unwrap();
    rig.stage2
        .merge(&mut rig.memory, &mut rig.tlb, ipa(page), Level::L2)
        .unwrap();
    rig.stage2
        .merge(&mut rig.memory, &mut rig.tlb, ipa(page), Level::L1)
        .unwrap();
    assert_eq!(rig.stage2.counts(), counts(1, 0, 0, 0));
    rig.teardown();
}

#[test]
fn a_page_inside_a_run_takes_its_hint_away() {
    let mut rig = Rig::new();
    rig.map(0, 0, 128 * KIB);
    let work = rig
        .stage2
        .unmap(&mut rig.memory, &mut rig.tlb, ipa(0x5000), 4 * KIB)
        .unwrap();
    assert_eq!(
        work.scope(),
        TlbScope::None,
        "the run was flushed when it was broken"
    );
    let run = TlbScope::Leaves {
        start: ipa(0),
        end: ipa(0x10000),
        step: 4096,
    };
    assert_eq!(rig.tlb.flushed, [run]);
    assert!(rig.stage2.lookup(&rig.memory, ipa(0x5000)).is_err());
    assert!(!rig.leaf(0x4000).contiguous && rig.leaf(0x10000).contiguous);
    assert_eq!(rig.census(), counts(0, 0, 31, 0));
    rig.teardown();
}

#[test]
fn empty_tables_wait_for_a_flush() {
    let mut rig = Rig::new();
    rig.map(GIB, 0, 8 * KIB);
    let early = rig.tlb.flush(rig.stage2.flush_all());
    let work = rig
        .stage2
        .unmap(&mut rig.memory, &mut rig.tlb, ipa(GIB), 8 * KIB)
        .unwrap();
    assert_eq!(work.scope(), TlbScope::Vm);
    assert_eq!(
        rig.stage2.release(&mut rig.memory, &early, 9),
        2,
        "that flush came before"
    );
    let flushed = rig.tlb.flush(work);
    assert_eq!(rig.stage2.release(&mut rig.memory, &flushed, 1), 1);
    assert_eq!(rig.stage2.release(&mut rig.memory, &flushed, 9), 0);
    rig.teardown();
}

#[test]
fn set_page_maps_one_page_once() {
    let mut rig = Rig::new();
    rig.stage2
        .set_page(&mut rig.memory, ipa(GIB), pa(0x5000), RAM)
        .unwrap();
    let again = rig
        .stage2
        .set_page(&mut rig.memory, ipa(GIB), pa(0x6000), RAM);
    assert_eq!(again, Err(Stage2Error::AlreadyMapped));
    assert_eq!(rig.leaf(GIB).pa, pa(0x5000));
    rig.teardown();
}

#[test]
fn a_thin_region_becomes_a_block_with_what_was_not_touched() {
    let mut rig = Rig::new();
    let Rig {
        memory,
        tlb,
        stage2,
    } = &mut rig;
    let (base, frame) = (GIB, pa(8 * MIB));
    let promote = |stage2: &mut Stage2, memory: &mut FakeMemory, tlb: &mut FakeTlb| {
        stage2.promote(memory, tlb, ipa(base + 0x5000))
    };
    assert_eq!(promote(stage2, memory, tlb), Err(Stage2Error::NotMapped));
    stage2
        .reserve_region(memory, ipa(base), frame, RAM)
        .unwrap();
    for page in 1..4 {
        stage2.touch(memory, ipa(base + page * 4096)).unwrap();
    }
    // Nobody may write a page that is watched, touched or not, by way of a block.
    for page in [0x1000, 0x8000] {
        for access in [Stage2Access::Read, Stage2Access::ReadWrite] {
            let change = Stage2Change::access(access);
            let work = stage2
                .protect(memory, tlb, ipa(base + page), 4096, change)
                .unwrap();
            let _flushed = tlb.flush(work);
            if access == Stage2Access::Read {
                assert_eq!(promote(stage2, memory, tlb), Err(Stage2Error::NotUniform));
                assert_eq!(stage2.populated_pages(memory, ipa(base)), 3);
            }
        }
    }
    // A page that is unmapped is not a reserved one.
    let work = stage2.unmap(memory, tlb, ipa(base + 0x1000), 4096).unwrap();
    let _flushed = tlb.flush(work);
    assert_eq!(promote(stage2, memory, tlb), Err(Stage2Error::NotUniform));
    stage2
        .set_page(memory, ipa(base + 0x1000), pa(frame.raw() + 0x1000), RAM)
        .unwrap();
    assert_eq!(stage2.counts().pages, 3);
    promote(stage2, memory, tlb).unwrap();
    assert_eq!(tlb.flushed.last(), Some(&TlbScope::Vm));
    assert_eq!(promote(stage2, memory, tlb), Err(Stage2Error::NotMapped));
    let counts = stage2.counts();
    assert_eq!((counts.mib2, counts.pages), (1, 0));
    assert_eq!(stage2.audit(memory), 0);
    assert_eq!(rig.leaf(GIB).attrs, RAM);
    assert_eq!(rig.census(), rig.stage2.counts());
    rig.teardown();
}

#[test]
fn a_thin_region_fills_and_promotes() {
    let mut rig = Rig::new();
    let Rig {
        memory,
        tlb,
        stage2,
    } = &mut rig;
    let (base, frame) = (GIB, pa(8 * MIB));
    assert_eq!(stage2.touch(memory, ipa(base)), Ok(Touch::Vacant));
    stage2
        .reserve_region(memory, ipa(base), frame, RAM)
        .unwrap();
    assert_eq!(
        stage2.reserve_region(memory, ipa(base), frame, RAM),
        Err(Stage2Error::AlreadyMapped)
    );
    assert_eq!(
        stage2.lookup(memory, ipa(base)),
        Err(Miss::Translation(Level::L3))
    );
    for page in 0..512 {
        let touch = stage2.touch(memory, ipa(base + page * 4096 + 8)).unwrap();
        let pa = pa(frame.raw() + page * 4096);
        assert_eq!(
            touch,
            Touch::Populated {
                pa,
                pages: page + 1
            }
        );
        assert_eq!(
            stage2.touch(memory, ipa(base + page * 4096)),
            Ok(Touch::Present)
        );
    }
    stage2.promote(memory, tlb, ipa(base)).unwrap();
    assert_eq!(stage2.counts(), counts(0, 1, 0, 0));
    // Balloon: one page goes back, and may come again.
    stage2.split(memory, tlb, ipa(base)).unwrap();
    let known = stage2.changes();
    let (page, _work) = stage2.untouch(memory, tlb, ipa(base + 0x3000)).unwrap();
    assert_ne!(stage2.changes(), known);
    assert_eq!(page, pa(frame.raw() + 0x3000));
    assert_eq!(stage2.populated_pages(memory, ipa(base)), 511);
    assert!(matches!(
        stage2.touch(memory, ipa(base + 0x3000)),
        Ok(Touch::Populated { pages: 512, .. })
    ));
    let (back, work) = stage2.vacate_region(memory, tlb, ipa(base)).unwrap();
    assert_eq!((back, work.scope()), (frame, TlbScope::Vm));
    assert_eq!(stage2.touch(memory, ipa(base)), Ok(Touch::Vacant));
    assert_eq!(rig.census(), rig.stage2.counts());
    rig.teardown();
}

#[test]
fn a_reserved_region_outlives_its_pages() {
    let mut rig = Rig::new();
    let Rig {
        memory,
        tlb,
        stage2,
    } = &mut rig;
    stage2.reserve_region(memory, ipa(0), pa(0), RAM).unwrap();
    let _ = stage2.touch(memory, ipa(0)).unwrap();
    let _ = stage2.untouch(memory, tlb, ipa(0)).unwrap();
    assert!(matches!(
        stage2.touch(memory, ipa(0)),
        Ok(Touch::Populated { pages: 1, .. })
    ));
    // Unmapping every page takes the reservation too.
    let _ = stage2.unmap(memory, tlb, ipa(0), MIB).unwrap();
    assert_eq!(stage2.touch(memory, ipa(0x1000)), Ok(Touch::Vacant));
    assert!(matches!(
        stage2.touch(memory, ipa(MIB)),
        Ok(Touch::Populated { pages: 1, .. })
    ));
    let _ = stage2.unmap(memory, tlb, ipa(MIB), MIB).unwrap();
    assert_eq!(stage2.table_frames(), 2, "two tables in quarantine");
    rig.teardown();
}

#[test]
fn addresses_beyond_the_space_are_refused_everywhere() {
    let mut rig = Rig::new();
    let Rig {
        memory,
        tlb,
        stage2,
    } = &mut rig;
    let far = ipa(1 << 40);
    assert_eq!(stage2.touch(memory, far), Err(Stage2Error::OutOfRange));
    assert_eq!(stage2.lookup(memory, far), Err(Miss::Beyond));
    assert_eq!(stage2.next_leaf(memory, far), None);
    assert_eq!(stage2.split(memory, tlb, far), Err(Stage2Error::OutOfRange));
    assert_eq!(
        stage2.reserve_region(memory, far, pa(0), RAM),
        Err(Stage2Error::OutOfRange)
    );
    assert!(stage2.vacate_region(memory, tlb, far).is_err());
}

#[test]
fn the_audit_finds_what_is_not_counted() {
    let mut memory = FakeMemory::default();
    let mut tlb = FakeTlb::default();
    let mut stage2 = Stage2::new(Pa::truncated(0x2000)).unwrap();
    let region = Ipa::truncated(0x4000_0000);
    let ram = Mapping::new(
        region,
        Pa::truncated(0x8000_0000),
        4 << 20,
        Stage2Attrs::RAM,
    );
    stage2.map(&mut memory, ram).unwrap();
    stage2.split(&mut memory, &mut tlb, region).unwrap();
    assert_eq!(stage2.audit(&memory), 0);
    let at = stage2.slot(&memory, region.raw()).entry;
    let raw = memory.load(at);
    memory.store(at, 0);
    // The table's children and the leaves of the VM are one short.
    assert_eq!(stage2.audit(&memory), 2);
    memory.store(at, raw);
    let table = stage2.take_table(&mut memory).unwrap();
    assert_eq!(stage2.audit(&memory), 1);
    stage2.retire(&mut memory, table);
    assert_eq!(stage2.audit(&memory), 0);
    // A quarantined table that is still linked, and holds nothing.
    let vacant = stage2.slot(&memory, 0x4040_0000);
    memory.store(vacant.entry, table_desc(table, 0));
    let wrong = stage2.audit(&memory);
    assert!(wrong >= 2, "{wrong}");
}
