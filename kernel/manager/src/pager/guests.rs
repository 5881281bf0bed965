//! The manager's part: which guests are paged, and what is said of them.

use alloc::vec::Vec;

use penumbra_bundle::Key;

use super::{Pager, Trouble};
use crate::hypervisor::{Hypervisor, VmId};
use crate::manager::{Manager, Phase};

impl Manager<'_> {
    /// Begins to page a guest that has just been started.
    pub(crate) fn start_paging<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        let hz = self.board.counter_hz;
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let pager = Pager::start(hv, vm, &slot.guest, hz);
        let trouble = pager.trouble;
        slot.pager = Some(pager);
        if let Some(trouble) = trouble {
            self.tell_trouble(hv, index, trouble);
        }
    }

    /// Goes on to page a guest that another manager started.
    pub(crate) fn adopt_paging<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        let hz = self.board.counter_hz;
        if let Some(slot) = self.slots.get_mut(index) {
            slot.pager = Some(Pager::adopt(hv, vm, &slot.guest, hz));
        }
    }

    /// Does what is due for the running guests.
    pub(crate) fn page<H: Hypervisor>(&mut self, hv: &mut H) {
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(index) else {
                continue;
            };
            let (Phase::Running, Some(vm), Some(pager)) =
                (slot.phase, slot.vm, slot.pager.as_mut())
            else {
                continue;
            };
            let mut seen = Vec::new();
            let result = pager.tick(hv, vm, &mut seen);
            if let Err(trouble) = result {
                pager.fall(hv.now(), trouble);
            }
            for line in seen {
                self.console.say(hv, format_args!("trace {line}"));
            }
            if let Err(trouble) = result {
                self.tell_trouble(hv, index, trouble);
            }
        }
    }

    pub(crate) fn tell_trouble<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        index: usize,
        trouble: Trouble,
    ) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let guest = slot.guest;
        let line = crate::refusal::Line::of(self.manifest.file, &guest, Key::Paging);
        let text = format_args!("guest '{}' is paged nested: {trouble} {line}", guest.name);
        self.tell(hv, index, text);
    }
}
