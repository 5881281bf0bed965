//! When the architecture demands break-before-make.

use crate::bits::{self, Kind};
use crate::level::Level;

/// A stage of translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// VA to IPA.
    One,
    /// IPA to PA.
    Two,
}

/// Leaf bits that may change in place: permissions, access flag, dirty bit modifier, ignored bits.
const FREE_STAGE1: u64 = 0b11 << 6 | bits::AF | 1 << 50 | bits::DBM | 0b11 << 53 | 0x1ff << 55;
const FREE_STAGE2: u64 = 0b11 << 6 | bits::AF | bits::DBM | 0b11 << 53 | 0x1ff << 55;

/// Whether replacing the live descriptor `old` by `new`, in a table of `level`, needs
/// break-before-make: write invalid, DSB, TLBI for the address, DSB, write `new`, DSB.
///
/// Arm ARM DDI 0487 L.b, D8.17.1 "Using break-before-make when updating translation table entries",
/// read on the safe side: no FEAT_BBM level above 0, every change of an output address counts as
/// one that a store may see, a change of AttrIndx as one of the memory type, a change of the next
/// table as one of everything below it.
#[must_use]
pub const fn requires_bbm(stage: Stage, level: Level, old: u64, new: u64) -> bool {
    let changed = old ^ new;
    match (bits::kind(level, old), bits::kind(level, new)) {
        (Kind::Invalid, _) | (_, Kind::Invalid) => false,
        (Kind::Table, Kind::Table) => changed & bits::TABLE_ADDRESS != 0,
        (Kind::Leaf, Kind::Leaf) => match stage {
            // A global entry over non-global ones needs it, the other way round does not.
            Stage::One if old & bits::NOT_GLOBAL == 0 => {
                changed & !(FREE_STAGE1 | bits::NOT_GLOBAL) != 0
            }
            Stage::One => changed & !FREE_STAGE1 != 0,
            Stage::Two => changed & !FREE_STAGE2 != 0,
        },
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0x4000_0000 | bits::AF | bits::TABLE;

    #[test]
    fn invalid_on_either_side_needs_none() {
        for level in Level::ALL {
            for raw in [0, 0xffff_ffff_ffff_fffe, 0x1000] {
                assert!(!requires_bbm(Stage::One, level, raw, PAGE));
                assert!(!requires_bbm(Stage::Two, level, PAGE, raw));
            }
        }
    }

    #[test]
    fn every_bit_of_a_leaf_has_an_answer() {
        for bit in 2..64_u32 {
            let new = PAGE ^ (1 << bit);
            let free2 = matches!(bit, 6 | 7 | 10 | 51 | 53 | 54 | 55..);
            assert_eq!(
                requires_bbm(Stage::Two, Level::L3, PAGE, new),
                !free2,
                "bit {bit}"
            );
            let free1 = free2 || matches!(bit, 11 | 50);
            assert_eq!(
                requires_bbm(Stage::One, Level::L3, PAGE, new),
                !free1,
                "bit {bit}"
            );
        }
        assert!(requires_bbm(
            Stage::One,
            Level::L3,
            PAGE | bits::NOT_GLOBAL,
            PAGE
        ));
    }

    #[test]
    fn block_and_table_exclude_each_other() {
        let block = 0x4000_0000 | bits::AF | bits::VALID;
        let table = 0x4000_0000 | bits::TABLE;
        assert!(requires_bbm(Stage::Two, Level::L2, block, table));
        assert!(requires_bbm(Stage::One, Level::L1, table, block));
        assert!(requires_bbm(Stage::One, Level::L1, table, table + 0x1000));
        // Hierarchical permissions and ignored bits of a table.
        assert!(!requires_bbm(
            Stage::One,
            Level::L1,
            table,
            table | 0xf << 59 | 0x3ff << 2
        ));
    }
}
