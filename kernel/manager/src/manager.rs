//! The life of a board: boot, events, and each guest's life cycle.

use alloc::vec::Vec;
use core::fmt;

use penumbra_abi::{Error, Events, StopReason, VmState, VmStatus};
use penumbra_bundle::{Bundle, Guest, Manifest, OnCrash, WhenAllOff};

use crate::console::Console;
use crate::hypervisor::{Board, Hypervisor, VmId, finish};
use crate::load::{self, FIRST_STOCK_FRAMES};
use crate::plan::Plan;
use crate::refusal::{Cause, ErrorText, Refusal};
use crate::report;

/// A guest that crashes this often, each time soon after its start, is not started again.
const CRASHES_IN_A_ROW: u32 = 3;
/// How soon after its start a crash counts as one of a row.
const SOON_SECONDS: u64 = 10;

/// Why the manager has nothing left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Ending {
    /// The guests are off in good order.
    Off,
    /// A line that starts with [`crate::console::FATAL`] says why.
    Fatal,
}

/// How a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not started yet.
    New,
    /// It has a VM that runs.
    Running,
    /// It went off in good order.
    Off,
    /// It crashed; its VM is kept for inspection.
    Crashed,
    /// It could not be started (again).
    Failed,
}

/// One guest of the scenario.
pub(crate) struct Slot<'a> {
    pub(crate) guest: Guest<'a>,
    /// Made when the guest is loaded for the first time.
    pub(crate) plan: Option<Plan<'a>>,
    pub(crate) vm: Option<VmId>,
    pub(crate) phase: Phase,
    started: u64,
    crashes: u32,
}

impl<'a> Slot<'a> {
    pub(crate) const fn new(guest: Guest<'a>) -> Self {
        Self {
            guest,
            plan: None,
            vm: None,
            phase: Phase::New,
            started: 0,
            crashes: 0,
        }
    }
}

/// The manager at work on one scenario.
pub(crate) struct Manager<'a> {
    pub(crate) bundle: Bundle<'a>,
    pub(crate) manifest: Manifest<'a>,
    pub(crate) board: Board,
    pub(crate) slots: Vec<Slot<'a>>,
    pub(crate) console: Console,
}

/// Runs the board with the bundle at hand, until there is nothing left to do. `restarts` is how often
/// EL2 has restarted the manager.
pub fn serve<H: Hypervisor>(hv: &mut H, bundle: &[u8], restarts: u64) -> Ending {
    let mut manager = match Manager::boot(hv, bundle, restarts) {
        Ok(manager) => manager,
        Err(ending) => return ending,
    };
    loop {
        if let Some(ending) = manager.step(hv) {
            return ending;
        }
    }
}

impl<'a> Manager<'a> {
    /// Waits for events and answers them.
    pub(crate) fn step<H: Hypervisor>(&mut self, hv: &mut H) -> Option<Ending> {
        if let Some(ending) = self.ending(hv) {
            return Some(ending);
        }
        let deadline = if self.console.has_input() {
            // The guest at the front did not take all of it: try again in 10 ms.
            hv.now().saturating_add(self.board.counter_hz / 100)
        } else {
            u64::MAX
        };
        let events = match hv.wait(deadline) {
            Ok(events) => events,
            Err(error) => {
                let why = ErrorText(error);
                self.console.fatal(
                    hv,
                    format_args!("the manager cannot wait for events: {why}"),
                );
                return Some(Ending::Fatal);
            }
        };
        if events.contains(Events::OUTPUT) {
            self.console.pump_output(hv);
        }
        if events.contains(Events::INPUT) {
            self.console.pump_input(hv);
        } else if events.contains(Events::DEADLINE) {
            self.console.deliver(hv);
        }
        if events.contains(Events::STATUS) {
            self.look_at_guests(hv);
        }
        None
    }

    /// Looks at each guest's VM and answers what happened to it.
    pub(crate) fn look_at_guests<H: Hypervisor>(&mut self, hv: &mut H) {
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index) else {
                continue;
            };
            let Some(vm) = slot.vm else { continue };
            // Asked of every VM, because the question takes the event back.
            let status = hv.vm_status(vm);
            if slot.phase != Phase::Running {
                continue;
            }
            match status {
                Ok(status) => self.look_at(hv, index, vm, &status),
                Err(error) => {
                    let name = slot.guest.name;
                    let why = ErrorText(error);
                    self.console
                        .say(hv, format_args!("guest '{name}' is gone: {why}"));
                    self.set(index, Phase::Failed, None);
                }
            }
        }
    }

    fn look_at<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId, status: &VmStatus) {
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

    fn stopped<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId, status: &VmStatus) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let name = slot.guest.name;
        match status.reason {
            StopReason::Reset => {
                self.console
                    .say(hv, format_args!("guest '{name}' restarts"));
                self.reload(hv, index, vm);
            }
            StopReason::Crash => {
                let file = self.manifest.file;
                report::crash(
                    hv,
                    &mut self.console,
                    &self.board,
                    file,
                    &slot.guest,
                    vm,
                    status,
                );
                self.crashed(hv, index, vm);
            }
            StopReason::Killed => {
                self.console
                    .say(hv, format_args!("guest '{name}' was stopped"));
                self.retire(hv, index, vm);
            }
            StopReason::AllOff => {
                let text = format_args!("guest '{name}' has switched off its last CPU");
                self.console.say(hv, text);
                self.retire(hv, index, vm);
            }
            StopReason::PowerOff | StopReason::None => {
                self.console.say(hv, format_args!("guest '{name}' is off"));
                self.retire(hv, index, vm);
            }
        }
    }

    /// Frees the VM of a guest that is off, and leaves an empty one in its place: a manager that is
    /// restarted must not take the guest for one that was never started.
    fn retire<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        self.set(index, Phase::Off, Some(vm));
        if !self.any_runs() && self.manifest.when_all_off == WhenAllOff::PowerOff {
            // The board goes off: zeroing the memory would only take time.
            return;
        }
        self.destroy(hv, index, vm);
        // Without it the guest would come back after a restart of the manager, which is no harm.
        let _ = hv.vm_create(1, self.board.gic, tag_of(index) | OFF_TAG);
    }

    fn destroy<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        self.console.connect(index, None);
        if let Some(slot) = self.slots.get_mut(index) {
            slot.vm = None;
        }
        if let Err(error) = finish(|| hv.vm_destroy(vm)) {
            let why = ErrorText(error);
            self.console
                .say(hv, format_args!("VM {} cannot be freed: {why}", vm.0));
        }
    }

    /// Frees the VM of a guest and starts the guest anew.
    fn reload<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        self.destroy(hv, index, vm);
        if let Err(refusal) = self.start(hv, index) {
            self.console.say(hv, format_args!("{refusal}"));
            self.set(index, Phase::Failed, None);
        }
    }

    fn crashed<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId) {
        let now = hv.now();
        let soon = self.board.counter_hz.saturating_mul(SOON_SECONDS);
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        let in_a_row = now.saturating_sub(slot.started) < soon;
        slot.crashes = if in_a_row {
            slot.crashes.saturating_add(1)
        } else {
            1
        };
        let (name, crashes) = (slot.guest.name, slot.crashes);
        if slot.guest.on_crash == OnCrash::Restart && crashes < CRASHES_IN_A_ROW {
            self.console
                .say(hv, format_args!("guest '{name}' is started again"));
            self.reload(hv, index, vm);
            return;
        }
        if slot.guest.on_crash == OnCrash::Restart {
            let text = format_args!("guest '{name}' stays off: {crashes} crashes in a row");
            self.console.say(hv, text);
        }
        self.set(index, Phase::Crashed, Some(vm));
    }

    /// Adds frames to the stock of a thin guest that waits for them.
    fn feed<H: Hypervisor>(&mut self, hv: &mut H, index: usize, vm: VmId, status: &VmStatus) {
        let mut stock = status.stock_frames;
        while stock < FIRST_STOCK_FRAMES {
            match finish(|| hv.vm_stock_add(vm)) {
                Ok(()) => stock = stock.saturating_add(1),
                Err(Error::NoMemory) if stock == 0 => return self.starved(hv, index, vm),
                // What it has is enough to go on; and if its quota is used up, EL2 stops it.
                Err(_) => return,
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
        self.console.say(hv, format_args!("{refusal}"));
        self.set(index, Phase::Crashed, Some(vm));
    }

    /// Loads and starts a guest that has no VM.
    pub(crate) fn start<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        index: usize,
    ) -> Result<(), Refusal<'a>> {
        let file = self.manifest.file;
        let Some(slot) = self.slots.get_mut(index) else {
            return Ok(());
        };
        let guest = slot.guest;
        let refuse = |cause| Refusal::new(file, &guest, cause);
        let plan = match slot.plan.take() {
            Some(plan) => plan,
            None => Plan::new(&self.bundle, &guest, &self.board).map_err(refuse)?,
        };
        let started = load::start(hv, &self.board, &guest, &plan, tag_of(index));
        slot.plan = Some(plan);
        let vm = started.map_err(refuse)?;
        slot.started = hv.now();
        self.set(index, Phase::Running, Some(vm));
        Ok(())
    }

    /// Notes how a guest is and which VM it has.
    pub(crate) fn set(&mut self, index: usize, phase: Phase, vm: Option<VmId>) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.phase = phase;
            slot.vm = vm;
        }
        self.console.connect(index, vm);
    }

    /// Whether any guest runs.
    pub(crate) fn any_runs(&self) -> bool {
        self.slots.iter().any(|slot| slot.phase == Phase::Running)
    }

    /// What is left to do when no guest runs.
    fn ending<H: Hypervisor>(&mut self, hv: &mut H) -> Option<Ending> {
        if self.any_runs() || self.manifest.when_all_off == WhenAllOff::Wait {
            return None;
        }
        let in_disorder = |slot: &&Slot<'a>| !matches!(slot.phase, Phase::Off);
        if let Some(slot) = self.slots.iter().find(in_disorder) {
            let text = Disorder {
                name: slot.guest.name,
                phase: slot.phase,
            };
            self.console
                .fatal(hv, format_args!("{text}, and no guest runs any more"));
            return Some(Ending::Fatal);
        }
        self.console.say(
            hv,
            format_args!("all guests are off; the board is switched off"),
        );
        Some(Ending::Off)
    }
}

/// Set in the tag of an empty VM that stands for a guest that is off.
pub(crate) const OFF_TAG: u64 = 1 << 32;

/// Tag of the VM of a guest.
pub(crate) fn tag_of(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1)
}

/// What became of a guest, as a clause.
struct Disorder<'a> {
    name: &'a str,
    phase: Phase,
}

impl fmt::Display for Disorder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.phase {
            Phase::Crashed => "crashed",
            _ => "could not be started",
        };
        write!(f, "guest '{}' {what}", self.name)
    }
}
