//! How late the wake-ups of a while were.

use core::fmt;

use payload::rt::time;

/// Upper bounds of the classes that are counted, in microseconds; the last class has none.
const CLASSES_US: [u64; 4] = [10, 100, 1000, 10_000];

/// The wake-ups since the last line.
pub(crate) struct Lateness {
    count: u64,
    missed: u64,
    least: u64,
    most: u64,
    sum: u64,
    classes: [u64; CLASSES_US.len() + 1],
}

/// Microseconds of `ticks`.
pub(crate) fn us(ticks: u64) -> u64 {
    ticks * 1_000_000 / time::ticks(1_000_000).max(1)
}

impl Lateness {
    pub(crate) const fn new() -> Self {
        Self {
            count: 0,
            missed: 0,
            least: u64::MAX,
            most: 0,
            sum: 0,
            classes: [0; CLASSES_US.len() + 1],
        }
    }

    /// Counts a wake-up that was late by `ticks`.
    pub(crate) fn note(&mut self, ticks: u64, period: u64) {
        self.count += 1;
        self.missed += ticks / period;
        self.least = self.least.min(ticks);
        self.most = self.most.max(ticks);
        self.sum += ticks;
        let late = us(ticks);
        let class = CLASSES_US
            .iter()
            .take_while(|&&bound| late >= bound)
            .count();
        if let Some(counted) = self.classes.get_mut(class) {
            *counted += 1;
        }
    }

    /// Ticks to move the phase by, if even the best wake-up was late by a tenth of the period: no
    /// latency does that every time.
    pub(crate) fn out_of_phase(&self, period: u64) -> Option<u64> {
        (self.count > 0 && self.least > period / 10).then_some(self.least)
    }
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let average = self.sum.checked_div(self.count).unwrap_or(0);
        write!(
            f,
            "{} wake-ups, late by {} to {} us, {} on average;",
            self.count,
            us(self.least.min(self.most)),
            us(self.most),
            us(average)
        )?;
        for (bound, counted) in CLASSES_US.iter().zip(&self.classes) {
            write!(f, " under {bound}: {counted},")?;
        }
        let more = self.classes.last().copied().unwrap_or(0);
        write!(f, " more: {more}; {} missed", self.missed)
    }
}
