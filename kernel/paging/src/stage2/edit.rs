//! Changing and removing stage-2 leaves: protect, unmap, split, merge.

use penumbra_vmsa::{
    CONTIGUOUS_ENTRIES, Ipa, Level, PAGE_SIZE, Pa, Stage2Access, Stage2Attrs, Stage2Execute,
    TABLE_ENTRIES, bits,
};

use super::map::span_end;
use super::runs::{Run, hints};
use super::{
    HOLDS_RESERVED, RamPage, Range, Slot, Stage2, Stage2Error, adjust_children, children,
    next_table, table_desc,
};
use crate::memory::{TableMemory, entry};
use crate::tlb::{TlbScope, TlbSink, TlbWork, leaves};

/// A change of permissions: what is `None` stays. Needs no break-before-make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage2Change {
    /// Data accesses.
    pub access: Option<Stage2Access>,
    /// Instruction fetches.
    pub execute: Option<Stage2Execute>,
    /// Access flag.
    pub accessed: Option<bool>,
}

impl Stage2Change {
    /// Only the data accesses change.
    #[must_use]
    pub const fn access(access: Stage2Access) -> Self {
        Self {
            access: Some(access),
            execute: None,
            accessed: None,
        }
    }

    /// Only the access flag changes.
    #[must_use]
    pub const fn accessed(accessed: bool) -> Self {
        Self {
            access: None,
            execute: None,
            accessed: Some(accessed),
        }
    }

    /// A valid or reserved leaf with the change made.
    fn apply(self, raw: u64) -> u64 {
        let old = Stage2Attrs::decode(raw);
        let new = Stage2Attrs {
            access: self.access.unwrap_or(old.access),
            execute: self.execute.unwrap_or(old.execute),
            accessed: self.accessed.unwrap_or(old.accessed),
            ..old
        };
        raw ^ old.encode() ^ new.encode()
    }
}

/// What an edit does to each leaf that it meets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edit {
    Change(Stage2Change),
    Remove,
}

impl Edit {
    /// Whether it changes more than an Access flag.
    const fn is_more_than_a_look(self) -> bool {
        match self {
            Self::Change(change) => change.access.is_some() || change.execute.is_some(),
            Self::Remove => true,
        }
    }

    pub(super) fn apply(self, raw: u64) -> u64 {
        match self {
            Self::Change(change) => change.apply(raw),
            Self::Remove => 0,
        }
    }
}

impl Stage2 {
    /// Changes the permissions of everything mapped or reserved in a range; holes are passed over.
    /// Blocks that stick out are split. Until the work is done, old permissions may still serve.
    ///
    /// # Errors
    /// `Misaligned`, `OutOfRange`, `NoTable`.
    pub fn protect<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        ipa: Ipa,
        bytes: u64,
        change: Stage2Change,
    ) -> Result<TlbWork, Stage2Error> {
        self.edit(memory, tlb, ipa, bytes, Edit::Change(change))
    }

    /// Removes everything mapped or reserved in a range; holes are passed over. Blocks that stick
    /// out are split. The frames that were mapped must not change hands before the work is done.
    ///
    /// # Errors
    /// `Misaligned`, `OutOfRange`, `NoTable`.
    pub fn unmap<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        ipa: Ipa,
        bytes: u64,
    ) -> Result<TlbWork, Stage2Error> {
        self.edit(memory, tlb, ipa, bytes, Edit::Remove)
    }

    /// Splits until `ipa` lies in a page of its own, outside a contiguous run. What surrounds it
    /// stays as large as it can: 32 MiB runs, 2 MiB blocks, 64 KiB runs, pages.
    ///
    /// # Errors
    /// `NotMapped`, `OutOfRange`, `NoTable`.
    pub fn split<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        ipa: Ipa,
    ) -> Result<(), Stage2Error> {
        let range = Range::new(ipa.align_down(PAGE_SIZE), PAGE_SIZE)?;
        let tables = self.tables_to_split(memory, range);
        self.reserve(memory, tables)?;
        loop {
            let slot = self.slot(memory, range.start);
            match (slot.kind(), slot.level) {
                (bits::Kind::Leaf, Level::L3) => {
                    if slot.raw & bits::CONTIGUOUS != 0 {
                        self.rewrite_run(
                            memory,
                            tlb,
                            &slot,
                            range,
                            Edit::Change(Stage2Change::default()),
                        );
                    }
                    return Ok(());
                }
                (bits::Kind::Leaf, _) => self.split_block(memory, tlb, &slot, range)?,
                _ => return Err(Stage2Error::NotMapped),
            }
        }
    }

    /// Makes one leaf at `into` (2 or 1) of the 512 leaves below it, if they follow each other with
    /// equal attributes, and a run of sixteen blocks where the other fifteen are there. Flushes the VM, and
    /// frees the table that is no longer needed.
    ///
    /// # Errors
    /// `OutOfRange`, `NotMapped` (no table there), `NotUniform`.
    pub fn merge<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        ipa: Ipa,
        into: Level,
    ) -> Result<(), Stage2Error> {
        self.make_one(memory, tlb, ipa, (into, 0))
    }

    /// [`Self::merge`], in which leaves may differ in the bits `but`, which get set.
    pub(crate) fn make_one<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        ipa: Ipa,
        (into, but): (Level, u64),
    ) -> Result<(), Stage2Error> {
        let range = Range::new(ipa.align_down(PAGE_SIZE), PAGE_SIZE)?;
        let slot = self.slot(memory, range.start);
        let (Some(below), Some(at)) = (into.below(), slot.above[0]) else {
            return Err(Stage2Error::NotMapped);
        };
        if slot.level != below {
            return Err(Stage2Error::NotMapped);
        }
        let descriptor = memory.load(at);
        let table = next_table(descriptor);
        let block = uniform(memory, table, below, but).ok_or(Stage2Error::NotUniform)?;
        let run = Run::at(into, at, range.start);
        let first = run.completed_by(memory, at, block);
        match first {
            Some(_) => run.clear(memory),
            None => memory.store(at, 0),
        }
        let work = self.work(TlbScope::Vm);
        let _flushed = tlb.flush(work);
        match first {
            Some(first) => run.put(memory, first),
            None => memory.store(at, block),
        }
        memory.publish();
        // One table became one leaf: the count of the level above stays.
        self.count_runs(into, first.is_some().into(), 0);
        self.count_runs(below, 0, hints(memory, below, table));
        self.count(below, 0, children(descriptor));
        self.count(into, 1, 0);
        self.tables = self.tables.saturating_sub(1);
        memory.free_table(table);
        Ok(())
    }

    fn edit<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        ipa: Ipa,
        bytes: u64,
        edit: Edit,
    ) -> Result<TlbWork, Stage2Error> {
        let range = Range::new(ipa, bytes)?;
        let tables = self.tables_to_split(memory, range);
        self.reserve(memory, tables)?;
        if edit.is_more_than_a_look() {
            self.note_change();
        }
        let retired = self.quarantine.length();
        let mut smallest = None;
        let mut at = range.start;
        while at < range.end {
            let slot = self.slot(memory, at);
            let size = slot.level.entry_bytes();
            match slot.kind() {
                bits::Kind::Leaf if !range.covers(slot.base(), size) => {
                    self.split_block(memory, tlb, &slot, range)?;
                    continue;
                }
                bits::Kind::Leaf if slot.raw & bits::CONTIGUOUS != 0 => {
                    self.rewrite_run(memory, tlb, &slot, range, edit);
                    // A block of the run in which the range ends is one of its own now, to be split.
                    let last = range.end & !size.wrapping_sub(1);
                    at = Run::around(&slot).end().min(last);
                }
                bits::Kind::Leaf => {
                    smallest = Some(smallest.map_or(size, |s: u64| s.min(size)));
                    self.edit_leaf(memory, &slot, edit);
                    at = span_end(at, slot.level);
                }
                _ => {
                    if slot.raw != 0 {
                        memory.store(slot.entry, edit.apply(slot.raw) & !bits::VALID);
                    }
                    if matches!(edit, Edit::Remove) {
                        self.prune(memory, &slot);
                    }
                    at = span_end(at, slot.level);
                }
            }
        }
        memory.publish();
        let scope = match smallest {
            _ if self.quarantine.length() != retired => TlbScope::Vm,
            Some(step) => leaves(Ipa::truncated(range.start), Ipa::truncated(range.end), step),
            None => TlbScope::None,
        };
        Ok(self.work(scope))
    }

    /// Lets a page show another frame, attributes unchanged: break, flush, make. Takes no table.
    ///
    /// # Errors
    /// `Misaligned`, `OutOfRange`, `NotMapped` (no page of its own there: split first).
    pub fn remap_page<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        ipa: Ipa,
        pa: Pa,
    ) -> Result<(), Stage2Error> {
        let range = Range::new(ipa, PAGE_SIZE)?;
        if !pa.is_aligned(PAGE_SIZE) {
            return Err(Stage2Error::Misaligned);
        }
        let slot = self.slot(memory, range.start);
        let page = slot.level == Level::L3 && slot.kind() == bits::Kind::Leaf;
        if !page || slot.raw & bits::CONTIGUOUS != 0 {
            return Err(Stage2Error::NotMapped);
        }
        self.note_change();
        memory.store(slot.entry, 0);
        let work = self.work(leaves(ipa, Ipa::truncated(range.end), PAGE_SIZE));
        let _flushed = tlb.flush(work);
        memory.store(slot.entry, slot.raw & !bits::TABLE_ADDRESS | pa.raw());
        memory.publish();
        Ok(())
    }

    /// Exchanges the frames of two pages, attributes unchanged, with `exchange` called for their
    /// contents while no guest can reach them: break both, flush, exchange, make. Both are pages of their own, as
    /// [`Self::writable_ram`] has just found them.
    ///
    /// # Errors
    /// `NotMapped` (not two pages of their own: split first).
    pub(crate) fn exchange_pages<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        (a, b): (RamPage, RamPage),
        exchange: impl FnOnce(&mut M, Pa, Pa),
    ) -> Result<(), Stage2Error> {
        if a.entry == b.entry || !a.is_alone || !b.is_alone {
            return Err(Stage2Error::NotMapped);
        }
        self.note_change();
        memory.store(a.entry, 0);
        memory.store(b.entry, 0);
        let work = self.work(TlbScope::Vm);
        let _flushed = tlb.flush(work);
        exchange(memory, a.pa, b.pa);
        let attributes = !bits::TABLE_ADDRESS;
        memory.store(a.entry, a.raw & attributes | b.pa.raw());
        memory.store(b.entry, b.raw & attributes | a.pa.raw());
        memory.publish();
        Ok(())
    }

    /// Tables that splitting at both ends of a range takes at most.
    fn tables_to_split<M: TableMemory + ?Sized>(&self, memory: &M, range: Range) -> u32 {
        let mut tables: u32 = 0;
        for at in [range.start, range.end.saturating_sub(1)] {
            let slot = self.slot(memory, at);
            let mut level = slot.level;
            // A leaf at level 1 may have to be split twice.
            while slot.kind() == bits::Kind::Leaf && level < Level::L3 {
                let bytes = level.entry_bytes();
                if range.covers(at & !bytes.wrapping_sub(1), bytes) {
                    break;
                }
                tables = tables.saturating_add(1);
                let Some(below) = level.below() else { break };
                level = below;
            }
        }
        tables
    }

    /// Edits one leaf that is no part of a run and lies in the range entirely.
    fn edit_leaf<M: TableMemory + ?Sized>(&mut self, memory: &mut M, slot: &Slot, edit: Edit) {
        let new = edit.apply(slot.raw);
        memory.store(slot.entry, new);
        if new == 0 {
            adjust_children(memory, slot.above[0], -1);
            self.count(slot.level, 0, 1);
            self.prune(memory, slot);
        }
    }

    /// Takes tables out of the tree that hold nothing any more, from the one of `slot` upward.
    pub(super) fn prune<M: TableMemory + ?Sized>(&mut self, memory: &mut M, slot: &Slot) {
        for (index, at) in slot.above.into_iter().flatten().enumerate() {
            let raw = memory.load(at);
            if children(raw) != 0 || raw & bits::VALID == 0 {
                return;
            }
            let table = next_table(raw);
            if raw & HOLDS_RESERVED != 0 && !vacant(memory, table) {
                return;
            }
            memory.store(at, 0);
            if index == 0 {
                adjust_children(memory, slot.above[1], -1);
            }
            self.retire(memory, table);
        }
    }

    /// Replaces the block at `slot` by a table of 512 leaves: break, flush, make. Runs of leaves that
    /// do not touch `range` get the contiguous hint. A run that the block was part of ends, all of it behind the
    /// same break. The table comes from the stock.
    fn split_block<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        slot: &Slot,
        range: Range,
    ) -> Result<(), Stage2Error> {
        let Some(below) = slot.level.below() else {
            return Err(Stage2Error::NotMapped);
        };
        let table = self.take_table(memory)?;
        // A page has bit 1 set where a block has it clear.
        let kind = if below == Level::L3 {
            bits::TABLE
        } else {
            bits::VALID
        };
        let first = slot.raw & !(bits::TABLE | bits::CONTIGUOUS) | kind;
        let base = slot.base();
        let step = below.entry_bytes();
        let mut runs: u64 = 0;
        for index in (0..TABLE_ENTRIES).step_by(CONTIGUOUS_ENTRIES as usize) {
            let run = base.saturating_add(index << below.shift());
            let end = run.saturating_add(below.run_bytes());
            let untouched = end <= range.start || run >= range.end;
            let hint = if untouched { bits::CONTIGUOUS } else { 0 };
            runs = runs.saturating_add(untouched.into());
            let raw = first.wrapping_add(index << below.shift()) | hint;
            memory.fill(entry(table, index), CONTIGUOUS_ENTRIES, raw, step);
        }
        if slot.raw & bits::CONTIGUOUS != 0 {
            self.leave_run(memory, tlb, slot);
        } else {
            memory.store(slot.entry, 0);
            let size = slot.level.entry_bytes();
            let work = self.work(leaves(
                Ipa::truncated(base),
                Ipa::truncated(base.saturating_add(size)),
                size,
            ));
            let _flushed = tlb.flush(work);
        }
        memory.store(slot.entry, table_desc(table, TABLE_ENTRIES));
        memory.publish();
        self.count(slot.level, 0, 1);
        self.count(below, TABLE_ENTRIES, 0);
        self.count_runs(below, runs, 0);
        Ok(())
    }
}

/// Whether a table holds neither valid nor reserved descriptors.
fn vacant<M: TableMemory + ?Sized>(memory: &M, table: Pa) -> bool {
    (0..TABLE_ENTRIES).all(|index| memory.load(entry(table, index)) == 0)
}

/// The block that could stand for the 512 leaves of a table of `level`, if they are like one but for the bits `but`,
/// which it has set.
fn uniform<M: TableMemory + ?Sized>(memory: &M, table: Pa, level: Level, but: u64) -> Option<u64> {
    let above = level.above()?;
    let first = memory.load(table) & !bits::CONTIGUOUS | but;
    let aligned = first & bits::leaf_address(level) & (above.entry_bytes() - 1) == 0;
    if bits::kind(level, first) != bits::Kind::Leaf || !aligned {
        return None;
    }
    let differ = memory.differences(table, TABLE_ENTRIES, first, level.entry_bytes());
    let uniform = differ & !(bits::CONTIGUOUS | but) == 0;
    uniform.then_some(first & !bits::TABLE | bits::VALID)
}
