//! Penumbra for the Raspberry Pi 4 (BCM2711): entered by the firmware, or by QEMU's `raspi4b`, as a raw
//! arm64 Image at EL2 on core 0. The board's facts come from the firmware's device tree; the addresses
//! below are needed before it is read.
#![no_std]
#![no_main]

mod mailbox;
mod watchdog;

use core::arch::global_asm;
use core::panic::PanicInfo;

use penumbra_core::System;
use penumbra_hal::boot::{self, EarlyBoot};
use penumbra_hal::console::Uart;
use penumbra_hal::{epitaph, secondary};
use penumbra_platform::{Aligned, Platform, uart_divisor};

/// The auxiliary block with the mini UART in it.
const AUX: u64 = 0xfe21_5000;
const AUX_ENABLES: usize = 0x04;
const MINI_UART: u64 = AUX + 0x40;
const MINI_UART_BYTES: u64 = 0x40;
/// UART0, a PL011.
const UART0: u64 = 0xfe20_1000;
const UARTCR: usize = 0x30;
const UARTCR_UARTEN: u32 = 1;
const BLOCK_BYTES: u64 = 0x1000;

/// The manager's image, flat.
static MANAGER: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("PENUMBRA_MANAGER")));

static SYSTEM: System = System::new();

global_asm!(include_str!("early.S"));

/// Continues the reset code on the boot core.
#[unsafe(no_mangle)]
extern "C" fn penumbra_main(tree: usize) -> ! {
    // SAFETY: the first call, on the boot core.
    let mut early = unsafe { boot::begin() };
    watchdog::take(&mut early);
    let early_console = first_console(&mut early);
    early.end_line();
    log::info!("MMU on; console at {early_console:#x} until the device tree is read");
    let platform = Platform {
        name: "Raspberry Pi 4",
        compatible: "brcm,bcm2711",
        early_console,
        trail: true,
        ask_firmware: mailbox::ask_firmware,
        manager: &MANAGER.0,
    };
    platform.run(early, tree, &SYSTEM)
}

/// Takes each UART that the firmware has enabled, the PL011 if there is none; returns where the first one is. Which is
/// on the header's pins only the device tree says.
fn first_console(early: &mut EarlyBoot) -> u64 {
    // SAFETY: the BCM2711 has the block there.
    let mini = unsafe { early.map_device(AUX, BLOCK_BYTES) }
        .ok()
        .filter(|aux| aux.read32(AUX_ENABLES) & 1 != 0)
        .and_then(|aux| aux.part(0x40, MINI_UART_BYTES as usize));
    // SAFETY: as above.
    let pl011 = unsafe { early.map_device(UART0, BLOCK_BYTES) }.ok();
    if let Some(registers) = mini {
        let enabled = pl011.filter(|uart| uart.read32(UARTCR) & UARTCR_UARTEN != 0);
        early.set_console(
            Uart::mini(registers),
            enabled.map(|uart| Uart::pl011(uart, uart_divisor(0))),
        );
        return MINI_UART;
    }
    if let Some(registers) = pl011 {
        early.set_console(Uart::pl011(registers, uart_divisor(0)), None);
    }
    UART0
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
