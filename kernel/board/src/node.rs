//! A node with the properties that matter here, and the path that leads to it.

use crate::ranges::Range;
use crate::tree::word;

/// Numbers of 32-bit cells in a `reg` or `ranges` property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cells {
    pub(crate) address: usize,
    pub(crate) size: usize,
}

/// A name of at most 23 bytes, filled up with zero bytes: tables of names need no pointers.
pub(crate) type Name = [u8; 24];

/// A name that is known when this is compiled.
pub(crate) const fn name(text: &str) -> Name {
    let mut name = [0; 24];
    let (own, _) = name.split_at_mut(text.len());
    own.copy_from_slice(text.as_bytes());
    name
}

/// The value that stands in a table beside the name that `strings` begin with, up to their first zero byte or their end.
pub(crate) fn lookup<T: Copy>(table: &[(Name, T)], strings: &[u8]) -> Option<T> {
    // Most names differ in their first byte: to compare that is cheaper than to look for the end of `strings`.
    let first = *strings.first()?;
    let mut alike = table.iter().filter(|([own, ..], _)| *own == first);
    let found = alike.find(|(name, _)| is(name, strings));
    found.map(|&(_, value)| value)
}

/// Whether `strings` begin with this name.
fn is(name: &Name, strings: &[u8]) -> bool {
    for (own, byte) in name.iter().zip(strings) {
        if own != byte {
            return false;
        }
        if *own == 0 {
            return true;
        }
    }
    name.get(strings.len()) == Some(&0)
}

/// Properties that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    AddressCells,
    SizeCells,
    Regions,
    Compatible,
    Release,
    DeviceType,
    EnableMethod,
    Interrupts,
    InitrdEnd,
    InitrdStart,
    Method,
    Ranges,
    Reg,
    Status,
    Stdout,
}

const PROPERTIES: [(Name, Property); 15] = [
    (name("reg"), Property::Reg),
    (name("compatible"), Property::Compatible),
    (name("interrupts"), Property::Interrupts),
    (name("status"), Property::Status),
    (name("ranges"), Property::Ranges),
    (name("device_type"), Property::DeviceType),
    (name("enable-method"), Property::EnableMethod),
    (name("cpu-release-addr"), Property::Release),
    (name("#address-cells"), Property::AddressCells),
    (name("#size-cells"), Property::SizeCells),
    (name("#redistributor-regions"), Property::Regions),
    (name("linux,initrd-start"), Property::InitrdStart),
    (name("linux,initrd-end"), Property::InitrdEnd),
    (name("method"), Property::Method),
    (name("stdout-path"), Property::Stdout),
];

/// A node with the properties that matter here, raw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Node<'t> {
    pub(crate) name: &'t [u8],
    values: [Option<&'t [u8]>; PROPERTIES.len()],
}

/// Deepest node that is looked at; the root has depth 0. What EL2 needs lies at 3 or above.
pub(crate) const MAX_DEPTH: usize = 4;

/// The node that is being read and the nodes around it, the root first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Path<'t> {
    pub(crate) names: [&'t [u8]; MAX_DEPTH],
    buses: [Bus<'t>; MAX_DEPTH],
}

/// How the addresses of a node's children are written and translated.
#[derive(Clone, Copy, Debug, Default)]
struct Bus<'t> {
    cells: Option<Cells>,
    ranges: Option<&'t [u8]>,
}

/// A number of `count` cells, at most 2, at a cell's index.
pub(crate) fn number(bytes: &[u8], index: usize, count: usize) -> Option<u64> {
    let cell = |index: usize| word(bytes, index.checked_mul(4)?).map(u64::from);
    match count {
        0 => Some(0),
        1 => cell(index),
        2 => Some(cell(index)? << 32 | cell(index.checked_add(1)?)?),
        _ => None,
    }
}

/// A number that takes the whole of a property.
pub(crate) fn whole(value: Option<&[u8]>) -> Option<u64> {
    value.and_then(|value| number(value, 0, value.len() / 4))
}

/// A property of one cell.
pub(crate) fn small(value: Option<&[u8]>, default: usize) -> usize {
    let value = value.and_then(|value| word(value, 0));
    value.map_or(default, |value| {
        usize::try_from(value).unwrap_or(usize::MAX)
    })
}

/// The strings of a property.
pub(crate) fn strings(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == 0)
        .filter(|string| !string.is_empty())
}

impl<'t> Node<'t> {
    pub(crate) fn new(name: &'t [u8]) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// Keeps a property, whose name `strings` begin with, if it matters.
    pub(crate) fn keep(&mut self, strings: &[u8], value: &'t [u8]) {
        let property = lookup(&PROPERTIES, strings);
        let slot = property.and_then(|property| self.values.get_mut(property as usize));
        if let Some(slot) = slot {
            *slot = Some(value);
        }
    }

    /// A property's value.
    pub(crate) fn get(&self, property: Property) -> Option<&'t [u8]> {
        self.values.get(property as usize).copied().flatten()
    }

    /// A property's value; nothing if it is not there.
    pub(crate) fn bytes(&self, property: Property) -> &'t [u8] {
        self.get(property).unwrap_or_default()
    }

    /// Sizes of the cells in its children's `reg`.
    pub(crate) fn cells(&self) -> Cells {
        Cells {
            address: small(self.get(Property::AddressCells), 2),
            size: small(self.get(Property::SizeCells), 1),
        }
    }

    pub(crate) fn enabled(&self) -> bool {
        self.get(Property::Status)
            .is_none_or(|status| status.starts_with(b"ok"))
    }

    /// The shared interrupt that entry 0 of its `interrupts` names, in a GIC's three cells.
    pub(crate) fn spi(&self) -> Option<u32> {
        // Type 0 is an SPI, numbered from 32.
        let kind = word(self.bytes(Property::Interrupts), 0)?;
        let number = word(self.bytes(Property::Interrupts), 4)?;
        (kind == 0 && number < 988).then(|| number.wrapping_add(32))
    }

    /// The private interrupt that an entry of its `interrupts` names, in a GIC's three cells.
    pub(crate) fn ppi(&self, entry: usize) -> Option<u32> {
        let at = entry.checked_mul(12)?;
        let number = word(self.bytes(Property::Interrupts), at.checked_add(4)?)?;
        (word(self.bytes(Property::Interrupts), at)? == 1 && number < 16)
            .then(|| number.wrapping_add(16))
    }
}

impl<'t> Path<'t> {
    /// Notes a node at `depth`, when its properties are known.
    pub(crate) fn enter(&mut self, depth: usize, node: &Node<'t>) {
        if let (Some(name), Some(bus)) = (self.names.get_mut(depth), self.buses.get_mut(depth)) {
            *name = node.name;
            *bus = Bus {
                cells: Some(node.cells()),
                ranges: node.get(Property::Ranges),
            };
        }
    }

    /// Sizes of the cells in the `reg` of a node at `depth`.
    pub(crate) fn cells(&self, depth: usize) -> Option<Cells> {
        self.buses.get(depth.checked_sub(1)?)?.cells
    }

    /// Entry `n` of the `reg` of a node at `depth`, as its parent's bus numbers it.
    pub(crate) fn reg(&self, depth: usize, node: &Node<'_>, n: usize) -> Option<Range> {
        let Cells { address, size } = self.cells(depth)?;
        let at = n.checked_mul(address.checked_add(size)?)?;
        let reg = node.bytes(Property::Reg);
        let base = number(reg, at, address)?;
        Range::new(base, number(reg, at.checked_add(address)?, size)?)
    }

    /// All entries of its `reg`.
    pub(crate) fn regs(&self, depth: usize, node: &Node<'_>) -> impl Iterator<Item = Range> {
        (0..node.bytes(Property::Reg).len()).map_while(move |n| self.reg(depth, node, n))
    }

    /// Entry `n` of its `reg` as the cores see it: through the `ranges` of every bus above it.
    pub(crate) fn registers(&self, depth: usize, node: &Node<'_>, n: usize) -> Option<Range> {
        let mut range = self.reg(depth, node, n)?;
        for level in (1..depth).rev() {
            range = self.translate(level, range)?;
        }
        Some(range)
    }

    /// Translates an address on the bus at `level` to one on its parent's.
    fn translate(&self, level: usize, range: Range) -> Option<Range> {
        let bus = self.buses.get(level)?;
        let (own, parent) = (bus.cells?, self.cells(level)?);
        let ranges = bus.ranges?;
        if ranges.is_empty() {
            return Some(range);
        }
        let entry = own
            .address
            .checked_add(parent.address)?
            .checked_add(own.size)?;
        (0..ranges.len())
            .map_while(|n| {
                let at = n.checked_mul(entry)?;
                let child = number(ranges, at, own.address)?;
                let target_at = at.checked_add(own.address)?;
                let target = number(ranges, target_at, parent.address)?;
                let bytes = number(ranges, target_at.checked_add(parent.address)?, own.size)?;
                Some((Range::new(child, bytes)?, target))
            })
            .find(|(window, _)| window.contains(range))
            .and_then(|(window, target)| {
                let offset = range.base.wrapping_sub(window.base);
                Range::new(target.checked_add(offset)?, range.bytes())
            })
    }
}

/// Whether a path as stdout-path has it, "/soc/serial@7e215040" for example, leads to the node at
/// `depth` with these names from the root on. A name without unit address stands for any.
pub(crate) fn leads_to(path: &[u8], names: &[&[u8]], depth: usize) -> bool {
    let mut parts = path.split(|&byte| byte == b'/').skip(1);
    let same = |name: &[u8], part: &[u8]| {
        let rest = name.strip_prefix(part);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"@"))
    };
    let mut own = names.iter().take(depth.saturating_add(1)).skip(1);
    own.all(|name| parts.next().is_some_and(|part| same(name, part))) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_where_the_strings_end_or_have_a_zero_byte() {
        let found = |strings: &[u8]| lookup(&PROPERTIES, strings);
        assert_eq!(found(b"reg\0status\0"), Some(Property::Reg));
        assert_eq!(found(b"reg"), Some(Property::Reg));
        assert_eq!(found(b"regulator\0"), None);
        assert_eq!(found(b"re\0"), None);
        assert_eq!(found(b"\0reg\0"), None);
        assert_eq!(found(b""), None);
        assert_eq!(found(b"#redistributor-regions\0"), Some(Property::Regions));
    }
}
