//! What a benchmark that takes its time says meanwhile, on standard error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::systems::{Load, describes};

/// How far a benchmark is.
pub(crate) struct Progress {
    start: Instant,
    short: bool,
    /// Work of all loads and of those that are done, in the unit of [`crate::guest::Guest::weight`].
    all: u64,
    done: AtomicU64,
}

impl Progress {
    /// With these loads to do.
    pub(crate) fn new(loads: impl Iterator<Item = Load>, short: bool) -> Self {
        Self {
            start: Instant::now(),
            short,
            all: loads.map(|load| load.guest.weight(short)).sum(),
            done: AtomicU64::new(0),
        }
    }

    fn say(&self, text: &str) {
        eprintln!("walkscope: {}: {text}", clock(self.start.elapsed()));
    }

    /// A load starts.
    pub(crate) fn begun(&self, load: Load) {
        self.say(&format!("{} starts", load.name()));
    }

    /// QEMU prints a line: the plugin says when a window closes.
    pub(crate) fn line(&self, load: Load, line: &str) {
        let test = line.strip_prefix("walkscope: closed ");
        match test.and_then(|number| number.parse().ok()) {
            // Every guest's own number for its boot is 0.
            Some(0) => self.say(&format!(
                "{}: {}",
                load.name(),
                describes(load.guest.boot())
            )),
            Some(number) => self.say(&format!("{}: {}", load.name(), describes(number))),
            None => eprintln!("{line}"),
        }
    }

    /// A load has come to its end.
    pub(crate) fn ended(&self, load: Load, cpu: Duration) {
        let weight = load.guest.weight(self.short);
        let done = self.done.fetch_add(weight, Ordering::Relaxed) + weight;
        let left = remaining(self.start.elapsed(), done, self.all);
        self.say(&format!(
            "{} is done, after {} s of CPU time; about {} left",
            load.name(),
            cpu.as_secs(),
            clock(left)
        ));
    }
}

/// The time for the rest, if it goes on as before.
fn remaining(elapsed: Duration, done: u64, all: u64) -> Duration {
    let left = u32::try_from(all.saturating_sub(done)).unwrap_or(u32::MAX);
    elapsed * left / u32::try_from(done.max(1)).unwrap_or(u32::MAX)
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_is_done_did() {
        let minute = Duration::from_secs(60);
        assert_eq!(remaining(minute, 100, 400), 3 * minute);
        assert_eq!(remaining(minute, 400, 400), Duration::ZERO);
        assert_eq!(clock(Duration::from_secs(125)), "2:05");
    }
}
