//! Aborts: what failed, and whether EL2 may carry the access out in software.
//!
//! Sources: Arm ARM DDI 0487 L.b, D24.2 "ESR_EL2", "ISS encoding for an exception from a Data
//! Abort" and "... from an Instruction Abort"; D24.2 "HPFAR_EL2".

use penumbra_vmsa::Ipa;

use crate::bits::{bit, byte};

/// What a fault status code (DFSC, IFSC) says. Levels count from the root as Arm's do, -1 to 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultStatus {
    /// An address has more bits than the translation allows.
    AddressSize(i8),
    /// No valid descriptor.
    Translation(i8),
    /// The descriptor's Access flag is clear.
    AccessFlag(i8),
    /// The descriptor forbids the access.
    Permission(i8),
    /// Synchronous External abort on the access itself.
    External,
    /// Synchronous External abort on a table walk.
    ExternalOnWalk(i8),
    /// Synchronous parity or ECC error on the access itself.
    Parity,
    /// Synchronous parity or ECC error on a table walk.
    ParityOnWalk(i8),
    /// Synchronous tag check fault (FEAT_MTE).
    TagCheck,
    /// Alignment fault.
    Alignment,
    /// Granule protection fault (FEAT_RME), on the access or on a walk.
    GranuleProtection,
    /// Two TLB entries match.
    TlbConflict,
    /// Hardware cannot update the descriptor atomically.
    UnsupportedAtomicUpdate,
    /// IMPLEMENTATION DEFINED: lockdown, or an atomic access to memory that has none.
    ImplementationDefined,
    /// A code that the architecture does not define.
    Reserved,
}

impl FaultStatus {
    /// Decodes a status code; bits above 5:0 are ignored.
    #[inline]
    #[must_use]
    pub const fn decode(code: u8) -> Self {
        let level = (code & 0b11).cast_signed();
        match code & 0x3f {
            0x00..=0x03 => Self::AddressSize(level),
            0x04..=0x07 => Self::Translation(level),
            0x08..=0x0b => Self::AccessFlag(level),
            0x0c..=0x0f => Self::Permission(level),
            0x10 => Self::External,
            0x11 => Self::TagCheck,
            0x13 => Self::ExternalOnWalk(-1),
            0x14..=0x17 => Self::ExternalOnWalk(level),
            0x18 => Self::Parity,
            0x1b => Self::ParityOnWalk(-1),
            0x1c..=0x1f => Self::ParityOnWalk(level),
            0x21 => Self::Alignment,
            0x22..=0x28 => Self::GranuleProtection,
            0x29 => Self::AddressSize(-1),
            0x2b => Self::Translation(-1),
            0x30 => Self::TlbConflict,
            0x31 => Self::UnsupportedAtomicUpdate,
            0x34 | 0x35 => Self::ImplementationDefined,
            _ => Self::Reserved,
        }
    }
}

/// A set of status codes: bit n stands for code n.
const fn is_in(codes: u64, iss: u32) -> bool {
    bit(codes, iss & 0x3f)
}

/// Address size faults.
const ADDRESS_SIZE: u64 = 0xf | 1 << 0x29;
/// Translation faults.
const TRANSLATION: u64 = 0xf << 0x04 | 1 << 0x2b;
/// Access flag faults.
const ACCESS_FLAG: u64 = 0xf << 0x08;
/// Permission faults.
const PERMISSION: u64 = 0xf << 0x0c;

/// Whether the architecture defines HPFAR_EL2 for an abort with this ISS, taken to EL2 from stage 2.
///
/// It does for Translation, Access flag and Address size faults, and for a Permission fault only if
/// stage 2 refused a stage-1 table walk (S1PTW). Otherwise the register is UNKNOWN (Arm ARM DDI 0487
/// L.b, D1.3 rule R_FKLWR; D24.2 "HPFAR_EL2"). QEMU fills it in always, so no test there can show a
/// wrong use.
#[inline]
#[must_use]
pub const fn hpfar_is_valid(iss: u32) -> bool {
    is_in(TRANSLATION | ACCESS_FLAG | ADDRESS_SIZE, iss)
        || (iss & S1PTW != 0 && is_in(PERMISSION, iss))
}

/// S1PTW, in data and instruction aborts.
const S1PTW: u32 = 1 << 7;

/// The IPA that HPFAR_EL2 and FAR_EL2 name, or `None` where the architecture leaves HPFAR_EL2
/// UNKNOWN or the address has more bits than an [`Ipa`].
///
/// For a fault of the access itself the offset in the page comes from FAR_EL2. For a fault of a
/// stage-1 table walk FAR_EL2 is the address being translated, not the descriptor's, so the offset
/// is zero.
#[inline]
const fn faulting_ipa(iss: u32, hpfar: u64, far: u64) -> Option<Ipa> {
    if !hpfar_is_valid(iss) {
        return None;
    }
    let page = (hpfar & HPFAR_FIPA) << 8;
    let offset = if iss & S1PTW != 0 { 0 } else { far & 0xfff };
    match Ipa::new(page | offset) {
        Ok(ipa) => Some(ipa),
        Err(_) => None,
    }
}

/// HPFAR_EL2.FIPA: bits 47:4 hold IPA bits 55:12.
const HPFAR_FIPA: u64 = 0x0000_ffff_ffff_fff0;

/// The syndrome of a data abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct DataAbort(u32);

impl DataAbort {
    /// Takes the ISS.
    #[inline]
    #[must_use]
    pub const fn new(iss: u32) -> Self {
        Self(iss)
    }

    /// The ISS.
    #[inline]
    #[must_use]
    pub const fn iss(self) -> u32 {
        self.0
    }

    /// DFSC.
    #[inline]
    #[must_use]
    pub const fn status(self) -> FaultStatus {
        FaultStatus::decode(byte(self.0 as u64, 5, 0))
    }

    /// ISV: bits 23:14 describe the instruction.
    #[inline]
    #[must_use]
    pub const fn is_described(self) -> bool {
        self.has(24)
    }

    /// WnR: the access writes. Meaningless for [`Self::is_cache_maintenance`], which reports a
    /// write whatever it does.
    #[inline]
    #[must_use]
    pub const fn is_write(self) -> bool {
        self.has(6)
    }

    /// S1PTW: stage 2 refused a stage-1 table walk, not the access.
    #[inline]
    #[must_use]
    pub const fn is_on_table_walk(self) -> bool {
        self.has(7)
    }

    /// CM: a cache maintenance or address translation instruction.
    #[inline]
    #[must_use]
    pub const fn is_cache_maintenance(self) -> bool {
        self.has(8)
    }

    /// FnV: FAR_EL2 does not hold the address. Only defined for synchronous External aborts.
    #[inline]
    #[must_use]
    pub const fn far_is_unknown(self) -> bool {
        self.has(10)
    }

    /// The faulting IPA, from HPFAR_EL2 and FAR_EL2. `None` where [`hpfar_is_valid`] does not hold
    /// and where the address has more bits than an [`Ipa`]. A refused table walk gives the page
    /// that the descriptor is in.
    #[inline]
    #[must_use]
    pub const fn ipa(self, hpfar: u64, far: u64) -> Option<Ipa> {
        faulting_ipa(self.0, hpfar, far)
    }

    /// The access, if it can be carried out in software from the syndrome alone.
    ///
    /// # Errors
    /// Why it cannot.
    #[inline]
    pub const fn access(self) -> Result<MmioAccess, Undecodable> {
        // One test for the usual case: ISV set; FnV, EA, CM and S1PTW clear.
        if self.0 & PLAIN_MASK != PLAIN {
            return Err(self.reason());
        }
        if is_in(TRANSLATION | PERMISSION, self.0) {
            Ok(MmioAccess(self.0))
        } else {
            Err(Undecodable::Status)
        }
    }

    /// Why the access is not plain.
    const fn reason(self) -> Undecodable {
        if self.is_on_table_walk() {
            Undecodable::TableWalk
        } else if self.is_cache_maintenance() {
            Undecodable::CacheMaintenance
        } else if self.far_is_unknown() || self.has(9) {
            Undecodable::External
        } else {
            Undecodable::NoSyndrome
        }
    }

    #[inline]
    const fn has(self, number: u32) -> bool {
        bit(self.0 as u64, number)
    }
}

/// ISV, FnV, EA, CM and S1PTW.
const PLAIN_MASK: u32 = PLAIN | 1 << 10 | 1 << 9 | 1 << 8 | 1 << 7;
/// ISV.
const PLAIN: u32 = 1 << 24;

/// Why EL2 cannot carry an access out in software.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Undecodable {
    /// ISV=0: a pair, a write-back form, an exclusive, an atomic, a vector, DC ZVA ...
    NoSyndrome,
    /// A table walk of the guest's stage 1 ended there.
    TableWalk,
    /// A cache maintenance instruction.
    CacheMaintenance,
    /// An External abort, which no emulation undoes.
    External,
    /// Neither a Translation nor a Permission fault.
    Status,
}

/// How many bytes an access moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum AccessSize {
    /// One byte.
    Byte = 0,
    /// Two bytes.
    Half = 1,
    /// Four bytes.
    Word = 2,
    /// Eight bytes.
    Double = 3,
}

impl AccessSize {
    /// Every size.
    pub const ALL: [Self; 4] = [Self::Byte, Self::Half, Self::Word, Self::Double];

    /// Decodes SAS; bits above 1:0 are ignored.
    #[inline]
    #[must_use]
    pub const fn decode(sas: u8) -> Self {
        match sas & 0b11 {
            0b00 => Self::Byte,
            0b01 => Self::Half,
            0b10 => Self::Word,
            _ => Self::Double,
        }
    }

    /// Bytes moved.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self as u32
    }

    /// The bits of a value that move.
    #[inline]
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - (8 << self as u32))
    }
}

/// A load or store that can be carried out in software: one general register, no write-back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct MmioAccess(u32);

impl MmioAccess {
    /// SAS.
    #[inline]
    #[must_use]
    pub const fn size(self) -> AccessSize {
        AccessSize::decode(byte(self.0 as u64, 23, 22))
    }

    /// WnR.
    #[inline]
    #[must_use]
    pub const fn is_write(self) -> bool {
        bit(self.0 as u64, 6)
    }

    /// SRT: 0 to 30 are X0 to X30, 31 is XZR, which reads zero and ignores writes.
    #[inline]
    #[must_use]
    pub const fn register(self) -> u8 {
        byte(self.0 as u64, 20, 16)
    }

    /// AR: the access has acquire or release semantics.
    #[inline]
    #[must_use]
    pub const fn is_ordered(self) -> bool {
        bit(self.0 as u64, 14)
    }

    /// What the register holds after a load of `value`.
    #[inline]
    #[must_use]
    pub const fn loaded(self, value: u64) -> u64 {
        let iss = self.0 as u64;
        extend(value, self.size(), bit(iss, 21), bit(iss, 15))
    }

    /// What a store of the register's value `value` moves: its low bytes.
    #[inline]
    #[must_use]
    pub const fn stored(self, value: u64) -> u64 {
        value & self.size().mask()
    }
}

/// Extends the low `size` of `value` as a load does: with its sign if `sign` (SSE), to 64 bits if
/// `wide` (SF), else to 32 bits with the upper half zero, as every write of a W register.
#[inline]
#[must_use]
pub const fn extend(value: u64, size: AccessSize, sign: bool, wide: bool) -> u64 {
    let masked = value & size.mask();
    if !sign {
        return masked;
    }
    let shift = 64 - (8 << size as u32);
    let signed = ((masked << shift).cast_signed() >> shift).cast_unsigned();
    // A doubleword load always has an X register, whatever SF says.
    if wide {
        signed
    } else {
        signed & (0xffff_ffff | size.mask())
    }
}

/// The syndrome of an instruction abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct InstructionAbort(u32);

impl InstructionAbort {
    /// Takes the ISS.
    #[inline]
    #[must_use]
    pub const fn new(iss: u32) -> Self {
        Self(iss)
    }

    /// IFSC.
    #[inline]
    #[must_use]
    pub const fn status(self) -> FaultStatus {
        FaultStatus::decode(byte(self.0 as u64, 5, 0))
    }

    /// S1PTW: stage 2 refused a stage-1 table walk, not the fetch.
    #[inline]
    #[must_use]
    pub const fn is_on_table_walk(self) -> bool {
        bit(self.0 as u64, 7)
    }

    /// FnV: FAR_EL2 does not hold the address.
    #[inline]
    #[must_use]
    pub const fn far_is_unknown(self) -> bool {
        bit(self.0 as u64, 10)
    }

    /// The faulting IPA, from HPFAR_EL2 and FAR_EL2. `None` where [`hpfar_is_valid`] does not hold
    /// and where the address has more bits than an [`Ipa`]. A refused table walk gives the page
    /// that the descriptor is in.
    #[inline]
    #[must_use]
    pub const fn ipa(self, hpfar: u64, far: u64) -> Option<Ipa> {
        faulting_ipa(self.0, hpfar, far)
    }
}

#[cfg(test)]
#[path = "abort_tests.rs"]
mod tests;
