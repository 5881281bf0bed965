//! What the paging code needs of memory: frames for tables, and access to their descriptors.

use penumbra_vmsa::Pa;

/// Frames for translation tables, and the descriptors in them.
///
/// `hal` implements this over EL2's direct map and the VM's stock of frames; tests over a map.
pub trait TableMemory {
    /// A 4 KiB frame for a table: zeroed, and clean to the point that walkers read from.
    fn alloc_table(&mut self) -> Option<Pa>;

    /// Takes back a frame that no walker can reach any more. Its contents are arbitrary.
    fn free_table(&mut self, table: Pa);

    /// Reads the descriptor at `entry`, 8-byte aligned, inside a table of this memory. One
    /// single-copy atomic load.
    fn load(&self, entry: Pa) -> u64;

    /// Of `count` descriptors in a row, a multiple of 8, the first at `first`, all in one table: the bits in which any
    /// differs from what it would be if the first were `wanted` and each added `step` to the one before. Each is read
    /// by one single-copy atomic load, in any order.
    fn differences(&self, first: Pa, count: u64, wanted: u64, step: u64) -> u64 {
        let (mut differ, mut wanted) = (0, wanted);
        for index in 0..count {
            let at = Pa::truncated(first.raw().wrapping_add(index << 3));
            differ |= self.load(at) ^ wanted;
            wanted = wanted.wrapping_add(step);
        }
        differ
    }

    /// Of 64 descriptors in a row, the first at `first`, aligned to all of them: a bit for each that equals `wanted`
    /// in the bits of `mask`. Read as by [`Self::differences`].
    fn equal(&self, first: Pa, wanted: u64, mask: u64) -> u64 {
        (0..u64::BITS).fold(0, |found, index| {
            let raw = self.load(Pa::truncated(first.raw() | u64::from(index) << 3));
            found | u64::from((raw ^ wanted) & mask == 0) << index
        })
    }

    /// Writes the descriptor at `entry`. One single-copy atomic store with release order, so that
    /// a walker which sees a table descriptor also sees the table.
    fn store(&mut self, entry: Pa, raw: u64);

    /// Writes `count` descriptors in a row, a multiple of 8, of a table that no walker knows yet: `value` at `first`, and
    /// each `step` above the one before. Who sees a later [`Self::store`] also sees these.
    fn fill(&mut self, first: Pa, count: u64, value: u64, step: u64) {
        let mut value = value;
        for index in 0..count {
            self.store(Pa::truncated(first.raw().wrapping_add(index << 3)), value);
            value = value.wrapping_add(step);
        }
    }

    /// Makes all stores visible to walkers: DSB ISHST. Not called before a TLB flush, which has its own.
    fn publish(&mut self);
}

/// Address of entry `index` (below 512) of `table`.
pub(crate) const fn entry(table: Pa, index: u64) -> Pa {
    Pa::truncated(table.raw() | (index & 0x1ff) << 3)
}

/// A list of frames that are no live tables, linked through their first word. The links are even
/// numbers: to a walker that still reads such a frame they are invalid descriptors.
#[derive(Debug, Default)]
pub(crate) struct TableList {
    head: Option<Pa>,
    length: u32,
}

impl TableList {
    pub(crate) const fn new() -> Self {
        Self {
            head: None,
            length: 0,
        }
    }

    pub(crate) const fn length(&self) -> u32 {
        self.length
    }

    /// Whether a frame is on the list.
    pub(crate) fn contains<M: TableMemory + ?Sized>(&self, memory: &M, table: Pa) -> bool {
        let mut at = self.head;
        for _ in 0..self.length {
            match at {
                Some(here) if here == table => return true,
                Some(here) => at = Some(Pa::truncated(memory.load(here))),
                None => return false,
            }
        }
        false
    }

    pub(crate) fn push<M: TableMemory + ?Sized>(&mut self, memory: &mut M, table: Pa) {
        // No frame that holds a table lies at address 0, so 0 ends the list.
        memory.store(table, self.head.map_or(0, Pa::raw));
        self.head = Some(table);
        self.length = self.length.saturating_add(1);
    }

    /// Takes a frame off the list. Its first word is 0 again.
    pub(crate) fn pop<M: TableMemory + ?Sized>(&mut self, memory: &mut M) -> Option<Pa> {
        let table = self.head?;
        let next = memory.load(table);
        self.head = if next == 0 {
            None
        } else {
            Some(Pa::truncated(next))
        };
        self.length = self.length.saturating_sub(1);
        memory.store(table, 0);
        Some(table)
    }
}
