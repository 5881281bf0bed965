//! The node of a device for a guest's tree.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::model::{DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

use crate::{BoardTree, Device};

/// Properties that name other nodes of the board's tree, which the guest's tree does not have, or that
/// are written anew.
const DROPPED: [&str; 26] = [
    "assigned-clock-parents",
    "assigned-clock-rates",
    "assigned-clocks",
    "clocks",
    "dma-names",
    "dma-ranges",
    "dmas",
    "gpio-ranges",
    "interconnects",
    "interrupt-parent",
    "interrupts",
    "interrupts-extended",
    "iommu-map",
    "iommus",
    "linux,phandle",
    "mboxes",
    "mmc-pwrseq",
    "msi-map",
    "msi-parent",
    "phandle",
    "phy-names",
    "phys",
    "power-domains",
    "ranges",
    "reg",
    "resets",
];

fn is_dropped(name: &str) -> bool {
    DROPPED.contains(&name)
        || name.starts_with("pinctrl-")
        || name.ends_with("-supply")
        || name.ends_with("-gpios")
        || name == "gpios"
}

/// How the guest's tree names what the copy refers to.
#[derive(Clone, Debug)]
pub struct References<'a> {
    /// The guest's INTID of each interrupt of the device, as shared peripheral interrupts.
    pub interrupts: &'a [u32],
    /// `phandle` of a fixed clock for each clock of the device.
    pub clocks: &'a [u32],
}

/// Copies the node of a device for the root of a guest's tree: registers at their addresses in two
/// cells each, interrupts and clocks as the guest has them, what names nodes that the guest does not
/// have left out. Buses above it that are coherent make it so, too.
#[must_use]
pub fn copy(tree: &BoardTree<'_>, device: &Device, names: &References<'_>) -> DeviceTreeNode {
    let base = device.registers.first().map_or(0, |range| range.base);
    let whole = device.path.rsplit('/').next().unwrap_or_default();
    let stem = whole.split('@').next().unwrap_or_default();
    let mut copy = DeviceTreeNode::new_unchecked(format!("{stem}@{base:x}"));
    if let Some(entry) = tree.entry(device.index) {
        properties(&mut copy, &entry.node);
        for child in entry.node.children() {
            copy.add_child(child_of(&child));
        }
    }
    let mut set = |name: &str, value: Vec<u8>| {
        copy.add_property(DeviceTreeProperty::new_unchecked(name, value));
    };
    let registers = device.registers.iter();
    set(
        "reg",
        registers
            .flat_map(|range| [range.base.to_be_bytes(), range.bytes.to_be_bytes()])
            .flatten()
            .collect(),
    );
    if !device.interrupts.is_empty() {
        let pairs = device.interrupts.iter().zip(names.interrupts);
        let cells = pairs.flat_map(|(interrupt, intid)| {
            // Rising edge, or level high (arm,gic.yaml).
            let flags = if interrupt.edge { 1 } else { 4 };
            [0, intid.saturating_sub(32), flags]
        });
        set("interrupts", cells.flat_map(u32::to_be_bytes).collect());
    }
    if !names.clocks.is_empty() {
        let cells = names.clocks.iter().flat_map(|clock| clock.to_be_bytes());
        set("clocks", cells.collect());
    }
    let coherent = tree.upwards(device.index).any(|e| e.has("dma-coherent"));
    if device.master && coherent {
        set("dma-coherent", Vec::new());
    }
    copy
}

/// Puts the copy of a device behind a bus that translates its DMA, if the device has addresses of its own.
#[must_use]
pub fn with_bus(device: &Device, copy: DeviceTreeNode) -> DeviceTreeNode {
    if device.dma.is_empty() {
        return copy;
    }
    let base = device.registers.first().map_or(0, |range| range.base);
    let mut bus = DeviceTreeNode::new_unchecked(format!("bus-{base:x}"));
    let mut set = |name: &str, value: Vec<u8>| {
        bus.add_property(DeviceTreeProperty::new_unchecked(name, value));
    };
    set("compatible", b"simple-bus\0".to_vec());
    for name in ["#address-cells", "#size-cells"] {
        set(name, 2_u32.to_be_bytes().to_vec());
    }
    set("ranges", Vec::new());
    let windows = device.dma.iter().flat_map(|w| [w.bus, w.cpu, w.bytes]);
    set("dma-ranges", windows.flat_map(u64::to_be_bytes).collect());
    bus.add_child(copy);
    bus
}

fn properties(copy: &mut DeviceTreeNode, node: &impl Node) {
    for property in node.properties() {
        if !is_dropped(property.name()) {
            let (name, value) = (String::from(property.name()), property.value().to_vec());
            copy.add_property(DeviceTreeProperty::new_unchecked(name, value));
        }
    }
}

/// A node below a device keeps the registers that it has on the device's own bus.
fn child_of(node: &impl Node) -> DeviceTreeNode {
    let mut copy = DeviceTreeNode::new_unchecked(String::from(node.name().as_ref()));
    properties(&mut copy, node);
    if let Some(reg) = node.property("reg") {
        copy.add_property(DeviceTreeProperty::new_unchecked(
            "reg",
            reg.value().to_vec(),
        ));
    }
    for child in node.children() {
        copy.add_child(child_of(&child));
    }
    copy
}
