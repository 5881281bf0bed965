//! What a survey tells of a guest's tables, region by region.

/// What stands for a guest table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum PagingForm {
    /// The guest's own table.
    #[default]
    Nested = 0,
    /// A mirror of EL2's.
    Mirror = 1,
    /// One leaf of the table above: coalesced.
    Leaf = 2,
}

impl PagingForm {
    /// Reads a form.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            0 => Self::Nested,
            1 => Self::Mirror,
            2 => Self::Leaf,
            _ => return None,
        })
    }
}

/// A level-3 table of a guest, as a survey found it: 2 MiB of VA space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingRegion {
    /// First VA.
    pub va: u64,
    /// IPA of the guest's table.
    pub table: u64,
    /// Valid descriptors, of 512.
    pub valid: u16,
    /// Runs of 16 pages that could take the contiguous hint, of 32.
    pub runs: u8,
    /// One 2 MiB leaf could stand for it as its pages lie now.
    pub uniform: bool,
    /// Full, with equal attributes: its pages could be re-laid out for one leaf.
    pub full: bool,
    /// EL0 may access its first page.
    pub user: bool,
    /// What stands for it now.
    pub form: PagingForm,
    /// Stores mirrored since it was surveyed last; where it is nested, 1 if a sample of stores was hit.
    pub writes: u16,
    /// Walks that fetched from the table since it was sampled; 0 or 1.
    pub walks: u16,
    /// It is sampled for walks: `walks` says something.
    pub walks_known: bool,
    /// It is sampled for stores, or mirrored: `writes` says something.
    pub writes_known: bool,
}

/// One step of a survey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingSurvey {
    /// A region; go on at the VA, if any.
    Found(PagingRegion, Option<u64>),
    /// Nothing so far; go on at the VA.
    Skipped(u64),
    /// The half has ended.
    End,
}

impl PagingSurvey {
    /// As X1 to X6.
    #[must_use]
    pub const fn to_regs(self) -> [u64; 6] {
        match self {
            Self::End => [0; 6],
            Self::Skipped(next) => [1, next, 0, 0, 0, 0],
            Self::Found(region, next) => {
                let (kind, next) = match next {
                    Some(next) => (2, next),
                    None => (3, 0),
                };
                let shape = region.valid as u64
                    | (region.runs as u64) << 16
                    | (region.uniform as u64) << 24
                    | (region.full as u64) << 25
                    | (region.user as u64) << 26
                    | (region.walks_known as u64) << 27
                    | (region.writes_known as u64) << 28
                    | (region.form as u64) << 32;
                let use_ = region.writes as u64 | (region.walks as u64) << 16;
                [kind, next, region.va, region.table, shape, use_]
            }
        }
    }

    /// From X1 to X6.
    #[must_use]
    pub const fn from_regs(regs: [u64; 6]) -> Option<Self> {
        let [kind, next, va, table, shape, use_] = regs;
        let next = match kind {
            0 => return Some(Self::End),
            1 => return Some(Self::Skipped(next)),
            2 => Some(next),
            3 => None,
            _ => return None,
        };
        let Some(form) = PagingForm::from_bits(shape >> 32) else {
            return None;
        };
        let region = PagingRegion {
            va,
            table,
            valid: shape as u16,
            runs: (shape >> 16) as u8,
            uniform: shape & 1 << 24 != 0,
            full: shape & 1 << 25 != 0,
            user: shape & 1 << 26 != 0,
            form,
            writes: use_ as u16,
            walks: (use_ >> 16) as u16,
            walks_known: shape & 1 << 27 != 0,
            writes_known: shape & 1 << 28 != 0,
        };
        Some(Self::Found(region, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_survives_registers() {
        let region = PagingRegion {
            va: 0xffff_0000_4000_0000,
            table: 0x4567_8000,
            valid: 512,
            runs: 32,
            uniform: true,
            full: true,
            user: true,
            form: PagingForm::Leaf,
            writes: 65_535,
            walks: 1,
            walks_known: true,
            writes_known: false,
        };
        for step in [
            PagingSurvey::End,
            PagingSurvey::Skipped(1 << 39),
            PagingSurvey::Found(region, Some(0xffff_0000_4020_0000)),
            PagingSurvey::Found(PagingRegion::default(), None),
        ] {
            assert_eq!(PagingSurvey::from_regs(step.to_regs()), Some(step));
        }
        assert_eq!(PagingSurvey::from_regs([4, 0, 0, 0, 0, 0]), None);
    }
}
