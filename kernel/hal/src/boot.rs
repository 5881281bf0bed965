//! The boot, as a platform drives it: [`begin`], then facts of the board in the order of
//! [`EarlyBoot`]'s methods, then [`EarlyBoot::finish`], which gives the boot core's [`Hardware`].

use aarch64_cpu::registers::{CNTFRQ_EL0, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, MIDR_EL1, Readable};
use penumbra_trap::controls::{FINE_GRAINED_REGISTER_TRAPS, HCRX_EL2, HFGITR_EL2};
use penumbra_vmsa::{PAGE_SIZE, Stage2Geometry, physical_size};

use crate::console::{CONSOLE, Console, Uart};
use crate::el2_map::{self, Kind, MAX_TREE_BYTES, MapError};
use crate::gic::{Gic, GicError};
use crate::mmio::Mmio;
use crate::{Hardware, frame_pool, logger, secondary, sysreg, tlb};

/// The right to change what only the boot core may change, before the others start.
#[derive(Debug)]
pub struct EarlyBoot(());

/// Why a core cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum StartError {
    /// Its interrupt controller.
    Gic(GicError),
    /// Steps of the boot in a wrong order.
    Order,
}

/// Header of a flattened device tree: magic and total size, big-endian.
const TREE_MAGIC: u32 = 0xd00d_feed;

/// Takes over from the assembly. There is no console before the platform names one.
///
/// # Safety
/// Called once, first, on the boot core.
#[must_use]
pub unsafe fn begin() -> EarlyBoot {
    prepare_core();
    logger::start();
    EarlyBoot(())
}

/// Puts the registers that firmware may have left anyhow into a known state, on each core.
pub(crate) fn prepare_core() {
    let physical_bits = physical_size(ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange));
    // SAFETY: stage 2 is off; this is the geometry of every table that VTTBR_EL2 will name.
    unsafe { sysreg::vtcr_el2::write(Stage2Geometry::PENUMBRA.vtcr(physical_bits)) };
    // FEAT_FGT and FEAT_HCX: their traps and enables are UNKNOWN after reset.
    if ID_AA64MMFR0_EL1.get() >> 56 & 0xf != 0 {
        // SAFETY: no guest runs; what is trapped are features that guests do not see.
        unsafe { sysreg::hfgrtr_el2::write(FINE_GRAINED_REGISTER_TRAPS) };
        // SAFETY: as above.
        unsafe { sysreg::hfgitr_el2::write(HFGITR_EL2) };
        // SAFETY: as above.
        unsafe { sysreg::hdfgrtr_el2::write(FINE_GRAINED_REGISTER_TRAPS) };
        // SAFETY: as above.
        unsafe { sysreg::hdfgwtr_el2::write(FINE_GRAINED_REGISTER_TRAPS) };
    }
    if ID_AA64MMFR1_EL1.get() >> 40 & 0xf != 0 {
        // SAFETY: no guest runs; zero enables nothing.
        unsafe { sysreg::hcrx_el2::write(HCRX_EL2) };
    }
    sysreg::cnthp_ctl_el2::write(0);
    sysreg::cntv_ctl_el0::write(0);
    // The same for all guests: their virtual counter is the physical one, and they see the core's MIDR.
    sysreg::cntvoff_el2::write(0);
    sysreg::vpidr_el2::write(MIDR_EL1.get());
    sysreg::isb();
    tlb::invalidate_everything_local();
}

impl EarlyBoot {
    /// The device tree at `address`, as far as its header says, if it is one.
    ///
    /// # Safety
    /// `address` is what firmware handed over; the memory there stays as it is for ever.
    #[must_use]
    pub unsafe fn device_tree(&self, address: usize) -> Option<&'static [u8]> {
        let header = core::ptr::with_exposed_provenance::<[u8; 8]>(address);
        if address == 0 || !address.is_multiple_of(8) {
            return None;
        }
        // SAFETY: the early map covers 2 MiB from the device tree's address.
        let [m0, m1, m2, m3, s0, s1, s2, s3] = unsafe { header.read() };
        let bytes = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
        if u32::from_be_bytes([m0, m1, m2, m3]) != TREE_MAGIC || bytes as u64 > MAX_TREE_BYTES {
            return None;
        }
        // SAFETY: mapped as above, and unchanged by the contract of this function.
        Some(unsafe { core::slice::from_raw_parts(header.cast(), bytes) })
    }

    /// Maps a device's registers.
    ///
    /// # Errors
    /// EL2's map cannot hold them.
    ///
    /// # Safety
    /// There is a device at `base`, with `bytes` of registers, not memory.
    pub unsafe fn map_device(&mut self, base: u64, bytes: u64) -> Result<Mmio, MapError> {
        let first = base & !(PAGE_SIZE - 1);
        let end = base.checked_add(bytes).ok_or(MapError::BadRange)?;
        let end = end
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(MapError::BadRange)?;
        el2_map::map(first, end.wrapping_sub(first), Kind::Device)?;
        // SAFETY: just mapped; that it is a device is the caller's word.
        Ok(unsafe { Mmio::new(base as usize, bytes as usize) })
    }

    /// Makes a UART the console. What is said goes to `also` as well, until this is called again.
    pub fn set_console(&mut self, uart: Uart, also: Option<Uart>) {
        *CONSOLE.lock() = Console {
            uart: Some(uart),
            also,
        };
    }

    /// The console is one UART from here on, the first of the two.
    pub fn keep_console(&mut self) {
        CONSOLE.lock().also = None;
    }

    /// Ends the line that the assembly's trail began.
    pub fn end_line(&mut self) {
        CONSOLE.lock().write(b"\r\n");
    }

    /// Maps the slot of a spin table: eight bytes that a core reads, with its caches off, while it
    /// waits for the address to start at. The slot may lie in page 0, which is mapped nowhere else.
    ///
    /// # Errors
    /// It does not lie in the first GiB, is not aligned, or EL2's map cannot hold it.
    ///
    /// # Safety
    /// The page of the slot is memory of the firmware that the device tree reserves.
    pub unsafe fn map_spin_slot(&mut self, slot: u64) -> Result<Mmio, MapError> {
        let page = slot & !(PAGE_SIZE - 1);
        if !slot.is_multiple_of(8) {
            return Err(MapError::BadRange);
        }
        let at = el2_map::map_alias(page)?.wrapping_add(slot.wrapping_sub(page));
        // SAFETY: just mapped as Device memory; it is memory that nothing of EL2 uses.
        Ok(unsafe { Mmio::new(at as usize, 8) })
    }

    /// Maps RAM, page by page or in blocks; what is mapped already, the image above all, stays.
    ///
    /// # Errors
    /// EL2's map cannot hold it.
    ///
    /// # Safety
    /// The range is RAM that software may use, and does not overlap the image.
    pub unsafe fn map_ram(&mut self, base: u64, bytes: u64) -> Result<(), MapError> {
        el2_map::map(base, bytes, Kind::Ram)
    }

    /// Gives RAM to the frame pool.
    ///
    /// # Safety
    /// The range is mapped by [`map_ram`](Self::map_ram), given once, and used by nothing else.
    pub unsafe fn add_frames(&mut self, base: u64, bytes: u64) {
        // SAFETY: forwarded to the caller.
        unsafe { frame_pool::add(base, bytes) };
    }

    /// Ends the early boot: the interrupt controller and this core's interfaces run.
    ///
    /// # Errors
    /// The interrupt controller is not what the device tree says.
    pub fn finish(self, gic: Gic) -> Result<Hardware, StartError> {
        if let Some(uart) = CONSOLE.lock().uart {
            uart.enable_receive_interrupt();
        }
        secondary::start_first(gic)
    }
}

/// CNTFRQ_EL0: counter ticks per second.
#[must_use]
pub fn counter_hz() -> u64 {
    CNTFRQ_EL0.get()
}
