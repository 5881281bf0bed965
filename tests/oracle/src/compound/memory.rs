//! Physical memory, by regions, so that a word is found by arithmetic.

use std::collections::BTreeSet;

use penumbra_vmsa::PAGE_SIZE;

use super::{FIRST_TABLE, POOL_BYTES, POOL_PA, RAM_BYTES, RAM_PA, STAGE2_ROOT};

const TABLE_FRAMES: u64 = 2048;
const ROOT_FRAMES: u64 = 2;

/// Frames, and which words of them a walker has read since [`Memory::forget`].
#[derive(Debug)]
pub(super) struct Memory {
    frames: Vec<Option<Box<[u64; 512]>>>,
    read: Vec<[u64; 8]>,
    touched: Vec<usize>,
    /// Frames for stage-2 tables that are in use, and those that were given back.
    pub(super) live: BTreeSet<u64>,
    /// How many may be in use.
    pub(super) most: usize,
    free: Vec<u64>,
    next: u64,
}

/// Where a region of PAs begins, its frames, and the number of the first.
const REGIONS: [(u64, u64, u64); 4] = [
    (RAM_PA, RAM_BYTES / PAGE_SIZE, 0),
    (POOL_PA, POOL_BYTES / PAGE_SIZE, RAM_BYTES / PAGE_SIZE),
    (
        FIRST_TABLE,
        TABLE_FRAMES,
        (RAM_BYTES + POOL_BYTES) / PAGE_SIZE,
    ),
    (
        STAGE2_ROOT,
        ROOT_FRAMES,
        (RAM_BYTES + POOL_BYTES) / PAGE_SIZE + TABLE_FRAMES,
    ),
];

fn number(at: u64) -> Option<usize> {
    REGIONS.iter().find_map(|&(start, frames, first)| {
        let frame = at.wrapping_sub(start) / PAGE_SIZE;
        (at >= start && frame < frames).then_some((first + frame) as usize)
    })
}

fn index(at: u64) -> usize {
    (at & (PAGE_SIZE - 1)) as usize / 8
}

impl Memory {
    pub(super) fn new() -> Self {
        let frames = REGIONS.iter().map(|&(_, frames, _)| frames as usize).sum();
        Self {
            frames: (0..frames).map(|_| None).collect(),
            read: vec![[0; 8]; frames],
            touched: Vec::new(),
            live: BTreeSet::new(),
            most: usize::MAX,
            free: Vec::new(),
            next: FIRST_TABLE,
        }
    }

    /// Reads a word; what was never written, or does not exist, is 0.
    pub(super) fn word(&self, at: u64) -> u64 {
        let frame = number(at).and_then(|number| self.frames[number].as_ref());
        frame.map_or(0, |frame| frame[index(at)])
    }

    /// Reads a word as a walker.
    pub(super) fn walk(&mut self, at: u64) -> u64 {
        let Some(number) = number(at) else { return 0 };
        let seen = &mut self.read[number];
        if *seen == [0; 8] {
            self.touched.push(number);
        }
        seen[index(at) / 64] |= 1 << (index(at) % 64);
        self.frames[number]
            .as_ref()
            .map_or(0, |frame| frame[index(at)])
    }

    /// Whether a walker has read a word.
    pub(super) fn was_read(&self, at: u64) -> bool {
        number(at)
            .is_some_and(|number| self.read[number][index(at) / 64] >> (index(at) % 64) & 1 != 0)
    }

    /// Forgets what walkers have read.
    pub(super) fn forget(&mut self) {
        for number in self.touched.drain(..) {
            self.read[number] = [0; 8];
        }
    }

    pub(super) fn put(&mut self, at: u64, raw: u64) {
        // No memory there: out of bounds, and a finding.
        let number = number(at).unwrap_or(usize::MAX);
        self.frames[number].get_or_insert_with(|| Box::new([0; 512]))[index(at)] = raw;
    }

    pub(super) fn zero(&mut self, frame: u64) {
        if let Some(number) = number(frame) {
            self.frames[number] = None;
        }
    }

    pub(super) fn exchange(&mut self, a: u64, b: u64) {
        if let (Some(a), Some(b)) = (number(a), number(b)) {
            self.frames.swap(a, b);
        }
    }

    /// A frame for a table, if there may be one more.
    pub(super) fn alloc(&mut self) -> Option<u64> {
        if self.live.len() >= self.most {
            return None;
        }
        let raw = self.free.pop().unwrap_or_else(|| {
            self.next += PAGE_SIZE;
            self.next
        });
        self.zero(raw);
        self.live.insert(raw);
        Some(raw)
    }

    /// Takes a frame back; false if it was not in use.
    pub(super) fn give(&mut self, table: u64) -> bool {
        self.free.push(table);
        self.live.remove(&table)
    }
}
