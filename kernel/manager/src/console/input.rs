//! The board's input: the hot key, the guest at the front, the shell.

use alloc::string::String;

use super::hotkey::Routed;
use super::{Console, HELP, Typed, View};
use crate::hypervisor::{Chunk, Hypervisor, VmId};

/// Input that waits for the guest at the front; more is lost, as on a real UART.
const INPUT_BYTES: usize = 1024;

impl Console {
    /// Takes the board's input: passes what is the guest's, obeys the hot key, and returns what is
    /// the shell's. `None`: there is no more now.
    pub(crate) fn next_typed<H: Hypervisor>(&mut self, hv: &mut H) -> Option<Typed> {
        loop {
            let Some(byte) = self.raw.pop_front() else {
                let chunk = hv.console_read(VmId::MANAGER).unwrap_or_default();
                if chunk.bytes().is_empty() {
                    self.deliver(hv);
                    return None;
                }
                self.raw.extend(chunk.bytes());
                continue;
            };
            match self.hot_key.feed(byte) {
                Routed::Data(byte) if self.view == View::Shell => return Some(Typed::Byte(byte)),
                Routed::Data(byte) => {
                    if self.input.len() < INPUT_BYTES {
                        self.input.push_back(byte);
                    }
                }
                Routed::Nothing => {}
                key => {
                    if self.obey(hv, key) {
                        return Some(Typed::Prompt);
                    }
                }
            }
        }
    }

    /// Does what a key behind the hot key says. Whether the shell's prompt is to be shown.
    fn obey<H: Hypervisor>(&mut self, hv: &mut H, key: Routed) -> bool {
        let guests = self.ports.len();
        let step = |by: usize| self.front.wrapping_add(by).checked_rem(guests).unwrap_or(0);
        match key {
            Routed::Guest(number) if number <= guests => self.look_at(hv, number.wrapping_sub(1)),
            Routed::Guest(number) => {
                self.say(
                    hv,
                    format_args!("there is no guest {number}: 1 to {guests}"),
                );
            }
            Routed::Next => self.look_at(hv, step(1)),
            Routed::Previous => self.look_at(hv, step(guests.saturating_sub(1))),
            Routed::Labels if self.view == View::Labels => self.look_at(hv, self.front),
            Routed::Labels => self.look_at_all(hv),
            Routed::Shell if self.view != View::Shell => {
                self.enter_shell(hv);
                return true;
            }
            Routed::Help => {
                for line in HELP {
                    self.say(hv, format_args!("{line}"));
                }
            }
            Routed::Unknown => self.say(hv, format_args!("no such key: Ctrl-] ? shows them all")),
            Routed::Shell | Routed::Nothing | Routed::Data(_) => {}
        }
        false
    }

    /// Passes waiting input to the guest at the front, as much as it takes.
    pub fn deliver<H: Hypervisor>(&mut self, hv: &mut H) {
        if self.input.is_empty() {
            return;
        }
        let front = self.ports.get(self.front);
        let Some(vm) = front.filter(|port| port.live).and_then(|port| port.vm) else {
            self.input.clear();
            if !core::mem::replace(&mut self.told, true) {
                let name = String::from(self.front_name());
                self.say(
                    hv,
                    format_args!(
                        "guest '{name}' does not run; Ctrl-] s and `start {name}` start it"
                    ),
                );
            }
            return;
        };
        while !self.input.is_empty() {
            let chunk = Chunk::take(self.input.make_contiguous());
            let taken = match hv.console_write(vm, &chunk) {
                Ok(taken) => taken.min(chunk.bytes().len()),
                Err(_) => chunk.bytes().len(),
            };
            if taken == 0 {
                return;
            }
            self.input.drain(..taken);
        }
    }
}
