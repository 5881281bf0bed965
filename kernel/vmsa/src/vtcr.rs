//! Geometry of stage 2: VTCR_EL2, start level and concatenated tables, 4 KiB granule.

use crate::addr::{Ipa, PAGE_SIZE, Pa};
use crate::level::{Level, TABLE_ENTRIES};

/// Start level and root size of a stage 2 with the 4 KiB granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2Geometry {
    ipa_bits: u32,
    start: Level,
}

/// IPA bits of every VM: 40, so that a Cortex-A53, with 40 physical address bits, can hold them.
pub const IPA_BITS: u32 = 40;

impl Stage2Geometry {
    /// The geometry in force for every VM: 40 bits, two concatenated level-1 tables.
    pub const PENUMBRA: Self = Self {
        ipa_bits: IPA_BITS,
        start: Level::L1,
    };

    /// A geometry, if a walk may start at `start` for addresses of `ipa_bits`: at least one bit and
    /// at most a table and four bits, for 16 concatenated tables, are left for the start level
    /// (Arm ARM DDI 0487 L.b, D8.2.7 "Concatenated translation tables").
    #[must_use]
    pub const fn new(ipa_bits: u32, start: Level) -> Option<Self> {
        if ipa_bits < 25 || ipa_bits > 48 || matches!(start, Level::L3) {
            return None;
        }
        let resolved = start.shift();
        if ipa_bits <= resolved || ipa_bits - resolved > 13 {
            return None;
        }
        // At level 0 concatenation would need addresses beyond 48 bits.
        if matches!(start, Level::L0) && ipa_bits - resolved > 9 {
            return None;
        }
        Some(Self { ipa_bits, start })
    }

    /// The geometry with the fewest levels for `ipa_bits`.
    #[must_use]
    pub const fn flattest(ipa_bits: u32) -> Option<Self> {
        match Self::new(ipa_bits, Level::L2) {
            Some(geometry) => Some(geometry),
            None => match Self::new(ipa_bits, Level::L1) {
                Some(geometry) => Some(geometry),
                None => Self::new(ipa_bits, Level::L0),
            },
        }
    }

    /// The level that a walk starts at.
    #[must_use]
    pub const fn start(self) -> Level {
        self.start
    }

    /// Bits of an IPA.
    #[must_use]
    pub const fn ipa_bits(self) -> u32 {
        self.ipa_bits
    }

    /// Entries of the root, over all concatenated tables.
    #[must_use]
    pub const fn root_entries(self) -> u64 {
        1 << (self.ipa_bits - self.start.shift())
    }

    /// Tables that form the root, side by side: 1 to 16.
    #[must_use]
    pub const fn root_tables(self) -> u64 {
        self.root_entries().div_ceil(TABLE_ENTRIES)
    }

    /// Bytes of the root, which is aligned to them when it is concatenated.
    #[must_use]
    pub const fn root_bytes(self) -> u64 {
        self.root_tables() * PAGE_SIZE
    }

    /// Index of `ipa` in the root; `None` beyond the IPA space.
    #[must_use]
    pub const fn root_index(self, ipa: Ipa) -> Option<u64> {
        let index = ipa.raw() >> self.start.shift();
        if index < self.root_entries() {
            Some(index)
        } else {
            None
        }
    }

    /// VTCR_EL2: inner shareable write-back walks, hardware updates of the access flag off.
    /// `physical_bits` is what the core has (ID_AA64MMFR0_EL1.PARange), see [`physical_size`].
    ///
    /// Arm ARM DDI 0487 L.b, D24.2 "VTCR_EL2".
    #[must_use]
    pub const fn vtcr(self, physical_bits: u32) -> u64 {
        const RES1: u64 = 1 << 31;
        const WALK_WB_INNER: u64 = 0b01 << 8 | 0b01 << 10 | 0b11 << 12;
        let sl0: u64 = match self.start {
            Level::L0 => 2,
            Level::L1 => 1,
            Level::L2 | Level::L3 => 0,
        };
        RES1 | WALK_WB_INNER
            | (64 - self.ipa_bits) as u64
            | sl0 << 6
            | size_field(physical_bits) << 16
    }

    /// VTTBR_EL2 for a root and a VMID.
    #[must_use]
    pub const fn vttbr(self, root: Pa, vmid: u16) -> u64 {
        (vmid as u64) << 48 | root.raw() & 0x0000_ffff_ffff_fffe
    }
}

/// Address bits that a PARange or IPS field stands for, at most 48; reserved values count as 48.
#[must_use]
pub const fn physical_size(field: u64) -> u32 {
    match field & 7 {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// The PS or IPS field for an address size, rounded down to one that exists.
#[must_use]
pub const fn size_field(bits: u32) -> u64 {
    match bits {
        ..36 => 0,
        36..40 => 1,
        40..42 => 2,
        42..44 => 3,
        44..48 => 4,
        48.. => 5,
    }
}

/// Checks the geometry of every IPA size from 32 to 48 bits when the crate is compiled.
const _: () = {
    let mut bits = 32;
    while bits <= 48 {
        let Some(geometry) = Stage2Geometry::flattest(bits) else {
            panic!("no geometry")
        };
        assert!(geometry.root_tables() >= 1 && geometry.root_tables() <= 16);
        // Root index, table indices and page offset add up to the IPA.
        let mut resolved = 12;
        let mut level = Level::L3;
        while level.number() > geometry.start.number() {
            resolved += 9;
            level = match level.above() {
                Some(above) => above,
                None => panic!("no level above"),
            };
        }
        assert!(geometry.root_entries() << resolved == 1 << bits);
        assert!(geometry.root_bytes() >= geometry.root_entries() * 8);
        bits += 1;
    }
    let ours = Stage2Geometry::PENUMBRA;
    assert!(ours.root_tables() == 2 && ours.root_entries() == 1024);
    let Some(legal) = Stage2Geometry::new(IPA_BITS, Level::L1) else {
        panic!("illegal")
    };
    assert!(legal.ipa_bits == ours.ipa_bits && legal.root_entries() == ours.root_entries());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vtcr_of_forty_bits() {
        // RES1, PS=40, TG0=4K, SH0=inner, ORGN0=IRGN0=WB, SL0=1, T0SZ=24.
        assert_eq!(Stage2Geometry::PENUMBRA.vtcr(40), 0x8002_3558);
        assert_eq!(Stage2Geometry::PENUMBRA.vtcr(44), 0x8004_3558);
    }

    #[test]
    fn the_root_ends_with_the_ipa_space() {
        let geometry = Stage2Geometry::PENUMBRA;
        assert_eq!(
            geometry.root_index(Ipa::truncated((1 << 40) - 1)),
            Some(1023)
        );
        assert_eq!(geometry.root_index(Ipa::truncated(1 << 40)), None);
        assert_eq!(
            geometry.vttbr(Pa::truncated(0x4_2000), 7),
            7 << 48 | 0x4_2000
        );
    }

    #[test]
    fn start_levels_are_bounded() {
        assert!(Stage2Geometry::new(44, Level::L1).is_none());
        assert!(Stage2Geometry::new(43, Level::L1).is_some());
        assert!(Stage2Geometry::new(34, Level::L2).is_some());
        assert!(Stage2Geometry::new(35, Level::L2).is_none());
        assert!(Stage2Geometry::new(39, Level::L0).is_none());
    }

    #[test]
    fn sizes_and_fields_agree() {
        for field in 0..=5 {
            assert_eq!(size_field(physical_size(field)), field);
        }
        assert_eq!(physical_size(6), 48);
        assert_eq!(size_field(39), 1);
    }
}
