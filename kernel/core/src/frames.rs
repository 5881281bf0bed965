//! Who owns which RAM: one entry per 2 MiB frame.
//!
//! RAM moves between the hypervisor and a VM in whole 2 MiB frames: guest RAM is a multiple of
//! 2 MiB, thin VMs are populated out of 2 MiB frames of their own, and EL2's tables lie in frames that
//! stay the hypervisor's. So no entry ever has to be split. The table is the record by which a VM's
//! memory is found again when it is destroyed, and it is what the audit compares stage 2 with.

use core::sync::atomic::{AtomicU8, Ordering};

use penumbra_vmsa::{GIB, MIB, Pa, VmId};

/// Bytes of a frame of the table.
pub(crate) const FRAME_BYTES: u64 = 2 * MIB;
/// RAM at and above this address is never given to a VM.
pub(crate) const RAM_END: u64 = 64 * GIB;
/// Entries of the table.
const FRAMES: usize = (RAM_END / FRAME_BYTES) as usize;

/// The owner of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// EL2: its pool of free memory, its tables, what the firmware left, or no RAM at all.
    Hypervisor,
    /// A VM.
    Vm(VmId),
    /// Nobody now; the VMs that need RAM at this very address have it in turn.
    Aside,
}

impl Owner {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Hypervisor => 0,
            Self::Vm(vm) => (vm.get() as u8).wrapping_add(1),
            Self::Aside => u8::MAX,
        }
    }
}

/// A frame was not owned by whom it should have been, or lies beyond [`RAM_END`]. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct NotOwner;

/// The table.
#[derive(Debug)]
pub(crate) struct FrameTable {
    owners: [AtomicU8; FRAMES],
}

impl FrameTable {
    /// Everything is the hypervisor's.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self {
            owners: [const { AtomicU8::new(0) }; FRAMES],
        }
    }

    /// Moves `bytes` from `base` (both multiples of 2 MiB) from one owner to another.
    ///
    /// # Errors
    /// [`NotOwner`] if any of it does not belong to `from`; then nothing has moved.
    pub(crate) fn move_owner(
        &self,
        base: Pa,
        bytes: u64,
        from: Owner,
        to: Owner,
    ) -> Result<(), NotOwner> {
        let entries = self.entries(base, bytes).ok_or(NotOwner)?;
        for (done, entry) in entries.iter().enumerate() {
            // Relaxed: the owners are compared, but order nothing; the lock of the VM does.
            let moved = entry.compare_exchange(
                from.to_byte(),
                to.to_byte(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if moved.is_err() {
                for undone in entries.iter().take(done) {
                    undone.store(from.to_byte(), Ordering::Relaxed);
                }
                return Err(NotOwner);
            }
        }
        Ok(())
    }

    /// Whether all of `bytes` from `base` belongs to `owner`.
    #[must_use]
    pub(crate) fn is_owned(&self, base: Pa, bytes: u64, owner: Owner) -> bool {
        let first = base.align_down(FRAME_BYTES);
        let Some(total) = base
            .offset_from(first)
            .and_then(|head| head.checked_add(bytes))
        else {
            return false;
        };
        let Some(total) = total.checked_next_multiple_of(FRAME_BYTES) else {
            return false;
        };
        self.entries(first, total).is_some_and(|entries| {
            entries
                .iter()
                .all(|entry| entry.load(Ordering::Relaxed) == owner.to_byte())
        })
    }

    /// The first frame of `owner` at or after entry `from`, among at most `limit` entries: its
    /// address, or where to go on looking, or `None` at the end of the table.
    #[must_use]
    pub(crate) fn find(&self, owner: Owner, from: usize, limit: usize) -> Option<Found> {
        let rest = self.owners.get(from..).filter(|rest| !rest.is_empty())?;
        let seen = rest.len().min(limit);
        let position = rest
            .iter()
            .take(seen)
            .position(|e| e.load(Ordering::Relaxed) == owner.to_byte());
        Some(match position {
            Some(n) => Found::Frame {
                index: from.saturating_add(n),
            },
            None => Found::GoOn {
                from: from.saturating_add(seen),
            },
        })
    }

    /// Address of the frame that entry `index` stands for.
    #[must_use]
    pub(crate) fn address(index: usize) -> Pa {
        Pa::truncated(
            u64::try_from(index)
                .unwrap_or(0)
                .saturating_mul(FRAME_BYTES),
        )
    }

    fn entries(&self, base: Pa, bytes: u64) -> Option<&[AtomicU8]> {
        if !base.is_aligned(FRAME_BYTES) || !bytes.is_multiple_of(FRAME_BYTES) {
            return None;
        }
        let first = usize::try_from(base.raw() / FRAME_BYTES).ok()?;
        let count = usize::try_from(bytes / FRAME_BYTES).ok()?;
        self.owners.get(first..first.checked_add(count)?)
    }
}

impl Default for FrameTable {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`FrameTable::find`] came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A frame of the owner.
    Frame {
        /// Its entry.
        index: usize,
    },
    /// None so far.
    GoOn {
        /// Entry to look at next.
        from: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(n: u64) -> Owner {
        Owner::Vm(VmId::new(n, 8).unwrap())
    }

    #[test]
    fn a_move_is_checked_and_all_or_nothing() {
        let table = FrameTable::new();
        let base = Pa::truncated(GIB);
        table
            .move_owner(base, 4 * MIB, Owner::Hypervisor, vm(1))
            .unwrap();
        let lower = Pa::truncated(GIB - 2 * MIB);
        assert_eq!(
            table.move_owner(lower, 8 * MIB, Owner::Hypervisor, vm(2)),
            Err(NotOwner)
        );
        assert!(table.is_owned(lower, 2 * MIB, Owner::Hypervisor));
        assert!(table.is_owned(base, 4 * MIB, vm(1)));
        assert_eq!(
            table.move_owner(base, 4 * MIB, vm(2), Owner::Hypervisor),
            Err(NotOwner)
        );
        table
            .move_owner(base, 4 * MIB, vm(1), Owner::Hypervisor)
            .unwrap();
        assert!(!table.is_owned(base, 4 * MIB, vm(1)));
    }

    #[test]
    fn what_is_no_ram_is_nobodys_to_take() {
        let table = FrameTable::new();
        for (base, bytes) in [
            (RAM_END, 2 * MIB),
            (RAM_END - 2 * MIB, 4 * MIB),
            (4096, 2 * MIB),
            (0, 4096),
        ] {
            let moved = table.move_owner(Pa::truncated(base), bytes, Owner::Hypervisor, vm(1));
            assert_eq!(moved, Err(NotOwner), "{base:#x}");
        }
        assert!(!table.is_owned(Pa::truncated((1 << 48) - 1), u64::MAX, Owner::Hypervisor));
    }

    #[test]
    fn frames_are_found_again_in_bounded_steps() {
        let table = FrameTable::new();
        let base = Pa::truncated(3 * GIB);
        table
            .move_owner(base, 2 * MIB, Owner::Hypervisor, vm(3))
            .unwrap();
        let (mut from, mut steps) = (0, 0);
        let index = loop {
            steps += 1;
            match table.find(vm(3), from, 100).unwrap() {
                Found::Frame { index } => break index,
                Found::GoOn { from: next } => from = next,
            }
        };
        assert_eq!(FrameTable::address(index), base);
        assert_eq!(steps, 3 * 512 / 100 + 1);
        assert_eq!(table.find(vm(3), FRAMES, 100), None);
    }
}
