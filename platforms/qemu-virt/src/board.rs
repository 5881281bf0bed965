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

/// Devices that EL2 uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Device {
    Uart,
    GicV2,
    GicV3,
    Psci,
    Other,
}

/// The properties of a node that matter here, raw.
#[derive(Clone, Copy, Default)]
struct Node<'t> {
    name: &'t str,
    address_cells: Option<&'t [u8]>,
    size_cells: Option<&'t [u8]>,
    compatible: Option<&'t [u8]>,
    device_type: Option<&'t [u8]>,
    initrd_end: Option<&'t [u8]>,
    initrd_start: Option<&'t [u8]>,
    interrupts: Option<&'t [u8]>,
    method: Option<&'t [u8]>,
    reg: Option<&'t [u8]>,
    regions: Option<&'t [u8]>,
    status: Option<&'t [u8]>,
    stdout: Option<&'t [u8]>,
}

impl<'t> Node<'t> {
    /// Reads a node in one pass.
    fn read(node: &FdtNode<'_, 't>) -> Self {
        let mut own = Self {
            name: node.name,
            ..Self::default()
        };
        for property in node.properties() {
            let slot = match property.name {
                "#address-cells" => &mut own.address_cells,
                "#size-cells" => &mut own.size_cells,
                "#redistributor-regions" => &mut own.regions,
                "compatible" => &mut own.compatible,
                "device_type" => &mut own.device_type,
                "interrupts" => &mut own.interrupts,
                "linux,initrd-end" => &mut own.initrd_end,
                "linux,initrd-start" => &mut own.initrd_start,
                "method" => &mut own.method,
                "reg" => &mut own.reg,
                "status" => &mut own.status,
                "stdout-path" => &mut own.stdout,
                _ => continue,
            };
            *slot = Some(property.value);
        }
        own
    }

    /// Sizes of the cells in its children's `reg`.
    fn cells(&self) -> Cells {
        Cells {
            address: small(self.address_cells, 2),
            size: small(self.size_cells, 1),
        }
    }

    /// Entry `n` of its `reg`, in its parent's cells.
    fn reg(&self, cells: Cells, n: usize) -> Option<Range> {
        let value = self.reg?;
        let at = n.checked_mul(cells.address.checked_add(cells.size)?)?;
        let base = number(value, at, cells.address)?;
        let bytes = number(value, at.checked_add(cells.address)?, cells.size)?;
        Range::new(base, bytes)
    }

    /// All entries of its `reg`.
    fn regs(&self, cells: Cells) -> impl Iterator<Item = Range> {
        (0..).map_while(move |n| self.reg(cells, n))
    }

    /// What it is, by the first string of its `compatible` that means something here.
    fn device(&self) -> Device {
        // Most nodes of QEMU's tree are these.
        if self.compatible == Some(b"virtio,mmio\0") {
            return Device::Other;
        }
        let strings = self.compatible.unwrap_or_default().split(|&byte| byte == 0);
        strings
            .filter_map(|string| match string {
                b"arm,pl011" => Some(Device::Uart),
                b"arm,gic-v3" => Some(Device::GicV3),
                b"arm,cortex-a15-gic" | b"arm,gic-400" => Some(Device::GicV2),
                b"arm,psci-1.0" | b"arm,psci-0.2" => Some(Device::Psci),
                _ => None,
            })
            .next()
            .unwrap_or(Device::Other)
    }

    fn enabled(&self) -> bool {
        self.status.is_none_or(|status| status.starts_with(b"ok"))
    }
}

/// A property of one cell.
fn small(value: Option<&[u8]>, default: usize) -> usize {
    value
        .and_then(|value| cell(value, 0))
        .and_then(|value| usize::try_from(value).ok())
        .unwrap_or(default)
}

/// PL011s that are remembered until stdout is known.
const UARTS: usize = 4;

/// A PL011: its node's name, registers and INTID.
type Uart<'t> = (&'t str, Range, u32);

/// What is collected on the way through the children of the root.
#[derive(Default)]
struct Found<'t> {
    ram: Ranges<8>,
    reserved: Ranges<16>,
    cpus: [u64; MAX_CPUS],
    cpus_described: usize,
    gic: Option<GicFacts>,
    uarts: [Option<Uart<'t>>; UARTS],
    stdout: Option<&'t [u8]>,
    bundle: Option<Range>,
    psci_by_smc: bool,
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
    let cells = Node::read(&root).cells();
    let mut found = Found::default();
    for reservation in fdt.memory_reservations() {
        let base = reservation.address().addr() as u64;
        found.reserve(Range::new(base, reservation.size() as u64))?;
    }
    for node in root.children() {
        found.take(&node, cells)?;
    }
    found.complete()
}

impl<'t> Found<'t> {
    fn reserve(&mut self, ranges: impl IntoIterator<Item = Range>) -> Result<(), &'static str> {
        for range in ranges {
            self.reserved
                .push(range)
                .map_err(|()| "the board has more than 16 reserved ranges")?;
        }
        Ok(())
    }

    fn take(&mut self, tree_node: &FdtNode<'_, 't>, cells: Cells) -> Result<(), &'static str> {
        let node = Node::read(tree_node);
        match node.name {
            "cpus" => self.take_cpus(tree_node, small(node.address_cells, 1)),
            "chosen" => {
                self.stdout = node.stdout;
                self.bundle = bundle(&node);
            }
            "reserved-memory" => {
                for child in tree_node.children() {
                    self.reserve(Node::read(&child).regs(node.cells()))?;
                }
            }
            _ if node.device_type == Some(b"memory\0") => {
                for range in node.regs(cells).filter(|_| node.enabled()) {
                    self.ram
                        .push(range)
                        .map_err(|()| "the board has more than 8 ranges of RAM")?;
                }
            }
            _ => match node.device() {
                Device::Uart if node.enabled() => self.take_uart(&node, cells),
                Device::GicV2 => self.gic = gic_v2(&node, cells),
                Device::GicV3 => self.gic = gic_v3(&node, cells),
                Device::Psci => self.psci_by_smc = node.method == Some(b"smc\0"),
                Device::Uart | Device::Other => {}
            },
        }
        Ok(())
    }

    fn take_cpus(&mut self, cpus: &FdtNode<'_, 't>, address_cells: usize) {
        for cpu in cpus.children() {
            let cpu = Node::read(&cpu);
            if cpu.device_type != Some(b"cpu\0") || !cpu.enabled() {
                continue;
            }
            let Some(mpidr) = cpu.reg.and_then(|reg| number(reg, 0, address_cells)) else {
                continue;
            };
            if let Some(slot) = self.cpus.get_mut(self.cpus_described) {
                *slot = mpidr;
            }
            self.cpus_described += 1;
        }
    }

    fn take_uart(&mut self, node: &Node<'t>, cells: Cells) {
        let interrupt = node.interrupts.and_then(|value| {
            // Type 0 is an SPI, numbered from 32.
            let number = u32::try_from(cell(value, 1)?).ok()?.checked_add(32)?;
            (cell(value, 0)? == 0).then_some(number)
        });
        let free = self.uarts.iter_mut().find(|slot| slot.is_none());
        if let (Some(slot), Some(registers)) = (free, node.reg(cells, 0)) {
            *slot = Some((node.name, registers, interrupt.unwrap_or(0)));
        }
    }

    /// The PL011 that stdout-path names, else the first.
    fn console(&self) -> Option<(Range, u32)> {
        let is_stdout = |name: &str| {
            // "/pl011@9000000", possibly with ":115200n8", and a zero byte.
            let path = self.stdout.unwrap_or_default();
            let path = path.strip_prefix(b"/").unwrap_or(path);
            path.strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.first().is_none_or(|&b| b == 0 || b == b':'))
        };
        let uarts = || self.uarts.iter().flatten();
        let uart = uarts()
            .find(|(name, ..)| is_stdout(name))
            .or_else(|| uarts().next());
        uart.map(|&(_, registers, interrupt)| (registers, interrupt))
    }

    fn complete(self) -> Result<Facts, &'static str> {
        if self.ram.is_empty() {
            return Err("the device tree describes no RAM");
        }
        let Some(gic) = self.gic else {
            return Err("the device tree describes no GICv2 with virtualization and no GICv3");
        };
        let Some(uart) = self.console() else {
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
            psci_by_smc: self.psci_by_smc,
        })
    }
}

/// Where the boot loader put the bundle.
fn bundle(chosen: &Node<'_>) -> Option<Range> {
    let address = |value: Option<&[u8]>| value.and_then(|value| number(value, 0, value.len() / 4));
    let start = address(chosen.initrd_start)?;
    let end = address(chosen.initrd_end)?;
    Range::new(start, end.checked_sub(start)?)
}

fn gic_v3(node: &Node<'_>, cells: Cells) -> Option<GicFacts> {
    let mut redistributors = Ranges::new();
    for n in 1..=small(node.regions, 1).min(4) {
        redistributors.push(node.reg(cells, n)?).ok()?;
    }
    Some(GicFacts::V3(node.reg(cells, 0)?, redistributors))
}

fn gic_v2(node: &Node<'_>, cells: Cells) -> Option<GicFacts> {
    let part = |n| node.reg(cells, n);
    Some(GicFacts::V2([part(0)?, part(1)?, part(2)?, part(3)?]))
}
