//! Memory and TLB for unit tests: a map of words, and a log of what was flushed.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use penumbra_vmsa::{Ipa, PAGE_SIZE, Pa};

use crate::{Flushed, GuestMemory, TableMemory, TlbScope, TlbSink, TlbWork};

/// First frame that the fake hands out; roots lie below.
const FIRST: u64 = 0x10_0000;

#[derive(Debug, Default)]
pub(crate) struct FakeMemory {
    pub(crate) words: BTreeMap<u64, u64>,
    pub(crate) live: BTreeSet<u64>,
    pub(crate) limit: Option<usize>,
    /// Words read.
    pub(crate) loads: Cell<u32>,
    next: u64,
    free: Vec<u64>,
}

impl TableMemory for FakeMemory {
    fn alloc_table(&mut self) -> Option<Pa> {
        if self.limit.is_some_and(|limit| self.live.len() >= limit) {
            return None;
        }
        let raw = self.free.pop().unwrap_or_else(|| {
            self.next += PAGE_SIZE;
            FIRST + self.next
        });
        self.words.retain(|&at, _| at & !(PAGE_SIZE - 1) != raw);
        assert!(self.live.insert(raw));
        Some(Pa::truncated(raw))
    }

    fn free_table(&mut self, table: Pa) {
        assert!(self.live.remove(&table.raw()), "freed twice: {table:?}");
        self.free.push(table.raw());
    }

    fn load(&self, entry: Pa) -> u64 {
        self.loads.set(self.loads.get() + 1);
        let table = entry.raw() & !(PAGE_SIZE - 1);
        assert!(
            table < FIRST || self.live.contains(&table),
            "load from a free frame {entry:?}"
        );
        self.words.get(&entry.raw()).copied().unwrap_or(0)
    }

    fn store(&mut self, entry: Pa, raw: u64) {
        let table = entry.raw() & !(PAGE_SIZE - 1);
        assert!(
            table < FIRST || self.live.contains(&table),
            "store to a free frame {entry:?}"
        );
        self.words.insert(entry.raw(), raw);
    }

    fn publish(&mut self) {}
}

#[derive(Debug, Default)]
pub(crate) struct FakeTlb {
    pub(crate) flushed: Vec<TlbScope>,
}

impl TlbSink for FakeTlb {
    fn flush(&mut self, work: TlbWork) -> Flushed {
        self.flushed.push(work.scope());
        work.completed()
    }
}

/// Guest memory as a map of words; what is not in it cannot be read.
#[derive(Debug, Default)]
pub(crate) struct FakeGuest {
    pub(crate) words: BTreeMap<u64, u64>,
    pub(crate) reads: Vec<u64>,
}

impl GuestMemory for FakeGuest {
    fn read_descriptor(&mut self, ipa: Ipa) -> Option<u64> {
        self.reads.push(ipa.raw());
        self.words.get(&ipa.raw()).copied()
    }
}
