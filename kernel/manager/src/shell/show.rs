//! What the shell shows.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use penumbra_abi::{GicVersion, VmState, VmStatus};
use penumbra_bundle::Backing;

use crate::hypervisor::{Hypervisor, Leaves};
use crate::load::core_of;
use crate::manager::{Manager, Phase};
use crate::refusal::{ErrorText, Line, Size};

/// The counters of `VcpuCounter` in words, with their index. Index 0 counts what has no other reason.
const COUNTERS: [(u64, &str); 8] = [
    (1, "hypercalls and SMCs"),
    (2, "system registers"),
    (3, "MMIO"),
    (4, "memory populated"),
    (5, "interrupts"),
    (6, "waits (WFI)"),
    (0, "other reasons"),
    (7, "switches in"),
];
/// The counters that together are all exits.
pub(super) const EXIT_REASONS: core::ops::RangeInclusive<u64> = 0..=6;
/// Index of the interrupts.
pub(super) const INTERRUPTS: u64 = 5;
/// Bytes of a frame that holds a mirror table.
const FRAME_BYTES: u64 = 4 << 10;
/// Index of the bytes of console output that a VM lost.
const LOST_COUNTER: u64 = 8;

/// A counter value as seconds.
pub(super) struct Seconds {
    ticks: u64,
    hz: u64,
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.ticks.checked_div(self.hz).unwrap_or(0);
        let rest = self.ticks.checked_rem(self.hz).unwrap_or(0);
        let ms = rest.saturating_mul(1000).checked_div(self.hz).unwrap_or(0);
        write!(f, "{whole}.{ms:03} s")
    }
}

impl Manager<'_> {
    pub(super) fn seconds(&self, ticks: u64) -> Seconds {
        let hz = self.board.counter_hz;
        Seconds { ticks, hz }
    }

    /// The state of a guest's VM. An event that the question takes back is answered.
    fn status<H: Hypervisor>(&mut self, hv: &mut H, index: usize) -> Option<VmStatus> {
        let vm = self.slots.get(index)?.vm?;
        let status = hv.vm_status(vm).ok()?;
        if self.slots.get(index)?.phase != Phase::Running {
            return Some(status);
        }
        self.look_at(hv, index, vm, &status);
        let vm = self.slots.get(index)?.vm?;
        hv.vm_status(vm).ok()
    }

    fn state_text(
        &self,
        hv: &mut impl Hypervisor,
        index: usize,
        status: Option<&VmStatus>,
    ) -> String {
        let Some(slot) = self.slots.get(index) else {
            return String::new();
        };
        let paused = status.is_some_and(|status| status.state == VmState::Paused);
        let text = match slot.phase {
            Phase::Running if paused => "paused",
            Phase::Running => "running",
            Phase::Waiting(until) => {
                let left = self.seconds(until.saturating_sub(hv.now()));
                return format!("restarts in {left}");
            }
            Phase::Loaded => "loaded",
            Phase::Stopped => "stopped",
            Phase::Crashed => "crashed",
            Phase::Failed => "failed",
            Phase::Off | Phase::New => "off",
        };
        text.into()
    }

    /// What a guest holds of its RAM, how, and what its mirror tables take beside it.
    fn memory_text(
        &self,
        hv: &mut impl Hypervisor,
        index: usize,
        status: Option<&VmStatus>,
    ) -> String {
        let Some(slot) = self.slots.get(index) else {
            return String::new();
        };
        let paging = slot.vm.and_then(|vm| hv.paging_status(vm).ok());
        let frames = paging.map_or(0, |paging| paging.frames);
        let pool = u64::from(frames).saturating_mul(FRAME_BYTES);
        // EL2 charges the pool to the VM as it does RAM.
        let held = status.map_or(0, |status| status.held_bytes);
        let held = Size(held.saturating_sub(pool));
        let memory = Size(slot.guest.memory_bytes);
        let mut text = format!("{held} of {memory} ");
        text.push_str(&match slot.guest.backing {
            Backing::Reserved => "reserved".into(),
            Backing::Direct => format!("direct, at {:#x}", slot.guest.address),
            Backing::Thin if slot.guest.quota_bytes == slot.guest.memory_bytes => "thin".into(),
            Backing::Thin => format!("thin, quota {}", Size(slot.guest.quota_bytes)),
        });
        if pool > 0 {
            text.push_str(&format!(", {} for mirror tables", Size(pool)));
        }
        text
    }

    /// The state of a guest's watchdog, if it has one.
    fn watchdog_text(&self, hv: &mut impl Hypervisor, index: usize) -> Option<String> {
        let slot = self.slots.get(index)?;
        let status = hv.vm_watchdog_status(slot.vm?).ok()?;
        let (age, offset) = (self.seconds(status.age), self.seconds(status.offset));
        let refreshes = status.refreshes;
        match (status.placed, status.wcs) {
            (false, _) => None,
            (true, wcs) if wcs & 0b100 != 0 => Some(format!("expired, not refreshed for {age}")),
            (true, wcs) if wcs & 0b10 != 0 => Some(format!(
                "about to expire (WS0), not refreshed for {age}; twice {offset} are allowed"
            )),
            (true, _) if status.is_enabled() => Some(format!(
                "on, refreshed {refreshes} times, {age} ago; twice {offset} are allowed"
            )),
            (true, _) => Some("off: the guest has not enabled it".into()),
        }
    }

    fn cores_text(&self, index: usize) -> String {
        let Some(slot) = self.slots.get(index) else {
            return String::new();
        };
        let cores = (0..slot.guest.vcpus()).map(|vcpu| core_of(&slot.guest, vcpu, &self.board));
        let cores: Vec<String> = cores.map(|core| core.to_string()).collect();
        cores.join(",")
    }

    pub(super) fn show_list<H: Hypervisor>(&mut self, hv: &mut H) {
        let (name, state, cores) = ("guest", "state", "cores");
        self.console.print(
            hv,
            format_args!("   # {name:<12} {state:<12} {cores:<8} restarts  memory"),
        );
        for index in 0..self.slots.len() {
            let status = self.status(hv, index);
            let state = self.state_text(hv, index, status.as_ref());
            let memory = self.memory_text(hv, index, status.as_ref());
            let cores = self.cores_text(index);
            let Some(slot) = self.slots.get(index) else {
                continue;
            };
            let front = match index == self.console.front() {
                true => '*',
                false => ' ',
            };
            let (name, restarts) = (slot.guest.name, slot.restarts.all);
            let number = index.saturating_add(1);
            self.console.print(
                hv,
                format_args!(
                    " {front} {number} {name:<12} {state:<12} {cores:<8} {restarts:>8}  {memory}"
                ),
            );
        }
        self.console
            .print(hv, format_args!(" * gets the input of the console"));
    }

    pub(super) fn show_stats<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        let status = self.status(hv, index);
        let state = self.state_text(hv, index, status.as_ref());
        let memory = self.memory_text(hv, index, status.as_ref());
        let now = hv.now();
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let (name, phase, vm) = (slot.guest.name, slot.phase, slot.vm);
        let (vcpus, started) = (slot.guest.vcpus(), slot.started);
        let stock = status.map_or(0, |status| status.stock_frames);
        let since = self.seconds(now.saturating_sub(started));
        let age = match phase {
            Phase::Running if started != 0 => format!(" for {since}"),
            _ => String::new(),
        };
        let stock = match slot.guest.backing {
            Backing::Thin => format!(", {stock} frames of 2 MiB in stock"),
            Backing::Reserved | Backing::Direct => String::new(),
        };
        self.console.print(
            hv,
            format_args!("guest '{name}': {state}{age}; {memory}{stock}"),
        );
        let Some(vm) = vm else { return };
        if let Ok(leaves) = hv.vm_leaves(vm) {
            let Leaves {
                gib,
                mib2,
                pages,
                tables,
                runs,
            } = leaves;
            self.console.print(
                hv,
                format_args!(
                    "  mapped by {gib} blocks of 1 GiB, {mib2} of 2 MiB ({runs} runs of 32 MiB), \
                     {pages} pages of 4 KiB; {tables} pages of tables"
                ),
            );
        }
        if let Some(text) = self.watchdog_text(hv, index) {
            self.console.print(hv, format_args!("  watchdog: {text}"));
        }
        let vcpus = u64::try_from(vcpus).unwrap_or(0);
        let mut head = String::from("                      ");
        for vcpu in 0..vcpus {
            head.push_str(&format!(" {:>11}", format!("vCPU {vcpu}")));
        }
        self.console.print(hv, format_args!("{head}"));
        let mut exits = String::from("  exits               ");
        for vcpu in 0..vcpus {
            let count = |reason| hv.vcpu_counter(vm, vcpu, reason).unwrap_or(0);
            let all = EXIT_REASONS.map(count).fold(0, u64::saturating_add);
            exits.push_str(&format!(" {all:>11}"));
        }
        self.console.print(hv, format_args!("{exits}"));
        for (counter, what) in COUNTERS {
            let mut line = format!("  {what:<20}");
            for vcpu in 0..vcpus {
                let value = hv.vcpu_counter(vm, vcpu, counter).unwrap_or(0);
                line.push_str(&format!(" {value:>11}"));
            }
            self.console.print(hv, format_args!("{line}"));
        }
        let lost = hv.vcpu_counter(vm, 0, LOST_COUNTER).unwrap_or(0);
        if lost > 0 {
            self.console.print(
                hv,
                format_args!("  {lost} bytes of its console output were lost"),
            );
        }
    }

    pub(super) fn show_log<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let name = slot.guest.name;
        let mut lines: Vec<String> = Vec::new();
        lines.push(format!("guest '{name}':"));
        for (when, what) in &slot.journal.events {
            let when = self.seconds(*when).to_string();
            lines.push(format!("  {when:>14}  {what}"));
        }
        if slot.journal.events.is_empty() {
            lines.push("  nothing has happened to it since the manager runs".into());
        }
        if !slot.journal.crash.is_empty() {
            lines.push("  its last crash:".into());
            lines.extend(slot.journal.crash.iter().map(|line| format!("    {line}")));
        }
        let place = Line {
            file: self.manifest.file,
            line: slot.guest.lines.nearest(penumbra_bundle::Key::Guest),
        };
        lines.push(format!("  defined here: {place}"));
        for line in lines {
            self.console.print(hv, format_args!("{line}"));
        }
    }

    pub(super) fn show_board<H: Hypervisor>(&mut self, hv: &mut H) {
        let board = match hv.board() {
            Ok(board) => board,
            Err(error) => {
                let why = ErrorText(error);
                return self.console.print(hv, format_args!("no answer: {why}"));
            }
        };
        let gic = match board.gic {
            GicVersion::V2 => "GICv2",
            GicVersion::V3 => "GICv3",
        };
        let (cores, hz) = (board.cores, board.counter_hz);
        let (free, largest) = (Size(board.free_bytes), Size(board.largest_bytes));
        let up = self.seconds(hv.now());
        let file = self.manifest.file;
        self.console
            .print(hv, format_args!("{cores} cores, {gic}, counter at {hz} Hz"));
        self.console.print(
            hv,
            format_args!("{free} free, the largest block has {largest}"),
        );
        self.console
            .print(hv, format_args!("on since {up}; scenario {file}"));
    }

    pub(super) fn show_version<H: Hypervisor>(&mut self, hv: &mut H) {
        let manager = env!("CARGO_PKG_VERSION");
        let ours = penumbra_abi::ABI_VERSION;
        let format = penumbra_bundle::FORMAT_VERSION;
        let theirs = match hv.version() {
            Ok(version) => format!("{}.{}", version.major, version.minor),
            Err(error) => ErrorText(error).to_string(),
        };
        self.console.print(
            hv,
            format_args!(
                "manager {manager}, made for interface {}.{} and bundle format {format}; the \
                 hypervisor has interface {theirs}",
                ours.major, ours.minor
            ),
        );
    }
}
