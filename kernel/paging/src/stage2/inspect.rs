//! Reading stage-2 tables: software walk, enumeration, teardown.

use penumbra_vmsa::{Ipa, Level, Pa, Stage2Attrs, Stage2Desc, bits};

use super::map::span_end;
use super::{IPA_SPACE_BYTES, Stage2, Stage2Error, next_table};
use crate::memory::{TableMemory, entry};
use crate::tlb::Flushed;

/// A stage-2 leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// First IPA of the leaf.
    pub ipa: Ipa,
    /// First PA of the leaf.
    pub pa: Pa,
    /// Level: 1 GiB, 2 MiB or a page.
    pub level: Level,
    /// Attributes.
    pub attrs: Stage2Attrs,
    /// Part of a run of 16.
    pub contiguous: bool,
}

impl Leaf {
    /// Bytes that the leaf maps.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.level.entry_bytes()
    }

    /// IPA behind the leaf: where to go on enumerating; `None` behind the last.
    #[must_use]
    pub fn end(&self) -> Option<Ipa> {
        self.ipa
            .checked_add(self.bytes())
            .filter(|end| end.raw() < IPA_SPACE_BYTES)
    }

    /// PA of an IPA inside the leaf.
    #[must_use]
    pub const fn pa_of(&self, ipa: Ipa) -> Pa {
        let offset = ipa.raw() & self.bytes().wrapping_sub(1);
        Pa::truncated(self.pa.raw() | offset)
    }
}

/// MemAttr and S2AP of a leaf.
const RAM_FIELDS: u64 = 0b1111 << 2 | 0b11 << 6;
/// What they are for the RAM of a guest.
const WRITABLE_RAM: u64 = Stage2Attrs::RAM.encode() & RAM_FIELDS;

/// Where a page of guest RAM lies, and what says so. Holds as long as the tables are locked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RamPage {
    pub(crate) pa: Pa,
    /// The leaf that it lies in, and where that is.
    pub(super) entry: Pa,
    pub(super) raw: u64,
    /// The leaf is a page of its own.
    pub(crate) is_alone: bool,
}

/// Number of leaves by size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeafCounts {
    /// 1 GiB blocks.
    pub gib: u64,
    /// 2 MiB blocks, those in contiguous runs included.
    pub mib2: u64,
    /// Pages, those in contiguous runs included.
    pub pages: u64,
    /// Contiguous runs of sixteen 2 MiB blocks.
    pub runs: u64,
}

impl LeafCounts {
    pub(crate) const NONE: Self = Self {
        gib: 0,
        mib2: 0,
        pages: 0,
        runs: 0,
    };

    /// Bytes that are mapped.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.gib
            .saturating_mul(Level::L1.entry_bytes())
            .saturating_add(self.mib2.saturating_mul(Level::L2.entry_bytes()))
            .saturating_add(self.pages.saturating_mul(Level::L3.entry_bytes()))
    }
}

/// Why a stage-2 walk found nothing, as the hardware would say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The IPA is beyond the IPA space: translation fault at level 0.
    Beyond,
    /// Translation fault at this level.
    Translation(Level),
}

impl Stage2 {
    /// Walks in software. Three loads at most; permissions and access flag are the caller's to judge.
    ///
    /// # Errors
    /// Where the walk ended.
    pub fn lookup<M: TableMemory + ?Sized>(&self, memory: &M, ipa: Ipa) -> Result<Leaf, Miss> {
        if ipa.raw() >= IPA_SPACE_BYTES {
            return Err(Miss::Beyond);
        }
        let slot = self.slot(memory, ipa.raw());
        match Stage2Desc::decode(slot.level, slot.raw) {
            Stage2Desc::Leaf {
                pa,
                attrs,
                contiguous,
            } => {
                let ipa = Ipa::truncated(slot.base());
                Ok(Leaf {
                    ipa,
                    pa,
                    level: slot.level,
                    attrs,
                    contiguous,
                })
            }
            _ => Err(Miss::Translation(slot.level)),
        }
    }

    /// A page that the guest may load and store as write-back memory, sampled or not. As
    /// [`Self::lookup`], for those who look at many.
    #[inline]
    pub(crate) fn writable_ram<M: TableMemory + ?Sized>(
        &self,
        memory: &M,
        page: Ipa,
    ) -> Option<RamPage> {
        if page.raw() >= IPA_SPACE_BYTES {
            return None;
        }
        let slot = self.slot(memory, page.raw());
        let is_ram = (slot.raw ^ WRITABLE_RAM) & RAM_FIELDS == 0;
        if slot.kind() != bits::Kind::Leaf || !is_ram {
            return None;
        }
        let offset = page.raw() & slot.level.entry_bytes().wrapping_sub(1);
        Some(RamPage {
            pa: Pa::truncated(slot.raw & bits::leaf_address(slot.level) | offset),
            entry: slot.entry,
            raw: slot.raw,
            is_alone: slot.level == Level::L3 && slot.raw & bits::CONTIGUOUS == 0,
        })
    }

    /// The first leaf at or above `from`; a leaf that `from` lies in counts. Bounded: 3072 loads.
    ///
    /// An audit or a census enumerates with `from` = [`Leaf::end`] of the leaf before.
    pub fn next_leaf<M: TableMemory + ?Sized>(&self, memory: &M, from: Ipa) -> Option<Leaf> {
        let mut ipa = from.raw();
        while ipa < IPA_SPACE_BYTES {
            let at = Ipa::truncated(ipa);
            match self.lookup(memory, at) {
                Ok(leaf) => return Some(leaf),
                Err(Miss::Translation(level)) => ipa = span_end(ipa, level),
                Err(Miss::Beyond) => return None,
            }
        }
        None
    }

    /// Frees tables, `limit` at most, of a VM that no core runs any more. Returns whether all but
    /// the root are free. The leaves' frames are the caller's: enumerate them first.
    ///
    /// # Errors
    /// `NotFlushed` unless `flushed` came from [`flush_all`](Self::flush_all) after the last edit.
    pub fn teardown<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        flushed: &Flushed,
        limit: u32,
    ) -> Result<bool, Stage2Error> {
        if !flushed.covers_tables(self.serial) {
            return Err(Stage2Error::NotFlushed);
        }
        let mut freed: u32 = 0;
        while freed < limit {
            let spare = (self.stock.pop(memory))
                .or_else(|| self.quarantine.pop(memory))
                .or_else(|| self.take_home_table(memory));
            let table = match spare {
                Some(table) => table,
                None => match self.detach(memory) {
                    Some(table) => table,
                    None => {
                        self.counts = LeafCounts::NONE;
                        return Ok(true);
                    }
                },
            };
            memory.free_table(table);
            freed = freed.saturating_add(1);
        }
        Ok(false)
    }

    /// Takes the first table without tables below it out of the tree, and clears root leaves that
    /// lie before it.
    fn detach<M: TableMemory + ?Sized>(&mut self, memory: &mut M) -> Option<Pa> {
        let mut ipa = 0;
        while ipa < IPA_SPACE_BYTES {
            let root = self.root_entry(ipa);
            let raw = memory.load(root);
            if bits::kind(Level::L1, raw) == bits::Kind::Table {
                let table = next_table(raw);
                for index in 0..penumbra_vmsa::TABLE_ENTRIES {
                    let at = entry(table, index);
                    let below = memory.load(at);
                    if bits::kind(Level::L2, below) == bits::Kind::Table {
                        memory.store(at, 0);
                        self.tables = self.tables.saturating_sub(1);
                        return Some(next_table(below));
                    }
                }
                memory.store(root, 0);
                self.tables = self.tables.saturating_sub(1);
                return Some(table);
            }
            if raw != 0 {
                memory.store(root, 0);
            }
            ipa = span_end(ipa, Level::L1);
        }
        None
    }
}
