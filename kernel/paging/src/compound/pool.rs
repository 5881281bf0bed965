//! Frames for mirror tables: 2 MiB blocks of the VM in the window, read-only and execute-never for
//! the guest. They hold tables and nothing else, so the bookkeeping is a bitmap here.

use penumbra_vmsa::{Ipa, PAGE_SIZE, Pa, Stage2Attrs, TABLE_ENTRIES};

use super::{Access, POOL_BASE, ShadowError};
use crate::memory::TableMemory;
use crate::stage2::Mapping;
use crate::thin::REGION_BYTES;
use crate::tlb::TlbSink;

const FRAMES: u16 = 512;
const WORDS: usize = 8;

/// A frame of the pool, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PoolFrame(u16);

#[derive(Clone, Copy, Debug)]
struct Block {
    pa: Pa,
    /// A bit for each frame in use.
    used: [u64; WORDS],
}

#[derive(Debug)]
pub(super) struct Pool<const BLOCKS: usize> {
    blocks: [Option<Block>; BLOCKS],
    used: u32,
}

impl<const BLOCKS: usize> Pool<BLOCKS> {
    pub(super) const fn new() -> Self {
        assert!(BLOCKS <= 127, "frame numbers have 16 bits");
        Self {
            blocks: [None; BLOCKS],
            used: 0,
        }
    }

    /// No block is left, in place.
    pub(super) fn clear(&mut self) {
        self.blocks.fill(None);
        self.used = 0;
    }

    pub(super) fn usage(&self) -> (u32, u32) {
        let blocks = self.blocks.iter().flatten().count();
        let all = u32::try_from(blocks)
            .unwrap_or(0)
            .saturating_mul(u32::from(FRAMES));
        (self.used, all)
    }

    /// Adds a zeroed, cleaned 2 MiB frame of the VM and maps it in the window.
    pub(super) fn add<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &mut Access<'_, M, T>,
        frame: Pa,
    ) -> Result<(), ShadowError> {
        let free = self
            .blocks
            .iter_mut()
            .zip(0_u64..)
            .find(|(block, _)| block.is_none());
        let Some((slot, number)) = free else {
            return Err(ShadowError::Full);
        };
        let ipa = Ipa::truncated(POOL_BASE.saturating_add(number.saturating_mul(REGION_BYTES)));
        let mapping = Mapping::new(ipa, frame, REGION_BYTES, Stage2Attrs::READ_ONLY);
        vm.stage2.map(vm.memory, mapping)?;
        *slot = Some(Block {
            pa: frame,
            used: [0; WORDS],
        });
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        let (used, all) = self.usage();
        used >= all
    }

    pub(super) fn take(&mut self) -> Option<PoolFrame> {
        for (block, number) in self.blocks.iter_mut().zip(0_u16..) {
            let Some(block) = block else { continue };
            for (word, high) in block.used.iter_mut().zip(0_u16..) {
                if *word == u64::MAX {
                    continue;
                }
                let bit = word.trailing_ones();
                *word |= 1_u64 << (bit & 63);
                self.used = self.used.saturating_add(1);
                let low = u16::try_from(bit).unwrap_or(0);
                let frame = number
                    .saturating_mul(FRAMES)
                    .saturating_add(high << 6 | low);
                return Some(PoolFrame(frame));
            }
        }
        None
    }

    /// Zeroes a frame and gives it back. No walker may know it any more.
    pub(super) fn give<M: TableMemory + ?Sized>(&mut self, memory: &mut M, frame: PoolFrame) {
        memory.fill(self.pa(frame), TABLE_ENTRIES, 0, 0);
        self.put_back(frame);
    }

    /// Gives a frame back to which nothing was written since it was taken.
    pub(super) fn put_back(&mut self, frame: PoolFrame) {
        let bit = frame.0 % FRAMES;
        let block = self
            .blocks
            .get_mut(usize::from(frame.0 / FRAMES))
            .and_then(Option::as_mut);
        if let Some(word) = block.and_then(|block| block.used.get_mut(usize::from(bit >> 6))) {
            *word &= !(1_u64 << (bit & 63));
            self.used = self.used.saturating_sub(1);
        }
    }

    /// Where EL2 reaches a frame. A number that no block has cannot come from [`Self::take`].
    pub(super) fn pa(&self, frame: PoolFrame) -> Pa {
        let offset = u64::from(frame.0 % FRAMES).saturating_mul(PAGE_SIZE);
        let block = self
            .blocks
            .get(usize::from(frame.0 / FRAMES))
            .and_then(Option::as_ref);
        debug_assert!(block.is_some(), "a frame has a block");
        block.map_or(Pa::truncated(0), |block| {
            Pa::truncated(block.pa.raw() | offset)
        })
    }

    /// Where the guest's walker reaches a frame.
    pub(super) fn ipa(frame: PoolFrame) -> Ipa {
        Ipa::truncated(POOL_BASE.saturating_add(u64::from(frame.0).saturating_mul(PAGE_SIZE)))
    }
}
