// What start.S wants of the Raspberry Pi 4, with the MMU off: a trail on whichever UART the firmware has
// enabled, and the watchdog to end. A UART that does not drain is left after a while.

.equ AUX, 0xfe215000                        // BCM2711 ARM Peripherals, "Auxiliaries"
.equ AUX_ENABLES, 0x04
.equ AUX_MU_IO, 0x40
.equ AUX_MU_LSR, 0x54
.equ UART0, 0xfe201000                      // a PL011
.equ UARTDR, 0x00
.equ UARTFR, 0x18
.equ UARTCR, 0x30
.equ PM, 0xfe100000                         // power management: watchdog and reset
.equ PM_RSTC, 0x1c
.equ PM_RSTS, 0x20
.equ PM_WDOG, 0x24
.equ PATIENCE, 0x10000

.section .text.early, "ax"
// Erratum 859971 of the Cortex-A72 up to r0p3, which the BCM2711 has: instructions are prefetched from where
// that must not be. CPUACTLR_EL1[32] turns the prefetch off; the register has to be written before the MMU is
// turned on (Cortex-A72 TRM, "CPU Auxiliary Control Register"). The firmware's stub does not do it, but
// opens the register to EL2 (armstub8.S: ACTLR_EL3). Firmware that keeps it closed, like TF-A, has set the bit.
.global penumbra_early_core
penumbra_early_core:
    mrs     x0, midr_el1
    movz    w1, #0xd080
    movk    w1, #0x410f, lsl #16            // Cortex-A72 r0p0
    sub     w0, w0, w1
    cmp     w0, #3
    b.hi    1f
    mrs     x0, S3_1_C15_C2_0               // CPUACTLR_EL1
    tbnz    x0, #32, 1f
    orr     x0, x0, #(1 << 32)
    msr     S3_1_C15_C2_0, x0
    isb
1:  ret

.global penumbra_early_stage
penumbra_early_stage:
    cmp     w2, #'e'                        // the first letter begins a line
    b.ne    penumbra_early_put
    mov     x7, x30
    adr     x8, .Lprefix
1:  ldrb    w2, [x8], #1
    cbz     w2, 2f
    bl      penumbra_early_put
    b       1b
2:  ret     x7
.Lprefix:
    .asciz  "\r\npenumbra: e"
.balign 4

.global penumbra_early_put
penumbra_early_put:
    movz    x0, #(AUX >> 16), lsl #16
    movk    x0, #(AUX & 0xffff)
    ldr     w3, [x0, #AUX_ENABLES]
    tbz     w3, #0, 3f                      // the mini UART is off
    mov     w4, #PATIENCE
1:  ldr     w3, [x0, #AUX_MU_LSR]
    tbnz    w3, #5, 2f                      // there is room
    subs    w4, w4, #1
    b.ne    1b
    b       3f
2:  str     w2, [x0, #AUX_MU_IO]
3:  movz    x0, #(UART0 >> 16), lsl #16
    movk    x0, #(UART0 & 0xffff)
    ldr     w3, [x0, #UARTCR]
    tbz     w3, #0, 6f                      // the PL011 is off
    mov     w4, #PATIENCE
4:  ldr     w3, [x0, #UARTFR]
    tbz     w3, #5, 5f                      // TXFF: there is room
    subs    w4, w4, #1
    b.ne    4b
    b       6f
5:  str     w2, [x0, #UARTDR]
6:  ret

// Partition 63 is the firmware's word for "halt"; then a reset by the watchdog. See watchdog.rs.
.global penumbra_early_off
penumbra_early_off:
    movz    x0, #(PM >> 16), lsl #16
    movz    w3, #0x5a00, lsl #16            // the password
    ldr     w4, [x0, #PM_RSTS]
    and     w4, w4, #0xffffff
    orr     w4, w4, w3
    movz    w2, #0x555
    orr     w4, w4, w2
    str     w4, [x0, #PM_RSTS]
    orr     w4, w3, #0xf                    // ticks of 16 us
    str     w4, [x0, #PM_WDOG]
    ldr     w4, [x0, #PM_RSTC]
    and     w4, w4, #0xffffff
    and     w4, w4, #0xffffffcf
    orr     w4, w4, #0x20                   // full reset
    orr     w4, w4, w3
    str     w4, [x0, #PM_RSTC]
    ret

.section .rodata.early, "a"
.global penumbra_text_level
penumbra_text_level:
    .asciz  "boot kernel8.img as a raw Image with arm_64bit=1 and the firmware's own armstub (QEMU: -kernel with the .img, not the ELF file)\r\n"

.text
