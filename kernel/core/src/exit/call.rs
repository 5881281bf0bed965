//! HVC and SMC: SMCCC's own calls, PSCI, and hypercalls for the manager.

use core::sync::atomic::Ordering;

use penumbra_abi::{CrashCause, StopReason};
use penumbra_trap::psci::{Affinity, AffinityState, Request, Return};
use penumbra_trap::smccc::{Mitigations, NOT_SUPPORTED, Service};

use super::{Flow, stop};
use crate::hypercall;
use crate::machine::Machine;
use crate::traps;
use crate::vcpu::{Blocked, Counter, Deferred, Place, Power, Vcpu, VcpuId};

/// What EL2 does about speculation for guests: nothing yet that it could vouch for.
const MITIGATIONS: Mitigations = Mitigations {
    one: penumbra_trap::smccc::Mitigation::NotSupported,
    two: penumbra_trap::smccc::Mitigation::NotSupported,
    three: penumbra_trap::smccc::Mitigation::NotSupported,
};

/// Answers a call. PC is behind the instruction.
pub(super) fn made(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    immediate: u16,
) -> Flow {
    vcpu.count(Counter::Calls);
    if immediate != 0 {
        // SMCCC defines immediate 0 only.
        note_unknown(vcpu, place, machine, immediate);
        vcpu.gpr.set(0, NOT_SUPPORTED);
        return None;
    }
    match Service::decode(vcpu.gpr.get(0)) {
        Service::Psci(function, convention) => {
            let arguments = [vcpu.gpr.get(1), vcpu.gpr.get(2), vcpu.gpr.get(3)];
            let request = Request::decode(function, convention, arguments);
            psci(vcpu, place, machine, request)
        }
        Service::Hypercall(call) if vcpu.id == VcpuId::MANAGER => {
            hypercall::made(vcpu, place, machine, call)
        }
        service => {
            if matches!(service, Service::Unknown | Service::Hypercall(_)) {
                note_unknown(vcpu, place, machine, immediate);
            }
            let x1 = vcpu.gpr.get(1);
            let reply = service.stateless_reply(x1, &MITIGATIONS);
            let reply = reply.unwrap_or([NOT_SUPPORTED, 0, 0, 0]);
            for (register, value) in (0..).zip(reply) {
                vcpu.gpr.set(register, value);
            }
            None
        }
    }
}

/// Notes a call that nobody answers. PC is behind it.
fn note_unknown(vcpu: &Vcpu, place: &'static Place, machine: &mut impl Machine, immediate: u16) {
    let function = vcpu.gpr.get(0) & 0xffff_ffff;
    let what = function | u64::from(immediate) << 32;
    traps::note(vcpu, place, machine, what, 4);
}

fn psci(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    request: Request,
) -> Flow {
    let reply = match request {
        Request::Done(reply) => reply.to_bits(),
        Request::CpuOn {
            target,
            entry,
            context,
        } => cpu_on(vcpu, place, machine, (target, entry, context)).to_bits(),
        Request::AffinityInfo {
            target,
            lowest_level,
        } => affinity_info(vcpu, place, target, lowest_level),
        Request::CpuSuspend { .. } => {
            // Power-down requests are treated as stand-by, which PSCI allows.
            vcpu.gpr.set(0, Return::Success.to_bits());
            return Some(Deferred::Block(Blocked::Interrupt));
        }
        Request::CpuOff => return cpu_off(vcpu, place, machine),
        Request::SystemOff => {
            stop(
                vcpu,
                place,
                machine,
                (StopReason::PowerOff, CrashCause::None),
                None,
            );
            return Some(Deferred::Nothing);
        }
        Request::SystemReset => {
            stop(
                vcpu,
                place,
                machine,
                (StopReason::Reset, CrashCause::None),
                None,
            );
            return Some(Deferred::Nothing);
        }
    };
    vcpu.gpr.set(0, reply);
    None
}

/// The vCPU of the caller's VM with this affinity.
fn sibling(vcpu: &Vcpu, place: &'static Place, target: Affinity) -> Option<VcpuId> {
    let index = usize::try_from(target.raw()).ok()?;
    if index >= place.vm.vcpu_count() {
        return None;
    }
    let first = vcpu.id.number().checked_sub(vcpu.id.index())?;
    VcpuId::from_number(first.checked_add(index)?)
}

fn cpu_on(
    vcpu: &Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    (target, entry, context): (Affinity, u64, u64),
) -> Return {
    let Some(id) = sibling(vcpu, place, target) else {
        return Return::InvalidParameters;
    };
    let Some(shared) = place.system.shared(id) else {
        return Return::InvalidParameters;
    };
    if entry & 3 != 0
        || place
            .vm
            .memory
            .lock_patiently(machine)
            .region(entry)
            .is_none()
    {
        return Return::InvalidAddress;
    }
    // Counted before the target can run and leave again, so that the count never misses it.
    place.vm.on.fetch_add(1, Ordering::SeqCst);
    match shared.request(entry, context) {
        Ok(()) => {
            place.system.wake(id, machine);
            Return::Success
        }
        Err(state) => {
            // The caller itself is on, so this is not the last one.
            place.vm.on.fetch_sub(1, Ordering::SeqCst);
            if state == Power::On {
                Return::AlreadyOn
            } else {
                Return::OnPending
            }
        }
    }
}

fn affinity_info(vcpu: &Vcpu, place: &'static Place, target: Affinity, lowest_level: u8) -> u64 {
    let mut found = None;
    for index in 0..place.vm.vcpu_count() {
        let affinity = Affinity::from_mpidr(u64::try_from(index).unwrap_or(u64::MAX));
        if !affinity.same_from(target, lowest_level) {
            continue;
        }
        let power = sibling(vcpu, place, affinity).and_then(|id| place.system.shared(id));
        let state = match power.map(crate::vcpu::VcpuShared::power) {
            Some(Power::On) => return AffinityState::On as u64,
            Some(Power::Pending) => AffinityState::OnPending,
            _ if found == Some(AffinityState::OnPending) => AffinityState::OnPending,
            _ => AffinityState::Off,
        };
        found = Some(state);
    }
    found.map_or(Return::InvalidParameters.to_bits(), |state| state as u64)
}

fn cpu_off(vcpu: &Vcpu, place: &'static Place, machine: &mut impl Machine) -> Flow {
    if place.vm.on.fetch_sub(1, Ordering::SeqCst) == 1 {
        stop(
            vcpu,
            place,
            machine,
            (StopReason::AllOff, CrashCause::None),
            None,
        );
        return Some(Deferred::Nothing);
    }
    Some(Deferred::Off)
}
