//! The manager's calls about the roots of address spaces.

use penumbra_abi::{Error, PAGING_ROOTS, PagingRoot, paging_roots};
use penumbra_paging::WINDOW_BIT;
use penumbra_vmsa::PAGE_SIZE;

use super::paging::{GIVEN_BACK_PER_CALL, Target, alive, edit, target};
use super::{Reply, guest, one};
use crate::compound::{From, drop_low, drop_space, low_space};
use crate::machine::{Core, Machine};
use crate::memory::{FURTHER_ROOT_TABLES, ROOT_TABLES};
use crate::system::System;
use crate::vm::Vm;

/// All vCPUs of a VM, a bit each.
const EVERY_VCPU: u8 = u8::MAX;

pub(super) fn allow(
    system: &System,
    machine: &mut impl Machine,
    (number, roots): (u64, u64),
) -> Reply {
    let target = target(system, number)?;
    let Target { id, vm } = target;
    if roots & !(paging_roots::STICKY | paging_roots::TRAPPED) != 0 {
        return Err(Error::InvalidParameter);
    }
    let paging = &vm.paging;
    if roots & !paging.roots() != 0 {
        // To take a permission back needs none.
        vm.memory
            .lock_patiently(machine)
            .keep_ready(machine, ROOT_TABLES)?;
    }
    let trapped = |roots: u64| roots & paging_roots::TRAPPED != 0;
    if trapped(paging.roots()) && !trapped(roots) {
        // Trapped until none of these spaces is left: a root written unseen could meet what its
        // compound root has left in a TLB.
        let done = edit(system, &target, machine, |state, access, parked| {
            let done = drop_low(state, access, parked);
            if done {
                paging.stop_trapping();
            } else {
                paging.next_generation();
            }
            Ok(done)
        })?;
        if !done {
            return Ok(one(0));
        }
    }
    if !trapped(roots) && !give_back(vm, machine) {
        return Ok(one(0));
    }
    let begins = trapped(roots) && !trapped(paging.roots());
    paging.allow_roots(roots);
    if trapped(roots) {
        paging.change(machine, |state| {
            if begins {
                // What was seen before may be gone.
                state.seen.clear();
            }
            paging.next_generation();
        });
        paging.look_again(EVERY_VCPU);
    }
    system.note_traps(id);
    system.alert(id, machine);
    Ok(one(1))
}

pub(super) fn describe(system: &System, machine: &impl Core, (number, index): (u64, u64)) -> Reply {
    let (_, vm) = guest(system, number)?;
    let index = usize::try_from(index)
        .ok()
        .filter(|index| *index < PAGING_ROOTS)
        .ok_or(Error::InvalidParameter)?;
    let root = vm.paging.state(machine, |state| {
        state.seen.get(index).map(|seen| PagingRoot {
            space: seen.exists && low_space(state, seen.root).is_some(),
            ..seen
        })
    });
    Ok(root.unwrap_or_default().to_regs())
}

/// An IPA that could be a root with an alias.
fn root_of(root: u64) -> Result<u64, Error> {
    let page = root != 0 && root.is_multiple_of(PAGE_SIZE) && root < WINDOW_BIT;
    page.then_some(root).ok_or(Error::InvalidParameter)
}

pub(super) fn add(
    system: &System,
    machine: &mut impl Machine,
    (number, root): (u64, u64),
) -> Reply {
    let Target { id, vm } = target(system, number)?;
    let root = root_of(root)?;
    if !vm.paging.traps_roots() {
        return Err(Error::BadState);
    }
    // Other wishes may be fulfilled first.
    let wishes = vm.paging.state(machine, |state| state.seen.wishes());
    let tables = wishes.saturating_mul(FURTHER_ROOT_TABLES);
    vm.memory
        .lock_patiently(machine)
        .keep_ready(machine, tables.saturating_add(ROOT_TABLES))?;
    let exists = vm.paging.change(machine, |state| {
        if low_space(state, root).is_some() {
            return Ok(true);
        }
        if !state.seen.want(root) {
            return Err(Error::NoSlot);
        }
        // vCPUs know it as a root without a space.
        vm.paging.next_generation();
        Ok(false)
    })?;
    if !exists {
        // A vCPU may hold it, and not write it again for long.
        vm.paging.look_again(EVERY_VCPU);
        system.alert(id, machine);
    }
    Ok(one(exists.into()))
}

pub(super) fn remove(
    system: &System,
    machine: &mut impl Machine,
    (number, root): (u64, u64),
) -> Reply {
    let (id, vm) = alive(system, number)?;
    let root = root_of(root)?;
    vm.paging.change(machine, |state| state.seen.unwant(root));
    if vm
        .paging
        .state(machine, |state| low_space(state, root).is_none())
    {
        return Ok(one(give_back(vm, machine).into()));
    }
    let target = Target { id, vm };
    let gone = edit(system, &target, machine, |state, access, parked| {
        let Some((_, space)) = low_space(state, root) else {
            return Ok(true);
        };
        let gone = drop_space(state, access, &space, parked);
        vm.paging.next_generation();
        Ok(gone)
    })?;
    Ok(one((gone && give_back(vm, machine)).into()))
}

/// Gives back some of what ended spaces consisted of. Returns whether that was all.
fn give_back(vm: &Vm, machine: &impl Machine) -> bool {
    let given = vm.with_tables(machine, From::Pool, |state, access| {
        state.tables.give_back(access, GIVEN_BACK_PER_CALL)
    });
    given < GIVEN_BACK_PER_CALL
}
