//! How soon the samples of walks are hit that began together.

use alloc::vec::Vec;

use penumbra_abi::PagingCounter;

use super::Pager;
use crate::hypervisor::{Hypervisor, VmId};
use crate::paging::cost::{NS_PER_CYCLE, QUERY_MOST, SAMPLE, WINDOW_US};
use crate::paging::trace::Line;

/// For how long a guest is waited for that has not run behind the start of its samples.
const WINDOW_MOST_US: u64 = 10_000;

/// Looks at both counters of hits until they belong together: while vCPUs hit samples they may not.
const HITS_TRIES: u32 = 64;
/// Calls that such a look takes.
const HITS_CALLS: u64 = 3;

/// What a hit takes EL2 at most: on a slow core.
const SAMPLE_NS: u64 = SAMPLE * NS_PER_CYCLE;

/// Samples that began together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    armed: u64,
    /// What EL2 counted until then.
    hits: Hits,
    began: u64,
    /// For how long the guest had run.
    ran: u64,
    /// For how long EL2 has the vCPU at each hit, in which it hits no other: as long as a call takes.
    exit: u64,
}

/// EL2's count of hits, and the counter at each of them, added up.
#[derive(Clone, Copy, Debug)]
struct Hits {
    number: u64,
    ticks: u64,
}

impl Hits {
    fn read<H: Hypervisor>(hv: &mut H, vm: VmId) -> Option<Self> {
        let mut count = |counter| hv.paging_counter(vm, counter).unwrap_or(0);
        let mut number = count(PagingCounter::Samples);
        for _ in 0..HITS_TRIES {
            let ticks = count(PagingCounter::SampleTicks);
            let again = count(PagingCounter::Samples);
            if again == number {
                return Some(Self { number, ticks });
            }
            number = again;
        }
        None
    }
}

impl Window {
    /// For how long the samples waited until they were hit, or did so in vain, in ticks, added up, when so much time has passed and
    /// the guest was `idle` for so much of it.
    fn waited(&self, now: &Hits, elapsed: u64, idle: u64) -> u64 {
        let hits = now.number.saturating_sub(self.hits.number);
        let armed = self.armed.max(hits);
        // Both wrap, and their difference is small.
        let ticks = now.ticks.wrapping_sub(self.hits.ticks);
        let ticks = ticks.wrapping_sub(self.began.wrapping_mul(hits));
        // Where nearly all are hit, the others are not walked so often: what they waited says nothing of those.
        let most = hits.saturating_mul(8) >= armed.saturating_mul(7);
        let counted = if most { hits } else { armed };
        let missed = counted.saturating_sub(hits).saturating_mul(elapsed);
        let idle = idle.saturating_mul(counted);
        ticks.saturating_add(missed).saturating_sub(idle)
    }
}

impl Pager {
    /// Begins to count the hits of samples, of which so many were armed since EL2's count was `before`.
    pub(super) fn open_window<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        (armed, before): (u64, u64),
    ) -> Option<Window> {
        let ran = self.ran(hv, vm);
        let asked = hv.now();
        let hits = Hits::read(hv, vm)?;
        let began = hv.now();
        Some(Window {
            armed: armed.saturating_sub(hits.number.saturating_sub(before)),
            hits,
            began,
            ran,
            exit: began.saturating_sub(asked) / HITS_CALLS,
        })
    }

    /// When the first hits of the samples that have just begun are to be counted.
    pub(super) const fn window_end(&self, now: u64) -> u64 {
        now.saturating_add(WINDOW_US.saturating_mul(self.hz) / 1_000_000)
    }

    /// For how long the guest has run, in ticks: the vCPU that ran longest.
    fn ran<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId) -> u64 {
        let vcpus = 0..self.policy.config().machine.vcpus;
        // The counters of hits go with it.
        self.calls(HITS_CALLS.saturating_add(vcpus.end), QUERY_MOST);
        let times = vcpus.filter_map(|vcpu| hv.vcpu_time(vm, vcpu).ok());
        times.map(|time| time.ran).max().unwrap_or(0)
    }

    /// Counts the first hits. Whether there was anything to count.
    ///
    /// EL2 notes when each came, so it does not matter how late this is. The guest does, if the manager has its core: what it did not
    /// run nobody has waited.
    pub(super) fn close_window<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        seen: &mut Vec<Line>,
    ) -> bool {
        let Some(window) = self.window.take() else {
            return false;
        };
        let ran = self.ran(hv, vm).saturating_sub(window.ran);
        let elapsed = hv.now().saturating_sub(window.began);
        if self.us(ran) < WINDOW_US && self.us(elapsed) < WINDOW_MOST_US {
            self.window = Some(window);
            return true;
        }
        let Some(now) = Hits::read(hv, vm) else {
            return true;
        };
        let hits = now.number.saturating_sub(window.hits.number);
        let armed = window.armed.max(hits);
        let waited = window.waited(&now, elapsed, elapsed.saturating_sub(ran));
        // Each waited for the exits of those before it.
        let pairs = hits.saturating_mul(hits.saturating_sub(1)) / 2;
        let exits = self.ns(window.exit).min(SAMPLE_NS).saturating_mul(pairs);
        let ns = self.ns(waited).saturating_sub(exits);
        self.policy.window(hits, ns);
        self.note(seen, Line::Window(armed, hits, ns));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples that began at 5,000, after others whose sum is about to wrap.
    const WINDOW: Window = Window {
        armed: 8,
        hits: Hits {
            number: 3,
            ticks: u64::MAX - 100,
        },
        began: 5_000,
        ran: 0,
        exit: 0,
    };

    fn hits(number: u64, after: u64) -> Hits {
        let ticks = WINDOW.hits.ticks.wrapping_add(number * (5_000 + after));
        let number = WINDOW.hits.number + number;
        Hits { number, ticks }
    }

    #[test]
    fn a_late_look_finds_the_same_as_one_in_time() {
        for elapsed in [100, 100_000] {
            assert_eq!(WINDOW.waited(&hits(8, 20), elapsed, 0), 8 * 20);
            // One of eight is of another kind.
            assert_eq!(WINDOW.waited(&hits(7, 20), elapsed, 0), 7 * 20);
            let half = WINDOW.waited(&hits(4, 20), elapsed, 0);
            assert_eq!(half, 4 * 20 + 4 * elapsed);
        }
    }

    #[test]
    fn what_the_guest_did_not_run_nobody_waited() {
        // The manager had the core for 70 ticks, then the guest for 30.
        assert_eq!(WINDOW.waited(&hits(8, 90), 100, 70), 8 * 20);
        assert_eq!(WINDOW.waited(&hits(0, 0), 100, 70), 8 * 30);
        assert_eq!(WINDOW.waited(&hits(0, 0), 100, 100), 0);
    }
}
