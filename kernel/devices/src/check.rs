//! Whether the guests of a scenario can have what they wish.

use alloc::string::String;
use alloc::vec::Vec;

use crate::{BoardTree, Device, Problem, Range};

/// What one guest wishes.
#[derive(Clone, Debug)]
pub struct Wishes<'a> {
    /// Name of the guest.
    pub guest: &'a str,
    /// Paths of devices.
    pub devices: Vec<&'a str>,
    /// RAM as the guest sees it.
    pub ram: Range,
    /// Its RAM lies where the board has it.
    pub direct: bool,
    /// It may have bus masters that no IOMMU holds.
    pub trusted: bool,
    /// Where its emulated devices are.
    pub emulated: Range,
}

/// What is wrong, and with whose wish.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Finding {
    /// Number of the guest.
    pub guest: usize,
    /// Number of the device in its list; `None`: it is about its RAM.
    pub device: Option<usize>,
    /// What is wrong.
    pub problem: Problem,
}

/// Checks the wishes of all guests. Returns the devices of each, or all that is wrong.
///
/// # Errors
/// The findings, at least one.
pub fn check(
    tree: &BoardTree<'_>,
    guests: &[Wishes<'_>],
) -> Result<Vec<Vec<Device>>, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut devices = Vec::new();
    for (number, wishes) in guests.iter().enumerate() {
        let mut find = |device, problem| {
            findings.push(Finding {
                guest: number,
                device,
                problem,
            });
        };
        if let Err(problem) = ram(tree, guests, number) {
            find(None, problem);
        }
        let mut own = Vec::new();
        for (n, path) in wishes.devices.iter().enumerate() {
            match tree.device(path) {
                Ok(device) => own.push(device),
                Err(problem) => find(Some(n), problem),
            }
            if wishes.devices.iter().take(n).any(|other| other == path) {
                find(Some(n), Problem::Twice);
            }
        }
        devices.push(own);
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    let all = Board {
        pages: pages(tree),
        tree,
        guests,
        devices: &devices,
    };
    for (number, own) in devices.iter().enumerate() {
        for (n, device) in own.iter().enumerate() {
            if let Err(problem) = all.one(number, device) {
                findings.push(Finding {
                    guest: number,
                    device: Some(n),
                    problem,
                });
            }
        }
    }
    if findings.is_empty() {
        Ok(devices)
    } else {
        Err(findings)
    }
}

/// The pages of every node that has registers, by the node's number.
fn pages(tree: &BoardTree<'_>) -> Vec<(usize, Range)> {
    let all = tree.entries().map(|(index, _)| index);
    all.filter_map(|index| Some((index, tree.registers(index).ok()?)))
        .flat_map(|(index, registers)| {
            registers
                .into_iter()
                .map(move |range| (index, range.pages()))
        })
        .collect()
}

struct Board<'a> {
    tree: &'a BoardTree<'a>,
    pages: Vec<(usize, Range)>,
    guests: &'a [Wishes<'a>],
    devices: &'a [Vec<Device>],
}

impl Board<'_> {
    /// The guest that has the device of node `index`.
    fn owner(&self, index: usize) -> Option<usize> {
        self.devices
            .iter()
            .position(|own| own.iter().any(|device| device.index == index))
    }

    fn name(&self, guest: usize) -> String {
        self.guests.get(guest).map_or("", |g| g.guest).into()
    }

    fn path(&self, index: usize) -> String {
        let entry = self.tree.entry(index);
        entry.map(|entry| entry.path.clone()).unwrap_or_default()
    }

    /// What is wrong with a device of guest `number`, seen with all others.
    fn one(&self, number: usize, device: &Device) -> Result<(), Problem> {
        let Some(guest) = self.guests.get(number) else {
            return Ok(());
        };
        if let Some(first) = self.owner(device.index).filter(|first| *first != number) {
            let other = self.name(first);
            return Err(Problem::TwoOwners { other });
        }
        if device.master && !(guest.direct && guest.trusted) {
            return Err(Problem::Dma {
                direct: guest.direct,
                kind: self.tree.kind(device.index),
            });
        }
        reach(device, guest.ram)?;
        let in_ram = |range: &&Range| range.pages().overlaps(guest.ram);
        if let Some(range) = device.registers.iter().find(in_ram) {
            return Err(Problem::OverlapsRam { base: range.base });
        }
        let emulated = |range: &&Range| range.pages().overlaps(guest.emulated);
        if let Some(range) = device.registers.iter().find(emulated) {
            return Err(Problem::Emulated {
                ram: false,
                base: range.base,
                emulated: guest.emulated,
            });
        }
        self.page(number, device)?;
        self.pins(number, device)?;
        self.interrupt(number, device)
    }

    /// Whether a pin controller would be in the hands of a guest that could take away what others use.
    fn pins(&self, number: usize, device: &Device) -> Result<(), Problem> {
        let trusted = self.guests.get(number).is_some_and(|guest| guest.trusted);
        for user in self.tree.pin_users(device.index) {
            let owner = self.owner(user).filter(|owner| *owner != number);
            let console = Some(user) == self.tree.console() && !trusted;
            if owner.is_some() || console {
                return Err(Problem::Pins {
                    device: self.path(user),
                    owner: owner.map(|owner| self.name(owner)),
                });
            }
        }
        Ok(())
    }

    /// Whether somebody else has something on one of the device's pages.
    fn page(&self, number: usize, device: &Device) -> Result<(), Problem> {
        for page in device.pages() {
            let foreign = |(index, other): &&(usize, Range)| {
                *index != device.index
                    && other.overlaps(page)
                    && self.owner(*index) != Some(number)
                    && !self.holds(*index, device.index)
                    && !self.tree.is_idle(*index)
            };
            let mut others: Vec<usize> = self.pages.iter().filter(foreign).map(|o| o.0).collect();
            others.dedup();
            let Some((first, rest)) = others.split_first() else {
                continue;
            };
            return Err(Problem::SharedPage {
                page: page.base,
                device: self.path(*first),
                more: rest.len(),
                owner: self.owner(*first).map(|owner| self.name(owner)),
            });
        }
        Ok(())
    }

    /// Whether node `outer` is above node `inner` or the other way round.
    fn holds(&self, outer: usize, inner: usize) -> bool {
        let (outer, inner) = (self.path(outer), self.path(inner));
        let within = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/'));
        within(&outer, &inner) || within(&inner, &outer)
    }

    fn interrupt(&self, number: usize, device: &Device) -> Result<(), Problem> {
        for own in self.devices.iter().take(number) {
            for other in own {
                let shared =
                    |i: &&crate::Interrupt| other.interrupts.iter().any(|o| o.intid == i.intid);
                if let Some(interrupt) = device.interrupts.iter().find(shared) {
                    return Err(Problem::SharedInterrupt {
                        intid: interrupt.intid,
                        device: other.path.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Whether a bus master reaches all of its guest's RAM.
fn reach(device: &Device, ram: Range) -> Result<(), Problem> {
    let mut windows = device.dma.iter().map(|window| window.reach());
    let Some(first) = windows.clone().max_by_key(|range| range.bytes) else {
        return Ok(());
    };
    match windows.any(|window| window.contains(ram)) {
        true => Ok(()),
        false => Err(Problem::Reach {
            base: first.base,
            end: first.end(),
        }),
    }
}

/// Whether a guest's RAM at its own address is the board's, and nobody else's, and not where the guest has
/// something else.
fn ram(tree: &BoardTree<'_>, guests: &[Wishes<'_>], number: usize) -> Result<(), Problem> {
    let Some(guest) = guests.get(number).filter(|guest| guest.direct) else {
        return Ok(());
    };
    let (base, end) = (guest.ram.base, guest.ram.end());
    if guest.ram.overlaps(guest.emulated) {
        return Err(Problem::Emulated {
            ram: true,
            base,
            emulated: guest.emulated,
        });
    }
    if !tree.ram().iter().any(|ram| ram.contains(guest.ram)) {
        return Err(Problem::OutsideRam { base, end });
    }
    let by = |who: &str| Problem::RamTaken {
        base,
        by: who.into(),
    };
    if tree
        .reserved()
        .iter()
        .any(|range| range.overlaps(guest.ram))
    {
        return Err(by("the board's reserved memory"));
    }
    let mut others = guests.iter().take(number).filter(|other| other.direct);
    match others.find(|other| other.ram.overlaps(guest.ram)) {
        Some(other) => Err(by(&alloc::format!("guest \"{}\"", other.guest))),
        None => Ok(()),
    }
}

/// The highest range of `bytes` in the board's RAM that lies in `within`, starts at a multiple of `align`
/// and overlaps nothing of `taken`.
#[must_use]
pub fn highest_free(
    tree: &BoardTree<'_>,
    within: Range,
    (bytes, align): (u64, u64),
    taken: &[Range],
) -> Option<Range> {
    let reserved = tree.reserved();
    for ram in tree.ram().into_iter().rev() {
        let ram = ram.common(within);
        let mut end = ram.end();
        while let Some(base) = end.checked_sub(bytes) {
            let base = base.checked_div(align)?.checked_mul(align)?;
            let range = Range { base, bytes };
            if !ram.contains(range) {
                break;
            }
            let mut obstacles = taken.iter().chain(&reserved);
            match obstacles.find(|other| other.overlaps(range)) {
                None => return Some(range),
                Some(other) => end = other.base,
            }
        }
    }
    None
}
