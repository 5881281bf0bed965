//! Lookup levels and translation granules.

use crate::addr::PAGE_SIZE;

/// Descriptors in one table of the 4 KiB granule.
pub const TABLE_ENTRIES: u64 = 512;

/// A lookup level, in Arm's numbering: 0 on the root side, 3 the pages. Where a walk starts depends
/// on the size of its input addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// 512 GiB per entry; no blocks.
    L0 = 0,
    /// 1 GiB per entry.
    L1 = 1,
    /// 2 MiB per entry.
    L2 = 2,
    /// 4 KiB per entry; pages only.
    L3 = 3,
}

impl Level {
    /// All levels, root side first.
    pub const ALL: [Self; 4] = [Self::L0, Self::L1, Self::L2, Self::L3];

    /// The level with this number.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::L0),
            1 => Some(Self::L1),
            2 => Some(Self::L2),
            3 => Some(Self::L3),
            _ => None,
        }
    }

    /// The number of the level.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::L0 => 0,
            Self::L1 => 1,
            Self::L2 => 2,
            Self::L3 => 3,
        }
    }

    /// The next level on the way to the pages.
    #[must_use]
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::L0 => Some(Self::L1),
            Self::L1 => Some(Self::L2),
            Self::L2 => Some(Self::L3),
            Self::L3 => None,
        }
    }

    /// The next level on the way to the root.
    #[must_use]
    pub const fn above(self) -> Option<Self> {
        match self {
            Self::L0 => None,
            Self::L1 => Some(Self::L0),
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
        }
    }

    /// Lowest address bit that indexes a table of this level, 4 KiB granule.
    #[must_use]
    pub const fn shift(self) -> u32 {
        match self {
            Self::L0 => 39,
            Self::L1 => 30,
            Self::L2 => 21,
            Self::L3 => 12,
        }
    }

    /// Bytes that one entry of this level covers, 4 KiB granule.
    #[must_use]
    pub const fn entry_bytes(self) -> u64 {
        1 << self.shift()
    }

    /// Bytes of a contiguous run of leaves of this level, 4 KiB granule: 64 KiB of pages, 32 MiB of
    /// blocks of 2 MiB. What is mapped is aligned to that, and so is where it lies.
    #[must_use]
    pub const fn run_bytes(self) -> u64 {
        CONTIGUOUS_ENTRIES << self.shift()
    }

    /// Index of `address` in a table of this level, 4 KiB granule: 0 to 511.
    #[must_use]
    pub const fn index(self, address: u64) -> u64 {
        (address >> self.shift()) & (TABLE_ENTRIES - 1)
    }

    /// Whether a leaf may stand at this level, 4 KiB granule without FEAT_LPA2.
    #[must_use]
    pub const fn has_leaves(self) -> bool {
        !matches!(self, Self::L0)
    }
}

/// Entries that the contiguous bit ties together with the 4 KiB granule, at every level
/// (Arm ARM DDI 0487 L.b, D8.7.1 "The Contiguous bit").
pub const CONTIGUOUS_ENTRIES: u64 = 16;
/// Bytes of a contiguous run of pages: 64 KiB.
pub const CONTIGUOUS_BYTES: u64 = CONTIGUOUS_ENTRIES * PAGE_SIZE;

/// A translation granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granule {
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

impl Granule {
    /// Address bits inside a page.
    #[must_use]
    pub const fn page_bits(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }

    /// Address bits that one full table resolves.
    #[must_use]
    pub const fn stride(self) -> u32 {
        match self {
            Self::K4 => 9,
            Self::K16 => 11,
            Self::K64 => 13,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_cover_what_the_granule_says() {
        for (number, level) in (0..).zip(Level::ALL) {
            assert_eq!(level.number(), number);
            assert_eq!(Level::new(number), Some(level));
            assert_eq!(level.shift(), 12 + 9 * (3 - number));
            assert_eq!(
                level.below().and_then(Level::above),
                level.below().map(|_| level)
            );
        }
        assert_eq!(Level::new(4), None);
        assert_eq!(Level::L3.run_bytes(), CONTIGUOUS_BYTES);
        assert_eq!(Level::L2.run_bytes(), 32 << 20);
        assert_eq!(
            Level::L2.index(0x1234_5678_9abc),
            (0x1234_5678_9abc >> 21) & 511
        );
    }
}
