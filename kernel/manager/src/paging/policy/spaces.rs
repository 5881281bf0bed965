//! The address spaces of a VM, and when a root mirror that was given up is made anew.

use super::super::reason::{Deed, Failure, Reason};
use super::super::sample::{Half, SpaceSample};
use super::{Action, MAX_SPACES, Policy};

/// How long after its loss a root mirror is made anew, at first. That stops the vCPUs, and whatever
/// cost the space its mirror may do so again.
const REVIVE_MS: u64 = 2_000;
/// The wait doubles so often at most: to 34 minutes.
const MAX_PENALTY: u8 = 10;

/// An address space and its history.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// As it was seen last.
    pub seen: SpaceSample,
    /// How often its root mirror was given up.
    pub lost: u32,
    /// Without a root mirror it is not tried again before this time.
    pub retry_ms: u64,
    /// Why EL2 would not make it anew the last time.
    pub refused: Option<Failure>,
    /// Regions of it that are walked.
    pub(super) walked: u64,
    /// Since when it has been as it is.
    since_ms: u64,
    penalty: u8,
    pub(super) pass: u32,
}

impl Space {
    const fn new(sample: &SpaceSample, now_ms: u64, pass: u32) -> Self {
        let mut space = Self {
            seen: *sample,
            lost: 0,
            retry_ms: 0,
            refused: None,
            walked: 0,
            since_ms: now_ms,
            penalty: 0,
            pass,
        };
        if !sample.mirrored {
            space.give_up(now_ms);
        }
        space
    }

    /// Its root mirror is gone. One that stood for long starts from the shortest wait again.
    const fn give_up(&mut self, now_ms: u64) {
        let stood = now_ms.saturating_sub(self.since_ms);
        if stood > self.wait_ms().saturating_mul(4) {
            self.penalty = 0;
        }
        self.lost = self.lost.saturating_add(1);
        self.since_ms = now_ms;
        self.postpone(now_ms);
    }

    const fn postpone(&mut self, now_ms: u64) {
        self.retry_ms = now_ms.saturating_add(self.wait_ms());
        if self.penalty < MAX_PENALTY {
            self.penalty = self.penalty.saturating_add(1);
        }
    }

    const fn wait_ms(&self) -> u64 {
        REVIVE_MS << self.penalty
    }

    /// Whether it waits for its root mirror.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        !self.seen.mirrored
    }
}

impl Policy {
    /// Notes an address space of the VM. What is to be done about it.
    pub fn space(&mut self, now_ms: u64, sample: &SpaceSample) -> Option<Action> {
        let pass = self.pass;
        let active = self.is_active(now_ms);
        if sample.half == Half::User && active && self.is_gone(now_ms, sample) {
            return Some(Action::DropSpace { root: sample.root });
        }
        let mut known = self.spaces.iter_mut();
        let Some(space) = known.find(|known| known.seen.space == sample.space) else {
            if self.spaces.len() < MAX_SPACES {
                self.spaces.push(Space::new(sample, now_ms, pass));
            } else {
                self.missed = self.missed.saturating_add(1);
            }
            return None;
        };
        if space.seen.root != sample.root {
            // The number has been given to another one.
            *space = Space::new(sample, now_ms, pass);
            self.records
                .retain(|record| record.seen.space != sample.space);
            return None;
        }
        let had = space.seen.mirrored;
        (space.seen, space.pass) = (*sample, pass);
        match (had, sample.mirrored) {
            (true, false) => {
                space.give_up(now_ms);
                self.note(now_ms, Deed::RootLost, 0, Reason::TakenBack);
                None
            }
            (false, true) => {
                space.since_ms = now_ms;
                None
            }
            (false, false) if active && now_ms >= space.retry_ms => Some(Action::Revive {
                space: sample.space,
            }),
            _ => None,
        }
    }

    /// Whether the process of a user space seems to be gone: EL2 gave its mirror up, as it does when a root
    /// page is used for something else, or has seen its root no more.
    fn is_gone(&mut self, now_ms: u64, sample: &SpaceSample) -> bool {
        let pass = self.pass;
        let mut roots = self.roots.iter_mut();
        let known = roots.find(|root| root.seen.root == sample.root);
        let seen = known.as_ref().is_some_and(|root| root.pass == pass);
        let gone = !seen || !sample.mirrored;
        if let Some(root) = known.filter(|_| gone) {
            root.why = Reason::Gone;
            // Whose root the page is next has just begun.
            root.first_ms = now_ms;
        }
        gone
    }

    /// Hears how making a root mirror anew went.
    pub(super) fn revived(&mut self, now_ms: u64, number: u8, result: Result<(), Failure>) {
        let mut spaces = self.spaces.iter_mut();
        let Some(space) = spaces.find(|space| space.seen.space == number) else {
            return;
        };
        space.refused = result.err();
        match result {
            Ok(()) => {
                (space.seen.mirrored, space.since_ms) = (true, now_ms);
                let lost = space.lost;
                self.ledger.deed(Deed::Revived, &self.config.machine);
                self.note(now_ms, Deed::Revived, 0, Reason::Waited { lost });
                self.news.kernel = true;
            }
            Err(_) => space.postpone(now_ms),
        }
    }

    /// When the next root mirror may be made anew, if one waits.
    pub(super) fn next_revival(&self) -> Option<u64> {
        let lost = self.spaces.iter().filter(|space| space.is_lost());
        lost.map(|space| space.retry_ms).min()
    }

    /// The address spaces of the last pass.
    pub fn spaces(&self) -> impl Iterator<Item = &Space> {
        self.spaces.iter()
    }
}
