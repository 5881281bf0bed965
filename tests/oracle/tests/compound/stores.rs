//! How the guest under test stores to its tables, and what it flushes.

use std::ops::Range;

use penumbra_oracle::compound::{GuestTlbi, Mutation};
use penumbra_paging::{Access, Accessed, Parked, Stored, StoredBy, WalkRead};
use penumbra_vmsa::{Ipa, Level, PAGE_SIZE, Stage, Stage1Desc, Va, bits, requires_bbm};

use crate::guest::{How, ROOTS, Value, level_of, out_of, page, raw_of};
use crate::rig::Rig;
use crate::vm;

/// Fills start where 512 entries of the level above begin.
const CONGRUENT: u64 = 16;

/// A store that can be decoded, and demotes no more than it has to.
pub(crate) const PLAIN: How = How {
    decodable: true,
    soften: true,
    precise: false,
};

impl Rig {
    /// A store as the guest sees it: done, whatever it takes.
    pub(crate) fn store(&mut self, ipa: u64, value: u64, how: How) {
        let at = Ipa::truncated(ipa);
        // A page that serves at 32 places is given up at three of them each time.
        for _ in 0..16 {
            let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
            let Ok(leaf) = self.stage2.lookup(&self.world, at) else {
                self.touch_all();
                continue;
            };
            if !leaf.attrs.accessed {
                let found = self
                    .compound
                    .access_fault(vm!(self, memory, tlb), at, false);
                assert_eq!(found, Accessed::Touched);
                continue;
            }
            if leaf.attrs.access.writes() {
                let mut world = self.world.0.borrow_mut();
                world.access(at.align_down(PAGE_SIZE).raw());
                world.guest_put(ipa, value);
                world.refill();
                return;
            }
            let mut stored = Stored::Structural;
            if how.decodable {
                self.world.0.borrow_mut().storing = true;
                stored = self.decoded(at, value);
                self.world.0.borrow_mut().storing = false;
            }
            match stored {
                Stored::Mirrored => {
                    if self.word(ipa) != value {
                        self.violation(format!("the store to {ipa:#x} is lost"));
                    }
                    return;
                }
                // The vCPU drops its stale entry and stores again.
                Stored::NotWatched => {}
                Stored::Structural => self.parked(|rig, parked| {
                    let vm = vm!(rig, memory, tlb);
                    if how.decodable && how.soften {
                        rig.compound.soften(vm, at, parked);
                    } else {
                        rig.compound.demote_page(vm, at, parked);
                    }
                }),
            }
        }
        self.violation(format!("the store to {ipa:#x} never succeeds"));
    }

    /// A decodable store to a page that stage 2 refuses, by a walk that is known, as soon as there was one. The
    /// walk reads nothing here: only stage 2 and the service say for how long it holds.
    fn decoded(&mut self, at: Ipa, value: u64) -> Stored {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let (va, by) = (Va::truncated(at.raw()), StoredBy::default());
        let vm = vm!(self, memory, tlb);
        if self.compound.store_known(vm, va, &by, value) {
            return Stored::Mirrored;
        }
        let stored = self.compound.store(vm!(self, memory, tlb), at, value);
        if stored == Stored::Mirrored {
            let vm: &Access<'_, _, _> = vm!(self, memory, tlb);
            let read = WalkRead::default();
            self.compound.remember(vm, (va, at), &by, read);
        }
        stored
    }

    pub(crate) fn tlbi(&mut self, tlbi: GuestTlbi, vcpu: Option<usize>) {
        self.world.0.borrow_mut().guest_tlbi(tlbi, vcpu);
    }

    /// A guest that keeps to break-before-make.
    pub(crate) fn guest_store(&mut self, which: usize, index: u64, new: u64, how: How) {
        let ipa = page(which) + index * 8;
        let level = level_of(which);
        let old = self.word(ipa);
        let hint =
            |raw: u64| bits::kind(level, raw) == bits::Kind::Leaf && raw & bits::CONTIGUOUS != 0;
        if requires_bbm(Stage::One, level, old, new) || hint(old) || hint(new) {
            let leaf = bits::kind(level, old) == bits::Kind::Leaf;
            let places = if how.precise && leaf && !hint(old) && !hint(new) {
                self.places(which, index)
            } else {
                None
            };
            self.store(ipa, 0, how);
            match places {
                Some(places) => {
                    for va in places {
                        let tlbi = GuestTlbi::Va {
                            va,
                            asid: None,
                            last: true,
                        };
                        self.tlbi(tlbi, None);
                    }
                }
                None => self.tlbi(GuestTlbi::All, None),
            }
        }
        self.store(ipa, new, how);
    }

    /// VAs that an entry translates, in all spaces; `None` if the table serves at a level that is
    /// not its own, or too often.
    fn places(&self, which: usize, index: u64) -> Option<Vec<u64>> {
        let start = self.shape.start;
        let mut tables: Vec<(u64, u64, Level)> = (0..ROOTS)
            .map(|context| (self.root(context), 0, start))
            .collect();
        let mut places = Vec::new();
        while let Some((table, base, level)) = tables.pop() {
            if table == page(which) {
                if level != level_of(which) {
                    return None;
                }
                places.push(base | index << level.shift());
            }
            for (slot, below) in (0..512).zip(std::iter::repeat(level.below())) {
                let raw = self.word(table + slot * 8);
                if let (Stage1Desc::Table { next, .. }, Some(below)) =
                    (Stage1Desc::decode(level, raw), below)
                {
                    tables.push((next.raw(), base | slot << level.shift(), below));
                }
            }
            if places.len() > 16 || tables.len() > 64 {
                return None;
            }
        }
        Some(places)
    }

    /// Fills entries with leaves in a row.
    pub(crate) fn fill_row(&mut self, which: usize, range: Range<u64>, out: u8, attrs: u16) {
        let level = level_of(which);
        let first = out_of(level, out) & !((CONGRUENT << level.shift()) - 1);
        let leaf = raw_of(level, Value::Leaf { out: 0, attrs }) & !bits::TABLE_ADDRESS;
        let start = range.start;
        self.fill(which, range, |index| {
            leaf | (first + ((index - start) << level.shift())) & bits::TABLE_ADDRESS
        });
    }

    /// Clears entries, flushes, and fills them.
    pub(crate) fn fill(&mut self, which: usize, range: Range<u64>, raw: impl Fn(u64) -> u64) {
        // Nothing is judged before the guest's flush and the end, so the walkers may rest between.
        self.world.0.borrow_mut().parked = true;
        self.quiet(page(which));
        for index in range.clone() {
            let mut world = self.world.0.borrow_mut();
            world.guest_put(page(which) + index * 8, 0);
        }
        self.tlbi(GuestTlbi::All, None);
        for index in range {
            let mut world = self.world.0.borrow_mut();
            world.guest_put(page(which) + index * 8, raw(index));
        }
        self.world.0.borrow_mut().parked = false;
        self.world.0.borrow_mut().refill();
    }

    /// Makes a table page the guest's own, with the walkers at rest.
    fn quiet(&mut self, ipa: u64) {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let at = Ipa::truncated(ipa);
        if self.stage2.lookup(&self.world, at).is_err() {
            self.touch_all();
        }
        self.compound
            .access_fault(vm!(self, memory, tlb), at, false);
        // Three places of the page at a time, of 32.
        for _ in 0..11 {
            self.compound
                .demote_page(vm!(self, memory, tlb), at, &Parked::all_others());
        }
        assert!(
            self.stage2
                .lookup(&self.world, at)
                .is_ok_and(|leaf| leaf.attrs.access.writes())
                || self.mutation != Mutation::Honest
        );
    }
}
