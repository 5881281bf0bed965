//! The interface between EL2 and what runs below it.
//!
//! Guests and the manager meet EL2 only through this crate: function identifiers, argument
//! registers, errors, events and the states that EL2 reports. Nothing here touches hardware.
//!
//! All calls follow the SMC Calling Convention (Arm DEN 0028): the function identifier in W0,
//! arguments in X1.., results in X0... They are fast calls of the SMC64 convention in the *vendor
//! specific hypervisor* range and are made with `HVC #0`. X0 returns 0 or an [`Error`]; further
//! results are in X1 and up. A guest other than the manager gets `NOT_SUPPORTED` for every call of
//! [`Call`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod call;
mod error;
mod event;
mod paging;
mod schedule;
mod state;
mod traps;

pub use call::{CALL_BASE, Call};
pub use error::Error;
pub use event::Events;
pub use paging::{
    PAGING_BLOCKS, PAGING_NODES, PAGING_OWN_FRAMES, PAGING_RANGE, PAGING_ROOTS, PAGING_SAMPLES,
    PAGING_SPACES, PagingCounter, PagingForm, PagingMode, PagingRefusal, PagingRegion, PagingRoot,
    PagingSpace, PagingStatus, PagingSurvey, RootInstall, paging_epoch, paging_roots,
};
pub use schedule::{
    MAX_FRAME_US, MAX_WINDOWS, MIN_MANAGER_WINDOW_US, MIN_WINDOW_US, ScheduleStatus, ScheduleWindow,
};
pub use state::{
    Backing, CONSOLE_CHUNK_BYTES, CrashCause, GicVersion, MAX_CPUS, MAX_DEVICE_BYTES,
    MAX_VCPUS_PER_VM, MAX_VMS, StopReason, VmState, VmStatus, WatchdogStatus, ZERO_CHUNK_BYTES,
};
pub use traps::{TRAP_RECORDS, TrapRecord, TrapsStatus};

/// Version of this interface. The manager refuses to start on another major version.
pub const ABI_VERSION: AbiVersion = AbiVersion { major: 1, minor: 9 };

/// Version of the interface between EL2 and the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbiVersion {
    /// Changes when a caller must change with it.
    pub major: u16,
    /// Changes when calls are added.
    pub minor: u16,
}

impl AbiVersion {
    /// Packs the version into a register: major in bits 31:16, minor in bits 15:0.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        ((self.major as u64) << 16) | self.minor as u64
    }
}

/// Number of the VM that is the management partition. It always exists.
pub const MANAGER_VM: u64 = 0;

/// IPA at which EL2 puts the manager's image and its RAM. The image is linked for this address and
/// is entered at its first byte, MMU off, with X0 = [`ABI_VERSION`], X1 = this address, X2 = bytes of
/// RAM (at least 4 MiB, a multiple of 2 MiB), X3 = how often EL2 has restarted the manager so far,
/// X4 = why it did last: a [`StopReason`] in bits 7:0 and a [`CrashCause`] in bits 15:8, X5 = the PC then.
pub const MANAGER_RAM_IPA: u64 = 0x4000_0000;
/// IPA of the bundle in the manager, plus its offset in the first 4 KiB. `BootInfo` gives the address.
pub const MANAGER_BUNDLE_IPA: u64 = 0x20_0000_0000;
/// IPA of the board's device tree in the manager, plus its offset in the first 4 KiB.
pub const MANAGER_TREE_IPA: u64 = 0x18_0000_0000;
/// First IPA in the manager at which `GrantBegin` may lend it guest RAM.
pub const MANAGER_WINDOW_IPA: u64 = 0x30_0000_0000;
/// Bytes from [`MANAGER_WINDOW_IPA`] that grants may use.
pub const MANAGER_WINDOW_BYTES: u64 = 0x40_0000_0000;
