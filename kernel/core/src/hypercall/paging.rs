//! The manager's calls about compound page tables.

use penumbra_abi::{
    Error, PAGING_BLOCKS, PAGING_OWN_FRAMES, PAGING_RANGE, PAGING_SPACES, PagingCounter,
    PagingForm, PagingMode, PagingRegion, PagingSpace, PagingStatus, PagingSurvey, RootInstall,
    VmState,
};
use penumbra_paging::{Donor, Form, Parked, Region, ShadowError, SpaceId, SpaceView, SurveyStep};
use penumbra_vmsa::{Half, Ipa, Level, Va, VmId};

use super::{Arguments, NOTHING, Reply, guest, one};
use crate::compound::{From, Holder, State, VmAccess, drop_low, held};
use crate::machine::{Core, Machine};
use crate::memory::{ROOT_TABLES, stage2_error};
use crate::system::System;
use crate::vcpu::VcpuId;
use crate::vm::Vm;

/// Tables given back by one call that ends spaces.
pub(super) const GIVEN_BACK_PER_CALL: u32 = 2;
/// Steps of a survey, or on the way home, that find nothing, in one call, while no interrupt waits.
const STEPS_PER_SURVEY: u32 = 8;
/// Nodes that one call of the audit looks at.
const AUDITED_PER_CALL: usize = 128;

const _: () = assert!(PAGING_OWN_FRAMES == penumbra_paging::OWN_FRAMES as u64);

/// What the caller named, checked.
pub(super) struct Target<'a> {
    pub(super) id: VmId,
    pub(super) vm: &'a Vm,
}

/// A guest whose tables may be worked on: it is not nested, nor at its end.
pub(super) fn target(system: &System, number: u64) -> Result<Target<'_>, Error> {
    let (id, vm) = alive(system, number)?;
    if vm.paging.mode() == PagingMode::Nested {
        return Err(Error::BadState);
    }
    Ok(Target { id, vm })
}

pub(super) fn alive(system: &System, number: u64) -> Result<(VmId, &Vm), Error> {
    let (id, vm) = guest(system, number)?;
    match vm.life().state {
        VmState::Created | VmState::Running | VmState::Paused => Ok((id, vm)),
        VmState::Free | VmState::Stopped | VmState::Dying => Err(Error::BadState),
    }
}

/// What a refusal of the service means to the manager.
pub(super) const fn error(error: ShadowError) -> Error {
    match error {
        ShadowError::Refused(_) => Error::BadState,
        ShadowError::NoSpace => Error::NoSuchObject,
        ShadowError::Full => Error::NoSlot,
        ShadowError::NoTable => Error::NotMapped,
        ShadowError::NotRam => Error::InvalidParameter,
        ShadowError::Crowded => Error::Crowded,
        ShadowError::NotUniform => Error::NotRequired,
        ShadowError::Already => Error::AlreadyMapped,
        ShadowError::Stage2(error) => stage2_error(error),
    }
}

fn table_level(number: u64) -> Result<Level, Error> {
    match number {
        1 => Ok(Level::L1),
        2 => Ok(Level::L2),
        3 => Ok(Level::L3),
        _ => Err(Error::InvalidParameter),
    }
}

pub(super) fn space(state: &State, number: u64) -> Result<SpaceView, Error> {
    let number = usize::try_from(number).map_err(|_| Error::InvalidParameter)?;
    state.tables.space(number).ok_or(Error::NoSuchObject)
}

fn space_id(state: &State, number: u64) -> Result<SpaceId, Error> {
    let number = usize::try_from(number).map_err(|_| Error::InvalidParameter)?;
    state.tables.space_id(number).ok_or(Error::NoSuchObject)
}

/// A structural edit on behalf of the manager, under a hold and the lock.
pub(super) fn edit<M: Machine, R>(
    system: &System,
    target: &Target<'_>,
    machine: &mut M,
    work: impl FnOnce(&mut State, &mut VmAccess<'_, '_, M>, &Parked) -> Result<R, Error>,
) -> Result<R, Error> {
    let vm = target.vm;
    held(
        system,
        target.id,
        Holder::Manager,
        machine,
        |machine, parked| {
            vm.with_tables(machine, From::Pool, |state, access| {
                work(state, access, parked)
            })
        },
    )
    .unwrap_or(Err(Error::Busy))
}

pub(super) fn mode(
    system: &System,
    machine: &mut impl Machine,
    (number, mode): (u64, u64),
) -> Reply {
    let mode = PagingMode::from_bits(mode).ok_or(Error::InvalidParameter)?;
    let (id, vm) = alive(system, number)?;
    let target = Target { id, vm };
    if mode == PagingMode::Nested {
        // First, so that no root is planted behind what is pruned.
        vm.paging.set_mode(mode);
        if !vm.paging.is_used() {
            return Ok(one(1));
        }
        let done = nest(system, &target, machine)?;
        if done {
            // What is trapped for the sake of roots.
            system.note_traps(id);
            system.alert(id, machine);
        }
        return Ok(one(done.into()));
    }
    vm.memory
        .lock_patiently(machine)
        .keep_ready(machine, ROOT_TABLES)?;
    vm.paging.set_mode(mode);
    let done = edit(system, &target, machine, |state, access, parked| {
        let mut nested = (0..PAGING_SPACES).filter_map(|number| {
            let space = state.tables.space(number)?;
            (!space.mirrored).then_some(space.id)
        });
        let (first, another) = (nested.next(), nested.next());
        if let Some(space) = first {
            state.tables.revive(access, space, parked).map_err(error)?;
        }
        Ok(another.is_none())
    })?;
    if !done {
        return Ok(one(0));
    }
    vm.paging.forgive();
    system.note_traps(id);
    system.alert(id, machine);
    Ok(one(1))
}

/// Gives up all tables of a VM, or gives back some of what is left of them. Returns whether nothing is.
fn nest(system: &System, target: &Target<'_>, machine: &mut impl Machine) -> Result<bool, Error> {
    let vm = target.vm;
    if vm.paging.state(machine, |state| state.tables.has_roots()) {
        return edit(system, target, machine, |state, access, parked| {
            state.relayout = None;
            let _all = state.tables.nest(access, parked);
            vm.paging.next_generation();
            Ok(false)
        });
    }
    let done = vm.with_tables(machine, From::Pool, |state, access| {
        state.tables.wind_up(access, GIVEN_BACK_PER_CALL)
    });
    if !done {
        return Ok(false);
    }
    edit(system, target, machine, |state, access, parked| {
        // A vCPU may just have planted a root as the mode changed.
        let done = !state.tables.has_roots() && drop_low(state, access, parked);
        if done && vm.paging.traps_roots() {
            vm.paging.stop_trapping();
        }
        Ok(done)
    })
}

pub(super) fn status(system: &System, machine: &impl Core, number: u64) -> Reply {
    let (_, vm) = guest(system, number)?;
    let paging = &vm.paging;
    let status = paging.state(machine, |state| {
        let (frames_used, frames) = state.tables.pool_frames();
        let nodes_used = u32::try_from(state.tables.node_count()).unwrap_or(u32::MAX);
        PagingStatus {
            mode: paging.mode(),
            roots: paging.roots(),
            refusal: paging.refusal(),
            busy: state.relayout.is_some()
                || (paging.mode() == PagingMode::Nested && nodes_used != 0),
            frames_used,
            frames,
            nodes_used,
            planted: paging.planted(),
        }
    });
    Ok(status.to_regs())
}

pub(super) fn pool(system: &System, machine: &mut impl Machine, number: u64) -> Reply {
    let Target { id, vm } = target(system, number)?;
    let (_, frames) = vm.paging.state(machine, |state| state.tables.pool_frames());
    if usize::try_from(frames).unwrap_or(0) / 512 >= PAGING_BLOCKS {
        return Err(Error::NoSlot);
    }
    let dirty = (vm.memory.lock_patiently(machine)).dirty_for_pool(machine, &system.frames, id)?;
    dirty.zero(machine);
    let Some(frame) = vm.memory.lock_patiently(machine).note_zeroed(dirty) else {
        return Ok(one(0));
    };
    vm.with_tables(machine, From::Pool, |state, access| {
        state.tables.add_pool_block(access, frame).map_err(error)
    })?;
    vm.memory.lock_patiently(machine).frame_taken();
    Ok(one(1))
}

pub(super) fn describe(system: &System, machine: &impl Core, (number, index): (u64, u64)) -> Reply {
    let (_, vm) = guest(system, number)?;
    let index = usize::try_from(index)
        .ok()
        .filter(|index| *index < PAGING_SPACES)
        .ok_or(Error::InvalidParameter)?;
    let view = vm.paging.state(machine, |state| state.tables.space(index));
    let space = view.map_or_else(PagingSpace::default, |view| PagingSpace {
        exists: true,
        high: view.half == Half::High,
        shadowed: view.mirrored,
        install: match view.half {
            Half::Low => RootInstall::Trapped,
            Half::High if vm.paging.planted() != 0 => RootInstall::Sticky,
            Half::High => RootInstall::Nested,
        },
        root: view.root.raw(),
        start: view.first.raw(),
    });
    Ok(space.to_regs())
}

pub(super) fn survey(
    system: &System,
    machine: &mut impl Machine,
    (number, index, from): (u64, u64, u64),
) -> Reply {
    let Target { vm, .. } = target(system, number)?;
    let mut from = Va::truncated(from);
    let mut left = STEPS_PER_SURVEY;
    loop {
        // Each step takes the lock anew: a vCPU whose store is to be mirrored waits for one at most.
        let step = vm.with_tables(machine, From::Pool, |state, access| {
            let space = space(state, index)?;
            Ok(state.tables.survey(access, space.id, from))
        })?;
        left = left.saturating_sub(1);
        let found = match step {
            SurveyStep::Skipped(next) if left > 0 && !machine.interrupt_waits() => {
                from = next;
                continue;
            }
            SurveyStep::Skipped(next) => PagingSurvey::Skipped(next.raw()),
            SurveyStep::Found(found, next) => {
                PagingSurvey::Found(region(&found), next.map(Va::raw))
            }
            SurveyStep::End => PagingSurvey::End,
        };
        return Ok(found.to_regs());
    }
}

fn region(found: &Region) -> PagingRegion {
    PagingRegion {
        va: found.va.raw(),
        table: found.table.raw(),
        valid: found.valid,
        runs: u8::try_from(found.runs).unwrap_or(u8::MAX),
        uniform: found.uniform,
        full: found.full,
        user: found.user,
        form: found.form.map_or(PagingForm::Nested, form),
        writes: found.writes,
        walks: found.walks.map_or(0, u16::from),
        walks_known: found.walks.is_some(),
        writes_known: found.form.is_some() || found.writes_sampled,
    }
}

const fn form(form: Form) -> PagingForm {
    match form {
        Form::Mirror => PagingForm::Mirror,
        Form::Leaf => PagingForm::Leaf,
    }
}

pub(super) fn shadow(
    system: &System,
    machine: &mut impl Machine,
    [number, index, va, level, count, ..]: Arguments,
) -> Reply {
    let target = target(system, number)?;
    let level = table_level(level)?;
    if count > 1 {
        return shadow_range(system, machine, &target, (index, va, level, count));
    }
    let made = edit(system, &target, machine, |state, access, parked| {
        let id = space_id(state, index)?;
        let va = Va::truncated(va);
        shadow_one(state, access, (id, va, level), parked).map_err(error)
    })?;
    Ok(one(form(made) as u64))
}

/// Shadows one table; once more, if something that is worth less made room.
fn shadow_one<M: Machine>(
    state: &mut State,
    access: &mut VmAccess<'_, '_, M>,
    (id, va, level): (SpaceId, Va, Level),
    parked: &Parked,
) -> Result<Form, ShadowError> {
    let tables = &mut state.tables;
    match tables.shadow(access, id, va, level, parked) {
        Err(ShadowError::Full) if tables.evict(access, parked) => {
            tables.shadow(access, id, va, level, parked)
        }
        made => made,
    }
}

/// Several tables in a row, in one hold.
fn shadow_range<M: Machine>(
    system: &System,
    machine: &mut M,
    target: &Target<'_>,
    (index, va, level, count): (u64, u64, Level, u64),
) -> Reply {
    // Bytes of VA space that a table of this level spans.
    let span = level.entry_bytes().saturating_mul(512);
    edit(system, target, machine, |state, access, parked| {
        let id = space_id(state, index)?;
        let (mut made, mut leaves, mut looked, mut short) = (0_u64, 0_u64, 0_u64, false);
        while looked < count.min(PAGING_RANGE) {
            let at = Va::truncated(va.wrapping_add(looked.wrapping_mul(span)));
            match shadow_one(state, access, (id, at, level), parked) {
                Ok(form) => {
                    made = made.saturating_add(1);
                    leaves = leaves.saturating_add(u64::from(form == Form::Leaf));
                }
                Err(ShadowError::NoSpace) if looked == 0 => return Err(Error::NoSuchObject),
                Err(ShadowError::Full | ShadowError::Stage2(_)) => {
                    short = true;
                    break;
                }
                Err(_) => {}
            }
            looked = looked.saturating_add(1);
        }
        Ok([made, leaves, looked, short.into(), 0, 0])
    })
}

pub(super) fn demote(
    system: &System,
    machine: &mut impl Machine,
    (number, index, va, level): (u64, u64, u64, u64),
) -> Reply {
    let target = target(system, number)?;
    let level = table_level(level)?;
    let gone = edit(system, &target, machine, |state, access, parked| {
        let id = space_id(state, index)?;
        Ok(state
            .tables
            .demote(access, id, Va::truncated(va), level, parked))
    })?;
    if !gone {
        return Err(Error::NotMapped);
    }
    target.vm.paging.look_if_detached(machine);
    Ok(one(1))
}

pub(super) fn worth(
    system: &System,
    machine: &mut impl Machine,
    [number, index, va, level, worth, ..]: Arguments,
) -> Reply {
    let Target { vm, .. } = target(system, number)?;
    let level = table_level(level)?;
    let worth = u16::try_from(worth).map_err(|_| Error::InvalidParameter)?;
    vm.with_tables(machine, From::Pool, |state, _| {
        let id = space_id(state, index)?;
        state.tables.set_worth(id, Va::truncated(va), level, worth);
        Ok(NOTHING)
    })
}

/// One page, or the beginning, or the end of a re-layout.
pub(super) fn relayout(
    system: &System,
    machine: &mut impl Machine,
    [number, index, va, donor, kernel, ..]: Arguments,
) -> Reply {
    let target = target(system, number)?;
    let donor = if donor < PAGING_OWN_FRAMES {
        Donor::Own(u8::try_from(donor).map_err(|_| Error::InvalidParameter)?)
    } else {
        Donor::At(Ipa::new(donor).map_err(|_| Error::InvalidParameter)?)
    };
    let va = Va::truncated(va);
    let vm = target.vm;
    if vm.memory.lock_patiently(machine).is_pinned() {
        return Err(Error::NotRequired);
    }
    let ready = vm.with_tables(machine, From::Pool, |state, access| {
        let id = space_id(state, index)?;
        let State {
            tables, relayout, ..
        } = state;
        let known = relayout.as_ref();
        if !known.is_some_and(|work| work.is_for(id, va, donor)) {
            *relayout = None;
            let begun = tables.relayout(access, id, va, donor, kernel != 0);
            *relayout = Some(begun.map_err(error)?);
        }
        let work = relayout.as_mut().ok_or(Error::BadState)?;
        let ready = tables.relayout_step(access, work).map_err(error);
        if ready.is_err() {
            // What fails is given up: all that was moved is where it may be.
            *relayout = None;
        }
        ready
    })?;
    if !ready {
        return Ok(one(0));
    }
    let done = edit(system, &target, machine, |state, access, parked| {
        let State {
            tables, relayout, ..
        } = state;
        let work = relayout.as_ref().ok_or(Error::BadState)?;
        let done = tables.relayout_finish(access, work, parked).map_err(error);
        if done != Ok(false) {
            *relayout = None;
        }
        done
    })?;
    Ok(one(done.into()))
}

pub(super) fn settle(
    system: &System,
    machine: &mut impl Machine,
    (number, ipa): (u64, u64),
) -> Reply {
    let (_, vm) = alive(system, number)?;
    let ipa = Ipa::new(ipa).map_err(|_| Error::InvalidParameter)?;
    if vm
        .memory
        .lock_patiently(machine)
        .region(ipa.raw())
        .is_none()
    {
        return Err(Error::InvalidParameter);
    }
    let whole = vm.with_tables(machine, From::Pool, |state, access| {
        state.tables.settle(access, ipa)
    });
    Ok(one(whole.into()))
}

/// One page at most that re-layouts moved goes home.
pub(super) fn home(
    system: &System,
    machine: &mut impl Machine,
    (number, from): (u64, u64),
) -> Reply {
    let (_, vm) = alive(system, number)?;
    let mut at = Ipa::new(from).map_err(|_| Error::InvalidParameter)?;
    let mut left = STEPS_PER_SURVEY;
    loop {
        // The lock anew for each step, as for a survey.
        let step = vm.with_tables(machine, From::Pool, |state, access| {
            state.tables.bring_home(access, at)
        });
        left = left.saturating_sub(1);
        match step.next {
            Some(next) if !step.moved && left > 0 && !machine.interrupt_waits() => at = next,
            next => {
                let next = next.map_or(0, Ipa::raw);
                return Ok([next, step.moved.into(), 0, 0, 0, 0]);
            }
        }
    }
}

pub(super) fn counter(
    system: &System,
    machine: &impl Core,
    (number, counter): (u64, u64),
) -> Reply {
    let (id, vm) = guest(system, number)?;
    let counter = PagingCounter::from_bits(counter).ok_or(Error::InvalidParameter)?;
    if counter == PagingCounter::RootTraps {
        let all = (0..vm.vcpu_count()).filter_map(|index| {
            let shared = system.shared(VcpuId::new(id, index)?)?;
            Some(shared.root_traps())
        });
        return Ok(one(all.fold(0, u64::wrapping_add)));
    }
    Ok(one(vm.paging.counter(machine, counter)))
}

pub(super) fn audit(
    system: &System,
    machine: &mut impl Machine,
    (number, from): (u64, u64),
) -> Reply {
    let (id, vm) = alive(system, number)?;
    let from = usize::try_from(from).map_err(|_| Error::InvalidParameter)?;
    let target = Target { id, vm };
    let (wrong, next) = edit(system, &target, machine, |state, access, _| {
        Ok(state.tables.audit_piece(access, (from, AUDITED_PER_CALL)))
    })?;
    let next = next.and_then(|next| u64::try_from(next).ok()).unwrap_or(0);
    Ok([next, wrong.into(), 0, 0, 0, 0])
}
