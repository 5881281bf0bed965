//! Whether the roots of user spaces are trapped: a tax on every process switch, for what their
//! shadows save.

use super::super::cost::{self, HORIZON_S};
use super::super::reason::{Deed, Reason};
use super::super::sample::{Half, VmSample};
use super::{Action, Mode, Policy};

/// Traps a second that are assumed while nothing is trapped: 25 process switches, four writes each.
const ASSUMED_TRAPS: u64 = 100;
/// Traps a second that end the attempt at once: a kernel that writes its roots at each entry.
const STORM: u64 = 20_000;
/// How long a trial has to run before it is judged.
const TRIAL_MS: u64 = 2_000;
/// How long after a failure the next trial may begin, at first.
const RETRY_MS: u64 = 10_000;
/// Retries double so often at most.
const MAX_PENALTY: u8 = 10;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traps {
    pub(super) on: bool,
    since_ms: u64,
    retry_ms: u64,
    penalty: u8,
    /// Traps a second as measured last.
    rate: Option<u64>,
    /// Why it is as it is going to be.
    why: Reason,
}

impl Traps {
    pub(super) const fn why(&self) -> Reason {
        self.why
    }

    /// Takes in what EL2 counted in `elapsed_ms`.
    pub(super) fn measure(&mut self, before: &VmSample, now: &VmSample, elapsed_ms: u64) {
        if self.on {
            let traps = now.traps.saturating_sub(before.traps).saturating_mul(1000);
            self.rate = traps.checked_div(elapsed_ms).or(self.rate);
        }
    }
}

impl Policy {
    /// Decides on trapped roots, behind the regions of a pass.
    pub fn roots(&mut self, now_ms: u64) -> Option<Action> {
        if !self.config.may_trap || !self.is_active(now_ms) {
            return None;
        }
        let rate = self.traps.rate.unwrap_or(ASSUMED_TRAPS);
        let tax = rate.saturating_mul(cost::TRAP);
        let gain = self.user_gain();
        self.traps.why = Reason::Taxed { tax, gain };
        let eager = self.config.mode == Mode::Shadow;
        if !self.traps.on {
            let due = now_ms >= self.traps.retry_ms;
            return (due && (eager || gain > tax)).then_some(Action::Trap(true));
        }
        let tried = now_ms.saturating_sub(self.traps.since_ms) >= TRIAL_MS;
        let loses = tried && !eager && tax > gain;
        (loses || rate > STORM).then_some(Action::Trap(false))
    }

    /// What all user regions would save each second if they were shadowed as well as it pays.
    fn user_gain(&self) -> u64 {
        let machine = &self.config.machine;
        let may_move = self.config.copy_pages_per_s > 0;
        let users = self.records.iter().filter(|r| r.half == Half::User);
        let gains = users.map(|record| {
            let walks = record.walks_per_s();
            let balance = if record.seen.uniform {
                machine.leaf(walks, 0)
            } else if record.seen.full && may_move {
                machine.relayout(walks, 0)
            } else {
                machine.mirror(walks, 0)
            };
            balance.worth().saturating_sub(balance.once / HORIZON_S)
        });
        gains.fold(0, u64::saturating_add)
    }

    pub(super) fn trapped(&mut self, now_ms: u64, on: bool, ok: bool) {
        let why = self.traps.why;
        if ok {
            self.traps.on = on;
            self.traps.since_ms = now_ms;
            let deed = if on { Deed::TrapOn } else { Deed::TrapOff };
            self.note(now_ms, deed, 0, why);
            self.news = true;
        }
        if !on || !ok {
            let wait = RETRY_MS << self.traps.penalty.min(MAX_PENALTY);
            self.traps.retry_ms = now_ms.saturating_add(wait);
            self.traps.penalty = self.traps.penalty.saturating_add(1).min(MAX_PENALTY);
        }
    }
}
