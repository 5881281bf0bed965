//! What the manager waits for. Everything is a level that is read from its source each time, so a
//! restarted manager misses nothing.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use penumbra_abi::Events;
use penumbra_vmsa::VmId;

use crate::machine::{Core, PhysicalInterrupts};
use crate::system::System;
use crate::vcpu::VcpuId;

/// The sources; sets of VMs are bitmaps.
#[derive(Debug)]
pub(crate) struct Sources {
    /// VMs with console output.
    output: AtomicU64,
    /// VMs whose state the manager has not seen.
    status: AtomicU64,
    /// VMs that want frames.
    stock: AtomicU64,
    /// The board's console has had input since it was last found empty.
    input: AtomicBool,
    /// The manager sits in `Wait` or is about to.
    waiting: AtomicBool,
}

/// A source per VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Output,
    Status,
    Stock,
}

impl Sources {
    pub(crate) const fn new() -> Self {
        Self {
            output: AtomicU64::new(0),
            status: AtomicU64::new(0),
            stock: AtomicU64::new(0),
            input: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
        }
    }

    const fn word(&self, source: Source) -> &AtomicU64 {
        match source {
            Source::Output => &self.output,
            Source::Status => &self.status,
            Source::Stock => &self.stock,
        }
    }

    /// The events whose cause holds now.
    pub(crate) fn pending(&self) -> Events {
        let mut events = Events::default();
        if self.input.load(Ordering::SeqCst) {
            events = events.with(Events::INPUT);
        }
        if self.output.load(Ordering::SeqCst) != 0 {
            events = events.with(Events::OUTPUT);
        }
        if (self.status.load(Ordering::SeqCst) | self.stock.load(Ordering::SeqCst)) != 0 {
            events = events.with(Events::STATUS);
        }
        events
    }

    /// The cause of a source has gone.
    pub(crate) fn clear(&self, source: Source, vm: VmId) {
        self.word(source).fetch_and(!bit(vm), Ordering::SeqCst);
    }

    /// Whether a source is set.
    pub(crate) fn is_set(&self, source: Source, vm: VmId) -> bool {
        self.word(source).load(Ordering::SeqCst) & bit(vm) != 0
    }

    /// The board's console has been found empty, or has input.
    pub(crate) fn set_input(&self, input: bool) {
        self.input.store(input, Ordering::SeqCst);
    }

    /// The manager begins or ends its wait. SeqCst: either the manager sees the cause after this, or
    /// whoever sets the cause sees that it must wake the manager.
    pub(crate) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::SeqCst);
    }
}

impl Sources {
    /// Whether the manager waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }
}

const fn bit(vm: VmId) -> u64 {
    1 << (vm.get() & 63)
}

impl System {
    /// A source of events of `vm` has a cause: the manager shall know.
    #[inline]
    pub(crate) fn raise<M: PhysicalInterrupts + Core>(
        &self,
        source: Source,
        vm: VmId,
        machine: &mut M,
    ) {
        let before = self.events.word(source).fetch_or(bit(vm), Ordering::SeqCst);
        if before & bit(vm) == 0 {
            self.wake_manager(machine);
        }
    }

    /// Wakes the manager if it waits.
    pub(crate) fn wake_manager<M: PhysicalInterrupts + Core>(&self, machine: &mut M) {
        if self.events.waiting.load(Ordering::SeqCst) {
            self.wake(VcpuId::MANAGER, machine);
        }
    }
}
