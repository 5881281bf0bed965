//! Events between markers, for the eventscope plugin: what each costs outside the guest.
//!
//! Each event of test `t` is run N times, between `HINT #(64 + t)` and `HINT #(96 + t)`. The test
//! numbers are those of the table in docs/performance.md. Markers are executed on vCPU 0, or on the
//! vCPU where the event ends. Arguments: `n=COUNT`; `role=partner` makes this guest the other one
//! of the test of switches, which only waits; `only-switch`, `only-calls` and
//! `only-starts` run that test alone; `drain_us=MICROSECONDS` is the pause before each test.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use payload::rt::gic::{self, Version};
use payload::rt::psci::{self, hvc, smc};
use payload::rt::{check, cpu, fault, fdt, io, layout, start, sysreg, time};
use payload::{insn, mrs, println};

payload::entry!(main);

/// Runs `event` between the markers of a test, `n` times, after letting the console drain.
macro_rules! measure {
    ($n:expr, $open:literal, $close:literal, $event:expr) => {{
        drain();
        for _ in 0..$n {
            insn!($open);
            $event;
            insn!($close);
        }
    }};
}

/// Lets the manager write what the guest has printed.
fn drain() {
    time::sleep(fdt::number("drain_us").unwrap_or(30_000));
}

fn main() {
    let n = fdt::number("n").unwrap_or(200);
    let hypervised = hvc(psci::SMCCC_VERSION, [0; 3]) != psci::NOT_SUPPORTED;
    println!(
        "events: gic {:?}, {} vcpus, n={n}",
        gic::version(),
        cpu::count()
    );
    sysreg::irq_on();
    if fdt::has_argument("role=partner") {
        return partner();
    }
    if fdt::has_argument("only-switch") {
        switches(n);
        println!("events: done");
        return;
    }
    if fdt::has_argument("only-calls") {
        calls(n, hypervised);
        println!("events: done");
        return;
    }
    if fdt::has_argument("only-starts") {
        starts(n, hypervised);
        println!("events: done");
        return;
    }
    calls(n, hypervised);
    registers(n);
    distributor(n);
    memory(n);
    timer(n);
    to_self(n);
    if cpu::count() > 1 {
        starts(n, hypervised);
        check::that("events.start", cpu::start(1), ());
        cpu::run(1, prepare_other, 0);
        to_other(n);
        to_waiting(n);
        ping_pong(n);
    }
    if hypervised && fdt::ram_end() - layout::RAM >= 192 << 20 {
        first_touch(n);
    }
    println!("events: done");
}

fn calls(n: u64, hypervised: bool) {
    measure!(n, "hint #64", "hint #96", core::hint::black_box(()));
    measure!(n, "hint #65", "hint #97", hvc(psci::SMCCC_VERSION, [0; 3]));
    measure!(n, "hint #66", "hint #98", hvc(0x8600_1234, [0; 3]));
    measure!(n, "hint #67", "hint #99", hvc(psci::VERSION, [0; 3]));
    if hypervised {
        measure!(n, "hint #82", "hint #114", smc(psci::VERSION, [0; 3]));
    }
}

fn registers(n: u64) {
    measure!(n, "hint #68", "hint #100", mrs!("actlr_el1"));
    measure!(n, "hint #69", "hint #101", mrs!("id_aa64pfr0_el1"));
    measure!(n, "hint #84", "hint #116", mrs!("mdscr_el1"));
    if fault::probe(|| fault::discard(mrs!("pmcr_el0"))).is_none() {
        measure!(n, "hint #85", "hint #117", mrs!("pmcr_el0"));
    }
    if gic::version() == Version::V3 {
        measure!(
            n,
            "hint #88",
            "hint #120",
            payload::msr!("icc_sgi1r_el1", 0)
        );
    }
}

fn distributor(n: u64) {
    measure!(
        n,
        "hint #70",
        "hint #102",
        fault::discard(io::read32(layout::GICD + 4))
    );
    measure!(
        n,
        "hint #71",
        "hint #103",
        io::write32(layout::GICD + 0x104, 0)
    );
}

/// An IPA with nothing behind it; the abort is taken by our own vectors.
fn memory(n: u64) {
    let hole = fdt::ram_end() + 0x10_0000;
    measure!(
        n,
        "hint #72",
        "hint #104",
        fault::probe(|| fault::discard(io::read32(hole)))
    );
}

/// The timer's interrupt is taken while the guest runs, then while it waits.
fn timer(n: u64) {
    drain();
    gic::enable(layout::VTIMER_INTID, 0xa0);
    for _ in 0..n {
        insn!("hint #73");
        gic::clear_log(0);
        time::arm(time::ticks(20));
        while gic::taken(0) == 0 {
            core::hint::spin_loop();
        }
        insn!("hint #105");
    }
    for _ in 0..n {
        insn!("hint #74");
        gic::clear_log(0);
        sysreg::irq_off();
        time::arm(time::ticks(20));
        insn!("wfi");
        sysreg::irq_on();
        while gic::taken(0) == 0 {
            insn!("yield");
        }
        insn!("hint #106");
    }
    time::disarm();
    gic::reset(layout::VTIMER_INTID);
}

fn to_self(n: u64) {
    gic::enable(1, 0xa0);
    measure!(n, "hint #75", "hint #107", {
        gic::clear_log(0);
        gic::send_sgi(1, 1);
        while gic::taken(0) == 0 {
            core::hint::spin_loop();
        }
    });
}

fn prepare_other(_: u64) -> u64 {
    gic::enable(1, 0xa0);
    0
}

/// The other vCPU spins: the window closes when it has taken the interrupt.
fn to_other(n: u64) {
    measure!(n, "hint #76", "hint #108", {
        gic::clear_log(1);
        gic::send_sgi(1, 2);
        while gic::taken(1) == 0 {
            insn!("yield");
        }
    });
}

static WAITING: AtomicU32 = AtomicU32::new(0);

/// Waits for an interrupt, again and again, until the count is reached.
fn wait_often(count: u64) -> u64 {
    for _ in 0..count {
        sysreg::irq_off();
        WAITING.store(1, Ordering::SeqCst);
        insn!("wfi");
        WAITING.store(0, Ordering::SeqCst);
        sysreg::irq_on();
        insn!("isb");
    }
    0
}

fn until_waiting() {
    while WAITING.load(Ordering::SeqCst) == 0 {
        insn!("yield");
    }
    time::delay(20);
}

fn to_waiting(n: u64) {
    cpu::give(1, wait_often, n);
    until_waiting();
    drain();
    for _ in 0..n {
        until_waiting();
        gic::clear_log(1);
        insn!("hint #77");
        gic::send_sgi(1, 2);
        while gic::taken(1) == 0 {
            insn!("yield");
        }
        insn!("hint #109");
    }
    cpu::finish(1, 1_000_000);
}

fn answer_often(count: u64) -> u64 {
    for _ in 0..count {
        sysreg::irq_off();
        WAITING.store(1, Ordering::SeqCst);
        insn!("wfi");
        WAITING.store(0, Ordering::SeqCst);
        sysreg::irq_on();
        insn!("isb");
        gic::send_sgi(1, 1);
    }
    0
}

/// Both wait: an SGI there and one back.
fn ping_pong(n: u64) {
    cpu::give(1, answer_often, n);
    for _ in 0..n {
        until_waiting();
        gic::clear_log(0);
        insn!("hint #87");
        sysreg::irq_off();
        gic::send_sgi(1, 2);
        insn!("wfi");
        sysreg::irq_on();
        while gic::taken(0) == 0 {
            insn!("yield");
        }
        insn!("hint #119");
    }
    cpu::finish(1, 1_000_000);
}

/// CPU_ON until the vCPU runs (its first instruction closes the window), then off again.
fn starts(n: u64, hypervised: bool) {
    let count = if hypervised { n.min(200) } else { n.min(10) };
    drain();
    for _ in 0..count {
        insn!("hint #86");
        if !cpu::start(1) {
            println!("events: vCPU 1 did not start");
            return;
        }
        cpu::give(1, cpu::off, 0);
        time::wait_for(1_000_000, || hvc(psci::AFFINITY_INFO, [1, 0, 0]) == 1);
        // It is off before EL2 has done with it: that is not to fall into the next window.
        time::delay(20);
    }
    let _ = start::secondary_entry();
}

/// The first touch of pages that a thin guest has not used: pages of 2 MiB of which one page is mapped, then one page in each
/// 2 MiB, so that neither a table nor a block exists.
fn first_touch(n: u64) {
    /// Pages of 2 MiB that are touched one by one: with the sixteenth EL2 makes one block of all.
    const PAGES: usize = 14;
    let block = 2 << 20;
    let top = (fdt::ram_end() - 64 * block) & !(block - 1);
    for index in 0..n as usize {
        let at = top + (40 + index / PAGES) * block;
        if index % PAGES == 0 {
            // Makes the table and takes the frame from the stock; it is not counted.
            io::write32(at, 1);
            drain();
        }
        insn!("hint #78");
        io::write32(at + (1 + index % PAGES) * 4096, 1);
        insn!("hint #110");
    }
    drain();
    for index in 1..n.min(40) as usize {
        insn!("hint #80");
        io::write32(top + index * block, 1);
        insn!("hint #112");
        time::sleep(fdt::number("drain_us").unwrap_or(5_000));
    }
}

/// Two guests on one core, each waiting for a timer that the other's run makes late: a window holds
/// the switch away (WFI), the partner's turn, and the switch back.
fn switches(n: u64) {
    time::sleep(20_000);
    gic::enable(layout::VTIMER_INTID, 0xa0);
    for _ in 0..n {
        insn!("hint #79");
        gic::clear_log(0);
        sysreg::irq_off();
        time::arm(time::ticks(50));
        insn!("wfi");
        sysreg::irq_on();
        while gic::taken(0) == 0 {
            insn!("yield");
        }
        insn!("hint #111");
    }
    time::disarm();
}

/// Always ready to run for half a second; it gives way when the other's timer fires.
fn partner() {
    println!("events: partner ready");
    let end = time::now() + time::ticks(500_000);
    while time::now() < end {
        core::hint::spin_loop();
    }
}
