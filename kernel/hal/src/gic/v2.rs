//! GICv2 with virtualization extensions (Arm IHI 0048 B.b; GIC-400, Arm DDI 0471 B).
//!
//! EL2 uses the CPU interface as a Non-secure or security-less GIC shows it: bit 0 of GICC_CTLR
//! enables the one group that software here can see, bit 9 splits EOI from deactivation. With two
//! security states that group is Group 1 and IGROUPR reads as zero; without (QEMU), all interrupts are
//! put into Group 0, which GICC_IAR acknowledges and which signals IRQ as long as FIQEn is 0.

use penumbra_core::machine::VirtualInterfaceFrame;

use super::{GicError, OWN_PRIVATE, gicd, reset_private, reset_shared};
use crate::mmio::Mmio;
use crate::sysreg::{dsb_ishst, dsb_sy};

mod gicc {
    pub(super) const CTLR: usize = 0x0;
    pub(super) const PMR: usize = 0x4;
    pub(super) const BPR: usize = 0x8;
    pub(super) const IAR: usize = 0xc;
    pub(super) const EOIR: usize = 0x10;
    pub(super) const DIR: usize = 0x1000;
}

mod gich {
    pub(super) const HCR: usize = 0x0;
    pub(super) const VTR: usize = 0x4;
    pub(super) const VMCR: usize = 0x8;
    pub(super) const EISR0: usize = 0x20;
    pub(super) const ELRSR0: usize = 0x30;
    pub(super) const APR: usize = 0xf0;
    pub(super) const LR: usize = 0x100;
}

const CTLR_ENABLE: u32 = 1;
const CTLR_EOI_MODE: u32 = 1 << 9;
const HCR_EN: u32 = 1;
const HCR_UIE: u32 = 1 << 1;
const HCR_NPIE: u32 = 1 << 3;
const FIRST_PPI: u32 = 16;

/// A GICv2.
#[derive(Clone, Copy, Debug)]
pub struct GicV2 {
    pub(super) distributor: Mmio,
    cpu_interface: Mmio,
    control: Mmio,
}

/// One core's side of a GICv2; the registers are banked by core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Core {
    gic: GicV2,
    list_registers: usize,
}

impl GicV2 {
    /// Takes distributor (GICD), CPU interface (GICC, 8 KiB) and virtual interface control (GICH).
    #[must_use]
    pub const fn new(distributor: Mmio, cpu_interface: Mmio, control: Mmio) -> Self {
        Self {
            distributor,
            cpu_interface,
            control,
        }
    }

    pub(super) fn start(&self) {
        self.distributor.write32(gicd::CTLR, 0);
        reset_shared(self.distributor, 0);
        self.distributor.write32(gicd::CTLR, 1);
    }

    pub(super) fn start_core(&self) -> Result<Core, GicError> {
        reset_private(self.distributor, 0);
        // A Secure interrupt's enable bit reads as zero here and ignores writes. SGIs may always be
        // enabled, so they say nothing.
        let ppis = OWN_PRIVATE & !0xffff;
        if self.distributor.read32(gicd::ISENABLER) & ppis != ppis {
            return Err(GicError::NotOurs);
        }
        self.cpu_interface.write32(gicc::PMR, 0xff);
        self.cpu_interface.write32(gicc::BPR, 0);
        self.cpu_interface
            .write32(gicc::CTLR, CTLR_ENABLE | CTLR_EOI_MODE);
        self.control.write32(gich::HCR, 0);
        let vtr = self.control.read32(gich::VTR);
        // GIC-400 has four; the architecture allows 64, of which 16 are plenty.
        let core = Core {
            gic: *self,
            list_registers: ((vtr & 0x3f) as usize + 1).min(16),
        };
        for n in 0..core.list_registers {
            core.set_list_register(n, 0);
        }
        Ok(core)
    }

    /// This core's bit in GICD_ITARGETSR and GICD_SGIR.
    pub(crate) fn own_mask(&self) -> u8 {
        // The first eight registers are read-only and hold it in each byte that is implemented.
        let word = self.distributor.read32(gicd::ITARGETSR);
        let [a, b, c, d] = word.to_le_bytes();
        a | b | c | d
    }
}

/// List register formats. GICH_LR: virtual INTID 9:0; physical INTID 19:10, or without HW the
/// source core in 12:10 and EOI in 19; priority 27:23; state 29:28; group 30; HW 31.
/// ICH_LR: virtual INTID 31:0 (with the source core in 12:10); physical 44:32 or EOI in 41; priority
/// 55:48; group 60; HW 61; state 63:62.
mod format {
    const HW: u64 = 1 << 61;

    // A call in a path that GICv3 takes too would have it keep registers for the call.
    #[inline(always)]
    pub(super) const fn to_gich(ich: u64) -> u32 {
        let id = (ich & 0x3ff) as u32;
        let priority = ((ich >> 51) & 0x1f) as u32;
        let state = (ich >> 62) as u32;
        let physical = if ich & HW != 0 {
            (ich >> 32 & 0x3ff) as u32
        } else {
            ((ich >> 10) & 7) as u32 | (((ich >> 41) & 1) as u32) << 9
        };
        let flags = (ich >> 60 & 3) as u32;
        id | physical << 10 | priority << 23 | state << 28 | flags << 30
    }

    pub(super) const fn to_ich(gich: u32) -> u64 {
        let lr = gich as u64;
        let physical = (lr >> 10) & 0x3ff;
        let low = if lr >> 31 != 0 {
            (physical << 32) | HW
        } else {
            (physical & 7) << 10 | (physical >> 9) << 41
        };
        let group = ((lr >> 30) & 1) << 60;
        (lr & 0x3ff) | low | group | ((lr >> 23) & 0x1f) << 51 | ((lr >> 28) & 3) << 62
    }

    const _: () = {
        let timer = 1 << 62 | HW | 0xa0 << 48 | 27 << 32 | 27;
        assert!(to_ich(to_gich(timer)) == timer);
        let sgi = 3 << 62 | 1 << 41 | 0x80 << 48 | 5 << 10 | 9;
        assert!(to_ich(to_gich(sgi)) == sgi);
        let group_1 = 2 << 62 | 1 << 60 | 0x80 << 48 | 33;
        assert!(to_ich(to_gich(group_1)) == group_1);
        assert!(to_gich(timer) == 1 << 31 | 1 << 28 | 0x14 << 23 | 27 << 10 | 27);
    };
}

impl Core {
    /// An SGI is ended here at once: its EOI and deactivation must name the source core, which only
    /// GICC_IAR tells (IHI 0048 B.b, "GICC_EOIR"). EL2 never hands an SGI to a guest by HW=1.
    #[inline(always)]
    pub(super) fn acknowledge(&self) -> u32 {
        let value = self.gic.cpu_interface.read32(gicc::IAR);
        dsb_sy();
        let intid = value & 0x3ff;
        if intid < FIRST_PPI {
            self.gic.cpu_interface.write32(gicc::EOIR, value);
            self.gic.cpu_interface.write32(gicc::DIR, value);
        }
        intid
    }

    #[inline(always)]
    pub(super) fn drop_priority(&self, intid: u32) {
        if intid >= FIRST_PPI {
            self.gic.cpu_interface.write32(gicc::EOIR, intid);
        }
    }

    #[inline(always)]
    pub(super) fn deactivate(&self, intid: u32) {
        if intid >= FIRST_PPI {
            self.gic.cpu_interface.write32(gicc::DIR, intid);
        }
    }

    #[inline(always)]
    pub(super) fn end(&self, intid: u32) {
        self.drop_priority(intid);
        self.deactivate(intid);
    }

    pub(super) fn set_ppi_active(&self, intid: u32, active: bool) {
        if intid < 32 {
            let register = if active {
                gicd::ISACTIVER
            } else {
                gicd::ICACTIVER
            };
            self.gic.distributor.write32(register, 1 << intid);
        }
    }

    pub(super) fn kick(&self, value: u64) {
        dsb_ishst();
        self.gic
            .distributor
            .write32(gicd::SGIR, (value & 0xffff_ffff) as u32);
    }

    pub(super) fn own_kick_value(&self, _mpidr: u64) -> u64 {
        u64::from(self.gic.own_mask()) << 16 | u64::from(penumbra_core::machine::intid::KICK)
    }

    #[inline(always)]
    pub(super) fn list_registers(&self) -> usize {
        self.list_registers
    }

    #[inline(always)]
    pub(super) fn list_register(&self, n: usize) -> u64 {
        format::to_ich(self.gic.control.read32(gich::LR.wrapping_add(4 * (n & 63))))
    }

    #[inline(always)]
    pub(super) fn set_list_register(&self, n: usize, value: u64) {
        self.gic
            .control
            .write32(gich::LR.wrapping_add(4 * (n & 63)), format::to_gich(value));
    }

    #[inline(always)]
    pub(super) fn empty_list_registers(&self) -> u32 {
        self.gic.control.read32(gich::ELRSR0)
    }

    #[inline(always)]
    pub(super) fn eoi_list_registers(&self) -> u32 {
        self.gic.control.read32(gich::EISR0)
    }

    pub(super) fn set_underflow_interrupt(&self, on: bool) {
        self.set_maintenance(HCR_UIE, on);
    }

    pub(super) fn set_no_pending_interrupt(&self, on: bool) {
        self.set_maintenance(HCR_NPIE, on);
    }

    fn set_maintenance(&self, bit: u32, on: bool) {
        let hcr = self.gic.control.read32(gich::HCR) & !bit;
        self.gic
            .control
            .write32(gich::HCR, if on { hcr | bit } else { hcr });
    }

    pub(super) fn save(&self, frame: &mut VirtualInterfaceFrame) {
        frame.vmcr = u64::from(self.gic.control.read32(gich::VMCR));
        let [apr, ..] = &mut frame.ap0r;
        *apr = self.gic.control.read32(gich::APR);
        self.gic.control.write32(gich::HCR, 0);
    }

    pub(super) fn load(&self, frame: &VirtualInterfaceFrame) {
        self.gic.control.write32(gich::VMCR, frame.vmcr as u32);
        let [apr, ..] = frame.ap0r;
        self.gic.control.write32(gich::APR, apr);
        self.gic.control.write32(gich::HCR, HCR_EN);
        dsb_sy();
    }
}
