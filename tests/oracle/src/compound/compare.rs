//! Every VA at once: the compound tree beside the guest's, descriptor by descriptor.

use penumbra_vmsa::{CONTIGUOUS_ENTRIES, Level, PAGE_SIZE, Stage2Desc, TABLE_ENTRIES, bits};

use super::pages::Output;
use super::{RAM_BYTES, RAM_IPA, World, access_bits, is_alias};

/// A table and the limits gathered on the way to it.
type Table = (u64, u64);

impl World {
    /// Compares what is reached from the IPAs of two roots, for every VA of the half: kind and level
    /// of faults, pages, permissions, types. What is not in reach in stage 2 faults alike.
    pub fn compare(&mut self, guests: u64, ours: u64) {
        let mut done = Vec::new();
        self.compare_tables(self.shape.start, (guests, 0), (ours, 0), &mut done);
    }

    fn compare_tables(
        &mut self,
        level: Level,
        guests: Table,
        ours: Table,
        done: &mut Vec<(Level, Table, Table)>,
    ) {
        if guests == ours || done.contains(&(level, guests, ours)) {
            return;
        }
        done.push((level, guests, ours));
        let Some(theirs_at) = self.ideal(guests.0).map(|home| self.place(home)) else {
            // The guest's walk faults in stage 2: ours must as well, for the same page.
            if self.look(ours.0).is_some() {
                self.violations.push(format!(
                    "{:#x} is gone, {:#x} stands for it",
                    guests.0, ours.0
                ));
            }
            return;
        };
        let Some(Output { pa: ours_at, .. }) = self.look(ours.0) else {
            self.violations.push(format!(
                "{:#x} stands for {:#x} and is gone",
                ours.0, guests.0
            ));
            return;
        };
        for index in 0..TABLE_ENTRIES {
            let (theirs, raw) = (
                self.word(theirs_at + index * 8),
                self.word(ours_at + index * 8),
            );
            if theirs == raw && guests.1 == ours.1 {
                continue;
            }
            let fine = match (bits::kind(level, theirs), bits::kind(level, raw)) {
                (bits::Kind::Invalid, bits::Kind::Invalid) => true,
                (bits::Kind::Table, bits::Kind::Table) => {
                    if let Some(next) = level.below() {
                        let theirs = self.below(theirs, guests.1);
                        let raw = self.below(raw, ours.1);
                        self.compare_tables(next, theirs, raw, done);
                    }
                    true
                }
                (bits::Kind::Leaf, bits::Kind::Leaf) => {
                    let hint = theirs ^ raw;
                    let run = hint & bits::CONTIGUOUS == 0 || self.lines_up(level, ours_at, index);
                    run && self.same_leaf((level, theirs, guests.1), (level, raw, ours.1), 0)
                }
                (bits::Kind::Table, bits::Kind::Leaf) => level.below().is_some_and(|below| {
                    let table = self.below(theirs, guests.1);
                    self.stands_for((level, raw, ours.1), (below, table), 0)
                }),
                _ => false,
            };
            if !fine {
                self.violations.push(format!(
                    "entry {index} of {level:?} {:#x}: the guest has {theirs:#x}, {:#x} has {raw:#x}",
                    guests.0, ours.0
                ));
            }
        }
    }

    /// The table that a descriptor leads to.
    fn below(&self, raw: u64, limits: u64) -> Table {
        (raw & bits::TABLE_ADDRESS, limits | self.limits(raw))
    }

    /// Whether a leaf, from `offset` on, is what all of a guest table says.
    fn stands_for(
        &self,
        leaf: (Level, u64, u64),
        (level, table): (Level, Table),
        offset: u64,
    ) -> bool {
        let Some(at) = self.ideal(table.0).map(|home| self.place(home)) else {
            return false;
        };
        (0..TABLE_ENTRIES).all(|index| {
            let raw = self.word(at + index * 8);
            let inside = offset + (index << level.shift());
            match bits::kind(level, raw) {
                bits::Kind::Leaf => self.same_leaf((level, raw, table.1), leaf, inside),
                bits::Kind::Table => level.below().is_some_and(|below| {
                    let next = self.below(raw, table.1);
                    self.stands_for(leaf, (below, next), inside)
                }),
                bits::Kind::Invalid => false,
            }
        })
    }

    /// Whether the guest's leaf translates as ours does from `offset` on.
    fn same_leaf(&self, guests: (Level, u64, u64), ours: (Level, u64, u64), offset: u64) -> bool {
        let output = |(level, raw, _): (Level, u64, u64)| raw & bits::leaf_address(level);
        let flags = bits::AF | bits::NOT_GLOBAL;
        if access_bits(guests.1, guests.2) != access_bits(ours.1, ours.2)
            || (guests.1 ^ ours.1) & flags != 0
        {
            return false;
        }
        let (theirs, mine) = (output(guests), output(ours) + offset);
        if theirs == mine {
            return true;
        }
        // Through an alias: page by page the same frames.
        is_alias(mine)
            && (0..guests.0.entry_bytes())
                .step_by(PAGE_SIZE as usize)
                .all(|page| {
                    let frame = self.ideal(theirs + page).map(|home| self.place(home));
                    let found = self.look(mine + page);
                    frame.is_some()
                        && frame == found.map(|output| output.pa)
                        && found.is_some_and(|output| output.plain)
                })
    }

    /// Whether the run around an entry is one: sixteen leaves in a row.
    fn lines_up(&self, level: Level, table: u64, index: u64) -> bool {
        let first = index & !(CONTIGUOUS_ENTRIES - 1);
        let start = self.word(table + first * 8);
        let ignored = 0x1ff << 55 | bits::DBM;
        let bytes = CONTIGUOUS_ENTRIES << level.shift();
        start & bits::leaf_address(level) & (bytes - 1) == 0
            && (0..CONTIGUOUS_ENTRIES).all(|entry| {
                let raw = self.word(table + (first + entry) * 8);
                (raw ^ (start + (entry << level.shift()))) & !ignored == 0
            })
    }

    /// Compares what stage 2 says of every page of RAM with the ideal one.
    pub fn compare_ram(&mut self) {
        for page in (RAM_IPA..RAM_IPA + RAM_BYTES).step_by(PAGE_SIZE as usize) {
            let frame = self.ideal(page).map(|home| self.place(home));
            let found = self.look(page);
            if found.map(|output| output.pa) != frame || found.is_some_and(|output| !output.plain) {
                self.violations.push(format!(
                    "{page:#x} is in {frame:x?}, stage 2 has {found:x?}"
                ));
            }
        }
    }

    /// What stage 2 says of a page, whatever TLBs hold and samples clear.
    fn look(&self, page: u64) -> Option<Output> {
        let mut at = super::STAGE2_ROOT + (page >> Level::L1.shift()) * 8;
        let mut level = Level::L1;
        loop {
            match Stage2Desc::decode(level, self.word(at)) {
                Stage2Desc::Table { next } => {
                    level = level.below()?;
                    at = next.raw() + level.index(page) * 8;
                }
                Stage2Desc::Leaf { pa, attrs, .. } => {
                    return Output::new(pa.raw() + (page & (level.entry_bytes() - 1)), attrs);
                }
                _ => return None,
            }
        }
    }
}
