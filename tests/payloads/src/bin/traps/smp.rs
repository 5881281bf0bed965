//! Interrupts between vCPUs: targets, broadcast, storms, routing, vCPUs that wait.

use core::sync::atomic::{AtomicU32, Ordering};

use payload::rt::gic::{self, Bits, Version};
use payload::rt::{check, cpu, gicv2, gicv3, io, sysreg, time};

use super::{Machine, SETTLE_US};

pub(crate) fn run(machine: Machine) {
    if machine.vcpus < 2 {
        return;
    }
    for index in 1..machine.vcpus {
        if !cpu::idle(index) || cpu::affinity(index) == u64::MAX || !is_on(index) {
            check::that("smp.start", cpu::start(index), index);
        }
        cpu::run(index, enable_sgis, 0);
    }
    enable_sgis(0);
    targets(machine);
    broadcast(machine);
    waiting();
    storm(machine);
    routed(machine);
    if machine.gic == Version::V2 {
        sources();
    }
    concurrent_state(machine);
    for index in 1..machine.vcpus {
        cpu::give(index, cpu::off, 0);
        check::that(
            "smp.stop",
            time::wait_for(2_000_000, || !is_on(index)),
            index,
        );
    }
    for sgi in 0..16 {
        gic::reset(sgi);
    }
}

fn is_on(index: usize) -> bool {
    use payload::rt::psci;
    psci::hvc(psci::AFFINITY_INFO, [index as u64, 0, 0]) == 0
}

fn enable_sgis(_: u64) -> u64 {
    for sgi in 0..16 {
        gic::enable(sgi, 0xa0);
    }
    0
}

fn clear(machine: Machine) {
    for index in 0..machine.vcpus {
        gic::clear_log(index);
    }
}

/// Each vCPU alone, and none of the others.
fn targets(machine: Machine) {
    for target in 0..machine.vcpus {
        clear(machine);
        gic::send_sgi(6, 1 << target);
        let came = time::wait_for(SETTLE_US, || gic::taken(target) == 1);
        time::delay(100);
        let others = (0..machine.vcpus)
            .filter(|&i| i != target && gic::taken(i) != 0)
            .count();
        check::that(
            "smp.sgi.target",
            came && others == 0,
            (target, came, others),
        );
    }
    clear(machine);
    let all = (1 << machine.vcpus) - 1;
    gic::send_sgi(8, all);
    let came = time::wait_for(SETTLE_US, || (0..machine.vcpus).all(|i| gic::taken(i) == 1));
    check::that("smp.sgi.list", came, ());
    clear(machine);
    gic::send_sgi(8, 0);
    gic::send_sgi(8, 1 << 15 & !all & 0xff00);
    time::delay(300);
    let any = (0..machine.vcpus).any(|i| gic::taken(i) != 0);
    check::that("smp.sgi.none", !any, ());
}

/// To all but self, and GICv2's filter for self.
fn broadcast(machine: Machine) {
    clear(machine);
    io::barrier();
    match machine.gic {
        Version::V2 => io::write32(gicv2::GICD_SGIR, 1 << 24 | 9),
        Version::V3 => gicv3::write_sgi1r(1 << 40 | 9 << 24),
    }
    let came = time::wait_for(SETTLE_US, || (1..machine.vcpus).all(|i| gic::taken(i) == 1));
    time::delay(100);
    check::that(
        "smp.sgi.broadcast",
        came && gic::taken(0) == 0,
        (came, gic::taken(0)),
    );
    if machine.gic == Version::V2 {
        clear(machine);
        io::write32(gicv2::GICD_SGIR, 2 << 24 | 9);
        let came = time::wait_for(SETTLE_US, || gic::taken(0) == 1);
        check::that(
            "smp.sgi.self-filter",
            came && gic::taken(1) == 0,
            gic::taken(0),
        );
    } else {
        // Affinities that nobody has.
        clear(machine);
        for value in [1_u64 << 16 | 1, 1 << 32 | 1, 1 << 48 | 1] {
            gicv3::write_sgi1r(value | 9 << 24);
        }
        time::delay(300);
        let any = (0..machine.vcpus).any(|i| gic::taken(i) != 0);
        check::that("smp.sgi.absent-affinity", !any, ());
    }
}

static ASLEEP: AtomicU32 = AtomicU32::new(0);

fn sleep_until_irq(_: u64) -> u64 {
    sysreg::irq_off();
    let before = gic::taken(cpu::index());
    ASLEEP.store(1, Ordering::SeqCst);
    payload::insn!("wfi");
    sysreg::irq_on();
    let end = time::now() + time::ticks(SETTLE_US);
    while gic::taken(cpu::index()) == before && time::now() < end {
        payload::insn!("yield");
    }
    // On a starved board vCPU 0 may have given up and cleared the log meanwhile: none taken, then.
    u64::from(gic::taken(cpu::index()).saturating_sub(before))
}

/// A hundred wake-ups of a vCPU in WFI, interrupts masked there: none is lost.
fn waiting() {
    let mut lost = 0;
    for round in 0..100 {
        gic::clear_log(1);
        ASLEEP.store(0, Ordering::SeqCst);
        cpu::give(1, sleep_until_irq, 0);
        let asleep = time::wait_for(SETTLE_US, || ASLEEP.load(Ordering::SeqCst) == 1);
        time::delay(round % 7 * 10);
        gic::send_sgi(3, 2);
        if !asleep || cpu::finish(1, 2 * SETTLE_US) != Some(1) {
            lost += 1;
        }
    }
    check::equal("smp.wfi.woken", lost, 0);
}

fn send_many(count: u64) -> u64 {
    for n in 0..count {
        gic::send_sgi((n % 16) as u32, VCPUS.load(Ordering::SeqCst));
    }
    count
}

static VCPUS: AtomicU32 = AtomicU32::new(0);

/// All vCPUs send all SGIs to all at once; afterwards nothing is pending and each still hears.
fn storm(machine: Machine) {
    VCPUS.store((1 << machine.vcpus) - 1, Ordering::SeqCst);
    clear(machine);
    for index in 1..machine.vcpus {
        cpu::give(index, send_many, 2000);
    }
    send_many(2000);
    let done = (1..machine.vcpus).all(|i| cpu::finish(i, 20_000_000) == Some(2000));
    check::that("smp.storm.sent", done, ());
    // However long it takes: a vCPU may not have run for a while.
    for index in 1..machine.vcpus {
        cpu::give(index, quiet, 0);
        let done = cpu::finish(index, 8_000_000) == Some(1);
        check::that("smp.storm.quiet", done, index);
    }
    check::that("smp.storm.quiet", quiet(0) == 1, 0);
    for index in 0..machine.vcpus {
        check::that(
            "smp.storm.heard",
            gic::taken(index) >= 16,
            (index, gic::taken(index)),
        );
    }
    clear(machine);
    for index in 0..machine.vcpus {
        gic::send_sgi(1, 1 << index);
        let came = time::wait_for(SETTLE_US, || gic::taken(index) == 1);
        check::that("smp.storm.alive", came, (index, gic::taken(index)));
    }
}

/// Waits until no SGI is pending for this vCPU any more; 0 if that does not come.
fn quiet(_: u64) -> u64 {
    let none = || (0..16).all(|sgi| !gic::test(Bits::SetPending, sgi));
    u64::from(time::wait_for(5_000_000, none))
}

/// An SPI goes where its route says, follows a change, and stays put without a target.
fn routed(machine: Machine) {
    gic::enable(70, 0xa0);
    gic::set_edge(70, true);
    for index in (0..machine.vcpus).rev() {
        clear(machine);
        gic::route(70, index);
        gic::set(Bits::SetPending, 70);
        let came = time::wait_for(SETTLE_US, || gic::taken(index) == 1);
        let others = (0..machine.vcpus)
            .filter(|&i| i != index && gic::taken(i) != 0)
            .count();
        check::that("smp.spi.route", came && others == 0, (index, came, others));
    }
    clear(machine);
    match machine.gic {
        Version::V2 => {
            io::write8(gicv2::GICD_ITARGETSR + 70, 0);
            gic::set(Bits::SetPending, 70);
            time::delay(300);
            let any = (0..machine.vcpus).any(|i| gic::taken(i) != 0);
            check::that("smp.spi.no-target", !any, ());
            gic::route(70, 1);
            let came = time::wait_for(SETTLE_US, || gic::taken(1) == 1);
            // QEMU's own distributor fixes the target when the interrupt becomes pending.
            check::that("smp.spi.target-given", came || !machine.hypervised, ());
        }
        Version::V3 => {
            io::write64(gicv3::GICD_IROUTER + 70 * 8, 1 << 31);
            gic::set(Bits::SetPending, 70);
            let sum = || (0..machine.vcpus).map(gic::taken).sum::<u32>();
            let came = time::wait_for(SETTLE_US, || sum() == 1);
            check::that("smp.spi.one-of-n", came, sum());
        }
    }
    gic::route(70, 0);
    gic::reset(70);
}

/// GICv2 keeps the same SGI of two senders apart.
fn sources() {
    fn send(_: u64) -> u64 {
        gic::send_sgi(11, 1);
        0
    }
    sysreg::irq_off();
    gic::clear_log(0);
    cpu::run(1, send, 0);
    gic::send_sgi(11, 1);
    let pending = io::read8(gicv2::GICD_SPENDSGIR + 11);
    check::equal("smp.sgi.sources", pending, 0b11);
    sysreg::irq_on();
    let came = time::wait_for(SETTLE_US, || gic::taken(0) == 2);
    check::that("smp.sgi.each-source", came, gic::taken(0));
    let senders = (gic::logged(0, 0) >> 10 & 7) + (gic::logged(0, 1) >> 10 & 7);
    check::equal("smp.sgi.source-in-iar", senders, 1);
}

/// One vCPU toggles an SPI's state while its target takes it.
fn concurrent_state(machine: Machine) {
    fn toggle(count: u64) -> u64 {
        for _ in 0..count {
            gic::set(Bits::SetPending, 71);
            gic::set(Bits::ClearEnable, 71);
            gic::set(Bits::ClearPending, 71);
            gic::set(Bits::SetEnable, 71);
        }
        count
    }
    gic::enable(71, 0xa0);
    gic::set_edge(71, true);
    clear(machine);
    cpu::give(1, toggle, 500);
    let done = cpu::finish(1, 10_000_000);
    check::that("smp.toggle", done == Some(500), done);
    gic::clear_log(0);
    gic::set(Bits::ClearActive, 71);
    gic::set(Bits::SetPending, 71);
    check::that(
        "smp.toggle.alive",
        time::wait_for(SETTLE_US, || gic::taken(0) >= 1),
        (),
    );
    gic::reset(71);
}
