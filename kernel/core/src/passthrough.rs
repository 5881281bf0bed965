//! Devices and interrupts of the board that belong to VMs: one owner for each page and each SPI.
//!
//! A device keeps its address: IPA = PA. The tables are written by the manager's calls and read by
//! whoever takes an interrupt, which is why that part is made of atomics.

use core::sync::atomic::{AtomicU16, Ordering};

use penumbra_abi::Error;
use penumbra_vmsa::{CpuIndex, PAGE_SIZE, VmId};

use crate::lock::Mutex;
use crate::machine::PhysicalInterrupts;

/// Ranges of device registers at most. Neighbours of one VM are one range.
const MAX_RANGES: usize = 64;
/// INTIDs of physical SPIs (IHI 0069 H, 2.2 "INTIDs").
const SPIS: core::ops::Range<u32> = 32..1020;
/// In an entry of the table of SPIs: the interrupt is edge-triggered.
const EDGE: u16 = 1 << 15;

/// A range of registers, in whole pages, and whose it is. `bytes` 0: a free entry.
#[derive(Clone, Copy, Debug, Default)]
struct Range {
    base: u64,
    bytes: u64,
    vm: usize,
}

impl Range {
    const NONE: Self = Self {
        base: 0,
        bytes: 0,
        vm: 0,
    };

    const fn end(self) -> u64 {
        self.base.saturating_add(self.bytes)
    }

    const fn overlaps(self, base: u64, bytes: u64) -> bool {
        self.base < base.saturating_add(bytes) && base < self.end()
    }
}

/// A page that the manager was lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loan {
    /// The VM whose device it is.
    pub(crate) vm: VmId,
    /// PA.
    pub(crate) page: u64,
    /// IPA in the manager.
    pub(crate) window: u64,
}

/// Who owns which device. All zero: nobody owns any.
#[derive(Debug)]
pub(crate) struct Passthrough {
    ranges: Mutex<[Range; MAX_RANGES]>,
    /// For each physical SPI: 0, or the owner's number, the INTID in its controller and [`EDGE`].
    spis: [AtomicU16; 988],
    loan: Mutex<Option<Loan>>,
}

const _: () = assert!(SPIS.end - SPIS.start == 988);

/// Owner and its INTID in an entry of the table of SPIs.
const fn owner(entry: u16) -> Option<(usize, u32)> {
    let [intid, vm] = (entry & !EDGE).to_le_bytes();
    if entry == 0 {
        return None;
    }
    Some((vm as usize, intid as u32))
}

impl Passthrough {
    pub(crate) const fn new() -> Self {
        Self {
            ranges: Mutex::new([Range::NONE; MAX_RANGES]),
            spis: [const { AtomicU16::new(0) }; 988],
            loan: Mutex::new(None),
        }
    }

    /// Makes registers a VM's, unless they are anyone's.
    pub(crate) fn claim(&self, vm: VmId, base: u64, bytes: u64) -> Result<(), Error> {
        let mut ranges = self.ranges.lock();
        if ranges.iter().any(|range| range.overlaps(base, bytes)) {
            return Err(Error::AlreadyMapped);
        }
        let vm = vm.get();
        let neighbour =
            |range: &&mut Range| range.bytes != 0 && range.vm == vm && range.end() == base;
        if let Some(range) = ranges.iter_mut().find(neighbour) {
            range.bytes = range.bytes.saturating_add(bytes);
            return Ok(());
        }
        let free = ranges.iter_mut().find(|range| range.bytes == 0);
        *free.ok_or(Error::NoSlot)? = Range { base, bytes, vm };
        Ok(())
    }

    /// Takes a claim back that was the last of this VM's.
    pub(crate) fn disclaim(&self, vm: VmId, base: u64, bytes: u64) {
        let mut ranges = self.ranges.lock();
        let end = base.saturating_add(bytes);
        let last = |range: &&mut Range| range.vm == vm.get() && range.end() == end;
        if let Some(range) = ranges.iter_mut().find(last) {
            range.bytes = range.bytes.saturating_sub(bytes);
        }
    }

    /// Whether a VM has a device that shares an address with `[base, base + bytes)`.
    pub(crate) fn overlaps(&self, vm: VmId, base: u64, bytes: u64) -> bool {
        let ranges = self.ranges.lock();
        ranges
            .iter()
            .any(|range| range.vm == vm.get() && range.overlaps(base, bytes))
    }

    /// Whether all of `[base, base + bytes)` is registers of a VM's devices.
    pub(crate) fn owns(&self, vm: VmId, base: u64, bytes: u64) -> bool {
        let end = base.saturating_add(bytes);
        let ranges = self.ranges.lock();
        ranges
            .iter()
            .any(|range| range.vm == vm.get() && range.base <= base && end <= range.end())
    }

    fn spi(&self, physical: u32) -> Option<&AtomicU16> {
        let index = usize::try_from(physical.checked_sub(SPIS.start)?).ok()?;
        self.spis.get(index)
    }

    /// Makes a physical SPI a VM's, unless it is anyone's.
    pub(crate) fn claim_spi(
        &self,
        (vm, intid): (VmId, u32),
        physical: u32,
        edge: bool,
    ) -> Result<(), Error> {
        let slot = self.spi(physical).ok_or(Error::InvalidParameter)?;
        let vm = u8::try_from(vm.get()).map_err(|_| Error::InvalidParameter)?;
        let intid = u8::try_from(intid).map_err(|_| Error::InvalidParameter)?;
        let entry = u16::from_le_bytes([intid, vm]) | if edge { EDGE } else { 0 };
        slot.compare_exchange(0, entry, Ordering::Relaxed, Ordering::Relaxed)
            .map_err(|_| Error::AlreadyMapped)?;
        Ok(())
    }

    /// Takes the claim of an SPI back.
    pub(crate) fn disclaim_spi(&self, physical: u32) {
        if let Some(slot) = self.spi(physical) {
            slot.store(0, Ordering::Relaxed);
        }
    }

    /// The number of the VM that owns a physical interrupt, and the INTID that it has there.
    pub(crate) fn owner_of_spi(&self, physical: u32) -> Option<(usize, u32)> {
        owner(self.spi(physical)?.load(Ordering::Relaxed))
    }

    /// The SPIs of a VM, with whether they are edge-triggered.
    fn spis_of(&self, vm: VmId) -> impl Iterator<Item = (u32, &AtomicU16)> {
        SPIS.zip(&self.spis).filter(move |(_, slot)| {
            owner(slot.load(Ordering::Relaxed)).is_some_and(|(owner, _)| owner == vm.get())
        })
    }

    /// Lets the interrupts of a VM come, to one core.
    pub(crate) fn start(&self, vm: VmId, cpu: CpuIndex, machine: &mut impl PhysicalInterrupts) {
        for (physical, slot) in self.spis_of(vm) {
            let edge = slot.load(Ordering::Relaxed) & EDGE != 0;
            machine.start_spi(physical, cpu, edge);
        }
    }

    /// Silences the interrupts of a VM.
    pub(crate) fn stop(&self, vm: VmId, machine: &mut impl PhysicalInterrupts) {
        for (physical, _) in self.spis_of(vm) {
            machine.stop_spi(physical);
        }
    }

    /// Forgets all that a VM has. Its interrupts are silent, and no stage 2 shows its devices.
    pub(crate) fn release(&self, vm: VmId) {
        for (_, slot) in self.spis_of(vm) {
            slot.store(0, Ordering::Relaxed);
        }
        for range in self.ranges.lock().iter_mut() {
            if range.vm == vm.get() {
                *range = Range::NONE;
            }
        }
    }

    /// The page that the manager is lent.
    pub(crate) fn loan(&self) -> Option<Loan> {
        *self.loan.lock()
    }

    /// Notes what the manager is lent.
    pub(crate) fn set_loan(&self, loan: Option<Loan>) {
        *self.loan.lock() = loan;
    }

    /// Whether a page of the VM's devices is lent.
    pub(crate) fn is_lent(&self, vm: VmId) -> bool {
        self.loan().is_some_and(|loan| loan.vm == vm)
    }

    /// Whether the manager is lent the page at PA `page` at IPA `window`.
    pub(crate) fn lends(&self, page: u64, window: u64) -> bool {
        self.loan()
            .is_some_and(|loan| (loan.page, loan.window) == (page, window))
    }
}

const _: () = assert!(penumbra_abi::MAX_DEVICE_BYTES.is_multiple_of(PAGE_SIZE));
