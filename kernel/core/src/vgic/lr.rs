//! List registers, in the format of `ICH_LR<n>_EL2` (IHI 0069 H, 12.4 "`ICH_LR<n>_EL2`, Interrupt
//! Controller List Registers"), whatever the board's GIC. For a GICv2 guest the source CPU of an
//! SGI is in bits 12 to 10, where both `GICH_LR<n>` and the legacy use of `ICH_LR<n>_EL2` have it.

/// A list register's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListReg(u64);

const PENDING: u64 = 1 << 62;
const ACTIVE: u64 = 1 << 63;
const HW: u64 = 1 << 61;
const GROUP_1: u64 = 1 << 60;
const PRIORITY_SHIFT: u32 = 48;
const PHYSICAL_SHIFT: u32 = 32;
const EOI: u64 = 1 << 41;
const SOURCE_SHIFT: u32 = 10;
const INTID: u64 = 0x3ff;

impl ListReg {
    /// Holds nothing.
    pub const EMPTY: Self = Self(0);

    /// An interrupt that is neither pending nor active yet. INTIDs have ten bits here: the
    /// distributor has no LPIs.
    #[must_use]
    #[inline]
    pub fn new(intid: u32, priority: u8, group_1: bool) -> Self {
        let group = if group_1 { GROUP_1 } else { 0 };
        Self((u64::from(intid) & INTID) | u64::from(priority) << PRIORITY_SHIFT | group)
    }

    /// The same with the Pending state.
    #[must_use]
    #[inline]
    pub const fn pending(self) -> Self {
        Self(self.0 | PENDING)
    }

    /// The same with the Active state.
    #[must_use]
    #[inline]
    pub const fn active(self) -> Self {
        Self(self.0 | ACTIVE)
    }

    /// The same, deactivating physical interrupt `intid` when the guest deactivates it.
    #[must_use]
    #[inline]
    pub fn linked(self, intid: u32) -> Self {
        Self(self.0 | HW | (u64::from(intid) & INTID) << PHYSICAL_SHIFT)
    }

    /// The same, asking for a maintenance interrupt when the guest deactivates it.
    #[must_use]
    #[inline]
    pub const fn with_eoi(self) -> Self {
        Self(self.0 | EOI)
    }

    /// The same, from source CPU `source` of a GICv2 SGI.
    #[must_use]
    #[inline]
    pub fn from_source(self, source: u32) -> Self {
        Self(self.0 | u64::from(source & 7) << SOURCE_SHIFT)
    }

    /// Takes what the hardware holds.
    #[must_use]
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// What the hardware is to hold.
    #[must_use]
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether the interrupt is pending, active or not.
    #[must_use]
    #[inline]
    pub const fn is_pending(self) -> bool {
        self.0 & PENDING != 0
    }

    /// Whether the interrupt is active, pending or not.
    #[must_use]
    #[inline]
    pub const fn is_active(self) -> bool {
        self.0 & ACTIVE != 0
    }

    /// Whether it holds nothing and has nothing to tell, as ICH_ELRSR_EL2 reports. Hardware changes
    /// only the state when an interrupt ends; the rest of the register stays.
    #[must_use]
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 & (PENDING | ACTIVE) == 0 && (self.is_linked() || self.0 & EOI == 0)
    }

    /// Whether it is linked to a physical interrupt.
    #[must_use]
    #[inline]
    pub const fn is_linked(self) -> bool {
        self.0 & HW != 0
    }

    /// The source CPU of a GICv2 SGI.
    #[must_use]
    #[inline]
    pub const fn source(self) -> u32 {
        ((self.0 >> SOURCE_SHIFT) & 7) as u32
    }

    /// The virtual INTID.
    #[must_use]
    #[inline]
    pub const fn intid(self) -> u32 {
        (self.0 & INTID) as u32
    }

    /// The priority.
    #[must_use]
    #[inline]
    pub const fn priority(self) -> u8 {
        (self.0 >> PRIORITY_SHIFT & 0xff) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_architecture_has_them() {
        let timer = ListReg::new(27, 0xa0, true).pending().linked(27);
        assert_eq!(timer.raw(), 0x70a0_001b_0000_001b);
        let uart = ListReg::new(33, 0x80, false).active().with_eoi();
        assert_eq!(uart.raw(), 0x8080_0200_0000_0021);
        let sgi = ListReg::new(3, 0, false).pending().from_source(5);
        assert_eq!(sgi.raw(), 0x4000_0000_0000_1403);
        assert_eq!((sgi.source(), sgi.intid()), (5, 3));
    }
}
