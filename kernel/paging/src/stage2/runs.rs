//! Contiguous runs: sixteen leaves in a row that a TLB may hold as one, 64 KiB of pages or 32 MiB of blocks.
//!
//! All sixteen have the Contiguous bit, equal attributes and PAs in a row, which start at a multiple of the run's
//! size. None of them is changed while they live: a run is broken as a whole, flushed leaf by leaf, because a TLB need not heed the
//! hint, and made again, with the hint or without (Arm ARM DDI 0487 L.b, D8.7.1 "The Contiguous bit").

use penumbra_vmsa::{CONTIGUOUS_ENTRIES, Ipa, Level, Pa, TABLE_ENTRIES, bits};

use super::edit::Edit;
use super::{Range, Slot, Stage2, adjust_children};
use crate::memory::{TableMemory, entry};
use crate::tlb::{TlbSink, leaves};

/// Sixteen descriptors that are a run, or could be one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    level: Level,
    /// The first descriptor.
    first: Pa,
    /// The first IPA.
    start: u64,
}

impl Run {
    /// Around a descriptor of `level` at `at`, which is about `ipa`.
    pub(super) const fn at(level: Level, at: Pa, ipa: u64) -> Self {
        Self {
            level,
            first: at.align_down(CONTIGUOUS_ENTRIES << 3),
            start: ipa & !level.run_bytes().wrapping_sub(1),
        }
    }

    pub(super) const fn around(slot: &Slot) -> Self {
        Self::at(slot.level, slot.entry, slot.ipa)
    }

    /// The IPA behind it.
    pub(super) const fn end(&self) -> u64 {
        self.start.saturating_add(self.level.run_bytes())
    }

    const fn entry(&self, index: u64) -> Pa {
        Pa::truncated(self.first.raw() | index << 3)
    }

    const fn offset(&self, index: u64) -> u64 {
        index << self.level.shift()
    }

    /// Writes all sixteen, none of which is valid; `raw` is the first.
    pub(super) fn put<M: TableMemory + ?Sized>(&self, memory: &mut M, raw: u64) {
        for index in 0..CONTIGUOUS_ENTRIES {
            memory.store(self.entry(index), raw.wrapping_add(self.offset(index)));
        }
    }

    /// Makes all sixteen invalid. The flush is the caller's.
    pub(super) fn clear<M: TableMemory + ?Sized>(&self, memory: &mut M) {
        for index in 0..CONTIGUOUS_ENTRIES {
            memory.store(self.entry(index), 0);
        }
    }

    /// The first descriptor of the run that blocks of 2 MiB become when `block` stands at `at`: the other fifteen
    /// are there, like it to the bit, and all sixteen lie in a row.
    pub(super) fn completed_by<M: TableMemory + ?Sized>(
        &self,
        memory: &M,
        at: Pa,
        block: u64,
    ) -> Option<u64> {
        let index = at.offset_from(self.first)? >> 3;
        let first = block.checked_sub(self.offset(index))?;
        let address = first & bits::leaf_address(self.level);
        if self.level != Level::L2 || address & (self.level.run_bytes() - 1) != 0 {
            return None;
        }
        let alike = (0..CONTIGUOUS_ENTRIES).all(|other| {
            let wanted = first.wrapping_add(self.offset(other));
            other == index || memory.load(self.entry(other)) == wanted
        });
        alike.then_some(first | bits::CONTIGUOUS)
    }
}

impl Stage2 {
    /// Takes a run out and flushes it; returns what its descriptors were.
    fn break_run<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        run: &Run,
    ) -> [u64; CONTIGUOUS_ENTRIES as usize] {
        let mut raws = [0; CONTIGUOUS_ENTRIES as usize];
        for (index, raw) in (0..).zip(raws.iter_mut()) {
            *raw = memory.load(run.entry(index));
        }
        run.clear(memory);
        let work = self.work(leaves(
            Ipa::truncated(run.start),
            Ipa::truncated(run.end()),
            run.level.entry_bytes(),
        ));
        let _flushed = tlb.flush(work);
        self.count_runs(run.level, 0, 1);
        raws
    }

    /// Rewrites the run around `slot`. Leaves in `range` are edited; the hint survives only if all of them are, and stay.
    pub(super) fn rewrite_run<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        slot: &Slot,
        range: Range,
        edit: Edit,
    ) {
        let run = Run::around(slot);
        let raws = self.break_run(memory, tlb, &run);
        let whole = range.covers(run.start, run.level.run_bytes());
        let mut removed: i64 = 0;
        for (index, raw) in (0..).zip(raws) {
            let ipa = run.start.saturating_add(run.offset(index));
            let kept = if whole { raw } else { raw & !bits::CONTIGUOUS };
            let new = if range.covers(ipa, run.level.entry_bytes()) {
                edit.apply(kept)
            } else {
                kept
            };
            if new == 0 {
                removed = removed.saturating_add(1);
            } else {
                memory.store(run.entry(index), new);
            }
        }
        memory.publish();
        if removed != 0 {
            adjust_children(memory, slot.above[0], removed.saturating_neg());
            self.count(run.level, 0, removed.unsigned_abs());
            self.prune(memory, slot);
        } else if whole {
            self.count_runs(run.level, 1, 0);
        }
    }

    /// Ends the run around `slot`. Its leaves stay, without the hint, but for the one at `slot`: that is invalid, and
    /// flushed.
    pub(super) fn leave_run<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        slot: &Slot,
    ) {
        let run = Run::around(slot);
        let raws = self.break_run(memory, tlb, &run);
        for (index, raw) in (0..).zip(raws) {
            let at = run.entry(index);
            if at != slot.entry {
                memory.store(at, raw & !bits::CONTIGUOUS);
            }
        }
    }

    /// Counts runs of `level` in or out, if they are runs of blocks.
    pub(super) const fn count_runs(&mut self, level: Level, added: u64, removed: u64) {
        if matches!(level, Level::L2) {
            let runs = self.counts.runs.saturating_add(added);
            self.counts.runs = runs.saturating_sub(removed);
        }
    }
}

/// Runs of blocks in a table of `level`.
pub(super) fn hints<M: TableMemory + ?Sized>(memory: &M, level: Level, table: Pa) -> u64 {
    if level != Level::L2 {
        return 0;
    }
    let firsts = (0..TABLE_ENTRIES).step_by(CONTIGUOUS_ENTRIES as usize);
    let hint = |index| memory.load(entry(table, index)) >> bits::CONTIGUOUS.trailing_zeros() & 1;
    firsts.map(hint).fold(0, u64::saturating_add)
}
