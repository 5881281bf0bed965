//! GICv2: distributor and CPU interface (IHI 0048 B.b).

use super::{io, layout};

/// GICC_CTLR.
pub const GICC_CTLR: usize = layout::GICC;
/// GICC_PMR.
pub const GICC_PMR: usize = layout::GICC + 0x4;
/// GICC_BPR.
pub const GICC_BPR: usize = layout::GICC + 0x8;
/// GICC_IAR.
pub const GICC_IAR: usize = layout::GICC + 0xc;
/// GICC_EOIR.
pub const GICC_EOIR: usize = layout::GICC + 0x10;
/// GICC_RPR.
pub const GICC_RPR: usize = layout::GICC + 0x14;
/// GICC_HPPIR.
pub const GICC_HPPIR: usize = layout::GICC + 0x18;
/// GICC_DIR.
pub const GICC_DIR: usize = layout::GICC + 0x1000;
/// GICD_ITARGETSR0, one byte for each INTID.
pub const GICD_ITARGETSR: usize = layout::GICD + 0x800;
/// GICD_SGIR.
pub const GICD_SGIR: usize = layout::GICD + 0xf00;
/// GICD_CPENDSGIR0, one byte for each SGI.
pub const GICD_CPENDSGIR: usize = layout::GICD + 0xf10;
/// GICD_SPENDSGIR0.
pub const GICD_SPENDSGIR: usize = layout::GICD + 0xf20;

pub(super) fn init() {
    io::write32(layout::GICD, 1);
}

pub(super) fn init_cpu() {
    io::write32(GICC_PMR, 0xf8);
    io::write32(GICC_BPR, 0);
    io::write32(GICC_CTLR, 1);
}

/// Sends SGI `intid` to the CPU interfaces in `targets`.
pub fn send_sgi(intid: u32, targets: u32) {
    io::barrier();
    io::write32(GICD_SGIR, targets << 16 | intid);
}

/// CPU interface number of this vCPU, as a bit: GICD_ITARGETSR0 reads as the reader.
#[must_use]
pub fn own_target() -> u8 {
    io::read8(GICD_ITARGETSR)
}
