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
const HITS_CALLS: u64 = 4;

/// What a hit takes EL2 at most: on a slow core.
const SAMPLE_NS: u64 = SAMPLE * NS_PER_CYCLE;

/// Samples that began together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    armed: u64,
    /// What EL2 counted before they began.
    before: Hits,
    began: u64,
    /// For how long the guest had run.
    ran: u64,
    /// For how long EL2 has the vCPU at each hit, in which it hits no other: as long as a call takes.
    exit: u64,
}

/// EL2's count of hits, the counter at each of them, added up, and at the first since samples began anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hits {
    number: u64,
    ticks: u64,
    first: u64,
}

impl Hits {
    pub(super) fn read<H: Hypervisor>(hv: &mut H, vm: VmId) -> Option<Self> {
        let mut count = |counter| hv.paging_counter(vm, counter).unwrap_or(0);
        let mut number = count(PagingCounter::Samples);
        for _ in 0..HITS_TRIES {
            let ticks = count(PagingCounter::SampleTicks);
            let first = count(PagingCounter::FirstSample);
            let again = count(PagingCounter::Samples);
            if again == number {
                return Some(Self {
                    number,
                    ticks,
                    first,
                });
            }
            number = again;
        }
        None
    }
}

impl Window {
    /// How many samples were hit behind the first, and for how long all of them waited for that or did so in vain, in ticks, added
    /// up, if this is what EL2 counts at `now` and the guest has run for `ran` since they began.
    ///
    /// What was before the first hit says when the process got a core, not how often it walks.
    fn waited(&self, hits: &Hits, now: u64, ran: u64) -> (u64, u64) {
        let number = hits.number.saturating_sub(self.before.number);
        let others = number.saturating_sub(1);
        if number == 0 {
            return (0, self.armed.saturating_mul(ran));
        }
        let missed = self.armed.saturating_sub(number);
        // Where nearly all are hit, the others are not walked so often: what they waited says nothing of those.
        let counted = if missed.saturating_mul(8) <= self.armed {
            0
        } else {
            missed
        };
        // The sums wrap, and their difference is small.
        let ticks = hits.ticks.wrapping_sub(self.before.ticks);
        let ticks = ticks.wrapping_sub(hits.first.wrapping_mul(number));
        let vain = counted.saturating_mul(now.saturating_sub(hits.first).min(ran));
        // Each waited for the exits of those before it.
        let exits = self.exit.saturating_mul(number.saturating_mul(others) / 2);
        (others, ticks.saturating_add(vain).saturating_sub(exits))
    }
}

impl Pager {
    /// Begins to count the hits of samples, of which so many are armed and EL2 had counted `before`.
    pub(super) fn open_window<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        (armed, before): (u64, Hits),
    ) -> Window {
        let began = hv.now();
        let ran = self.ran(hv, vm);
        let exit = hv.now().saturating_sub(began);
        let most = SAMPLE_NS.saturating_mul(self.hz) / 1_000_000_000;
        Window {
            armed,
            before,
            began,
            ran,
            exit: exit.checked_div(self.vcpus()).unwrap_or(0).min(most),
        }
    }

    /// Whether samples have just begun, of which the first hits are to be counted.
    pub(crate) const fn is_timing(&self) -> bool {
        self.window.is_some()
    }

    /// When the first hits of the samples that have just begun are to be counted.
    pub(super) const fn window_end(&self, now: u64) -> u64 {
        now.saturating_add(WINDOW_US.saturating_mul(self.hz) / 1_000_000)
    }

    const fn vcpus(&self) -> u64 {
        self.policy.config().machine.vcpus
    }

    /// For how long the guest has run, in ticks: the vCPU that ran longest.
    fn ran<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId) -> u64 {
        let vcpus = 0..self.vcpus();
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
        let Some(hits) = Hits::read(hv, vm) else {
            return true;
        };
        let (others, waited) = window.waited(&hits, hv.now(), ran);
        let ns = self.ns(waited);
        self.policy.window(others, ns);
        self.note(seen, Line::Window(window.armed, others, ns));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples that began at 5,000, after others whose sum is about to wrap.
    const WINDOW: Window = Window {
        armed: 8,
        before: Hits {
            number: 3,
            ticks: u64::MAX - 100,
            first: 0,
        },
        began: 5_000,
        ran: 0,
        exit: 0,
    };
    /// When the process got its core.
    const FIRST: u64 = 90_000;

    /// The first hit, and so many so long after it.
    fn hits(others: u64, after: u64) -> Hits {
        let sum = (1 + others) * FIRST + others * after;
        Hits {
            number: WINDOW.before.number + 1 + others,
            ticks: WINDOW.before.ticks.wrapping_add(sum),
            first: FIRST,
        }
    }

    #[test]
    fn neither_a_late_look_nor_a_late_start_changes_what_is_found() {
        for late in [100, 100_000] {
            let waited = |hits| WINDOW.waited(&hits, FIRST + late, late);
            assert_eq!(waited(hits(7, 20)), (7, 7 * 20));
            // One of eight is of another kind.
            assert_eq!(waited(hits(6, 20)), (6, 6 * 20));
            assert_eq!(waited(hits(3, 20)), (3, 3 * 20 + 4 * late));
        }
    }

    #[test]
    fn what_the_guest_did_not_run_nobody_waited() {
        // The manager had the core for 70 ticks of 100.
        let waited = |hits| WINDOW.waited(&hits, FIRST + 100, 30);
        assert_eq!(waited(hits(3, 20)), (3, 3 * 20 + 4 * 30));
        assert_eq!(waited(WINDOW.before), (0, 8 * 30));
    }

    #[test]
    fn the_exits_of_those_before_are_no_wait() {
        let window = Window { exit: 3, ..WINDOW };
        assert_eq!(window.waited(&hits(7, 20), FIRST, 100), (7, 140 - 28 * 3));
        let window = Window { exit: 30, ..WINDOW };
        assert_eq!(window.waited(&hits(7, 20), FIRST, 100), (7, 0));
    }

    #[test]
    fn a_single_sample_says_nothing() {
        let window = Window { armed: 1, ..WINDOW };
        assert_eq!(window.waited(&hits(0, 0), FIRST + 100, 100), (0, 0));
    }
}
