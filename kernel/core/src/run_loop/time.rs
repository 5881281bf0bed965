//! Deadlines: slices, sleepers, emulated timers and the heartbeat, all on EL2's one timer.

use super::{HEARTBEAT_MS, NEVER, PLANTING_MS, RunLoop};
use crate::compound::{self, Planting};
use crate::controls;
use crate::exit;
use crate::machine::Machine;
use crate::manager;
use crate::vcpu::{VcpuId, members};

impl RunLoop {
    #[inline]
    pub(super) fn set_deadline_of(&mut self, id: VcpuId, deadline: u64) {
        if deadline != NEVER || self.sleepers & id.bit() != 0 {
            self.change_deadline_of(id, deadline);
        }
    }

    #[inline(never)]
    fn change_deadline_of(&mut self, id: VcpuId, deadline: u64) {
        let Some(slot) = self.deadlines.get_mut(id.number()) else {
            return;
        };
        let old = core::mem::replace(slot, deadline);
        if deadline == NEVER {
            self.sleepers &= !id.bit();
        } else {
            self.sleepers |= id.bit();
        }
        if old == self.first_deadline || deadline < self.first_deadline {
            self.find_first_deadline();
        }
    }

    pub(super) fn find_first_deadline(&mut self) {
        let all = members(self.sleepers);
        let all = all.filter_map(|id| self.deadlines.get(id.number()).copied());
        self.first_deadline = all.fold(self.watch.min(self.windows.end), u64::min);
    }

    /// Looks at the watchdogs of the guests whose vCPU 0 is pinned here.
    pub(super) fn watch_guests<M: Machine>(&mut self, machine: &mut M) {
        let pinned = self.core.pinned();
        let mut soonest = NEVER;
        for (number, vm) in self.system.vms() {
            let here = VcpuId::new(number, 0).is_some_and(|first| pinned & first.bit() != 0);
            if here && vm.devices.has_watchdog() {
                let next = exit::check_watchdog(self.system, number.get(), machine);
                soonest = soonest.min(next);
            }
        }
        self.watch = soonest;
        self.find_first_deadline();
    }

    /// Acts on deadlines that have passed.
    pub(super) fn expire<M: Machine>(&mut self, machine: &mut M, now: u64) {
        if now >= self.first_deadline {
            for id in members(self.sleepers) {
                let deadline = self.deadlines.get(id.number()).copied().unwrap_or(NEVER);
                if now >= deadline {
                    self.set_deadline_of(id, NEVER);
                    if self.core.make_ready(id) && id == VcpuId::MANAGER {
                        self.turns.put_manager_first();
                    }
                }
            }
            if now >= self.watch {
                self.watch_guests(machine);
            }
            if now >= self.windows.end {
                self.look_at_schedule(machine, now);
                // Within a window that is shorter than the usual time, too.
                let half = self.windows.end.saturating_sub(now) / 2;
                let soon = half.min(self.ticks(PLANTING_MS));
                self.set_heartbeat(machine, now.saturating_add(soon));
            }
        }
        if now >= self.heartbeat {
            if now >= self.slow_heartbeat || self.slow_heartbeat == NEVER {
                self.slow_heartbeat = now.saturating_add(self.ticks(HEARTBEAT_MS));
            }
            self.beat(machine, now);
            self.plant(machine, false);
            self.set_heartbeat(machine, now.saturating_add(self.ticks(PLANTING_MS)));
        }
        if now >= self.armed {
            self.armed = NEVER;
        }
    }

    /// Has the next heartbeat `soon` if a root is to be planted. Only whoever may run now counts: in the window of
    /// another guest nothing can be planted, and that guest would be interrupted.
    // A function of its own: inlined, it makes what is inlined with it longer, for which a switch between vCPUs waits.
    #[inline(never)]
    pub(super) fn set_heartbeat<M: Machine>(&mut self, machine: &M, soon: u64) {
        self.heartbeat = self.slow_heartbeat;
        if self.wants_planting(machine) {
            self.heartbeat = self.heartbeat.min(soon);
        }
    }

    /// A look at the resident vCPU now and then: what makes no exits has no other moment.
    pub(super) fn beat<M: Machine>(&mut self, machine: &mut M, now: u64) {
        if self.core.pinned() & VcpuId::MANAGER.bit() != 0 {
            manager::check_life(self.system, machine, now);
        }
        let since = now.saturating_sub(core::mem::replace(&mut self.beat, now));
        let since = since.min(self.ticks(HEARTBEAT_MS));
        let Some(resident) = &mut self.resident else {
            return;
        };
        compound::note_user_time(resident.place, machine, since);
        exit::check_stall(self.system, resident.id.vm(), machine);
        exit::check_vector_loop(&mut resident.vcpu, resident.place, machine);
    }

    /// Puts the compound roots of the resident vCPU in place, if its VM wants any and the exit was taken
    /// from EL0, or by a WFI if `waits`.
    pub(super) fn plant<M: Machine>(&mut self, machine: &mut M, waits: bool) {
        if let Some(resident) = &mut self.resident {
            let vm = resident.place.vm;
            let planting = compound::plant(&resident.vcpu, resident.place, machine, waits);
            let looked = compound::look_at_held(&mut resident.vcpu, resident.place, machine, waits);
            let again = [planting, looked].contains(&Planting::TryAgain);
            if vm.paging.is_used() {
                compound::report(&mut resident.vcpu, resident.place, machine);
                let controls = &mut resident.vcpu.controls;
                let board = (self.system, self.board);
                // A guest that only waits is never seen at EL0.
                if controls::refresh(controls, board, resident.id, again) {
                    machine.set_controls(controls);
                }
            }
        }
    }

    /// Whether a compound root is to be planted in one of the vCPUs that may have the core now.
    #[inline]
    pub(super) fn wants_planting<M: Machine>(&self, machine: &M) -> bool {
        let now = machine.counter();
        members(self.core.ready() & self.core.pinned() & self.windows.allowed).any(|id| {
            let vm = self.system.vm(id.vm());
            vm.is_some_and(|vm| compound::wants(&vm.paging, id.index(), now))
        })
    }

    /// Sets EL2's timer for what comes first, after all that was due at `now` has been done.
    pub(super) fn arm<M: Machine>(&mut self, machine: &mut M, now: u64) {
        let ready = self.core.ready() & self.core.pinned() & self.windows.allowed;
        let running = self.resident.as_ref().map(|resident| resident.id);
        // A vCPU that wakes up before the running one may be interrupted would only wait. The manager
        // does not.
        let [manager, ..] = self.deadlines;
        let wake_up = self
            .first_deadline
            .max(self.turns.interruptible(ready, running));
        // Nobody's turn lasts beyond its window, however late in that it began.
        let mut soonest = self
            .heartbeat
            .min(wake_up.min(manager).min(self.windows.end));
        soonest = soonest.min(self.turns.deadline(ready, running));
        if let Some(resident) = &self.resident {
            let expiry = resident.vcpu.physical_timer.expiry().unwrap_or(NEVER);
            // What expired before has its line up already and needs no deadline.
            if expiry > now {
                soonest = soonest.min(expiry);
            }
        }
        if soonest != self.armed {
            self.armed = soonest;
            machine.set_deadline((soonest != NEVER).then_some(soonest));
        }
    }
}
