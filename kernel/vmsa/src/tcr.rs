//! Geometry of a guest's stage 1: TCR_EL1, TTBRn_EL1 and MAIR_EL1.

use crate::addr::{Ipa, Va};
use crate::level::{Granule, Level};
use crate::vtcr::physical_size;

/// Half of the virtual address space: which TTBR translates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// TTBR0_EL1: addresses with bit 55 clear.
    Low,
    /// TTBR1_EL1: addresses with bit 55 set.
    High,
}

impl Half {
    /// The half that `va` lies in (Arm ARM DDI 0487 L.b, D8.2.4 "Selection between TTBR0_ELx and
    /// TTBR1_ELx when two VA ranges are supported").
    #[must_use]
    pub const fn of(va: Va) -> Self {
        if va.raw() >> 55 & 1 == 0 {
            Self::Low
        } else {
            Self::High
        }
    }
}

/// TCR_EL1, with the meaning it has for a 48-bit VMSAv8-64 core (Arm ARM DDI 0487 L.b, D24.2
/// "TCR_EL1").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tcr(u64);

/// What TCR_EL1 says of one half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcrHalf {
    /// Virtual address bits; between 25 and 48 for what [`Self::start`] can answer.
    pub va_bits: u32,
    /// Translation granule; `None` for the reserved encoding.
    pub granule: Option<Granule>,
    /// Walks are disabled (EPD).
    pub walks_disabled: bool,
    /// Inner and outer write-back and inner shareable walks.
    pub walks_cached: bool,
    /// The top byte is ignored (TBI).
    pub top_byte_ignored: bool,
    /// Hierarchical permissions are disabled (HPD, FEAT_HPDS).
    pub hierarchy_disabled: bool,
    /// EL0 takes a translation fault on the whole half (E0PD, FEAT_E0PD).
    pub no_el0: bool,
}

impl TcrHalf {
    /// The level that a walk with the 4 KiB granule starts at; `None` for another granule or an
    /// address size that it cannot have.
    #[must_use]
    pub const fn start(self) -> Option<Level> {
        if !matches!(self.granule, Some(Granule::K4)) {
            return None;
        }
        match self.va_bits {
            25..=30 => Some(Level::L2),
            31..=39 => Some(Level::L1),
            40..=48 => Some(Level::L0),
            _ => None,
        }
    }

    /// Bytes of the root table, 4 KiB granule: less than a page for some address sizes.
    #[must_use]
    pub const fn root_bytes(self) -> Option<u64> {
        match self.start() {
            // At most 9 bits of the address index the root.
            Some(start) => Some(8 << ((self.va_bits - start.shift()) & 15)),
            None => None,
        }
    }

    /// Whether `va`, of this half, is in range: bits above the address size equal bit 55, but for
    /// an ignored top byte.
    #[must_use]
    pub const fn contains(self, va: Va) -> bool {
        if self.va_bits > 48 || self.va_bits < 16 {
            return false;
        }
        let top = if self.top_byte_ignored { 56 } else { 64 };
        let field = (va.raw() << (64 - top)) >> (64 - top) >> self.va_bits;
        let ones = (1_u64 << (top - self.va_bits)) - 1;
        match Half::of(va) {
            Half::Low => field == 0,
            Half::High => field == ones,
        }
    }
}

impl Tcr {
    /// Takes the register.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The register.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    const fn bit(self, number: u32) -> bool {
        self.0 >> number & 1 != 0
    }

    /// What the register says of one half.
    #[must_use]
    pub const fn half(self, half: Half) -> TcrHalf {
        match half {
            Half::Low => TcrHalf {
                va_bits: 64 - (self.0 & 0x3f) as u32,
                granule: match self.0 >> 14 & 3 {
                    0 => Some(Granule::K4),
                    1 => Some(Granule::K64),
                    2 => Some(Granule::K16),
                    _ => None,
                },
                walks_disabled: self.bit(7),
                walks_cached: self.0 >> 8 & 0x3f == 0b11_01_01,
                top_byte_ignored: self.bit(37),
                hierarchy_disabled: self.bit(41),
                no_el0: self.bit(55),
            },
            Half::High => TcrHalf {
                va_bits: 64 - (self.0 >> 16 & 0x3f) as u32,
                granule: match self.0 >> 30 & 3 {
                    1 => Some(Granule::K16),
                    2 => Some(Granule::K4),
                    3 => Some(Granule::K64),
                    _ => None,
                },
                walks_disabled: self.bit(23),
                walks_cached: self.0 >> 24 & 0x3f == 0b11_01_01,
                top_byte_ignored: self.bit(38),
                hierarchy_disabled: self.bit(42),
                no_el0: self.bit(56),
            },
        }
    }

    /// Bits of an output address (IPS).
    #[must_use]
    pub const fn ipa_bits(self) -> u32 {
        physical_size(self.0 >> 32)
    }

    /// ASIDs have 16 bits (AS).
    #[must_use]
    pub const fn wide_asid(self) -> bool {
        self.bit(36)
    }

    /// TTBR1_EL1 carries the ASID (A1).
    #[must_use]
    pub const fn asid_in_ttbr1(self) -> bool {
        self.bit(22)
    }

    /// Hardware sets the access flag (HA, FEAT_HAFDBS).
    #[must_use]
    pub const fn hardware_access_flag(self) -> bool {
        self.bit(39)
    }

    /// Hardware manages the dirty state (HD, FEAT_HAFDBS), which needs HA.
    #[must_use]
    pub const fn hardware_dirty(self) -> bool {
        self.bit(40) && self.bit(39)
    }

    /// Descriptors of the 4 KiB and 16 KiB granules hold addresses of 52 bits (DS, FEAT_LPA2).
    #[must_use]
    pub const fn wide_addresses(self) -> bool {
        self.bit(59)
    }
}

/// TTBR0_EL1 or TTBR1_EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ttbr(u64);

impl Ttbr {
    /// Takes the register.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The register.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The root table, whose size (a power of two) is `root_bytes`; bits below it are dropped. With output addresses
    /// of 48 bits or less a table is aligned to its size, be that 16 bytes
    /// (Arm ARM DDI 0487 L.b, D8.2.5 "Translation table alignment").
    #[must_use]
    pub const fn root(self, root_bytes: u64) -> Ipa {
        Ipa::truncated(self.0 & 0x0000_ffff_ffff_fffe & !root_bytes.saturating_sub(1))
    }

    /// The ASID field, 16 bits.
    #[must_use]
    pub const fn asid(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Common not private (FEAT_TTCNP).
    #[must_use]
    pub const fn cnp(self) -> bool {
        self.0 & 1 != 0
    }

    /// The register with another root and the same ASID and CnP.
    #[must_use]
    pub const fn with_root(self, root: Ipa) -> Self {
        Self(self.0 & 0xffff_0000_0000_0001 | root.raw() & 0x0000_ffff_ffff_fffe)
    }
}

/// MAIR_EL1: eight memory types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mair(u64);

/// What a MAIR_EL1 field says, as far as the paging code needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryType {
    /// Normal, inner and outer write-back non-transient.
    WriteBack,
    /// Normal with any other cacheability.
    NormalOther,
    /// Device.
    Device,
}

impl Mair {
    /// Takes the register.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The type with an AttrIndx.
    #[must_use]
    pub const fn memory(self, attr_index: u8) -> MemoryType {
        let field = self.0 >> (8 * (attr_index & 7) as u32) & 0xff;
        if field >> 4 == 0 {
            MemoryType::Device
        } else if field & 0xcc == 0xcc {
            MemoryType::WriteBack
        } else {
            MemoryType::NormalOther
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Debian's Linux 6.1 writes on a Cortex-A72: 48-bit VAs, 4 KiB, WB inner shareable.
    const LINUX: u64 = 0x0000_00f2_b550_3510 & !(1 << 39) & !(7 << 32) | 4 << 32;

    #[test]
    fn linux_geometry() {
        let tcr = Tcr::new(LINUX);
        for half in [Half::Low, Half::High] {
            let half = tcr.half(half);
            assert_eq!(half.va_bits, 48);
            assert_eq!(half.granule, Some(Granule::K4));
            assert!(half.walks_cached && !half.walks_disabled);
            assert_eq!(half.start(), Some(Level::L0));
            assert_eq!(half.root_bytes(), Some(4096));
        }
        assert!(tcr.asid_in_ttbr1() && tcr.wide_asid());
        assert_eq!(tcr.ipa_bits(), 44);
    }

    #[test]
    fn ranges_of_both_halves() {
        let mut half = Tcr::new(LINUX).half(Half::High);
        half.top_byte_ignored = false;
        assert!(half.contains(Va::truncated(0xffff_8000_0000_0000)));
        assert!(!half.contains(Va::truncated(0xfffe_8000_0000_0000)));
        assert!(half.contains(Va::truncated(0x0000_7fff_ffff_ffff)));
        assert!(!half.contains(Va::truncated(0x0001_0000_0000_0000)));
        half.top_byte_ignored = true;
        assert!(half.contains(Va::truncated(0x12ff_8000_0000_0000)));
        assert!(half.contains(Va::truncated(0x1200_7fff_ffff_ffff)));
        half.va_bits = 36;
        assert_eq!(half.start(), Some(Level::L1));
        assert_eq!(half.root_bytes(), Some(512));
        assert!(!half.contains(Va::truncated(0x10_0000_0000)));
    }

    #[test]
    fn ttbr_fields() {
        let ttbr = Ttbr::new(0x0042_0000_4123_4001);
        assert_eq!((ttbr.asid(), ttbr.cnp()), (0x42, true));
        assert_eq!(ttbr.root(4096).raw(), 0x4123_4000);
        // Two and four entries, one table after the other.
        assert_eq!(Ttbr::new(0x4123_4010).root(16).raw(), 0x4123_4010);
        assert_eq!(Ttbr::new(0x4123_4031).root(32).raw(), 0x4123_4020);
        assert_eq!(
            ttbr.with_root(Ipa::truncated(0x80_4123_4000)).raw(),
            0x0042_0080_4123_4001
        );
    }

    #[test]
    fn mair_fields() {
        let mair = Mair::new(0x0000_00f4_ff44_0400);
        assert_eq!(mair.memory(0), MemoryType::Device);
        assert_eq!(mair.memory(1), MemoryType::Device);
        assert_eq!(mair.memory(2), MemoryType::NormalOther);
        assert_eq!(mair.memory(3), MemoryType::WriteBack);
        // Outer write-back, inner non-cacheable.
        assert_eq!(mair.memory(4), MemoryType::NormalOther);
    }
}
