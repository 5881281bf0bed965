//! FP/SIMD, debug and PMU state: usable or undefined, and never that of another.

use payload::rt::{check, cpu, fault, psci, time};
use payload::{mrs, msr};

use super::Machine;

pub(crate) fn run(machine: Machine) {
    fp_trap();
    fp_survives(machine);
    debug();
    pmu();
    thread_registers();
}

/// CPACR_EL1 of the guest decides: FP is trapped to EL1 when the guest says so.
fn fp_trap() {
    msr!("cpacr_el1", 0);
    let fault = fault::probe(|| {
        // SAFETY: reads an FP register into a general one.
        unsafe {
            core::arch::asm!(".arch_extension fp", "fmov {0}, d0", out(reg) _, options(nostack))
        };
    });
    check::that(
        "fp.cpacr-traps",
        fault.is_some_and(|f| f.class() == 0x07),
        fault,
    );
    msr!("cpacr_el1", 3 << 20);
}

/// Fills V0 to V31 from a seed, or compares them with it: the sum of differences.
fn fill(seed: u64) {
    // SAFETY: this target's Rust code does not use FP registers.
    unsafe {
        core::arch::asm!(
            ".arch_extension fp", ".arch_extension simd",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "add {t}, {s}, #\\n",
            "dup v\\n\\().2d, {t}",
            ".endr",
            "msr fpcr, {f}",
            s = in(reg) seed, t = out(reg) _, f = in(reg) (seed & 3) << 22,
            options(nostack)
        );
    }
}

fn differences(seed: u64) -> u64 {
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
            "mrs {t}, fpcr", "eor {t}, {t}, {f}", "orr {sum}, {sum}, {t}",
            s = in(reg) seed, t = out(reg) _, u = out(reg) _, sum = inout(reg) sum,
            f = in(reg) (seed & 3) << 22,
            options(nostack)
        );
    }
    sum
}

/// Works with its own pattern through exits of every kind.
fn pattern(seed: u64) -> u64 {
    msr!("cpacr_el1", 3 << 20);
    fill(seed);
    let mut wrong = 0;
    for _ in 0..50 {
        psci::hvc(psci::VERSION, [0; 3]);
        time::delay(50);
        let _ = payload::rt::io::read32(payload::rt::layout::GICD + 4);
        wrong |= differences(seed);
    }
    wrong
}

fn fp_survives(machine: Machine) {
    for index in 1..machine.vcpus {
        if cpu::start(index) {
            cpu::give(index, pattern, 0x1111_0000 * index as u64 + index as u64);
        }
    }
    check::equal("fp.survives", pattern(0x5555_0002), 0);
    for index in 1..machine.vcpus {
        let wrong = cpu::finish(index, 5_000_000);
        check::that("fp.survives.other", wrong == Some(0), (index, wrong));
        cpu::give(index, cpu::off, 0);
        time::wait_for(1_000_000, || {
            psci::hvc(psci::AFFINITY_INFO, [index as u64, 0, 0]) == 1
        });
    }
}

/// Debug registers keep what is written or are undefined.
fn debug() {
    let fault = fault::probe(|| {
        msr!("mdscr_el1", mrs!("mdscr_el1"));
        msr!("oslar_el1", 0);
    });
    check::that("debug.mdscr", fault.is_none_or(|f| f.is_undefined()), fault);
    let fault = fault::probe(|| {
        msr!("dbgbvr0_el1", 0x1234_5670);
        let read = mrs!("dbgbvr0_el1");
        check::that(
            "debug.dbgbvr0",
            read == 0x1234_5670 || read == 0 || read == u64::MAX,
            read,
        );
        msr!("dbgbvr0_el1", 0);
    });
    check::that(
        "debug.breakpoint",
        fault.is_none_or(|f| f.is_undefined()),
        fault,
    );
    let fault = fault::probe(|| fault::discard(mrs!("mdrar_el1")));
    check::that("debug.mdrar", fault.is_none_or(|f| f.is_undefined()), fault);
}

fn pmu() {
    let fault = fault::probe(|| {
        let control = mrs!("pmcr_el0");
        msr!("pmcr_el0", control & !1);
        let _ = mrs!("pmccntr_el0");
        let _ = mrs!("pmceid0_el0");
        msr!("pmcntenclr_el0", 0xffff_ffff);
        msr!("pmintenclr_el1", 0xffff_ffff);
        msr!("pmovsclr_el0", 0xffff_ffff);
        msr!("pmuserenr_el0", 0);
    });
    check::that(
        "pmu.registers",
        fault.is_none_or(|f| f.is_undefined()),
        fault,
    );
}

fn thread_registers() {
    msr!("tpidr_el0", 0x1122_3344_5566_7788);
    msr!("tpidrro_el0", 0x99aa_bbcc_ddee_ff00);
    msr!("contextidr_el1", 0x1234);
    time::delay(3000);
    check::equal("thread.tpidr", mrs!("tpidr_el0"), 0x1122_3344_5566_7788);
    check::equal("thread.tpidrro", mrs!("tpidrro_el0"), 0x99aa_bbcc_ddee_ff00);
    check::equal("thread.contextidr", mrs!("contextidr_el1"), 0x1234);
}
