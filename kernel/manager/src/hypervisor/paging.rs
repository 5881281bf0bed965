//! The calls of the compound page table.

use penumbra_abi::{
    PagingCounter, PagingForm, PagingMode, PagingSpace, PagingStatus, PagingSurvey,
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
    /// `PagingRoots`, with bits of [`penumbra_abi::paging_roots`].
    fn paging_roots(&mut self, vm: VmId, roots: u64) -> Result<()>;
    /// `PagingPool`; whether the block is there.
    fn paging_pool(&mut self, vm: VmId) -> Result<bool>;
    /// `PagingSpace`.
    fn paging_space(&mut self, vm: VmId, space: u8) -> Result<PagingSpace>;
    /// `PagingSurvey`, from the place on.
    fn paging_survey(&mut self, from: Place) -> Result<PagingSurvey>;
    /// `PagingShadow` of the level-3 table.
    fn paging_shadow(&mut self, place: Place) -> Result<PagingForm>;
    /// `PagingDemote` of the level-3 table; how many tables were given up.
    fn paging_demote(&mut self, place: Place) -> Result<u64>;
    /// `PagingWorth` of the level-3 table.
    fn paging_worth(&mut self, place: Place, worth: u16) -> Result<()>;
    /// `PagingCounter`.
    fn paging_counter(&mut self, vm: VmId, counter: PagingCounter) -> Result<u64>;
    /// `PagingAudit`: where to go on (0: done), and the differences found in this piece.
    fn paging_audit(&mut self, vm: VmId, from: u64) -> Result<(u64, u64)>;
}
