//! The virtual timer: fires, is masked, is level, wakes.

use payload::rt::gic::{self, Bits};
use payload::rt::layout::VTIMER_INTID;
use payload::rt::{check, fault, sysreg, time};
use payload::{mrs, msr};

use super::Machine;

pub(crate) fn run(machine: Machine) {
    check::that(
        "timer.frequency",
        mrs!("cntfrq_el0") >= 1_000_000,
        mrs!("cntfrq_el0"),
    );
    let before = time::now();
    time::delay(100);
    check::that("timer.counts", time::now() > before, ());
    gic::enable(VTIMER_INTID, 0xa0);
    fires();
    masked(machine);
    level(machine);
    wakes();
    repeated();
    gic::reset(VTIMER_INTID);
    physical();
}

fn fires() {
    gic::clear_log(0);
    let start = time::now();
    let wanted = time::ticks(1000);
    time::arm(wanted);
    check::that(
        "timer.fires",
        time::wait_for(500_000, || gic::taken(0) == 1),
        gic::taken(0),
    );
    check::that(
        "timer.not-early",
        time::now() - start >= wanted,
        time::now() - start,
    );
    check::equal("timer.intid", gic::intid(gic::logged(0, 0)), VTIMER_INTID);
    check::that(
        "timer.status",
        mrs!("cntv_ctl_el0") & time::STATUS != 0,
        mrs!("cntv_ctl_el0"),
    );
    time::disarm();
    // Far enough off for a board that stands still for a while.
    msr!("cntv_tval_el0", time::ticks(5_000_000));
    let left = mrs!("cntv_tval_el0") as i32;
    check::that(
        "timer.tval",
        left > 0 && left as u64 <= time::ticks(5_000_000),
        left,
    );
}

/// IMASK and a disabled timer raise nothing; ISTATUS shows the condition behind IMASK.
fn masked(machine: Machine) {
    gic::clear_log(0);
    msr!("cntv_cval_el0", time::now());
    msr!("cntv_ctl_el0", time::ENABLE | time::MASK);
    time::delay(300);
    check::equal("timer.imask.held", gic::taken(0), 0);
    check::that(
        "timer.imask.status",
        mrs!("cntv_ctl_el0") & time::STATUS != 0,
        (),
    );
    msr!("cntv_ctl_el0", 0);
    time::delay(300);
    check::equal("timer.disabled.held", gic::taken(0), 0);
    sysreg::irq_off();
    time::arm(0);
    let pended = time::wait_for(100_000, || gic::test(Bits::SetPending, VTIMER_INTID));
    check::that("timer.pending", pended, ());
    msr!("cntv_cval_el0", u64::MAX >> 1);
    let gone = time::wait_for(100_000, || payload::mrs!("isr_el1") & 0x80 == 0);
    sysreg::irq_on();
    time::delay(300);
    let count = gic::taken(0);
    // A hypervisor has the interrupt in a list register by now, linked to the physical one, and may
    // deliver it once more; the timer's handler then finds no condition (as on KVM).
    let good = if machine.hypervised {
        count <= 1
    } else {
        gone && count == 0
    };
    check::that("timer.withdrawn_quirk", good, (gone, count));
    time::disarm();
}

/// Without IMASK in the handler the interrupt comes again as long as the condition holds.
fn level(machine: Machine) {
    fn again(acknowledged: u32) {
        if gic::taken(0) < 5 {
            msr!("cntv_ctl_el0", time::ENABLE);
        } else {
            msr!("cntv_ctl_el0", 0);
        }
        gic::end(acknowledged);
    }
    gic::clear_log(0);
    gic::set_hook(Some(again));
    time::arm(0);
    let came = time::wait_for(500_000, || {
        if machine.hypervised && machine.gic == gic::Version::V2 {
            // QEMU 10.0 (arm_gic.c, gic_clear_active) deactivates the physical interrupt of a list
            // register without looking at its line again: the line has to fall and rise.
            sysreg::irq_off();
            if mrs!("cntv_ctl_el0") != 0 {
                msr!("cntv_ctl_el0", time::ENABLE | time::MASK);
                msr!("cntv_ctl_el0", time::ENABLE);
            }
            sysreg::irq_on();
        }
        gic::taken(0) >= 5
    });
    time::delay(300);
    check::that("timer.level", came && gic::taken(0) == 5, gic::taken(0));
    gic::set_hook(None);
    time::disarm();
}

/// WFI ends with the timer, interrupts masked or not.
fn wakes() {
    /// Another one after it: if the first came just before WFI, nothing else would end that.
    fn once_more(acknowledged: u32) {
        if gic::taken(0) == 1 {
            time::arm(time::ticks(1500));
        }
        gic::end(acknowledged);
    }
    for masked in [true, false] {
        gic::clear_log(0);
        gic::set_hook((!masked).then_some(once_more));
        if masked {
            sysreg::irq_off();
        }
        time::arm(time::ticks(1500));
        let start = time::now();
        while time::now() - start < time::ticks(1500) {
            payload::insn!("wfi");
        }
        sysreg::irq_on();
        let came = time::wait_for(100_000, || gic::taken(0) >= 1);
        check::that("timer.wfi", came, (masked, gic::taken(0)));
        time::disarm();
    }
    gic::set_hook(None);
}

/// A thousand short periods lose nothing.
fn repeated() {
    let mut lost = 0;
    for _ in 0..1000 {
        gic::clear_log(0);
        time::arm(time::ticks(20));
        if !time::wait_for(500_000, || gic::taken(0) == 1) {
            lost += 1;
        }
    }
    time::disarm();
    check::equal("timer.thousand", lost, 0);
}

/// The physical timer works or is undefined.
fn physical() {
    let fault = fault::probe(|| {
        msr!("cntp_ctl_el0", 0);
        let _ = mrs!("cntp_ctl_el0");
        let _ = mrs!("cntp_cval_el0");
    });
    check::that(
        "timer.physical",
        fault.is_none_or(|f| f.is_undefined()),
        fault,
    );
    let fault = fault::probe(|| {
        let _ = mrs!("cntpct_el0");
    });
    check::that(
        "timer.physical-counter",
        fault.is_none_or(|f| f.is_undefined()),
        fault,
    );
    if fault::probe(|| fault::discard(mrs!("cntp_ctl_el0"))).is_none() {
        gic::clear_log(0);
        gic::set_hook(Some(|acknowledged| {
            msr!("cntp_ctl_el0", 0);
            gic::end(acknowledged);
        }));
        gic::enable(30, 0xa0);
        msr!("cntp_tval_el0", time::ticks(500));
        msr!("cntp_ctl_el0", 1);
        let came = time::wait_for(500_000, || gic::taken(0) == 1);
        check::that("timer.physical.fires", came, gic::taken(0));
        msr!("cntp_ctl_el0", 0);
        gic::set_hook(None);
        gic::reset(30);
    }
}
