//! A virtual processor: what the hardware holds of it while it runs, what is kept of it while it
//! does not, and the little that other cores may see of it at any time.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use penumbra_abi::{MAX_CPUS, MAX_VCPUS_PER_VM, MAX_VMS};
use penumbra_vmsa::{CpuIndex, VmId};

use crate::compound::{Astray, RootCache};
use crate::cores::CoreShared;
use crate::machine::{Controls, DebugFrame, FpFrame, GprFrame, SysregFrame};
use crate::system::{BoardState, System};
use crate::timer::PhysicalTimer;
use crate::vgic::CpuInterface;
use crate::vm::Vm;

/// vCPUs of all VMs at most. A set of them fits a register.
pub const MAX_VCPUS: usize = MAX_VMS * MAX_VCPUS_PER_VM;
const _: () = assert!(MAX_VCPUS <= 64 && MAX_VCPUS.is_power_of_two());

/// Number of a vCPU among all vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuId(u8);

impl VcpuId {
    /// The manager's only vCPU.
    pub const MANAGER: Self = Self(0);

    /// vCPU `index` of `vm`, if a VM can have it.
    #[must_use]
    #[inline]
    pub const fn new(vm: VmId, index: usize) -> Option<Self> {
        if index >= MAX_VCPUS_PER_VM {
            return None;
        }
        Self::from_number(vm.get().wrapping_mul(MAX_VCPUS_PER_VM).wrapping_add(index))
    }

    /// The vCPU of a number below [`MAX_VCPUS`].
    #[must_use]
    #[inline]
    pub const fn from_number(number: usize) -> Option<Self> {
        if number < MAX_VCPUS {
            Some(Self(number as u8))
        } else {
            None
        }
    }

    /// Its number, below [`MAX_VCPUS`]. The remainder is the number itself: it says so to the compiler,
    /// which then checks no index.
    #[must_use]
    #[inline]
    pub const fn number(self) -> usize {
        self.0 as usize % MAX_VCPUS
    }

    /// Number of its VM.
    #[must_use]
    #[inline]
    pub const fn vm(self) -> usize {
        self.number() / MAX_VCPUS_PER_VM
    }

    /// Its index in its VM.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self.number() % MAX_VCPUS_PER_VM
    }

    /// The vCPU with another index in its VM; the index wraps.
    #[must_use]
    #[inline]
    pub const fn sibling(self, index: usize) -> Self {
        let first = self.number().wrapping_sub(self.index());
        Self(first.wrapping_add(index % MAX_VCPUS_PER_VM) as u8)
    }

    /// Its bit in a set of vCPUs.
    #[must_use]
    #[inline]
    pub const fn bit(self) -> u64 {
        1 << (self.0 & 63)
    }
}

/// The vCPUs of a set, lowest number first.
pub fn members(mut set: u64) -> impl Iterator<Item = VcpuId> {
    core::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let number = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        VcpuId::from_number(usize::try_from(number).ok()?)
    })
}

/// Why a vCPU that is on does not run. Every wake-up may be spurious: whoever makes the vCPU run
/// again looks at the reason anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Blocked {
    /// It may run.
    No,
    /// WFI or CPU_SUSPEND: until an interrupt.
    Interrupt,
    /// Its access waits for a frame; it is repeated.
    Stock,
    /// The manager's `Wait`, until this counter value at the latest.
    Events(u64),
    /// The manager has crashed and starts anew at this counter value.
    Restart(u64),
}

/// What an exit leaves to the run loop. The explicit representation makes the first variant zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Deferred {
    /// Nothing: the core has been asked to look around.
    Nothing,
    /// EL2's timer has fired, and is off.
    Deadline,
    /// Use of FP or SIMD registers that are another vCPU's.
    Fp,
    /// Use of debug registers that are another vCPU's.
    Debug,
    /// The vCPU blocks.
    Block(Blocked),
    /// PSCI CPU_OFF.
    Off,
}

/// What [`exit::first_synchronous`](crate::exit::first_synchronous) leaves of an exit to [`exit::fast`](crate::exit::fast).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Left {
    /// All of it.
    Everything,
    /// An interrupt that is acknowledged already.
    Acknowledged(u32),
}

/// What a vCPU belongs to, whichever VM it is part of. The system keeps one for each number.
#[derive(Debug)]
pub struct Place {
    pub(crate) system: &'static System,
    pub(crate) vm: &'static Vm,
    // Behind the VM: one instruction loads both.
    pub(crate) shared: &'static VcpuShared,
    pub(crate) board: &'static BoardState,
    /// The present generation of the VM's roots: the vectors read it.
    pub(crate) generation: &'static AtomicU32,
}

/// State of a vCPU. It belongs to one core at a time: the one that holds its slot's lock.
#[derive(Debug)]
#[repr(C)]
pub struct Vcpu {
    /// General-purpose registers. At offset 0: the hal's assembly addresses them through a pointer
    /// to the vCPU.
    pub gpr: GprFrame,
    /// System registers, while not resident.
    pub sysregs: SysregFrame,
    /// Traps and identity.
    pub controls: Controls,
    /// [`CoreShared::pins`] of its core when `controls` were made; 0: never.
    pub(crate) pins: u32,
    pub(crate) place: Option<&'static Place>,
    /// The core where it is resident.
    pub(crate) core: Option<&'static CoreShared>,
    pub(crate) id: VcpuId,
    pub(crate) deferred: Deferred,
    pub(crate) left: Left,
    pub(crate) blocked: Blocked,
    /// It has used debug registers, so they go with it.
    pub(crate) uses_debug: bool,
    /// OS lock (OSLSR_EL1.OSLK).
    pub(crate) os_lock: bool,
    /// Where its stores to protected pages were refused without a reason that its tables show.
    pub(crate) astray: Astray,
    /// What it knows of its roots, while they are trapped.
    pub(crate) roots: RootCache,
    pub(crate) gic: CpuInterface,
    pub(crate) physical_timer: PhysicalTimer,
    pub(crate) fp: FpFrame,
    pub(crate) debug: DebugFrame,
}

const _: () = assert!(core::mem::offset_of!(Vcpu, gpr) == 0);

/// A vCPU that nothing has been put into.
const VACANT: Vcpu = Vcpu {
    gpr: GprFrame::ZERO,
    sysregs: SysregFrame::ZERO,
    controls: Controls::ZERO,
    pins: 0,
    place: None,
    core: None,
    id: VcpuId::MANAGER,
    deferred: Deferred::Nothing,
    left: Left::Everything,
    blocked: Blocked::No,
    uses_debug: false,
    os_lock: false,
    astray: Astray::NOWHERE,
    roots: RootCache::EMPTY,
    gic: CpuInterface::vacant(),
    physical_timer: PhysicalTimer::OFF,
    fp: FpFrame::ZERO,
    debug: DebugFrame::ZERO,
};

impl Vcpu {
    /// A slot that holds no vCPU: all zero.
    #[must_use]
    pub const fn vacant() -> Self {
        VACANT
    }

    /// Empties the slot: nothing of the vCPU that was here remains.
    pub(crate) fn vacate(&mut self) {
        self.clone_from_vacant();
        self.pins = 0;
        self.place = None;
        self.core = None;
        self.id = VcpuId::MANAGER;
        self.controls = Controls::ZERO;
    }

    /// Brings all state that a guest can see to what it is after reset; identity stays.
    fn clone_from_vacant(&mut self) {
        self.gpr = GprFrame::ZERO;
        self.sysregs = SysregFrame::ZERO;
        self.deferred = Deferred::Nothing;
        self.left = Left::Everything;
        self.blocked = Blocked::No;
        self.uses_debug = false;
        self.astray = Astray::NOWHERE;
        self.roots = RootCache::EMPTY;
        self.gic = CpuInterface::new();
        self.physical_timer = PhysicalTimer::OFF;
        self.fp = FpFrame::ZERO;
        self.debug = DebugFrame::ZERO;
    }

    /// Brings the vCPU to its state after reset, to continue at `entry` in EL1 with `context` in X0
    /// (Arm DEN 0022 F, "CPU_ON"; Arm ARM DDI 0487 L.b, D1 "Reset").
    pub(crate) fn reset(&mut self, entry: u64, context: u64) {
        self.clone_from_vacant();
        self.gpr.set(0, context);
        self.sysregs.pc = entry;
        self.sysregs.pstate = PSTATE_RESET;
        self.sysregs.sctlr_el1 = SCTLR_EL1_RESET;
        self.os_lock = true;
    }

    /// Whether the core has been asked to look around.
    #[inline]
    pub(crate) fn wants_attention(&self) -> bool {
        self.core.is_some_and(CoreShared::wants_attention)
    }

    /// Counts one event.
    #[inline]
    pub(crate) fn count(&self, counter: Counter) {
        if let Some(place) = self.place {
            place.shared.count(counter);
        }
    }
}

/// EL1 with SP_EL1, debug exceptions, SError, IRQ and FIQ masked.
const PSTATE_RESET: u64 = 0b1111 << 6 | 0b0101;

/// SCTLR_EL1 after reset: MMU and caches off, RES1 bits of Armv8.0 set (EOS, EIS, nTLSMD, LSMAOE,
/// SPAN, TSCXT and bits that were RES1 before they got a meaning).
const SCTLR_EL1_RESET: u64 = 0x30d0_0800;

/// Counters that the manager may read (`VcpuCounter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Exits for none of the reasons below.
    Others = 0,
    /// Hypercalls and SMCs.
    Calls = 1,
    /// System registers.
    SystemRegisters = 2,
    /// MMIO.
    Mmio = 3,
    /// Stage-2 population.
    Population = 4,
    /// Interrupts.
    Interrupts = 5,
    /// WFI.
    Waits = 6,
    /// Switches in.
    Switches = 7,
    /// System registers under HCR_EL2.TVM: not counted as [`Self::SystemRegisters`] as well.
    RootTraps = 8,
}

const COUNTERS: usize = 9;

/// PSCI's view of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Off.
    Off,
    /// Another vCPU has turned it on; it has not run yet.
    Pending,
    /// On.
    On,
}

/// What all cores may see and do at any time. One per vCPU, beside its slot.
#[derive(Debug)]
pub struct VcpuShared {
    power: AtomicU8,
    /// Index of its core, [`NOT_PINNED`] turned over; 0: not pinned.
    core: AtomicU8,
    entry: AtomicU64,
    context: AtomicU64,
    counters: [AtomicU64; COUNTERS],
    /// Counter ticks for which it had its core. While it has it, less the counter's value when it got
    /// it, which is negative: it cannot have had the core for longer than there was time.
    clock: AtomicU64,
}

/// Beyond the index of any core.
const NOT_PINNED: u8 = 1 << 7;
const _: () = assert!(MAX_CPUS <= NOT_PINNED as usize);

const OFF: u8 = 0;
/// Somebody writes `entry` and `context`.
const CLAIMED: u8 = 1;
/// `entry` and `context` are valid, the vCPU has not taken them yet.
const REQUESTED: u8 = 2;
const ON: u8 = 3;

impl VcpuShared {
    /// Where [`Counter::RootTraps`] is, in bytes.
    pub(crate) const ROOT_TRAPS: usize =
        core::mem::offset_of!(Self, counters) + 8 * Counter::RootTraps as usize;

    /// Off and not pinned: all zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            power: AtomicU8::new(OFF),
            core: AtomicU8::new(0),
            entry: AtomicU64::new(0),
            context: AtomicU64::new(0),
            counters: [const { AtomicU64::new(0) }; COUNTERS],
            clock: AtomicU64::new(0),
        }
    }

    /// Off, not pinned, nothing counted.
    pub(crate) fn clear(&self) {
        self.power.store(OFF, Ordering::Relaxed);
        self.core.store(0, Ordering::Relaxed);
        for counter in &self.counters {
            counter.store(0, Ordering::Relaxed);
        }
        self.clock.store(0, Ordering::Relaxed);
    }

    /// It gets its core at counter value `now`, if it has not got it. Only that core calls this.
    #[inline]
    pub(crate) fn start_clock(&self, now: u64) {
        let clock = self.clock.load(Ordering::Relaxed);
        if clock.cast_signed() >= 0 {
            self.clock.store(clock.wrapping_sub(now), Ordering::Relaxed);
        }
    }

    /// It loses its core, or waits on it, at counter value `now`. Only that core calls this.
    #[inline]
    pub(crate) fn stop_clock(&self, now: u64) {
        let clock = self.clock.load(Ordering::Relaxed);
        if clock.cast_signed() < 0 {
            self.clock.store(clock.wrapping_add(now), Ordering::Relaxed);
        }
    }

    /// Counter ticks for which it has had its core until `now`.
    #[must_use]
    pub(crate) fn ran(&self, now: u64) -> u64 {
        let clock = self.clock.load(Ordering::Relaxed);
        if clock.cast_signed() < 0 {
            // Another core's clock may have been started a moment after `now` was read.
            let ran = clock.wrapping_add(now);
            return if ran.cast_signed() < 0 { 0 } else { ran };
        }
        clock
    }

    /// Whether it is on.
    #[must_use]
    pub fn power(&self) -> Power {
        match self.power.load(Ordering::Acquire) {
            OFF => Power::Off,
            ON => Power::On,
            _ => Power::Pending,
        }
    }

    /// Asks for the vCPU to be turned on. Of several that ask at once exactly one succeeds.
    ///
    /// # Errors
    /// Its state, if it is not off.
    pub(crate) fn request(&self, entry: u64, context: u64) -> Result<(), Power> {
        // Acquire: what `turn_off` released happened before; the vCPU is off its core.
        let claim = self
            .power
            .compare_exchange(OFF, CLAIMED, Ordering::AcqRel, Ordering::Acquire);
        match claim {
            Ok(_) => {
                self.entry.store(entry, Ordering::Relaxed);
                self.context.store(context, Ordering::Relaxed);
                self.power.store(REQUESTED, Ordering::Release);
                Ok(())
            }
            Err(ON) => Err(Power::On),
            Err(_) => Err(Power::Pending),
        }
    }

    /// Entry and context, if the vCPU has been asked to turn on. It is on from then. Only its own core
    /// calls this.
    pub(crate) fn take_request(&self) -> Option<(u64, u64)> {
        if self.power.load(Ordering::Acquire) != REQUESTED {
            return None;
        }
        let request = (
            self.entry.load(Ordering::Relaxed),
            self.context.load(Ordering::Relaxed),
        );
        self.power.store(ON, Ordering::Release);
        Some(request)
    }

    /// Turns it off, for its own core, after it has left that.
    pub(crate) fn turn_off(&self) {
        self.power.store(OFF, Ordering::Release);
    }

    /// The core it is pinned to.
    #[must_use]
    #[inline]
    pub fn core(&self) -> Option<CpuIndex> {
        let number = usize::from(self.core.load(Ordering::Relaxed) ^ NOT_PINNED);
        CpuIndex::new(number, MAX_CPUS)
    }

    /// Pins it. Its VM has not started.
    pub(crate) fn pin(&self, core: CpuIndex) {
        let number = u8::try_from(core.get()).unwrap_or(NOT_PINNED);
        self.core.store(number ^ NOT_PINNED, Ordering::Relaxed);
    }

    /// Counts one event. Only the core that runs the vCPU counts, so no read-modify-write is needed.
    #[inline]
    pub(crate) fn count(&self, counter: Counter) {
        if let Some(cell) = self.counters.get(counter as usize) {
            cell.store(
                cell.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Relaxed,
            );
        }
    }

    /// Writes that HCR_EL2.TVM has trapped.
    pub(crate) fn root_traps(&self) -> u64 {
        let [.., traps] = &self.counters;
        traps.load(Ordering::Relaxed)
    }

    /// Reads counter `index`.
    #[must_use]
    pub fn counter(&self, index: usize) -> Option<u64> {
        self.counters
            .get(index)
            .map(|cell| cell.load(Ordering::Relaxed))
    }
}

impl Default for VcpuShared {
    fn default() -> Self {
        Self::new()
    }
}
