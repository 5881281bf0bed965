//! Memory that is populated page by page, out of 2 MiB frames that are reserved IPA-congruent.
//!
//! A *region* is 2 MiB of IPAs behind which one 2 MiB frame is reserved. The bookkeeping lives in
//! the level-3 table itself: an untouched page has its descriptor complete but for the valid bit (a
//! *reserved* slot), so a first touch is three loads and two stores; the table descriptor above
//! counts the valid ones. The frame is there as a whole, so [`promote`](Stage2::promote) may make one block of the region
//! at any time, whether all of it was touched or not.
//!
//! What a fault handler does, with the VM's lock held:
//! ```text
//! match stage2.touch(memory, ipa)? {
//!     Touch::Populated { pages: 16, .. } => stage2.promote(memory, tlb, ipa)  // when it likes
//!     Touch::Populated { .. } | Touch::Present => resume the guest,
//!     Touch::Vacant => take a zeroed 2 MiB frame; stage2.reserve_region(..)?; touch again
//! }
//! ```

use penumbra_vmsa::{Ipa, Level, MIB, PAGE_SIZE, Pa, Stage2Attrs, Stage2Desc, TABLE_ENTRIES, bits};

use crate::memory::{TableMemory, entry};
use crate::stage2::{
    HOLDS_RESERVED, Stage2, Stage2Error, adjust_children, children, next_table, table_desc,
};
use crate::tlb::{TlbSink, TlbWork, leaves};

/// Bytes of a region and of the frame behind it.
pub const REGION_BYTES: u64 = 2 * MIB;

/// What a first touch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// The page was reserved and is mapped now.
    Populated {
        /// Its frame.
        pa: Pa,
        /// Pages of the region that are mapped now.
        pages: u64,
    },
    /// It is mapped already, by another vCPU's touch or before: resume the guest.
    Present,
    /// No region is reserved here.
    Vacant,
}

impl Stage2 {
    /// Puts `frame` behind the region at `ipa`, mapping nothing yet. No TLB work.
    ///
    /// # Errors
    /// `Misaligned` (both 2 MiB), `OutOfRange`, `AlreadyMapped`, `NoTable`.
    pub fn reserve_region<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        ipa: Ipa,
        frame: Pa,
        attrs: Stage2Attrs,
    ) -> Result<(), Stage2Error> {
        if !ipa.is_aligned(REGION_BYTES) || !frame.is_aligned(REGION_BYTES) {
            return Err(Stage2Error::Misaligned);
        }
        if ipa.raw() >= crate::stage2::IPA_SPACE_BYTES || frame.checked_add(REGION_BYTES).is_none()
        {
            return Err(Stage2Error::OutOfRange);
        }
        let mut slot = self.slot(memory, ipa.raw());
        if slot.raw != 0 || slot.level == Level::L3 {
            return Err(Stage2Error::AlreadyMapped);
        }
        let missing = Level::L3.number().saturating_sub(slot.level.number());
        self.reserve(memory, missing)?;
        if slot.level == Level::L1 {
            self.link_table(memory, &slot)?;
            slot = self.slot(memory, ipa.raw());
        }
        let table = self.take_table(memory)?;
        let page = Stage2Desc::Leaf {
            pa: frame,
            attrs,
            contiguous: false,
        }
        .encode(Level::L3);
        memory.fill(table, TABLE_ENTRIES, page & !bits::VALID, PAGE_SIZE);
        memory.store(slot.entry, table_desc(table, 0) | HOLDS_RESERVED);
        adjust_children(memory, slot.above[0], 1);
        memory.publish();
        Ok(())
    }

    /// Maps the page of `ipa` if it is reserved. No TLB work: it was invalid.
    ///
    /// # Errors
    /// `OutOfRange`.
    #[inline]
    pub fn touch<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        ipa: Ipa,
    ) -> Result<Touch, Stage2Error> {
        if ipa.raw() >= crate::stage2::IPA_SPACE_BYTES {
            return Err(Stage2Error::OutOfRange);
        }
        let slot = self.slot(memory, ipa.raw());
        if slot.raw & bits::VALID != 0 {
            return Ok(Touch::Present);
        }
        if slot.raw == 0 || slot.level != Level::L3 {
            return Ok(Touch::Vacant);
        }
        let pages = self.validate_page(memory, &slot);
        memory.publish();
        Ok(Touch::Populated {
            pa: Pa::truncated(slot.raw & bits::TABLE_ADDRESS),
            pages,
        })
    }

    /// Takes a populated page back; its slot is reserved again. The frame must be zeroed, after the
    /// work is done, before the page may be touched or its region promoted again. A promoted region is split first.
    ///
    /// # Errors
    /// `NotMapped`, `NoTable`, `OutOfRange`.
    pub fn untouch<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        ipa: Ipa,
    ) -> Result<(Pa, TlbWork), Stage2Error> {
        self.split(memory, tlb, ipa)?;
        let slot = self.slot(memory, ipa.raw());
        memory.store(slot.entry, slot.raw & !bits::VALID);
        self.note_change();
        adjust_children(memory, slot.above[0], -1);
        if let Some(at) = slot.above[0] {
            let raw = memory.load(at);
            memory.store(at, raw | HOLDS_RESERVED);
        }
        self.count(Level::L3, 0, 1);
        memory.publish();
        let start = ipa.align_down(PAGE_SIZE);
        let end = Ipa::truncated(start.raw().saturating_add(PAGE_SIZE));
        let pa = Pa::truncated(slot.raw & bits::TABLE_ADDRESS);
        Ok((pa, self.work(leaves(start, end, PAGE_SIZE))))
    }

    /// Makes one 2 MiB block of a region, pages that are still reserved included: their frame belongs to the VM in any
    /// case. Reads the table once, and flushes the VM.
    ///
    /// # Errors
    /// `NotMapped` (no region here, or it is a block), `NotUniform` (a page has other attributes, another frame, or
    /// none; nothing was changed), `OutOfRange`.
    pub fn promote<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        ipa: Ipa,
    ) -> Result<(), Stage2Error> {
        self.make_one(memory, tlb, ipa, (Level::L2, bits::VALID))
    }

    /// Takes a whole region away, populated or not, and returns its frame, which must not change
    /// hands before the work is done.
    ///
    /// # Errors
    /// `Misaligned`, `OutOfRange`, `NotMapped` (no region here), `NotUniform` (its pages do not lie in
    /// one frame in IPA order: unmap it page by page), `NoTable`.
    pub fn vacate_region<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        ipa: Ipa,
    ) -> Result<(Pa, TlbWork), Stage2Error> {
        if !ipa.is_aligned(REGION_BYTES) {
            return Err(Stage2Error::Misaligned);
        }
        if ipa.raw() >= crate::stage2::IPA_SPACE_BYTES {
            return Err(Stage2Error::OutOfRange);
        }
        let slot = self.slot(memory, ipa.raw());
        let frame = match (slot.level, slot.kind(), slot.above[0]) {
            (Level::L2, bits::Kind::Leaf, _) => slot.raw & bits::leaf_address(Level::L2),
            (Level::L3, _, Some(at)) => congruent_frame(memory, next_table(memory.load(at)))
                .ok_or(Stage2Error::NotUniform)?,
            _ => return Err(Stage2Error::NotMapped),
        };
        let work = self.unmap(memory, tlb, ipa, REGION_BYTES)?;
        Ok((Pa::truncated(frame), work))
    }

    /// Pages mapped in the region at `ipa`: 512 under a block, 0 where nothing is.
    pub fn populated_pages<M: TableMemory + ?Sized>(&self, memory: &M, ipa: Ipa) -> u64 {
        if ipa.raw() >= crate::stage2::IPA_SPACE_BYTES {
            return 0;
        }
        let slot = self.slot(memory, ipa.raw());
        match (slot.level, slot.kind(), slot.above[0]) {
            (Level::L3, _, Some(at)) => children(memory.load(at)),
            (_, bits::Kind::Leaf, _) => TABLE_ENTRIES,
            _ => 0,
        }
    }
}

/// The 2 MiB frame that all slots of a level-3 table name, valid or reserved, in order.
fn congruent_frame<M: TableMemory + ?Sized>(memory: &M, table: Pa) -> Option<u64> {
    let first = memory.load(table) & bits::TABLE_ADDRESS;
    if first & (REGION_BYTES - 1) != 0 {
        return None;
    }
    let same = |index: u64| {
        let raw = memory.load(entry(table, index));
        raw != 0 && raw & bits::TABLE_ADDRESS == first | index << Level::L3.shift()
    };
    (0..TABLE_ENTRIES).all(same).then_some(first)
}
