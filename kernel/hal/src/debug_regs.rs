//! Breakpoint and watchpoint registers, as many as ID_AA64DFR0_EL1 says the core has, claim tags, and the
//! debug communication channel.

use core::arch::asm;

use penumbra_core::machine::DebugFrame;

use crate::sysreg::{isb, mdscr_el1, sysreg};

sysreg! {
    /// ID_AA64DFR0_EL1.
    id_aa64dfr0_el1 = "id_aa64dfr0_el1": read;
    /// PMCR_EL0.
    pmcr_el0 = "pmcr_el0": read;
    /// DBGCLAIMSET_EL1.
    dbgclaimset_el1 = "dbgclaimset_el1": write;
    /// DBGCLAIMCLR_EL1.
    dbgclaimclr_el1 = "dbgclaimclr_el1": read, write;
    /// MDCCINT_EL1.
    mdccint_el1 = "mdccint_el1": read, write;
    /// OSDTRRX_EL1.
    osdtrrx_el1 = "osdtrrx_el1": write;
    /// OSDTRTX_EL1.
    osdtrtx_el1 = "osdtrtx_el1": write;
    /// OSLAR_EL1.
    oslar_el1 = "oslar_el1": write;
}

/// Claim tags that there may be (DBGCLAIMSET_EL1.CLAIM).
const CLAIM_TAGS: u64 = 0xff;
/// MDSCR_EL1.RXfull and TXfull.
const DCC_FULL: u64 = 1 << 30 | 1 << 29;

macro_rules! numbered {
    ($read:ident, $write:ident, $name:literal) => {
        numbered!(@make $read, $write, $name, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
    };
    (@make $read:ident, $write:ident, $name:literal, [$($n:literal)*]) => {
        fn $read(n: usize) -> u64 {
            let value: u64;
            match n {
                $($n => {
                    // SAFETY: reading a debug register of the guest has no effect.
                    unsafe {
                        asm!(concat!("mrs {}, ", $name, $n, "_el1"), out(reg) value,
                            options(nostack, preserves_flags));
                    }
                })*
                _ => value = 0,
            }
            value
        }

        fn $write(n: usize, value: u64) {
            match n {
                $($n => {
                    // SAFETY: the guest's debug registers act on EL1 and EL0 only: what would
                    // match at EL2 (HMC, MDCR_EL2.TDE) is kept out by the trap policy and by
                    // PSTATE.D, which is set throughout EL2.
                    unsafe {
                        asm!(concat!("msr ", $name, $n, "_el1, {}"), in(reg) value,
                            options(nostack, preserves_flags));
                    }
                })*
                _ => {}
            }
        }
    };
}

numbered!(read_bvr, write_bvr, "dbgbvr");
numbered!(read_bcr, write_bcr, "dbgbcr");
numbered!(read_wvr, write_wvr, "dbgwvr");
numbered!(read_wcr, write_wcr, "dbgwcr");

/// Breakpoints and watchpoints of this core.
fn counts() -> (usize, usize) {
    let features = id_aa64dfr0_el1::read();
    let field = |shift: u32| ((features >> shift) & 0xf) as usize + 1;
    (field(12), field(20))
}

pub(crate) fn save(frame: &mut DebugFrame) {
    let (breakpoints, watchpoints) = counts();
    for (n, [value, control]) in frame.breakpoints.iter_mut().enumerate().take(breakpoints) {
        *value = read_bvr(n);
        *control = read_bcr(n);
    }
    for (n, [value, control]) in frame.watchpoints.iter_mut().enumerate().take(watchpoints) {
        *value = read_wvr(n);
        *control = read_wcr(n);
    }
    frame.claim_tags = dbgclaimclr_el1::read() & CLAIM_TAGS;
    frame.mdccint_el1 = mdccint_el1::read();
}

pub(crate) fn load(frame: &DebugFrame) {
    let (breakpoints, watchpoints) = counts();
    for (n, &[value, control]) in frame.breakpoints.iter().enumerate().take(breakpoints) {
        write_bvr(n, value);
        write_bcr(n, control);
    }
    for (n, &[value, control]) in frame.watchpoints.iter().enumerate().take(watchpoints) {
        write_wvr(n, value);
        write_wcr(n, control);
    }
    dbgclaimclr_el1::write(CLAIM_TAGS);
    dbgclaimset_el1::write(frame.claim_tags);
    mdccint_el1::write(frame.mdccint_el1);
    empty_dcc();
}

/// Empties the debug communication channel and leaves the OS lock open. Both registers and their flags
/// can be written only while the lock is set (Arm ARM DDI 0487 L.b, H6 "Debug OS Save and Restore sequences").
fn empty_dcc() {
    oslar_el1::write(1);
    isb();
    mdscr_el1::write(mdscr_el1::read() & !DCC_FULL);
    osdtrrx_el1::write(0);
    osdtrtx_el1::write(0);
    isb();
    oslar_el1::write(0);
    isb();
}

/// PMCR_EL0.N: event counters of this core; 0 without a PMU that the architecture describes.
pub(crate) fn event_counters() -> u64 {
    match (id_aa64dfr0_el1::read() >> 8) & 0xf {
        0 | 0xf => 0,
        _ => (pmcr_el0::read() >> 11) & 0x1f,
    }
}
