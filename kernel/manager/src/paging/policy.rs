//! The policy for one VM.
//!
//! It works in *passes*: [`Policy::begin`], then [`Policy::space`] and [`Policy::region`] for what a survey
//! finds, [`Policy::trap_roots`], [`Policy::end`]. An [`Action`] that it returns is to be carried out, and
//! [`Policy::done`] told how that went. Passes come at intervals that double while there is nothing to
//! learn. All times are milliseconds since the VM was first looked at.

mod acquaintances;
mod budget;
mod gain;
mod judge;
mod ledger;
mod mode;
mod roots;
mod spaces;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::cost::{self, Machine};
use super::reason::{Decision, Deed, Failure, Reason};
use super::record::Stores;
pub use super::record::{Record, State};
use super::sample::{Form, Half, RegionSample, VmSample};
use acquaintances::Acquaintance;
pub use budget::{Budget, MOST_NS};
pub use ledger::Ledger;
pub use mode::{Changes, Mode};
use roots::{Load, Traps};
pub use roots::{MAX_ROOTS, Root};
pub use spaces::Space;

/// Bytes of a region: what one level-3 table maps.
pub const REGION_BYTES: u64 = 2 << 20;
/// Regions that are remembered of a VM at most: 2 GiB of mappings. What is beyond stays nested.
pub const MAX_REGIONS: usize = 1024;
/// Address spaces that are remembered of a VM at most.
pub const MAX_SPACES: usize = 16;
/// Decisions that are kept for the operator.
pub const MAX_DECISIONS: usize = 32;
/// Passes without a store after which a region counts as stable.
pub const QUIET_PASSES: u8 = 2;
/// Time between passes while there is something to learn.
pub const FIRST_EPOCH_MS: u64 = 500;
/// Time between passes at most.
pub const LAST_EPOCH_MS: u64 = 64_000;
/// Time between passes at most in [`Mode::Shadow`], where tables that the guest makes are mirrored
/// soon, and while roots are trapped, because walks are sampled then.
pub const BUSY_EPOCH_MS: u64 = 2_000;
/// How long a guest without any address space is taken to boot.
const BOOT_MS: u64 = 30_000;
/// How long after its first look, or a change of its mode, the layout of a VM with [`Changes::Lock`] is settled.
pub const LOCK_AFTER_MS: u64 = 30_000;

/// The limits of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// What may be done.
    pub mode: Mode,
    /// When.
    pub changes: Changes,
    /// Table frames at most.
    pub pool_frames: u64,
    /// Pages that may be moved each second; 0: no re-layout.
    pub copy_pages_per_s: u64,
    /// Whether roots may be trapped.
    pub may_trap: bool,
    /// What costs depend on.
    pub machine: Machine,
}

/// Something that EL2 is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Shadow the region, with one leaf where it is uniform.
    Shadow {
        /// The address space.
        space: u8,
        /// First VA of the region.
        va: u64,
    },
    /// Put the frames of the region in order and let one leaf stand for it.
    Relayout {
        /// The address space.
        space: u8,
        /// First VA of the region.
        va: u64,
    },
    /// Give the region back to the guest's table.
    Demote {
        /// The address space.
        space: u8,
        /// First VA of the region.
        va: u64,
    },
    /// Make the root mirror of a space anew, which EL2 gave up.
    Revive {
        /// The address space.
        space: u8,
    },
    /// Have a space made for a user root when it is written next, or seen in a vCPU.
    AddSpace {
        /// IPA of the root.
        root: u64,
    },
    /// Let a user root be nested again.
    DropSpace {
        /// IPA of the root.
        root: u64,
    },
    /// Trap, or no longer trap, writes of translation registers.
    Trap(bool),
}

/// In which half something was done or is about to be, so that a look soon is worth it.
#[derive(Clone, Copy, Debug, Default)]
struct News {
    kernel: bool,
    users: bool,
}

impl News {
    const fn note(&mut self, half: Half) {
        match half {
            Half::Kernel => self.kernel = true,
            Half::User => self.users = true,
        }
    }
}

/// The policy and what it has learned.
#[derive(Debug)]
pub struct Policy {
    config: Config,
    /// By space and VA.
    records: Vec<Record>,
    spaces: Vec<Space>,
    pass: u32,
    began_ms: u64,
    epoch_ms: u64,
    /// This pass surveys the kernel's half as well, and when the next one that does is due.
    whole: bool,
    whole_ms: u64,
    /// When the layout is settled, if that is wanted.
    locked_ms: u64,
    /// Time between passes over the users' half alone, while roots are trapped.
    users_epoch_ms: u64,
    /// Something was done or is about to be: in the kernel's half, and in the users'.
    news: News,
    counters: VmSample,
    /// Pages that may still be moved.
    copy_tokens: u64,
    elapsed_ms: u64,
    traps: Traps,
    load: Load,
    budget: Budget,
    /// Walks a second of the regions whose samples were hit, where that was measured.
    walk_rate: Option<u64>,
    roots: Vec<Root>,
    acquaintances: Vec<Acquaintance>,
    log: VecDeque<Decision>,
    ledger: Ledger,
    missed: u32,
    untracked: u32,
}

impl Policy {
    /// A policy that knows nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            records: Vec::new(),
            spaces: Vec::new(),
            pass: 0,
            began_ms: 0,
            epoch_ms: FIRST_EPOCH_MS,
            whole: true,
            whole_ms: 0,
            locked_ms: LOCK_AFTER_MS,
            users_epoch_ms: FIRST_EPOCH_MS,
            news: News::default(),
            counters: VmSample::default(),
            copy_tokens: 0,
            elapsed_ms: 0,
            traps: Traps::default(),
            load: Load::default(),
            budget: Budget::new(),
            walk_rate: None,
            roots: Vec::new(),
            acquaintances: Vec::new(),
            log: VecDeque::new(),
            ledger: Ledger::default(),
            missed: 0,
            untracked: 0,
        }
    }

    /// The limits.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Changes the mode; what was learned of stores stays. A layout that is to be settled has time for that once more.
    pub fn set_mode(&mut self, now_ms: u64, mode: Mode) {
        self.config.mode = mode;
        self.locked_ms = now_ms.saturating_add(LOCK_AFTER_MS);
        (self.epoch_ms, self.whole_ms) = (FIRST_EPOCH_MS, 0);
        self.traps = Traps::default();
        self.roots.clear();
        for record in &mut self.records {
            record.moving = false;
        }
        if mode == Mode::Nested {
            for record in &mut self.records {
                (record.seen.form, record.quiet, record.why) = (Form::Nested, 0, Reason::Mode);
            }
        }
    }

    /// Whether there is anything to do for this VM at `now_ms` or later.
    #[must_use]
    pub const fn is_active(&self, now_ms: u64) -> bool {
        let nested = matches!(self.config.mode, Mode::Nested);
        let fixed = matches!(self.config.changes, Changes::Never) || self.is_locked(now_ms);
        !nested && !fixed
    }

    /// Whether the layout is settled: nothing is to be done about the VM's memory any more.
    #[must_use]
    pub const fn is_locked(&self, now_ms: u64) -> bool {
        matches!(self.config.changes, Changes::Lock) && now_ms >= self.locked_ms
    }

    /// Why an action that was just returned is wanted.
    #[must_use]
    pub fn why(&self, action: Action) -> Reason {
        match action {
            Action::Trap(_) => self.traps.why(),
            Action::Revive { .. } => Reason::TakenBack,
            Action::AddSpace { root } | Action::DropSpace { root } => {
                let mut roots = self.roots.iter();
                let known = roots.find(|known| known.seen.root == root);
                known.map_or(Reason::Gone, |known| known.why)
            }
            Action::Shadow { space, va }
            | Action::Relayout { space, va }
            | Action::Demote { space, va } => {
                let at = self.records.binary_search_by_key(&(space, va), Record::key);
                let record = at.ok().and_then(|at| self.records.get(at));
                record.map_or(Reason::New, |record| record.why)
            }
        }
    }

    /// Begins a pass.
    pub fn begin(&mut self, now_ms: u64, counters: &VmSample) {
        let elapsed = now_ms.saturating_sub(self.began_ms);
        self.ledger
            .accrue(&self.records, &self.config.machine, elapsed);
        let before = core::mem::replace(&mut self.counters, *counters);
        if self.pass > 0 {
            self.ledger.count(&before, counters, &self.config.machine);
            self.measure_traps(now_ms, &before, counters);
        }
        self.count_walked();
        let rate = self.config.copy_pages_per_s;
        let earned = rate.saturating_mul(elapsed) / 1000;
        // A region at least, and what four seconds may move at most.
        let most = rate.saturating_mul(4).max(cost::PAGES);
        self.copy_tokens = match (rate, self.pass) {
            (0, _) => 0,
            (_, 0) => most,
            _ => self.copy_tokens.saturating_add(earned).min(most),
        };
        self.pass = self.pass.wrapping_add(1);
        (self.began_ms, self.elapsed_ms) = (now_ms, elapsed);
        self.load(now_ms, counters.busy_ms);
        (self.news, self.missed) = (News::default(), 0);
        // What the kernel maps is looked at as seldom as ever while user spaces are tried.
        let eager = self.config.mode == Mode::Shadow;
        self.whole = eager || !self.traps.on || now_ms >= self.whole_ms;
    }

    /// Whether this pass is to survey the spaces of a half.
    #[must_use]
    pub const fn surveys(&self, half: Half) -> bool {
        self.whole || matches!(half, Half::User)
    }

    /// Takes a region in. What is to be done about it.
    pub fn region(&mut self, now_ms: u64, sample: &RegionSample) -> Option<Action> {
        self.ledger.survey = self.ledger.survey.saturating_add(cost::SURVEY);
        let half = self.half_of(sample.space)?;
        let (pass, rate) = (self.pass, self.walk_rate());
        let key = (sample.space, sample.va);
        match self.records.binary_search_by_key(&key, Record::key) {
            Ok(at) => {
                let record = self.records.get_mut(at)?;
                match record.update(sample, pass, rate) {
                    Stores::None => self.is_quiet(at, now_ms),
                    stores => self.was_written(at, stores, now_ms),
                }
            }
            Err(_) if self.records.len() >= MAX_REGIONS => {
                self.missed = self.missed.saturating_add(1);
                None
            }
            Err(at) => {
                self.records.insert(at, Record::new(sample, half, pass));
                if half == Half::User {
                    self.recognize(sample);
                }
                self.news.kernel |= sample.uniform && half == Half::Kernel;
                if self.config.mode == Mode::Shadow {
                    return self.is_quiet(at, now_ms);
                }
                None
            }
        }
    }

    /// Hears how an action went. What is to be done instead, if it failed for want of room.
    pub fn done(
        &mut self,
        now_ms: u64,
        action: Action,
        result: Result<Form, Failure>,
    ) -> Option<Action> {
        let (space, va) = match action {
            Action::Trap(on) => {
                self.trapped(now_ms, on, result.is_ok());
                return None;
            }
            Action::AddSpace { root } | Action::DropSpace { root } => {
                let add = matches!(action, Action::AddSpace { .. });
                self.spaced(now_ms, root, add, result.map(drop));
                return None;
            }
            Action::Revive { space } => {
                self.revived(now_ms, space, result.map(drop));
                return None;
            }
            Action::Shadow { space, va }
            | Action::Relayout { space, va }
            | Action::Demote { space, va } => (space, va),
        };
        let machine = self.config.machine;
        let record = self.record_mut(space, va)?;
        record.moving &= !matches!(action, Action::Relayout { .. });
        match result {
            Ok(form) => {
                let (why, half) = (record.why, record.half);
                record.seen.form = form;
                let deed = match form {
                    Form::Nested => Deed::Demoted,
                    Form::Mirror => Deed::Mirror,
                    Form::Leaf => Deed::Leaf,
                    Form::Relaid => Deed::Relaid,
                };
                self.ledger.deed(deed, &machine);
                self.note(now_ms, deed, va, why);
                self.news.note(half);
                None
            }
            Err(failure) => {
                record.refused(now_ms, failure == Failure::Busy);
                record.why = Reason::Refused(failure);
                if failure == Failure::Full && !matches!(action, Action::Demote { .. }) {
                    return self.evict_for(space, va);
                }
                None
            }
        }
    }

    /// Notes that so many pages were moved that no action of the policy's asked for.
    pub const fn copied(&mut self, pages: u64) {
        self.copy_tokens = self.copy_tokens.saturating_sub(pages);
    }

    /// How many regions are in order because their pages were moved, and how many tables are watched for those that are shadowed.
    #[must_use]
    pub fn shadowed(&self) -> (usize, usize) {
        let count = |holds: fn(Form) -> bool| {
            let records = self.records.iter();
            records.filter(|record| holds(record.seen.form)).count()
        };
        let relaid = count(|form| form == Form::Relaid);
        (relaid, count(|form| form != Form::Nested))
    }

    /// Ends a pass in which everything was surveyed. When the next one is to begin; `None`: not before
    /// somebody changes the mode.
    pub fn end(&mut self, now_ms: u64) -> Option<u64> {
        let (pass, whole) = (self.pass, self.whole);
        let surveyed = |half| whole || half == Half::User;
        self.records
            .retain(|record| record.pass == pass || !surveyed(record.half));
        self.spaces.retain(|space| space.pass == pass);
        self.roots.retain(|root| root.pass == pass);
        self.untracked = self.missed;
        let next = self.next_pass(now_ms);
        let soonest = now_ms.saturating_add(FIRST_EPOCH_MS);
        let revival = self.next_revival().unwrap_or(u64::MAX).max(soonest);
        self.is_active(now_ms).then_some(next.min(revival))
    }

    /// When the next pass is due, over both halves or the users' alone.
    fn next_pass(&mut self, now_ms: u64) -> u64 {
        let backed_off = |epoch: u64, news: bool, most: u64| match news {
            true => FIRST_EPOCH_MS,
            false => epoch.saturating_mul(2).min(most),
        };
        // A guest that boots has no root yet that could be replaced.
        let boots = self.spaces.is_empty() && now_ms < BOOT_MS;
        let eager = self.config.mode == Mode::Shadow;
        if self.whole || self.news.kernel {
            let most = if eager { BUSY_EPOCH_MS } else { LAST_EPOCH_MS };
            let news = self.news.kernel || eager && self.news.users;
            self.epoch_ms = backed_off(self.epoch_ms, news || boots, most);
            self.whole_ms = now_ms.saturating_add(self.epoch_ms);
        }
        if !self.traps.on {
            self.users_epoch_ms = FIRST_EPOCH_MS;
            return self.whole_ms;
        }
        let news = self.news.users || self.is_trial(now_ms);
        self.users_epoch_ms = backed_off(self.users_epoch_ms, news, BUSY_EPOCH_MS);
        self.whole_ms
            .min(now_ms.saturating_add(self.users_epoch_ms))
    }

    fn note(&mut self, at_ms: u64, deed: Deed, va: u64, why: Reason) {
        if let Some(last) = self.log.back_mut()
            && last.is_continued_by(deed, va, &why)
        {
            last.count = last.count.saturating_add(1);
            return;
        }
        if self.log.len() >= MAX_DECISIONS {
            self.log.pop_front();
        }
        let count = 1;
        self.log.push_back(Decision {
            at_ms,
            deed,
            va,
            count,
            why,
        });
    }

    fn half_of(&self, space: u8) -> Option<Half> {
        let spaces = &mut self.spaces.iter();
        spaces.find_map(|known| (known.seen.space == space).then_some(known.seen.half))
    }

    fn record_mut(&mut self, space: u8, va: u64) -> Option<&mut Record> {
        let at = self.records.binary_search_by_key(&(space, va), Record::key);
        self.records.get_mut(at.ok()?)
    }

    /// The regions, by space and VA.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The last decisions, the oldest first.
    pub fn decisions(&self) -> impl Iterator<Item = &Decision> {
        self.log.iter()
    }

    /// What was spent and saved.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What experiments may cost.
    #[must_use]
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Whether roots are trapped.
    #[must_use]
    pub const fn traps_roots(&self) -> bool {
        self.traps.on
    }

    /// Milliseconds between passes now.
    #[must_use]
    pub const fn epoch_ms(&self) -> u64 {
        self.epoch_ms
    }

    /// Regions and spaces of the last pass for which there was no room here.
    #[must_use]
    pub const fn untracked(&self) -> u32 {
        self.untracked
    }
}
