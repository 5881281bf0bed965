//! Stage-2 descriptors, 4 KiB granule, 48-bit output addresses.
//!
//! Arm ARM DDI 0487 L.b, D8.3 "Translation table descriptor formats", and D8.6 "Memory region
//! attributes" for MemAttr without FEAT_S2FWB.

use crate::addr::Pa;
use crate::bits;
use crate::level::Level;

/// Memory type that stage 2 contributes (MemAttr, bits 5:2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage2Memory {
    /// Normal, inner and outer write-back: stage 1 decides.
    NormalWriteBack,
    /// Normal, inner and outer non-cacheable.
    NormalNonCacheable,
    /// Device-nGnRnE.
    DeviceNGnRnE,
    /// Device-nGnRE.
    DeviceNGnRE,
    /// One of the other encodings, by number.
    Other(u8),
}

impl Stage2Memory {
    const fn encode(self) -> u64 {
        match self {
            Self::NormalWriteBack => 0b1111,
            Self::NormalNonCacheable => 0b0101,
            Self::DeviceNGnRnE => 0b0000,
            Self::DeviceNGnRE => 0b0001,
            Self::Other(bits) => (bits & 0xf) as u64,
        }
    }

    const fn decode(raw: u64) -> Self {
        match raw & 0xf {
            0b1111 => Self::NormalWriteBack,
            0b0101 => Self::NormalNonCacheable,
            0b0000 => Self::DeviceNGnRnE,
            0b0001 => Self::DeviceNGnRE,
            other => Self::Other(other as u8),
        }
    }
}

/// Data accesses that stage 2 allows (S2AP, bits 7:6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage2Access {
    /// No data access.
    None,
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Loads and stores.
    ReadWrite,
}

impl Stage2Access {
    const fn encode(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Read => 1,
            Self::Write => 2,
            Self::ReadWrite => 3,
        }
    }

    const fn decode(raw: u64) -> Self {
        match raw & 3 {
            0 => Self::None,
            1 => Self::Read,
            2 => Self::Write,
            _ => Self::ReadWrite,
        }
    }

    /// Whether a load is allowed.
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether a store is allowed.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

/// Instruction fetches that stage 2 allows (XN, bits 54:53; the EL-specific ones need FEAT_XNX).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage2Execute {
    /// EL1 and EL0.
    All,
    /// EL0 only.
    El0,
    /// Never.
    Never,
    /// EL1 only.
    El1,
}

impl Stage2Execute {
    const fn encode(self) -> u64 {
        match self {
            Self::All => 0,
            Self::El0 => 1,
            Self::Never => 2,
            Self::El1 => 3,
        }
    }

    const fn decode(raw: u64) -> Self {
        match raw & 3 {
            0 => Self::All,
            1 => Self::El0,
            2 => Self::Never,
            _ => Self::El1,
        }
    }
}

/// Shareability (SH, bits 9:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shareability {
    /// Non-shareable. The reserved encoding 0b01 reads as this.
    Non,
    /// Outer shareable.
    Outer,
    /// Inner shareable.
    Inner,
}

impl Shareability {
    pub(crate) const fn encode(self) -> u64 {
        match self {
            Self::Non => 0,
            Self::Outer => 2,
            Self::Inner => 3,
        }
    }

    pub(crate) const fn decode(raw: u64) -> Self {
        match raw & 3 {
            2 => Self::Outer,
            3 => Self::Inner,
            _ => Self::Non,
        }
    }
}

/// Attributes of a stage-2 leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage2Attrs {
    /// Memory type.
    pub memory: Stage2Memory,
    /// Data accesses.
    pub access: Stage2Access,
    /// Instruction fetches.
    pub execute: Stage2Execute,
    /// Shareability.
    pub share: Shareability,
    /// Access flag; 0 faults.
    pub accessed: bool,
}

impl Stage2Attrs {
    /// Guest RAM: write-back, inner shareable, everything allowed.
    pub const RAM: Self = Self {
        memory: Stage2Memory::NormalWriteBack,
        access: Stage2Access::ReadWrite,
        execute: Stage2Execute::All,
        share: Shareability::Inner,
        accessed: true,
    };
    /// Memory that the guest may only read: tables in the window, the bundle, the device tree.
    pub const READ_ONLY: Self = Self {
        access: Stage2Access::Read,
        execute: Stage2Execute::Never,
        ..Self::RAM
    };
    /// A device: nGnRE, never executable.
    pub const DEVICE: Self = Self {
        memory: Stage2Memory::DeviceNGnRE,
        access: Stage2Access::ReadWrite,
        execute: Stage2Execute::Never,
        share: Shareability::Outer,
        accessed: true,
    };

    /// The attribute bits of a leaf.
    #[must_use]
    pub const fn encode(self) -> u64 {
        self.memory.encode() << 2
            | self.access.encode() << 6
            | self.share.encode() << 8
            | if self.accessed { bits::AF } else { 0 }
            | self.execute.encode() << 53
    }

    /// Reads the attribute bits of a leaf.
    #[must_use]
    pub const fn decode(raw: u64) -> Self {
        Self {
            memory: Stage2Memory::decode(raw >> 2),
            access: Stage2Access::decode(raw >> 6),
            execute: Stage2Execute::decode(raw >> 53),
            share: Shareability::decode(raw >> 8),
            accessed: raw & bits::AF != 0,
        }
    }
}

/// A stage-2 descriptor, decoded with its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage2Desc {
    /// Faults. Bits 63:1 are the hypervisor's own.
    Invalid(u64),
    /// Leads to the next level.
    Table {
        /// The table.
        next: Pa,
    },
    /// A block (levels 1 and 2) or page (level 3).
    Leaf {
        /// Output address, aligned to the size of the level.
        pa: Pa,
        /// Attributes.
        attrs: Stage2Attrs,
        /// One of 16 entries that a TLB may hold as one.
        contiguous: bool,
    },
}

impl Stage2Desc {
    /// Reads a descriptor found in a table of `level`.
    #[must_use]
    pub const fn decode(level: Level, raw: u64) -> Self {
        match bits::kind(level, raw) {
            bits::Kind::Invalid => Self::Invalid(raw),
            bits::Kind::Table => Self::Table {
                next: Pa::truncated(raw & bits::TABLE_ADDRESS),
            },
            bits::Kind::Leaf => Self::Leaf {
                pa: Pa::truncated(raw & bits::leaf_address(level)),
                attrs: Stage2Attrs::decode(raw),
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
            Self::Table { next } => match level {
                Level::L3 => 0,
                _ => next.raw() & bits::TABLE_ADDRESS | bits::TABLE,
            },
            Self::Leaf {
                pa,
                attrs,
                contiguous,
            } => bits::leaf(level, pa.raw(), attrs.encode(), contiguous),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_and_devices_encode_as_the_manual_says() {
        let pa = Pa::truncated(0x8020_0000);
        let ram = Stage2Desc::Leaf {
            pa,
            attrs: Stage2Attrs::RAM,
            contiguous: false,
        };
        assert_eq!(ram.encode(Level::L2), 0x8020_0000 | 0x7fd);
        assert_eq!(ram.encode(Level::L3), 0x8020_0000 | 0x7ff);
        let device = Stage2Desc::Leaf {
            pa,
            attrs: Stage2Attrs::DEVICE,
            contiguous: false,
        };
        assert_eq!(device.encode(Level::L3), 0x8020_0000 | 1 << 54 | 0x6c7);
    }

    #[test]
    fn every_attribute_survives_a_round_trip() {
        for low in 0..(1_u64 << 9) {
            for xn in 0..4_u64 {
                let raw = low << 2 | xn << 53 | 0x4000_0000 | bits::VALID;
                for level in [Level::L1, Level::L2] {
                    let desc = Stage2Desc::decode(level, raw);
                    let again = desc.encode(level);
                    // SH 0b01 is reserved and reads as non-shareable.
                    let sh = if (raw >> 8) & 3 == 1 {
                        raw & !(3 << 8)
                    } else {
                        raw
                    };
                    assert_eq!(again, sh & !(1 << 11), "{raw:#x}");
                    assert_eq!(Stage2Desc::decode(level, again), desc);
                }
            }
        }
    }

    #[test]
    fn the_level_decides_what_a_descriptor_is() {
        assert_eq!(
            Stage2Desc::decode(Level::L3, 0x1001),
            Stage2Desc::Invalid(0x1001)
        );
        assert_eq!(
            Stage2Desc::decode(Level::L0, 0x1001),
            Stage2Desc::Invalid(0x1001)
        );
        assert_eq!(
            Stage2Desc::decode(Level::L1, 0x1002),
            Stage2Desc::Invalid(0x1002)
        );
        let next = Pa::truncated(0x1000);
        assert_eq!(
            Stage2Desc::decode(Level::L2, 0x1003),
            Stage2Desc::Table { next }
        );
        assert!(matches!(
            Stage2Desc::decode(Level::L3, 0x1003),
            Stage2Desc::Leaf { .. }
        ));
        assert_eq!(Stage2Desc::Table { next }.encode(Level::L3), 0);
    }
}
