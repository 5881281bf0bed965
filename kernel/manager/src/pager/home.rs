//! Brings the pages home that re-layouts moved, once a region that they were moved for is gone, and makes blocks of what was
//! split for a trial: what the guest does next with its RAM is to find it as it was.

use penumbra_abi::PagingCounter;

use super::Pager;
use crate::hypervisor::{Hypervisor, VmId};
use crate::paging::cost::EDIT_MOST;

/// Time after which other events have their turn. Nobody is held meanwhile.
const SLICE_MS: u64 = 2;
/// A guest that computes pays for what each page flushes. It is given so many times as long for the same pages, in which it
/// may well come to rest: then they go home for nothing.
const BUSY_FACTOR: u64 = 8;
/// It computes if it was in user mode for this part of the time, in the last few seconds.
const BUSY_PART: u64 = 16;
/// For so long it is watched before the verdict is made anew: EL2 looks where a vCPU is once a second, far more seldom than pages
/// are moved.
const WATCH_S: u64 = 2;
/// Tables that are watched no more are waited for for so long before a way begins that makes blocks whole: a guest that writes its
/// tables all the time is not to cost one for each.
const LATER_S: u64 = 8;
/// The next way begins no sooner than so many times what the last one took, but for the pages that it moved: those have a pace of
/// their own, and a way that moved many may have left regions for the next one to make whole.
const REST_FACTOR: u64 = 16;

/// A way through guest RAM, page by page.
#[derive(Debug, Default)]
pub(super) struct Homeward {
    /// IPA to go on at; `None`: there is nothing to do.
    at: Option<u64>,
    /// Something was given up since it began: there is to be another way, no sooner than at this counter value.
    again: Option<u64>,
    /// Counter value of the next slice, of this way or of the one that may come.
    next: u64,
    /// A trial has split what it makes whole.
    tried: bool,
    /// Ticks that this way has taken where it moved nothing.
    searched: u64,
    /// Counter value since which the guest is watched, and for how many ticks it had been in user mode then.
    since: (u64, u64),
    /// It computed while it was watched before that.
    computed: bool,
    /// Regions that were in order, and those whose tables were watched, at the last look.
    shadowed: (usize, usize),
}

impl Homeward {
    /// When it wants to go on.
    pub(super) fn next(&self) -> Option<u64> {
        self.at.map(|_| self.next)
    }

    /// What was moved for some region serves no more: go through all of RAM, once more if that is under way.
    pub(super) fn begin(&mut self) {
        self.begin_at(0);
    }

    /// The same, not before a time. A way that is under way goes on meanwhile.
    pub(super) fn begin_at(&mut self, counter: u64) {
        match self.at {
            Some(_) => self.again = self.again.max(Some(counter)),
            None => {
                (self.at, self.searched) = (Some(0), 0);
                self.next = self.next.max(counter);
            }
        }
    }

    /// There is no way any more, and none that follows.
    const fn forget(&mut self) {
        (self.at, self.again, self.tried) = (None, None, false);
    }

    /// The same, for a trial: what that costs is part of it.
    pub(super) fn begin_behind_trial(&mut self, counter: u64) {
        self.tried = true;
        self.begin_at(counter);
    }

    /// A call has taken so many ticks, and `moved` a page or not.
    const fn count(&mut self, ticks: u64, moved: bool) {
        if !moved {
            self.searched = self.searched.saturating_add(ticks);
        }
    }

    /// Ticks from the end of a way to the start of the next one, at least.
    const fn rest(&self) -> u64 {
        self.searched.saturating_mul(REST_FACTOR)
    }

    /// Whether the guest computes, if it has been in user mode for so many ticks by `now`.
    fn computes(&mut self, now: u64, user: u64, hz: u64) -> bool {
        let (then, before) = self.since;
        let elapsed = now.saturating_sub(then);
        let computes = user.saturating_sub(before) > elapsed / BUSY_PART;
        let verdict = computes || self.computed;
        if elapsed >= WATCH_S.saturating_mul(hz) {
            (self.since, self.computed) = ((now, user), computes);
        }
        verdict
    }

    /// The way has come to its end. The next one, if there is to be one, begins at `next` at the earliest.
    fn end(&mut self) {
        self.at = None;
        match self.again.take() {
            Some(soonest) => self.begin_at(soonest),
            None => self.tried = false,
        }
    }
}

impl Pager {
    /// Notes how many regions are in order now, and how many tables are watched. If there were more, pages may go home, or blocks be
    /// whole again in which those tables lie.
    pub(super) fn count_shadowed(&mut self, now: u64) {
        let (relaid, watched) = self.policy.shadowed();
        let before = core::mem::replace(&mut self.homeward.shadowed, (relaid, watched));
        if relaid < before.0 {
            self.homeward.begin();
        } else if watched < before.1 {
            let later = LATER_S.saturating_mul(self.hz);
            self.homeward.begin_at(now.saturating_add(later));
        }
    }

    /// Whether pages may be moved home: not while others are put in order, or what is looked at is being timed.
    pub(super) fn may_go_homeward(&self) -> bool {
        !self.is_timing() && !self.is_moving()
    }

    /// Goes on for a moment, if it is due.
    pub(super) fn go_homeward<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId) {
        let began = hv.now();
        if self.policy.is_locked(self.ms(began)) {
            return self.homeward.forget();
        }
        let due = self.homeward.next().is_some_and(|next| next <= began);
        if !due || !self.may_go_homeward() {
            return;
        }
        let most = SLICE_MS.saturating_mul(self.hz) / 1000;
        let (mut moved, mut took) = (0_u64, 0);
        self.called = 0;
        while let Some(from) = self.homeward.at.filter(|_| took < most) {
            self.calls(1, EDIT_MOST);
            // An error means that the VM is gone.
            let (next, page) = hv.paging_home(vm, from).unwrap_or((None, false));
            self.homeward.at = next;
            moved = moved.saturating_add(page.into());
            let since = hv.now().saturating_sub(began);
            self.homeward.count(since.saturating_sub(took), page);
            took = since;
        }
        if moved == 0 && (self.homeward.tried || self.policy.traps_roots()) {
            // Moves are weighed where they are asked for.
            self.charge(hv, began);
        }
        self.policy.copied(moved);
        let user = hv.paging_counter(vm, PagingCounter::UserTicks);
        let home = &mut self.homeward;
        let busy = home.computes(began, user.unwrap_or(0), self.hz);
        // It is copying like any other, at the rate that the scenario allows.
        let rate = self.policy.config().copy_pages_per_s;
        let pace = moved.saturating_mul(self.hz).checked_div(rate);
        let mut pause = (took / 2).max(pace.unwrap_or(self.hz));
        if busy {
            pause = pause.saturating_mul(BUSY_FACTOR);
        }
        let ended = home.at.is_none();
        if ended {
            pause = pause.max(home.rest());
        }
        home.next = began.saturating_add(took).saturating_add(pause);
        if ended {
            home.end();
            // Frames that others' pages lay in are whole again.
            self.partners.forgive();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_moved_much_is_soon_followed_by_the_next() {
        let mut home = Homeward::default();
        home.begin();
        home.count(1_000_000, true);
        home.count(10, false);
        assert_eq!(home.rest(), 10 * REST_FACTOR);
        home.end();
        home.begin();
        assert_eq!(home.rest(), 0, "of the last way alone");
    }

    #[test]
    fn what_is_given_up_behind_a_way_has_one_of_its_own() {
        let mut home = Homeward::default();
        home.begin();
        home.begin_at(8_000);
        assert_eq!(home.next(), Some(0), "the one under way goes on");
        home.end();
        assert_eq!(home.next(), Some(8_000));
        home.end();
        assert_eq!(home.next(), None);
    }

    #[test]
    fn a_guest_that_computes_is_seen_between_two_looks_of_el2() {
        let (mut home, hz) = (Homeward::default(), 1_000);
        let mut slow = |ms: core::ops::Range<u64>, user: fn(u64) -> u64| {
            let slices = ms.step_by(10);
            slices
                .filter(|ms| home.computes(*ms, user(*ms), hz))
                .count()
        };
        // Each look finds it in user mode, and adds the second since the last one.
        let all = slow(1_000..10_000, |ms| ms / 1_000 * 1_000);
        assert_eq!(all, 900);
        // It rests: that is believed soon.
        let some = slow(10_000..20_000, |_| 10_000);
        assert!((200..=400).contains(&some), "{some}");
    }
}
