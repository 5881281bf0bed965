//! Where stage 2 costs reads: by 2 MiB of IPA, with what maps them.

use crate::path::{ADDRESS, Memory};
use crate::regime::Regime;

/// log2 of the IPAs that a level-3 table of stage 2 maps.
const BLOCK_LOG2: u8 = 21;
/// S2AP\[1\]: stores are allowed.
const WRITABLE: u64 = 1 << 7;

/// 2 MiB of a VM's IPAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockKey {
    /// VMID.
    pub vmid: u16,
    /// Its first IPA.
    pub ipa: u64,
    /// Whether what was translated are the guest's tables; else it is what their leaves name.
    pub tables: bool,
}

impl BlockKey {
    /// The block around an IPA.
    #[must_use]
    pub fn around(vmid: u16, ipa: u64, tables: bool) -> Self {
        let ipa = ipa >> BLOCK_LOG2 << BLOCK_LOG2;
        Self { vmid, ipa, tables }
    }
}

/// What misses found of stage 2 in a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockTally {
    /// Translations, from the IPA cache or not.
    pub translations: u64,
    /// Stage-2 descriptors that were read for them.
    pub reads: u64,
}

impl BlockTally {
    /// What came after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            translations: self.translations - before.translations,
            reads: self.reads - before.reads,
        }
    }
}

/// What maps a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing, or nothing any more.
    Absent,
    /// A leaf of 2 MiB or more.
    Large,
    /// A level-3 table.
    Pages {
        /// Valid entries, of 512.
        valid: u32,
        /// Of them, those that refuse stores.
        read_only: u32,
        /// All that are valid lie in one 2 MiB frame, in the order of their IPAs.
        in_order: bool,
    },
}

impl Shape {
    /// Why the block is not one leaf, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Large => "large",
            Self::Pages {
                in_order: false, ..
            } => "moved",
            Self::Pages {
                valid, read_only, ..
            } => match (valid < 512, read_only > 0) {
                (false, false) => "whole",
                (true, false) => "part",
                (false, true) => "watched",
                (true, true) => "watched part",
            },
        }
    }
}

/// Looks at stage 2 as it stands.
#[must_use]
pub fn shape(regime: &Regime, ipa: u64, memory: &impl Memory) -> Shape {
    let Some(table) = table_of(regime, ipa, memory) else {
        return Shape::Absent;
    };
    let table = match table {
        Found::Leaf => return Shape::Large,
        Found::Table(table) => table,
    };
    let (mut valid, mut read_only, mut frame, mut in_order) = (0, 0, None, true);
    for index in 0..512 {
        let desc = memory.read(table + 8 * index).unwrap_or(0);
        if desc & 3 != 3 {
            continue;
        }
        valid += 1;
        read_only += u32::from(desc & WRITABLE == 0);
        let start = (desc & ADDRESS).wrapping_sub(index << 12);
        in_order &= start.trailing_zeros() >= 21 && *frame.get_or_insert(start) == start;
    }
    Shape::Pages {
        valid,
        read_only,
        in_order,
    }
}

enum Found {
    Leaf,
    Table(u64),
}

/// The level-3 table for an IPA, or that a larger leaf is there.
fn table_of(regime: &Regime, ipa: u64, memory: &impl Memory) -> Option<Found> {
    let mut table = regime.vttbr & 0x0000_ffff_ffff_fffe;
    let start = regime.stage2_start();
    for level in start..=2 {
        let index = ipa >> (39 - 9 * level);
        // Concatenated tables give the first level more than nine bits.
        let index = if level == start { index } else { index & 0x1ff };
        let desc = memory.read(table + 8 * index)?;
        match desc & 3 {
            3 => table = desc & ADDRESS,
            1 => return Some(Found::Leaf),
            _ => return None,
        }
    }
    Some(Found::Table(table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::space::Machine;

    #[test]
    fn the_shape_says_why_a_block_is_no_leaf() {
        let ipa = 0x1_0000_0000;
        let mut machine = Machine::new(Some(12));
        let shape_of = |machine: &Machine| shape(&machine.regime, ipa, &machine.ram);
        assert_eq!(shape_of(&machine), Shape::Absent);
        let map = |machine: &mut Machine, range: std::ops::Range<u64>, offset: u64| {
            for page in range {
                let ipa = ipa + 4096 * page;
                machine.map_stage2(ipa, ipa + offset, 12);
            }
        };
        map(&mut machine, 0..500, 0);
        assert_eq!(shape_of(&machine).name(), "part");
        map(&mut machine, 500..512, 0);
        assert_eq!(shape_of(&machine).name(), "whole");
        let slot = match table_of(&machine.regime, ipa, &machine.ram) {
            Some(Found::Table(table)) => table + 8,
            _ => panic!("there is a level-3 table"),
        };
        let desc = machine.ram.read(slot).unwrap();
        machine.ram.write(slot, desc & !WRITABLE);
        let watched = Shape::Pages {
            valid: 512,
            read_only: 1,
            in_order: true,
        };
        assert_eq!(shape_of(&machine), watched);
        assert_eq!(watched.name(), "watched");
        map(&mut machine, 7..8, 4096);
        assert_eq!(shape_of(&machine).name(), "moved");
        let mut machine = Machine::new(Some(21));
        machine.map_stage2(ipa, ipa, 21);
        assert_eq!(shape_of(&machine).name(), "large");
    }
}
