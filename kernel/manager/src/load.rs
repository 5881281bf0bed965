//! Creating, loading and starting one guest.
//!
//! The order is part of the contract with EL2 (docs/manager-contract.md): memory, devices and pins
//! first, then the grant, the copy and the end of the grant, and only then the start.

use alloc::vec::Vec;

use penumbra_abi::{Backing, MANAGER_WINDOW_IPA, MAX_DEVICE_BYTES};
use penumbra_bundle::Guest;
use penumbra_devices::{Range, merged};

use crate::granted::Granted;
use crate::hypervisor::{Board, Grant, Hypervisor, RamRequest, VmId, finish, finish_bytes};
use crate::map::{
    GICC_IPA, GICD_IPA, GICR_IPA, UART_INTID, UART_IPA, WATCHDOG_INTID, WATCHDOG_IPA,
};
use crate::plan::Plan;
use crate::refusal::Cause;

/// Frames that a thin guest starts with in its stock, quota permitting.
pub const FIRST_STOCK_FRAMES: u64 = 8;
/// Bytes that are copied between two signs of life.
const COPY_STEP_BYTES: usize = 16 << 20;
/// Bytes of a frame of the stock.
pub const STOCK_FRAME_BYTES: u64 = 2 << 20;
/// Register `Status` of a virtio device: 0 resets it (virtio 1.2, 4.2.2 "MMIO Device Register Layout").
const VIRTIO_MMIO_STATUS: u64 = 0x70;

/// The core that a vCPU runs on. A scenario that leaves `cores` out gets what the board has.
#[must_use]
pub fn core_of(guest: &Guest<'_>, vcpu: usize, board: &Board) -> u64 {
    let core = guest.cores.get(vcpu).map_or(0, |core| u64::from(*core));
    if core < board.cores || guest.lines.get(penumbra_bundle::Key::Cores).is_some() {
        return core;
    }
    core.checked_rem(board.cores).unwrap_or(0)
}

/// Starts a VM that [`create`] has made. It is destroyed if that fails.
///
/// # Errors
/// EL2 refused.
pub fn start<H: Hypervisor>(hv: &mut H, vm: VmId, plan: &Plan<'_>) -> Result<(), Cause<'static>> {
    hv.vm_start(vm, plan.entry, plan.tree_ipa).map_err(|error| {
        // As below.
        let _ = finish(|| hv.vm_destroy(vm));
        Cause::Call {
            what: "start the VM",
            error,
        }
    })
}

/// Creates and loads a guest. What was created is destroyed again if a later step fails.
///
/// # Errors
/// The step that EL2 refused.
pub fn create<H: Hypervisor>(
    hv: &mut H,
    board: &Board,
    guest: &Guest<'_>,
    plan: &Plan<'_>,
    tag: u64,
) -> Result<VmId, Cause<'static>> {
    let vcpus = u64::try_from(guest.vcpus()).unwrap_or(u64::MAX);
    let created = hv.vm_create(vcpus, board.gic, tag);
    let vm = created.map_err(|error| Cause::Call {
        what: "create the VM",
        error,
    })?;
    let mut loader = Loader {
        hv,
        board,
        guest,
        plan,
        vm,
    };
    match loader.run() {
        Ok(()) => Ok(vm),
        Err(cause) => {
            // The refusal is what counts; a VM that cannot be destroyed either stays as it is.
            let _ = finish(|| hv.vm_destroy(vm));
            Err(cause)
        }
    }
}

struct Loader<'l, H> {
    hv: &'l mut H,
    board: &'l Board,
    guest: &'l Guest<'l>,
    plan: &'l Plan<'l>,
    vm: VmId,
}

impl<H: Hypervisor> Loader<'_, H> {
    fn run(&mut self) -> Result<(), Cause<'static>> {
        self.give_devices()?;
        self.map_ram()?;
        self.place_devices()?;
        self.pin()?;
        self.lend()?;
        self.copy()?;
        let vm = self.vm;
        let ended = finish(|| self.hv.grant_end(vm));
        ended.map_err(|error| Cause::Call {
            what: "end the loan of memory",
            error,
        })?;
        self.stock();
        Ok(())
    }

    /// Maps the devices of the board, silences those that a life before may have left at work, and
    /// assigns their interrupts. Before there is memory: what a bus master still writes is overwritten.
    fn give_devices(&mut self) -> Result<(), Cause<'static>> {
        let granted = &self.plan.granted.devices;
        let refused = |what| move |error| Cause::Call { what, error };
        for range in pages_of(granted) {
            let mut base = range.base;
            while base < range.end() {
                let bytes = range.end().saturating_sub(base).min(MAX_DEVICE_BYTES);
                let mapped = self.hv.vm_map_device(self.vm, base, bytes);
                mapped.map_err(refused("give it a device"))?;
                base = base.saturating_add(bytes);
            }
        }
        for granted in granted {
            let registers = granted.device.registers.first().map(|range| range.base);
            if let (true, Some(base)) = (granted.device.virtio, registers) {
                let status = base.saturating_add(VIRTIO_MMIO_STATUS);
                let reset = self.hv.device_write(self.vm, status, 0);
                reset.map_err(refused("let a device be reset"))?;
            }
        }
        let mut known = Vec::new();
        for granted in granted {
            for (interrupt, intid) in granted.device.interrupts.iter().zip(&granted.intids) {
                // Devices of one guest may share an interrupt.
                if known.contains(intid) {
                    continue;
                }
                known.push(*intid);
                let (intid, physical) = (u64::from(*intid), u64::from(interrupt.intid));
                let assigned = self
                    .hv
                    .vm_assign_spi(self.vm, intid, physical, interrupt.edge);
                assigned.map_err(refused("give it an interrupt of a device"))?;
            }
        }
        Ok(())
    }

    fn map_ram(&mut self) -> Result<(), Cause<'static>> {
        let backing = match self.guest.backing {
            penumbra_bundle::Backing::Reserved => Backing::Reserved,
            penumbra_bundle::Backing::Thin => Backing::Thin,
            penumbra_bundle::Backing::Direct => Backing::Direct,
        };
        let ram = RamRequest {
            ipa: self.plan.ram_ipa,
            bytes: self.guest.memory_bytes,
            backing,
            quota_bytes: self.guest.quota_bytes,
        };
        let done = finish_bytes(ram.bytes, || self.hv.vm_map_ram(self.vm, &ram));
        done.map_err(|error| match error {
            penumbra_abi::Error::NoMemory => Cause::Board {
                need: ram.quota_bytes,
                free: self.board.free_bytes,
            },
            error => Cause::Call {
                what: "give it memory",
                error,
            },
        })
    }

    fn place_devices(&mut self) -> Result<(), Cause<'static>> {
        let other = match self.board.gic {
            penumbra_abi::GicVersion::V2 => GICC_IPA,
            penumbra_abi::GicVersion::V3 => GICR_IPA,
        };
        let gic = self.hv.vm_gic(self.vm, GICD_IPA, other);
        gic.map_err(|error| Cause::Call {
            what: "give it an interrupt controller",
            error,
        })?;
        let uart = self.hv.vm_uart(self.vm, UART_IPA, u64::from(UART_INTID));
        uart.map_err(|error| Cause::Call {
            what: "give it a console",
            error,
        })?;
        if self.guest.watchdog.is_none() {
            return Ok(());
        }
        let intid = u64::from(WATCHDOG_INTID);
        let watchdog = self.hv.vm_watchdog(self.vm, WATCHDOG_IPA, intid);
        watchdog.map_err(|error| Cause::Call {
            what: "give it a watchdog",
            error,
        })
    }

    fn pin(&mut self) -> Result<(), Cause<'static>> {
        for vcpu in 0..self.guest.vcpus() {
            let core = core_of(self.guest, vcpu, self.board);
            let index = u64::try_from(vcpu).unwrap_or(u64::MAX);
            let pinned = self.hv.vcpu_pin(self.vm, index, core);
            pinned.map_err(|error| Cause::Call {
                what: "pin a vCPU to its core",
                error,
            })?;
        }
        Ok(())
    }

    /// Where the manager sees a guest's IPA while it is lent: at the same offset in 2 MiB, so that EL2 can
    /// map blocks.
    const fn window_of(&self, ipa: u64) -> u64 {
        MANAGER_WINDOW_IPA.saturating_add(ipa.saturating_sub(self.plan.ram_ipa))
    }

    fn lend(&mut self) -> Result<(), Cause<'static>> {
        for (start, end) in self.plan.grants() {
            let bytes = end.saturating_sub(start);
            let grant = Grant {
                ipa: start,
                bytes,
                window: self.window_of(start),
            };
            let lent = finish_bytes(bytes, || self.hv.grant_begin(self.vm, &grant));
            lent.map_err(|error| Cause::Call {
                what: "lend its memory for loading",
                error,
            })?;
        }
        Ok(())
    }

    fn copy(&mut self) -> Result<(), Cause<'static>> {
        for piece in self.plan.pieces() {
            let mut at = self.window_of(piece.ipa);
            for step in piece.bytes.chunks(COPY_STEP_BYTES) {
                self.hv.alive();
                let written = self.hv.window_write(at, step);
                written.map_err(|error| Cause::Call {
                    what: "take the payload",
                    error,
                })?;
                at = at.saturating_add(u64::try_from(step.len()).unwrap_or(0));
            }
        }
        Ok(())
    }

    /// Fills the stock of a thin guest. A refusal does no harm: the guest asks when it needs frames.
    fn stock(&mut self) {
        if self.guest.backing == penumbra_bundle::Backing::Thin {
            let vm = self.vm;
            let left = self.guest.quota_bytes / STOCK_FRAME_BYTES;
            for _ in 0..FIRST_STOCK_FRAMES.min(left) {
                if finish(|| self.hv.vm_stock_add(vm)).is_err() {
                    break;
                }
            }
        }
    }
}

/// The pages of all devices, each once.
fn pages_of(granted: &[Granted]) -> Vec<Range> {
    merged(granted.iter().flat_map(|one| one.device.pages()).collect())
}
