//! The heap: the manager's RAM behind its image.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use buddy_system_allocator::Heap;
use penumbra_abi::MANAGER_RAM_IPA;
use spin::mutex::SpinMutex;

use super::mmu;

/// Sizes up to 2^31 bytes; RAM is smaller.
struct Locked(SpinMutex<Heap<32>>);

#[global_allocator]
static HEAP: Locked = Locked(SpinMutex::new(Heap::new()));

/// Hands the RAM behind the image to the heap. Called once, before the first allocation.
pub(super) fn init(ram_bytes: u64) {
    let start = mmu::heap_start();
    let end = MANAGER_RAM_IPA.saturating_add(ram_bytes);
    let (start, bytes) = (start as usize, end.saturating_sub(start) as usize);
    // SAFETY: the linker placed nothing in this range, it is RAM of ours that `mmu` mapped writable,
    // and nobody else takes it because this runs once.
    unsafe { HEAP.0.lock().init(start, bytes) }
}

// SAFETY: `Heap` hands out blocks of the range it was given, each once until it is freed, aligned and
// as large as the layout asks; the lock makes each operation whole. No interrupt can come between.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0
            .lock()
            .alloc(layout)
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller promises that `block` came from `alloc` with this layout.
            unsafe { self.0.lock().dealloc(block, layout) }
        }
    }
}
