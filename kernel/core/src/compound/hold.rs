//! Holding a VM: for as long as one edit takes, none of its other vCPUs executes.
//!
//! 1. Of several that want to hold a VM, one sets the bit in its [life](crate::vm::Vm::try_hold). A vCPU
//!    that comes second parks in its run loop and repeats its access; the manager waits for its turn.
//! 2. The holder asks every other core that has a vCPU of the VM to go through its run loop, and waits
//!    for their answers. A core answers only where no guest is entered without a look at the life of
//!    its VM: at the top of its run loop, or while it waits for answers itself.
//! 3. After the edit the bit is cleared, and vCPUs that were kept out are woken.
//!
//! Nothing ends in a circle: the holder has no lock but its own vCPU's slot while it waits, waiters
//! answer others, and what a core does between two looks is bounded. Cores that answer serve other
//! VMs meanwhile. If an answer does not come (a core that died), the hold is given up.

use penumbra_abi::{MAX_CPUS, MAX_VCPUS_PER_VM, PagingCounter};
use penumbra_paging::Parked;
use penumbra_vmsa::{CpuIndex, VmId};

use crate::machine::Machine;
use crate::system::System;
use crate::vcpu::VcpuId;
use crate::vm::Vm;

/// How long answers are waited for.
const PATIENCE_MS: u64 = 2000;

/// Who wants to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A vCPU of the VM: if another holds it, this one has to park.
    Sibling,
    /// The manager: it waits.
    Manager,
}

/// Does `edit` while no vCPU of the VM runs but the caller's. `None` if another holds it or a core does
/// not answer; then nothing was done.
pub(crate) fn held<M: Machine, R>(
    system: &System,
    id: VmId,
    holder: Holder,
    machine: &mut M,
    edit: impl FnOnce(&mut M, &Parked) -> R,
) -> Option<R> {
    let hold = Hold::begin(system, id, holder, machine)?;
    let done = hold
        .is_complete
        .then(|| edit(machine, &Parked::all_others()));
    hold.end(system, machine);
    done
}

/// A VM that one core holds.
struct Hold<'s> {
    vm: &'s Vm,
    id: VmId,
    began: u64,
    /// Whether all other cores have answered in time.
    is_complete: bool,
}

// Apart from `held`, which is made anew for each edit.
impl<'s> Hold<'s> {
    /// Waits until the VM is this core's to hold, and for the other cores; `None` if others hold it.
    fn begin<M: Machine>(
        system: &'s System,
        id: VmId,
        holder: Holder,
        machine: &mut M,
    ) -> Option<Self> {
        let vm = system.vm(id.get())?;
        let began = machine.counter();
        let hz = system.board().map_or(0, |board| board.facts.counter_hz);
        let patience = (hz / 1000).saturating_mul(PATIENCE_MS);
        let deadline = began.saturating_add(patience);
        while !vm.try_hold() {
            if holder == Holder::Sibling || machine.counter() > deadline {
                vm.paging.count(PagingCounter::HoldsLost, 1);
                return None;
            }
            answer(system, machine);
            machine.relax();
        }
        Some(Self {
            vm,
            id,
            began,
            is_complete: all_answer(system, id, machine, deadline),
        })
    }

    /// Lets the VM go on.
    fn end<M: Machine>(self, system: &System, machine: &mut M) {
        let Self { vm, id, began, .. } = self;
        vm.release_hold();
        let parked = vm.paging.take_parked();
        for index in 0..MAX_VCPUS_PER_VM {
            let waits = parked & 1 << index != 0;
            if let Some(vcpu) = VcpuId::new(id, index).filter(|_| waits) {
                system.wake(vcpu, machine);
            }
        }
        vm.paging.count(PagingCounter::Holds, 1);
        let ticks = machine.counter().saturating_sub(began);
        vm.paging.count(PagingCounter::HoldTicks, ticks);
    }
}

/// Asks the other cores of a VM and waits for their answers.
fn all_answer<M: Machine>(system: &System, id: VmId, machine: &mut M, deadline: u64) -> bool {
    let Some(first) = VcpuId::new(id, 0) else {
        return false;
    };
    let siblings = first.bit().wrapping_mul(0xff);
    let own = machine.cpu();
    let mut tickets = [None; MAX_CPUS];
    for (number, ticket) in tickets.iter_mut().enumerate() {
        let other = CpuIndex::new(number, MAX_CPUS).filter(|cpu| *cpu != own);
        if let Some((cpu, core)) = other.and_then(|cpu| Some((cpu, system.core(cpu)?)))
            && core.pinned() & siblings != 0
        {
            *ticket = Some((core, core.ask()));
            machine.kick(cpu);
        }
    }
    for (core, ticket) in tickets.into_iter().flatten() {
        while !core.has_answered(ticket) {
            if machine.counter() > deadline {
                return false;
            }
            answer(system, machine);
            machine.relax();
        }
    }
    true
}

/// Answers whoever wants to hold a VM: this core is in EL2, and looks at the life of a VM before it
/// enters one of its vCPUs again.
pub(crate) fn answer<M: Machine>(system: &System, machine: &M) {
    if let Some(core) = system.core(machine.cpu()) {
        // Accesses and walks of the guest that was left are over (rule 13).
        machine.complete_accesses();
        core.answer();
    }
}
