//! A guest that dies on purpose, in the way that its command line names.
//!
//! `wild-jump`: branches to an unmapped address with its vectors unmapped too. `vector-loop`: VBAR_EL1
//! points at nothing. `endless-fault`: its handler faults for ever at a mapped vector. `last-off`:
//! CPU_OFF of the only vCPU. `undefined-storm`: undefined instructions without end, then off.
//! `quota`: touches all of its memory. `table-outside`: TTBR0_EL1 points outside its memory.
//! `misuse`: PSCI calls with rubbish, then SYSTEM_OFF while other vCPUs run. `reset`: looks for what a
//! former life left, then SYSTEM_RESET.
//! `spin`: never answers anything.
#![no_std]
#![no_main]

use payload::rt::psci::{self, hvc};
use payload::rt::{console, cpu, fault, fdt, io, layout, sysreg, time};
use payload::{insn, msr, println};

payload::entry!(main);

const HOLE: u64 = 0x30_0000_0000;

fn main() {
    let ways: [(&str, fn()); 10] = [
        ("wild-jump", wild_jump),
        ("vector-loop", vector_loop),
        ("endless-fault", endless_fault),
        ("last-off", last_off),
        ("undefined-storm", undefined_storm),
        ("quota", quota),
        ("table-outside", table_outside),
        ("misuse", misuse),
        ("reset", reset),
        ("spin", spin),
    ];
    for (name, way) in ways {
        if fdt::has_argument(name) {
            println!("crash: {name}");
            // The console is read by the manager; what follows may stop this guest at once.
            time::delay(20_000);
            way();
            println!("crash: {name} survived");
            return;
        }
    }
    println!("crash: the command line names no way to die");
}

/// Branches to an address; nothing is expected to come back.
fn jump(address: u64) {
    // SAFETY: the guest is meant to die here.
    unsafe { core::arch::asm!("br {0}", in(reg) address, options(nostack)) };
}

fn wild_jump() {
    msr!("vbar_el1", HOLE + 0x1000);
    jump(HOLE);
}

fn vector_loop() {
    msr!("vbar_el1", HOLE);
    insn!("brk #1");
}

/// The vector itself is a branch to an undefined instruction that lies in the vector.
fn endless_fault() {
    #[repr(C, align(2048))]
    struct Vectors([u32; 512]);
    static VECTORS: Vectors = Vectors([0; 512]);
    msr!("vbar_el1", (&raw const VECTORS).addr() as u64);
    insn!("brk #1");
}

fn last_off() {
    sysreg::irq_off();
    hvc(psci::CPU_OFF, [0; 3]);
}

/// A hundred thousand undefined instructions, each handled; the guest is fine afterwards.
fn undefined_storm() {
    for _ in 0..100_000 {
        fault::probe(|| insn!("udf #0"));
    }
    println!("crash: storm over");
}

fn quota() {
    let mut at = layout::RAM + (64 << 20);
    while at < fdt::ram_end() {
        io::write32(at, 1);
        at += 4096;
    }
}

fn table_outside() {
    // SAFETY: the guest is meant to die here.
    unsafe {
        core::arch::asm!(
            "msr ttbr0_el1, {0}", "isb", "tlbi vmalle1", "dsb nsh", "isb", "ldr {1}, [sp]",
            in(reg) HOLE, out(reg) _, options(nostack)
        );
    }
}

/// Rubbish to every function that takes arguments, from all vCPUs, then off under way.
fn misuse() {
    fn rubbish(seed: u64) -> u64 {
        let mut x = seed | 1;
        for _ in 0..20_000 {
            x = x
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            let low = (x >> 33) as u32 & 0x1f;
            if matches!(low, 0x02 | 0x08 | 0x09 | 0x12 | 0x01 | 0x0e | 0x03 | 0x0c) {
                continue;
            }
            hvc(
                0x8400_0000 | (x as u32 & 0x4000_0000) | low,
                [x, x >> 7, x << 9],
            );
            hvc(psci::CPU_ON, [x, x >> 3, x]);
        }
        0
    }
    for index in 1..cpu::count() {
        if cpu::start(index) {
            cpu::give(index, rubbish, index as u64 * 77);
        }
    }
    rubbish(5);
    println!("crash: misuse over");
    console::power_off();
}

/// Its memory has nothing of a former life in it, and it fills it for the next one to look.
fn reset() {
    const SECRET: u64 = 0x5ec2_e7ed_5ec2_e7ed;
    // What lies at either end is the payload's and the loader's.
    let cells = (layout::RAM + (16 << 20)..fdt::ram_end() - (16 << 20)).step_by(64);
    for cell in cells {
        let found = io::read64(cell);
        if found != 0 {
            println!("crash: {found:#x} was left at {cell:#x}");
            return;
        }
        io::write64(cell, SECRET);
    }
    hvc(psci::SYSTEM_RESET, [0; 3]);
}

fn spin() {
    sysreg::irq_off();
    loop {
        insn!("yield");
    }
}
