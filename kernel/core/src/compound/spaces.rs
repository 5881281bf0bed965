//! The spaces of the lower half, whose roots are trapped: how they are found, and how they end.

use core::sync::atomic::Ordering;

use penumbra_abi::{PAGING_SPACES, PagingRefusal};
use penumbra_paging::{Parked, SpaceView};
use penumbra_vmsa::Half;

use super::fault::edit;
use super::trapped::retrap;
use super::{Faulted, Paging, State, VmAccess};
use crate::machine::Machine;
use crate::vcpu::{Place, Vcpu};

/// The space of a root of the lower half.
pub(crate) fn low_space(state: &State, root: u64) -> Option<(usize, SpaceView)> {
    (0..PAGING_SPACES)
        .filter_map(|number| Some((number, state.tables.space(number)?)))
        .find(|(_, space)| space.half == Half::Low && space.root.raw() == root)
}

/// Ends one space of the lower half, or a part of it. Whoever still has its alias in TTBR0_EL1 faults in stage 2 and
/// gets its own root back. Returns whether none is left.
pub(crate) fn drop_low<M: Machine>(
    state: &mut State,
    access: &mut VmAccess<'_, '_, M>,
    parked: &Parked,
) -> bool {
    state.seen.want_nothing();
    let low = |state: &State| {
        let mut spaces = (0..PAGING_SPACES).filter_map(|number| state.tables.space(number));
        spaces.find(|space| space.half == Half::Low)
    };
    let Some(space) = low(state) else { return true };
    drop_space(state, access, &space, parked) && low(state).is_none()
}

/// Ends a space, or a part of it. Returns whether it is gone.
pub(crate) fn drop_space<M: Machine>(
    state: &mut State,
    access: &mut VmAccess<'_, '_, M>,
    space: &SpaceView,
    parked: &Parked,
) -> bool {
    state.relayout = None;
    state.tables.drop_space(access, space.id, parked)
}

/// Ends one space of the lower half, or a part of it, and trapping with the last one. `Park` if another vCPU
/// holds the VM just then.
pub(super) fn end_trapping<M: Machine>(
    vcpu: &Vcpu,
    place: &'static Place,
    machine: &mut M,
) -> Faulted {
    let paging = &place.vm.paging;
    let mut done = false;
    let answer = edit(vcpu, place, machine, |state, access, parked| {
        done = drop_low(state, access, parked);
        if done {
            paging.stop_trapping();
            paging.refuse(PagingRefusal::Storm);
        } else {
            paging.next_generation();
        }
    });
    if done {
        retrap(vcpu, place, machine);
    }
    answer
}

impl Paging {
    /// Whether trapping is about to end: no root gets a space any more.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Begins to end trapping. A manager that allows it anew has the last word.
    pub(crate) fn begin_to_end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.next_generation();
    }
}
