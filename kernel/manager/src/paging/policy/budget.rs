//! What experiments with user spaces may cost a VM.
//!
//! Whether trapped roots pay shows only by trying, and a trial that fails was for nothing. So trials are paid from an
//! account that the guest's own time in user mode fills, at half a percent, and what they cost is measured. However wrong
//! the policy is about a guest, its experiments cost no more than [`MOST_NS`] once and that share in the long run; each
//! one that fails halves the share.

use super::super::cost;

/// What each ms in user mode, of all vCPUs together, adds: 0.5 %.
const SHARE_NS: u64 = 5_000;
/// What is saved up at most, and there at first: within ten seconds, with what they add, experiments take 0.75 %.
pub const MOST_NS: i64 = 25_000_000;
/// What a trial begins with at least.
const TRIAL_NS: i64 = MOST_NS / 2;
/// The share is halved so often at most: a trial for each ten minutes in user mode.
const MAX_PENALTY: u8 = 8;

/// The account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    left_ns: i64,
    spent_ns: u64,
    busy_ms: u64,
    penalty: u8,
}

impl Budget {
    pub(super) const fn new() -> Self {
        Self {
            left_ns: MOST_NS,
            spent_ns: 0,
            busy_ms: 0,
            penalty: 0,
        }
    }

    /// Hears for how long the guest has been in user mode so far.
    pub(super) fn earn(&mut self, busy_ms: u64) {
        let since = busy_ms.saturating_sub(self.busy_ms);
        let earned = since.saturating_mul(SHARE_NS) >> self.penalty;
        self.busy_ms = self.busy_ms.max(busy_ms);
        let left = self.left_ns.saturating_add_unsigned(earned);
        self.left_ns = left.min(MOST_NS);
    }

    pub(super) const fn spend(&mut self, ns: u64) {
        self.left_ns = self.left_ns.saturating_sub_unsigned(ns);
        self.spent_ns = self.spent_ns.saturating_add(ns);
    }

    pub(super) const fn spend_cycles(&mut self, cycles: u64) {
        self.spend(cycles.saturating_mul(cost::NS_PER_CYCLE));
    }

    /// A trial is over. What is left of its money is gone if it did not pay, so that the next one waits for the account to
    /// fill.
    pub(super) fn end(&mut self, paid: bool) {
        if paid {
            self.penalty = 0;
        } else {
            self.left_ns = self.left_ns.min(0);
            self.penalty = self.penalty.saturating_add(1).min(MAX_PENALTY);
        }
    }

    /// Enough for a trial: half of what can be saved up.
    #[must_use]
    pub const fn suffices(&self) -> bool {
        self.left_ns >= TRIAL_NS
    }

    /// Nothing is left.
    #[must_use]
    pub const fn is_spent(&self) -> bool {
        self.left_ns <= 0
    }

    /// For how long the guest has been in user mode, in ms.
    #[must_use]
    pub const fn busy_ms(&self) -> u64 {
        self.busy_ms
    }

    /// All that experiments have cost so far, in ns.
    #[must_use]
    pub const fn spent_ns(&self) -> u64 {
        self.spent_ns
    }

    /// For how many ms more the guest has to be in user mode before that is enough for a trial.
    #[must_use]
    pub const fn wait_ms(&self) -> u64 {
        if self.suffices() {
            return 0;
        }
        let missing = TRIAL_NS.saturating_sub(self.left_ns).unsigned_abs();
        missing.saturating_mul(1 << self.penalty).div_ceil(SHARE_NS)
    }
}

/// What samples that were hit and stores that were mirrored cost EL2, in cycles.
pub(super) const fn counted(samples: u64, stores: u64) -> u64 {
    let samples = samples.saturating_mul(cost::SAMPLE);
    let stores = stores.saturating_mul(cost::MIRRORED_STORE);
    samples.saturating_add(stores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_trials_cost_the_long_run_is_bounded() {
        let mut budget = Budget::new();
        let mut trials = 0;
        // A guest that computes for a day, and whose trials cost 3 ms for each look and never pay.
        for second in 1..=86_400 {
            budget.earn(second * 1_000);
            if budget.suffices() {
                trials += 1;
                while !budget.is_spent() {
                    budget.spend(3_000_000);
                }
                budget.end(false);
            }
            let most = u64::try_from(MOST_NS).unwrap() + 3_000_000 + second * 1_000 * SHARE_NS;
            assert!(budget.spent_ns() <= most, "{second} s");
        }
        // At once, then after 6, 12, 24 s and so on, in the end one in thirteen minutes.
        assert!((110..125).contains(&trials), "{trials}");
        assert!(
            budget.spent_ns() < 86_400 * 1_000_000_000 / 10_000,
            "0.01 % of it"
        );
    }

    #[test]
    fn a_window_of_ten_seconds_holds_three_quarters_of_a_percent_and_one_look_at_most() {
        let mut budget = Budget::new();
        let mut spent = 0;
        for ms in (0..10_000).step_by(100) {
            budget.earn(ms);
            if !budget.is_spent() {
                budget.spend(5_000_000);
                spent += 5_000_000;
            }
        }
        assert!(spent <= 80_000_000, "{spent}");
    }

    #[test]
    fn a_trial_that_paid_is_followed_by_the_next_one_soon() {
        let mut budget = Budget::new();
        for _ in 0..5 {
            budget.end(false);
        }
        assert_eq!(budget.wait_ms(), 2_500 << 5);
        budget.end(true);
        assert_eq!(budget.wait_ms(), 2_500);
        budget.earn(2_499);
        assert!(!budget.suffices());
        budget.earn(2_500);
        assert!(budget.suffices());
        budget.earn(80_000);
        budget.spend(25_000_000);
        assert!(budget.is_spent(), "no more than that is saved up");
    }
}
