//! The board's console, shared: the manager's own lines, the guests' output, the operator's shell.
//!
//! One guest is at the *front* and gets the input. What the screen shows is a [`View`]: that guest
//! alone, its bytes unchanged; all guests, each line behind its guest's name; or the operator's
//! shell. The last output of every guest is kept and shown again when its console comes to the front.
//! [`HOT_KEY`] and one more key choose. Bytes of two guests never mix: a line of another one comes
//! between whole lines, and the line that it interrupts is shown again behind it.

mod escape;
mod history;
mod hotkey;
mod input;
mod port;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::hypervisor::{Chunk, Hypervisor, VmId};
use escape::Leftover;
use hotkey::HotKey;
use port::{LINE_BYTES, Port};

pub(crate) use hotkey::HELP;
pub use hotkey::HOT_KEY;

/// What each of the manager's lines starts with.
pub const PREFIX: &str = "penumbra: ";
/// What a line starts with that says why the board goes off in disorder. Whoever runs the board (the
/// host tool) looks for it, because PSCI carries no exit code.
pub const FATAL: &str = "penumbra: fatal: ";

/// Part of a second that others must be quiet before a line that they interrupted is shown again.
const QUIET: u64 = 5;
/// Chunks that one guest may write before the next one is looked at.
const CHUNKS_PER_TURN: u32 = 64;

/// What the screen shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The guest at the front.
    Front,
    /// All guests, with labels.
    Labels,
    /// The operator's shell.
    Shell,
}

/// Input that is not a guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// A byte for the shell.
    Byte(u8),
    /// The shell has come to the screen, or its prompt is to be shown again.
    Prompt,
}

/// The console.
#[derive(Debug)]
pub struct Console {
    ports: Vec<Port>,
    front: usize,
    view: View,
    /// The view to go back to from the shell.
    behind_shell: View,
    hot_key: HotKey,
    /// Read from the board and not looked at yet.
    raw: VecDeque<u8>,
    /// For the guest at the front.
    input: VecDeque<u8>,
    /// Somebody was told that the guest at the front takes no input.
    told: bool,
    /// What shows the shell's prompt and line again, while they are on the screen.
    prompt: Option<Vec<u8>>,
    at_line_start: bool,
    /// What the last writer left the terminal with.
    leftover: Leftover,
    /// An open line was interrupted and is to be shown again, at the latest at this counter value.
    owed: Option<u64>,
    counter_hz: u64,
}

impl Console {
    /// A console without guests. `counter_hz` is the frequency of [`Hypervisor::now`].
    #[must_use]
    pub fn new(counter_hz: u64) -> Self {
        Self {
            ports: Vec::new(),
            front: 0,
            view: View::Front,
            behind_shell: View::Front,
            hot_key: HotKey::default(),
            raw: VecDeque::new(),
            input: VecDeque::new(),
            told: false,
            prompt: None,
            at_line_start: true,
            leftover: Leftover::default(),
            owed: None,
            counter_hz,
        }
    }

    /// Adds a guest; its number is its place in the order of adding. With more than one guest, all
    /// are shown with labels until somebody chooses.
    pub fn add(&mut self, name: &str) {
        self.ports.push(Port::new(name));
        if self.ports.len() > 1 {
            (self.view, self.behind_shell) = (View::Labels, View::Labels);
        }
    }

    /// Connects a guest to a VM, or to none; `live` says whether it can take input.
    pub fn connect(&mut self, guest: usize, vm: Option<VmId>, live: bool) {
        if let Some(port) = self.ports.get_mut(guest) {
            (port.vm, port.live) = (vm, live);
            self.told &= !live;
        }
    }

    /// Whether input waits for a guest that did not take it.
    #[must_use]
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// What the screen shows.
    #[must_use]
    pub const fn view(&self) -> View {
        self.view
    }

    /// Number of the guest at the front.
    #[must_use]
    pub const fn front(&self) -> usize {
        self.front
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

    /// Writes a line of the shell.
    pub fn print<H: Hypervisor>(&mut self, hv: &mut H, text: fmt::Arguments<'_>) {
        self.line(hv, "", text);
    }

    fn line<H: Hypervisor>(&mut self, hv: &mut H, prefix: &str, text: fmt::Arguments<'_>) {
        let mut out = Vec::new();
        self.leftover.end(&mut out);
        let mut line = String::new();
        if self.prompt.is_some() {
            line.push_str("\r\x1b[K");
        } else if !self.at_line_start || !out.is_empty() {
            // Whoever looks for our lines looks at their beginnings.
            line.push_str("\r\n");
        }
        line.push_str(prefix);
        // Writing to a String fails only if a Display does, and ours do not.
        let _ = line.write_fmt(text);
        line.push_str("\r\n");
        out.append(&mut line.into_bytes());
        match &self.prompt {
            Some(prompt) => out.extend(prompt),
            None => self.owe(hv),
        }
        self.write(hv, &out);
    }

    /// Remembers that a line of the guest at the front was interrupted. It is shown again when that
    /// guest goes on, or when the others are quiet.
    fn owe<H: Hypervisor>(&mut self, hv: &mut H) {
        let front = self.ports.get(self.front);
        if self.view == View::Labels && front.is_some_and(|port| port.open) {
            self.owed = Some(hv.now().saturating_add(self.counter_hz / QUIET));
        }
    }

    /// When an interrupted line is to be shown again.
    pub(crate) const fn owed(&self) -> Option<u64> {
        self.owed
    }

    /// Shows again the line that others have interrupted, if they are quiet now.
    pub(crate) fn settle<H: Hypervisor>(&mut self, hv: &mut H) {
        if self.owed.is_some_and(|when| when <= hv.now()) {
            let mut out = Vec::new();
            self.redraw(&mut out);
            self.write(hv, &out);
        }
    }

    fn redraw(&mut self, out: &mut Vec<u8>) {
        let width = self.label_width();
        if self.owed.take().is_some()
            && let Some(port) = self.ports.get(self.front)
        {
            port.redraw(width, out);
        }
    }

    fn label_width(&self) -> usize {
        let widths = self.ports.iter().map(|port| port.name.len());
        widths.max().unwrap_or(0)
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
        if self.view == View::Labels && guest != self.front {
            let width = self.label_width();
            self.between(hv, guest, |port, out| port.flush(width, out, false));
        }
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
            self.show(hv, guest, chunk.bytes());
        }
        true
    }

    fn show<H: Hypervisor>(&mut self, hv: &mut H, guest: usize, bytes: &[u8]) {
        let width = self.label_width();
        let Some(port) = self.ports.get_mut(guest) else {
            return;
        };
        port.history.push(bytes);
        let front = guest == self.front;
        match self.view {
            View::Front if front => self.write(hv, bytes),
            View::Labels if front => {
                let mut out = Vec::new();
                if self.owed.take().is_some() {
                    port.redraw(width, &mut out);
                } else if !port.open && !self.at_line_start {
                    out.extend(b"\r\n");
                }
                port.show_now(bytes, width, &mut out);
                self.write(hv, &out);
            }
            View::Labels => {
                self.between(hv, guest, |port, out| port.show_lines(bytes, width, out));
            }
            View::Front | View::Shell => {}
        }
    }

    /// Writes whole lines of a guest in the background between the lines of the one at the front.
    fn between<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        guest: usize,
        lines: impl FnOnce(&mut Port, &mut Vec<u8>),
    ) {
        let mut out = Vec::new();
        self.leftover.end(&mut out);
        if !self.at_line_start {
            out.extend(b"\r\n");
        }
        let before = out.len();
        if let Some(port) = self.ports.get_mut(guest) {
            lines(port, &mut out);
        }
        if out.len() > before {
            self.owe(hv);
            self.write(hv, &out);
        }
    }

    /// Brings the console of one guest to the screen, with its last output.
    pub(crate) fn look_at<H: Hypervisor>(&mut self, hv: &mut H, guest: usize) {
        if guest != self.front {
            self.deliver(hv);
            self.input.clear();
        }
        self.leave_view();
        (self.view, self.front, self.told) = (View::Front, guest, false);
        let (number, name) = (guest.saturating_add(1), String::from(self.front_name()));
        self.say(
            hv,
            format_args!("console of guest {number}, '{name}' (Ctrl-] ? shows the keys)"),
        );
        if let Some(port) = self.ports.get(guest) {
            let past = port.history.replay();
            self.write(hv, &past);
        }
    }

    /// Shows all guests, each line behind its name. The front stays.
    pub(crate) fn look_at_all<H: Hypervisor>(&mut self, hv: &mut H) {
        self.leave_view();
        for port in &mut self.ports {
            port.restart_line(Vec::new());
        }
        self.view = View::Labels;
        let name = String::from(self.front_name());
        self.say(
            hv,
            format_args!("all guests, each line behind its name; the input goes to '{name}'"),
        );
        if let Some(port) = self.ports.get_mut(self.front) {
            let line = port.history.open_line(LINE_BYTES);
            port.restart_line(line);
            self.owed = Some(0);
            self.settle(hv);
        }
    }

    /// Brings the operator's shell to the screen; the caller shows its prompt.
    fn enter_shell<H: Hypervisor>(&mut self, hv: &mut H) {
        self.deliver(hv);
        self.input.clear();
        self.behind_shell = self.view;
        self.view = View::Shell;
        self.say(
            hv,
            format_args!("the operator's shell: `help` lists the commands, Ctrl-D goes back"),
        );
    }

    /// Goes back from the shell to what was on the screen before.
    pub(crate) fn leave_shell<H: Hypervisor>(&mut self, hv: &mut H) {
        match self.behind_shell {
            View::Labels => self.look_at_all(hv),
            View::Front | View::Shell => self.look_at(hv, self.front),
        }
    }

    fn leave_view(&mut self) {
        self.owed = None;
        // The shell's line stays on the screen as it is; what follows begins below it.
        if self.prompt.take().is_some() {
            self.at_line_start = false;
        }
    }

    /// Says what shows the shell's prompt and line again; `None` while a command runs.
    pub(crate) fn set_prompt(&mut self, prompt: Option<Vec<u8>>) {
        self.prompt = prompt;
    }

    /// A guest begins anew: what it writes begins a line.
    pub(crate) fn begin(&mut self, guest: usize) {
        let labels = self.view == View::Labels;
        if let Some(port) = self.ports.get_mut(guest) {
            port.history.end_line();
            if labels {
                port.restart_line(Vec::new());
            }
        }
        self.owed = self.owed.filter(|_| guest != self.front);
    }

    /// Clears the screen.
    pub(crate) fn clear<H: Hypervisor>(&mut self, hv: &mut H) {
        self.write(hv, b"\x1b[H\x1b[2J");
        self.at_line_start = true;
    }

    /// Writes bytes of the shell as they are.
    pub(crate) fn draw<H: Hypervisor>(&mut self, hv: &mut H, bytes: &[u8]) {
        self.write(hv, bytes);
    }

    /// Writes to the board. If the board takes nothing for a second, the rest is lost: a console that
    /// hangs must not hold up the guests' life cycle.
    fn write<H: Hypervisor>(&mut self, hv: &mut H, mut bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
        }
        bytes.iter().for_each(|byte| self.leftover.feed(*byte));
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
