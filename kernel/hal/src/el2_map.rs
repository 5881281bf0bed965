//! EL2's own stage 1: VA = PA, 4 KiB granule, 39 bits from level 1, the last GiB apart.
//!
//! The image's sections are mapped by 4 KiB pages, writable or executable, never both; the guard
//! page below each stack is not mapped. All other RAM is mapped writable and never executable, by the
//! largest blocks, and devices as Device-nGnRE. An entry is written once, from invalid to valid, so
//! nothing here needs TLB maintenance (Arm ARM DDI 0487 L.b, D8.16 "TLB maintenance": a translation
//! that faults is not cached).
//!
//! Only the boot core maps, before the others start.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable};
use penumbra_abi::MAX_CPUS;
use penumbra_vmsa::{GIB, MIB, PAGE_SIZE};

use crate::image::{self, STACK_GUARD, STACK_STRIDE};
use crate::sysreg::{dsb_ishst, isb};

/// Table pages of EL2: the root, one for each GiB that is not one block, one for each 2 MiB in pages.
const TABLES: usize = 24;
/// Bits of address that EL2 maps.
pub const ADDRESS_BITS: u32 = 39;
/// End of what EL2 maps at its own address. Above it, the first GiB appears once more, page by page
/// as [`map_alias`] is asked for it.
pub const IDENTITY_END: u64 = (1 << ADDRESS_BITS) - GIB;
/// A device tree may have at most 2 MiB (Linux arm64 boot protocol).
pub(crate) const MAX_TREE_BYTES: u64 = 2 * MIB;

/// How a range is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Code: read-only, executable.
    Text,
    /// Read-only data.
    Rodata,
    /// RAM: writable, never executable.
    Ram,
    /// Device-nGnRE, writable, never executable.
    Device,
}

/// Why a range cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum MapError {
    /// The range is not made of pages that EL2 can map.
    BadRange,
    /// The fixed pool of tables is used up.
    OutOfTables,
}

/// What the assembly loads to turn the MMU on, and the tables. It is filled in with the caches off by
/// [`penumbra_early_map`], and lies in a section of its own that the assembly invalidates but does
/// not zero: every field is written before it is read.
#[repr(C)]
pub(crate) struct EarlyTables {
    pub(crate) ttbr0: AtomicU64,
    pub(crate) tcr: AtomicU64,
    pub(crate) mair: AtomicU64,
    pub(crate) sctlr: AtomicU64,
    /// Tables of the pool in use; the first is the root.
    used: AtomicUsize,
    pool: [Table; TABLES],
}

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

#[unsafe(no_mangle)]
#[unsafe(link_section = ".early")]
static penumbra_mmu: EarlyTables = EarlyTables {
    ttbr0: AtomicU64::new(0),
    tcr: AtomicU64::new(0),
    mair: AtomicU64::new(0),
    sctlr: AtomicU64::new(0),
    used: AtomicUsize::new(0),
    pool: [const { Table([const { AtomicU64::new(0) }; 512]) }; TABLES],
};

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTR_DEVICE: u64 = 0 << 2;
const ATTR_NORMAL: u64 = 1 << 2;
const AP_RES1: u64 = 1 << 6;
const AP_READ_ONLY: u64 = 1 << 7;
const SH_INNER: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const XN: u64 = 1 << 54;
const ADDRESS_MASK: u64 = 0x0000_ffff_ffff_f000;

/// MAIR_EL2: attribute 0 Device-nGnRE, attribute 1 Normal write-back.
const MAIR: u64 = 0x04 | 0xff << 8;

/// SCTLR_EL2: RES1 bits with M, C, SA, I and WXN.
const SCTLR: u64 = 0x30c5_0830 | 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;

impl Kind {
    const fn attributes(self) -> u64 {
        let common = VALID | ACCESSED | AP_RES1;
        match self {
            Self::Text => common | ATTR_NORMAL | SH_INNER | AP_READ_ONLY,
            Self::Rodata => common | ATTR_NORMAL | SH_INNER | AP_READ_ONLY | XN,
            Self::Ram => common | ATTR_NORMAL | SH_INNER | XN,
            Self::Device => common | ATTR_DEVICE | XN,
        }
    }
}

/// Takes a table of the pool, zeroed.
fn take_table() -> Result<&'static Table, MapError> {
    let used = penumbra_mmu.used.load(Ordering::Relaxed);
    let table = penumbra_mmu.pool.get(used).ok_or(MapError::OutOfTables)?;
    penumbra_mmu
        .used
        .store(used.wrapping_add(1), Ordering::Relaxed);
    // By eights, so that the loop costs little beside the stores; written out, for the crate is compiled for size.
    let (eights, []) = table.0.as_chunks::<8>() else {
        return Err(MapError::OutOfTables);
    };
    for [a, b, c, d, e, f, g, h] in eights {
        a.store(0, Ordering::Relaxed);
        b.store(0, Ordering::Relaxed);
        c.store(0, Ordering::Relaxed);
        d.store(0, Ordering::Relaxed);
        e.store(0, Ordering::Relaxed);
        f.store(0, Ordering::Relaxed);
        g.store(0, Ordering::Relaxed);
        h.store(0, Ordering::Relaxed);
    }
    Ok(table)
}

/// What an entry above level 3 holds.
enum Below {
    Nothing,
    Block,
    Table(&'static Table),
}

fn below(entry: &AtomicU64) -> Below {
    let value = entry.load(Ordering::Relaxed);
    if value & VALID == 0 {
        return Below::Nothing;
    }
    let base = penumbra_mmu.pool.as_ptr().addr() as u64;
    let offset = (value & ADDRESS_MASK).wrapping_sub(base);
    match penumbra_mmu.pool.get((offset / PAGE_SIZE) as usize) {
        Some(table) if value & TABLE_OR_PAGE != 0 => Below::Table(table),
        _ => Below::Block,
    }
}

/// The table under an entry, made if there is none; `None` under a block.
fn table_under(entry: &AtomicU64) -> Result<Option<&'static Table>, MapError> {
    match below(entry) {
        Below::Table(table) => Ok(Some(table)),
        Below::Block => Ok(None),
        Below::Nothing => {
            let table = take_table()?;
            let address = core::ptr::from_ref(table).addr() as u64;
            entry.store(address | VALID | TABLE_OR_PAGE, Ordering::Relaxed);
            Ok(Some(table))
        }
    }
}

/// The entry for `va` in a table whose entries cover `bytes` each, and the end of what it covers.
fn entry(table: &Table, va: u64, bytes: u64) -> Result<(&AtomicU64, u64), MapError> {
    let index = ((va / bytes) & 511) as usize;
    let entry = table.0.get(index).ok_or(MapError::BadRange)?;
    Ok((entry, (va | (bytes - 1)).wrapping_add(1)))
}

/// Fills in an entry if it holds nothing; returns whether it did.
fn set_leaf(entry: &AtomicU64, value: u64) -> bool {
    let free = entry.load(Ordering::Relaxed) & VALID == 0;
    if free {
        entry.store(value, Ordering::Relaxed);
    }
    free
}

/// Level 3, within 2 MiB.
fn map_pages(table: &Table, base: u64, end: u64, kind: Kind) {
    let first = ((base / PAGE_SIZE) & 511) as usize;
    let pages = (end.wrapping_sub(base) / PAGE_SIZE) as usize;
    let target = if base < IDENTITY_END {
        base
    } else {
        base.wrapping_sub(IDENTITY_END)
    };
    let mut leaf = target | kind.attributes() | TABLE_OR_PAGE;
    let Some(entries) = table.0.get(first..first.wrapping_add(pages)) else {
        return;
    };
    for entry in entries {
        set_leaf(entry, leaf);
        leaf = leaf.wrapping_add(PAGE_SIZE);
    }
}

/// Blocks of level 2 from `base`, which one can begin at, up to an entry that holds something or to where none fits
/// below `end`. Returns how far it came.
fn map_whole(table: &Table, base: u64, end: u64, kind: Kind) -> u64 {
    let first = ((base / (2 * MIB)) & 511) as usize;
    let blocks = (end.wrapping_sub(base) / (2 * MIB)) as usize;
    let Some(entries) = table.0.get(first..first.wrapping_add(blocks)) else {
        return base;
    };
    let mut leaf = base | kind.attributes();
    for entry in entries {
        if !set_leaf(entry, leaf) {
            break;
        }
        leaf = leaf.wrapping_add(2 * MIB);
    }
    leaf ^ kind.attributes()
}

/// Level 2, within 1 GiB: blocks where they fit and no pages are, else pages.
fn map_blocks(table: &Table, base: u64, end: u64, kind: Kind) -> Result<(), MapError> {
    let mut at = base;
    while at < end {
        if at & (2 * MIB - 1) == 0 {
            at = map_whole(table, at, end, kind);
        }
        if at < end {
            let (entry, next) = entry(table, at, 2 * MIB)?;
            if let Some(table) = table_under(entry)? {
                map_pages(table, at, next.min(end), kind);
            }
            at = next;
        }
    }
    Ok(())
}

/// Level 1: the root.
fn map_unchecked(base: u64, end: u64, kind: Kind) -> Result<(), MapError> {
    let root = penumbra_mmu.pool.first().ok_or(MapError::OutOfTables)?;
    let mut at = base;
    while at < end {
        let (entry, next) = entry(root, at, GIB)?;
        let whole = at & (GIB - 1) == 0 && next <= end;
        let done = whole && set_leaf(entry, at | kind.attributes());
        if !done && let Some(table) = table_under(entry)? {
            map_blocks(table, at, next.min(end), kind)?;
        }
        at = next;
    }
    Ok(())
}

/// Maps pages at their own address. What is mapped already stays as it is.
///
/// # Errors
/// The range is not made of pages below [`IDENTITY_END`], or the tables are used up.
pub(crate) fn map(base: u64, bytes: u64, kind: Kind) -> Result<(), MapError> {
    let end = base.checked_add(bytes).ok_or(MapError::BadRange)?;
    if (base | bytes) & (PAGE_SIZE - 1) != 0 || end > IDENTITY_END {
        return Err(MapError::BadRange);
    }
    map_unchecked(base, end, kind)?;
    dsb_ishst();
    isb();
    Ok(())
}

/// Maps a page of the first GiB at another address than its own, as Device memory: for a page that EL2
/// maps nowhere else, like page 0. Returns where.
///
/// # Errors
/// The page is not one of the first GiB, or the tables are used up.
pub(crate) fn map_alias(page: u64) -> Result<u64, MapError> {
    if page & (PAGE_SIZE - 1) != 0 || page >= GIB {
        return Err(MapError::BadRange);
    }
    let at = IDENTITY_END.wrapping_add(page);
    map_unchecked(at, at.wrapping_add(PAGE_SIZE), Kind::Device)?;
    dsb_ishst();
    isb();
    Ok(at)
}

/// Builds the map that the MMU is turned on with: the image and the device tree, of which `tree_bytes`
/// says the size as its header has it. Runs on the boot core with the MMU off, so it uses plain loads
/// and stores only.
#[unsafe(no_mangle)]
extern "C" fn penumbra_early_map(tree: u64, tree_bytes: u32) {
    let root = early_map(tree, u64::from(tree_bytes.swap_bytes()).min(MAX_TREE_BYTES));
    // Without a map the MMU stays off: the boot ends in an exception at once, and EL2's own line.
    penumbra_mmu
        .ttbr0
        .store(root.unwrap_or(0), Ordering::Relaxed);
    penumbra_mmu.tcr.store(tcr(), Ordering::Relaxed);
    penumbra_mmu.mair.store(MAIR, Ordering::Relaxed);
    penumbra_mmu.sctlr.store(SCTLR, Ordering::Relaxed);
}

fn early_map(tree: u64, tree_bytes: u64) -> Result<u64, MapError> {
    penumbra_mmu.used.store(0, Ordering::Relaxed);
    let root = core::ptr::from_ref(take_table()?).addr() as u64;
    let [start, text_end, rodata_end, stacks] = [
        image::start(),
        image::text_end(),
        image::rodata_end(),
        image::stacks_start(),
    ]
    .map(|address| address as u64);
    map_unchecked(start, text_end, Kind::Text)?;
    map_unchecked(text_end, rodata_end, Kind::Rodata)?;
    map_unchecked(rodata_end, stacks, Kind::Ram)?;
    for cpu in 0..MAX_CPUS as u64 {
        let slot = stacks.wrapping_add(cpu.wrapping_mul(STACK_STRIDE as u64));
        let (base, end) = (
            slot.wrapping_add(STACK_GUARD as u64),
            slot.wrapping_add(STACK_STRIDE as u64),
        );
        map_unchecked(base, end, Kind::Ram)?;
    }
    // Only the pages of the tree: what lies beside it may not be RAM.
    let first = tree & !(PAGE_SIZE - 1);
    let last = tree.checked_add(tree_bytes).ok_or(MapError::BadRange)?;
    let last = last
        .checked_next_multiple_of(PAGE_SIZE)
        .ok_or(MapError::BadRange)?;
    if last > IDENTITY_END {
        return Err(MapError::BadRange);
    }
    map_unchecked(first, last, Kind::Ram)?;
    Ok(root)
}

/// TCR_EL2: 39 bits, 4 KiB granule, walks write-back inner-shareable, and the core's PA size.
fn tcr() -> u64 {
    let res1 = 1 << 31 | 1 << 23;
    let walks = 1 << 8 | 1 << 10 | 3 << 12;
    // 52-bit addresses need another granule: 48 bits are enough for a 39-bit map.
    let physical_size = ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange).min(5);
    res1 | walks | u64::from(64 - ADDRESS_BITS) | physical_size << 16
}
