//! The board's free RAM, as a buddy heap.
//!
//! The heap keeps its links inside the free blocks, so every block must be RAM that EL2 maps and
//! nobody else uses. It is used when VMs are created, populated or destroyed, never on a path that a
//! guest's exit has to wait for longer than one block. Freeing searches the blocks of one size for
//! the buddy: frames are freed in the sizes they were taken in, large ones, so lists stay short.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use buddy_system_allocator::Heap;
use penumbra_vmsa::{PAGE_SIZE, Pa};
use spin::mutex::SpinMutex;

/// Sizes from 2^0 to 2^38 bytes.
const ORDERS: usize = 39;

static HEAP: SpinMutex<Heap<ORDERS>> = SpinMutex::new(Heap::empty());
static FREE_BYTES: AtomicU64 = AtomicU64::new(0);

/// Adds RAM to the pool, at boot.
///
/// # Safety
/// `base..base + bytes` is RAM, mapped Normal at EL2, used by nothing, and was not added before.
pub(crate) unsafe fn add(base: u64, bytes: u64) {
    let (start, end) = (base as usize, base.saturating_add(bytes) as usize);
    if bytes < PAGE_SIZE {
        return;
    }
    // SAFETY: by the contract of this function.
    unsafe { HEAP.lock().add_to_heap(start, end) };
    FREE_BYTES.fetch_add(bytes, Ordering::Relaxed);
}

fn layout(bytes: u64) -> Option<Layout> {
    let bytes = usize::try_from(bytes).ok()?;
    if bytes < PAGE_SIZE as usize || !bytes.is_power_of_two() {
        return None;
    }
    Layout::from_size_align(bytes, bytes).ok()
}

/// Takes `bytes`, a power of two of at least 4 KiB, aligned to their size.
pub(crate) fn allocate(bytes: u64) -> Option<Pa> {
    let block = HEAP.lock().alloc(layout(bytes)?).ok()?;
    FREE_BYTES.fetch_sub(bytes, Ordering::Relaxed);
    Pa::new(block.as_ptr().addr() as u64).ok()
}

/// Blocks that [`allocate_at`] takes aside at most while it looks for the one that it wants.
const MAX_LOOK: usize = 64;

/// Takes the block of `bytes`, a power of two, at `base`, which is aligned to it, if all of it is free.
///
/// The heap has no way to ask for an address. So free blocks are taken, the largest first, until one
/// holds the range, and what is not wanted is given back. There are few large blocks: those that are
/// free merge. A pool in more than [`MAX_LOOK`] pieces of this size counts as having no room.
pub(crate) fn allocate_at(base: Pa, bytes: u64) -> bool {
    let (Some(wanted), true) = (layout(bytes), base.is_aligned(bytes)) else {
        return false;
    };
    let mut heap = HEAP.lock();
    let mut seen = [(None, wanted); MAX_LOOK];
    let mut found = None;
    let mut size = 1_u64 << (ORDERS - 1);
    let mut slots = seen.iter_mut();
    while size >= bytes && found.is_none() {
        let Some(of_size) = layout(size) else { break };
        let Ok(block) = heap.alloc(of_size) else {
            size /= 2;
            continue;
        };
        if base.raw().wrapping_sub(block.addr().get() as u64) < size {
            found = Some((block, size));
        } else if let Some(slot) = slots.next() {
            *slot = (Some(block), of_size);
        } else {
            // SAFETY: the block was allocated with this layout just now.
            unsafe { heap.dealloc(block, of_size) };
            break;
        }
    }
    for (block, of_size) in seen {
        if let Some(block) = block {
            // SAFETY: the block was allocated with this layout above, and nobody knows of it.
            unsafe { heap.dealloc(block, of_size) };
        }
    }
    let Some((block, size)) = found else {
        return false;
    };
    split(&mut heap, block, size, (base.raw(), bytes));
    FREE_BYTES.fetch_sub(bytes, Ordering::Relaxed);
    true
}

/// Gives back a block but for a range of it: halves it and gives back the half without the range, until
/// the range is left.
fn split(heap: &mut Heap<ORDERS>, block: NonNull<u8>, mut size: u64, (wanted, bytes): (u64, u64)) {
    let mut start = block.addr().get() as u64;
    while size > bytes {
        size /= 2;
        let upper = start.saturating_add(size);
        let (kept, back) = if wanted < upper {
            (start, upper)
        } else {
            (upper, start)
        };
        start = kept;
        let back = core::ptr::with_exposed_provenance_mut::<u8>(back as usize);
        if let (Some(back), Some(of_size)) = (NonNull::new(back), layout(size)) {
            // SAFETY: a half, aligned to its size, of a block that this function's caller allocated.
            unsafe { heap.dealloc(back, of_size) };
        }
    }
}

/// Gives back what [`allocate`] or [`allocate_at`] gave, or an aligned power-of-two part of it.
pub(crate) fn free(base: Pa, bytes: u64) {
    let Some(layout) = layout(bytes) else { return };
    let block = core::ptr::with_exposed_provenance_mut::<u8>(base.raw() as usize);
    let Some(block) = NonNull::new(block) else {
        return;
    };
    // SAFETY: the core logic gives back only frames that it owns, once: its frame table is the
    // only source of the addresses that reach this module.
    unsafe { HEAP.lock().dealloc(block, layout) };
    FREE_BYTES.fetch_add(bytes, Ordering::Relaxed);
}

/// Free bytes, and bytes of the largest free block.
pub(crate) fn free_bytes() -> (u64, u64) {
    let total = FREE_BYTES.load(Ordering::Relaxed);
    (total, largest(total))
}

/// Finds the largest block by taking and giving it back.
fn largest(total: u64) -> u64 {
    let mut heap = HEAP.lock();
    let mut bytes = if total == 0 { 0 } else { 1 << total.ilog2() };
    while bytes >= PAGE_SIZE {
        if let Some(layout) = layout(bytes)
            && let Ok(block) = heap.alloc(layout)
        {
            // SAFETY: the block was allocated with this layout in the line above.
            unsafe { heap.dealloc(block, layout) };
            return bytes;
        }
        bytes /= 2;
    }
    0
}
