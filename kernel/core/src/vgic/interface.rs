//! The list registers of the core that runs a vCPU, and the short way into them.

use core::sync::atomic::Ordering::SeqCst;

use penumbra_abi::{GicVersion, MAX_VCPUS_PER_VM};

use super::private::{PrivateIrqs, SGIS, TIMER};
use super::vcpu_set::Bits;
use super::{Hardware, ListReg, VcpuSet, Vgic};
use crate::machine::{VirtualInterfaceFrame, intid};

/// List registers that an interface can have.
pub(super) const MAX_LIST_REGISTERS: usize = 16;
/// The virtual timer.
const VTIMER: u32 = intid::VIRTUAL_TIMER;
/// No list register, or no interrupt.
pub(super) const NONE: u8 = u8::MAX;

/// What a core knows of the list registers of the vCPU that is resident on it, and of its own
/// unfinished questions to others. Keep it with the vCPU.
#[derive(Debug)]
pub struct CpuInterface {
    /// The interface while the vCPU is not resident.
    pub(super) frame: VirtualInterfaceFrame,
    /// What the list registers held that a rebuild or a save has found in use.
    pub(super) entries: [u64; MAX_LIST_REGISTERS],
    /// List registers that exist.
    pub(super) all: u32,
    /// List registers with an entry in `intids`: they hold it, or held it and are empty now.
    pub(super) used: u32,
    /// What the list registers hold.
    pub(super) intids: [u8; MAX_LIST_REGISTERS],
    /// The list registers that hold SGIs and PPIs.
    pub(super) slots: [u8; 32],
    /// Sources of SGIs that are active, in a list register or not (GICv2).
    pub(super) active_sources: [u8; 16],
    /// Level-triggered PPIs that are held and pending because of their latch.
    pub(super) latched: u32,
    /// Something that belongs in a list register waits in memory for one. What comes then goes the
    /// long way: it may be less urgent than what waits.
    pub(super) overflow: bool,
    /// An SGI may go the shortest way: the guest has a GICv3, and nothing overflows.
    pub(super) direct: bool,
    /// The underflow maintenance interrupt is asked for.
    pub(super) underflow: bool,
    /// The one for "none is pending" is.
    pub(super) no_pending: bool,
    /// This core's physical PPI 27 is active, or was and the guest has deactivated it since.
    pub(super) timer_active: bool,
    /// vCPUs that were asked, and the register for which.
    pub(super) asked: VcpuSet,
    pub(super) asked_for: u64,
    /// [`Dialogue::folds`](super::spi::Dialogue) of the vCPUs that were asked.
    pub(super) tickets: [u32; MAX_VCPUS_PER_VM],
}

impl CpuInterface {
    /// The interface of a vCPU that is about to be switched on.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "const")]
    pub const fn new() -> Self {
        Self {
            intids: [NONE; MAX_LIST_REGISTERS],
            slots: [NONE; 32],
            ..Self::vacant()
        }
    }

    /// The interface of no vCPU: all zero, and not to be used. A static of these takes no room in
    /// the image.
    #[must_use]
    pub const fn vacant() -> Self {
        Self {
            frame: VirtualInterfaceFrame {
                vmcr: 0,
                ap0r: [0; 4],
                ap1r: [0; 4],
            },
            entries: [0; MAX_LIST_REGISTERS],
            all: 0,
            used: 0,
            intids: [0; MAX_LIST_REGISTERS],
            slots: [0; 32],
            active_sources: [0; 16],
            latched: 0,
            overflow: false,
            direct: false,
            underflow: false,
            no_pending: false,
            timer_active: false,
            asked: VcpuSet::EMPTY,
            asked_for: 0,
            tickets: [0; MAX_VCPUS_PER_VM],
        }
    }

    /// The list register in which SGI or PPI `intid` can be put without looking further: its own
    /// that it has left, or one in which no SPI was. `empty` are those that hold nothing.
    #[inline]
    fn slot_for(&mut self, irqs: &PrivateIrqs, intid: usize, empty: u32) -> Option<usize> {
        if self.overflow {
            return None;
        }
        let own = usize::from(*self.slots.get(intid)?);
        if own < MAX_LIST_REGISTERS {
            return (empty & 1 << own != 0).then_some(own);
        }
        self.claim(irqs, intid, empty)
    }

    /// Notes what the list registers in use hold, and returns which they are.
    #[inline(always)]
    pub(super) fn read_list_registers<M: Hardware + ?Sized>(&mut self, machine: &M) -> u32 {
        let live = self.used & !machine.empty_list_registers();
        if live != 0 {
            self.note_entries(live, machine);
        }
        live
    }

    #[inline(never)]
    fn note_entries<M: Hardware + ?Sized>(&mut self, live: u32, machine: &M) {
        for slot in Bits(live) {
            if let Some(entry) = self.entries.get_mut(slot) {
                *entry = machine.list_register(slot);
            }
        }
    }

    /// Forgets the SGIs and PPIs that were in list registers, all of which are empty; false where there
    /// was also an SPI, and then a fold forgets the rest. Nobody may have asked for anything: what was asked
    /// concerns what is held, and is answered by a rebuild.
    pub(super) fn forget_private(&mut self, irqs: &PrivateIrqs) -> bool {
        for slot in Bits(self.used) {
            let Some(entry) = self.intids.get_mut(slot) else {
                continue;
            };
            let Some(own) = self.slots.get_mut(usize::from(*entry)) else {
                return false;
            };
            *own = NONE;
            *entry = NONE;
        }
        let timer = irqs.held.load(SeqCst) & !irqs.level.load(SeqCst) & TIMER;
        self.timer_active &= timer == 0;
        self.used = 0;
        self.latched = 0;
        irqs.held.store(0, SeqCst);
        true
    }

    /// Takes the first list register for SGI or PPI `intid`, where none has been used.
    #[inline]
    fn take_first(&mut self, irqs: &PrivateIrqs, intid: u32) -> usize {
        if let (Some(entry), Some(own)) = (
            self.intids.first_mut(),
            self.slots.get_mut(intid as usize & 31),
        ) {
            *entry = (intid & 31) as u8;
            *own = 0;
        }
        self.used = 1;
        irqs.held.store(1 << (intid & 31), SeqCst);
        0
    }

    /// Whether an SGI of a GICv3 guest may go the shortest way. Only while the vCPU is resident.
    #[inline]
    pub(crate) const fn is_direct(&self) -> bool {
        self.direct
    }

    /// The vCPU may take the interrupt in `entry` before it repeats a read that waits for answers,
    /// and know better by then.
    pub(super) fn forget_answers(&mut self, entry: ListReg) {
        if entry.is_pending() {
            self.asked = VcpuSet::EMPTY;
        }
    }

    /// Takes an empty list register for SGI or PPI `intid`, which is in none.
    #[cold]
    fn claim(&mut self, irqs: &PrivateIrqs, intid: usize, empty: u32) -> Option<usize> {
        let unused = empty & !self.used;
        let slot = if unused != 0 {
            Bits(unused).next()?
        } else {
            Bits(empty).find(|&slot| self.intids.get(slot).is_some_and(|&intid| intid < 32))?
        };
        let entry = self.intids.get_mut(slot)?;
        let evicted = usize::from(*entry);
        *entry = u8::try_from(intid).ok()?;
        let mut held = irqs.held.load(SeqCst);
        if let Some(old) = self.slots.get_mut(evicted) {
            *old = NONE;
            held &= !(1 << evicted);
            // An empty list register of the timer has deactivated the physical interrupt.
            self.timer_active &= 1 << evicted != TIMER;
        }
        *self.slots.get_mut(intid)? = u8::try_from(slot).ok()?;
        self.used |= 1 << slot;
        irqs.held.store(held | 1 << intid, SeqCst);
        Some(slot)
    }
}

impl Vgic {
    /// Puts what became deliverable to `vcpu`, resident on this core, into list registers and serves
    /// what others asked of it. Call it before the vCPU runs guest code when the vCPU was in a
    /// [`VcpuSet`] or its core was kicked. Returns other vCPUs that got something to flush.
    pub fn flush<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        if self.flush_shortly(vcpu, interface, machine) {
            VcpuSet::EMPTY
        } else {
            self.flush_more(vcpu, interface, machine)
        }
    }

    /// As [`flush`](Self::flush), if there is nothing to do or one SGI that can go the shortest way. False,
    /// and nothing done, where there is more.
    #[inline(always)]
    pub(crate) fn flush_shortly<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> bool {
        let Some(irqs) = self.private.get(vcpu) else {
            return true;
        };
        if irqs.work.load(SeqCst) != 0 {
            return false;
        }
        let pending = irqs.pending.load(SeqCst);
        if pending == 0 {
            return true;
        }
        let ready = pending & irqs.deliverable(self.groups.load(SeqCst));
        ready == 0 || Self::deliver_sgi(irqs, interface, machine, ready)
    }

    /// The rest of a flush.
    #[inline(never)]
    fn flush_more<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        let Some(irqs) = self.private.get(vcpu) else {
            return VcpuSet::EMPTY;
        };
        if irqs.work.load(SeqCst) == 0 {
            let ready = irqs.pending.load(SeqCst) & irqs.deliverable(self.groups.load(SeqCst));
            if self.deliver_edges(irqs, interface, machine, ready) {
                return VcpuSet::EMPTY;
            }
        }
        self.rebuild(vcpu, irqs, interface, machine)
    }

    /// The shortest way: `ready` is one SGI of a GICv3 guest, not active, and its own list register is
    /// empty. False, and nothing done, where it is not so.
    #[inline(always)]
    fn deliver_sgi<M: Hardware + ?Sized>(
        irqs: &PrivateIrqs,
        interface: &mut CpuInterface,
        machine: &mut M,
        ready: u32,
    ) -> bool {
        let intid = ready.trailing_zeros() as usize;
        let other = ready & (ready.wrapping_sub(1) | !SGIS | irqs.active.load(SeqCst));
        let own = usize::from(interface.slots.get(intid).copied().unwrap_or(NONE));
        if other != 0 || own >= MAX_LIST_REGISTERS || !interface.direct {
            return false;
        }
        if machine.empty_list_registers() & 1 << own == 0 {
            return false;
        }
        interface.asked = VcpuSet::EMPTY;
        irqs.pending.fetch_and(!ready, SeqCst);
        machine.set_list_register(own, private_entry(irqs, intid).pending().raw());
        true
    }

    /// Answers the maintenance interrupt on the core where `vcpu` is resident.
    pub fn on_maintenance<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        let Some(irqs) = self.private.get(vcpu) else {
            return VcpuSet::EMPTY;
        };
        self.rebuild(vcpu, irqs, interface, machine)
    }

    /// The physical virtual-timer PPI (27) was acknowledged and its priority dropped on this core,
    /// where `vcpu` is resident: hands it to the guest, which will deactivate it. While the guest
    /// has it disabled, it stays active and so does not fire again.
    pub fn inject_vtimer<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        if self.inject_vtimer_shortly(vcpu, interface, machine) {
            return VcpuSet::EMPTY;
        }
        let Some(irqs) = self.private.get(vcpu) else {
            return VcpuSet::EMPTY;
        };
        interface.timer_active = true;
        let deliverable = irqs.deliverable(self.groups.load(SeqCst)) & !irqs.active.load(SeqCst);
        let empty = machine.empty_list_registers() & interface.all;
        if deliverable & TIMER != 0
            && let Some(slot) = interface.slot_for(irqs, VTIMER as usize, empty)
        {
            write_list_register(machine, slot, vtimer_entry(irqs));
            return VcpuSet::EMPTY;
        }
        irqs.level.fetch_or(TIMER, SeqCst);
        self.rebuild(vcpu, irqs, interface, machine)
    }

    /// As [`inject_vtimer`](Self::inject_vtimer), if the list register that the timer had is free, or all
    /// are. False, and nothing done, where it is not so.
    #[inline(always)]
    pub(crate) fn inject_vtimer_shortly<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> bool {
        let Some(irqs) = self.private.get(vcpu) else {
            return true;
        };
        interface.asked = VcpuSet::EMPTY;
        let deliverable = irqs.deliverable(self.groups.load(SeqCst)) & !irqs.active.load(SeqCst);
        if deliverable & TIMER == 0 || interface.overflow {
            return false;
        }
        let mut own = usize::from(
            interface
                .slots
                .get(VTIMER as usize)
                .copied()
                .unwrap_or(NONE),
        );
        if own >= MAX_LIST_REGISTERS {
            // As after a switch.
            if interface.used != 0 {
                return false;
            }
            own = interface.take_first(irqs, VTIMER);
        } else if machine.empty_list_registers() & 1 << own == 0 {
            return false;
        }
        interface.timer_active = true;
        machine.set_list_register(own, vtimer_entry(irqs).raw());
        true
    }

    /// As [`has_deliverable`](Self::has_deliverable), for the vCPU that is resident on this core.
    #[must_use]
    pub fn has_deliverable_here<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &CpuInterface,
        machine: &M,
    ) -> bool {
        let live = interface.used & !machine.empty_list_registers();
        (live != 0 && is_any_pending(live, machine)) || self.has_deliverable(vcpu)
    }

    /// Puts SGIs and edge-triggered PPIs `ready` into free list registers; false where that cannot be
    /// done without a rebuild. What was done until then is complete.
    fn deliver_edges<M: Hardware + ?Sized>(
        &self,
        irqs: &PrivateIrqs,
        interface: &mut CpuInterface,
        machine: &mut M,
        ready: u32,
    ) -> bool {
        let active = irqs.active.load(SeqCst);
        if ready & (!irqs.edge.load(SeqCst) | active | TIMER) != 0 {
            return false;
        }
        interface.asked = VcpuSet::EMPTY;
        let sourced = if self.version() == GicVersion::V2 {
            SGIS
        } else {
            0
        };
        let mut empty = machine.empty_list_registers() & interface.all;
        for intid in Bits(ready) {
            // Held before the pending bit goes: whoever clears pending state must find it.
            let Some(slot) = interface.slot_for(irqs, intid, empty) else {
                return false;
            };
            let bit = 1u32 << intid;
            irqs.pending.fetch_and(!bit, SeqCst);
            let mut entry = private_entry(irqs, intid).pending();
            if sourced & bit != 0 {
                let Some((source, more)) = take_source(irqs, intid) else {
                    continue;
                };
                entry = entry.from_source(source);
                if more {
                    entry = entry.with_eoi();
                }
            }
            write_list_register(machine, slot, entry);
            empty &= !(1 << slot);
        }
        true
    }
}

/// The virtual timer in a list register.
#[inline]
fn vtimer_entry(irqs: &PrivateIrqs) -> ListReg {
    private_entry(irqs, VTIMER as usize)
        .linked(VTIMER)
        .pending()
}

/// Whether one of the list registers `live` holds an interrupt that is pending and not active.
#[inline(never)]
fn is_any_pending<M: Hardware + ?Sized>(live: u32, machine: &M) -> bool {
    Bits(live).any(|slot| {
        let entry = ListReg::from_raw(machine.list_register(slot));
        entry.is_pending() && !entry.is_active()
    })
}

/// Writes a list register where that is not the only thing done.
#[inline(never)]
pub(super) fn write_list_register<M: Hardware + ?Sized>(
    machine: &mut M,
    slot: usize,
    entry: ListReg,
) {
    machine.set_list_register(slot, entry.raw());
}

/// A list register for SGI or PPI `intid`, neither pending nor active yet.
#[inline]
pub(super) fn private_entry(irqs: &PrivateIrqs, intid: usize) -> ListReg {
    let group_1 = irqs.group.load(SeqCst) >> (intid & 31) & 1 != 0;
    // INTIDs of SGIs and PPIs are below 32.
    ListReg::new((intid & 31) as u32, irqs.priority(intid), group_1)
}

/// Takes the lowest source of SGI `sgi` off memory, and says whether there are more, which leaves the
/// SGI pending.
pub(super) fn take_source(irqs: &PrivateIrqs, sgi: usize) -> Option<(u32, bool)> {
    let sources = irqs.sources(sgi);
    if sources == 0 {
        return None;
    }
    let source = sources.trailing_zeros();
    let more = irqs.remove_sources(sgi, 1 << source) & !(1 << source) != 0;
    if more {
        irqs.pending.fetch_or(1 << (sgi & 15), SeqCst);
    }
    Some((source, more))
}
