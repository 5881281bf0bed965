//! The long way: everything out of the list registers, then the best candidates in.

use core::sync::atomic::Ordering::SeqCst;

use penumbra_abi::GicVersion;

use super::interface::{
    CpuInterface, MAX_LIST_REGISTERS, NONE, private_entry, take_source, write_list_register,
};
use super::private::{PrivateIrqs, SGIS, TIMER, select_groups};
use super::select::{Candidate, Selection};
use super::spi::{FIRST_SPI, SPI_WORDS, Spi, Spis};
use super::vcpu_set::Bits;
use super::{Hardware, ListReg, VcpuSet, Vgic};
use crate::machine::{GuestRegister, intid};

/// A rebuild in progress: the vCPU, and its VM's lock held.
pub(super) struct Rebuild<'a> {
    pub(super) vgic: &'a Vgic,
    pub(super) vcpu: usize,
    pub(super) irqs: &'a PrivateIrqs,
    pub(super) spis: &'a mut Spis,
    pub(super) interface: &'a mut CpuInterface,
}

impl Vgic {
    /// Rebuilds the list registers of `vcpu`, which is resident on this core. Returns other vCPUs
    /// that got something to flush: targets of SPIs that this vCPU no longer holds.
    pub(super) fn rebuild<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        irqs: &PrivateIrqs,
        interface: &mut CpuInterface,
        machine: &mut M,
    ) -> VcpuSet {
        let mut spis = self.spis.lock_inline();
        irqs.work.store(0, SeqCst);
        let live = interface.read_list_registers(machine);
        let mut rebuild = Rebuild {
            vgic: self,
            vcpu,
            irqs,
            spis: &mut spis,
            interface,
        };
        let mut released = Released::NONE;
        rebuild.fold(live, &mut released, machine);
        rebuild.resample_timer(machine);
        rebuild.place(live, machine);
        rebuild.settle_timer(machine);
        released.notify(self, &spis).without(vcpu)
    }
}

/// SPIs that a vCPU held until now.
pub(super) struct Released {
    spis: [u32; SPI_WORDS],
    /// Words of `spis` that are not zero.
    words: u32,
}

impl Released {
    /// None yet.
    pub(super) const NONE: Self = Self {
        spis: [0; SPI_WORDS],
        words: 0,
    };

    /// Tells the targets of those that can be delivered elsewhere.
    pub(super) fn notify(&self, vgic: &Vgic, spis: &Spis) -> VcpuSet {
        Bits(self.words).fold(VcpuSet::EMPTY, |flush, word| {
            let bits = self.spis.get(word).copied().unwrap_or(0);
            flush.union(vgic.spis_changed(spis, word, bits))
        })
    }
}

impl Rebuild<'_> {
    /// Moves what the list registers hold to memory, doing what others asked for. Their content is in
    /// the interface's `entries`, for those of bitmap `live`; the others are empty. Afterwards nothing is
    /// held by this vCPU.
    pub(super) fn fold<M: Hardware + ?Sized>(
        &mut self,
        live: u32,
        released: &mut Released,
        machine: &mut M,
    ) {
        for slot in Bits(self.interface.used) {
            let Some(intid) = self.interface.intids.get_mut(slot) else {
                continue;
            };
            let intid = u32::from(core::mem::replace(intid, NONE));
            let entry = self.old_entry(slot, live);
            if intid < FIRST_SPI {
                self.fold_private(intid as usize, entry, machine);
            } else if let Some(spi) = Spi::from_intid(intid) {
                self.fold_spi(spi, entry);
                let (word, bit) = spi.position();
                if let Some(bits) = released.spis.get_mut(word) {
                    *bits |= bit;
                    released.words |= 1 << word;
                }
            }
        }
        self.interface.used = 0;
        self.interface.latched = 0;
        self.irqs.held.store(0, SeqCst);
        if let Some(dialogue) = self.spis.dialogue(self.vcpu) {
            dialogue.folds = dialogue.folds.wrapping_add(1);
            dialogue.clear_pending = 0;
            dialogue.clear_active = 0;
            dialogue.clear_sources = [0; 16];
            dialogue.seen_pending = 0;
            dialogue.seen_active = 0;
        }
        if self.spis.release.any() {
            self.release_linked(machine);
        }
    }

    /// What list register `slot` holds; nothing if it is not in `live`.
    fn old_entry(&self, slot: usize, live: u32) -> ListReg {
        let entry = self.interface.entries.get(slot).copied().unwrap_or(0);
        if live >> (slot & 31) & 1 != 0 {
            ListReg::from_raw(entry)
        } else {
            ListReg::EMPTY
        }
    }

    /// Deactivates physical interrupts whose virtual ones were dropped.
    #[cold]
    fn release_linked<M: Hardware + ?Sized>(&mut self, machine: &mut M) {
        for word in 0..SPI_WORDS {
            for bit in Bits(self.spis.release.clear(word, u32::MAX)) {
                if let Some(physical) = self.spis.physical(Spi::at(word, bit)) {
                    machine.deactivate(physical);
                }
            }
        }
    }

    fn fold_private<M: Hardware + ?Sized>(
        &mut self,
        intid: usize,
        entry: ListReg,
        machine: &mut M,
    ) {
        if let Some(slot) = self.interface.slots.get_mut(intid) {
            *slot = NONE;
        }
        let bit = 1u32 << (intid & 31);
        let (mut drop_pending, mut drop_active, mut drop_sources) = (false, false, 0);
        if let Some(dialogue) = self.spis.dialogue(self.vcpu) {
            drop_pending = dialogue.clear_pending & bit != 0;
            drop_active = dialogue.clear_active & bit != 0;
            drop_sources = dialogue.clear_sources.get(intid).copied().unwrap_or(0);
        }
        if entry.is_active() && !drop_active {
            self.irqs.active.fetch_or(bit, SeqCst);
            if let Some(source) = self.interface.active_sources.get_mut(intid) {
                *source = (entry.source() & 7) as u8;
            }
        }
        let by_latch = (self.irqs.edge.load(SeqCst) & !TIMER | self.interface.latched) & bit != 0;
        if entry.is_pending() && by_latch && !drop_pending {
            if bit & SGIS != 0 && self.vgic.version() == GicVersion::V2 {
                let source = 1 << entry.source() & !u32::from(drop_sources);
                if source == 0 {
                    return;
                }
                self.irqs.add_sources(intid, source);
            }
            self.irqs.pending.fetch_or(bit, SeqCst);
        }
        if bit == TIMER {
            self.fold_timer(entry, drop_active, machine);
        }
    }

    /// The timer's list register is linked: if it is empty, the guest has deactivated the physical
    /// interrupt, unless that fired again since.
    fn fold_timer<M: Hardware + ?Sized>(
        &mut self,
        entry: ListReg,
        drop_active: bool,
        machine: &mut M,
    ) {
        if entry.is_pending() {
            self.irqs.level.fetch_or(TIMER, SeqCst);
        } else if !entry.is_active() {
            let fired_again = self.irqs.level.load(SeqCst) & TIMER != 0;
            self.interface.timer_active &= fired_again;
        } else if drop_active {
            machine.set_ppi_active(intid::VIRTUAL_TIMER, false);
            self.interface.timer_active = false;
        }
    }

    fn fold_spi(&mut self, spi: Spi, entry: ListReg) {
        let spis = &mut *self.spis;
        spis.mark_busy(spi.position().0);
        spis.held.put(spi, false);
        spis.seen_pending.put(spi, false);
        spis.seen_active.put(spi, false);
        let drop_pending = spis.clear_pending.put(spi, false);
        let drop_active = spis.clear_active.put(spi, false);
        let latched = spis.latched.put(spi, false);
        let linked = spis.linked.has(spi);
        if entry.is_active() {
            if drop_active {
                spis.release.put(spi, linked);
            } else {
                spis.active.put(spi, true);
            }
        }
        if entry.is_pending() && (latched || linked || spis.edge.has(spi)) {
            if drop_pending {
                spis.release.put(spi, linked);
            } else {
                spis.pending.put(spi, true);
            }
        }
    }

    /// The physical line of the timer may have fallen since it fired; and while the guest has the
    /// interrupt active, the hardware raises it again by itself afterwards.
    fn resample_timer<M: Hardware + ?Sized>(&self, machine: &M) {
        if self.irqs.level.load(SeqCst) & TIMER == 0 {
            return;
        }
        if self.irqs.active.load(SeqCst) & TIMER != 0 || !timer_asserted(machine) {
            self.irqs.level.fetch_and(!TIMER, SeqCst);
        }
    }

    /// Makes the physical PPI 27 active where the guest is to deactivate it or cannot take it yet, and
    /// inactive otherwise.
    fn settle_timer<M: Hardware + ?Sized>(&mut self, machine: &mut M) {
        let held = self.irqs.held.load(SeqCst) & TIMER != 0;
        let active = self.interface.timer_active;
        let in_memory = self.irqs.level.load(SeqCst) | self.irqs.active.load(SeqCst);
        let waiting = active && in_memory & TIMER != 0;
        if active != (held || waiting) {
            machine.set_ppi_active(intid::VIRTUAL_TIMER, held);
            self.interface.timer_active = held;
        }
    }

    /// Fills the list registers with the best candidates. Those of bitmap `live` still hold what is in
    /// the interface's `entries`.
    fn place<M: Hardware + ?Sized>(&mut self, live: u32, machine: &mut M) {
        let count = machine.list_registers().min(MAX_LIST_REGISTERS);
        let mut selection = Selection::new(count);
        self.spis.prune_busy();
        self.gather(&mut selection);
        selection.finish();
        let overflow = selection.overflows();
        self.interface.overflow = overflow;
        self.interface.direct = !overflow && self.vgic.version() == GicVersion::V3;
        // An active interrupt that found no list register must get one before the guest ends it. It
        // ends the others first, so each of these ends must be seen: none may be pending as well,
        // or its end would only make it pending. Linked ones cannot tell, and leave it to underflow,
        // which needs two list registers to make sense.
        let each_eoi = overflow
            && selection
                .chosen()
                .iter()
                .any(|candidate| candidate.is_active());
        let underflow = each_eoi && count >= 2;
        let mut no_pending = false;
        let mut slot = 0;
        for &candidate in selection.chosen() {
            let entry = if candidate.intid() < FIRST_SPI {
                self.place_private(slot, candidate)
            } else {
                self.place_spi(slot, candidate)
            };
            let Some(mut entry) = entry else { continue };
            if each_eoi && !entry.is_linked() {
                entry = entry.with_eoi();
            }
            // What waits is less urgent than this one, and is looked at when this one is taken.
            no_pending |= overflow && !entry.is_active();
            if self.old_entry(slot, live) != entry {
                write_list_register(machine, slot, entry);
                self.interface.forget_answers(entry);
            }
            slot = slot.saturating_add(1);
        }
        for slot in Bits(live).filter(|&live| live >= slot) {
            write_list_register(machine, slot, ListReg::EMPTY);
        }
        if self.interface.underflow != underflow {
            machine.set_underflow_interrupt(underflow);
            self.interface.underflow = underflow;
        }
        if self.interface.no_pending != no_pending {
            machine.set_no_pending_interrupt(no_pending);
            self.interface.no_pending = no_pending;
        }
    }

    /// Offers everything that this vCPU could take.
    fn gather(&self, selection: &mut Selection) {
        let groups = self.vgic.groups.load(SeqCst);
        let active = self.irqs.active.load(SeqCst);
        let raised = self.irqs.pending.load(SeqCst) | self.irqs.high();
        for intid in Bits(active | (raised & self.irqs.deliverable(groups))) {
            let priority = self.irqs.priority(intid);
            selection.offer(Candidate::new(
                intid as u32,
                priority,
                active >> intid & 1 != 0,
            ));
        }
        for word in self.spis.busy() {
            let routed = self.spis.routed_to(self.vcpu, word);
            let pending = self.spis.candidates(word, groups) & routed;
            let active = self.spis.active.word(word) & !self.spis.held.word(word);
            for bit in Bits(pending | active) {
                let spi = Spi::at(word, bit);
                let is_active = active >> bit & 1 != 0;
                if !is_active || self.spis.is_owner(self.vcpu, spi) {
                    let priority = self.spis.priority(spi);
                    selection.offer(Candidate::new(spi.intid(), priority, is_active));
                }
            }
        }
    }

    /// The list register for an SGI or PPI, which is held from now on.
    fn place_private(&mut self, slot: usize, candidate: Candidate) -> Option<ListReg> {
        let intid = candidate.intid() as usize;
        let bit = 1u32 << (intid & 31);
        let deliverable = self.irqs.deliverable(self.vgic.groups.load(SeqCst)) & bit != 0;
        let sourced = bit & SGIS != 0 && self.vgic.version() == GicVersion::V2;
        let edge = self.irqs.edge.load(SeqCst) & bit != 0 && bit != TIMER;
        let mut entry = private_entry(self.irqs, intid);
        let high = self.irqs.high() & bit != 0;
        // Held before its state leaves memory: whoever clears that state must find one or the other.
        self.irqs.held.fetch_or(bit, SeqCst);
        if candidate.is_active() {
            self.irqs.active.fetch_and(!bit, SeqCst);
            entry = entry.active();
            if sourced {
                let source = self
                    .interface
                    .active_sources
                    .get(intid)
                    .copied()
                    .unwrap_or(0);
                entry = entry.from_source(u32::from(source));
            }
        }
        let both = !candidate.is_active() || (edge && !sourced && !self.interface.overflow);
        let mut eoi = high && bit != TIMER;
        if deliverable && both {
            let latch = self.irqs.pending.fetch_and(!bit, SeqCst) & bit != 0;
            if latch && sourced {
                if let Some((source, more)) = take_source(self.irqs, intid) {
                    entry = entry.from_source(source).pending();
                    eoi |= more;
                }
            } else if latch || high {
                entry = entry.pending();
                self.interface.latched |= if latch && !edge { bit } else { 0 };
            }
        }
        eoi |= self.irqs.pending.load(SeqCst) & bit != 0;
        if !entry.is_pending() && !entry.is_active() {
            self.irqs.held.fetch_and(!bit, SeqCst);
            return None;
        }
        if bit == TIMER {
            self.irqs.level.fetch_and(!bit, SeqCst);
            entry = entry.linked(intid::VIRTUAL_TIMER);
        } else if eoi {
            entry = entry.with_eoi();
        }
        self.note(slot, candidate.intid());
        if let Some(own) = self.interface.slots.get_mut(intid) {
            *own = slot as u8;
        }
        if let Some(dialogue) = self.spis.dialogue(self.vcpu) {
            dialogue.seen_pending |= if entry.is_pending() { bit } else { 0 };
            dialogue.seen_active |= if entry.is_active() { bit } else { 0 };
        }
        Some(entry)
    }

    /// The list register for an SPI, which is held from now on.
    fn place_spi(&mut self, slot: usize, candidate: Candidate) -> Option<ListReg> {
        let spi = Spi::from_intid(candidate.intid())?;
        let (word, bit) = spi.position();
        let groups = self.vgic.groups.load(SeqCst);
        let spis = &mut *self.spis;
        let group = spis.group.word(word);
        let deliverable = spis.enabled.word(word) & select_groups(group, groups) & bit != 0;
        let mut entry = ListReg::new(candidate.intid(), spis.priority(spi), group & bit != 0);
        let (edge, linked) = (spis.edge.has(spi), spis.physical(spi));
        let high = spis.level.has(spi) && !edge;
        if candidate.is_active() {
            spis.active.put(spi, false);
            entry = entry.active();
        }
        let routed = spis.routed_to(self.vcpu, word) & bit != 0;
        let both = !candidate.is_active() || (edge && linked.is_none() && !self.interface.overflow);
        if deliverable && routed && both {
            let latch = spis.pending.put(spi, false);
            if latch || high {
                entry = entry.pending();
            }
            spis.latched.put(spi, latch && !edge);
        }
        if !entry.is_pending() && !entry.is_active() {
            return None;
        }
        if let Some(physical) = linked {
            entry = entry.linked(physical);
        } else if high || spis.pending.has(spi) {
            entry = entry.with_eoi();
        }
        spis.held.put(spi, true);
        spis.set_owner(spi, self.vcpu);
        spis.seen_pending.put(spi, entry.is_pending());
        spis.seen_active.put(spi, entry.is_active());
        self.note(slot, candidate.intid());
        Some(entry)
    }

    /// Records what list register `slot` holds.
    fn note(&mut self, slot: usize, intid: u32) {
        if let Some(entry) = self.interface.intids.get_mut(slot) {
            *entry = u8::try_from(intid).unwrap_or(NONE);
            self.interface.used |= 1 << slot;
        }
    }
}

/// Whether the resident vCPU's virtual timer holds its line: CNTV_CTL_EL0 has ENABLE and ISTATUS, and
/// not IMASK (Arm ARM DDI 0487 L.b, D24.8 "CNTV_CTL_EL0").
pub(super) fn timer_asserted<M: Hardware + ?Sized>(machine: &M) -> bool {
    machine.guest(GuestRegister::CntvCtlEl0) & 0b111 == 0b101
}
