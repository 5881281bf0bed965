//! The spaces of the lower half, whose roots are trapped: how they are found, and how they end.

use penumbra_abi::PAGING_SPACES;
use penumbra_paging::{Parked, SpaceView};
use penumbra_vmsa::Half;

use super::{State, VmAccess};
use crate::machine::Machine;

/// The space of a root of the lower half.
pub(crate) fn low_space(state: &State, root: u64) -> Option<(usize, SpaceView)> {
    (0..PAGING_SPACES)
        .filter_map(|number| Some((number, state.tables.space(number)?)))
        .find(|(_, space)| space.half == Half::Low && space.root.raw() == root)
}

/// Ends the spaces of the lower half, a bounded number of nodes at a time. Whoever still has such an
/// alias in TTBR0_EL1 faults in stage 2 and gets its own root back. Returns whether none is left.
pub(crate) fn drop_low<M: Machine>(
    state: &mut State,
    access: &mut VmAccess<'_, '_, M>,
    mut nodes: u32,
    parked: &Parked,
) -> bool {
    state.seen.want_nothing();
    for number in 0..PAGING_SPACES {
        let space = state.tables.space(number);
        let Some(space) = space.filter(|space| space.half == Half::Low) else {
            continue;
        };
        if !drop_space(state, access, (&space, &mut nodes), parked) {
            return false;
        }
    }
    true
}

/// Ends one space, or a part of it. Returns whether it is gone.
pub(crate) fn drop_space<M: Machine>(
    state: &mut State,
    access: &mut VmAccess<'_, '_, M>,
    (space, nodes): (&SpaceView, &mut u32),
    parked: &Parked,
) -> bool {
    while *nodes > 0 && state.tables.prune_space(access, space.id, parked) {
        *nodes = nodes.saturating_sub(1);
    }
    if *nodes == 0 {
        return false;
    }
    state.relayout = None;
    state.tables.drop_space(access, space.id, parked);
    true
}
