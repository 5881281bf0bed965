//! The walk that hardware would do with empty caches, through the real tables.
//!
//! Arm ARM DDI 0487 L.b, D8.2 "Translation process". The 4 KiB granule only.

use crate::regime::Regime;

/// Address bits of a descriptor.
pub(crate) const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const CONTIGUOUS: u64 = 1 << 52;
/// Bits that must be equal for hardware to merge neighbours: all but the output address and the
/// software-defined bits.
const MERGE_ATTRIBUTES: u64 = !(ADDRESS | 0xf << 55);

/// Physical memory as the walker sees it.
pub trait Memory {
    /// The aligned doubleword at a physical address; `None` if it is no RAM.
    fn read(&self, pa: u64) -> Option<u64>;
}

/// Why a walk has no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkFault {
    /// A descriptor is invalid: the access that led here cannot have succeeded with these tables.
    Invalid,
    /// A table lies outside RAM.
    NoMemory,
    /// The granule is not 4 KiB.
    Granule,
}

/// One address through stage 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage2Step {
    /// log2 of the bytes that the leaf maps.
    pub log2: u8,
    /// The leaf has the Contiguous bit.
    pub contiguous: bool,
    /// The leaf and its three neighbours can be merged.
    pub mergeable: bool,
    /// Descriptors that an uncached walk reads.
    pub levels: u8,
}

/// A stage-2 walk and where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage2Walk {
    /// What it is made of.
    pub step: Stage2Step,
    /// The output address.
    pub pa: u64,
}

/// The leaf of stage 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// The IPA of the address that was asked for.
    pub ipa: u64,
    /// The physical address; differs from the IPA under stage 2.
    pub pa: u64,
    /// log2 of the bytes that the leaf maps.
    pub log2: u8,
    /// The leaf has the Contiguous bit.
    pub contiguous: bool,
    /// The leaf and its three neighbours can be merged.
    pub mergeable: bool,
    /// The entry is global (nG = 0).
    pub global: bool,
    /// EL0 or EL1 may write (AP\[2\] = 0).
    pub writable: bool,
    /// Bits 58:55, which hardware ignores.
    pub software: u8,
}

/// A walk of both stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// IPAs of the stage-1 descriptors, from the root on; `depth` of them.
    pub descriptors: [u64; 4],
    /// Stage-1 descriptors that are read; 0 where stage 1 is off.
    pub depth: usize,
    /// Level of the first.
    pub start_level: u8,
    /// Stage 2 of each descriptor, where stage 2 is on.
    pub tables: [Stage2Step; 4],
    /// The leaf.
    pub leaf: Leaf,
    /// Stage 2 of the output, where stage 2 is on.
    pub output: Option<Stage2Step>,
}

impl Path {
    /// Level of the leaf (meaningless where stage 1 is off).
    #[must_use]
    pub fn leaf_level(&self) -> u8 {
        self.start_level + u8::try_from(self.depth).unwrap_or(0).saturating_sub(1)
    }
}

fn shift(level: u8) -> u8 {
    39 - 9 * level.min(3)
}

fn offset(address: u64, log2: u8) -> u64 {
    address & ((1 << log2) - 1)
}

/// Whether the page descriptor at `pa` is one of four that map 16 KiB in one piece.
fn mergeable(memory: &impl Memory, pa: u64) -> bool {
    let start = pa & !0x1f;
    let read = |index: u64| memory.read(start + 8 * index);
    let Some(first) = read(0) else { return false };
    first & 3 == 3
        && offset(first & ADDRESS, 14) == 0
        && (1..4).all(|index| {
            read(index).is_some_and(|desc| {
                desc & ADDRESS == (first & ADDRESS) + 0x1000 * index
                    && (desc ^ first) & MERGE_ATTRIBUTES == 0
            })
        })
}

/// Walks stage 2 for `ipa`. Without stage 2 the address is its own translation.
///
/// # Errors
/// See [`WalkFault`].
pub fn walk_stage2(
    regime: &Regime,
    ipa: u64,
    memory: &impl Memory,
) -> Result<Stage2Walk, WalkFault> {
    if !regime.stage2() {
        let step = Stage2Step::default();
        return Ok(Stage2Walk { step, pa: ipa });
    }
    if regime.vtcr >> 14 & 3 != 0 {
        return Err(WalkFault::Granule);
    }
    let start = regime.stage2_start();
    let mut table = regime.vttbr & 0x0000_ffff_ffff_fffe;
    for level in start..=3_u8 {
        let index = ipa >> shift(level);
        // Concatenated tables give the first level more than nine bits.
        let index = if level == start { index } else { index & 0x1ff };
        let pa = table + 8 * index;
        let desc = memory.read(pa).ok_or(WalkFault::NoMemory)?;
        match (desc & 3, level) {
            (3, 0..=2) => table = desc & ADDRESS,
            (1, 1 | 2) | (3, 3) => {
                let log2 = shift(level);
                let base = desc & ADDRESS & !((1 << log2) - 1);
                let step = Stage2Step {
                    log2,
                    contiguous: desc & CONTIGUOUS != 0,
                    mergeable: level == 3 && mergeable(memory, pa),
                    levels: level - start + 1,
                };
                let pa = base | offset(ipa, log2);
                return Ok(Stage2Walk { step, pa });
            }
            _ => return Err(WalkFault::Invalid),
        }
    }
    Err(WalkFault::Invalid)
}

/// Walks both stages for `va`.
///
/// # Errors
/// See [`WalkFault`].
pub fn walk(regime: &Regime, va: u64, memory: &impl Memory) -> Result<Path, WalkFault> {
    let mut path = Path::default();
    if !regime.stage1() {
        path.leaf = Leaf {
            ipa: va,
            pa: va,
            log2: 30,
            global: true,
            writable: true,
            ..Leaf::default()
        };
        return finish(regime, path, memory);
    }
    let upper = va >> 55 & 1 != 0;
    let granule = if upper {
        regime.tcr >> 30 & 3 == 2
    } else {
        regime.tcr >> 14 & 3 == 0
    };
    if !granule {
        return Err(WalkFault::Granule);
    }
    let bits = regime.va_bits(upper).clamp(25, 48);
    let start = u8::try_from((48 - bits) / 9).unwrap_or(0);
    let address = va & ((1 << bits) - 1);
    let [ttbr0, ttbr1] = regime.ttbr;
    let mut table = if upper { ttbr1 } else { ttbr0 } & 0x0000_ffff_ffff_fffe;
    path.start_level = start;
    for level in start..=3 {
        let ipa = table + 8 * (address >> shift(level) & 0x1ff);
        let walk = walk_stage2(regime, ipa, memory)?;
        if let Some(slot) = path.descriptors.get_mut(path.depth) {
            *slot = ipa;
        }
        if let Some(slot) = path.tables.get_mut(path.depth) {
            *slot = walk.step;
        }
        path.depth += 1;
        let desc = memory.read(walk.pa).ok_or(WalkFault::NoMemory)?;
        match (desc & 3, level) {
            (3, 0..=2) => table = desc & ADDRESS,
            (1, 1 | 2) | (3, 3) => {
                path.leaf = leaf(desc, level, address);
                path.leaf.mergeable = level == 3 && mergeable(memory, walk.pa);
                return finish(regime, path, memory);
            }
            _ => return Err(WalkFault::Invalid),
        }
    }
    Err(WalkFault::Invalid)
}

fn leaf(desc: u64, level: u8, address: u64) -> Leaf {
    let log2 = shift(level);
    let ipa = desc & ADDRESS & !((1 << log2) - 1) | offset(address, log2);
    Leaf {
        ipa,
        pa: ipa,
        log2,
        contiguous: desc & CONTIGUOUS != 0,
        mergeable: false,
        global: desc & 1 << 11 == 0,
        writable: desc & 1 << 7 == 0,
        software: u8::try_from(desc >> 55 & 0xf).unwrap_or(0),
    }
}

/// Takes the output through stage 2.
fn finish(regime: &Regime, mut path: Path, memory: &impl Memory) -> Result<Path, WalkFault> {
    if regime.stage2() {
        let walk = walk_stage2(regime, path.leaf.ipa, memory)?;
        path.leaf.pa = walk.pa;
        path.output = Some(walk.step);
    }
    Ok(path)
}
