//! Stage-1 descriptors of the EL1&0 regime, 4 KiB granule, 48-bit output addresses.
//!
//! Arm ARM DDI 0487 L.b, D8.3 "Translation table descriptor formats", D8.4 "Memory access control".

use crate::addr::Ipa;
use crate::bits;
use crate::level::Level;
use crate::stage2::Shareability;

/// AP\[2\]: no write access.
const READ_ONLY: u64 = 1 << 7;
/// AP\[1\]: EL0 may access.
const USER: u64 = 1 << 6;
const NS: u64 = 1 << 5;
const GUARDED: u64 = 1 << 50;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const PXN_TABLE: u64 = 1 << 59;
const UXN_TABLE: u64 = 1 << 60;
const NO_USER_TABLE: u64 = 1 << 61;
const READ_ONLY_TABLE: u64 = 1 << 62;
const SOFTWARE_SHIFT: u32 = 55;

/// Attributes of a stage-1 leaf. The software bits 58:55 and PBHA 62:59 are kept in `ignored`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage1Attrs {
    /// Index into MAIR_EL1, 0 to 7.
    pub attr_index: u8,
    /// NS, which means nothing in Non-secure state.
    pub ns: bool,
    /// EL0 may access (AP\[1\]).
    pub user: bool,
    /// No stores (AP\[2\]).
    pub read_only: bool,
    /// Shareability.
    pub share: Shareability,
    /// Access flag; 0 faults.
    pub accessed: bool,
    /// Tagged with the ASID.
    pub not_global: bool,
    /// Guarded page (FEAT_BTI).
    pub guarded: bool,
    /// Dirty bit modifier (FEAT_HAFDBS).
    pub dbm: bool,
    /// EL1 may not execute.
    pub pxn: bool,
    /// EL0 may not execute.
    pub uxn: bool,
    /// Bits 63:55, which hardware ignores.
    pub ignored: u16,
}

impl Stage1Attrs {
    /// The attribute bits of a leaf.
    #[must_use]
    pub const fn encode(self) -> u64 {
        const fn flag(set: bool, bit: u64) -> u64 {
            if set { bit } else { 0 }
        }
        ((self.attr_index & 7) as u64) << 2
            | flag(self.ns, NS)
            | flag(self.user, USER)
            | flag(self.read_only, READ_ONLY)
            | self.share.encode() << 8
            | flag(self.accessed, bits::AF)
            | flag(self.not_global, bits::NOT_GLOBAL)
            | flag(self.guarded, GUARDED)
            | flag(self.dbm, bits::DBM)
            | flag(self.pxn, PXN)
            | flag(self.uxn, UXN)
            | ((self.ignored & 0x1ff) as u64) << SOFTWARE_SHIFT
    }

    /// Reads the attribute bits of a leaf.
    #[must_use]
    pub const fn decode(raw: u64) -> Self {
        Self {
            attr_index: ((raw >> 2) & 7) as u8,
            ns: raw & NS != 0,
            user: raw & USER != 0,
            read_only: raw & READ_ONLY != 0,
            share: Shareability::decode(raw >> 8),
            accessed: raw & bits::AF != 0,
            not_global: raw & bits::NOT_GLOBAL != 0,
            guarded: raw & GUARDED != 0,
            dbm: raw & bits::DBM != 0,
            pxn: raw & PXN != 0,
            uxn: raw & UXN != 0,
            ignored: (raw >> SOFTWARE_SHIFT) as u16,
        }
    }
}

/// What a table descriptor takes away from everything below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableLimits {
    /// EL1 may not execute (PXNTable).
    pub pxn: bool,
    /// EL0 may not execute (UXNTable).
    pub uxn: bool,
    /// EL0 may not access (APTable\[0\]).
    pub no_user: bool,
    /// No stores (APTable\[1\]).
    pub read_only: bool,
}

impl TableLimits {
    /// The limits of both descriptors.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            pxn: self.pxn | other.pxn,
            uxn: self.uxn | other.uxn,
            no_user: self.no_user | other.no_user,
            read_only: self.read_only | other.read_only,
        }
    }

    const fn decode(raw: u64) -> Self {
        Self {
            pxn: raw & PXN_TABLE != 0,
            uxn: raw & UXN_TABLE != 0,
            no_user: raw & NO_USER_TABLE != 0,
            read_only: raw & READ_ONLY_TABLE != 0,
        }
    }

    const fn encode(self) -> u64 {
        (if self.pxn { PXN_TABLE } else { 0 })
            | (if self.uxn { UXN_TABLE } else { 0 })
            | (if self.no_user { NO_USER_TABLE } else { 0 })
            | (if self.read_only { READ_ONLY_TABLE } else { 0 })
    }
}

/// A stage-1 descriptor, decoded with its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage1Desc {
    /// Faults.
    Invalid(u64),
    /// Leads to the next level.
    Table {
        /// The table.
        next: Ipa,
        /// Hierarchical permissions.
        limits: TableLimits,
    },
    /// A block (levels 1 and 2) or page (level 3).
    Leaf {
        /// Output address, aligned to the size of the level.
        ipa: Ipa,
        /// Attributes.
        attrs: Stage1Attrs,
        /// One of 16 entries that a TLB may hold as one.
        contiguous: bool,
    },
}

impl Stage1Desc {
    /// Reads a descriptor found in a table of `level`.
    #[must_use]
    pub const fn decode(level: Level, raw: u64) -> Self {
        match bits::kind(level, raw) {
            bits::Kind::Invalid => Self::Invalid(raw),
            bits::Kind::Table => Self::Table {
                next: Ipa::truncated(raw & bits::TABLE_ADDRESS),
                limits: TableLimits::decode(raw),
            },
            bits::Kind::Leaf => Self::Leaf {
                ipa: Ipa::truncated(raw & bits::leaf_address(level)),
                attrs: Stage1Attrs::decode(raw),
                contiguous: raw & bits::CONTIGUOUS != 0,
            },
        }
    }

    /// The descriptor's bits for a table of `level`; address bits that the level cannot hold drop.
    /// A table at level 3 or a leaf at level 0, which do not exist, encode as invalid.
    #[must_use]
    pub const fn encode(self, level: Level) -> u64 {
        match self {
            Self::Invalid(raw) => raw & !bits::VALID,
            Self::Table { next, limits } => match level {
                Level::L3 => 0,
                _ => next.raw() & bits::TABLE_ADDRESS | limits.encode() | bits::TABLE,
            },
            Self::Leaf {
                ipa,
                attrs,
                contiguous,
            } => bits::leaf(level, ipa.raw(), attrs.encode(), contiguous),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_of_a_leaf_lands_in_one_field() {
        for bit in 0..64_u32 {
            let raw = 1_u64 << bit | bits::TABLE;
            let desc = Stage1Desc::decode(Level::L3, raw);
            // 49:48 are address bits of FEAT_LPA2 only, SH 0b01 is reserved.
            let lost = matches!(bit, 8 | 48 | 49);
            let again = desc.encode(Level::L3);
            assert_eq!(again, if lost { bits::TABLE } else { raw }, "bit {bit}");
        }
    }

    #[test]
    fn hierarchical_limits_add_up() {
        let raw = READ_ONLY_TABLE | UXN_TABLE | 0x5003;
        let Stage1Desc::Table { next, limits } = Stage1Desc::decode(Level::L1, raw) else {
            panic!("a table");
        };
        assert_eq!(next.raw(), 0x5000);
        assert_eq!(
            limits,
            TableLimits {
                uxn: true,
                read_only: true,
                ..TableLimits::default()
            }
        );
        let both = limits.and(TableLimits {
            no_user: true,
            ..TableLimits::default()
        });
        assert!(both.no_user && both.read_only && both.uxn && !both.pxn);
        assert_eq!(Stage1Desc::Table { next, limits }.encode(Level::L1), raw);
    }
}
