// Entry of a payload: x0 = device tree, MMU off, EL1. Registers: all free.
// The image relocates itself, clears its BSS, builds an identity map and calls Rust.

.equ STACK_BYTES, 32768

.section .text.head, "ax"
.global _head
_head:
    b       payload_entry
    .long   0
    .quad   0                       // text_offset
    .quad   _image_size
    .quad   0xa                     // little-endian, 4 KiB pages, anywhere in RAM
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

.balign 8
payload_entry:
    msr     daifset, #0xf
    mov     x19, x0
    adrp    x1, _head
    add     x1, x1, :lo12:_head
    adrp    x2, _rela_start
    add     x2, x2, :lo12:_rela_start
    adrp    x3, _rela_end
    add     x3, x3, :lo12:_rela_end
1:  cmp     x2, x3
    b.hs    2f
    ldp     x4, x5, [x2], #16
    ldr     x6, [x2], #8
    cmp     w5, #1027               // R_AARCH64_RELATIVE
    b.ne    payload_stop
    add     x6, x6, x1
    str     x6, [x4, x1]
    b       1b
2:  adrp    x2, _bss_start
    add     x2, x2, :lo12:_bss_start
    adrp    x3, _bss_end
    add     x3, x3, :lo12:_bss_end
3:  cmp     x2, x3
    b.hs    4f
    stp     xzr, xzr, [x2], #16
    b       3b
    // Tables: level 0 with four entries, each level-1 table filled with 1 GiB blocks.
4:  adrp    x2, payload_tables
    add     x2, x2, :lo12:payload_tables
    add     x3, x2, #4096
    orr     x4, x3, #3
    str     x4, [x2]                // entries 0, 1, 2: IPA [0, 1.5 TiB), device
    add     x4, x4, #4096
    str     x4, [x2, #8]
    add     x4, x4, #4096
    str     x4, [x2, #16]
    add     x4, x4, #4096
    str     x4, [x2, #32]           // entry 4: IPA [0, 512 GiB), executable, Normal non-cacheable
    mov     x5, #0x401
    movk    x5, #0x60, lsl #48      // block, AF, Device-nGnRnE, PXN, UXN
    mov     x6, #1536
    mov     x7, #0x40000000
5:  str     x5, [x3], #8
    add     x5, x5, x7
    subs    x6, x6, #1
    b.ne    5b
    mov     x5, #0x709              // block, AF, inner shareable, Normal non-cacheable
    mov     x6, #512
6:  str     x5, [x3], #8
    add     x5, x5, x7
    subs    x6, x6, #1
    b.ne    6b
    add     x3, x2, #4096
    mov     x5, #0x705              // block, AF, inner shareable, Normal write-back
    mov     x6, #4
7:  add     x5, x5, x7
    str     x5, [x3, #8]!           // RAM: GiB 1 to 4
    subs    x6, x6, #1
    b.ne    7b
    bl      payload_mmu_on
    mov     x0, #0
    bl      payload_stack
    mov     x0, x19
    bl      payload_first
payload_stop:
    wfi
    b       payload_stop

// Entry of a further vCPU: x0 = its index.
.global payload_secondary
.balign 8
payload_secondary:
    hint    #118                    // eventscope: the end of CPU_ON, test 22 of `events`
    msr     daifset, #0xf
    mov     x19, x0
    bl      payload_mmu_on
    mov     x0, x19
    bl      payload_stack
    mov     x0, x19
    bl      payload_next
    b       payload_stop

// Turns the MMU and caches on. Clobbers x2 to x4.
payload_mmu_on:
    adrp    x2, payload_tables
    add     x2, x2, :lo12:payload_tables
    msr     ttbr0_el1, x2
    mov     x2, #0xff00
    movk    x2, #0x44, lsl #16
    msr     mair_el1, x2
    mrs     x3, id_aa64mmfr0_el1
    and     x3, x3, #0xf
    mov     x4, #5
    cmp     x3, x4
    csel    x3, x3, x4, lo
    mov     x2, #0x3510             // T0SZ 16, write-back, inner shareable
    movk    x2, #0x80, lsl #16      // EPD1
    orr     x2, x2, x3, lsl #32     // IPS
    msr     tcr_el1, x2
    adrp    x2, payload_vectors
    add     x2, x2, :lo12:payload_vectors
    msr     vbar_el1, x2
    isb
    tlbi    vmalle1
    dsb     nsh
    mov     x2, #0x1805
    movk    x2, #0x30d0, lsl #16    // M, C, I and the RES1 bits of Armv8.0
    msr     sctlr_el1, x2
    isb
    ret

// Gives vCPU x0 its stack. Clobbers x1, x2.
payload_stack:
    adrp    x1, payload_stacks
    add     x1, x1, :lo12:payload_stacks
    add     x2, x0, #1
    mov     x0, #STACK_BYTES
    madd    x1, x2, x0, x1
    msr     spsel, #1
    mov     sp, x1
    ret

.macro PAYLOAD_VECTOR index
.balign 128
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    mov     x1, #\index
    b       payload_exception
.endm

.section .text.vectors, "ax"
.balign 2048
.global payload_vectors
payload_vectors:
    PAYLOAD_VECTOR 0
    PAYLOAD_VECTOR 1
    PAYLOAD_VECTOR 2
    PAYLOAD_VECTOR 3
    PAYLOAD_VECTOR 4
    PAYLOAD_VECTOR 5
    PAYLOAD_VECTOR 6
    PAYLOAD_VECTOR 7
    PAYLOAD_VECTOR 8
    PAYLOAD_VECTOR 9
    PAYLOAD_VECTOR 10
    PAYLOAD_VECTOR 11
    PAYLOAD_VECTOR 12
    PAYLOAD_VECTOR 13
    PAYLOAD_VECTOR 14
    PAYLOAD_VECTOR 15

.balign 8
payload_exception:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x2, elr_el1
    mrs     x3, spsr_el1
    stp     x30, x2, [sp, #240]
    str     x3, [sp, #256]
    mov     x0, sp
    bl      payload_exception_taken
    ldr     x3, [sp, #256]
    ldp     x30, x2, [sp, #240]
    msr     elr_el1, x2
    msr     spsr_el1, x3
    ldp     x28, x29, [sp, #224]
    ldp     x26, x27, [sp, #208]
    ldp     x24, x25, [sp, #192]
    ldp     x22, x23, [sp, #176]
    ldp     x20, x21, [sp, #160]
    ldp     x18, x19, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp], #272
    eret

.section .bss.payload, "aw", %nobits
.balign 4096
payload_tables:
    .skip   5 * 4096
.balign 16
payload_stacks:
    .skip   8 * STACK_BYTES
