//! Has a thousand tables that EL2 shadows, then does what makes it give them all up at once, between markers of the
//! eventscope plugin. `end=` says what: 1: one store to the root, above all of them; 2: a pair of words stored there,
//! which cannot be emulated; 3: a change of TCR_EL1 that leaves EL2 unable to follow its tables, and a store to one.
//!
//! The high half has 48 bits and `regions=` level-3 tables; the pages of every second one do not lie in a row, so that it
//! has a mirror and not one leaf.
//! It waits for a line on its console before, and for another one until somebody has looked.
#![no_std]
#![no_main]

use payload::rt::{check, console, fdt, io, psci, sysreg, time};
use payload::{insn, mrs, msr, println};

payload::entry!(main);

const PAGE: usize = 4096;
const REGION: usize = 2 << 20;
/// Table descriptor.
const TABLE: u64 = 0b11;
/// Page: AF, inner shareable, write-back, PXN, UXN, read-write at EL1.
const PAGE_RW: u64 = 0x0060_0000_0000_0707;
/// TCR_EL1.T1SZ 16, 4 KiB granule, write-back inner shareable walks.
const TCR_HIGH: u64 = 16 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30;
/// The fields of TCR_EL1 that are the high half's.
const TCR_HIGH_FIELDS: u64 = 0xffff << 16;
/// TCR_EL1.DS: descriptors of FEAT_LPA2, of which a core without it takes no notice.
const TCR_DS: u64 = 1 << 59;
/// Bit 39 of a root: where EL2 shows its own.
const WINDOW: u64 = 1 << 39;
/// Entries of each level-2 table that are in use.
const USED: usize = 500;
/// Table pages: root, level 1, level 2; those of level 3 come behind.
const LEVEL1: usize = 1;
const LEVEL2: usize = 2;
/// 8 MiB of tables, and 2 MiB that all regions map.
const TABLES: usize = 4 * REGION;

fn arena() -> usize {
    (fdt::ram_end() - TABLES - 2 * REGION) & !(REGION - 1)
}

fn page(index: usize) -> usize {
    arena() + index * PAGE
}

fn main() {
    let regions = fdt::number("regions").unwrap_or(1000) as usize;
    let end = fdt::number("end").unwrap_or(1);
    sysreg::irq_on();
    let first = build(regions);
    msr!("ttbr1_el1", page(0) as u64);
    let tcr = mrs!("tcr_el1") & !TCR_HIGH_FIELDS | TCR_HIGH;
    msr!("tcr_el1", tcr);
    insn!("dsb ish\ntlbi vmalle1is\ndsb ish\nisb");
    println!("wide: {regions} tables");
    await_line();
    check::that("wide.planted", mrs!("ttbr1_el1") & WINDOW != 0, ());
    let (root, leaf) = (page(0), page(first + regions / 2) + 8);
    insn!("hint #65");
    match end {
        1 => io::write64(root, 0),
        2 => pair(root),
        _ => {
            msr!("tcr_el1", tcr | TCR_DS);
            insn!("isb");
            io::write64(leaf, 0);
        }
    }
    // A stay at EL2 ends where the next one begins.
    psci::hvc(psci::VERSION, [0; 3]);
    insn!("hint #97");
    let at = if end > 2 { leaf } else { root };
    check::that("wide.stored", io::read64(at) == 0, at);
    msr!("tcr_el1", tcr);
    insn!("isb");
    println!("wide: given up");
    await_line();
    check::summary();
}

/// Stores two words at once.
fn pair(at: usize) {
    let to = at as *mut u64;
    // SAFETY: the root's page belongs to this payload, and no reference to it exists.
    unsafe { core::arch::asm!("stp xzr, xzr, [{}]", in(reg) to, options(nostack)) };
}

/// Waits for a line, and now and then for an interrupt, at which EL2 puts its root in place.
fn await_line() {
    while !matches!(console::get(), Some(b'\r' | b'\n')) {
        time::sleep(20_000);
    }
}

fn fill(table: usize, value: impl Fn(usize) -> u64) {
    for index in 0..512 {
        io::write64(table + index * 8, value(index));
    }
}

/// Builds the tables; the number of the first one of level 3.
fn build(regions: usize) -> usize {
    let link = |index: usize| page(index) as u64 | TABLE;
    let level2 = regions.div_ceil(USED);
    let first = LEVEL2 + level2;
    let when = |is: bool, index: usize| if is { link(index) } else { 0 };
    fill(page(0), |index| when(index == 0, LEVEL1));
    fill(page(LEVEL1), |index| when(index < level2, LEVEL2 + index));
    for table in 0..level2 {
        fill(page(LEVEL2 + table), |index| {
            let region = table * USED + index;
            when(index < USED && region < regions, first + region)
        });
    }
    let data = arena() + TABLES;
    for region in 0..regions {
        // What one leaf can stand for takes no frame, of which there are fewer than records.
        let turn = if region % 2 == 0 { 0 } else { 511 };
        fill(page(first + region), |index| {
            (data + (turn ^ index) * PAGE) as u64 | PAGE_RW
        });
    }
    io::barrier();
    first
}
