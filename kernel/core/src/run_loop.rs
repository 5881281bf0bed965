//! What each core does for ever: choose a vCPU, run it, answer its exit.
//!
//! vCPUs are pinned, so the loops of the cores share nothing but the flags in
//! [`cores`](crate::cores). A core with one vCPU never switches; one with several gives each
//! [`SLICE_MS`] in turn, and the manager goes first when it has been woken, for one slice. System
//! registers move at a switch, FP and debug registers only when another vCPU uses them.

use penumbra_abi::{MAX_VMS, VmState};
use penumbra_vmsa::CpuIndex;
use spin::MutexGuard;

use crate::cores::CoreShared;
use crate::exit;
use crate::machine::Machine;
use crate::manager;
use crate::system::{BoardState, System};
use crate::vcpu::{Blocked, Counter, Deferred, MAX_VCPUS, Place, Vcpu, VcpuId, members};
use crate::{controls, timer};

/// How long a vCPU runs while others wait for the core.
pub const SLICE_MS: u64 = 5;
/// How often a core looks at a vCPU that runs without exits.
const HEARTBEAT_MS: u64 = 1000;
/// No deadline.
const NEVER: u64 = u64::MAX;

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
    /// Where the round robin goes on.
    turn: VcpuId,
    slice_end: u64,
    /// The manager was woken and has not used up its slice.
    manager_first: bool,
    /// When vCPUs that are not resident want to be woken.
    deadlines: [u64; MAX_VCPUS],
    heartbeat: u64,
    /// What EL2's timer is set to.
    armed: u64,
}

impl RunLoop {
    /// The loop of core `cpu`.
    pub(crate) fn new(system: &'static System, cpu: CpuIndex) -> Option<Self> {
        Some(Self {
            system,
            board: system.board()?,
            core: system.core(cpu)?,
            resident: None,
            fp: None,
            debug: None,
            last: [None; MAX_VMS],
            turn: VcpuId::MANAGER,
            slice_end: 0,
            manager_first: false,
            deadlines: [NEVER; MAX_VCPUS],
            heartbeat: NEVER,
            armed: 0,
        })
    }

    /// Once around: at most one entry into a guest, or one wait.
    pub(crate) fn step<M: Machine>(&mut self, machine: &mut M) {
        if self.core.take_attention() {
            self.release_stopped(machine);
            self.refresh_traps(machine);
            let woken = self.core.ready() & VcpuId::MANAGER.bit() != 0;
            self.manager_first |= woken && self.system.events.is_waiting();
        }
        let now = machine.counter();
        self.expire(machine, now);
        let Some(id) = self.choose(now) else {
            self.idle(machine);
            return;
        };
        if !self.make_resident(id, machine) {
            return;
        }
        if self.may_enter(machine, now) {
            if self.heartbeat == NEVER {
                self.heartbeat = now.saturating_add(self.ticks(HEARTBEAT_MS));
            }
            self.arm(machine);
            self.enter(machine);
        }
    }

    /// Milliseconds in counter ticks.
    const fn ticks(&self, ms: u64) -> u64 {
        (self.board.facts.counter_hz / 1000).saturating_mul(ms)
    }

    // ------------------------------------------------------------------ choosing

    /// The vCPU to run now.
    fn choose(&mut self, now: u64) -> Option<VcpuId> {
        let resident = self.resident.as_ref().map(|resident| resident.id);
        if resident == Some(VcpuId::MANAGER) && now >= self.slice_end {
            self.manager_first = false;
        }
        // Each round takes a vCPU that may not run off the list, so this ends.
        for _ in 0..MAX_VCPUS {
            let ready = self.core.ready() & self.core.pinned();
            let slice_over = now >= self.slice_end;
            let manager_waits = ready & VcpuId::MANAGER.bit() != 0;
            let id = match resident {
                _ if manager_waits && self.manager_first => VcpuId::MANAGER,
                Some(id) if ready & id.bit() != 0 && !slice_over => id,
                _ => next_after(ready, self.turn)?,
            };
            if self.may_run(id) {
                if resident != Some(id) || slice_over {
                    self.turn = id;
                    self.slice_end = now.saturating_add(self.ticks(SLICE_MS));
                }
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
        // The VM may have been resumed just now; its vCPUs were made ready before we took it off.
        if vm.may_run() {
            self.core.make_ready(id);
        }
        false
    }

    // ------------------------------------------------------------------ switching

    /// Brings a vCPU into the hardware; `false` if there is none.
    fn make_resident<M: Machine>(&mut self, id: VcpuId, machine: &mut M) -> bool {
        if self
            .resident
            .as_ref()
            .is_some_and(|resident| resident.id == id)
        {
            return true;
        }
        self.evict(machine);
        let (Some(slot), Some(place)) = (self.system.slot(id), self.system.place(id)) else {
            self.core.make_unready(id);
            return false;
        };
        let mut vcpu = slot.lock();
        if let Some((entry, context)) = place.shared.take_request() {
            vcpu.reset(entry, context);
            if id == VcpuId::MANAGER {
                manager::greet(self.system, &mut vcpu, machine.counter());
            }
        } else if place.shared.power() != crate::vcpu::Power::On {
            self.core.make_unready(id);
            if place.shared.power() != crate::vcpu::Power::Off {
                self.core.make_ready(id);
            }
            return false;
        }
        self.load(id, &mut vcpu, place, machine);
        self.resident = Some(Resident { id, vcpu, place });
        self.publish_holds();
        true
    }

    fn load<M: Machine>(
        &mut self,
        id: VcpuId,
        vcpu: &mut Vcpu,
        place: &'static Place,
        machine: &mut M,
    ) {
        self.set_deadline_of(id, NEVER);
        vcpu.id = id;
        vcpu.place = Some(place);
        vcpu.core = Some(self.core);
        vcpu.controls = controls::for_vcpu(self.system, self.board, id, machine);
        controls::trap_fp(&mut vcpu.controls, self.fp != Some(id));
        if vcpu.uses_debug && self.debug != Some(id) {
            self.take_debug(id, vcpu, machine);
        }
        controls::trap_debug(&mut vcpu.controls, self.debug != Some(id));
        machine.load_sysregs(&vcpu.sysregs, &vcpu.controls);
        if let Some(last) = self.last.get_mut(id.vm()) {
            if last.is_some_and(|last| last != id) {
                machine.flush_guest_translations();
            }
            *last = Some(id);
        }
        let others = place.vm.gic.load(id.index(), &mut vcpu.gic, machine);
        self.system
            .wake_set(id.vm(), others.without(id.index()), machine);
        vcpu.count(Counter::Switches);
    }

    /// Takes the resident vCPU out of the hardware, FP and debug registers apart.
    fn evict<M: Machine>(&mut self, machine: &mut M) {
        let Some(mut resident) = self.resident.take() else {
            return;
        };
        let Resident { id, vcpu, place } = &mut resident;
        let set = place.vm.gic.save(id.index(), &mut vcpu.gic, machine);
        machine.save_sysregs(&mut vcpu.sysregs);
        let sysregs = &vcpu.sysregs;
        let virtual_timer = timer::expiry(sysregs.cntv_ctl_el0, sysregs.cntv_cval_el0);
        let physical_timer = vcpu.physical_timer.expiry();
        let wait = match vcpu.blocked {
            Blocked::Events(deadline) | Blocked::Restart(deadline) => Some(deadline),
            _ => None,
        };
        let id = *id;
        let soonest = [virtual_timer, physical_timer, wait]
            .into_iter()
            .flatten()
            .min();
        self.set_deadline_of(id, soonest.unwrap_or(NEVER));
        drop(resident);
        self.system
            .wake_set(id.vm(), set.without(id.index()), machine);
        self.publish_holds();
    }

    /// Gives up the state of vCPUs whose VM does not run (any more), so that others may have it.
    fn release_stopped<M: Machine>(&mut self, machine: &mut M) {
        let system = self.system;
        let stopped = |id: VcpuId| !system.vm(id.vm()).is_some_and(crate::vm::Vm::may_run);
        if let Some(id) = self.fp.filter(|id| stopped(*id)) {
            self.save_fp(id, machine);
        }
        if let Some(id) = self.debug.filter(|id| stopped(*id)) {
            self.save_debug(id, machine);
        }
        let resident = self.resident.as_ref().map(|resident| resident.id);
        if resident.is_some_and(stopped) {
            self.evict(machine);
        }
        for (last, (_, vm)) in self.last.iter_mut().zip(system.vms()) {
            if !vm.exists() || vm.life().state == VmState::Dying {
                *last = None;
            }
        }
        self.publish_holds();
        manager::revive(self.system, machine);
    }

    /// Who shares the core may have changed, and with it what is trapped.
    fn refresh_traps<M: Machine>(&mut self, machine: &mut M) {
        if let Some(resident) = &mut self.resident {
            let hcr = controls::hcr(self.system, self.board, resident.id);
            if resident.vcpu.controls.hcr_el2 != hcr {
                resident.vcpu.controls.hcr_el2 = hcr;
                machine.set_controls(&resident.vcpu.controls);
            }
        }
    }

    fn publish_holds(&self) {
        let resident = self.resident.as_ref().map(|resident| resident.id);
        let set = [resident, self.fp, self.debug].into_iter().flatten();
        self.core.set_holds(set.fold(0, |set, id| set | id.bit()));
    }

    // ------------------------------------------------------------------ FP and debug registers

    /// Saves the FP state in the hardware, which is that of `id`.
    fn save_fp<M: Machine>(&mut self, id: VcpuId, machine: &mut M) {
        match &mut self.resident {
            Some(resident) if resident.id == id => {
                machine.save_fp(&mut resident.vcpu.fp);
                controls::trap_fp(&mut resident.vcpu.controls, true);
                machine.set_controls(&resident.vcpu.controls);
            }
            _ => {
                if let Some(slot) = self.system.slot(id) {
                    machine.save_fp(&mut slot.lock().fp);
                }
            }
        }
        self.fp = None;
    }

    /// The resident vCPU uses FP registers that are not its own.
    fn switch_fp<M: Machine>(&mut self, machine: &mut M) {
        if let Some(old) = self.fp {
            self.save_fp(old, machine);
        }
        if let Some(resident) = &mut self.resident {
            machine.load_fp(&resident.vcpu.fp);
            controls::trap_fp(&mut resident.vcpu.controls, false);
            machine.set_controls(&resident.vcpu.controls);
            self.fp = Some(resident.id);
        }
        self.publish_holds();
    }

    /// Saves the debug state in the hardware, which is that of `id`.
    fn save_debug<M: Machine>(&mut self, id: VcpuId, machine: &mut M) {
        match &mut self.resident {
            Some(resident) if resident.id == id => {
                machine.save_debug(&mut resident.vcpu.debug);
                controls::trap_debug(&mut resident.vcpu.controls, true);
                machine.set_controls(&resident.vcpu.controls);
            }
            _ => {
                if let Some(slot) = self.system.slot(id) {
                    machine.save_debug(&mut slot.lock().debug);
                }
            }
        }
        self.debug = None;
    }

    /// Gives the debug registers to `vcpu`, whose slot is locked.
    fn take_debug<M: Machine>(&mut self, id: VcpuId, vcpu: &mut Vcpu, machine: &mut M) {
        if let Some(old) = self.debug.filter(|old| *old != id) {
            self.save_debug(old, machine);
        }
        machine.load_debug(&vcpu.debug);
        vcpu.uses_debug = true;
        self.debug = Some(id);
    }

    /// The resident vCPU uses debug registers that are not its own.
    fn switch_debug<M: Machine>(&mut self, machine: &mut M) {
        let Some(mut resident) = self.resident.take() else {
            return;
        };
        self.take_debug(resident.id, &mut resident.vcpu, machine);
        controls::trap_debug(&mut resident.vcpu.controls, false);
        machine.set_controls(&resident.vcpu.controls);
        self.resident = Some(resident);
        self.publish_holds();
    }

    // ------------------------------------------------------------------ running

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
        let others = place.vm.gic.flush(id.index(), &mut vcpu.gic, machine);
        let (vm, me) = (id.vm(), id.index());
        self.system.wake_set(vm, others.without(me), machine);
        true
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
            Deferred::Fp => self.switch_fp(machine),
            Deferred::Debug => self.switch_debug(machine),
            Deferred::Block(why) => {
                resident.vcpu.blocked = why;
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
            Blocked::Stock => place.vm.memory.lock().has_stock(),
            Blocked::Events(_) => self.system.events.pending().0 != 0,
            Blocked::Restart(_) => false,
        };
        if come {
            self.core.make_ready(*id);
        }
        let wait = match vcpu.blocked {
            Blocked::Events(deadline) | Blocked::Restart(deadline) => deadline,
            _ => NEVER,
        };
        let deadline = wait.min(vcpu.physical_timer.expiry().unwrap_or(NEVER));
        let id = *id;
        self.manager_first &= id != VcpuId::MANAGER;
        self.set_deadline_of(id, deadline);
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
        self.evict(machine);
        self.set_deadline_of(id, NEVER);
        self.core.make_unready(id);
        if let Some(shared) = self.system.shared(id) {
            // From here on another vCPU may turn it on again.
            shared.turn_off();
        }
    }

    // ------------------------------------------------------------------ time

    fn set_deadline_of(&mut self, id: VcpuId, deadline: u64) {
        if let Some(slot) = self.deadlines.get_mut(id.number()) {
            *slot = deadline;
        }
    }

    /// Acts on deadlines that have passed.
    fn expire<M: Machine>(&mut self, machine: &mut M, now: u64) {
        for id in members(self.core.pinned()) {
            let Some(deadline) = self.deadlines.get_mut(id.number()) else {
                continue;
            };
            if now < *deadline {
                continue;
            }
            *deadline = NEVER;
            if self.core.make_ready(id) && id == VcpuId::MANAGER {
                self.manager_first = true;
            }
        }
        if now >= self.heartbeat {
            self.heartbeat = now.saturating_add(self.ticks(HEARTBEAT_MS));
            self.beat(machine);
        }
        if now >= self.armed {
            self.armed = NEVER;
        }
    }

    /// A look at the resident vCPU now and then: what makes no exits has no other moment.
    fn beat<M: Machine>(&mut self, machine: &mut M) {
        let Some(resident) = &mut self.resident else {
            return;
        };
        exit::check_stall(self.system, resident.id.vm(), machine);
        exit::check_vector_loop(&mut resident.vcpu, resident.place, machine);
    }

    /// Sets EL2's timer for what comes first.
    fn arm<M: Machine>(&mut self, machine: &mut M) {
        let ready = self.core.ready() & self.core.pinned();
        let resident = self.resident.as_ref();
        let others = resident.map_or(ready, |resident| ready & !resident.id.bit());
        let mut soonest = self.heartbeat;
        if others != 0 {
            soonest = soonest.min(self.slice_end);
        }
        for id in members(self.core.pinned()) {
            soonest = soonest.min(self.deadlines.get(id.number()).copied().unwrap_or(NEVER));
        }
        if let Some(resident) = resident {
            let expiry = resident.vcpu.physical_timer.expiry().unwrap_or(NEVER);
            // An expired timer has its line up already and needs no deadline.
            if expiry > machine.counter() {
                soonest = soonest.min(expiry);
            }
        }
        if soonest != self.armed {
            self.armed = soonest;
            machine.set_deadline((soonest != NEVER).then_some(soonest));
        }
    }

    /// Waits for an interrupt and takes it.
    fn idle<M: Machine>(&mut self, machine: &mut M) {
        if self.core.wants_attention() {
            return;
        }
        self.heartbeat = NEVER;
        self.arm(machine);
        machine.idle();
        match &mut self.resident {
            Some(resident) => {
                exit::interrupt(&mut resident.vcpu, resident.place, machine);
                // It may be what the vCPU waits for; if not, it blocks again.
                let here = resident.place.vm.gic.has_deliverable_here(
                    resident.id.index(),
                    &resident.vcpu.gic,
                    machine,
                );
                if here && resident.vcpu.blocked == Blocked::Interrupt {
                    self.core.make_ready(resident.id);
                }
            }
            None => exit::interrupt_idle(self.system, machine),
        }
    }
}

/// The member of `set` that follows `last` in a circle.
fn next_after(set: u64, last: VcpuId) -> Option<VcpuId> {
    let above = set & (u64::MAX << 1).wrapping_shl(u32::try_from(last.number()).ok()?);
    members(if above != 0 { above } else { set }).next()
}
