//! Carries out the paging policy of a guest: surveys its tables and does what the policy says, a
//! bounded number of calls at a time.
//!
//! A guest that is nested has no deadline here and costs nothing.

mod clock;
mod guests;
mod home;
mod seen;
mod text;
mod users;
mod window;
mod work;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use penumbra_abi::{
    Error, PAGING_SPACES, PagingCounter, PagingMode, PagingRefusal, PagingSurvey, paging_roots,
};
use penumbra_bundle::{Backing, Guest, PagingChanges};

use crate::hypervisor::{Hypervisor, Place, VmId, finish};
use crate::paging::cost::{Machine, QUERY_MOST, SURVEY_MOST};
use crate::paging::policy::{Action, Changes, Config, FIRST_EPOCH_MS, LOCK_AFTER_MS, Mode, Policy};
use crate::paging::sample::{Half, VmSample};
use crate::paging::trace::Line;
use home::Homeward;
use seen::{region_sample, space_sample};
pub(crate) use text::RefusalText;
use users::{Move, Partners};
use window::Window;
use work::Batch;

/// Frames of a block of table memory.
const BLOCK_FRAMES: u64 = 512;
const PAGE_BYTES: u64 = 4096;
/// Steps of a survey between two looks at the other events.
const TICK_STEPS: u32 = 64;
/// Time after which a tick ends early: its edits hold the guest's vCPUs.
const TICK_MS: u64 = 1;
/// Steps of a whole survey at most: a guest can make its tables look endless.
const SURVEY_STEPS: u32 = 4096;

/// Why a guest that is not to be nested is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A call failed.
    Call(&'static str, Error),
    /// EL2 made it nested.
    Fallen(PagingRefusal),
}

/// The paging of one guest's VM.
#[derive(Debug)]
pub(crate) struct Pager {
    pub(crate) policy: Policy,
    pub(crate) trouble: Option<Trouble>,
    /// Whether what is seen is printed.
    pub(crate) trace: bool,
    /// Counter value at which the policy's time was `offset_ms`.
    base: u64,
    offset_ms: u64,
    hz: u64,
    /// Counter value of the next tick.
    next: Option<u64>,
    /// What is left of the survey under way.
    survey: Option<Survey>,
    /// Regions that are about to be shadowed together.
    batch: Option<Batch>,
    /// The re-layout under way, and the regions that wait for theirs.
    moving: Option<Move>,
    queue: VecDeque<(u8, u64)>,
    partners: Partners,
    homeward: Homeward,
    /// Space and VA at which the next samples begin.
    sampled: (u8, u64),
    /// What of the epoch is not sampled yet.
    unsampled: Vec<(u8, RangeInclusive<u64>)>,
    /// Samples that have just begun.
    window: Option<Window>,
    /// Counter value at which the policy wants its next pass.
    due: Option<u64>,
    /// Instructions that the calls of this look take at most.
    called: u64,
    blocks: u64,
}

/// A survey under way: spaces and the VAs to go on at, the last one first.
#[derive(Debug, Default)]
struct Survey {
    left: Vec<(u8, u64)>,
    steps: u32,
}

/// The mode as a scenario has it.
fn mode_of(guest: &Guest<'_>) -> Mode {
    match guest.paging.mode {
        penumbra_bundle::PagingMode::Nested => Mode::Nested,
        penumbra_bundle::PagingMode::Shadow => Mode::Shadow,
        penumbra_bundle::PagingMode::Compound => Mode::Compound,
    }
}

fn config(guest: &Guest<'_>, mode: Mode) -> Config {
    let paging = guest.paging;
    // Frames that devices may know by their addresses are never moved.
    let copy_bytes = match guest.backing {
        Backing::Direct => 0,
        Backing::Reserved | Backing::Thin => paging.copy_bytes,
    };
    Config {
        mode,
        changes: match paging.changes {
            PagingChanges::Free => Changes::Free,
            PagingChanges::Lock => Changes::Lock,
            PagingChanges::Never => Changes::Never,
        },
        pool_frames: paging.pool_bytes / PAGE_BYTES,
        copy_pages_per_s: copy_bytes / PAGE_BYTES,
        // Without re-layout user memory seldom has anything to gain.
        may_trap: copy_bytes > 0,
        machine: Machine {
            thin: guest.backing == Backing::Thin,
            vcpus: u64::try_from(guest.vcpus()).unwrap_or(1),
        },
    }
}

impl Pager {
    fn new(guest: &Guest<'_>, mode: Mode, now: u64, hz: u64) -> Self {
        Self {
            policy: Policy::new(config(guest, mode)),
            trouble: None,
            trace: false,
            base: now,
            offset_ms: 0,
            hz,
            next: None,
            survey: None,
            batch: None,
            moving: None,
            queue: VecDeque::new(),
            partners: Partners::new(guest.memory_bytes),
            homeward: Homeward::default(),
            sampled: (0, 0),
            unsampled: Vec::new(),
            window: None,
            due: None,
            called: 0,
            blocks: 0,
        }
    }

    /// For a VM that has just been started.
    pub(crate) fn start<H: Hypervisor>(hv: &mut H, vm: VmId, guest: &Guest<'_>, hz: u64) -> Self {
        let mut pager = Self::new(guest, Mode::Nested, hv.now(), hz);
        match mode_of(guest) {
            Mode::Nested => {}
            mode => pager.set_mode(hv, vm, mode),
        }
        pager
    }

    /// For a VM that a manager before this one started. What EL2 says of it is the truth.
    pub(crate) fn adopt<H: Hypervisor>(hv: &mut H, vm: VmId, guest: &Guest<'_>, hz: u64) -> Self {
        let status = hv.paging_status(vm).unwrap_or_default();
        let mode = match status.mode {
            PagingMode::Nested => Mode::Nested,
            PagingMode::Compound => Mode::Compound,
            PagingMode::Shadow => Mode::Shadow,
        };
        let mut pager = Self::new(guest, mode, hv.now(), hz);
        pager.blocks = u64::from(status.frames) / BLOCK_FRAMES;
        if status.roots & paging_roots::TRAPPED != 0 {
            // What the manager before this one had learned of user spaces is lost: from the start.
            let _ = finish(|| hv.paging_roots(vm, paging_roots::STICKY));
        }
        // So is which pages were moved.
        pager.homeward.begin();
        // Its start is over: a layout that was to be locked is.
        pager.offset_ms = LOCK_AFTER_MS;
        pager.look_soon(hv);
        pager
    }

    /// Changes the mode. On failure the VM is nested and [`Self::trouble`] says why.
    pub(crate) fn set_mode<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId, mode: Mode) {
        self.drop_work(hv.now());
        self.trouble = None;
        if let Err(trouble) = self.tell_el2(hv, vm, mode) {
            self.policy.set_mode(self.ms(hv.now()), Mode::Nested);
            self.count_shadowed(hv.now());
            self.trouble = Some(trouble);
            // It fails only if the VM is nested, or gone.
            let _ = finish(|| hv.paging_mode(vm, PagingMode::Nested));
            return;
        }
        self.policy.set_mode(self.ms(hv.now()), mode);
        self.count_shadowed(hv.now());
        self.look_soon(hv);
    }

    fn tell_el2<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId, mode: Mode) -> Result<(), Trouble> {
        let failed = |what| move |error| Trouble::Call(what, error);
        let wanted = match mode {
            Mode::Nested => PagingMode::Nested,
            Mode::Compound => PagingMode::Compound,
            Mode::Shadow => PagingMode::Shadow,
        };
        finish(|| hv.paging_mode(vm, wanted)).map_err(failed("change the paging mode"))?;
        if mode == Mode::Nested {
            return Ok(());
        }
        if self.blocks == 0 {
            self.grow(hv, vm).map_err(failed("give table memory"))?;
        }
        finish(|| hv.paging_roots(vm, paging_roots::STICKY))
            .map_err(failed("allow the kernel's root"))
    }

    /// Gives the VM another block of table memory.
    fn grow<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId) -> Result<(), Error> {
        let most = self.policy.config().pool_frames / BLOCK_FRAMES;
        if self.blocks >= most {
            return Err(Error::NoSlot);
        }
        finish(|| hv.paging_pool(vm))?;
        self.blocks = self.blocks.saturating_add(1);
        Ok(())
    }

    /// Makes the next tick come at once, if there is anything to do.
    pub(crate) fn look_soon<H: Hypervisor>(&mut self, hv: &mut H) {
        let now = hv.now();
        self.due = self.policy.is_active(self.ms(now)).then_some(now);
        self.next = self.due;
    }

    /// Does a bounded piece of work if it is due. `seen` gets what was found, if a trace is wanted.
    ///
    /// # Errors
    /// Why the VM is nested from now on.
    pub(crate) fn tick<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        seen: &mut Vec<Line>,
    ) -> Result<(), Trouble> {
        self.go_homeward(hv, vm);
        let now = hv.now();
        if self.next.is_none_or(|next| next > now) {
            return Ok(());
        }
        let now_ms = self.ms(now);
        let tried = self.policy.traps_roots();
        self.called = 0;
        if self.close_window(hv, vm, seen) {
            if self.window.is_none() {
                self.sample_rest(hv, vm);
            }
            self.next = if self.window.is_some() {
                Some(self.window_end(now))
            } else if self.is_moving() {
                Some(now)
            } else {
                self.due.map(|due| due.min(self.glance(now)))
            };
            self.charge(hv, now);
            return Ok(());
        }
        // Moving may take seconds, in which no pass begins.
        if self.is_moving() {
            self.probe(hv, vm, now_ms);
        }
        if self.go_on_moving(hv, vm, now_ms) {
            // Moving holds nobody; others on this core have it for half as long as it took.
            let end = hv.now();
            self.next = Some(end.saturating_add(end.saturating_sub(now) / 2));
            return Ok(());
        }
        let result = self.look(hv, vm, now, seen);
        // To begin and to end a trial is part of it.
        if tried || self.policy.traps_roots() {
            self.charge(hv, now);
        }
        result
    }

    /// Goes on with a pass, or begins one that is due; else looks how busy the guest is.
    fn look<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        now: u64,
        seen: &mut Vec<Line>,
    ) -> Result<(), Trouble> {
        let now_ms = self.ms(now);
        if let Some(action) = self.policy.overspent() {
            self.apply(hv, vm, now_ms, action);
            self.survey = None;
            self.end_pass(hv, vm, now_ms);
            return Ok(());
        }
        if self.survey.is_none() && self.due.is_some_and(|due| due > now) {
            self.probe(hv, vm, now_ms);
            let busy_ms = self.busy_ms(hv, vm);
            if self.policy.load(now_ms, busy_ms)
                && let Some(action) = self.policy.trap_roots(now_ms)
            {
                // The kernel's half need not be looked at for that.
                self.apply(hv, vm, now_ms, action);
                let soon = self.counter(now_ms.saturating_add(FIRST_EPOCH_MS));
                self.due = self.due.map(|due| due.min(soon));
            }
            self.next = self.due.map(|due| due.min(self.glance(now)));
            return Ok(());
        }
        let mut survey = match self.survey.take() {
            Some(survey) => survey,
            None => self.begin(hv, vm, now_ms, seen)?,
        };
        for _ in 0..TICK_STEPS {
            let spent = survey.steps >= SURVEY_STEPS;
            let Some((space, va)) = survey.left.pop().filter(|_| !spent) else {
                self.flush(hv, vm, now_ms);
                self.end_pass(hv, vm, now_ms);
                return Ok(());
            };
            survey.steps = survey.steps.saturating_add(1);
            let (on, acted) = self.survey_at(hv, Place { vm, space, va }, now_ms, seen);
            survey.left.extend(on.map(|va| (space, va)));
            let most = TICK_MS.saturating_mul(self.hz) / 1000;
            if acted && hv.now().saturating_sub(now) > most {
                break;
            }
        }
        self.flush(hv, vm, now_ms);
        self.survey = Some(survey);
        self.pause(hv, now);
        Ok(())
    }

    fn apply<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId, now_ms: u64, action: Action) {
        let result = self.carry_out(hv, vm, action);
        let _ = self.policy.done(now_ms, action, result);
    }

    fn end_pass<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId, now_ms: u64) {
        if let Some(action) = self.policy.trap_roots(now_ms) {
            self.apply(hv, vm, now_ms, action);
        }
        self.sample_walks(hv, vm);
        self.due = self.policy.end(now_ms).map(|ms| self.counter(ms));
        self.count_shadowed(hv.now());
        let glance = self.glance(hv.now());
        self.next = match self.due {
            Some(due) if self.policy.may_trap(now_ms) => Some(due.min(glance)),
            due => due,
        };
        if self.is_moving() {
            self.next = Some(hv.now());
        }
        if self.window.is_some() {
            self.next = Some(self.window_end(hv.now()));
        }
    }

    fn begin<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        now_ms: u64,
        seen: &mut Vec<Line>,
    ) -> Result<Survey, Trouble> {
        let status = hv
            .paging_status(vm)
            .map_err(|error| Trouble::Call("say how the guest is paged", error))?;
        if status.mode == PagingMode::Nested {
            // What was shadowed is given back in pieces.
            let _ = finish(|| hv.paging_mode(vm, PagingMode::Nested));
            return Err(Trouble::Fallen(status.refusal));
        }
        let busy_ms = self.busy_ms(hv, vm);
        let mut count = |counter| hv.paging_counter(vm, counter).unwrap_or(0);
        let counters = VmSample {
            traps: count(PagingCounter::RootTraps),
            samples: count(PagingCounter::Samples),
            mirrored: count(PagingCounter::Mirrored),
            demoted: count(PagingCounter::Demoted),
            frames_used: u64::from(status.frames_used),
            frames: u64::from(status.frames),
            busy_ms,
        };
        // Status, six counters, leaves.
        self.calls(8, QUERY_MOST);
        self.policy.begin(now_ms, &counters);
        self.note(seen, Line::Pass(now_ms, counters));
        if self.policy.surveys(Half::Kernel) {
            self.look_at_leaves(hv, vm, seen);
        }
        self.look_at_roots(hv, vm, (now_ms, &status), seen);
        let mut survey = Survey::default();
        for space in (0..=u8::MAX).take(PAGING_SPACES) {
            self.calls(1, QUERY_MOST);
            let found = hv.paging_space(vm, space).unwrap_or_default();
            if !found.exists {
                continue;
            }
            let sample = space_sample(space, &found);
            self.note(seen, Line::Space(sample));
            let mut mirrored = found.shadowed;
            if let Some(action) = self.policy.space(now_ms, &sample) {
                let result = self.carry_out(hv, vm, action);
                mirrored = result.is_ok() && matches!(action, Action::Revive { .. });
                let _ = self.policy.done(now_ms, action, result);
            }
            // Below a root that is not mirrored nothing can be shadowed.
            if mirrored && self.policy.surveys(sample.half) {
                survey.left.push((space, found.start));
            }
        }
        Ok(survey)
    }

    /// Looks for a region. Where to go on, and whether something was done.
    fn survey_at<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        from: Place,
        now_ms: u64,
        seen: &mut Vec<Line>,
    ) -> (Option<u64>, bool) {
        self.calls(1, SURVEY_MOST);
        let (region, on) = match hv.paging_survey(from) {
            // An error means that the space or the VM is gone.
            Err(_) | Ok(PagingSurvey::End) => return (None, false),
            Ok(PagingSurvey::Skipped(on)) => return (Some(on), false),
            Ok(PagingSurvey::Found(region, on)) => (region, on),
        };
        let sample = region_sample(from.space, &region);
        self.note(seen, Line::Region(sample));
        let action = self.policy.region(now_ms, &sample);
        let acts = action.is_some_and(|action| self.act(hv, from.vm, now_ms, (action, &sample)));
        (on, acts)
    }

    /// The VM is nested and stays so until somebody says otherwise.
    fn fall(&mut self, now: u64, trouble: Trouble) {
        self.drop_work(now);
        self.policy.set_mode(self.ms(now), Mode::Nested);
        self.count_shadowed(now);
        self.trouble = Some(trouble);
    }

    /// Leaves off what is under way. Pages that were moved for it, and blocks that were split for it, are not forgotten.
    fn drop_work(&mut self, now: u64) {
        if self.moving.is_some() || self.policy.traps_roots() {
            self.go_home_soon(now);
        }
        (self.survey, self.batch, self.moving) = (None, None, None);
        self.queue.clear();
        self.window = None;
        self.unsampled.clear();
        self.next = None;
    }

    fn note(&self, seen: &mut Vec<Line>, line: Line) {
        if self.trace {
            seen.push(line);
        }
    }
}
