//! FP and SIMD state. EL2 is built without FP, so only this assembly touches it.

use core::arch::global_asm;
use core::mem::offset_of;

use penumbra_core::machine::FpFrame;

use crate::sysreg::{cptr_el2, isb};

/// CPTR_EL2.TFP (with HCR_EL2.E2H = 0).
const TFP: u64 = 1 << 10;

global_asm!(
    r#"
    .section .text.fp, "ax"
    .arch_extension fp
    .arch_extension simd

    // In: X0 = FpFrame. Clobbers X1, X2.
    .balign 4
    .type penumbra_fp_save, %function
    penumbra_fp_save:
        stp     q0, q1, [x0, #(16 * 0)]
        stp     q2, q3, [x0, #(16 * 2)]
        stp     q4, q5, [x0, #(16 * 4)]
        stp     q6, q7, [x0, #(16 * 6)]
        stp     q8, q9, [x0, #(16 * 8)]
        stp     q10, q11, [x0, #(16 * 10)]
        stp     q12, q13, [x0, #(16 * 12)]
        stp     q14, q15, [x0, #(16 * 14)]
        stp     q16, q17, [x0, #(16 * 16)]
        stp     q18, q19, [x0, #(16 * 18)]
        stp     q20, q21, [x0, #(16 * 20)]
        stp     q22, q23, [x0, #(16 * 22)]
        stp     q24, q25, [x0, #(16 * 24)]
        stp     q26, q27, [x0, #(16 * 26)]
        stp     q28, q29, [x0, #(16 * 28)]
        stp     q30, q31, [x0, #(16 * 30)]
        mrs     x1, fpsr
        mrs     x2, fpcr
        add     x0, x0, #{STATUS}
        stp     x1, x2, [x0]
        ret
    .size penumbra_fp_save, . - penumbra_fp_save

    // In: X0 = FpFrame. Clobbers X1, X2.
    .type penumbra_fp_load, %function
    penumbra_fp_load:
        ldp     q0, q1, [x0, #(16 * 0)]
        ldp     q2, q3, [x0, #(16 * 2)]
        ldp     q4, q5, [x0, #(16 * 4)]
        ldp     q6, q7, [x0, #(16 * 6)]
        ldp     q8, q9, [x0, #(16 * 8)]
        ldp     q10, q11, [x0, #(16 * 10)]
        ldp     q12, q13, [x0, #(16 * 12)]
        ldp     q14, q15, [x0, #(16 * 14)]
        ldp     q16, q17, [x0, #(16 * 16)]
        ldp     q18, q19, [x0, #(16 * 18)]
        ldp     q20, q21, [x0, #(16 * 20)]
        ldp     q22, q23, [x0, #(16 * 22)]
        ldp     q24, q25, [x0, #(16 * 24)]
        ldp     q26, q27, [x0, #(16 * 26)]
        ldp     q28, q29, [x0, #(16 * 28)]
        ldp     q30, q31, [x0, #(16 * 30)]
        add     x0, x0, #{STATUS}
        ldp     x1, x2, [x0]
        msr     fpsr, x1
        msr     fpcr, x2
        ret
    .size penumbra_fp_load, . - penumbra_fp_load
    "#,
    STATUS = const offset_of!(FpFrame, fpsr),
);

const _: () = assert!(offset_of!(FpFrame, v) == 0);
const _: () = assert!(offset_of!(FpFrame, fpcr) == offset_of!(FpFrame, fpsr) + 8);

unsafe extern "C" {
    fn penumbra_fp_save(frame: *mut FpFrame);
    fn penumbra_fp_load(frame: *const FpFrame);
}

/// Runs `access` with FP not trapped at EL2, and puts CPTR_EL2 back.
fn untrapped(access: impl FnOnce()) {
    let cptr = cptr_el2::read();
    if cptr & TFP == 0 {
        access();
        return;
    }
    // SAFETY: EL2 itself does not use FP; the guest does not run until the value is back.
    unsafe { cptr_el2::write(cptr & !TFP) };
    isb();
    access();
    // SAFETY: the value that was there.
    unsafe { cptr_el2::write(cptr) };
    isb();
}

pub(crate) fn save(frame: &mut FpFrame) {
    // SAFETY: the frame is large enough by the asserts above, and FP is not trapped.
    untrapped(|| unsafe { penumbra_fp_save(frame) });
}

pub(crate) fn load(frame: &FpFrame) {
    // SAFETY: the frame is large enough by the asserts above, and FP is not trapped.
    untrapped(|| unsafe { penumbra_fp_load(frame) });
}
