//! What is counted, by region of the address space.

use crate::mmu::Miss;
use crate::path::Path;
use crate::regime::Regime;

/// Where an access goes. The kernel's memory is told apart by its address; the user's as Linux marks it in the leaf, because a
/// frame of a file can be written only through a shared mapping: what a process writes to otherwise is a copy of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Lower half of the upper VA range: Linux's linear map of RAM.
    KernelLinear,
    /// Upper half of the upper VA range: image, modules, vmalloc, fixmap.
    KernelOther,
    /// Lower VA range: frames of the page cache, and pages that the kernel shows to all processes.
    UserFile,
    /// Lower VA range: frames of one process and its children, and the page of zeroes.
    UserAnonymous,
    /// Stage 1 is off.
    Flat,
}

/// All regions, in the order of [`Counts::regions`].
pub const REGIONS: [Region; 5] = [
    Region::KernelLinear,
    Region::KernelOther,
    Region::UserFile,
    Region::UserAnonymous,
    Region::Flat,
];

/// What Linux notes in software bits 58:55 of a leaf (arch/arm64/include/asm/pgtable-prot.h): PTE_DIRTY, it was written to;
/// PTE_SPECIAL, its frame belongs to nobody, as the page of zeroes does.
const DIRTY: u8 = 1 << 0;
const SPECIAL: u8 = 1 << 1;

impl Region {
    /// The region of an address, by the path of its walk; `shared` if a writable shared mapping of a file is known to be there.
    #[must_use]
    pub fn of(regime: &Regime, va: u64, path: &Path, shared: bool) -> Self {
        if !regime.stage1() {
            Self::Flat
        } else if va >> 55 & 1 != 0 {
            let bits = regime.va_bits(true).clamp(25, 52);
            if va >> (bits - 1) & 1 == 0 {
                Self::KernelLinear
            } else {
                Self::KernelOther
            }
        } else if !shared && (path.leaf.writable || path.leaf.software & (DIRTY | SPECIAL) != 0) {
            // A fork takes the right to write away and leaves the mark.
            Self::UserAnonymous
        } else {
            Self::UserFile
        }
    }

    /// Name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KernelLinear => "kernel_linear",
            Self::KernelOther => "kernel_other",
            Self::UserFile => "user_file",
            Self::UserAnonymous => "user_anonymous",
            Self::Flat => "flat",
        }
    }

    fn index(self) -> usize {
        REGIONS
            .iter()
            .position(|&region| region == self)
            .unwrap_or(0)
    }
}

/// Misses of the main TLB and what they read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Misses.
    pub misses: u64,
    /// Of them, for instruction fetches.
    pub fetch_misses: u64,
    /// Stage-1 descriptors read.
    pub stage1_reads: u64,
    /// Stage-2 descriptors read.
    pub stage2_reads: u64,
}

impl Tally {
    /// All descriptors read.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.stage1_reads + self.stage2_reads
    }

    /// Notes a miss.
    pub fn note(&mut self, fetch: bool, miss: Miss) {
        self.misses += 1;
        self.fetch_misses += u64::from(fetch);
        self.stage1_reads += u64::from(miss.stage1_reads);
        self.stage2_reads += u64::from(miss.stage2_reads);
    }

    /// Adds another window's counts.
    pub fn add(&mut self, other: &Self) {
        self.misses += other.misses;
        self.fetch_misses += other.fetch_misses;
        self.stage1_reads += other.stage1_reads;
        self.stage2_reads += other.stage2_reads;
    }

    /// What came after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            misses: self.misses - before.misses,
            fetch_misses: self.fetch_misses - before.fetch_misses,
            stage1_reads: self.stage1_reads - before.stage1_reads,
            stage2_reads: self.stage2_reads - before.stage2_reads,
        }
    }
}

/// The counts of one column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By region, in the order of [`REGIONS`].
    pub regions: [Tally; 5],
    /// Misses of the micro-TLBs that the main TLB served.
    pub main_hits: u64,
    /// Main-TLB hits that a fresh walk contradicts; counted only when verification is on.
    pub stale: u64,
}

impl Counts {
    /// Notes a miss.
    pub fn miss(&mut self, region: Region, fetch: bool, miss: Miss) {
        if let Some(tally) = self.regions.get_mut(region.index()) {
            tally.note(fetch, miss);
        }
    }

    /// All regions together.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for tally in &self.regions {
            total.add(tally);
        }
        total
    }

    /// What came after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut difference = Self {
            main_hits: self.main_hits - before.main_hits,
            stale: self.stale - before.stale,
            ..Self::default()
        };
        let pairs = self.regions.iter().zip(&before.regions);
        for (slot, (now, then)) in difference.regions.iter_mut().zip(pairs) {
            *slot = now.since(then);
        }
        difference
    }

    /// Adds another column's or window's counts.
    pub fn add(&mut self, other: &Self) {
        for (tally, more) in self.regions.iter_mut().zip(&other.regions) {
            tally.add(more);
        }
        self.main_hits += other.main_hits;
        self.stale += other.stale;
    }
}
