//! A node with the properties that matter here, and the path that leads to it.

use crate::ranges::Range;
use crate::tree::word;

/// Numbers of 32-bit cells in a `reg` or `ranges` property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cells {
    pub(crate) address: usize,
    pub(crate) size: usize,
}

/// The properties of a node that matter here, raw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Node<'t> {
    pub(crate) name: &'t [u8],
    pub(crate) address_cells: Option<&'t [u8]>,
    pub(crate) size_cells: Option<&'t [u8]>,
    pub(crate) compatible: &'t [u8],
    pub(crate) device_type: &'t [u8],
    pub(crate) enable_method: &'t [u8],
    pub(crate) initrd_end: Option<&'t [u8]>,
    pub(crate) initrd_start: Option<&'t [u8]>,
    pub(crate) interrupts: &'t [u8],
    pub(crate) method: &'t [u8],
    pub(crate) ranges: Option<&'t [u8]>,
    pub(crate) reg: &'t [u8],
    pub(crate) regions: Option<&'t [u8]>,
    pub(crate) release: Option<&'t [u8]>,
    pub(crate) status: Option<&'t [u8]>,
    pub(crate) stdout: &'t [u8],
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

    /// Keeps a property if it matters.
    pub(crate) fn keep(&mut self, name: &[u8], value: &'t [u8]) {
        match name {
            b"#address-cells" => self.address_cells = Some(value),
            b"#size-cells" => self.size_cells = Some(value),
            b"#redistributor-regions" => self.regions = Some(value),
            b"compatible" => self.compatible = value,
            b"cpu-release-addr" => self.release = Some(value),
            b"device_type" => self.device_type = value,
            b"enable-method" => self.enable_method = value,
            b"interrupts" => self.interrupts = value,
            b"linux,initrd-end" => self.initrd_end = Some(value),
            b"linux,initrd-start" => self.initrd_start = Some(value),
            b"method" => self.method = value,
            b"ranges" => self.ranges = Some(value),
            b"reg" => self.reg = value,
            b"status" => self.status = Some(value),
            b"stdout-path" => self.stdout = value,
            _ => {}
        }
    }

    /// Sizes of the cells in its children's `reg`.
    pub(crate) fn cells(&self) -> Cells {
        Cells {
            address: small(self.address_cells, 2),
            size: small(self.size_cells, 1),
        }
    }

    pub(crate) fn enabled(&self) -> bool {
        self.status.is_none_or(|status| status.starts_with(b"ok"))
    }

    /// The shared interrupt that entry 0 of its `interrupts` names, in a GIC's three cells.
    pub(crate) fn spi(&self) -> Option<u32> {
        // Type 0 is an SPI, numbered from 32.
        let kind = word(self.interrupts, 0)?;
        let number = word(self.interrupts, 4)?;
        (kind == 0 && number < 988).then(|| number.wrapping_add(32))
    }

    /// The private interrupt that an entry of its `interrupts` names, in a GIC's three cells.
    pub(crate) fn ppi(&self, entry: usize) -> Option<u32> {
        let at = entry.checked_mul(12)?;
        let number = word(self.interrupts, at.checked_add(4)?)?;
        (word(self.interrupts, at)? == 1 && number < 16).then(|| number.wrapping_add(16))
    }
}

impl<'t> Path<'t> {
    /// Notes a node at `depth`, when its properties are known.
    pub(crate) fn enter(&mut self, depth: usize, node: &Node<'t>) {
        if let (Some(name), Some(bus)) = (self.names.get_mut(depth), self.buses.get_mut(depth)) {
            *name = node.name;
            *bus = Bus {
                cells: Some(node.cells()),
                ranges: node.ranges,
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
        let base = number(node.reg, at, address)?;
        Range::new(base, number(node.reg, at.checked_add(address)?, size)?)
    }

    /// All entries of its `reg`.
    pub(crate) fn regs(&self, depth: usize, node: &Node<'_>) -> impl Iterator<Item = Range> {
        (0..node.reg.len()).map_while(move |n| self.reg(depth, node, n))
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
