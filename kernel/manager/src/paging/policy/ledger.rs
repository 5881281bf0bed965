//! What the shadows of a VM have cost and saved, in cycles.

use super::super::cost::{self, Machine};
use super::super::reason::Deed;
use super::super::record::Record;
use super::super::sample::{Form, VmSample};

/// Totals since the policy began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Spent on surveys.
    pub survey: u64,
    /// Spent on shadowing.
    pub shadow: u64,
    /// Spent on moving pages.
    pub moves: u64,
    /// Spent on demotions.
    pub demotions: u64,
    /// Spent on mirrored stores.
    pub stores: u64,
    /// Spent on walk samples.
    pub samples: u64,
    /// Spent on trapped writes of translation registers.
    pub traps: u64,
    /// Saved by walks that read less, as estimated.
    pub saved: u64,
}

impl Ledger {
    /// All that was spent.
    #[must_use]
    pub const fn spent(&self) -> u64 {
        self.survey
            .saturating_add(self.shadow)
            .saturating_add(self.moves)
            .saturating_add(self.demotions)
            .saturating_add(self.stores)
            .saturating_add(self.samples)
            .saturating_add(self.traps)
    }

    /// Adds what the shadows saved in `elapsed_ms`.
    pub(super) fn accrue(&mut self, records: &[Record], machine: &Machine, elapsed_ms: u64) {
        let saves = |record: &Record| {
            let walks = record.walks_per_s();
            match record.seen.form {
                Form::Nested => 0,
                Form::Mirror => machine.mirror(walks, 0).gain,
                Form::Leaf | Form::Relaid => machine.leaf(walks, 0).gain,
            }
        };
        let rate = records.iter().map(saves).fold(0, u64::saturating_add);
        let saved = rate.saturating_mul(elapsed_ms) / 1000;
        self.saved = self.saved.saturating_add(saved);
    }

    /// Adds what EL2 counted since the last pass. Demotions that were asked for are among them.
    pub(super) fn count(&mut self, before: &VmSample, now: &VmSample, machine: &Machine) {
        let add = |total: &mut u64, count: u64, price: u64| {
            *total = total.saturating_add(count.saturating_mul(price));
        };
        let since = |now: u64, before: u64| now.saturating_sub(before);
        add(&mut self.traps, since(now.traps, before.traps), cost::TRAP);
        let samples = since(now.samples, before.samples);
        add(&mut self.samples, samples, cost::SAMPLE);
        let stores = since(now.mirrored, before.mirrored);
        add(&mut self.stores, stores, cost::MIRRORED_STORE);
        let demoted = since(now.demoted, before.demoted);
        add(&mut self.demotions, demoted, machine.demotion());
    }

    /// Adds what a decision cost.
    pub(super) fn deed(&mut self, deed: Deed, machine: &Machine) {
        let once = machine.leaf(0, 0).once;
        match deed {
            Deed::Leaf | Deed::Mirror | Deed::Revived => {
                self.shadow = self.shadow.saturating_add(once)
            }
            Deed::Relaid => {
                self.shadow = self.shadow.saturating_add(once);
                self.moves = self.moves.saturating_add(machine.relayout_once());
            }
            // EL2 counts demotions and traps.
            Deed::Demoted | Deed::RootLost | Deed::SpaceDropped | Deed::TrapOn | Deed::TrapOff => {}
        }
    }
}
