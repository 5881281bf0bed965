//! The memory of a VM: its stage 2, the frames behind it, and what of it is lent to the manager.
//!
//! [`Memory`] is everything that the lock of a VM's memory protects. What may take long is done in
//! pieces: a hypercall that continues calls the same function again until it is done, and what is
//! under way is kept in the VM, so a restarted manager leaves nothing that `VmDestroy` would not find.
//! Whoever frees memory finds it through the [frame table](crate::frames), not through stage 2.

mod build;
mod destroy;
mod grant;
mod tables;

use penumbra_abi::Error;
use penumbra_paging::{Access, LeafCounts, Stage2, Stage2Error, TlbSink, Touch as Touched};
use penumbra_vmsa::{Ipa, MIB, Pa, Stage2Attrs};

pub(crate) use build::{RamRequest, largest_block};
pub(crate) use grant::{begin as begin_grant, end as end_grants};
pub(crate) use tables::{FURTHER_ROOT_TABLES, ROOT_TABLES, TableFrames, VmTlb};

use crate::compound::{From, VmAccess};
use crate::frames::FRAME_BYTES;
use crate::machine::Machine;
use crate::vm::Vm;
use build::Chunk;
use destroy::Destroyed;
use grant::Grant;
use tables::{Spare, kept_for};

/// RAM ranges of a VM at most.
pub(crate) const MAX_REGIONS: usize = 4;
/// Grants of a VM at most.
const MAX_GRANTS: usize = 8;
/// Zeroed frames that a thin VM can have in stock.
const MAX_STOCK: usize = 16;
/// With fewer frames in stock the manager is asked for more, while the VM runs on.
const LOW_STOCK: usize = 4;
/// First IPA that no guest may use: the window of the compound table lies there.
pub(crate) const GUEST_END: u64 = 1 << 39;
const _: () = assert!(FRAME_BYTES == 2 * MIB);
/// Pages of a thin region that are touched one by one; then the region becomes one block, with the rest of its frame, which the
/// VM holds in any case. Tried again whenever the number has doubled. As many first touches cost about what the block
/// costs, so nobody pays more than twice the least.
const FILL_PAGES: u64 = 16;

/// A range of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) ipa: u64,
    /// 0: no region.
    pub(crate) bytes: u64,
    pub(crate) thin: bool,
    /// IPA = PA, out of RAM that is set aside.
    pub(crate) direct: bool,
}

impl Region {
    const NONE: Self = Self {
        ipa: 0,
        bytes: 0,
        thin: false,
        direct: false,
    };

    /// Whether an IPA lies in it.
    #[inline]
    const fn contains(self, ipa: u64) -> bool {
        ipa.wrapping_sub(self.ipa) < self.bytes
    }

    /// Whether it shares an address with `[ipa, ipa + bytes)`.
    const fn overlaps(self, ipa: u64, bytes: u64) -> bool {
        self.ipa < ipa.saturating_add(bytes) && ipa < self.ipa.saturating_add(self.bytes)
    }
}

/// Memory of a VM. All zero while the VM does not exist.
#[derive(Debug)]
pub(crate) struct Memory {
    stage2: Stage2,
    vttbr: u64,
    regions: [Region; MAX_REGIONS],
    /// What a thin VM may hold, in bytes.
    quota: u64,
    /// Bytes of the frames that it holds.
    held: u64,
    stock: [Pa; MAX_STOCK],
    stocked: usize,
    spare: Spare,
    /// The frames that are being zeroed.
    chunk: Chunk,
    /// Bytes of the region being built that are done; `regions` has it when all are.
    built: Region,
    grants: [Grant; MAX_GRANTS],
    destroyed: Destroyed,
}

const NO_STAGE2: Stage2 = match Stage2::new(Pa::truncated(0)) {
    Ok(stage2) => stage2,
    Err(_) => panic!("0 is aligned"),
};

/// What came of a first touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// The page is there now, or was there already: repeat the access.
    Mapped,
    /// Likewise, and the stock should be refilled before it is empty.
    MappedStockLow,
    /// It is not RAM, or not mapped and never will be.
    NotMemory,
    /// The stock is empty.
    WantsStock,
    /// The stock is empty and may not be filled.
    OverQuota,
    /// The tables are not what they should be.
    Failed,
}

/// Populates the page at `ipa`, if it is thin memory of `vm`.
#[inline]
pub(crate) fn touch(vm: &Vm, machine: &impl Machine, ipa: Ipa) -> Touch {
    vm.memory.lock_patiently(machine).touch(machine, ipa)
}

impl Memory {
    /// No memory: all zero.
    pub(crate) const fn new() -> Self {
        Self {
            stage2: NO_STAGE2,
            vttbr: 0,
            regions: [Region::NONE; MAX_REGIONS],
            quota: 0,
            held: 0,
            stock: [Pa::truncated(0); MAX_STOCK],
            stocked: 0,
            spare: Spare::NONE,
            chunk: Chunk::NONE,
            built: Region::NONE,
            grants: [Grant::NONE; MAX_GRANTS],
            destroyed: Destroyed::NOT,
        }
    }

    /// Memory with empty tables at `root`, under a VMID.
    pub(crate) fn with_root(root: Pa, vmid: u16) -> Result<Self, Error> {
        let stage2 = Stage2::new(root).map_err(stage2_error)?;
        Ok(Self {
            vttbr: stage2.vttbr(vmid),
            stage2,
            ..Self::new()
        })
    }

    /// VTTBR_EL2.
    pub(crate) const fn vttbr(&self) -> u64 {
        self.vttbr
    }

    /// Bytes of the frames that the VM holds.
    pub(crate) const fn held(&self) -> u64 {
        self.held
    }

    /// Leaves by size, and frames that the tables use.
    pub(crate) fn leaves(&self) -> (LeafCounts, u64) {
        let tables = self.stage2.table_frames();
        (self.stage2.counts(), tables.into())
    }

    /// Frames in stock that can be put to use: there is a table for one.
    pub(crate) const fn stocked(&self) -> usize {
        if self.spare.count() == 0 {
            return 0;
        }
        self.stocked
    }

    /// Whether a vCPU that waits for frames may go on: there are some, and tables for them, or there never will be.
    pub(crate) const fn has_stock(&self) -> bool {
        if self.stocked != 0 {
            return self.spare.count() >= kept_for(1);
        }
        self.is_at_quota()
    }

    const fn is_at_quota(&self) -> bool {
        self.held.saturating_add(FRAME_BYTES) > self.quota
    }

    /// Whether any of `[ipa, ipa + bytes)` is RAM or about to be.
    pub(crate) fn overlaps_ram(&self, ipa: u64, bytes: u64) -> bool {
        let regions = self.regions.iter().chain(core::iter::once(&self.built));
        regions
            .into_iter()
            .any(|region| region.overlaps(ipa, bytes))
    }

    /// The region that an IPA lies in.
    #[inline]
    pub(crate) fn region(&self, ipa: u64) -> Option<Region> {
        self.regions
            .iter()
            .copied()
            .find(|region| region.contains(ipa))
    }

    /// Whether something that continues is under way, or RAM is lent.
    pub(crate) fn is_busy(&self) -> bool {
        self.built.bytes != 0 || self.chunk.bytes != 0 || self.grants.iter().any(Grant::is_live)
    }

    /// Whether frames must stay where they are, because bus masters use their addresses.
    pub(crate) fn is_pinned(&self) -> bool {
        self.regions.iter().any(|region| region.direct)
    }

    /// Forgets all cached translations of the VM.
    pub(crate) fn flush_all(&self, machine: &impl Machine) {
        let _flushed = VmTlb::new(machine, self.vttbr).flush(self.stage2.flush_all());
    }

    /// Lends stage 2 for work on compound tables.
    pub(crate) fn lend<M: Machine, R>(
        &mut self,
        machine: &M,
        from: From,
        work: impl FnOnce(&mut VmAccess<'_, '_, M>) -> R,
    ) -> R {
        let mut tables = match from {
            From::Pool => TableFrames::of_pool(machine),
            From::Spare => {
                let kept = kept_for(self.stocked);
                TableFrames::of_vm(machine, &mut self.spare, kept)
            }
        };
        work(&mut Access {
            stage2: &mut self.stage2,
            memory: &mut tables,
            tlb: &mut VmTlb::new(machine, self.vttbr),
        })
    }

    #[inline]
    fn touch(&mut self, machine: &impl Machine, ipa: Ipa) -> Touch {
        let Some(region) = self.region(ipa.raw()) else {
            return Touch::NotMemory;
        };
        let mut tables = TableFrames::of_vm(machine, &mut self.spare, 0);
        match self.stage2.touch(&mut tables, ipa) {
            Ok(Touched::Populated { pages, .. })
                if pages >= FILL_PAGES && pages.is_power_of_two() =>
            {
                self.complete(machine, ipa)
            }
            Ok(Touched::Populated { .. } | Touched::Present) => Touch::Mapped,
            Ok(Touched::Vacant) if region.thin => self.populate(machine, ipa),
            Ok(Touched::Vacant) => Touch::NotMemory,
            Err(_) => Touch::Failed,
        }
    }

    /// Makes one block of the region around `ipa`, what was not touched of it included.
    #[cold]
    fn complete(&mut self, machine: &impl Machine, ipa: Ipa) -> Touch {
        let mut tables = TableFrames::of_vm(machine, &mut self.spare, 0);
        let mut tlb = VmTlb::new(machine, self.vttbr);
        // Refused while a page is watched or lies elsewhere: then pages go on coming one by one.
        let _ = self.stage2.promote(&mut tables, &mut tlb, ipa);
        Touch::Mapped
    }

    /// Puts a frame of the stock behind the 2 MiB around `ipa` and populates one page.
    #[cold]
    fn populate(&mut self, machine: &impl Machine, ipa: Ipa) -> Touch {
        let Some(frame) = self.take_stock() else {
            return if self.is_at_quota() {
                Touch::OverQuota
            } else {
                Touch::WantsStock
            };
        };
        let mut tables = TableFrames::of_vm(machine, &mut self.spare, 0);
        let base = ipa.align_down(FRAME_BYTES);
        match self
            .stage2
            .reserve_region(&mut tables, base, frame, Stage2Attrs::RAM)
        {
            Ok(()) => match self.stage2.touch(&mut tables, ipa) {
                Ok(Touched::Populated { .. } | Touched::Present) if self.is_stock_low() => {
                    Touch::MappedStockLow
                }
                Ok(Touched::Populated { .. } | Touched::Present) => Touch::Mapped,
                Ok(Touched::Vacant) | Err(_) => Touch::Failed,
            },
            Err(error) => {
                self.put_stock(frame);
                if error == Stage2Error::NoTable {
                    Touch::WantsStock
                } else {
                    Touch::Failed
                }
            }
        }
    }

    /// Whether the manager should add to the stock, and may.
    fn is_stock_low(&self) -> bool {
        self.stocked < LOW_STOCK && !self.is_at_quota()
    }

    fn take_stock(&mut self) -> Option<Pa> {
        self.stocked = self.stocked.checked_sub(1)?;
        self.stock.get(self.stocked).copied()
    }

    /// Puts a zeroed frame into the stock; `false` if it is full.
    fn put_stock(&mut self, frame: Pa) -> bool {
        let Some(slot) = self.stock.get_mut(self.stocked) else {
            return false;
        };
        *slot = frame;
        self.stocked = self.stocked.saturating_add(1);
        true
    }
}

/// What a refusal by the tables means to the manager.
pub(crate) const fn stage2_error(error: Stage2Error) -> Error {
    match error {
        Stage2Error::Misaligned | Stage2Error::OutOfRange => Error::InvalidParameter,
        Stage2Error::AlreadyMapped => Error::AlreadyMapped,
        Stage2Error::NotMapped => Error::NotMapped,
        Stage2Error::NoTable => Error::NoMemory,
        Stage2Error::NotUniform | Stage2Error::NotFlushed => Error::BadState,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_without_a_table_are_none_to_go_on_with() {
        let mut memory = Memory {
            quota: 8 * FRAME_BYTES,
            held: 8 * FRAME_BYTES,
            ..Memory::new()
        };
        assert!(
            memory.has_stock(),
            "there never will be any: it is over its quota"
        );
        assert!(memory.put_stock(Pa::truncated(FRAME_BYTES)));
        assert_eq!((memory.has_stock(), memory.stocked()), (false, 0));
        for table in 1..=3 {
            assert!(!memory.has_stock());
            assert!(memory.spare.push(Pa::truncated(table * 4096)));
            assert_eq!(memory.stocked(), 1, "for one that needs no tables above it");
        }
        assert!(memory.has_stock());
    }
}
