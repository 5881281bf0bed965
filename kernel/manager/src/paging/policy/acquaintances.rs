//! Processes that had a space in an earlier trial, and since when they have been seen.

use super::super::sample::{Half, RegionSample};
use super::Policy;
use super::roots::MAX_ROOTS;

/// A process that had a space: it is the same one if its root has the same table at the same place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acquaintance {
    root: u64,
    va: u64,
    table: u64,
    first_ms: u64,
}

impl Policy {
    /// Remembers the process of a root whose space goes, by the first full region that was seen of it.
    pub(super) fn remember(&mut self, root: u64) {
        let mut spaces = self.spaces.iter().map(|space| &space.seen);
        let space = spaces.find(|space| space.half == Half::User && space.root == root);
        let mut records = self.records.iter().map(|record| &record.seen);
        let region = space
            .and_then(|space| records.find(|region| region.space == space.space && region.full));
        let mut roots = self.roots.iter();
        let known = roots.find(|known| known.seen.root == root);
        let (Some(region), Some(known)) = (region, known) else {
            return;
        };
        let process = Acquaintance {
            root,
            va: region.va,
            table: region.table,
            first_ms: known.first_ms,
        };
        self.acquaintances.retain(|known| known.root != root);
        if self.acquaintances.len() >= MAX_ROOTS {
            self.acquaintances.remove(0);
        }
        self.acquaintances.push(process);
    }

    /// A region is seen for the first time: perhaps of a process that was there in an earlier trial.
    pub(super) fn recognize(&mut self, sample: &RegionSample) {
        let mut spaces = self.spaces.iter().map(|space| &space.seen);
        let Some(root) = spaces
            .find(|space| space.space == sample.space)
            .map(|space| space.root)
        else {
            return;
        };
        let seen = (root, sample.va, sample.table);
        let mut known = self.acquaintances.iter();
        let known = known.find(|known| (known.root, known.va, known.table) == seen);
        let mut roots = self.roots.iter_mut();
        let root = roots.find(|known| known.seen.root == root);
        if let (Some(known), Some(root)) = (known, root) {
            root.first_ms = root.first_ms.min(known.first_ms);
        }
    }
}
