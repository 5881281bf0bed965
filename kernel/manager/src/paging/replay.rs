//! Runs a policy on a trace, against a model of EL2.
//!
//! The model keeps what stands for each region as this policy wants it, whatever stood there when the
//! trace was made; a store to a leaf makes EL2 give it up, as the real one does. What the trace does not
//! have, nobody can know: stores to tables that were nested then show only by what they changed.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;

use super::cost;
use super::policy::{Action, Config, MAX_REGIONS, Policy};
use super::reason::{Failure, Reason};
use super::sample::{Form, Half, RegionSample, RootSample, SpaceSample, VmSample};
use super::trace::{BadLine, Line, form_name, parse};

/// Frames for the tables above the regions of a space: one for each level.
const UPPER_TABLES: u64 = 3;

/// An action that was carried out, or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub at_ms: u64,
    /// What.
    pub action: Action,
    /// What the region became.
    pub result: Result<Form, Failure>,
    /// Why it was wanted.
    pub why: Reason,
}

/// What a replay came to.
#[derive(Debug)]
pub struct Replay {
    /// The policy at the end.
    pub policy: Policy,
    /// Everything that was done.
    pub steps: Vec<Step>,
    /// Passes in the trace.
    pub passes: u32,
    /// Passes that the policy would not have made: it had backed off.
    pub early: u32,
    /// Regions that EL2 gave up because of a store.
    pub taken_back: u64,
    model: Model,
}

/// EL2 as the replay models it.
#[derive(Debug, Default)]
struct Model {
    forms: BTreeMap<(u8, u64), Form>,
    counters: VmSample,
    trapped: bool,
    /// Traps and samples of the trace so far.
    traps_seen: u64,
    samples_seen: u64,
    /// User roots that have a space.
    spaced: BTreeSet<u64>,
    /// Spaces whose root mirror this policy had made anew.
    revived: BTreeSet<u8>,
}

impl Model {
    /// What this policy would have seen of a region that the trace has.
    fn see(&mut self, mut sample: RegionSample, taken_back: &mut u64) -> RegionSample {
        let form = self.forms.entry((sample.space, sample.va)).or_default();
        let stores = u64::from(sample.writes);
        match *form {
            Form::Leaf | Form::Relaid if stores > 0 => {
                *form = Form::Nested;
                *taken_back = taken_back.saturating_add(1);
                self.counters.demoted = self.counters.demoted.saturating_add(1);
            }
            Form::Mirror => {
                self.counters.mirrored = self.counters.mirrored.saturating_add(stores);
            }
            _ => {}
        }
        sample.form = *form;
        if matches!(form, Form::Leaf | Form::Relaid) {
            // There is no table that a walk could fetch from.
            sample.walked = None;
        }
        sample
    }

    fn act(&mut self, action: Action, sample: &RegionSample) -> Result<Form, Failure> {
        let (key, form) = match action {
            Action::AddSpace { root } => {
                self.spaced.insert(root);
                return Ok(Form::Nested);
            }
            Action::DropSpace { root } => {
                self.spaced.remove(&root);
                return Ok(Form::Nested);
            }
            Action::Trap(on) => {
                self.trapped = on;
                self.spaced.clear();
                return Ok(Form::Nested);
            }
            Action::Revive { space } => {
                self.revived.insert(space);
                return Ok(Form::Nested);
            }
            Action::Shadow { space, va } if sample.uniform => ((space, va), Form::Leaf),
            Action::Shadow { space, va } => ((space, va), Form::Mirror),
            Action::Relayout { space, va } => ((space, va), Form::Relaid),
            Action::Demote { space, va } => {
                self.counters.demoted = self.counters.demoted.saturating_add(1);
                ((space, va), Form::Nested)
            }
        };
        let shadowed = self.forms.values().filter(|form| **form != Form::Nested);
        let mirrors = self.forms.values().filter(|form| **form == Form::Mirror);
        let used = u64::try_from(mirrors.count()).unwrap_or(u64::MAX);
        self.counters.frames_used = used.saturating_add(UPPER_TABLES);
        let no_frame = self.counters.frames_used >= self.counters.frames;
        if form != Form::Nested && (shadowed.count() >= MAX_REGIONS || no_frame) {
            return Err(Failure::Full);
        }
        self.forms.insert(key, form);
        Ok(form)
    }
}

impl Replay {
    /// Runs a policy on a trace. What the trace says of the VM takes the place of `config.machine`.
    ///
    /// # Errors
    /// The line that is none.
    pub fn run(text: &str, mut config: Config) -> Result<Self, BadLine> {
        let mut lines = parse(text).peekable();
        if let Some(Ok(Line::Machine(machine))) = lines.peek() {
            config.machine = *machine;
            lines.next();
        }
        let mut replay = Self {
            policy: Policy::new(config),
            steps: Vec::new(),
            passes: 0,
            early: 0,
            taken_back: 0,
            model: Model::default(),
        };
        replay.model.counters.frames = config.pool_frames;
        let mut now = None;
        let mut due = Some(0);
        for line in lines {
            match line? {
                Line::Machine(machine) => {
                    let (pages, blocks) = (u64::from(machine.thin), u64::from(!machine.thin));
                    replay.policy.mapped(pages, blocks);
                }
                Line::Window(_, hits, ns) => replay.policy.window(hits, ns),
                Line::Pass(at_ms, counters) => {
                    if let Some(then) = now.replace(at_ms) {
                        due = replay.end(then);
                    }
                    replay.begin(at_ms, due, &counters);
                }
                Line::Root(root) => replay.root(now.unwrap_or(0), root),
                Line::Space(space) => replay.space(now.unwrap_or(0), space),
                Line::Region(region) => replay.region(now.unwrap_or(0), region),
            }
        }
        if let Some(now) = now {
            let _ = replay.end(now);
        }
        Ok(replay)
    }

    fn begin(&mut self, at_ms: u64, due: Option<u64>, counters: &VmSample) {
        self.passes = self.passes.saturating_add(1);
        if due.is_none_or(|due| at_ms < due) {
            self.early = self.early.saturating_add(1);
        }
        // Traps and samples happen only if this policy wants them.
        let ours = &mut self.model.counters;
        ours.busy_ms = counters.busy_ms;
        if self.model.trapped {
            // What happened while nothing was trapped would have been none.
            let since = counters.traps.saturating_sub(self.model.traps_seen);
            ours.traps = ours.traps.saturating_add(since);
            let sampled = counters.samples.saturating_sub(self.model.samples_seen);
            ours.samples = ours.samples.saturating_add(sampled);
        }
        (self.model.traps_seen, self.model.samples_seen) = (counters.traps, counters.samples);
        let ours = &self.model.counters;
        self.policy.begin(at_ms, ours);
    }

    /// Whether a root has a space is up to this policy.
    fn root(&mut self, now_ms: u64, mut root: RootSample) {
        if !self.model.trapped {
            return;
        }
        root.space = self.model.spaced.contains(&root.root);
        if let Some(action) = self.policy.root(now_ms, &root) {
            let _ = self.carry_out(now_ms, action, &RegionSample::default());
        }
    }

    fn space(&mut self, now_ms: u64, mut space: SpaceSample) {
        if space.half == Half::User && !self.model.spaced.contains(&space.root) {
            return;
        }
        // A root that this policy revived stays so until the trace has it mirrored and lost again.
        if space.mirrored {
            self.model.revived.remove(&space.space);
        }
        space.mirrored |= self.model.revived.contains(&space.space);
        if let Some(action) = self.policy.space(now_ms, &space) {
            let _ = self.carry_out(now_ms, action, &RegionSample::default());
        }
    }

    fn region(&mut self, now_ms: u64, region: RegionSample) {
        let sample = self.model.see(region, &mut self.taken_back);
        if self.policy.traps_roots() {
            // A core of 10^9 instructions a second.
            self.policy.looked(cost::SURVEY);
        }
        let mut action = self.policy.region(now_ms, &sample);
        while let Some(next) = action {
            action = self.carry_out(now_ms, next, &sample);
        }
    }

    fn carry_out(&mut self, at_ms: u64, action: Action, sample: &RegionSample) -> Option<Action> {
        let why = self.policy.why(action);
        let result = self.model.act(action, sample);
        self.steps.push(Step {
            at_ms,
            action,
            result,
            why,
        });
        self.policy.done(at_ms, action, result)
    }

    fn end(&mut self, now_ms: u64) -> Option<u64> {
        if let Some(action) = self.policy.trap_roots(now_ms) {
            let none = RegionSample::default();
            let _ = self.carry_out(now_ms, action, &none);
        }
        self.policy.end(now_ms)
    }

    /// Regions in a form now.
    #[must_use]
    pub fn count(&self, form: Form) -> usize {
        let records = self.policy.records().iter();
        records.filter(|record| record.seen.form == form).count()
    }

    /// How often something was done with success.
    #[must_use]
    pub fn done(&self, wanted: impl Fn(Action) -> bool) -> usize {
        let steps = self.steps.iter();
        steps
            .filter(|step| step.result.is_ok() && wanted(step.action))
            .count()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, ms) = (self.at_ms / 1000, self.at_ms % 1000);
        write!(f, "{s:>6}.{ms:03}  ")?;
        match self.action {
            Action::Shadow { space, va } => write!(f, "shadow   {space:>2} {va:#018x}")?,
            Action::Relayout { space, va } => write!(f, "relayout {space:>2} {va:#018x}")?,
            Action::Demote { space, va } => write!(f, "demote   {space:>2} {va:#018x}")?,
            Action::Revive { space } => {
                return write!(f, "root     {space:>2} {:<18}  {}", "", self.why);
            }
            Action::AddSpace { root } => {
                return write!(f, "space    add  {root:#018x}  {}", self.why);
            }
            Action::DropSpace { root } => {
                return write!(f, "space    drop {root:#018x}  {}", self.why);
            }
            Action::Trap(on) => {
                let on = if on { "on" } else { "off" };
                return write!(f, "traps    {on:<21}  {}", self.why);
            }
        }
        match self.result {
            Ok(form) => write!(f, "  {:<6}  {}", form_name(form), self.why),
            Err(failure) => write!(f, "  failed: {failure}"),
        }
    }
}
