//! The manifest: a compiled scenario.
//!
//! Encoding, fields in order, little-endian; a *text* is a 16-bit length and UTF-8 without control
//! characters:
//! - text file name of the scenario, u8 [`WhenAllOff`], u32 line of it (0: left out), u8 number of guests;
//! - per guest: text name, [`Key::COUNT`] times u32 line, u8 vCPUs, u8 core for each vCPU,
//!   u64 memory bytes, u8 [`Backing`], u64 quota bytes, u32 part and text file name of the kernel,
//!   u32 part (0: none) and text file name of the initrd, text command line,
//!   u8 [`Payload`] and u64 entry offset, u8 [`OnCrash`], u8 [`OnPowerOff`], u32 restart limit, u32 first
//!   restart delay in milliseconds, u8 autostart (0 or 1), [`Paging`], u64 address of direct memory, u8 DMA
//!   trusted (0 or 1), u8 number of devices, and for each u32 line and text path, u8 watchdog (0: none,
//!   1 + [`OnWatchdog`]);
//! - the schedules of cores ([`Schedules`]).

use crate::bundle::{Bundle, PartKind};
use crate::cursor::Cursor;
use crate::error::{Error, Field};
use crate::key::{Key, Lines};
use crate::paging::Paging;
use crate::schedule::Schedules;

/// Guests at most: EL2 has room for 8 VMs and one is the manager.
pub const MAX_GUESTS: u8 = 7;
/// vCPUs of one guest at most.
pub const MAX_VCPUS: u8 = 8;
/// Bytes of a guest's name at most.
pub const MAX_NAME_BYTES: usize = 32;
/// Bytes of a command line at most: Linux takes 2047 and a NUL (`COMMAND_LINE_SIZE`).
pub const MAX_CMDLINE_BYTES: usize = 2047;
/// Memory and quotas are multiples of this.
pub const MEMORY_UNIT_BYTES: u64 = 2 << 20;
/// Memory of one guest at most: what lies between the start of RAM in a guest (1 GiB) and the window
/// that EL2 keeps for itself (512 GiB).
pub const MAX_MEMORY_BYTES: u64 = (512 - 1) << 30;
/// First address that no guest can use.
const GUEST_END: u64 = 512 << 30;
/// Devices of one guest at most.
pub const MAX_DEVICES: usize = 64;

/// How a guest's memory is backed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// Allocated and mapped at start, with the largest blocks possible.
    #[default]
    Reserved,
    /// Populated when it is touched, against a quota.
    Thin,
    /// The board's RAM at the address where the guest sees it.
    Direct,
}

/// What the kernel part is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// An arm64 Linux Image, started as its boot protocol says.
    #[default]
    Linux,
    /// A flat binary, put at the start of RAM and entered `entry` bytes behind its start with the
    /// address of the device tree in X0.
    Flat {
        /// Offset of the first instruction.
        entry: u64,
    },
}

/// Restarts in a row at most, if the scenario does not say.
pub const DEFAULT_RESTART_LIMIT: u32 = 3;
/// Restarts in a row that a scenario can allow at most.
pub const MAX_RESTART_LIMIT: u32 = 1000;
/// Milliseconds before the first restart of a row, if the scenario does not say.
pub const DEFAULT_RESTART_DELAY_MS: u32 = 500;
/// Milliseconds before a restart at most, also when the delay has doubled.
pub const MAX_RESTART_DELAY_MS: u32 = 60_000;

/// What to do when a guest has crashed and its report is out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCrash {
    /// Leave it as it is, for inspection.
    #[default]
    Stay,
    /// Load it anew and start it.
    Restart,
    /// Power the board off, in disorder.
    PowerOff,
}

/// What to do when a guest has switched itself off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPowerOff {
    /// Free it; it stays off.
    #[default]
    Stay,
    /// Load it anew and start it.
    Restart,
    /// Power the board off.
    PowerOff,
}

/// What to do when a guest's watchdog has expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnWatchdog {
    /// Leave it as it is, for inspection.
    Stay,
    /// Load it anew and start it.
    #[default]
    Restart,
    /// Power the board off, in disorder.
    PowerOff,
}

/// What to do when no guest runs any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenAllOff {
    /// Power the board off.
    #[default]
    PowerOff,
    /// Keep the board on.
    Wait,
}

/// A compiled scenario, borrowed from a bundle and checked.
#[derive(Clone, Copy, Debug)]
pub struct Manifest<'a> {
    /// Name of the scenario's file, for reports.
    pub file: &'a str,
    /// What to do when no guest runs any more.
    pub when_all_off: WhenAllOff,
    /// Line of `when_all_off`, 0 if it is left out.
    pub when_all_off_line: u32,
    guest_count: u8,
    guests: Cursor<'a>,
    schedules: Schedules<'a>,
}

/// One guest of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest<'a> {
    /// Its name, unique in the scenario.
    pub name: &'a str,
    /// Where its keys stand in the scenario.
    pub lines: Lines,
    /// The core of each vCPU; one entry for each.
    pub cores: &'a [u8],
    /// Memory, a multiple of [`MEMORY_UNIT_BYTES`].
    pub memory_bytes: u64,
    /// How it is backed.
    pub backing: Backing,
    /// Memory that it may use at once; `memory_bytes` if it is reserved.
    pub quota_bytes: u64,
    /// Part that holds the kernel.
    pub kernel: u32,
    /// Name of the kernel's file, for reports.
    pub kernel_file: &'a str,
    /// Part that holds the initial RAM disk, if there is one.
    pub initrd: Option<u32>,
    /// Name of the RAM disk's file, for reports.
    pub initrd_file: &'a str,
    /// Command line.
    pub cmdline: &'a str,
    /// What the kernel part is.
    pub payload: Payload,
    /// What to do when it crashes.
    pub on_crash: OnCrash,
    /// What to do when it has switched itself off.
    pub on_power_off: OnPowerOff,
    /// Restarts in a row at most, [`OnCrash::Restart`] and [`OnPowerOff::Restart`] together.
    pub restart_limit: u32,
    /// Milliseconds before the first restart of a row; they double with each further one.
    pub restart_delay_ms: u32,
    /// Whether it is started with the board.
    pub autostart: bool,
    /// Its translation tables.
    pub paging: Paging,
    /// Where its memory is, on the board and in the guest, if that is [`Backing::Direct`]; else 0.
    pub address: u64,
    /// It may have bus masters that no IOMMU holds.
    pub dma_trusted: bool,
    /// Devices of the board that it has.
    pub devices: Devices<'a>,
    /// What to do when its watchdog expires, if it has one.
    pub watchdog: Option<OnWatchdog>,
}

impl<'a> Manifest<'a> {
    /// Reads and checks a whole manifest.
    pub(crate) fn parse(bytes: &'a [u8], bundle: &Bundle<'a>) -> Result<Self, Error> {
        let mut cursor = Cursor::new(bytes);
        let file = cursor.str(Field::File)?;
        let when_all_off = match cursor.u8(Field::WhenAllOff)? {
            0 => WhenAllOff::PowerOff,
            1 => WhenAllOff::Wait,
            _ => return Err(Error::ManifestValue(Field::WhenAllOff)),
        };
        let when_all_off_line = cursor.u32(Field::WhenAllOff)?;
        let guest_count = cursor.u8(Field::GuestCount)?;
        if guest_count == 0 || guest_count > MAX_GUESTS {
            return Err(Error::ManifestValue(Field::GuestCount));
        }
        let mut manifest = Self {
            file,
            when_all_off,
            when_all_off_line,
            guest_count,
            guests: cursor,
            schedules: Schedules::NONE,
        };
        for position in 0..guest_count {
            let guest = Guest::read(&mut cursor)?;
            guest.check(bundle)?;
            if manifest
                .guests()
                .take(usize::from(position))
                .any(|other| other.name == guest.name)
            {
                return Err(Error::DuplicateName);
            }
        }
        manifest.schedules = Schedules::read(&mut cursor, guest_count)?;
        if !cursor.is_empty() {
            return Err(Error::ManifestLong);
        }
        Ok(manifest)
    }

    /// Number of guests.
    #[must_use]
    pub const fn guest_count(&self) -> u8 {
        self.guest_count
    }

    /// The schedules of cores.
    #[must_use]
    pub const fn schedules(&self) -> Schedules<'a> {
        self.schedules
    }

    /// The guests, in the order of the scenario.
    #[must_use]
    pub const fn guests(&self) -> Guests<'a> {
        Guests {
            left: self.guest_count,
            cursor: self.guests,
        }
    }
}

/// Iterator over the guests of a manifest.
#[derive(Clone, Debug)]
pub struct Guests<'a> {
    left: u8,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Guests<'a> {
    type Item = Guest<'a>;

    fn next(&mut self) -> Option<Guest<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The bytes were read once when the manifest was checked, so this cannot fail.
        Guest::read(&mut self.cursor).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

/// A device of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceName<'a> {
    /// Line of the scenario that names it.
    pub line: u32,
    /// Path in the board's device tree.
    pub path: &'a str,
}

/// Iterator over the devices of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices<'a> {
    left: u8,
    cursor: Cursor<'a>,
}

impl<'a> Devices<'a> {
    /// No device.
    pub const NONE: Self = Self {
        left: 0,
        cursor: Cursor::new(&[]),
    };

    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        let left = cursor.u8(Field::Devices)?;
        if usize::from(left) > MAX_DEVICES {
            return Err(Error::ManifestValue(Field::Devices));
        }
        let devices = Self {
            left,
            cursor: *cursor,
        };
        for _ in 0..left {
            let device = Self::one(cursor)?;
            if !device.path.starts_with('/') {
                return Err(Error::ManifestText(Field::Devices));
            }
        }
        Ok(devices)
    }

    fn one(cursor: &mut Cursor<'a>) -> Result<DeviceName<'a>, Error> {
        Ok(DeviceName {
            line: cursor.u32(Field::Devices)?,
            path: cursor.str(Field::Devices)?,
        })
    }
}

impl<'a> Iterator for Devices<'a> {
    type Item = DeviceName<'a>;

    fn next(&mut self) -> Option<DeviceName<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The bytes were read once when the manifest was checked, so this cannot fail.
        Self::one(&mut self.cursor).ok()
    }
}

impl<'a> Guest<'a> {
    /// Number of vCPUs.
    #[must_use]
    pub const fn vcpus(&self) -> usize {
        self.cores.len()
    }

    /// Reads one guest; ranges that need no other data are checked here.
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        let name = cursor.str(Field::Name)?;
        let mut lines = Lines::NONE;
        for key in Key::ALL {
            lines.set(key, cursor.u32(Field::Lines)?);
        }
        let vcpus = cursor.u8(Field::Vcpus)?;
        let cores = cursor.bytes(usize::from(vcpus), Field::Cores)?;
        let memory_bytes = cursor.u64(Field::Memory)?;
        let backing = match cursor.u8(Field::Backing)? {
            0 => Backing::Reserved,
            1 => Backing::Thin,
            2 => Backing::Direct,
            _ => return Err(Error::ManifestValue(Field::Backing)),
        };
        let quota_bytes = cursor.u64(Field::Quota)?;
        let kernel = cursor.u32(Field::Kernel)?;
        let kernel_file = cursor.str(Field::Kernel)?;
        let initrd = cursor.u32(Field::Initrd)?;
        let initrd_file = cursor.str(Field::Initrd)?;
        let cmdline = cursor.str(Field::Cmdline)?;
        let payload = match (cursor.u8(Field::Payload)?, cursor.u64(Field::Payload)?) {
            (0, 0) => Payload::Linux,
            (1, entry) => Payload::Flat { entry },
            _ => return Err(Error::ManifestValue(Field::Payload)),
        };
        let on_crash = match cursor.u8(Field::OnCrash)? {
            0 => OnCrash::Stay,
            1 => OnCrash::Restart,
            2 => OnCrash::PowerOff,
            _ => return Err(Error::ManifestValue(Field::OnCrash)),
        };
        let on_power_off = match cursor.u8(Field::OnPowerOff)? {
            0 => OnPowerOff::Stay,
            1 => OnPowerOff::Restart,
            2 => OnPowerOff::PowerOff,
            _ => return Err(Error::ManifestValue(Field::OnPowerOff)),
        };
        let restart_limit = cursor.u32(Field::RestartLimit)?;
        let restart_delay_ms = cursor.u32(Field::RestartDelay)?;
        let autostart = match cursor.u8(Field::Autostart)? {
            0 => false,
            1 => true,
            _ => return Err(Error::ManifestValue(Field::Autostart)),
        };
        let paging = Paging::read(cursor)?;
        let address = cursor.u64(Field::Address)?;
        let dma_trusted = match cursor.u8(Field::Dma)? {
            0 => false,
            1 => true,
            _ => return Err(Error::ManifestValue(Field::Dma)),
        };
        let devices = Devices::read(cursor)?;
        let watchdog = match cursor.u8(Field::Watchdog)? {
            0 => None,
            1 => Some(OnWatchdog::Stay),
            2 => Some(OnWatchdog::Restart),
            3 => Some(OnWatchdog::PowerOff),
            _ => return Err(Error::ManifestValue(Field::Watchdog)),
        };
        Ok(Self {
            name,
            lines,
            cores,
            memory_bytes,
            backing,
            quota_bytes,
            kernel,
            kernel_file,
            initrd: (initrd != 0).then_some(initrd),
            initrd_file,
            cmdline,
            payload,
            on_crash,
            on_power_off,
            restart_limit,
            restart_delay_ms,
            autostart,
            paging,
            address,
            dma_trusted,
            devices,
            watchdog,
        })
    }

    /// Checks every range, and that the parts exist and are what they are used as.
    fn check(&self, bundle: &Bundle<'a>) -> Result<(), Error> {
        let memory_ok = |bytes: u64| {
            bytes != 0 && bytes <= MAX_MEMORY_BYTES && bytes.is_multiple_of(MEMORY_UNIT_BYTES)
        };
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES {
            return Err(Error::ManifestText(Field::Name));
        }
        if self.cores.is_empty() || self.cores.len() > usize::from(MAX_VCPUS) {
            return Err(Error::ManifestValue(Field::Vcpus));
        }
        if !memory_ok(self.memory_bytes) {
            return Err(Error::ManifestValue(Field::Memory));
        }
        let quota_ok = match self.backing {
            Backing::Reserved | Backing::Direct => self.quota_bytes == self.memory_bytes,
            Backing::Thin => memory_ok(self.quota_bytes) && self.quota_bytes <= self.memory_bytes,
        };
        if !quota_ok {
            return Err(Error::ManifestValue(Field::Quota));
        }
        let direct = self.backing == Backing::Direct;
        let address_ok = if direct {
            self.address.is_multiple_of(MEMORY_UNIT_BYTES)
                && self
                    .address
                    .checked_add(self.memory_bytes)
                    .is_some_and(|end| end <= GUEST_END)
        } else {
            self.address == 0
        };
        if !address_ok {
            return Err(Error::ManifestValue(Field::Address));
        }
        if self.cmdline.len() > MAX_CMDLINE_BYTES {
            return Err(Error::ManifestText(Field::Cmdline));
        }
        if self.restart_limit == 0 || self.restart_limit > MAX_RESTART_LIMIT {
            return Err(Error::ManifestValue(Field::RestartLimit));
        }
        if self.restart_delay_ms > MAX_RESTART_DELAY_MS {
            return Err(Error::ManifestValue(Field::RestartDelay));
        }
        self.paging.check()?;
        let kernel = bundle.part(self.kernel)?;
        if kernel.kind() != PartKind::Kernel {
            return Err(Error::ManifestValue(Field::Kernel));
        }
        if let Some(initrd) = self.initrd
            && bundle.part(initrd)?.kind() != PartKind::Initrd
        {
            return Err(Error::ManifestValue(Field::Initrd));
        }
        match self.payload {
            Payload::Flat { entry } if entry >= crate::bundle::as_u64(kernel.len()) => {
                Err(Error::ManifestValue(Field::Payload))
            }
            _ => Ok(()),
        }
    }
}
