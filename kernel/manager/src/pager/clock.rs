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
        let ms = ticks.saturating_mul(1000).checked_div(self.hz).unwrap_or(0);
        self.offset_ms.saturating_add(ms)
    }

    /// Counter ticks in microseconds.
    pub(crate) fn us(&self, ticks: u64) -> u64 {
        let us = ticks.saturating_mul(1_000_000);
        us.checked_div(self.hz).unwrap_or(0)
    }

    /// Counter ticks in nanoseconds.
    pub(super) fn ns(&self, ticks: u64) -> u64 {
        let ns = ticks.saturating_mul(1_000_000_000);
        ns.checked_div(self.hz).unwrap_or(0)
    }

    pub(super) fn counter(&self, ms: u64) -> u64 {
        let ms = ms.saturating_sub(self.offset_ms);
        self.base.saturating_add(ms.saturating_mul(self.hz) / 1000)
    }

    /// Lets the guests run before the next tick.
    pub(super) fn pause<H: Hypervisor>(&mut self, hv: &mut H, began: u64) {
        let end = hv.now();
        let took = end.saturating_sub(began).saturating_mul(PAUSE_FACTOR);
        let least = TICK_PAUSE_MS.saturating_mul(self.hz) / 1000;
        self.next = Some(end.saturating_add(took.max(least)));
    }
}
