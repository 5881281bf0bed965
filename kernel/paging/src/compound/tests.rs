//! Unit tests of what the oracle does not look at: refusals, capacity, and what a page costs.

use penumbra_vmsa::{Half, MIB, Pa, Stage2Attrs, Tcr, Ttbr, Va, bits};

use super::*;
use crate::fake::{FakeMemory, FakeTlb};
use crate::stage1::Stage1Regs;
use crate::{Mapping, Stage2, TableMemory};

// RAM of the guest: IPA 0 to 1 MiB, at PA 0, which the fake takes for always there.
const ROOT: u64 = 0x1_0000;
const LEVEL2: u64 = 0x1_1000;
const LEVEL3: u64 = 0x1_2000;

struct Rig<const NODES: usize = 4> {
    memory: FakeMemory,
    tlb: FakeTlb,
    stage2: Stage2,
    compound: Compound<2, NODES, 1>,
}

macro_rules! vm {
    ($rig:expr) => {
        &mut Access {
            stage2: &mut $rig.stage2,
            memory: &mut $rig.memory,
            tlb: &mut $rig.tlb,
        }
    };
}

mod detached;
mod known;
mod refused;
mod relaid;
mod survey;

impl Rig {
    fn new() -> Self {
        Self::with_nodes()
    }
}

impl<const NODES: usize> Rig<NODES> {
    fn with_nodes() -> Self {
        let mut rig = Self {
            memory: FakeMemory::default(),
            tlb: FakeTlb::default(),
            stage2: Stage2::new(Pa::truncated(0x2000)).unwrap(),
            compound: Compound::new(),
        };
        // The fake knows frames below 1 MiB as always live; the pool's 2 MiB have to be added.
        let ram = Mapping::new(Ipa::truncated(0), Pa::truncated(0), MIB, Stage2Attrs::RAM);
        rig.stage2.map(&mut rig.memory, ram).unwrap();
        for frame in 0..512 {
            rig.memory.live.insert(64 * MIB + frame * 4096);
        }
        rig.compound
            .add_pool_block(vm!(rig), Pa::truncated(64 * MIB))
            .unwrap();
        rig
    }

    fn audit(&mut self) -> u32 {
        let vm: &Access<'_, _, _> = vm!(self);
        self.compound.audit(vm)
    }

    fn write(&mut self, at: u64, raw: u64) {
        self.memory.store(Pa::truncated(at), raw);
    }
}

fn regs() -> Stage1Regs {
    let cached = 0b11_01_01;
    let tcr = 25 | 25 << 16 | cached << 8 | cached << 24 | 2 << 30 | 2 << 32;
    Stage1Regs {
        sctlr: 0b101,
        tcr: Tcr::new(tcr),
        ttbr0: Ttbr::new(ROOT),
        ttbr1: Ttbr::new(ROOT),
    }
}

#[test]
fn a_root_answers_at_its_alias_and_knows_it_again() {
    let mut rig = Rig::new();
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    let (space, alias) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    assert_eq!(alias.raw(), ROOT | WINDOW_BIT);
    // What the guest reads back, and writes again.
    let again = Stage1Regs {
        ttbr0: Ttbr::new(alias.raw()),
        ..regs()
    };
    assert_eq!(
        rig.compound.plant(vm!(rig), &again, Half::Low),
        Ok((space, alias))
    );
    let other = rig.compound.plant(vm!(rig), &regs(), Half::High);
    assert_eq!(other, Err(ShadowError::Refused(Refusal::Geometry)));
    let shown = rig.stage2.lookup(&rig.memory, alias).unwrap();
    assert_eq!(shown.attrs, Stage2Attrs::READ_ONLY);
    assert_eq!(rig.memory.load(shown.pa), LEVEL2 | bits::TABLE);
    assert_eq!(rig.audit(), 0);
}

#[test]
fn what_cannot_be_shadowed_changes_nothing() {
    let mut rig = Rig::new();
    // Slots: a table in the window, one in nothing, a leaf, a good one.
    rig.write(ROOT, POOL_BASE | bits::TABLE);
    rig.write(ROOT + 8, 0x4000_0000 | bits::TABLE);
    rig.write(ROOT + 16, bits::AF | bits::VALID);
    rig.write(ROOT + 24, LEVEL2 | bits::TABLE);
    rig.write(LEVEL2, LEVEL3 | bits::TABLE);
    let parked = Parked::all_others();
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    for (slot, error) in [
        (0, ShadowError::NotRam),
        (1, ShadowError::NotRam),
        (2, ShadowError::NoTable),
    ] {
        let va = Va::truncated(slot << 30);
        let shadowed = rig.compound.shadow(vm!(rig), space, va, Level::L3, &parked);
        assert_eq!(shadowed, Err(error));
    }
    let va = Va::truncated(3 << 30);
    assert_eq!(
        rig.compound.shadow(vm!(rig), space, va, Level::L3, &parked),
        Ok(Form::Mirror)
    );
    let again = rig.compound.shadow(vm!(rig), space, va, Level::L3, &parked);
    assert_eq!(again, Err(ShadowError::Already));
    assert_eq!(rig.compound.node_count(), 3);
    assert_eq!(rig.audit(), 0);
    while !rig.compound.drop_space(vm!(rig), space, &parked) {}
    while rig.compound.give_back(vm!(rig), 1) > 0 {}
    assert_eq!(
        (rig.compound.node_count(), rig.compound.pool_frames()),
        (0, (0, 512))
    );
    for page in [ROOT, LEVEL2, LEVEL3] {
        let leaf = rig
            .stage2
            .lookup(&rig.memory, Ipa::truncated(page))
            .unwrap();
        assert!(leaf.attrs.access.writes());
    }
}

#[test]
fn a_full_table_of_nodes_evicts_what_is_worth_least() {
    let mut rig = Rig::new();
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    for slot in 0..3 {
        rig.write(LEVEL2 + slot * 8, (LEVEL3 + slot * 0x1000) | bits::TABLE);
    }
    let parked = Parked::all_others();
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let va = |slot: u64| Va::truncated(slot << 21);
    for slot in 0..2 {
        let form = rig
            .compound
            .shadow(vm!(rig), space, va(slot), Level::L3, &parked);
        assert_eq!(form, Ok(Form::Mirror));
    }
    let full = rig
        .compound
        .shadow(vm!(rig), space, va(2), Level::L3, &parked);
    assert_eq!(full, Err(ShadowError::Full));
    rig.compound.set_worth(space, va(0), Level::L3, 9);
    assert!(rig.compound.evict(vm!(rig), &parked));
    assert!(rig.compound.is_watched(Ipa::truncated(LEVEL3)));
    assert!(!rig.compound.is_watched(Ipa::truncated(LEVEL3 + 0x1000)));
    let form = rig
        .compound
        .shadow(vm!(rig), space, va(2), Level::L3, &parked);
    assert_eq!(form, Ok(Form::Mirror));
    assert_eq!(rig.audit(), 0);
}

#[test]
fn a_table_that_serves_everywhere_is_shadowed_at_some_places() {
    let mut rig = Rig::<64>::with_nodes();
    for slot in 0..512 {
        rig.write(ROOT + slot * 8, LEVEL2 | bits::TABLE);
    }
    let parked = Parked::all_others();
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let shadow = |rig: &mut Rig<64>, slot: u64| {
        let va = Va::truncated(slot << 30);
        rig.compound.shadow(vm!(rig), space, va, Level::L2, &parked)
    };
    for slot in 0..32 {
        assert_eq!(shadow(&mut rig, slot), Ok(Form::Mirror));
    }
    assert_eq!(shadow(&mut rig, 32), Err(ShadowError::Crowded));
    // What a store to it takes is bounded by that.
    rig.memory.loads.set(0);
    let at = Ipa::truncated(LEVEL2 + 8);
    assert_eq!(rig.compound.store(vm!(rig), at, 0), Stored::Mirrored);
    assert!(rig.memory.loads.get() < 100, "{}", rig.memory.loads.get());
    let va = Va::truncated(7 << 30);
    let gone = rig.compound.demote(vm!(rig), space, va, Level::L2, &parked);
    assert!(gone);
    assert_eq!(shadow(&mut rig, 32), Ok(Form::Mirror));
    assert_eq!(rig.audit(), 0);
}

#[test]
fn the_audit_finds_a_mirror_that_is_off() {
    let mut rig = Rig::new();
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    let _ = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    rig.write(ROOT + 80, 0x1234_5000 | bits::AF | bits::VALID);
    assert_eq!(rig.audit(), 1);
}

#[test]
fn the_audit_finds_an_alias_that_shows_something_else() {
    let mut rig = Rig::new();
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    let (_, alias) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let Rig {
        stage2,
        memory,
        tlb,
        ..
    } = &mut rig;
    let elsewhere = Pa::truncated(LEVEL2);
    stage2.remap_page(memory, tlb, alias, elsewhere).unwrap();
    assert_eq!(rig.audit(), 1);
}

/// Fills LEVEL3 with leaves in a row from 1 GiB on, and links it at VA 0.
fn fill(rig: &mut Rig, attributes: u64) {
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    rig.write(LEVEL2, LEVEL3 | bits::TABLE);
    for index in 0..512 {
        let page = 0x4000_0000 + (index << 12);
        rig.write(
            LEVEL3 + index * 8,
            page | attributes | bits::AF | bits::TABLE,
        );
    }
}

#[test]
fn global_leaves_of_the_low_half_keep_their_size() {
    // TTBR0 goes to another root without a flush, and there the guest's own leaves serve.
    for (half, attributes, form) in [
        (Half::Low, 0, Form::Mirror),
        (Half::Low, bits::NOT_GLOBAL, Form::Leaf),
        (Half::High, 0, Form::Leaf),
    ] {
        let mut rig = Rig::new();
        fill(&mut rig, attributes);
        let (space, _) = rig.compound.plant(vm!(rig), &regs(), half).unwrap();
        let parked = Parked::all_others();
        let va = Va::truncated(0);
        let made = rig.compound.shadow(vm!(rig), space, va, Level::L3, &parked);
        assert_eq!(made, Ok(form), "{half:?}, {attributes:#x}");
        assert_eq!(rig.audit(), 0);
    }
}

/// The leaf behind a page of the guest.
fn leaf(rig: &Rig, page: u64) -> crate::Leaf {
    let page = Ipa::truncated(page);
    rig.stage2.lookup(&rig.memory, page).unwrap()
}

#[test]
fn a_walk_sample_faults_once_and_names_its_region() {
    let mut rig = Rig::new();
    fill(&mut rig, bits::NOT_GLOBAL);
    // Outside the run that the root lies in.
    const TABLE: u64 = 0x3_2000;
    rig.write(LEVEL2 + 8, TABLE | bits::TABLE);
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let (va, page) = (Va::truncated(0x20_5000), Ipa::truncated(TABLE));
    // The page lies in a contiguous run, which no sample may break.
    let kind = SampleKind::Walks;
    let whole = rig.compound.sample(vm!(rig), space, va, kind, false);
    assert_eq!(whole, Err(ShadowError::NotRam));
    let begun = rig.compound.sample(vm!(rig), space, va, kind, true);
    assert_eq!(begun, Ok(()));
    let again = rig.compound.sample(vm!(rig), space, va, kind, true);
    assert_eq!(again, Err(ShadowError::Already));
    rig.tlb.flushed.clear();
    rig.compound.arm_samples(vm!(rig));
    let one = crate::TlbScope::Leaves {
        start: page,
        end: Ipa::truncated(TABLE + 0x1000),
        step: 0x1000,
    };
    assert_eq!(rig.tlb.flushed, [one]);
    assert!(!leaf(&rig, TABLE).attrs.accessed && !leaf(&rig, TABLE).contiguous);
    let stranger = rig
        .compound
        .access_fault(vm!(rig), Ipa::truncated(LEVEL2), true);
    assert_eq!(stranger, Accessed::Stranger);
    let walked = rig
        .compound
        .access_fault(vm!(rig), Ipa::truncated(TABLE + 8), true);
    assert_eq!(walked, Accessed::Walked(space, Va::truncated(0x20_0000)));
    assert!(leaf(&rig, TABLE).attrs.accessed);
    // Another vCPU was on its way with the same fault.
    let late = rig.compound.access_fault(vm!(rig), page, true);
    assert_eq!(late, Accessed::Touched);
    let mut ended = Vec::new();
    rig.compound
        .end_samples(vm!(rig), |sample| ended.push(sample));
    assert_eq!(ended.len(), 1);
    assert!(ended[0].hit && ended[0].page == page && ended[0].kind == kind);
    assert_eq!(rig.compound.counters().walked, 1);
}

#[test]
fn a_sample_that_ends_splits_nothing_that_was_merged_meanwhile() {
    let mut rig = Rig::new();
    // A region of RAM of its own for the table.
    const REGION: u64 = 0x1000_0000;
    let ram = Mapping::new(
        Ipa::truncated(REGION),
        Pa::truncated(REGION),
        2 * MIB,
        Stage2Attrs::RAM,
    );
    rig.stage2.map(&mut rig.memory, ram).unwrap();
    rig.memory.live.insert(REGION);
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    rig.write(LEVEL2, REGION | bits::TABLE);
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let page = Ipa::truncated(REGION);
    for kind in [SampleKind::Walks, SampleKind::Writes] {
        let va = Va::truncated(0);
        let begun = rig.compound.sample(vm!(rig), space, va, kind, true);
        assert_eq!(begun, Ok(()));
        assert!(!rig.compound.settle(vm!(rig), page), "it is not whole");
        match kind {
            SampleKind::Walks => {
                let hit = rig.compound.access_fault(vm!(rig), page, true);
                assert_eq!(hit, Accessed::Walked(space, va));
            }
            SampleKind::Writes => assert_eq!(rig.compound.wrote(vm!(rig), page), Some((space, va))),
        }
        assert!(rig.compound.settle(vm!(rig), page));
        // Another vCPU was on its way with the same fault.
        let late = rig.compound.access_fault(vm!(rig), page, true);
        assert_ne!(late, Accessed::Walked(space, va));
        rig.compound.end_samples(vm!(rig), |_| {});
        assert_eq!(leaf(&rig, REGION).level, Level::L2, "{kind:?}");
    }
}

#[test]
fn a_load_is_no_walk() {
    let mut rig = Rig::new();
    fill(&mut rig, bits::NOT_GLOBAL);
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let (va, page) = (Va::truncated(0), Ipa::truncated(LEVEL3));
    let begun = rig
        .compound
        .sample(vm!(rig), space, va, SampleKind::Walks, true);
    assert_eq!(begun, Ok(()));
    let touched = rig.compound.access_fault(vm!(rig), page, false);
    assert_eq!(touched, Accessed::Touched);
    assert!(leaf(&rig, LEVEL3).attrs.accessed);
    let mut hits = Vec::new();
    rig.compound
        .end_samples(vm!(rig), |sample| hits.push(sample.hit));
    assert_eq!(hits, [false]);
}

#[test]
fn a_write_sample_lets_the_first_store_through() {
    let mut rig = Rig::new();
    fill(&mut rig, bits::NOT_GLOBAL);
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let kind = SampleKind::Writes;
    let va = Va::truncated(0);
    let begun = rig.compound.sample(vm!(rig), space, va, kind, true);
    assert_eq!(begun, Ok(()));
    rig.compound.arm_samples(vm!(rig));
    assert!(!leaf(&rig, LEVEL3).attrs.access.writes());
    let at = Ipa::truncated(LEVEL3 + 16);
    assert_eq!(rig.compound.store(vm!(rig), at, 0), Stored::NotWatched);
    assert!(leaf(&rig, LEVEL3).attrs.access.writes());
    assert_eq!(rig.compound.wrote(vm!(rig), at), None);
    let mut hits = Vec::new();
    rig.compound
        .end_samples(vm!(rig), |sample| hits.push(sample.hit));
    assert_eq!((hits, rig.compound.counters().wrote), (vec![true], 1));
}

#[test]
fn a_mirror_takes_over_the_protection_of_a_write_sample() {
    let mut rig = Rig::new();
    fill(&mut rig, bits::NOT_GLOBAL);
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let (va, parked) = (Va::truncated(0), Parked::all_others());
    let begun = rig
        .compound
        .sample(vm!(rig), space, va, SampleKind::Writes, true);
    assert_eq!(begun, Ok(()));
    let made = rig.compound.shadow(vm!(rig), space, va, Level::L3, &parked);
    assert_eq!(made, Ok(Form::Leaf));
    rig.compound.end_samples(vm!(rig), |_| {});
    assert!(!leaf(&rig, LEVEL3).attrs.access.writes());
    let watched = rig
        .compound
        .sample(vm!(rig), space, va, SampleKind::Walks, true);
    assert_eq!(watched, Err(ShadowError::Already));
    while !rig.compound.drop_space(vm!(rig), space, &parked) {}
    while rig.compound.give_back(vm!(rig), 1) > 0 {}
    assert!(leaf(&rig, LEVEL3).attrs.access.writes());
}

#[test]
fn a_level_2_table_of_leaves_becomes_one_leaf_until_something_changes() {
    let mut rig = Rig::new();
    fill(&mut rig, bits::NOT_GLOBAL);
    for index in 1..512 {
        let block = 0x4000_0000 + (index << 21);
        rig.write(
            LEVEL2 + index * 8,
            block | bits::NOT_GLOBAL | bits::AF | bits::VALID,
        );
    }
    let parked = Parked::all_others();
    let (space, alias) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let va = Va::truncated(0);
    let entry = |rig: &Rig| {
        let shown = rig.stage2.lookup(&rig.memory, alias).unwrap();
        rig.memory.load(shown.pa)
    };
    let early = rig.compound.raise(vm!(rig), space, va, &parked);
    assert_eq!(early, Err(ShadowError::NoTable));
    let made = rig.compound.shadow(vm!(rig), space, va, Level::L3, &parked);
    assert_eq!(made, Ok(Form::Leaf));
    assert_eq!(rig.compound.raise(vm!(rig), space, va, &parked), Ok(()));
    let gib = 0x4000_0000 | bits::NOT_GLOBAL | bits::AF | bits::VALID;
    assert_eq!(entry(&rig), gib);
    assert_eq!(rig.audit(), 0);
    // A software bit changes nothing; an invalid entry needs the mirror back.
    let at = Ipa::truncated(LEVEL2 + 24);
    let softly = 0x4060_0000 | bits::NOT_GLOBAL | bits::AF | bits::VALID | 1 << 55;
    assert_eq!(rig.compound.store(vm!(rig), at, softly), Stored::Mirrored);
    assert_eq!(rig.compound.store(vm!(rig), at, 0), Stored::Structural);
    assert_eq!(entry(&rig), gib);
    rig.compound.soften(vm!(rig), at, &parked);
    assert_eq!(entry(&rig) & bits::TABLE, bits::TABLE);
    assert_eq!(rig.compound.store(vm!(rig), at, 0), Stored::Mirrored);
    assert_eq!(rig.audit(), 0);
    let holed = rig.compound.raise(vm!(rig), space, va, &parked);
    assert_eq!(holed, Err(ShadowError::NotUniform));
    // With the table below demoted, the leaf above must go as well.
    assert_eq!(rig.compound.store(vm!(rig), at, softly), Stored::Mirrored);
    assert_eq!(rig.compound.raise(vm!(rig), space, va, &parked), Ok(()));
    let table = Ipa::truncated(LEVEL3);
    rig.compound.demote_page(vm!(rig), table, &parked);
    assert_eq!(entry(&rig) & bits::TABLE, bits::TABLE);
    assert_eq!(rig.audit(), 0);
}

#[test]
fn sixteen_blocks_in_a_row_become_a_run() {
    let mut rig = Rig::new();
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    // The second run does not start where 32 MiB do, and the third has a hole.
    for (index, skew) in (0..16).zip([0; 16]).chain((16..32).zip([1; 16])) {
        let block = 0x4000_0000 + ((index + skew) << 21);
        let raw = block | bits::NOT_GLOBAL | bits::AF | bits::VALID;
        rig.write(LEVEL2 + index * 8, raw);
        if index != 3 {
            rig.write(LEVEL2 + (index + 32) * 8, raw + (64 << 20));
        }
    }
    let parked = Parked::all_others();
    let (space, alias) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let va = Va::truncated(0);
    let made = rig.compound.shadow(vm!(rig), space, va, Level::L2, &parked);
    assert_eq!(made, Ok(Form::Mirror));
    let page = |rig: &Rig, at: Ipa| rig.stage2.lookup(&rig.memory, at).unwrap().pa_of(at);
    let root = page(&rig, alias);
    let link = Ipa::truncated(rig.memory.load(root) & bits::TABLE_ADDRESS);
    let mirror = page(&rig, link);
    let hint = |rig: &Rig, index: u64| {
        rig.memory.load(crate::memory::entry(mirror, index)) & bits::CONTIGUOUS != 0
    };
    let marked: Vec<u64> = (0..512).filter(|&index| hint(&rig, index)).collect();
    assert_eq!(marked, (0..16).collect::<Vec<_>>());
    assert_eq!(rig.audit(), 0);
    // A store that changes one of them takes the run away first.
    let at = Ipa::truncated(LEVEL2 + 40);
    assert_eq!(rig.compound.store(vm!(rig), at, 0), Stored::Structural);
    rig.compound.soften(vm!(rig), at, &parked);
    assert_eq!(rig.compound.store(vm!(rig), at, 0), Stored::Mirrored);
    assert!((0..512).all(|index| !hint(&rig, index)));
    assert_eq!(rig.audit(), 0);
}
