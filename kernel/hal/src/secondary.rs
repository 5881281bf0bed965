//! The other cores: starting them, meeting them, and naming them to the interrupt controller.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, MPIDR_EL1, Readable};
use penumbra_abi::MAX_CPUS;
use penumbra_vmsa::CpuIndex;
use spin::Once;

use crate::boot::{self, StartError};
use crate::gic::{Gic, Target};
use crate::mmio::Mmio;
use crate::{Hardware, cache, epitaph, power, sysreg, timer};

/// MPIDR affinity of each core, written before the core starts. A core that a spin table releases
/// finds its index here, with its MMU off (start.S).
#[unsafe(no_mangle)]
static penumbra_mpidrs: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// GICv2 interface mask of each core, written by the core itself.
static MASKS: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];
/// What is written to the interrupt controller to kick each core, written by the core itself.
static KICKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// Cores that are ready, the boot core included.
static READY: AtomicUsize = AtomicUsize::new(1);
/// Set when the system is complete: the others may enter the run loop.
static RELEASED: AtomicBool = AtomicBool::new(false);
static GIC: Once<Gic> = Once::new();

/// Affinity fields of MPIDR_EL1.
const AFFINITY: u64 = 0xff_00ff_ffff;

unsafe extern "C" {
    /// Entry of a core that PSCI starts (start.S).
    fn penumbra_secondary();
    /// Entry of a core that a spin table releases (start.S).
    fn penumbra_spin_secondary();
}

/// A core to start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Affinity fields of its MPIDR_EL1.
    pub mpidr: u64,
    /// Its slot of the spin table; without one it is started by PSCI.
    pub slot: Option<Mmio>,
}

/// This core's affinity.
pub(crate) fn own_mpidr() -> u64 {
    MPIDR_EL1.get() & AFFINITY
}

/// How the interrupt controller names a core.
#[inline]
pub(crate) fn target(cpu: CpuIndex) -> Target {
    // Relaxed: written before the system was released, which every user of this came after.
    Target {
        mpidr: penumbra_mpidrs
            .get(cpu.get())
            .map_or(0, |mpidr| mpidr.load(Ordering::Relaxed)),
        mask: MASKS
            .get(cpu.get())
            .map_or(0, |mask| mask.load(Ordering::Relaxed)),
    }
}

/// What kicks a core: a value for the register by which this board's interrupt controller sends SGIs.
#[inline(always)]
pub(crate) fn kick_value(cpu: CpuIndex) -> u64 {
    // Relaxed: as in `target`. A core that is not ready has 0, which names no target.
    KICKS
        .get(cpu.get())
        .map_or(0, |value| value.load(Ordering::Relaxed))
}

/// Sets up this core's interrupt interfaces.
fn start_core(cpu: CpuIndex) -> Result<Hardware, StartError> {
    let gic = GIC.get().ok_or(StartError::Order)?;
    let core = gic.start_core(own_mpidr()).map_err(StartError::Gic)?;
    if let Gic::V2(v2) = gic
        && let Some(mask) = MASKS.get(cpu.get())
    {
        mask.store(v2.own_mask(), Ordering::Relaxed);
    }
    if let Some(value) = KICKS.get(cpu.get()) {
        value.store(core.own_kick_value(own_mpidr()), Ordering::Relaxed);
    }
    Ok(Hardware::new(cpu, *gic, core))
}

/// Starts the interrupt controller and the boot core's side of it.
pub(crate) fn start_first(gic: Gic) -> Result<Hardware, StartError> {
    let first = CpuIndex::new(0, MAX_CPUS).ok_or(StartError::Order)?;
    gic.start();
    GIC.call_once(|| gic);
    if let Some(mpidr) = penumbra_mpidrs.first() {
        mpidr.store(own_mpidr(), Ordering::Relaxed);
    }
    start_core(first)
}

/// Starts the cores of the list but this one and waits for each. Returns how many cores there are
/// now. A core that does not come, and all after it, are left out: the log says so.
pub fn start_others(cores: impl IntoIterator<Item = Start>) -> usize {
    let mut count = 1;
    for core in cores {
        let mpidr = core.mpidr & AFFINITY;
        if mpidr == own_mpidr() {
            continue;
        }
        let Some(own) = penumbra_mpidrs.get(count) else {
            log::warn!("more than {MAX_CPUS} cores: the rest stays off");
            break;
        };
        own.store(mpidr, Ordering::Relaxed);
        let result = match core.slot {
            Some(slot) => {
                release_from_table(slot);
                0
            }
            None => {
                let entry = penumbra_secondary as *const () as u64;
                // SAFETY: the entry brings the core into the state of its index, which no other
                // core has.
                unsafe { power::cpu_on(mpidr, entry, count as u64) }
            }
        };
        if result != 0 || !wait_for(count + 1) {
            match core.slot {
                Some(_) => log::warn!("core {mpidr:#x} does not leave the spin table"),
                None => {
                    let result = result.cast_signed();
                    log::warn!("core {mpidr:#x} does not start (PSCI CPU_ON: {result})");
                }
            }
            break;
        }
        count += 1;
    }
    count
}

/// Writes the entry to a core's slot. The core reads with its caches off: both what it finds its index
/// in and the slot have to be in memory, and no dirty line of the slot may come over it later.
fn release_from_table(slot: Mmio) {
    let bytes = size_of_val(&penumbra_mpidrs);
    cache::clean_invalidate(penumbra_mpidrs.as_ptr().addr(), bytes);
    cache::clean_invalidate(slot.base(), slot.bytes());
    slot.write64(0, penumbra_spin_secondary as *const () as u64);
    sysreg::dsb_sy();
    sysreg::send_event();
}

/// Waits for the number of ready cores; gives up after a second.
fn wait_for(count: usize) -> bool {
    let deadline = timer::counter().saturating_add(CNTFRQ_EL0.get());
    // Acquire: what the core wrote about itself is visible.
    while READY.load(Ordering::Acquire) < count {
        if timer::counter() > deadline {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// The system is complete: lets the other cores into the run loop.
pub fn release() {
    // Release: the system's state comes first.
    RELEASED.store(true, Ordering::Release);
    sysreg::send_event();
}

/// What a core does before it enters the run loop: sets itself up, reports, and waits for the system.
pub fn enter(index: usize) -> Hardware {
    boot::prepare_core();
    let hardware = CpuIndex::new(index, MAX_CPUS)
        .ok_or(StartError::Order)
        .and_then(start_core);
    match hardware {
        Ok(hardware) => {
            READY.fetch_add(1, Ordering::Release);
            // Acquire: the system's state is visible.
            while !RELEASED.load(Ordering::Acquire) {
                sysreg::wait_for_event();
            }
            hardware
        }
        // The boot core reports that this one did not come.
        Err(_) => epitaph::stop(),
    }
}
