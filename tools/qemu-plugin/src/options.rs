//! The options of a plugin.

use std::ffi::{CStr, c_char, c_int};

/// The options given to `qemu_plugin_install`, as text.
///
/// # Safety
/// `argv` holds `argc` C strings.
#[must_use]
pub unsafe fn options(argc: c_int, argv: *const *const c_char) -> Vec<String> {
    let mut words = Vec::new();
    for index in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: the index is below `argc`, so the place is in the array.
        let place = unsafe { argv.add(index) };
        // SAFETY: the caller initialised the array.
        let argument = unsafe { place.read() };
        // SAFETY: the caller gives C strings.
        let text = unsafe { CStr::from_ptr(argument) };
        words.push(text.to_string_lossy().into_owned());
    }
    words
}
