//! The life of a board: boot, events, and each guest's life cycle.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;

use penumbra_abi::Events;
use penumbra_bundle::{Bundle, Guest, Manifest, WhenAllOff};

use crate::console::{Console, View};
use crate::hypervisor::{Board, Hypervisor, Revival, VmId};
use crate::journal::Journal;
use crate::load;
use crate::pager::Pager;
use crate::plan::Plan;
use crate::refusal::{ErrorText, Refusal};
use crate::restart::Restarts;
use crate::shell::{Look, Shell};

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
    /// It has a VM that runs, or that is paused.
    Running,
    /// It is down and will be started again at this counter value.
    Waiting(u64),
    /// The operator had it created; its VM is loaded and has never run.
    Loaded,
    /// It went off in good order, or was never to be started.
    Off,
    /// The operator stopped it; its VM is kept for inspection.
    Stopped,
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
    /// The empty VM that stands for this guest being off.
    pub(crate) placeholder: Option<VmId>,
    pub(crate) phase: Phase,
    /// Counter value at its start.
    pub(crate) started: u64,
    pub(crate) restarts: Restarts,
    pub(crate) journal: Journal,
    /// What the operator saw of its load last.
    pub(crate) looked: Vec<Look>,
    /// Its translation tables, while it has a VM that was started.
    pub(crate) pager: Option<Pager>,
}

impl<'a> Slot<'a> {
    pub(crate) fn new(guest: Guest<'a>) -> Self {
        Self {
            guest,
            plan: None,
            vm: None,
            placeholder: None,
            phase: Phase::New,
            started: 0,
            restarts: Restarts::default(),
            journal: Journal::default(),
            looked: Vec::new(),
            pager: None,
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
    pub(crate) shell: Shell,
    /// Somebody has decided that the board goes off.
    pub(crate) over: Option<Ending>,
}

/// Runs the board with the bundle at hand, until there is nothing left to do.
pub fn serve<H: Hypervisor>(hv: &mut H, bundle: &[u8], revival: Revival) -> Ending {
    let mut manager = match Manager::boot(hv, bundle, revival) {
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
        let deadline = self.deadline(hv);
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
            self.take_input(hv);
        } else if events.contains(Events::DEADLINE) {
            self.console.deliver(hv);
        }
        if events.contains(Events::STATUS) {
            self.look_at_guests(hv);
        }
        self.console.settle(hv);
        self.restart_due(hv);
        self.page(hv);
        self.refresh(hv);
        None
    }

    /// When there is something to do without an event.
    pub(crate) fn deadline<H: Hypervisor>(&self, hv: &mut H) -> u64 {
        let waiting = self.slots.iter().filter_map(|slot| match slot.phase {
            Phase::Waiting(until) => Some(until),
            _ => None,
        });
        let shown = self
            .shell
            .next_refresh()
            .into_iter()
            .chain(self.console.owed());
        let paging = self.slots.iter().filter_map(|slot| {
            let pager = slot.pager.as_ref()?;
            pager.next().filter(|_| slot.phase == Phase::Running)
        });
        let next = waiting.chain(shown).chain(paging).min();
        let next = next.unwrap_or(u64::MAX);
        if self.console.has_input() {
            // The guest at the front did not take all of it: try again in 10 ms.
            return next.min(hv.now().saturating_add(self.board.counter_hz / 100));
        }
        next
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
                    let (name, why) = (slot.guest.name, ErrorText(error));
                    self.tell(hv, index, format_args!("guest '{name}' is gone: {why}"));
                    self.set(index, Phase::Failed, None);
                }
            }
        }
    }

    /// Loads and starts a guest that has no VM.
    pub(crate) fn start<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        index: usize,
    ) -> Result<(), Refusal<'a>> {
        let vm = self.create(hv, index, tag_of(index))?;
        self.run(hv, index, vm)
    }

    /// Creates and loads the VM of a guest that has none.
    pub(crate) fn create<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        index: usize,
        tag: u64,
    ) -> Result<VmId, Refusal<'a>> {
        self.remove_placeholder(hv, index);
        if let Ok(board) = hv.board() {
            self.board.free_bytes = board.free_bytes;
        }
        let (file, board) = (self.manifest.file, self.board);
        if self
            .slots
            .get(index)
            .is_some_and(|slot| slot.plan.is_none())
        {
            let plan = self.make_plan(hv, index)?;
            if let Some(slot) = self.slots.get_mut(index) {
                slot.plan = plan;
            }
        }
        let slot = self.slots.get(index);
        let Some((guest, plan)) = slot.and_then(|slot| Some((slot.guest, slot.plan.as_ref()?)))
        else {
            return Ok(VmId::MANAGER);
        };
        let created = load::create(hv, &board, &guest, plan, tag);
        created.map_err(|cause| Refusal::new(file, &guest, cause))
    }

    /// Starts a VM that is loaded. It is destroyed if EL2 refuses.
    pub(crate) fn run<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        index: usize,
        vm: VmId,
    ) -> Result<(), Refusal<'a>> {
        let file = self.manifest.file;
        let Some(slot) = self.slots.get_mut(index) else {
            return Ok(());
        };
        if let Some(plan) = &slot.plan {
            let refuse = |cause| Refusal::new(file, &slot.guest, cause);
            load::start(hv, vm, plan).map_err(refuse)?;
        }
        slot.started = hv.now();
        slot.looked.clear();
        self.console.begin(index);
        self.set(index, Phase::Running, Some(vm));
        self.start_paging(hv, index, vm);
        Ok(())
    }

    /// Notes how a guest is and which VM it has.
    pub(crate) fn set(&mut self, index: usize, phase: Phase, vm: Option<VmId>) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.phase = phase;
            slot.vm = vm;
        }
        self.console.connect(index, vm, phase == Phase::Running);
    }

    /// Says what happened to a guest, and remembers it.
    pub(crate) fn tell<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        index: usize,
        what: fmt::Arguments<'_>,
    ) {
        self.console.say(hv, what);
        let now = hv.now();
        if let Some(slot) = self.slots.get_mut(index) {
            slot.journal.note(now, what.to_string());
        }
    }

    /// Whether any guest runs, or will by itself.
    pub(crate) fn any_runs(&self) -> bool {
        let up = |slot: &Slot<'_>| matches!(slot.phase, Phase::Running | Phase::Waiting(_));
        self.slots.iter().any(up)
    }

    /// What is left to do when no guest runs.
    pub(crate) fn ending<H: Hypervisor>(&mut self, hv: &mut H) -> Option<Ending> {
        if self.over.is_some() {
            return self.over;
        }
        // The operator may want to start one.
        let held = self.console.view() == View::Shell;
        if held || self.any_runs() || self.manifest.when_all_off == WhenAllOff::Wait {
            return None;
        }
        let in_disorder = |slot: &&Slot<'a>| matches!(slot.phase, Phase::Crashed | Phase::Failed);
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
