//! Decisions and their reasons, in words for the operator.

use core::fmt;

use super::cost::Balance;
use super::sample::RegionSample;

/// Why a region is as it is, or why something was decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// It has just been found.
    #[default]
    New,
    /// The table holds too few pages, or unequal ones.
    Partial {
        /// Valid descriptors.
        valid: u16,
    },
    /// It is full, but its frames are scattered, and putting them in order is not allowed.
    Scattered,
    /// It is quiet, but not for long enough.
    Settling {
        /// Quiet passes so far.
        quiet: u8,
    },
    /// Its table was written; it is left alone until a time, in ms.
    Written {
        /// Until when.
        until_ms: u64,
    },
    /// It does not earn what it costs.
    Unprofitable(Balance),
    /// It earns what it costs.
    Pays(Balance),
    /// The mode asks for it.
    Mode,
    /// A second store within an interval.
    Busy,
    /// EL2 gave the shadow up, because of a store or because the table is gone.
    TakenBack,
    /// The process of a root is gone, or has not run for long.
    Gone,
    /// A table that is worth more needs the room.
    Evicted,
    /// The scenario's limit on table frames or on copying is used up.
    Budget,
    /// The layout is locked.
    Locked,
    /// EL2 refused.
    Refused(Failure),
    /// Its root mirror was given up so often, and it has waited since.
    Waited {
        /// How often.
        lost: u32,
    },
    /// The guest is busy: traps are tried, to see what they would save.
    Trial,
    /// Roots were written too often for traps.
    Storm {
        /// Writes a second, as measured last.
        rate: u64,
    },
    /// Trials have used up what they may cost.
    Spent {
        /// What all of them have cost so far, in ms.
        ms: u64,
    },
    /// Trapped roots cost more than they save, cycles a second.
    Taxed {
        /// What the traps cost.
        tax: u64,
        /// What the spaces gain.
        gain: u64,
    },
}

/// Why EL2 did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No room: frames, spaces, nodes or aliases.
    Full,
    /// The region has changed meanwhile.
    Changed,
    /// Its table or a page lies where nothing may be protected or moved.
    NotRam,
    /// Its table serves at too many places.
    Crowded,
    /// The vCPUs could not be brought to a stop.
    Busy,
    /// EL2 does not offer it.
    Unsupported,
    /// The guest replaces its roots too often.
    Storm,
    /// No 2 MiB of the guest's RAM is left that could give its frame.
    NoPartner,
    /// The root has no entry: no process is behind it.
    NoProcess,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::New => f.write_str("just found"),
            Self::Partial { valid: 512 } => {
                f.write_str("full, but its pages have unequal attributes")
            }
            Self::Partial { valid } => write!(f, "has {valid} of 512 pages"),
            Self::Scattered => f.write_str("full, but its frames are scattered"),
            Self::Settling { quiet } => write!(f, "quiet for {quiet} passes, not yet long enough"),
            Self::Written { until_ms } => {
                let (s, tenth) = (until_ms / 1000, until_ms % 1000 / 100);
                write!(f, "its table was written; left alone until {s}.{tenth} s")
            }
            Self::Unprofitable(balance) => write!(f, "does not pay: {balance}"),
            Self::Pays(balance) => write!(f, "pays: {balance}"),
            Self::Mode => f.write_str("the mode asks for it"),
            Self::Busy => f.write_str("its table was written twice within an interval"),
            Self::TakenBack => f.write_str("EL2 gave it up: its table was written or is gone"),
            Self::Gone => f.write_str("its process is gone, or has not run for long"),
            Self::Evicted => f.write_str("a region that is worth more needs the room"),
            Self::Budget => f.write_str("`paging_pool` or `paging_copy` is used up"),
            Self::Locked => f.write_str("the layout is locked"),
            Self::Refused(failure) => write!(f, "EL2 refused: {failure}"),
            Self::Waited { lost } => write!(f, "its mirror was given up {lost} times so far"),
            Self::Trial => f.write_str("the guest is busy: a trial, to see what traps would save"),
            Self::Storm { rate } => write!(f, "a storm of root writes: {rate}/s"),
            Self::Spent { ms } => write!(f, "trials may cost no more for now: {ms} ms so far"),
            Self::Taxed { tax, gain } => {
                write!(f, "traps cost {tax} cycles/s, shadows save {gain}")
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "no room left",
            Self::Changed => "the region has changed meanwhile",
            Self::NotRam => "its table or a page of it may not be protected or moved",
            Self::Crowded => "its table serves at too many places",
            Self::Busy => "the vCPUs could not be brought to a stop",
            Self::Unsupported => "it does not offer this",
            Self::Storm => "the guest replaces its roots too often",
            Self::NoProcess => "the root has no entry: no process is behind it",
            Self::NoPartner => "no 2 MiB of its RAM are left that could give their frame",
        })
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gain, upkeep, once } = self;
        write!(f, "saves {gain} cycles/s, costs {upkeep}/s and {once} once")
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A region was shadowed by one leaf.
    Leaf,
    /// A region was shadowed by a mirror table.
    Mirror,
    /// A region's frames were put in order.
    Relaid,
    /// A region went back to the guest's table.
    Demoted,
    /// EL2 gave the mirror of a root up.
    RootLost,
    /// The mirror of a root was made anew.
    Revived,
    /// A user root lost its space.
    SpaceDropped,
    /// Roots are trapped.
    TrapOn,
    /// Roots are no longer trapped.
    TrapOff,
}

impl Deed {
    /// As a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leaf => "leaf",
            Self::Mirror => "mirror",
            Self::Relaid => "re-laid",
            Self::Demoted => "nested",
            Self::RootLost => "root lost",
            Self::Revived => "root anew",
            Self::SpaceDropped => "no space",
            Self::TrapOn => "trap roots",
            Self::TrapOff => "no traps",
        }
    }
}

/// A decision that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// When, in ms since the VM was first looked at.
    pub at_ms: u64,
    /// What.
    pub deed: Deed,
    /// The region's first VA; 0 where it concerns the VM.
    pub va: u64,
    /// Regions in a row that were decided alike, the first one at `va`.
    pub count: u32,
    /// Why.
    pub why: Reason,
}

impl Decision {
    /// Whether a decision on the region at `va` continues this one.
    #[must_use]
    pub fn is_continued_by(&self, deed: Deed, va: u64, why: &Reason) -> bool {
        let end = u64::from(self.count).saturating_mul(super::policy::REGION_BYTES);
        let kind = core::mem::discriminant::<Reason>;
        self.deed == deed && self.va.checked_add(end) == Some(va) && kind(&self.why) == kind(why)
    }
}

/// What keeps a region from one leaf, apart from costs.
#[must_use]
pub const fn shape(sample: &RegionSample) -> Option<Reason> {
    if sample.uniform {
        None
    } else if sample.full {
        Some(Reason::Scattered)
    } else {
        Some(Reason::Partial {
            valid: sample.valid,
        })
    }
}
