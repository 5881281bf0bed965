//! Creating, furnishing, starting and destroying VMs.

use penumbra_abi::{Backing, Error, GicVersion, MAX_VCPUS_PER_VM, VmState};
use penumbra_paging::ROOT_BYTES;
use penumbra_vmsa::{CpuIndex, Ipa, PAGE_SIZE, VmId};

use super::{NOTHING, Reply, device, guest, one};
use crate::events::Source;
use crate::machine::Machine;
use crate::memory::{self, GUEST_END, Memory, RamRequest};
use crate::system::System;
use crate::vcpu::{Vcpu, VcpuId, VcpuShared};
use crate::vgic::{FIRST_SPI, SPI_COUNT};
use crate::vm::{DISTRIBUTOR_BYTES, Device, GICC_BYTES, REDISTRIBUTOR_BYTES, UART_BYTES, Vm};
use crate::watchdog::{REFRESH_OFFSET, WATCHDOG_BYTES};

pub(super) fn create(
    system: &System,
    machine: &mut impl Machine,
    (vcpus, version, tag): (u64, u64, u64),
) -> Reply {
    let board = system.board().ok_or(Error::BadState)?;
    let vcpus = usize::try_from(vcpus).map_err(|_| Error::InvalidParameter)?;
    if vcpus == 0 || vcpus > MAX_VCPUS_PER_VM {
        return Err(Error::InvalidParameter);
    }
    if GicVersion::from_bits(version) != Some(board.facts.gic) {
        return Err(Error::InvalidParameter);
    }
    let free = system.vms().skip(1).find(|(_, vm)| !vm.exists());
    let (id, vm) = free.ok_or(Error::NoSlot)?;
    create_in(system, machine, (id, vm), vcpus, tag)?;
    vm.set_state(VmState::Created);
    Ok(one(u64::try_from(id.get()).unwrap_or(0)))
}

/// Creates a VM under a number that is free.
pub(crate) fn create_in(
    system: &System,
    machine: &impl Machine,
    (id, vm): (VmId, &Vm),
    vcpus: usize,
    tag: u64,
) -> Result<(), Error> {
    let version = system.board().ok_or(Error::BadState)?.facts.gic;
    let vmid = free_vmid(system).ok_or(Error::NoSlot)?;
    let root = machine.allocate(ROOT_BYTES).ok_or(Error::NoMemory)?;
    machine.zero(root, ROOT_BYTES);
    let memory = Memory::with_root(root, vmid)?;
    vm.clear();
    vm.set_up(vcpus, tag, memory.vttbr());
    *vm.memory.lock() = memory;
    vm.gic.configure(version, vcpus);
    for index in 0..vcpus {
        if let Some(shared) = VcpuId::new(id, index).and_then(|id| system.shared(id)) {
            shared.clear();
        }
    }
    Ok(())
}

/// A VMID that no VM has. They are taken in turn; TLBs were flushed when the last owner went.
fn free_vmid(system: &System) -> Option<u16> {
    let vmid = |vm: &Vm| vm.vttbr() >> 48;
    let first = system.next_vmid();
    (0..=u8::MAX)
        .map(|n| first.wrapping_add(n))
        .find_map(|candidate| {
            let taken = candidate == 0 || system.vms().any(|(_, vm)| vmid(vm) == candidate.into());
            (!taken).then_some(candidate.into())
        })
}

/// A guest that is being built.
pub(super) fn unborn(system: &System, number: u64) -> Result<(VmId, &Vm), Error> {
    let (id, vm) = guest(system, number)?;
    if vm.life().state != VmState::Created {
        return Err(Error::BadState);
    }
    Ok((id, vm))
}

pub(super) fn map_ram(
    system: &System,
    machine: &mut impl Machine,
    (number, ipa, bytes, backing, quota): (u64, u64, u64, u64, u64),
) -> Reply {
    let (id, vm) = unborn(system, number)?;
    let backing = Backing::from_bits(backing).ok_or(Error::InvalidParameter)?;
    if overlaps_devices(vm, ipa, bytes, None) || system.passthrough.overlaps(id, ipa, bytes) {
        return Err(Error::AlreadyMapped);
    }
    let request = RamRequest {
        ipa,
        bytes,
        backing,
        quota,
    };
    let piece = || {
        let mut memory = vm.memory.lock();
        memory.map_ram(machine, &system.frames, id, request)
    };
    repeat(machine, piece, |done| *done >= bytes).map(one)
}

/// Repeats a piece of work until all is done, it fails, or an interrupt waits: then the manager is to call again.
/// Each piece takes its locks anew, so that other cores wait for one piece at most.
fn repeat<T>(
    machine: &impl Machine,
    mut piece: impl FnMut() -> Result<T, Error>,
    is_all: impl Fn(&T) -> bool,
) -> Result<T, Error> {
    loop {
        let done = piece()?;
        if is_all(&done) || machine.interrupt_waits() {
            return Ok(done);
        }
    }
}

pub(super) fn add_stock(system: &System, machine: &mut impl Machine, number: u64) -> Reply {
    let (id, vm) = guest(system, number)?;
    if matches!(vm.life().state, VmState::Stopped | VmState::Dying) {
        return Err(Error::BadState);
    }
    let piece = || {
        let dirty =
            (vm.memory.lock_patiently(machine)).dirty_for_stock(machine, &system.frames, id)?;
        // A vCPU that touches a new page meanwhile does not wait for it.
        dirty.zero(machine);
        Ok(vm.memory.lock_patiently(machine).stock_frame(dirty))
    };
    let added = repeat(machine, piece, |added| *added);
    if !matches!(added, Ok(false)) {
        // There is a frame, or there will be none: either way nobody has to wait longer.
        system.events.clear(Source::Stock, id);
        for index in 0..vm.vcpu_count() {
            if let Some(vcpu) = VcpuId::new(id, index) {
                system.wake(vcpu, machine);
            }
        }
    }
    added.map(|done| one(done.into()))
}

/// Whether a range lies in the guest's part of the IPA space, aligned.
pub(super) const fn is_placeable(ipa: u64, bytes: u64, align: u64) -> bool {
    let fits = match ipa.checked_add(bytes) {
        Some(end) => end <= GUEST_END,
        None => false,
    };
    fits && ipa.is_multiple_of(align)
}

/// Bytes of a device of a VM.
fn device_bytes(vm: &Vm, device: Device) -> u64 {
    match device {
        Device::Distributor => DISTRIBUTOR_BYTES,
        Device::Redistributors => {
            REDISTRIBUTOR_BYTES.saturating_mul(u64::try_from(vm.vcpu_count()).unwrap_or(0))
        }
        Device::CpuInterface => GICC_BYTES,
        Device::Uart => UART_BYTES,
        Device::Watchdog => WATCHDOG_BYTES,
    }
}

/// Whether a range shares an address with a device, `but` apart.
fn overlaps_devices(vm: &Vm, ipa: u64, bytes: u64, but: Option<Device>) -> bool {
    let devices = [
        Device::Distributor,
        Device::Redistributors,
        Device::CpuInterface,
        Device::Uart,
        Device::Watchdog,
    ];
    devices
        .into_iter()
        .filter(|device| Some(*device) != but)
        .any(|device| {
            vm.devices.base(device).is_some_and(|base| {
                let end = base.raw().saturating_add(device_bytes(vm, device));
                base.raw() < ipa.saturating_add(bytes) && ipa < end
            })
        })
}

pub(super) fn is_taken(
    system: &System,
    (id, vm): (VmId, &Vm),
    (ipa, bytes): (u64, u64),
    but: Option<Device>,
) -> bool {
    overlaps_devices(vm, ipa, bytes, but)
        || system.passthrough.overlaps(id, ipa, bytes)
        || vm.memory.lock().overlaps_ram(ipa, bytes)
}

/// Places a device that has registers and an SPI. Returns its INTID.
fn place(
    system: &System,
    (id, vm): (VmId, &Vm),
    device: Device,
    (ipa, intid, align): (u64, u64, u64),
) -> Result<u32, Error> {
    let intid = u32::try_from(intid).map_err(|_| Error::InvalidParameter)?;
    let spi = intid
        .checked_sub(FIRST_SPI)
        .and_then(|spi| usize::try_from(spi).ok());
    let bytes = device_bytes(vm, device);
    if !is_placeable(ipa, bytes, align) || spi.is_none_or(|spi| spi >= SPI_COUNT) {
        return Err(Error::InvalidParameter);
    }
    let used = vm.devices.has_intid(intid, Some(device)) || vm.gic.is_assigned(intid);
    if used || is_taken(system, (id, vm), (ipa, bytes), Some(device)) {
        return Err(Error::AlreadyMapped);
    }
    vm.devices.place(device, Ipa::truncated(ipa));
    Ok(intid)
}

pub(super) fn place_uart(system: &System, (number, ipa, intid): (u64, u64, u64)) -> Reply {
    let (id, vm) = unborn(system, number)?;
    let intid = place(system, (id, vm), Device::Uart, (ipa, intid, PAGE_SIZE))?;
    vm.devices.set_uart_intid(intid);
    Ok(NOTHING)
}

pub(super) fn place_watchdog(system: &System, (number, ipa, intid): (u64, u64, u64)) -> Reply {
    let (id, vm) = unborn(system, number)?;
    let at = (ipa, intid, REFRESH_OFFSET);
    let intid = place(system, (id, vm), Device::Watchdog, at)?;
    vm.devices.set_watchdog_intid(intid);
    Ok(NOTHING)
}

pub(super) fn place_gic(
    system: &System,
    machine: &mut impl Machine,
    (number, distributor, other): (u64, u64, u64),
) -> Reply {
    let (id, vm) = unborn(system, number)?;
    let board = system.board().ok_or(Error::BadState)?;
    let v3 = board.facts.gic == GicVersion::V3;
    if vm.devices.base(Device::Distributor).is_some() {
        return Err(Error::BadState);
    }
    let (other_device, align) = if v3 {
        (Device::Redistributors, DISTRIBUTOR_BYTES)
    } else {
        (Device::CpuInterface, PAGE_SIZE)
    };
    let other_bytes = device_bytes(vm, other_device);
    let placeable = is_placeable(distributor, DISTRIBUTOR_BYTES, DISTRIBUTOR_BYTES)
        && is_placeable(other, other_bytes, align);
    if !placeable {
        return Err(Error::InvalidParameter);
    }
    let apart = distributor.saturating_add(DISTRIBUTOR_BYTES) <= other
        || other.saturating_add(other_bytes) <= distributor;
    let taken = is_taken(system, (id, vm), (distributor, DISTRIBUTOR_BYTES), None)
        || is_taken(system, (id, vm), (other, other_bytes), None);
    if !apart || taken {
        return Err(Error::AlreadyMapped);
    }
    let at = Ipa::truncated(other);
    // First: what is mapped by halves, for want of a table, is no place for memory either.
    vm.devices.place(other_device, at);
    if !v3 {
        let gicv = board.facts.gicv;
        vm.memory.lock().map_cpu_interface(machine, at, gicv)?;
    }
    vm.devices
        .place(Device::Distributor, Ipa::truncated(distributor));
    Ok(NOTHING)
}

pub(super) fn pin(
    system: &System,
    machine: &mut impl Machine,
    (number, index, core): (u64, u64, u64),
) -> Reply {
    let (id, vm) = unborn(system, number)?;
    let index = usize::try_from(index).map_err(|_| Error::NoSuchObject)?;
    if index >= vm.vcpu_count() {
        return Err(Error::NoSuchObject);
    }
    let vcpu = VcpuId::new(id, index).ok_or(Error::NoSuchObject)?;
    let core = usize::try_from(core).map_err(|_| Error::InvalidParameter)?;
    let cpu = CpuIndex::new(core, system.cpus()).ok_or(Error::InvalidParameter)?;
    unpin(system, vcpu);
    pin_to(system, vcpu, cpu);
    // Who shares the core now traps WFI.
    system.alert_core(cpu, machine);
    Ok(NOTHING)
}

/// Pins a vCPU that is not pinned.
pub(crate) fn pin_to(system: &System, vcpu: VcpuId, cpu: CpuIndex) {
    if let (Some(shared), Some(core)) = (system.shared(vcpu), system.core(cpu)) {
        shared.pin(cpu);
        core.pin(vcpu);
    }
}

fn unpin(system: &System, vcpu: VcpuId) {
    let core = system
        .shared(vcpu)
        .and_then(VcpuShared::core)
        .and_then(|cpu| system.core(cpu));
    if let Some(core) = core {
        core.unpin(vcpu);
    }
}

pub(super) fn begin_grant(
    system: &System,
    machine: &mut impl Machine,
    (number, ipa, bytes, window): (u64, u64, u64, u64),
) -> Reply {
    let (id, vm) = unborn(system, number)?;
    let manager = system.vm(0).ok_or(Error::BadState)?;
    let mut guest = vm.memory.lock();
    let mut manager = manager.memory.lock();
    let range = (ipa, bytes, window);
    memory::begin_grant(
        &mut guest,
        &mut manager,
        machine,
        (&system.frames, id),
        range,
    )
    .map(one)
}

pub(super) fn end_grants(system: &System, machine: &mut impl Machine, number: u64) -> Reply {
    let (_, vm) = unborn(system, number)?;
    let manager = system.vm(0).ok_or(Error::BadState)?;
    let mut guest = vm.memory.lock();
    let mut manager = manager.memory.lock();
    memory::end_grants(&mut guest, &mut manager, machine).map(|done| one(done.into()))
}

pub(super) fn start(
    system: &System,
    machine: &mut impl Machine,
    (number, entry, context): (u64, u64, u64),
) -> Reply {
    let (id, vm) = unborn(system, number)?;
    {
        let memory = vm.memory.lock();
        if memory.is_busy() || system.passthrough.is_lent(id) {
            return Err(Error::BadState);
        }
        if !entry.is_multiple_of(4) || memory.region(entry).is_none() {
            return Err(Error::InvalidParameter);
        }
    }
    let all_pinned = (0..vm.vcpu_count()).all(|index| {
        VcpuId::new(id, index)
            .and_then(|id| system.shared(id)?.core())
            .is_some()
    });
    let first = VcpuId::new(id, 0).ok_or(Error::NoSuchObject)?;
    let shared = system.shared(first).ok_or(Error::NoSuchObject)?;
    if !all_pinned || shared.request(entry, context).is_err() {
        return Err(Error::BadState);
    }
    vm.set_on(1);
    vm.set_state(VmState::Running);
    if let Some(cpu) = shared.core() {
        system.passthrough.start(id, cpu, machine);
    }
    system.wake(first, machine);
    Ok(NOTHING)
}

pub(super) fn destroy(system: &System, machine: &mut impl Machine, number: u64) -> Reply {
    let (id, vm) = guest(system, number)?;
    match vm.life().state {
        VmState::Dying => {}
        VmState::Created | VmState::Stopped => {
            vm.set_state(VmState::Dying);
            system.passthrough.stop(id, machine);
            system.alert(id, machine);
        }
        _ => return Err(Error::BadState),
    }
    let vcpus = || (0..vm.vcpu_count()).filter_map(|index| VcpuId::new(id, index));
    let mine = vcpus().fold(0, |set, vcpu| set | vcpu.bit());
    if system.held() & mine != 0 {
        // Cores have been told; they need a moment to let go.
        return Ok(one(0));
    }
    let manager = system.vm(0).ok_or(Error::BadState)?;
    if system.passthrough.is_lent(id) {
        device::end_loan(system, machine)?;
    }
    let piece = || {
        let mut guest = vm.memory.lock();
        let mut manager = manager.memory.lock();
        guest.destroy(&mut manager, machine, (&system.frames, id))
    };
    if !repeat(machine, piece, |gone| *gone)? {
        return Ok(one(0));
    }
    for vcpu in vcpus() {
        unpin(system, vcpu);
        if let Some(cpu) = system.shared(vcpu).and_then(VcpuShared::core) {
            // Its core may be another's alone now.
            system.alert_core(cpu, machine);
        }
        if let Some(slot) = system.slot(vcpu) {
            slot.lock().vacate();
        }
        if let Some(shared) = system.shared(vcpu) {
            shared.clear();
        }
    }
    for source in [Source::Output, Source::Status, Source::Stock] {
        system.events.clear(source, id);
    }
    system.passthrough.release(id);
    vm.clear();
    vm.set_state(VmState::Free);
    Ok(one(1))
}

impl Vcpu {
    /// Whether nothing is left of a vCPU in this slot.
    #[cfg(test)]
    pub(crate) fn is_vacant(&self) -> bool {
        self.place.is_none() && self.gpr.x.iter().all(|x| *x == 0) && self.sysregs.pc == 0
    }
}
