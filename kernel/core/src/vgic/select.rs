//! Which interrupts get the list registers when there are more than fit.

use super::interface::MAX_LIST_REGISTERS;

/// An interrupt that wants a list register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) intid: u32,
    pub(super) active: bool,
    priority: u8,
}

impl Candidate {
    const NONE: Self = Self {
        intid: 0,
        active: false,
        priority: 0,
    };

    pub(super) const fn new(intid: u32, priority: u8, active: bool) -> Self {
        Self {
            intid,
            active,
            priority,
        }
    }

    /// Lower goes first: active ones, which the guest will look for when it ends them, then by
    /// priority, then by INTID as a real distributor does.
    const fn rank(self) -> (bool, u8, u32) {
        (!self.active, self.priority, self.intid)
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
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            best: [Candidate::NONE; MAX_LIST_REGISTERS],
            len: 0,
            capacity: capacity.min(MAX_LIST_REGISTERS),
            best_pending: None,
            overflow: false,
        }
    }

    /// Considers a candidate.
    pub(super) fn offer(&mut self, candidate: Candidate) {
        if !candidate.active
            && self
                .best_pending
                .is_none_or(|best| candidate.rank() < best.rank())
        {
            self.best_pending = Some(candidate);
        }
        let kept = self.best.get(..self.len).unwrap_or(&[]);
        let position = kept.partition_point(|other| other.rank() < candidate.rank());
        self.overflow |= self.len == self.capacity;
        self.len = self.len.saturating_add(1).min(self.capacity);
        if let Some(tail) = self.best.get_mut(position..self.len)
            && let Some(last) = tail.len().checked_sub(1)
        {
            tail.copy_within(..last, 1);
            if let Some(slot) = tail.first_mut() {
                *slot = candidate;
            }
        }
    }

    /// Whether not all candidates fit.
    pub(super) const fn overflows(&self) -> bool {
        self.overflow
    }

    /// Those to put into list registers. One is always pending if any candidate is, so that it can
    /// preempt: the least of the active ones waits in memory until a list register is free, which
    /// happens when the guest ends a more urgent one.
    pub(super) fn chosen(&self) -> impl Iterator<Item = Candidate> + '_ {
        let kept = self.best.get(..self.len).unwrap_or(&[]);
        let all_active = kept.iter().all(|candidate| candidate.active);
        let last = self.len.saturating_sub(1);
        let substitute = self.best_pending.filter(|_| all_active && self.overflow);
        kept.iter()
            .enumerate()
            .map(move |(index, &candidate)| match substitute {
                Some(pending) if index == last => pending,
                _ => candidate,
            })
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
        (
            selection
                .chosen()
                .map(|candidate| candidate.intid)
                .collect(),
            selection.overflows(),
        )
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
