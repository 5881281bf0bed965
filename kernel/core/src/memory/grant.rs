//! Lending guest RAM to the manager for loading.
//!
//! The frames stay the guest's; the manager's stage 2 maps them, never executable, from
//! [`begin`] to [`end`]. Both go in pieces. What was written is cleaned to the point of coherency when
//! the grant ends, so that a guest with its caches off sees it.

use penumbra_abi::{Error, MANAGER_WINDOW_BYTES, MANAGER_WINDOW_IPA, ZERO_CHUNK_BYTES};
use penumbra_paging::{Mapping, TlbSink};
use penumbra_vmsa::{Ipa, PAGE_SIZE, Pa, Stage2Attrs, Stage2Execute, VmId};

use super::{Memory, TableFrames, VmTlb, stage2_error};
use crate::frames::{FRAME_BYTES, FrameTable};
use crate::machine::Machine;

/// RAM that the manager may write.
const LENT: Stage2Attrs = Stage2Attrs {
    execute: Stage2Execute::Never,
    ..Stage2Attrs::RAM
};

/// A grant, complete or under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    ipa: u64,
    /// 0: no grant.
    bytes: u64,
    /// IPA in the manager.
    window: u64,
    /// Bytes that the manager has mapped, from the start.
    mapped: u64,
    /// While it ends: bytes that are unmapped, then those that are cleaned.
    ending: bool,
    unmapped: u64,
    cleaned: u64,
}

impl Grant {
    pub(super) const NONE: Self = Self {
        ipa: 0,
        bytes: 0,
        window: 0,
        mapped: 0,
        ending: false,
        unmapped: 0,
        cleaned: 0,
    };

    /// Whether there is one.
    pub(super) const fn is_live(&self) -> bool {
        self.bytes != 0
    }

    const fn is(&self, ipa: u64, bytes: u64, window: u64) -> bool {
        self.ipa == ipa && self.bytes == bytes && self.window == window
    }
}

/// Lends `[ipa, ipa + bytes)` of a guest at `window` of the manager, one piece per call. Returns the
/// bytes done.
pub(crate) fn begin(
    guest: &mut Memory,
    manager: &mut Memory,
    machine: &impl Machine,
    (frames, vm): (&FrameTable, VmId),
    (ipa, bytes, window): (u64, u64, u64),
) -> Result<u64, Error> {
    let end = ipa.checked_add(bytes).ok_or(Error::InvalidParameter)?;
    let offset = window
        .checked_sub(MANAGER_WINDOW_IPA)
        .ok_or(Error::InvalidParameter)?;
    let window_end = offset.checked_add(bytes).ok_or(Error::InvalidParameter)?;
    let aligned = (ipa | bytes | window).is_multiple_of(PAGE_SIZE);
    if bytes == 0 || !aligned || window_end > MANAGER_WINDOW_BYTES {
        return Err(Error::InvalidParameter);
    }
    let region = guest.region(ipa).ok_or(Error::NotMapped)?;
    if end > region.ipa.saturating_add(region.bytes) {
        return Err(Error::NotMapped);
    }
    let known = guest
        .grants
        .iter()
        .position(|grant| grant.is(ipa, bytes, window));
    let index = match known {
        Some(index) => index,
        None => {
            let free = guest.grants.iter().position(|grant| !grant.is_live());
            let index = free.ok_or(Error::NoSlot)?;
            if let Some(slot) = guest.grants.get_mut(index) {
                *slot = Grant {
                    ipa,
                    bytes,
                    window,
                    ..Grant::NONE
                };
            }
            index
        }
    };
    let Some(grant) = guest.grants.get(index).copied() else {
        return Err(Error::NoSlot);
    };
    if grant.ending {
        return Err(Error::BadState);
    }
    let Some(piece) = next_piece(guest, machine, (frames, vm), grant)? else {
        return Ok(grant.mapped);
    };
    let at = Ipa::truncated(window.saturating_add(grant.mapped));
    let mapping = Mapping::new(at, piece.pa, piece.bytes, LENT);
    let mut tables = TableFrames::of_pool(machine);
    let mapped = manager
        .stage2
        .map(&mut tables, mapping)
        .map_err(stage2_error);
    let slot = guest.grants.get_mut(index).ok_or(Error::NoSlot)?;
    if let Err(error) = mapped {
        if slot.mapped == 0 {
            *slot = Grant::NONE;
        }
        return Err(error);
    }
    slot.mapped = slot.mapped.saturating_add(piece.bytes);
    Ok(slot.mapped)
}

/// Frames that follow each other.
struct Piece {
    pa: Pa,
    bytes: u64,
}

/// The next frames to lend, populated if need be; `None` while that takes more calls, or at the end.
fn next_piece(
    guest: &mut Memory,
    machine: &impl Machine,
    (frames, vm): (&FrameTable, VmId),
    grant: Grant,
) -> Result<Option<Piece>, Error> {
    let rest = grant.bytes.saturating_sub(grant.mapped);
    if rest == 0 {
        return Ok(None);
    }
    let at = Ipa::truncated(grant.ipa.saturating_add(grant.mapped));
    let to_frame_end = FRAME_BYTES.saturating_sub(at.raw() & (FRAME_BYTES - 1));
    let mut tables = TableFrames::of_pool(machine);
    if let Ok(leaf) = guest.stage2.lookup(&tables, at) {
        let to_leaf_end = leaf
            .bytes()
            .saturating_sub(at.raw() & leaf.bytes().saturating_sub(1));
        let bytes = rest.min(to_frame_end).min(to_leaf_end);
        return Ok(Some(Piece {
            pa: leaf.pa_of(at),
            bytes,
        }));
    }
    // Thin memory that nothing was written to yet. It has never run, so whole frames do.
    let frame = match guest.take_stock() {
        Some(frame) => frame,
        None => match guest.next_frame(machine, frames, vm)? {
            Some(frame) => frame,
            None => return Ok(None),
        },
    };
    let base = at.align_down(FRAME_BYTES);
    let mapping = Mapping::new(base, frame, FRAME_BYTES, Stage2Attrs::RAM);
    guest
        .stage2
        .map(&mut tables, mapping)
        .map_err(stage2_error)?;
    Ok(None)
}

/// Ends the grants of a VM, one piece per call. Returns whether none is left.
pub(crate) fn end(
    guest: &mut Memory,
    manager: &mut Memory,
    machine: &impl Machine,
) -> Result<bool, Error> {
    let Some(index) = guest.grants.iter().position(Grant::is_live) else {
        return Ok(true);
    };
    let Some(mut grant) = guest.grants.get(index).copied() else {
        return Ok(true);
    };
    grant.ending = true;
    if grant.unmapped < grant.mapped {
        let piece = grant.mapped.saturating_sub(grant.unmapped).min(FRAME_BYTES);
        let at = Ipa::truncated(grant.window.saturating_add(grant.unmapped));
        let mut tables = TableFrames::of_pool(machine);
        let mut tlb = VmTlb::new(machine, manager.vttbr);
        let work = manager
            .stage2
            .unmap(&mut tables, &mut tlb, at, piece)
            .map_err(stage2_error)?;
        let flushed = tlb.flush(work);
        manager.stage2.release(&mut tables, &flushed, 4);
        grant.unmapped = grant.unmapped.saturating_add(piece);
    } else if grant.cleaned < grant.mapped {
        let at = Ipa::truncated(grant.ipa.saturating_add(grant.cleaned));
        let rest = grant
            .mapped
            .saturating_sub(grant.cleaned)
            .min(ZERO_CHUNK_BYTES);
        let tables = TableFrames::of_pool(machine);
        let leaf = guest
            .stage2
            .lookup(&tables, at)
            .map_err(|_| Error::NotMapped)?;
        let inside = leaf
            .bytes()
            .saturating_sub(at.raw() & leaf.bytes().saturating_sub(1));
        let piece = rest.min(inside);
        machine.publish_code(leaf.pa_of(at), piece);
        grant.cleaned = grant.cleaned.saturating_add(piece);
    } else {
        grant = Grant::NONE;
    }
    if let Some(slot) = guest.grants.get_mut(index) {
        *slot = grant;
    }
    Ok(!guest.grants.iter().any(Grant::is_live))
}

impl Memory {
    /// Shows the manager, whose memory this is, a page of a device.
    pub(crate) fn show_device(
        &mut self,
        machine: &impl Machine,
        page: u64,
        window: u64,
    ) -> Result<(), Error> {
        let mut tables = TableFrames::of_pool(machine);
        let (at, page) = (Ipa::truncated(window), Pa::truncated(page));
        let mapping = Mapping::new(at, page, PAGE_SIZE, Stage2Attrs::DEVICE);
        self.stage2.map(&mut tables, mapping).map_err(stage2_error)
    }

    /// Takes the page back.
    pub(crate) fn hide_device(&mut self, machine: &impl Machine, window: u64) -> Result<(), Error> {
        let mut tables = TableFrames::of_pool(machine);
        let mut tlb = VmTlb::new(machine, self.vttbr);
        let work = self
            .stage2
            .unmap(&mut tables, &mut tlb, Ipa::truncated(window), PAGE_SIZE)
            .map_err(stage2_error)?;
        let flushed = tlb.flush(work);
        self.stage2.release(&mut tables, &flushed, 4);
        Ok(())
    }
}

impl Grant {
    /// Whether `[start, end)` of the manager's window belongs to it.
    pub(super) const fn covers(&self, start: u64, end: u64) -> bool {
        self.bytes != 0 && self.window <= start && end <= self.window.saturating_add(self.bytes)
    }
}
