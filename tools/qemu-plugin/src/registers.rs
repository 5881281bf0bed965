//! Reading registers of a vCPU from a callback that may.

use std::ffi::CStr;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::ffi;

/// Handles of `N` registers for each of `CORES` cores: QEMU gives each vCPU its own.
#[derive(Debug)]
pub struct Registers<const CORES: usize, const N: usize> {
    index_of: fn(&[u8]) -> Option<usize>,
    handles: [[AtomicPtr<ffi::Register>; N]; CORES],
}

impl<const CORES: usize, const N: usize> Registers<CORES, N> {
    /// No handles yet. `index_of` gives the index, below `N`, of a register that is wanted, by QEMU's name.
    #[must_use]
    pub const fn new(index_of: fn(&[u8]) -> Option<usize>) -> Self {
        Self {
            index_of,
            handles: [const { [const { AtomicPtr::new(null_mut()) }; N] }; CORES],
        }
    }

    /// Remembers the handles of a vCPU.
    ///
    /// # Safety
    /// To be called in QEMU's callback for a new vCPU.
    pub unsafe fn remember(&self, core: usize) {
        // SAFETY: QEMU allows this call in the callback for a new vCPU.
        let array = unsafe { ffi::qemu_plugin_get_registers() };
        let Some(array) = NonNull::new(array) else {
            return;
        };
        // SAFETY: QEMU returned a valid array, which is ours and stays alive.
        let array = unsafe { array.as_ref() };
        if array.len == 0 {
            return;
        }
        // SAFETY: `data` points at `len` descriptors, which GLib aligns.
        let descriptors = unsafe {
            std::slice::from_raw_parts(
                array.data.cast::<ffi::RegisterDescriptor>(),
                array.len as usize,
            )
        };
        for descriptor in descriptors {
            // SAFETY: the name of a descriptor is a C string.
            let name = unsafe { CStr::from_ptr(descriptor.name) };
            let slot = (self.index_of)(name.to_bytes())
                .and_then(|index| self.handles.get(core)?.get(index));
            if let Some(slot) = slot {
                slot.store(descriptor.handle, Ordering::Relaxed);
            }
        }
    }

    /// Reads a register; `None` if the machine has none of that name.
    ///
    /// # Safety
    /// To be called on `core`'s thread, in a callback registered with [`ffi::READS_REGISTERS`].
    #[must_use]
    pub unsafe fn read(&self, core: usize, index: usize) -> Option<u64> {
        thread_local! {
            static BUFFER: *mut ffi::ByteArray = {
                // SAFETY: the function takes nothing and returns an array that is ours.
                unsafe { ffi::g_byte_array_new() }
            };
        }
        let handle = self.handles.get(core)?.get(index)?.load(Ordering::Relaxed);
        if handle.is_null() {
            return None;
        }
        let buffer = BUFFER.with(|buffer| *buffer);
        // SAFETY: `buffer` came from `g_byte_array_new` and is used by this thread only.
        unsafe { ffi::g_byte_array_set_size(buffer, 0) };
        // SAFETY: the handle is this vCPU's, the callback asked for registers, the buffer is valid.
        let bytes = unsafe { ffi::qemu_plugin_read_register(handle, buffer) };
        let bytes = usize::try_from(bytes).ok().filter(|&n| n > 0 && n <= 8)?;
        // SAFETY: the buffer is valid.
        let data = unsafe { (*buffer).data };
        let mut value = [0; 8];
        // SAFETY: QEMU appended `bytes` bytes, at most eight.
        unsafe { std::ptr::copy_nonoverlapping(data, value.as_mut_ptr(), bytes) };
        Some(u64::from_le_bytes(value))
    }
}
