//! Reading pending and active state, wherever it is.

use core::sync::atomic::Ordering::SeqCst;

use super::MmioRead;
use crate::vgic::private::{PrivateIrqs, TIMER};
use crate::vgic::rebuild::timer_asserted;
use crate::vgic::spi::{SPI_WORDS, Spi, Spis};
use crate::vgic::vcpu_set::Bits;
use crate::vgic::{CpuInterface, Hardware, VcpuSet, Vgic};

/// Which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Pending,
    Active,
}

impl Vgic {
    /// State of the SGIs and PPIs of `owner`. `key` names the register, for the retries.
    pub(super) fn read_private_state<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        owner: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
        (state, key): (State, u64),
    ) -> MmioRead {
        let Some(irqs) = self.private.get(owner) else {
            return MmioRead::Value(0);
        };
        if owner == vcpu {
            let moved = self.fold_own(vcpu, irqs, interface, machine, u32::MAX);
            if !moved.is_empty() {
                return MmioRead::Retry(moved);
            }
        }
        let mut spis = self.spis.lock();
        // Memory first: a core moves state into a list register by setting `held` first.
        let (word, line) = match state {
            State::Pending => (&irqs.pending, irqs.high()),
            State::Active => (&irqs.active, 0),
        };
        let in_memory = word.load(SeqCst) | line;
        let held = irqs.held.load(SeqCst);
        if owner != vcpu {
            let holders = if held == 0 {
                VcpuSet::EMPTY
            } else {
                VcpuSet::single(owner)
            };
            let retry = self.ask(&mut spis, interface, holders, key);
            if !retry.is_empty() {
                return MmioRead::Retry(retry);
            }
        }
        let seen = spis.dialogue(owner).map_or(0, |dialogue| match state {
            State::Pending => dialogue.seen_pending,
            State::Active => dialogue.seen_active,
        });
        let mut value = in_memory | (seen & held);
        if owner == vcpu && state == State::Pending && timer_asserted(machine) {
            value |= TIMER;
        }
        MmioRead::Value(u64::from(value))
    }

    /// State of SPIs.
    pub(super) fn read_spi_state<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        word: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
        (state, key): (State, u64),
    ) -> MmioRead {
        if word >= SPI_WORDS {
            return MmioRead::Value(0);
        }
        let mut spis = self.spis.lock();
        let mut holders = VcpuSet::EMPTY;
        for bit in Bits(spis.held.word(word)) {
            let owner = spis.owner(Spi::at(word, bit));
            holders = holders.union(owner.map_or(VcpuSet::EMPTY, VcpuSet::single));
        }
        if holders.contains(vcpu) {
            drop(spis);
            if let Some(irqs) = self.private.get(vcpu) {
                let moved = self.rebuild(vcpu, irqs, interface, machine);
                if !moved.is_empty() {
                    return MmioRead::Retry(moved);
                }
            }
            spis = self.spis.lock();
        }
        let retry = self.ask(&mut spis, interface, holders.without(vcpu), key);
        if !retry.is_empty() {
            return MmioRead::Retry(retry);
        }
        let value = match state {
            State::Pending => spis.raised(word) | spis.seen_pending.word(word),
            State::Active => spis.active.word(word) | spis.seen_active.word(word),
        };
        MmioRead::Value(u64::from(value))
    }

    /// Takes the vCPU's own list registers out and back in if any of the SGIs and PPIs `interrupts`
    /// is in one, so that memory tells of it. Returns other vCPUs that must flush, with which a read
    /// retries; it does not happen twice, as what they got has left this vCPU.
    pub(super) fn fold_own<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        irqs: &PrivateIrqs,
        interface: &mut CpuInterface,
        machine: &mut M,
        interrupts: u32,
    ) -> VcpuSet {
        if irqs.held.load(SeqCst) & interrupts == 0 {
            return VcpuSet::EMPTY;
        }
        self.rebuild(vcpu, irqs, interface, machine)
    }

    /// Asks `holders` for what their list registers hold. Returns those that have not answered since
    /// they were asked for the register `key`; empty once all have, and then the question is over.
    fn ask(
        &self,
        spis: &mut Spis,
        interface: &mut CpuInterface,
        holders: VcpuSet,
        key: u64,
    ) -> VcpuSet {
        if interface.asked_for != key {
            interface.asked = VcpuSet::EMPTY;
            interface.asked_for = key;
        }
        let mut retry = VcpuSet::EMPTY;
        for holder in holders.iter() {
            let folds = spis.dialogue(holder).map_or(0, |dialogue| dialogue.folds);
            let Some(ticket) = interface.tickets.get_mut(holder) else {
                continue;
            };
            if !interface.asked.contains(holder) {
                *ticket = folds;
                interface.asked = interface.asked.union(VcpuSet::single(holder));
            }
            if *ticket == folds {
                retry = retry.union(self.ask_rebuild(Some(holder)));
            }
        }
        if retry.is_empty() {
            interface.asked = VcpuSet::EMPTY;
        }
        retry
    }
}
