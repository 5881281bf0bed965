// Reset entry: from the firmware's hand-over to Rust with the MMU on.
//
// Linux arm64 boot protocol (Documentation/arch/arm64/booting.rst): MMU off, image clean to the
// point of coherency, X0 = physical address of the device tree. Until the MMU is on, data accesses
// bypass the caches. So what is written before that and does not come with the image (the tables and
// the boot core's stack, which firmware may have left dirty in a cache) is cleaned and invalidated
// before, and all that was written once more before the MMU is turned on: by then such lines are
// clean, and would only hide what lies in memory. BSS is zeroed after, through the caches.
//
// A platform's assembly gives four functions that run with the MMU off and clobber X0 to X8 only,
// `penumbra_early_put` no more than X0, X3 and X4, `penumbra_early_stage` and `penumbra_early_off` not X1:
// `penumbra_early_put` prints the byte in W2; `penumbra_early_stage` may print the letter in W2, which
// says how far the boot has come; `penumbra_early_core` does what the core's errata ask for, on each core;
// `penumbra_early_off` ends the board or returns. And the text `penumbra_text_level`, what to do about an
// entry at the wrong level.

.section .head.text, "ax"
.balign 4096
.global _start
_start:
    b       .Lprimary                       // code0
    .long   0                               // code1
    .quad   0                               // text_offset
    .quad   penumbra_image_bytes            // image_size
    .quad   0xa                             // flags: little-endian, 4 KiB pages, anywhere in RAM
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

// In: X0 = device tree. X20 keeps it, X21 the image's base.
.Lprimary:
    msr     daifset, #0xf
    mov     x20, x0
    adrp    x21, penumbra_image_start
    mrs     x1, currentel
    cmp     x1, #(2 << 2)
    b.ne    .Lwrong_level
    bl      .Lcontrols
    mov     w2, #'e'                        // at EL2
    bl      penumbra_early_stage
    bl      penumbra_early_core
    cbz     x20, .Lno_tree
    tst     x20, #7
    b.ne    .Lno_tree
    // The protocol promises a clean image, not a clean tree: its header may still be in a cache.
    dc      cvac, x20
    dsb     sy
    ldr     w1, [x20]
    movz    w2, #0x0dd0                     // 0xd00dfeed, big-endian
    movk    w2, #0xedfe, lsl #16
    cmp     w1, w2
    b.ne    .Lno_tree
    mov     w2, #'t'                        // there is a device tree
    bl      penumbra_early_stage

    // Relocate, and build the first tables, both with the MMU off.
    adrp    x1, penumbra_early_start
    adrp    x2, penumbra_early_end
    bl      .Lclean_invalidate
    adrp    x1, penumbra_stacks_start
    add     x2, x1, #{STACK_STRIDE}
    bl      .Lclean_invalidate

    // The table (ELF gABI, "Relative Relocation Table"): an even word is the offset of a pointer; an odd
    // one says by bits 1 to 63 which of the next 63 words after it are pointers too.
    adrp    x1, penumbra_relr_start
    add     x1, x1, :lo12:penumbra_relr_start
    adrp    x2, penumbra_relr_end
    add     x2, x2, :lo12:penumbra_relr_end
1:  cmp     x1, x2
    b.hs    2f
    ldr     x3, [x1], #8
    tbnz    x3, #0, 3f
    add     x6, x21, x3
    ldr     x5, [x6]
    add     x5, x5, x21
    str     x5, [x6], #8
    b       1b
3:  mov     x4, x6
4:  lsr     x3, x3, #1
    cbz     x3, 6f
    tbz     x3, #0, 5f
    ldr     x5, [x4]
    add     x5, x5, x21
    str     x5, [x4]
5:  add     x4, x4, #8
    b       4b
6:  add     x6, x6, #(63 * 8)
    b       1b

2:  mov     w2, #'r'                        // relocated
    bl      penumbra_early_stage
    mov     x0, xzr
    bl      .Lstack
    mov     x0, x20
    ldr     w1, [x20, #4]                   // totalsize, big-endian
    bl      penumbra_early_map              // fills penumbra_mmu
    adrp    x1, penumbra_rodata_end
    adrp    x2, penumbra_early_end
    bl      .Lclean_invalidate
    adrp    x1, penumbra_stacks_start
    add     x2, x1, #{STACK_STRIDE}
    bl      .Lclean_invalidate
    mov     w2, #'m'                        // EL2's map is built; the MMU comes next
    bl      penumbra_early_stage
    bl      .Lmmu_on

    // With the caches on: zero BSS. Its pages are whole.
    adrp    x1, penumbra_bss_start
    adrp    x2, penumbra_bss_end
    mrs     x3, dczid_el0
    and     x3, x3, #0x1f                   // DZP, and BS: log2 of words
    cmp     x3, #4
    b.ne    8f
7:  .rept   16                              // DC ZVA may be used, with 64 bytes: 1 KiB at a time
    dc      zva, x1
    add     x1, x1, #64
    .endr
    cmp     x1, x2
    b.lo    7b
    b       9f
8:  stp     xzr, xzr, [x1], #16
    cmp     x1, x2
    b.lo    8b
9:  mov     x0, xzr
    bl      .Lpercpu
    mov     x0, x20
    mov     x29, xzr
    bl      penumbra_main                   // never returns
    b       .Lstop

// Entry of the other cores by PSCI CPU_ON: MMU off, X0 = index of the core.
.balign 4
.global penumbra_secondary
.type penumbra_secondary, %function
penumbra_secondary:
    msr     daifset, #0xf
    mov     x20, x0
    mrs     x1, currentel
    cmp     x1, #(2 << 2)
    b.ne    .Lstop
    bl      .Lcontrols
    bl      penumbra_early_core
    bl      .Lmmu_on
    mov     x0, x20
    bl      .Lstack
    mov     x0, x20
    bl      .Lpercpu
    mov     x0, x20
    mov     x29, xzr
    bl      penumbra_secondary_main         // never returns
    b       .Lstop
.size penumbra_secondary, . - penumbra_secondary

// Entry of the other cores by a spin table: MMU off, nothing in X0. The index is the place of the
// core's affinity in penumbra_mpidrs, of which the first is the boot core's.
.balign 4
.global penumbra_spin_secondary
.type penumbra_spin_secondary, %function
penumbra_spin_secondary:
    msr     daifset, #0xf
    mrs     x1, mpidr_el1
    and     x1, x1, #0xffffffffff           // Aff3 and below, without the flags
    and     x1, x1, #0xffffffff00ffffff     // in 31:24
    adrp    x2, penumbra_mpidrs
    add     x2, x2, :lo12:penumbra_mpidrs
    mov     x0, #1
1:  ldr     x3, [x2, x0, lsl #3]
    cmp     x3, x1
    b.eq    penumbra_secondary
    add     x0, x0, #1
    cmp     x0, #{MAX_CPUS}
    b.lo    1b
    b       .Lstop
.size penumbra_spin_secondary, . - penumbra_spin_secondary

// Known values in the registers that decide what EL2 itself does. Clobbers X0.
.Lcontrols:
    mov     x0, #(1 << 31)                  // HCR_EL2: RW; E2H = 0, VM = 0
    msr     hcr_el2, x0
    isb
    movz    x0, #0x0830                     // SCTLR_EL2: its RES1 bits, all else off
    movk    x0, #0x30c5, lsl #16
    msr     sctlr_el2, x0
    isb
    mov     x0, #0x33ff                     // CPTR_EL2: its RES1 bits, FP not trapped
    msr     cptr_el2, x0
    msr     hstr_el2, xzr
    // The core's own registers are closed to EL1, whatever the firmware has opened: the Raspberry Pi's stub
    // opens CPUACTLR_EL1, CPUECTLR_EL1 and L2CTLR_EL1 to EL2 (Cortex-A72 TRM, ACTLR_EL2 and ACTLR_EL3).
    // HCR_EL2.TIDCP traps them before.
    msr     actlr_el2, xzr
    msr     spsel, #1
    isb
    ret

// Cleans and invalidates X1..X2, whole pages, to the point of coherency. Clobbers X3-X5.
.Lclean_invalidate:
    mrs     x3, ctr_el0
    ubfx    x3, x3, #16, #4                 // DminLine: log2 of words
    mov     x4, #4
    lsl     x4, x4, x3
    sub     x3, x4, #1
    bic     x5, x1, x3
1:  .rept   8                               // more than the pages only with lines over 512 bytes
    dc      civac, x5
    add     x5, x5, x4
    .endr
    cmp     x5, x2
    b.lo    1b
    dsb     sy
    ret

// Turns MMU and caches on as penumbra_mmu says. Clobbers X0-X5.
.Lmmu_on:
    adrp    x0, penumbra_mmu
    add     x0, x0, :lo12:penumbra_mmu
    ldp     x1, x2, [x0, #{MMU_TTBR}]       // TTBR0_EL2, TCR_EL2
    ldp     x3, x4, [x0, #{MMU_MAIR}]       // MAIR_EL2, SCTLR_EL2
    msr     ttbr0_el2, x1
    msr     tcr_el2, x2
    msr     mair_el2, x3
    adrp    x5, penumbra_vectors
    add     x5, x5, :lo12:penumbra_vectors
    msr     vbar_el2, x5
    ic      iallu
    tlbi    alle2
    dsb     nsh
    isb
    msr     sctlr_el2, x4
    isb
    ret

// Sets SP to the top of a core's stack. In: X0 = index. Clobbers X1, X2.
.Lstack:
    adrp    x1, penumbra_stacks_start
    mov     x2, #{STACK_STRIDE}
    add     x0, x0, #1
    madd    x1, x0, x2, x1
    mov     sp, x1
    ret

// Sets TPIDR_EL2 to a core's record. In: X0 = index. Clobbers X1, X2.
.Lpercpu:
    adrp    x1, penumbra_percpu
    add     x1, x1, :lo12:penumbra_percpu
    mov     x2, #{PERCPU_STRIDE}
    madd    x1, x0, x2, x1
    msr     tpidr_el2, x1
    ret

// Entered at another level than EL2, or without a device tree: one line, then the end.
.Lwrong_level:
    mrs     x1, mpidr_el1
    tst     x1, #0xffffff
    b.ne    .Lstop                          // all cores may come; one speaks
    adr     x1, .Ltext_level
    bl      .Lprint
    mrs     x2, currentel
    ubfx    w2, w2, #2, #2
    add     w2, w2, #'0'
    bl      penumbra_early_put
    adr     x1, .Ltext_not_el2
    bl      .Lprint
    adrp    x1, penumbra_text_level
    add     x1, x1, :lo12:penumbra_text_level
    b       1f
.Lno_tree:
    adr     x1, .Ltext_tree
1:  bl      .Lprint
    bl      penumbra_early_off
.Lstop:
    wfi
    b       .Lstop

// Prints a string ending in a zero byte. In: X1. Clobbers X0, X2 to X5.
.Lprint:
    mov     x5, x30
1:  ldrb    w2, [x1], #1
    cbz     w2, 2f
    bl      penumbra_early_put
    b       1b
2:  ret     x5

.Ltext_level:
    .asciz  "\r\npenumbra: fatal: entered at EL"
.Ltext_not_el2:
    .asciz  ", not EL2: "
.Ltext_tree:
    .asciz  "\r\npenumbra: fatal: no device tree at the address in x0: boot with the arm64 Image protocol\r\n"
.balign 4
