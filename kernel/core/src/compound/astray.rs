//! Stores that are refused for no reason that the guest's tables show.
//!
//! A TLB may hold what the guest has changed since, or another vCPU may have ended the reason meanwhile: then a flush
//! and another try do. If not, what is on the way there is given up. A guest whose walks begin in the window, at
//! tables that are not its own, would be refused all the same, for ever: it is nested after some tries.

use penumbra_abi::{PagingCounter, PagingRefusal};
use penumbra_paging::{GuestMemory, Stage1Regs};
use penumbra_vmsa::{Ipa, PAGE_SIZE, Va};

use super::fault::{edit, nest};
use super::{Faulted, From};
use crate::machine::{GuestRegister, Machine};
use crate::vcpu::{Place, Vcpu};

/// Tries in one place behind which the VM is nested.
const PATIENCE: u8 = 6;

/// The place where a vCPU's stores are refused so. All zero: none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Astray {
    pc: u64,
    far: u64,
    /// The counter at the last time.
    last: u64,
    times: u8,
}

impl Astray {
    /// Nowhere.
    pub(crate) const NOWHERE: Self = Self {
        pc: 0,
        far: 0,
        last: 0,
        times: 0,
    };

    /// Notes a refused store. Returns how many there were in this place, each within a second of the one before.
    fn note<M: Machine>(&mut self, place: &Place, machine: &M) -> u8 {
        let (pc, far) = (machine.guest(GuestRegister::Pc), machine.syndrome().far);
        let now = machine.counter();
        let soon = now.saturating_sub(self.last) < place.board.facts.counter_hz;
        let again = (self.pc, self.far) == (pc, far) && soon;
        let times = if again {
            self.times.saturating_add(1)
        } else {
            1
        };
        *self = Self {
            pc,
            far,
            last: now,
            times,
        };
        times
    }
}

/// A store to a protected page that the guest's tables do not explain.
pub(super) fn unexplained<M: Machine>(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut M,
    regs: &Stage1Regs,
) -> Faulted {
    place.vm.paging.count(PagingCounter::Stale, 1);
    machine.flush_guest_translations();
    let times = vcpu.astray.note(place, machine);
    let va = Va::truncated(machine.syndrome().far);
    match times {
        ..2 => Faulted::Again,
        // Give up all that could be the reason.
        2..PATIENCE => edit(vcpu, place, machine, |state, access, parked| {
            for page in path(&mut access.noted(), regs, va).into_iter().flatten() {
                state.tables.demote_page(access, page, parked);
            }
        }),
        _ => match nest(vcpu, place, machine, PagingRefusal::Astray) {
            // What it is refused is not of the service's making.
            Faulted::NotOurs if times > PATIENCE => Faulted::NotOurs,
            Faulted::NotOurs => Faulted::Again,
            answer => answer,
        },
    }
}

/// A store was refused that nothing refuses any more, as it seems: it is repeated, once in one place.
pub(super) fn once_more<M: Machine>(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut M,
) -> Faulted {
    if vcpu.astray.note(place, machine) > 1 {
        vcpu.astray = Astray::NOWHERE;
        return Faulted::NotOurs;
    }
    place
        .vm
        .with_tables(machine, From::Spare, |_, access| access.flush());
    Faulted::Again
}

/// The pages that a walk for `va` passes, and the one it ends at.
fn path<G: GuestMemory>(guest: &mut G, regs: &Stage1Regs, va: Va) -> [Option<Ipa>; 5] {
    let page = |ipa: Ipa| ipa.align_down(PAGE_SIZE);
    let Ok(leaf) = regs.walk(guest, va) else {
        return [None; 5];
    };
    let offset = va.raw() & leaf.level.entry_bytes().wrapping_sub(1);
    let target = page(Ipa::truncated(leaf.base.raw() | offset));
    let [d0, d1, d2, d3] = leaf.path.descriptors.map(|entry| entry.map(page));
    [d0, d1, d2, d3, Some(target)]
}
