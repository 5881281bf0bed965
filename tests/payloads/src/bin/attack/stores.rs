//! Stores of every kind to tables that may be shadowed: none may be lost, and what they map must show.

use core::sync::atomic::{AtomicU64, Ordering};

use payload::rt::{fault, io};

use crate::Part;
use crate::tables::{Round, entry, flush_page, linear, signature};

/// How much all vCPUs have added to the round's counter.
static COUNTED: AtomicU64 = AtomicU64::new(0);

/// Plain 64-bit stores of descriptors that are invalid, each vCPU to its own entries, by turns through the
/// linear map and the identity map; each is read back.
pub(crate) fn ledger(part: Part) -> u64 {
    let table = part.round.level3(0);
    let mut wrong = 0;
    for turn in 0..128_u64 {
        let at = entry(table, 16 + part.vcpu * 32 + turn as usize % 16);
        let value = turn << 16 | 0xbad0_0000_0000_0000;
        let through = if turn % 2 == 0 { linear(at) } else { at };
        io::write64(through, value);
        wrong += u64::from(io::read64(at) != value || io::read64(linear(at)) != value);
    }
    wrong
}

/// One vCPU unmaps and maps pages, and must see that at once; the others look and store meanwhile.
pub(crate) fn remap(part: Part) -> u64 {
    const REGION: usize = 3;
    const TRANSLATION_L3: u64 = 0b000_111;
    let (round, mut wrong) = (part.round, 0);
    for turn in 0..96_usize {
        let index = turn % 24;
        let (va, number) = (round.va(REGION) + index * 4096, REGION * 512 + index);
        let look = || {
            let mut seen = 0;
            let fault = fault::probe(|| seen = io::read64(va));
            (fault, seen)
        };
        if part.vcpu + 1 != part.vcpus {
            let (fault, seen) = look();
            wrong += u64::from(fault.is_none() && seen != signature(number));
            // Twice the same table, by a store that cannot be decoded and one that can.
            let own = entry(round.level3(REGION), 64 + part.vcpu * 2);
            io::write32(own, 0);
            io::write64(own + 8, (turn as u64) << 8);
            wrong += u64::from(io::read64(own + 8) != (turn as u64) << 8);
            continue;
        }
        let at = entry(round.level3(REGION), index);
        io::write64(at, 0);
        flush_page(va);
        let (fault, _) = look();
        wrong += u64::from(fault.is_none_or(|fault| fault.status() != TRANSLATION_L3));
        io::write64(linear(at), round.descriptor(REGION, index));
        payload::insn!("dsb ishst\nisb");
        let (fault, seen) = look();
        wrong += u64::from(fault.is_some() || seen != signature(number));
    }
    wrong
}

/// Adds two to one word so often from each vCPU, by exclusives, through both maps.
pub(crate) fn count(part: Part) -> u64 {
    const TIMES: u64 = 64;
    let at = part.round.counter();
    for turn in 0..TIMES {
        let through = if turn % 2 == 0 { linear(at) } else { at };
        // SAFETY: an entry of a table that no reference leads to.
        unsafe {
            core::arch::asm!(
                "2: ldaxr {old}, [{at}]", "add {old}, {old}, #2", "stlxr {failed:w}, {old}, [{at}]",
                "cbnz {failed:w}, 2b",
                at = in(reg) through, old = out(reg) _, failed = out(reg) _, options(nostack)
            );
        }
        // Others meet a table that has come back meanwhile.
        io::write64(at - 8 * (1 + part.vcpu), turn << 8);
    }
    COUNTED.fetch_add(2 * TIMES, Ordering::SeqCst);
    0
}

/// Begins a round's count at zero.
pub(crate) fn start_count(round: Round) {
    COUNTED.store(0, Ordering::SeqCst);
    io::write64(round.counter(), 0);
}

/// How much of what was counted is missing.
pub(crate) fn lost(round: Round) -> u64 {
    COUNTED
        .load(Ordering::SeqCst)
        .abs_diff(io::read64(round.counter()))
}

/// Stores `value` in some way, so that it is there as 64 bits in the end.
type Form = fn(usize, u64);

macro_rules! form {
    ($($text:literal),+) => {
        |at, value| {
            // SAFETY: stores into a table that no reference leads to.
            unsafe {
                core::arch::asm!(
                    ".arch_extension fp", ".arch_extension simd",
                    $($text),+, "/* {t} */",
                    at = inout(reg) at => _, v = inout(reg) value => _,
                    t = out(reg) _, options(nostack)
                );
            }
        }
    };
}

/// Which of them is STTR.
const STTR: usize = 10;

const FORMS: [Form; 16] = [
    form!("str {v}, [{at}]"),
    form!(
        "str {v:w}, [{at}]",
        "lsr {t}, {v}, #32",
        "str {t:w}, [{at}, #4]"
    ),
    form!(
        "strh {v:w}, [{at}]",
        "lsr {t}, {v}, #16",
        "strh {t:w}, [{at}, #2]",
        "lsr {t}, {v}, #32",
        "strh {t:w}, [{at}, #4]",
        "lsr {t}, {v}, #48",
        "strh {t:w}, [{at}, #6]"
    ),
    form!(
        "mov {t}, #0",
        "2: strb {v:w}, [{at}, {t}]",
        "ror {v}, {v}, #8",
        "add {t}, {t}, #1",
        "cmp {t}, #8",
        "b.ne 2b"
    ),
    form!("stp {v}, {v}, [{at}]"),
    form!("stp xzr, {v}, [{at}, #-8]"),
    form!("stnp {v}, xzr, [{at}]"),
    form!("str {v}, [{at}], #8"),
    form!("str {v}, [{at}, #0]!"),
    form!("stlr {v}, [{at}]"),
    form!("sttr {v}, [{at}]"),
    form!("stur {v}, [{at}]"),
    form!(
        "2: ldxr {t}, [{at}]",
        "stxr {t:w}, {v}, [{at}]",
        "cbnz {t:w}, 2b"
    ),
    form!("str {v}, [{at}, #4]", "str {v}, [{at}]"),
    form!("dc zva, {at}", "str {v}, [{at}]"),
    form!(
        "mov {t}, {at}",
        "dc civac, {at}",
        "str {v}, [{t}]",
        "dc cvac, {t}",
        "dc ivac, {t}"
    ),
];

/// Every form of a store, each vCPU in its own 1 KiB of one table, beginning with another one in each round, so
/// that each meets a table that is still shadowed.
pub(crate) fn forms(part: Part) -> u64 {
    let mut wrong = 0;
    for turn in 0..FORMS.len() {
        let number = (part.round.0 + part.vcpu * 5 + turn) % FORMS.len();
        let at = part.round.level3(1) + part.vcpu * 1024 + turn * 64;
        let value = 0x5a5a_0000_0000_0000 | (turn as u64) << 8;
        // STTR has EL0's rights, which the identity map does not give.
        let through = match number {
            STTR => linear(at),
            _ if part.round.0.is_multiple_of(2) => linear(at),
            _ => at,
        };
        let fault = fault::probe(|| {
            (FORMS[number])(through, value);
        });
        let lost = io::read64(at) != value || fault.is_some();
        wrong += u64::from(lost);
    }
    wrong + crossing(part)
}

/// An access that begins in one table and ends in the next.
fn crossing(part: Part) -> u64 {
    let at = linear(part.round.level3(4 + part.vcpu % 4)) - 4;
    let old = io::read64(at);
    io::write64(at, !old);
    let wrong = u64::from(io::read64(at) != !old);
    io::write64(at, old);
    wrong
}
