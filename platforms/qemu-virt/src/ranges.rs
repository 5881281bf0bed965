//! Ranges of physical addresses in fixed numbers.

use penumbra_vmsa::PAGE_SIZE;

/// A range, half-open, not empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) base: u64,
    pub(crate) end: u64,
}

impl Range {
    /// Takes base and size; `None` if it is empty or leaves the address space.
    pub(crate) fn new(base: u64, bytes: u64) -> Option<Self> {
        let end = base.checked_add(bytes)?;
        (bytes != 0).then_some(Self { base, end })
    }

    pub(crate) const fn bytes(self) -> u64 {
        self.end - self.base
    }

    pub(crate) const fn overlaps(self, other: Self) -> bool {
        self.base < other.end && other.base < self.end
    }

    pub(crate) const fn contains(self, other: Self) -> bool {
        self.base <= other.base && other.end <= self.end
    }

    /// The smallest range of whole pages that covers it.
    pub(crate) fn pages_around(self) -> Self {
        let end = self
            .end
            .checked_next_multiple_of(PAGE_SIZE)
            .unwrap_or(!(PAGE_SIZE - 1));
        Self {
            base: self.base & !(PAGE_SIZE - 1),
            end,
        }
    }

    /// The whole pages in it, if there are any.
    pub(crate) fn pages_within(self) -> Option<Self> {
        let base = self.base.checked_next_multiple_of(PAGE_SIZE)?;
        let end = self.end & !(PAGE_SIZE - 1);
        (base < end).then_some(Self { base, end })
    }
}

/// At most `N` ranges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranges<const N: usize> {
    items: [Range; N],
    count: usize,
}

impl<const N: usize> Default for Ranges<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Ranges<N> {
    pub(crate) const fn new() -> Self {
        Self {
            items: [Range { base: 0, end: 0 }; N],
            count: 0,
        }
    }

    /// Adds a range; an error if there is no room.
    pub(crate) fn push(&mut self, range: Range) -> Result<(), ()> {
        let slot = self.items.get_mut(self.count).ok_or(())?;
        *slot = range;
        self.count += 1;
        Ok(())
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.items.iter().copied().take(self.count)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.iter().map(Range::bytes).sum()
    }

    /// Takes `hole` out of every range. An error if there is no room for the pieces.
    pub(crate) fn remove(&mut self, hole: Range) -> Result<(), ()> {
        let mut left = Self::new();
        for range in self.iter() {
            if !range.overlaps(hole) {
                left.push(range)?;
                continue;
            }
            if range.base < hole.base {
                left.push(Range {
                    base: range.base,
                    end: hole.base,
                })?;
            }
            if hole.end < range.end {
                left.push(Range {
                    base: hole.end,
                    end: range.end,
                })?;
            }
        }
        *self = left;
        Ok(())
    }
}
