//! The compound page table of the fake: regions that a test lays out, and what the manager makes of them.

use std::collections::BTreeMap;

use penumbra_abi::{
    Error, PAGING_BLOCKS, PAGING_RANGE, PAGING_SPACES, PagingCounter, PagingForm, PagingMode,
    PagingRefusal, PagingRegion, PagingRoot, PagingSpace, PagingStatus, PagingSurvey, RootInstall,
    paging_roots,
};

use super::Fake;
use super::users::{FakeUsers, USER_SPACE};
use crate::hypervisor::{PagingService, Place, Result, Sampled, Shadowed, VmId};

/// Frames of a block.
const FRAMES: u32 = 512;
/// The kernel's space.
const KERNEL_SPACE: u8 = 2;

/// The tables of a VM.
#[derive(Debug, Default)]
pub(crate) struct FakePaging {
    pub(crate) status: PagingStatus,
    /// The regions of the kernel's space by VA.
    pub(crate) regions: BTreeMap<u64, PagingRegion>,
    pub(crate) counters: BTreeMap<u64, u64>,
    pub(crate) worths: BTreeMap<u64, u16>,
    pool: u32,
    /// A process of the guest.
    pub(crate) users: FakeUsers,
    /// The mirror of the kernel's root was given up.
    pub(crate) root_lost: bool,
    /// What a shadow call returns instead.
    pub(crate) fails: Option<Error>,
    /// Regions of a range that find room at most.
    pub(crate) room: Option<u64>,
    /// Calls that held the vCPUs to shadow.
    pub(crate) holds: u32,
    /// Surveys made.
    pub(crate) surveys: u32,
}

impl FakePaging {
    /// Lays out a kernel's linear map of so many coalescable regions, and one that is partly filled.
    pub(crate) fn linear_map(&mut self, regions: u64) {
        for n in 0..=regions {
            let va = 0xffff_0000_4000_0000 + n * (2 << 20);
            let whole = n < regions;
            let region = PagingRegion {
                va,
                table: 0x7fe0_0000 + n * 4096,
                valid: if whole { 512 } else { 100 },
                runs: if whole { 32 } else { 5 },
                uniform: whole,
                full: whole,
                ..PagingRegion::default()
            };
            self.regions.insert(va, region);
        }
    }

    /// The guest writes to a table: what stands for it is given up.
    pub(crate) fn store(&mut self, va: u64) {
        let region = self.regions.get_mut(&va).unwrap();
        region.writes += 1;
        if region.form == PagingForm::Leaf {
            region.form = PagingForm::Nested;
            *self
                .counters
                .entry(PagingCounter::Demoted as u64)
                .or_default() += 1;
        }
    }

    /// The guest writes to a table: EL2 makes a mirror of the leaf.
    pub(crate) fn soften(&mut self, va: u64) {
        self.regions.get_mut(&va).unwrap().form = PagingForm::Mirror;
    }

    /// The guest writes to its root in a way that cannot be decoded: all of the space is nested.
    pub(crate) fn lose_root(&mut self) {
        self.root_lost = true;
        for region in self.regions.values_mut() {
            region.form = PagingForm::Nested;
        }
    }

    fn is_planted(&self) -> bool {
        let compound = self.status.mode != PagingMode::Nested;
        let sticky = self.status.roots & paging_roots::STICKY != 0;
        // A space outlives the permission to plant.
        let had = sticky || self.status.refusal == PagingRefusal::Storm;
        compound && self.status.frames > 0 && had
    }

    pub(crate) fn leaves(&self) -> usize {
        let leaf = |region: &&PagingRegion| region.form == PagingForm::Leaf;
        self.regions.values().filter(leaf).count()
    }
}

const fn shadow_of(region: &PagingRegion) -> PagingForm {
    if region.uniform {
        PagingForm::Leaf
    } else {
        PagingForm::Mirror
    }
}

impl Fake {
    fn paging(&mut self, vm: VmId) -> Result<&mut FakePaging> {
        if let Some(error) = self.failures.get("Paging") {
            return Err(*error);
        }
        let fake = self.vms.get_mut(&vm.0).ok_or(Error::NoSuchObject)?;
        Ok(&mut fake.paging)
    }

    fn compound(&mut self, vm: VmId) -> Result<&mut FakePaging> {
        let paging = self.paging(vm)?;
        if paging.status.mode == PagingMode::Nested {
            return Err(Error::BadState);
        }
        Ok(paging)
    }

    fn region(&mut self, place: Place) -> Result<&mut PagingRegion> {
        let paging = self.compound(place.vm)?;
        if place.space == USER_SPACE && paging.users.spaced {
            let region = paging.users.regions.get_mut(&place.va);
            return region.ok_or(Error::NotMapped);
        }
        if place.space != KERNEL_SPACE || !paging.is_planted() || paging.root_lost {
            return Err(Error::NoSuchObject);
        }
        paging.regions.get_mut(&place.va).ok_or(Error::NotMapped)
    }
}

impl PagingService for Fake {
    fn paging_mode(&mut self, vm: VmId, mode: PagingMode) -> Result<bool> {
        let name = match mode {
            PagingMode::Nested => "PagingMode nested",
            PagingMode::Compound => "PagingMode compound",
            PagingMode::Shadow => "PagingMode shadow",
        };
        let paging = self.paging(vm)?;
        let busy = mode == PagingMode::Nested && !paging.status.busy && paging.leaves() > 0;
        paging.status.busy = busy;
        if !busy {
            paging.status.mode = mode;
            paging.root_lost = false;
            paging.status.refusal = PagingRefusal::None;
        }
        if mode == PagingMode::Nested {
            paging.users.drop_space();
            for region in paging.regions.values_mut() {
                region.form = PagingForm::Nested;
            }
        }
        self.note(name, vm.0)?;
        Ok(!busy)
    }

    fn paging_status(&mut self, vm: VmId) -> Result<PagingStatus> {
        Ok(self.paging(vm)?.status)
    }

    fn paging_roots(&mut self, vm: VmId, roots: u64) -> Result<bool> {
        self.note("PagingRoots", vm.0)?;
        self.compound(vm)?.allow(roots)
    }

    fn paging_root(&mut self, vm: VmId, number: u8) -> Result<PagingRoot> {
        Ok(self.compound(vm)?.user_root(number))
    }

    fn paging_space_add(&mut self, vm: VmId, _root: u64) -> Result<bool> {
        self.note("PagingSpaceAdd", vm.0)?;
        Ok(self.compound(vm)?.users.want())
    }

    fn paging_space_drop(&mut self, vm: VmId, _root: u64) -> Result<bool> {
        self.note("PagingSpaceDrop", vm.0)?;
        self.compound(vm)?.users.drop_space();
        Ok(true)
    }

    fn paging_epoch(&mut self, from: Place, bits: u64) -> Result<Sampled> {
        let clock = self.clock;
        let paging = self.compound(from.vm)?;
        if from.space != USER_SPACE || !paging.users.spaced {
            return Err(Error::NoSuchObject);
        }
        Ok(paging.users.sample(clock, from.va, bits))
    }

    fn paging_pool(&mut self, vm: VmId) -> Result<bool> {
        self.note("PagingPool", vm.0)?;
        let paging = self.compound(vm)?;
        let blocks = usize::try_from(paging.status.frames / FRAMES).unwrap();
        if blocks >= PAGING_BLOCKS {
            return Err(Error::NoSlot);
        }
        // Zeroing takes three calls.
        paging.pool = (paging.pool + 1) % 3;
        let done = paging.pool == 0;
        if done {
            paging.status.frames += FRAMES;
            self.vm(vm.0).status.held_bytes += u64::from(FRAMES) << 12;
        }
        Ok(done)
    }

    fn paging_space(&mut self, vm: VmId, space: u8) -> Result<PagingSpace> {
        let paging = self.compound(vm)?;
        if usize::from(space) >= PAGING_SPACES {
            return self.refuse("PagingSpace: no such number", Error::InvalidParameter);
        }
        if space == USER_SPACE && paging.users.spaced {
            return Ok(paging.user_space());
        }
        if space != KERNEL_SPACE || !paging.is_planted() || paging.regions.is_empty() {
            return Ok(PagingSpace::default());
        }
        Ok(PagingSpace {
            exists: true,
            high: true,
            shadowed: !paging.root_lost,
            install: RootInstall::Sticky,
            root: 0x4120_0000,
            start: 0xffff_0000_0000_0000,
        })
    }

    fn paging_survey(&mut self, from: Place) -> Result<PagingSurvey> {
        let paging = self.compound(from.vm)?;
        paging.surveys += 1;
        if from.va == 0xffff_0000_0000_0000 {
            return Ok(PagingSurvey::Skipped(0xffff_0000_4000_0000));
        }
        if from.space == USER_SPACE {
            let mut rest = paging.users.regions.range(from.va..);
            let Some((_, region)) = rest.next() else {
                return Ok(PagingSurvey::End);
            };
            let next = rest.next().map(|(va, _)| *va);
            return Ok(PagingSurvey::Found(paging.users.found(region), next));
        }
        let mut rest = paging.regions.range_mut(from.va..);
        let Some((_, region)) = rest.next() else {
            return Ok(PagingSurvey::End);
        };
        let found = *region;
        region.writes = 0;
        let next = rest.next().map(|(va, _)| *va);
        Ok(PagingSurvey::Found(found, next))
    }

    fn paging_shadow(&mut self, place: Place) -> Result<PagingForm> {
        self.note("PagingShadow", place.vm.0)?;
        self.paging(place.vm)?.holds += 1;
        if let Some(error) = self.paging(place.vm)?.fails {
            return Err(error);
        }
        let region = self.region(place)?;
        if region.form != PagingForm::Nested {
            return Err(Error::AlreadyMapped);
        }
        region.form = shadow_of(region);
        Ok(region.form)
    }

    fn paging_shadow_range(&mut self, first: Place, count: u64) -> Result<Shadowed> {
        self.note("PagingShadowRange", first.vm.0)?;
        if !(2..=PAGING_RANGE).contains(&count) {
            return self.refuse(
                "PagingShadow: a range of that length",
                Error::InvalidParameter,
            );
        }
        let paging = self.compound(first.vm)?;
        paging.holds += 1;
        let (fails, room) = (paging.fails, paging.room);
        let mut made = Shadowed::default();
        for number in 0..count {
            let place = Place {
                va: first.va + number * (2 << 20),
                ..first
            };
            if fails == Some(Error::NoSlot) || room.is_some_and(|room| made.tables >= room) {
                made.full = true;
                break;
            }
            made.looked += 1;
            let Ok(region) = self.region(place) else {
                continue;
            };
            if fails.is_some() || region.form != PagingForm::Nested {
                continue;
            }
            region.form = shadow_of(region);
            made.tables += 1;
            made.leaves += u64::from(region.form == PagingForm::Leaf);
        }
        Ok(made)
    }

    fn paging_relayout(&mut self, place: Place, partner: u64) -> Result<bool> {
        if place.space != USER_SPACE {
            return self.refuse("PagingRelayout: of the kernel", Error::NotRequired);
        }
        self.compound(place.vm)?.users.relayout(place.va, partner)
    }

    fn paging_settle(&mut self, vm: VmId, ipa: u64) -> Result<bool> {
        self.compound(vm)?;
        Ok(ipa.is_multiple_of(2 << 20))
    }

    fn paging_home(&mut self, vm: VmId, from: u64) -> Result<(Option<u64>, bool)> {
        Ok(self.paging(vm)?.users.home(from))
    }

    fn paging_demote(&mut self, place: Place) -> Result<u64> {
        self.note("PagingDemote", place.vm.0)?;
        let region = self.region(place)?;
        if region.form == PagingForm::Nested {
            return Err(Error::NotMapped);
        }
        region.form = PagingForm::Nested;
        Ok(1)
    }

    fn paging_worth(&mut self, place: Place, worth: u16) -> Result<()> {
        self.region(place)?;
        self.paging(place.vm)?.worths.insert(place.va, worth);
        Ok(())
    }

    fn paging_counter(&mut self, vm: VmId, counter: PagingCounter) -> Result<u64> {
        let clock = self.clock;
        if counter == PagingCounter::UserTicks {
            return Ok(self.paging(vm)?.users.ticks(clock));
        }
        if counter == PagingCounter::Samples {
            return Ok(self.paging(vm)?.users.hits(clock).0);
        }
        if counter == PagingCounter::SampleTicks {
            return Ok(self.paging(vm)?.users.hits(clock).1);
        }
        if counter == PagingCounter::FirstSample {
            return Ok(self.paging(vm)?.users.first);
        }
        let counters = &self.paging(vm)?.counters;
        Ok(counters.get(&(counter as u64)).copied().unwrap_or(0))
    }

    fn paging_audit(&mut self, vm: VmId, from: u64) -> Result<(u64, u64)> {
        let differences = self.differences;
        self.compound(vm)?;
        Ok(if from < 2 {
            (from + 1, 0)
        } else {
            (0, differences)
        })
    }
}
