// What start.S wants of QEMU virt: the PL011 for the two messages that come before the device tree is
// read, and PSCI to end. The model takes bytes without a divisor; it boots by the thousand in tests, so
// there is no trail of its stages.

.equ PL011, 0x09000000

.section .text.early, "ax"
.global penumbra_early_put
penumbra_early_put:
    mov     x0, #PL011
    mov     w3, #0x301                      // UARTCR: UARTEN, TXE, RXE
    str     w3, [x0, #0x30]
1:  ldr     w3, [x0, #0x18]                 // UARTFR: TXFF
    tbnz    w3, #5, 1b
    str     w2, [x0]
.global penumbra_early_stage
penumbra_early_stage:
.global penumbra_early_core
penumbra_early_core:                        // a model has no errata
    ret

// Entered at EL1 there is no EL2, and QEMU's firmware interface is HVC; at EL2 it is SMC.
.global penumbra_early_off
penumbra_early_off:
    movz    w0, #0x0008                     // PSCI SYSTEM_OFF
    movk    w0, #0x8400, lsl #16
    mrs     x3, currentel
    cmp     x3, #(1 << 2)
    b.eq    1f
    smc     #0
    ret
1:  hvc     #0
    ret

.section .rodata.early, "a"
.global penumbra_text_level
penumbra_text_level:
    .asciz  "start QEMU with -machine virt,virtualization=on\r\n"

.text
