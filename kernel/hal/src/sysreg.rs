//! System registers by name, and barriers.
//!
//! `aarch64-cpu` writes registers with `nomem`, so the compiler may move a store across a write
//! that hardware must see it before; and it lacks some sixty registers that a hypervisor needs.
//! The accessors here are made by one macro, never with `nomem`. A register whose write changes
//! what EL2 itself executes or how any address is translated has an `unsafe` writer; registers
//! of the guest's own EL1 world and of the interrupt interface have a safe one.

use core::arch::asm;

/// Makes a module for each register with the accessors that are named: `read`, `write` (safe) or
/// `write_unsafe`.
macro_rules! sysreg {
    ($($(#[$doc:meta])* $module:ident = $name:literal: $($ability:ident),+;)*) => {
        $(
            $(#[$doc])*
            pub(crate) mod $module {
                $($crate::sysreg::sysreg!(@$ability $name);)+
            }
        )*
    };
    (@read $name:literal) => {
        /// Reads the register.
        #[inline(always)]
        pub(crate) fn read() -> u64 {
            let value: u64;
            // SAFETY: reading this register has no effect besides its value.
            unsafe {
                core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value,
                    options(nostack, preserves_flags));
            }
            value
        }
    };
    (@write $name:literal) => {
        /// Writes the register.
        #[inline(always)]
        pub(crate) fn write(value: u64) {
            // SAFETY: the register belongs to the guest's world or to a device interface; EL2's own
            // execution and translation do not depend on it.
            unsafe {
                core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value,
                    options(nostack, preserves_flags));
            }
        }
    };
    (@write_unsafe $name:literal) => {
        /// Writes the register.
        ///
        /// # Safety
        /// The value keeps EL2's own execution and the isolation of guests intact.
        #[inline(always)]
        pub(crate) unsafe fn write(value: u64) {
            // SAFETY: forwarded to the caller.
            unsafe {
                core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value,
                    options(nostack, preserves_flags));
            }
        }
    };
}
pub(crate) use sysreg;

sysreg! {
    /// ELR_EL2: where the resident vCPU continues.
    elr_el2 = "elr_el2": read, write;
    /// SPSR_EL2: PSTATE of the resident vCPU. A value that names EL2 would return into EL2.
    spsr_el2 = "spsr_el2": read, write_unsafe;
    /// ESR_EL2.
    esr_el2 = "esr_el2": read;
    /// FAR_EL2.
    far_el2 = "far_el2": read;
    /// HPFAR_EL2.
    hpfar_el2 = "hpfar_el2": read;
    /// HCR_EL2.
    hcr_el2 = "hcr_el2": write_unsafe;
    /// CPTR_EL2.
    cptr_el2 = "cptr_el2": read, write_unsafe;
    /// MDCR_EL2.
    mdcr_el2 = "mdcr_el2": write_unsafe;
    /// CNTHCTL_EL2.
    cnthctl_el2 = "cnthctl_el2": write_unsafe;
    /// CNTVOFF_EL2.
    cntvoff_el2 = "cntvoff_el2": write;
    /// VTTBR_EL2.
    vttbr_el2 = "vttbr_el2": read, write_unsafe;
    /// VTCR_EL2.
    vtcr_el2 = "vtcr_el2": write_unsafe;
    /// VMPIDR_EL2.
    vmpidr_el2 = "vmpidr_el2": write;
    /// VPIDR_EL2.
    vpidr_el2 = "vpidr_el2": write;
    /// CNTHP_CTL_EL2.
    cnthp_ctl_el2 = "cnthp_ctl_el2": write;
    /// CNTHP_CVAL_EL2.
    cnthp_cval_el2 = "cnthp_cval_el2": write;
    /// ISR_EL1: at EL2, which physical interrupts wait.
    isr_el1 = "isr_el1": read;
    /// CNTPCT_EL0.
    cntpct_el0 = "cntpct_el0": read;

    /// SP_EL0.
    sp_el0 = "sp_el0": read, write;
    /// SP_EL1.
    sp_el1 = "sp_el1": read, write;
    /// ELR_EL1.
    elr_el1 = "elr_el1": read, write;
    /// SPSR_EL1.
    spsr_el1 = "spsr_el1": read, write;
    /// SCTLR_EL1.
    sctlr_el1 = "sctlr_el1": read, write;
    /// CPACR_EL1.
    cpacr_el1 = "cpacr_el1": read, write;
    /// TTBR0_EL1.
    ttbr0_el1 = "ttbr0_el1": read, write;
    /// TTBR1_EL1.
    ttbr1_el1 = "ttbr1_el1": read, write;
    /// TCR_EL1.
    tcr_el1 = "tcr_el1": read, write;
    /// MAIR_EL1.
    mair_el1 = "mair_el1": read, write;
    /// AMAIR_EL1.
    amair_el1 = "amair_el1": read, write;
    /// VBAR_EL1.
    vbar_el1 = "vbar_el1": read, write;
    /// CONTEXTIDR_EL1.
    contextidr_el1 = "contextidr_el1": read, write;
    /// TPIDR_EL0.
    tpidr_el0 = "tpidr_el0": read, write;
    /// TPIDRRO_EL0.
    tpidrro_el0 = "tpidrro_el0": read, write;
    /// TPIDR_EL1.
    tpidr_el1 = "tpidr_el1": read, write;
    /// ESR_EL1.
    esr_el1 = "esr_el1": read, write;
    /// FAR_EL1.
    far_el1 = "far_el1": read, write;
    /// AFSR0_EL1.
    afsr0_el1 = "afsr0_el1": read, write;
    /// AFSR1_EL1.
    afsr1_el1 = "afsr1_el1": read, write;
    /// PAR_EL1.
    par_el1 = "par_el1": read, write;
    /// CSSELR_EL1.
    csselr_el1 = "csselr_el1": read, write;
    /// MDSCR_EL1.
    mdscr_el1 = "mdscr_el1": read, write;
    /// CNTKCTL_EL1.
    cntkctl_el1 = "cntkctl_el1": read, write;
    /// CNTV_CTL_EL0.
    cntv_ctl_el0 = "cntv_ctl_el0": read, write;
    /// CNTV_CVAL_EL0.
    cntv_cval_el0 = "cntv_cval_el0": read, write;

    /// VDISR_EL2 (FEAT_RAS): what EL1 has as DISR_EL1, which nothing traps.
    vdisr_el2 = "S3_4_C12_C1_1": write;
    /// HFGRTR_EL2 (FEAT_FGT).
    hfgrtr_el2 = "S3_4_C1_C1_4": write_unsafe;
    /// HFGWTR_EL2 (FEAT_FGT).
    hfgwtr_el2 = "S3_4_C1_C1_5": write_unsafe;
    /// HFGITR_EL2 (FEAT_FGT).
    hfgitr_el2 = "S3_4_C1_C1_6": write_unsafe;
    /// HDFGRTR_EL2 (FEAT_FGT).
    hdfgrtr_el2 = "S3_4_C3_C1_4": write_unsafe;
    /// HDFGWTR_EL2 (FEAT_FGT).
    hdfgwtr_el2 = "S3_4_C3_C1_5": write_unsafe;
    /// HCRX_EL2 (FEAT_HCX).
    hcrx_el2 = "S3_4_C1_C2_2": write_unsafe;
}

/// Waits until all earlier memory accesses of this core are complete for all observers.
#[inline(always)]
pub(crate) fn dsb_sy() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// Waits until all earlier memory accesses are complete in the inner shareable domain.
#[inline(always)]
pub(crate) fn dsb_ish() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) }
}

/// Waits until earlier stores are complete in the inner shareable domain.
#[inline(always)]
pub(crate) fn dsb_ishst() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) }
}

/// Waits until earlier memory accesses and TLB maintenance of this core are complete.
#[inline(always)]
pub(crate) fn dsb_nsh() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb nsh", options(nostack, preserves_flags)) }
}

/// Makes earlier changes of context visible to the instructions that follow.
#[inline(always)]
pub(crate) fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) }
}

/// Lets others go on while this core waits for one of them. YIELD tells threads of a core and a simulator
/// that runs the cores in turns; ISB holds a core up for a moment.
#[inline(always)]
pub(crate) fn relax() {
    // SAFETY: hints.
    unsafe { asm!("yield", "isb", options(nostack, preserves_flags)) }
}

/// Waits until an interrupt is pending, masked or not.
pub(crate) fn wait_for_interrupt() {
    dsb_sy();
    // SAFETY: waits.
    unsafe { asm!("wfi", options(nostack, preserves_flags)) }
    isb();
}

/// Waits for an event of another core, or for nothing in particular.
pub(crate) fn wait_for_event() {
    // SAFETY: waits.
    unsafe { asm!("wfe", options(nostack, preserves_flags)) }
}

/// Wakes the cores that wait for an event.
pub(crate) fn send_event() {
    dsb_ishst();
    // SAFETY: wakes.
    unsafe { asm!("sev", options(nostack, preserves_flags)) }
}
