//! The MMU of one core: what hits, and what a miss costs.
//!
//! A lookup goes to the micro-TLB of its kind, then to the main TLB. A miss there starts a walk from
//! the nearest table pointer in the walk cache; each stage-1 descriptor that is read, and the output, goes
//! through stage 2, whose results the IPA cache holds. What is counted are descriptors read.

use crate::cache::{Entry, Tag, TagCache};
use crate::core::{Core, WalkCacheHolds};
use crate::path::{Path, Stage2Step};
use crate::regime::Space;
use crate::tlbi::{Invalidation, Operation};

/// Which stage 2 a model puts under the guest's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The tables as they are.
    AsIs,
    /// None: stage 1 alone, as on bare metal.
    Native,
    /// IPAs mapped one to one by leaves of `1 << n` bytes: 12, 21 or 30.
    Synthetic(u8),
}

impl Mode {
    /// Short name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AsIs => "as-is",
            Self::Native => "native",
            Self::Synthetic(12) => "nested-4k",
            Self::Synthetic(21) => "nested-2m",
            Self::Synthetic(_) => "nested-1g",
        }
    }
}

/// The price of a miss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Miss {
    /// Stage-1 descriptors read.
    pub stage1_reads: u32,
    /// Stage-2 descriptors read.
    pub stage2_reads: u32,
    /// Them by what went through stage 2: each stage-1 descriptor of the path, then the output. `None` did not.
    pub steps: [Option<u32>; 5],
}

impl Miss {
    /// Notes what one address read of stage 2.
    fn step(&mut self, index: usize, reads: u32) {
        self.stage2_reads += reads;
        if let Some(step) = self.steps.get_mut(index) {
            *step = Some(reads);
        }
    }
}

/// What is in use of a main TLB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Valid entries.
    pub entries: u64,
    /// Bytes that they cover together: the reach.
    pub reach_bytes: u64,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Mmu {
    core: Core,
    mode: Mode,
    micro_fetch: TagCache,
    micro_data: TagCache,
    main: TagCache,
    /// Pointers to tables, by the range of VA that the table maps.
    walks: TagCache,
    /// Results of stage 2, by IPA.
    ipas: TagCache,
    /// Pointers to stage-2 level-3 tables, by IPA.
    stage2_tables: TagCache,
}

impl Mmu {
    /// An MMU with everything empty.
    #[must_use]
    pub fn new(core: &Core, mode: Mode) -> Self {
        Self {
            mode,
            micro_fetch: TagCache::new(core.micro_fetch, core.micro_fetch),
            micro_data: TagCache::new(core.micro_data, core.micro_data),
            main: TagCache::new(core.main_entries, core.main_ways),
            walks: TagCache::new(core.walk_entries, core.walk_ways),
            ipas: TagCache::new(core.ipa_entries, core.ipa_ways),
            stage2_tables: TagCache::new(core.stage2_table_entries, core.stage2_table_entries),
            core: core.clone(),
        }
    }

    fn micro(&mut self, fetch: bool) -> &mut TagCache {
        if fetch {
            &mut self.micro_fetch
        } else {
            &mut self.micro_data
        }
    }

    /// Whether the micro-TLB has the address.
    pub fn micro_hit(&mut self, va: u64, space: Space, fetch: bool) -> bool {
        self.micro(fetch).lookup(va, space).is_some()
    }

    /// The main TLB's entry for the address, which is then in the micro-TLB too.
    pub fn main_hit(&mut self, va: u64, space: Space, fetch: bool) -> Option<Entry> {
        let entry = self.main.lookup(va, space)?;
        self.fill_micro(va, entry, fetch);
        Some(entry)
    }

    fn fill_micro(&mut self, va: u64, entry: Entry, fetch: bool) {
        let tag = entry.tag;
        let log2 = tag.log2.min(self.core.micro_max_log2);
        let small = Entry {
            tag: Tag::around(va, log2, tag.space, tag.global),
            output: entry.output + (va & ((1 << tag.log2) - 1) & !((1 << log2) - 1)),
        };
        self.micro(fetch).insert(small);
    }

    /// Walks after a miss in both TLBs, and fills all caches.
    pub fn walk(&mut self, va: u64, space: Space, fetch: bool, path: &Path) -> Miss {
        let mut miss = Miss::default();
        let known = self.known_tables(va, space, path);
        for (index, (&ipa, &step)) in path.descriptors.iter().zip(&path.tables).enumerate() {
            if index < known || index >= path.depth {
                continue;
            }
            // The pointer that the walk cache gave is a physical address.
            if index != known || known == 0 {
                miss.step(index, self.stage2(ipa, space, Some(step)));
            }
            miss.stage1_reads += 1;
        }
        let reads = self.stage2(path.leaf.ipa, space, path.output);
        miss.step(path.descriptors.len(), reads);
        self.learn_tables(va, space, path);
        let log2 = self.entry_log2(path);
        let global = path.leaf.global;
        let offset = va & ((1 << log2) - 1);
        let entry = Entry {
            tag: Tag::around(va, log2, space, global),
            output: self.output(path).wrapping_sub(offset),
        };
        self.main.insert(entry);
        self.fill_micro(va, entry, fetch);
        miss
    }

    /// Index of the table in the path whose pointer the walk cache has; 0 if it has none.
    fn known_tables(&mut self, va: u64, space: Space, path: &Path) -> usize {
        let last = path.depth.saturating_sub(1);
        for index in (1..=last).rev() {
            let level = path.start_level + u8::try_from(index).unwrap_or(0);
            if !self.held(level) {
                continue;
            }
            // One size is probed at a time: a pointer to a higher table is another answer.
            let found = self.walks.lookup_sized(va, space, table_log2(level));
            if found.is_some() {
                return index;
            }
        }
        0
    }

    fn held(&self, level: u8) -> bool {
        level == 3 || self.core.walk_holds == WalkCacheHolds::AllTables
    }

    fn learn_tables(&mut self, va: u64, space: Space, path: &Path) {
        for index in 1..path.depth {
            let level = path.start_level + u8::try_from(index).unwrap_or(0);
            if self.held(level) {
                // Tables under TTBR1 are shared by all address spaces as far as Linux goes.
                let global = va >> 55 & 1 != 0;
                self.walks.insert(Entry {
                    tag: Tag::around(va, table_log2(level), space, global),
                    output: 0,
                });
            }
        }
    }

    /// Where a path leads by the tables that it prices: what has no stage 2, or one that maps one to one, ends at the IPA.
    pub(crate) fn output(&self, path: &Path) -> u64 {
        if self.is_as_is() {
            path.leaf.pa
        } else {
            path.leaf.ipa
        }
    }

    /// Whether it prices the tables as they are.
    pub(crate) fn is_as_is(&self) -> bool {
        self.mode == Mode::AsIs
    }

    /// Takes an IPA through stage 2: descriptors read.
    fn stage2(&mut self, ipa: u64, space: Space, step: Option<Stage2Step>) -> u32 {
        let Some(step) = self.stage2_step(step) else {
            return 0;
        };
        let space = Space {
            vmid: space.vmid,
            asid: 0,
        };
        if self.ipas.lookup(ipa, space).is_some() {
            return 0;
        }
        let mut reads = u32::from(step.levels);
        if step.log2 == 12 {
            if self.stage2_tables.lookup(ipa, space).is_some() {
                reads = 1;
            }
            self.stage2_tables.insert(Entry {
                tag: Tag::around(ipa, 21, space, true),
                output: 0,
            });
        }
        let log2 = self.grown(step.log2, step.contiguous, false);
        if log2 >= self.core.ipa_min_log2 {
            self.ipas.insert(Entry {
                tag: Tag::around(ipa, log2, space, true),
                output: 0,
            });
        }
        reads
    }

    /// Stage 2 as the mode has it; `None`: there is none.
    fn stage2_step(&self, real: Option<Stage2Step>) -> Option<Stage2Step> {
        match self.mode {
            // A step of a regime without stage 2 has no levels.
            Mode::AsIs => real.filter(|step| step.levels > 0),
            Mode::Native => None,
            Mode::Synthetic(log2) => Some(Stage2Step {
                log2,
                contiguous: false,
                mergeable: log2 == 12,
                levels: (39 - log2) / 9,
            }),
        }
    }

    fn grown(&self, log2: u8, contiguous: bool, mergeable: bool) -> u8 {
        if contiguous && self.core.contiguous {
            log2 + 4
        } else if mergeable && self.core.merge {
            log2 + 2
        } else {
            log2
        }
    }

    /// What the main TLB's entry covers: the smaller of both stages, cut to a size that it can hold.
    fn entry_log2(&self, path: &Path) -> u8 {
        let leaf = path.leaf;
        let mut log2 = self.grown(leaf.log2, leaf.contiguous, leaf.mergeable);
        if let Some(step) = self.stage2_step(path.output) {
            log2 = log2.min(self.grown(step.log2, step.contiguous, step.mergeable));
        }
        let sizes = self.core.main_sizes.iter().rev();
        sizes.copied().find(|&size| size <= log2).unwrap_or(12)
    }

    /// Does what a TLBI says.
    pub fn invalidate(&mut self, invalidation: &Invalidation) {
        let vmid = invalidation.vmid;
        let own = move |tag: &Tag| tag.space.vmid == vmid;
        match invalidation.operation {
            Operation::Everything => {
                self.each_stage1(TagCache::clear);
                self.ipas.clear();
                self.stage2_tables.clear();
            }
            Operation::Vmid { stage2 } => {
                self.each_stage1(|cache| cache.remove(own));
                if stage2 {
                    self.ipas.remove(own);
                    self.stage2_tables.remove(own);
                }
            }
            Operation::Asid(asid) => {
                self.each_stage1(|cache| {
                    cache.remove(|tag| own(tag) && !tag.global && tag.space.asid == asid);
                });
            }
            Operation::Va {
                va,
                asid,
                last_only,
            } => {
                let hit = |tag: &Tag| {
                    own(tag) && (tag.global || asid.is_none_or(|asid| asid == tag.space.asid))
                };
                self.micro_fetch.remove_at(va, hit);
                self.micro_data.remove_at(va, hit);
                self.main.remove_at(va, hit);
                if !last_only {
                    self.walks.remove_at(va, hit);
                }
            }
            // Combined entries may stay: the architecture asks for a stage-1 TLBI after this one.
            Operation::Ipa { ipa, last_only } => {
                self.ipas.remove_at(ipa, own);
                if !last_only {
                    self.stage2_tables.remove_at(ipa, own);
                }
            }
            Operation::Other => {}
        }
    }

    fn each_stage1(&mut self, action: impl Fn(&mut TagCache)) {
        action(&mut self.micro_fetch);
        action(&mut self.micro_data);
        action(&mut self.main);
        action(&mut self.walks);
    }

    /// What a VM has in the main TLB.
    #[must_use]
    pub fn main_use(&self, vmid: u16) -> Use {
        let mut found = Use::default();
        for entry in self.main.entries().filter(|e| e.tag.space.vmid == vmid) {
            found.entries += 1;
            found.reach_bytes += 1 << entry.tag.log2;
        }
        found
    }
}

/// log2 of what a table of a level maps.
fn table_log2(level: u8) -> u8 {
    48 - 9 * level.min(3)
}
