//! The virtual counter and timer.

use crate::{mrs, msr};

/// CNTV_CTL_EL0.ENABLE.
pub const ENABLE: u64 = 1;
/// CNTV_CTL_EL0.IMASK.
pub const MASK: u64 = 2;
/// CNTV_CTL_EL0.ISTATUS.
pub const STATUS: u64 = 4;

/// The virtual counter.
#[must_use]
pub fn now() -> u64 {
    crate::insn!("isb");
    mrs!("cntvct_el0")
}

/// Ticks of `microseconds`.
#[must_use]
pub fn ticks(microseconds: u64) -> u64 {
    mrs!("cntfrq_el0") * microseconds / 1_000_000
}

/// Arms the virtual timer `ticks` from now.
pub fn arm(ticks: u64) {
    msr!("cntv_cval_el0", now().wrapping_add(ticks));
    msr!("cntv_ctl_el0", ENABLE);
}

/// Stops the virtual timer.
pub fn disarm() {
    msr!("cntv_ctl_el0", 0);
}

/// Spins until `condition` holds, at most `microseconds`; says whether it held.
pub fn wait_for(microseconds: u64, condition: impl Fn() -> bool) -> bool {
    let end = now() + ticks(microseconds);
    loop {
        if condition() {
            return true;
        }
        if now() > end {
            return condition();
        }
        core::hint::spin_loop();
        crate::insn!("yield");
    }
}

/// Spins for `microseconds`.
pub fn delay(microseconds: u64) {
    wait_for(microseconds, || false);
}

/// Waits in WFI for `microseconds`, with IRQs masked. Uses the virtual timer and its interrupt.
pub fn sleep(microseconds: u64) {
    super::sysreg::irq_off();
    super::gic::enable(super::layout::VTIMER_INTID, 0xa0);
    let end = now() + ticks(microseconds);
    arm(ticks(microseconds));
    while now() < end {
        crate::insn!("wfi");
    }
    disarm();
    super::gic::set(super::gic::Bits::ClearEnable, super::layout::VTIMER_INTID);
    super::sysreg::irq_on();
}
