//! TLB maintenance of the guests' translations: complete sequences only.
//!
//! Operations by VMID act on the VMID in VTTBR_EL2, so each takes the VTTBR value of the VM it is
//! meant for and puts it in place for the moment if another is current (rule 13 of docs/rules.md). No EL1&0 walk
//! can happen meanwhile: EL2's text holds no AT instruction, which is what the speculative-AT errata
//! (Cortex-A53 1530924, A55 1530923, A57 1319537, A72 1319367, A76 1165522) need.
//!
//! A broadcast operation and its DSB are issued twice: Cortex-A76 and Neoverse N1 up to r3p0 need it
//! (erratum 1286807), and these paths are rare.

use core::arch::asm;

use penumbra_vmsa::Ipa;

use crate::sysreg::{dsb_ish, dsb_nsh, isb, vttbr_el2};

macro_rules! tlbi {
    ($operation:literal) => {
        // SAFETY: invalidating cached translations is always sound.
        unsafe { asm!(concat!("tlbi ", $operation), options(nostack, preserves_flags)) }
    };
    ($operation:literal, $operand:expr) => {
        // SAFETY: invalidating cached translations is always sound.
        unsafe {
            asm!(concat!("tlbi ", $operation, ", {}"), in(reg) $operand,
                options(nostack, preserves_flags));
        }
    };
}

/// Runs `operation` with `vttbr` in VTTBR_EL2.
fn with_vttbr(vttbr: u64, operation: impl FnOnce()) {
    let current = vttbr_el2::read();
    // Table writes before this, and accesses under the current VMID, come first.
    dsb_ish();
    if current == vttbr {
        operation();
        isb();
        return;
    }
    // SAFETY: no guest runs on this core until the current value is back.
    unsafe { vttbr_el2::write(vttbr) };
    isb();
    operation();
    isb();
    // SAFETY: the value that was current.
    unsafe { vttbr_el2::write(current) };
    isb();
}

fn all_stage1_is() {
    for _ in 0..2 {
        tlbi!("vmalle1is");
        dsb_ish();
    }
}

/// Forgets what any core cached of stage-2 leaves of `step` bytes from `start` to `end`, and of every
/// combination with stage 1 under that VMID: a combined entry survives the operation by IPA (rule 9).
pub fn invalidate_leaves(vttbr: u64, start: Ipa, end: Ipa, step: u64) {
    if step == 0 {
        return;
    }
    with_vttbr(vttbr, || {
        let mut at = start.raw();
        while at < end.raw() {
            // Bits 43:0 are the page number; TTL and NS stay 0.
            let operand = (at >> 12) & 0xfff_ffff_ffff;
            tlbi!("ipas2e1is", operand);
            at = at.saturating_add(step);
        }
        dsb_ish();
        all_stage1_is();
    });
}

/// Forgets everything that any core cached for the VMID in `vttbr`: needed before stage-2 tables are
/// freed, since walk caches hold them.
pub fn invalidate_vm(vttbr: u64) {
    with_vttbr(vttbr, || {
        for _ in 0..2 {
            tlbi!("vmalls12e1is");
            dsb_ish();
        }
    });
}

/// Before a vCPU enters a core where another of its VM ran last (rule 7): what that one left in
/// this core's TLB and instruction cache under the current VMID goes.
pub fn invalidate_local() {
    dsb_nsh();
    tlbi!("vmalle1");
    // SAFETY: invalidating instruction caches does not change what is executed here.
    unsafe { asm!("ic iallu", options(nostack, preserves_flags)) }
    dsb_nsh();
    isb();
}

/// Forgets what this core cached of stage 1 under the current VMID, and of its combinations.
pub(crate) fn invalidate_stage1_local() {
    tlbi!("vmalle1");
    dsb_nsh();
    isb();
}

/// Forgets what this core cached for an ASID under the current VMID, global entries apart.
pub(crate) fn invalidate_asid_local(asid: u64) {
    dsb_nsh();
    // ASID in bits 63:48; TTL, where there is one, is for operations by address.
    let operand = asid << 48;
    tlbi!("aside1", operand);
    dsb_nsh();
    isb();
}

/// Forgets everything of every VM on this core, at its start.
pub(crate) fn invalidate_everything_local() {
    dsb_nsh();
    tlbi!("alle1");
    dsb_nsh();
    isb();
}
