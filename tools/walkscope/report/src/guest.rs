//! The guests that a system is measured with. Each boots by itself; their tests become one run.

use clap::ValueEnum;

use crate::systems::System;

/// A guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Guest {
    /// The release's kernel, with most of the loads.
    Linux,
    /// Linux with PREEMPT_RT and cyclictest.
    Realtime,
    /// No operating system: tables of 4 KiB pages that never change.
    Static,
}

/// Seconds that the policy of paging needs to see that a process computes, to find out by samples that it walks, and to put
/// 256 MB in order at 64 MiB a second.
const WARM_SECONDS: u32 = 12;
/// `accesses`, `rounds` and `settle_us` of the static guest: at full size, and short.
const STATIC_FULL: &str = "accesses=150000 rounds=200 settle_us=20000000";
const STATIC_SHORT: &str = "accesses=20000 rounds=20 settle_us=20000000";

impl Guest {
    pub(crate) const ALL: [Self; 3] = [Self::Linux, Self::Realtime, Self::Static];

    /// What it adds to the names of files.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Linux => "",
            Self::Realtime => "-realtime",
            Self::Static => "-static",
        }
    }

    /// The number under which its boot is reported; every guest's own number for it is 0.
    pub(crate) fn boot(self) -> u64 {
        match self {
            Self::Linux => 0,
            Self::Realtime => 18,
            Self::Static => 21,
        }
    }

    /// The folder of its kernel among the fetched files.
    pub(crate) fn kernel(self) -> Option<&'static str> {
        match self {
            Self::Linux => Some("linux-cloud"),
            Self::Realtime => Some("linux-rt"),
            Self::Static => None,
        }
    }

    /// Whether it boots the initramfs with the script.
    pub(crate) fn linux(self) -> bool {
        self.kernel().is_some()
    }

    /// About how long it takes beside the others, in percent of Linux.
    pub(crate) fn weight(self, short: bool) -> u64 {
        match (self, short) {
            (Self::Linux, _) => 100,
            (Self::Realtime, false) => 15,
            (Self::Realtime, true) => 60,
            (Self::Static, _) => 5,
        }
    }

    /// Its command line. A guest whose tables something stands for is told to wait for a line of input before it goes off, and
    /// one whose user memory may be put in order to do for [`WARM_SECONDS`] what it measures of a process. A layout above 0 is a way in which
    /// free memory lies scattered when the first workload starts.
    pub(crate) fn cmdline(self, system: System, short: bool, layout: u32) -> String {
        match self {
            Self::Static if short => return STATIC_SHORT.to_owned(),
            Self::Static => return STATIC_FULL.to_owned(),
            _ => {}
        }
        let mut line = "console=ttyAMA0 nokaslr".to_owned();
        if system.compound() {
            line.push_str(" walkscope.wait");
        }
        if system.users() {
            line.push_str(&format!(" walkscope.warm={WARM_SECONDS}"));
        }
        if layout > 0 {
            line.push_str(&format!(" walkscope.layout={layout}"));
        }
        line
    }
}
