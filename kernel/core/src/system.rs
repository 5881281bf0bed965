//! All state of EL2 that outlives an exit, in one static.

use penumbra_abi::GicVersion;
use penumbra_vmsa::Pa;

use crate::machine::Machine;

/// RAM ranges of the board at most.
pub const MAX_RAM_RANGES: usize = 8;

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaRange {
    /// Its first byte.
    pub base: Pa,
    /// Its size in bytes; 0: there is none.
    pub bytes: u64,
}

/// What the platform found out about the board.
#[derive(Clone, Copy, Debug)]
pub struct BootFacts {
    /// Cores on line, core 0 included. They call [`run_loop::run`](crate::run_loop::run).
    pub cpus: usize,
    /// The interrupt controller.
    pub gic: GicVersion,
    /// GICv2: the virtual CPU interface (GICV), 8 KiB in two pages that need not be adjacent in
    /// 4 KiB (QEMU: base and base + 4 KiB; GIC-400 with 64 KiB stride: base and base + 64 KiB).
    pub gicv: [Pa; 2],
    /// CNTFRQ_EL0.
    pub counter_hz: u64,
    /// The manager's image, flat, entered at its first byte.
    pub manager_image: &'static [u8],
    /// RAM of the manager, a multiple of 2 MiB.
    pub manager_bytes: u64,
    /// The bundle.
    pub bundle: PaRange,
    /// The board's device tree.
    pub device_tree: PaRange,
    /// RAM that may ever belong to a VM.
    pub ram: [PaRange; MAX_RAM_RANGES],
}

/// Why the hypervisor cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum BootError {
    /// There is no free RAM for the manager.
    NoMemory,
    /// The manager's image does not fit its RAM.
    ImageTooLarge,
    /// A fact of the board is out of range.
    BadFacts,
}

/// All state of EL2. The platform holds it in a static.
#[derive(Debug)]
pub struct System {
    _reserved: (),
}

impl System {
    /// A system with nothing in it; all of it is zero bytes, so it takes no room in the image.
    #[must_use]
    pub const fn new() -> Self {
        Self { _reserved: () }
    }

    /// Creates VM 0, the manager, on core 0. Before any core calls
    /// [`run_loop::run`](crate::run_loop::run).
    ///
    /// # Errors
    /// The board cannot run a manager.
    pub fn boot(
        &'static self,
        _machine: &mut impl Machine,
        _facts: &BootFacts,
    ) -> Result<(), BootError> {
        Ok(())
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}
