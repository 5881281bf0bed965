//! Does what the policy says. Regions in a row are shadowed together, so that the guest's vCPUs are
//! held once for all of them.

use penumbra_abi::{Error, PAGING_RANGE, PagingRefusal, PagingSurvey, paging_roots};

use super::Pager;
use super::seen::{failure, form_of};
use crate::hypervisor::{Hypervisor, Place, Shadowed, VmId, finish};
use crate::paging::cost::EDIT_MOST;
use crate::paging::policy::{Action, REGION_BYTES};
use crate::paging::reason::Failure;
use crate::paging::sample::{Form, RegionSample};

/// Regions in a row that are to be shadowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    space: u8,
    va: u64,
    count: u64,
    /// Those that are to become leaves, a bit each.
    leaves: u64,
}

impl Batch {
    const fn of(space: u8, va: u64, leaf: bool) -> Self {
        let (count, leaves) = (1, leaf as u64);
        Self {
            space,
            va,
            count,
            leaves,
        }
    }

    fn takes(&self, space: u8, va: u64) -> bool {
        self.space == space && self.va_of(self.count) == va && !self.is_full()
    }

    fn add(&mut self, leaf: bool) {
        self.leaves |= u64::from(leaf) << self.count;
        self.count = self.count.saturating_add(1);
    }

    const fn is_full(&self) -> bool {
        self.count >= PAGING_RANGE
    }

    /// First VA of the region of a number.
    const fn va_of(&self, number: u64) -> u64 {
        self.va.wrapping_add(number.saturating_mul(REGION_BYTES))
    }

    const fn wanted(&self, number: u64) -> Form {
        if self.leaves >> number & 1 != 0 {
            Form::Leaf
        } else {
            Form::Mirror
        }
    }

    const fn is_done(&self, made: &Shadowed) -> bool {
        made.tables == self.count && made.leaves == self.leaves.count_ones() as u64
    }
}

impl Pager {
    /// Does what the policy wants of a region, at once or together with those behind it. Whether
    /// anything was done.
    pub(super) fn act<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        now_ms: u64,
        (action, sample): (Action, &RegionSample),
    ) -> bool {
        if let Action::Relayout { space, va } = action {
            self.queue.push_back((space, va));
            return false;
        }
        let Action::Shadow { space, va } = action else {
            self.carry_through(hv, vm, now_ms, action);
            return true;
        };
        if sample.form != Form::Nested {
            self.carry_through(hv, vm, now_ms, action);
            return true;
        }
        let mut acted = false;
        match &mut self.batch {
            Some(batch) if batch.takes(space, va) => batch.add(sample.uniform),
            _ => {
                acted = self.flush(hv, vm, now_ms);
                self.batch = Some(Batch::of(space, va, sample.uniform));
            }
        }
        if self.batch.is_some_and(|batch| batch.is_full()) {
            acted |= self.flush(hv, vm, now_ms);
        }
        acted
    }

    /// Shadows what was gathered, in one hold. Whether there was anything.
    pub(super) fn flush<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId, now_ms: u64) -> bool {
        let Some(batch) = self.batch.take() else {
            return false;
        };
        let (space, va) = (batch.space, batch.va);
        if batch.count == 1 {
            self.carry_through(hv, vm, now_ms, Action::Shadow { space, va });
            return true;
        }
        self.calls(batch.count, EDIT_MOST);
        let made = hv.paging_shadow_range(Place { vm, space, va }, batch.count);
        let whole = made.is_ok_and(|made| batch.is_done(&made));
        let mut short = made.is_ok_and(|made| made.full);
        // With more memory it may work the next time.
        let room = short && self.grow(hv, vm).is_ok();
        for number in 0..batch.count {
            let va = batch.va_of(number);
            let place = Place { vm, space, va };
            let form = if whole {
                batch.wanted(number)
            } else {
                form_at(hv, place)
            };
            let result = match (form, made) {
                (Form::Nested, Err(error)) => Err(failure(error)),
                (Form::Nested, Ok(made)) if made.full && number >= made.looked => {
                    // One region is evicted for all of them.
                    let first = core::mem::take(&mut short);
                    Err(if first && !room {
                        Failure::Full
                    } else {
                        Failure::Busy
                    })
                }
                (Form::Nested, Ok(_)) => Err(Failure::Changed),
                (form, _) => Ok(form),
            };
            if result.is_ok() {
                self.tell_worth(hv, place);
            }
            let action = Action::Shadow { space, va };
            if let Some(next) = self.policy.done(now_ms, action, result) {
                self.carry_through(hv, vm, now_ms, next);
            }
        }
        true
    }

    /// Does what the policy wants, and what it wants instead if that fails for want of room.
    fn carry_through<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId, now_ms: u64, action: Action) {
        let mut action = Some(action);
        // The answer to a failure for want of room is an eviction, and that is all.
        for _ in 0..2 {
            let Some(wanted) = action else { break };
            let result = self.carry_out(hv, vm, wanted);
            action = self.policy.done(now_ms, wanted, result);
        }
    }

    fn tell_worth<H: Hypervisor>(&mut self, hv: &mut H, place: Place) {
        let worth = self.policy.worth_of(place.space, place.va);
        // It is a hint.
        let _ = hv.paging_worth(place, worth);
    }

    pub(super) fn carry_out<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        vm: VmId,
        action: Action,
    ) -> Result<Form, Failure> {
        self.calls(1, EDIT_MOST);
        match action {
            Action::Shadow { space, va } => {
                let place = Place { vm, space, va };
                let form = match hv.paging_shadow(place) {
                    // A mirror that has become uniform: made anew, it is a leaf.
                    Err(Error::AlreadyMapped) => hv
                        .paging_demote(place)
                        .and_then(|_| hv.paging_shadow(place))
                        .map_err(failure)?,
                    // With more memory it may work the next time.
                    Err(Error::NoSlot) if self.grow(hv, vm).is_ok() => return Err(Failure::Busy),
                    result => result.map_err(failure)?,
                };
                self.tell_worth(hv, place);
                Ok(form_of(form))
            }
            Action::Demote { space, va } => match hv.paging_demote(Place { vm, space, va }) {
                // Not shadowed (any more) is what was wanted.
                Ok(_) | Err(Error::NotMapped) => Ok(Form::Nested),
                Err(error) => Err(failure(error)),
            },
            Action::Revive { .. } => self.revive(hv, vm),
            Action::AddSpace { root } => match hv.paging_space_add(vm, root) {
                Ok(_) => Ok(Form::Nested),
                Err(error) => Err(failure(error)),
            },
            Action::DropSpace { root } => match finish(|| hv.paging_space_drop(vm, root)) {
                Ok(()) => Ok(Form::Nested),
                Err(error) => Err(failure(error)),
            },
            Action::Trap(on) => self.trap(hv, vm, on),
            // It takes many calls: `go_on_moving`.
            Action::Relayout { .. } => Err(Failure::Unsupported),
        }
    }

    /// Has the root mirrors made anew that EL2 gave up.
    fn revive<H: Hypervisor>(&mut self, hv: &mut H, vm: VmId) -> Result<Form, Failure> {
        let status = hv.paging_status(vm).map_err(failure)?;
        // EL2 stopped planting for good; to ask again would begin its count anew.
        let sticky = status.roots & paging_roots::STICKY != 0;
        if status.refusal == PagingRefusal::Storm && !sticky {
            return Err(Failure::Storm);
        }
        match finish(|| hv.paging_mode(vm, status.mode)) {
            Ok(()) => Ok(Form::Nested),
            Err(Error::NoSlot) if self.grow(hv, vm).is_ok() => Err(Failure::Busy),
            Err(error) => Err(failure(error)),
        }
    }
}

/// What stands for a region now.
fn form_at<H: Hypervisor>(hv: &mut H, place: Place) -> Form {
    match hv.paging_survey(place) {
        Ok(PagingSurvey::Found(region, _)) if region.va == place.va => form_of(region.form),
        _ => Form::Nested,
    }
}
