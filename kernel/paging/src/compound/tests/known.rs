//! Walks that are known: what they may be used for, and for how long.

use super::*;
use crate::Stage2Change;
use crate::stage1::{AccessKind, Privilege};
use penumbra_vmsa::Stage2Access;

/// The entry that maps the level-3 table itself, and the one that is stored to.
const SELF: u64 = 5;
const FREE: u64 = 300;
const BY: StoredBy = StoredBy {
    sctlr: 0b101,
    tcr: 0,
    root: ROOT,
    mair: 0xff,
    rights: 4,
};

/// A mirrored table that maps itself, a run of 16 behind it, and a walk for a store to it that is known.
fn known() -> Rig {
    let mut rig = Rig::new();
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    rig.write(LEVEL2, LEVEL3 | bits::TABLE);
    let page = |ipa: u64| ipa | bits::NOT_GLOBAL | bits::AF | bits::TABLE;
    rig.write(LEVEL3 + SELF * 8, page(LEVEL3));
    for index in 0..16 {
        rig.write(LEVEL3 + (16 + index) * 8, page(0x4_0000 + index * 4096));
    }
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let parked = Parked::all_others();
    let made = rig
        .compound
        .shadow(vm!(rig), space, Va::truncated(0), Level::L3, &parked);
    assert_eq!(made, Ok(Form::Mirror));
    assert!(!rig.store_known(&BY, FREE, 2), "nothing is known yet");
    rig.learn();
    rig
}

impl Rig {
    /// A walk by registers for a store to the table: where it ended, and what it read, if that may be remembered.
    fn walk(&mut self, regs: &Stage1Regs) -> (Va, Ipa, Option<WalkRead>) {
        let va = Va::truncated(SELF * 4096 + FREE * 8);
        let vm: &Access<'_, _, _> = vm!(self);
        let mut noted = vm.noted();
        let found = regs.translate(&mut noted, va, Privilege::El1, AccessKind::Write);
        let read = noted.read();
        (va, found.unwrap().ipa.align_down(4096), read)
    }

    fn learn(&mut self) {
        let (va, page, read) = self.walk(&regs());
        let vm: &Access<'_, _, _> = vm!(self);
        self.compound.remember(vm, (va, page), &BY, read.unwrap());
    }

    fn store_known(&mut self, by: &StoredBy, index: u64, value: u64) -> bool {
        let va = Va::truncated(SELF * 4096 + index * 8);
        self.compound.store_known(vm!(self), va, by, value)
    }
}

#[test]
fn a_known_walk_does_for_every_entry_of_its_page() {
    let mut rig = known();
    for index in [FREE, FREE + 1, 511] {
        assert!(rig.store_known(&BY, index, index << 1));
        assert_eq!(
            rig.memory.load(Pa::truncated(LEVEL3 + index * 8)),
            index << 1
        );
    }
    assert_eq!(rig.compound.counters().mirrored, 3);
    assert_eq!(rig.audit(), 0);
}

#[test]
fn other_registers_and_other_rights_know_nothing() {
    let mut rig = known();
    for other in [
        StoredBy { sctlr: 1, ..BY },
        StoredBy { tcr: 1, ..BY },
        StoredBy { root: LEVEL2, ..BY },
        StoredBy { mair: 0, ..BY },
        StoredBy { rights: 0, ..BY },
    ] {
        assert!(!rig.store_known(&other, FREE, 2));
    }
    assert_eq!(rig.memory.load(Pa::truncated(LEVEL3 + FREE * 8)), 0);
    assert!(rig.store_known(&BY, FREE, 2));
}

#[test]
fn a_word_that_the_walk_read_and_that_is_another_now_ends_it() {
    let mut rig = known();
    // The accessed bit of a leaf, or where a table leads: each word is looked at, at each level.
    for at in [ROOT, LEVEL2, LEVEL3 + SELF * 8] {
        let raw = rig.memory.load(Pa::truncated(at));
        rig.write(at, raw ^ 1 << 10);
        assert!(!rig.store_known(&BY, FREE, 2), "{at:#x}");
        rig.write(at, raw);
        assert!(rig.store_known(&BY, FREE, 2), "{at:#x}");
    }
}

#[test]
fn a_change_of_stage_2_ends_it() {
    let mut rig = known();
    let (page, change) = (
        Ipa::truncated(0x8_0000),
        Stage2Change::access(Stage2Access::Read),
    );
    let work = rig
        .stage2
        .protect(&mut rig.memory, &mut rig.tlb, page, 4096, change);
    drop(work.unwrap());
    assert!(!rig.store_known(&BY, FREE, 2));
    rig.learn();
    assert!(rig.store_known(&BY, FREE, 2));
    rig.compound.clear();
    assert!(!rig.store_known(&BY, FREE, 4), "the VM is gone");
}

#[test]
fn what_needs_a_structural_change_is_left_alone() {
    let mut rig = known();
    // One of a run that has the contiguous hint in the mirror.
    let at = Pa::truncated(LEVEL3 + 17 * 8);
    let old = rig.memory.load(at);
    assert!(!rig.store_known(&BY, 17, 0));
    assert_eq!(rig.memory.load(at), old);
    assert_eq!(rig.compound.counters().mirrored, 0);
    assert_eq!(rig.audit(), 0);
}

#[test]
fn what_a_walk_read_in_the_window_is_not_remembered() {
    let mut rig = known();
    let own = rig.walk(&regs());
    let ttbr0 = Ttbr::new(ROOT | WINDOW_BIT);
    let ours = rig.walk(&Stage1Regs { ttbr0, ..regs() });
    assert_eq!((own.0, own.1), (ours.0, ours.1));
    assert!(own.2.is_some() && ours.2.is_none());
}

#[test]
fn to_remember_a_walk_takes_one_look_at_stage_2() {
    let mut rig = known();
    let (va, page, read) = rig.walk(&regs());
    let before = rig.memory.loads.get();
    rig.stage2.lookup(&rig.memory, page).unwrap();
    let once = rig.memory.loads.get() - before;
    let vm: &Access<'_, _, _> = vm!(rig);
    rig.compound.remember(vm, (va, page), &BY, read.unwrap());
    assert_eq!(rig.memory.loads.get(), before + 2 * once);
}
