//! Guest memory with tables, built by hand.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::{Memory, Regime};

/// Sparse memory: what was never written is no RAM.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ram(pub(crate) RefCell<HashMap<u64, u64>>);

impl Memory for Ram {
    fn read(&self, pa: u64) -> Option<u64> {
        self.0.borrow().get(&pa).copied()
    }
}

impl Ram {
    pub(crate) fn write(&self, pa: u64, value: u64) {
        self.0.borrow_mut().insert(pa, value);
    }

    fn clear_table(&self, pa: u64, entries: u64) {
        for index in 0..entries {
            self.write(pa + 8 * index, 0);
        }
    }
}

/// Where the tables of stage 1 lie, in IPA, and those of stage 2, in PA.
const STAGE1: u64 = 0x8000_0000;
const STAGE2: u64 = 0xc000_0000;

/// Builds the tables of one VM: stage 1 with 48 bits for both halves, stage 2 with 40 bits.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) ram: Ram,
    pub(crate) regime: Regime,
    next_stage1: u64,
    next_stage2: u64,
    /// log2 of the stage-2 leaves; `None`: no stage 2.
    stage2: Option<u8>,
}

fn shift(level: u32) -> u32 {
    39 - 9 * level
}

impl Machine {
    /// Stage 1 alone, or over stage-2 leaves of one size.
    pub(crate) fn new(stage2: Option<u8>) -> Self {
        let ram = Ram::default();
        let mut regime = Regime {
            // T0SZ = T1SZ = 16, TG1 = 4 KiB, A1 = 1, AS = 1.
            tcr: 16 | 16 << 16 | 2 << 30 | 1 << 22 | 1 << 36,
            sctlr: 1,
            ..Regime::default()
        };
        let mut next_stage2 = STAGE2;
        if stage2.is_some() {
            regime.hcr = 1;
            // T0SZ = 24 (40 bits), SL0 = 1: level 1, two tables concatenated.
            regime.vtcr = 24 | 1 << 6;
            regime.vttbr = 5 << 48 | STAGE2;
            ram.clear_table(STAGE2, 1024);
            next_stage2 += 0x2000;
        }
        let mut machine = Self {
            ram,
            regime,
            next_stage1: STAGE1,
            next_stage2,
            stage2,
        };
        machine.regime.ttbr = [machine.table(), machine.table()];
        machine
    }

    pub(crate) fn set_asid(&mut self, asid: u16) {
        self.regime.ttbr[1] = self.regime.ttbr[1] & 0xffff_ffff_ffff | u64::from(asid) << 48;
    }

    /// A new user root.
    pub(crate) fn new_root(&mut self) -> u64 {
        self.table()
    }

    /// The PA of an IPA: stage 2 is the identity.
    fn table(&mut self) -> u64 {
        let at = self.next_stage1;
        self.next_stage1 += 0x1000;
        self.ram.clear_table(at, 512);
        self.back(at);
        at
    }

    /// Maps the IPA in stage 2, to itself.
    fn back(&mut self, ipa: u64) {
        if let Some(log2) = self.stage2 {
            self.map_stage2(ipa, ipa, log2);
        }
    }

    /// Maps an IPA in stage 2, writable, by a leaf of `1 << log2` bytes.
    pub(crate) fn map_stage2(&mut self, ipa: u64, pa: u64, log2: u8) {
        const WRITABLE: u64 = 1 << 7;
        let leaf_level = (39 - u32::from(log2)) / 9;
        let mut table = STAGE2;
        for level in 1..leaf_level {
            let index = ipa >> shift(level) & if level == 1 { 0x3ff } else { 0x1ff };
            let slot = table + 8 * index;
            let desc = self.ram.read(slot).unwrap();
            table = if desc == 0 {
                let fresh = self.next_stage2;
                self.next_stage2 += 0x1000;
                self.ram.clear_table(fresh, 512);
                self.ram.write(slot, fresh | 3);
                fresh
            } else {
                desc & 0xffff_ffff_f000
            };
        }
        let index = ipa >> log2 & if leaf_level == 1 { 0x3ff } else { 0x1ff };
        let kind = if log2 == 12 { 3 } else { 1 };
        let desc = pa >> log2 << log2 | kind | 1 << 10 | WRITABLE;
        self.ram.write(table + 8 * index, desc);
    }

    /// Maps `1 << log2` bytes at `va` to `ipa`, with more descriptor bits.
    pub(crate) fn map(&mut self, va: u64, ipa: u64, log2: u8, bits: u64) {
        let leaf_level = (39 - u32::from(log2)) / 9;
        let upper = va >> 55 & 1 == 1;
        let mut table = self.regime.ttbr[usize::from(upper)] & 0xffff_ffff_f000;
        for level in 0..leaf_level {
            let slot = table + 8 * (va >> shift(level) & 0x1ff);
            let desc = self.ram.read(slot).unwrap();
            table = if desc & 1 == 0 {
                let fresh = self.table();
                self.ram.write(slot, fresh | 3);
                fresh
            } else {
                desc & 0xffff_ffff_f000
            };
        }
        let slot = table + 8 * (va >> shift(leaf_level) & 0x1ff);
        let kind = if log2 == 12 { 3 } else { 1 };
        let global = if upper { 0 } else { 1 << 11 };
        self.ram.write(slot, ipa | kind | 1 << 10 | global | bits);
        let granule = self.stage2.unwrap_or(log2).min(log2);
        for piece in 0..1_u64 << (log2 - granule) {
            self.back(ipa + (piece << granule));
        }
    }
}
