//! What cores see of each other: who is ready to run where, and who has been asked to look around.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::vcpu::VcpuId;

/// The shared face of one core. Sets are bitmaps of [`VcpuId`]s.
#[derive(Debug)]
pub(crate) struct CoreShared {
    /// vCPUs pinned to this core.
    pinned: AtomicU64,
    /// vCPUs of this core that want to run. Set by anyone, cleared by the core itself. A bit that is
    /// set without need costs a look, a missing one would be a lost wake-up.
    ready: AtomicU64,
    /// The core shall go through its run loop before it enters a guest again.
    attention: AtomicBool,
    /// Likewise, and VMs or pins have changed.
    changed: AtomicBool,
    /// vCPUs of which the core's hardware holds state.
    holds: AtomicU64,
}

impl CoreShared {
    /// A core that has nothing to run: all zero.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self {
            pinned: AtomicU64::new(0),
            ready: AtomicU64::new(0),
            attention: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            holds: AtomicU64::new(0),
        }
    }

    /// The vCPUs pinned here.
    #[inline]
    pub(crate) fn pinned(&self) -> u64 {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Adds a vCPU to those pinned here.
    pub(crate) fn pin(&self, id: VcpuId) {
        self.pinned.fetch_or(id.bit(), Ordering::Relaxed);
    }

    /// Removes a vCPU from those pinned here. It does not run any more.
    pub(crate) fn unpin(&self, id: VcpuId) {
        self.pinned.fetch_and(!id.bit(), Ordering::Relaxed);
        self.ready.fetch_and(!id.bit(), Ordering::Relaxed);
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
        self.changed.store(true, Ordering::Release);
        self.call_attention();
    }

    /// Takes the note of a change.
    pub(crate) fn take_change(&self) -> bool {
        self.changed.load(Ordering::Acquire) && self.changed.swap(false, Ordering::AcqRel)
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

    /// The vCPUs of which the hardware holds state.
    pub(crate) fn holds(&self) -> u64 {
        self.holds.load(Ordering::Acquire)
    }

    /// Publishes of which vCPUs the hardware holds state.
    pub(crate) fn set_holds(&self, set: u64) {
        self.holds.store(set, Ordering::Release);
    }
}

impl Default for CoreShared {
    fn default() -> Self {
        Self::new()
    }
}
