//! The calls of the compound page table.

use penumbra_abi::{
    PagingCounter, PagingForm, PagingMode, PagingRoot, PagingSpace, PagingStatus, PagingSurvey,
};

use super::{Result, VmId};

/// A region of an address space: what the calls on one level-3 table name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The VM.
    pub vm: VmId,
    /// The address space, by EL2's number.
    pub space: u8,
    /// First VA of the region.
    pub va: u64,
}

/// What came of shadowing several regions in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shadowed {
    /// Regions shadowed.
    pub tables: u64,
    /// Of these, as one leaf.
    pub leaves: u64,
    /// Regions looked at.
    pub looked: u64,
    /// Room was short at the next one.
    pub full: bool,
}

/// What came of sampling regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Regions sampled by this call.
    pub armed: u64,
    /// Where to go on.
    pub next: Option<u64>,
    /// Samples that are still free.
    pub free: u64,
}

/// The service of the compound page table; a part of [`Hypervisor`](super::Hypervisor).
#[expect(
    clippy::missing_errors_doc,
    reason = "each fails with the error that EL2 returns, as for `Hypervisor`"
)]
pub trait PagingService {
    /// `PagingMode`; whether it is done.
    fn paging_mode(&mut self, vm: VmId, mode: PagingMode) -> Result<bool>;
    /// `PagingStatus`.
    fn paging_status(&mut self, vm: VmId) -> Result<PagingStatus>;
    /// `PagingRoots`, with bits of [`penumbra_abi::paging_roots`]; whether it is done.
    fn paging_roots(&mut self, vm: VmId, roots: u64) -> Result<bool>;
    /// `PagingRoot`.
    fn paging_root(&mut self, vm: VmId, number: u8) -> Result<PagingRoot>;
    /// `PagingSpaceAdd`; whether there is such a space already.
    fn paging_space_add(&mut self, vm: VmId, root: u64) -> Result<bool>;
    /// `PagingSpaceDrop`; whether it is done.
    fn paging_space_drop(&mut self, vm: VmId, root: u64) -> Result<bool>;
    /// `PagingEpoch` from the place on, with bits of [`penumbra_abi::paging_epoch`].
    fn paging_epoch(&mut self, from: Place, bits: u64) -> Result<Sampled>;
    /// `PagingPool`; whether the block is there.
    fn paging_pool(&mut self, vm: VmId) -> Result<bool>;
    /// `PagingSpace`.
    fn paging_space(&mut self, vm: VmId, space: u8) -> Result<PagingSpace>;
    /// `PagingSurvey`, from the place on.
    fn paging_survey(&mut self, from: Place) -> Result<PagingSurvey>;
    /// `PagingShadow` of the level-3 table.
    fn paging_shadow(&mut self, place: Place) -> Result<PagingForm>;
    /// `PagingShadow` of so many level-3 tables in a row (two at least), in one hold.
    fn paging_shadow_range(&mut self, first: Place, count: u64) -> Result<Shadowed>;
    /// `PagingRelayout` with the frame that `donor` names, of what EL0 may access; whether it is done.
    fn paging_relayout(&mut self, place: Place, donor: u64) -> Result<bool>;
    /// `PagingSettle`; whether the 2 MiB are a block now.
    fn paging_settle(&mut self, vm: VmId, ipa: u64) -> Result<bool>;
    /// `PagingHome`, from an IPA on: where to go on, if anywhere, and whether a page was moved.
    fn paging_home(&mut self, vm: VmId, from: u64) -> Result<(Option<u64>, bool)>;
    /// `PagingDemote` of the level-3 table; how many tables were given up.
    fn paging_demote(&mut self, place: Place) -> Result<u64>;
    /// `PagingWorth` of the level-3 table.
    fn paging_worth(&mut self, place: Place, worth: u16) -> Result<()>;
    /// `PagingCounter`.
    fn paging_counter(&mut self, vm: VmId, counter: PagingCounter) -> Result<u64>;
    /// `PagingAudit`: where to go on (0: done), and the differences found in this piece.
    fn paging_audit(&mut self, vm: VmId, from: u64) -> Result<(u64, u64)>;
}
