//! Why a bundle is refused.

use core::fmt;

use crate::bundle::{FORMAT_VERSION, MAX_PARTS};

/// A field of the manifest, for [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The scenario's file name.
    File,
    /// What to do when no guest runs any more.
    WhenAllOff,
    /// The number of guests.
    GuestCount,
    /// A guest's name.
    Name,
    /// The lines of a guest's keys.
    Lines,
    /// The number of vCPUs.
    Vcpus,
    /// The cores of the vCPUs.
    Cores,
    /// The bytes of memory.
    Memory,
    /// How memory is backed.
    Backing,
    /// The quota of a thin guest.
    Quota,
    /// The kernel's part.
    Kernel,
    /// The initrd's part.
    Initrd,
    /// The command line.
    Cmdline,
    /// The kind of payload.
    Payload,
    /// What to do when a guest crashes.
    OnCrash,
    /// What to do when a guest has switched itself off.
    OnPowerOff,
    /// Restarts in a row at most.
    RestartLimit,
    /// The delay before a restart.
    RestartDelay,
    /// Whether a guest is started with the board.
    Autostart,
    /// The paging mode.
    Paging,
    /// When a guest's tables may change.
    PagingChanges,
    /// The memory for mirror tables.
    PagingPool,
    /// The bytes that may be moved each second.
    PagingCopy,
    /// Where the board has the guest's memory.
    Address,
    /// Whether bus masters are trusted.
    Dma,
    /// The list of devices.
    Devices,
    /// The watchdog and what to do when it expires.
    Watchdog,
    /// The schedules of cores.
    Schedule,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "scenario file name",
            Self::WhenAllOff => "when_all_off",
            Self::GuestCount => "number of guests",
            Self::Name => "name",
            Self::Lines => "line numbers",
            Self::Vcpus => "vcpus",
            Self::Cores => "cores",
            Self::Memory => "memory",
            Self::Backing => "backing",
            Self::Quota => "quota",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Cmdline => "cmdline",
            Self::Payload => "payload",
            Self::OnCrash => "on_crash",
            Self::OnPowerOff => "on_power_off",
            Self::RestartLimit => "restart_limit",
            Self::RestartDelay => "restart_delay",
            Self::Autostart => "autostart",
            Self::Paging => "paging",
            Self::PagingChanges => "paging_changes",
            Self::PagingPool => "paging_pool",
            Self::PagingCopy => "paging_copy",
            Self::Address => "address",
            Self::Dma => "dma",
            Self::Devices => "devices",
            Self::Watchdog => "watchdog",
            Self::Schedule => "schedule",
        })
    }
}

/// Why a bundle, a part of it or its manifest is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Error {
    /// The bytes do not start with the magic number.
    NotABundle,
    /// Fewer bytes are there than the header or the header's total needs.
    Truncated {
        /// Bytes that are there.
        have: u64,
        /// Bytes that should be there.
        need: u64,
    },
    /// The format version is not ours.
    Version(u32),
    /// No parts, or too many.
    PartCount(u32),
    /// The header or the part table does not have the digest that the header states.
    TableDigest,
    /// A field of the header that must be 0 is not.
    HeaderReserved,
    /// A field of a table entry that must be 0 is not.
    PartReserved(u32),
    /// A part has a kind that this version does not know.
    PartKind {
        /// Number of the part.
        part: u32,
        /// Its kind.
        kind: u32,
    },
    /// A part does not lie on a 4 KiB boundary behind the table and its predecessor.
    PartOffset(u32),
    /// A part reaches beyond the end of the bundle.
    PartBounds(u32),
    /// A part does not have its digest.
    PartDigest(u32),
    /// There is no such part.
    NoSuchPart(u32),
    /// Part 0 is not a manifest, or another part is.
    ManifestPlace,
    /// The manifest ends within a field.
    ManifestShort(Field),
    /// Bytes follow the last field of the manifest.
    ManifestLong,
    /// A text is not UTF-8, holds control characters, is empty or too long.
    ManifestText(Field),
    /// A value is out of range.
    ManifestValue(Field),
    /// Two guests have the same name.
    DuplicateName,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotABundle => {
                f.write_str("this is not a bundle: it does not start with PENUMBRA")
            }
            Self::Truncated { have, need } => {
                write!(
                    f,
                    "the bundle is cut short: {have} bytes are there, {need} are needed"
                )
            }
            Self::Version(found) => write!(
                f,
                "the bundle has format version {found}, this manager reads version {FORMAT_VERSION}"
            ),
            Self::PartCount(count) => {
                write!(
                    f,
                    "the bundle names {count} parts, 1 to {MAX_PARTS} are allowed"
                )
            }
            Self::TableDigest => {
                f.write_str("the bundle's header or part table is damaged (digest)")
            }
            Self::HeaderReserved => f.write_str("a reserved field of the bundle's header is not 0"),
            Self::PartReserved(part) => write!(f, "a reserved field of part {part} is not 0"),
            Self::PartKind { part, kind } => write!(f, "part {part} has the unknown kind {kind}"),
            Self::PartOffset(part) => write!(f, "part {part} is not at a valid offset"),
            Self::PartBounds(part) => write!(f, "part {part} reaches beyond the end of the bundle"),
            Self::PartDigest(part) => write!(f, "part {part} is damaged: its digest is wrong"),
            Self::NoSuchPart(part) => write!(f, "there is no part {part}"),
            Self::ManifestPlace => f.write_str("part 0, and only part 0, must be the manifest"),
            Self::ManifestShort(field) => write!(f, "the manifest ends within `{field}`"),
            Self::ManifestLong => f.write_str("bytes follow the end of the manifest"),
            Self::ManifestText(field) => write!(f, "the manifest's `{field}` is not a valid text"),
            Self::ManifestValue(field) => write!(f, "the manifest's `{field}` is out of range"),
            Self::DuplicateName => f.write_str("two guests have the same name"),
        }
    }
}

impl core::error::Error for Error {}
