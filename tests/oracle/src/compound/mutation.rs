//! Ways to break the service from outside, by what becomes of its stores and flushes.

use penumbra_paging::POOL_BASE;
use penumbra_vmsa::{PAGE_SIZE, bits};

use super::{FIRST_TABLE, POOL_BYTES, POOL_PA, RAM_IPA, RAM_PA, World, frame_of};

/// The pool frame that a mutation uses for tables of its own.
const SCRATCH: u64 = POOL_PA + POOL_BYTES - PAGE_SIZE;

/// A way to break the service, to see that the oracle notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// None.
    #[default]
    Honest,
    /// Watched pages stay writable.
    SkipProtect,
    /// The service's flushes do nothing.
    SkipFlush,
    /// Flushes with the other vCPUs parked do nothing.
    SkipParkedFlush,
    /// A page is made read-only only after it was copied.
    CopyBeforeProtect,
    /// Mirrors do not follow stores.
    SkipMirror,
    /// The guest's table does not get the store.
    LoseStore,
    /// Mirrors forget nG.
    ForgetNotGlobal,
    /// Mirrors set the access flag.
    ForgetAccessFlag,
    /// Mirrors forget AP\[2\].
    ForgetReadOnly,
    /// Links forget the hierarchical permissions.
    ForgetLimits,
    /// A contiguous hint stays for ever.
    KeepRuns,
    /// Mirrors hold a guest's 2 MiB block as 512 pages.
    SplitBlocks,
    /// Invalid descriptors become valid in mirrors.
    FillHoles,
    /// Pages are moved while they are mapped.
    MoveMapped,
}

impl Mutation {
    /// Everything but [`Mutation::Honest`].
    pub const ALL: [Self; 14] = [
        Self::SkipProtect,
        Self::SkipFlush,
        Self::SkipParkedFlush,
        Self::CopyBeforeProtect,
        Self::SkipMirror,
        Self::LoseStore,
        Self::ForgetNotGlobal,
        Self::ForgetAccessFlag,
        Self::ForgetReadOnly,
        Self::ForgetLimits,
        Self::KeepRuns,
        Self::SplitBlocks,
        Self::FillHoles,
        Self::MoveMapped,
    ];
}

impl World {
    /// Whether an address is one of the pool's.
    fn in_pool(at: u64) -> bool {
        (POOL_PA..POOL_PA + POOL_BYTES).contains(&at)
    }

    /// The store that a broken service would have made; `None` for none at all.
    fn mutate(&mut self, at: u64, raw: u64) -> Option<u64> {
        let old = self.word(at);
        let pool = Self::in_pool(at);
        let leaf = raw & bits::VALID != 0 && raw & bits::AF != 0;
        match self.mutation {
            Mutation::SkipProtect | Mutation::CopyBeforeProtect
                if !pool && World::is_stage2(at) && old & bits::VALID != 0 =>
            {
                let reduces = old >> 6 & 3 == 3 && raw >> 6 & 3 == 1 && raw & bits::VALID != 0;
                if !reduces {
                    return Some(raw);
                }
                if self.mutation == Mutation::CopyBeforeProtect {
                    self.delayed = Some((at, raw));
                }
                None
            }
            Mutation::SkipMirror if pool && self.storing => None,
            Mutation::LoseStore if !pool && self.storing => None,
            Mutation::ForgetNotGlobal if pool && leaf => Some(raw & !bits::NOT_GLOBAL),
            Mutation::ForgetAccessFlag if pool && raw & 1 != 0 => Some(raw | bits::AF),
            Mutation::ForgetReadOnly if pool && leaf => Some(raw & !(1 << 7)),
            Mutation::ForgetLimits if pool && raw & 3 == 3 => Some(raw & !(0xf << 59)),
            Mutation::KeepRuns if pool && raw & 1 != 0 => Some(raw | old & bits::CONTIGUOUS),
            Mutation::FillHoles if pool && raw & 1 == 0 && raw != 0 => Some(raw | 3 | bits::AF),
            Mutation::MoveMapped if self.moving && !pool && raw == 0 => None,
            // A 2 MiB block, and only one: there is one scratch table.
            Mutation::SplitBlocks
                if pool
                    && raw & 3 == 1
                    && raw >> 21 & 0x1ff != 0
                    && self.split.is_none_or(|split| split == raw) =>
            {
                self.split = Some(raw);
                for index in 0..512 {
                    self.put(SCRATCH + index * 8, (raw | 2) + (index << 12));
                }
                Some((POOL_BASE + SCRATCH - POOL_PA) | bits::TABLE)
            }
            _ => Some(raw),
        }
    }

    fn is_stage2(at: u64) -> bool {
        (FIRST_TABLE..RAM_IPA).contains(&at)
    }

    pub(super) fn store(&mut self, at: u64, raw: u64) {
        let Some(raw) = self.mutate(at, raw) else {
            return;
        };
        self.put(at, raw);
        if Self::in_pool(at) && at & 0xff8 == 0xff8 {
            self.copied();
        }
        if self.watched_frames.contains(&frame_of(at)) {
            // The guest's own machine reads neither the pool nor the real stage 2.
            let ours_only = Self::in_pool(at) || at < RAM_PA;
            self.refill_machines(if ours_only { &[true] } else { &[true, false] });
        }
    }

    /// The last word of a mirror was written: now a late protection, and a racing store, take effect.
    fn copied(&mut self) {
        if let Some((at, raw)) = self.delayed.take() {
            self.race_now();
            self.put(at, raw);
        } else {
            self.race_now();
        }
    }

    /// Lets the racing vCPU store, if a TLB of its may hold the page as writable.
    fn race_now(&mut self) {
        let Some((pa, value)) = self.race else { return };
        let page = frame_of(pa) - RAM_PA + RAM_IPA;
        let pa = self.place(pa);
        let held = self.outputs(true, page);
        if held.iter().any(|&(_, writable)| writable) && !self.parked {
            self.put(pa, value);
            self.race = None;
        }
    }
}
