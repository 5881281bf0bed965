//! What a scenario, or the operator, wants of a VM's tables.

/// What may stand for a VM's translation tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The guest's own tables only.
    #[default]
    Nested,
    /// Everything is mirrored, whether it pays or not: for comparisons.
    Shadow,
    /// What pays is shadowed.
    Compound,
}

impl Mode {
    /// Every mode with its name.
    pub const ALL: [(&'static str, Self); 3] = [
        ("nested", Self::Nested),
        ("shadow", Self::Shadow),
        ("compound", Self::Compound),
    ];

    /// Its name, as in a scenario.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nested => "nested",
            Self::Shadow => "shadow",
            Self::Compound => "compound",
        }
    }
}

/// When the layout of a VM's tables may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Changes {
    /// At any time.
    #[default]
    Free,
    /// Within [`LOCK_AFTER_MS`](super::LOCK_AFTER_MS) of its start or of a change of its mode, then no more: no rendezvous and no
    /// flush comes from here. User spaces stay nested: what processes map is never settled.
    Lock,
    /// Never: it stays nested.
    Never,
}
