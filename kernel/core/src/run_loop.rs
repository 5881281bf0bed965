//! What each core does for ever: choose a vCPU, run it, answer its exit.
//!
//! vCPUs are pinned, so the loops of the cores share nothing but the flags in
//! `cores`. A core with one vCPU never switches; one with several gives each
//! [`SLICE_MS`] in turn, and the manager goes first when it has been woken, for one slice. System
//! registers move at a switch, FP and debug registers only when another vCPU uses them.
//!
//! Here: who runs, and what happens when it stops. `residency` brings vCPUs in and out of the hardware,
//! `lazy` FP and debug registers, `time` keeps deadlines.

mod lazy;
mod residency;
mod time;
mod turns;
mod windows;

use penumbra_abi::MAX_VMS;
use penumbra_vmsa::CpuIndex;
use spin::MutexGuard;

use crate::compound;
use crate::cores::{ASKED, CHANGED, CoreShared};
use crate::exit;
use crate::machine::Machine;
use crate::manager;
use crate::system::{BoardState, System};
use crate::vcpu::{Blocked, Deferred, MAX_VCPUS, Place, Vcpu, VcpuId};
use turns::Turns;
use windows::Windows;

/// How often a core looks at a vCPU that runs without exits.
const HEARTBEAT_MS: u64 = 1000;
/// How soon it looks again at one whose compound root is to be planted.
const PLANTING_MS: u64 = 1;
/// No deadline.
const NEVER: u64 = u64::MAX;

pub use turns::SLICE_MS;

/// Runs the vCPUs of this core. Every core calls it, core 0 after [`System::boot`].
pub fn run<M: Machine>(system: &'static System, machine: &mut M) -> ! {
    loop {
        if let Some(mut core) = RunLoop::new(system, machine.cpu()) {
            loop {
                core.step(machine);
            }
        }
        // A core of which the system knows nothing, or a system that was not booted.
        machine.idle();
    }
}

/// A vCPU whose state is in the hardware. Its slot stays locked as long.
struct Resident {
    id: VcpuId,
    vcpu: MutexGuard<'static, Vcpu>,
    place: &'static Place,
}

/// What a core knows of itself.
pub(crate) struct RunLoop {
    system: &'static System,
    board: &'static BoardState,
    core: &'static CoreShared,
    resident: Option<Resident>,
    /// Whose FP state is in the hardware.
    fp: Option<VcpuId>,
    /// Whose debug state is in the hardware.
    debug: Option<VcpuId>,
    /// vCPU that ran here last, for each VM.
    last: [Option<VcpuId>; MAX_VMS],
    turns: Turns,
    windows: Windows,
    /// When vCPUs that wait want to be woken, for those in `sleepers`.
    deadlines: [u64; MAX_VCPUS],
    sleepers: u64,
    /// The first of the deadlines, of `watch` and of the window's end.
    first_deadline: u64,
    /// When a guest's watchdog has to be looked at; the core of vCPU 0 does that.
    watch: u64,
    heartbeat: u64,
    /// When it is if no root is to be planted.
    slow_heartbeat: u64,
    /// When the last one was, or the one under way began.
    beat: u64,
    /// What EL2's timer is set to.
    armed: u64,
}

impl RunLoop {
    /// The loop of core `cpu`.
    pub(crate) fn new(system: &'static System, cpu: CpuIndex) -> Option<Self> {
        let board = system.board()?;
        Some(Self {
            system,
            board,
            core: system.core(cpu)?,
            resident: None,
            fp: None,
            debug: None,
            last: [None; MAX_VMS],
            turns: Turns::new(board.facts.counter_hz),
            windows: Windows::new(),
            deadlines: [NEVER; MAX_VCPUS],
            sleepers: 0,
            first_deadline: NEVER,
            watch: NEVER,
            heartbeat: NEVER,
            slow_heartbeat: NEVER,
            beat: 0,
            armed: 0,
        })
    }

    /// Once around: at most one entry into a guest, or one wait.
    pub(crate) fn step<M: Machine>(&mut self, machine: &mut M) {
        if self.core.take_attention() {
            let reasons = self.core.take_reasons();
            if reasons & ASKED != 0 {
                compound::answer(self.system, machine);
            }
            if reasons & CHANGED != 0 {
                self.release_stopped(machine);
                self.refresh_traps(machine);
                self.watch_guests(machine);
                let now = machine.counter();
                self.look_at_schedule(machine, now);
                self.set_heartbeat(machine, 0);
            }
            let manager = self.core.ready() & VcpuId::MANAGER.bit() != 0;
            if manager && self.system.events.is_waiting() {
                self.turns.put_manager_first();
            }
        }
        let now = machine.counter();
        self.expire(machine, now);
        let Some(id) = self.choose(now) else {
            self.idle(machine);
            return;
        };
        if !self.make_resident(id, machine, now) {
            return;
        }
        if self.may_enter(machine, now) {
            if self.heartbeat == NEVER {
                self.slow_heartbeat = now.saturating_add(self.ticks(HEARTBEAT_MS));
                self.heartbeat = self.slow_heartbeat;
                self.beat = now;
            }
            self.start_clock(now);
            self.arm(machine, now);
            if self.windows.opened != NEVER {
                self.note_window(machine);
            }
            self.enter(machine);
        }
    }

    /// Milliseconds in counter ticks.
    const fn ticks(&self, ms: u64) -> u64 {
        (self.board.facts.counter_hz / 1000).saturating_mul(ms)
    }

    /// The vCPU to run now.
    fn choose(&mut self, now: u64) -> Option<VcpuId> {
        let resident = self.resident.as_ref().map(|resident| resident.id);
        // Each round takes a vCPU that may not run off the list, so this ends.
        for _ in 0..MAX_VCPUS {
            let ready = self.core.ready() & self.core.pinned() & self.windows.allowed;
            let id = self.turns.next(ready, resident, now)?;
            if self.may_run(id) {
                return Some(id);
            }
        }
        None
    }

    /// Whether the VM of a ready vCPU lets it run; takes it off the list if not.
    fn may_run(&self, id: VcpuId) -> bool {
        let Some(vm) = self.system.vm(id.vm()) else {
            return false;
        };
        if vm.may_run() {
            return true;
        }
        self.core.make_unready(id);
        if vm.is_held() {
            vm.paging.note_parked(id.index());
        }
        // The VM may have been resumed just now; its vCPUs were made ready before we took it off.
        if vm.may_run() {
            self.core.make_ready(id);
        }
        false
    }

    /// Whether the resident vCPU's reason to block, if it had one, is gone.
    fn may_enter<M: Machine>(&mut self, machine: &mut M, now: u64) -> bool {
        let Some(resident) = &mut self.resident else {
            return false;
        };
        let Resident { vcpu, place, id } = resident;
        match vcpu.blocked {
            Blocked::No | Blocked::Interrupt | Blocked::Stock => vcpu.blocked = Blocked::No,
            Blocked::Events(deadline) => {
                if !manager::end_wait(self.system, vcpu, now >= deadline) {
                    self.block_resident(machine);
                    return false;
                }
            }
            Blocked::Restart(at) if now < at => {
                self.block_resident(machine);
                return false;
            }
            Blocked::Restart(_) => vcpu.blocked = Blocked::No,
        }
        if vcpu.physical_timer.expiry().is_some() {
            exit::drive_physical_timer(vcpu, place, machine, now);
        }
        let (vm, me) = (id.vm(), id.index());
        let others = place.vm.gic.flush(me, &mut vcpu.gic, machine).without(me);
        self.system.wake_set(vm, others, machine);
        true
    }

    /// The resident vCPU has the core from now on.
    fn start_clock(&self, now: u64) {
        if let Some(resident) = &self.resident {
            resident.place.shared.start_clock(now);
        }
    }

    fn enter<M: Machine>(&mut self, machine: &mut M) {
        let Some(resident) = &mut self.resident else {
            return;
        };
        resident.vcpu.deferred = Deferred::Nothing;
        // What the exit was, `exit::fast` has seen.
        let _ = machine.run(&mut resident.vcpu);
        match resident.vcpu.deferred {
            Deferred::Nothing => {}
            // By the time it may have been too early: an interrupt that EL2 has just put off can still be taken.
            Deferred::Deadline => self.armed = NEVER,
            Deferred::Fp => self.switch_fp(machine),
            Deferred::Debug => self.switch_debug(machine),
            Deferred::Block(why) => {
                resident.vcpu.blocked = why;
                if why == Blocked::Interrupt && resident.place.vm.paging.is_used() {
                    self.plant(machine, true);
                    return self.block_resident(machine);
                }
                if resident.id == VcpuId::MANAGER {
                    self.system.events.set_waiting(true);
                }
                self.block_resident(machine);
            }
            Deferred::Off => self.turn_off(machine),
        }
    }

    /// Takes the resident vCPU off the ready list, unless what it waits for has come meanwhile.
    fn block_resident<M: Machine>(&mut self, machine: &mut M) {
        let Some(resident) = &mut self.resident else {
            return;
        };
        let Resident { id, vcpu, place } = resident;
        self.core.make_unready(*id);
        let come = match vcpu.blocked {
            Blocked::No => true,
            Blocked::Interrupt => place
                .vm
                .gic
                .has_deliverable_here(id.index(), &vcpu.gic, machine),
            Blocked::Stock => place.vm.memory.lock_patiently(machine).has_stock(),
            Blocked::Events(_) => self.system.events.pending().0 != 0,
            Blocked::Restart(_) => false,
        };
        if come {
            self.core.make_ready(*id);
        }
        self.turns.blocked(*id);
    }

    /// PSCI CPU_OFF of the resident vCPU.
    fn turn_off<M: Machine>(&mut self, machine: &mut M) {
        let Some(id) = self.resident.as_ref().map(|resident| resident.id) else {
            return;
        };
        if self.fp == Some(id) {
            self.save_fp(id, machine);
        }
        if self.debug == Some(id) {
            self.save_debug(id, machine);
        }
        let now = machine.counter();
        self.evict(machine, now);
        self.publish_resident();
        self.set_deadline_of(id, NEVER);
        self.core.make_unready(id);
        if let Some(shared) = self.system.shared(id) {
            // From here on another vCPU may turn it on again.
            shared.turn_off();
        }
    }

    /// Waits for an interrupt and takes it.
    fn idle<M: Machine>(&mut self, machine: &mut M) {
        if self.core.wants_attention() {
            return;
        }
        // It stands still meanwhile. If it began anew behind each wait, there would be none on a core that idles now and then:
        // in a schedule, in each frame.
        let heartbeat = core::mem::replace(&mut self.heartbeat, NEVER);
        if let Some(resident) = &self.resident {
            // What is taken off its core gets a deadline there.
            let deadline = residency::deadline_off_core(&resident.vcpu);
            self.set_deadline_of(resident.id, deadline);
        }
        let now = machine.counter();
        if let Some(resident) = &self.resident {
            resident.place.shared.stop_clock(now);
        }
        self.arm(machine, now);
        if self.windows.opened != NEVER {
            self.note_window(machine);
        }
        machine.idle();
        let waited = machine.counter().saturating_sub(now);
        self.heartbeat = heartbeat.saturating_add(waited);
        self.slow_heartbeat = self.slow_heartbeat.saturating_add(waited);
        self.beat = self.beat.saturating_add(waited);
        let taken = match &mut self.resident {
            Some(resident) => {
                let taken = exit::interrupt(&mut resident.vcpu, resident.place, machine);
                // It may be what the vCPU waits for; if not, it blocks again.
                let here = resident.place.vm.gic.has_deliverable_here(
                    resident.id.index(),
                    &resident.vcpu.gic,
                    machine,
                );
                let waits = resident.vcpu.blocked == Blocked::Interrupt;
                if here && waits {
                    self.core.make_ready(resident.id);
                }
                // Another reason keeps it out, such as a hold of its VM, and what is pending for it ends each wait at once:
                // whoever keeps it out goes on meanwhile.
                if here && (!waits || resident.place.vm.is_held()) {
                    machine.relax();
                }
                taken
            }
            None => exit::interrupt_idle(self.system, machine),
        };
        if taken == Some(Deferred::Deadline) {
            self.armed = NEVER;
        }
    }
}
