//! What cores see of each other: who is ready to run where, and who has been asked to look around.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::vcpu::VcpuId;

/// A VM's state or what is pinned where has changed.
pub(crate) const CHANGED: u8 = 1 << 0;
/// Somebody wants to hold a VM.
pub(crate) const ASKED: u8 = 1 << 1;

/// The shared face of one core. Sets are bitmaps of [`VcpuId`]s.
#[derive(Debug)]
// `attention` comes first: every answered exit looks at it.
#[repr(C)]
pub(crate) struct CoreShared {
    /// The core shall go through its run loop before it enters a guest again.
    attention: AtomicBool,
    /// vCPUs pinned to this core.
    pinned: AtomicU64,
    /// How often [`Self::pinned`] or what is trapped of a vCPU of this core has changed; not 0 once one is pinned. Each core has
    /// its own: a guest that is made anew on one costs the others nothing.
    pins: AtomicU32,
    /// vCPUs of this core that want to run. Set by anyone, cleared by the core itself. A bit that is
    /// set without need costs a look, a missing one would be a lost wake-up.
    ready: AtomicU64,
    /// Likewise, and what about: bits of [`CHANGED`] and [`ASKED`].
    reasons: AtomicU8,
    /// How often the core was asked whether it is in EL2, and up to which time it has answered.
    asked: AtomicU32,
    answered: AtomicU32,
    /// The vCPU whose state is in the core's hardware or about to be, FP and debug registers apart.
    resident: AtomicU64,
    /// vCPUs whose FP or debug registers are.
    lazy: AtomicU64,
}

impl CoreShared {
    /// A core that has nothing to run: all zero.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self {
            attention: AtomicBool::new(false),
            pinned: AtomicU64::new(0),
            pins: AtomicU32::new(0),
            ready: AtomicU64::new(0),
            reasons: AtomicU8::new(0),
            asked: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            resident: AtomicU64::new(0),
            lazy: AtomicU64::new(0),
        }
    }

    /// The vCPUs pinned here.
    #[inline]
    pub(crate) fn pinned(&self) -> u64 {
        self.pinned.load(Ordering::Relaxed)
    }

    /// How often what is pinned here, or trapped of those, has changed. Acquire: what has changed is seen.
    #[inline]
    pub(crate) fn pins(&self) -> u32 {
        self.pins.load(Ordering::Acquire)
    }

    /// Notes such a change. The core is told apart.
    pub(crate) fn note_pins(&self) {
        self.pins.fetch_add(1, Ordering::Release);
    }

    /// Adds a vCPU to those pinned here.
    pub(crate) fn pin(&self, id: VcpuId) {
        self.pinned.fetch_or(id.bit(), Ordering::Relaxed);
        self.note_pins();
    }

    /// Removes a vCPU from those pinned here. It does not run any more.
    pub(crate) fn unpin(&self, id: VcpuId) {
        self.pinned.fetch_and(!id.bit(), Ordering::Relaxed);
        self.ready.fetch_and(!id.bit(), Ordering::Relaxed);
        self.note_pins();
    }

    /// The vCPUs that want to run.
    #[inline]
    pub(crate) fn ready(&self) -> u64 {
        // Acquire: what the waker wrote before `make_ready` is seen by whoever runs the vCPU.
        self.ready.load(Ordering::Acquire)
    }

    /// Marks a vCPU as wanting to run; returns whether it was not before. SeqCst pairs with
    /// [`Self::make_unready`]: of a waker and a vCPU that blocks, one sees the other.
    #[inline]
    pub(crate) fn make_ready(&self, id: VcpuId) -> bool {
        self.ready.fetch_or(id.bit(), Ordering::SeqCst) & id.bit() == 0
    }

    /// Whether a vCPU wants to run. SeqCst as [`Self::make_ready`], which need not be called then.
    #[inline]
    pub(crate) fn is_ready(&self, id: VcpuId) -> bool {
        self.ready.load(Ordering::SeqCst) & id.bit() != 0
    }

    /// Marks a vCPU as not wanting to run, for its own core. The caller then looks once more whether
    /// its reason to block still holds.
    pub(crate) fn make_unready(&self, id: VcpuId) {
        self.ready.fetch_and(!id.bit(), Ordering::SeqCst);
    }

    /// Asks the core to look around. It must be kicked, too, if it is not the asking core.
    #[inline]
    pub(crate) fn call_attention(&self) {
        self.attention.store(true, Ordering::Release);
    }

    /// Asks the core to look around because a VM's state or what is pinned where has changed.
    pub(crate) fn call_attention_to_change(&self) {
        self.reasons.fetch_or(CHANGED, Ordering::Release);
        self.call_attention();
    }

    /// Takes what the core has been asked to look at.
    pub(crate) fn take_reasons(&self) -> u8 {
        if self.reasons.load(Ordering::Acquire) == 0 {
            return 0;
        }
        self.reasons.swap(0, Ordering::AcqRel)
    }

    /// Asks the core to go through its run loop and say so. It must be kicked, too. SeqCst: what was
    /// written before is seen by the core before it enters a guest.
    pub(crate) fn ask(&self) -> u32 {
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        self.reasons.fetch_or(ASKED, Ordering::SeqCst);
        self.call_attention();
        ticket
    }

    /// Answers all that was asked so far, for the core itself.
    pub(crate) fn answer(&self) {
        self.answered
            .store(self.asked.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Whether the core has answered a ticket. Acquire: what it did before is over.
    pub(crate) fn has_answered(&self, ticket: u32) -> bool {
        let ahead = self.answered.load(Ordering::Acquire).wrapping_sub(ticket);
        ahead < u32::MAX / 2
    }

    /// Whether the core has been asked to look around.
    #[inline]
    pub(crate) fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// Takes the request to look around.
    #[inline]
    pub(crate) fn take_attention(&self) -> bool {
        self.wants_attention() && self.attention.swap(false, Ordering::AcqRel)
    }

    /// The vCPUs of which the hardware holds state. SeqCst as [`Self::set_resident`].
    pub(crate) fn holds(&self) -> u64 {
        self.resident.load(Ordering::SeqCst) | self.lazy.load(Ordering::SeqCst)
    }

    /// Whether a vCPU's state is in the hardware or about to be. If not, the core looks at what has changed for it before it
    /// runs. SeqCst: of a core that brings it in and whoever has changed something, one sees the other.
    #[inline]
    pub(crate) fn is_resident(&self, id: VcpuId) -> bool {
        self.resident.load(Ordering::SeqCst) & id.bit() != 0
    }

    /// Publishes whose state the hardware holds, or is about to: one vCPU's, or none. SeqCst: whoever looks at the state of a
    /// VM after it may rely on its being seen by who has changed that state before.
    #[inline]
    pub(crate) fn set_resident(&self, set: u64) {
        self.resident.store(set, Ordering::SeqCst);
    }

    /// Publishes whose FP and debug registers it holds. SeqCst as [`Self::set_resident`].
    pub(crate) fn set_lazy(&self, set: u64) {
        self.lazy.store(set, Ordering::SeqCst);
    }
}

impl Default for CoreShared {
    fn default() -> Self {
        Self::new()
    }
}
