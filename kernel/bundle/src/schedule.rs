//! Schedules of cores in a manifest.
//!
//! Encoding, behind the guests: u8 number of schedules; per schedule u32 line, u8 core, u32 microseconds
//! of the frame, u8 number of windows, and for each u32 line, u8 guest (0: the manager, else 1 + its
//! position) and u32 microseconds.

use crate::cursor::Cursor;
use crate::error::{Error, Field};

/// Windows of a schedule at most (`MAX_WINDOWS` of EL2).
pub const MAX_WINDOWS: usize = 16;
/// Microseconds of a window at least (as EL2 wants it).
pub const MIN_WINDOW_US: u32 = 100;
/// Microseconds of the manager's longest window on core 0 at least (as EL2 wants it).
pub const MIN_MANAGER_WINDOW_US: u32 = 500;
/// Microseconds of a frame at most (as EL2 wants it).
pub const MAX_FRAME_US: u32 = 1_000_000;
/// Schedules at most: one for each core.
pub const MAX_SCHEDULES: usize = 8;

/// A window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its line in the scenario.
    pub line: u32,
    /// Position of its guest; `None`: the manager.
    pub guest: Option<u8>,
    /// Its length in microseconds.
    pub us: u32,
}

/// The schedule of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule<'a> {
    /// Its line in the scenario.
    pub line: u32,
    /// The core.
    pub core: u8,
    /// Microseconds of its frame.
    pub frame_us: u32,
    /// Its windows.
    pub windows: Windows<'a>,
}

/// Iterator over the windows of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows<'a> {
    left: u8,
    cursor: Cursor<'a>,
}

impl Windows<'_> {
    fn one(cursor: &mut Cursor<'_>) -> Result<Window, Error> {
        Ok(Window {
            line: cursor.u32(Field::Schedule)?,
            guest: cursor.u8(Field::Schedule)?.checked_sub(1),
            us: cursor.u32(Field::Schedule)?,
        })
    }
}

impl Iterator for Windows<'_> {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        self.left = self.left.checked_sub(1)?;
        // The bytes were read once when the manifest was checked, so this cannot fail.
        Self::one(&mut self.cursor).ok()
    }
}

/// Iterator over the schedules of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedules<'a> {
    left: u8,
    cursor: Cursor<'a>,
}

impl<'a> Schedules<'a> {
    /// None.
    pub(crate) const NONE: Self = Self {
        left: 0,
        cursor: Cursor::new(&[]),
    };

    /// Reads and checks all schedules; their guests must be below `guests`.
    pub(crate) fn read(cursor: &mut Cursor<'a>, guests: u8) -> Result<Self, Error> {
        let refused = Error::ManifestValue(Field::Schedule);
        let left = cursor.u8(Field::Schedule)?;
        if usize::from(left) > MAX_SCHEDULES {
            return Err(refused);
        }
        let schedules = Self {
            left,
            cursor: *cursor,
        };
        let mut cores = 0u8;
        for _ in 0..left {
            let schedule = Self::one(cursor)?;
            let core = 1u8.checked_shl(schedule.core.into()).unwrap_or(0);
            let count = usize::from(schedule.windows.left);
            let guests_exist = schedule
                .windows
                .into_iter()
                .all(|window| window.guest.is_none_or(|guest| guest < guests));
            let sum: u64 = schedule.windows.map(|window| u64::from(window.us)).sum();
            let fits = sum <= u64::from(schedule.frame_us) && (1..=MAX_WINDOWS).contains(&count);
            if core == 0 || cores & core != 0 || !guests_exist || !fits {
                return Err(refused);
            }
            cores |= core;
        }
        Ok(schedules)
    }

    fn one(cursor: &mut Cursor<'a>) -> Result<Schedule<'a>, Error> {
        let line = cursor.u32(Field::Schedule)?;
        let core = cursor.u8(Field::Schedule)?;
        let frame_us = cursor.u32(Field::Schedule)?;
        let left = cursor.u8(Field::Schedule)?;
        let windows = Windows {
            left,
            cursor: *cursor,
        };
        for _ in 0..left {
            Windows::one(cursor)?;
        }
        Ok(Schedule {
            line,
            core,
            frame_us,
            windows,
        })
    }
}

impl<'a> Iterator for Schedules<'a> {
    type Item = Schedule<'a>;

    fn next(&mut self) -> Option<Schedule<'a>> {
        self.left = self.left.checked_sub(1)?;
        // As above.
        Self::one(&mut self.cursor).ok()
    }
}
