//! Makes events of the compound page table, for the eventscope plugin: tables that EL2 comes to shadow, then
//! stores to one of them, each between markers.
//!
//! The high half has 48 bits, as Linux's: a linear map of the tables by pages, and `regions=` level-3 tables whose
//! 512 pages lie in a row, 2 MiB apart so that each is shadowed by a call of its own. When `quiet-ms=` have passed
//! (EL2's root is in place by then), test 1 stores to a mirrored table through the linear map, as Linux
//! does, and test 2 through the runtime's identity map, whose walk has one level. `n=`: how often.
#![no_std]
#![no_main]

use payload::rt::{check, fdt, io, sysreg, time};
use payload::{insn, mrs, msr, println};

payload::entry!(main);

/// First VA of the high half: 48 bits.
const HIGH: usize = 0xffff_0000_0000_0000;
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
/// Bit 39 of a root: where EL2 shows its own.
const WINDOW: u64 = 1 << 39;
/// Microseconds of one wait.
const STEP_US: u64 = 50_000;
/// Regions at most: each takes every other entry of one level-2 table behind the linear map's.
const MAX_REGIONS: usize = 254;

/// Table pages: root, level 1, level 2, the linear map's level 3, and those of the regions.
const LEVEL2: usize = 2;
const LINEAR: usize = 3;
const FIRST_REGION: usize = 4;

/// 2 MiB of tables, and 2 MiB that all regions map.
fn arena() -> usize {
    (fdt::ram_end() - 3 * REGION) & !(REGION - 1)
}

fn page(index: usize) -> usize {
    arena() + index * PAGE
}

fn main() {
    let n = fdt::number("n").unwrap_or(200);
    let regions = fdt::number("regions").unwrap_or(64) as usize;
    let quiet_us = fdt::number("quiet-ms").unwrap_or(5_000) * 1000;
    sysreg::irq_on();
    build(regions.min(MAX_REGIONS));
    msr!("ttbr1_el1", page(0) as u64);
    let tcr = mrs!("tcr_el1");
    msr!("tcr_el1", tcr & !TCR_HIGH_FIELDS | TCR_HIGH);
    insn!("dsb ish\ntlbi vmalle1is\ndsb ish\nisb");
    // Where it shares its core, EL2 puts its root in place when the guest waits: it has to wait more than once.
    for _ in 0..quiet_us / STEP_US {
        time::sleep(STEP_US);
    }
    let planted = mrs!("ttbr1_el1") & WINDOW != 0;
    check::that("shadowed.planted", planted, ());
    // The last entries of the level-2 table: never valid, so that no translation changes.
    let entry = 500 * 8;
    let (linear, identity) = (HIGH + LEVEL2 * PAGE + entry, page(LEVEL2) + entry);
    let mut wrong = 0;
    for number in 1..=n {
        insn!("hint #65");
        io::write64(linear, number << 1);
        insn!("hint #97");
        wrong += u64::from(io::read64(identity) != number << 1);
    }
    for number in 1..=n {
        insn!("hint #66");
        io::write64(identity, number << 2);
        insn!("hint #98");
        wrong += u64::from(io::read64(linear) != number << 2);
    }
    check::that("shadowed.stores", wrong == 0, wrong);
    println!("shadowed: {n} stores each way");
    check::summary();
    // Until somebody has looked.
    time::sleep(60_000_000);
}

fn fill(table: usize, value: impl Fn(usize) -> u64) {
    for index in 0..512 {
        io::write64(table + index * 8, value(index));
    }
}

fn build(regions: usize) {
    let link = |index: usize| page(index) as u64 | TABLE;
    fill(page(0), |index| if index == 0 { link(1) } else { 0 });
    fill(page(1), |index| if index == 0 { link(LEVEL2) } else { 0 });
    fill(page(LINEAR), |index| page(index) as u64 | PAGE_RW);
    fill(page(LEVEL2), |index| match index {
        0 => link(LINEAR),
        _ if index % 2 == 0 && index / 2 <= regions => link(FIRST_REGION + index / 2 - 1),
        _ => 0,
    });
    for region in 0..regions {
        let data = arena() + REGION;
        fill(page(FIRST_REGION + region), |index| {
            (data + index * PAGE) as u64 | PAGE_RW
        });
    }
    io::barrier();
}
