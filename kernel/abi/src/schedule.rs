//! Fixed cyclic schedules of cores, as EL2 shows them to the manager.

/// Windows of a core's table at most.
pub const MAX_WINDOWS: usize = 16;
/// Microseconds of a window at least: what a switch to it and from it takes must not fill it.
pub const MIN_WINDOW_US: u64 = 100;
/// Microseconds of the manager's window at least, on the core where the manager is: it has to answer
/// guests that wait.
pub const MIN_MANAGER_WINDOW_US: u64 = 500;
/// Microseconds of a frame at most: the manager must get its turn often enough.
pub const MAX_FRAME_US: u64 = 1_000_000;

/// What `ScheduleStatus` returns in X1 to X5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScheduleStatus {
    /// Windows of the table in force; 0: the core has no schedule.
    pub windows: u64,
    /// Microseconds of its frame.
    pub frame_us: u64,
    /// Frames begun.
    pub frames: u64,
    /// Frames that went by while EL2 was kept from looking at the schedule.
    pub missed: u64,
    /// Another table waits for the end of the frame.
    pub pending: bool,
}

impl ScheduleStatus {
    /// Registers X1 to X6.
    #[must_use]
    pub const fn to_regs(self) -> [u64; 6] {
        let pending = self.pending as u64;
        [
            self.windows,
            self.frame_us,
            self.frames,
            self.missed,
            pending,
            0,
        ]
    }

    /// Reads registers X1 to X6.
    #[must_use]
    pub const fn from_regs(regs: [u64; 6]) -> Self {
        let [windows, frame_us, frames, missed, pending, _] = regs;
        Self {
            windows,
            frame_us,
            frames,
            missed,
            pending: pending != 0,
        }
    }
}

/// What `ScheduleWindow` returns in X1 to X6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScheduleWindow {
    /// Tag of the VM; 0: the manager.
    pub owner: u64,
    /// Its length in microseconds.
    pub us: u64,
    /// How often it has begun.
    pub starts: u64,
    /// Counter ticks from the moment at which it should begin to the entry into its VM: the least.
    pub least_ticks: u64,
    /// The most.
    pub most_ticks: u64,
    /// All of them together.
    pub sum_ticks: u64,
}

impl ScheduleWindow {
    /// Registers X1 to X6.
    #[must_use]
    pub const fn to_regs(self) -> [u64; 6] {
        [
            self.owner,
            self.us,
            self.starts,
            self.least_ticks,
            self.most_ticks,
            self.sum_ticks,
        ]
    }

    /// Reads registers X1 to X6.
    #[must_use]
    pub const fn from_regs(regs: [u64; 6]) -> Self {
        let [owner, us, starts, least_ticks, most_ticks, sum_ticks] = regs;
        Self {
            owner,
            us,
            starts,
            least_ticks,
            most_ticks,
            sum_ticks,
        }
    }
}
