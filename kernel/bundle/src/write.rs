//! Writing a bundle, on the host.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};

use crate::bundle::{Bundle, HEADER_DIGESTED_BYTES, PartKind};
use crate::bundle::{ENTRY_BYTES, FORMAT_VERSION, HEADER_BYTES, MAGIC, PART_ALIGN_BYTES, as_u64};
use crate::error::Error;
use crate::key::{Key, Lines};
use crate::manifest::{Backing, OnCrash, OnPowerOff, OnWatchdog, Payload, WhenAllOff};
use crate::paging::Paging;
use crate::schedule::Window;

/// A payload's file: what it is called in reports, and its content.
#[derive(Clone, Debug)]
pub struct PayloadFile<'a> {
    /// Name for reports.
    pub name: String,
    /// Content.
    pub bytes: Cow<'a, [u8]>,
}

/// One guest to be written. The fields mean what they mean in [`Guest`](crate::Guest).
#[derive(Clone, Debug)]
pub struct GuestSpec<'a> {
    /// Its name.
    pub name: String,
    /// Where its keys stand in the scenario.
    pub lines: Lines,
    /// The core of each vCPU; one entry for each.
    pub cores: Vec<u8>,
    /// Memory.
    pub memory_bytes: u64,
    /// How it is backed.
    pub backing: Backing,
    /// Memory that it may use at once, for [`Backing::Thin`]; `None`: all of `memory_bytes`.
    pub quota_bytes: Option<u64>,
    /// Kernel.
    pub kernel: PayloadFile<'a>,
    /// Initial RAM disk.
    pub initrd: Option<PayloadFile<'a>>,
    /// Command line.
    pub cmdline: String,
    /// What the kernel is.
    pub payload: Payload,
    /// What to do when it crashes.
    pub on_crash: OnCrash,
    /// What to do when it has switched itself off.
    pub on_power_off: OnPowerOff,
    /// Restarts in a row at most.
    pub restart_limit: u32,
    /// Milliseconds before the first restart of a row.
    pub restart_delay_ms: u32,
    /// Whether it is started with the board.
    pub autostart: bool,
    /// Its translation tables.
    pub paging: Paging,
    /// Where its memory is, for [`Backing::Direct`]; else 0.
    pub address: u64,
    /// It may have bus masters that no IOMMU holds.
    pub dma_trusted: bool,
    /// Paths of its devices, each with its line.
    pub devices: Vec<(u32, String)>,
    /// What to do when its watchdog expires, if it has one.
    pub watchdog: Option<OnWatchdog>,
}

/// A scenario to be written.
#[derive(Clone, Debug)]
pub struct ScenarioSpec<'a> {
    /// Name of the scenario's file, for reports.
    pub file: String,
    /// What to do when no guest runs any more.
    pub when_all_off: WhenAllOff,
    /// Line of `when_all_off`, 0 if it is left out.
    pub when_all_off_line: u32,
    /// The guests.
    pub guests: Vec<GuestSpec<'a>>,
    /// The schedules of cores.
    pub schedules: Vec<ScheduleSpec>,
}

/// The schedule of a core to be written, as in [`Schedule`](crate::Schedule).
#[derive(Clone, Debug)]
pub struct ScheduleSpec {
    /// Its line in the scenario.
    pub line: u32,
    /// The core.
    pub core: u8,
    /// Microseconds of its frame.
    pub frame_us: u32,
    /// Its windows.
    pub windows: Vec<Window>,
}

/// Why a bundle could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// A text is longer than 65535 bytes, or there are more than 255 of something.
    TooLong(&'static str),
    /// The reader would refuse the result.
    Refused(Error),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(what) => write!(f, "too long for a bundle: {what}"),
            Self::Refused(error) => write!(f, "the manager would refuse this bundle: {error}"),
        }
    }
}

impl std::error::Error for WriteError {}

/// Writes a bundle. Equal payloads are stored once. The result has been read back: what this returns
/// is a bundle that [`Bundle`] accepts.
///
/// # Errors
/// What cannot be encoded, or what the reader would refuse.
pub fn write_bundle(scenario: &ScenarioSpec<'_>) -> Result<Vec<u8>, WriteError> {
    let mut parts: Vec<(PartKind, &[u8])> = vec![(PartKind::Manifest, &[])];
    let manifest = encode_manifest(scenario, &mut parts)?;
    if let Some(first) = parts.first_mut() {
        first.1 = &manifest;
    }
    let bundle = assemble(&parts)?;
    Bundle::parse(&bundle)
        .and_then(|b| b.manifest())
        .map_err(WriteError::Refused)?;
    Ok(bundle)
}

fn encode_manifest<'a>(
    scenario: &'a ScenarioSpec<'_>,
    parts: &mut Vec<(PartKind, &'a [u8])>,
) -> Result<Vec<u8>, WriteError> {
    let mut out = Vec::new();
    text(&mut out, &scenario.file, "the scenario's file name")?;
    out.push(match scenario.when_all_off {
        WhenAllOff::PowerOff => 0,
        WhenAllOff::Wait => 1,
    });
    out.extend(scenario.when_all_off_line.to_le_bytes());
    out.push(narrow(scenario.guests.len(), "the list of guests")?);
    for guest in &scenario.guests {
        encode_guest(&mut out, guest, parts)?;
    }
    out.push(narrow(scenario.schedules.len(), "the list of schedules")?);
    for schedule in &scenario.schedules {
        out.extend(schedule.line.to_le_bytes());
        out.push(schedule.core);
        out.extend(schedule.frame_us.to_le_bytes());
        out.push(narrow(schedule.windows.len(), "the list of windows")?);
        for window in &schedule.windows {
            out.extend(window.line.to_le_bytes());
            out.push(window.guest.map_or(0, |guest| guest.saturating_add(1)));
            out.extend(window.us.to_le_bytes());
        }
    }
    Ok(out)
}

fn encode_guest<'a>(
    out: &mut Vec<u8>,
    guest: &'a GuestSpec<'_>,
    parts: &mut Vec<(PartKind, &'a [u8])>,
) -> Result<(), WriteError> {
    text(out, &guest.name, "a guest's name")?;
    for key in Key::ALL {
        out.extend(guest.lines.get(key).unwrap_or(0).to_le_bytes());
    }
    out.push(narrow(guest.cores.len(), "the list of cores")?);
    out.extend(&guest.cores);
    out.extend(guest.memory_bytes.to_le_bytes());
    let (backing, quota) = match guest.backing {
        Backing::Reserved => (0, guest.memory_bytes),
        Backing::Direct => (2, guest.memory_bytes),
        Backing::Thin => (1, guest.quota_bytes.unwrap_or(guest.memory_bytes)),
    };
    out.push(backing);
    out.extend(quota.to_le_bytes());
    out.extend(part_of(parts, PartKind::Kernel, &guest.kernel.bytes)?.to_le_bytes());
    text(out, &guest.kernel.name, "the kernel's file name")?;
    match &guest.initrd {
        Some(initrd) => {
            out.extend(part_of(parts, PartKind::Initrd, &initrd.bytes)?.to_le_bytes());
            text(out, &initrd.name, "the initrd's file name")?;
        }
        None => {
            out.extend(0u32.to_le_bytes());
            text(out, "", "")?;
        }
    }
    text(out, &guest.cmdline, "the command line")?;
    let (payload, entry) = match guest.payload {
        Payload::Linux => (0, 0),
        Payload::Flat { entry } => (1, entry),
    };
    out.push(payload);
    out.extend(entry.to_le_bytes());
    out.push(match guest.on_crash {
        OnCrash::Stay => 0,
        OnCrash::Restart => 1,
        OnCrash::PowerOff => 2,
    });
    out.push(match guest.on_power_off {
        OnPowerOff::Stay => 0,
        OnPowerOff::Restart => 1,
        OnPowerOff::PowerOff => 2,
    });
    out.extend(guest.restart_limit.to_le_bytes());
    out.extend(guest.restart_delay_ms.to_le_bytes());
    out.push(u8::from(guest.autostart));
    guest.paging.write(out);
    out.extend(guest.address.to_le_bytes());
    out.push(u8::from(guest.dma_trusted));
    out.push(narrow(guest.devices.len(), "the list of devices")?);
    for (line, path) in &guest.devices {
        out.extend(line.to_le_bytes());
        text(out, path, "the path of a device")?;
    }
    out.push(match guest.watchdog {
        None => 0,
        Some(OnWatchdog::Stay) => 1,
        Some(OnWatchdog::Restart) => 2,
        Some(OnWatchdog::PowerOff) => 3,
    });
    Ok(())
}

/// Number of the part with this content; adds it if there is none.
fn part_of<'a>(
    parts: &mut Vec<(PartKind, &'a [u8])>,
    kind: PartKind,
    bytes: &'a [u8],
) -> Result<u32, WriteError> {
    let index = parts
        .iter()
        .position(|part| *part == (kind, bytes))
        .unwrap_or_else(|| {
            parts.push((kind, bytes));
            parts.len().saturating_sub(1)
        });
    u32::try_from(index).map_err(|_| WriteError::TooLong("the list of parts"))
}

fn assemble(parts: &[(PartKind, &[u8])]) -> Result<Vec<u8>, WriteError> {
    let too_long = WriteError::TooLong("the bundle");
    let count = u32::try_from(parts.len()).map_err(|_| too_long.clone())?;
    let mut table = Vec::with_capacity(parts.len().saturating_mul(ENTRY_BYTES));
    let mut offset = as_u64(HEADER_BYTES.saturating_add(table.capacity()));
    for (kind, bytes) in parts {
        offset = offset.next_multiple_of(PART_ALIGN_BYTES);
        table.extend((*kind as u32).to_le_bytes());
        table.extend(0u32.to_le_bytes());
        table.extend(offset.to_le_bytes());
        table.extend(as_u64(bytes.len()).to_le_bytes());
        table.extend(0u64.to_le_bytes());
        table.extend(Sha256::digest(bytes));
        offset = offset
            .checked_add(as_u64(bytes.len()))
            .ok_or_else(|| too_long.clone())?;
    }
    let mut out = Vec::with_capacity(usize::try_from(offset).map_err(|_| too_long)?);
    out.extend(MAGIC);
    out.extend(FORMAT_VERSION.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    debug_assert_eq!(out.len(), HEADER_DIGESTED_BYTES);
    let digest = Sha256::new()
        .chain_update(&out)
        .chain_update(&table)
        .finalize();
    out.extend(digest);
    out.extend(table);
    for (_, bytes) in parts {
        out.resize(out.len().next_multiple_of(PART_ALIGN_BYTES as usize), 0);
        out.extend(*bytes);
    }
    Ok(out)
}

fn text(out: &mut Vec<u8>, text: &str, what: &'static str) -> Result<(), WriteError> {
    let len = u16::try_from(text.len()).map_err(|_| WriteError::TooLong(what))?;
    out.extend(len.to_le_bytes());
    out.extend(text.as_bytes());
    Ok(())
}

fn narrow(len: usize, what: &'static str) -> Result<u8, WriteError> {
    u8::try_from(len).map_err(|_| WriteError::TooLong(what))
}
