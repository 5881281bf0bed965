//! Deadlines: slices, sleepers, emulated timers and the heartbeat, all on EL2's one timer.

use super::{HEARTBEAT_MS, NEVER, RunLoop};
use crate::exit;
use crate::machine::Machine;
use crate::vcpu::{VcpuId, members};

impl RunLoop {
    pub(super) fn set_deadline_of(&mut self, id: VcpuId, deadline: u64) {
        if let Some(slot) = self.deadlines.get_mut(id.number()) {
            *slot = deadline;
        }
    }

    /// Acts on deadlines that have passed.
    pub(super) fn expire<M: Machine>(&mut self, machine: &mut M, now: u64) {
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
    pub(super) fn beat<M: Machine>(&mut self, machine: &mut M) {
        let Some(resident) = &mut self.resident else {
            return;
        };
        exit::check_stall(self.system, resident.id.vm(), machine);
        exit::check_vector_loop(&mut resident.vcpu, resident.place, machine);
    }

    /// Sets EL2's timer for what comes first.
    pub(super) fn arm<M: Machine>(&mut self, machine: &mut M) {
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
}
