//! Whose turn it is among the vCPUs of a core.
//!
//! Round robin with slices of [`SLICE_MS`]. A vCPU that wakes up does not wait for the slices of
//! others: it interrupts whoever has run for [`UNDISTURBED_US`], for [`WOKEN_MS`] at most, and then the
//! interrupted one goes on. So interrupts are answered soon, and a vCPU that wakes up all the time still
//! leaves a third of the core to the others.

use super::NEVER;
use crate::vcpu::{VcpuId, members};

/// How long a vCPU runs while others wait for the core.
pub const SLICE_MS: u64 = 5;
/// How long a vCPU runs that interrupted another.
const WOKEN_MS: u64 = 1;
/// How long a vCPU runs before another may interrupt it.
const UNDISTURBED_US: u64 = 500;

/// The turns of one core. Times are counter values.
#[derive(Debug)]
pub(super) struct Turns {
    /// How long a vCPU runs while others wait, one that interrupted another, and one before another may
    /// interrupt it.
    slice: u64,
    woken_slice: u64,
    undisturbed: u64,
    /// Where the round robin goes on.
    turn: VcpuId,
    /// Who was interrupted and goes on next.
    interrupted: Option<VcpuId>,
    /// The ready vCPUs as they were seen last, and those of them that have not run since they woke up.
    seen: u64,
    woken: u64,
    /// When the running vCPU got the core, and when its slice ends.
    since: u64,
    slice_end: u64,
    /// The manager was woken and has not used up its slice.
    manager_first: bool,
}

impl Turns {
    pub(super) const fn new(counter_hz: u64) -> Self {
        let ms = counter_hz / 1000;
        Self {
            slice: ms.saturating_mul(SLICE_MS),
            woken_slice: ms.saturating_mul(WOKEN_MS),
            undisturbed: ms.saturating_mul(UNDISTURBED_US) / 1000,
            turn: VcpuId::MANAGER,
            interrupted: None,
            seen: 0,
            woken: 0,
            since: 0,
            slice_end: 0,
            manager_first: false,
        }
    }

    /// The manager has events: it goes first, for one slice.
    pub(super) const fn put_manager_first(&mut self) {
        self.manager_first = true;
    }

    /// A vCPU waits.
    pub(super) fn blocked(&mut self, id: VcpuId) {
        self.manager_first &= id != VcpuId::MANAGER;
    }

    /// Who of `ready` runs now, if `running` ran last.
    pub(super) fn next(&mut self, ready: u64, running: Option<VcpuId>, now: u64) -> Option<VcpuId> {
        let fresh = ready & !self.seen;
        self.seen = ready;
        self.woken = (self.woken | fresh) & ready;
        let slice_over = now >= self.slice_end;
        if running == Some(VcpuId::MANAGER) && slice_over {
            self.manager_first = false;
        }
        let running = running.filter(|id| ready & id.bit() != 0 && !slice_over);
        if self.manager_first && ready & VcpuId::MANAGER.bit() != 0 {
            if running != Some(VcpuId::MANAGER) {
                self.interrupted = self.interrupted.or(running);
                self.begin(VcpuId::MANAGER, now, self.slice);
            }
            return Some(VcpuId::MANAGER);
        }
        let waiters = self.waiters(running);
        if let Some(id) = running {
            if waiters == 0 || now < self.undisturbed_until() {
                return Some(id);
            }
            let woken = next_after(waiters, self.turn)?;
            // Whoever was interrupted before keeps its claim.
            self.interrupted = self.interrupted.or(Some(id));
            self.begin(woken, now, self.woken_slice);
            return Some(woken);
        }
        let interrupted = self.interrupted.take().filter(|id| ready & id.bit() != 0);
        let id = match interrupted {
            Some(id) => id,
            None if waiters != 0 => next_after(waiters, self.turn)?,
            None => next_after(ready, self.turn)?,
        };
        self.turn = id;
        self.begin(id, now, self.slice);
        Some(id)
    }

    /// When somebody else may want the core from `running`.
    pub(super) fn deadline(&self, ready: u64, running: Option<VcpuId>) -> u64 {
        let others = running.map_or(ready, |id| ready & !id.bit());
        if others == 0 {
            NEVER
        } else if self.waiters(running) != 0 {
            self.slice_end.min(self.undisturbed_until())
        } else {
            self.slice_end
        }
    }

    fn waiters(&self, running: Option<VcpuId>) -> u64 {
        running.map_or(self.woken, |id| self.woken & !id.bit())
    }

    /// From when on a vCPU that wakes up gets the core from `running`; always, if that does not run.
    pub(super) fn interruptible(&self, ready: u64, running: Option<VcpuId>) -> u64 {
        match running {
            Some(id) if ready & id.bit() != 0 => self.undisturbed_until().min(self.slice_end),
            _ => 0,
        }
    }

    const fn undisturbed_until(&self) -> u64 {
        self.since.saturating_add(self.undisturbed)
    }

    fn begin(&mut self, id: VcpuId, now: u64, slice: u64) {
        self.woken &= !id.bit();
        self.since = now;
        self.slice_end = now.saturating_add(slice);
    }
}

/// The member of `set` that follows `last` in a circle.
fn next_after(set: u64, last: VcpuId) -> Option<VcpuId> {
    let above = set & (u64::MAX << 1).wrapping_shl(u32::try_from(last.number()).ok()?);
    members(if above != 0 { above } else { set }).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1000;

    fn id(number: usize) -> VcpuId {
        VcpuId::from_number(number).unwrap()
    }

    fn turns() -> Turns {
        Turns::new(1000 * MS)
    }

    #[test]
    fn slices_go_round() {
        let mut turns = turns();
        let ready = id(8).bit() | id(16).bit() | id(24).bit();
        let (mut running, mut order) = (None, Vec::new());
        for now in (0..60 * MS).step_by(1000) {
            let next = turns.next(ready, running, now).unwrap();
            if running != Some(next) {
                order.push(next.number());
            }
            running = Some(next);
        }
        // Fresh ones interrupt at first, then everyone has whole slices.
        let settled = &order[order.len() - 6..];
        assert_eq!(settled[..3], settled[3..]);
        assert!([8, 16, 24].iter().all(|n| settled.contains(n)), "{order:?}");
        assert_eq!(turns.next(0, running, 0), None);
    }

    #[test]
    fn the_awakened_interrupts_and_the_interrupted_goes_on() {
        let mut turns = turns();
        let (a, b) = (id(8), id(16));
        assert_eq!(turns.next(a.bit(), None, 0), Some(a));
        let both = a.bit() | b.bit();
        assert_eq!(turns.next(both, Some(a), 100), Some(a));
        assert_eq!(turns.deadline(both, Some(a)), 500);
        assert_eq!(turns.next(both, Some(a), 500), Some(b));
        assert_eq!(turns.next(both, Some(b), 500 + MS), Some(a));
        assert_eq!(turns.deadline(both, Some(a)), 500 + MS + SLICE_MS * MS);
        // It blocks and wakes up again at once, and again.
        let (mut now, mut running, mut time_of_a) = (2 * MS, a, 0);
        for _ in 0..10_000 {
            let ready = if running == b && now % 100 == 0 {
                a.bit()
            } else {
                both
            };
            let next = turns.next(ready, Some(running), now).unwrap();
            time_of_a += u64::from(next == a) * 10;
            (running, now) = (next, now + 10);
        }
        assert!(time_of_a > 10_000 * 10 / 3, "{time_of_a}");
    }

    #[test]
    fn nobody_is_woken_only_to_wait() {
        let mut turns = turns();
        let a = id(8);
        assert_eq!(turns.next(a.bit(), None, 100), Some(a));
        assert_eq!(turns.interruptible(a.bit(), Some(a)), 100 + 500);
        assert_eq!(turns.interruptible(0, Some(a)), 0);
        assert_eq!(turns.interruptible(a.bit(), None), 0);
    }

    #[test]
    fn the_manager_goes_first_for_one_slice() {
        let mut turns = turns();
        let (manager, guest) = (VcpuId::MANAGER, id(8));
        let both = manager.bit() | guest.bit();
        assert_eq!(turns.next(guest.bit(), None, 0), Some(guest));
        turns.put_manager_first();
        assert_eq!(turns.next(both, Some(guest), 1), Some(manager));
        assert_eq!(turns.next(both, Some(manager), 4 * MS), Some(manager));
        assert_eq!(turns.next(both, Some(manager), 6 * MS), Some(guest));
    }
}
