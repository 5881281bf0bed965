//! The board's device tree (Devicetree Specification v0.4), as a list of nodes with their paths.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use crate::{Problem, Range};

/// Levels of nodes at most; deeper ones are not looked at.
const MAX_DEPTH: usize = 24;

/// A node, and where it hangs.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) path: String,
    pub(crate) node: FdtNode<'a>,
    /// Index of its parent; the root is its own.
    pub(crate) parent: usize,
}

impl Entry<'_> {
    /// A property, copied.
    pub(crate) fn value(&self, name: &str) -> Option<Vec<u8>> {
        self.node.property(name).map(|p| p.value().to_vec())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.node.property(name).is_some()
    }

    /// The names of its properties.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.node.properties().map(|p| p.name().to_string())
    }

    /// A property of one cell.
    pub(crate) fn cell(&self, name: &str) -> Option<u32> {
        cells(&self.value(name)?).first().copied()
    }

    /// The strings of a property.
    pub(crate) fn strings(&self, name: &str) -> Vec<String> {
        let value = self.value(name).unwrap_or_default();
        let parts = value
            .split(|byte| *byte == 0)
            .filter(|part| !part.is_empty());
        parts
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect()
    }

    pub(crate) fn is_compatible(&self, known: &[&str]) -> bool {
        let strings = self.strings("compatible");
        strings.iter().any(|own| known.contains(&own.as_str()))
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.strings("status")
            .first()
            .is_none_or(|status| status.starts_with("ok"))
    }

    /// Cells of addresses and of sizes of its children's registers.
    pub(crate) fn child_cells(&self) -> (usize, usize) {
        let number = |name, default| {
            let cell = self.cell(name).and_then(|cell| usize::try_from(cell).ok());
            cell.unwrap_or(default)
        };
        (number("#address-cells", 2), number("#size-cells", 1))
    }
}

/// The cells of a property.
pub(crate) fn cells(bytes: &[u8]) -> Vec<u32> {
    let (cells, _) = bytes.as_chunks::<4>();
    cells.iter().map(|cell| u32::from_be_bytes(*cell)).collect()
}

/// A number of one or two cells.
pub(crate) fn number(cells: &[u32]) -> Option<u64> {
    match *cells {
        [] => Some(0),
        [low] => Some(u64::from(low)),
        [high, low] => Some(u64::from(high) << 32 | u64::from(low)),
        _ => None,
    }
}

/// A board's device tree.
#[derive(Clone, Debug)]
pub struct BoardTree<'a> {
    entries: Vec<Entry<'a>>,
}

impl<'a> BoardTree<'a> {
    /// Reads a blob; `None` if it is damaged.
    #[must_use]
    pub fn parse(blob: &'a [u8]) -> Option<Self> {
        let fdt = Fdt::new(blob).ok()?;
        let mut tree = Self {
            entries: Vec::new(),
        };
        tree.collect(fdt.root(), String::from("/"), 0, 0);
        Some(tree)
    }

    fn collect(&mut self, node: FdtNode<'a>, path: String, parent: usize, depth: usize) {
        let own = self.entries.len();
        let below = if path == "/" {
            String::new()
        } else {
            path.clone()
        };
        self.entries.push(Entry { path, node, parent });
        if depth < MAX_DEPTH {
            for child in node.children() {
                let path = format!("{below}/{}", child.name());
                self.collect(child, path, own, depth.saturating_add(1));
            }
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, &Entry<'a>)> {
        self.entries.iter().enumerate()
    }

    pub(crate) fn entry(&self, index: usize) -> Option<&Entry<'a>> {
        self.entries.get(index)
    }

    /// The node with a path, or with an alias.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        if name.starts_with('/') {
            return self.entries.iter().position(|entry| entry.path == name);
        }
        let aliases = self.entries.iter().find(|e| e.path == "/aliases")?;
        let path = aliases.strings(name).into_iter().next()?;
        self.entries.iter().position(|entry| entry.path == path)
    }

    /// The paths that a scenario's word stands for: a path, an alias, or the beginning of paths and `*`.
    ///
    /// # Errors
    /// There is no such node; the nearest path is named.
    pub fn expand(&self, word: &str) -> Result<Vec<String>, Problem> {
        if let Some(beginning) = word.strip_suffix('*') {
            let inside = |entry: &&Entry<'_>| {
                let rest = entry.path.strip_prefix(beginning);
                rest.is_some_and(|rest| !rest.contains('/'))
            };
            let found: Vec<String> = self
                .entries
                .iter()
                .filter(inside)
                .map(|entry| entry.path.clone())
                .collect();
            if !found.is_empty() && beginning.len() > 1 {
                return Ok(found);
            }
        } else if let Some(entry) = self.find(word).and_then(|index| self.entry(index)) {
            return Ok([entry.path.clone()].into());
        }
        let near = self.nearest(word.trim_end_matches('*'));
        Err(Problem::Unknown { near })
    }

    /// The path of the device that has registers at an address, whether a guest could have it or not.
    #[must_use]
    pub fn device_at(&self, address: u64) -> Option<String> {
        let at = |index: usize| {
            let registers = self.registers(index).unwrap_or_default();
            registers
                .iter()
                .any(|range| (range.base..range.end()).contains(&address))
        };
        // The innermost node: a bus may name the whole range of its devices.
        let found = self.entries().filter(|(index, entry)| {
            entry
                .strings("device_type")
                .iter()
                .all(|kind| kind != "memory")
                && at(*index)
        });
        found.last().map(|(_, entry)| entry.path.clone())
    }

    /// The path or alias that is written most like `word`.
    fn nearest(&self, word: &str) -> Option<String> {
        let aliases = self.entries.iter().filter(|e| e.path == "/aliases");
        let aliases = aliases.flat_map(|e| {
            let names: Vec<String> = e.node.properties().map(|p| p.name().to_string()).collect();
            names
        });
        let paths = self.entries.iter().map(|entry| entry.path.clone());
        // The same node at another address, or the same address by another name, is nearer than what
        // only looks alike.
        let distance = |path: &str| {
            let (name, unit) = split(word);
            let (own, own_unit) = split(path);
            let whole = edits(word, path);
            if own == name || own_unit.is_some() && own_unit == unit {
                whole / 2
            } else {
                whole
            }
        };
        let limit = word.len() / 2;
        aliases
            .chain(paths.filter(|path| path != "/"))
            .map(|path| (distance(&path), path))
            .filter(|(distance, _)| *distance <= limit)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, path)| path)
    }

    /// RAM that the tree describes, in rising order.
    #[must_use]
    pub fn ram(&self) -> Vec<Range> {
        let memory = self.entries.iter().enumerate().filter(|(_, entry)| {
            entry
                .strings("device_type")
                .iter()
                .any(|kind| kind == "memory")
                && entry.is_enabled()
        });
        let mut ram: Vec<Range> = memory
            .filter_map(|(index, _)| self.registers(index).ok())
            .flatten()
            .collect();
        ram.sort();
        ram
    }

    /// RAM that the tree reserves for others.
    #[must_use]
    pub fn reserved(&self) -> Vec<Range> {
        let inside = |entry: &Entry<'_>| entry.path.starts_with("/reserved-memory/");
        let all = self.entries.iter().enumerate();
        all.filter(|(_, entry)| inside(entry))
            .filter_map(|(index, _)| self.registers(index).ok())
            .flatten()
            .collect()
    }

    /// The node whose `phandle` is `handle`.
    pub(crate) fn by_phandle(&self, handle: u32) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| entry.cell("phandle") == Some(handle))
    }

    /// The node and those above it, the root last.
    pub(crate) fn upwards(&self, index: usize) -> impl Iterator<Item = &Entry<'a>> {
        let mut next = Some(index);
        core::iter::from_fn(move || {
            let own = next?;
            let entry = self.entry(own)?;
            next = (own != 0).then_some(entry.parent);
            Some(entry)
        })
    }

    /// The registers of a node as the CPUs see them.
    pub(crate) fn registers(&self, index: usize) -> Result<Vec<Range>, Problem> {
        let entry = self.entry(index).ok_or(Problem::NoRegisters)?;
        let value = entry.value("reg").ok_or(Problem::NoRegisters)?;
        let parent = self.entry(entry.parent).ok_or(Problem::NoRegisters)?;
        let (address, size) = parent.child_cells();
        let all = cells(&value);
        let each = address.saturating_add(size);
        if each == 0 || size == 0 || address == 0 {
            return Err(Problem::NoRegisters);
        }
        let mut ranges = Vec::new();
        for one in all.chunks_exact(each) {
            let (base, bytes) = one.split_at_checked(address).ok_or(Problem::NoRegisters)?;
            let (base, bytes) = number(base).zip(number(bytes)).ok_or(Problem::NoAddress)?;
            if bytes != 0 {
                ranges.push(self.translate(entry.parent, Range { base, bytes })?);
            }
        }
        if ranges.is_empty() {
            return Err(Problem::NoRegisters);
        }
        Ok(ranges)
    }

    /// Takes a range of bus `bus` through the buses above it.
    fn translate(&self, mut bus: usize, mut range: Range) -> Result<Range, Problem> {
        while bus != 0 {
            let entry = self.entry(bus).ok_or(Problem::NoAddress)?;
            let above = self.entry(entry.parent).ok_or(Problem::NoAddress)?;
            let map = entry.value("ranges").ok_or(Problem::NoAddress)?;
            if !map.is_empty() {
                let ((child, size), (parent, _)) = (entry.child_cells(), above.child_cells());
                let map = Map::read(&cells(&map), (child, parent, size));
                range = map
                    .and_then(|map| map.through(range))
                    .ok_or(Problem::NoAddress)?;
            }
            bus = entry.parent;
        }
        Ok(range)
    }
}

/// A `ranges` or `dma-ranges`: addresses on a bus, the same above it, and bytes.
pub(crate) struct Map {
    pub(crate) windows: Vec<(u64, u64, u64)>,
}

impl Map {
    /// Reads the cells of such a property, with these numbers of cells for each part.
    pub(crate) fn read(map: &[u32], (child, parent, size): (usize, usize, usize)) -> Option<Self> {
        let each = child.checked_add(parent)?.checked_add(size)?;
        let windows = map.chunks_exact(each.max(1)).map(|one| {
            let (from, rest) = one.split_at_checked(child)?;
            let (to, bytes) = rest.split_at_checked(parent)?;
            Some((number(from)?, number(to)?, number(bytes)?))
        });
        Some(Self {
            windows: windows.collect::<Option<_>>()?,
        })
    }

    /// Takes a range through the bus.
    fn through(&self, range: Range) -> Option<Range> {
        self.windows.iter().find_map(|(base, above, bytes)| {
            let window = Range {
                base: *base,
                bytes: *bytes,
            };
            let offset = range.base.checked_sub(window.base)?;
            window.contains(range).then_some(())?;
            Some(Range {
                base: above.checked_add(offset)?,
                bytes: range.bytes,
            })
        })
    }
}

/// A path without its unit address, and the unit address.
fn split(path: &str) -> (&str, Option<&str>) {
    match path.rsplit_once('@') {
        Some((name, unit)) => (name, Some(unit)),
        None => (path, None),
    }
}

/// Insertions, deletions and exchanges that make one word the other.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        if let Some(first) = row.first_mut() {
            *first = i.saturating_add(1);
        }
        let mut left = i.saturating_add(1);
        for (slot, y) in row.iter_mut().skip(1).zip(&b) {
            let best = corner
                .saturating_add(usize::from(x != *y))
                .min(left.saturating_add(1))
                .min(slot.saturating_add(1));
            corner = core::mem::replace(slot, best);
            left = best;
        }
    }
    row.last().copied().unwrap_or(0)
}
