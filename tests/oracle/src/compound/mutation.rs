//! Ways to break the service from outside, by what becomes of its stores and flushes.

use penumbra_paging::POOL_BASE;
use penumbra_vmsa::{CONTIGUOUS_ENTRIES, Level, PAGE_SIZE, Stage, bits, requires_bbm};

use super::{
    FIRST_TABLE, POOL_BYTES, POOL_PA, RAM_BYTES, RAM_IPA, RAM_PA, STAGE2_ROOT, World, frame_of,
};

/// The pool frame that a mutation uses for tables of its own.
const SCRATCH: u64 = POOL_PA + POOL_BYTES - PAGE_SIZE;

/// Defines the mutations, with a list of all but the first.
macro_rules! mutations {
    ($(#[$first_doc:meta])* $first:ident, $($(#[$doc:meta])* $name:ident,)*) => {
        /// A way to break the service, to see that the oracle notices.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutation {
            $(#[$first_doc])* #[default] $first,
            $($(#[$doc])* $name,)*
        }
        impl Mutation {
            /// Everything but the honest service.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

mutations! {
    /// None.
    Honest,
    /// Watched pages stay writable.
    SkipProtect,
    /// Pages that are watched no more stay read-only.
    KeepProtect,
    /// A page is made read-only only after it was copied (rule 9).
    CopyBeforeProtect,
    /// The service's flushes do nothing.
    SkipFlush,
    /// Flushes with the other vCPUs parked do nothing (rule 6).
    SkipParkedFlush,
    /// Flushes of the whole VM do nothing (rule 13).
    SkipWholeFlush,
    /// Flushes leave stage-2 translations alone.
    FlushStage1Only,
    /// Flushes leave combined translations alone: no VMALLE1IS behind IPAS2E1IS (rule 9).
    FlushStage2Only,
    /// Flushes reach one vCPU only.
    FlushOneVcpu,
    /// A vCPU gets a compound root without a flush (rule 5).
    PlantWithoutFlush,
    /// Structural edits with all vCPUs running.
    SkipParking,
    /// Live descriptors of stage 2 are replaced without a break.
    SkipBreak,
    /// Mirrors do not follow stores.
    SkipMirror,
    /// The guest's table does not get the store.
    LoseStore,
    /// The guest's table has the store before the mirrors (rule 11).
    GuestBeforeMirror,
    /// A mirror's descriptor is invalid for a moment before it has its new value.
    BreakMirror,
    /// Mirrors forget nG.
    ForgetNotGlobal,
    /// Mirrors set the access flag.
    ForgetAccessFlag,
    /// Mirrors forget AP\[2\].
    ForgetReadOnly,
    /// Mirrors give EL0 access.
    ForgetPrivileged,
    /// Mirrors forget PXN and UXN.
    ForgetExecuteNever,
    /// Mirrors forget the memory type.
    ForgetType,
    /// Mirrors forget the shareability.
    ForgetShareability,
    /// Mirrors forget GP.
    ForgetGuarded,
    /// Links forget the hierarchical permissions.
    ForgetLimits,
    /// A contiguous hint stays for ever.
    KeepRuns,
    /// Contiguous hints are put on what is no run.
    InventRuns,
    /// Mirrors hold a guest's 2 MiB block as 512 pages.
    SplitBlocks,
    /// Invalid descriptors become valid in mirrors.
    FillHoles,
    /// A demoted table stays linked.
    KeepLink,
    /// The alias of a demoted root goes on showing the mirror.
    KeepAlias,
    /// Pages are moved while they are mapped (rule 12).
    MoveMapped,
    /// Pages are moved before old accesses are done (rule 12).
    SkipMoveFlush,
    /// The access flag of a sampled page is never restored.
    KeepSampled,
    /// Of a run of blocks in stage 2 only the one that is split is broken; the others keep the hint.
    BreakOneOfRun,
    /// A run of blocks in stage 2 is made again though one of the sixteen is no such block.
    InventBlockRuns,
    /// Data aliases forbid fetches.
    ForbidFetches,
}

impl World {
    /// Whether an address is one of the pool's.
    fn in_pool(at: u64) -> bool {
        (POOL_PA..POOL_PA + POOL_BYTES).contains(&at)
    }

    /// The store that a broken service would have made; `None` for none at all.
    fn mutate(&mut self, at: u64, raw: u64) -> Option<u64> {
        if Self::in_pool(at) {
            self.mutate_mirror(at, raw)
        } else if Self::is_stage2(at) {
            self.mutate_stage2(at, raw)
        } else {
            (self.mutation != Mutation::LoseStore || !self.storing).then_some(raw)
        }
    }

    fn mutate_mirror(&mut self, at: u64, raw: u64) -> Option<u64> {
        let old = self.word(at);
        let valid = raw & bits::VALID != 0;
        let leaf = valid && raw & bits::AF != 0;
        let next = |raw: u64| raw & bits::TABLE_ADDRESS;
        let changed = match self.mutation {
            Mutation::SkipMirror if self.storing => return None,
            Mutation::GuestBeforeMirror if self.storing => {
                self.delayed.push((at, raw));
                return None;
            }
            // What was linked is a table of the pool.
            Mutation::KeepLink
                if raw & 3 == 3 && next(old) >= POOL_BASE && next(raw) < POOL_BASE =>
            {
                return None;
            }
            Mutation::ForgetNotGlobal if leaf => raw & !bits::NOT_GLOBAL,
            Mutation::ForgetAccessFlag if valid => raw | bits::AF,
            Mutation::ForgetReadOnly if leaf => raw & !(1 << 7),
            Mutation::ForgetPrivileged if leaf => raw | 1 << 6,
            Mutation::ForgetExecuteNever if leaf => raw & !(3 << 53),
            Mutation::ForgetType if leaf => raw & !(7 << 2),
            Mutation::ForgetShareability if leaf => raw | 3 << 8,
            Mutation::ForgetGuarded if leaf => raw & !(1 << 50),
            Mutation::ForgetLimits if raw & 3 == 3 => raw & !(0xf << 59),
            Mutation::KeepRuns if valid => raw | old & bits::CONTIGUOUS,
            Mutation::InventRuns if leaf && raw & 3 == 3 => raw | bits::CONTIGUOUS,
            Mutation::FillHoles if !valid && raw != 0 => raw | 3 | bits::AF,
            // A 2 MiB block, and only one: there is one scratch table.
            Mutation::SplitBlocks
                if raw & 3 == 1
                    && raw >> 21 & 0x1ff != 0
                    && self.split.is_none_or(|split| split == raw) =>
            {
                self.split = Some(raw);
                for index in 0..512 {
                    self.put(SCRATCH + index * 8, (raw | 2) + (index << 12));
                }
                (POOL_BASE + SCRATCH - POOL_PA) | bits::TABLE
            }
            _ => raw,
        };
        Some(changed)
    }

    fn mutate_stage2(&mut self, at: u64, raw: u64) -> Option<u64> {
        let old = self.word(at);
        let valid = old & bits::VALID != 0;
        let access = |raw: u64| raw >> 6 & 3;
        let frame = |raw: u64| raw & bits::TABLE_ADDRESS;
        let block = |raw: u64| raw & bits::TABLE == bits::VALID;
        let in_run = block(old) && old & bits::CONTIGUOUS != 0;
        let of_ram = |raw: u64| (RAM_PA..RAM_PA + RAM_BYTES).contains(&frame(raw));
        if self.mutation == Mutation::InventBlockRuns && block(raw) && of_ram(raw) {
            return Some(raw | bits::CONTIGUOUS);
        }
        // Where RAM has its own IPAs its blocks come back as well.
        let at_home = frame(self.word(STAGE2_ROOT + Level::L1.index(RAM_IPA) * 8)) == frame_of(at);
        if self.mutation == Mutation::ForbidFetches
            && self.parked
            && !at_home
            && block(raw)
            && of_ram(raw)
        {
            return Some(raw | 0b10 << 53);
        }
        if self.mutation == Mutation::BreakOneOfRun && in_run && raw & bits::TABLE == bits::TABLE {
            // The one that was broken.
            self.put(at, 0);
        }
        let skipped = match self.mutation {
            Mutation::BreakOneOfRun => in_run && (raw == 0 || block(raw)),
            Mutation::SkipProtect | Mutation::CopyBeforeProtect => {
                let all = self.mutation == Mutation::SkipProtect;
                let reduces = valid && access(old) == 3 && access(raw) == 1 && raw & 1 != 0;
                // With all vCPUs parked it makes no difference when a page is protected.
                let reduces = reduces && (all || !self.parked);
                if reduces && self.mutation == Mutation::CopyBeforeProtect {
                    self.delayed.push((at, raw));
                }
                reduces
            }
            Mutation::KeepProtect => {
                valid
                    && raw & 1 != 0
                    && frame(old) == frame(raw)
                    && access(old) == 1
                    && access(raw) == 3
            }
            Mutation::KeepAlias => Self::in_pool(frame(old)) && !Self::in_pool(frame(raw)),
            Mutation::MoveMapped => self.moving && raw == 0,
            Mutation::SkipBreak => valid && raw == 0 && !self.moving,
            Mutation::KeepSampled => valid && old & bits::AF == 0 && raw == old | bits::AF,
            _ => false,
        };
        (!skipped).then_some(raw)
    }

    fn is_stage2(at: u64) -> bool {
        (FIRST_TABLE..RAM_IPA).contains(&at) || at < FIRST_TABLE
    }

    pub(super) fn store(&mut self, at: u64, raw: u64) {
        self.race_counts();
        let Some(raw) = self.mutate(at, raw) else {
            return;
        };
        let old = self.word(at);
        if self.mutation == Mutation::BreakMirror && self.storing && Self::in_pool(at) {
            self.put(at, 0);
            self.refill_machines(&[true]);
        }
        if Self::is_stage2(at) {
            self.breaks(at, old, raw);
            self.generation += 1;
        }
        self.put(at, raw);
        if Self::in_pool(at) && at & 0xff8 == 0xff8 && self.mutation == Mutation::CopyBeforeProtect
        {
            // The last word of a mirror was written: now the late protection takes effect, and is flushed.
            self.race_now();
            self.apply_delayed();
            self.flush_all();
        }
        let guests = (RAM_PA..RAM_PA + RAM_BYTES).contains(&at);
        if self.storing && guests {
            // Another vCPU may read what was stored, and rely on it at once.
            self.note_torn(at, old);
            self.refill();
            self.check_cells();
            self.apply_delayed();
        } else if old != raw && self.memory.was_read(at) {
            // The guest's own machine reads neither the pool nor the real stage 2.
            self.refill_machines(if guests { &[true, false] } else { &[true] });
        }
    }

    fn apply_delayed(&mut self) {
        for (at, raw) in std::mem::take(&mut self.delayed) {
            self.put(at, raw);
            self.generation += 1;
        }
    }

    /// Break-before-make, for descriptors of stage 2 that walkers may hold, and of the runs that they are part of.
    fn breaks(&mut self, at: u64, old: u64, raw: u64) {
        let table = frame_of(at);
        let level = match self.ours.stage2_tables.iter().find(|held| held.0 == table) {
            Some(&(_, level)) => level,
            None if table < FIRST_TABLE => Level::L1,
            None => return,
        };
        if !self.parked && requires_bbm(Stage::Two, level, old, raw) {
            self.violations.push(format!(
                "break-before-make: {old:#x} becomes {raw:#x} at {level:?}"
            ));
        }
        if !self.parked && raw & bits::VALID != 0 {
            self.check_run(at, raw, level);
        }
    }

    /// Whatever becomes valid lies in a row with the live leaves of a run around it.
    fn check_run(&mut self, at: u64, raw: u64, level: Level) {
        let first = at & !(CONTIGUOUS_ENTRIES * 8 - 1);
        let start = raw.wrapping_sub(((at - first) / 8) << level.shift());
        for index in 0..CONTIGUOUS_ENTRIES {
            let other = self.word(first + index * 8);
            let live = other & bits::VALID != 0 && first + index * 8 != at;
            let in_row = other == start.wrapping_add(index << level.shift());
            if live && (raw | other) & bits::CONTIGUOUS != 0 && !in_row {
                self.violations.push(format!(
                    "{raw:#x} at {level:?} becomes part of a run with {other:#x}"
                ));
            }
        }
    }

    /// Counts a store of the service towards the race.
    fn race_counts(&mut self) {
        if let Some(race) = &mut self.race {
            if race.after == 0 {
                self.race_now();
            } else {
                race.after -= 1;
            }
        }
    }

    /// Lets the racing vCPU store, if a TLB of its may hold the page as writable.
    fn race_now(&mut self) {
        let Some(race) = self.race else { return };
        let page = frame_of(race.ipa);
        if self.parked || self.storing {
            return;
        }
        let held = self.outputs(true, page);
        if let Some(output) = held.items().iter().find(|output| output.writes) {
            self.put(output.pa | (race.ipa & (PAGE_SIZE - 1)), race.value);
            self.race = None;
            self.refill();
        }
    }
}
