//! Faults that the service causes: stores to watched tables, roots computed from an alias, and guests
//! that do what it cannot bear.

use penumbra_abi::{PagingCounter, PagingMode, PagingRefusal};
use penumbra_paging::{
    AccessKind, Accessed, Privilege, Stage1Fault, Stage1Regs, Stored, StoredBy, WINDOW_BIT,
};
use penumbra_trap::abort::{AccessSize, DataAbort, FaultStatus};
use penumbra_vmsa::{Half, Ipa, Mair, MemoryType, PAGE_SIZE, Stage2Memory, Va, VmId};

use super::astray;
use super::hold::{Holder, held};
use super::quick::stored_by;
use super::roots::{half_at, registers};
use super::trapped;
use super::whole;
use super::{From, State, VmAccess};
use crate::machine::{GuestRegister, Machine};
use crate::vcpu::{Place, Vcpu};

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Faulted {
    /// Answered, or its cause is gone: enter the guest again.
    Again,
    /// Another vCPU holds the VM: park, then let the guest repeat the access.
    Park,
    /// The service has nothing to do with it.
    NotOurs,
}

/// What a store to a protected page turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Mirrored,
    /// It changes what something of ours stands for.
    Structural(Ipa),
    /// It cannot be emulated.
    Undecodable(Ipa),
    /// It was the store that a sample waited for; the page may be written now.
    Sampled,
    /// The page may be written: the fault is from a moment ago.
    Stale(Ipa),
    /// The guest's tables do not lead to such a page.
    Unexplained,
    /// The guest walks its tables in a way that EL2 cannot follow.
    Unwalkable,
    /// They lead to what the VM may not write.
    Foreign,
}

/// A store that may be emulated (rule 11).
#[derive(Clone, Copy, Debug)]
struct Store {
    value: u64,
    /// STLR: what came before it is observed before it.
    ordered: bool,
}

/// PSTATE.EL, bits 3:2.
pub(super) const EL: u64 = 0b1100;
/// PSTATE.PAN.
pub(super) const PAN: u64 = 1 << 22;
/// SCTLR_EL1.C.
const SCTLR_C: u64 = 1 << 2;

/// A store was refused by stage 2. HPFAR_EL2 does not say where: the guest's own tables do (rule 10).
pub(crate) fn on_permission<M: Machine>(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut M,
    abort: DataAbort,
) -> Faulted {
    let refused = matches!(abort.status(), FaultStatus::Permission(_));
    if !place.vm.paging.is_used() || !refused || abort.is_on_table_walk() {
        return Faulted::NotOurs;
    }
    let far = machine.syndrome().far;
    let regs = registers(machine);
    let pstate = machine.guest(GuestRegister::Pstate);
    let privilege = privilege(pstate);
    let by = stored_by(machine, Va::truncated(far), pstate);
    let store = emulable(vcpu, abort, far, privilege);
    let pc = machine.guest(GuestRegister::Pc);
    let began_here = |access: &VmAccess<'_, '_, M>| {
        let at = whole::instruction(&mut access.noted(), &regs, (pc, privilege));
        at.is_some_and(|instruction| whole::is_aligned(instruction, |n| vcpu.gpr.get(n)))
    };
    if store.is_some_and(|store| store.ordered) {
        machine.complete_accesses();
    }
    let seen = place.vm.with_tables(machine, From::Spare, |state, access| {
        judge(
            state,
            access,
            &regs,
            (Va::truncated(far), privilege),
            &by,
            store,
            began_here,
        )
    });
    let paging = &place.vm.paging;
    match seen {
        Seen::Mirrored => {
            machine.skip_instruction();
            Faulted::Again
        }
        Seen::Structural(ipa) => edit(vcpu, place, machine, |state, access, parked| {
            state.tables.soften(access, ipa, parked);
        }),
        Seen::Undecodable(ipa) => {
            paging.count(PagingCounter::Undecodable, 1);
            edit(vcpu, place, machine, |state, access, parked| {
                state.tables.demote_page(access, ipa, parked);
            })
        }
        Seen::Sampled => Faulted::Again,
        Seen::Stale(page) => stale(place, machine, page),
        Seen::Unexplained => astray::unexplained(vcpu, place, machine, &regs),
        // Which page refuses the store nobody can say, and it would do so for ever: none may any more.
        Seen::Unwalkable => match nest(vcpu, place, machine, PagingRefusal::Violation) {
            Faulted::NotOurs => astray::once_more(vcpu, place, machine),
            answer => answer,
        },
        Seen::Foreign => Faulted::NotOurs,
    }
}

/// The store, if it is one that may be emulated, as far as the syndrome and PSTATE say.
fn emulable(vcpu: &Vcpu, abort: DataAbort, far: u64, privilege: Privilege) -> Option<Store> {
    let access = abort.access().ok()?;
    let whole = access.is_write() && access.size() == AccessSize::Double && far.is_multiple_of(8);
    let kernel = privilege != Privilege::El0;
    (whole && kernel).then(|| Store {
        value: access.stored(vcpu.gpr.get(access.register())),
        ordered: access.is_ordered(),
    })
}

/// Finds what a store hit, and does it if it may.
fn judge<M: Machine>(
    state: &mut State,
    access: &mut VmAccess<'_, '_, M>,
    regs: &Stage1Regs,
    (va, privilege): (Va, Privilege),
    by: &StoredBy,
    store: Option<Store>,
    began_here: impl Fn(&VmAccess<'_, '_, M>) -> bool,
) -> Seen {
    let mut noted = access.noted();
    let walked = regs.translate(&mut noted, va, privilege, AccessKind::Write);
    let read = noted.read();
    let found = match walked {
        Ok(found) => found,
        Err(Stage1Fault::Unsupported) => return Seen::Unwalkable,
        Err(_) => return Seen::Unexplained,
    };
    let page = found.ipa.align_down(PAGE_SIZE);
    if !state.tables.is_watched(page) {
        return unwatched(state, access, page);
    }
    let mair = Mair::new(by.mair);
    let cached = found.leaf.is_some_and(|leaf| {
        mair.memory(leaf.attrs.attr_index) == MemoryType::WriteBack && regs.sctlr & SCTLR_C != 0
    });
    let Some(store) = store.filter(|_| cached) else {
        return Seen::Undecodable(page);
    };
    if va.raw().is_multiple_of(PAGE_SIZE) && !began_here(access) {
        return Seen::Undecodable(page);
    }
    match state.tables.store(access, found.ipa, store.value) {
        Stored::Mirrored => {
            if let Some(read) = read {
                state.tables.remember(access, (va, page), by, read);
            }
            Seen::Mirrored
        }
        Stored::Structural => Seen::Structural(found.ipa),
        Stored::NotWatched => Seen::Stale(page),
    }
}

/// What a store was, or a walker's, that stage 2 refused at a page that is not watched.
fn unwatched<M: Machine>(state: &mut State, access: &mut VmAccess<'_, '_, M>, page: Ipa) -> Seen {
    if state.tables.wrote(access, page).is_some() {
        return Seen::Sampled;
    }
    match access.stage2.lookup(access.memory, page) {
        // Only such pages are ever protected. Walks that lead to a device are refused by HCR_EL2.PTW.
        Ok(leaf)
            if leaf.attrs.access.writes() && leaf.attrs.memory == Stage2Memory::NormalWriteBack =>
        {
            Seen::Stale(page)
        }
        _ => Seen::Foreign,
    }
}

/// Drops what a TLB may have kept of what stage 2 said of the IPA alone, which survives a flush of stage 1.
fn stale<M: Machine>(place: &'static Place, machine: &mut M, page: Ipa) -> Faulted {
    place.vm.paging.count(PagingCounter::Stale, 1);
    let end = Ipa::truncated(page.raw().saturating_add(PAGE_SIZE));
    machine.invalidate_leaves(place.vm.vttbr(), page, end, PAGE_SIZE);
    Faulted::Again
}

/// A structural edit by a vCPU, behind which it repeats its access.
pub(super) fn edit<M: Machine>(
    vcpu: &Vcpu,
    place: &'static Place,
    machine: &mut M,
    work: impl FnOnce(&mut State, &mut VmAccess<'_, '_, M>, &penumbra_paging::Parked),
) -> Faulted {
    let Some(id) = vm_of(vcpu) else {
        return Faulted::NotOurs;
    };
    let done = held(
        place.system,
        id,
        Holder::Sibling,
        machine,
        |machine, parked| {
            place.vm.with_tables(machine, From::Spare, |state, access| {
                work(state, access, parked);
            });
        },
    );
    if done.is_none() {
        return Faulted::Park;
    }
    place.vm.paging.look_if_detached(machine);
    Faulted::Again
}

/// Stage 2 refused a walk of the guest's stage 1 at `ipa`, a page.
pub(crate) fn on_walk<M: Machine>(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut M,
    status: FaultStatus,
    ipa: Ipa,
) -> Faulted {
    let paging = &place.vm.paging;
    if !paging.is_used() {
        return Faulted::NotOurs;
    }
    let in_window = ipa.raw() & WINDOW_BIT != 0;
    match status {
        FaultStatus::Permission(_) => {
            // Of RAM, only a walker that writes is refused by what may be read: TCR_EL1.HA or HD is set.
            if !in_window {
                let seen = place.vm.with_tables(machine, From::Spare, |state, access| {
                    let watched = state.tables.is_watched(ipa);
                    (!watched).then(|| unwatched(state, access, ipa))
                });
                match seen {
                    None => {}
                    Some(Seen::Sampled) => return Faulted::Again,
                    Some(Seen::Stale(page)) => return stale(place, machine, page),
                    Some(_) => return Faulted::NotOurs,
                }
            }
            let restored = trapped::restore(vcpu, place, machine, None);
            let answer = nest(vcpu, place, machine, PagingRefusal::Violation);
            if answer == Faulted::NotOurs && restored {
                Faulted::Again
            } else {
                answer
            }
        }
        _ if in_window => {
            let mapped = place.vm.with_tables(machine, From::Spare, |_, access| {
                access.stage2.lookup(access.memory, ipa).is_ok()
            });
            if mapped {
                // It was being remade.
                return Faulted::Again;
            }
            let half = half_at(machine, ipa);
            if !trapped::restore(vcpu, place, machine, half) {
                return Faulted::NotOurs;
            }
            paging.count(PagingCounter::WindowFaults, 1);
            // A root of the lower half that was trapped is no loss: its space has ended.
            if half != Some(Half::Low) || !paging.has_trapped() {
                paging.lose(place, vcpu.id.index(), machine.counter());
            }
            Faulted::Again
        }
        _ => Faulted::NotOurs,
    }
}

/// Stage 2 refused an access at `ipa` for want of its Access flag: only a sample clears one. `by_walk`: a
/// walk of the guest's stage 1 fetched from there.
pub(crate) fn on_access_flag<M: Machine>(
    place: &'static Place,
    machine: &M,
    (ipa, by_walk): (Ipa, bool),
) -> Faulted {
    if !place.vm.paging.is_used() {
        return Faulted::NotOurs;
    }
    place.vm.with_tables(machine, From::Spare, |state, access| {
        match state.tables.access_fault(access, ipa, by_walk) {
            Accessed::Touched => Faulted::Again,
            Accessed::Walked(..) => {
                place.vm.paging.sampled(machine.counter());
                Faulted::Again
            }
            // Another core has just given the flag back, or ended the sample.
            Accessed::Stranger => match access.stage2.lookup(access.memory, ipa) {
                Ok(leaf) if leaf.attrs.accessed => Faulted::Again,
                _ => Faulted::NotOurs,
            },
        }
    })
}

/// The TLB held two entries for one address. What the VM has cached is gone by now; from here on it is
/// nested.
pub(crate) fn on_conflict<M: Machine>(
    vcpu: &Vcpu,
    place: &'static Place,
    machine: &mut M,
) -> Faulted {
    if place.vm.paging.is_used() {
        nest(vcpu, place, machine, PagingRefusal::Violation)
    } else {
        Faulted::NotOurs
    }
}

/// Tables that are given back at a fault of a VM that is nested.
const GIVEN_BACK: u32 = 2;

/// Makes a VM nested whose guest does what the service does not bear: at once, and what that leaves is given back at
/// this fault's next times, at stores, and by the manager. `NotOurs` if nothing is left.
pub(super) fn nest<M: Machine>(
    vcpu: &Vcpu,
    place: &'static Place,
    machine: &mut M,
    why: PagingRefusal,
) -> Faulted {
    let paging = &place.vm.paging;
    let fresh = paging.mode() != PagingMode::Nested;
    if fresh {
        paging.count(PagingCounter::Violations, 1);
        paging.set_mode(PagingMode::Nested);
        paging.refuse(why);
    }
    let (roots, left) = paging.state(machine, |state| {
        (state.tables.has_roots(), state.tables.is_used())
    });
    let mut answer = if fresh || left {
        Faulted::Again
    } else {
        Faulted::NotOurs
    };
    if roots {
        answer = edit(vcpu, place, machine, |state, access, parked| {
            state.relayout = None;
            // Roots that are left go at the next time, and are as good as before until then.
            let _all = state.tables.nest(access, parked);
            paging.next_generation();
        });
    } else if left {
        place.vm.with_tables(machine, From::Spare, |state, access| {
            if state.tables.wind_up(access, GIVEN_BACK) {
                // No TLB holds any more that a page is read-only.
                access.flush();
            }
        });
    }
    answer
}

/// Whose rights an access at this PSTATE has. LDTR and its kind at EL1 are not told apart.
const fn privilege(pstate: u64) -> Privilege {
    if pstate & EL == 0 {
        Privilege::El0
    } else if pstate & PAN != 0 {
        Privilege::El1Pan
    } else {
        Privilege::El1
    }
}

/// The VM of a vCPU.
pub(super) fn vm_of(vcpu: &Vcpu) -> Option<VmId> {
    VmId::new(u64::try_from(vcpu.id.vm()).ok()?, penumbra_abi::MAX_VMS)
}

/// Both halves, for loops.
pub(super) const HALVES: [Half; 2] = [Half::Low, Half::High];
