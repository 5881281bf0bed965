//! Instructions that the plugin looks at. Arm ARM DDI 0487 L.b, C4.1.66 "Branches, Exception Generating and System instructions".

use penumbra_walkscope_model::Operation;

/// What an instruction is to the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Writes a register that changes the translation, or would trap under HCR_EL2.TVM.
    Write(Written),
    /// A TLBI, with the number of its operand's register.
    Tlbi(u32),
    /// Opens (`true`) or closes the window of a test.
    Marker(usize, bool),
    /// The program has mapped X1 bytes of a file at X0, shared and writable.
    FileMap,
    /// SVC #0, by which Linux's programs call it.
    Call,
}

/// A system register that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// TTBR0_EL1.
    Ttbr0,
    /// TTBR1_EL1.
    Ttbr1,
    /// CONTEXTIDR_EL1: changes nothing here, but HCR_EL2.TVM traps it.
    ContextId,
    /// TCR_EL1 or SCTLR_EL1.
    Control,
    /// HCR_EL2, VTTBR_EL2 or VTCR_EL2.
    Stage2,
}

/// Whether a call of Linux's maps a file so that its pages can be written to: `mmap` with these X8, X2 and X3.
pub(crate) fn maps_file_writable(number: u64, protection: u64, flags: u64) -> bool {
    const MMAP: u64 = 222;
    const WRITE: u64 = 2;
    // MAP_SHARED, and MAP_SHARED_VALIDATE with one bit more; MAP_ANONYMOUS.
    const SHARED: u64 = 1;
    const ANONYMOUS: u64 = 0x20;
    number == MMAP && protection & WRITE != 0 && flags & (SHARED | ANONYMOUS) == SHARED
}

/// Classifies an instruction.
pub(crate) fn kind(opcode: u32) -> Option<Kind> {
    const HINT: u32 = 0xd503_201f;
    const FILE_MAP: u32 = HINT | 95 << 5;
    const SVC: u32 = 0xd400_0001;
    match opcode {
        FILE_MAP => return Some(Kind::FileMap),
        SVC => return Some(Kind::Call),
        _ => {}
    }
    let number = opcode >> 5 & 0x7f;
    if opcode & !(0x7f << 5) == HINT && number >= 64 {
        return Some(Kind::Marker((number & 31) as usize, number < 96));
    }
    if let Some(register) = Operation::operand_register(opcode) {
        return Some(Kind::Tlbi(register));
    }
    // MSR (register) with op0 = 3.
    if opcode & 0xfff8_0000 != 0xd518_0000 {
        return None;
    }
    let field = |shift: u32, mask: u32| opcode >> shift & mask;
    let written = match (field(16, 7), field(12, 15), field(8, 15), field(5, 7)) {
        (0, 2, 0, 0) => Written::Ttbr0,
        (0, 2, 0, 1) => Written::Ttbr1,
        (0, 2, 0, 2) | (0, 1, 0, 0) => Written::Control,
        (0, 13, 0, 1) => Written::ContextId,
        (4, 1, 1, 0) | (4, 2, 1, 0 | 2) => Written::Stage2,
        _ => return None,
    };
    Some(Kind::Write(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_classified() {
        // msr ttbr0_el1, x0; msr ttbr1_el1, x1; msr sctlr_el1, x2; msr vttbr_el2, x3; mrs x0, ttbr0_el1.
        assert_eq!(kind(0xd518_2000), Some(Kind::Write(Written::Ttbr0)));
        assert_eq!(kind(0xd518_2021), Some(Kind::Write(Written::Ttbr1)));
        assert_eq!(kind(0xd518_1002), Some(Kind::Write(Written::Control)));
        assert_eq!(kind(0xd51c_2103), Some(Kind::Write(Written::Stage2)));
        assert_eq!(kind(0xd51c_1100), Some(Kind::Write(Written::Stage2)));
        assert_eq!(kind(0xd518_d020), Some(Kind::Write(Written::ContextId)));
        assert_eq!(kind(0xd538_2000), None);
        // tlbi vmalle1is; nop; hint #64; hint #97.
        assert_eq!(kind(0xd508_831f), Some(Kind::Tlbi(31)));
        assert_eq!(kind(0xd503_201f), None);
        assert_eq!(kind(0xd503_201f | 64 << 5), Some(Kind::Marker(0, true)));
        assert_eq!(kind(0xd503_201f | 97 << 5), Some(Kind::Marker(1, false)));
        // hint #95; svc #0; svc #1; hvc #0.
        assert_eq!(kind(0xd503_201f | 95 << 5), Some(Kind::FileMap));
        assert_eq!(kind(0xd400_0001), Some(Kind::Call));
        assert_eq!((kind(0xd400_0021), kind(0xd400_0002)), (None, None));
    }

    #[test]
    fn only_a_shared_writable_file_is_one() {
        let shared = |protection, flags| maps_file_writable(222, protection, flags);
        assert!(shared(3, 1) && shared(2, 3));
        // Read-only; private; anonymous; `munmap`.
        assert!(!shared(1, 1) && !shared(3, 2) && !shared(3, 0x21));
        assert!(!maps_file_writable(215, 3, 1));
    }
}
