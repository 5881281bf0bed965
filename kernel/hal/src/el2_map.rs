//! EL2's own stage 1: VA = PA, 4 KiB granule, 39 bits from level 1.
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
const TABLES: usize = 32;
/// Bits of address that EL2 maps.
pub const ADDRESS_BITS: u32 = 39;
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
    /// The range is not made of pages below 2^39.
    BadRange,
    /// The fixed pool of tables is used up.
    OutOfTables,
}

/// What the assembly loads to turn the MMU on. Filled in by [`penumbra_early_map`], with the caches
/// off, and never changed.
#[repr(C)]
pub(crate) struct MmuConfig {
    pub(crate) ttbr0: AtomicU64,
    pub(crate) tcr: AtomicU64,
    pub(crate) mair: AtomicU64,
    pub(crate) sctlr: AtomicU64,
}

// SAFETY: the name is unique in the image.
#[unsafe(no_mangle)]
pub(crate) static penumbra_mmu: MmuConfig = MmuConfig {
    ttbr0: AtomicU64::new(0),
    tcr: AtomicU64::new(0),
    mair: AtomicU64::new(0),
    sctlr: AtomicU64::new(0),
};

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

static POOL: [Table; TABLES] = [const { Table([const { AtomicU64::new(0) }; 512]) }; TABLES];
/// Tables of [`POOL`] in use; the first is the root.
static USED: AtomicUsize = AtomicUsize::new(1);

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

/// The slot of `va` at `level` of the tree, and how many bytes it covers; makes the tables above it.
/// `None` if a block above covers `va` already.
fn slot(va: u64, level: u32) -> Result<Option<&'static AtomicU64>, MapError> {
    let mut table = &POOL[0];
    let mut at = 1;
    loop {
        let shift = 39 - 9 * at;
        let index = ((va >> shift) & 511) as usize;
        let Some(entry) = table.0.get(index) else {
            return Err(MapError::BadRange);
        };
        if at == level {
            return Ok(Some(entry));
        }
        let value = entry.load(Ordering::Relaxed);
        table = if value & VALID == 0 {
            let used = USED.load(Ordering::Relaxed);
            let next = POOL.get(used).ok_or(MapError::OutOfTables)?;
            USED.store(used + 1, Ordering::Relaxed);
            let address = core::ptr::from_ref(next).addr() as u64;
            entry.store(address | VALID | TABLE_OR_PAGE, Ordering::Relaxed);
            next
        } else if value & TABLE_OR_PAGE == 0 {
            return Ok(None);
        } else {
            let base = core::ptr::from_ref(&POOL).addr() as u64;
            let offset = (value & ADDRESS_MASK).wrapping_sub(base);
            POOL.get((offset / PAGE_SIZE) as usize)
                .ok_or(MapError::OutOfTables)?
        };
        at += 1;
    }
}

/// Whether the slot of `va` at `level` holds a table, without making any.
fn holds_table(va: u64, level: u32) -> bool {
    // The tables above exist whenever this is asked: the caller goes from the top.
    matches!(slot(va, level), Ok(Some(entry))
        if entry.load(Ordering::Relaxed) & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE)
}

fn map_unchecked(base: u64, end: u64, kind: Kind) -> Result<(), MapError> {
    let mut at = base;
    while at < end {
        let left = end - at;
        let (level, bytes) = if at % GIB == 0 && left >= GIB && !holds_table(at, 1) {
            (1, GIB)
        } else if at % (2 * MIB) == 0 && left >= 2 * MIB && !holds_table(at, 2) {
            (2, 2 * MIB)
        } else {
            (3, PAGE_SIZE)
        };
        if let Some(entry) = slot(at, level)?
            && entry.load(Ordering::Relaxed) & VALID == 0
        {
            let page = if level == 3 { TABLE_OR_PAGE } else { 0 };
            entry.store(at | kind.attributes() | page, Ordering::Relaxed);
        }
        at += bytes;
    }
    Ok(())
}

/// Maps pages at their own address. What is mapped already stays as it is.
///
/// # Errors
/// The range is not made of pages below 2^39, or the tables are used up.
pub(crate) fn map(base: u64, bytes: u64, kind: Kind) -> Result<(), MapError> {
    let end = base.checked_add(bytes).ok_or(MapError::BadRange)?;
    if (base | bytes) % PAGE_SIZE != 0 || end > 1 << ADDRESS_BITS {
        return Err(MapError::BadRange);
    }
    map_unchecked(base, end, kind)?;
    dsb_ishst();
    isb();
    Ok(())
}

/// Builds the map that the MMU is turned on with: the image and the device tree. Runs on the boot
/// core with the MMU off, so it uses plain loads and stores only.
#[unsafe(no_mangle)]
extern "C" fn penumbra_early_map(tree: u64, image: u64) {
    let start = image;
    let sections = [
        (start, image::text_end() as u64, Kind::Text),
        (
            image::text_end() as u64,
            image::rodata_end() as u64,
            Kind::Rodata,
        ),
        (
            image::rodata_end() as u64,
            image::stacks_start() as u64,
            Kind::Ram,
        ),
    ];
    let mut result = Ok(());
    for (base, end, kind) in sections {
        result = result.and(map_unchecked(base, end, kind));
    }
    for cpu in 0..MAX_CPUS {
        let slot = image::stacks_start() + cpu * STACK_STRIDE;
        let (base, end) = (slot + STACK_GUARD, slot + STACK_STRIDE);
        result = result.and(map_unchecked(base as u64, end as u64, Kind::Ram));
    }
    let block = 2 * MIB;
    let first = tree & !(block - 1);
    let last = tree.wrapping_add(MAX_TREE_BYTES).wrapping_add(block - 1) & !(block - 1);
    // The tree may end where RAM ends: a block beyond it is mapped but never touched.
    if last > first && last <= 1 << ADDRESS_BITS {
        result = result.and(map_unchecked(first, last, Kind::Ram));
    }
    let root = if result.is_ok() {
        core::ptr::from_ref(&POOL[0]).addr() as u64
    } else {
        0
    };
    penumbra_mmu.ttbr0.store(root, Ordering::Relaxed);
    penumbra_mmu.tcr.store(tcr(), Ordering::Relaxed);
    penumbra_mmu.mair.store(MAIR, Ordering::Relaxed);
    penumbra_mmu.sctlr.store(SCTLR, Ordering::Relaxed);
}

/// TCR_EL2: 39 bits, 4 KiB granule, walks write-back inner-shareable, and the core's PA size.
fn tcr() -> u64 {
    let res1 = 1 << 31 | 1 << 23;
    let walks = 1 << 8 | 1 << 10 | 3 << 12;
    // 52-bit addresses need another granule: 48 bits are enough for a 39-bit map.
    let physical_size = ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange).min(5);
    res1 | walks | u64::from(64 - ADDRESS_BITS) | physical_size << 16
}
