//! Descriptors of translation tables, by physical address.
//!
//! Walkers and other cores read them at any time, so each is one atomic word; no reference beyond that
//! word is ever formed.

use core::sync::atomic::{AtomicU64, Ordering};

use penumbra_vmsa::Pa;

use crate::cache;
use crate::el2_map::ADDRESS_BITS;

/// The word at a physical address that the direct map can cover.
#[inline]
fn word(at: Pa) -> Option<*mut u64> {
    if !at.is_aligned(8) || at.raw() >> ADDRESS_BITS != 0 || at.raw() == 0 {
        return None;
    }
    Some(core::ptr::with_exposed_provenance_mut(at.raw() as usize))
}

/// Reads the descriptor at `at`; 0, an invalid one, where there can be none.
///
/// # Safety
/// `at` lies in a frame that EL2 owns and that holds a table.
#[inline]
pub(crate) unsafe fn load(at: Pa) -> u64 {
    let Some(pointer) = word(at) else { return 0 };
    // SAFETY: aligned, mapped by the direct map, and only ever accessed by atomic words.
    unsafe { AtomicU64::from_ptr(pointer) }.load(Ordering::Acquire)
}

/// Descriptors that are read between two looks at whether there are more.
const ROW: usize = 8;
/// Bytes of a table.
const TABLE_BYTES: u64 = 4096;

/// Hands `each` the descriptors of a row, in turn, read without order.
///
/// # Safety
/// `first` points at [`ROW`] words of a frame that EL2 owns and that holds a table.
// Written out: the hal is compiled for size, which leaves loops as they are.
#[inline(always)]
unsafe fn for_row(first: *mut u64, mut each: impl FnMut(u64)) {
    let load = |index| {
        // SAFETY: the caller gave this word and those before it.
        let at = unsafe { first.add(index) };
        // SAFETY: aligned, mapped by the direct map, and only ever accessed by atomic words.
        unsafe { AtomicU64::from_ptr(at) }.load(Ordering::Relaxed)
    };
    each(load(0));
    each(load(1));
    each(load(2));
    each(load(3));
    each(load(4));
    each(load(5));
    each(load(6));
    each(load(7));
}

const _: () = assert!(ROW == 8, "`for_row` names each word");

/// Of `count` descriptors in a row, a multiple of [`ROW`], the first at `first`: the bits in which any differs from
/// what it would be if the first were `wanted` and each added `step`. All bits where there can be no such row.
///
/// # Safety
/// `first` lies in a frame that EL2 owns and that holds a table.
#[inline(never)]
pub(crate) unsafe fn differences(first: Pa, count: u64, wanted: u64, step: u64) -> u64 {
    let room = TABLE_BYTES.wrapping_sub(first.raw() % TABLE_BYTES) / 8;
    let Some(mut at) = word(first).filter(|_| count <= room) else {
        return u64::MAX;
    };
    let (mut differ, mut wanted) = (0, wanted);
    for _ in 0..count / ROW as u64 {
        let each = |raw: u64| {
            differ |= raw ^ wanted;
            wanted = wanted.wrapping_add(step);
        };
        // SAFETY: `count` words from `first` on lie in its frame, and this many are left.
        unsafe { for_row(at, each) };
        // SAFETY: at most one behind the frame's last word.
        at = unsafe { at.add(ROW) };
    }
    differ
}

/// Of 64 descriptors in a row, the first at `first`, aligned to all of them, a bit for each that equals `wanted` in the
/// bits of `mask`. None where there can be no such row.
///
/// # Safety
/// As of [`differences`].
#[inline(never)]
pub(crate) unsafe fn equal(first: Pa, wanted: u64, mask: u64) -> u64 {
    const BITS: usize = u64::BITS as usize;
    let Some(mut at) = word(first).filter(|_| first.is_aligned(8 * BITS as u64)) else {
        return 0;
    };
    let mut found: u64 = 0;
    for _ in 0..BITS / ROW {
        let each = |raw: u64| {
            found = found >> 1 | u64::from((raw ^ wanted) & mask == 0) << (BITS - 1);
        };
        // SAFETY: 64 words from `first` on lie in its frame, which its alignment divides.
        unsafe { for_row(at, each) };
        // SAFETY: at most one behind the frame's last word.
        at = unsafe { at.add(ROW) };
    }
    found
}

/// Writes the descriptor at `at`, with release order: a walker that sees a table descriptor also sees
/// the table.
///
/// # Safety
/// `at` lies in a frame that EL2 owns and that holds a table.
#[inline]
pub(crate) unsafe fn store(at: Pa, value: u64) {
    let Some(pointer) = word(at) else { return };
    // SAFETY: aligned, mapped by the direct map, and only ever accessed by atomic words.
    unsafe { AtomicU64::from_ptr(pointer) }.store(value, Ordering::Release);
}

/// Writes `count` descriptors in a row, a multiple of [`ROW`]: `value` at `first`, and each `step` above the one before.
/// Nothing where there can be no such row.
///
/// # Safety
/// `first` lies in a frame that EL2 owns and that holds a table which no walker and no other core knows yet.
#[inline(never)]
pub(crate) unsafe fn fill(first: Pa, count: u64, value: u64, step: u64) {
    let room = TABLE_BYTES.wrapping_sub(first.raw() % TABLE_BYTES) / 8;
    let Some(mut at) = word(first).filter(|_| count <= room) else {
        return;
    };
    if value | step == 0 {
        let bytes = usize::try_from(count.wrapping_mul(8)).unwrap_or(0);
        // SAFETY: `count` words from `first` on lie in its frame, and nobody else knows them.
        if unsafe { cache::clear(at.addr(), bytes) } {
            return;
        }
    }
    let mut value = value;
    for _ in 0..count / ROW as u64 {
        // Written out: at this crate's level a loop over eight words remains one, on the stack, and two copies.
        let nth = |index: u64| value.wrapping_add(step.wrapping_mul(index));
        let row: [u64; ROW] = [
            nth(0),
            nth(1),
            nth(2),
            nth(3),
            nth(4),
            nth(5),
            nth(6),
            nth(7),
        ];
        // SAFETY: `count` words from `first` on lie in its frame, this many are left, and nobody else knows them.
        unsafe { at.cast::<[u64; ROW]>().write(row) };
        value = value.wrapping_add(step.wrapping_mul(ROW as u64));
        // SAFETY: at most one behind the frame's last word.
        at = unsafe { at.add(ROW) };
    }
}
