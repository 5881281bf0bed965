//! What happened to a guest, and what the scenario wants done about it.

use alloc::string::String;

use penumbra_abi::{Error, StopReason, VmState, VmStatus};
use penumbra_bundle::{Key, OnCrash, OnPowerOff, OnWatchdog, WhenAllOff};

use crate::console::View;
use crate::hypervisor::{Hypervisor, VmId, finish};
use crate::load::FIRST_STOCK_FRAMES;
use crate::manager::{Ending, Manager, OFF_TAG, Phase, tag_of};
use crate::refusal::{Cause, ErrorText, Line, Refusal};
use crate::report;

impl<'a> Manager<'a> {
    pub(crate) fn look_at<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        index: usize,
        vm: VmId,
        status: &VmStatus,
    ) {
        match status.state {
            VmState::Stopped => {
                // Its last words first.
                self.console.drain(hv, index);
                self.stopped(hv, index, vm, status);
            }
            VmState::Running if status.wants_stock => self.feed(hv, index, vm, status),
            _ => {}
        }
    }

    fn name(&self, index: usize) -> &'a str {
        self.slots.get(index).map_or("", |slot| slot.guest.name)
    }

    fn stopped<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId, status: &VmStatus) {
        let name = self.name(index);
        match status.reason {
            StopReason::Reset => {
                self.tell(hv, index, format_args!("guest '{name}' resets itself"));
                if !self.restart_later(hv, index, vm) {
                    self.retire(hv, index, vm);
                }
            }
            StopReason::Crash => self.crashed(hv, index, vm, status),
            StopReason::Watchdog => self.starved_watchdog(hv, index, vm),
            StopReason::Killed => {
                self.tell(hv, index, format_args!("guest '{name}' was stopped"));
                self.retire(hv, index, vm);
            }
            StopReason::AllOff => {
                let text = format_args!("guest '{name}' has switched off its last CPU");
                self.tell(hv, index, text);
                self.powered_off(hv, index, vm);
            }
            StopReason::PowerOff | StopReason::None => {
                self.tell(hv, index, format_args!("guest '{name}' is off"));
                self.powered_off(hv, index, vm);
            }
        }
    }

    fn powered_off<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let (guest, file) = (slot.guest, self.manifest.file);
        match guest.on_power_off {
            OnPowerOff::Stay => self.retire(hv, index, vm),
            OnPowerOff::Restart if self.restart_later(hv, index, vm) => {}
            OnPowerOff::Restart => self.retire(hv, index, vm),
            OnPowerOff::PowerOff => {
                self.set(index, Phase::Off, Some(vm));
                let line = Line::of(file, &guest, Key::OnPowerOff);
                let text = format_args!("the board is switched off with it {line}");
                self.tell(hv, index, text);
                self.over = Some(Ending::Off);
            }
        }
    }

    fn crashed<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId, status: &VmStatus) {
        let file = self.manifest.file;
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let guest = slot.guest;
        let known = (status, slot.plan.as_ref());
        let report = report::crash(hv, &self.board, file, &guest, vm, known);
        for line in &report {
            self.console.say(hv, format_args!("{line}"));
        }
        let now = hv.now();
        if let Some(slot) = self.slots.get_mut(index) {
            let headline = report.first().map_or("it crashed", String::as_str);
            slot.journal.note(now, headline.into());
            slot.journal.crash = report;
        }
        self.set(index, Phase::Crashed, Some(vm));
        match guest.on_crash {
            OnCrash::Stay => {}
            OnCrash::Restart => {
                self.restart_later(hv, index, vm);
            }
            OnCrash::PowerOff => {
                let line = Line::of(file, &guest, Key::OnCrash);
                let text = format_args!(
                    "guest '{}' crashed, and the board is to go off with it {line}",
                    guest.name
                );
                self.console.fatal(hv, text);
                self.over = Some(Ending::Fatal);
            }
        }
    }

    /// The guest did not refresh its watchdog.
    fn starved_watchdog<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        let (hz, file) = (self.board.counter_hz, self.manifest.file);
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let guest = slot.guest;
        let age = hv.vm_watchdog_status(vm).map_or(0, |status| status.age);
        let ms = u128::from(age) * 1000 / u128::from(hz.max(1));
        // A policy that is left out is what `watchdog` stands for.
        let key = match guest.lines.get(Key::OnWatchdog) {
            Some(_) => Key::OnWatchdog,
            None => Key::Watchdog,
        };
        let line = Line::of(file, &guest, key);
        let text = format_args!(
            "guest '{}' is stopped: it has not refreshed its watchdog for {ms} ms {line}",
            guest.name
        );
        self.tell(hv, index, text);
        self.set(index, Phase::Crashed, Some(vm));
        match guest.watchdog.unwrap_or(OnWatchdog::Stay) {
            OnWatchdog::Stay => {}
            OnWatchdog::Restart => {
                self.restart_later(hv, index, vm);
            }
            OnWatchdog::PowerOff => {
                let text = format_args!(
                    "the board is to go off with the watchdog of guest '{}' {line}",
                    guest.name
                );
                self.console.fatal(hv, text);
                self.over = Some(Ending::Fatal);
            }
        }
    }

    /// Starts a guest again, after the delay that its row of restarts asks for. `false`: there were
    /// enough.
    fn restart_later<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) -> bool {
        let (now, hz) = (hv.now(), self.board.counter_hz);
        let Some(slot) = self.slots.get_mut(index) else {
            return false;
        };
        let guest = slot.guest;
        let (name, ran) = (guest.name, now.saturating_sub(slot.started));
        let ran_seconds = ran.checked_div(hz).unwrap_or(0);
        match slot.restarts.next(&guest, ran_seconds) {
            Ok(0) => {
                self.tell(hv, index, format_args!("guest '{name}' is started again"));
                self.reload(hv, index, vm);
                true
            }
            Ok(delay_ms) => {
                let text = format_args!("guest '{name}' is started again in {delay_ms} ms");
                self.tell(hv, index, text);
                let ticks = delay_ms.saturating_mul(hz) / 1000;
                let until = hv.now().saturating_add(ticks);
                self.set(index, Phase::Waiting(until), Some(vm));
                true
            }
            Err(times) => {
                let line = Line::of(self.manifest.file, &guest, Key::RestartLimit);
                let text = format_args!(
                    "guest '{name}' stays off: it was started again {times} times in a row \
                     (`restart_limit`) {line}"
                );
                self.tell(hv, index, text);
                false
            }
        }
    }

    /// Starts the guests whose delay is over.
    pub(crate) fn restart_due<H: Hypervisor>(&mut self, hv: &mut H) {
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index) else {
                continue;
            };
            if let (Phase::Waiting(until), Some(vm)) = (slot.phase, slot.vm)
                && hv.now() >= until
            {
                self.reload(hv, index, vm);
            }
        }
    }

    /// Frees the VM of a guest that is off, and leaves an empty one in its place: a manager that is
    /// restarted must not take the guest for one that was never started.
    pub(crate) fn retire<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        self.set(index, Phase::Off, Some(vm));
        let ends = self.manifest.when_all_off == WhenAllOff::PowerOff
            && self.console.view() != View::Shell;
        if ends && !self.any_runs() {
            // The board goes off: zeroing the memory would only take time.
            return;
        }
        self.destroy(hv, index, vm);
        self.place_placeholder(hv, index);
    }

    pub(crate) fn place_placeholder<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        if let Some(slot) = self.slots.get_mut(index)
            && slot.guest.autostart
        {
            // Without it the guest would come back after a restart of the manager, which is no harm.
            let tag = tag_of(index) | OFF_TAG;
            slot.placeholder = hv.vm_create(1, self.board.gic, tag).ok();
        }
    }

    pub(crate) fn remove_placeholder<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        if let Some(vm) = self.slots.get_mut(index).and_then(|s| s.placeholder.take()) {
            // It is empty: what is left of it would only keep a number from the others.
            let _ = finish(|| hv.vm_destroy(vm));
        }
    }

    pub(crate) fn destroy<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        self.console.connect(index, None, false);
        if let Some(slot) = self.slots.get_mut(index) {
            (slot.vm, slot.pager) = (None, None);
        }
        if let Err(error) = finish(|| hv.vm_destroy(vm)) {
            let why = ErrorText(error);
            let text = format_args!("VM {} cannot be freed: {why}", vm.0);
            self.tell(hv, index, text);
        }
    }

    /// Frees the VM of a guest and starts the guest anew.
    pub(crate) fn reload<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        self.destroy(hv, index, vm);
        if let Some(slot) = self.slots.get_mut(index) {
            slot.restarts.all = slot.restarts.all.saturating_add(1);
        }
        self.start_or_fail(hv, index);
    }

    /// Starts a guest that has no VM. Whether it runs.
    pub(crate) fn start_or_fail<H: Hypervisor>(&mut self, hv: &mut H, index: usize) -> bool {
        if let Err(refusal) = self.start(hv, index) {
            self.tell(hv, index, format_args!("{refusal}"));
            self.set(index, Phase::Failed, None);
            return false;
        }
        true
    }

    /// Adds frames to the stock of a thin guest that waits for them: one at least, with which the tables come that it may be
    /// waiting for.
    fn feed<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId, status: &VmStatus) {
        let mut stock = status.stock_frames;
        loop {
            match finish(|| hv.vm_stock_add(vm)) {
                Ok(()) => stock = stock.saturating_add(1),
                Err(Error::NoMemory) if stock == 0 => return self.starved(hv, index, vm),
                // What it has is enough to go on; and if its quota is used up, EL2 stops it.
                Err(_) => return,
            }
            if stock >= FIRST_STOCK_FRAMES {
                return;
            }
        }
    }

    /// A guest waits for a frame that the board does not have: it can never go on.
    fn starved<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        // It fails only if the guest has stopped meanwhile, which is as good.
        let _ = hv.vm_stop(vm);
        let _ = hv.vm_status(vm);
        self.console.drain(hv, index);
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let cause = Cause::Starved {
            quota: slot.guest.quota_bytes,
        };
        let refusal = Refusal::new(self.manifest.file, &slot.guest, cause);
        self.tell(hv, index, format_args!("{refusal}"));
        self.set(index, Phase::Crashed, Some(vm));
    }
}
