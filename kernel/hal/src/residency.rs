//! Moving a vCPU's system registers in and out of the hardware.
//!
//! Order matters twice. DSB NSH comes before VTTBR_EL2, TCR_EL1, SCTLR_EL1 or the TTBRs change, so
//! that accesses and walks of the vCPU that leaves are done (rule 13 of docs/rules.md). And while old and new
//! registers are mixed no walk of EL1&0 may start: out of context only an AT instruction could start
//! one, speculatively (see [`tlb`](crate::tlb)), and EL2's text has none. The ERET that enters the
//! guest synchronizes the context.

use penumbra_core::machine::{Controls, GuestRegister, SysregFrame};
use penumbra_trap::controls::hcr;
use penumbra_vmsa::Half;

use crate::sysreg::{self, dsb_nsh, isb};
use crate::tlb;

/// PSTATE fields that name EL2 or above, or a mode that must not be returned to: M[4:0].
const MODE: u64 = 0x1f;
const EL0T: u64 = 0;
const EL1T: u64 = 4;
const EL1H: u64 = 5;
const EL0_AARCH32: u64 = 0x10;

/// Registers in pairs: two that are neighbours in the frame are one access of it.
macro_rules! pairs {
    ($use:ident) => {
        $use! {
            sp_el0 sp_el1, elr_el1 spsr_el1, sctlr_el1 cpacr_el1, ttbr0_el1 ttbr1_el1,
            tcr_el1 mair_el1, amair_el1 vbar_el1, contextidr_el1 tpidr_el0, tpidrro_el0 tpidr_el1,
            esr_el1 far_el1, afsr0_el1 afsr1_el1, par_el1 csselr_el1, mdscr_el1 cntkctl_el1
        }
    };
}

/// PSTATE with a mode that a guest can have: anything else enters at EL1 with SP_EL1.
fn safe_pstate(pstate: u64) -> u64 {
    const ALLOWED: u64 = 1 << EL0T | 1 << EL1T | 1 << EL1H | 1 << EL0_AARCH32;
    if ALLOWED >> (pstate & MODE) & 1 != 0 {
        pstate
    } else {
        pstate & !MODE | EL1H
    }
}

pub(crate) fn set_pstate(pstate: u64) {
    // SAFETY: the mode is one of the guest's.
    unsafe { sysreg::spsr_el2::write(safe_pstate(pstate)) };
}

pub(crate) fn save(frame: &mut SysregFrame) {
    dsb_nsh();
    (frame.pc, frame.pstate) = (sysreg::elr_el2::read(), sysreg::spsr_el2::read());
    macro_rules! save {
        ($($one:ident $other:ident),*) => {
            $((frame.$one, frame.$other) = (sysreg::$one::read(), sysreg::$other::read());)*
        };
    }
    pairs!(save);
    frame.cntv_cval_el0 = sysreg::cntv_cval_el0::read();
    frame.cntv_ctl_el0 = sysreg::cntv_ctl_el0::read();
    sysreg::cntv_ctl_el0::write(0);
    isb();
}

pub(crate) fn load(frame: &SysregFrame, controls: &Controls) {
    // The timer is off: one of the last vCPU must not fire under this one's offset.
    set_controls(controls);
    sysreg::vmpidr_el2::write(controls.vmpidr_el2);
    // SAFETY: the core logic gives the VTTBR of the VM whose vCPU is loaded; its tables map only
    // frames of that VM.
    unsafe { sysreg::vttbr_el2::write(controls.vttbr_el2) };
    macro_rules! load {
        ($($one:ident $other:ident),*) => {
            $(
                let (one, other) = (frame.$one, frame.$other);
                sysreg::$one::write(one);
                sysreg::$other::write(other);
            )*
        };
    }
    pairs!(load);
    if controls.hcr_el2 & hcr::TERR != 0 {
        // FEAT_RAS. Guests are told of none, and what one has written there is not for the next.
        sysreg::vdisr_el2::write(0);
    }
    sysreg::cntv_cval_el0::write(frame.cntv_cval_el0);
    sysreg::elr_el2::write(frame.pc);
    set_pstate(frame.pstate);
    // What the timer compares with comes before its enable; the entry into the guest is the next barrier.
    isb();
    sysreg::cntv_ctl_el0::write(frame.cntv_ctl_el0);
}

/// Rule 5: kernel entries are global, so all of stage 1 goes.
pub(crate) fn set_root(half: Half, value: u64) {
    dsb_nsh();
    match half {
        Half::Low => sysreg::ttbr0_el1::write(value),
        Half::High => sysreg::ttbr1_el1::write(value),
    }
    isb();
    tlb::invalidate_stage1_local();
}

#[inline]
pub(crate) fn set_controls(controls: &Controls) {
    dsb_nsh();
    // SAFETY: the values are those of penumbra_trap::controls, which keep stage 2 on, interrupts
    // routed to EL2 and E2H and TGE off.
    unsafe { sysreg::hcr_el2::write(controls.hcr_el2) };
    if let Some(traps) = controls.hfgwtr_el2 {
        // SAFETY: the core has FEAT_FGT; traps more or less of the guest's writes.
        unsafe { sysreg::hfgwtr_el2::write(traps) };
    }
    // SAFETY: traps more or less of the guest; EL2 itself uses no FP.
    unsafe { sysreg::cptr_el2::write(controls.cptr_el2) };
    // SAFETY: traps more or less of the guest's debug and performance monitors.
    unsafe { sysreg::mdcr_el2::write(controls.mdcr_el2) };
    // SAFETY: traps more or less of the guest's timers.
    unsafe { sysreg::cnthctl_el2::write(controls.cnthctl_el2) };
    isb();
}

macro_rules! guest_registers {
    ($($variant:ident = $name:ident),* $(,)?) => {
        #[inline(always)]
        pub(crate) fn read(register: GuestRegister) -> u64 {
            match register {
                GuestRegister::Pstate => sysreg::spsr_el2::read(),
                $(GuestRegister::$variant => sysreg::$name::read(),)*
            }
        }

        #[inline(always)]
        pub(crate) fn write(register: GuestRegister, value: u64) {
            match register {
                GuestRegister::Pstate => set_pstate(value),
                $(GuestRegister::$variant => sysreg::$name::write(value),)*
            }
        }
    };
}

guest_registers! {
    Pc = elr_el2,
    SpEl0 = sp_el0,
    SpEl1 = sp_el1,
    ElrEl1 = elr_el1,
    SpsrEl1 = spsr_el1,
    EsrEl1 = esr_el1,
    FarEl1 = far_el1,
    SctlrEl1 = sctlr_el1,
    VbarEl1 = vbar_el1,
    Ttbr0El1 = ttbr0_el1,
    Ttbr1El1 = ttbr1_el1,
    TcrEl1 = tcr_el1,
    MairEl1 = mair_el1,
    AmairEl1 = amair_el1,
    Afsr0El1 = afsr0_el1,
    Afsr1El1 = afsr1_el1,
    ContextidrEl1 = contextidr_el1,
    MdscrEl1 = mdscr_el1,
    CntvCtlEl0 = cntv_ctl_el0,
    CntvCvalEl0 = cntv_cval_el0,
}
