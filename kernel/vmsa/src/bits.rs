//! Bits that descriptors of both stages share, and their kind.
//!
//! Arm ARM DDI 0487 L.b, D8.3.1 "VMSAv8-64 descriptor formats". Users of the crate decode with
//! [`Stage1Desc`](crate::Stage1Desc) and [`Stage2Desc`](crate::Stage2Desc); paths that must be
//! short look at these bits alone.

use crate::level::Level;

/// The descriptor is valid.
pub const VALID: u64 = 1 << 0;
/// Bits 1:0 of a table descriptor, and of a page.
pub const TABLE: u64 = 0b11;
/// Access flag of a leaf.
pub const AF: u64 = 1 << 10;
/// Not global (stage 1 leaf).
pub const NOT_GLOBAL: u64 = 1 << 11;
/// Contiguous hint of a leaf.
pub const CONTIGUOUS: u64 = 1 << 52;
/// Dirty bit modifier of a leaf.
pub const DBM: u64 = 1 << 51;
/// Next-level table address of a table descriptor.
pub const TABLE_ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Faults.
    Invalid,
    /// Leads to the next level.
    Table,
    /// Block or page.
    Leaf,
}

/// What the descriptor `raw`, found in a table of `level`, is.
#[must_use]
pub const fn kind(level: Level, raw: u64) -> Kind {
    match (raw & TABLE, level) {
        (0b11, Level::L3) => Kind::Leaf,
        (0b11, _) => Kind::Table,
        (0b01, Level::L1 | Level::L2) => Kind::Leaf,
        _ => Kind::Invalid,
    }
}

/// Output address bits of a leaf of `level`.
#[must_use]
pub const fn leaf_address(level: Level) -> u64 {
    match level {
        Level::L0 => 0,
        Level::L1 => 0x0000_ffff_c000_0000,
        Level::L2 => 0x0000_ffff_ffe0_0000,
        Level::L3 => TABLE_ADDRESS,
    }
}

/// Everything of a leaf of `level` but kind, output address and contiguous hint.
#[must_use]
pub const fn leaf_attributes(level: Level, raw: u64) -> u64 {
    raw & !(TABLE | leaf_address(level) | CONTIGUOUS)
}

/// Puts a leaf of `level` together. At level 0, where none exists, the result is invalid.
pub(crate) const fn leaf(level: Level, address: u64, attributes: u64, contiguous: bool) -> u64 {
    let kind = match level {
        Level::L0 => return 0,
        Level::L1 | Level::L2 => VALID,
        Level::L3 => TABLE,
    };
    address & leaf_address(level) | attributes | if contiguous { CONTIGUOUS } else { 0 } | kind
}
