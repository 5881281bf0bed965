//! Re-layout: which frames serve, and that no page gets lost on the way.

use penumbra_vmsa::PAGE_SIZE;

use super::*;
use crate::thin::REGION_BYTES;

/// Four blocks of RAM for data.
const DATA: u64 = 0x1000_0000;
const BLOCKS: u64 = 4;
/// The regions' pages begin so far behind a multiple of 2 MiB.
const SHIFT: u64 = 100;
const USER: u64 = 1 << 6;

impl FrameMover for FakeMemory {
    fn exchange(&mut self, a: Pa, b: Pa) {
        let (at_a, at_b) = (self.words[&a.raw()], self.words[&b.raw()]);
        self.words.insert(a.raw(), at_b);
        self.words.insert(b.raw(), at_a);
    }
}

/// Two mirrored regions whose pages lie in a row, but not at multiples of 2 MiB.
fn shifted() -> (Rig, SpaceId) {
    let mut rig = Rig::new();
    let (ipa, pa) = (Ipa::truncated(DATA), Pa::truncated(DATA));
    let ram = Mapping::new(ipa, pa, BLOCKS * REGION_BYTES, Stage2Attrs::RAM);
    rig.stage2.map(&mut rig.memory, ram).unwrap();
    for page in 0..BLOCKS * 512 {
        rig.memory.words.insert(DATA + page * PAGE_SIZE, page);
    }
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    for region in 0..2 {
        let table = LEVEL3 + region * PAGE_SIZE;
        rig.write(LEVEL2 + region * 8, table | bits::TABLE);
        for index in 0..512 {
            let page = DATA + (SHIFT + region * 512 + index) * PAGE_SIZE;
            let raw = page | USER | bits::NOT_GLOBAL | bits::AF | bits::TABLE;
            rig.write(table + index * 8, raw);
        }
    }
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    for region in 0..2 {
        let va = Va::truncated(region * REGION_BYTES);
        let parked = Parked::all_others();
        let made = rig.compound.shadow(vm!(rig), space, va, Level::L3, &parked);
        assert_eq!(made, Ok(Form::Mirror));
    }
    (rig, space)
}

impl Rig {
    fn relay(&mut self, space: SpaceId, region: u64, donor: Donor) -> Result<u64, ShadowError> {
        let va = Va::truncated(region * REGION_BYTES);
        let before = self.compound.counters().moved;
        let vm: &Access<'_, _, _> = vm!(self);
        let mut work = self.compound.relayout(vm, space, va, donor, false)?;
        self.step_to_end(&mut work)?;
        assert_eq!(self.finish(&work), Ok(true));
        Ok(self.compound.counters().moved - before)
    }

    fn step_to_end(&mut self, work: &mut Relayout) -> Result<(), ShadowError> {
        while !self.compound.relayout_step(vm!(self), work)? {}
        Ok(())
    }

    fn finish(&mut self, work: &Relayout) -> Result<bool, ShadowError> {
        let parked = Parked::all_others();
        self.compound.relayout_finish(vm!(self), work, &parked)
    }

    /// The first region's re-layout, all steps done.
    fn placed(&mut self, space: SpaceId) -> Relayout {
        let vm: &Access<'_, _, _> = vm!(self);
        let work = self
            .compound
            .relayout(vm, space, Va::truncated(0), Donor::Own(0), false);
        let mut work = work.unwrap();
        assert_eq!(self.finish(&work), Ok(false), "nothing has been looked at");
        self.step_to_end(&mut work).unwrap();
        work
    }

    /// Each page has what it had, in a frame of its own.
    fn is_whole(&mut self) -> bool {
        (0..BLOCKS * 512).all(|page| {
            let ipa = Ipa::truncated(DATA + page * PAGE_SIZE);
            let pa = self.stage2.lookup(&self.memory, ipa).unwrap().pa_of(ipa);
            self.memory.words[&pa.raw()] == page
        })
    }
}

#[test]
fn each_region_goes_into_a_frame_in_which_its_own_pages_lie() {
    let (mut rig, space) = shifted();
    // The second one's frame has been splintered by the first, and holds strangers' pages.
    for region in 0..2 {
        let moved = rig.relay(space, region, Donor::Own(0)).unwrap();
        assert!((SHIFT..=512).contains(&moved), "{moved}");
        assert!(rig.is_whole());
        assert_eq!(rig.audit(), 0);
    }
    assert_eq!(rig.compound.counters().relaid, 2);
}

#[test]
fn any_frame_of_the_guests_may_be_named_by_a_page_in_it() {
    let (mut rig, space) = shifted();
    let last = Ipa::truncated(DATA + 3 * REGION_BYTES + 5 * PAGE_SIZE);
    assert_eq!(rig.relay(space, 0, Donor::At(last)), Ok(512));
    // The region's first page lies in that frame now, and an alias shows it.
    let first = Donor::At(Ipa::truncated(DATA + SHIFT * PAGE_SIZE));
    assert_eq!(rig.relay(space, 1, first), Err(ShadowError::NotRam));
    assert!(rig.is_whole());
    assert_eq!(rig.audit(), 0);
}

#[test]
fn a_frame_that_is_not_all_the_guests_does_not_serve() {
    let (mut rig, space) = shifted();
    // Behind the guest's first MiB there is nothing of its own.
    let first = Donor::At(Ipa::truncated(0x8_0000));
    assert_eq!(rig.relay(space, 0, first), Err(ShadowError::NotRam));
    // Its pages lie in two frames.
    assert_eq!(rig.relay(space, 0, Donor::Own(2)), Err(ShadowError::NotRam));
    assert!(rig.relay(space, 0, Donor::Own(1)).is_ok());
    assert!(rig.is_whole());
    assert_eq!(rig.audit(), 0);
}

#[test]
fn a_page_that_a_region_shows_twice_is_not_put_in_two_places() {
    let (mut rig, space) = shifted();
    // As Linux maps its page of zeros wherever nothing was stored yet.
    let first = rig.memory.words[&LEVEL3];
    for (at, raw) in [(511, first), (300, first), (1, first)] {
        let entry = Ipa::truncated(LEVEL3 + at * 8);
        let old = rig.memory.words[&entry.raw()];
        assert_eq!(rig.compound.store(vm!(rig), entry, raw), Stored::Mirrored);
        let refused = rig.relay(space, 0, Donor::Own(0));
        assert_eq!(refused, Err(ShadowError::NotUniform), "entry {at}");
        assert!(rig.is_whole());
        assert_eq!(rig.audit(), 0);
        assert_eq!(rig.compound.store(vm!(rig), entry, old), Stored::Mirrored);
    }
    assert!(rig.relay(space, 0, Donor::Own(0)).is_ok());
    assert!(rig.is_whole());
    assert_eq!(rig.audit(), 0);
}

#[test]
fn a_table_that_is_stored_to_behind_the_last_step_is_looked_at_again() {
    let (mut rig, space) = shifted();
    let mut work = rig.placed(space);
    // Its last page is gone: the leaf would show it.
    let last = Ipa::truncated(LEVEL3 + 511 * 8);
    assert_eq!(rig.compound.store(vm!(rig), last, 0), Stored::Mirrored);
    assert_eq!(rig.finish(&work), Ok(false));
    assert_eq!(rig.step_to_end(&mut work), Err(ShadowError::NotUniform));
    // Stores to other tables are none of its business.
    let work = {
        let page = DATA + (SHIFT + 511) * PAGE_SIZE;
        let raw = page | USER | bits::NOT_GLOBAL | bits::AF | bits::TABLE;
        assert_eq!(rig.compound.store(vm!(rig), last, raw), Stored::Mirrored);
        rig.placed(space)
    };
    let other = Ipa::truncated(LEVEL3 + PAGE_SIZE);
    assert_eq!(rig.compound.store(vm!(rig), other, 0), Stored::Mirrored);
    assert_eq!(rig.finish(&work), Ok(true));
    assert_eq!(rig.finish(&work), Err(ShadowError::NoTable), "it is done");
    assert!(rig.is_whole());
    assert_eq!(rig.audit(), 0);
}

#[test]
fn a_page_that_has_moved_behind_the_last_step_is_looked_at_again() {
    let (mut rig, space) = shifted();
    let mut work = rig.placed(space);
    let page = Ipa::truncated(DATA + (SHIFT + 7) * PAGE_SIZE);
    assert!(rig.compound.bring_home(vm!(rig), page).moved);
    assert_eq!(rig.finish(&work), Ok(false));
    // What was known of the frame holds no more.
    assert_eq!(rig.step_to_end(&mut work), Err(ShadowError::NotRam));
    assert_eq!(rig.compound.counters().relaid, 0);
    assert!(rig.is_whole());
    assert!(rig.relay(space, 0, Donor::Own(0)).is_ok());
    assert!(rig.is_whole());
    assert_eq!(rig.audit(), 0);
}

#[test]
fn a_mirror_that_was_given_up_behind_the_last_step_gets_no_leaf() {
    let (mut rig, space) = shifted();
    let mut work = rig.placed(space);
    let parked = Parked::all_others();
    let table = Ipa::truncated(LEVEL3);
    rig.compound.demote_page(vm!(rig), table, &parked);
    assert_eq!(rig.finish(&work), Ok(false));
    assert_eq!(rig.step_to_end(&mut work), Err(ShadowError::NoTable));
    assert_eq!(rig.audit(), 0);
}

#[test]
fn a_guest_that_always_disturbs_ends_the_work() {
    let (mut rig, space) = shifted();
    let mut work = rig.placed(space);
    let first = rig.memory.words[&LEVEL3];
    let mut stores: u64 = 0;
    let ended = loop {
        stores += 1;
        let ignored = first ^ (stores & 1) << 58;
        let stored = rig
            .compound
            .store(vm!(rig), Ipa::truncated(LEVEL3), ignored);
        assert_eq!(stored, Stored::Mirrored);
        match rig.compound.relayout_step(vm!(rig), &mut work) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(ended, ShadowError::NotUniform);
    assert!(stores < 100, "{stores}");
}

impl Rig {
    /// A sweep through all of guest RAM. The pages that were moved.
    fn bring_home(&mut self) -> u64 {
        let before = self.compound.counters().moved;
        let mut at = Some(Ipa::truncated(0));
        while let Some(from) = at {
            let step = self.compound.bring_home(vm!(self), from);
            assert!(step.next.is_none_or(|next| next > from || step.moved));
            at = step.next;
            assert!(self.is_whole());
        }
        self.compound.counters().moved - before
    }

    /// Whether each page lies where it did at first, in blocks.
    fn is_home(&self) -> bool {
        (0..BLOCKS).all(|block| {
            let ipa = Ipa::truncated(DATA + block * REGION_BYTES);
            let leaf = self.stage2.lookup(&self.memory, ipa).unwrap();
            (leaf.level, leaf.pa.raw()) == (Level::L2, ipa.raw())
        })
    }
}

#[test]
fn pages_go_home_once_their_region_is_given_up() {
    let (mut rig, space) = shifted();
    let mut moved = 0;
    for region in 0..2 {
        moved += rig.relay(space, region, Donor::Own(0)).unwrap();
    }
    // What an alias shows stays where it is, and what lies elsewhere for its sake.
    assert_eq!(rig.bring_home(), 0);
    let parked = Parked::all_others();
    let va = Va::truncated(0);
    let gone = rig.compound.demote(vm!(rig), space, va, Level::L3, &parked);
    assert!(gone);
    let first = rig.bring_home();
    assert!(first > 0 && !rig.is_home());
    let va = Va::truncated(REGION_BYTES);
    let gone = rig.compound.demote(vm!(rig), space, va, Level::L3, &parked);
    assert!(gone);
    let rest = rig.bring_home();
    assert!(rig.is_home(), "and blocks are blocks again");
    assert!(
        first + rest <= moved,
        "each exchange brings one home: {first} {rest} {moved}"
    );
    assert_eq!(rig.bring_home(), 0);
    assert_eq!(rig.audit(), 0);
}
