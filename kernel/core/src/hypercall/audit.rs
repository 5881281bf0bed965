//! `Audit`: every frame that stage 2 shows to a VM is one that the VM may see, and every frame that
//! a VM owns is accounted for.

use penumbra_abi::{Error, MAX_VMS};
use penumbra_paging::Leaf;
use penumbra_vmsa::{Ipa, Stage2Attrs, VmId};

use super::{Reply, Values};
use crate::frames::{FRAME_BYTES, Found, Owner};
use crate::machine::Machine;
use crate::system::{PaRange, System};
use crate::vm::Vm;

/// Leaves, or frames that are found, per call.
const PER_CALL: usize = 512;
/// Entries of the frame table looked at per call.
const ENTRIES_PER_CALL: usize = 8192;

/// Where an audit stands. All zero: none is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    vm: usize,
    /// Leaves are done, frames are being counted.
    counting: bool,
    ipa: Ipa,
    entry: usize,
    /// Frames that the VM owns, so far.
    owned: u64,
    differences: u64,
}

impl Progress {
    pub(crate) const NONE: Self = Self {
        vm: 0,
        counting: false,
        ipa: Ipa::truncated(0),
        entry: 0,
        owned: 0,
        differences: 0,
    };
}

/// One piece of the audit.
pub(super) fn audit(system: &System, machine: &mut impl Machine) -> Reply {
    let mut progress = system.audit.lock();
    let now = *progress;
    let next = step(system, machine, now).ok_or(Error::BadState)?;
    if next.vm < MAX_VMS {
        *progress = next;
        return Ok([0, next.differences, 0, 0, 0, 0]);
    }
    *progress = Progress::NONE;
    Ok(done(next.differences))
}

const fn done(differences: u64) -> Values {
    [1, differences, 0, 0, 0, 0]
}

fn step(system: &System, machine: &impl Machine, mut at: Progress) -> Option<Progress> {
    let id = VmId::new(u64::try_from(at.vm).ok()?, MAX_VMS)?;
    let vm = system.vm(at.vm)?;
    if at.counting {
        return Some(count(system, (id, vm), at));
    }
    let memory = vm.memory.lock();
    for _ in 0..PER_CALL {
        let Some(leaf) = memory.next_leaf(machine, at.ipa) else {
            at.counting = true;
            break;
        };
        // The lock of a guest's memory comes before the manager's: it is not taken with that held.
        if !may_see(system, id, &leaf) {
            at.differences = at.differences.saturating_add(1);
        }
        match leaf.end() {
            Some(end) => at.ipa = end,
            None => {
                at.counting = true;
                break;
            }
        }
    }
    Some(at)
}

/// Whether a leaf shows the VM only what it may see.
fn may_see(system: &System, id: VmId, leaf: &Leaf) -> bool {
    if system.frames.is_owned(leaf.pa, leaf.bytes(), Owner::Vm(id)) {
        return true;
    }
    let Some(board) = system.board() else {
        return false;
    };
    if leaf.attrs == Stage2Attrs::DEVICE {
        let (base, bytes) = (leaf.pa.raw(), leaf.bytes());
        return board.facts.gicv.contains(&leaf.pa)
            || system.passthrough.owns(id, base, bytes)
            || id.get() == 0 && system.passthrough.lends(base, leaf.ipa.raw());
    }
    id.get() == 0 && (is_boot_data(system, leaf) || is_lent(system, leaf))
}

/// The bundle and the board's device tree, which the manager may read.
fn is_boot_data(system: &System, leaf: &Leaf) -> bool {
    let Some(board) = system.board() else {
        return false;
    };
    let inside = |range: PaRange| {
        let (start, bytes) = range.pages();
        leaf.pa >= start
            && leaf
                .pa
                .offset_from(start)
                .is_some_and(|offset| offset.saturating_add(leaf.bytes()) <= bytes)
    };
    leaf.attrs == Stage2Attrs::READ_ONLY
        && (inside(board.facts.bundle) || inside(board.facts.device_tree))
}

/// Guest RAM that a grant lends: owned by one guest that has lent this address.
fn is_lent(system: &System, leaf: &Leaf) -> bool {
    system.vms().skip(1).any(|(guest, vm)| {
        system
            .frames
            .is_owned(leaf.pa, leaf.bytes(), Owner::Vm(guest))
            && vm
                .memory
                .try_lock()
                .is_some_and(|memory| memory.lends(leaf.ipa, leaf.bytes()))
    })
}

/// Counts the frames that a VM owns and compares them with what it says it holds.
fn count(system: &System, (id, vm): (VmId, &Vm), mut at: Progress) -> Progress {
    for _ in 0..PER_CALL {
        match system
            .frames
            .find(Owner::Vm(id), at.entry, ENTRIES_PER_CALL)
        {
            Some(Found::Frame { index }) => {
                at.owned = at.owned.saturating_add(1);
                at.entry = index.saturating_add(1);
            }
            Some(Found::GoOn { from }) => {
                at.entry = from;
                return at;
            }
            None => {
                let held = vm.memory.lock().held();
                let wrong = at.owned.saturating_mul(FRAME_BYTES) != held;
                let differences = at.differences.saturating_add(wrong.into());
                let vm = at.vm.saturating_add(1);
                return Progress {
                    vm,
                    differences,
                    ..Progress::NONE
                };
            }
        }
    }
    at
}
