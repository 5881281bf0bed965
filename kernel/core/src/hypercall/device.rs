//! Devices, their interrupts, and RAM at an address that matters.

use penumbra_abi::{Error, MANAGER_WINDOW_BYTES, MANAGER_WINDOW_IPA, MAX_DEVICE_BYTES};
use penumbra_vmsa::{PAGE_SIZE, Pa};

use super::build::{is_placeable, is_taken, unborn};
use super::{NOTHING, Reply};
use crate::frames::{FRAME_BYTES, Owner, RAM_END};
use crate::machine::Machine;
use crate::memory::largest_block;
use crate::passthrough::Loan;
use crate::system::System;
use crate::vgic::SpiError;

/// Takes free RAM at an address out of the pool. All or nothing.
pub(super) fn set_aside(
    system: &System,
    machine: &mut impl Machine,
    (base, bytes): (u64, u64),
) -> Reply {
    let end = base.checked_add(bytes).ok_or(Error::InvalidParameter)?;
    if bytes == 0 || end > RAM_END || !(base | bytes).is_multiple_of(FRAME_BYTES) {
        return Err(Error::InvalidParameter);
    }
    if system
        .frames
        .is_owned(Pa::truncated(base), bytes, Owner::Aside)
    {
        return Ok(NOTHING);
    }
    let mut at = base;
    while at < end {
        let Some(taken) = take_aside(system, machine, at, end) else {
            give_back(system, machine, base, at);
            return Err(Error::NoMemory);
        };
        at = at.saturating_add(taken);
    }
    Ok(NOTHING)
}

/// Takes the largest free block at `at`; its size.
fn take_aside(system: &System, machine: &impl Machine, at: u64, end: u64) -> Option<u64> {
    let base = Pa::truncated(at);
    let mut size = largest_block(at, end.saturating_sub(at));
    while !machine.allocate_at(base, size) {
        size /= 2;
        if size < FRAME_BYTES {
            return None;
        }
    }
    let moved = system
        .frames
        .move_owner(base, size, Owner::Hypervisor, Owner::Aside);
    if moved.is_err() {
        machine.free(base, size);
        return None;
    }
    Some(size)
}

fn give_back(system: &System, machine: &impl Machine, from: u64, end: u64) {
    let mut at = from;
    while at < end {
        let size = largest_block(at, end.saturating_sub(at));
        let base = Pa::truncated(at);
        let moved = system
            .frames
            .move_owner(base, size, Owner::Aside, Owner::Hypervisor);
        if moved.is_ok() {
            machine.free(base, size);
        }
        at = at.saturating_add(size);
    }
}

pub(super) fn map(
    system: &System,
    machine: &mut impl Machine,
    (number, base, bytes): (u64, u64, u64),
) -> Reply {
    let (id, vm) = unborn(system, number)?;
    let board = system.board().ok_or(Error::BadState)?;
    let whole = bytes != 0 && bytes <= MAX_DEVICE_BYTES && bytes.is_multiple_of(PAGE_SIZE);
    if !whole || !is_placeable(base, bytes, PAGE_SIZE) {
        return Err(Error::InvalidParameter);
    }
    let mut kept = board.facts.kept.iter();
    if kept.any(|range| range.shares_page(base, bytes)) {
        return Err(Error::NotRequired);
    }
    if is_taken(system, (id, vm), (base, bytes), None) {
        return Err(Error::AlreadyMapped);
    }
    system.passthrough.claim(id, base, bytes)?;
    let mapped = vm
        .memory
        .lock()
        .map_device(machine, Pa::truncated(base), bytes);
    if mapped.is_err() {
        system.passthrough.disclaim(id, base, bytes);
    }
    mapped.map(|()| NOTHING)
}

pub(super) fn assign_spi(
    system: &System,
    (number, intid, physical, edge): (u64, u64, u64, u64),
) -> Reply {
    let (id, vm) = unborn(system, number)?;
    let board = system.board().ok_or(Error::BadState)?;
    let intid = u32::try_from(intid).map_err(|_| Error::InvalidParameter)?;
    let physical = u32::try_from(physical).map_err(|_| Error::InvalidParameter)?;
    if edge > 1 || vm.devices.has_intid(intid, None) {
        return Err(Error::InvalidParameter);
    }
    if physical == board.facts.console_intid {
        return Err(Error::NotRequired);
    }
    system
        .passthrough
        .claim_spi((id, intid), physical, edge == 1)?;
    let linked = vm.gic.assign_spi(intid, physical);
    linked.map(|()| NOTHING).map_err(|error| {
        system.passthrough.disclaim_spi(physical);
        match error {
            SpiError::NotAnSpi | SpiError::NotPhysical => Error::InvalidParameter,
            SpiError::Taken => Error::AlreadyMapped,
        }
    })
}

/// Lends a page of a device to the manager, or ends the loan.
pub(super) fn lend(
    system: &System,
    machine: &mut impl Machine,
    (number, page, window): (u64, u64, u64),
) -> Reply {
    let (id, _) = unborn(system, number)?;
    if (page, window) == (0, 0) {
        if !system.passthrough.is_lent(id) {
            return Err(Error::NotMapped);
        }
        return end_loan(system, machine).map(|()| NOTHING);
    }
    let inside = window
        .checked_sub(MANAGER_WINDOW_IPA)
        .is_some_and(|offset| offset < MANAGER_WINDOW_BYTES);
    if !inside || !(page | window).is_multiple_of(PAGE_SIZE) {
        return Err(Error::InvalidParameter);
    }
    if !system.passthrough.owns(id, page, PAGE_SIZE) {
        return Err(Error::NotMapped);
    }
    if system.passthrough.loan().is_some() {
        return Err(Error::BadState);
    }
    let manager = system.vm(0).ok_or(Error::BadState)?;
    manager.memory.lock().show_device(machine, page, window)?;
    let loan = Loan {
        vm: id,
        page,
        window,
    };
    system.passthrough.set_loan(Some(loan));
    Ok(NOTHING)
}

/// Takes the page back that the manager is lent.
pub(super) fn end_loan(system: &System, machine: &mut impl Machine) -> Result<(), Error> {
    let (Some(loan), Some(manager)) = (system.passthrough.loan(), system.vm(0)) else {
        return Ok(());
    };
    manager.memory.lock().hide_device(machine, loan.window)?;
    system.passthrough.set_loan(None);
    Ok(())
}
