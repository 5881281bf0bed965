//! Fixed cyclic schedules: which VM has a core when, over and over (ADR 0010).
//!
//! A *frame* of fixed length repeats. It begins with *windows*, one behind the other, each of which
//! belongs to one VM; what is left of the frame is nobody's. The manager hands in a table window by
//! window and installs it; it takes the place of the one in force at the end of that one's frame.
//!
//! Pure: times come in as counter values, [`Schedule::at`] says who has the core then and until when.

use penumbra_abi::{
    Error, MANAGER_VM, MAX_FRAME_US, MAX_WINDOWS, MIN_MANAGER_WINDOW_US, MIN_WINDOW_US,
};

/// A window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Tag of the VM; [`MANAGER_VM`]: the manager.
    pub(crate) owner: u64,
    /// Length in microseconds.
    pub(crate) us: u64,
    /// How often it has begun.
    pub(crate) starts: u64,
    /// Ticks that it began late: the least and the most.
    pub(crate) least: u64,
    pub(crate) most: u64,
    /// Their sum.
    pub(crate) sum: u64,
}

impl Window {
    const NONE: Self = Self {
        owner: 0,
        us: 0,
        starts: 0,
        least: 0,
        most: 0,
        sum: 0,
    };

    const fn note(&mut self, late: u64) {
        if self.starts == 0 || late < self.least {
            self.least = late;
        }
        if late > self.most {
            self.most = late;
        }
        self.sum = self.sum.saturating_add(late);
        self.starts = self.starts.saturating_add(1);
    }
}

/// The windows of a core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) frame_us: u64,
    /// Windows used; 0: the table is none.
    pub(crate) count: usize,
    windows: [Window; MAX_WINDOWS],
}

impl Table {
    const NONE: Self = Self {
        frame_us: 0,
        count: 0,
        windows: [Window::NONE; MAX_WINDOWS],
    };

    /// The windows in use.
    pub(crate) fn windows(&self) -> &[Window] {
        self.windows.get(..self.count).unwrap_or_default()
    }

    fn check(&self, manager_is_here: bool) -> Result<(), Error> {
        let windows = self.windows();
        let sum = windows
            .iter()
            .fold(0, |sum: u64, window| sum.saturating_add(window.us));
        let long = windows.iter().all(|window| window.us >= MIN_WINDOW_US);
        let mut managers = windows.iter().filter(|window| window.owner == MANAGER_VM);
        let manager = match manager_is_here {
            true => managers.any(|window| window.us >= MIN_MANAGER_WINDOW_US),
            false => managers.next().is_none(),
        };
        if long && manager && sum <= self.frame_us && self.frame_us <= MAX_FRAME_US {
            Ok(())
        } else {
            Err(Error::InvalidParameter)
        }
    }
}

/// Who has the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Tag of the VM; `None`: nobody.
    pub(crate) owner: Option<u64>,
    /// When the turn began or should have.
    pub(crate) start: u64,
    /// When it ends.
    pub(crate) end: u64,
    /// Whether nobody has asked during this turn before.
    pub(crate) is_new: bool,
}

/// The schedule of a core. All zero: there is none.
#[derive(Debug)]
pub(crate) struct Schedule {
    draft: Table,
    next: Table,
    has_next: bool,
    pub(crate) table: Table,
    /// When the frame began.
    frame_start: u64,
    /// Frames begun.
    pub(crate) frames: u64,
    /// Frames in which nobody looked at the schedule.
    pub(crate) missed: u64,
    /// The turn that was last asked for: 1 + its position; 0: none of this frame.
    turn: usize,
}

impl Schedule {
    /// There is none.
    pub(crate) const fn new() -> Self {
        Self {
            draft: Table::NONE,
            next: Table::NONE,
            has_next: false,
            table: Table::NONE,
            frame_start: 0,
            frames: 0,
            missed: 0,
            turn: 0,
        }
    }

    /// Writes a window of the table that is being handed in.
    pub(crate) fn set_window(&mut self, index: usize, owner: u64, us: u64) -> Result<(), Error> {
        let slot = self.draft.windows.get_mut(index);
        let slot = slot.ok_or(Error::InvalidParameter)?;
        *slot = Window {
            owner,
            us,
            ..Window::NONE
        };
        Ok(())
    }

    /// Installs the first `count` windows that were handed in; 0 ends the schedule.
    pub(crate) fn install(
        &mut self,
        count: usize,
        frame_us: u64,
        manager_is_here: bool,
    ) -> Result<(), Error> {
        if count > MAX_WINDOWS {
            return Err(Error::InvalidParameter);
        }
        let table = Table {
            frame_us,
            count,
            ..self.draft
        };
        if count != 0 {
            table.check(manager_is_here)?;
        }
        self.next = table;
        self.has_next = true;
        Ok(())
    }

    /// Whether a table waits for the end of the frame.
    pub(crate) const fn has_next(&self) -> bool {
        self.has_next
    }

    /// Whose turn it is at `now`. `None`: there is no schedule.
    pub(crate) fn at(&mut self, now: u64, hz: u64) -> Option<Turn> {
        let ticks = |us: u64| us.saturating_mul(hz) / 1_000_000;
        let frame = ticks(self.table.frame_us);
        let elapsed = now.saturating_sub(self.frame_start);
        if self.table.count == 0 || elapsed >= frame {
            // At least one frame is over, or there was none.
            let frames = elapsed.checked_div(frame).unwrap_or(0);
            self.turn = 0;
            if self.has_next {
                self.has_next = false;
                let over = frames.saturating_mul(frame);
                self.frame_start = match self.table.count {
                    0 => now,
                    _ => self.frame_start.saturating_add(over),
                };
                self.table = self.next;
                (self.frames, self.missed) = (1, 0);
            } else if self.table.count != 0 {
                let over = frames.saturating_mul(frame);
                self.frame_start = self.frame_start.saturating_add(over);
                self.frames = self.frames.saturating_add(frames);
                self.missed = self.missed.saturating_add(frames.saturating_sub(1));
            }
        }
        if self.table.count == 0 {
            return None;
        }
        let mut us = 0_u64;
        let mut start = self.frame_start;
        for (position, window) in (1..).zip(self.table.windows()) {
            us = us.saturating_add(window.us);
            let end = self.frame_start.saturating_add(ticks(us));
            if now < end {
                return Some(self.turn(position, Some(window.owner), (start, end)));
            }
            start = end;
        }
        let end = self.frame_start.saturating_add(ticks(self.table.frame_us));
        let position = self.table.count.saturating_add(1);
        Some(self.turn(position, None, (start, end)))
    }

    const fn turn(&mut self, position: usize, owner: Option<u64>, times: (u64, u64)) -> Turn {
        let is_new = self.turn != position;
        self.turn = position;
        Turn {
            owner,
            start: times.0,
            end: times.1,
            is_new,
        }
    }

    /// The turn that was last asked for got the core, so late.
    pub(crate) fn note(&mut self, late: u64) {
        let index = self.turn.wrapping_sub(1);
        if index < self.table.count
            && let Some(window) = self.table.windows.get_mut(index)
        {
            window.note(late);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 1_000_000;

    fn schedule(windows: &[(u64, u64)], frame_us: u64) -> Schedule {
        let mut schedule = Schedule::new();
        for (index, (owner, us)) in windows.iter().enumerate() {
            schedule.set_window(index, *owner, *us).unwrap();
        }
        schedule.install(windows.len(), frame_us, false).unwrap();
        schedule
    }

    fn turn(owner: Option<u64>, start: u64, end: u64, is_new: bool) -> Option<Turn> {
        let turn = Turn {
            owner,
            start,
            end,
            is_new,
        };
        Some(turn)
    }

    #[test]
    fn windows_follow_each_other_and_the_rest_is_nobodys() {
        let mut schedule = schedule(&[(1, 300), (2, 500), (1, 100)], 1000);
        for frame in 0..3 {
            let at = 50 + frame * 1000;
            assert_eq!(schedule.at(at, HZ), turn(Some(1), at, at + 300, true));
            assert_eq!(
                schedule.at(at + 299, HZ),
                turn(Some(1), at, at + 300, false)
            );
            let second = turn(Some(2), at + 300, at + 800, true);
            assert_eq!(schedule.at(at + 300, HZ), second);
            let third = turn(Some(1), at + 800, at + 900, true);
            assert_eq!(schedule.at(at + 850, HZ), third);
            assert_eq!(
                schedule.at(at + 999, HZ),
                turn(None, at + 900, at + 1000, true)
            );
        }
        assert_eq!((schedule.frames, schedule.missed), (3, 0));
    }

    #[test]
    fn phase_is_kept_when_frames_are_missed() {
        let mut schedule = schedule(&[(1, 300)], 1000);
        assert_eq!(schedule.at(0, HZ), turn(Some(1), 0, 300, true));
        assert_eq!(schedule.at(5100, HZ), turn(Some(1), 5000, 5300, true));
        assert_eq!((schedule.frames, schedule.missed), (6, 4));
    }

    #[test]
    fn a_table_is_replaced_and_ended_at_the_end_of_the_frame() {
        let mut schedule = schedule(&[(1, 1000)], 1000);
        assert_eq!(schedule.at(100, HZ), turn(Some(1), 100, 1100, true));
        schedule.set_window(0, 2, 500).unwrap();
        schedule.install(1, 600, false).unwrap();
        assert_eq!(schedule.at(1099, HZ), turn(Some(1), 100, 1100, false));
        assert!(schedule.has_next());
        assert_eq!(schedule.at(1105, HZ), turn(Some(2), 1100, 1600, true));
        assert!(!schedule.has_next());
        schedule.install(0, 0, false).unwrap();
        assert_eq!(schedule.at(1650, HZ), turn(None, 1600, 1700, true));
        assert_eq!(schedule.at(1700, HZ), None);
    }

    #[test]
    fn lateness_is_kept_for_each_window() {
        let mut schedule = schedule(&[(1, 300), (2, 300)], 1000);
        for (at, late) in [(0, 7), (300, 2), (1000, 3), (1300, 9), (1700, 99)] {
            schedule.at(at, HZ);
            schedule.note(late);
        }
        let figures = |index: usize| {
            let window = schedule.table.windows()[index];
            (window.starts, window.least, window.most, window.sum)
        };
        assert_eq!((figures(0), figures(1)), ((2, 3, 7, 10), (2, 2, 9, 11)));
    }

    #[test]
    fn bad_tables_are_refused_and_change_nothing() {
        let mut schedule = schedule(&[(1, 300)], 1000);
        let refused = Err(Error::InvalidParameter);
        assert_eq!(schedule.set_window(MAX_WINDOWS, 1, 300), refused);
        schedule.set_window(1, 2, 800).unwrap();
        // More than the frame, more than there can be, too long a frame.
        assert_eq!(schedule.install(2, 1000, false), refused);
        assert_eq!(schedule.install(MAX_WINDOWS + 1, 1000, false), refused);
        assert_eq!(schedule.install(usize::MAX, 1000, false), refused);
        assert_eq!(schedule.install(2, MAX_FRAME_US + 1, false), refused);
        // No window for the manager, too short a one, one on another core.
        assert_eq!(schedule.install(2, 2000, true), refused);
        schedule
            .set_window(1, MANAGER_VM, MIN_MANAGER_WINDOW_US - 1)
            .unwrap();
        assert_eq!(schedule.install(2, 2000, true), refused);
        schedule
            .set_window(1, MANAGER_VM, MIN_MANAGER_WINDOW_US)
            .unwrap();
        assert_eq!(schedule.install(2, 2000, false), refused);
        assert_eq!(schedule.install(2, 2000, true), Ok(()));
        // Windows that nobody could use, and lengths that overflow.
        schedule.set_window(1, 2, MIN_WINDOW_US - 1).unwrap();
        assert_eq!(schedule.install(2, 1000, false), refused);
        schedule.set_window(0, 2, u64::MAX).unwrap();
        schedule.set_window(1, 2, u64::MAX).unwrap();
        assert_eq!(schedule.install(2, 1000, false), refused);
    }
}
