//! Repairing stage 2 once its reasons are gone: pages go home, blocks merge again.

use penumbra_vmsa::{Ipa, Level, PAGE_SIZE, Pa};

use super::node::Node;
use super::relayout::exchange;
use super::{Access, Compound, FrameMover, ShadowError};
use crate::memory::TableMemory;
use crate::thin::REGION_BYTES;
use crate::tlb::TlbSink;

/// A range of guest RAM and the frames that it was given: page by page, `ipa` belongs to `pa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// First IPA.
    pub ipa: Ipa,
    /// First PA.
    pub pa: Pa,
    /// Size.
    pub bytes: u64,
}

impl Home {
    /// The IPA that a frame belongs to.
    fn ipa_of(&self, frame: Pa) -> Option<Ipa> {
        let offset = frame.offset_from(self.pa)?;
        if offset >= self.bytes {
            None
        } else {
            self.ipa.checked_add(offset)
        }
    }
}

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// Undoes re-layout: brings one page home, the one whose frame `page` has. Repeated, it brings
    /// `page` home as well: each step shortens the cycle of exchanged pages by one. Returns whether
    /// `page` is home. Other vCPUs may run.
    ///
    /// # Errors
    /// `NotRam`: a page of the cycle is watched, shown by an alias, or not of this range.
    pub fn bring_home<M: TableMemory + FrameMover + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        page: Ipa,
        home: &Home,
    ) -> Result<bool, ShadowError> {
        let page = page.align_down(PAGE_SIZE);
        let frame = vm.table_ram(page).ok_or(ShadowError::NotRam)?.pa_of(page);
        let owner = home.ipa_of(frame).ok_or(ShadowError::NotRam)?;
        if owner == page {
            return Ok(true);
        }
        let (at_page, at_owner) = (self.may_move(vm, page)?, self.may_move(vm, owner)?);
        exchange(vm, (page, at_page), (owner, at_owner))?;
        self.counters.moved = self.counters.moved.saturating_add(1);
        Ok(false)
    }

    /// Merges the 2 MiB around `ipa` into one stage-2 block again, if no watched page and no page out of
    /// place is left there. Returns whether it is a block now. Flushes the VM if it merges.
    pub fn settle<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &mut Access<'_, M, T>,
        ipa: Ipa,
    ) -> bool {
        let region = ipa.align_down(REGION_BYTES);
        match vm.stage2.lookup(vm.memory, region) {
            Ok(leaf) if leaf.level < Level::L3 => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
        let watches = |node: &Node| node.watches() && node.guest.align_down(REGION_BYTES) == region;
        if self.nodes.iter().any(|(_, node)| watches(node)) {
            return false;
        }
        vm.stage2
            .merge(vm.memory, vm.tlb, region, Level::L2)
            .is_ok()
    }
}
