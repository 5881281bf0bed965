// EL2's vectors and the switch between EL2 and a guest.
//
// While a guest runs, SP_EL2 points at the frame that penumbra_guest_run made:
//   [sp, 0]   two scratch words     [sp, 16]  the vCPU     [sp, 24]  the hal's core
//   [sp, 32]  X19 to X30 of the caller
// An exit stores the guest's registers at the start of the vCPU (GprFrame). Rust preserves X19 to
// X29, and what is answered first does not look at them: they stay where they are for it.

.section .vectors.text, "ax"

.macro current_level, kind
.balign 128
    msr     sp_el0, x0                      // nothing returns from here: SP_EL0 is lost
    mov     x0, #\kind
    b       .Lepitaph
.endm

.macro leave
    eret
    dsb     nsh                             // no speculation past ERET
    isb
.endm

// Saves X0 to X17, of which X0 and X1 lie on the stack; X0 = vCPU, X1 = the hal's core.
.macro save_arguments
    ldp     x0, x1, [sp, #16]
    stp     x2, x3, [x0, #(8 * 2)]
    stp     x4, x5, [x0, #(8 * 4)]
    stp     x6, x7, [x0, #(8 * 6)]
    stp     x8, x9, [x0, #(8 * 8)]
    stp     x10, x11, [x0, #(8 * 10)]
    stp     x12, x13, [x0, #(8 * 12)]
    stp     x14, x15, [x0, #(8 * 14)]
    stp     x16, x17, [x0, #(8 * 16)]
    ldp     x2, x3, [sp]
    stp     x2, x3, [x0]
.endm

// Loads X0 to X17 of the vCPU at X0 and enters it.
.macro enter_arguments
    ldp     x2, x3, [x0, #(8 * 2)]
    ldp     x4, x5, [x0, #(8 * 4)]
    ldp     x6, x7, [x0, #(8 * 6)]
    ldp     x8, x9, [x0, #(8 * 8)]
    ldp     x10, x11, [x0, #(8 * 10)]
    ldp     x12, x13, [x0, #(8 * 12)]
    ldp     x14, x15, [x0, #(8 * 14)]
    ldp     x16, x17, [x0, #(8 * 16)]
    ldp     x0, x1, [x0]
    leave
.endm

// Saves X18 to X30 in the vCPU at X0.
.macro save_rest
    stp     x19, x20, [x0, #(8 * 19)]
    stp     x21, x22, [x0, #(8 * 21)]
    stp     x23, x24, [x0, #(8 * 23)]
    stp     x25, x26, [x0, #(8 * 25)]
    stp     x27, x28, [x0, #(8 * 27)]
    stp     x29, x30, [x0, #(8 * 29)]
    str     x18, [x0, #(8 * 18)]
.endm

// Loads X18 to X30 of the vCPU at \vcpu.
.macro load_rest vcpu
    ldp     x19, x20, [\vcpu, #(8 * 19)]
    ldp     x21, x22, [\vcpu, #(8 * 21)]
    ldp     x23, x24, [\vcpu, #(8 * 23)]
    ldp     x25, x26, [\vcpu, #(8 * 25)]
    ldp     x27, x28, [\vcpu, #(8 * 27)]
    ldp     x29, x30, [\vcpu, #(8 * 29)]
    ldr     x18, [\vcpu, #(8 * 18)]
.endm

// Tries the short answer, which leaves X19 to X29 where they are. If there is none: on at \otherwise with W0 = a Next.
.macro answer, function, otherwise
    stp     x18, x30, [sp]
    bl      \function                       // -> W0: a Next
    ldp     x18, x30, [sp]
    tbz     w0, #{NEXT_ENTER_BIT}, \otherwise
    ldr     x0, [sp, #16]
    enter_arguments
.endm

// Overwrites the branch history that the guest has left, before the first branch that it could steer. X0 lies on the
// stack. Each turn of the loop takes two branches; one at least is predicted by the history, which is what counts.
.macro clear_history
    ldr     x0, [sp, #24]
    ldr     x0, [x0, #{HISTORY}]
    cbz     x0, 3f
    hint    #22                             // CLRBHB
1:  b       2f
2:  subs    x0, x0, #1
    b.ne    1b
    dsb     nsh
    isb
3:
.endm

// What a slot of the vectors does. It holds 32 instructions: without mitigations those of a synchronous exit fill it.
.macro lower, answered
.balign 128
    stp     x0, x1, [sp]
.if {MITIGATIONS}
    clear_history
    b       .L\answered
.else
    \answered
.endif
.endm

.macro synchronous
    save_arguments
    mrs     x2, esr_el2
    tbnz    w2, #{ESR_ABORT_BIT}, .Labort
    tbnz    w2, #{ROOT_CANDIDATE_BIT}, .Lroot
    answer  penumbra_first_synchronous, .Lsync_left
.endm

.macro interrupt
    save_arguments
    answer  penumbra_first_interrupt, .Lirq_left
.endm

.macro serror
    save_arguments
    b       .Lserror_left
.endm

.balign 2048
.global penumbra_vectors
penumbra_vectors:
    current_level 0                         // current EL, SP_EL0
    current_level 1
    current_level 2
    current_level 3
    current_level 4                         // current EL, SP_ELx
    current_level 5
    current_level 6
    current_level 7
    lower   synchronous                     // lower EL, AArch64
    lower   interrupt
    lower   interrupt                       // FIQ: nothing is routed here, taken as an interrupt
    lower   serror
    lower   synchronous                     // lower EL, AArch32 (EL0 programs only)
    lower   interrupt
    lower   interrupt
    lower   serror
.balign 128

.if {MITIGATIONS}
.Lsynchronous:
    synchronous
.Linterrupt:
    interrupt
.Lserror:
    serror
.endif

// Aborts, and what has no register. An access that moves X16 or above finds and leaves it in the frame.
.Labort:
    tbz     w2, #{ISS_SRT_HIGH_BIT}, .Lsync
    save_rest
    bl      penumbra_first_synchronous      // -> W0: a Next
    ldr     x1, [sp, #16]
    load_rest x1
    mov     x2, #{EXIT_SYNC}
    tbz     w0, #{NEXT_ENTER_BIT}, .Lexit
    mov     x0, x1
    enter_arguments
.Lserror_left:
    mov     w0, #{NEXT_FAST}
    mov     x2, #{EXIT_SERROR}
    b       .Lexit

// X3 = the register that is written, X4 = the vCPU's place, X5 = what it knows of its roots, X7 = the mask of the ASID.
// In: W3 = 32 times the register's number. On at .Lroot_unknown if nothing is known for the VM's generation, or if the
// guest's PSTATE has what the instruction would end: a software step, a branch type.
.macro find_roots
    lsr     w3, w3, #({RT_SHIFT} - 3)
    ldr     x3, [x0, x3]
    add     x5, x0, #{VCPU_ROOTS}
    ldp     x6, x7, [x5, #{GENERATION}]
    cbz     x6, .Lroot_unknown
    ldr     x4, [x0, #{VCPU_PLACE}]         // there is one, or nothing would be known
    ldr     x1, [x4, #{PLACE_GENERATION}]
    ldr     w1, [x1]
    mrs     x2, spsr_el2
    tbnz    w2, #{STEP_BIT}, .Lroot_unknown
    tst     w2, #{BRANCH_TYPE}
    ccmp    x1, x6, #0, eq
    b.ne    .Lroot_unknown
.endm

// Counts the write and goes on behind it.
.macro leave_root
    ldr     x1, [x4, #{PLACE_SHARED}]
    ldr     x2, [x1, #{ROOT_TRAPS}]
    add     x2, x2, #1
    str     x2, [x1, #{ROOT_TRAPS}]
    mrs     x1, elr_el2
    add     x1, x1, #4
    msr     elr_el2, x1
    ldp     x6, x7, [x0, #(8 * 6)]
    ldp     x4, x5, [x0, #(8 * 4)]
    ldp     x2, x3, [x0, #(8 * 2)]
    ldp     x0, x1, [x0]
    leave
.endm

// Maybe a write of a root. One from X0 to X15 that the vCPU knows is answered here, as compound::known would.
// In: X0 = vCPU, W2 = ESR_EL2. Clobbers X1 to X7 of those in the frame.
.Lroot:
    mov     w3, #({TTBR0_WRITE} & 0xffff)
    movk    w3, #({TTBR0_WRITE} >> 16), lsl #16
    sub     w3, w2, w3
    tst     w3, #(0xffffffff ^ (0xf << {RT_SHIFT}))
    b.ne    .Lroot_high
    find_roots
    ubfx    x1, x3, #12, #{KNOWN_BITS}
    add     x5, x5, x1, lsl #{KNOWN_SHIFT}
    ldp     x1, x6, [x5, #{KNOWN}]          // what was written, what is put there
    cmp     x1, x3
    b.ne    .Lroot_unknown
    ldp     x1, x2, [x5, #({KNOWN} + 16)]   // the ASID in TTBR1_EL1, how often
    tbz     x6, #{WINDOW}, 1f
    mrs     x3, ttbr1_el1
    and     x3, x3, x7
    cmp     x1, x3
    b.ne    .Lroot_unknown
1:  add     x2, x2, #1
    tbnz    w2, #{LOOK_BIT}, .Lroot_unknown
    str     x2, [x5, #({KNOWN} + 24)]
    msr     ttbr0_el1, x6
    leave_root
// TTBR1_EL1: what stands for the root that is there goes on to do so.
.Lroot_high:
    sub     w3, w3, #(1 << {HIGH_HALF_BIT})
    tst     w3, #(0xffffffff ^ (0xf << {RT_SHIFT}))
    b.ne    .Lroot_unknown
    find_roots
    mrs     x6, ttbr1_el1
    eor     x1, x6, x3
    and     x1, x1, #(0xffffffffffffffff ^ (1 << {WINDOW}))
    tst     x1, #0xffffffffffff             // address and CnP
    b.ne    .Lroot_unknown
    ubfx    x6, x6, #{WINDOW}, #1
    bfi     x3, x6, #{WINDOW}, #1
    msr     ttbr1_el1, x3
    leave_root
.Lroot_unknown:
    ldp     x0, x1, [sp, #16]
    mrs     x2, esr_el2
.Lsync:
    answer  penumbra_first_synchronous, .Lsync_left
.Lsync_left:
    mov     x2, #{EXIT_SYNC}
    b       .Lexit
.Lirq_left:
    mov     x2, #{EXIT_IRQ}

// In: W0 = a Next other than Enter, X2 = kind of the exit.
.Lexit:
    mov     w3, w0
    ldp     x0, x1, [sp, #16]
    save_rest
    mov     x19, x2
    tbnz    w3, #{NEXT_RUN_LOOP_BIT}, .Lleave
    bl      penumbra_fast_exit              // -> W0[0]: enter the guest again
    tbz     w0, #0, .Lleave                 // a bool is the lowest bit only
    ldr     x0, [sp, #16]
.Lenter:
    load_rest x0
    enter_arguments

.Lleave:
    mov     x0, x19
    ldp     x19, x20, [sp, #32]
    ldp     x21, x22, [sp, #48]
    ldp     x23, x24, [sp, #64]
    ldp     x25, x26, [sp, #80]
    ldp     x27, x28, [sp, #96]
    ldp     x29, x30, [sp, #112]
    add     sp, sp, #128
    ret

// Runs the resident vCPU until an exit that the fast handlers leave.
// In: X0 = vCPU, X1 = core. Out: X0 = kind of the exit. Keeps X19 to X30 and SP.
.global penumbra_guest_run
.type penumbra_guest_run, %function
penumbra_guest_run:
    sub     sp, sp, #128
    stp     x0, x1, [sp, #16]
    stp     x19, x20, [sp, #32]
    stp     x21, x22, [sp, #48]
    stp     x23, x24, [sp, #64]
    stp     x25, x26, [sp, #80]
    stp     x27, x28, [sp, #96]
    stp     x29, x30, [sp, #112]
    b       .Lenter
.size penumbra_guest_run, . - penumbra_guest_run

// EL2's own exception. In: X0 = index of the vector, SP_EL0 = the old X0. Uses no stack before the
// record is known to be unused, so a stack overflow is reported too.
.Lepitaph:
    msr     daifset, #0xf
    msr     elr_el1, x1
    mrs     x1, tpidr_el2
    stp     x2, x3, [x1, #({EPITAPH_X} + 8 * 2)]
    ldr     x2, [x1, #{EPITAPH_MAGIC}]
    cbnz    x2, .Lhalt                      // an exception while reporting one
    mov     x2, #1
    str     x2, [x1, #{EPITAPH_MAGIC}]
    str     x0, [x1, #{EPITAPH_VECTOR}]
    mrs     x0, sp_el0
    mrs     x2, elr_el1
    stp     x0, x2, [x1, #{EPITAPH_X}]
    stp     x4, x5, [x1, #({EPITAPH_X} + 8 * 4)]
    stp     x6, x7, [x1, #({EPITAPH_X} + 8 * 6)]
    stp     x8, x9, [x1, #({EPITAPH_X} + 8 * 8)]
    stp     x10, x11, [x1, #({EPITAPH_X} + 8 * 10)]
    stp     x12, x13, [x1, #({EPITAPH_X} + 8 * 12)]
    stp     x14, x15, [x1, #({EPITAPH_X} + 8 * 14)]
    stp     x16, x17, [x1, #({EPITAPH_X} + 8 * 16)]
    stp     x18, x19, [x1, #({EPITAPH_X} + 8 * 18)]
    stp     x20, x21, [x1, #({EPITAPH_X} + 8 * 20)]
    stp     x22, x23, [x1, #({EPITAPH_X} + 8 * 22)]
    stp     x24, x25, [x1, #({EPITAPH_X} + 8 * 24)]
    stp     x26, x27, [x1, #({EPITAPH_X} + 8 * 26)]
    stp     x28, x29, [x1, #({EPITAPH_X} + 8 * 28)]
    mov     x2, sp
    stp     x30, x2, [x1, #({EPITAPH_X} + 8 * 30)]
    mrs     x2, esr_el2
    mrs     x3, elr_el2
    stp     x2, x3, [x1, #{EPITAPH_ESR}]
    mrs     x2, far_el2
    mrs     x3, spsr_el2
    stp     x2, x3, [x1, #{EPITAPH_FAR}]
    add     x2, x1, #{EPITAPH_STACK_END}
    mov     sp, x2
    mov     x0, x1
    mov     x29, xzr
    bl      penumbra_epitaph                // never returns
.Lhalt:
    wfi
    b       .Lhalt
