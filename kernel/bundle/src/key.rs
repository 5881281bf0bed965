//! Keys of a scenario and the lines they stand on, so that a report can name the line to change.

/// A key of a `[[guest]]` table in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Key {
    /// The `[[guest]]` header itself.
    Guest = 0,
    /// `name`.
    Name = 1,
    /// `vcpus`.
    Vcpus = 2,
    /// `cores`.
    Cores = 3,
    /// `memory`.
    Memory = 4,
    /// `backing`.
    Backing = 5,
    /// `quota`.
    Quota = 6,
    /// `kernel`.
    Kernel = 7,
    /// `initrd`.
    Initrd = 8,
    /// `cmdline`.
    Cmdline = 9,
    /// `payload` and `entry`.
    Payload = 10,
    /// `on_crash`.
    OnCrash = 11,
    /// `on_power_off`.
    OnPowerOff = 12,
    /// `restart_limit`.
    RestartLimit = 13,
    /// `restart_delay`.
    RestartDelay = 14,
    /// `autostart`.
    Autostart = 15,
    /// `paging`.
    Paging = 16,
    /// `paging_changes`.
    PagingChanges = 17,
    /// `paging_pool`.
    PagingPool = 18,
    /// `paging_copy`.
    PagingCopy = 19,
    /// `address`.
    Address = 20,
    /// `dma`.
    Dma = 21,
    /// `devices`.
    Devices = 22,
    /// `watchdog`.
    Watchdog = 23,
    /// `on_watchdog`.
    OnWatchdog = 24,
}

impl Key {
    /// Number of keys.
    pub const COUNT: usize = 25;

    /// Every key, in the order of the encoding.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Guest,
        Self::Name,
        Self::Vcpus,
        Self::Cores,
        Self::Memory,
        Self::Backing,
        Self::Quota,
        Self::Kernel,
        Self::Initrd,
        Self::Cmdline,
        Self::Payload,
        Self::OnCrash,
        Self::OnPowerOff,
        Self::RestartLimit,
        Self::RestartDelay,
        Self::Autostart,
        Self::Paging,
        Self::PagingChanges,
        Self::PagingPool,
        Self::PagingCopy,
        Self::Address,
        Self::Dma,
        Self::Devices,
        Self::Watchdog,
        Self::OnWatchdog,
    ];

    /// The key as it is written in a scenario.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest => "[[guest]]",
            Self::Name => "name",
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
            Self::OnWatchdog => "on_watchdog",
        }
    }
}

/// The line of each key of one guest, counted from 1; 0 for a key that the scenario leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines([u32; Key::COUNT]);

impl Lines {
    /// No line known.
    pub const NONE: Self = Self([0; Key::COUNT]);

    /// Notes the line of a key.
    pub fn set(&mut self, key: Key, line: u32) {
        if let Some(slot) = self.0.get_mut(key as usize) {
            *slot = line;
        }
    }

    /// The line of a key, if the scenario has it.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<u32> {
        self.0.get(key as usize).copied().filter(|&line| line != 0)
    }

    /// The line to show for a key: its own, or that of the guest's header if it is left out, or 0 if
    /// nothing is known.
    #[must_use]
    pub fn nearest(&self, key: Key) -> u32 {
        self.get(key).or_else(|| self.get(Key::Guest)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_index_their_own_slot() {
        let mut lines = Lines::NONE;
        for (index, key) in Key::ALL.into_iter().enumerate() {
            assert_eq!(key as usize, index);
            assert_eq!(lines.get(key), None);
            lines.set(key, u32::try_from(index).unwrap() + 1);
        }
        for (index, key) in Key::ALL.into_iter().enumerate() {
            assert_eq!(lines.get(key), Some(u32::try_from(index).unwrap() + 1));
        }
    }

    #[test]
    fn a_key_left_out_points_at_the_guest() {
        let mut lines = Lines::NONE;
        assert_eq!(lines.nearest(Key::Quota), 0);
        lines.set(Key::Guest, 3);
        assert_eq!(lines.nearest(Key::Quota), 3);
        lines.set(Key::Quota, 7);
        assert_eq!(lines.nearest(Key::Quota), 7);
    }
}
