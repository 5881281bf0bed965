//! Words of RAM by physical address: tables of EL2 and of guests.
//!
//! No reference to guest memory is ever formed beyond one atomic word: guests on other cores write it
//! at any time. Each word is read once.

use core::sync::atomic::{AtomicU64, Ordering};

use penumbra_vmsa::Pa;

use crate::el2_map::ADDRESS_BITS;

/// The word at a physical address of mapped RAM.
fn word(at: Pa) -> Option<*mut u64> {
    if !at.is_aligned(8) || at.raw() >> ADDRESS_BITS != 0 || at.raw() == 0 {
        return None;
    }
    Some(core::ptr::with_exposed_provenance_mut(at.raw() as usize))
}

/// Reads the aligned 64-bit word at `at`, which the caller knows to be RAM.
///
/// # Safety
/// `at` is RAM that the direct map covers.
#[inline]
pub(crate) unsafe fn load(at: Pa, order: Ordering) -> u64 {
    let Some(pointer) = word(at) else { return 0 };
    // SAFETY: aligned, mapped by the direct map, and only ever accessed by atomic words from EL2.
    unsafe { AtomicU64::from_ptr(pointer) }.load(order)
}

/// Writes the aligned 64-bit word at `at`.
///
/// # Safety
/// `at` is RAM that the direct map covers, and no Rust object lies there.
#[inline]
pub(crate) unsafe fn store(at: Pa, value: u64, order: Ordering) {
    let Some(pointer) = word(at) else { return };
    // SAFETY: aligned, mapped by the direct map, and only ever accessed by atomic words from EL2.
    unsafe { AtomicU64::from_ptr(pointer) }.store(value, order);
}
