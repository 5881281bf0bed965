//! A small bare-metal guest to start one of your own from: a task with a period that measures how late it
//! wakes up, and says so every few seconds.
//!
//! It asks the virtual timer for an interrupt at each multiple of its period and waits in WFI. The
//! interrupt's handler reads the counter first: what lies between that and the time asked for is the
//! *lateness* of the wake-up, the guest's way through the vector included. Its command line:
//!
//! - `period_us=10000`: microseconds between two wake-ups
//! - `report_s=5`: seconds between two lines
//!
//! Under a schedule the guest has its core in its windows only. A task that is due outside them wakes up
//! when the next window begins, always late by the same. The guest sees that and moves its phase there,
//! once for each time it happens: with a period that is the frame's length it stays in its window.
#![no_std]
#![no_main]

mod lateness;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lateness::Lateness;
use payload::rt::{fdt, gic, layout, sysreg, time};
use payload::{insn, msr, println};

payload::entry!(main);

/// Counter value at which the task is due.
static DUE: AtomicU64 = AtomicU64::new(0);
/// Ticks that it woke up after that.
static LATE: AtomicU64 = AtomicU64::new(0);
/// Whether it has woken up.
static AWAKE: AtomicBool = AtomicBool::new(false);

/// The timer's interrupt. The runtime has masked the timer, so its level is low again.
fn woken(acknowledged: u32) {
    let late = time::now().saturating_sub(DUE.load(Ordering::Relaxed));
    LATE.store(late, Ordering::Relaxed);
    AWAKE.store(true, Ordering::Relaxed);
    gic::end(acknowledged);
}

/// Waits until the counter is at `due`; says how many ticks later that was noticed.
fn wait_until(due: u64) -> u64 {
    DUE.store(due, Ordering::Relaxed);
    AWAKE.store(false, Ordering::Relaxed);
    msr!("cntv_cval_el0", due);
    msr!("cntv_ctl_el0", time::ENABLE);
    loop {
        // With interrupts masked between the look and WFI none is missed: WFI ends when one is pending.
        sysreg::irq_off();
        if AWAKE.load(Ordering::Relaxed) {
            sysreg::irq_on();
            return LATE.load(Ordering::Relaxed);
        }
        insn!("wfi");
        sysreg::irq_on();
    }
}

fn main() {
    let period_us = fdt::number("period_us").unwrap_or(10_000).max(100);
    let report_s = fdt::number("report_s").unwrap_or(5).max(1);
    let period = time::ticks(period_us).max(1);
    println!("periodic: wakes up each {period_us} us, a line each {report_s} s");

    gic::set_hook(Some(woken));
    gic::enable(layout::VTIMER_INTID, 0xa0);
    let mut due = time::now() + period;
    let mut seen = Lateness::new();
    let mut report = time::now() + time::ticks(report_s * 1_000_000);
    loop {
        let late = wait_until(due);
        seen.note(late, period);
        // A wake-up that is late by whole periods has missed some.
        due += period * (1 + late / period);
        if time::now() < report {
            continue;
        }
        println!("periodic: {seen}");
        if let Some(ticks) = seen.out_of_phase(period) {
            due += ticks;
            println!(
                "periodic: always late: the core is another guest's then; from now on due {} us later",
                lateness::us(ticks)
            );
        }
        seen = Lateness::new();
        report += time::ticks(report_s * 1_000_000);
    }
}
