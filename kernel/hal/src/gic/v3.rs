//! GICv3 (Arm IHI 0069 H): distributor, redistributors, and the CPU and virtual interfaces by system
//! registers.

use penumbra_core::machine::VirtualInterfaceFrame;

use super::{GicError, gicd, reset_private, reset_shared};
use crate::mmio::Mmio;
use crate::sysreg::{dsb_ishst, dsb_sy, isb, sysreg};

sysreg! {
    /// ICC_SRE_EL2.
    icc_sre_el2 = "S3_4_C12_C9_5": read, write;
    /// ICC_SRE_EL1.
    icc_sre_el1 = "S3_0_C12_C12_5": write;
    /// ICC_PMR_EL1.
    icc_pmr_el1 = "S3_0_C4_C6_0": write;
    /// ICC_BPR1_EL1.
    icc_bpr1_el1 = "S3_0_C12_C12_3": write;
    /// ICC_CTLR_EL1.
    icc_ctlr_el1 = "S3_0_C12_C12_4": write;
    /// ICC_IGRPEN1_EL1.
    icc_igrpen1_el1 = "S3_0_C12_C12_7": write;
    /// ICC_IAR1_EL1: reading acknowledges.
    icc_iar1_el1 = "S3_0_C12_C12_0": read;
    /// ICC_EOIR1_EL1.
    icc_eoir1_el1 = "S3_0_C12_C12_1": write;
    /// ICC_DIR_EL1.
    icc_dir_el1 = "S3_0_C12_C11_1": write;
    /// ICC_SGI1R_EL1.
    icc_sgi1r_el1 = "S3_0_C12_C11_5": write;
    /// ICH_HCR_EL2.
    ich_hcr_el2 = "S3_4_C12_C11_0": read, write;
    /// ICH_VTR_EL2.
    ich_vtr_el2 = "S3_4_C12_C11_1": read;
    /// ICH_EISR_EL2.
    ich_eisr_el2 = "S3_4_C12_C11_3": read;
    /// ICH_ELRSR_EL2.
    ich_elrsr_el2 = "S3_4_C12_C11_5": read;
    /// ICH_VMCR_EL2.
    ich_vmcr_el2 = "S3_4_C12_C11_7": read, write;
    ich_ap0r0_el2 = "S3_4_C12_C8_0": read, write;
    ich_ap0r1_el2 = "S3_4_C12_C8_1": read, write;
    ich_ap0r2_el2 = "S3_4_C12_C8_2": read, write;
    ich_ap0r3_el2 = "S3_4_C12_C8_3": read, write;
    ich_ap1r0_el2 = "S3_4_C12_C9_0": read, write;
    ich_ap1r1_el2 = "S3_4_C12_C9_1": read, write;
    ich_ap1r2_el2 = "S3_4_C12_C9_2": read, write;
    ich_ap1r3_el2 = "S3_4_C12_C9_3": read, write;
    ich_lr0 = "S3_4_C12_C12_0": read, write;
    ich_lr1 = "S3_4_C12_C12_1": read, write;
    ich_lr2 = "S3_4_C12_C12_2": read, write;
    ich_lr3 = "S3_4_C12_C12_3": read, write;
    ich_lr4 = "S3_4_C12_C12_4": read, write;
    ich_lr5 = "S3_4_C12_C12_5": read, write;
    ich_lr6 = "S3_4_C12_C12_6": read, write;
    ich_lr7 = "S3_4_C12_C12_7": read, write;
    ich_lr8 = "S3_4_C12_C13_0": read, write;
    ich_lr9 = "S3_4_C12_C13_1": read, write;
    ich_lr10 = "S3_4_C12_C13_2": read, write;
    ich_lr11 = "S3_4_C12_C13_3": read, write;
    ich_lr12 = "S3_4_C12_C13_4": read, write;
    ich_lr13 = "S3_4_C12_C13_5": read, write;
    ich_lr14 = "S3_4_C12_C13_6": read, write;
    ich_lr15 = "S3_4_C12_C13_7": read, write;
}

mod gicr {
    pub(super) const CTLR: usize = 0x0;
    pub(super) const TYPER: usize = 0x8;
    pub(super) const WAKER: usize = 0x14;
    /// The SGI frame follows the RD frame.
    pub(super) const SGI_FRAME: usize = 0x1_0000;
    pub(super) const FRAME_BYTES: usize = 0x1_0000;
}

/// GICD_CTLR and GICR_CTLR: register write pending.
const RWP_GICD: u32 = 1 << 31;
const RWP_GICR: u32 = 1 << 3;
/// GICD_CTLR.DS: one security state.
const GICD_DS: u32 = 1 << 6;
const GICD_ARE: u32 = 1 << 4;
const ENABLE_GROUP_1: u32 = 1 << 1;
/// GICR_TYPER: last of its region, and redistributors of four frames (GICv4).
const TYPER_LAST: u64 = 1 << 4;
const TYPER_VLPIS: u64 = 1 << 1;
/// ICC_SRE: system registers on, bypass off; EL2's also lets EL1 use its own.
const SRE_EL2: u64 = 0xf;
const SRE_EL1: u64 = 0x7;
const CTLR_EOI_MODE: u64 = 1 << 1;
const HCR_EN: u64 = 1;
const HCR_UIE: u64 = 1 << 1;
const HCR_NPIE: u64 = 1 << 3;
/// Regions of redistributors at most.
const REGIONS: usize = 4;

/// A region of redistributors.
#[derive(Clone, Copy, Debug)]
pub struct RedistributorRegion {
    /// Its registers.
    pub registers: Mmio,
}

/// A GICv3.
#[derive(Clone, Copy, Debug)]
pub struct GicV3 {
    pub(super) distributor: Mmio,
    regions: [Option<RedistributorRegion>; REGIONS],
}

/// One core's side of a GICv3.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Core {
    sgi_frame: Mmio,
    list_registers: usize,
    priority_bits: u64,
}

impl GicV3 {
    /// Takes the distributor and the redistributors; regions beyond the fourth are ignored.
    #[must_use]
    pub fn new(distributor: Mmio, all: impl IntoIterator<Item = RedistributorRegion>) -> Self {
        let mut regions = [None; REGIONS];
        for (slot, region) in regions.iter_mut().zip(all) {
            *slot = Some(region);
        }
        Self {
            distributor,
            regions,
        }
    }

    pub(super) fn wait(&self) {
        while self.distributor.read32(gicd::CTLR) & RWP_GICD != 0 {
            core::hint::spin_loop();
        }
    }

    pub(super) fn start(&self) {
        let one_state = self.distributor.read32(gicd::CTLR) & GICD_DS;
        self.distributor.write32(gicd::CTLR, one_state);
        self.wait();
        // ARE comes before the enables (IHI 0069 H, "GICD_CTLR").
        self.distributor.write32(gicd::CTLR, one_state | GICD_ARE);
        self.wait();
        reset_shared(self.distributor, u32::MAX);
        self.wait();
        self.distributor
            .write32(gicd::CTLR, one_state | GICD_ARE | ENABLE_GROUP_1);
        self.wait();
    }

    /// The redistributor of a core: its RD and SGI frames.
    fn redistributor(&self, mpidr: u64) -> Option<Mmio> {
        let affinity = (mpidr >> 8) & 0xff00_0000 | mpidr & 0x00ff_ffff;
        for region in self.regions.iter().flatten() {
            let mut offset = 0;
            while let Some(frame) = region.registers.part(offset, 2 * gicr::FRAME_BYTES) {
                let typer = frame.read64(gicr::TYPER);
                if typer >> 32 == affinity {
                    return Some(frame);
                }
                if typer & TYPER_LAST != 0 {
                    break;
                }
                let frames = if typer & TYPER_VLPIS != 0 { 4 } else { 2 };
                offset += frames * gicr::FRAME_BYTES;
            }
        }
        None
    }

    pub(super) fn start_core(&self, mpidr: u64) -> Result<Core, GicError> {
        let frame = self.redistributor(mpidr).ok_or(GicError::NoRedistributor)?;
        wake(frame)?;
        let sgi_frame = frame
            .part(gicr::SGI_FRAME, gicr::FRAME_BYTES)
            .ok_or(GicError::NoRedistributor)?;
        reset_private(sgi_frame, u32::MAX);
        while frame.read32(gicr::CTLR) & RWP_GICR != 0 {
            core::hint::spin_loop();
        }

        icc_sre_el2::write(SRE_EL2);
        isb();
        if icc_sre_el2::read() & 1 == 0 {
            return Err(GicError::NoSystemRegisters);
        }
        icc_sre_el1::write(SRE_EL1);
        icc_pmr_el1::write(0xff);
        icc_bpr1_el1::write(0);
        icc_ctlr_el1::write(CTLR_EOI_MODE);
        icc_igrpen1_el1::write(1);
        ich_hcr_el2::write(0);
        isb();
        let vtr = ich_vtr_el2::read();
        let core = Core {
            sgi_frame,
            // The architecture has sixteen at most.
            list_registers: ((vtr & 0x1f) as usize + 1).min(16),
            priority_bits: ((vtr >> 26) & 7) + 1,
        };
        for n in 0..core.list_registers {
            core.set_list_register(n, 0);
        }
        Ok(core)
    }
}

fn wake(frame: Mmio) -> Result<(), GicError> {
    const PROCESSOR_SLEEP: u32 = 1 << 1;
    const CHILDREN_ASLEEP: u32 = 1 << 2;
    let waker = frame.read32(gicr::WAKER);
    frame.write32(gicr::WAKER, waker & !PROCESSOR_SLEEP);
    for _ in 0..1_000_000 {
        if frame.read32(gicr::WAKER) & CHILDREN_ASLEEP == 0 {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(GicError::Asleep)
}

/// Expands to a match from an index to a list register's module.
macro_rules! by_index {
    ($n:expr, $register:ident => $use:expr, $default:expr) => {
        match $n {
            0 => {
                use ich_lr0 as $register;
                $use
            }
            1 => {
                use ich_lr1 as $register;
                $use
            }
            2 => {
                use ich_lr2 as $register;
                $use
            }
            3 => {
                use ich_lr3 as $register;
                $use
            }
            4 => {
                use ich_lr4 as $register;
                $use
            }
            5 => {
                use ich_lr5 as $register;
                $use
            }
            6 => {
                use ich_lr6 as $register;
                $use
            }
            7 => {
                use ich_lr7 as $register;
                $use
            }
            8 => {
                use ich_lr8 as $register;
                $use
            }
            9 => {
                use ich_lr9 as $register;
                $use
            }
            10 => {
                use ich_lr10 as $register;
                $use
            }
            11 => {
                use ich_lr11 as $register;
                $use
            }
            12 => {
                use ich_lr12 as $register;
                $use
            }
            13 => {
                use ich_lr13 as $register;
                $use
            }
            14 => {
                use ich_lr14 as $register;
                $use
            }
            15 => {
                use ich_lr15 as $register;
                $use
            }
            _ => $default,
        }
    };
}

#[expect(
    clippy::unused_self,
    reason = "the system registers are this core's: the value is the right to use them"
)]
impl Core {
    #[inline(always)]
    pub(super) fn acknowledge(&self) -> u32 {
        let intid = icc_iar1_el1::read() as u32;
        // The read must be done before what the handler does (IHI 0069 H, "ICC_IAR1_EL1").
        dsb_sy();
        intid & 0xff_ffff
    }

    #[inline(always)]
    pub(super) fn drop_priority(&self, intid: u32) {
        icc_eoir1_el1::write(u64::from(intid));
        isb();
    }

    #[inline(always)]
    pub(super) fn deactivate(&self, intid: u32) {
        icc_dir_el1::write(u64::from(intid));
        isb();
    }

    #[inline(always)]
    pub(super) fn end(&self, intid: u32) {
        icc_eoir1_el1::write(u64::from(intid));
        icc_dir_el1::write(u64::from(intid));
        isb();
    }

    pub(super) fn set_ppi_active(&self, intid: u32, active: bool) {
        if intid < 32 {
            let register = if active {
                gicd::ISACTIVER
            } else {
                gicd::ICACTIVER
            };
            self.sgi_frame.write32(register, 1 << intid);
        }
    }

    pub(super) fn kick(&self, value: u64) {
        // What the target is to find in memory must be there before the interrupt.
        dsb_ishst();
        icc_sgi1r_el1::write(value);
        isb();
    }

    pub(super) fn own_kick_value(&self, mpidr: u64) -> u64 {
        let [aff0, aff1, aff2, _, aff3, ..] = mpidr.to_le_bytes();
        // TargetList names 16 cores from RS * 16 on.
        u64::from(aff3) << 48
            | u64::from(aff0 >> 4) << 44
            | u64::from(aff2) << 32
            | u64::from(penumbra_core::machine::intid::KICK) << 24
            | u64::from(aff1) << 16
            | 1 << (aff0 & 0xf)
    }

    #[inline(always)]
    pub(super) fn list_registers(&self) -> usize {
        self.list_registers
    }

    #[inline(always)]
    pub(super) fn list_register(&self, n: usize) -> u64 {
        by_index!(n, lr => lr::read(), 0)
    }

    #[inline(always)]
    pub(super) fn set_list_register(&self, n: usize, value: u64) {
        by_index!(n, lr => lr::write(value), ());
    }

    #[inline(always)]
    pub(super) fn empty_list_registers(&self) -> u32 {
        ich_elrsr_el2::read() as u32
    }

    #[inline(always)]
    pub(super) fn eoi_list_registers(&self) -> u32 {
        ich_eisr_el2::read() as u32
    }

    pub(super) fn set_underflow_interrupt(&self, on: bool) {
        Self::set_maintenance(HCR_UIE, on);
    }

    pub(super) fn set_no_pending_interrupt(&self, on: bool) {
        Self::set_maintenance(HCR_NPIE, on);
    }

    fn set_maintenance(bit: u64, on: bool) {
        let hcr = ich_hcr_el2::read() & !bit;
        ich_hcr_el2::write(if on { hcr | bit } else { hcr });
    }

    pub(super) fn save(&self, frame: &mut VirtualInterfaceFrame) {
        frame.vmcr = ich_vmcr_el2::read();
        let [a0, a1, a2, a3] = &mut frame.ap0r;
        let [b0, b1, b2, b3] = &mut frame.ap1r;
        *a0 = ich_ap0r0_el2::read() as u32;
        *b0 = ich_ap1r0_el2::read() as u32;
        if self.priority_bits > 5 {
            *a1 = ich_ap0r1_el2::read() as u32;
            *b1 = ich_ap1r1_el2::read() as u32;
        }
        if self.priority_bits > 6 {
            *a2 = ich_ap0r2_el2::read() as u32;
            *a3 = ich_ap0r3_el2::read() as u32;
            *b2 = ich_ap1r2_el2::read() as u32;
            *b3 = ich_ap1r3_el2::read() as u32;
        }
        ich_hcr_el2::write(0);
        isb();
    }

    pub(super) fn load(&self, frame: &VirtualInterfaceFrame) {
        icc_sre_el1::write(SRE_EL1);
        isb();
        ich_vmcr_el2::write(frame.vmcr);
        let [a0, a1, a2, a3] = &frame.ap0r;
        let [b0, b1, b2, b3] = &frame.ap1r;
        ich_ap0r0_el2::write(u64::from(*a0));
        ich_ap1r0_el2::write(u64::from(*b0));
        if self.priority_bits > 5 {
            ich_ap0r1_el2::write(u64::from(*a1));
            ich_ap1r1_el2::write(u64::from(*b1));
        }
        if self.priority_bits > 6 {
            ich_ap0r2_el2::write(u64::from(*a2));
            ich_ap0r3_el2::write(u64::from(*a3));
            ich_ap1r2_el2::write(u64::from(*b2));
            ich_ap1r3_el2::write(u64::from(*b3));
        }
        // The entry into the guest is the barrier.
        ich_hcr_el2::write(HCR_EN);
    }
}
