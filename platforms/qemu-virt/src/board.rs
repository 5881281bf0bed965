//! What the device tree says about the board.
//!
//! The tree comes from firmware. `fdt` panics on malformed input, so `dtoolkit` validates the whole
//! structure first, and of `fdt` only nodes and raw properties are used; cells are decoded here.

use dtoolkit::fdt::Fdt as ValidTree;
use fdt::Fdt;
use fdt::node::FdtNode;
use penumbra_abi::MAX_CPUS;

use crate::ranges::{Range, Ranges};

/// Where the interrupt controller's registers are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GicFacts {
    /// GICv2: distributor, CPU interface, virtual interface control, virtual CPU interface.
    V2([Range; 4]),
    /// GICv3: distributor, redistributors.
    V3(Range, Ranges<4>),
}

/// The board.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) ram: Ranges<8>,
    /// Not to be used, whether EL2 maps it or not.
    pub(crate) reserved: Ranges<16>,
    pub(crate) cpus: [u64; MAX_CPUS],
    pub(crate) cpu_count: usize,
    /// Cores in the tree, also those beyond [`MAX_CPUS`].
    pub(crate) cpus_described: usize,
    pub(crate) gic: GicFacts,
    /// Console: registers and INTID.
    pub(crate) uart: (Range, u32),
    /// The bundle, if the loader brought one.
    pub(crate) bundle: Option<Range>,
    /// PSCI is called by SMC.
    pub(crate) psci_by_smc: bool,
}

/// Numbers of 32-bit cells in a `reg` property.
#[derive(Clone, Copy)]
struct Cells {
    address: usize,
    size: usize,
}

fn cell(bytes: &[u8], index: usize) -> Option<u64> {
    let at = index.checked_mul(4)?;
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u64::from(u32::from_be_bytes(word.try_into().ok()?)))
}

/// A number of `count` cells, 1 or 2.
fn number(bytes: &[u8], index: usize, count: usize) -> Option<u64> {
    match count {
        0 => Some(0),
        1 => cell(bytes, index),
        2 => Some(cell(bytes, index)? << 32 | cell(bytes, index.checked_add(1)?)?),
        _ => None,
    }
}

fn property<'t>(node: &FdtNode<'_, 't>, name: &str) -> Option<&'t [u8]> {
    node.property(name).map(|property| property.value)
}

fn cell_property(node: &FdtNode<'_, '_>, name: &str, default: usize) -> usize {
    property(node, name)
        .and_then(|value| cell(value, 0))
        .and_then(|value| usize::try_from(value).ok())
        .unwrap_or(default)
}

fn cells(node: &FdtNode<'_, '_>) -> Cells {
    Cells {
        address: cell_property(node, "#address-cells", 2),
        size: cell_property(node, "#size-cells", 1),
    }
}

/// Entry `n` of a `reg` property.
fn reg(node: &FdtNode<'_, '_>, cells: Cells, n: usize) -> Option<Range> {
    let value = property(node, "reg")?;
    let at = n.checked_mul(cells.address.checked_add(cells.size)?)?;
    let base = number(value, at, cells.address)?;
    let bytes = number(value, at.checked_add(cells.address)?, cells.size)?;
    Range::new(base, bytes)
}

/// Whether a list of strings ending in zero bytes holds `wanted`.
fn lists(value: Option<&[u8]>, wanted: &str) -> bool {
    value.is_some_and(|value| value.split(|&b| b == 0).any(|s| s == wanted.as_bytes()))
}

fn compatible(node: &FdtNode<'_, '_>, wanted: &str) -> bool {
    lists(property(node, "compatible"), wanted)
}

fn enabled(node: &FdtNode<'_, '_>) -> bool {
    property(node, "status").is_none_or(|status| status.starts_with(b"ok"))
}

/// What is collected on the way through the children of the root.
#[derive(Default)]
struct Found<'t> {
    ram: Ranges<8>,
    reserved: Ranges<16>,
    cpus: [u64; MAX_CPUS],
    cpus_described: usize,
    gic: Option<GicFacts>,
    uart: Option<(Range, u32)>,
    uart_is_stdout: bool,
    stdout: Option<&'t [u8]>,
    bundle: Option<Range>,
    psci: Option<bool>,
}

/// Reads the board's facts.
///
/// # Errors
/// A sentence that says what is missing.
pub(crate) fn read(tree: &[u8]) -> Result<Facts, &'static str> {
    if ValidTree::new(tree).is_err() {
        return Err("the device tree is damaged");
    }
    let Ok(fdt) = Fdt::new(tree) else {
        return Err("the device tree is damaged");
    };
    let Some(root) = fdt.find_node("/") else {
        return Err("the device tree has no root");
    };
    let root_cells = cells(&root);
    let mut found = Found::default();
    for reservation in fdt.memory_reservations() {
        let base = reservation.address().addr() as u64;
        if let Some(range) = Range::new(base, reservation.size() as u64) {
            found
                .reserved
                .push(range)
                .map_err(|()| "too many memory reservations")?;
        }
    }
    // Where stdout is comes first in meaning but may come last in the tree.
    found.stdout = fdt
        .find_node("/chosen")
        .and_then(|chosen| property(&chosen, "stdout-path"));
    for node in root.children() {
        found.take(&node, root_cells)?;
    }
    found.complete()
}

impl Found<'_> {
    fn take(&mut self, node: &FdtNode<'_, '_>, cells: Cells) -> Result<(), &'static str> {
        if lists(property(node, "device_type"), "memory") && enabled(node) {
            let mut n = 0;
            while let Some(range) = reg(node, cells, n) {
                self.ram
                    .push(range)
                    .map_err(|()| "the board has more than 8 ranges of RAM")?;
                n += 1;
            }
        } else if node.name == "cpus" {
            self.take_cpus(node);
        } else if node.name == "chosen" {
            self.take_bundle(node);
        } else if node.name == "reserved-memory" {
            let cells = self::cells(node);
            for child in node.children() {
                let mut n = 0;
                while let Some(range) = reg(&child, cells, n) {
                    self.reserved
                        .push(range)
                        .map_err(|()| "too many memory reservations")?;
                    n += 1;
                }
            }
        } else if compatible(node, "arm,pl011") && enabled(node) {
            self.take_uart(node, cells);
        } else if compatible(node, "arm,gic-v3") {
            self.gic = gic_v3(node, cells);
        } else if compatible(node, "arm,cortex-a15-gic") || compatible(node, "arm,gic-400") {
            self.gic = gic_v2(node, cells);
        } else if compatible(node, "arm,psci-1.0") || compatible(node, "arm,psci-0.2") {
            self.psci = Some(lists(property(node, "method"), "smc"));
        }
        Ok(())
    }

    fn take_cpus(&mut self, cpus: &FdtNode<'_, '_>) {
        let address = cell_property(cpus, "#address-cells", 1);
        for cpu in cpus.children() {
            if !lists(property(&cpu, "device_type"), "cpu") || !enabled(&cpu) {
                continue;
            }
            let Some(mpidr) = property(&cpu, "reg").and_then(|reg| number(reg, 0, address)) else {
                continue;
            };
            if let Some(slot) = self.cpus.get_mut(self.cpus_described) {
                *slot = mpidr;
            }
            self.cpus_described += 1;
        }
    }

    fn take_bundle(&mut self, chosen: &FdtNode<'_, '_>) {
        let address = |name| {
            let value = property(chosen, name)?;
            number(value, 0, value.len() / 4)
        };
        if let (Some(start), Some(end)) =
            (address("linux,initrd-start"), address("linux,initrd-end"))
        {
            self.bundle = end
                .checked_sub(start)
                .and_then(|bytes| Range::new(start, bytes));
        }
    }

    fn take_uart(&mut self, node: &FdtNode<'_, '_>, cells: Cells) {
        let is_stdout = self.stdout.is_some_and(|path| {
            // "/pl011@9000000", possibly with ":115200n8", and a zero byte.
            let path = path.strip_prefix(b"/").unwrap_or(path);
            path.strip_prefix(node.name.as_bytes())
                .is_some_and(|rest| rest.first().is_none_or(|&b| b == 0 || b == b':'))
        });
        if self.uart.is_some() && (self.uart_is_stdout || !is_stdout) {
            return;
        }
        let interrupt = property(node, "interrupts").and_then(|value| {
            // Type 0 is an SPI, numbered from 32.
            (cell(value, 0)? == 0).then_some(u32::try_from(cell(value, 1)?).ok()?.checked_add(32)?)
        });
        if let Some(registers) = reg(node, cells, 0) {
            self.uart = Some((registers, interrupt.unwrap_or(0)));
            self.uart_is_stdout = is_stdout;
        }
    }

    fn complete(self) -> Result<Facts, &'static str> {
        if self.ram.is_empty() {
            return Err("the device tree describes no RAM");
        }
        let Some(gic) = self.gic else {
            return Err("the device tree describes no GICv2 with virtualization and no GICv3");
        };
        let Some(uart) = self.uart else {
            return Err("the device tree describes no PL011");
        };
        Ok(Facts {
            ram: self.ram,
            reserved: self.reserved,
            cpus: self.cpus,
            cpu_count: self.cpus_described.min(MAX_CPUS),
            cpus_described: self.cpus_described,
            gic,
            uart,
            bundle: self.bundle,
            psci_by_smc: self.psci.unwrap_or(false),
        })
    }
}

fn gic_v3(node: &FdtNode<'_, '_>, cells: Cells) -> Option<GicFacts> {
    let regions = cell_property(node, "#redistributor-regions", 1);
    let mut redistributors = Ranges::new();
    for n in 1..=regions.min(4) {
        redistributors.push(reg(node, cells, n)?).ok()?;
    }
    Some(GicFacts::V3(reg(node, cells, 0)?, redistributors))
}

fn gic_v2(node: &FdtNode<'_, '_>, cells: Cells) -> Option<GicFacts> {
    let part = |n| reg(node, cells, n);
    Some(GicFacts::V2([part(0)?, part(1)?, part(2)?, part(3)?]))
}
