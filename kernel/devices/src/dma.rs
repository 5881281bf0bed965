//! The addresses that a bus master uses, by the `dma-ranges` of the buses above it (Devicetree
//! Specification v0.4, 2.3.9).

use alloc::vec::Vec;

use crate::tree::{BoardTree, Map, cells};
use crate::{Problem, Range};

/// RAM as a bus master reaches it: its own address for what the CPUs have elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaWindow {
    /// First address on the device's bus.
    pub bus: u64,
    /// First address for the CPUs.
    pub cpu: u64,
    /// Bytes, not zero.
    pub bytes: u64,
}

impl DmaWindow {
    /// The window as the CPUs see it.
    #[must_use]
    pub const fn reach(self) -> Range {
        Range {
            base: self.cpu,
            bytes: self.bytes,
        }
    }

    /// What is left of it behind a bus that maps `outer`, whose child addresses are this one's CPU
    /// addresses.
    fn behind(self, outer: Self) -> Option<Self> {
        let from = self.cpu.max(outer.bus);
        let end = self
            .reach()
            .end()
            .min(outer.bus.saturating_add(outer.bytes));
        let bytes = end.checked_sub(from).filter(|bytes| *bytes != 0)?;
        Some(Self {
            bus: self.bus.checked_add(from.checked_sub(self.cpu)?)?,
            cpu: outer.cpu.checked_add(from.checked_sub(outer.bus)?)?,
            bytes,
        })
    }
}

impl BoardTree<'_> {
    /// The windows of a bus master; none if it uses the CPUs' addresses for all of memory. A bus without
    /// `dma-ranges`, or with an empty one, changes no address.
    pub(crate) fn dma(&self, index: usize) -> Result<Vec<DmaWindow>, Problem> {
        let mut windows: Option<Vec<DmaWindow>> = None;
        let mut own = index;
        while let Some(entry) = self.entry(own).filter(|_| own != 0) {
            own = entry.parent;
            let Some(bus) = self.entry(own) else { break };
            let map = bus.value("dma-ranges").filter(|map| !map.is_empty());
            // The root has no bus above it.
            let Some(map) = map.filter(|_| own != 0) else {
                continue;
            };
            let broken = || Problem::DmaRanges {
                bus: bus.path.clone(),
            };
            let above = self.entry(bus.parent).ok_or_else(broken)?;
            let ((child, size), (parent, _)) = (bus.child_cells(), above.child_cells());
            let map = Map::read(&cells(&map), (child, parent, size)).ok_or_else(broken)?;
            let outer =
                map.windows
                    .into_iter()
                    .map(|(bus, cpu, bytes)| DmaWindow { bus, cpu, bytes });
            let next: Vec<DmaWindow> = match windows {
                None => outer.collect(),
                Some(inner) => {
                    let outer: Vec<DmaWindow> = outer.collect();
                    let pairs = inner
                        .iter()
                        .flat_map(|w| outer.iter().map(|o| w.behind(*o)));
                    pairs.flatten().collect()
                }
            };
            if next.is_empty() {
                return Err(broken());
            }
            windows = Some(next);
        }
        Ok(windows.unwrap_or_default())
    }

    /// The RAM that the bus master at a path reaches, as far as it lies in one piece; `None` if that is
    /// all of it, or the device is no bus master.
    #[must_use]
    pub fn reach(&self, path: &str) -> Option<Range> {
        let device = self.device(path).ok().filter(|device| device.master)?;
        let windows = device.dma.iter().map(|window| window.reach());
        windows.max_by_key(|range| range.bytes)
    }
}
