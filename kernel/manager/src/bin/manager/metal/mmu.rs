//! The manager's own stage 1: 4 KiB granule, 39-bit addresses, VA = IPA.
//!
//! The image starts on a boot table that maps the first GiB of RAM by one block. The final tables map
//! the image's sections by pages, writable or executable but never both, with nothing mapped below
//! the stacks; RAM behind the image, and the windows through which guests are loaded, writable and
//! never executable; bundle and device tree read-only and never executable. (Arm ARM DDI 0487 L.b,
//! D8.3 "Translation table descriptor formats".)

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use penumbra_abi::{MANAGER_RAM_IPA, MANAGER_WINDOW_BYTES, MANAGER_WINDOW_IPA};

use super::call::BootInfo;
use super::entry::SCTLR;

const PAGE_BYTES: u64 = 4 << 10;
const BLOCK_2M_BYTES: u64 = 2 << 20;
const BLOCK_1G_BYTES: u64 = 1 << 30;
const ENTRIES: usize = 512;

/// Attribute 0: Normal, write-back, read- and write-allocate, inner and outer.
pub(super) const MAIR: u64 = 0xff;

/// TCR_EL1: T0SZ 25, walks write-back and inner shareable, no TTBR1, 40-bit IPAs.
pub(super) const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 32;

const SCTLR_WXN: u64 = 1 << 19;

/// The final tables use this ASID and the boot table uses 0. All entries are non-global, so no TLB
/// can hold a block of one and a page of the other for the same address and ASID.
const FINAL_ASID: u64 = 1 << 48;

const TABLE: u64 = 0b11;
const PAGE: u64 = 0b11;
const BLOCK: u64 = 0b01;
/// Inner shareable, accessed, non-global, attribute 0, never executable at EL0.
const COMMON: u64 = 3 << 8 | 1 << 10 | 1 << 11 | 1 << 54;
const READ_ONLY: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 53;

/// Code.
const TEXT: u64 = COMMON | READ_ONLY;
/// Constants and what others lend read-only.
const CONSTANT: u64 = COMMON | READ_ONLY | NO_EXECUTE;
/// Data.
const DATA: u64 = COMMON | NO_EXECUTE;

#[repr(C, align(4096))]
pub(super) struct Table([AtomicU64; ENTRIES]);

impl Table {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; ENTRIES])
    }

    /// Fills the entry that covers `address`, where one entry covers `unit` bytes.
    fn set(&self, address: u64, unit: u64, value: u64) {
        if let Some(entry) = self.entries_from(address, unit).first() {
            entry.store(value, Ordering::Relaxed);
        }
    }

    /// Maps what lies in `start..end` and in this table at its own address, by leaves of `unit` bytes.
    fn map(&self, (start, end): (u64, u64), unit: u64, attributes: u64) {
        let mut at = start;
        for entry in self.entries_from(start, unit) {
            if at >= end {
                break;
            }
            entry.store(at | attributes, Ordering::Relaxed);
            at += unit;
        }
    }

    /// The entry that covers `address`, and those behind it.
    fn entries_from(&self, address: u64, unit: u64) -> &[AtomicU64] {
        let index = usize::try_from((address / unit) % ENTRIES as u64).unwrap_or(usize::MAX);
        self.0.get(index..).unwrap_or_default()
    }

    fn address(&self) -> u64 {
        core::ptr::from_ref(self).expose_provenance() as u64
    }
}

const _: () = assert!(
    MANAGER_RAM_IPA == BLOCK_1G_BYTES,
    "the boot table fills entry 1"
);

/// The boot table: level 1, only the GiB that RAM starts in, writable and executable for the few
/// instructions until [`enable`].
#[unsafe(link_section = ".data.boot_root")]
pub(super) static BOOT_ROOT: Table = {
    let mut table = Table::new();
    let [_, entry, ..] = &mut table.0;
    *entry = AtomicU64::new(MANAGER_RAM_IPA | COMMON | BLOCK);
    table
};

static ROOT: Table = Table::new();
static RAM_BLOCKS: Table = Table::new();
static IMAGE_PAGES: Table = Table::new();

// Addresses from manager.ld. Only the addresses of these exist.
unsafe extern "C" {
    static manager_text_end: u8;
    static manager_rodata_end: u8;
    static manager_data_end: u8;
    static manager_stack_start: u8;
    static manager_stack_end: u8;
    static manager_fault_stack_start: u8;
    static manager_fault_stack_end: u8;
    static manager_heap_start: u8;
}

/// First byte behind everything that the linker placed.
pub(super) fn heap_start() -> u64 {
    (&raw const manager_heap_start).expose_provenance() as u64
}

/// Builds the final tables and switches to them.
pub(super) fn enable(ram_bytes: u64, input: &BootInfo) {
    ROOT.set(
        MANAGER_RAM_IPA,
        BLOCK_1G_BYTES,
        RAM_BLOCKS.address() | TABLE,
    );
    RAM_BLOCKS.set(
        MANAGER_RAM_IPA,
        BLOCK_2M_BYTES,
        IMAGE_PAGES.address() | TABLE,
    );
    map_image();
    let behind = MANAGER_RAM_IPA + BLOCK_2M_BYTES;
    let ram_end = MANAGER_RAM_IPA.saturating_add(ram_bytes);
    RAM_BLOCKS.map((behind, ram_end), BLOCK_2M_BYTES, DATA | BLOCK);
    map_gibs(input.bundle_ipa, input.bundle_bytes, CONSTANT);
    map_gibs(input.tree_ipa, input.tree_bytes, CONSTANT);
    map_gibs(MANAGER_WINDOW_IPA, MANAGER_WINDOW_BYTES, DATA);
    let root = ROOT.address() | FINAL_ASID;
    // SAFETY:
    // 1. The final tables map everything that the boot table maps and the image uses, at the same
    //    addresses: text, data and the current stack.
    // 2. The stores to them are complete before the switch (DSB), and their entries have another
    //    ASID than the boot table's, so no stale or conflicting entry can be used.
    // 3. WXN only adds execute-never to what is writable; text is not.
    unsafe {
        asm!(
            "dsb ishst",
            "msr ttbr0_el1, {root}",
            "isb",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            "msr sctlr_el1, {sctlr}",
            "isb",
            root = in(reg) root,
            sctlr = in(reg) SCTLR | SCTLR_WXN,
            options(nostack, preserves_flags),
        );
    }
}

/// Maps the sections of the image and the rest of the first 2 MiB, page by page.
fn map_image() {
    let at = |symbol: *const u8| symbol.expose_provenance() as u64;
    let text_end = at(&raw const manager_text_end);
    let rodata_end = at(&raw const manager_rodata_end);
    let data_end = at(&raw const manager_data_end);
    let stack = (
        at(&raw const manager_stack_start),
        at(&raw const manager_stack_end),
    );
    let fault_stack = (
        at(&raw const manager_fault_stack_start),
        at(&raw const manager_fault_stack_end),
    );
    for (section, attributes) in [
        ((MANAGER_RAM_IPA, text_end), TEXT),
        ((text_end, rodata_end), CONSTANT),
        ((rodata_end, data_end), DATA),
        (stack, DATA),
        (fault_stack, DATA),
        ((heap_start(), MANAGER_RAM_IPA + BLOCK_2M_BYTES), DATA),
    ] {
        IMAGE_PAGES.map(section, PAGE_BYTES, attributes | PAGE);
    }
}

/// Maps the GiBs that hold a range, as far as 39 bits reach.
fn map_gibs(base: u64, bytes: u64, attributes: u64) {
    if bytes == 0 {
        return;
    }
    let first = base & !(BLOCK_1G_BYTES - 1);
    let end = base
        .saturating_add(bytes)
        .min(ENTRIES as u64 * BLOCK_1G_BYTES);
    let ram = (MANAGER_RAM_IPA, MANAGER_RAM_IPA + BLOCK_1G_BYTES);
    for part in [(first, end.min(ram.0)), (first.max(ram.1), end)] {
        ROOT.map(part, BLOCK_1G_BYTES, attributes | BLOCK);
    }
}
