//! TLBI instructions: which entries they remove, and where.
//!
//! Encodings: Arm ARM DDI 0487 L.b, C5.5 "A64 System instructions for TLB maintenance".

/// What is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Everything of EL1&0, all VMIDs (ALLE1).
    Everything,
    /// Everything of the VMID (VMALLE1), with the results of stage 2 (VMALLS12E1).
    Vmid {
        /// Whether results of stage 2 go too.
        stage2: bool,
    },
    /// Entries of an ASID that are not global.
    Asid(u16),
    /// Entries for an address.
    Va {
        /// The address.
        va: u64,
        /// Of this ASID, or global; `None`: of any.
        asid: Option<u16>,
        /// Leaves only, table pointers stay.
        last_only: bool,
    },
    /// Results of stage 2 for an IPA.
    Ipa {
        /// The IPA.
        ipa: u64,
        /// Leaves only, table pointers stay.
        last_only: bool,
    },
    /// Entries of EL2 or EL3, which are not modelled.
    Other,
}

/// Which cores an instruction reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The core that executes it.
    Local,
    /// All cores of the inner or outer shareable domain.
    Shareable,
}

/// An operation on the entries of a VMID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalidation {
    /// What is removed.
    pub operation: Operation,
    /// Of this VMID.
    pub vmid: u16,
}

/// The fields `op1`, `CRm` and `op2` of a TLBI.
fn fields(opcode: u32) -> Option<(u32, u32, u32)> {
    // SYS with CRn = 8: bits 31:19 are fixed, op1 in 18:16, CRm in 11:8, op2 in 7:5, Rt in 4:0.
    (opcode & 0xfff8_f000 == 0xd508_8000).then_some((
        opcode >> 16 & 7,
        opcode >> 8 & 15,
        opcode >> 5 & 7,
    ))
}

impl Operation {
    /// Whether `opcode` is a TLBI, and the number of its operand's register.
    #[must_use]
    pub fn operand_register(opcode: u32) -> Option<u32> {
        fields(opcode).map(|_| opcode & 31)
    }

    /// Decodes a TLBI with the value of its operand. Ranges are widened to the whole VMID.
    #[must_use]
    pub fn decode(opcode: u32, operand: u64) -> Option<(Self, Reach)> {
        let (op1, crm, op2) = fields(opcode)?;
        let asid = u16::try_from(operand >> 48).unwrap_or(0);
        // VA[55:12] in bits 43:0; bit 55 is the sign.
        let va = (operand << 20)
            .cast_signed()
            .wrapping_shr(8)
            .cast_unsigned();
        let ipa = (operand & 0x0000_000f_ffff_ffff) << 12;
        let by_va = |any_asid: bool, last_only| Self::Va {
            va,
            asid: (!any_asid).then_some(asid),
            last_only,
        };
        let operation = match (op1, crm, op2) {
            (0, 1 | 3 | 7, 0) => Self::Vmid { stage2: false },
            (0, 1 | 3 | 7, 1) => by_va(false, false),
            (0, 1 | 3 | 7, 2) => Self::Asid(asid),
            (0, 1 | 3 | 7, 3) => by_va(true, false),
            (0, 1 | 3 | 7, 5) => by_va(false, true),
            (0, 1 | 3 | 7, 7) => by_va(true, true),
            (0, 2 | 5 | 6, 1 | 3 | 5 | 7) => Self::Vmid { stage2: false },
            (4, 1 | 3 | 7, 4) => Self::Everything,
            (4, 1 | 3 | 7, 6) => Self::Vmid { stage2: true },
            (4, 0 | 4, 1) | (4, 4, 0) => Self::Ipa {
                ipa,
                last_only: false,
            },
            (4, 0, 5) | (4, 4, 4 | 5) => Self::Ipa {
                ipa,
                last_only: true,
            },
            (4, 0, 2 | 6) | (4, 4, 2 | 3 | 6 | 7) => Self::Vmid { stage2: true },
            _ => Self::Other,
        };
        let reach = match (op1, crm, op2) {
            (_, 1 | 2 | 3 | 5 | 0, _) | (4, 4, 0 | 3 | 4 | 7) => Reach::Shareable,
            _ => Reach::Local,
        };
        Some((operation, reach))
    }
}
