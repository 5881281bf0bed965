//! Adding stage-2 leaves.

use penumbra_vmsa::{CONTIGUOUS_ENTRIES, Ipa, Level, PAGE_SIZE, Pa, Stage2Attrs, Stage2Desc, bits};

use super::runs::Run;
use super::{Range, Slot, Stage2, Stage2Error, adjust_children, one_child_more};
use crate::memory::TableMemory;

/// What to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First IPA, page aligned.
    pub ipa: Ipa,
    /// First PA, page aligned.
    pub pa: Pa,
    /// Size, a multiple of a page.
    pub bytes: u64,
    /// Attributes of all leaves.
    pub attrs: Stage2Attrs,
    /// Level of the largest leaves wanted: `L1` for all that fit, `L3` for pages only.
    pub largest: Level,
}

impl Mapping {
    /// A mapping with the largest leaves that fit.
    #[must_use]
    pub const fn new(ipa: Ipa, pa: Pa, bytes: u64, attrs: Stage2Attrs) -> Self {
        Self {
            ipa,
            pa,
            bytes,
            attrs,
            largest: Level::L1,
        }
    }

    /// PA of an IPA of the mapping.
    const fn pa_of(&self, ipa: u64) -> u64 {
        ipa.wrapping_sub(self.ipa.raw()).wrapping_add(self.pa.raw())
    }

    /// Level of the largest leaf that fits at `ipa` in a slot of `slot`.
    fn fitting(&self, ipa: u64, end: u64, slot: Level) -> Level {
        let from = slot.max(self.largest);
        let room = end.saturating_sub(ipa);
        for level in [Level::L1, Level::L2] {
            let bytes = level.entry_bytes();
            if from <= level && (ipa | self.pa_of(ipa)) & (bytes - 1) == 0 && room >= bytes {
                return level;
            }
        }
        Level::L3
    }
}

/// A mapping that was checked, with all its tables in stock: [`commit`](Self::commit) cannot fail.
#[derive(Debug)]
#[must_use = "nothing is mapped before commit"]
pub struct MapPlan<'a> {
    stage2: &'a mut Stage2,
    mapping: Mapping,
    range: Range,
}

impl MapPlan<'_> {
    /// Makes the mapping. No TLB work: nothing was valid there.
    pub fn commit<M: TableMemory + ?Sized>(self, memory: &mut M) {
        let Self {
            stage2,
            mapping,
            range,
        } = self;
        let mut ipa = range.start;
        while ipa < range.end {
            let slot = stage2.slot(memory, ipa);
            let level = mapping.fitting(ipa, range.end, slot.level);
            if level > slot.level {
                if stage2.link_table(memory, &slot).is_err() {
                    // Cannot be: prepare_map counted the tables. Stop rather than loop.
                    debug_assert!(false, "tables were reserved");
                    break;
                }
                continue;
            }
            ipa = ipa.saturating_add(stage2.put_leaf(memory, &slot, &mapping, ipa, range.end));
        }
        memory.publish();
    }
}

impl Stage2 {
    /// Checks a mapping and reserves its tables. Changes no translation.
    ///
    /// Cost: one walk for each leaf, and one for each table that is missing; callers with much to map at page
    /// grain go in pieces.
    ///
    /// # Errors
    /// `Misaligned`, `OutOfRange`, `AlreadyMapped` or `NoTable`.
    pub fn prepare_map<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        mapping: Mapping,
    ) -> Result<MapPlan<'_>, Stage2Error> {
        let range = Range::new(mapping.ipa, mapping.bytes)?;
        if !mapping.pa.is_aligned(PAGE_SIZE) {
            return Err(Stage2Error::Misaligned);
        }
        if mapping.pa.checked_add(mapping.bytes).is_none() {
            return Err(Stage2Error::OutOfRange);
        }
        let tables = self.tables_for(memory, &mapping, range)?;
        self.reserve(memory, tables)?;
        Ok(MapPlan {
            stage2: self,
            mapping,
            range,
        })
    }

    /// [`prepare_map`](Self::prepare_map) and [`MapPlan::commit`] in one.
    ///
    /// # Errors
    /// As `prepare_map`.
    pub fn map<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        mapping: Mapping,
    ) -> Result<(), Stage2Error> {
        self.prepare_map(memory, mapping)?.commit(memory);
        Ok(())
    }

    /// Maps one page where nothing is: the short way for a first touch. Two tables at most are
    /// allocated. No TLB work.
    ///
    /// # Errors
    /// `AlreadyMapped` (another vCPU was first: resume the guest), `NoTable`, `Misaligned`, `OutOfRange`.
    pub fn set_page<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        ipa: Ipa,
        pa: Pa,
        attrs: Stage2Attrs,
    ) -> Result<(), Stage2Error> {
        let range = Range::new(ipa, PAGE_SIZE)?;
        if !pa.is_aligned(PAGE_SIZE) {
            return Err(Stage2Error::Misaligned);
        }
        let mut slot = self.slot(memory, range.start);
        if slot.raw != 0 {
            return Err(Stage2Error::AlreadyMapped);
        }
        let missing = Level::L3.number().saturating_sub(slot.level.number());
        self.reserve(memory, missing)?;
        for _ in 0..missing {
            self.link_table(memory, &slot)?;
            slot = self.slot(memory, range.start);
        }
        memory.store(
            slot.entry,
            Stage2Desc::Leaf {
                pa,
                attrs,
                contiguous: false,
            }
            .encode(Level::L3),
        );
        adjust_children(memory, slot.above[0], 1);
        self.count(Level::L3, 1, 0);
        memory.publish();
        Ok(())
    }

    /// Tables that a mapping needs, having seen that nothing is in its way.
    fn tables_for<M: TableMemory + ?Sized>(
        &self,
        memory: &M,
        mapping: &Mapping,
        range: Range,
    ) -> Result<u32, Stage2Error> {
        let mut tables: u32 = 0;
        // Ends of the spans of the tables that were counted last at levels 2 and 3.
        let (mut end2, mut end3) = (0, 0);
        let mut ipa = range.start;
        while ipa < range.end {
            let slot = self.slot(memory, ipa);
            if slot.raw != 0 {
                return Err(Stage2Error::AlreadyMapped);
            }
            let level = mapping.fitting(ipa, range.end, slot.level);
            if slot.level < Level::L2 && level > Level::L1 && ipa >= end2 {
                tables = tables.saturating_add(1);
                end2 = span_end(ipa, Level::L1);
            }
            if slot.level < Level::L3 && level > Level::L2 && ipa >= end3 {
                tables = tables.saturating_add(1);
                end3 = span_end(ipa, Level::L2);
            }
            ipa = if slot.level < Level::L3 {
                // Nothing is in the rest of this slot either.
                span_end(ipa, level.min(Level::L2))
            } else {
                ipa.saturating_add(PAGE_SIZE)
            };
        }
        Ok(tables)
    }

    /// Writes the leaf, or the contiguous run of leaves, that fits at `ipa`; returns its bytes.
    fn put_leaf<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        slot: &Slot,
        mapping: &Mapping,
        ipa: u64,
        end: u64,
    ) -> u64 {
        let pa = mapping.pa_of(ipa);
        let bytes = slot.level.run_bytes();
        let run = slot.level > Level::L1
            && mapping.largest < slot.level
            && (ipa | pa) & (bytes - 1) == 0
            && end.saturating_sub(ipa) >= bytes;
        let leaf = Stage2Desc::Leaf {
            pa: Pa::truncated(pa),
            attrs: mapping.attrs,
            contiguous: run,
        };
        let raw = leaf.encode(slot.level);
        if !run {
            memory.store(slot.entry, raw);
            adjust_children(memory, slot.above[0], 1);
            self.count(slot.level, 1, 0);
            return slot.level.entry_bytes();
        }
        // The run is vacant: prepare_map saw it so, and a run lies in one table.
        Run::around(slot).put(memory, raw);
        adjust_children(memory, slot.above[0], CONTIGUOUS_ENTRIES.cast_signed());
        self.count(slot.level, CONTIGUOUS_ENTRIES, 0);
        self.count_runs(slot.level, 1, 0);
        bytes
    }

    /// Makes the page descriptor at `slot` out of its reserved form: the inner step of
    /// [`touch`](Stage2::touch).
    pub(crate) fn validate_page<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        slot: &Slot,
    ) -> u64 {
        memory.store(slot.entry, slot.raw | bits::VALID);
        let mut now = 0;
        if let Some(at) = slot.above[0] {
            let raw = one_child_more(memory.load(at));
            memory.store(at, raw);
            now = super::children(raw);
        }
        self.counts.pages = self.counts.pages.saturating_add(1);
        now
    }
}

/// Where the span of the entry of `level` around `ipa` ends.
pub(crate) const fn span_end(ipa: u64, level: Level) -> u64 {
    (ipa | (level.entry_bytes() - 1)).saturating_add(1)
}
