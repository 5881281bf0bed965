//! What the policy remembers of one region.

use super::cost::UNSAMPLED_KERNEL_WALKS;
use super::reason::Reason;
use super::sample::{Form, Half, RegionSample};

/// Stores within so many ms are stores within one interval.
pub(super) const INTERVAL_MS: u64 = 10_000;
/// How long a region is left alone after a store, at first.
const PROBATION_MS: u64 = 1_000;
/// Probation doubles so often at most: to 17 minutes.
const MAX_PENALTY: u8 = 10;

/// How a region is on its way from nested to re-laid-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The guest's own table.
    Nested,
    /// Nested, and being watched for stores.
    Probation,
    /// A mirror or a leaf stands for it.
    Shadowed,
    /// A leaf over frames put in order stands for it.
    Relaid,
}

/// A region and its history.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// As it was seen last; the form is what it has become since.
    pub seen: RegionSample,
    /// Which half it belongs to.
    pub half: Half,
    /// Passes without a store.
    pub quiet: u8,
    /// Walks a second, where they are sampled.
    pub walks: Option<u64>,
    /// Its pages are being put in order, or wait for that.
    pub(super) moving: bool,
    /// Why it is as it is.
    pub why: Reason,
    /// Not to be touched before this time.
    pub until_ms: u64,
    penalty: u8,
    wrote_ms: Option<u64>,
    pub(super) pass: u32,
}

impl Record {
    pub(super) const fn new(sample: &RegionSample, half: Half, pass: u32) -> Self {
        Self {
            seen: *sample,
            half,
            quiet: 0,
            walks: None,
            moving: false,
            why: Reason::New,
            until_ms: 0,
            penalty: 0,
            wrote_ms: None,
            pass,
        }
    }

    /// Where it is found.
    pub(super) const fn key(&self) -> (u8, u64) {
        (self.seen.space, self.seen.va)
    }

    /// Its state.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.seen.form {
            Form::Relaid => State::Relaid,
            Form::Leaf | Form::Mirror => State::Shadowed,
            Form::Nested if self.quiet > 0 => State::Probation,
            Form::Nested => State::Nested,
        }
    }

    /// Walks a second, by samples or assumed. A kernel uses each of its regions sooner or later, so
    /// what is assumed of them is the least.
    #[must_use]
    pub fn walks_per_s(&self) -> u64 {
        let assumed = match self.half {
            Half::Kernel => UNSAMPLED_KERNEL_WALKS,
            Half::User => 0,
        };
        self.walks.unwrap_or(assumed).max(assumed)
    }

    /// Takes a new sample in, in which a walk stands for so many a second. What it says of stores.
    pub(super) fn update(&mut self, sample: &RegionSample, pass: u32, rate: u64) -> Stores {
        let before = self.seen;
        let lost = match before.form {
            Form::Leaf | Form::Relaid => !matches!(sample.form, Form::Leaf | Form::Relaid),
            Form::Mirror => sample.form == Form::Nested,
            Form::Nested => false,
        };
        // Where nobody watches for stores, what they did may show.
        let changed = (before.table, before.valid, before.runs)
            != (sample.table, sample.valid, sample.runs)
            || (before.uniform, before.full) != (sample.uniform, sample.full);
        if let Some(walked) = sample.walked {
            let now = if walked { rate } else { 0 };
            // Half of what was, half of what is.
            self.walks = Some(self.walks.unwrap_or(now).saturating_add(now) / 2);
        }
        // A survey cannot tell why one leaf stands for a region.
        let relaid = before.form == Form::Relaid && sample.form == Form::Leaf;
        (self.seen, self.pass) = (*sample, pass);
        if relaid {
            self.seen.form = Form::Relaid;
        }
        if lost {
            Stores::Lost
        } else if sample.writes > 1 {
            Stores::Many
        } else if changed || sample.writes == 1 {
            Stores::One
        } else {
            Stores::None
        }
    }

    /// Notes a store. Whether it is the second one within an interval; that doubles probation.
    pub(super) fn written(&mut self, stores: Stores, now_ms: u64) -> bool {
        let since = self.wrote_ms.map(|then| now_ms.saturating_sub(then));
        let again = stores == Stores::Many || since.is_some_and(|since| since < INTERVAL_MS);
        if again {
            self.penalty = self.penalty.saturating_add(1).min(MAX_PENALTY);
        } else if since.is_none_or(|since| since > self.probation_ms().saturating_mul(4)) {
            self.penalty = 0;
        }
        (self.wrote_ms, self.quiet) = (Some(now_ms), 0);
        self.postpone(now_ms);
        self.why = Reason::Written {
            until_ms: self.until_ms,
        };
        again
    }

    /// EL2 refused: not again soon. Where the vCPUs were only `busy`, that says nothing of the region.
    pub(super) fn refused(&mut self, now_ms: u64, busy: bool) {
        let more = u8::from(!busy);
        self.penalty = self.penalty.saturating_add(more).min(MAX_PENALTY);
        self.quiet = 0;
        self.postpone(now_ms);
    }

    /// Forgets earlier stores: it is left alone for the shortest time.
    pub(super) fn forgive(&mut self, now_ms: u64) {
        self.penalty = 0;
        self.postpone(now_ms);
        self.why = Reason::Written {
            until_ms: self.until_ms,
        };
    }

    fn postpone(&mut self, now_ms: u64) {
        self.until_ms = now_ms.saturating_add(self.probation_ms());
    }

    fn probation_ms(&self) -> u64 {
        PROBATION_MS << self.penalty.min(MAX_PENALTY)
    }
}

/// What a sample says of stores to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stores {
    None,
    One,
    Many,
    /// Enough for EL2 to give up what stood for it.
    Lost,
}
