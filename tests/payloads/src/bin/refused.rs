//! A guest that tries what it may not, each a known number of times, and stays. The log of refused accesses
//! must have just that. `flood` on the command line: it then goes on for ever, at one page after another.
#![no_std]
#![no_main]

use payload::rt::fault::{self, Fault};
use payload::rt::{check, fdt, io, psci};
use payload::{insn, mrs, println};

payload::entry!(main);

/// The PL031 of QEMU `virt`, which the guest was not given.
const RTC: usize = 0x0901_0000;
/// Where nothing is.
const HOLE: usize = 0x3000_0000;
/// A function of HVC that there is not.
const NO_FUNCTION: u32 = 0x8600_1234;

fn each(times: u32, what: impl Fn() -> Option<Fault>) {
    for _ in 0..times {
        check::that("refused", what().is_some(), ());
    }
}

fn main() {
    each(3, || fault::probe(|| fault::discard(mrs!("pmccntr_el0"))));
    each(2, || fault::probe(|| fault::discard(io::read32(RTC))));
    each(4, || fault::probe(|| io::write32(HOLE, 1)));
    let beyond = fdt::ram_end() + 0x1000;
    each(1, || fault::probe(|| fault::discard(io::read64(beyond))));
    for _ in 0..5 {
        let answer = psci::hvc(NO_FUNCTION, [0; 3]);
        check::equal("refused.call", answer, psci::NOT_SUPPORTED);
    }
    check::summary();
    println!("refused: done");
    while fdt::has_argument("flood") {
        for page in 0..0x1000 {
            let at = HOLE + page * 0x1000;
            let _ = fault::probe(|| fault::discard(io::read32(at)));
        }
    }
    loop {
        insn!("wfi");
    }
}
