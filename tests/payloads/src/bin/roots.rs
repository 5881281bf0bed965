//! A guest without an operating system that switches between two address spaces, as a kernel does between two
//! processes, while EL2 traps the writes of its roots.
//!
//! It waits until compound roots stand for both, measures what a write of a known root costs (tests 28 and 29 of
//! eventscope), then checks what every way of writing one leaves in registers and translations, and that a storm
//! of writes ends the traps. Arguments: `n=COUNT` of measured writes; `only-measure`.
#![no_std]
#![no_main]

use payload::rt::{check, fdt, io, time};
use payload::{insn, mrs, msr};

payload::entry!(main);

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;
/// Entry of a root that leads to what only its space has, and the VA there.
const OWN: usize = 16;
const VA: usize = OWN << 39;
/// Bit 39 of a root: where EL2 shows its own.
const WINDOW: u64 = 1 << 39;
const ADDRESS: u64 = 0xffff_ffff_f000;
/// Table; page with AF, nG, inner shareable, Normal write-back, PXN, UXN.
const TABLE: u64 = 3;
const MEMORY: u64 = 0x0060_0000_0000_0f07;
/// TCR_EL1.A1: the ASID is in TTBR1_EL1.
const A1: u64 = 1 << 22;
/// How long the manager may take to see that the roots live, and EL2 to see a storm.
const PATIENCE_US: u64 = 60_000_000;

/// One of the address spaces.
#[derive(Clone, Copy, Debug)]
struct Space(usize);

const SPACES: [Space; 2] = [Space(0), Space(1)];

impl Space {
    /// Its tables of levels 0 to 3, and the page.
    fn page(self, number: usize) -> usize {
        let arena = (fdt::ram_end() - 4 * MIB) & !(2 * MIB - 1);
        arena + (8 * self.0 + number) * PAGE
    }

    const fn asid(self) -> u64 {
        (self.0 as u64 + 1) << 48
    }

    fn root(self) -> u64 {
        self.page(0) as u64
    }

    fn ttbr(self) -> u64 {
        self.root() | self.asid()
    }

    const fn signature(self) -> u64 {
        0x0050_ace0 + self.0 as u64
    }

    /// Builds it: what the runtime's root maps, and a page of its own.
    fn build(self, base: usize) {
        for index in 0..PAGE / 8 {
            io::write64(self.page(0) + 8 * index, io::read64(base + 8 * index));
        }
        for (level, index) in [(0, OWN), (1, 0), (2, 0)] {
            let below = self.page(level + 1) as u64 | TABLE;
            io::write64(self.page(level) + 8 * index, below);
        }
        io::write64(self.page(3), self.page(4) as u64 | MEMORY);
        io::write64(self.page(4), self.signature());
    }

    /// Whether it is the one that is seen.
    fn shows(self) -> bool {
        io::read64(VA) == self.signature()
    }
}

fn main() {
    let base = mrs!("ttbr0_el1") & ADDRESS;
    for space in SPACES {
        space.build(base as usize);
    }
    io::barrier();
    check::that("roots.exchanged", exchanged(), ());
    measure(fdt::number("n").unwrap_or(200));
    if !fdt::has_argument("only-measure") {
        check_registers();
        check_other_asid();
        check_asid_in_the_other_half(base);
        check_storm();
    }
    check::summary();
}

/// Writes both roots now and then until compound roots stand for both.
fn exchanged() -> bool {
    let end = time::now() + time::ticks(PATIENCE_US);
    while time::now() < end {
        let mut windows = WINDOW;
        for space in SPACES {
            msr!("ttbr0_el1", space.ttbr());
            windows &= mrs!("ttbr0_el1");
        }
        if windows != 0 {
            return true;
        }
        time::sleep(20_000);
    }
    false
}

/// A root that is known, and the same root in TTBR1_EL1 with another ASID.
fn measure(n: u64) {
    time::sleep(30_000);
    for index in 0..n {
        let ttbr = SPACES[index as usize % 2].ttbr();
        insn!("hint #92");
        msr!("ttbr0_el1", ttbr);
        insn!("hint #124");
    }
    let ttbr1 = mrs!("ttbr1_el1") & ADDRESS;
    for index in 0..n {
        let ttbr = ttbr1 | SPACES[index as usize % 2].asid();
        insn!("hint #93");
        msr!("ttbr1_el1", ttbr);
        insn!("hint #125");
    }
    msr!("ttbr1_el1", ttbr1);
}

/// Writes TTBR0_EL1 from register X`$number`. Returns the bits by which it, X20 or one of X0 to X17 has changed.
macro_rules! write_from {
    ($number:literal, $value:expr) => {{
        let mut changed = 0_u64;
        // SAFETY: both spaces map code and data where they are.
        unsafe {
            core::arch::asm!(
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
                "mov x\\n, #(\\n + 0x40)",
                ".endr",
                concat!("mov x", $number, ", x20"),
                concat!("msr ttbr0_el1, x", $number),
                "isb",
                concat!("sub x21, x", $number, ", x20"),
                concat!("mov x", $number, ", #(", $number, " + 0x40)"),
                ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
                "sub x\\n, x\\n, #(\\n + 0x40)",
                "orr x21, x21, x\\n",
                ".endr",
                in("x20") $value,
                out("x21") changed,
                out("x0") _, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _,
                out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _,
                out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
                out("x22") _, out("x30") _,
                options(nostack)
            );
        }
        changed
    }};
}

/// Whether a write has left the root that was written, or its alias, and the translations of its space.
fn is_in_place(space: Space, written: u64) -> bool {
    mrs!("ttbr0_el1") & !WINDOW == written & !WINDOW && space.shows()
}

/// Writes from different registers, of the root as it is and as it is read.
fn check_registers() {
    let mut wrong = 0_u64;
    for turn in 0..64_u64 {
        let space = SPACES[turn as usize % 2];
        let value = space.ttbr() | if turn & 32 == 0 { 0 } else { WINDOW };
        let changed = match turn / 2 % 8 {
            0 => write_from!(0, value),
            1 => write_from!(1, value),
            2 => write_from!(3, value),
            3 => write_from!(7, value),
            4 => write_from!(15, value),
            5 => write_from!(17, value),
            6 => write_from!(22, value),
            _ => write_from!(30, value),
        };
        wrong += u64::from(changed != 0 || !is_in_place(space, value));
    }
    check::equal("roots.registers", wrong, 0);
}

/// One root under another ASID, and under its own again.
fn check_other_asid() {
    let mut wrong = 0_u64;
    for turn in 0..16 {
        let space = SPACES[turn % 2];
        for asid in [7 + turn as u64 / 4, space.asid() >> 48] {
            let value = space.root() | asid << 48;
            msr!("ttbr0_el1", value);
            wrong += u64::from(!is_in_place(space, value));
        }
    }
    check::equal("roots.other-asid", wrong, 0);
}

/// The ASID in TTBR1_EL1, as Linux has it: a root that stands for no process, then the ASID, then the root.
fn check_asid_in_the_other_half(base: u64) {
    let ttbr1 = mrs!("ttbr1_el1") & ADDRESS;
    let tcr = mrs!("tcr_el1");
    msr!("ttbr0_el1", base);
    msr!("tcr_el1", tcr | A1);
    let mut wrong = 0_u64;
    for turn in 0..256_usize {
        let space = SPACES[turn % 2];
        // Its own, but for some turns in which the first has none of the two.
        let asid = match turn {
            100..110 if turn % 2 == 0 => 9_u64 << 48,
            _ => space.asid(),
        };
        msr!("ttbr0_el1", base);
        wrong += u64::from(mrs!("ttbr0_el1") & !WINDOW != base);
        msr!("ttbr1_el1", ttbr1 | asid);
        wrong += u64::from(mrs!("ttbr1_el1") & !WINDOW != ttbr1 | asid);
        let value = space.root();
        msr!("ttbr0_el1", value);
        wrong += u64::from(!is_in_place(space, value));
    }
    check::equal("roots.asid-in-ttbr1", wrong, 0);
    check::that("roots.asid-in-ttbr1-exchanged", exchanged(), ());
    msr!("ttbr0_el1", base);
    msr!("ttbr1_el1", ttbr1);
    msr!("tcr_el1", tcr);
}

/// Writes as fast as they go, until EL2 has had enough of it and no alias comes back.
fn check_storm() {
    check::that("roots.exchanged-again", exchanged(), ());
    let end = time::now() + time::ticks(PATIENCE_US);
    let mut left = false;
    while !left && time::now() < end {
        for turn in 0..1000 {
            msr!("ttbr0_el1", SPACES[turn % 2].ttbr());
        }
        left = mrs!("ttbr0_el1") & WINDOW == 0;
    }
    check::that("roots.storm-ends-it", left, ());
    let wrong = SPACES.iter().any(|space| {
        msr!("ttbr0_el1", space.ttbr());
        !is_in_place(*space, space.ttbr())
    });
    check::that("roots.after-the-storm", !wrong, ());
}
