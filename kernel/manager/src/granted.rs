//! The devices of a guest: checked with the tree of the board that the manager runs on, whatever the
//! bundle says, and made ready for the guest's own tree.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::Node;
use dtoolkit::model::DeviceTreeNode;
use penumbra_bundle::{Backing, Guest};
use penumbra_devices::node::{References, copy, with_bus};
use penumbra_devices::{BoardTree, Clock, Device, Finding, Range, Wishes, check};

use crate::hypervisor::Hypervisor;
use crate::manager::Manager;
use crate::map::{EMULATED, FIRST_SPI, RAM_IPA, Region, UART_INTID, WATCHDOG_INTID};
use crate::plan::{Content, Plan};
use crate::refusal::{Cause, Refusal};
use crate::tree::FIRST_DEVICE_CLOCK_PHANDLE;

/// First INTID that a guest's controller does not have.
const SPI_END: u32 = 224;

/// A device that a guest gets.
#[derive(Clone, Debug)]
pub struct Granted {
    /// What it is.
    pub device: Device,
    /// The guest's INTID of each of its interrupts.
    pub intids: Vec<u32>,
    /// Name of its node in the guest's tree.
    pub node: String,
}

/// All that a guest gets of the board.
#[derive(Clone, Debug, Default)]
pub struct GrantedAll {
    /// Its devices.
    pub devices: Vec<Granted>,
    /// Frequencies of the clocks that they need, each once.
    pub clocks: Vec<u32>,
    /// Their nodes for its tree.
    pub nodes: Vec<DeviceTreeNode>,
}

impl GrantedAll {
    fn new(tree: &BoardTree<'_>, devices: Vec<Device>) -> Self {
        let mut all = Self::default();
        for device in devices {
            all.add(tree, device);
        }
        all
    }

    /// The places of its devices, for reports.
    pub(crate) fn regions(&self) -> impl Iterator<Item = Region> {
        self.devices.iter().flat_map(|granted| {
            granted.device.registers.iter().map(|range| Region {
                node: granted.node.clone(),
                ipa: range.base,
                bytes: range.bytes,
            })
        })
    }

    fn add(&mut self, tree: &BoardTree<'_>, device: Device) {
        let mut intids = Vec::new();
        for interrupt in &device.interrupts {
            intids.push(self.intid(interrupt.intid, &intids));
        }
        let mut clocks = Vec::new();
        for clock in &device.clocks {
            let known = self.clocks.iter().position(|hz| *hz == clock.hz);
            let number = known.unwrap_or(self.clocks.len());
            if known.is_none() {
                self.clocks.push(clock.hz);
            }
            let number = u32::try_from(number).unwrap_or(0);
            clocks.push(FIRST_DEVICE_CLOCK_PHANDLE.saturating_add(number));
        }
        let names = References {
            interrupts: &intids,
            clocks: &clocks,
        };
        let copy = copy(tree, &device, &names);
        let node = copy.name().into();
        self.nodes.push(with_bus(&device, copy));
        self.devices.push(Granted {
            device,
            intids,
            node,
        });
    }

    /// The guest's INTID of a physical interrupt: the same number where the guest's controller has it
    /// and nothing else uses it, else the highest one that is free.
    fn intid(&self, physical: u32, own: &[u32]) -> u32 {
        let known = self.devices.iter().find_map(|granted| {
            let mut pairs = granted.device.interrupts.iter().zip(&granted.intids);
            pairs
                .find(|(i, _)| i.intid == physical)
                .map(|(_, intid)| *intid)
        });
        if let Some(intid) = known {
            return intid;
        }
        let used = |intid: &u32| {
            let mut others = self.devices.iter().flat_map(|granted| &granted.intids);
            [UART_INTID, WATCHDOG_INTID].contains(intid)
                || own.contains(intid)
                || others.any(|other| other == intid)
        };
        let same = Some(physical).filter(|intid| *intid < SPI_END && !used(intid));
        let free = || (FIRST_SPI..SPI_END).rev().find(|intid| !used(intid));
        same.or_else(free).unwrap_or(physical)
    }
}

/// First address of a guest's RAM.
#[must_use]
pub(crate) const fn ram_ipa(guest: &Guest<'_>) -> u64 {
    match guest.backing {
        Backing::Direct => guest.address,
        Backing::Reserved | Backing::Thin => RAM_IPA,
    }
}

/// Whether a guest gets anything of the board that others could want, too.
fn wants_any(guest: &Guest<'_>) -> bool {
    guest.backing == Backing::Direct || guest.devices.count() != 0
}

fn wishes<'a>(guest: &Guest<'a>) -> Wishes<'a> {
    Wishes {
        guest: guest.name,
        devices: guest.devices.map(|device| device.path).collect(),
        ram: Range {
            base: ram_ipa(guest),
            bytes: guest.memory_bytes,
        },
        direct: guest.backing == Backing::Direct,
        trusted: guest.dma_trusted,
        emulated: EMULATED,
    }
}

/// Takes the rate of a clock from the board's firmware, if that tells it.
fn ask_firmware<H: Hypervisor>(hv: &mut H, clock: &mut Clock) {
    let told = clock
        .firmware
        .and_then(|number| hv.board_clock(number).ok());
    if let Some(hz) = told.filter(|hz| *hz != 0) {
        clock.hz = hz;
    }
}

impl<'a> Manager<'a> {
    /// Lays a guest out, with its devices, and has its RAM set aside if that must be the board's at its
    /// address.
    pub(crate) fn make_plan<H: Hypervisor>(
        &self,
        hv: &mut H,
        index: usize,
    ) -> Result<Option<Plan<'a>>, Refusal<'a>> {
        let Some(slot) = self.slots.get(index) else {
            return Ok(None);
        };
        let (file, guest) = (self.manifest.file, slot.guest);
        let refuse = |cause| Refusal::new(file, &guest, cause);
        let granted = if wants_any(&guest) {
            self.grant(hv, index)?
        } else {
            GrantedAll::default()
        };
        let content = Content {
            bundle: &self.bundle,
            guest: &guest,
            board: &self.board,
        };
        let plan = Plan::new(&content, granted, &mut || hv.alive()).map_err(refuse)?;
        if guest.backing == Backing::Direct {
            let (base, bytes) = (guest.address, guest.memory_bytes);
            let aside = hv.ram_set_aside(base, bytes);
            aside.map_err(|_| refuse(Cause::Taken { base, bytes }))?;
        }
        Ok(Some(plan))
    }

    /// Checks what all guests wish against the board, and returns what guest `index` gets.
    fn grant<H: Hypervisor>(&self, hv: &mut H, index: usize) -> Result<GrantedAll, Refusal<'a>> {
        let file = self.manifest.file;
        let Some(slot) = self.slots.get(index) else {
            return Ok(GrantedAll::default());
        };
        let no_tree = || Refusal::new(file, &slot.guest, Cause::NoTree);
        let tree = BoardTree::parse(hv.board_tree()).ok_or_else(no_tree)?;
        let all: Vec<Wishes<'a>> = self.slots.iter().map(|slot| wishes(&slot.guest)).collect();
        match check(&tree, &all) {
            Ok(mut devices) => {
                let own = devices.get_mut(index).map(core::mem::take);
                let mut own = own.unwrap_or_default();
                for clock in own.iter_mut().flat_map(|device| &mut device.clocks) {
                    ask_firmware(hv, clock);
                }
                Ok(GrantedAll::new(&tree, own))
            }
            Err(mut findings) => {
                // What is wrong with this guest before what is wrong with another.
                findings.sort_by_key(|finding| finding.guest != index);
                let first = findings.into_iter().next().ok_or_else(no_tree)?;
                Err(self.refusal(first, slot.guest))
            }
        }
    }

    /// The refusal of what guest `own` or another wishes.
    fn refusal(&self, finding: Finding, own: Guest<'a>) -> Refusal<'a> {
        let file = self.manifest.file;
        let guest = self.slots.get(finding.guest).map_or(own, |slot| slot.guest);
        let named = finding.device.and_then(|n| {
            let mut devices = guest.devices;
            devices.nth(n)
        });
        let problem = Box::new(finding.problem);
        let cause = match named {
            Some(device) => Cause::Device {
                path: device.path,
                line: device.line,
                problem,
            },
            None => Cause::Address(problem),
        };
        Refusal::new(file, &guest, cause)
    }
}
