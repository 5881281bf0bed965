//! One device: registers, interrupts, clocks, and whether it reaches memory by itself.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::parts::{GICS, NO_MASTERS, POWER, firmware_clock};
use crate::tree::{BoardTree, Entry, cells};
use crate::{DmaWindow, Problem, Range};

/// An interrupt of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// INTID of a shared peripheral interrupt.
    pub intid: u32,
    /// Edge-triggered.
    pub edge: bool,
}

/// A clock that a device is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Its frequency.
    pub hz: u32,
    /// Its number at a controller that the board's firmware sets up: the firmware may know better than the
    /// documents that the frequency is taken from.
    pub firmware: Option<u32>,
}

/// A device as a guest gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Path in the board's tree.
    pub path: String,
    /// Registers.
    pub registers: Vec<Range>,
    /// Interrupts, in the order of its node.
    pub interrupts: Vec<Interrupt>,
    /// Clocks, in the order of its node.
    pub clocks: Vec<Clock>,
    /// It may read and write memory by itself.
    pub master: bool,
    /// Where it finds memory, if it is a bus master with addresses of its own; else empty.
    pub dma: Vec<DmaWindow>,
    /// It is a virtio transport with registers (virtio 1.2, 4.2), which a write can reset.
    pub virtio: bool,
    /// Index of its node.
    pub(crate) index: usize,
}

impl Device {
    /// The pages of its registers, neighbours as one range.
    #[must_use]
    pub fn pages(&self) -> Vec<Range> {
        merged(self.registers.iter().map(|range| range.pages()).collect())
    }
}

/// Sorts ranges and makes one of those that touch.
#[must_use]
pub fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort();
    let mut out: Vec<Range> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.base <= last.end() => {
                let end = last.end().max(range.end());
                last.bytes = end.saturating_sub(last.base);
            }
            _ => out.push(range),
        }
    }
    out
}

impl BoardTree<'_> {
    /// Reads the device at a path.
    ///
    /// # Errors
    /// Why no guest can have it, whoever else has what.
    pub fn device(&self, path: &str) -> Result<Device, Problem> {
        let unknown = || Problem::Unknown { near: None };
        let index = self.find(path).ok_or_else(unknown)?;
        let entry = self.entry(index).ok_or_else(unknown)?;
        if let Some(what) = self.kept(index) {
            return Err(Problem::Kept { what });
        }
        if entry
            .strings("device_type")
            .iter()
            .any(|kind| kind == "pci")
        {
            let what = "a PCI host bridge";
            return Err(Problem::Bridge { what });
        }
        if entry.is_compatible(&["simple-bus"]) {
            return Err(Problem::NoRegisters);
        }
        if !self.upwards(index).all(Entry::is_enabled) {
            return Err(Problem::Disabled);
        }
        let registers = self.registers(index)?;
        let master = !entry.is_compatible(&NO_MASTERS);
        let dma = match master {
            true => self.dma(index)?,
            false => Vec::new(),
        };
        Ok(Device {
            path: entry.path.clone(),
            registers,
            interrupts: self.interrupts(index)?,
            clocks: self.clocks(entry)?,
            master,
            dma,
            virtio: entry.is_compatible(&["virtio,mmio"]),
            index,
        })
    }

    /// What a kind of device is called in reports: the first string of `compatible`.
    pub(crate) fn kind(&self, index: usize) -> String {
        let strings = self.entry(index).map(|entry| entry.strings("compatible"));
        let first = strings.unwrap_or_default().into_iter().next();
        first.unwrap_or_else(|| "of unknown kind".into())
    }

    /// What the hypervisor keeps for itself.
    fn kept(&self, index: usize) -> Option<&'static str> {
        let own = self.entry(index)?;
        if self.upwards(index).any(|entry| entry.is_compatible(&GICS)) {
            return Some("the interrupt controller");
        }
        if Some(index) == self.console() {
            return Some("the board's console");
        }
        let memory = own
            .strings("device_type")
            .iter()
            .any(|kind| kind == "memory");
        if memory || own.path.starts_with("/reserved-memory") {
            return Some("RAM");
        }
        if own.has("#iommu-cells") {
            return Some("an IOMMU");
        }
        if own.has("#mbox-cells") {
            return Some("a mailbox to the board's firmware");
        }
        if own.is_compatible(&POWER) {
            return Some("the board's watchdog and power switch");
        }
        // Others hang on what it does.
        if own.has("#clock-cells") && own.has("reg") {
            return Some("a clock controller");
        }
        None
    }

    /// The PL011 that `stdout-path` names, else the first one.
    pub(crate) fn console(&self) -> Option<usize> {
        let chosen = self.find("/chosen").and_then(|index| self.entry(index));
        let stdout = chosen.and_then(|chosen| chosen.strings("stdout-path").into_iter().next());
        let named = stdout.and_then(|path| {
            let path = path.split(':').next().unwrap_or_default().to_string();
            self.find(&path)
        });
        named.or_else(|| {
            let mut all = self.entries();
            all.find(|(_, entry)| entry.is_compatible(&["arm,pl011"]))
                .map(|(index, _)| index)
        })
    }

    /// The interrupts of a node, all at the GIC.
    fn interrupts(&self, index: usize) -> Result<Vec<Interrupt>, Problem> {
        let none = || Problem::ForeignInterrupt {
            controller: String::new(),
        };
        let Some(entry) = self.entry(index) else {
            return Ok(Vec::new());
        };
        if let Some(value) = entry.value("interrupts-extended") {
            let mut rest = cells(&value);
            let mut all = Vec::new();
            while let Some((handle, behind)) = rest.split_first() {
                let gic = self.by_phandle(*handle).ok_or_else(none)?;
                let count = self.gic_cells(gic)?;
                let (one, behind) = behind.split_at_checked(count).ok_or_else(none)?;
                all.push(interrupt(one)?);
                rest = behind.to_vec();
            }
            return Ok(all);
        }
        let Some(value) = entry.value("interrupts") else {
            return Ok(Vec::new());
        };
        let handle = self.upwards(index).find_map(|e| e.cell("interrupt-parent"));
        let gic = handle
            .and_then(|handle| self.by_phandle(handle))
            .ok_or_else(none)?;
        let count = self.gic_cells(gic)?;
        cells(&value).chunks_exact(count).map(interrupt).collect()
    }

    /// Cells of an interrupt at a controller, which must be the GIC.
    fn gic_cells(&self, index: usize) -> Result<usize, Problem> {
        let foreign = |controller| Problem::ForeignInterrupt { controller };
        let entry = self.entry(index).ok_or_else(|| foreign(String::new()))?;
        let cells = entry.cell("#interrupt-cells").unwrap_or(0);
        if !entry.is_compatible(&GICS) || cells < 3 {
            return Err(foreign(entry.path.clone()));
        }
        usize::try_from(cells).map_err(|_| foreign(entry.path.clone()))
    }

    /// The clocks of a node, which must be fixed ones, or run as firmware has left them.
    fn clocks(&self, entry: &Entry<'_>) -> Result<Vec<Clock>, Problem> {
        let value = entry.value("clocks").unwrap_or_default();
        let all = cells(&value);
        let mut rest = all.as_slice();
        let mut clocks = Vec::new();
        while let Some((handle, behind)) = rest.split_first() {
            let index = self.by_phandle(*handle);
            let clock = index.and_then(|index| self.entry(index));
            let unknown = || Problem::Clock {
                clock: clock.map(|clock| clock.path.clone()).unwrap_or_default(),
                users: index.map_or(0, |index| self.clock_users(index)),
            };
            let clock = clock.ok_or_else(unknown)?;
            let count = clock.cell("#clock-cells").unwrap_or(0);
            let count = usize::try_from(count).map_err(|_| unknown())?;
            let (own, behind) = behind.split_at_checked(count).ok_or_else(unknown)?;
            let (hz, firmware) = match own {
                [] if clock.is_compatible(&["fixed-clock"]) => {
                    (clock.cell("clock-frequency"), None)
                }
                [number] => {
                    let hz = firmware_clock(|names| clock.is_compatible(names), *number);
                    (hz, Some(*number))
                }
                _ => (None, None),
            };
            let hz = hz.ok_or_else(unknown)?;
            clocks.push(Clock { hz, firmware });
            rest = behind;
        }
        Ok(clocks)
    }
}

impl BoardTree<'_> {
    /// Whether nobody uses what a node describes, and it can do no harm in the hands of who has its page:
    /// the tree says that it is not there, and it is no bus master.
    pub(crate) fn is_idle(&self, index: usize) -> bool {
        let harmless = |entry: &Entry<'_>| entry.is_compatible(&NO_MASTERS);
        self.entry(index).is_some_and(harmless) && !self.upwards(index).all(Entry::is_enabled)
    }

    /// How many enabled nodes have clocks of clock controller `index`.
    fn clock_users(&self, index: usize) -> usize {
        let handle = self.entry(index).and_then(|entry| entry.cell("phandle"));
        let uses = |entry: &Entry<'_>| {
            let clocks = entry.value("clocks").unwrap_or_default();
            entry.is_enabled() && handle.is_some_and(|handle| cells(&clocks).contains(&handle))
        };
        self.entries().filter(|(_, entry)| uses(entry)).count()
    }

    /// The nodes whose pins a pin controller sets: those that name a node below it in a `pinctrl-N`.
    pub(crate) fn pin_users(&self, controller: usize) -> Vec<usize> {
        let below = |handle: &u32| {
            let group = self.by_phandle(*handle);
            group.is_some_and(|group| {
                let mut above = self.upwards(group).skip(1);
                above.any(|entry| self.is_at(entry, controller))
            })
        };
        let uses = |entry: &Entry<'_>| {
            let names = entry.names().filter(|name| is_pins(name));
            entry.is_enabled()
                && names
                    .filter_map(|name| entry.value(&name))
                    .any(|value| cells(&value).iter().any(below))
        };
        let all = self.entries();
        all.filter(|(index, entry)| *index != controller && uses(entry))
            .map(|(index, _)| index)
            .collect()
    }

    fn is_at(&self, entry: &Entry<'_>, index: usize) -> bool {
        self.entry(index).is_some_and(|own| own.path == entry.path)
    }
}

/// Whether a property is a list of pin settings: `pinctrl-` and a number.
fn is_pins(name: &str) -> bool {
    let number = name.strip_prefix("pinctrl-");
    number.is_some_and(|number| number.parse::<u8>().is_ok())
}

/// An interrupt as a GIC's specifier names it (Linux, bindings of `arm,gic.yaml`).
fn interrupt(cells: &[u32]) -> Result<Interrupt, Problem> {
    match *cells {
        [0, number, flags, ..] if number < 988 => Ok(Interrupt {
            intid: number.saturating_add(32),
            edge: flags & 3 != 0,
        }),
        _ => Err(Problem::PrivateInterrupt),
    }
}
