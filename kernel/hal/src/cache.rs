//! Cache maintenance: complete sequences only. QEMU does none of this; silicon needs it.

use core::arch::asm;

use crate::sysreg::{dsb_ish, dsb_sy, isb, sysreg};

sysreg! {
    /// CTR_EL0: cache line sizes and instruction cache policy.
    ctr_el0 = "ctr_el0": read;
    /// DCZID_EL0: block size of DC ZVA.
    dczid_el0 = "dczid_el0": read;
}

/// Executes `$instruction` with each address from `$at` to before `$end` in steps of `$step`, eight in a row
/// as long as there are.
macro_rules! each {
    ($instruction:literal, $at:ident, $end:ident, $step:ident) => {
        while $end.saturating_sub($at) >= 8 * $step {
            // SAFETY: the instruction is cache maintenance, which changes no data, or zeroes a range that
            // the caller gave.
            unsafe {
                asm!(
                    $instruction, "add {0}, {0}, {1}",
                    $instruction, "add {0}, {0}, {1}",
                    $instruction, "add {0}, {0}, {1}",
                    $instruction, "add {0}, {0}, {1}",
                    $instruction, "add {0}, {0}, {1}",
                    $instruction, "add {0}, {0}, {1}",
                    $instruction, "add {0}, {0}, {1}",
                    $instruction, "add {0}, {0}, {1}",
                    inout(reg) $at, in(reg) $step, options(nostack)
                )
            }
        }
        while $at < $end {
            // SAFETY: as above.
            unsafe { asm!($instruction, in(reg) $at, options(nostack, preserves_flags)) }
            $at = $at.saturating_add($step);
        }
    };
}

/// Bytes of the smallest data cache line of the system.
fn data_line_bytes() -> usize {
    4 << ((ctr_el0::read() >> 16) & 0xf)
}

/// Bytes of the smallest instruction cache line of the system.
fn instruction_line_bytes() -> usize {
    4 << (ctr_el0::read() & 0xf)
}

/// Whether the instruction cache is looked up by physical address only (CTR_EL0.L1Ip = PIPT).
fn instruction_cache_is_pipt() -> bool {
    (ctr_el0::read() >> 14) & 3 == 3
}

/// Cleans and invalidates `base..base + bytes` to the point of coherency.
///
/// The range is mapped at EL2; cleaning never changes what memory holds for a coherent observer.
// A symbol of its own: `bench-boot` counts it apart.
#[inline(never)]
pub fn clean_invalidate(base: usize, bytes: usize) {
    let line = data_line_bytes();
    let mut at = base & !(line - 1);
    let end = base.saturating_add(bytes);
    dsb_ish();
    each!("dc civac, {0}", at, end, line);
    dsb_sy();
}

/// From here on a range is larger than most instruction caches: to invalidate them whole is one message
/// to the other cores, by line it were one for each.
const WHOLE_CACHE_BYTES: usize = 64 * 1024;

/// Makes instructions written to `base..base + bytes` visible to fetches on every core, and to a
/// guest with its caches off: DC CIVAC to the point of coherency, then IC IVAU, or IC IALLUIS where
/// the range is large or the instruction cache is not PIPT (a guest fetches by other addresses than EL2 wrote
/// by).
// A symbol of its own: `bench-boot` counts it apart.
#[inline(never)]
pub fn publish_code(base: usize, bytes: usize) {
    clean_invalidate(base, bytes);
    if bytes < WHOLE_CACHE_BYTES && instruction_cache_is_pipt() {
        let line = instruction_line_bytes();
        let mut at = base & !(line - 1);
        let end = base.saturating_add(bytes);
        each!("ic ivau, {0}", at, end, line);
    } else {
        // SAFETY: invalidating instruction caches does not change what is executed here.
        unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) }
    }
    dsb_ish();
    isb();
}

/// What DC ZVA zeroes at once, in bytes, if the core lets EL2 use it and a range consists of such blocks.
fn zero_block(base: usize, bytes: usize) -> Option<usize> {
    let dczid = dczid_el0::read();
    let block = 4usize << (dczid & 0xf);
    (dczid & (1 << 4) == 0 && (base | bytes) & (block - 1) == 0).then_some(block)
}

/// Zeroes `base..base + bytes` by DC ZVA; `false`, and nothing is done, where that cannot be.
///
/// # Safety
/// The range is mapped Normal write-back, no reference to any of it exists, and its owner agreed.
pub unsafe fn clear(base: usize, bytes: usize) -> bool {
    let Some(block) = zero_block(base, bytes) else {
        return false;
    };
    let (mut at, end) = (base, base.saturating_add(bytes));
    each!("dc zva, {0}", at, end, block);
    true
}

/// Zeroes `base..base + bytes`, then cleans and invalidates it to the point of coherency: a guest that reads memory past the
/// caches must not find there what an earlier owner left.
///
/// # Safety
/// The range is mapped Normal write-back, no reference to any of it exists, and its owner agreed.
// A symbol of its own: `bench-boot` counts it apart.
#[inline(never)]
pub unsafe fn zero(base: usize, bytes: usize) {
    if let Some(block) = zero_block(base, bytes).filter(|block| *block == data_line_bytes()) {
        let (mut at, end) = (base, base.saturating_add(bytes));
        // Maintenance by address is in order with stores to the same line, which DC ZVA is (Arm ARM DDI 0487 L.b, D7.5).
        dsb_ish();
        each!("dc zva, {0}\ndc civac, {0}", at, end, block);
        dsb_sy();
        return;
    }
    // SAFETY: the caller gave this range.
    if !unsafe { clear(base, bytes) } {
        // SAFETY: the caller gave this range.
        unsafe {
            core::ptr::with_exposed_provenance_mut::<u8>(base).write_bytes(0, bytes);
        }
    }
    clean_invalidate(base, bytes);
}

/// Copies `bytes` to RAM at `base` and does for it what [`publish_code`] does.
///
/// # Safety
/// The target is mapped Normal write-back, no reference to any of it exists, and its owner agreed.
pub unsafe fn copy_in(base: usize, bytes: &[u8]) {
    let target = core::ptr::with_exposed_provenance_mut::<u8>(base);
    // SAFETY: the caller gave the target; a live slice cannot lie in it.
    unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    publish_code(base, bytes.len());
}

/// Exchanges the contents of two pages, and does for both what [`publish_code`] does.
///
/// # Safety
/// Both are mapped Normal write-back, no reference to any of them exists, no guest can reach them,
/// and their owner agreed. They are not the same page.
pub unsafe fn exchange_pages(a: usize, b: usize) {
    // What a guest wrote past the caches must not be hidden by stale lines.
    clean_invalidate(a, PAGE_BYTES);
    clean_invalidate(b, PAGE_BYTES);
    // SAFETY: the caller's promise.
    unsafe { exchange_words(a, b) };
    publish_code(a, PAGE_BYTES);
    publish_code(b, PAGE_BYTES);
}

/// Exchanges the contents of two pages.
///
/// # Safety
/// As of [`exchange_pages`].
// A symbol of its own: `bench-paging-events` counts it apart.
#[inline(never)]
unsafe fn exchange_words(a: usize, b: usize) {
    let (mut a, mut b) = (a, b);
    for _ in 0..PAGE_BYTES / 32 {
        // In assembly, because the compiler makes a call of each copy of more than two words.
        // SAFETY: the caller gave two pages, aligned and mapped, of which these are 32 bytes.
        unsafe {
            asm!(
                "ldp {0}, {1}, [{a}]",
                "ldp {2}, {3}, [{a}, #16]",
                "ldp {4}, {5}, [{b}]",
                "ldp {6}, {7}, [{b}, #16]",
                "stp {4}, {5}, [{a}], #16",
                "stp {6}, {7}, [{a}], #16",
                "stp {0}, {1}, [{b}], #16",
                "stp {2}, {3}, [{b}], #16",
                out(reg) _, out(reg) _, out(reg) _, out(reg) _,
                out(reg) _, out(reg) _, out(reg) _, out(reg) _,
                a = inout(reg) a, b = inout(reg) b,
                options(nostack, preserves_flags),
            );
        }
    }
}

const PAGE_BYTES: usize = 4096;
