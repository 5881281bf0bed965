//! Taking a VM's memory back, and checking that every frame is where the table of frames says.

use penumbra_abi::{Error, ZERO_CHUNK_BYTES};
use penumbra_paging::{Leaf, ROOT_BYTES, TlbSink};
use penumbra_vmsa::{Ipa, PAGE_SIZE, Pa, VmId};

use super::grant::end;
use super::{Memory, TableFrames, VmTlb};
use crate::frames::{FRAME_BYTES, Found, FrameTable, Owner};
use crate::machine::Machine;

/// Tables freed per call.
const TABLES_PER_CALL: u32 = 16;
/// Entries of the frame table looked at per call.
const ENTRIES_PER_CALL: usize = 8192;

/// How far the destruction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destroyed {
    tables: bool,
    /// Entry of the frame table to go on with.
    entry: usize,
    /// Bytes of that frame that are zeroed.
    zeroed: u64,
}

impl Destroyed {
    pub(super) const NOT: Self = Self {
        tables: false,
        entry: 0,
        zeroed: 0,
    };
}

impl Memory {
    /// Takes everything back, one piece per call: grants, tables, frames (zeroed), root. No vCPU of
    /// the VM is in hardware any more. Returns whether nothing is left.
    pub(crate) fn destroy(
        &mut self,
        manager: &mut Self,
        machine: &impl Machine,
        (frames, vm): (&FrameTable, VmId),
    ) -> Result<bool, Error> {
        if !end(self, manager, machine)? {
            return Ok(false);
        }
        if !self.destroyed.tables {
            self.destroyed.tables = self.free_tables(machine)?;
            return Ok(false);
        }
        if !self.free_frames(machine, frames, vm) {
            return Ok(false);
        }
        machine.free(self.stage2.root(), ROOT_BYTES);
        *self = Self::new();
        Ok(true)
    }

    fn free_tables(&mut self, machine: &impl Machine) -> Result<bool, Error> {
        let mut tlb = VmTlb::new(machine, self.vttbr);
        let flushed = tlb.flush(self.stage2.flush_all());
        let mut tables = TableFrames::of_pool(machine);
        let done = self
            .stage2
            .teardown(&mut tables, &flushed, TABLES_PER_CALL)
            .map_err(super::stage2_error)?;
        while let Some(table) = self.spare.pop(0) {
            machine.free(table, PAGE_SIZE);
        }
        Ok(done)
    }

    /// Zeroes and frees a piece of what the VM owns; whether nothing is left.
    fn free_frames(&mut self, machine: &impl Machine, frames: &FrameTable, vm: VmId) -> bool {
        let index = match frames.find(Owner::Vm(vm), self.destroyed.entry, ENTRIES_PER_CALL) {
            None => return true,
            Some(Found::GoOn { from }) => {
                self.destroyed.entry = from;
                return false;
            }
            Some(Found::Frame { index }) => index,
        };
        self.destroyed.entry = index;
        let base = FrameTable::address(index);
        let at = Pa::truncated(base.raw().saturating_add(self.destroyed.zeroed));
        machine.zero(at, ZERO_CHUNK_BYTES);
        self.destroyed.zeroed = self.destroyed.zeroed.saturating_add(ZERO_CHUNK_BYTES);
        if self.destroyed.zeroed >= FRAME_BYTES {
            self.destroyed.zeroed = 0;
            self.held = self.held.saturating_sub(FRAME_BYTES);
            // A device may still write to RAM at its own address: that is never anyone else's.
            let aside = self.is_direct(base);
            let next = if aside {
                Owner::Aside
            } else {
                Owner::Hypervisor
            };
            let moved = frames.move_owner(base, FRAME_BYTES, Owner::Vm(vm), next);
            if moved.is_ok() && !aside {
                machine.free(base, FRAME_BYTES);
            }
        }
        false
    }

    /// Whether a frame of the VM lies in a region at its own address, complete or under way. Its other
    /// regions do not overlap that.
    fn is_direct(&self, base: Pa) -> bool {
        let regions = self.regions.iter().chain(core::iter::once(&self.built));
        regions
            .into_iter()
            .any(|region| region.direct && region.contains(base.raw()))
    }

    /// The first leaf at or above `from`.
    pub(crate) fn next_leaf(&self, machine: &impl Machine, from: Ipa) -> Option<Leaf> {
        if self.vttbr == 0 {
            return None;
        }
        self.stage2.next_leaf(&TableFrames::of_pool(machine), from)
    }

    /// Bytes that are lent to the manager at an IPA of its window.
    pub(crate) fn lends(&self, window: Ipa, bytes: u64) -> bool {
        let end = window.raw().saturating_add(bytes);
        self.grants
            .iter()
            .any(|grant| grant.covers(window.raw(), end))
    }
}
