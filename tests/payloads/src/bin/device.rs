//! A guest with a device of the board: the PL031 real-time clock, through two lives.
//!
//! The clock's counter tells the lives apart: the first one sets it back, leaves the clock's interrupt
//! asserted and asks to be started again. The second one must get that interrupt.
#![no_std]
#![no_main]

use payload::println;
use payload::rt::fault::{self, class};
use payload::rt::gic::{self, Bits, Version};
use payload::rt::layout::EXEC_ALIAS;
use payload::rt::{check, io, psci, sysreg, time};

payload::entry!(main);

/// The PL031 of QEMU `virt` (Arm DDI 0224 C, "Programmer's Model").
const RTC: usize = 0x0901_0000;
const DR: usize = RTC;
const MR: usize = RTC + 0x4;
const LR: usize = RTC + 0x8;
const IMSC: usize = RTC + 0x10;
const RIS: usize = RTC + 0x14;
const ICR: usize = RTC + 0x1c;
const INTID: u32 = 34;
/// A device of the board that the guest was not given.
const FW_CFG: usize = 0x0902_0000;
/// What the first life sets the counter to; no real time is near.
const SECOND_LIFE: u32 = 1000;

/// Asserts the interrupt: the counter is what it is compared with.
fn assert_line() {
    io::write32(IMSC, 1);
    io::write32(MR, io::read32(DR));
}

fn silence() {
    io::write32(ICR, 1);
    io::write32(IMSC, 0);
}

fn once(acknowledged: u32) {
    silence();
    gic::end(acknowledged);
}

/// Leaves the line high until the third interrupt.
fn stubborn(acknowledged: u32) {
    if gic::taken(0) >= 3 {
        silence();
    }
    gic::end(acknowledged);
}

/// Each time the line rises there is one interrupt.
fn edges(name: &str, rounds: u32) {
    gic::set_hook(Some(once));
    for round in 1..=rounds {
        assert_line();
        let came = time::wait_for(300_000, || gic::taken(0) >= round);
        check::that(name, came && gic::taken(0) == round, gic::taken(0));
        check::equal(name, gic::logged(0, round as usize - 1), INTID);
    }
}

/// The device's page is there, never executable, and ends where it ends.
fn page() {
    check::equal("device.id", io::read32(RTC + 0xfe0) & 0xff, 0x31);
    let before = io::read32(DR);
    let ran = time::wait_for(2_500_000, || io::read32(DR) != before);
    check::that("device.counts", ran, before);
    let fault = fault::probe(|| call(RTC + EXEC_ALIAS));
    let fetched = fault.is_some_and(|fault| fault.esr >> 26 == class::FETCH);
    check::that("device.never-executable", fetched, fault.map(|f| f.esr));
    let beside = fault::probe(|| fault::discard(io::read32(FW_CFG)));
    check::that("device.beside", beside.is_some(), ());
}

fn call(address: usize) {
    // SAFETY: the fetch fails and is recorded, or the check behind it fails.
    unsafe {
        core::arch::asm!("blr {0}", in(reg) address, clobber_abi("C"));
    }
}

fn interrupts() {
    edges("device.interrupt", 3);
    if gic::version() == Version::V3 {
        level();
    }
    masked();
}

/// A line that stays high interrupts again. Not asked of a GICv2: on QEMU's the second interrupt does not
/// come by itself after a list register's deactivation.
fn level() {
    gic::clear_log(0);
    gic::set_hook(Some(stubborn));
    assert_line();
    let came = time::wait_for(300_000, || gic::taken(0) >= 3);
    time::delay(300);
    check::that("device.level", came && gic::taken(0) == 3, gic::taken(0));
}

fn masked() {
    // Masked in the guest's controller, it waits there.
    gic::clear_log(0);
    gic::set_hook(Some(once));
    gic::set(Bits::ClearEnable, INTID);
    assert_line();
    time::delay(300);
    check::equal("device.masked", gic::taken(0), 0);
    check::that("device.pending", gic::test(Bits::SetPending, INTID), ());
    gic::set(Bits::SetEnable, INTID);
    let came = time::wait_for(300_000, || gic::taken(0) == 1);
    check::that("device.unmasked", came, gic::taken(0));
    // What is taken back by hand can come again.
    gic::clear_log(0);
    gic::set(Bits::ClearEnable, INTID);
    assert_line();
    time::delay(300);
    silence();
    gic::set(Bits::ClearPending, INTID);
    gic::set(Bits::SetEnable, INTID);
    time::delay(300);
    check::equal("device.taken-back", gic::taken(0), 0);
    edges("device.again", 2);
}

fn main() {
    sysreg::irq_on();
    gic::set_edge(INTID, false);
    gic::clear_log(0);
    let second = io::read32(DR) < SECOND_LIFE + 10_000;
    if second {
        println!("device: second life");
        check::equal("device.line-survives", io::read32(RIS), 1);
        gic::set_hook(Some(once));
        gic::enable(INTID, 0xa0);
        let came = time::wait_for(300_000, || gic::taken(0) == 1);
        check::that("device.interrupt-survives", came, gic::taken(0));
        gic::clear_log(0);
        edges("device.second-life", 3);
        check::summary();
        return;
    }
    silence();
    gic::enable(INTID, 0xa0);
    page();
    interrupts();
    gic::set(Bits::ClearEnable, INTID);
    io::write32(LR, SECOND_LIFE);
    assert_line();
    println!("device: first life over");
    psci::hvc(psci::SYSTEM_RESET, [0; 3]);
}
