//! Reset and power-off by the watchdog of the BCM2711's power management block.
//!
//! There is no PSCI: the firmware's stub disables SMC. A full reset starts the firmware again; where
//! RSTS names partition 63, the firmware halts instead of booting, which is as far off as a Raspberry Pi
//! goes by itself.

use penumbra_hal::boot::EarlyBoot;
use penumbra_hal::epitaph;
use penumbra_hal::mmio::Mmio;
use penumbra_hal::power::{self, Switch};

const BASE: u64 = 0xfe10_0000;
const BYTES: u64 = 0x1000;

const RSTC: usize = 0x1c;
const RSTS: usize = 0x20;
const WDOG: usize = 0x24;

/// What every write must have in its top byte.
const PASSWORD: u32 = 0x5a << 24;
const VALUE: u32 = 0x00ff_ffff;
/// RSTC: what happens when the watchdog fires, and "full reset".
const RSTC_CONFIGURATION: u32 = 0x30;
const RSTC_FULL_RESET: u32 = 0x20;
/// RSTS: the partition to boot from, spread over every other bit.
const RSTS_PARTITION: u32 = 0x555;
/// Until the watchdog fires, in ticks of about 16 us.
const TICKS: u32 = 10;

/// Maps the registers and makes them what EL2 is switched off by.
pub(crate) fn take(early: &mut EarlyBoot) {
    // SAFETY: the BCM2711 has the block there.
    if unsafe { early.map_device(BASE, BYTES) }.is_ok() {
        power::use_switch(Switch { off, reset });
    }
}

fn registers() -> Mmio {
    // SAFETY: `take` has mapped them before it gave out the functions below.
    unsafe { Mmio::new(BASE as usize, BYTES as usize) }
}

fn off() {
    fire(RSTS_PARTITION)
}

fn reset() {
    fire(0)
}

/// Sets the watchdog off and waits for it: whoever asked must not go on meanwhile.
fn fire(partition: u32) -> ! {
    let registers = registers();
    let status = registers.read32(RSTS) & VALUE & !RSTS_PARTITION;
    registers.write32(RSTS, PASSWORD | status | partition);
    registers.write32(WDOG, PASSWORD | TICKS);
    let control = registers.read32(RSTC) & VALUE & !RSTC_CONFIGURATION;
    registers.write32(RSTC, PASSWORD | control | RSTC_FULL_RESET);
    epitaph::stop()
}
