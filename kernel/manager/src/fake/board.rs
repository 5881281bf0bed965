//! The fake EL2's side of devices and of RAM at its address.

use penumbra_abi::{Error, VmState};

use super::{Fake, MIB};
use crate::hypervisor::{Result, VmId};

impl Fake {
    pub(super) fn set_aside(&mut self, base: u64, bytes: u64) -> Result<()> {
        self.note("RamSetAside", 0)?;
        let taken = |(start, size): (u64, u64)| start < base + bytes && base < start + size;
        if self.aside.contains(&(base, bytes)) {
            return Ok(());
        }
        if self.in_use.is_some_and(taken) || self.aside.iter().copied().any(taken) {
            return Err(Error::NoMemory);
        }
        self.aside.push((base, bytes));
        Ok(())
    }

    pub(super) fn map_device(&mut self, vm: VmId, base: u64, bytes: u64) -> Result<()> {
        self.note("VmMapDevice", vm.0)?;
        let owned = self.vms.values().flat_map(|vm| vm.pages.clone());
        let clash = owned
            .into_iter()
            .any(|(start, size)| start < base + bytes && base < start + size);
        if clash || !(base | bytes).is_multiple_of(4096) || bytes > 2 * MIB {
            return self.refuse("VmMapDevice: bad range", Error::AlreadyMapped);
        }
        self.in_state(vm, VmState::Created, "VmMapDevice")?
            .pages
            .push((base, bytes));
        Ok(())
    }

    pub(super) fn assign_spi(&mut self, vm: VmId, spi: (u64, u64, bool)) -> Result<()> {
        self.note("VmAssignSpi", vm.0)?;
        let fake = self.in_state(vm, VmState::Created, "VmAssignSpi")?;
        if fake.spis.iter().any(|own| own.0 == spi.0 || own.1 == spi.1) {
            return self.refuse("VmAssignSpi: taken", Error::AlreadyMapped);
        }
        fake.spis.push(spi);
        Ok(())
    }

    pub(super) fn write_device(&mut self, vm: VmId, at: u64, value: u32) -> Result<()> {
        self.note("DeviceLend", vm.0)?;
        let fake = self.in_state(vm, VmState::Created, "DeviceLend")?;
        let owned = fake
            .pages
            .iter()
            .any(|(base, bytes)| at.wrapping_sub(*base) < *bytes);
        if !owned {
            return self.refuse("DeviceLend: not its device", Error::NotMapped);
        }
        fake.writes.push((at, value));
        Ok(())
    }
}
