//! The first instructions, and the vectors.
//!
//! The image starts with MMU and caches off. It stores nothing before they are on, so no cache line
//! can be stale: the boot table is part of the image, which EL2 cleaned to the point of coherency.

use core::arch::global_asm;

use super::{main, mmu, stop};

// SCTLR_EL1 (Arm ARM DDI 0487 L.b, D24.2): RES1 bits of Armv8.0 and what we want.
const SCTLR_RES1: u64 = 1 << 29 | 1 << 28 | 1 << 23 | 1 << 22 | 1 << 20 | 1 << 11;
const SCTLR_M: u64 = 1 << 0;
const SCTLR_C: u64 = 1 << 2;
const SCTLR_SA: u64 = 1 << 3;
const SCTLR_I: u64 = 1 << 12;
/// MMU and caches on, stack alignment checked. Write-implies-execute-never follows in `mmu`.
pub(super) const SCTLR: u64 = SCTLR_RES1 | SCTLR_M | SCTLR_C | SCTLR_SA | SCTLR_I;

global_asm!(
    // In: x0 to x5 as `main` takes them. Uses x9, x10. Does not return.
    ".pushsection .text.entry, \"ax\"",
    ".globl manager_start",
    ".type manager_start, %function",
    "manager_start:",
    "    msr     daifset, #0xf",
    "    msr     spsel, #1",
    "    adrp    x9, {boot_root}",
    "    add     x9, x9, :lo12:{boot_root}",
    "    msr     ttbr0_el1, x9",
    "    ldr     x9, ={mair}",
    "    msr     mair_el1, x9",
    "    ldr     x9, ={tcr}",
    "    msr     tcr_el1, x9",
    "    adrp    x9, manager_vectors",
    "    add     x9, x9, :lo12:manager_vectors",
    "    msr     vbar_el1, x9",
    "    dsb     sy",
    "    isb",
    "    tlbi    vmalle1",
    "    ic      iallu",
    "    dsb     nsh",
    "    isb",
    "    ldr     x9, ={sctlr}",
    "    msr     sctlr_el1, x9",
    "    isb",
    "    adrp    x9, manager_bss_start",
    "    add     x9, x9, :lo12:manager_bss_start",
    "    adrp    x10, manager_bss_end",
    "    add     x10, x10, :lo12:manager_bss_end",
    "1:  cmp     x9, x10",
    "    b.hs    2f",
    "    stp     xzr, xzr, [x9], #16",
    "    b       1b",
    "2:  adrp    x9, manager_stack_end",
    "    add     x9, x9, :lo12:manager_stack_end",
    "    mov     sp, x9",
    "    mov     x29, xzr",
    "    mov     x30, xzr",
    "    b       {main}",
    ".size manager_start, . - manager_start",
    "",
    // Every exception is the end: a fresh stack, the syndrome, and Rust. In: nothing. Does not return.
    ".type manager_fault, %function",
    "manager_fault:",
    "    adrp    x9, manager_fault_stack_end",
    "    add     x9, x9, :lo12:manager_fault_stack_end",
    "    mov     sp, x9",
    "    mrs     x0, esr_el1",
    "    mrs     x1, far_el1",
    "    mrs     x2, elr_el1",
    "    mov     x3, x30",
    "    b       {fault}",
    ".size manager_fault, . - manager_fault",
    "",
    ".balign 2048",
    ".type manager_vectors, %object",
    "manager_vectors:",
    ".rept 16",
    ".balign 128",
    "    b       manager_fault",
    ".endr",
    ".balign 128",
    ".size manager_vectors, . - manager_vectors",
    ".popsection",
    boot_root = sym mmu::BOOT_ROOT,
    mair = const mmu::MAIR,
    tcr = const mmu::TCR,
    sctlr = const SCTLR,
    main = sym main,
    fault = sym stop::fault,
);
