//! EL2's own timer: CNTHP, by compare value.

use crate::sysreg::{cnthp_ctl_el2, cnthp_cval_el2, cntpct_el0, isb};

const ENABLE: u64 = 1;

/// CNTPCT_EL0, read after the instructions before it.
#[inline]
pub(crate) fn counter() -> u64 {
    isb();
    cntpct_el0::read()
}

/// Arms the timer for a counter value, or disarms it.
#[inline]
pub(crate) fn set_deadline(deadline: Option<u64>) {
    match deadline {
        Some(at) => {
            cnthp_cval_el2::write(at);
            cnthp_ctl_el2::write(ENABLE);
        }
        None => cnthp_ctl_el2::write(0),
    }
    isb();
}
