//! Decisions on one region.

use super::super::cost::{self, Balance};
use super::super::reason::{Deed, Reason, shape};
use super::super::record::{Record, Stores};
use super::super::sample::{Form, Half, RegionSample};
use super::{Action, Mode, Policy, QUIET_PASSES, REGION_BYTES};

impl Policy {
    /// A region whose table was written since the last pass.
    pub(super) fn was_written(&mut self, at: usize, stores: Stores, now_ms: u64) -> Option<Action> {
        let locked = self.is_locked(now_ms);
        let compound = self.config.mode == Mode::Compound;
        let record = self.records.get_mut(at)?;
        let again = record.written(stores, now_ms);
        if !compound {
            // What is to be mirrored whether it pays or not does not wait longer and longer.
            record.forgive(now_ms);
        }
        let (space, va) = record.key();
        let form = record.seen.form;
        let demote = again && compound && !locked && form != Form::Nested;
        if demote {
            record.why = Reason::Busy;
        }
        if stores == Stores::Lost {
            let deed = match form {
                Form::Nested => Deed::Demoted,
                _ => Deed::Mirror,
            };
            self.note(now_ms, deed, va, Reason::TakenBack);
        }
        demote.then_some(Action::Demote { space, va })
    }

    /// A region whose table was not written since the last pass.
    pub(super) fn is_quiet(&mut self, at: usize, now_ms: u64) -> Option<Action> {
        let locked = self.is_locked(now_ms);
        let nested = !locked && !self.is_active(now_ms);
        let eager = self.config.mode == Mode::Shadow;
        let record = self.records.get_mut(at)?;
        record.quiet = record.quiet.saturating_add(1);
        if record.moving || matches!(record.seen.form, Form::Leaf | Form::Relaid) {
            return None;
        }
        let (quiet, until_ms) = (record.quiet, record.until_ms);
        if locked {
            record.why = Reason::Locked;
        } else if nested {
            record.why = Reason::Mode;
        } else if now_ms < until_ms {
            record.quiet = 0;
            record.why = Reason::Written { until_ms };
        } else if quiet < QUIET_PASSES && !eager {
            record.why = Reason::Settling { quiet };
            // Only what can become a leaf is worth a look soon.
            match record.half {
                Half::Kernel => self.news.kernel |= record.seen.uniform,
                Half::User => self.news.users |= record.seen.full,
            }
        } else {
            return self.judge(at, now_ms);
        }
        None
    }

    /// Whether a stable region that is nested or mirrored is worth a better form.
    fn judge(&mut self, at: usize, now_ms: u64) -> Option<Action> {
        let record = *self.records.get(at)?;
        let seen = record.seen;
        let (action, why) = if self.config.mode == Mode::Shadow {
            (Self::eager(&record), Reason::Mode)
        } else {
            self.weigh(&record, now_ms)
        };
        let mirrors = matches!(action, Some(Action::Shadow { .. })) && !seen.uniform;
        let copies = matches!(action, Some(Action::Relayout { .. }));
        let no_frame = mirrors && self.counters.frames_used >= self.config.pool_frames;
        let no_copy = copies && self.copy_tokens < cost::PAGES;
        let record = self.records.get_mut(at)?;
        if no_frame || no_copy {
            record.why = Reason::Budget;
            return None;
        }
        if copies {
            record.moving = true;
            self.copy_tokens = self.copy_tokens.saturating_sub(cost::PAGES);
        }
        // A region that has its form keeps the reason for it.
        if action.is_some() || seen.form == Form::Nested {
            record.why = why;
        }
        action
    }

    const fn eager(record: &Record) -> Option<Action> {
        let RegionSample {
            space,
            va,
            uniform,
            form,
            ..
        } = record.seen;
        if matches!(form, Form::Mirror) && !uniform {
            return None;
        }
        Some(Action::Shadow { space, va })
    }

    /// What pays best for a region, and the figures.
    fn weigh(&self, record: &Record, now_ms: u64) -> (Option<Action>, Reason) {
        let seen = &record.seen;
        let (space, va) = record.key();
        let (walks, machine) = (self.walks_of(record), &self.config.machine);
        let life_ms = self.life_ms(record, now_ms);
        let sharers = self.sharers(seen.table);
        let shadow = Some(Action::Shadow { space, va });
        let refused = |balance| (None, Reason::Unprofitable(balance));
        if record.half == Half::User && !self.traps.on {
            // Without its root in place nothing of it is ever walked; `roots` weighs them all.
            return refused(machine.leaf(walks, sharers));
        }
        let Some(obstacle) = shape(seen) else {
            let leaf = machine.leaf(walks, sharers);
            return if leaf.pays_within(life_ms) {
                (shadow, Reason::Pays(leaf))
            } else {
                refused(leaf)
            };
        };
        let mirror = machine.mirror(walks, sharers);
        let movable = seen.full && record.half == Half::User && self.config.copy_pages_per_s > 0;
        let relaid = if movable {
            machine.relayout(walks, sharers)
        } else {
            Balance::default()
        };
        if relaid.pays_within(life_ms) && relaid.worth() > mirror.worth() {
            return (Some(Action::Relayout { space, va }), Reason::Pays(relaid));
        }
        match seen.form {
            // What was a leaf and can be one no more.
            Form::Mirror if mirror.worth() == 0 => (
                Some(Action::Demote { space, va }),
                Reason::Unprofitable(mirror),
            ),
            Form::Nested if mirror.pays_within(life_ms) => (shadow, Reason::Pays(mirror)),
            _ if movable => refused(relaid),
            _ => (None, obstacle),
        }
    }

    /// Stable regions whose tables lie in the same 2 MiB as `table`; 0 if one of them is protected
    /// already, so that stage 2 has no block there to lose.
    fn sharers(&self, table: u64) -> u64 {
        let block = table / REGION_BYTES;
        let mut sharers = 0_u64;
        for record in &self.records {
            if record.seen.table / REGION_BYTES != block {
                continue;
            }
            if record.seen.form != Form::Nested {
                return 0;
            }
            let stable = record.quiet.saturating_add(1) >= QUIET_PASSES;
            if stable && record.seen.uniform {
                sharers = sharers.saturating_add(1);
            }
        }
        sharers.max(1)
    }

    /// The shadowed region that is worth least, if the one at `va` is worth twice as much.
    pub(super) fn evict_for(&mut self, space: u8, va: u64) -> Option<Action> {
        let wanted = self.record_mut(space, va)?;
        let (walks, form) = (wanted.walks_per_s(), wanted.seen.form);
        if form != Form::Nested {
            return None;
        }
        let shadowed = |record: &&mut Record| record.seen.form != Form::Nested;
        let victims = self.records.iter_mut().filter(shadowed);
        let victim = victims.min_by_key(|record| record.walks_per_s())?;
        // Nothing is worth twice as much as nothing: in shadow mode two such regions would take turns for ever.
        if walks == 0 || victim.walks_per_s().saturating_mul(2) > walks {
            return None;
        }
        victim.why = Reason::Evicted;
        let (space, va) = victim.key();
        Some(Action::Demote { space, va })
    }

    /// What EL2 is to think of a region when it runs out of room: the least is given up first.
    #[must_use]
    pub fn worth_of(&self, space: u8, va: u64) -> u16 {
        let at = self.records.binary_search_by_key(&(space, va), Record::key);
        let record = at.ok().and_then(|at| self.records.get(at));
        let walks = record.map_or(0, Record::walks_per_s);
        u16::try_from(walks).unwrap_or(u16::MAX)
    }
}
