//! SGIs and PPIs of one vCPU. Atomics, because other vCPUs send SGIs and reach its redistributor.
//!
//! Each word has bit n for INTID n. Everything is sequentially consistent: a sender sets `pending`
//! and then reads `enabled`, the vCPU sets `enabled` and then reads `pending`, and one of the two
//! must see the other's write.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use penumbra_abi::GicVersion;

use crate::machine::intid;

/// INTIDs 0 to 15.
pub(super) const SGIS: u32 = 0xffff;
/// The virtual timer, which is always linked to the physical PPI of that number.
pub(super) const TIMER: u32 = 1 << intid::VIRTUAL_TIMER;
/// Bits of a priority that exist: five, as in list registers of a GICv2.
pub(super) const PRIORITY_MASK: u8 = 0xf8;

/// SGIs (0 to 15) and PPIs (16 to 31) of one vCPU.
#[derive(Debug)]
pub(super) struct PrivateIrqs {
    /// Not zero: the next flush must rebuild.
    pub(super) work: AtomicU32,
    pub(super) enabled: AtomicU32,
    /// Set: group 1.
    pub(super) group: AtomicU32,
    /// Pending latch. While the interrupt is held: set again after it went to its list register.
    pub(super) pending: AtomicU32,
    /// Active, and not in a list register; while held, to be made active there too.
    pub(super) active: AtomicU32,
    /// Lines of level-triggered PPIs. For [`TIMER`]: the physical PPI is active and the guest has not
    /// got it yet, or the timer expired while the vCPU was not resident.
    pub(super) level: AtomicU32,
    /// Set: edge-triggered.
    pub(super) edge: AtomicU32,
    /// In a list register, or was there when the vCPU's core last looked. Only that core writes.
    pub(super) held: AtomicU32,
    priority: [AtomicU32; 8],
    /// Sources of pending SGIs of a GICv2 guest: a byte per SGI, a bit per vCPU.
    sources: [AtomicU32; 4],
    /// GICR_WAKER.ProcessorSleep.
    pub(super) asleep: AtomicU32,
}

impl PrivateIrqs {
    /// All zero.
    pub(super) const fn new() -> Self {
        Self {
            work: AtomicU32::new(0),
            enabled: AtomicU32::new(0),
            group: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            active: AtomicU32::new(0),
            level: AtomicU32::new(0),
            edge: AtomicU32::new(0),
            held: AtomicU32::new(0),
            priority: [const { AtomicU32::new(0) }; 8],
            sources: [const { AtomicU32::new(0) }; 4],
            asleep: AtomicU32::new(0),
        }
    }

    /// Resets. Reset values where the architecture leaves a choice are those that guests of KVM see:
    /// SGIs of a GICv2 are enabled, interrupts of a GICv3 are in group 1.
    pub(super) fn reset(&self, version: GicVersion) {
        let (enabled, group) = match version {
            GicVersion::V2 => (SGIS, 0),
            GicVersion::V3 => (0, u32::MAX),
        };
        self.work.store(0, SeqCst);
        self.enabled.store(enabled, SeqCst);
        self.group.store(group, SeqCst);
        for word in [&self.pending, &self.active, &self.level, &self.held] {
            word.store(0, SeqCst);
        }
        self.edge.store(SGIS, SeqCst);
        for word in self.priority.iter().chain(&self.sources) {
            word.store(0, SeqCst);
        }
        self.asleep.store(1, SeqCst);
    }

    /// Interrupts that are enabled and whose group is.
    #[inline]
    pub(super) fn deliverable(&self, groups: u32) -> u32 {
        self.enabled.load(SeqCst) & select_groups(self.group.load(SeqCst), groups)
    }

    /// Level-triggered interrupts whose line is high.
    #[inline]
    pub(super) fn high(&self) -> u32 {
        self.level.load(SeqCst) & (!self.edge.load(SeqCst) | TIMER)
    }

    /// The priority of `intid`.
    #[inline]
    pub(super) fn priority(&self, intid: usize) -> u8 {
        let word = self
            .priority
            .get(intid >> 2)
            .map_or(0, |word| word.load(SeqCst));
        (word >> ((intid & 3) << 3) & 0xff) as u8
    }

    /// Priorities of four interrupts, `word` of `GICR_IPRIORITYR<n>`.
    pub(super) fn priorities(&self, word: usize) -> u32 {
        self.priority.get(word).map_or(0, |word| word.load(SeqCst))
    }

    /// Replaces the bytes of priority word `word` that `mask` covers.
    pub(super) fn set_priorities(&self, word: usize, mask: u32, value: u32) {
        let Some(slot) = self.priority.get(word) else {
            return;
        };
        let value = value & mask & u32::from_ne_bytes([PRIORITY_MASK; 4]);
        // One vCPU's bytes must not undo another's in the same word.
        slot.fetch_and(!mask, SeqCst);
        slot.fetch_or(value, SeqCst);
    }

    /// Sources of SGI `sgi`, as a bitmap of vCPUs.
    pub(super) fn sources(&self, sgi: usize) -> u32 {
        self.sources
            .get(sgi >> 2)
            .map_or(0, |word| word.load(SeqCst) >> ((sgi & 3) << 3) & 0xff)
    }

    /// Adds sources of SGI `sgi`. The pending bit must be set after it.
    pub(super) fn add_sources(&self, sgi: usize, sources: u32) {
        if let Some(word) = self.sources.get(sgi >> 2) {
            word.fetch_or((sources & 0xff) << ((sgi & 3) << 3), SeqCst);
        }
    }

    /// Removes sources of SGI `sgi` and returns which there were.
    pub(super) fn remove_sources(&self, sgi: usize, sources: u32) -> u32 {
        let shift = (sgi & 3) << 3;
        self.sources.get(sgi >> 2).map_or(0, |word| {
            word.fetch_and(!((sources & 0xff) << shift), SeqCst) >> shift & 0xff
        })
    }

    /// Asks for a rebuild at the next flush.
    #[inline]
    pub(super) fn ask_rebuild(&self) {
        self.work.store(1, SeqCst);
    }
}

/// Of interrupts with group bits `group`, those whose group is enabled in `groups` (GICD_CTLR).
#[inline]
pub(super) const fn select_groups(group: u32, groups: u32) -> u32 {
    let group_0 = 0u32.wrapping_sub(groups & 1);
    let group_1 = 0u32.wrapping_sub(groups >> 1 & 1);
    (!group & group_0) | (group & group_1)
}
