//! A scenario: which guests run on the board, with what memory, cores and payloads.
//!
//! [`Scenario::read`] parses and checks the TOML text; payload files are not touched before
//! [`crate::image`] needs them. Every key is documented for people in `docs/scenarios.md`.

mod devices;
mod guest;
mod paging;
mod read;
mod restart;
mod schedule;
pub mod size;
mod suggest;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use penumbra_bundle::{
    Backing, Lines, OnCrash, OnPowerOff, OnWatchdog, Paging, Payload, ScheduleSpec, WhenAllOff,
};

use crate::problem::{Problem, Problems, Source};

pub use devices::DeviceWord;

/// Cores of the board that are assumed where nobody says: the Pi 4 and the default QEMU board.
pub const DEFAULT_BOARD_CORES: u8 = 4;
/// Cores of a board at most (`MAX_CPUS` of EL2).
pub const MAX_BOARD_CORES: u8 = 8;

/// A checked scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The file it was read from.
    pub source: Source,
    /// What to do when no guest runs any more.
    pub when_all_off: WhenAllOff,
    /// Line of that key, 0 if it is left out.
    pub when_all_off_line: u32,
    /// The guests; at least one.
    pub guests: Vec<Guest>,
    /// The schedules of cores.
    pub schedules: Vec<ScheduleSpec>,
}

/// One guest of a scenario.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Unique name.
    pub name: String,
    /// Lines of its keys.
    pub lines: Lines,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// The core of each vCPU, or `None` to have them spread.
    pub cores: Option<Vec<u8>>,
    /// Memory.
    pub memory_bytes: u64,
    /// How it is backed.
    pub backing: Backing,
    /// Quota of a thin guest; `None`: all its memory.
    pub quota_bytes: Option<u64>,
    /// The kernel's file.
    pub kernel: File,
    /// The initial RAM disk's file.
    pub initrd: Option<File>,
    /// Command line.
    pub cmdline: String,
    /// What the kernel file is.
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
    /// Where its memory is on the board, if that is direct and the scenario says.
    pub address: Option<u64>,
    /// It may have bus masters that no IOMMU holds.
    pub dma_trusted: bool,
    /// Devices of the board that it wants.
    pub devices: Vec<DeviceWord>,
    /// What to do when its watchdog expires, if it has one.
    pub watchdog: Option<OnWatchdog>,
}

/// A file that a scenario or the command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it is, seen from the current directory.
    pub path: PathBuf,
    /// The place in the scenario that names it; `None` for the command line.
    pub span: Option<Range<usize>>,
}

impl File {
    /// A file as a scenario in `folder` names it. Steps back (`..`) out of folders that are named are
    /// taken at once, so that reports show short paths.
    fn named(folder: &Path, name: &str, span: Range<usize>) -> Self {
        let mut path = PathBuf::new();
        for part in folder.join(name).components() {
            let back = matches!(path.components().next_back(), Some(Component::Normal(_)));
            match part {
                Component::ParentDir if back => {
                    path.pop();
                }
                Component::CurDir => {}
                part => path.push(part),
            }
        }
        Self {
            path,
            span: Some(span),
        }
    }

    /// A problem with this file.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            message: message.into(),
            span: self.span.clone(),
            help: None,
        }
    }
}

impl Scenario {
    /// Reads and checks the scenario in a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn open(path: &Path) -> Result<Self, Problems> {
        Self::read(Source::read(path)?)
    }

    /// Reads and checks a scenario.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(source: Source) -> Result<Self, Problems> {
        read::scenario(source)
    }

    /// The core of each vCPU of each guest on a board with `board_cores` cores. vCPUs that the
    /// scenario does not place are spread from core 1 on, because the manager runs on core 0.
    ///
    /// # Errors
    /// The scenario names a core that the board does not have.
    pub fn placement(&self, board_cores: u8) -> Result<Vec<Vec<u8>>, Problem> {
        let board_cores = board_cores.clamp(1, MAX_BOARD_CORES);
        let mut next = 0_u8;
        self.guests
            .iter()
            .map(|guest| match &guest.cores {
                Some(cores) => match cores.iter().find(|&&core| core >= board_cores) {
                    Some(core) => Err(Problem::new(format!(
                        "{}: guest \"{}\" wants core {core}, but the board has {board_cores} (0 to {})",
                        self.place(guest.lines.nearest(penumbra_bundle::Key::Cores)),
                        guest.name,
                        board_cores - 1
                    ))),
                    None => Ok(cores.clone()),
                },
                None => Ok((0..guest.vcpus)
                    .map(|_| {
                        next = (next + 1) % board_cores;
                        next
                    })
                    .collect()),
            })
            .collect()
    }

    /// The line of a key of a guest, or of the guest, for a report to show.
    #[must_use]
    pub fn key_span(&self, guest: &Guest, key: penumbra_bundle::Key) -> Range<usize> {
        let line = usize::try_from(guest.lines.nearest(key)).unwrap_or(1);
        let mut start = 0;
        for (number, text) in self.source.text.split_inclusive('\n').enumerate() {
            if number + 1 == line {
                return start..start + text.trim_end().len();
            }
            start += text.len();
        }
        0..0
    }

    /// `file:line`, for sentences.
    fn place(&self, line: u32) -> String {
        format!("{}:{line}", self.source.path.display())
    }
}

impl Guest {
    /// Replaces the command line.
    ///
    /// # Errors
    /// Linux would not take it.
    pub fn set_cmdline(&mut self, cmdline: &str) -> Result<(), Problem> {
        guest::check_cmdline(cmdline).map_err(Problem::new)?;
        self.cmdline = cmdline.to_owned();
        Ok(())
    }

    /// Replaces memory, backing and quota, where a new value is given.
    ///
    /// # Errors
    /// The quota does not fit the rest.
    pub fn set_memory(
        &mut self,
        memory_bytes: Option<u64>,
        backing: Option<Backing>,
        quota_bytes: Option<u64>,
    ) -> Result<(), Problem> {
        self.memory_bytes = memory_bytes.unwrap_or(self.memory_bytes);
        self.backing = backing.unwrap_or(self.backing);
        match (self.backing, quota_bytes) {
            (Backing::Reserved | Backing::Direct, Some(_)) => {
                return Err(
                    Problem::new("only a thin guest has a quota").help("add --backing thin")
                );
            }
            (Backing::Reserved | Backing::Direct, None) => self.quota_bytes = None,
            (Backing::Thin, Some(quota)) => self.quota_bytes = Some(quota),
            (Backing::Thin, None) => {}
        }
        match self.quota_bytes {
            Some(quota) if quota > self.memory_bytes => Err(Problem::new(format!(
                "the quota ({}) is more than the memory ({})",
                size::show(quota),
                size::show(self.memory_bytes)
            ))),
            _ => Ok(()),
        }
    }
}
