//! What the service does to the rest of the VM: guest table pages, stage 2, TLBs.

use penumbra_vmsa::{Ipa, PAGE_SIZE, Pa, Stage2Access, Stage2Memory};

use super::{WINDOW_BIT, entry_ipa};
use crate::memory::{TableMemory, entry};
use crate::stage1::GuestMemory;
use crate::stage2::{Leaf, Stage2, Stage2Change, Stage2Error};
use crate::tlb::TlbSink;

/// Stage 2, memory and TLBs of the VM, lent for one operation. `memory` must also reach the VM's
/// pool frames and the RAM that its stage 2 maps.
#[derive(Debug)]
pub struct Access<'a, M: ?Sized, T: ?Sized> {
    /// The VM's stage 2.
    pub stage2: &'a mut Stage2,
    /// Memory.
    pub memory: &'a mut M,
    /// TLB maintenance.
    pub tlb: &'a mut T,
}

impl<M: TableMemory + ?Sized, T: TlbSink + ?Sized> Access<'_, M, T> {
    /// The leaf behind a guest page that may become a watched table: below the window, write-back
    /// RAM that the guest may write, or did until it was watched.
    pub(super) fn table_ram(&self, page: Ipa) -> Option<Leaf> {
        let leaf = self.ram(page)?;
        (leaf.attrs.access == Stage2Access::ReadWrite).then_some(leaf)
    }

    pub(super) fn ram(&self, ipa: Ipa) -> Option<Leaf> {
        if ipa.raw() >= WINDOW_BIT {
            return None;
        }
        let leaf = self.stage2.lookup(self.memory, ipa).ok()?;
        let write_back = leaf.attrs.memory == Stage2Memory::NormalWriteBack;
        (write_back && leaf.attrs.access.reads()).then_some(leaf)
    }

    /// Where EL2 reads a guest table: for loops over its descriptors.
    pub(super) fn table_pa(&self, page: Ipa) -> Option<Pa> {
        Some(self.ram(page)?.pa_of(page))
    }

    /// Reads a guest descriptor; what cannot be read is invalid.
    pub(super) fn guest_load(&self, ipa: Ipa) -> u64 {
        match self.ram(ipa) {
            Some(leaf) => self.memory.load(leaf.pa_of(ipa)),
            None => 0,
        }
    }

    /// Reads a guest table into a mirror.
    pub(super) fn copy_table(&mut self, guest: Ipa, mirror: Pa) {
        let Some(from) = self.table_pa(guest) else {
            return;
        };
        for index in 0..penumbra_vmsa::TABLE_ENTRIES {
            let raw = self.memory.load(entry(from, index));
            self.memory.store(entry(mirror, index), raw);
        }
    }

    /// Makes a page read-only. The flush is the caller's.
    pub(super) fn protect(&mut self, page: Ipa) -> Result<(), Stage2Error> {
        self.set_access(page, Stage2Access::Read)
    }

    /// Makes a page writable again. The flush is the caller's.
    pub(super) fn unprotect(&mut self, page: Ipa) -> Result<(), Stage2Error> {
        self.set_access(page, Stage2Access::ReadWrite)
    }

    fn set_access(&mut self, page: Ipa, access: Stage2Access) -> Result<(), Stage2Error> {
        let change = Stage2Change::access(access);
        let work = self
            .stage2
            .protect(self.memory, self.tlb, page, PAGE_SIZE, change)?;
        // Every caller flushes all of the VM before the guest runs again.
        drop(work);
        Ok(())
    }

    /// DSB ISHST, TLBI VMALLS12E1IS, DSB ISH: both stages, walk caches included.
    pub fn flush(&mut self) {
        let work = self.stage2.flush_all();
        let flushed = self.tlb.flush(work);
        self.stage2.release(self.memory, &flushed, u32::MAX);
    }
}

impl<M: TableMemory + ?Sized, T: TlbSink + ?Sized> Access<'_, M, T> {
    /// The descriptor at `ipa`, and where it lies; `None` where stage 2 does not let a walker read RAM.
    pub(super) fn descriptor(&self, ipa: Ipa) -> Option<(Pa, u64)> {
        let leaf = self.stage2.lookup(self.memory, ipa).ok()?;
        // A cleared access flag is a sample's; EL2's own walks do not count.
        let readable =
            leaf.attrs.memory == Stage2Memory::NormalWriteBack && leaf.attrs.access.reads();
        let at = leaf.pa_of(ipa);
        readable.then(|| (at, self.memory.load(at)))
    }
}

impl<M: TableMemory + ?Sized, T: TlbSink + ?Sized> GuestMemory for Access<'_, M, T> {
    fn read_descriptor(&mut self, ipa: Ipa) -> Option<u64> {
        self.descriptor(ipa).map(|(_, raw)| raw)
    }
}

/// Reads entry `index` of the guest table at `page`.
pub(super) fn guest_entry<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
    vm: &Access<'_, M, T>,
    page: Ipa,
    index: u64,
) -> u64 {
    vm.guest_load(entry_ipa(page, index))
}
