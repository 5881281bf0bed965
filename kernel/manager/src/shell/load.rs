//! What each vCPU takes of its core, since the operator looked last.

use alloc::string::String;
use alloc::vec::Vec;

use super::show::{EXIT_REASONS, INTERRUPTS};
use crate::hypervisor::{Hypervisor, VcpuTime, VmId};
use crate::manager::Manager;

/// What was seen of a vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    time: VcpuTime,
    exits: u64,
    interrupts: u64,
}

impl Look {
    fn at<H: Hypervisor>(hv: &mut H, vm: VmId, vcpu: u64) -> Option<Self> {
        let time = hv.vcpu_time(vm, vcpu).ok()?;
        if vm == VmId::MANAGER {
            // Its calls are not counted.
            return Some(Self {
                time,
                ..Self::default()
            });
        }
        let mut count = |reason| hv.vcpu_counter(vm, vcpu, reason).unwrap_or(0);
        Some(Self {
            time,
            exits: EXIT_REASONS.map(&mut count).fold(0, u64::saturating_add),
            interrupts: count(INTERRUPTS),
        })
    }

    /// Thousandths of the time since `before` for which it had its core.
    fn share(&self, before: &Self) -> u64 {
        let ran = self.time.ran.saturating_sub(before.time.ran);
        let passed = self.time.now.saturating_sub(before.time.now);
        let half = u128::from(passed / 2);
        let share = u128::from(ran).saturating_mul(1000).saturating_add(half);
        let share = share.checked_div(passed.into()).unwrap_or(0);
        u64::try_from(share).unwrap_or(u64::MAX).min(1000)
    }

    /// How much a count has grown in a second since `before`.
    fn rate(&self, before: &Self, count: fn(&Self) -> u64, hz: u64) -> u64 {
        let grown = u128::from(count(self).saturating_sub(count(before)));
        let passed = self.time.now.saturating_sub(before.time.now);
        let rate = grown
            .saturating_mul(hz.into())
            .checked_div(passed.into())
            .unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

impl Manager<'_> {
    /// Shows the load of every vCPU, the manager's last.
    pub(super) fn show_load<H: Hypervisor>(&mut self, hv: &mut H) {
        self.console.print(
            hv,
            format_args!("guest        vCPU core     CPU    exits/s interrupts/s"),
        );
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(index) else {
                continue;
            };
            let Some(vm) = slot.vm else { continue };
            let (name, started) = (String::from(slot.guest.name), slot.started);
            let vcpus = u64::try_from(slot.guest.vcpus()).unwrap_or(0);
            let before = core::mem::take(&mut slot.looked);
            let looks = (0..vcpus).map_while(|vcpu| Look::at(hv, vm, vcpu));
            let looks: Vec<Look> = looks.collect();
            self.show_looks(hv, &name, started, (&looks, &before));
            if let Some(slot) = self.slots.get_mut(index) {
                slot.looked = looks;
            }
        }
        let looks: Vec<Look> = Look::at(hv, VmId::MANAGER, 0).into_iter().collect();
        let before = core::mem::replace(&mut self.shell.looked, looks.clone());
        self.show_looks(hv, "(manager)", 0, (&looks, &before));
    }

    fn show_looks<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        name: &str,
        started: u64,
        (looks, before): (&[Look], &[Look]),
    ) {
        let hz = self.board.counter_hz;
        let mut first = Look::default();
        first.time.now = started;
        for (vcpu, look) in looks.iter().enumerate() {
            let before = before.get(vcpu).unwrap_or(&first);
            let share = look.share(before);
            let (whole, rest) = (share / 10, share % 10);
            let exits = look.rate(before, |look| look.exits, hz);
            let interrupts = look.rate(before, |look| look.interrupts, hz);
            let core = look.time.core.unwrap_or(0);
            self.console.print(
                hv,
                format_args!(
                    "{name:<12} {vcpu:>4} {core:>4} {whole:>3}.{rest} % {exits:>10} {interrupts:>12}"
                ),
            );
        }
    }
}
