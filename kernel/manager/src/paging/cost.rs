//! Costs and gains in one unit: *cycles*, where an instruction of EL2 counts as one.
//!
//! A gain is what page walks no longer read, at a flat price for a read. Sources: figures that the
//! project set itself or measured (docs/performance.md, docs/performance-walks.md) where there are
//! any, else assumptions, marked so. Only their proportions decide anything.

/// One descriptor read of a page walk. Assumed, as in docs/performance-walks.md.
pub const READ: u64 = 20;
/// An exception to EL2 and back, the instructions executed there apart. Assumed, as in
/// docs/performance-walks.md.
pub const EXCEPTION: u64 = 200;
/// A trapped write of TTBRx_EL1 or another register of HCR_EL2.TVM: the exception and the 60
/// instructions that such a write may take.
pub const TRAP: u64 = EXCEPTION + 60;
/// A store to a protected table page that EL2 mirrors: the exception and the 350 instructions that it
/// may take.
pub const MIRRORED_STORE: u64 = EXCEPTION + 350;
/// Shadowing one 2 MiB region, coalescing included: the limit of 6,000 instructions.
pub const SHADOW: u64 = 6_000;
/// Giving a region back to the guest's table. Assumed: the walk to it, one entry, protection, flush.
pub const DEMOTION: u64 = 2_000;
/// Bringing one vCPU to a stop in EL2 and letting it go on: two exceptions and the 346 instructions
/// measured for an interrupt to another vCPU; the wait is assumed to be as long again.
pub const RENDEZVOUS: u64 = 2 * (2 * EXCEPTION + 346);
/// What a flush of the VM's TLB entries costs until they are there again. Assumed: half of 1024
/// entries are used again, one read each.
pub const FLUSH: u64 = 512 * READ;
/// Moving a page, with the calls that look at its region and search a frame: 4,706 instructions, as measured. Its flush takes
/// little more: the next page follows so soon that others fill few entries again, 64 it is assumed.
pub const MOVE_PAGE: u64 = 4_706 + 64 * READ;
/// Bringing it home once its region is gone: 3,926 instructions with all calls on the way, as measured, and the flush.
pub const HOME_PAGE: u64 = 3_926 + 64 * READ;
/// Looking at one region in a survey, the empty entries before it included. Above what is measured (5,122 in the median,
/// 21,940 at the 99th percentile: docs/performance.md).
pub const SURVEY: u64 = 15_000;
/// Walks a second that are assumed of a kernel's region whose walks nobody has sampled. From the model
/// in docs/performance-walks.md: kernels that copy data save 0.04 walks per 1000 instructions over
/// some 150 regions; at 10^9 instructions a second that is 250 for each.
pub const UNSAMPLED_KERNEL_WALKS: u64 = 250;
/// Walks a second that are assumed of a region in which walks were seen, as long as nothing tells how soon they come. A
/// sample is one bit. The workloads of docs/performance-walks.md that miss the TLB at all have 1,000 to 40,000 in
/// each of their regions.
pub const SAMPLED_WALKS: u64 = 4_000;
/// For how long a guest runs after the start of an epoch before its first hits are counted.
pub const WINDOW_US: u64 = 100;
/// The most walks a second that these are taken to tell of a region, one in 20 us: what is sooner than a core is given
/// from one to the other says nothing.
pub const MOST_WALKS: u64 = 50_000;
/// What a cycle is taken for where something is counted, not timed. A core of 125 million instructions a second takes 456 ns
/// for a trapped write of a root, without its exception.
pub const NS_PER_CYCLE: u64 = 4;
/// An instruction of EL2 at most: on a core of 125 million a second.
pub const MOST_NS_PER_INSTRUCTION: u64 = 8;
/// A call of the manager's that only asks, at most, with what the manager does for it. Assumed.
pub const QUERY_MOST: u64 = 1_000;
/// `PagingSurvey` at most, where a look has many of them: twice its median, as measured.
pub const SURVEY_MOST: u64 = 10_000;
/// `PagingEpoch` at most: as measured, where it ends the samples of the epoch before.
pub const EPOCH_MOST: u64 = 61_950;
/// A structural edit of one region at most: what shadowing one as a leaf has taken at worst.
pub const EDIT_MOST: u64 = 21_738;
/// A walk that is sampled: the exception and 1,000 instructions. Estimated: 31 samples that were hit one behind the other had to
/// wait for some 150 us on average, on a core of 125 million instructions a second.
pub const SAMPLE: u64 = EXCEPTION + 1_000;
/// What a 2 MiB of guest RAM costs each second when stage 2 no longer maps it by one block: an
/// additional read for each walk that ends there. Assumed: walks as in any kernel region.
pub const SPLINTER: u64 = UNSAMPLED_KERNEL_WALKS * READ;
/// Blocks that the re-layout of a region splinters. Assumed: the frames of a region come from 16
/// blocks, because Linux hands out runs of pages, and half of these are splintered already.
pub const SPLINTERED_BY_RELAYOUT: u64 = 8;
/// Seconds over which a decision has to earn what it costs.
pub const HORIZON_S: u64 = 60;

/// Reads that a walk of a nested region costs.
#[must_use]
pub const fn nested_reads(thin: bool) -> u64 {
    // One: the level-3 descriptor, all else being in walk caches. Where stage 2 has 4 KiB pages, the
    // table and the page have a stage-2 entry to be read each, and their tables are cached half of
    // the time: 4.0 in docs/performance-walks.md.
    if thin { 4 } else { 1 }
}

/// Reads that a mirror table of ours saves a walk: it lies in a block of the window.
#[must_use]
pub const fn mirror_saves(thin: bool) -> u64 {
    if thin { 1 } else { 0 }
}

/// What a decision is worth: cycles a second against cycles once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Cycles saved each second.
    pub gain: u64,
    /// Cycles spent each second.
    pub upkeep: u64,
    /// Cycles spent once.
    pub once: u64,
}

impl Balance {
    /// Whether it earns its cost within [`HORIZON_S`].
    #[must_use]
    pub const fn pays(self) -> bool {
        self.pays_within(HORIZON_S * 1_000)
    }

    /// Whether it earns its cost within so many ms.
    #[must_use]
    pub const fn pays_within(self, ms: u64) -> bool {
        self.worth().saturating_mul(ms) / 1_000 > self.once
    }

    /// What is earned each second, for comparisons between regions.
    #[must_use]
    pub const fn worth(self) -> u64 {
        self.gain.saturating_sub(self.upkeep)
    }
}

/// What the costs of one VM depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whether stage 2 maps more of its RAM by pages than by blocks, as it does for memory that is given a page at a time.
    pub thin: bool,
    /// Number of vCPUs.
    pub vcpus: u64,
}

impl Machine {
    /// A structural edit: the other vCPUs stop, and all entries are flushed.
    #[must_use]
    pub const fn structural(&self) -> u64 {
        let others = self.vcpus.saturating_sub(1);
        FLUSH.saturating_add(others.saturating_mul(RENDEZVOUS))
    }

    /// Letting one leaf stand for a region with so many walks a second. `sharers`: regions whose
    /// tables lie in one 2 MiB and share what its splintering costs; 0: it is splintered already.
    #[must_use]
    pub const fn leaf(&self, walks: u64, sharers: u64) -> Balance {
        Balance {
            gain: walks.saturating_mul(nested_reads(self.thin) * READ),
            upkeep: self.splinter(sharers),
            once: SHADOW.saturating_add(self.structural()),
        }
    }

    /// Letting a mirror table stand for a region.
    #[must_use]
    pub const fn mirror(&self, walks: u64, sharers: u64) -> Balance {
        Balance {
            gain: walks.saturating_mul(mirror_saves(self.thin) * READ),
            ..self.leaf(walks, sharers)
        }
    }

    /// Re-laying out a region and letting one leaf stand for it.
    #[must_use]
    pub const fn relayout(&self, walks: u64, sharers: u64) -> Balance {
        let leaf = self.leaf(walks, sharers);
        let moved = self.relayout_once();
        let splintered = if self.thin {
            0
        } else {
            SPLINTER * SPLINTERED_BY_RELAYOUT
        };
        Balance {
            gain: leaf.gain,
            upkeep: leaf.upkeep.saturating_add(splintered),
            once: leaf.once.saturating_add(moved),
        }
    }

    /// Whether it pays to put any region in order, even one in which every sample is hit.
    #[must_use]
    pub const fn moving_pays(&self) -> bool {
        self.relayout(MOST_WALKS, 0).pays()
    }

    /// Moving all pages of a region, and bringing them home in the end.
    #[must_use]
    pub const fn relayout_once(&self) -> u64 {
        PAGES
            .saturating_mul(MOVE_PAGE + HOME_PAGE)
            .saturating_add(FLUSH)
    }

    /// Giving a shadowed region back.
    #[must_use]
    pub const fn demotion(&self) -> u64 {
        DEMOTION.saturating_add(self.structural())
    }

    const fn splinter(&self, sharers: u64) -> u64 {
        match SPLINTER.checked_div(sharers) {
            Some(share) if !self.thin => share,
            _ => 0,
        }
    }
}

/// Pages of a region.
pub const PAGES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVED: Machine = Machine {
        thin: false,
        vcpus: 4,
    };
    const THIN: Machine = Machine {
        thin: true,
        vcpus: 4,
    };

    #[test]
    fn one_kernel_region_does_not_pay_for_the_block_that_its_table_splinters() {
        assert!(!RESERVED.leaf(UNSAMPLED_KERNEL_WALKS, 1).pays());
        assert!(RESERVED.leaf(UNSAMPLED_KERNEL_WALKS, 4).pays());
        assert!(RESERVED.leaf(UNSAMPLED_KERNEL_WALKS, 0).pays());
        assert!(THIN.leaf(UNSAMPLED_KERNEL_WALKS, 1).pays());
        assert!(!RESERVED.leaf(10, 0).pays());
    }

    #[test]
    fn a_mirror_saves_nothing_over_blocks() {
        assert!(!RESERVED.mirror(1_000_000, 0).pays());
        assert!(THIN.mirror(1_000, 0).pays());
    }

    #[test]
    fn moving_pages_needs_many_walks() {
        assert!(!RESERVED.relayout(SAMPLED_WALKS, 0).pays());
        assert!(RESERVED.relayout(20_000, 0).pays());
        assert!(THIN.relayout(SAMPLED_WALKS, 0).pays());
        assert!(!THIN.relayout(500, 0).pays());
        assert!(THIN.moving_pays() && RESERVED.moving_pays());
    }

    #[test]
    fn what_is_made_for_a_short_time_has_to_earn_its_cost_in_it() {
        let leaf = THIN.relayout(2 * SAMPLED_WALKS, 0);
        assert!(leaf.pays_within(15_000) && !leaf.pays_within(5_000));
    }

    #[test]
    fn nothing_overflows() {
        let huge = Machine {
            thin: true,
            vcpus: u64::MAX,
        };
        assert!(!huge.relayout(0, 1).pays());
        assert_eq!(huge.leaf(u64::MAX, 1).gain, u64::MAX);
    }

    /// docs/compound.md, "The policy".
    #[test]
    fn how_often_a_region_must_be_walked_to_be_put_in_order() {
        let machine = Machine {
            thin: false,
            vcpus: 1,
        };
        let least = |age_s: f64| {
            let life_ms = (age_s * (1.0 + 60.0 / age_s).ln() * 1000.0) as u64;
            (0..MOST_WALKS)
                .find(|walks| machine.relayout(*walks, 0).pays_within(life_ms))
                .unwrap()
        };
        assert!((8_800..9_100).contains(&least(60.0)), "{}", least(60.0));
        assert!((33_500..34_500).contains(&least(3.0)), "{}", least(3.0));
    }
}
