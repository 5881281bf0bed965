//! Which interrupts get the list registers when there are more than fit.

use super::interface::MAX_LIST_REGISTERS;

/// An interrupt that wants a list register. Lower goes first: active ones, which the guest will look
/// for when it ends them, then by priority, then by INTID as a real distributor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u32);

impl Candidate {
    const INACTIVE: u32 = 1 << 31;

    #[inline]
    pub(super) const fn new(intid: u32, priority: u8, active: bool) -> Self {
        let class = if active { 0 } else { Self::INACTIVE };
        Self(class | (priority as u32) << 16 | (intid & 0xffff))
    }

    #[inline]
    pub(super) const fn intid(self) -> u32 {
        self.0 & 0xffff
    }

    #[inline]
    pub(super) const fn is_active(self) -> bool {
        self.0 & Self::INACTIVE == 0
    }
}

/// The best candidates seen so far, best first.
pub(super) struct Selection {
    best: [Candidate; MAX_LIST_REGISTERS],
    len: usize,
    capacity: usize,
    /// The best that is not active, chosen or not.
    best_pending: Option<Candidate>,
    overflow: bool,
}

impl Selection {
    /// Chooses at most `capacity`.
    #[inline]
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            best: [Candidate(0); MAX_LIST_REGISTERS],
            len: 0,
            capacity: capacity.min(MAX_LIST_REGISTERS),
            best_pending: None,
            overflow: false,
        }
    }

    /// Considers a candidate.
    #[inline]
    pub(super) fn offer(&mut self, candidate: Candidate) {
        if !candidate.is_active() && self.best_pending.is_none_or(|best| candidate < best) {
            self.best_pending = Some(candidate);
        }
        self.overflow |= self.len == self.capacity;
        let mut moving = candidate;
        for slot in self.best.get_mut(..self.len).unwrap_or(&mut []) {
            if moving < *slot {
                core::mem::swap(slot, &mut moving);
            }
        }
        if self.len < self.capacity
            && let Some(slot) = self.best.get_mut(self.len)
        {
            *slot = moving;
            self.len = self.len.saturating_add(1);
        }
    }

    /// Whether not all candidates fit.
    pub(super) const fn overflows(&self) -> bool {
        self.overflow
    }

    /// Ends the choice. One that is not active is always chosen if there is any, so that it can
    /// preempt: the least of the active ones waits in memory until a list register is free, which
    /// happens when the guest ends a more urgent one.
    #[inline]
    pub(super) fn finish(&mut self) {
        // Best first: if the last is active, all are.
        let last = self
            .len
            .checked_sub(1)
            .and_then(|last| self.best.get_mut(last));
        if let (true, Some(last), Some(pending)) = (self.overflow, last, self.best_pending)
            && last.is_active()
        {
            *last = pending;
        }
    }

    /// Those to put into list registers, once the choice has ended.
    #[inline]
    pub(super) fn chosen(&self) -> &[Candidate] {
        self.best.get(..self.len).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(capacity: usize, offered: &[(u32, u8, bool)]) -> (Vec<u32>, bool) {
        let mut selection = Selection::new(capacity);
        for &(intid, priority, active) in offered {
            selection.offer(Candidate::new(intid, priority, active));
        }
        selection.finish();
        let chosen = selection.chosen().iter().map(|candidate| candidate.intid());
        (chosen.collect(), selection.overflows())
    }

    #[test]
    fn takes_the_most_urgent_first_and_the_lower_intid_among_equals() {
        let offered = [
            (40, 0x80, false),
            (1, 0xa0, false),
            (35, 0x80, false),
            (2, 0x10, false),
        ];
        assert_eq!(choose(4, &offered), (vec![2, 35, 40, 1], false));
        assert_eq!(choose(2, &offered), (vec![2, 35], true));
    }

    #[test]
    fn keeps_active_ones_but_always_one_that_is_pending() {
        let offered = [
            (1, 0x80, true),
            (2, 0x10, true),
            (3, 0x00, false),
            (4, 0xf8, true),
        ];
        assert_eq!(choose(4, &offered), (vec![2, 1, 4, 3], false));
        assert_eq!(choose(2, &offered), (vec![2, 3], true));
        assert_eq!(choose(1, &offered), (vec![3], true));
    }

    #[test]
    fn survives_an_interface_without_list_registers() {
        assert_eq!(choose(0, &[(1, 0, false)]), (vec![], true));
    }
}
