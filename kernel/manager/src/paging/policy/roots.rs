//! The roots of user spaces: whether their writes are trapped, a tax on every process switch, and which
//! of them have a space.
//!
//! What a user space would gain shows only in samples of its walks, and those need a space, and that a
//! trap. So a guest that is busy is given a *trial*. One that does not earn its tax waits twice as
//! long for the next.

use super::super::cost::{self, HORIZON_S};
use super::super::reason::{Deed, Failure, Reason};
use super::super::sample::{Half, RootSample, VmSample};
use super::{Action, Mode, Policy};

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
/// How long a trial has to run before it is judged: two passes until a root has a space, and some
/// epochs of samples.
const TRIAL_MS: u64 = 6_000;
/// A trial goes on until its traps and surveys have cost so many cycles: the root of a process that computes
/// without a pause is seldom written, and a region has to be seen in some passes.
const TRIAL_COST: u64 = 10_000 * cost::TRAP;
/// And so long at most.
const LONG_TRIAL_MS: u64 = 60_000;
/// Traps a second below which a root gets its space at first sight, for the same reason.
const FEW_TRAPS: u64 = 1_000;
/// How long after its first look a guest is left to boot.
const TRIAL_AFTER_MS: u64 = 15_000;
/// How long after a failure the next trial may begin, at first.
const RETRY_MS: u64 = 10_000;
/// Retries double so often at most: to three hours.
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
    /// Cycles that traps and surveys of user regions have cost since then.
    spent: u64,
    /// Those of the surveys since the last pass began, and what they came to each second before.
    surveys: u64,
    survey_rate: u64,
    /// EL2's counter at the last look between passes, and when that was.
    probed: (u64, u64),
    retry_ms: u64,
    penalty: u8,
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
    /// Passes in which it was seen.
    passes: u8,
    spaced_ms: Option<u64>,
    /// Since when it has been waiting for its space.
    wanted_ms: Option<u64>,
    retry_ms: u64,
    penalty: u8,
    pub(super) pass: u32,
}

impl Root {
    const fn new(sample: &RootSample, pass: u32) -> Self {
        Self {
            seen: *sample,
            rate: 0,
            why: Reason::New,
            passes: 0,
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

    /// Takes in what EL2 counted in `elapsed_ms`.
    pub(super) fn measure(&mut self, before: &VmSample, now: &VmSample, elapsed_ms: u64) {
        if self.on {
            let traps = now.traps.saturating_sub(before.traps);
            let spent = traps
                .saturating_mul(cost::TRAP)
                .saturating_add(self.surveys);
            self.spent = self.spent.saturating_add(spent);
            let rate = traps.saturating_mul(1000).checked_div(elapsed_ms);
            self.rate = rate.or(self.rate);
            let surveys = core::mem::take(&mut self.surveys).saturating_mul(1000);
            self.survey_rate = surveys.checked_div(elapsed_ms).unwrap_or(0);
        }
    }

    /// A region was surveyed.
    pub(super) const fn survey(&mut self, half: Half) {
        if self.on && matches!(half, Half::User) {
            self.surveys = self.surveys.saturating_add(cost::SURVEY);
        }
    }

    /// Cycles a second that it costs to have roots trapped.
    fn tax(&self) -> u64 {
        let traps = self.rate.unwrap_or(0).saturating_mul(cost::TRAP);
        traps.saturating_add(self.survey_rate)
    }

    fn end(&mut self, now_ms: u64) {
        self.on = false;
        self.rate = None;
        self.retry_ms = now_ms.saturating_add(RETRY_MS << self.penalty);
        self.penalty = self.penalty.saturating_add(1).min(MAX_PENALTY);
    }
}

impl Policy {
    /// Whether writes of roots may be trapped for this VM: where user spaces have nothing to gain whatever a trial
    /// showed, there is none.
    #[must_use]
    pub fn may_trap(&self, now_ms: u64) -> bool {
        let gains = self.config.may_trap && self.users.moving_pays();
        let wanted = gains || self.config.mode == Mode::Shadow;
        wanted && self.is_active(now_ms)
    }

    /// Hears for how many ms the guest's vCPUs were in user mode. Whether a trial is due.
    pub fn load(&mut self, now_ms: u64, busy_ms: u64) -> bool {
        self.load.look(now_ms, busy_ms);
        self.trial_is_due(now_ms)
    }

    /// Hears between two passes how many writes EL2 has trapped so far. Whether that is to end at once.
    pub fn probe(&mut self, now_ms: u64, traps: u64) -> Option<Action> {
        let (then_ms, before) = self.traps.probed;
        let elapsed = now_ms.saturating_sub(then_ms);
        if !self.traps.on || elapsed < PROBE_MS {
            return None;
        }
        self.traps.probed = (now_ms, traps);
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
        let busy = self.load.busy && now_ms >= TRIAL_AFTER_MS;
        busy || self.config.mode == Mode::Shadow
    }

    /// Takes in a root of the lower half. What is to be done about it.
    pub fn root(&mut self, now_ms: u64, sample: &RootSample) -> Option<Action> {
        let (pass, elapsed) = (self.pass, self.elapsed_ms);
        let gain = self.gain_of(|root| root == sample.root);
        let eager = self.config.mode == Mode::Shadow;
        let spaces = self.roots.iter().filter(|r| r.seen.space || r.seen.wanted);
        let room = spaces.count() < MAX_USER_SPACES;
        let known = self.roots.iter().any(|root| root.seen.root == sample.root);
        if !known && self.roots.len() < MAX_ROOTS {
            self.roots.push(Root::new(sample, pass));
        }
        let few = self.traps.rate.is_some_and(|rate| rate < FEW_TRAPS);
        let mut roots = self.roots.iter_mut();
        let root = roots.find(|root| root.seen.root == sample.root)?;
        let writes = sample.writes.saturating_sub(root.seen.writes);
        root.rate = writes
            .saturating_mul(1000)
            .checked_div(elapsed)
            .unwrap_or(0);
        let asked = root.seen.wanted;
        (root.seen, root.pass) = (*sample, pass);
        root.passes = root.passes.saturating_add(1);
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
            let lives = few || root.passes >= 2;
            let due = lives && now_ms >= root.retry_ms;
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
        let (tax, gain) = (self.traps.tax(), self.gain_of(|_| true));
        if rate > STORM {
            self.traps.why = Reason::Storm { rate };
            return Some(Action::Trap(false));
        }
        self.traps.why = Reason::Taxed { tax, gain };
        let since = now_ms.saturating_sub(self.traps.since_ms);
        let dear = self.traps.spent >= TRIAL_COST || since >= LONG_TRIAL_MS;
        let tried = since >= TRIAL_MS && dear;
        let loses = tried && self.config.mode != Mode::Shadow && tax >= gain;
        loses.then_some(Action::Trap(false))
    }

    /// EL2 took the permission to trap back by itself.
    pub fn stormed(&mut self, now_ms: u64) {
        if self.traps.on {
            let rate = self.traps.rate.unwrap_or(0);
            self.traps.why = Reason::Storm { rate };
            self.trapped(now_ms, false, true);
        }
    }

    /// What the user regions of the chosen roots would save each second if they were shadowed as well
    /// as it pays.
    fn gain_of(&self, chosen: impl Fn(u64) -> bool) -> u64 {
        let machine = &self.users;
        let may_move = self.config.copy_pages_per_s > 0;
        let mut gain = 0_u64;
        for record in self.records.iter().filter(|r| r.half == Half::User) {
            let mut spaces = self.spaces.iter().map(|space| &space.seen);
            let root = spaces.find(|space| space.space == record.seen.space);
            if !root.is_some_and(|space| chosen(space.root)) {
                continue;
            }
            let walks = record.walks_per_s();
            let balance = if record.seen.uniform {
                machine.leaf(walks, 0)
            } else if record.seen.full && may_move {
                machine.relayout(walks, 0)
            } else {
                machine.mirror(walks, 0)
            };
            let net = balance.worth().saturating_sub(balance.once / HORIZON_S);
            gain = gain.saturating_add(net);
        }
        gain
    }

    pub(super) fn trapped(&mut self, now_ms: u64, on: bool, ok: bool) {
        let why = self.traps.why;
        if ok {
            let deed = if on { Deed::TrapOn } else { Deed::TrapOff };
            self.note(now_ms, deed, 0, why);
            self.news.users = true;
        }
        if on && ok {
            let traps = &mut self.traps;
            (traps.on, traps.since_ms, traps.spent) = (true, now_ms, 0);
            (traps.surveys, traps.survey_rate) = (0, 0);
            traps.probed = (now_ms, self.counters.traps);
        } else {
            self.traps.end(now_ms);
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
