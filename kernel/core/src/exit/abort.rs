//! Stage-2 faults: emulated devices, first touch of thin memory, and what is not there.

use penumbra_abi::CrashCause;
use penumbra_trap::abort::{DataAbort, FaultStatus, InstructionAbort, MmioAccess};
use penumbra_trap::inject::Exception;
use penumbra_vmsa::{Ipa, VmId};

use super::{Flow, crash, inject, notify, watchdog};
use crate::compound::{self, Faulted};
use crate::events::Source;
use crate::machine::Machine;
use crate::memory::{Touch, touch};
use crate::traps;
use crate::vcpu::{Blocked, Counter, Deferred, Place, Vcpu};
use crate::vgic::{Frame, MmioRead};

/// A data abort that the first look has left: neither an emulated device, the watchdog apart, nor first touch.
pub(super) fn data(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    abort: DataAbort,
) -> Flow {
    let syndrome = machine.syndrome();
    let Some(ipa) = abort.ipa(syndrome.hpfar, syndrome.far) else {
        return match compound::on_permission(vcpu, place, machine, abort) {
            Faulted::NotOurs => elsewhere(vcpu, place, machine, abort, None),
            answer => seen_to(vcpu, answer),
        };
    };
    if let Some(offset) = place.vm.devices.find_watchdog(ipa)
        && let Ok(access) = abort.access()
    {
        vcpu.count(Counter::Mmio);
        watchdog::access(vcpu, place, machine, offset, access);
        return None;
    }
    let answer = if matches!(abort.status(), FaultStatus::AccessFlag(_)) {
        compound::on_access_flag(place, machine, (ipa, abort.is_on_table_walk()))
    } else if abort.is_on_table_walk() {
        compound::on_walk(vcpu, place, machine, abort.status(), ipa)
    } else {
        Faulted::NotOurs
    };
    match answer {
        Faulted::NotOurs => elsewhere(vcpu, place, machine, abort, Some(ipa)),
        answer => seen_to(vcpu, answer),
    }
}

/// How an exit ends that the shadowing service has answered.
fn seen_to(vcpu: &Vcpu, answer: Faulted) -> Flow {
    vcpu.count(Counter::Others);
    match answer {
        Faulted::Again | Faulted::NotOurs => None,
        Faulted::Park => Some(Deferred::Nothing),
    }
}

/// An instruction abort.
pub(super) fn instruction(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    abort: InstructionAbort,
) -> Flow {
    let syndrome = machine.syndrome();
    let ipa = abort.ipa(syndrome.hpfar, syndrome.far);
    match (abort.status(), ipa) {
        (FaultStatus::Translation(_), Some(ipa)) => {
            if let Touched::Yes(flow) = first_touch(vcpu, place, machine, ipa) {
                return flow;
            }
        }
        (FaultStatus::AccessFlag(_), Some(ipa)) => {
            let at = (ipa, abort.is_on_table_walk());
            match compound::on_access_flag(place, machine, at) {
                Faulted::NotOurs => {}
                answer => return seen_to(vcpu, answer),
            }
        }
        (FaultStatus::TlbConflict, _) => return conflict(vcpu, place, machine),
        _ => {}
    }
    if let Some(ipa) = ipa.filter(|_| abort.is_on_table_walk()) {
        match compound::on_walk(vcpu, place, machine, abort.status(), ipa) {
            Faulted::NotOurs => {}
            answer => return seen_to(vcpu, answer),
        }
    }
    place.shared.count(Counter::Others);
    note(vcpu, place, machine, ipa);
    let abort = inject::abort(
        syndrome.far,
        abort.far_is_unknown(),
        abort.is_on_table_walk(),
    );
    inject::at(
        vcpu,
        place,
        machine,
        Exception::InstructionAbort(abort),
        ipa,
    )
}

/// An access that no device and no memory answers.
fn elsewhere(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    abort: DataAbort,
    ipa: Option<Ipa>,
) -> Flow {
    if abort.status() == FaultStatus::TlbConflict {
        return conflict(vcpu, place, machine);
    }
    place.shared.count(Counter::Others);
    if abort.is_cache_maintenance() && !abort.is_on_table_walk() {
        // Nothing of what is not memory is cached, so the maintenance is done.
        machine.skip_instruction();
        return None;
    }
    note(vcpu, place, machine, ipa);
    let write = abort.is_write();
    let cache_maintenance = abort.is_cache_maintenance();
    let far = machine.syndrome().far;
    let abort = inject::abort(far, abort.far_is_unknown(), abort.is_on_table_walk());
    let exception = Exception::DataAbort {
        abort,
        write,
        cache_maintenance,
    };
    inject::at(vcpu, place, machine, exception, ipa)
}

/// Notes an access that nothing answers.
fn note(vcpu: &Vcpu, place: &'static Place, machine: &mut impl Machine, ipa: Option<Ipa>) {
    let what = ipa.map_or(traps::NOTHING, Ipa::raw);
    traps::note(vcpu, place, machine, what, 0);
}

/// Two TLB entries for one address: drop what the VM has cached and try again.
fn conflict(vcpu: &Vcpu, place: &'static Place, machine: &mut impl Machine) -> Flow {
    place.vm.memory.lock_patiently(machine).flush_all(machine);
    let answer = compound::on_conflict(vcpu, place, machine);
    seen_to(vcpu, answer)
}

/// Whether an address was thin memory, and how its exit then ends.
pub(super) enum Touched {
    Yes(Flow),
    No,
}

#[inline]
pub(super) fn first_touch(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    ipa: Ipa,
) -> Touched {
    let touched = touch(place.vm, machine, ipa);
    match touched {
        Touch::NotMemory => Touched::No,
        Touch::Mapped => {
            vcpu.count(Counter::Population);
            Touched::Yes(None)
        }
        Touch::MappedStockLow => {
            vcpu.count(Counter::Population);
            ask_for_stock(vcpu, place, machine);
            Touched::Yes(None)
        }
        Touch::WantsStock => {
            // It is repeated, and counts as population then.
            vcpu.count(Counter::Others);
            ask_for_stock(vcpu, place, machine);
            Touched::Yes(Some(Deferred::Block(Blocked::Stock)))
        }
        Touch::OverQuota => Touched::Yes(crash(
            vcpu,
            place,
            machine,
            CrashCause::QuotaExceeded,
            Some(ipa),
        )),
        Touch::Failed => Touched::Yes(crash(vcpu, place, machine, CrashCause::Internal, Some(ipa))),
    }
}

fn ask_for_stock(vcpu: &Vcpu, place: &'static Place, machine: &mut impl Machine) {
    let number = u64::try_from(vcpu.id.vm()).unwrap_or(u64::MAX);
    if let Some(vm) = VmId::new(number, penumbra_abi::MAX_VMS) {
        place.system.raise(Source::Stock, vm, machine);
    }
}

/// Carries out a load or store of the interrupt controller. Returns whether that may have woken anyone.
#[inline(always)]
pub(super) fn gic_access(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    (frame, offset): (Frame, u64),
    access: MmioAccess,
) -> bool {
    let size = 1 << (access.size() as u32);
    if access.is_write() {
        gic_write(vcpu, place, machine, (frame, offset, size), access);
        return true;
    }
    let me = vcpu.id.index();
    match place
        .vm
        .gic
        .mmio_read(me, &mut vcpu.gic, machine, (frame, offset, size))
    {
        MmioRead::Value(value) => {
            vcpu.gpr.set(access.register(), access.loaded(value));
            machine.skip_instruction();
            return false;
        }
        // The instruction is repeated when the others have answered.
        MmioRead::Retry(set) => notify(vcpu, place, machine, set),
    }
    true
}

#[inline(never)]
fn gic_write(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    at: (Frame, u64, u32),
    access: MmioAccess,
) {
    let value = access.stored(vcpu.gpr.get(access.register()));
    machine.skip_instruction();
    let set = place.vm.gic.mmio_write(vcpu.id.index(), at, value);
    if !set.is_empty() {
        notify(vcpu, place, machine, set);
    }
}
