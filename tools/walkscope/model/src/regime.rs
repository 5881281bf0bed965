//! The translation registers of the EL1&0 regime.

/// BADDR of a TTBR_EL1 with its lowest bit, which is CnP, left out.
const BASE: u64 = 0x0000_ffff_ffff_fffe;

/// The tags of what is cached of a translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Space {
    /// VMID; 0 where stage 2 is off.
    pub vmid: u16,
    /// ASID.
    pub asid: u16,
}

/// Whose tables a walk starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressSpace {
    /// VMID; 0 where stage 2 is off.
    pub vmid: u16,
    /// Base of the table that TTBR0_EL1 or TTBR1_EL1 names; 0 where stage 1 is off.
    pub root: u64,
    /// ASID; `None` for the upper half, which all processes share, and where stage 1 is off.
    pub asid: Option<u16>,
}

/// The registers, as they stand. Arm ARM DDI 0487 L.b, D24.2 "General system control registers".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regime {
    /// TTBR0_EL1 and TTBR1_EL1.
    pub ttbr: [u64; 2],
    /// TCR_EL1.
    pub tcr: u64,
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// HCR_EL2; 0 on a machine without EL2.
    pub hcr: u64,
    /// VTTBR_EL2.
    pub vttbr: u64,
    /// VTCR_EL2.
    pub vtcr: u64,
}

impl Regime {
    /// SCTLR_EL1.M: stage 1 is on.
    #[must_use]
    pub fn stage1(&self) -> bool {
        self.sctlr & 1 != 0
    }

    /// HCR_EL2.VM: stage 2 is on.
    #[must_use]
    pub fn stage2(&self) -> bool {
        self.hcr & 1 != 0
    }

    /// The level that stage 2 starts at: VTCR_EL2.SL0, with the 4 KiB granule.
    #[must_use]
    pub fn stage2_start(&self) -> u8 {
        match self.vtcr >> 6 & 3 {
            0 => 2,
            1 => 1,
            _ => 0,
        }
    }

    /// HCR_EL2.FB: the guest's local TLB maintenance reaches all cores.
    #[must_use]
    pub fn force_broadcast(&self) -> bool {
        self.hcr & (1 << 9) != 0
    }

    /// The tags in force: TCR_EL1.A1 chooses the register with the ASID, TCR_EL1.AS its width.
    #[must_use]
    pub fn space(&self) -> Space {
        let [ttbr0, ttbr1] = self.ttbr;
        let ttbr = if self.tcr & (1 << 22) != 0 {
            ttbr1
        } else {
            ttbr0
        };
        let wide = self.tcr & (1 << 36) != 0;
        let asid = high16(ttbr) & if wide { 0xffff } else { 0xff };
        let vmid = if self.stage2() { high16(self.vttbr) } else { 0 };
        Space { vmid, asid }
    }

    /// The address space of the lower or the upper half.
    #[must_use]
    pub fn address_space(&self, upper: bool) -> AddressSpace {
        let Space { vmid, asid } = self.space();
        let [ttbr0, ttbr1] = self.ttbr;
        let ttbr = if upper { ttbr1 } else { ttbr0 };
        AddressSpace {
            vmid,
            // Bit 0 is CnP, bits 63:48 may hold an ASID.
            root: if self.stage1() { ttbr & BASE } else { 0 },
            asid: (self.stage1() && !upper).then_some(asid),
        }
    }

    /// Bits of address that the half of `va` translates: 64 - TnSZ.
    #[must_use]
    pub fn va_bits(&self, upper: bool) -> u32 {
        let field = self.tcr >> if upper { 16 } else { 0 };
        64 - u32::try_from(field & 0x3f).unwrap_or(0)
    }

    /// The address without tag: bit 55 says which half it belongs to (top-byte ignore).
    #[must_use]
    pub fn canonical(va: u64) -> u64 {
        (va << 8).cast_signed().wrapping_shr(8).cast_unsigned()
    }
}

fn high16(value: u64) -> u16 {
    u16::try_from(value >> 48).unwrap_or(0)
}
