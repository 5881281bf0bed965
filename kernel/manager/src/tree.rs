//! The device tree that a guest gets (Devicetree Specification v0.4; Linux,
//! Documentation/devicetree/bindings for each `compatible`).
//!
//! It says what [`crate::map`] and the scenario say and nothing more. In particular there is no
//! `kaslr-seed`: Linux would then run with KPTI, which rewrites the translation table base at every
//! kernel entry.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use penumbra_abi::GicVersion;

use crate::map;

/// Bytes of a device tree at most (booting.rst, "Setup the device tree").
pub const MAX_TREE_BYTES: u64 = 2 << 20;

const GIC_PHANDLE: u32 = 1;
const CLOCK_PHANDLE: u32 = 2;
/// The first clock of devices of the board that the guest has.
pub const FIRST_DEVICE_CLOCK_PHANDLE: u32 = 16;
/// The clock that the PL011's divisors refer to; the emulation ignores them.
const UART_CLOCK_HZ: u32 = 24_000_000;

/// Interrupt specifier, first cell (arm,gic.yaml, "#interrupt-cells").
const TYPE_SPI: u32 = 0;
const TYPE_PPI: u32 = 1;
/// Interrupt specifier, third cell: active high, level sensitive.
const LEVEL_HIGH: u32 = 4;

/// What the tree says.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// Name of the guest.
    pub name: &'a str,
    /// Interrupt controller.
    pub gic: GicVersion,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// First address of RAM.
    pub ram_ipa: u64,
    /// Bytes of RAM.
    pub memory_bytes: u64,
    /// Command line.
    pub cmdline: &'a str,
    /// First byte of the initial RAM disk and first byte behind it.
    pub initrd: Option<(u64, u64)>,
    /// Nodes of devices of the board.
    pub devices: &'a [DeviceTreeNode],
    /// Frequencies of the clocks that they refer to from [`FIRST_DEVICE_CLOCK_PHANDLE`] on.
    pub clocks: &'a [u32],
    /// There is a watchdog.
    pub watchdog: bool,
}

/// Writes the tree as a blob.
#[must_use]
pub fn blob(guest: &Description<'_>) -> Vec<u8> {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    set(root, "#address-cells", 2u32);
    set(root, "#size-cells", 2u32);
    set(root, "compatible", "penumbra,guest");
    set(
        root,
        "model",
        format!("Penumbra guest {}", guest.name).as_str(),
    );
    set(root, "interrupt-parent", GIC_PHANDLE);
    root.add_child(chosen(guest));
    root.add_child(aliases());
    root.add_child(psci());
    root.add_child(cpus(guest.vcpus));
    root.add_child(memory(guest.ram_ipa, guest.memory_bytes));
    root.add_child(interrupt_controller(guest));
    root.add_child(timer(guest));
    root.add_child(clock("apb-pclk", CLOCK_PHANDLE, UART_CLOCK_HZ));
    root.add_child(uart());
    if guest.watchdog {
        root.add_child(watchdog());
    }
    for (phandle, hz) in (FIRST_DEVICE_CLOCK_PHANDLE..).zip(guest.clocks) {
        root.add_child(clock(&format!("clock-{hz}"), phandle, *hz));
    }
    for device in guest.devices {
        root.add_child(device.clone());
    }
    tree.to_dtb()
}

fn node(name: impl Into<String>) -> DeviceTreeNode {
    DeviceTreeNode::new_unchecked(name)
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

fn flag(node: &mut DeviceTreeNode, name: &str) {
    set(node, name, [0u8; 0]);
}

/// Address and size cells, two each, for a list of ranges.
fn set_reg(node: &mut DeviceTreeNode, ranges: &[(u64, u64)]) {
    let mut value = Vec::new();
    for (base, bytes) in ranges {
        value.extend(base.to_be_bytes());
        value.extend(bytes.to_be_bytes());
    }
    set(node, "reg", value);
}

fn chosen(guest: &Description<'_>) -> DeviceTreeNode {
    let mut chosen = node("chosen");
    set(&mut chosen, "bootargs", guest.cmdline);
    set(&mut chosen, "stdout-path", "/pl011@9000000");
    if let Some((start, end)) = guest.initrd {
        set(&mut chosen, "linux,initrd-start", start);
        set(&mut chosen, "linux,initrd-end", end);
    }
    chosen
}

fn aliases() -> DeviceTreeNode {
    let mut aliases = node("aliases");
    set(&mut aliases, "serial0", "/pl011@9000000");
    aliases
}

fn psci() -> DeviceTreeNode {
    let mut psci = node("psci");
    set(
        &mut psci,
        "compatible",
        b"arm,psci-1.0\0arm,psci-0.2\0".as_slice(),
    );
    set(&mut psci, "method", "hvc");
    psci
}

fn cpus(vcpus: u32) -> DeviceTreeNode {
    let mut cpus = node("cpus");
    set(&mut cpus, "#address-cells", 1u32);
    set(&mut cpus, "#size-cells", 0u32);
    for vcpu in 0..vcpus {
        let mut cpu = node(format!("cpu@{vcpu:x}"));
        set(&mut cpu, "device_type", "cpu");
        set(&mut cpu, "compatible", "arm,armv8");
        set(&mut cpu, "reg", vcpu);
        set(&mut cpu, "enable-method", "psci");
        cpus.add_child(cpu);
    }
    cpus
}

fn memory(base: u64, bytes: u64) -> DeviceTreeNode {
    let mut memory = node(format!("memory@{base:x}"));
    set(&mut memory, "device_type", "memory");
    set_reg(&mut memory, &[(base, bytes)]);
    memory
}

fn interrupt_controller(guest: &Description<'_>) -> DeviceTreeNode {
    let mut gic = node("intc@8000000");
    let distributor = (map::GICD_IPA, map::GICD_BYTES);
    match guest.gic {
        GicVersion::V2 => {
            set(&mut gic, "compatible", "arm,cortex-a15-gic");
            set_reg(&mut gic, &[distributor, (map::GICC_IPA, map::GICC_BYTES)]);
        }
        GicVersion::V3 => {
            let bytes = map::GICR_BYTES.saturating_mul(u64::from(guest.vcpus));
            set(&mut gic, "compatible", "arm,gic-v3");
            set_reg(&mut gic, &[distributor, (map::GICR_IPA, bytes)]);
        }
    }
    set(&mut gic, "#interrupt-cells", 3u32);
    set(&mut gic, "#address-cells", 0u32);
    flag(&mut gic, "interrupt-controller");
    set(&mut gic, "phandle", GIC_PHANDLE);
    gic
}

fn timer(guest: &Description<'_>) -> DeviceTreeNode {
    // GICv2 specifiers name the CPUs that a PPI exists for, from bit 8 on.
    let cpus = match guest.gic {
        GicVersion::V2 => 1u32.checked_shl(guest.vcpus).unwrap_or(0).wrapping_sub(1) & 0xff,
        GicVersion::V3 => 0,
    };
    let mut timer = node("timer");
    set(&mut timer, "compatible", "arm,armv8-timer");
    let cells: Vec<u32> = map::TIMER_PPIS
        .iter()
        .flat_map(|ppi| [TYPE_PPI, *ppi, cpus << 8 | LEVEL_HIGH])
        .collect();
    set(&mut timer, "interrupts", cells.as_slice());
    flag(&mut timer, "always-on");
    timer
}

fn clock(name: &str, phandle: u32, hz: u32) -> DeviceTreeNode {
    let mut clock = node(name);
    set(&mut clock, "compatible", "fixed-clock");
    set(&mut clock, "#clock-cells", 0u32);
    set(&mut clock, "clock-frequency", hz);
    set(&mut clock, "phandle", phandle);
    clock
}

fn uart() -> DeviceTreeNode {
    let mut uart = node("pl011@9000000");
    set(
        &mut uart,
        "compatible",
        b"arm,pl011\0arm,primecell\0".as_slice(),
    );
    set_reg(&mut uart, &[(map::UART_IPA, map::UART_BYTES)]);
    let spi = map::UART_INTID.saturating_sub(map::FIRST_SPI);
    set(&mut uart, "interrupts", [TYPE_SPI, spi, LEVEL_HIGH]);
    set(&mut uart, "clocks", [CLOCK_PHANDLE, CLOCK_PHANDLE]);
    set(&mut uart, "clock-names", b"uartclk\0apb_pclk\0".as_slice());
    uart
}

/// arm,sbsa-gwdt.yaml: the control frame comes first; the interrupt is WS0.
fn watchdog() -> DeviceTreeNode {
    let mut watchdog = node("watchdog@8f00000");
    set(&mut watchdog, "compatible", "arm,sbsa-gwdt");
    let frames = map::watchdog_regions().map(|frame| (frame.ipa, frame.bytes));
    set_reg(&mut watchdog, &frames);
    let spi = map::WATCHDOG_INTID.saturating_sub(map::FIRST_SPI);
    set(&mut watchdog, "interrupts", [TYPE_SPI, spi, LEVEL_HIGH]);
    watchdog
}

#[cfg(test)]
mod tests {
    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node, Property};

    use super::*;

    fn description(gic: GicVersion) -> Description<'static> {
        Description {
            name: "linux",
            gic,
            vcpus: 2,
            ram_ipa: map::RAM_IPA,
            memory_bytes: 512 << 20,
            cmdline: "console=ttyAMA0 quiet",
            initrd: Some((0x4400_0000, 0x4410_0123)),
            devices: &[],
            clocks: &[],
            watchdog: true,
        }
    }

    fn bytes(blob: &[u8], path: &str, property: &str) -> Vec<u8> {
        let fdt = Fdt::new(blob).unwrap();
        let node = fdt.find_node(path).unwrap_or_else(|| panic!("no {path}"));
        node.property(property)
            .unwrap_or_else(|| panic!("no {property}"))
            .value()
            .to_vec()
    }

    fn cells(blob: &[u8], path: &str, property: &str) -> Vec<u32> {
        let bytes = bytes(blob, path, property);
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|cell| u32::from_be_bytes(*cell))
            .collect()
    }

    #[test]
    fn gicv3_tree_says_what_the_map_says() {
        let blob = blob(&description(GicVersion::V3));
        assert_eq!(
            bytes(&blob, "/chosen", "bootargs"),
            b"console=ttyAMA0 quiet\0"
        );
        assert_eq!(
            cells(&blob, "/chosen", "linux,initrd-start"),
            [0, 0x4400_0000]
        );
        assert_eq!(
            cells(&blob, "/chosen", "linux,initrd-end"),
            [0, 0x4410_0123]
        );
        assert_eq!(
            cells(&blob, "/memory@40000000", "reg"),
            [0, 0x4000_0000, 0, 0x2000_0000]
        );
        assert_eq!(bytes(&blob, "/intc@8000000", "compatible"), b"arm,gic-v3\0");
        let gic = [0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 0x4_0000];
        assert_eq!(cells(&blob, "/intc@8000000", "reg"), gic);
        let timer = [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4];
        assert_eq!(cells(&blob, "/timer", "interrupts"), timer);
        assert_eq!(bytes(&blob, "/timer", "always-on"), b"");
        assert_eq!(cells(&blob, "/pl011@9000000", "interrupts"), [0, 1, 4]);
        assert_eq!(cells(&blob, "/pl011@9000000", "clocks"), [2, 2]);
        assert_eq!(bytes(&blob, "/psci", "method"), b"hvc\0");
        assert_eq!(cells(&blob, "/cpus/cpu@1", "reg"), [1]);
        assert_eq!(bytes(&blob, "/cpus/cpu@0", "enable-method"), b"psci\0");
    }

    #[test]
    fn gicv2_tree_names_the_cpus_of_a_ppi() {
        let blob = blob(&description(GicVersion::V2));
        assert_eq!(
            bytes(&blob, "/intc@8000000", "compatible"),
            b"arm,cortex-a15-gic\0"
        );
        let gic = [0, 0x0800_0000, 0, 0x1_0000, 0, 0x0801_0000, 0, 0x2000];
        assert_eq!(cells(&blob, "/intc@8000000", "reg"), gic);
        assert_eq!(cells(&blob, "/timer", "interrupts")[8], 0x304);
    }

    #[test]
    fn the_tree_has_no_entropy_for_kaslr_and_no_initrd_unless_there_is_one() {
        let mut guest = description(GicVersion::V3);
        guest.initrd = None;
        let blob = blob(&guest);
        let fdt = Fdt::new(&blob).unwrap();
        let chosen = fdt.find_node("/chosen").unwrap();
        for name in ["kaslr-seed", "rng-seed", "linux,initrd-start"] {
            assert!(chosen.property(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_watchdog_is_in_the_tree_if_the_guest_has_one() {
        let mut guest = description(GicVersion::V3);
        let with = blob(&guest);
        let path = "/watchdog@8f00000";
        assert_eq!(bytes(&with, path, "compatible"), b"arm,sbsa-gwdt\0");
        let frames = [0, 0x08f0_0000, 0, 0x1000, 0, 0x08f1_0000, 0, 0x1000];
        assert_eq!(cells(&with, path, "reg"), frames);
        assert_eq!(cells(&with, path, "interrupts"), [0, 10, 4]);
        guest.watchdog = false;
        let without = blob(&guest);
        assert!(Fdt::new(&without).unwrap().find_node(path).is_none());
    }

    #[test]
    fn every_name_and_unit_address_is_valid() {
        for gic in [GicVersion::V2, GicVersion::V3] {
            let mut guest = description(gic);
            guest.vcpus = 8;
            let blob = blob(&guest);
            assert!(u64::try_from(blob.len()).unwrap() < MAX_TREE_BYTES);
            let mut regions = map::regions(gic, 8, (map::RAM_IPA, guest.memory_bytes));
            regions.extend(map::watchdog_regions());
            for region in regions {
                let fdt = Fdt::new(&blob).unwrap();
                let found = fdt.find_node(&format!("/{}", region.node)).is_some();
                assert!(found, "{}", region.node);
                let reg = bytes(&blob, &format!("/{}", region.node), "reg");
                let wanted = [region.ipa.to_be_bytes(), region.bytes.to_be_bytes()].concat();
                assert!(
                    reg.chunks(16).any(|range| range == wanted),
                    "{}",
                    region.node
                );
            }
        }
    }
}
