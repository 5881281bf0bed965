//! The manager's call that samples walks and stores.

use penumbra_abi::{Error, PAGING_SAMPLES, paging_epoch};
use penumbra_paging::{SampleKind, ShadowError, SurveyStep};
use penumbra_vmsa::Va;

use super::Reply;
use super::paging::{error, space, target};
use crate::compound::{From, State, VmAccess};
use crate::machine::Machine;
use crate::system::System;

const _: () = assert!(PAGING_SAMPLES == penumbra_paging::MAX_SAMPLES);

/// Tables that one call arms.
const ARMED_PER_CALL: u64 = PAGING_SAMPLES as u64 / 4;
/// Steps of the survey that one call takes.
const STEPS_PER_CALL: u32 = 32;

pub(super) fn epoch(
    system: &System,
    machine: &mut impl Machine,
    (number, index, from, flags): (u64, u64, u64, u64),
) -> Reply {
    let vm = target(system, number)?.vm;
    let all = paging_epoch::WRITES | paging_epoch::SPLIT | paging_epoch::FRESH | paging_epoch::END;
    if flags & !all != 0 {
        return Err(Error::InvalidParameter);
    }
    let machine = &*machine;
    vm.with_tables(machine, From::Pool, |state, access| {
        if flags & (paging_epoch::FRESH | paging_epoch::END) != 0 {
            state.tables.end_samples(access, |_| {});
            vm.paging.begin_samples();
        }
        if flags & paging_epoch::END != 0 {
            return Ok([0, 0, 0, free(state), 0, 0]);
        }
        let (armed, next) = arm(state, access, machine, (index, from, flags))?;
        // What was begun is armed whatever came after it, and all of it at once.
        Ok([
            armed,
            next.unwrap_or(0),
            next.is_some().into(),
            free(state),
            0,
            0,
        ])
    })
}

fn free(state: &State) -> u64 {
    u64::try_from(state.tables.free_samples()).unwrap_or(0)
}

/// Samples the next tables from a VA on, until an interrupt waits. Returns how many, and where to go on.
fn arm<M: Machine>(
    state: &mut State,
    access: &mut VmAccess<'_, '_, M>,
    machine: &M,
    (index, from, flags): (u64, u64, u64),
) -> Result<(u64, Option<u64>), Error> {
    let id = space(state, index)?.id;
    let kind = if flags & paging_epoch::WRITES == 0 {
        SampleKind::Walks
    } else {
        SampleKind::Writes
    };
    let split = flags & paging_epoch::SPLIT != 0;
    let (mut armed, mut at, mut steps) = (0_u64, Some(from), 0_u32);
    let mut failed = None;
    while let Some(va) = at.filter(|_| armed < ARMED_PER_CALL && steps < STEPS_PER_CALL) {
        steps = steps.saturating_add(1);
        let (found, next) = match state.tables.find_table(access, id, Va::truncated(va)) {
            SurveyStep::Found((va, _), next) => (Some(va), next),
            SurveyStep::Skipped(next) => (None, Some(next)),
            SurveyStep::End => (None, None),
        };
        if let Some(va) = found {
            match state.tables.sample(access, id, va, kind, split) {
                Ok(()) => armed = armed.saturating_add(1),
                // Go on here when there is room.
                Err(ShadowError::Full) => break,
                Err(ShadowError::Stage2(why)) => {
                    failed = Some(error(ShadowError::Stage2(why)));
                    break;
                }
                // It is not to be sampled: mirrored, no RAM, without an entry of its own.
                Err(_) => {}
            }
        }
        at = next.map(Va::raw);
        if machine.interrupt_waits() {
            break;
        }
    }
    state.tables.arm_samples(access);
    match failed {
        Some(error) if armed == 0 => Err(error),
        _ => Ok((armed, at)),
    }
}
