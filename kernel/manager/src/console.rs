//! The board's console, shared: the manager's own lines, the guests' output, the input to one guest.
//!
//! One guest is at the *front*: its output passes unchanged and it gets the input. Output of the
//! others is shown line by line behind their names. With more than one guest, [`NEXT_GUEST_KEY`]
//! brings the next one to the front; with one guest it is an ordinary key.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::hypervisor::{Chunk, Hypervisor, VmId};

/// Ctrl-]. (Ctrl-A belongs to QEMU.)
pub const NEXT_GUEST_KEY: u8 = 0x1d;
/// What each of the manager's lines starts with.
pub const PREFIX: &str = "penumbra: ";
/// What a line starts with that says why the board goes off in disorder. Whoever runs the board (the
/// host tool) looks for it, because PSCI carries no exit code.
pub const FATAL: &str = "penumbra: fatal: ";

/// Input that waits for the guest at the front; more is lost, as on a real UART.
const INPUT_BYTES: usize = 1024;
/// Output of a guest in the background is shown at the latest when a line has this many bytes.
const LINE_BYTES: usize = 240;
/// Chunks that one guest may write before the next one is looked at.
const CHUNKS_PER_TURN: u32 = 64;

/// What the console knows of one guest.
#[derive(Debug, Default)]
struct Port {
    name: String,
    vm: Option<VmId>,
    line: Vec<u8>,
}

/// The console.
#[derive(Debug)]
pub struct Console {
    ports: Vec<Port>,
    front: usize,
    input: VecDeque<u8>,
    at_line_start: bool,
    counter_hz: u64,
}

impl Console {
    /// A console without guests. `counter_hz` is the frequency of [`Hypervisor::now`].
    #[must_use]
    pub const fn new(counter_hz: u64) -> Self {
        Self {
            ports: Vec::new(),
            front: 0,
            input: VecDeque::new(),
            at_line_start: true,
            counter_hz,
        }
    }

    /// Adds a guest; its number is its place in the order of adding.
    pub fn add(&mut self, name: &str) {
        self.ports.push(Port {
            name: name.into(),
            ..Port::default()
        });
    }

    /// Connects a guest to a VM, or to none.
    pub fn connect(&mut self, guest: usize, vm: Option<VmId>) {
        if let Some(port) = self.ports.get_mut(guest) {
            port.vm = vm;
        }
    }

    /// Whether input waits for a guest that did not take it.
    #[must_use]
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Name of the guest at the front.
    #[must_use]
    pub fn front_name(&self) -> &str {
        self.ports
            .get(self.front)
            .map_or("", |port| port.name.as_str())
    }

    /// Writes a line of the manager, behind [`PREFIX`].
    pub fn say<H: Hypervisor>(&mut self, hv: &mut H, text: fmt::Arguments<'_>) {
        self.line(hv, PREFIX, text);
    }

    /// Writes a line that starts with [`FATAL`].
    pub fn fatal<H: Hypervisor>(&mut self, hv: &mut H, text: fmt::Arguments<'_>) {
        self.line(hv, FATAL, text);
    }

    fn line<H: Hypervisor>(&mut self, hv: &mut H, prefix: &str, text: fmt::Arguments<'_>) {
        let mut line = String::new();
        if !self.at_line_start {
            line.push_str("\r\n");
        }
        line.push_str(prefix);
        // Writing to a String fails only if a Display does, and ours do not.
        let _ = line.write_fmt(text);
        line.push_str("\r\n");
        self.write(hv, line.as_bytes());
    }

    /// Shows what the guests have written since the last call, in turns. Returns whether there may be
    /// more.
    pub fn pump_output<H: Hypervisor>(&mut self, hv: &mut H) -> bool {
        let mut more = false;
        for guest in 0..self.ports.len() {
            more |= self.pump_guest(hv, guest);
        }
        more
    }

    /// Shows everything that one guest has written, before its VM goes.
    pub fn drain<H: Hypervisor>(&mut self, hv: &mut H, guest: usize) {
        // A stopped guest writes nothing more, so its buffer bounds this.
        while self.pump_guest(hv, guest) {}
        self.flush_line(hv, guest);
    }

    fn pump_guest<H: Hypervisor>(&mut self, hv: &mut H, guest: usize) -> bool {
        let Some(vm) = self.ports.get(guest).and_then(|port| port.vm) else {
            return false;
        };
        for _ in 0..CHUNKS_PER_TURN {
            let chunk = hv.console_read(vm).unwrap_or_default();
            if chunk.bytes().is_empty() {
                return false;
            }
            if guest == self.front {
                self.write(hv, chunk.bytes());
            } else {
                self.write_behind_name(hv, guest, chunk.bytes());
            }
        }
        true
    }

    /// Collects lines of a guest in the background and shows the full ones.
    fn write_behind_name<H: Hypervisor>(&mut self, hv: &mut H, guest: usize, bytes: &[u8]) {
        for &byte in bytes {
            let Some(port) = self.ports.get_mut(guest) else {
                return;
            };
            if byte != b'\r' && byte != b'\n' {
                port.line.push(byte);
            }
            if byte == b'\n' || port.line.len() >= LINE_BYTES {
                self.flush_line(hv, guest);
            }
        }
    }

    fn flush_line<H: Hypervisor>(&mut self, hv: &mut H, guest: usize) {
        let Some(port) = self.ports.get_mut(guest) else {
            return;
        };
        if port.line.is_empty() {
            return;
        }
        let mut line = Vec::new();
        if !self.at_line_start {
            line.extend(b"\r\n");
        }
        line.extend(port.name.as_bytes());
        line.extend(b"| ");
        line.append(&mut port.line);
        line.extend(b"\r\n");
        self.write(hv, &line);
    }

    /// Takes the board's input and passes it to the guest at the front.
    pub fn pump_input<H: Hypervisor>(&mut self, hv: &mut H) {
        loop {
            let chunk = hv.console_read(VmId::MANAGER).unwrap_or_default();
            if chunk.bytes().is_empty() {
                break;
            }
            for &byte in chunk.bytes() {
                if byte == NEXT_GUEST_KEY && self.ports.len() > 1 {
                    self.next_front(hv);
                } else if self.input.len() < INPUT_BYTES {
                    self.input.push_back(byte);
                }
            }
        }
        self.deliver(hv);
    }

    /// Passes waiting input to the guest at the front, as much as it takes.
    pub fn deliver<H: Hypervisor>(&mut self, hv: &mut H) {
        let Some(vm) = self.ports.get(self.front).and_then(|port| port.vm) else {
            self.input.clear();
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

    fn next_front<H: Hypervisor>(&mut self, hv: &mut H) {
        self.deliver(hv);
        self.input.clear();
        self.front = self
            .front
            .wrapping_add(1)
            .checked_rem(self.ports.len())
            .unwrap_or(0);
        self.flush_line(hv, self.front);
        let name = String::from(self.front_name());
        self.say(hv, format_args!("the console is now guest '{name}'"));
    }

    /// Writes to the board. If the board takes nothing for a second, the rest is lost: a console that
    /// hangs must not hold up the guests' life cycle.
    fn write<H: Hypervisor>(&mut self, hv: &mut H, mut bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
        }
        let mut patience = None;
        while !bytes.is_empty() {
            let Ok(taken) = hv.console_write(VmId::MANAGER, &Chunk::take(bytes)) else {
                return;
            };
            bytes = bytes.get(taken..).unwrap_or_default();
            if taken > 0 {
                patience = None;
                continue;
            }
            let now = hv.now();
            let until = *patience.get_or_insert(now.saturating_add(self.counter_hz));
            if now >= until {
                return;
            }
            let _ = hv.wait(now.saturating_add(self.counter_hz / 1000));
        }
    }
}
