//! The shadowing service: the compound page table of each VM, and what EL2 does for it.
//!
//! `penumbra_paging::Compound` knows how to build, mirror and give up. Here is when that may be done:
//! `hold` stops the other vCPUs of a VM for a structural edit, `fault` answers stores to watched tables
//! and walks that go astray, `roots` puts the kernel's compound root in place without traps, `trapped` all
//! roots by traps. What to shadow the manager says,
//! by its calls.
//!
//! A VM that is nested and never was anything else has none of its exits lengthened: what is here is
//! reached from faults that would otherwise be injected, from calls of the manager, and from the run
//! loop's heartbeat.

mod astray;
mod fault;
mod held;
mod hold;
mod quick;
mod roots;
mod seen;
mod spaces;
mod trapped;
mod whole;

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use penumbra_abi::{
    PAGING_BLOCKS, PAGING_NODES, PAGING_SPACES, PagingCounter, PagingMode, PagingRefusal,
};
use penumbra_paging::{Access, Compound, Refusal, Relayout, ShadowError};
use spin::MutexGuard;

pub(crate) use astray::Astray;
pub(crate) use fault::{Faulted, on_access_flag, on_conflict, on_permission, on_walk};
pub(crate) use held::{look_at_held, note_user_time};
pub(crate) use hold::{Holder, answer, held};
pub(crate) use quick::{context, known_store};
pub(crate) use roots::{Planting, plant, wants};
pub(crate) use spaces::{drop_low, drop_space, low_space};
pub use trapped::vectors;
pub(crate) use trapped::{RootCache, known, report, written};

use crate::lock::Mutex;
use crate::machine::{Core, Machine};
use crate::memory::{Memory, TableFrames, VmTlb};
use crate::vm::Vm;

/// The tables of one VM.
pub(crate) type Tables = Compound<PAGING_SPACES, PAGING_NODES, PAGING_BLOCKS>;

/// What the service keeps of a VM. All zero while the VM is nested and always was.
#[derive(Debug)]
pub(crate) struct Paging {
    mode: AtomicU8,
    /// Bits of [`penumbra_abi::paging_roots`].
    roots: AtomicU8,
    refusal: AtomicU8,
    /// Whether the VM ever was anything but nested.
    used: AtomicBool,
    /// vCPUs that hold the compound root, as far as EL2 has seen.
    planted: AtomicU8,
    /// vCPUs that are not ready because the VM is held.
    parked: AtomicU8,
    /// vCPUs that are to be looked at soon: their TTBR0_EL1, or for what is to be given back.
    looks: AtomicU8,
    /// Trapping is about to end: the spaces of the lower half go one by one.
    ending: AtomicBool,
    /// Roots lost since the manager last allowed planting.
    losses: AtomicU8,
    /// No planting before this counter value.
    not_before: AtomicU64,
    /// Changes when what vCPUs remember of roots does not hold any more; 0 before roots were trapped.
    generation: AtomicU32,
    events: [AtomicU64; EVENTS],
    state: Mutex<State>,
}

/// What the lock protects. It is taken with the lock of the VM's memory held.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tables: Tables,
    /// The re-layout under way.
    pub(crate) relayout: Option<Relayout>,
    /// What trapped writes have shown.
    pub(crate) seen: seen::Seen,
}

/// The first counter that the service keeps itself, and how many it keeps.
const FIRST_EVENT: usize = PagingCounter::Planted as usize;
const EVENTS: usize = PagingCounter::ALL.len() - FIRST_EVENT;

/// Where tables of stage 2 come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The board's pool, for calls of the manager.
    Pool,
    /// The VM's spare frames, for its own exits.
    Spare,
}

/// Stage 2, memory and TLBs of a VM as the tables want them.
pub(crate) type VmAccess<'a, 'b, M> = Access<'a, TableFrames<'b, M>, VmTlb<'b, M>>;

impl Paging {
    /// Nested: all zero.
    pub(crate) const fn new() -> Self {
        Self {
            mode: AtomicU8::new(0),
            roots: AtomicU8::new(0),
            refusal: AtomicU8::new(0),
            used: AtomicBool::new(false),
            planted: AtomicU8::new(0),
            parked: AtomicU8::new(0),
            looks: AtomicU8::new(0),
            ending: AtomicBool::new(false),
            losses: AtomicU8::new(0),
            not_before: AtomicU64::new(0),
            generation: AtomicU32::new(0),
            events: [const { AtomicU64::new(0) }; EVENTS],
            state: Mutex::new(State {
                tables: Tables::new(),
                relayout: None,
                seen: seen::Seen::EMPTY,
            }),
        }
    }

    /// Forgets everything, for a VM that is gone.
    pub(crate) fn clear(&self) {
        for cell in [
            &self.mode,
            &self.roots,
            &self.refusal,
            &self.planted,
            &self.parked,
            &self.looks,
            &self.losses,
        ] {
            cell.store(0, Ordering::Relaxed);
        }
        self.ending.store(false, Ordering::Relaxed);
        self.not_before.store(0, Ordering::Relaxed);
        self.generation.store(0, Ordering::Relaxed);
        for event in &self.events {
            event.store(0, Ordering::Relaxed);
        }
        if self.used.swap(false, Ordering::Relaxed) {
            let mut state = self.state.lock();
            state.tables.clear();
            state.relayout = None;
            state.seen.clear();
        }
    }

    /// The mode in force.
    pub(crate) fn mode(&self) -> PagingMode {
        PagingMode::from_bits(self.mode.load(Ordering::Acquire).into()).unwrap_or_default()
    }

    /// Sets the mode.
    pub(crate) fn set_mode(&self, mode: PagingMode) {
        if mode != PagingMode::Nested {
            self.used.store(true, Ordering::Release);
        }
        self.mode.store(mode as u8, Ordering::Release);
    }

    /// Whether there may be anything of the service's in the VM.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// The ways allowed to put roots in place.
    pub(crate) fn roots(&self) -> u64 {
        self.roots.load(Ordering::Relaxed).into()
    }

    /// Why the root is nested.
    pub(crate) fn refusal(&self) -> PagingRefusal {
        PagingRefusal::from_bits(self.refusal.load(Ordering::Relaxed).into()).unwrap_or_default()
    }

    /// Sets them.
    fn set_roots(&self, roots: u64) {
        self.ending.store(false, Ordering::Relaxed);
        let roots = u8::try_from(roots).unwrap_or(0);
        self.roots.store(roots, Ordering::Release);
    }

    /// No kernel root is planted any more. Trapping stays as it is, at its end too.
    fn stop_planting(&self) {
        let trapped = u8::try_from(penumbra_abi::paging_roots::TRAPPED).unwrap_or(0);
        self.roots.fetch_and(trapped, Ordering::AcqRel);
    }

    fn refuse(&self, refusal: PagingRefusal) {
        self.refusal.store(refusal as u8, Ordering::Relaxed);
    }

    /// vCPUs that hold the compound root, a bit each.
    pub(crate) fn planted(&self) -> u8 {
        self.planted.load(Ordering::Relaxed)
    }

    /// Counts an event of the service's own.
    pub(crate) fn count(&self, counter: PagingCounter, by: u64) {
        if let Some(event) = self.event(counter) {
            event.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Samples of walks begin anew.
    pub(crate) fn begin_samples(&self) {
        if let Some(first) = self.event(PagingCounter::FirstSample) {
            first.store(0, Ordering::Relaxed);
        }
    }

    /// A walk was sampled. Under the VM's lock, so that its counters go together.
    pub(crate) fn sampled(&self, now: u64) {
        self.count(PagingCounter::SampleTicks, now);
        if let Some(first) = self.event(PagingCounter::FirstSample)
            && first.load(Ordering::Relaxed) == 0
        {
            first.store(now, Ordering::Relaxed);
        }
    }

    fn event(&self, counter: PagingCounter) -> Option<&AtomicU64> {
        let index = (counter as usize).wrapping_sub(FIRST_EVENT);
        self.events.get(index)
    }

    /// Reads a counter.
    pub(crate) fn counter(&self, machine: &impl Core, counter: PagingCounter) -> u64 {
        let own = self.event(counter);
        if let Some(event) = own.filter(|_| counter != PagingCounter::Samples) {
            return event.load(Ordering::Relaxed);
        }
        let counters = self.lock(machine).tables.counters();
        match counter {
            PagingCounter::Mirrored => counters.mirrored,
            PagingCounter::Structural => counters.structural,
            PagingCounter::Shadowed => counters.shadowed,
            PagingCounter::Coalesced => counters.coalesced,
            PagingCounter::Demoted => counters.demoted,
            PagingCounter::Evicted => counters.evicted,
            PagingCounter::Moved => counters.moved,
            PagingCounter::Relaid => counters.relaid,
            PagingCounter::Samples => counters.walked.saturating_add(counters.wrote),
            _ => 0,
        }
    }

    /// Looks at the tables alone.
    pub(crate) fn state<R>(&self, machine: &impl Core, look: impl FnOnce(&State) -> R) -> R {
        look(&self.lock(machine))
    }

    /// Changes what needs neither memory nor TLBs.
    pub(crate) fn change<R>(&self, machine: &impl Core, work: impl FnOnce(&mut State) -> R) -> R {
        work(&mut self.lock(machine))
    }

    /// What the lock protects. The manager's calls keep it for as long as it takes to go through a table.
    #[inline(never)]
    fn lock(&self, machine: &impl Core) -> MutexGuard<'_, State> {
        self.state.lock_patiently(machine)
    }
}

impl Vm {
    /// Works on the VM's compound tables, with its memory locked.
    pub(crate) fn with_tables<M: Machine, R>(
        &self,
        machine: &M,
        from: From,
        work: impl FnOnce(&mut State, &mut VmAccess<'_, '_, M>) -> R,
    ) -> R {
        let (mut memory, mut state) = self.lock_tables(machine);
        memory.lend(machine, from, |access| work(&mut state, access))
    }

    // Apart from `with_tables`, which is made anew for each use.
    #[inline(never)]
    fn lock_tables(&self, machine: &impl Core) -> (MutexGuard<'_, Memory>, MutexGuard<'_, State>) {
        (
            self.memory.lock_patiently(machine),
            self.paging.lock(machine),
        )
    }
}

/// Why a root could not be planted, for the manager.
pub(crate) const fn refusal(error: ShadowError) -> PagingRefusal {
    let reason = match error {
        ShadowError::Refused(reason) => reason,
        ShadowError::NotRam => return PagingRefusal::NotRam,
        ShadowError::Crowded => return PagingRefusal::Crowded,
        _ => return PagingRefusal::Full,
    };
    match reason {
        Refusal::Off => PagingRefusal::Off,
        Refusal::BigEndian => PagingRefusal::BigEndian,
        Refusal::Granule => PagingRefusal::Granule,
        Refusal::RootSize => PagingRefusal::RootSize,
        Refusal::OutputSize => PagingRefusal::OutputSize,
        Refusal::Uncached => PagingRefusal::Uncached,
        Refusal::HardwareFlags => PagingRefusal::HardwareFlags,
        Refusal::CommonNotPrivate => PagingRefusal::CommonNotPrivate,
        Refusal::RootAddress => PagingRefusal::RootAddress,
        Refusal::Geometry => PagingRefusal::Geometry,
    }
}
