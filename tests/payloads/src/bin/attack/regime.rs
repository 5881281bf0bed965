//! Changes of the translation regime under the service's feet: roots, MMU, granule and sizes, TLB storms.

use payload::rt::{fault, io};
use payload::{insn, mrs, msr};

use crate::Part;
use crate::tables::{
    WINDOW, entry, flush, install, legal_tcr, linear, other_root, root, signature,
};

/// One disturbance, another one in each round and on each vCPU.
pub(crate) fn disturb(part: Part) -> u64 {
    let all: [fn(Part) -> u64; 6] = [
        roots,
        mmu_off,
        controls,
        storm,
        root_as_page,
        made_up_aliases,
    ];
    let wrong = all[(part.round.0 + part.vcpu) % all.len()](part);
    install();
    wrong
}

/// Whether the first page of the untouched region shows what it has to.
fn sees(part: Part) -> bool {
    let mut seen = 0;
    let fault = fault::probe(|| seen = io::read64(part.round.va(6)));
    fault.is_none() && seen == signature(6 * 512)
}

/// 512 roots in a row that say the same.
fn roots(part: Part) -> u64 {
    let mut wrong = 0;
    for index in 0..512 {
        msr!("ttbr1_el1", other_root(index) as u64);
        if index % 8 == 0 {
            flush();
            wrong += u64::from(!sees(part));
        }
    }
    msr!("ttbr1_el1", root() as u64);
    flush();
    wrong + u64::from(!sees(part))
}

/// Aliases that EL2 has not planted: a walk through them must end, and the guest's own root serve again.
fn made_up_aliases(part: Part) -> u64 {
    for index in 0..64 {
        msr!("ttbr1_el1", WINDOW | other_root(index) as u64);
        let _ = fault::probe(|| fault::discard(io::read64(part.round.va(6))));
        msr!("ttbr1_el1", WINDOW | (index as u64) << 30);
        let _ = fault::probe(|| fault::discard(io::read64(part.round.va(6))));
    }
    msr!("ttbr1_el1", root() as u64);
    flush();
    u64::from(!sees(part))
}

/// Stores to tables with the MMU off: of device type, to the address itself.
fn mmu_off(part: Part) -> u64 {
    let mut wrong = 0;
    for turn in 0..16_u64 {
        let at = entry(part.round.level3(7), 100 + part.vcpu * 16 + turn as usize);
        let value = turn << 32 | 0x10;
        // SAFETY: code, stack and the entry are where they are with the MMU on, because the low half is an
        // identity map; nothing but the entry is accessed meanwhile.
        unsafe {
            core::arch::asm!(
                "mrs {old}, sctlr_el1", "bic {off}, {old}, #1", "msr sctlr_el1, {off}", "isb",
                "str {value}, [{at}]", "dsb sy",
                "msr sctlr_el1, {old}", "isb",
                old = out(reg) _, off = out(reg) _, value = in(reg) value, at = in(reg) at,
                options(nostack)
            );
        }
        wrong += u64::from(io::read64(at) != value);
    }
    wrong + u64::from(!sees(part))
}

/// Sizes, granules, output sizes, walks without caches, hardware flags, then all as it was.
fn controls(part: Part) -> u64 {
    const T1SZ: u64 = 0x3f << 16;
    const TG1: u64 = 3 << 30;
    const HARDWARE_FLAGS: u64 = 3 << 39;
    const CACHED: u64 = 0xf << 24;
    let legal = legal_tcr(mrs!("tcr_el1"));
    let odd = [
        legal & !T1SZ | 25 << 16,
        legal & !T1SZ | 17 << 16,
        legal & !T1SZ | 34 << 16,
        legal & !TG1 | 3 << 30,
        legal & !TG1 | 1 << 30,
        legal & !CACHED,
        legal | HARDWARE_FLAGS,
        legal | 1 << 23,
        legal | 1 << 42,
    ];
    for tcr in odd {
        msr!("tcr_el1", tcr);
        flush();
        for va in [part.round.va(6), !0 << 32, !0 << 20] {
            let _ = fault::probe(|| fault::discard(io::read64(va)));
            let _ = fault::probe(|| io::write64(va + 8, 0));
        }
        io::write64(entry(part.round.level3(6), 200 + part.vcpu), 0);
    }
    msr!("tcr_el1", legal);
    flush();
    u64::from(!sees(part))
}

/// Invalidations of every kind as fast as they go.
fn storm(part: Part) -> u64 {
    let mut wrong = 0;
    for turn in 0..256 {
        let va = part.round.va(turn % 8) + turn * 4096;
        // SAFETY: TLB maintenance.
        unsafe {
            core::arch::asm!("tlbi vae1is, {0}", "tlbi vale1is, {0}", "tlbi vaae1, {0}", "tlbi aside1is, {0}",
                "tlbi vmalle1is", "dsb ish", "isb", in(reg) va >> 12 & 0xfff_ffff_ffff, options(nostack));
        }
        wrong += u64::from(!sees(part));
    }
    wrong
}

/// The root as a level-3 table, and stores into it through itself.
fn root_as_page(part: Part) -> u64 {
    let index = 300 + part.vcpu;
    // The root's own linear map, then an entry that makes the root a table of every level.
    io::write64(linear(entry(root(), index)), root() as u64 | 0x703 | 0x4);
    insn!("dsb ish\nisb");
    flush();
    let loops = (0..4).fold(0xffff_usize << 48, |va, level| {
        va | index << (39 - 9 * level)
    });
    let _ = fault::probe(|| io::write64(loops + (index + 8) * 8, 0));
    if part.round.spends_root() {
        let _ = fault::probe(|| io::write32(loops + (index + 16) * 8, 0));
    }
    let back = io::read64(entry(root(), index));
    io::write64(entry(root(), index), 0);
    flush();
    u64::from(back & 0xffff_ffff_f000 != root() as u64) + u64::from(!sees(part))
}
