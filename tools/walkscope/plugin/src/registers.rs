//! Reading registers of a vCPU from a callback that may.

use std::ffi::{CStr, c_uint};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::ffi;
use crate::state::CORES;
use penumbra_walkscope_model::Regime;

/// The registers that are read, by QEMU's names.
const NAMES: [&[u8]; 10] = [
    b"cpsr",
    b"pc",
    b"TTBR0_EL1",
    b"TTBR1_EL1",
    b"TCR_EL1",
    b"SCTLR",
    b"HCR_EL2",
    b"VTTBR_EL2",
    b"VTCR_EL2",
    b"ESR_EL2",
];
/// Indices into [`NAMES`].
pub(crate) const CPSR: usize = 0;
pub(crate) const PC: usize = 1;
pub(crate) const ESR_EL2: usize = 9;
const FIRST_GENERAL: usize = NAMES.len();
const COUNT: usize = FIRST_GENERAL + 31;

type Handles = [AtomicPtr<ffi::Register>; COUNT];
static HANDLES: [Handles; CORES] =
    [const { [const { AtomicPtr::new(std::ptr::null_mut()) }; COUNT] }; CORES];

fn index_of(name: &[u8]) -> Option<usize> {
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return Some(index);
    }
    let number: usize = std::str::from_utf8(name.strip_prefix(b"x")?)
        .ok()?
        .parse()
        .ok()?;
    (number < 31).then_some(FIRST_GENERAL + number)
}

/// Remembers the handles of a vCPU. Only in QEMU's callback for a new vCPU.
pub(crate) fn remember(core: usize) {
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
        let slot = index_of(name.to_bytes())
            .and_then(|index| HANDLES.get(core).and_then(|handles| handles.get(index)));
        if let Some(slot) = slot {
            slot.store(descriptor.handle, Ordering::Relaxed);
        }
    }
}

/// Reads a register; 0 if the machine has none of that name.
pub(crate) fn read(core: usize, index: usize) -> u64 {
    thread_local! {
        static BUFFER: *mut ffi::ByteArray = {
            // SAFETY: the function takes nothing and returns an array that is ours.
            unsafe { ffi::g_byte_array_new() }
        };
    }
    let handle = HANDLES.get(core).and_then(|handles| handles.get(index));
    let handle = handle.map_or(std::ptr::null_mut(), |slot| slot.load(Ordering::Relaxed));
    if handle.is_null() {
        return 0;
    }
    let buffer = BUFFER.with(|buffer| *buffer);
    // SAFETY: `buffer` came from `g_byte_array_new` and is used by this thread only.
    unsafe { ffi::g_byte_array_set_size(buffer, 0) };
    // SAFETY: the handle is this vCPU's, the callback asked for registers, the buffer is valid.
    let bytes = unsafe { ffi::qemu_plugin_read_register(handle, buffer) };
    let Some(bytes) = usize::try_from(bytes).ok().filter(|&n| n > 0 && n <= 8) else {
        return 0;
    };
    // SAFETY: the buffer is valid.
    let data = unsafe { (*buffer).data };
    let mut value = [0; 8];
    // SAFETY: QEMU appended `bytes` bytes, at most eight.
    unsafe { std::ptr::copy_nonoverlapping(data, value.as_mut_ptr(), bytes) };
    u64::from_le_bytes(value)
}

/// Reads a general register; register 31 is zero.
pub(crate) fn general(core: usize, number: c_uint) -> u64 {
    if number < 31 {
        read(core, FIRST_GENERAL + number as usize)
    } else {
        0
    }
}

/// Reads the translation registers.
pub(crate) fn regime(core: usize) -> Regime {
    Regime {
        ttbr: [read(core, 2), read(core, 3)],
        tcr: read(core, 4),
        sctlr: read(core, 5),
        hcr: read(core, 6),
        vttbr: read(core, 7),
        vtcr: read(core, 8),
    }
}
