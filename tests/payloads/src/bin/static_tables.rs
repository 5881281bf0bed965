//! A guest without an operating system whose tables never change: all of its RAM through 4 KiB pages.
//!
//! A load for `walkscope`, after the way of small real-time systems: test 0 is its start, tests 19 (`ACCESSES` random accesses over 64 MiB,
//! with some work for each, as `walkload gups` does) and 20 (`tasks`, in turns, each over 64 KiB of its own). Arguments:
//! `accesses=N`, `rounds=N`, `settle_us=N`: how long to wait before the first.
#![no_std]
#![no_main]

use payload::rt::{fdt, io, time};
use payload::{insn, msr, println};

payload::entry!(main);

const PAGE: usize = 4096;
/// RAM starts at 1 GiB and this program lies at its start: the rest is free.
const RAM: usize = 0x4000_0000;
/// 512 MiB are mapped, by as many tables as there are blocks of 2 MiB.
const RAM_BYTES: usize = 512 << 20;
/// The tables: level 0, level 1, level 2, then level 3.
const TABLES: usize = RAM + (256 << 20);
/// What the loads touch.
const DATA: usize = RAM + (320 << 20);
const DATA_BYTES: usize = 64 << 20;

/// Tasks of the second load, and what each works on.
const TASKS: usize = 32;
const TASK_BYTES: usize = 64 << 10;
/// Not a multiple of a TLB's number of sets: the tasks' pages spread over them. The last task ends with the data.
const TASK_STRIDE: usize = DATA_BYTES / TASKS + TASK_BYTES;

/// Valid table; valid page with AF, inner shareable, Normal write-back; block with AF, Device, PXN and UXN.
const TABLE: u64 = 3;
const MEMORY: u64 = 0x707;
const DEVICE: u64 = 0x60_0000_0000_0401;

fn main() {
    // The tables may come to lie over the device tree.
    let number = |name| fdt::number(name).unwrap_or(0);
    let [settle, accesses, rounds] = ["settle_us", "accesses", "rounds"].map(number);
    build();
    // SCTLR_EL1.M stays on: the new tables map this program and its stack where the old blocks did. A core may raise a
    // TLB conflict in between; here there is a model.
    msr!("ttbr0_el1", TABLES as u64);
    insn!("isb");
    insn!("tlbi vmalle1");
    insn!("dsb nsh\nisb");
    // As a system that clears its memory at the start: thin memory is there from here on. Without a read first, for which Linux
    // as the host would show its page of zeroes, and give 4 KiB pages in its place.
    for page in (DATA..DATA + DATA_BYTES).step_by(PAGE) {
        io::write64(page, 1);
    }
    insn!("hint #96");
    time::sleep(settle);
    random(accesses);
    tasks(rounds);
    println!("walkscope: done");
}

/// Builds an identity map: devices below RAM as a block, RAM by pages.
fn build() {
    let slot = |table: usize, index: usize| TABLES + table * PAGE + 8 * index;
    let table = |number: usize| (TABLES + number * PAGE) as u64 | TABLE;
    for index in 0..3 * PAGE / 8 {
        io::write64(slot(0, index), 0);
    }
    io::write64(slot(0, 0), table(1));
    io::write64(slot(1, 0), DEVICE);
    io::write64(slot(1, 1), table(2));
    for number in 0..RAM_BYTES / (512 * PAGE) {
        io::write64(slot(2, number), table(3 + number));
    }
    for page in 0..RAM_BYTES / PAGE {
        io::write64(slot(3, page), (RAM + page * PAGE) as u64 | MEMORY);
    }
    io::barrier();
}

/// Adds one to a word.
fn touch(address: usize) {
    io::write64(address, io::read64(address).wrapping_add(1));
}

/// Some work within registers.
fn spin() {
    let mut left = 40_u64;
    while left > 0 {
        left = core::hint::black_box(left - 1);
    }
}

fn random(accesses: u64) {
    let mut state = 88_172_645_463_325_252_u64;
    insn!("hint #83");
    for _ in 0..accesses {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let scaled = (u128::from(state) * (DATA_BYTES as u128)) >> 64;
        touch(DATA + (scaled as usize & !7));
        spin();
    }
    insn!("hint #115");
}

fn tasks(rounds: u64) {
    insn!("hint #84");
    for round in 0..rounds {
        for task in 0..TASKS {
            let own = DATA + task * TASK_STRIDE;
            for page in 0..TASK_BYTES / PAGE {
                touch(own + page * PAGE + 8 * (round as usize % 512));
                spin();
            }
        }
    }
    insn!("hint #116");
}
