//! The facts of the board that EL2 needs, collected in one pass over its device tree.

use penumbra_abi::MAX_CPUS;

use crate::node::{
    MAX_DEPTH, Name, Node, Path, Property, leads_to, lookup, name, number, small, strings, whole,
};
use crate::ranges::{Range, Ranges};
use crate::tree::{Damaged, Token, Tokens, Tree, text};

/// Where the interrupt controller's registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicFacts {
    /// GICv2: distributor, CPU interface, virtual interface control, virtual CPU interface.
    V2([Range; 4]),
    /// GICv3: distributor, then up to four regions of redistributors.
    V3(Range, [Option<Range>; 4]),
}

/// What makes a core run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartMethod {
    /// Nothing that is known here.
    #[default]
    Unknown,
    /// PSCI CPU_ON.
    Psci,
    /// Its entry, written to this physical address.
    SpinTable(u64),
}

/// A core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Affinity fields of MPIDR_EL1.
    pub mpidr: u64,
    /// How it is started.
    pub start: StartMethod,
}

/// Kind of a UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// Arm's PL011.
    Pl011,
    /// The BCM2835's mini UART.
    Mini,
}

/// A UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uart {
    /// Its kind.
    pub kind: UartKind,
    /// Its registers.
    pub registers: Range,
    /// Its INTID; 0: none that is known.
    pub intid: u32,
}

/// PPIs of the generic timer (INTIDs); 0: not described.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// EL1 virtual timer.
    pub el1_virtual: u32,
    /// EL2 physical timer.
    pub hypervisor: u32,
}

/// The board.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'t> {
    /// `compatible` of the root: strings, each with its zero byte.
    pub compatible: &'t [u8],
    /// RAM; the ranges do not overlap.
    pub ram: Ranges<8>,
    /// Not to be used, whether EL2 maps it or not.
    pub reserved: Ranges<16>,
    /// Cores that are enabled.
    pub cpus: [Cpu; MAX_CPUS],
    /// How many of [`cpus`](Self::cpus) there are.
    pub cpu_count: usize,
    /// Cores in the tree, also those beyond [`MAX_CPUS`].
    pub cpus_described: usize,
    /// The interrupt controller.
    pub gic: GicFacts,
    /// The generic timer.
    pub timers: Timers,
    /// The console.
    pub uart: Uart,
    /// The bundle, if the loader brought one.
    pub bundle: Option<Range>,
    /// PSCI is called by SMC.
    pub psci_by_smc: bool,
    /// The BCM2835's mailbox to its firmware.
    pub mailbox: Option<Range>,
    /// Parts of the interrupt controller for message-signalled interrupts: ITS, GICv2m. They raise anyone's interrupts, and
    /// an ITS writes to memory.
    pub msi: Ranges<4>,
}

impl Facts<'_> {
    /// Whether the board says that it is a `name`, like `brcm,bcm2711`.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        strings(self.compatible).any(|string| string == name.as_bytes())
    }
}

/// Devices that EL2 uses.
#[derive(Clone, Copy)]
enum Device {
    Pl011,
    MiniUart,
    GicV3,
    GicV2,
    Psci,
    Timer,
    Mailbox,
    Msi,
}

/// What says in `compatible` that it is one.
const DEVICES: [(Name, Device); 11] = [
    (name("arm,pl011"), Device::Pl011),
    (name("brcm,bcm2835-aux-uart"), Device::MiniUart),
    (name("arm,gic-v3"), Device::GicV3),
    (name("arm,cortex-a15-gic"), Device::GicV2),
    (name("arm,gic-400"), Device::GicV2),
    (name("arm,gic-v3-its"), Device::Msi),
    (name("arm,gic-v2m-frame"), Device::Msi),
    (name("arm,psci-1.0"), Device::Psci),
    (name("arm,psci-0.2"), Device::Psci),
    (name("arm,armv8-timer"), Device::Timer),
    (name("brcm,bcm2835-mbox"), Device::Mailbox),
];

/// UARTs that are remembered until stdout is known.
const UARTS: usize = 8;

/// What is collected on the way.
#[derive(Default)]
struct Found<'t> {
    compatible: &'t [u8],
    ram: Ranges<8>,
    reserved: Ranges<16>,
    cpus: [Cpu; MAX_CPUS],
    cpus_described: usize,
    gic: Option<GicFacts>,
    timers: Timers,
    uarts: [Option<Candidate<'t>>; UARTS],
    aliases: Option<Tokens<'t>>,
    stdout: &'t [u8],
    bundle: Option<Range>,
    psci_by_smc: bool,
    mailbox: Option<Range>,
    msi: Ranges<4>,
}

/// A UART and how to get there.
#[derive(Clone, Copy)]
struct Candidate<'t> {
    uart: Uart,
    names: [&'t [u8]; MAX_DEPTH],
    depth: usize,
}

const DAMAGED: &str = "the device tree is damaged";

impl From<Damaged> for &'static str {
    fn from(_: Damaged) -> Self {
        DAMAGED
    }
}

/// Reads the board's facts.
///
/// # Errors
/// A sentence that says what is wrong or missing.
pub fn read(bytes: &[u8]) -> Result<Facts<'_>, &'static str> {
    let tree = Tree::new(bytes)?;
    let mut found = Found::default();
    found.reserve(tree.reservations())?;
    let mut path = Path::default();
    let mut tokens = tree.tokens();
    // The node whose properties are being read; none between the end of a node and the next one.
    let mut node = Node::default();
    let mut open = false;
    let mut depth = 0usize;
    while let Some(token) = tokens.step()? {
        match token {
            Token::Property(strings, value) if open => node.keep(strings, value),
            Token::Property(..) => return Err(DAMAGED),
            Token::Begin(name) => {
                if open {
                    found.take(&mut path, depth.wrapping_sub(1), &node)?;
                }
                node = Node::new(name);
                open = true;
                if depth == 1 && name == b"aliases" {
                    found.aliases = Some(tokens);
                }
                depth = depth.wrapping_add(1);
            }
            Token::End => {
                depth = depth.wrapping_sub(1);
                if open {
                    found.take(&mut path, depth, &node)?;
                }
                open = false;
            }
        }
    }
    found.complete()
}

impl<'t> Found<'t> {
    fn reserve(&mut self, ranges: impl IntoIterator<Item = Range>) -> Result<(), &'static str> {
        for range in ranges {
            self.reserved
                .push(range)
                .map_err(|_| "the board has more than 16 reserved ranges")?;
        }
        Ok(())
    }

    /// Takes a node at `depth`, whose properties are all known.
    fn take(
        &mut self,
        path: &mut Path<'t>,
        depth: usize,
        node: &Node<'t>,
    ) -> Result<(), &'static str> {
        if depth >= MAX_DEPTH {
            return Ok(());
        }
        path.enter(depth, node);
        let [_, parent, ..] = path.names;
        match (depth, node.name) {
            (0, _) => self.compatible = node.bytes(Property::Compatible),
            (1, b"chosen") => {
                self.stdout = node.bytes(Property::Stdout);
                self.bundle = bundle(node);
            }
            (1, _) if node.bytes(Property::DeviceType) == b"memory\0" => {
                if node.enabled() {
                    self.take_ram(path.regs(depth, node))?;
                }
            }
            (2, _) if parent == b"cpus" => self.take_cpu(path, node),
            (2, _) if parent == b"reserved-memory" => self.reserve(path.regs(depth, node))?,
            _ => self.take_device(path, depth, node)?,
        }
        Ok(())
    }

    fn take_ram(&mut self, ranges: impl Iterator<Item = Range>) -> Result<(), &'static str> {
        for range in ranges {
            if self.ram.overlap(range) {
                return Err("the device tree describes the same RAM twice");
            }
            self.ram
                .push(range)
                .map_err(|_| "the board has more than 8 ranges of RAM")?;
        }
        Ok(())
    }

    fn take_cpu(&mut self, path: &Path<'t>, node: &Node<'t>) {
        let address_cells = path.cells(2).map_or(1, |cells| cells.address);
        let mpidr = number(node.bytes(Property::Reg), 0, address_cells);
        let device_type = node.bytes(Property::DeviceType);
        let (b"cpu\0", true, Some(mpidr)) = (device_type, node.enabled(), mpidr) else {
            return;
        };
        let method = node.bytes(Property::EnableMethod);
        let start = match (method, whole(node.get(Property::Release))) {
            (b"psci\0", _) => StartMethod::Psci,
            (b"spin-table\0", Some(slot)) => StartMethod::SpinTable(slot),
            _ => StartMethod::Unknown,
        };
        if let Some(slot) = self.cpus.get_mut(self.cpus_described) {
            *slot = Cpu { mpidr, start };
        }
        self.cpus_described = self.cpus_described.wrapping_add(1);
    }

    /// Takes a device that EL2 uses; the first string that means something here says what it is.
    fn take_device(
        &mut self,
        path: &Path<'t>,
        depth: usize,
        node: &Node<'t>,
    ) -> Result<(), &'static str> {
        let compatible = node.bytes(Property::Compatible);
        // Most nodes of QEMU virt's tree are these.
        if compatible == b"virtio,mmio\0" {
            return Ok(());
        }
        let device = strings(compatible).find_map(|string| lookup(&DEVICES, string));
        match device {
            Some(Device::Pl011) => self.take_uart(UartKind::Pl011, path, depth, node),
            Some(Device::MiniUart) => self.take_uart(UartKind::Mini, path, depth, node),
            Some(Device::GicV3) => self.gic = gic_v3(path, depth, node),
            Some(Device::GicV2) => self.gic = gic_v2(path, depth, node),
            Some(Device::Psci) => self.psci_by_smc = node.bytes(Property::Method) == b"smc\0",
            Some(Device::Timer) => {
                self.timers = Timers {
                    el1_virtual: node.ppi(2).unwrap_or(0),
                    hypervisor: node.ppi(3).unwrap_or(0),
                };
            }
            Some(Device::Mailbox) => self.mailbox = path.registers(depth, node, 0),
            Some(Device::Msi) => {
                for range in (0..usize::MAX).map_while(|n| path.registers(depth, node, n)) {
                    let pushed = self.msi.push(range);
                    pushed.map_err(|_| "the board has more than 4 ITSs or GICv2m frames")?;
                }
            }
            None => {}
        }
        Ok(())
    }

    fn take_uart(&mut self, kind: UartKind, path: &Path<'t>, depth: usize, node: &Node<'t>) {
        let free = self.uarts.iter_mut().find(|slot| slot.is_none());
        let registers = path.registers(depth, node, 0).filter(|_| node.enabled());
        if let (Some(slot), Some(registers)) = (free, registers) {
            let intid = node.spi().unwrap_or(0);
            let uart = Uart {
                kind,
                registers,
                intid,
            };
            let names = path.names;
            *slot = Some(Candidate { uart, names, depth });
        }
    }

    /// The UART that stdout-path names, by path or alias; else the first.
    fn console(&self) -> Option<Uart> {
        // "serial1:115200n8" and a zero byte.
        let end = |&byte: &u8| byte == 0 || byte == b':';
        let path = self.stdout.split(end).next().unwrap_or_default();
        let path = if path.starts_with(b"/") {
            path
        } else {
            self.alias(path).unwrap_or_default()
        };
        let uarts = || self.uarts.iter().flatten();
        let named = uarts().find(|uart| leads_to(path, &uart.names, uart.depth));
        named.or_else(|| uarts().next()).map(|found| found.uart)
    }

    /// The path that an alias stands for.
    fn alias(&self, wanted: &[u8]) -> Option<&'t [u8]> {
        let mut tokens = self.aliases?;
        while let Ok(Some(Token::Property(strings, value))) = tokens.step() {
            if text(strings) == Some(wanted) {
                return value.split(|&byte| byte == 0).next();
            }
        }
        None
    }

    fn complete(self) -> Result<Facts<'t>, &'static str> {
        if self.ram.is_empty() {
            return Err("the device tree describes no RAM");
        }
        let Some(gic) = self.gic else {
            return Err("the device tree describes no GICv2 with virtualization and no GICv3");
        };
        let Some(uart) = self.console() else {
            return Err("the device tree describes no UART that is enabled (PL011 or mini UART)");
        };
        Ok(Facts {
            compatible: self.compatible,
            ram: self.ram,
            reserved: self.reserved,
            cpus: self.cpus,
            cpu_count: self.cpus_described.min(MAX_CPUS),
            cpus_described: self.cpus_described,
            gic,
            timers: self.timers,
            uart,
            bundle: self.bundle,
            psci_by_smc: self.psci_by_smc,
            mailbox: self.mailbox,
            msi: self.msi,
        })
    }
}

/// Where the boot loader put the bundle.
fn bundle(chosen: &Node<'_>) -> Option<Range> {
    let start = whole(chosen.get(Property::InitrdStart))?;
    let end = whole(chosen.get(Property::InitrdEnd))?;
    Range::new(start, end.checked_sub(start)?)
}

fn gic_v3(path: &Path<'_>, depth: usize, node: &Node<'_>) -> Option<GicFacts> {
    let mut regions = [None; 4];
    for (n, slot) in (1..=small(node.get(Property::Regions), 1)).zip(&mut regions) {
        *slot = Some(path.registers(depth, node, n)?);
    }
    Some(GicFacts::V3(path.registers(depth, node, 0)?, regions))
}

fn gic_v2(path: &Path<'_>, depth: usize, node: &Node<'_>) -> Option<GicFacts> {
    let part = |n| path.registers(depth, node, n);
    Some(GicFacts::V2([part(0)?, part(1)?, part(2)?, part(3)?]))
}
