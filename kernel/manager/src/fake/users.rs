//! The user half of the fake: one process, whose root trapped writes show.

use std::collections::{BTreeMap, BTreeSet};

use penumbra_abi::{
    Error, PAGING_OWN_FRAMES, PAGING_SAMPLES, PagingForm, PagingRegion, PagingRoot, PagingSpace,
    RootInstall, paging_epoch, paging_roots,
};

use super::paging::FakePaging;
use crate::hypervisor::{Result, Sampled};

/// Its space, once there is one.
pub(super) const USER_SPACE: u8 = 3;
/// First VA of its memory.
pub(crate) const USER_VA: u64 = 0xffff_8000_0000;
const ROOT: u64 = 0x4990_0000;
/// Calls that one re-layout takes: a page each, of which the fake has few.
const MOVES: u32 = 16;

/// A process.
#[derive(Debug, Default)]
pub(crate) struct FakeUsers {
    /// It runs all the time.
    pub(crate) busy: bool,
    /// Its regions by VA; walks go to all of them.
    pub(crate) regions: BTreeMap<u64, PagingRegion>,
    /// How often its root is written between two looks.
    pub(crate) switches: u64,
    /// EL2 traps roots.
    pub(crate) offered: bool,
    /// Own frames (by number) and 2 MiB of guest RAM that may not give their frames.
    pub(crate) bad_partners: BTreeSet<u64>,
    /// Those that did.
    pub(crate) partners: Vec<u64>,
    /// Clock at the last look, and for how long it was busy until then.
    pub(crate) looked: (u64, u64),
    writes: u64,
    wanted: bool,
    pub(super) spaced: bool,
    samples: BTreeSet<u64>,
    /// Samples that were hit, and the clock at that, added up.
    hits: (u64, u64),
    /// Clock at the first of an epoch.
    pub(super) first: u64,
    /// Those that will be once time has passed, and when they began.
    soon: (u64, u64),
    moved: u32,
    /// Pages that are not where they belong, and how often all of RAM was looked through for such.
    pub(crate) away: u32,
    pub(crate) sweeps: u32,
}

impl FakePaging {
    /// A process that maps so many regions of scattered pages and reads them at random.
    pub(crate) fn random_reader(&mut self, regions: u64) {
        (self.users.offered, self.users.busy) = (true, true);
        for n in 0..regions {
            let region = PagingRegion {
                va: USER_VA + n * (2 << 20),
                table: 0x5000_0000 + n * 4096,
                valid: 512,
                full: true,
                user: true,
                ..PagingRegion::default()
            };
            self.users.regions.insert(region.va, region);
        }
    }

    pub(super) fn allow(&mut self, roots: u64) -> Result<bool> {
        let trapped = roots & paging_roots::TRAPPED != 0;
        if trapped && !self.users.offered || roots & !(paging_roots::STICKY | 2) != 0 {
            return Err(Error::NotSupported);
        }
        if !trapped {
            self.users.drop_space();
        }
        (self.status.roots, self.status.planted) = (roots, 0b11);
        Ok(true)
    }

    pub(super) fn is_trapped(&self) -> bool {
        self.status.roots & paging_roots::TRAPPED != 0
    }

    pub(super) fn user_root(&mut self, number: u8) -> PagingRoot {
        let trapped = self.is_trapped();
        let users = &mut self.users;
        if number != 0 || !trapped || users.regions.is_empty() {
            return PagingRoot::default();
        }
        users.writes += users.switches;
        // The next write makes the space.
        users.spaced |= core::mem::take(&mut users.wanted);
        PagingRoot {
            exists: true,
            wanted: users.wanted,
            space: users.spaced,
            root: ROOT,
            writes: users.writes,
            held: 1,
            ..PagingRoot::default()
        }
    }

    pub(super) fn user_space(&self) -> PagingSpace {
        PagingSpace {
            exists: true,
            high: false,
            shadowed: true,
            install: RootInstall::Trapped,
            root: ROOT,
            start: 0,
        }
    }
}

impl FakeUsers {
    /// For how long the process has run in user mode.
    pub(super) fn ticks(&mut self, clock: u64) -> u64 {
        let (then, ticks) = self.looked;
        let more = if self.busy { clock - then } else { 0 };
        self.looked = (clock, ticks + more);
        ticks + more
    }

    /// How many samples were hit, and the clock at that, added up.
    pub(super) fn hits(&mut self, clock: u64) -> (u64, u64) {
        let (soon, began) = self.soon;
        if clock > began {
            let (hits, ticks) = self.hits;
            self.hits = (hits + soon, ticks + soon * began);
            self.soon = (0, clock);
            if soon > 0 && self.first == 0 {
                self.first = began;
            }
        }
        self.hits
    }

    pub(super) fn want(&mut self) -> bool {
        self.wanted = true;
        self.spaced
    }

    pub(super) fn drop_space(&mut self) {
        (self.spaced, self.wanted) = (false, false);
        self.samples.clear();
        for region in self.regions.values_mut() {
            region.form = PagingForm::Nested;
        }
    }

    /// A region, as a survey says it.
    pub(super) fn found(&self, region: &PagingRegion) -> PagingRegion {
        let known = self.samples.contains(&region.va);
        PagingRegion {
            walks_known: known,
            walks: known.into(),
            ..*region
        }
    }

    pub(super) fn sample(&mut self, clock: u64, from: u64, bits: u64) -> Sampled {
        if bits & paging_epoch::FRESH != 0 {
            self.samples.clear();
            self.first = 0;
        }
        let mut sampled = Sampled::default();
        let nested = self
            .regions
            .range(from..)
            .filter(|(_, r)| r.form == PagingForm::Nested);
        for (va, _) in nested {
            if sampled.armed == 16 || self.samples.len() == PAGING_SAMPLES {
                sampled.next = Some(*va);
                break;
            }
            self.samples.insert(*va);
            sampled.armed += 1;
        }
        self.soon = (self.soon.0 + sampled.armed, clock);
        sampled.free = (PAGING_SAMPLES - self.samples.len()) as u64;
        sampled
    }

    /// One page goes home, if no leaf needs it where it is.
    pub(super) fn home(&mut self, from: u64) -> (Option<u64>, bool) {
        let leaves = self.regions.values().filter(|r| r.form == PagingForm::Leaf);
        let held = MOVES * u32::try_from(leaves.count()).unwrap();
        if self.away > held {
            self.away -= 1;
            return (Some(from + 4096), true);
        }
        self.sweeps += 1;
        (None, false)
    }

    pub(super) fn relayout(&mut self, va: u64, partner: u64) -> Result<bool> {
        let region = self.regions.get_mut(&va).ok_or(Error::NotMapped)?;
        if region.form != PagingForm::Mirror {
            return Err(Error::NotMapped);
        }
        let own = partner < PAGING_OWN_FRAMES;
        if self.bad_partners.contains(&partner) || !own && self.partners.contains(&partner) {
            return Err(Error::InvalidParameter);
        }
        self.moved += 1;
        if self.moved < MOVES {
            return Ok(false);
        }
        self.moved = 0;
        self.away += MOVES;
        region.form = PagingForm::Leaf;
        self.partners.push(partner);
        Ok(true)
    }
}
