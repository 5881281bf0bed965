//! Giving a VM memory: reserved RAM at once, thin RAM frame by frame into its stock.

use penumbra_abi::{Backing, Error, ZERO_CHUNK_BYTES};
use penumbra_paging::Mapping;
use penumbra_vmsa::{GIB, Ipa, PAGE_SIZE, Pa, Stage2Attrs, VmId};

use super::tables::{MAX_SPARE, allocate_table, kept_for};
use super::{GUEST_END, MAX_STOCK, Memory, Region, TableFrames, stage2_error};
use crate::frames::{FRAME_BYTES, FrameTable, Owner};
use crate::machine::Machine;

/// Frames that belong to the VM already and are being zeroed before it gets to see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    base: Pa,
    /// 0: nothing.
    pub(super) bytes: u64,
    zeroed: u64,
}

impl Chunk {
    pub(super) const NONE: Self = Self {
        base: Pa::truncated(0),
        bytes: 0,
        zeroed: 0,
    };

    /// What is to be zeroed next, and whether that is the last.
    fn next(&self) -> (Dirty, bool) {
        let rest = self.bytes.saturating_sub(self.zeroed);
        let bytes = rest.min(ZERO_CHUNK_BYTES);
        let base = Pa::truncated(self.base.raw().saturating_add(self.zeroed));
        (Dirty { base, bytes }, bytes == rest)
    }

    /// Zeroes the next piece; whether all is zero now.
    fn advance(&mut self, machine: &impl Machine) -> bool {
        let (dirty, is_last) = self.next();
        dirty.zero(machine);
        self.zeroed = self.zeroed.saturating_add(dirty.bytes);
        is_last
    }
}

/// A piece of frames that are the VM's, and that it does not get to see before they are zero. Nobody else has to do with it
/// until [`Memory::note_zeroed`] or [`Memory::stock_frame`]: the manager, for whose calls frames are zeroed, has one vCPU.
#[derive(Debug)]
#[must_use = "it is not zero yet"]
pub(crate) struct Dirty {
    base: Pa,
    /// 0: nothing is left to zero.
    bytes: u64,
}

impl Dirty {
    /// Zeroes it, which needs no lock.
    pub(crate) fn zero(&self, machine: &impl Machine) {
        if self.bytes != 0 {
            machine.zero(self.base, self.bytes);
        }
    }
}

/// What `VmMapRam` asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RamRequest {
    pub(crate) ipa: u64,
    pub(crate) bytes: u64,
    pub(crate) backing: Backing,
    pub(crate) quota: u64,
}

impl Memory {
    /// Gives the VM RAM, one piece per call. Returns the bytes done.
    pub(crate) fn map_ram(
        &mut self,
        machine: &impl Machine,
        frames: &FrameTable,
        vm: VmId,
        request: RamRequest,
    ) -> Result<u64, Error> {
        let RamRequest {
            ipa,
            bytes,
            backing,
            quota,
        } = request;
        let (thin, direct) = (backing == Backing::Thin, backing == Backing::Direct);
        let end = ipa.checked_add(bytes).ok_or(Error::InvalidParameter)?;
        let aligned = ipa.is_multiple_of(FRAME_BYTES) && bytes.is_multiple_of(FRAME_BYTES);
        if bytes == 0 || end > GUEST_END || !aligned {
            return Err(Error::InvalidParameter);
        }
        if self.built.bytes == 0 {
            if self.chunk.bytes != 0 {
                return Err(Error::BadState);
            }
            if self.overlaps_ram(ipa, bytes) {
                return Err(Error::AlreadyMapped);
            }
            if self.regions.iter().all(|region| region.bytes != 0) {
                return Err(Error::NoSlot);
            }
            self.built = Region {
                ipa,
                bytes: 0,
                thin,
                direct,
            };
            if thin {
                self.quota = quota;
                return Ok(self.finish_region(bytes));
            }
        } else if self.built.ipa != ipa || self.built.bytes > bytes || self.built.direct != direct {
            return Err(Error::BadState);
        } else if self.built_bytes() == bytes {
            // It was to be larger, and goes no further now.
            return Ok(self.finish_region(bytes));
        }
        self.build_step(machine, frames, vm, (ipa, bytes))
    }

    /// Maps what the manager is given at boot; `held` bytes of it are its own.
    pub(crate) fn adopt(
        &mut self,
        machine: &impl Machine,
        mapping: Mapping,
        held: u64,
    ) -> Result<(), Error> {
        let mut tables = TableFrames::of_pool(machine);
        self.stage2
            .map(&mut tables, mapping)
            .map_err(stage2_error)?;
        self.held = self.held.saturating_add(held);
        Ok(())
    }

    /// Maps the two pages of the board's virtual CPU interface at the guest's GICC (GICv2).
    pub(crate) fn map_cpu_interface(
        &mut self,
        machine: &impl Machine,
        ipa: Ipa,
        gicv: [Pa; 2],
    ) -> Result<(), Error> {
        let mut tables = TableFrames::of_pool(machine);
        for (offset, page) in [0, PAGE_SIZE].into_iter().zip(gicv) {
            let at = Ipa::truncated(ipa.raw().saturating_add(offset));
            let mapping = Mapping::new(at, page, PAGE_SIZE, Stage2Attrs::DEVICE);
            self.stage2
                .map(&mut tables, mapping)
                .map_err(stage2_error)?;
        }
        Ok(())
    }

    /// One piece of a reserved region: takes a block, zeroes it, maps it.
    fn build_step(
        &mut self,
        machine: &impl Machine,
        frames: &FrameTable,
        vm: VmId,
        (ipa, bytes): (u64, u64),
    ) -> Result<u64, Error> {
        // A region under way counts its first frame from the moment when it is taken.
        let done = self.built_bytes();
        let at = ipa.saturating_add(done);
        if self.chunk.bytes == 0 {
            let wanted = largest_block(at, bytes.saturating_sub(done));
            if self.built.direct {
                self.take_aside(frames, vm, (at, wanted))?;
            } else {
                self.take_chunk(machine, frames, vm, wanted)?;
            }
            self.built.bytes = done.saturating_add(self.chunk.bytes);
        }
        if !self.chunk.advance(machine) {
            return Ok(done);
        }
        let Chunk {
            base, bytes: size, ..
        } = self.chunk;
        let mapping = Mapping::new(Ipa::truncated(at), base, size, Stage2Attrs::RAM);
        let mut tables = TableFrames::of_pool(machine);
        self.stage2
            .map(&mut tables, mapping)
            .map_err(stage2_error)?;
        self.chunk = Chunk::NONE;
        let done = done.saturating_add(size);
        if done >= bytes {
            return Ok(self.finish_region(bytes));
        }
        Ok(done)
    }

    /// Bytes of the region under way that are mapped.
    const fn built_bytes(&self) -> u64 {
        self.built.bytes.saturating_sub(self.chunk.bytes)
    }

    /// The region under way is complete.
    fn finish_region(&mut self, bytes: u64) -> u64 {
        let region = core::mem::replace(&mut self.built, Region::NONE);
        if let Some(slot) = self.regions.iter_mut().find(|region| region.bytes == 0) {
            *slot = Region { bytes, ..region };
        }
        bytes
    }

    /// Makes RAM that is set aside the VM's.
    fn take_aside(
        &mut self,
        frames: &FrameTable,
        vm: VmId,
        (base, bytes): (u64, u64),
    ) -> Result<(), Error> {
        let base = Pa::truncated(base);
        frames
            .move_owner(base, bytes, Owner::Aside, Owner::Vm(vm))
            .map_err(|_| Error::NoMemory)?;
        self.held = self.held.saturating_add(bytes);
        self.chunk = Chunk {
            base,
            bytes,
            zeroed: 0,
        };
        Ok(())
    }

    /// Maps registers of a device at IPA = PA.
    pub(crate) fn map_device(
        &mut self,
        machine: &impl Machine,
        base: Pa,
        bytes: u64,
    ) -> Result<(), Error> {
        let mut tables = TableFrames::of_pool(machine);
        let mapping = Mapping::new(Ipa::truncated(base.raw()), base, bytes, Stage2Attrs::DEVICE);
        self.stage2.map(&mut tables, mapping).map_err(stage2_error)
    }

    /// Takes a block of `bytes` or the next smaller one that there is, and makes it the VM's.
    fn take_chunk(
        &mut self,
        machine: &impl Machine,
        frames: &FrameTable,
        vm: VmId,
        bytes: u64,
    ) -> Result<(), Error> {
        let mut size = bytes;
        let base = loop {
            if size < FRAME_BYTES {
                return Err(Error::NoMemory);
            }
            match machine.allocate(size) {
                Some(base) => break base,
                None => size /= 2,
            }
        };
        if frames
            .move_owner(base, size, Owner::Hypervisor, Owner::Vm(vm))
            .is_err()
        {
            // RAM beyond the table. It goes back; there may be none below.
            machine.free(base, size);
            return Err(Error::NoMemory);
        }
        self.held = self.held.saturating_add(size);
        self.chunk = Chunk {
            base,
            bytes: size,
            zeroed: 0,
        };
        Ok(())
    }

    /// Zeroes a frame for a VM that has not run, one piece per call; it when it is ready.
    pub(super) fn next_frame(
        &mut self,
        machine: &impl Machine,
        frames: &FrameTable,
        vm: VmId,
    ) -> Result<Option<Pa>, Error> {
        if self.built.bytes != 0 {
            // What is being zeroed is the next piece of a region.
            return Err(Error::BadState);
        }
        self.begin_frame(machine, frames, vm)?;
        if !self.chunk.advance(machine) {
            return Ok(None);
        }
        let frame = self.chunk.base;
        self.chunk = Chunk::NONE;
        Ok(Some(frame))
    }

    /// Takes a frame to zero, if none is under way.
    fn begin_frame(
        &mut self,
        machine: &impl Machine,
        frames: &FrameTable,
        vm: VmId,
    ) -> Result<(), Error> {
        if self.chunk.bytes != 0 {
            return Ok(());
        }
        // Reserved RAM has no quota: what the manager adds to it is its own affair.
        let thin = self.regions.iter().any(|region| region.thin);
        if thin && self.held.saturating_add(FRAME_BYTES) > self.quota {
            return Err(Error::QuotaExceeded);
        }
        self.take_chunk(machine, frames, vm, FRAME_BYTES)
    }

    /// What is to be zeroed next of a frame for mirror tables.
    pub(crate) fn dirty_for_pool(
        &mut self,
        machine: &impl Machine,
        frames: &FrameTable,
        vm: VmId,
    ) -> Result<Dirty, Error> {
        if self.built.bytes != 0 {
            return Err(Error::BadState);
        }
        self.begin_frame(machine, frames, vm)?;
        Ok(self.chunk.next().0)
    }

    /// Notes that what is to be zeroed next is zero; the frame if that was the last of it. It stays the one under
    /// way until [`Self::frame_taken`] or [`Self::stock_frame`].
    pub(crate) fn note_zeroed(&mut self, dirty: Dirty) -> Option<Pa> {
        self.chunk.zeroed = self.chunk.zeroed.saturating_add(dirty.bytes);
        (self.chunk.zeroed >= self.chunk.bytes).then_some(self.chunk.base)
    }

    /// The frame that was under way is part of the VM's pool now.
    pub(crate) const fn frame_taken(&mut self) {
        self.chunk = Chunk::NONE;
    }

    /// Keeps so many frames ready for tables that exits of the VM make, besides those that first touches take.
    pub(crate) fn keep_ready(&mut self, machine: &impl Machine, count: usize) -> Result<(), Error> {
        let touches = kept_for(self.stocked);
        self.add_spare(machine, touches.saturating_add(count))
    }

    fn add_spare(&mut self, machine: &impl Machine, count: usize) -> Result<(), Error> {
        while self.spare.count() < count.min(MAX_SPARE) {
            let table = allocate_table(machine).ok_or(Error::NoMemory)?;
            if !self.spare.push(table) {
                break;
            }
        }
        Ok(())
    }

    /// What is to be zeroed next of a frame for the stock.
    pub(crate) fn dirty_for_stock(
        &mut self,
        machine: &impl Machine,
        frames: &FrameTable,
        vm: VmId,
    ) -> Result<Dirty, Error> {
        if self.built.bytes != 0 || !self.regions.iter().any(|region| region.thin) {
            return Err(Error::BadState);
        }
        self.add_spare(machine, kept_for(self.stocked.saturating_add(1)))?;
        if self.stocked >= MAX_STOCK {
            return Err(Error::NoSlot);
        }
        self.begin_frame(machine, frames, vm)?;
        Ok(self.chunk.next().0)
    }

    /// Notes that what is to be zeroed next is zero, and adds its frame to the stock if that was the last of it. Returns
    /// whether it is there.
    pub(crate) fn stock_frame(&mut self, dirty: Dirty) -> bool {
        let Some(frame) = self.note_zeroed(dirty) else {
            return false;
        };
        self.chunk = Chunk::NONE;
        self.put_stock(frame)
    }
}

/// The largest power of two, 1 GiB at most, that fits at `ipa` and into `bytes`.
pub(crate) fn largest_block(ipa: u64, bytes: u64) -> u64 {
    let mut size = GIB;
    while size > FRAME_BYTES && (size > bytes || !ipa.is_multiple_of(size)) {
        size /= 2;
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;
    use penumbra_vmsa::MIB;

    #[test]
    fn blocks_are_as_large_as_address_and_size_allow() {
        assert_eq!(largest_block(GIB, 512 * MIB), 512 * MIB);
        assert_eq!(largest_block(GIB, 3 * GIB), GIB);
        assert_eq!(largest_block(GIB + 512 * MIB, 3 * GIB), 512 * MIB);
        assert_eq!(largest_block(GIB, 6 * MIB), 4 * MIB);
        assert_eq!(largest_block(GIB + 2 * MIB, 64 * MIB), 2 * MIB);
    }
}
