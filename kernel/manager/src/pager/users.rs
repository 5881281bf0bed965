//! The user half: roots that are trapped, samples of walks, and regions whose pages are
//! put in order.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use penumbra_abi::{
    Error, PAGING_ROOTS, PagingCounter, PagingForm, PagingStatus, paging_epoch, paging_roots,
};

use super::Pager;
use super::seen::{failure, form_of, refused};
use super::window::Hits;
use crate::hypervisor::{Hypervisor, Place, VmId, finish};
use crate::map::RAM_IPA;
use crate::paging::cost::{EDIT_MOST, EPOCH_MOST, MOST_NS_PER_INSTRUCTION, PAGES, QUERY_MOST};
use crate::paging::policy::{Action, REGION_BYTES};
use crate::paging::reason::Failure;
use crate::paging::sample::{Form, Half, RootSample};
use crate::paging::trace::Line;

/// Time after which pages are moved no further before other events had their turn. Moving holds
/// nobody.
const MOVE_MS: u64 = 4;
/// Frames of a region's own pages that are tried for it first.
const OWN_FRAMES: u8 = 3;
/// Frames that are tried for one region in all.
const MAX_DONORS: u8 = OWN_FRAMES + 4;
/// Blocks that are looked at in one search for a partner.
const MAX_PROBES: u64 = 256;
/// Calls that begin samples in one pass: what EL2 can hold, and one more for each space.
const SAMPLE_CALLS: u32 = 16;
/// Samples whose first hits are counted: few, because EL2 is busy for longer with each than a walk takes to come.
const WINDOW_SAMPLES: u64 = 8;
/// This part of a second after the end of a trial EL2 has given back what stood for user spaces.
const GIVEN_BACK_PART: u64 = 4;

/// A re-layout under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    space: u8,
    va: u64,
    /// What `PagingRelayout` is told of the frame.
    donor: u64,
    tried: u8,
}

/// The 2 MiB of guest RAM that give their frames to regions for which none of those will do in which their own
/// pages lie. A partner's pages lie scattered afterwards, so each serves once until they have gone home. Which the guest uses least nobody knows: the search begins in the middle of
/// RAM, behind the kernel's image and before what Linux allocates from the top while it boots.
#[derive(Clone, Debug, Default)]
pub(super) struct Partners {
    blocks: u64,
    next: u64,
    used: BTreeSet<u64>,
}

impl Partners {
    pub(super) const fn new(memory_bytes: u64) -> Self {
        let blocks = memory_bytes / REGION_BYTES;
        Self {
            blocks,
            next: blocks / 2,
            used: BTreeSet::new(),
        }
    }

    /// Those that have served may serve again: their pages are home.
    pub(super) fn forgive(&mut self) {
        self.used.clear();
    }

    /// A block that was not used, in which none of the tables lies, and which serves.
    fn take(&mut self, tables: &BTreeSet<u64>, mut serves: impl FnMut(u64) -> bool) -> Option<u64> {
        for _ in 0..self.blocks.min(MAX_PROBES) {
            let number = self.next;
            self.next = number.saturating_add(1).checked_rem(self.blocks)?;
            let ipa = RAM_IPA.saturating_add(number.saturating_mul(REGION_BYTES));
            let known = tables.contains(&(ipa / REGION_BYTES));
            if !known && !self.used.contains(&number) && serves(ipa) {
                self.used.insert(number);
                return Some(ipa);
            }
        }
        None
    }
}

impl Pager {
    /// Whatever looks cost while roots are trapped is part of what that costs: the time that this one took, but no more than
    /// its calls may take. Where others had the core meanwhile, guests or what else a host does, that is not the guest's.
    pub(super) fn charge<H: Hypervisor>(&mut self, hv: &mut H, began: u64) {
        let ns = self.ns(hv.now().saturating_sub(began));
        let most = self.called.saturating_mul(MOST_NS_PER_INSTRUCTION);
        self.policy.looked(ns.min(most));
    }

    /// Notes that EL2 was called so often, and what each call takes at most.
    pub(super) const fn calls(&mut self, number: u64, most: u64) {
        self.called = self.called.saturating_add(number.saturating_mul(most));
    }

    /// When to see how busy the guest is, or how often its roots are written, counted from a time.
    pub(super) fn glance(&self, from: u64) -> u64 {
        let ms = self.policy.glance_ms(self.ms(from));
        from.saturating_add(ms.saturating_mul(self.hz) / 1000)
    }

    /// For how many ms the guest's vCPUs were in user mode, added up. How long they ran says nothing: one that has
    /// its core for itself waits in the guest.
    pub(super) fn busy_ms<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId) -> u64 {
        self.calls(1, QUERY_MOST);
        let ticks = hv.paging_counter(vm, PagingCounter::UserTicks);
        self.us(ticks.unwrap_or(0)) / 1000
    }

    /// Tells the policy of the roots that EL2 has seen.
    pub(super) fn look_at_roots<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        (now_ms, status): (u64, &PagingStatus),
        seen: &mut Vec<Line>,
    ) {
        let trapped = status.roots & paging_roots::TRAPPED != 0;
        if trapped != self.policy.traps_roots() {
            // EL2 ended it: what is left is allowed anew, or the kernel's root would bear the blame. Or the manager before this
            // one began it, and could not be rid of it.
            let _ = finish(|| hv.paging_roots(vm, status.roots & paging_roots::STICKY));
            self.go_home_soon(hv.now());
            return self.policy.stormed(now_ms);
        }
        if !trapped {
            return;
        }
        for number in (0..=u8::MAX).take(PAGING_ROOTS) {
            self.calls(1, QUERY_MOST);
            let found = hv.paging_root(vm, number).unwrap_or_default();
            if !found.exists {
                continue;
            }
            let sample = RootSample {
                root: found.root,
                writes: found.writes,
                space: found.space,
                wanted: found.wanted,
                held: found.held != 0,
                refusal: refused(found.refusal),
            };
            self.note(seen, Line::Root(sample));
            if let Some(action) = self.policy.root(now_ms, &sample) {
                let result = self.carry_out(hv, vm, action);
                let _ = self.policy.done(now_ms, action, result);
            }
        }
    }

    /// Looks between two passes how many writes of roots were trapped.
    pub(super) fn probe<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId, now_ms: u64) {
        if !self.policy.traps_roots() {
            return;
        }
        self.calls(1, QUERY_MOST);
        let traps = hv.paging_counter(vm, PagingCounter::RootTraps);
        if let Some(action) = self.policy.probe(now_ms, traps.unwrap_or(0)) {
            let result = self.carry_out(hv, vm, action);
            let _ = self.policy.done(now_ms, action, result);
        }
    }

    /// Begins or ends to trap writes of roots.
    pub(super) fn trap<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        on: bool,
    ) -> Result<Form, Failure> {
        // A kernel's root that EL2 no longer plants stays so.
        let sticky = hv.paging_status(vm).map_err(failure)?.roots & paging_roots::STICKY;
        if on {
            hv.paging_roots(vm, sticky | paging_roots::TRAPPED)
                .map_err(failure)?;
            return Ok(Form::Nested);
        }
        let mut calls = 0_u64;
        let ended = finish(|| {
            calls = calls.saturating_add(1);
            hv.paging_roots(vm, sticky)
        });
        self.calls(calls, EDIT_MOST);
        ended.map_err(failure)?;
        self.go_home_soon(hv.now());
        Ok(Form::Nested)
    }

    /// Begins a way home behind a trial, in which tables were protected and sampled by pages of their own in stage 2.
    pub(super) fn go_home_soon(&mut self, now: u64) {
        let soon = now.saturating_add(self.hz / GIVEN_BACK_PART);
        self.homeward.begin_behind_trial(soon);
    }

    /// Begins an epoch of walk samples in the user spaces, where the last one ended, of what could be put in order and is
    /// not. What is partly mapped gains little, and to look for more costs most where a space is empty.
    pub(super) fn sample_walks<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId) {
        self.window = None;
        self.unsampled.clear();
        let mut left = self.candidates();
        if !self.policy.traps_roots() || left.is_empty() {
            return;
        }
        // The one at which the last epoch ended comes first, at its place, and last from its start.
        let (space, va) = self.sampled;
        let within =
            |(number, run): &(u8, RangeInclusive<u64>)| *number == space && run.contains(&va);
        if let Some(at) = left.iter().position(within) {
            left.rotate_left(at);
            if let Some((space, run)) = left.first().cloned() {
                left.push((space, run.clone()));
                let rest = va..=*run.end();
                left.splice(..1, [(space, rest)]);
            }
        }
        self.unsampled = left;
        let before = Hits::read(hv, vm);
        let bits = paging_epoch::SPLIT | paging_epoch::FRESH;
        let armed = self.arm(hv, vm, bits, WINDOW_SAMPLES);
        match before {
            Some(before) => self.window = Some(self.open_window(hv, vm, (armed, before))),
            None => self.sample_rest(hv, vm),
        }
    }

    /// Begins the other samples of an epoch, once the first have told how soon they are hit: each that is hit at the same
    /// time has to wait for EL2 to be done with the others.
    pub(super) fn sample_rest<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId) {
        if self.policy.traps_roots() {
            self.arm(hv, vm, paging_epoch::SPLIT, u64::MAX);
        }
    }

    /// Begins samples of what is left of the epoch until they are enough. How many.
    fn arm<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId, mut bits: u64, enough: u64) -> u64 {
        let mut armed = 0_u64;
        let mut left = core::mem::take(&mut self.unsampled).into_iter();
        let (mut at, mut room) = (left.next(), true);
        for _ in 0..SAMPLE_CALLS {
            let Some((space, run)) = at.clone().filter(|_| room && armed < enough) else {
                break;
            };
            let va = *run.start();
            self.calls(1, EPOCH_MOST);
            let Ok(sampled) = hv.paging_epoch(Place { vm, space, va }, bits) else {
                at = left.next();
                continue;
            };
            bits &= !paging_epoch::FRESH;
            armed = armed.saturating_add(sampled.armed);
            room = sampled.free != 0;
            at = match sampled.next.filter(|va| run.contains(va)) {
                Some(va) => Some((space, va..=*run.end())),
                None => left.next(),
            };
        }
        let next = at.as_ref();
        self.sampled = next.map_or((0, 0), |(space, run)| (*space, *run.start()));
        if room {
            self.unsampled = at.into_iter().chain(left).collect();
        }
        armed
    }

    /// The user spaces, each with the VAs of the first and the last nested region that is full.
    fn candidates(&self) -> Vec<(u8, RangeInclusive<u64>)> {
        let mut runs: Vec<(u8, RangeInclusive<u64>)> = Vec::new();
        for record in self.policy.records() {
            let seen = &record.seen;
            if record.half != Half::User || !seen.full || seen.form != Form::Nested {
                continue;
            }
            match runs.last_mut().filter(|(space, _)| *space == seen.space) {
                Some((_, run)) => *run = *run.start()..=seen.va,
                None => runs.push((seen.space, seen.va..=seen.va)),
            }
        }
        runs
    }

    /// Tells the policy whether stage 2 maps the guest's RAM by pages or by blocks. Its backing would not do: thin memory
    /// that is whole lies in blocks.
    pub(super) fn look_at_leaves<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        seen: &mut Vec<Line>,
    ) {
        let Ok(leaves) = hv.vm_leaves(vm) else { return };
        let blocks = leaves.gib.saturating_mul(512).saturating_add(leaves.mib2);
        let pages = leaves.pages / PAGES;
        if self.policy.mapped(pages, blocks) {
            self.note(seen, Line::Machine(self.policy.config().machine));
        }
    }

    pub(crate) fn is_moving(&self) -> bool {
        self.moving.is_some() || !self.queue.is_empty()
    }

    /// Begins to put the pages of a region in order: only what has a mirror can be moved.
    fn begin_move<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        (space, va): (u8, u64),
    ) -> Result<Move, Result<Form, Failure>> {
        match hv.paging_shadow(Place { vm, space, va }) {
            Ok(PagingForm::Mirror) | Err(Error::AlreadyMapped) => Ok(Move {
                space,
                va,
                donor: 0,
                tried: 1,
            }),
            Ok(form) => Err(Ok(form_of(form))),
            Err(Error::NoSlot) if self.grow(hv, vm).is_ok() => Err(Err(Failure::Busy)),
            Err(error) => Err(Err(failure(error))),
        }
    }

    /// A partner that stage 2 maps by one block: of thin memory only what is whole.
    fn partner<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId) -> Option<u64> {
        let records = self.policy.records().iter();
        let tables = records.map(|record| record.seen.table / REGION_BYTES);
        let whole = |ipa| hv.paging_settle(vm, ipa) == Ok(true);
        self.partners.take(&tables.collect(), whole)
    }

    /// Moves pages for a moment. Whether there were any to move.
    pub(super) fn go_on_moving<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        now_ms: u64,
    ) -> bool {
        let began = hv.now();
        let most = MOVE_MS.saturating_mul(self.hz) / 1000;
        let begun = match (self.moving.take(), self.queue.front().copied()) {
            (Some(work), _) => Ok(work),
            (None, Some(region)) => {
                self.queue.pop_front();
                self.begin_move(hv, vm, region)
                    .map_err(|result| (region, result))
            }
            (None, None) => return false,
        };
        let ((space, va), result) = match begun {
            Ok(mut work) => {
                let ended = loop {
                    match self.move_page(hv, vm, &mut work) {
                        Some(result) => break result,
                        None if hv.now().saturating_sub(began) < most => {}
                        None => {
                            self.moving = Some(work);
                            return true;
                        }
                    }
                };
                ((work.space, work.va), ended)
            }
            Err(ended) => ended,
        };
        if result.is_err() {
            // Pages may have been moved for it.
            self.homeward.begin();
        }
        let action = Action::Relayout { space, va };
        if let Some(next) = self.policy.done(now_ms, action, result) {
            let result = self.carry_out(hv, vm, next);
            let _ = self.policy.done(now_ms, next, result);
        }
        true
    }

    /// Moves one page. How the whole work ended, if it did.
    fn move_page<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        work: &mut Move,
    ) -> Option<Result<Form, Failure>> {
        let (space, va) = (work.space, work.va);
        match hv.paging_relayout(Place { vm, space, va }, work.donor) {
            Ok(true) => Some(Ok(Form::Relaid)),
            Ok(false) => None,
            // The frame may be what does not serve: tables of the guest lie in it.
            Err(Error::InvalidParameter) if work.tried < MAX_DONORS => {
                let donor = if work.tried < OWN_FRAMES {
                    Some(work.tried.into())
                } else {
                    self.partner(hv, vm)
                };
                let Some(donor) = donor else {
                    return Some(Err(Failure::NoPartner));
                };
                work.donor = donor;
                work.tried = work.tried.saturating_add(1);
                None
            }
            Err(error) => Some(Err(failure(error))),
        }
    }
}
