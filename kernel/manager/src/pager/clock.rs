//! When a pager wants to be called, and its time.

use super::Pager;
use crate::hypervisor::Hypervisor;

/// Pause between them at least, so that guests on the manager's core run.
const TICK_PAUSE_MS: u64 = 5;
/// The pause is so many times as long as what the tick took: a guest is held for a quarter of the time
/// at most.
const PAUSE_FACTOR: u64 = 3;

impl Pager {
    /// When it wants to be called.
    pub(crate) fn next(&self) -> Option<u64> {
        let homeward = self.homeward.next().filter(|_| self.may_go_homeward());
        self.next.into_iter().chain(homeward).min()
    }

    /// A counter value in the policy's time.
    pub(crate) fn ms(&self, counter: u64) -> u64 {
        let ticks = counter.saturating_sub(self.base);
        let ms = in_units(ticks, self.hz, 1000);
        self.offset_ms.saturating_add(ms)
    }

    /// Counter ticks in microseconds.
    pub(crate) const fn us(&self, ticks: u64) -> u64 {
        in_units(ticks, self.hz, 1_000_000)
    }

    /// Counter ticks in nanoseconds.
    pub(super) const fn ns(&self, ticks: u64) -> u64 {
        in_units(ticks, self.hz, 1_000_000_000)
    }

    pub(super) fn counter(&self, ms: u64) -> u64 {
        let ms = ms.saturating_sub(self.offset_ms);
        let ticks = in_units(ms, 1000, self.hz);
        self.base.saturating_add(ticks)
    }

    /// Lets the guests run before the next tick.
    pub(super) fn pause<H: Hypervisor>(&mut self, hv: &mut H, began: u64) {
        let end = hv.now();
        let took = end.saturating_sub(began).saturating_mul(PAUSE_FACTOR);
        let least = TICK_PAUSE_MS.saturating_mul(self.hz) / 1000;
        self.next = Some(end.saturating_add(took.max(least)));
    }
}

/// What was counted at `from` a second, counted at `to` a second, rounded down. Years of it do not overflow: a product of the whole
/// would, after some days in ticks.
const fn in_units(count: u64, from: u64, to: u64) -> u64 {
    let (Some(seconds), Some(rest)) = (count.checked_div(from), count.checked_rem(from)) else {
        return 0;
    };
    // As long as neither is above 4 GHz.
    let part = rest.saturating_mul(to) / from;
    seconds.saturating_mul(to).saturating_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_S: u64 = 365 * 24 * 3600;

    #[test]
    fn a_guest_that_computes_for_years_is_still_seen_to_compute() {
        for hz in [54_000_000, 62_500_000, 1_000_000_000] {
            // Of eight vCPUs.
            let ticks = 8 * 10 * YEAR_S * hz / 5;
            for unit in [1_000, 1_000_000] {
                let later = in_units(ticks + hz, hz, unit);
                assert_eq!(later - in_units(ticks, hz, unit), unit, "{hz} Hz");
            }
        }
        assert_eq!(in_units(62_499, 62_500_000, 1_000_000), 999);
        assert_eq!(
            in_units(10 * YEAR_S * 1000 + 999, 1000, 54_000_000),
            10 * YEAR_S * 54_000_000 + 53_946_000
        );
        assert_eq!(in_units(5, 0, 1000), 0, "a board without a counter");
    }
}
