//! Guest RAM, read through the file that backs it.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use penumbra_walkscope_model::Memory;

const READ: c_int = 1;
const SHARED: c_int = 1;

unsafe extern "C" {
    /// POSIX; QEMU is linked to the C library.
    fn mmap(
        at: *mut c_void,
        bytes: usize,
        protection: c_int,
        flags: c_int,
        file: c_int,
        offset: i64,
    ) -> *mut c_void;
}

/// The file behind the RAM, mapped for reading.
pub(crate) struct Ram {
    start: NonNull<u8>,
    bytes: u64,
    base: u64,
}

// SAFETY: the mapping is read-only and lives until the process ends.
unsafe impl Send for Ram {}

impl Ram {
    /// Maps the file; `base` is the physical address of its first byte.
    pub(crate) fn open(path: &str, base: u64) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| format!("cannot open {path}: {error}"))?;
        let length = file
            .metadata()
            .map_err(|error| format!("{path}: {error}"))?
            .len();
        let bytes = usize::try_from(length).map_err(|_| format!("{path} is too large"))?;
        // SAFETY: a new shared mapping at an address that the kernel chooses touches nothing of ours.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                READ,
                SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        // MAP_FAILED is -1.
        if start.addr() == usize::MAX {
            return Err(format!("cannot map {path}"));
        }
        let start = NonNull::new(start.cast::<u8>()).ok_or("no mapping")?;
        Ok(Self {
            start,
            bytes: length,
            base,
        })
    }
}

impl Memory for Ram {
    fn read(&self, pa: u64) -> Option<u64> {
        let offset = pa
            .checked_sub(self.base)
            .filter(|&offset| offset + 8 <= self.bytes)?;
        let offset = usize::try_from(offset & !7).ok()?;
        // SAFETY: the offset lies within the mapping.
        let at = unsafe { self.start.add(offset) };
        // SAFETY: the address is mapped and aligned to eight. The guest may write it: hence volatile.
        Some(unsafe { at.cast::<u64>().read_volatile() })
    }
}
