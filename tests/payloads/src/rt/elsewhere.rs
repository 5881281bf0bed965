//! Where the devices are, for a payload that runs under another hypervisor than ours: what `sbsa_uart=`, `gicd=` and `gicr=` on the
//! command line say, in decimal. Without them they are where [`layout`] has them.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::{fdt, layout};

static UART: AtomicUsize = AtomicUsize::new(layout::UART);
static GICD: AtomicUsize = AtomicUsize::new(layout::GICD);
static GICR: AtomicUsize = AtomicUsize::new(layout::GICR);

/// Takes what the command line says.
pub(super) fn init() {
    for (name, base) in [("sbsa_uart", &UART), ("gicd", &GICD), ("gicr", &GICR)] {
        if let Some(address) = fdt::number(name) {
            base.store(address as usize, Ordering::Relaxed);
        }
    }
}

/// The UART.
pub(super) fn uart() -> usize {
    UART.load(Ordering::Relaxed)
}

/// The GICv3's distributor.
pub(super) fn gicd() -> usize {
    GICD.load(Ordering::Relaxed)
}

/// The GICv3's redistributors.
pub(super) fn gicr() -> usize {
    GICR.load(Ordering::Relaxed)
}
