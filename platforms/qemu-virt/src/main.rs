//! Penumbra for QEMU `virt` with `virtualization=on`: the board's facts come from its device tree.
#![no_std]
#![no_main]

use core::arch::global_asm;
use core::panic::PanicInfo;

use penumbra_core::System;
use penumbra_hal::boot::{self, EarlyBoot};
use penumbra_hal::console::Uart;
use penumbra_hal::{epitaph, secondary};
use penumbra_platform::{Aligned, Facts, Firmware, Platform, uart_divisor};

/// The PL011 of the machine; the device tree must confirm it.
const EARLY_UART: u64 = 0x0900_0000;
const UART_BYTES: u64 = 0x1000;
/// The manager's image, flat.
static MANAGER: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("PENUMBRA_MANAGER")));

static SYSTEM: System = System::new();

global_asm!(include_str!("early.S"));

/// Continues the reset code on the boot core.
#[unsafe(no_mangle)]
extern "C" fn penumbra_main(tree: usize) -> ! {
    // SAFETY: the first call, on the boot core.
    let mut early = unsafe { boot::begin() };
    // SAFETY: QEMU virt has a PL011 there.
    if let Ok(registers) = unsafe { early.map_device(EARLY_UART, UART_BYTES) } {
        early.set_console(Uart::pl011(registers, uart_divisor(0)), None);
    }
    let platform = Platform {
        name: "QEMU virt",
        compatible: "linux,dummy-virt",
        early_console: EARLY_UART,
        trail: false,
        ask_firmware: ask_nobody,
        manager: &MANAGER.0,
    };
    platform.run(early, tree, &SYSTEM)
}

/// No firmware but QEMU, which has said everything in the device tree.
fn ask_nobody(_: &mut EarlyBoot, _: &Facts<'_>) -> Firmware {
    Firmware::default()
}

/// Continues the reset code on every other core.
#[unsafe(no_mangle)]
extern "C" fn penumbra_secondary_main(index: usize) -> ! {
    let mut hardware = secondary::enter(index);
    hardware.serve(&SYSTEM)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    epitaph::panic(info)
}
