//! Samples: whether walks fetch from a level-3 table of the guest, and whether it is stored to.
//!
//! Walks show by the Access flag of the table page's own stage-2 entry, which is cleared: the next
//! walk that fetches from the page faults (S1PTW = 1, HPFAR_EL2 valid), without FEAT_HAFDBS, which
//! stays off (VTCR_EL2.HA = 0). Writes show by taking the page's stage-2 write permission away for
//! one store. Either way one fault at most, which gives back what was taken; no TLB work then.
//! A page in a contiguous run or a block has to be split off first.

use penumbra_vmsa::{Ipa, Level, PAGE_SIZE, Stage2Access, Va};

use super::survey::descend;
use super::{Access, Compound, ShadowError, SpaceId};
use crate::memory::TableMemory;
use crate::stage2::Stage2Change;
use crate::tlb::{TlbScope, TlbSink, TlbWork};

/// Samples of one VM at a time.
pub const MAX_SAMPLES: usize = 64;

/// What is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// Fetches from the table by walks.
    Walks,
    /// Stores to the table.
    Writes,
}

/// A sample of one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The guest's level-3 table.
    pub page: Ipa,
    /// The space it was found in.
    pub space: SpaceId,
    /// First VA of the 2 MiB.
    pub va: Va,
    /// What is sampled.
    pub kind: SampleKind,
    /// It has happened.
    pub hit: bool,
}

/// What an access flag fault of stage 2 was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accessed {
    /// No sample: not ours to answer.
    Stranger,
    /// A sampled page, but no walk, or not the first. Let the guest access again.
    Touched,
    /// A walk for this region. Let the guest access again.
    Walked(SpaceId, Va),
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    used: bool,
    sample: Sample,
}

impl Slot {
    /// A free slot: all zero, which an `Option` would not be.
    const FREE: Self = Self {
        used: false,
        sample: Sample {
            page: Ipa::truncated(0),
            space: SpaceId(0),
            va: Va::truncated(0),
            kind: SampleKind::Walks,
            hit: false,
        },
    };
}

#[derive(Debug)]
pub(super) struct Samples {
    slots: [Slot; MAX_SAMPLES],
    /// Slots in use: mostly none, and nothing is searched then.
    used: u16,
    /// TLB maintenance for what was begun and not armed.
    owed: TlbWork,
}

impl Samples {
    pub(super) const fn new() -> Self {
        Self {
            slots: [Slot::FREE; MAX_SAMPLES],
            used: 0,
            owed: TlbWork::new(TlbScope::None, 0),
        }
    }

    pub(super) fn clear(&mut self) {
        self.slots.fill(Slot::FREE);
        self.used = 0;
        self.owed = TlbWork::new(TlbScope::None, 0);
    }

    /// Whether there is any.
    pub(super) const fn is_used(&self) -> bool {
        self.used != 0
    }

    /// Whether a page is sampled, and has been hit.
    pub(super) fn hit(&self, page: Ipa, kind: SampleKind) -> Option<bool> {
        if self.used == 0 {
            return None;
        }
        let mut slots = self.slots.iter();
        let slot =
            slots.find(|slot| slot.used && slot.sample.page == page && slot.sample.kind == kind)?;
        Some(slot.sample.hit)
    }

    fn find(&mut self, page: Ipa, kind: SampleKind) -> Option<&mut Slot> {
        if self.used == 0 {
            return None;
        }
        self.slots
            .iter_mut()
            .find(|slot| slot.used && slot.sample.page == page && slot.sample.kind == kind)
    }

    /// Whether a page is read-only because its first store is waited for.
    pub(super) fn awaits_write(&self, page: Ipa) -> bool {
        let awaits = |Slot { used, sample }: &Slot| {
            *used && sample.page == page && sample.kind == SampleKind::Writes && !sample.hit
        };
        self.used != 0 && self.slots.iter().any(awaits)
    }

    /// A node watches the page from now on: its protection is the node's.
    pub(super) fn watched(&mut self, page: Ipa) {
        if let Some(slot) = self.find(page, SampleKind::Writes) {
            *slot = Slot::FREE;
            self.used = self.used.saturating_sub(1);
        }
    }

    fn add(&mut self, sample: Sample, work: TlbWork) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| !slot.used) {
            *slot = Slot { used: true, sample };
            self.used = self.used.saturating_add(1);
        }
        self.owed = self.take_owed().and(work);
    }

    fn take_owed(&mut self) -> TlbWork {
        core::mem::replace(&mut self.owed, TlbWork::new(TlbScope::None, 0))
    }
}

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// Begins to sample the level-3 table of the guest for `va`. Counts for nothing before
    /// [`arm_samples`](Self::arm_samples). With `split`, the table page gets a stage-2 entry of its own where it has
    /// none, which costs the reach of a block or run until [`settle`](Self::settle) merges it.
    ///
    /// # Errors
    /// `NoSpace`; `NoTable`: no level-3 table there; `Already`: sampled, or mirrored, so that no walk
    /// fetches from it and its writes are counted; `NotRam`, also without an entry of its own; `Full`; `Stage2`.
    pub fn sample<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        space: SpaceId,
        va: Va,
        kind: SampleKind,
        split: bool,
    ) -> Result<(), ShadowError> {
        let entry = self.spaces.get(space).ok_or(ShadowError::NoSpace)?;
        let (level, page) = descend(vm, entry.root, entry.start, va.raw());
        if level != Level::L3 {
            return Err(ShadowError::NoTable);
        }
        if self.is_watched(page) || self.samples.find(page, kind).is_some() {
            return Err(ShadowError::Already);
        }
        if self.samples.slots.iter().all(|slot| slot.used) {
            return Err(ShadowError::Full);
        }
        let leaf = vm.ram(page).ok_or(ShadowError::NotRam)?;
        let writable = leaf.attrs.access == Stage2Access::ReadWrite;
        // A data alias would let stores pass.
        let open = self.aliases.of(leaf.pa_of(page)).is_some();
        if kind == SampleKind::Writes && (open || !writable) {
            return Err(ShadowError::NotRam);
        }
        if leaf.level != Level::L3 || leaf.contiguous {
            if !split {
                return Err(ShadowError::NotRam);
            }
            vm.stage2.split(vm.memory, vm.tlb, page)?;
        }
        let change = match kind {
            SampleKind::Walks => Stage2Change::accessed(false),
            SampleKind::Writes => Stage2Change::access(Stage2Access::Read),
        };
        let work = vm
            .stage2
            .protect(vm.memory, vm.tlb, page, PAGE_SIZE, change)?;
        let sample = Sample {
            page,
            space,
            va: va.align_down(Level::L2.entry_bytes()),
            kind,
            hit: false,
        };
        self.samples.add(sample, work);
        Ok(())
    }

    /// Does the TLB maintenance of a batch of samples at once: IPAS2E1IS for each, one VMALLE1IS, or
    /// everything of the VM where that is cheaper.
    pub fn arm_samples<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
    ) {
        let work = self.samples.take_owed();
        if work.scope() != TlbScope::None {
            let _flushed = vm.tlb.flush(work);
        }
    }

    /// Answers an access flag fault of stage 2 at `ipa`, `by_walk` (S1PTW = 1) or not: the page has its flag
    /// again.
    pub fn access_fault<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        ipa: Ipa,
        by_walk: bool,
    ) -> Accessed {
        let page = ipa.align_down(PAGE_SIZE);
        let Some(Slot { sample, .. }) = self.samples.find(page, SampleKind::Walks) else {
            return Accessed::Stranger;
        };
        let first = by_walk && !sample.hit;
        sample.hit |= by_walk;
        let (space, va) = (sample.space, sample.va);
        change(vm, page, Stage2Change::accessed(true));
        if !first {
            return Accessed::Touched;
        }
        self.counters.walked = self.counters.walked.saturating_add(1);
        Accessed::Walked(space, va)
    }

    /// Notes a store to a page whose writes are sampled and lets stores pass again. `None`: no
    /// sample waits. [`store`](Self::store) and the demotions call this themselves.
    pub fn wrote<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        ipa: Ipa,
    ) -> Option<(SpaceId, Va)> {
        let page = ipa.align_down(PAGE_SIZE);
        if !self.samples.awaits_write(page) {
            return None;
        }
        let Slot { sample, .. } = self.samples.find(page, SampleKind::Writes)?;
        sample.hit = true;
        let region = (sample.space, sample.va);
        change(vm, page, Stage2Change::access(Stage2Access::ReadWrite));
        self.counters.wrote = self.counters.wrote.saturating_add(1);
        Some(region)
    }

    /// Samples that can be begun.
    #[must_use]
    pub fn free_samples(&self) -> usize {
        let slots = self.samples.slots.iter();
        slots.filter(|slot| !slot.used).count()
    }

    /// Ends all samples, and reports each. A vCPU that still holds an old entry faults once more and
    /// finds the page as it should be.
    pub fn end_samples<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        mut report: impl FnMut(Sample),
    ) {
        let _all = self.end_some_samples(vm, u32::MAX, |sample| {
            report(*sample);
            true
        });
    }

    /// Ends so many at most of the samples that are chosen. Returns whether none of them is left.
    pub(super) fn end_some_samples<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        mut most: u32,
        mut chosen: impl FnMut(&Sample) -> bool,
    ) -> bool {
        let Samples { slots, used, .. } = &mut self.samples;
        if *used == 0 {
            return true;
        }
        for slot in slots {
            if !slot.used || !chosen(&slot.sample) {
                continue;
            }
            if most == 0 {
                return false;
            }
            most = most.saturating_sub(1);
            let Slot { sample, .. } = core::mem::replace(slot, Slot::FREE);
            *used = used.saturating_sub(1);
            match sample.kind {
                SampleKind::Walks => change(vm, sample.page, Stage2Change::accessed(true)),
                SampleKind::Writes if sample.hit => {}
                SampleKind::Writes => {
                    let writable = Stage2Change::access(Stage2Access::ReadWrite);
                    change(vm, sample.page, writable);
                }
            }
        }
        true
    }
}

/// Gives back what a sample took. Nothing owes TLB work for it: the old entry faults or was never held. From a page that
/// is part of something larger again nothing is taken any more.
fn change<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
    vm: &mut Access<'_, M, T>,
    page: Ipa,
    change: Stage2Change,
) {
    let leaf = vm.stage2.lookup(vm.memory, page);
    if !leaf.is_ok_and(|leaf| leaf.level == Level::L3 && !leaf.contiguous) {
        return;
    }
    // The page has an entry of its own, so no table can be lacking.
    let done = vm
        .stage2
        .protect(vm.memory, vm.tlb, page, PAGE_SIZE, change);
    debug_assert!(done.is_ok(), "{done:?}");
    drop(done);
}
