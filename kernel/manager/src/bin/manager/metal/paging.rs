//! The hypercalls of the compound page table.

use penumbra_abi::{
    Call, Error, PagingCounter, PagingForm, PagingMode, PagingRoot, PagingSpace, PagingStatus,
    PagingSurvey,
};
use penumbra_manager::hypervisor::{PagingService, Place, Result, Sampled, Shadowed, VmId};

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

    fn paging_roots(&mut self, vm: VmId, roots: u64) -> Result<bool> {
        call1(Call::PagingRoots, &[vm.0, roots]).map(|done| done != 0)
    }

    fn paging_root(&mut self, vm: VmId, number: u8) -> Result<PagingRoot> {
        let regs = call(Call::PagingRoot, &[vm.0, u64::from(number)])?;
        PagingRoot::from_regs(regs).ok_or(Error::NotSupported)
    }

    fn paging_space_add(&mut self, vm: VmId, root: u64) -> Result<bool> {
        call1(Call::PagingSpaceAdd, &[vm.0, root]).map(|there| there != 0)
    }

    fn paging_space_drop(&mut self, vm: VmId, root: u64) -> Result<bool> {
        call1(Call::PagingSpaceDrop, &[vm.0, root]).map(|done| done != 0)
    }

    fn paging_epoch(&mut self, from: Place, bits: u64) -> Result<Sampled> {
        let args = [from.vm.0, u64::from(from.space), from.va, bits];
        call(Call::PagingEpoch, &args).map(|[armed, next, more, free, ..]| Sampled {
            armed,
            next: (more != 0).then_some(next),
            free,
        })
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

    fn paging_shadow_range(&mut self, first: Place, count: u64) -> Result<Shadowed> {
        let [vm, space, va, level] = table(first);
        let regs = call(Call::PagingShadow, &[vm, space, va, level, count])?;
        let [tables, leaves, looked, full, ..] = regs;
        Ok(Shadowed {
            tables,
            leaves,
            looked,
            full: full != 0,
        })
    }

    fn paging_relayout(&mut self, place: Place, partner: u64) -> Result<bool> {
        let args = [place.vm.0, u64::from(place.space), place.va, partner, 0];
        call1(Call::PagingRelayout, &args).map(|done| done != 0)
    }

    fn paging_settle(&mut self, vm: VmId, ipa: u64) -> Result<bool> {
        call1(Call::PagingSettle, &[vm.0, ipa]).map(|whole| whole != 0)
    }

    fn paging_home(&mut self, vm: VmId, from: u64) -> Result<(Option<u64>, bool)> {
        let [next, moved, ..] = call(Call::PagingHome, &[vm.0, from])?;
        Ok(((next != 0).then_some(next), moved != 0))
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
