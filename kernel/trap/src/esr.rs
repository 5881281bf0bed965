//! ESR_EL2: why an exception was taken to EL2.
//!
//! [`Esr`] is the snapshot that the exit path takes once; [`Esr::cause`] names the exception class.
//! Sources: Arm ARM DDI 0487 L.b, D24.2 "ESR_EL2, Exception Syndrome Register (EL2)".

use crate::abort::{DataAbort, InstructionAbort};
use crate::bits::{bit, byte, field};
use crate::sysreg::SysRegAccess;

/// Exception classes, bits 31:26 of ESR_ELx (D24.2 "ESR_EL2", field EC).
pub mod ec {
    /// Unknown reason.
    pub const UNKNOWN: u8 = 0x00;
    /// WFI, WFE, WFIT or WFET.
    pub const WFX: u8 = 0x01;
    /// MCR or MRC, coproc 0b1111.
    pub const CP15_32: u8 = 0x03;
    /// MCRR or MRRC, coproc 0b1111.
    pub const CP15_64: u8 = 0x04;
    /// MCR or MRC, coproc 0b1110.
    pub const CP14_32: u8 = 0x05;
    /// LDC or STC to debug registers.
    pub const CP14_LOAD_STORE: u8 = 0x06;
    /// Advanced SIMD, floating point or SVE, trapped by CPTR_EL2.TFP and the like.
    pub const FP_SIMD: u8 = 0x07;
    /// VMRS of an ID register.
    pub const VMRS: u8 = 0x08;
    /// Pointer authentication instruction.
    pub const PAUTH: u8 = 0x09;
    /// LD64B, ST64B and other instructions that no other class covers.
    pub const OTHER_INSTRUCTION: u8 = 0x0a;
    /// MRRC, coproc 0b1110.
    pub const CP14_64: u8 = 0x0c;
    /// Branch target exception.
    pub const BTI: u8 = 0x0d;
    /// Illegal execution state.
    pub const ILLEGAL_STATE: u8 = 0x0e;
    /// SVC in AArch32 state.
    pub const SVC32: u8 = 0x11;
    /// HVC in AArch32 state.
    pub const HVC32: u8 = 0x12;
    /// SMC in AArch32 state.
    pub const SMC32: u8 = 0x13;
    /// MSRR, MRRS or 128-bit SYSP.
    pub const SYSREG128: u8 = 0x14;
    /// SVC in AArch64 state.
    pub const SVC64: u8 = 0x15;
    /// HVC in AArch64 state.
    pub const HVC64: u8 = 0x16;
    /// SMC in AArch64 state.
    pub const SMC64: u8 = 0x17;
    /// MSR, MRS or SYS in AArch64 state.
    pub const SYSREG: u8 = 0x18;
    /// SVE access.
    pub const SVE: u8 = 0x19;
    /// ERET, ERETAA or ERETAB.
    pub const ERET: u8 = 0x1a;
    /// Pointer authentication failure.
    pub const PAC_FAIL: u8 = 0x1c;
    /// SME access.
    pub const SME: u8 = 0x1d;
    /// Granule protection check.
    pub const GRANULE_PROTECTION: u8 = 0x1e;
    /// Instruction abort from a lower Exception level.
    pub const INSTRUCTION_ABORT_LOWER: u8 = 0x20;
    /// Instruction abort without a change of Exception level.
    pub const INSTRUCTION_ABORT_SAME: u8 = 0x21;
    /// PC alignment fault.
    pub const PC_ALIGNMENT: u8 = 0x22;
    /// Data abort from a lower Exception level.
    pub const DATA_ABORT_LOWER: u8 = 0x24;
    /// Data abort without a change of Exception level.
    pub const DATA_ABORT_SAME: u8 = 0x25;
    /// SP alignment fault.
    pub const SP_ALIGNMENT: u8 = 0x26;
    /// Memory copy and memory set instructions.
    pub const MEMORY_OPERATION: u8 = 0x27;
    /// Floating-point exception in AArch32 state.
    pub const FP_EXCEPTION32: u8 = 0x28;
    /// Floating-point exception in AArch64 state.
    pub const FP_EXCEPTION64: u8 = 0x2c;
    /// Guarded control stack.
    pub const GCS: u8 = 0x2d;
    /// SError interrupt.
    pub const SERROR: u8 = 0x2f;
    /// First class of debug exceptions: breakpoint from a lower Exception level.
    pub const DEBUG_FIRST: u8 = 0x30;
    /// Last class of debug exceptions: BRK in AArch64 state.
    pub const DEBUG_LAST: u8 = 0x3c;
}

/// A snapshot of ESR_EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Esr(u64);

/// Which instruction waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// WFI: until an interrupt.
    Interrupt,
    /// WFE: until an event.
    Event,
    /// WFIT: until an interrupt or a time. The time is a hint: EL2 may return at once.
    InterruptOrTime,
    /// WFET: until an event or a time.
    EventOrTime,
}

/// Why an exception was taken to EL2 from a lower Exception level.
///
/// Where PC points afterwards: at the next instruction for HVC, at the trapped instruction for
/// everything else (SMC included, because HCR_EL2.TSC traps it before it executes). Whoever
/// completes an instruction in software advances PC by [`Esr::instruction_bytes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrapCause {
    /// HVC in AArch64 state, with its immediate.
    Hvc64(u16),
    /// SMC in AArch64 state, with its immediate.
    Smc64(u16),
    /// MSR, MRS or SYS.
    SysReg(SysRegAccess),
    /// Data abort.
    DataAbort(DataAbort),
    /// Instruction abort.
    InstructionAbort(InstructionAbort),
    /// WFI and relatives, trapped by HCR_EL2.TWI or TWE.
    Wait(Wait),
    /// Floating point or Advanced SIMD, trapped by CPTR_EL2.TFP.
    FpSimd,
    /// HVC in AArch32 state, with its immediate. Only EL1 can make it.
    Hvc32(u16),
    /// SMC in AArch32 state. Only EL1 can make it.
    Smc32,
    /// Reason unknown to the hardware, among them instructions that EL2 has disabled.
    Unknown,
    /// AArch32 access to a CP14 or CP15 register, or VMRS of an ID register.
    Coprocessor,
    /// Use of SVE.
    Sve,
    /// Use of SME.
    Sme,
    /// Use of pointer authentication while HCR_EL2.API is 0.
    PauthTrapped,
    /// LD64B, ST64B and relatives, MSRR and MRRS, memory copy and set, guarded control stack,
    /// ERET: instructions of features that no guest has.
    HiddenInstruction,
    /// A pointer failed its authentication (FEAT_FPAC). It is for EL1, unless EL2 asked for it.
    PacFail,
    /// Branch target exception. It is for EL1, unless EL2 asked for it.
    Bti,
    /// Illegal execution state.
    IllegalState,
    /// PC is not aligned.
    PcAlignment,
    /// SP is not aligned.
    SpAlignment,
    /// Floating-point exception.
    FpException,
    /// SVC or a debug exception, which come here only with HCR_EL2.TGE or MDCR_EL2.TDE.
    RoutedFromEl1,
    /// SError interrupt, seen through the synchronous syndrome.
    Serror,
    /// A granule protection check failed.
    GranuleProtection,
    /// An abort of EL2's own: a bug in EL2.
    OwnAbort,
    /// A class that this version of the architecture does not define.
    Reserved(u8),
}

impl Esr {
    /// Takes the value of ESR_EL2.
    #[inline]
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The register's value.
    #[inline]
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The exception class, one of [`ec`].
    #[inline]
    #[must_use]
    pub const fn class(self) -> u8 {
        byte(self.0, 31, 26)
    }

    /// The instruction specific syndrome, bits 24:0.
    #[inline]
    #[must_use]
    pub const fn iss(self) -> u32 {
        (self.0 & ISS_MASK) as u32
    }

    /// Bytes of the instruction that trapped: IL says whether it has 16 or 32 bits.
    #[inline]
    #[must_use]
    pub const fn instruction_bytes(self) -> u64 {
        if bit(self.0, 25) { 4 } else { 2 }
    }

    /// The cause.
    #[inline]
    #[must_use]
    pub const fn cause(self) -> TrapCause {
        match self.class() {
            ec::HVC64 => TrapCause::Hvc64(self.immediate()),
            ec::SYSREG => TrapCause::SysReg(SysRegAccess::new(self.iss())),
            ec::DATA_ABORT_LOWER => TrapCause::DataAbort(DataAbort::new(self.iss())),
            ec::INSTRUCTION_ABORT_LOWER => {
                TrapCause::InstructionAbort(InstructionAbort::new(self.iss()))
            }
            ec::WFX => TrapCause::Wait(self.wait()),
            ec::SMC64 => TrapCause::Smc64(self.immediate()),
            ec::FP_SIMD => TrapCause::FpSimd,
            other => Self::rare_cause(other, self.immediate()),
        }
    }

    /// The causes off the fast path.
    const fn rare_cause(class: u8, immediate: u16) -> TrapCause {
        match class {
            ec::UNKNOWN => TrapCause::Unknown,
            ec::HVC32 => TrapCause::Hvc32(immediate),
            ec::SMC32 => TrapCause::Smc32,
            ec::CP15_32
            | ec::CP15_64
            | ec::CP14_32
            | ec::CP14_LOAD_STORE
            | ec::CP14_64
            | ec::VMRS => TrapCause::Coprocessor,
            ec::SVE => TrapCause::Sve,
            ec::SME => TrapCause::Sme,
            ec::PAUTH => TrapCause::PauthTrapped,
            ec::OTHER_INSTRUCTION | ec::SYSREG128 | ec::ERET | ec::MEMORY_OPERATION | ec::GCS => {
                TrapCause::HiddenInstruction
            }
            ec::PAC_FAIL => TrapCause::PacFail,
            ec::BTI => TrapCause::Bti,
            ec::ILLEGAL_STATE => TrapCause::IllegalState,
            ec::PC_ALIGNMENT => TrapCause::PcAlignment,
            ec::SP_ALIGNMENT => TrapCause::SpAlignment,
            ec::FP_EXCEPTION32 | ec::FP_EXCEPTION64 => TrapCause::FpException,
            ec::SVC32 | ec::SVC64 | ec::DEBUG_FIRST..=ec::DEBUG_LAST => TrapCause::RoutedFromEl1,
            ec::SERROR => TrapCause::Serror,
            ec::GRANULE_PROTECTION => TrapCause::GranuleProtection,
            ec::INSTRUCTION_ABORT_SAME | ec::DATA_ABORT_SAME => TrapCause::OwnAbort,
            reserved => TrapCause::Reserved(reserved),
        }
    }

    /// imm16 of HVC and SMC.
    #[inline]
    const fn immediate(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// Which instruction waits: ISS.TI, bits 1:0.
    #[inline]
    const fn wait(self) -> Wait {
        match field(self.0, 1, 0) {
            0b00 => Wait::Interrupt,
            0b01 => Wait::Event,
            0b10 => Wait::InterruptOrTime,
            _ => Wait::EventOrTime,
        }
    }
}

/// Bits of the ISS in ESR_EL2.
const ISS_MASK: u64 = (1 << 25) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn esr(class: u8, iss: u64) -> Esr {
        Esr::new(u64::from(class) << 26 | 1 << 25 | iss)
    }

    #[test]
    fn every_row_of_the_class_table() {
        use TrapCause as T;
        let rows = [
            (ec::UNKNOWN, T::Unknown),
            (ec::CP15_32, T::Coprocessor),
            (ec::CP15_64, T::Coprocessor),
            (ec::CP14_32, T::Coprocessor),
            (ec::CP14_LOAD_STORE, T::Coprocessor),
            (ec::CP14_64, T::Coprocessor),
            (ec::VMRS, T::Coprocessor),
            (ec::FP_SIMD, T::FpSimd),
            (ec::PAUTH, T::PauthTrapped),
            (ec::OTHER_INSTRUCTION, T::HiddenInstruction),
            (ec::BTI, T::Bti),
            (ec::ILLEGAL_STATE, T::IllegalState),
            (ec::SVC32, T::RoutedFromEl1),
            (ec::SVC64, T::RoutedFromEl1),
            (ec::HVC32, T::Hvc32(0)),
            (ec::HVC64, T::Hvc64(0)),
            (ec::SMC32, T::Smc32),
            (ec::SMC64, T::Smc64(0)),
            (ec::SYSREG128, T::HiddenInstruction),
            (ec::SVE, T::Sve),
            (ec::ERET, T::HiddenInstruction),
            (0x1b, T::Reserved(0x1b)),
            (ec::PAC_FAIL, T::PacFail),
            (ec::SME, T::Sme),
            (ec::GRANULE_PROTECTION, T::GranuleProtection),
            (ec::INSTRUCTION_ABORT_SAME, T::OwnAbort),
            (ec::PC_ALIGNMENT, T::PcAlignment),
            (ec::DATA_ABORT_SAME, T::OwnAbort),
            (ec::SP_ALIGNMENT, T::SpAlignment),
            (ec::MEMORY_OPERATION, T::HiddenInstruction),
            (ec::FP_EXCEPTION32, T::FpException),
            (ec::FP_EXCEPTION64, T::FpException),
            (ec::GCS, T::HiddenInstruction),
            (ec::SERROR, T::Serror),
            (0x30, T::RoutedFromEl1),
            (0x3c, T::RoutedFromEl1),
            (0x3d, T::Reserved(0x3d)),
            (0x3f, T::Reserved(0x3f)),
        ];
        for (class, cause) in rows {
            assert_eq!(esr(class, 0).cause(), cause, "class {class:#x}");
        }
    }

    #[test]
    fn immediates_and_waits() {
        for imm in 0..=u16::MAX {
            assert_eq!(esr(ec::HVC64, imm.into()).cause(), TrapCause::Hvc64(imm));
            assert_eq!(esr(ec::SMC64, imm.into()).cause(), TrapCause::Smc64(imm));
            assert_eq!(esr(ec::HVC32, imm.into()).cause(), TrapCause::Hvc32(imm));
        }
        let waits = [
            Wait::Interrupt,
            Wait::Event,
            Wait::InterruptOrTime,
            Wait::EventOrTime,
        ];
        for (iss, wait) in (0..).zip(waits) {
            // CV, COND, RN and RV do not matter.
            for above in [0, 0x1f0_03e4] {
                assert_eq!(esr(ec::WFX, above | iss).cause(), TrapCause::Wait(wait));
            }
        }
    }

    #[test]
    fn instruction_length_follows_il() {
        assert_eq!(esr(ec::SYSREG, 0).instruction_bytes(), 4);
        assert_eq!(
            Esr::new(u64::from(ec::CP15_32) << 26).instruction_bytes(),
            2
        );
    }

    #[test]
    fn total_over_every_class_and_reserved_bit() {
        for class in 0..64 {
            for iss in (0..1 << 25).step_by(8191) {
                for high in [0, u64::MAX << 32] {
                    let value = Esr::new(esr(class, iss).raw() | high);
                    // ISS2 and RES0 bits above 31 change nothing.
                    assert_eq!(value.cause(), esr(class, iss).cause());
                    assert_eq!(u64::from(value.iss()), iss);
                }
            }
        }
    }
}
