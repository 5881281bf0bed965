//! Walks of the guest's tables that are known: what each read, and where it ended.
//!
//! A guest that fills a table stores to one page again and again, through one mapping. As long as the registers that
//! a walk starts from, each word that it read and stage 2 are what they were, it would end where it ended; so
//! to look at those words again does for the walk.

use penumbra_vmsa::{Ipa, PAGE_SIZE, Pa, Va};

use super::{Access, Compound, WINDOW_BIT};
use crate::memory::TableMemory;
use crate::stage1::GuestMemory;
use crate::tlb::TlbSink;

/// Walks that are remembered of a VM, by VA.
const KNOWN: usize = 4;

/// What a walk for a store depends on besides tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredBy {
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// TCR_EL1.
    pub tcr: u64,
    /// The root, from the TTBR of the address's half, as the guest means it.
    pub root: u64,
    /// MAIR_EL1.
    pub mair: u64,
    /// The bits of PSTATE that say whose rights the store has.
    pub rights: u64,
}

/// What a walk read: where each descriptor lies, the first one first, and what it was; 0 behind the last.
#[derive(Clone, Copy, Debug, Default)]
pub struct WalkRead([(u64, u64); 4]);

/// A guest's memory for one walk, which notes what is read.
#[derive(Debug)]
pub struct Noted<'a, 'b, M: ?Sized, T: ?Sized> {
    vm: &'a Access<'b, M, T>,
    read: WalkRead,
    count: usize,
    /// All of it was the guest's own.
    own: bool,
}

impl<'b, M: TableMemory + ?Sized, T: TlbSink + ?Sized> Access<'b, M, T> {
    /// For a walk of which it is to be noted what it reads.
    pub const fn noted(&self) -> Noted<'_, 'b, M, T> {
        Noted {
            vm: self,
            read: WalkRead([(0, 0); 4]),
            count: 0,
            own: true,
        }
    }
}

impl<M: ?Sized, T: ?Sized> Noted<'_, '_, M, T> {
    /// What was read, if it may be remembered.
    #[must_use]
    pub fn read(&self) -> Option<WalkRead> {
        self.own.then_some(self.read)
    }
}

impl<M: TableMemory + ?Sized, T: TlbSink + ?Sized> GuestMemory for Noted<'_, '_, M, T> {
    fn read_descriptor(&mut self, ipa: Ipa) -> Option<u64> {
        let (at, raw) = self.vm.descriptor(ipa)?;
        // What lies in the window is ours, and stays so only while nobody makes it anew.
        self.own &= ipa.raw() < WINDOW_BIT;
        match self.read.0.get_mut(self.count) {
            Some(slot) => *slot = (at.raw(), raw),
            None => self.own = false,
        }
        self.count = self.count.saturating_add(1);
        Some(raw)
    }
}

/// A walk that ended at a page that the guest may store to as cached memory.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The page's VA, and 1; 0: nothing.
    va: u64,
    by: StoredBy,
    /// [`Stage2::changes`](crate::stage2::Stage2::changes).
    changes: u64,
    read: WalkRead,
    page: Ipa,
    pa: Pa,
}

impl Known {
    const NOTHING: Self = Self {
        va: 0,
        by: StoredBy {
            sctlr: 0,
            tcr: 0,
            root: 0,
            mair: 0,
            rights: 0,
        },
        changes: 0,
        read: WalkRead([(0, 0); 4]),
        page: Ipa::truncated(0),
        pa: Pa::truncated(0),
    };
}

/// The walks that are remembered.
#[derive(Debug)]
pub(super) struct KnownWalks([Known; KNOWN]);

impl KnownWalks {
    /// None: all zero.
    pub(super) const fn new() -> Self {
        Self([Known::NOTHING; KNOWN])
    }

    /// None any more, in place.
    pub(super) fn clear(&mut self) {
        self.0.fill(Known::NOTHING);
    }

    const fn place(va: Va) -> (usize, u64) {
        let page = va.raw() & !(PAGE_SIZE - 1);
        ((va.raw() / PAGE_SIZE) as usize % KNOWN, page | 1)
    }
}

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// As [`store`](Self::store), for a store through a mapping that is known: whether it was, and the store is
    /// done. If not, nothing was.
    ///
    /// The caller has checked the instruction, and holds the VM's lock.
    #[inline]
    pub fn store_known<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        va: Va,
        by: &StoredBy,
        value: u64,
    ) -> bool {
        let (number, page) = KnownWalks::place(va);
        let Some(known) = self.known.0.get(number) else {
            return false;
        };
        if known.va != page || known.by != *by || known.changes != vm.stage2.changes() {
            return false;
        }
        for (at, raw) in &known.read.0 {
            if *at == 0 {
                break;
            }
            if vm.memory.load(Pa::truncated(*at)) != *raw {
                return false;
            }
        }
        let ipa = Ipa::truncated(known.page.raw() | va.raw() & (PAGE_SIZE - 1));
        let pa = known.pa;
        self.store_at(vm, (ipa, pa), value)
    }

    /// Remembers a walk for `va` that has `read` what leads to `page`, a watched page, just now, with the right to
    /// store to it as to cached memory.
    pub fn remember<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &Access<'_, M, T>,
        (va, page): (Va, Ipa),
        by: &StoredBy,
        read: WalkRead,
    ) {
        let page = page.align_down(PAGE_SIZE);
        let Some(pa) = vm.table_pa(page) else { return };
        let (number, va) = KnownWalks::place(va);
        if let Some(known) = self.known.0.get_mut(number) {
            *known = Known {
                va,
                by: *by,
                changes: vm.stage2.changes(),
                read,
                page,
                pa,
            };
        }
    }
}
