//! The windows of a core that has a schedule.

use penumbra_abi::MANAGER_VM;

use super::{NEVER, RunLoop};
use crate::machine::Machine;
use crate::system::System;
use crate::vcpu::VcpuId;

/// What the run loop knows of its core's schedule. Without one everybody may run for ever.
#[derive(Debug)]
pub(super) struct Windows {
    /// The vCPUs that may run now.
    pub(super) allowed: u64,
    /// When that changes.
    pub(super) end: u64,
    /// When the window that has just begun should have; `NEVER`: it is noted already.
    pub(super) opened: u64,
}

impl Windows {
    pub(super) const fn new() -> Self {
        Self {
            allowed: u64::MAX,
            end: NEVER,
            opened: NEVER,
        }
    }
}

impl RunLoop {
    /// Lets those run whose window it is.
    pub(super) fn look_at_schedule<M: Machine>(&mut self, machine: &M, now: u64) {
        let Some(schedule) = self.system.schedule(machine.cpu()) else {
            return;
        };
        let hz = self.board.facts.counter_hz;
        let turn = schedule.lock_inline().at(now, hz);
        match turn {
            None => self.windows = Windows::new(),
            Some(turn) => {
                self.windows.end = turn.end;
                self.windows.allowed = turn.owner.map_or(0, |owner| vcpus_of(self.system, owner));
                if turn.is_new {
                    self.windows.opened = turn.start;
                }
            }
        }
        self.find_first_deadline();
    }

    /// The window has begun: whoever has it is about to run, or nobody wants to.
    #[cold]
    pub(super) fn note_window<M: Machine>(&mut self, machine: &M) {
        let late = machine.counter().saturating_sub(self.windows.opened);
        self.windows.opened = NEVER;
        if let Some(schedule) = self.system.schedule(machine.cpu()) {
            schedule.lock().note(late);
        }
    }
}

/// The vCPUs of a VM by its tag, whichever core they are pinned to.
fn vcpus_of(system: &System, owner: u64) -> u64 {
    if owner == MANAGER_VM {
        return VcpuId::MANAGER.bit();
    }
    let named = system
        .vms()
        .skip(1)
        .filter(|(_, vm)| vm.exists() && vm.tag() == owner);
    let firsts = named.filter_map(|(id, _)| VcpuId::new(id, 0));
    firsts.fold(0, |set, first| set | first.bit().wrapping_mul(0xff))
}
