//! What interrupts mean, on one vCPU: order, masks, states, more pending than list registers.

use core::sync::atomic::{AtomicU32, Ordering};

use payload::rt::gic::{self, Bits};
use payload::rt::{check, sysreg, time};

use super::{Machine, SETTLE_US};

pub(crate) fn run(_: Machine) {
    one_of_each();
    order();
    many_spis();
    masks();
    states();
    edge_and_level();
    preemption();
    split_eoi();
}

fn taken(n: u32) -> bool {
    time::wait_for(SETTLE_US, || gic::taken(0) >= n) && gic::taken(0) == n
}

fn logged(n: usize) -> u32 {
    gic::intid(gic::logged(0, n))
}

/// An SGI to itself, a PPI and an SPI made pending by software.
fn one_of_each() {
    for intid in [0, 7, 15, 20, 33 + 8, 63, 64, 95] {
        gic::clear_log(0);
        gic::enable(intid, 0xa0);
        gic::set_edge_if_allowed(intid);
        if intid < 16 {
            gic::send_sgi(intid, 1);
        } else {
            gic::set(Bits::SetPending, intid);
        }
        let good = taken(1) && logged(0) == intid;
        time::delay(50);
        check::that(
            "irq.one",
            good && gic::taken(0) == 1,
            (intid, gic::taken(0), logged(0)),
        );
        let left = gic::test(Bits::SetPending, intid) || gic::test(Bits::SetActive, intid);
        check::that("irq.one.inactive-after", !left, intid);
        gic::reset(intid);
    }
}

/// All 16 SGIs pending at once, with four list registers at most: each comes once, in the order of
/// priority, then of INTID.
fn order() {
    sysreg::irq_off();
    gic::clear_log(0);
    for sgi in 0..16 {
        gic::enable(sgi, if sgi % 2 == 0 { 0xc0 } else { 0x40 });
    }
    for sgi in (0..16).rev() {
        gic::send_sgi(sgi, 1);
    }
    sysreg::irq_on();
    check::that("irq.sgis.all", taken(16), gic::taken(0));
    let wanted = |n: usize| {
        if n < 8 {
            2 * n as u32 + 1
        } else {
            2 * (n as u32 - 8)
        }
    };
    let first_wrong = (0..16).find(|&n| logged(n) != wanted(n));
    check::that(
        "irq.sgis.order",
        first_wrong.is_none(),
        first_wrong.map(|n| (n, logged(n))),
    );
    for sgi in 0..16 {
        gic::reset(sgi);
    }
}

/// 32 SPIs pending at once, the highest priority last.
fn many_spis() {
    sysreg::irq_off();
    gic::clear_log(0);
    for n in 0..32 {
        gic::enable(64 + n, if n == 31 { 0x10 } else { 0x80 });
        gic::set_edge(64 + n, true);
        gic::set(Bits::SetPending, 64 + n);
    }
    check::equal("irq.spis.hppir", gic::highest_pending(), 95);
    sysreg::irq_on();
    check::that("irq.spis.all", taken(32), gic::taken(0));
    check::equal("irq.spis.highest-first", logged(0), 95);
    let first_wrong = (1..32).find(|&n| logged(n) != 63 + n as u32);
    check::that(
        "irq.spis.order",
        first_wrong.is_none(),
        first_wrong.map(|n| (n, logged(n))),
    );
    for n in 0..32 {
        gic::reset(64 + n);
    }
}

/// The priority mask, the enable bit, PSTATE.I and the distributor's switch each hold back.
fn masks() {
    gic::clear_log(0);
    gic::enable(3, 0xa0);
    gic::set_mask(0x80);
    gic::send_sgi(3, 1);
    time::delay(300);
    check::equal("irq.mask.held", gic::taken(0), 0);
    check::that("irq.mask.pending", gic::test(Bits::SetPending, 3), ());
    gic::set_mask(0xf8);
    check::that("irq.mask.lifted", taken(1), gic::taken(0));

    gic::clear_log(0);
    gic::set(Bits::ClearEnable, 41);
    gic::set_edge(41, true);
    gic::set(Bits::SetPending, 41);
    time::delay(300);
    check::equal("irq.disabled.held", gic::taken(0), 0);
    gic::enable(41, 0xa0);
    check::that("irq.disabled.then-enabled", taken(1), gic::taken(0));

    gic::clear_log(0);
    sysreg::irq_off();
    gic::set(Bits::SetPending, 41);
    check::that(
        "irq.isr",
        payload::mrs!("isr_el1") & 0x80 != 0,
        payload::mrs!("isr_el1"),
    );
    gic::set(Bits::ClearPending, 41);
    let still = !time::wait_for(1000, || payload::mrs!("isr_el1") & 0x80 == 0);
    check::that("irq.retracted", !still, payload::mrs!("isr_el1"));
    sysreg::irq_on();
    time::delay(300);
    check::equal("irq.retracted.none", gic::taken(0), 0);

    let control = payload::rt::io::read32(payload::rt::layout::GICD);
    payload::rt::io::write32(payload::rt::layout::GICD, control & !3);
    gic::set(Bits::SetPending, 41);
    time::delay(300);
    check::equal("irq.distributor-off.held", gic::taken(0), 0);
    payload::rt::io::write32(payload::rt::layout::GICD, control);
    check::that("irq.distributor-on", taken(1), gic::taken(0));
    gic::reset(41);
    gic::reset(3);
}

/// An active interrupt is not delivered again before it is deactivated.
fn states() {
    gic::clear_log(0);
    gic::enable(42, 0xa0);
    gic::set_edge(42, true);
    gic::set(Bits::SetActive, 42);
    gic::set(Bits::SetPending, 42);
    time::delay(300);
    check::equal("irq.active.held", gic::taken(0), 0);
    gic::set(Bits::ClearActive, 42);
    check::that("irq.active.cleared", taken(1), gic::taken(0));

    static SEEN: AtomicU32 = AtomicU32::new(0);
    fn look(acknowledged: u32) {
        let id = gic::intid(acknowledged);
        let active = gic::test(Bits::SetActive, id);
        let pending = gic::test(Bits::SetPending, id);
        gic::set(Bits::SetPending, id);
        let both = gic::test(Bits::SetActive, id) && gic::test(Bits::SetPending, id);
        SEEN.store(
            u32::from(active) | u32::from(pending) << 1 | u32::from(both) << 2,
            Ordering::SeqCst,
        );
        gic::set_hook(None);
        gic::end(acknowledged);
    }
    gic::clear_log(0);
    gic::set_hook(Some(look));
    gic::set(Bits::SetPending, 42);
    check::that("irq.pending-while-active", taken(2), gic::taken(0));
    check::equal("irq.states-in-handler", SEEN.load(Ordering::SeqCst), 0b101);
    gic::reset(42);
}

/// A software-pended interrupt comes once, whether configured as edge or as level.
fn edge_and_level() {
    for edge in [true, false] {
        gic::clear_log(0);
        gic::enable(44, 0xa0);
        gic::set_edge(44, edge);
        gic::set(Bits::SetPending, 44);
        let once = taken(1);
        time::delay(300);
        check::that(
            "irq.pended-once",
            once && gic::taken(0) == 1,
            (edge, gic::taken(0)),
        );
        gic::reset(44);
    }
}

/// A higher priority interrupts a handler, an equal or lower one waits.
fn preemption() {
    static TRACE: AtomicU32 = AtomicU32::new(0);
    fn note(digit: u32) {
        TRACE.store(TRACE.load(Ordering::SeqCst) << 4 | digit, Ordering::SeqCst);
    }
    fn handler(acknowledged: u32) {
        let id = gic::intid(acknowledged);
        let (elr, spsr) = (payload::mrs!("elr_el1"), payload::mrs!("spsr_el1"));
        note(id);
        if id == 3 {
            gic::send_sgi(4, 1);
            gic::send_sgi(5, 1);
            gic::send_sgi(2, 1);
            sysreg::irq_on();
            time::delay(500);
            sysreg::irq_off();
        }
        note(id);
        payload::msr!("elr_el1", elr);
        payload::msr!("spsr_el1", spsr);
        gic::end(acknowledged);
    }
    gic::clear_log(0);
    TRACE.store(0, Ordering::SeqCst);
    gic::enable(2, 0x20);
    gic::enable(3, 0x80);
    gic::enable(4, 0x80);
    gic::enable(5, 0xc0);
    gic::set_hook(Some(handler));
    gic::send_sgi(3, 1);
    let all = taken(4);
    time::delay(500);
    gic::set_hook(None);
    check::that("irq.preemption.all", all, gic::taken(0));
    check::equal(
        "irq.preemption.order",
        TRACE.load(Ordering::SeqCst),
        0x3223_4455,
    );
    check::equal(
        "irq.preemption.idle-priority",
        gic::running_priority(),
        0xff,
    );
    for sgi in 2..6 {
        gic::reset(sgi);
    }
}

/// Split EOI: after the drop others of any priority come, the same one only after deactivation.
fn split_eoi() {
    static HELD: AtomicU32 = AtomicU32::new(0);
    fn drop_only(acknowledged: u32) {
        HELD.store(acknowledged, Ordering::SeqCst);
        gic::end(acknowledged);
    }
    gic::set_split_eoi(true);
    gic::clear_log(0);
    gic::set_hook(Some(drop_only));
    gic::enable(43, 0xa0);
    gic::set_edge(43, true);
    gic::set(Bits::SetPending, 43);
    check::that("irq.split.first", taken(1), gic::taken(0));
    check::that("irq.split.active", gic::test(Bits::SetActive, 43), ());
    check::equal("irq.split.priority-dropped", gic::running_priority(), 0xff);
    gic::set(Bits::SetPending, 43);
    time::delay(300);
    check::equal("irq.split.held", gic::taken(0), 1);
    gic::deactivate(HELD.load(Ordering::SeqCst));
    check::that("irq.split.second", taken(2), gic::taken(0));
    gic::deactivate(HELD.load(Ordering::SeqCst));
    check::that("irq.split.inactive", !gic::test(Bits::SetActive, 43), ());
    gic::set_hook(None);
    gic::set_split_eoi(false);
    gic::reset(43);
}
