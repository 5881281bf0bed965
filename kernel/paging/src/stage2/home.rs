//! Which region a frame belongs to: the inverse of stage 2, for frames whose pages were exchanged.
//!
//! Pages change places by exchange only. So a frame of which no page ever did still has all those of the region that it
//! was put behind, and needs no record; that is made when the first one is about to go, by where it lies. The
//! records form a tree by PA, of tables that no walker knows: one for the GiB of RAM, and one below it for each
//! that has such frames.

use penumbra_vmsa::{Ipa, Level, Pa};

use super::{Stage2, Stage2Error};
use crate::memory::{TableMemory, entry};
use crate::thin::REGION_BYTES;

/// The records reach to 512 GiB of PA.
const END_SHIFT: u32 = Level::L1.shift() + 9;
/// In a record, beside the region's IPA: there is one.
const KNOWN: u64 = 1;

impl Stage2 {
    /// Notes which region the frame belongs to in which `page` lies, at `pa`, before that page goes elsewhere.
    ///
    /// # Errors
    /// `NoTable`, `OutOfRange` (no frame of RAM lies so high).
    #[inline]
    pub(crate) fn note_home<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        page: Ipa,
        pa: Pa,
    ) -> Result<(), Stage2Error> {
        if self.home(memory, pa).is_some() {
            return Ok(());
        }
        self.add_home(memory, page, pa)
    }

    #[cold]
    fn add_home<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        page: Ipa,
        pa: Pa,
    ) -> Result<(), Stage2Error> {
        if pa.raw() >> END_SHIFT != 0 {
            return Err(Stage2Error::OutOfRange);
        }
        let root = match self.homes {
            Some(root) => root,
            None => {
                let root = self.take_record(memory)?;
                self.homes = Some(root);
                root
            }
        };
        let above = entry(root, Level::L1.index(pa.raw()));
        let mut table = memory.load(above);
        if table == 0 {
            table = self.take_record(memory)?.raw();
            memory.store(above, table);
        }
        let record = entry(Pa::truncated(table), Level::L2.index(pa.raw()));
        memory.store(record, page.align_down(REGION_BYTES).raw() | KNOWN);
        Ok(())
    }

    /// A table for records, which is none of the tree's.
    fn take_record<M: TableMemory + ?Sized>(&mut self, memory: &mut M) -> Result<Pa, Stage2Error> {
        let table = self.take_table(memory)?;
        self.tables = self.tables.saturating_sub(1);
        self.records = self.records.saturating_add(1);
        Ok(table)
    }

    /// The page that belongs to a frame of 4 KiB. `None`: nothing of the 2 MiB around it was ever exchanged, so
    /// what lies there is at home.
    #[inline]
    pub(crate) fn home<M: TableMemory + ?Sized>(&self, memory: &M, pa: Pa) -> Option<Ipa> {
        let table = memory.load(entry(self.homes?, Level::L1.index(pa.raw())));
        if table == 0 || pa.raw() >> END_SHIFT != 0 {
            return None;
        }
        let record = entry(Pa::truncated(table), Level::L2.index(pa.raw()));
        let region = memory.load(record).checked_sub(KNOWN)?;
        Some(Ipa::truncated(region | pa.raw() & (REGION_BYTES - 1)))
    }

    /// Takes a table of the records out of them, the root last.
    pub(super) fn take_home_table<M: TableMemory + ?Sized>(
        &mut self,
        memory: &mut M,
    ) -> Option<Pa> {
        let root = self.homes?;
        self.records = self.records.saturating_sub(1);
        for index in 0..penumbra_vmsa::TABLE_ENTRIES {
            let above = entry(root, index);
            let table = memory.load(above);
            if table != 0 {
                memory.store(above, 0);
                return Some(Pa::truncated(table));
            }
        }
        self.homes.take()
    }
}

#[cfg(test)]
mod tests {
    use penumbra_vmsa::GIB;

    use super::*;
    use crate::fake::FakeMemory;

    #[test]
    fn a_frame_belongs_where_its_first_page_lay() {
        let mut memory = FakeMemory::default();
        let mut stage2 = Stage2::new(Pa::truncated(0)).unwrap();
        let (page, pa) = (Ipa::truncated(0x4020_3000), Pa::truncated(GIB | 0x60_3000));
        assert_eq!(stage2.home(&memory, pa), None);
        stage2.note_home(&mut memory, page, pa).unwrap();
        // Whatever lies there later.
        let later = (Ipa::truncated(0x8000_1000), Pa::truncated(GIB | 0x60_1000));
        stage2.note_home(&mut memory, later.0, later.1).unwrap();
        assert_eq!(stage2.home(&memory, pa), Some(page));
        let other = Some(Ipa::truncated(0x4020_1000));
        assert_eq!(stage2.home(&memory, later.1), other);
        // One table for the GiB of RAM and one for this GiB.
        assert_eq!((stage2.table_frames(), memory.live.len()), (2, 2));
        // No record is taken for that of a frame 512 GiB above.
        let beyond = Pa::truncated(pa.raw() + 512 * GIB);
        assert_eq!(stage2.home(&memory, beyond), None);
        let refused = stage2.note_home(&mut memory, page, beyond);
        assert_eq!(refused, Err(Stage2Error::OutOfRange));
        while let Some(table) = stage2.take_home_table(&mut memory) {
            memory.free_table(table);
        }
        assert_eq!((stage2.table_frames(), memory.live.len()), (0, 0));
    }
}
