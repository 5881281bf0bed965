//! The tables of the high half, and what they have to show.

use payload::rt::{fault, fdt, io};
use payload::{insn, mrs, msr};

/// First VA of the high half: 48 bits.
pub(crate) const HIGH: usize = 0xffff_0000_0000_0000;
/// Level-3 tables of a round, 2 MiB each.
pub(crate) const REGIONS: usize = 8;
const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
/// Rounds whose tables are kept before their pages are used again.
const KEPT: usize = 32;
/// Tables of a round: level 2 and what is below.
const TABLES: usize = REGIONS + 1;
/// Bit 39 of a root: where EL2 shows its own.
pub(crate) const WINDOW: u64 = 1 << 39;
/// The address field of a table descriptor or TTBR.
const ADDRESS: u64 = 0xffff_ffff_f000;

/// Table descriptor.
pub(crate) const TABLE: u64 = 0b11;
/// Page: AF, inner shareable, write-back, PXN, UXN, read-write at EL1.
pub(crate) const PAGE_RW: u64 = 0x0060_0000_0000_0707;
/// The same, and EL0 may access it.
pub(crate) const PAGE_USER: u64 = PAGE_RW | 1 << 6;

/// TCR_EL1.T1SZ 16, 4 KiB granule, write-back inner shareable walks.
pub(crate) const TCR_HIGH: u64 = 16 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30;
/// The fields of TCR_EL1 that are the high half's.
const TCR_HIGH_FIELDS: u64 = 0xffff << 16;

/// 2 MiB of tables, 16 MiB of data, 2 MiB of further roots.
fn arena() -> usize {
    (fdt::ram_end() - 40 * MIB) & !(2 * MIB - 1)
}

/// Table page number `index`.
pub(crate) fn page(index: usize) -> usize {
    arena() + index * PAGE
}

/// Further root number `index` of 512.
pub(crate) fn other_root(index: usize) -> usize {
    arena() + 18 * MIB + index * PAGE
}

/// The VA of a table page, or of a further root, in the linear map.
pub(crate) fn linear(address: usize) -> usize {
    let offset = address - arena();
    HIGH + if offset < 2 * MIB {
        offset
    } else {
        offset - 16 * MIB
    }
}

fn data(number: usize) -> usize {
    arena() + 2 * MIB + number * PAGE
}

/// What the first word of a data page holds.
pub(crate) const fn signature(number: usize) -> u64 {
    0xa77a_0000_0000_0000 | number as u64
}

/// The root, level 1 below it, and the linear map's tables.
pub(crate) fn root() -> usize {
    page(0)
}

const LINEAR: usize = 2;
const FIRST_ROUND: usize = LINEAR + 3;
const _: () = assert!(FIRST_ROUND + KEPT * TABLES < 512);

/// Entry `index` of a table.
pub(crate) const fn entry(table: usize, index: usize) -> usize {
    table + index * 8
}

fn fill(table: usize, value: impl Fn(usize) -> u64) {
    for index in 0..512 {
        io::write64(entry(table, index), value(index));
    }
}

/// Only entry 0 of a table is valid.
fn single(table: usize, below: usize) {
    fill(
        table,
        |index| if index == 0 { below as u64 | TABLE } else { 0 },
    );
}

/// Root, level 1 and the linear map; data and further roots.
pub(crate) fn build() {
    single(root(), page(1));
    single(page(1), page(LINEAR));
    build_linear();
    for index in 0..512 {
        single(other_root(index), page(1));
    }
    restore_data();
    io::barrier();
}

fn restore_data() {
    for number in 0..REGIONS * 512 {
        io::write64(data(number), signature(number));
    }
}

/// Gives this vCPU the high half. What EL2 has put into TTBR1_EL1 stays there if it is our root.
pub(crate) fn install() {
    let ours = mrs!("ttbr1_el1") & ADDRESS & !WINDOW == root() as u64;
    if !ours {
        msr!("ttbr1_el1", root() as u64);
    }
    msr!("tcr_el1", legal_tcr(mrs!("tcr_el1")));
    flush();
}

/// TCR_EL1 as it is to be: the low half's fields are the runtime's.
pub(crate) const fn legal_tcr(now: u64) -> u64 {
    now & !TCR_HIGH_FIELDS | TCR_HIGH
}

/// Whether EL2's root is in TTBR1_EL1.
pub(crate) fn has_alias() -> bool {
    mrs!("ttbr1_el1") & WINDOW != 0
}

/// Every translation of ours, on all vCPUs.
pub(crate) fn flush() {
    insn!("dsb ish\ntlbi vmalle1is\ndsb ish\nisb");
}

/// One page's translation, on all vCPUs.
pub(crate) fn flush_page(va: usize) {
    // SAFETY: TLB maintenance; translations are made again when they are needed.
    unsafe {
        core::arch::asm!("dsb ishst", "tlbi vaae1is, {0}", "dsb ish", "isb",
            in(reg) va >> 12 & 0xfff_ffff_ffff, options(nostack));
    }
}

/// A round, by number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round(pub(crate) usize);

impl Round {
    fn first(self) -> usize {
        FIRST_ROUND + self.0 % KEPT * TABLES
    }

    /// Its entry of the level-1 table. The first is the linear map's; those behind it, and the last ones, are
    /// for attacks.
    fn gib(self) -> usize {
        8 + self.0 % 470
    }

    /// Its level-2 table.
    pub(crate) fn level2(self) -> usize {
        page(self.first())
    }

    /// One of its level-3 tables.
    pub(crate) fn level3(self, region: usize) -> usize {
        page(self.first() + 1 + region)
    }

    /// First VA of a region.
    pub(crate) fn va(self, region: usize) -> usize {
        HIGH + (self.gib() << 30) + (region << 21)
    }

    /// What entry `index` of a level-3 table has to be.
    pub(crate) fn descriptor(self, region: usize, index: usize) -> u64 {
        data(region * 512 + index) as u64 | PAGE_RW
    }

    /// Whether stores that cost EL2's root its place are part of this round: it is nested from there until the
    /// operator sets the mode again.
    pub(crate) const fn spends_root(self) -> bool {
        self.0 % 4 == 3
    }

    /// Unlinks the round whose pages these were, fills the tables and links them.
    pub(crate) fn prepare(self) {
        if self.0 >= KEPT {
            let old = Self(self.0 - KEPT);
            io::write64(entry(page(1), old.gib()), 0);
            flush();
        }
        self.fill();
        io::write64(entry(page(1), self.gib()), self.level2() as u64 | TABLE);
        io::barrier();
    }

    fn fill(self) {
        for region in 0..REGIONS {
            fill(self.level3(region), |index| self.descriptor(region, index));
        }
        fill(self.level2(), |index| {
            if index < REGIONS {
                self.level3(index) as u64 | TABLE
            } else {
                0
            }
        });
    }

    /// The word that [`crate::stores::count`] counts in: an entry of a level-3 table, never valid.
    pub(crate) fn counter(self) -> usize {
        entry(self.level3(2), 511)
    }

    /// All tables and data as they have to be, after anything.
    pub(crate) fn restore(self) {
        single(root(), page(1));
        for index in 481..512 {
            io::write64(entry(page(1), index), 0);
        }
        build_linear();
        self.fill();
        io::write64(entry(page(1), self.gib()), self.level2() as u64 | TABLE);
        flush();
        restore_data();
        io::barrier();
    }

    /// Tables and pages that are not as they have to be.
    pub(crate) fn differences(self) -> u64 {
        let mut wrong = 0;
        for number in 0..REGIONS * 512 {
            let (region, index) = (number / 512, number % 512);
            let mut seen = 0;
            let va = self.va(region) + index * PAGE;
            let fault = fault::probe(|| seen = io::read64(va));
            let table = io::read64(entry(self.level3(region), index));
            let good = fault.is_none()
                && seen == signature(number)
                && table == self.descriptor(region, index);
            wrong += u64::from(!good);
        }
        wrong
    }
}

fn build_linear() {
    io::write64(entry(page(1), 0), page(LINEAR) as u64 | TABLE);
    let linear = [page(LINEAR + 1), page(LINEAR + 2)];
    fill(page(LINEAR), |index| {
        linear.get(index).map_or(0, |table| *table as u64 | TABLE)
    });
    fill(linear[0], |index| page(index) as u64 | PAGE_USER);
    fill(linear[1], |index| other_root(index) as u64 | PAGE_USER);
}
