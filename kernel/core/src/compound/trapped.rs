//! Trapped roots: HCR_EL2.TVM lets EL2 see every write of the registers that control stage 1, carry it
//! out, and put the compound root in place of a root that has a space.
//!
//! Each vCPU remembers the roots that it has written lately. One that it knows is exchanged, or
//! written as it is, by [`known`] at the first look at the exit; all else comes to [`written`].
//!
//! **TLBs.** No root tags an entry, only the ASID does. So a compound root is entered for the first
//! time on a vCPU behind a flush of its stage 1, and from then on that root is exchanged at every write:
//! no entry comes from the guest's own root any more. When its ASID changes, or another compound root
//! had that ASID, the ASID's entries go first. That two roots *without* spaces, or one with and one
//! without, take turns under one ASID and map the same VAs is ruled out by the contract.

mod cache;
pub mod vectors;

use core::sync::atomic::{AtomicU32, Ordering};

use penumbra_abi::{PAGING_SPACES, PagingMode, PagingRefusal, paging_roots};
use penumbra_paging::{Stage1Regs, WINDOW_BIT};
use penumbra_trap::sysreg::Stage1Reg;
use penumbra_vmsa::{Half, Ipa, Ttbr};

pub(crate) use cache::RootCache;
use cache::{Flush, SLOTS, Slot, asid_of};

use super::fault::HALVES;
use super::roots::{registers, restore_root};
use super::spaces::{end_trapping, low_space};
use super::{Faulted, From, Paging, State, VmAccess, refusal};
use crate::machine::{Core, GuestRegister, Machine};
use crate::vcpu::{Counter, Deferred, Place, Vcpu};

/// What a TTBR says of its root: address and CnP, but for the bit that leads into the window.
pub(super) const ROOT: u64 = ((1 << 48) - 1) & !WINDOW_BIT;
/// Writes, of one root or of all registers, after which a longer look is taken.
pub(super) const LOOK: u64 = 1024;
/// Trapped writes of a vCPU over which their rate is measured, at least.
const RATE_WRITES: u64 = 4096;
/// Trapped writes in a second that are a storm: at some 200 cycles each about 1 % of a core.
const STORM: u64 = 50_000;
/// SCTLR_EL1: M, C and EE say whether and how there are walks.
const SCTLR_WALKS: u64 = 1 << 0 | 1 << 2 | 1 << 25;

/// A write of TTBR0_EL1 or TTBR1_EL1 as it is most often: of a value that the vCPU knows, or of the root that is
/// in TTBR1_EL1 with another ASID. Returns whether it was done; the PC is not moved.
///
/// The hal's vectors do the same in front of this, for values from X0 to X15 (see [`vectors`]).
#[inline]
pub(crate) fn known(
    vcpu: &mut Vcpu,
    place: &Place,
    machine: &mut impl Machine,
    half: Half,
    value: u64,
) -> bool {
    let roots = &mut vcpu.roots;
    if !roots.holds_for(place.vm.paging.generation()) {
        return false;
    }
    let raw = value & !WINDOW_BIT;
    match half {
        Half::Low => {
            let asid_mask = roots.asid_mask;
            let Some(slot) = roots.find(raw) else {
                return false;
            };
            let writes = slot.writes.wrapping_add(1);
            if slot.value != raw || writes >= LOOK {
                return false;
            }
            if slot.is_exchanged()
                && machine.guest(GuestRegister::Ttbr1El1) & asid_mask != slot.asid
            {
                return false;
            }
            slot.writes = writes;
            machine.set_guest(GuestRegister::Ttbr0El1, slot.planted);
        }
        Half::High => {
            let old = machine.guest(GuestRegister::Ttbr1El1);
            if (old ^ value) & ROOT != 0 {
                return false;
            }
            // Whatever stands for this root goes on to do so.
            machine.set_guest(GuestRegister::Ttbr1El1, raw | old & WINDOW_BIT);
        }
    }
    true
}

/// Any write that HCR_EL2.TVM traps.
pub(crate) fn written<M: Machine>(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut M,
    register: Stage1Reg,
    value: u64,
) -> Option<Deferred> {
    place.shared.count(Counter::RootTraps);
    if measure(vcpu, place, machine) == Faulted::Park {
        return Some(Deferred::Nothing);
    }
    match register {
        Stage1Reg::Ttbr0 => low(vcpu, place, machine, value),
        Stage1Reg::Ttbr1 => high(vcpu, place, machine, value),
        Stage1Reg::Sctlr => geometry(vcpu, place, machine, (GuestRegister::SctlrEl1, value)),
        Stage1Reg::Tcr => geometry(vcpu, place, machine, (GuestRegister::TcrEl1, value)),
        Stage1Reg::Esr => machine.set_guest(GuestRegister::EsrEl1, value),
        Stage1Reg::Far => machine.set_guest(GuestRegister::FarEl1, value),
        Stage1Reg::Afsr0 => machine.set_guest(GuestRegister::Afsr0El1, value),
        Stage1Reg::Afsr1 => machine.set_guest(GuestRegister::Afsr1El1, value),
        Stage1Reg::Mair => machine.set_guest(GuestRegister::MairEl1, value),
        Stage1Reg::Amair => machine.set_guest(GuestRegister::AmairEl1, value),
        Stage1Reg::Contextidr => machine.set_guest(GuestRegister::ContextidrEl1, value),
    }
    if place.vm.paging.is_ending() {
        // Each write comes here until the last space is gone.
        forget(vcpu, place, machine);
    }
    machine.skip_instruction();
    None
}

/// TTBR0_EL1, of a root that the vCPU does not know, or not with this ASID.
fn low<M: Machine>(vcpu: &mut Vcpu, place: &'static Place, machine: &mut M, value: u64) {
    place
        .vm
        .paging
        .change(machine, |state| state.seen.note(value & ROOT, 1));
    install(vcpu, place, machine, value);
}

/// Puts a root into TTBR0_EL1, or its compound root if it has a space or gets one now.
pub(super) fn install<M: Machine>(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut M,
    value: u64,
) {
    let paging = &place.vm.paging;
    let mut regs = registers(machine);
    regs.ttbr0 = Ttbr::new(value & !WINDOW_BIT);
    let root = value & ROOT;
    let roots = &mut vcpu.roots;
    let (space, generation) = place.vm.with_tables(machine, From::Spare, |state, access| {
        if !roots.holds_for(paging.generation()) {
            roots.report(&mut state.seen);
        }
        if let Some(slot) = roots.room_for(root) {
            let old = core::mem::replace(slot, Slot::EMPTY);
            state.seen.note(old.value & ROOT, old.writes);
        }
        let space = space_for(paging, state, access, &regs);
        // Under the lock: a space made later has another generation.
        (space, paging.generation())
    });
    if !roots.holds_for(generation) {
        roots.renew(generation, regs.tcr);
    }
    let ttbr1 = machine.guest(GuestRegister::Ttbr1El1);
    let asid_high = ttbr1 & roots.asid_mask;
    let raw = value & !WINDOW_BIT;
    let asid = asid_of(raw, ttbr1, roots.asid_mask);
    let window = match space {
        None => {
            machine.set_guest(GuestRegister::Ttbr0El1, raw);
            0
        }
        Some(space) => {
            match roots.enter(space, asid) {
                Flush::All => machine.set_root(Half::Low, raw | WINDOW_BIT),
                Flush::Asid => {
                    machine.set_guest(GuestRegister::Ttbr0El1, raw | WINDOW_BIT);
                    machine.flush_asid(asid);
                }
                Flush::Nothing => {
                    machine.set_guest(GuestRegister::Ttbr0El1, raw | WINDOW_BIT);
                }
            }
            WINDOW_BIT
        }
    };
    if let Some(slot) = roots.room_for(root) {
        *slot = Slot {
            value: raw,
            planted: raw | window,
            asid: asid_high,
            writes: 0,
        };
    }
}

/// The space of the root in TTBR0_EL1: one that exists, or is wanted and can be made now.
///
/// One that exists serves until it is gone, in a VM that is nested as well: the vCPU's TLB may hold what its compound root
/// says, and would meet what the guest's own says.
fn space_for<M: Machine>(
    paging: &Paging,
    state: &mut State,
    access: &mut VmAccess<'_, '_, M>,
    regs: &Stage1Regs,
) -> Option<usize> {
    let root = regs.ttbr0.raw() & ROOT;
    let exists = low_space(state, root).is_some();
    let may_make = paging.mode() != PagingMode::Nested && !paging.is_ending();
    if !exists && (!may_make || !state.seen.is_wanted(root)) {
        return None;
    }
    if !exists && state.tables.is_empty(access, Ipa::truncated(root)) {
        // It stands for no process: a kernel rests on it between two roots, under any ASID.
        state.seen.settle(root, PagingRefusal::Empty);
        return None;
    }
    match state.tables.plant(access, regs, Half::Low) {
        Ok(_) => {
            state.seen.settle(root, PagingRefusal::None);
            if !exists {
                // Every vCPU that knows the root as it is learns better.
                paging.next_generation();
            }
            low_space(state, root).map(|(number, _)| number)
        }
        Err(error) => {
            state.seen.settle(root, refusal(error));
            None
        }
    }
}

/// TTBR1_EL1, with another root than what is there.
fn high<M: Machine>(vcpu: &Vcpu, place: &'static Place, machine: &mut M, value: u64) {
    let paging = &place.vm.paging;
    let mut regs = registers(machine);
    let raw = value & !WINDOW_BIT;
    regs.ttbr1 = Ttbr::new(raw);
    let old = machine.guest(GuestRegister::Ttbr1El1);
    let mut new = raw;
    if (old ^ value) & ROOT == 0 {
        new |= old & WINDOW_BIT;
        return machine.set_guest(GuestRegister::Ttbr1El1, new);
    }
    if paging.traps_roots() && paging.mode() != PagingMode::Nested {
        let has_space = place.vm.with_tables(machine, From::Spare, |state, access| {
            let known = (0..PAGING_SPACES)
                .filter_map(|number| state.tables.space(number))
                .any(|space| space.half == Half::High && space.root.raw() == raw & ROOT);
            known && state.tables.plant(access, &regs, Half::High).is_ok()
        });
        if has_space {
            new |= WINDOW_BIT;
        }
    }
    paging.set_planted(vcpu.id.index(), new & WINDOW_BIT != 0);
    if (old | new) & WINDOW_BIT == 0 {
        machine.set_guest(GuestRegister::Ttbr1El1, new);
    } else {
        // Kernel entries are global, and may differ in size from what this root says.
        machine.set_root(Half::High, new);
    }
}

/// SCTLR_EL1 or TCR_EL1: where they change what a root means, the guest's own roots come back first
/// (rule 4); a later write of a root looks at the conditions again.
fn geometry<M: Machine>(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut M,
    (register, value): (GuestRegister, u64),
) {
    let old = machine.guest(register);
    let matters = match register {
        GuestRegister::SctlrEl1 => SCTLR_WALKS,
        _ => u64::MAX,
    };
    if (old ^ value) & matters != 0 {
        restore(vcpu, place, machine, None);
        forget(vcpu, place, machine);
        // Rule 13.
        machine.complete_accesses();
    }
    machine.set_guest(register, value);
}

/// Puts the guest's own roots back where there are aliases, of one half or of both. Whether there were any. The TLB
/// may meet the guest's own root from here on, so what the vCPU knows of roots ends (rule 6).
pub(super) fn restore<M: Machine>(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut M,
    only: Option<Half>,
) -> bool {
    let mut restored = false;
    for half in HALVES {
        if only.is_none_or(|only| only == half) && restore_root(machine, half) {
            restored = true;
            if half == Half::High {
                place.vm.paging.set_planted(vcpu.id.index(), false);
            }
        }
    }
    if restored {
        forget(vcpu, place, machine);
    }
    restored
}

/// What the vCPU knows of roots does not hold any more.
pub(super) fn forget(vcpu: &mut Vcpu, place: &Place, machine: &impl Core) {
    report(vcpu, place, machine);
    vcpu.roots.generation = 0;
}

/// Tells the VM how often the vCPU has written its roots.
pub(crate) fn report(vcpu: &mut Vcpu, place: &Place, machine: &impl Core) {
    if vcpu.roots.generation != 0 {
        let paging = &place.vm.paging;
        paging.change(machine, |state| vcpu.roots.report(&mut state.seen));
    }
}

/// Measures the rate of trapped writes, and begins to end trapping when it is a storm. `Park` if another vCPU
/// holds the VM just then.
fn measure<M: Machine>(vcpu: &mut Vcpu, place: &'static Place, machine: &mut M) -> Faulted {
    let paging = &place.vm.paging;
    if paging.is_ending() {
        return end_trapping(vcpu, place, machine);
    }
    let writes = place.shared.root_traps();
    let (then, since) = vcpu.roots.measured;
    let more = writes.wrapping_sub(then);
    if more < RATE_WRITES {
        return Faulted::Again;
    }
    let now = machine.counter();
    let limit = more.saturating_mul(place.board.facts.counter_hz) / STORM;
    let storms = now.saturating_sub(since) < limit && paging.traps_roots();
    vcpu.roots.measured = (writes, now);
    if !storms {
        return Faulted::Again;
    }
    // From here on each write, and there are many, ends a space; behind the last one nothing is trapped.
    paging.begin_to_end();
    end_trapping(vcpu, place, machine)
}

/// Lets the cores of the vCPU's VM see that nothing is trapped any more.
pub(super) fn retrap<M: Machine>(vcpu: &Vcpu, place: &'static Place, machine: &mut M) {
    if let Some(id) = super::fault::vm_of(vcpu) {
        place.system.note_traps(id);
        place.system.alert(id, machine);
    }
}

impl Paging {
    /// Which spaces and roots there are has this number.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Where it is.
    pub(crate) const fn generation_cell(&self) -> &AtomicU32 {
        &self.generation
    }

    /// What vCPUs remember of roots holds no more. Under the lock of the tables, or while the VM is held.
    pub(crate) fn next_generation(&self) {
        // 0 is no generation.
        let next = self.generation().wrapping_add(1).max(1);
        self.generation.store(next, Ordering::Release);
    }

    /// Whether roots are trapped, or were.
    pub(super) fn has_trapped(&self) -> bool {
        self.generation() != 0
    }

    /// Whether roots are to be trapped. Whatever the mode: a root of the lower half that has a space is exchanged until that
    /// has gone.
    pub(crate) fn traps_roots(&self) -> bool {
        self.roots() & paging_roots::TRAPPED != 0
    }

    /// Traps roots no more. The VM is held, or nothing has been made of them yet.
    pub(crate) fn stop_trapping(&self) {
        let sticky = self.roots() & paging_roots::STICKY;
        self.set_roots(sticky);
        self.next_generation();
    }
}
