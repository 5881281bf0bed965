//! Ranges of physical addresses in fixed numbers.

use penumbra_vmsa::PAGE_SIZE;

/// A range, half-open, not empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Its first byte.
    pub base: u64,
    /// The byte after its last one.
    pub end: u64,
}

impl Range {
    /// Takes base and size; `None` if it is empty or leaves the address space.
    #[must_use]
    pub fn new(base: u64, bytes: u64) -> Option<Self> {
        let end = base.checked_add(bytes)?;
        (bytes != 0).then_some(Self { base, end })
    }

    /// Its size.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.end.wrapping_sub(self.base)
    }

    /// Whether both have a byte in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.base < other.end && other.base < self.end
    }

    /// Whether `other` lies in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.base <= other.base && other.end <= self.end
    }

    /// The smallest range of whole pages that covers it.
    #[must_use]
    pub fn pages_around(self) -> Self {
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
    #[must_use]
    pub fn pages_within(self) -> Option<Self> {
        let base = self.base.checked_next_multiple_of(PAGE_SIZE)?;
        let end = self.end & !(PAGE_SIZE - 1);
        (base < end).then_some(Self { base, end })
    }
}

/// There is no room for one more range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Full;

/// At most `N` ranges.
#[derive(Clone, Copy, Debug)]
pub struct Ranges<const N: usize> {
    items: [Range; N],
    count: usize,
}

impl<const N: usize> Default for Ranges<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Ranges<N> {
    /// No ranges.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            items: [Range { base: 0, end: 0 }; N],
            count: 0,
        }
    }

    /// Adds a range.
    ///
    /// # Errors
    /// There is no room.
    pub fn push(&mut self, range: Range) -> Result<(), Full> {
        let slot = self.items.get_mut(self.count).ok_or(Full)?;
        *slot = range;
        self.count = self.count.wrapping_add(1);
        Ok(())
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.items.iter().copied().take(self.count)
    }

    /// Their size together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.iter()
            .fold(0, |sum, range| sum.saturating_add(range.bytes()))
    }

    /// Whether one of them contains `range`.
    #[must_use]
    pub fn contain(&self, range: Range) -> bool {
        self.iter().any(|own| own.contains(range))
    }

    /// Whether one of them has a byte in common with `range`.
    #[must_use]
    pub fn overlap(&self, range: Range) -> bool {
        self.iter().any(|own| own.overlaps(range))
    }

    /// Takes `hole` out of every range.
    ///
    /// # Errors
    /// There is no room for the pieces.
    pub fn remove(&mut self, hole: Range) -> Result<(), Full> {
        if !self.overlap(hole) {
            return Ok(());
        }
        let mut left = Self::new();
        for Range { base, end } in self.iter() {
            let pieces = [(base, end.min(hole.base)), (base.max(hole.end), end)];
            for (base, end) in pieces {
                if base < end {
                    left.push(Range { base, end })?;
                }
            }
        }
        *self = left;
        Ok(())
    }
}
