//! Stage-2 tables of one VM: 40-bit IPAs, 4 KiB granule, two concatenated level-1 tables.
//!
//! [`Stage2`] owns the tables, not the memory that they map. Its methods live in `stage2/`: `map`
//! adds, `edit` changes and removes, `inspect` reads; [`thin`](crate::thin) is about memory that
//! is populated by faults. Invariants:
//! - every table but the root holds at least one valid or reserved descriptor, and the table
//!   descriptor above counts the valid ones in bits that hardware ignores (11:2);
//! - a live descriptor is replaced in place only where `requires_bbm` says that it may be, and
//!   never inside a contiguous run; all else goes through invalid and a completed flush. A vCPU that
//!   faults meanwhile finds the descriptor valid once it has the VM's lock: it just resumes;
//! - a table taken out of the tree is in quarantine until a flush of the VM is proven.

mod audit;
mod edit;
mod home;
mod inspect;
mod map;
mod runs;
#[cfg(test)]
mod tests;

use penumbra_vmsa::{Ipa, Level, Pa, Stage2Desc, Stage2Geometry, bits};

use crate::memory::{TableList, TableMemory, entry};
use crate::tlb::{Flushed, TlbScope, TlbWork};

pub use edit::Stage2Change;
pub(crate) use inspect::RamPage;
pub use inspect::{Leaf, LeafCounts, Miss};
pub use map::{MapPlan, Mapping};

/// Why an operation on stage-2 tables was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stage2Error {
    /// An address or size is not a multiple of what it must be.
    Misaligned,
    /// The range is empty or leaves the IPA or PA space.
    OutOfRange,
    /// Something is mapped or reserved there.
    AlreadyMapped,
    /// Nothing is mapped there.
    NotMapped,
    /// No frame for a table.
    NoTable,
    /// The leaves do not follow each other with equal attributes, so they cannot become one.
    NotUniform,
    /// The flush that was shown does not cover the tables.
    NotFlushed,
}

/// Geometry of every VM.
const GEOMETRY: Stage2Geometry = Stage2Geometry::PENUMBRA;
/// Bytes of the root: two tables, aligned to their size.
pub const ROOT_BYTES: u64 = GEOMETRY.root_bytes();
/// Bytes of the IPA space.
pub const IPA_SPACE_BYTES: u64 = 1 << GEOMETRY.ipa_bits();

/// In a table descriptor: number of valid descriptors in that table. Hardware ignores bits 11:2 of
/// a table descriptor with the 4 KiB granule (Arm ARM DDI 0487 L.b, D8.3.1; FEAT_HAFT stays off).
const CHILDREN_SHIFT: u32 = 2;
const CHILDREN_MASK: u64 = 0x3ff << CHILDREN_SHIFT;
/// In a table descriptor: the table holds reserved slots, so it stays when nothing in it is valid.
pub(crate) const HOLDS_RESERVED: u64 = 1 << 55;

/// The stage-2 tables of one VM.
#[derive(Debug)]
pub struct Stage2 {
    root: Pa,
    /// Frames taken from memory ahead of an edit, which then cannot fail.
    stock: TableList,
    /// Tables out of the tree that a walker may still know.
    quarantine: TableList,
    quarantine_serial: u64,
    /// Which regions frames belong to: the root of the records.
    homes: Option<Pa>,
    /// Counts edits that owe TLB work.
    serial: u64,
    /// Counts edits behind which a page may lie elsewhere, or not be what it was.
    changes: u64,
    counts: LeafCounts,
    tables: u32,
    /// Tables of the records of where frames belong.
    records: u32,
}

/// Where the walk for an IPA ends: the deepest descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// The IPA that was walked for.
    pub(crate) ipa: u64,
    pub(crate) level: Level,
    pub(crate) entry: Pa,
    pub(crate) raw: u64,
    /// The table descriptor that led here, and the one above it, as addresses of their entries.
    pub(crate) above: [Option<Pa>; 2],
}

impl Slot {
    pub(crate) const fn kind(&self) -> bits::Kind {
        bits::kind(self.level, self.raw)
    }

    /// First IPA that the descriptor is about.
    pub(crate) const fn base(&self) -> u64 {
        self.ipa & !self.level.entry_bytes().wrapping_sub(1)
    }
}

/// A page-aligned, non-empty range of IPAs, as numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    pub(crate) fn new(ipa: Ipa, bytes: u64) -> Result<Self, Stage2Error> {
        if !ipa.is_aligned(penumbra_vmsa::PAGE_SIZE)
            || !bytes.is_multiple_of(penumbra_vmsa::PAGE_SIZE)
        {
            return Err(Stage2Error::Misaligned);
        }
        let end = ipa
            .raw()
            .checked_add(bytes)
            .ok_or(Stage2Error::OutOfRange)?;
        if bytes == 0 || end > IPA_SPACE_BYTES {
            return Err(Stage2Error::OutOfRange);
        }
        Ok(Self {
            start: ipa.raw(),
            end,
        })
    }

    /// Whether all of `[start, start + bytes)` lies in the range.
    pub(crate) const fn covers(self, start: u64, bytes: u64) -> bool {
        self.start <= start && start.saturating_add(bytes) <= self.end
    }
}

impl Stage2 {
    /// Takes a zeroed root of [`ROOT_BYTES`], aligned to its size. It stays the caller's to free.
    ///
    /// # Errors
    /// [`Stage2Error::Misaligned`].
    pub const fn new(root: Pa) -> Result<Self, Stage2Error> {
        if !root.is_aligned(ROOT_BYTES) {
            return Err(Stage2Error::Misaligned);
        }
        Ok(Self {
            root,
            stock: TableList::new(),
            quarantine: TableList::new(),
            quarantine_serial: 0,
            homes: None,
            serial: 0,
            changes: 0,
            counts: LeafCounts::NONE,
            tables: 0,
            records: 0,
        })
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> Pa {
        self.root
    }

    /// VTTBR_EL2 for these tables under a VMID.
    #[must_use]
    pub const fn vttbr(&self, vmid: u16) -> u64 {
        GEOMETRY.vttbr(self.root, vmid)
    }

    /// Frames that the tables use, root apart: in the tree, in stock, in quarantine, in the records of where frames
    /// belong.
    #[must_use]
    pub const fn table_frames(&self) -> u32 {
        self.tables
            .saturating_add(self.stock.length())
            .saturating_add(self.quarantine.length())
            .saturating_add(self.records)
    }

    /// Changes with each edit that removes something, lets it lead elsewhere or changes who may access it: as long
    /// as it stays, what was found of a page that is mapped still holds, its Access flag and its size apart.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn note_change(&mut self) {
        self.changes = self.changes.wrapping_add(1);
    }

    /// Leaves by size, and runs of blocks.
    #[must_use]
    pub const fn counts(&self) -> LeafCounts {
        self.counts
    }

    /// The obligation to flush everything of the VM.
    pub const fn flush_all(&self) -> TlbWork {
        TlbWork::new(TlbScope::Vm, self.serial)
    }

    /// Frees quarantined tables, `limit` at most, if `flushed` covers them. Returns how many are
    /// left in quarantine.
    pub fn release<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        flushed: &Flushed,
        limit: u32,
    ) -> u32 {
        if flushed.covers_tables(self.quarantine_serial) {
            for _ in 0..limit {
                let Some(table) = self.quarantine.pop(memory) else {
                    break;
                };
                memory.free_table(table);
            }
        }
        self.quarantine.length()
    }

    /// Makes sure that `wanted` tables are in stock.
    pub(crate) fn reserve<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        wanted: u32,
    ) -> Result<(), Stage2Error> {
        while self.stock.length() < wanted {
            let Some(table) = memory.alloc_table() else {
                return Err(Stage2Error::NoTable);
            };
            self.stock.push(memory, table);
        }
        Ok(())
    }

    /// A zeroed table, from the stock first.
    pub(crate) fn take_table<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
    ) -> Result<Pa, Stage2Error> {
        let table = match self.stock.pop(memory) {
            Some(table) => table,
            None => memory.alloc_table().ok_or(Stage2Error::NoTable)?,
        };
        self.tables = self.tables.saturating_add(1);
        Ok(table)
    }

    /// Puts a table that is out of the tree into quarantine.
    pub(crate) fn retire<M: TableMemory + ?Sized>(&mut self, memory: &mut M, table: Pa) {
        self.quarantine.push(memory, table);
        self.tables = self.tables.saturating_sub(1);
        self.quarantine_serial = self.next_serial();
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial = self.serial.saturating_add(1);
        self.serial
    }

    /// Work for what the current edit changed.
    pub(crate) fn work(&mut self, scope: TlbScope) -> TlbWork {
        TlbWork::new(scope, self.next_serial())
    }

    /// Address of the root entry for an IPA inside the IPA space.
    pub(crate) const fn root_entry(&self, ipa: u64) -> Pa {
        Pa::truncated(
            self.root.raw() | (ipa >> Level::L1.shift() & (GEOMETRY.root_entries() - 1)) << 3,
        )
    }

    /// Walks to the deepest descriptor for an IPA inside the IPA space. Three loads at most.
    #[inline]
    pub(crate) fn slot<M: TableMemory + ?Sized>(&self, memory: &M, ipa: u64) -> Slot {
        let at1 = self.root_entry(ipa);
        let raw1 = memory.load(at1);
        if bits::kind(Level::L1, raw1) != bits::Kind::Table {
            return Slot {
                ipa,
                level: Level::L1,
                entry: at1,
                raw: raw1,
                above: [None, None],
            };
        }
        let at2 = entry(next_table(raw1), Level::L2.index(ipa));
        let raw2 = memory.load(at2);
        if bits::kind(Level::L2, raw2) != bits::Kind::Table {
            return Slot {
                ipa,
                level: Level::L2,
                entry: at2,
                raw: raw2,
                above: [Some(at1), None],
            };
        }
        let at3 = entry(next_table(raw2), Level::L3.index(ipa));
        let raw = memory.load(at3);
        Slot {
            ipa,
            level: Level::L3,
            entry: at3,
            raw,
            above: [Some(at2), Some(at1)],
        }
    }

    /// Links a new, empty table below the vacant `slot` and returns its first entry's address.
    pub(crate) fn link_table<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        slot: &Slot,
    ) -> Result<Pa, Stage2Error> {
        let table = self.take_table(memory)?;
        memory.store(slot.entry, table_desc(table, 0));
        adjust_children(memory, slot.above[0], 1);
        Ok(table)
    }

    /// Counts leaves of `level` in or out.
    pub(crate) fn count(&mut self, level: Level, added: u64, removed: u64) {
        let field = match level {
            Level::L1 => &mut self.counts.gib,
            Level::L2 => &mut self.counts.mib2,
            Level::L0 | Level::L3 => &mut self.counts.pages,
        };
        *field = field.saturating_add(added).saturating_sub(removed);
    }
}

/// The table that a table descriptor points at.
pub(crate) const fn next_table(raw: u64) -> Pa {
    Pa::truncated(raw & bits::TABLE_ADDRESS)
}

/// A table descriptor with a number of children.
pub(crate) const fn table_desc(table: Pa, children: u64) -> u64 {
    let raw = Stage2Desc::Table { next: table }.encode(Level::L2);
    raw | children << CHILDREN_SHIFT & CHILDREN_MASK
}

/// Number of valid descriptors in the table that a table descriptor points at.
pub(crate) const fn children(raw: u64) -> u64 {
    (raw & CHILDREN_MASK) >> CHILDREN_SHIFT
}

/// A table descriptor with one child more. The caller knows that there is room.
pub(crate) const fn one_child_more(raw: u64) -> u64 {
    raw.wrapping_add(1 << CHILDREN_SHIFT)
}

/// Changes the number of children in the table descriptor at `at`; nothing for the root.
pub(crate) fn adjust_children<M: TableMemory + ?Sized>(
    memory: &mut M,
    at: Option<Pa>,
    change: i64,
) {
    if let Some(at) = at {
        let raw = memory.load(at);
        let count = children(raw).saturating_add_signed(change);
        memory.store(
            at,
            raw & !CHILDREN_MASK | count << CHILDREN_SHIFT & CHILDREN_MASK,
        );
    }
}
