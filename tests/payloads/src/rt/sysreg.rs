//! System registers and single instructions.

/// Reads a system register by its assembler name.
#[macro_export]
macro_rules! mrs {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a system register has no effect on Rust's state.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack));
        }
        value
    }};
}

/// Writes a system register by its assembler name, followed by an ISB.
///
/// The caller writes only registers that do not move memory under the running code.
#[macro_export]
macro_rules! msr {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: payloads write registers that leave their own mapping and stack alone.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack));
        }
    }};
}

/// Runs one instruction without operands.
#[macro_export]
macro_rules! insn {
    ($text:literal) => {{
        // SAFETY: payloads run instructions that leave their own mapping and stack alone.
        unsafe {
            core::arch::asm!($text, options(nostack));
        }
    }};
}

/// Lets IRQs in.
pub fn irq_on() {
    insn!("msr daifclr, #2");
}

/// Masks IRQs.
pub fn irq_off() {
    insn!("msr daifset, #2");
}

/// Affinity fields of this vCPU (MPIDR_EL1 without the flags).
#[must_use]
pub fn affinity() -> u64 {
    mrs!("mpidr_el1") & 0xff_00ff_ffff
}
