//! What wakes the manager from [`Call::Wait`](crate::Call::Wait).

/// A set of events. Each is a level, not an edge: it is reported again by every `Wait` until its
/// cause is gone, so a restarted manager misses nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(pub u64);

impl Events {
    /// The board's console has input (`ConsoleRead` of the manager's own VM).
    pub const INPUT: Self = Self(1 << 0);
    /// A guest's console has output (`ConsoleRead` of that VM).
    pub const OUTPUT: Self = Self(1 << 1);
    /// A VM changed its state, or is short of frames (`VmStatus`).
    pub const STATUS: Self = Self(1 << 2);
    /// The deadline given to `Wait` has passed.
    pub const DEADLINE: Self = Self(1 << 3);

    /// Whether any of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The union of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
