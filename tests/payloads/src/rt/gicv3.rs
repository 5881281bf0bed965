//! GICv3: distributor, redistributors and the system-register interface (IHI 0069 H).

use super::{cpu, elsewhere, io, layout};
use crate::{mrs, msr};

/// GICR_WAKER, offset in the first frame.
pub const GICR_WAKER: usize = 0x14;
/// GICR_TYPER, offset in the first frame.
pub const GICR_TYPER: usize = 0x8;
/// GICR_TYPER.Last.
pub const TYPER_LAST: u64 = 1 << 4;
/// Offset of the SGI and PPI frame.
pub const SGI_FRAME: usize = 0x1_0000;
/// GICD_IROUTER0, eight bytes for each INTID.
pub const GICD_IROUTER: usize = layout::GICD + 0x6000;
/// GICD_CTLR: ARE_NS, EnableGrp1A, EnableGrp1.
pub const GICD_CTLR_ENABLE: u32 = 0x10 | 2;

const ASLEEP: u32 = 1 << 2;

/// Redistributor of vCPU `index`: its frames lie in vCPU order.
#[must_use]
pub fn redistributor(index: usize) -> usize {
    elsewhere::gicr() + index * 0x2_0000
}

pub(super) fn init() {
    io::write32(elsewhere::gicd(), GICD_CTLR_ENABLE);
}

pub(super) fn init_cpu() {
    let frame = redistributor(cpu::index());
    io::write32(frame + GICR_WAKER, 0);
    while io::read32(frame + GICR_WAKER) & ASLEEP != 0 {
        core::hint::spin_loop();
    }
    io::write32(frame + SGI_FRAME + 0x80, u32::MAX);
    msr!("icc_sre_el1", 7);
    msr!("icc_ctlr_el1", 0);
    msr!("icc_pmr_el1", 0xf8);
    msr!("icc_bpr1_el1", 0);
    msr!("icc_igrpen1_el1", 1);
}

/// Writes ICC_SGI1R_EL1.
#[inline]
pub fn write_sgi1r(value: u64) {
    io::barrier();
    msr!("icc_sgi1r_el1", value);
}

/// Sends SGI `intid` to the vCPUs of `targets` (bit n: affinity level 0 = n).
pub fn send_sgi(intid: u32, targets: u32) {
    write_sgi1r(u64::from(intid) << 24 | u64::from(targets));
}

/// Acknowledges a group 1 interrupt.
#[must_use]
pub fn acknowledge() -> u32 {
    let intid = mrs!("icc_iar1_el1") as u32;
    crate::insn!("dsb sy");
    intid
}

/// Ends a group 1 interrupt.
pub fn end(intid: u32) {
    msr!("icc_eoir1_el1", u64::from(intid));
}
