//! One of two guests that share a core: its registers stay its own.
//!
//! Each holds patterns made from its `seed=` argument in FP, thread and debug registers and RAM, works
//! through time slices and waits, and checks them for two seconds.
#![no_std]
#![no_main]

use payload::rt::{check, fault, fdt, gic, layout, sysreg, time};
use payload::{insn, mrs, msr, println};

payload::entry!(main);

fn set_fp(seed: u64) {
    // SAFETY: this target's Rust code does not use FP registers.
    unsafe {
        core::arch::asm!(
            ".arch_extension fp", ".arch_extension simd",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "add {t}, {s}, #\\n", "dup v\\n\\().2d, {t}",
            ".endr",
            s = in(reg) seed, t = out(reg) _, options(nostack)
        );
    }
}

fn fp_differences(seed: u64) -> u64 {
    let mut sum = 0_u64;
    // SAFETY: reads FP registers.
    unsafe {
        core::arch::asm!(
            ".arch_extension fp", ".arch_extension simd",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "add {t}, {s}, #\\n",
            "umov {u}, v\\n\\().d[0]", "eor {u}, {u}, {t}", "orr {sum}, {sum}, {u}",
            "umov {u}, v\\n\\().d[1]", "eor {u}, {u}, {t}", "orr {sum}, {sum}, {u}",
            ".endr",
            s = in(reg) seed, t = out(reg) _, u = out(reg) _, sum = inout(reg) sum,
            options(nostack)
        );
    }
    sum
}

/// DISR_EL1, where the core has one (guests are not told of it, but nothing traps it); else zero.
fn deferred_error() -> u64 {
    let mut value = 0;
    let absent = fault::probe(|| value = mrs!("S3_0_C12_C1_1")).is_some();
    if absent { 0 } else { value }
}

/// Registers that are zero when a guest starts, or at least not another guest's.
fn first_sight(seed: u64) {
    let mut sum = 0_u64;
    // SAFETY: reads FP registers.
    unsafe {
        core::arch::asm!(
            ".arch_extension fp", ".arch_extension simd",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "umov {u}, v\\n\\().d[0]", "orr {sum}, {sum}, {u}",
            "umov {u}, v\\n\\().d[1]", "orr {sum}, {sum}, {u}",
            ".endr",
            u = out(reg) _, sum = inout(reg) sum, options(nostack)
        );
    }
    check::equal("twin.fp-zero-at-start", sum, 0);
    check::equal("twin.tpidr-zero-at-start", mrs!("tpidr_el0"), 0);
    println!("twin: seed {seed:#x}");
}

fn main() {
    let seed = fdt::number("seed").unwrap_or(1) << 32 | 0x1234_0000;
    msr!("cpacr_el1", 3 << 20);
    first_sight(seed);
    gic::enable(layout::VTIMER_INTID, 0xa0);
    sysreg::irq_on();
    set_fp(seed);
    msr!("tpidr_el0", seed);
    msr!("tpidrro_el0", seed + 1);
    msr!("contextidr_el1", seed >> 32);
    msr!("afsr0_el1", 0);
    let debug = fault::probe(|| msr!("dbgbvr0_el1", seed & 0xffff_fffc)).is_none();
    let breakpoint = if debug { mrs!("dbgbvr0_el1") } else { 0 };
    // Claim tags: none is set for a guest that has set none, and each keeps its own.
    check::equal("twin.claim-tags-at-start", mrs!("dbgclaimclr_el1"), 0);
    let tags = seed >> 32 & 0xff;
    msr!("dbgclaimset_el1", tags);
    let tags = mrs!("dbgclaimclr_el1");
    msr!("mdccint_el1", tags << 29 & 3 << 29);
    let dcc = mrs!("mdccint_el1");
    check::equal("twin.deferred-error-at-start", deferred_error(), 0);
    let own = seed >> 32 & 0xff;
    let mut wrong = 0;
    let mut rounds = 0_u64;
    let end = time::now() + time::ticks(2_000_000);
    while time::now() < end {
        rounds += 1;
        // Where it is absent, neither this nor the look has an effect.
        let _ = fault::probe(|| msr!("S3_0_C12_C1_1", own));
        if rounds.is_multiple_of(3) {
            gic::clear_log(0);
            time::arm(time::ticks(700));
            while gic::taken(0) == 0 {
                // Masked, so that none comes between the look and WFI, which ends when one is pending.
                sysreg::irq_off();
                if gic::taken(0) == 0 {
                    insn!("wfi");
                }
                sysreg::irq_on();
            }
        } else {
            time::delay(1300);
        }
        // Another's value is neither; a switch may have left none.
        let deferred = deferred_error();
        wrong |= u64::from(deferred != 0 && deferred != own);
        wrong |= fp_differences(seed);
        wrong |= mrs!("tpidr_el0") ^ seed;
        wrong |= mrs!("tpidrro_el0") ^ (seed + 1);
        wrong |= mrs!("contextidr_el1") ^ (seed >> 32);
        if debug {
            wrong |= mrs!("dbgbvr0_el1") ^ breakpoint;
            wrong |= mrs!("dbgclaimclr_el1") ^ tags;
            wrong |= mrs!("mdccint_el1") ^ dcc;
        }
        if wrong != 0 {
            break;
        }
    }
    check::equal("twin.state", wrong, 0);
    check::that("twin.rounds", rounds > 10, rounds);
    check::summary();
}
