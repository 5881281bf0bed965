//! Descriptors of translation tables, by physical address.
//!
//! Walkers and other cores read them at any time, so each is one atomic word; no reference beyond that
//! word is ever formed.

use core::sync::atomic::{AtomicU64, Ordering};

use penumbra_vmsa::Pa;

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
