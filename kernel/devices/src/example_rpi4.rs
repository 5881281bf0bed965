//! The Raspberry Pi 4's tree for tests, as far as it matters here: names, registers, interrupts, clocks and
//! pins as Linux has them in bcm2711-rpi-4-b.dts; what QEMU makes of it has RAM from 0 to 960 MiB.

use alloc::vec::Vec;

use dtoolkit::model::{DeviceTree, DeviceTreeNode};

use crate::example::{node, set};

const GIC: u32 = 1;
const CLOCKS: u32 = 7;
const AUX: u32 = 13;
const USB_CLOCK: u32 = 19;
const UART_PINS: u32 = 8;
const CONSOLE_PINS: u32 = 14;
/// The pins of the I2C bus.
const I2C_PINS: u32 = 18;

/// A node of `soc`.
fn part(name: &str, compatible: &str, (base, bytes): (u32, u32), spi: u32) -> DeviceTreeNode {
    let mut part = node(name, compatible);
    set(&mut part, "reg", [base, bytes]);
    set(&mut part, "interrupts", [0, spi, 4]);
    part
}

fn clocked(mut part: DeviceTreeNode, clocks: &[u32]) -> DeviceTreeNode {
    set(&mut part, "clocks", clocks);
    part
}

fn pinned(mut part: DeviceTreeNode, pins: u32) -> DeviceTreeNode {
    set(&mut part, "pinctrl-names", "default");
    set(&mut part, "pinctrl-0", pins);
    part
}

fn off(mut part: DeviceTreeNode) -> DeviceTreeNode {
    set(&mut part, "status", "disabled");
    part
}

/// The tree as a blob.
#[must_use]
pub fn board() -> Vec<u8> {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    set(root, "#address-cells", 2u32);
    set(root, "#size-cells", 1u32);
    set(root, "interrupt-parent", GIC);
    let mut aliases = node("aliases", "");
    set(&mut aliases, "serial1", "/soc/serial@7e215040");
    root.add_child(aliases);
    let mut chosen = node("chosen", "");
    set(&mut chosen, "stdout-path", "serial1:115200n8");
    root.add_child(chosen);
    let mut memory = node("memory@0", "");
    set(&mut memory, "device_type", "memory");
    set(&mut memory, "reg", [0, 0, 0x3c00_0000u32]);
    root.add_child(memory);
    let mut clock = node("clk-usb", "fixed-clock");
    set(&mut clock, "#clock-cells", 0u32);
    set(&mut clock, "clock-frequency", 480_000_000u32);
    set(&mut clock, "phandle", USB_CLOCK);
    root.add_child(clock);
    root.add_child(soc());
    let mut bus = node("emmc2bus", "simple-bus");
    set(&mut bus, "#address-cells", 2u32);
    set(&mut bus, "#size-cells", 1u32);
    set(
        &mut bus,
        "ranges",
        [0, 0x7e00_0000, 0, 0xfe00_0000u32, 0x180_0000],
    );
    set(
        &mut bus,
        "dma-ranges",
        [0, 0xc000_0000u32, 0, 0, 0x4000_0000],
    );
    let mut card = node("mmc@7e340000", "brcm,bcm2711-emmc2");
    set(&mut card, "reg", [0, 0x7e34_0000u32, 0x100]);
    set(&mut card, "interrupts", [0u32, 126, 4]);
    set(&mut card, "vmmc-supply", 33u32);
    bus.add_child(clocked(card, &[CLOCKS, 51]));
    root.add_child(bus);
    tree.to_dtb()
}

fn soc() -> DeviceTreeNode {
    let mut soc = node("soc", "simple-bus");
    set(&mut soc, "#address-cells", 1u32);
    set(&mut soc, "#size-cells", 1u32);
    let ranges = [
        0x7e00_0000u32,
        0,
        0xfe00_0000,
        0x180_0000,
        0x4000_0000,
        0,
        0xff80_0000,
        0x80_0000,
    ];
    set(&mut soc, "ranges", ranges);
    set(&mut soc, "dma-ranges", [0xc000_0000u32, 0, 0, 0x4000_0000]);
    let mut gic = node("interrupt-controller@40041000", "arm,gic-400");
    set(
        &mut gic,
        "reg",
        [0x4004_1000u32, 0x1000, 0x4004_2000, 0x2000],
    );
    set(&mut gic, "#interrupt-cells", 3u32);
    set(&mut gic, "phandle", GIC);
    soc.add_child(gic);
    for (name, compatible, base, handle) in [
        (
            "cprman@7e101000",
            "brcm,bcm2711-cprman",
            0x7e10_1000u32,
            CLOCKS,
        ),
        ("aux@7e215000", "brcm,bcm2835-aux", 0x7e21_5000, AUX),
    ] {
        let mut clocks = node(name, compatible);
        set(&mut clocks, "reg", [base, 8]);
        set(&mut clocks, "#clock-cells", 1u32);
        set(&mut clocks, "phandle", handle);
        soc.add_child(clocks);
    }
    let mut mailbox = part(
        "mailbox@7e00b880",
        "brcm,bcm2835-mbox",
        (0x7e00_b880, 0x40),
        33,
    );
    set(&mut mailbox, "#mbox-cells", 0u32);
    soc.add_child(mailbox);
    soc.add_child(part(
        "watchdog@7e100000",
        "brcm,bcm2835-pm-wdt",
        (0x7e10_0000, 0x114),
        9,
    ));
    soc.add_child(gpio());
    for part in uarts() {
        soc.add_child(part);
    }
    let i2c = part(
        "i2c@7e804000",
        "brcm,bcm2835-i2c",
        (0x7e80_4000, 0x1000),
        117,
    );
    soc.add_child(pinned(clocked(i2c, &[CLOCKS, 20]), I2C_PINS));
    let card = part(
        "mmc@7e300000",
        "brcm,bcm2835-sdhci",
        (0x7e30_0000, 0x100),
        126,
    );
    let mut card = clocked(card, &[CLOCKS, 28]);
    set(&mut card, "mmc-pwrseq", 16u32);
    soc.add_child(card);
    let usb = part(
        "usb@7e980000",
        "brcm,bcm2835-usb",
        (0x7e98_0000, 0x1_0000),
        73,
    );
    let mut usb = clocked(usb, &[USB_CLOCK]);
    set(&mut usb, "phys", 20u32);
    soc.add_child(usb);
    // On one page with a DMA controller that is not there, as far as the tree knows.
    let pwm = part("pwm@7e20c000", "brcm,bcm2835-pwm", (0x7e20_c000, 0x28), 40);
    soc.add_child(clocked(pwm, &[CLOCKS, 30]));
    soc.add_child(part(
        "rng@7e104000",
        "brcm,bcm2711-rng200",
        (0x7e10_4000, 0x28),
        125,
    ));
    soc.add_child(off(part(
        "dma@7e104800",
        "brcm,bcm2835-dma",
        (0x7e10_4800, 0x100),
        80,
    )));
    soc
}

fn gpio() -> DeviceTreeNode {
    let mut gpio = part(
        "gpio@7e200000",
        "brcm,bcm2711-gpio",
        (0x7e20_0000, 0xb4),
        113,
    );
    set(&mut gpio, "gpio-controller", [0u8; 0]);
    for (name, handle) in [
        ("uart0_gpio32", UART_PINS),
        ("uart1_gpio14", CONSOLE_PINS),
        ("i2c1_gpio2", I2C_PINS),
    ] {
        let mut pins = node(name, "");
        set(&mut pins, "phandle", handle);
        gpio.add_child(pins);
    }
    gpio
}

fn uarts() -> [DeviceTreeNode; 3] {
    let pl011 = |name, base| {
        let uart = part(name, "arm,pl011", (base, 0x200), 121);
        clocked(uart, &[CLOCKS, 19, CLOCKS, 20])
    };
    let mini = part(
        "serial@7e215040",
        "brcm,bcm2835-aux-uart",
        (0x7e21_5040, 0x40),
        93,
    );
    [
        pinned(pl011("serial@7e201000", 0x7e20_1000), UART_PINS),
        off(pl011("serial@7e201400", 0x7e20_1400)),
        pinned(clocked(mini, &[AUX, 0]), CONSOLE_PINS),
    ]
}
