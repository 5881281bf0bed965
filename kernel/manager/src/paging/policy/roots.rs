//! The roots of user spaces: whether their writes are trapped, a tax on every process switch, and which
//! of them have a space.
//!
//! What a user space would gain shows only in samples of its walks, and those need a space, and that a
//! trap. So a guest that is busy is given a *trial*, as far as its account (`budget`) allows.

use alloc::vec::Vec;

use super::super::cost;
use super::super::reason::{Deed, Failure, Reason};
use super::super::sample::{Half, RootSample, VmSample};
use super::budget::counted;
use super::{Action, Changes, FIRST_EPOCH_MS, Mode, Policy};

/// Roots that are remembered of a VM at most.
pub const MAX_ROOTS: usize = 16;
/// Spaces of user roots at a time: the kernel's need numbers too.
const MAX_USER_SPACES: usize = 8;
/// Traps a second that end a trial at once: a kernel that writes its roots at each entry.
const STORM: u64 = 20_000;
/// Time between two looks at the traps while a trial is young, so that one that meets a storm ends before the next
/// pass.
const PROBE_MS: u64 = 50;
/// How long it is young.
const PROBED_MS: u64 = 1_000;
/// How long a space has before it is judged, and a wish before it is taken back: some epochs of samples.
const TRIAL_MS: u64 = 6_000;
/// A trial that has shown no gain by then ends, whatever its budget has left: a root has to live for
/// [`LIVES_MS`] and its regions have to be seen in some passes.
const LONG_TRIAL_MS: u64 = 10_000;
/// For how long a root has to be seen before it gets a space: most processes do not live so long.
const LIVES_MS: u64 = FIRST_EPOCH_MS;
/// How long after its first look a guest is left to boot.
const TRIAL_AFTER_MS: u64 = 15_000;
/// How long after a trial the next one may begin, and at first, after a failure, another wish for a root's space.
const RETRY_MS: u64 = 10_000;
/// Waits for spaces double so often at most: to three hours.
const MAX_PENALTY: u8 = 10;
/// Share of one core in user mode, in permille, from which a guest counts as busy: one vCPU that computes
/// without a pause. What a kernel does for itself is for the kernel's root.
const BUSY_PERMILLE: u64 = 800;
/// Looks over which it has to be: three seconds at least.
const LOOKS: usize = 4;
/// Looks closer to each other than this are none.
const LOOK_MS: u64 = 950;
/// Time between two looks at how busy a guest is for which roots may be trapped.
const GLANCE_MS: u64 = 1_000;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traps {
    pub(super) on: bool,
    since_ms: u64,
    /// They pay: what they cost is charged to what they gain.
    pays: bool,
    /// When they did so last.
    paid_ms: Option<u64>,
    /// Time that looks at user spaces have taken since the last pass began, and what they came to each second before, in
    /// ns.
    looks: u64,
    look_rate: u64,
    /// EL2's counter at the last look between passes, and when that was.
    probed: (u64, u64),
    /// EL2's counter as far as it is paid for.
    charged: u64,
    retry_ms: u64,
    /// Traps a second as measured last.
    rate: Option<u64>,
    /// Why it is as it is going to be.
    why: Reason,
}

/// How busy the guest is: the last looks, with their times and how long it had been busy then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    looks: [(u64, u64); LOOKS],
    busy: bool,
}

impl Load {
    fn look(&mut self, now_ms: u64, busy_ms: u64) {
        let [(last, _), ..] = self.looks;
        if now_ms.saturating_sub(last) < LOOK_MS {
            return;
        }
        self.looks.rotate_right(1);
        let [first, .., (then, before)] = &mut self.looks;
        *first = (now_ms, busy_ms);
        let ran = busy_ms.saturating_sub(*before).saturating_mul(1000);
        let elapsed = now_ms.saturating_sub(*then);
        self.busy = ran.checked_div(elapsed).unwrap_or(0) >= BUSY_PERMILLE;
    }
}

/// A root that EL2 has seen while roots are trapped, and its history.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    /// As it was seen last.
    pub seen: RootSample,
    /// Writes a second.
    pub rate: u64,
    /// Why it has its space, or not.
    pub why: Reason,
    /// When it was seen first.
    pub(super) first_ms: u64,
    spaced_ms: Option<u64>,
    /// Since when it has been waiting for its space.
    wanted_ms: Option<u64>,
    retry_ms: u64,
    penalty: u8,
    pub(super) pass: u32,
}

impl Root {
    const fn new(sample: &RootSample, now_ms: u64, pass: u32) -> Self {
        Self {
            seen: *sample,
            rate: 0,
            why: Reason::New,
            first_ms: now_ms,
            spaced_ms: None,
            wanted_ms: None,
            retry_ms: 0,
            penalty: 0,
            pass,
        }
    }

    fn postpone(&mut self, now_ms: u64) {
        self.retry_ms = now_ms.saturating_add(RETRY_MS << self.penalty);
        self.penalty = self.penalty.saturating_add(1).min(MAX_PENALTY);
    }
}

impl Traps {
    pub(super) const fn why(&self) -> Reason {
        self.why
    }

    /// Cycles a second that it costs to have roots trapped.
    fn tax(&self) -> u64 {
        let traps = self.rate.unwrap_or(0).saturating_mul(cost::TRAP);
        traps.saturating_add(self.look_rate / cost::NS_PER_CYCLE)
    }

    fn end(&mut self, now_ms: u64) {
        self.on = false;
        self.rate = None;
        self.retry_ms = now_ms.saturating_add(RETRY_MS);
    }
}

impl Policy {
    /// Whether writes of roots may be trapped for this VM: where user spaces have nothing to gain whatever a trial
    /// showed, there is none, and none where the layout is to be settled, because processes come and go.
    #[must_use]
    pub fn may_trap(&self, now_ms: u64) -> bool {
        if matches!(self.config.changes, Changes::Lock) {
            return false;
        }
        let gains = self.config.may_trap && self.config.machine.moving_pays();
        let wanted = gains || self.config.mode == Mode::Shadow;
        wanted && self.is_active(now_ms)
    }

    /// Hears for how many ms the guest's vCPUs were in user mode. Whether a trial is due.
    pub fn load(&mut self, now_ms: u64, busy_ms: u64) -> bool {
        self.load.look(now_ms, busy_ms);
        self.budget.earn(busy_ms);
        self.trial_is_due(now_ms)
    }

    /// Takes in what EL2 counted since the last pass.
    pub(super) fn measure_traps(&mut self, now_ms: u64, before: &VmSample, now: &VmSample) {
        if !self.traps.on {
            return;
        }
        let since = |now: u64, before: u64| now.saturating_sub(before);
        let traps = since(now.traps, before.traps);
        let elapsed = self.elapsed_ms_of(now_ms);
        let rate = traps.saturating_mul(1000).checked_div(elapsed);
        self.traps.rate = rate.or(self.traps.rate);
        let looks = core::mem::take(&mut self.traps.looks).saturating_mul(1000);
        self.traps.look_rate = looks.checked_div(elapsed).unwrap_or(0);
        let samples = since(now.samples, before.samples);
        let stores = since(now.mirrored, before.mirrored);
        self.charge(now.traps, counted(samples, stores));
    }

    /// Charges what EL2 has done since the last time: it has trapped so many writes so far.
    const fn charge(&mut self, traps: u64, others: u64) {
        let since = traps.saturating_sub(self.traps.charged);
        self.traps.charged = traps;
        if !self.traps.pays {
            let cycles = since.saturating_mul(cost::TRAP).saturating_add(others);
            self.budget.spend_cycles(cycles);
        }
    }

    /// Time since the last pass began, or roots were trapped.
    const fn elapsed_ms_of(&self, now_ms: u64) -> u64 {
        let since = if self.began_ms > self.traps.since_ms {
            self.began_ms
        } else {
            self.traps.since_ms
        };
        now_ms.saturating_sub(since)
    }

    /// Hears how long a look has taken in which roots were trapped, or no longer.
    pub const fn looked(&mut self, ns: u64) {
        self.traps.looks = self.traps.looks.saturating_add(ns);
        if !self.traps.pays {
            self.budget.spend(ns);
        }
    }

    /// Whether a trial has to end before its pass does: it has spent what it had.
    pub fn overspent(&mut self) -> Option<Action> {
        let over = self.traps.on && self.budget.is_spent() && !self.traps.pays;
        if !over || self.config.mode == Mode::Shadow {
            return None;
        }
        // Nothing of this pass is known any more to be complete.
        self.whole = false;
        self.traps.why = Reason::Spent {
            ms: self.budget.spent_ns() / 1_000_000,
        };
        Some(Action::Trap(false))
    }

    /// Hears between two passes how many writes EL2 has trapped so far. Whether that is to end at once.
    pub fn probe(&mut self, now_ms: u64, traps: u64) -> Option<Action> {
        let (then_ms, before) = self.traps.probed;
        let elapsed = now_ms.saturating_sub(then_ms);
        if !self.traps.on || elapsed < PROBE_MS {
            return None;
        }
        self.traps.probed = (now_ms, traps);
        self.charge(traps, 0);
        let writes = traps.saturating_sub(before).saturating_mul(1000);
        let rate = writes.checked_div(elapsed)?;
        (rate > STORM).then(|| {
            self.traps.why = Reason::Storm { rate };
            Action::Trap(false)
        })
    }

    /// Time until the next look between two passes.
    #[must_use]
    pub const fn glance_ms(&self, now_ms: u64) -> u64 {
        let since = now_ms.saturating_sub(self.traps.since_ms);
        if self.traps.on && since < PROBED_MS {
            PROBE_MS
        } else {
            GLANCE_MS
        }
    }

    /// Whether traps are being tried: there is something to learn in each pass.
    pub(super) const fn is_trial(&self, now_ms: u64) -> bool {
        self.traps.on && now_ms.saturating_sub(self.traps.since_ms) < TRIAL_MS
    }

    fn trial_is_due(&self, now_ms: u64) -> bool {
        if self.traps.on || !self.may_trap(now_ms) || now_ms < self.traps.retry_ms {
            return false;
        }
        let busy = self.load.busy && now_ms >= TRIAL_AFTER_MS && self.budget.suffices();
        busy || self.config.mode == Mode::Shadow
    }

    /// Takes in a root of the lower half. What is to be done about it.
    pub fn root(&mut self, now_ms: u64, sample: &RootSample) -> Option<Action> {
        let (pass, elapsed) = (self.pass, self.elapsed_ms);
        let gain = self.gain_of(now_ms, |root| root == sample.root);
        let eager = self.config.mode == Mode::Shadow;
        let spaces = self.roots.iter().filter(|r| r.seen.space || r.seen.wanted);
        let room = spaces.count() < MAX_USER_SPACES;
        let known = self.roots.iter().any(|root| root.seen.root == sample.root);
        if !known && self.roots.len() < MAX_ROOTS {
            self.roots.push(Root::new(sample, now_ms, pass));
        }
        let mut roots = self.roots.iter_mut();
        let root = roots.find(|root| root.seen.root == sample.root)?;
        let writes = sample.writes.saturating_sub(root.seen.writes);
        root.rate = writes
            .saturating_mul(1000)
            .checked_div(elapsed)
            .unwrap_or(0);
        let asked = root.seen.wanted;
        (root.seen, root.pass) = (*sample, pass);
        if !self.traps.on {
            return None;
        }
        let number = sample.root;
        if !sample.space {
            root.spaced_ms = None;
            if asked && !sample.wanted {
                let refusal = sample.refusal.unwrap_or(Failure::Changed);
                root.why = Reason::Refused(refusal);
                root.postpone(now_ms);
            }
            if sample.wanted {
                // EL2 keeps a place for each wish, and a process that is gone never fulfils it.
                let since = *root.wanted_ms.get_or_insert(now_ms);
                let waits = now_ms.saturating_sub(since) >= TRIAL_MS;
                root.why = if waits { Reason::Gone } else { root.why };
                return waits.then_some(Action::DropSpace { root: number });
            }
            root.wanted_ms = None;
            let lived = now_ms.saturating_sub(root.first_ms) >= LIVES_MS;
            // EL2 lists a root until another one takes its place: in a storm most of them belong to nobody any more.
            let runs = sample.held || writes > 0;
            let due = (eager || lived && runs) && now_ms >= root.retry_ms;
            if due && !room {
                root.why = Reason::Budget;
            }
            return (due && room).then_some(Action::AddSpace { root: number });
        }
        let since = *root.spaced_ms.get_or_insert(now_ms);
        let tax = root.rate.saturating_mul(cost::TRAP);
        root.why = if eager {
            Reason::Mode
        } else {
            Reason::Taxed { tax, gain }
        };
        let tried = now_ms.saturating_sub(since) >= TRIAL_MS;
        (tried && !eager && gain <= tax).then_some(Action::DropSpace { root: number })
    }

    /// Decides on trapped roots, behind the regions of a pass.
    pub fn trap_roots(&mut self, now_ms: u64) -> Option<Action> {
        if !self.traps.on {
            if !self.trial_is_due(now_ms) {
                return None;
            }
            let eager = self.config.mode == Mode::Shadow;
            self.traps.why = if eager { Reason::Mode } else { Reason::Trial };
            return Some(Action::Trap(true));
        }
        let rate = self.traps.rate.unwrap_or(0);
        let (tax, gain) = (self.traps.tax(), self.gain_of(now_ms, |_| true));
        if rate > STORM {
            self.traps.why = Reason::Storm { rate };
            return Some(Action::Trap(false));
        }
        self.traps.why = Reason::Taxed { tax, gain };
        self.traps.pays = gain > tax || self.config.mode == Mode::Shadow;
        if self.traps.pays {
            self.traps.paid_ms = Some(now_ms);
            return None;
        }
        let began_ms = self.traps.paid_ms.unwrap_or(self.traps.since_ms);
        let long = now_ms.saturating_sub(began_ms) >= LONG_TRIAL_MS;
        (long || self.budget.is_spent()).then_some(Action::Trap(false))
    }

    /// EL2 took the permission to trap back by itself.
    pub fn stormed(&mut self, now_ms: u64) {
        if self.traps.on {
            let rate = self.traps.rate.unwrap_or(0);
            self.traps.why = Reason::Storm { rate };
            self.trapped(now_ms, false, true);
        }
    }

    pub(super) fn trapped(&mut self, now_ms: u64, on: bool, ok: bool) {
        if !on && !ok {
            // They are still trapped, and cost what they cost: the next look asks again.
            return;
        }
        let why = self.traps.why;
        if ok {
            let deed = if on { Deed::TrapOn } else { Deed::TrapOff };
            self.note(now_ms, deed, 0, why);
            self.news.users = true;
        }
        if on && ok {
            let traps = &mut self.traps;
            (traps.on, traps.since_ms) = (true, now_ms);
            (traps.pays, traps.paid_ms) = (false, None);
            self.walk_rate = None;
            (traps.looks, traps.look_rate) = (0, 0);
            (traps.probed, traps.charged) = ((now_ms, self.counters.traps), self.counters.traps);
        } else {
            self.budget.end(self.traps.paid_ms.take().is_some());
            self.traps.end(now_ms);
            let roots: Vec<u64> = self.roots.iter().map(|root| root.seen.root).collect();
            for root in roots {
                self.remember(root);
            }
            self.roots.clear();
        }
    }

    /// Hears how adding or dropping a space went.
    pub(super) fn spaced(
        &mut self,
        now_ms: u64,
        number: u64,
        add: bool,
        result: Result<(), Failure>,
    ) {
        if !add && result.is_ok() {
            self.remember(number);
            self.spaces
                .retain(|space| space.seen.half == Half::Kernel || space.seen.root != number);
        }
        let Some(root) = self.roots.iter_mut().find(|r| r.seen.root == number) else {
            if result.is_ok() {
                self.note(now_ms, Deed::SpaceDropped, number, Reason::Gone);
            }
            return;
        };
        match (add, result) {
            (true, Ok(())) => {
                root.seen.wanted = true;
                self.news.users = true;
                if !self.traps.pays {
                    // As much as a region, and a flush.
                    self.budget.spend_cycles(cost::SHADOW + cost::FLUSH);
                }
            }
            (false, Ok(())) => {
                (root.seen.space, root.seen.wanted) = (false, false);
                root.postpone(now_ms);
                let why = root.why;
                self.note(now_ms, Deed::SpaceDropped, number, why);
            }
            (_, Err(failure)) => {
                root.why = Reason::Refused(failure);
                root.postpone(now_ms);
            }
        }
    }

    /// The roots that EL2 has seen while roots are trapped.
    pub fn user_roots(&self) -> impl Iterator<Item = &Root> {
        self.roots.iter()
    }

    /// Whether roots are trapped: since when, traps a second, and why; or when that may be tried
    /// again, and why not.
    #[must_use]
    pub const fn trap_state(&self) -> (bool, u64, Option<u64>, Reason) {
        let Traps {
            on,
            since_ms,
            retry_ms,
            rate,
            why,
            ..
        } = self.traps;
        (on, if on { since_ms } else { retry_ms }, rate, why)
    }
}
