//! What is known of parts by their `compatible`.

/// What is known not to be a bus master. Whatever is not listed may be one.
pub(crate) const NO_MASTERS: [&str; 18] = [
    "arm,pl011",
    "arm,pl022",
    "arm,pl031",
    "arm,pl050",
    "arm,pl061",
    "arm,sp804",
    "arm,sp805",
    "brcm,bcm2711-gpio",
    "brcm,bcm2711-rng200",
    "brcm,bcm2835-aux-spi",
    "brcm,bcm2835-aux-uart",
    "brcm,bcm2835-gpio",
    "brcm,bcm2835-i2c",
    "brcm,bcm2835-pwm",
    "brcm,bcm2835-spi",
    "brcm,bcm2835-system-timer",
    "ns16550a",
    "snps,dw-apb-uart",
];

/// Interrupt controllers that EL2 drives.
pub(crate) const GICS: [&str; 4] = [
    "arm,gic-v3",
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a9-gic",
];

/// The watchdog and power controller with which EL2 switches the Raspberry Pi off.
pub(crate) const POWER: [&str; 2] = ["brcm,bcm2711-pm", "brcm,bcm2835-pm-wdt"];

/// A clock controller that the board's firmware sets up and nobody changes afterwards: guests cannot have it.
struct FirmwareClocks {
    compatible: &'static [&'static str],
    /// Number of a clock (first cell of the specifier), and its frequency in Hz.
    rates: &'static [(u32, u32)],
}

/// The Raspberry Pi 4 with the config.txt of our cards. The numbers are those of Linux,
/// include/dt-bindings/clock/bcm2835.h.
const FIRMWARE_CLOCKS: [FirmwareClocks; 1] = [FirmwareClocks {
    compatible: &["brcm,bcm2711-cprman"],
    rates: &[
        // UART: `init_uart_clock` of config.txt, where nothing is said.
        (19, 48_000_000),
        // VPU, the core clock: `enable_uart=1` holds it at this rate.
        (20, 250_000_000),
        // EMMC, EMMC2: what the firmware hands over to boot from the card.
        (28, 250_000_000),
        (51, 100_000_000),
    ],
}];

/// The frequency of a clock that firmware leaves running, in Hz.
pub(crate) fn firmware_clock(is_compatible: impl Fn(&[&str]) -> bool, number: u32) -> Option<u32> {
    let mut known = FIRMWARE_CLOCKS.iter();
    let controller = known.find(|known| is_compatible(known.compatible))?;
    let mut rates = controller.rates.iter();
    rates.find(|rate| rate.0 == number).map(|rate| rate.1)
}
