//! The hypercalls of the compound page table.

use penumbra_abi::{
    Call, Error, PagingCounter, PagingForm, PagingMode, PagingSpace, PagingStatus, PagingSurvey,
};
use penumbra_manager::hypervisor::{PagingService, Place, Result, VmId};

use super::call::{El2, call, call0, call1};

/// The level of the tables that the policy decides on.
const LEVEL: u64 = 3;

/// The arguments that name a level-3 table.
fn table(place: Place) -> [u64; 4] {
    [place.vm.0, u64::from(place.space), place.va, LEVEL]
}

impl PagingService for El2 {
    fn paging_mode(&mut self, vm: VmId, mode: PagingMode) -> Result<bool> {
        call1(Call::PagingMode, &[vm.0, mode as u64]).map(|done| done != 0)
    }

    fn paging_status(&mut self, vm: VmId) -> Result<PagingStatus> {
        let regs = call(Call::PagingStatus, &[vm.0])?;
        PagingStatus::from_regs(regs).ok_or(Error::NotSupported)
    }

    fn paging_roots(&mut self, vm: VmId, roots: u64) -> Result<()> {
        call0(Call::PagingRoots, &[vm.0, roots])
    }

    fn paging_pool(&mut self, vm: VmId) -> Result<bool> {
        call1(Call::PagingPool, &[vm.0]).map(|done| done != 0)
    }

    fn paging_space(&mut self, vm: VmId, space: u8) -> Result<PagingSpace> {
        let regs = call(Call::PagingSpace, &[vm.0, u64::from(space)])?;
        PagingSpace::from_regs(regs).ok_or(Error::NotSupported)
    }

    fn paging_survey(&mut self, from: Place) -> Result<PagingSurvey> {
        let args = [from.vm.0, u64::from(from.space), from.va];
        let regs = call(Call::PagingSurvey, &args)?;
        PagingSurvey::from_regs(regs).ok_or(Error::NotSupported)
    }

    fn paging_shadow(&mut self, place: Place) -> Result<PagingForm> {
        let form = call1(Call::PagingShadow, &table(place))?;
        PagingForm::from_bits(form).ok_or(Error::NotSupported)
    }

    fn paging_demote(&mut self, place: Place) -> Result<u64> {
        call1(Call::PagingDemote, &table(place))
    }

    fn paging_worth(&mut self, place: Place, worth: u16) -> Result<()> {
        let [vm, space, va, level] = table(place);
        call0(Call::PagingWorth, &[vm, space, va, level, u64::from(worth)])
    }

    fn paging_counter(&mut self, vm: VmId, counter: PagingCounter) -> Result<u64> {
        call1(Call::PagingCounter, &[vm.0, counter as u64])
    }

    fn paging_audit(&mut self, vm: VmId, from: u64) -> Result<(u64, u64)> {
        call(Call::PagingAudit, &[vm.0, from]).map(|[next, found, ..]| (next, found))
    }
}
