//! The bundle: one file that holds a compiled scenario and the payloads it names.
//!
//! The host tool writes it ([`write_bundle`], feature `std`), the boot loader puts it into memory as
//! the initrd, and the manager reads it ([`Bundle`]). The reader borrows from the bytes it is given,
//! allocates nothing, and answers every byte sequence with a value or an [`Error`]: it never panics,
//! and it never hands out a part whose SHA-256 digest is wrong.
//!
//! # Format, version 4
//! All integers are little-endian.
//!
//! | offset | bytes | header |
//! |--:|--:|---|
//! | 0 | 8 | `PENUMBRA` |
//! | 8 | 4 | format version |
//! | 12 | 4 | number of parts (1 to [`MAX_PARTS`]) |
//! | 16 | 8 | bytes of the whole bundle |
//! | 24 | 8 | 0 |
//! | 32 | 32 | SHA-256 of bytes 0 to 32 followed by the part table |
//! | 64 | 64 each | part table |
//!
//! | offset | bytes | entry of the part table |
//! |--:|--:|---|
//! | 0 | 4 | [`PartKind`] |
//! | 4 | 4 | 0 |
//! | 8 | 8 | offset in the bundle, a multiple of 4 KiB |
//! | 16 | 8 | bytes |
//! | 24 | 8 | 0 |
//! | 32 | 32 | SHA-256 of the part |
//!
//! Part 0 is the manifest and there is no other; parts lie in the order of the table and do not
//! overlap. The encoding of the manifest is described in `manifest.rs`.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![forbid(unsafe_code)]

mod bundle;
mod cursor;
mod error;
mod key;
mod manifest;
mod paging;
mod schedule;
#[cfg(test)]
mod tests;
#[cfg(feature = "std")]
mod write;

pub use bundle::{Bundle, FORMAT_VERSION, MAGIC, MAX_PARTS, PART_ALIGN_BYTES, Part, PartKind};
pub use error::{Error, Field};
pub use key::{Key, Lines};
pub use manifest::{
    Backing, DEFAULT_RESTART_DELAY_MS, DEFAULT_RESTART_LIMIT, DeviceName, Devices, Guest, Guests,
    MAX_CMDLINE_BYTES, MAX_DEVICES, MAX_GUESTS, MAX_MEMORY_BYTES, MAX_NAME_BYTES,
    MAX_RESTART_DELAY_MS, MAX_RESTART_LIMIT, MAX_VCPUS, MEMORY_UNIT_BYTES, Manifest, OnCrash,
    OnPowerOff, OnWatchdog, Payload, WhenAllOff,
};
pub use paging::{
    DEFAULT_PAGING_COPY_BYTES, MAX_PAGING_COPY_BYTES, MAX_PAGING_POOL_BYTES,
    PAGING_POOL_UNIT_BYTES, Paging, PagingChanges, PagingMode,
};
pub use schedule::{
    MAX_FRAME_US, MAX_SCHEDULES, MAX_WINDOWS, MIN_MANAGER_WINDOW_US, MIN_WINDOW_US, Schedule,
    Schedules, Window, Windows,
};
#[cfg(feature = "std")]
pub use write::{GuestSpec, PayloadFile, ScenarioSpec, ScheduleSpec, WriteError, write_bundle};
