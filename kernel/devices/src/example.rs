//! A board's tree for tests: what QEMU's `virt` describes, as far as it matters here, and a few nodes
//! that it does not have.

use alloc::format;
use alloc::vec::Vec;

use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

const GIC: u32 = 0x8005;
const CLOCK: u32 = 0x8000;
const SWITCHED: u32 = 0x9000;
const GPIO: u32 = 0x8007;

pub(crate) fn node(name: &str, compatible: &str) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new_unchecked(name);
    if !compatible.is_empty() {
        set(&mut node, "compatible", compatible);
    }
    node
}

pub(crate) fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

fn reg(node: &mut DeviceTreeNode, ranges: &[(u64, u64)]) {
    let bytes = ranges
        .iter()
        .flat_map(|(base, bytes)| [base.to_be_bytes(), bytes.to_be_bytes()]);
    set(node, "reg", bytes.flatten().collect::<Vec<u8>>());
}

fn device(name: &str, compatible: &str, base: u64, bytes: u64, spi: u32) -> DeviceTreeNode {
    let mut node = node(name, compatible);
    reg(&mut node, &[(base, bytes)]);
    set(&mut node, "interrupts", [0, spi, 4]);
    node
}

fn clocked(mut node: DeviceTreeNode, clock: u32) -> DeviceTreeNode {
    set(&mut node, "clocks", [clock]);
    set(&mut node, "clock-names", "apb_pclk");
    node
}

/// The tree as a blob. RAM: 1 GiB at 1 GiB, the last 16 MiB but 16 reserved.
#[must_use]
pub fn board() -> Vec<u8> {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    set(root, "#address-cells", 2u32);
    set(root, "#size-cells", 2u32);
    set(root, "interrupt-parent", GIC);
    set(root, "dma-coherent", [0u8; 0]);
    let mut chosen = node("chosen", "");
    set(&mut chosen, "stdout-path", "/pl011@9000000:115200n8");
    root.add_child(chosen);
    let mut aliases = node("aliases", "");
    set(&mut aliases, "serial0", "/pl011@9000000");
    set(&mut aliases, "rtc0", "/pl031@9010000");
    root.add_child(aliases);
    let mut memory = node("memory@40000000", "");
    set(&mut memory, "device_type", "memory");
    reg(&mut memory, &[(0x4000_0000, 0x4000_0000)]);
    root.add_child(memory);
    let mut reserved = node("reserved-memory", "");
    set(&mut reserved, "#address-cells", 2u32);
    set(&mut reserved, "#size-cells", 2u32);
    set(&mut reserved, "ranges", [0u8; 0]);
    let mut firmware = node("firmware@7e000000", "");
    reg(&mut firmware, &[(0x7e00_0000, 0x100_0000)]);
    reserved.add_child(firmware);
    root.add_child(reserved);
    root.add_child(gic());
    let mut clock = node("apb-pclk", "fixed-clock");
    set(&mut clock, "#clock-cells", 0u32);
    set(&mut clock, "clock-frequency", 24_000_000u32);
    set(&mut clock, "phandle", CLOCK);
    root.add_child(clock);
    let mut clock = node("clocks@9200000", "vendor,clocks");
    reg(&mut clock, &[(0x0920_0000, 0x1000)]);
    set(&mut clock, "#clock-cells", 1u32);
    set(&mut clock, "phandle", SWITCHED);
    root.add_child(clock);
    for (name, compatible, base, spi) in [
        ("pl011@9000000", "arm,pl011", 0x0900_0000, 1),
        ("pl031@9010000", "arm,pl031", 0x0901_0000, 2),
    ] {
        root.add_child(clocked(device(name, compatible, base, 0x1000, spi), CLOCK));
    }
    root.add_child(gpio());
    let mut keys = node("gpio-keys", "gpio-keys");
    let mut key = node("poweroff", "");
    set(&mut key, "gpios", [GPIO, 3, 0]);
    keys.add_child(key);
    root.add_child(keys);
    for n in 0..16_u32 {
        let base = 0x0a00_3000 - 0x1000 + u64::from(n) * 0x200;
        let name = format!("virtio_mmio@{base:x}");
        let mut virtio = device(&name, "virtio,mmio", base, 0x200, 32 + n);
        set(&mut virtio, "interrupts", [0, 32 + n, 1]);
        set(&mut virtio, "dma-coherent", [0u8; 0]);
        root.add_child(virtio);
    }
    odd(root);
    tree.to_dtb()
}

fn gic() -> DeviceTreeNode {
    let mut gic = node("intc@8000000", "arm,gic-v3");
    reg(
        &mut gic,
        &[(0x0800_0000, 0x1_0000), (0x080a_0000, 0x00f6_0000)],
    );
    set(&mut gic, "#interrupt-cells", 3u32);
    set(&mut gic, "#address-cells", 2u32);
    set(&mut gic, "#size-cells", 2u32);
    set(&mut gic, "ranges", [0u8; 0]);
    set(&mut gic, "interrupt-controller", [0u8; 0]);
    set(&mut gic, "phandle", GIC);
    let mut its = node("its@8080000", "arm,gic-v3-its");
    reg(&mut its, &[(0x0808_0000, 0x2_0000)]);
    gic.add_child(its);
    gic
}

fn gpio() -> DeviceTreeNode {
    let gpio = device("pl061@9030000", "arm,pl061", 0x0903_0000, 0x1000, 7);
    let mut gpio = clocked(gpio, CLOCK);
    set(&mut gpio, "gpio-controller", [0u8; 0]);
    set(&mut gpio, "#gpio-cells", 2u32);
    set(&mut gpio, "phandle", GPIO);
    gpio
}

/// Devices that cannot be given, and buses.
fn odd(root: &mut DeviceTreeNode) {
    let mut pcie = node("pcie@10000000", "pci-host-ecam-generic");
    set(&mut pcie, "device_type", "pci");
    reg(&mut pcie, &[(0x3f00_0000, 0x100_0000)]);
    root.add_child(pcie);
    let off = device("watchdog@9100000", "arm,sp805", 0x0910_0000, 0x1000, 9);
    let mut off = clocked(off, CLOCK);
    set(&mut off, "status", "disabled");
    root.add_child(off);
    let switched = device("pl022@9110000", "arm,pl022", 0x0911_0000, 0x1000, 10);
    let mut switched = clocked(switched, CLOCK);
    set(&mut switched, "clocks", [SWITCHED, 5]);
    root.add_child(switched);
    let mut pmu = device("pmu@9120000", "arm,pl061", 0x0912_0000, 0x1000, 7);
    set(&mut pmu, "interrupts", [1u32, 7, 4]);
    root.add_child(pmu);
    let mut line = device("sensor@9130000", "arm,pl061", 0x0913_0000, 0x1000, 3);
    set(&mut line, "interrupt-parent", GPIO);
    root.add_child(line);
    let mut iommu = device("smmu@9140000", "arm,smmu-v3", 0x0914_0000, 0x2000, 50);
    set(&mut iommu, "#iommu-cells", 1u32);
    root.add_child(iommu);
    let shared = device("timer@9150000", "arm,sp804", 0x0915_0000, 0x1000, 2);
    root.add_child(shared);
    // A bus whose addresses are its own, and one that has none for the CPUs.
    let mut bus = node("soc", "simple-bus");
    set(&mut bus, "#address-cells", 1u32);
    set(&mut bus, "#size-cells", 1u32);
    set(
        &mut bus,
        "ranges",
        [0x7e00_0000u32, 0, 0x0a80_0000, 0x80_0000],
    );
    set(&mut bus, "dma-ranges", [0xc000_0000u32, 0, 0, 0x4000_0000]);
    for (name, compatible, base) in [
        ("rng@7e104000", "brcm,bcm2711-rng200", 0x7e10_4000u32),
        ("mmc@7e340000", "brcm,bcm2711-emmc2", 0x7e34_0000),
        ("lost@1000", "arm,pl061", 0x1000),
    ] {
        let mut child = node(name, compatible);
        set(&mut child, "reg", [base, 0x100]);
        bus.add_child(child);
    }
    root.add_child(bus);
    // On the guest's side of the address space there may be RAM.
    root.add_child(device(
        "pl031@60000000",
        "arm,pl031",
        0x9000_0000,
        0x1000,
        60,
    ));
}
