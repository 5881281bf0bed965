//! What the operator does to guests.

use alloc::string::String;
use alloc::vec::Vec;

use crate::hypervisor::{Hypervisor, VmId, finish};
use crate::manager::{Ending, Manager, OFF_TAG, Phase, tag_of};
use crate::refusal::ErrorText;

impl Manager<'_> {
    /// Name, phase and VM of a guest.
    fn at(&self, index: usize) -> (&str, Phase, Option<VmId>) {
        self.slots
            .get(index)
            .map_or(("", Phase::Off, None), |slot| {
                (slot.guest.name, slot.phase, slot.vm)
            })
    }

    pub(super) fn operator_start<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        let (name, phase, vm) = self.at(index);
        match (phase, vm) {
            (Phase::Running, _) => {
                let name = String::from(name);
                let text = format_args!("'{name}' has been started; `resume`, if it is paused");
                self.console.print(hv, text);
            }
            (Phase::Loaded, Some(vm)) => match self.run(hv, index, vm) {
                Ok(()) => self.started(hv, index),
                Err(refusal) => {
                    self.tell(hv, index, format_args!("{refusal}"));
                    self.set(index, Phase::Failed, None);
                }
            },
            (_, vm) => {
                if let Some(vm) = vm {
                    self.destroy(hv, index, vm);
                }
                if self.start_or_fail(hv, index) {
                    self.started(hv, index);
                }
            }
        }
    }

    fn started<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.restarts.forgive();
            let name = slot.guest.name;
            self.tell(
                hv,
                index,
                format_args!("guest '{name}' was started by the operator"),
            );
        }
    }

    /// Stops a guest; its VM stays for inspection. Whether it has stopped.
    fn halt<H: Hypervisor>(&mut self, hv: &mut H, index: usize) -> bool {
        let (name, phase, vm) = self.at(index);
        let name = String::from(name);
        match (phase, vm) {
            (Phase::Running, Some(vm)) => {
                if let Err(error) = hv.vm_stop(vm) {
                    let why = ErrorText(error);
                    self.console
                        .print(hv, format_args!("'{name}' could not be stopped: {why}"));
                    return false;
                }
                // Takes the event back: we know.
                let _ = hv.vm_status(vm);
                self.console.drain(hv, index);
                self.set(index, Phase::Stopped, Some(vm));
            }
            (Phase::Waiting(_), vm) => self.set(index, Phase::Stopped, vm),
            _ => {
                self.console
                    .print(hv, format_args!("'{name}' does not run"));
                return false;
            }
        }
        self.tell(
            hv,
            index,
            format_args!("guest '{name}' was stopped by the operator"),
        );
        true
    }

    pub(super) fn operator_stop<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        self.halt(hv, index);
    }

    pub(super) fn operator_restart<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        let runs = matches!(self.at(index).1, Phase::Running | Phase::Waiting(_));
        if !runs || self.halt(hv, index) {
            self.operator_start(hv, index);
        }
    }

    pub(super) fn operator_pause<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        self.hold(hv, index, true);
    }

    pub(super) fn operator_resume<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        self.hold(hv, index, false);
    }

    fn hold<H: Hypervisor>(&mut self, hv: &mut H, index: usize, pause: bool) {
        let (name, phase, vm) = self.at(index);
        let name = String::from(name);
        let Some(vm) = vm.filter(|_| phase == Phase::Running) else {
            return self
                .console
                .print(hv, format_args!("'{name}' does not run"));
        };
        let (done, what) = match pause {
            true => (hv.vm_pause(vm), "is paused"),
            false => (hv.vm_resume(vm), "runs on"),
        };
        match done {
            Ok(()) => self.tell(hv, index, format_args!("guest '{name}' {what}")),
            Err(_) => {
                let now = match pause {
                    true => "is paused already",
                    false => "is not paused",
                };
                self.console.print(hv, format_args!("'{name}' {now}"));
            }
        }
    }

    pub(super) fn operator_create<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        let (name, _, vm) = self.at(index);
        let name = String::from(name);
        if vm.is_some() {
            let text = format_args!("'{name}' has a VM; `destroy {name}` frees it");
            return self.console.print(hv, text);
        }
        // So that a restarted manager does not take it for one that it was about to start.
        match self.create(hv, index, tag_of(index) | OFF_TAG) {
            Ok(vm) => {
                self.set(index, Phase::Loaded, Some(vm));
                let text = format_args!("guest '{name}' is loaded; `start {name}` runs it");
                self.tell(hv, index, text);
            }
            Err(refusal) => {
                self.tell(hv, index, format_args!("{refusal}"));
                self.set(index, Phase::Failed, None);
            }
        }
    }

    pub(super) fn operator_destroy<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        let (name, phase, vm) = self.at(index);
        let name = String::from(name);
        match (phase, vm) {
            (Phase::Running | Phase::Waiting(_), _) => {
                let text = format_args!("'{name}' runs; `stop {name}` first");
                self.console.print(hv, text);
            }
            (_, None) => self.console.print(
                hv,
                format_args!("'{name}' has no VM: there is nothing to free"),
            ),
            (_, Some(vm)) => {
                self.destroy(hv, index, vm);
                self.set(index, Phase::Off, None);
                self.place_placeholder(hv, index);
                self.tell(
                    hv,
                    index,
                    format_args!("guest '{name}' is gone, its memory is free"),
                );
            }
        }
    }

    pub(super) fn operator_power_off<H: Hypervisor>(&mut self, hv: &mut H, now: bool) {
        let runs = |index: &usize| matches!(self.at(*index).1, Phase::Running | Phase::Waiting(_));
        let running: Vec<usize> = (0..self.slots.len()).filter(runs).collect();
        if !running.is_empty() && !now {
            let names: Vec<&str> = running.iter().map(|i| self.at(*i).0).collect();
            let names = names.join(", ");
            let text = format_args!("{names} would lose power; `poweroff now` does it");
            return self.console.print(hv, text);
        }
        for index in running {
            self.halt(hv, index);
        }
        self.console
            .say(hv, format_args!("the operator switches the board off"));
        self.over = Some(Ending::Off);
    }

    pub(super) fn show_audit<H: Hypervisor>(&mut self, hv: &mut H) {
        let mut differences = 0;
        let done = finish(|| {
            let (done, found) = hv.audit()?;
            differences = found;
            Ok(done)
        });
        match (done, differences) {
            (Ok(()), 0) => self.console.print(
                hv,
                format_args!("every frame that a VM sees is its own; nothing is left over"),
            ),
            (Ok(()), found) => self.console.print(
                hv,
                format_args!("{found} differences: this is a fault of Penumbra"),
            ),
            (Err(error), _) => {
                let why = ErrorText(error);
                self.console.print(hv, format_args!("no audit: {why}"));
            }
        }
    }
}
