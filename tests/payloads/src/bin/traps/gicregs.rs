//! Every register of the interrupt controller, each width, and what must read as zero.

use payload::rt::gic::{self, Bits, Version};
use payload::rt::{check, fault, gicv2, gicv3, io, layout, sysreg, time};

use super::Machine;

pub(crate) fn run(machine: Machine) {
    identification(machine);
    bit_arrays(machine);
    priorities();
    configuration(machine);
    match machine.gic {
        Version::V2 => v2_only(machine),
        Version::V3 => v3_only(machine),
    }
    sweep(machine);
}

fn identification(machine: Machine) {
    let typer = io::read32(layout::GICD + 4);
    check::that("gicd.typer.lines", (typer & 0x1f) >= 1, typer);
    let pidr2 = match machine.gic {
        Version::V2 => io::read32(layout::GICD + 0xfe8),
        Version::V3 => io::read32(layout::GICD + 0xffe8),
    };
    let revision = pidr2 >> 4 & 0xf;
    check::equal(
        "gicd.pidr2.revision",
        revision,
        if machine.gic == Version::V2 { 2 } else { 3 },
    );
    if machine.gic == Version::V2 {
        check::equal(
            "gicd.typer.cpus",
            (typer >> 5 & 7) + 1,
            machine.vcpus as u32,
        );
    }
    let before = io::read32(layout::GICD + 4);
    io::write32(layout::GICD + 4, !before);
    check::equal("gicd.typer.read-only", io::read32(layout::GICD + 4), before);
}

/// Set and clear registers of an SPI and a PPI: writing one acts, writing zero does nothing.
fn bit_arrays(machine: Machine) {
    sysreg::irq_off();
    for intid in [20, 45] {
        for (name, set, clear) in [
            ("gic.enable", Bits::SetEnable, Bits::ClearEnable),
            ("gic.pending", Bits::SetPending, Bits::ClearPending),
            ("gic.active", Bits::SetActive, Bits::ClearActive),
        ] {
            gic::reset(intid);
            if intid >= 32 {
                gic::route(intid, 0);
            }
            check::that(name, !gic::test(set, intid), (intid, "clear at first"));
            gic::set(set, intid);
            check::that(
                name,
                gic::test(set, intid) && gic::test(clear, intid),
                (intid, "set"),
            );
            io::write32(gic::word(set, intid), 0);
            io::write32(gic::word(clear, intid), 0);
            check::that(name, gic::test(set, intid), (intid, "zero changes nothing"));
            gic::set(clear, intid);
            check::that(name, !gic::test(set, intid), (intid, "cleared"));
        }
        gic::reset(intid);
    }
    // Bits of one word do not touch each other.
    io::write32(gic::word(Bits::SetEnable, 64), 0x8001_0003);
    let read = io::read32(gic::word(Bits::SetEnable, 64));
    check::equal("gic.enable.word", read, 0x8001_0003);
    io::write32(gic::word(Bits::ClearEnable, 64), 0x0001_0001);
    let read = io::read32(gic::word(Bits::ClearEnable, 64));
    check::equal("gic.enable.word-clear", read, 0x8000_0002);
    io::write32(gic::word(Bits::ClearEnable, 64), u32::MAX);
    if machine.gic == Version::V3 {
        io::write32(gic::word(Bits::SetEnable, 0), 0xffff);
        check::equal(
            "gicr.sgi-enable",
            io::read32(gic::word(Bits::SetEnable, 0)) & 0xffff,
            0xffff,
        );
        io::write32(gic::word(Bits::ClearEnable, 0), 0xffff);
        check::equal(
            "gicr.sgi-disable",
            io::read32(gic::word(Bits::SetEnable, 0)) & 0xffff,
            0,
        );
        check::equal("gicd.isenabler0-raz", io::read32(layout::GICD + 0x100), 0);
    }
    sysreg::irq_on();
}

/// Priorities by byte and word; bits that are not implemented read as zero, alike everywhere.
fn priorities() {
    gic::set_priority(50, 0xff);
    let mask = io::read8(layout::GICD + 0x400 + 50);
    check::that("gic.priority.bits", mask & 0xf0 == 0xf0, mask);
    io::write32(layout::GICD + 0x400 + 52, 0x1020_40a0);
    check::equal(
        "gic.priority.word",
        io::read32(layout::GICD + 0x400 + 52),
        0x1020_40a0,
    );
    check::equal(
        "gic.priority.byte",
        io::read8(layout::GICD + 0x400 + 53),
        0x40,
    );
    gic::set_priority(53, 0x80);
    check::equal(
        "gic.priority.merge",
        io::read32(layout::GICD + 0x400 + 52),
        0x1020_80a0,
    );
    for intid in [3, 27] {
        gic::set_priority(intid, 0x60);
        let read = io::read8(gic::frame(intid) + 0x400 + intid as usize);
        check::equal("gic.priority.private", read, 0x60);
        gic::set_priority(intid, 0xa0);
    }
}

fn configuration(machine: Machine) {
    let sgis = io::read32(gic::frame(0) + 0xc00);
    check::equal("gic.icfgr0.sgis-edge", sgis & 0xaaaa_aaaa, 0xaaaa_aaaa);
    io::write32(gic::frame(0) + 0xc00, 0);
    let sgis = io::read32(gic::frame(0) + 0xc00);
    check::equal("gic.icfgr0.read-only", sgis & 0xaaaa_aaaa, 0xaaaa_aaaa);
    for edge in [true, false, true, false] {
        gic::set_edge(46, edge);
        let bit = io::read32(layout::GICD + 0xc00 + 8) >> (46 % 16 * 2 + 1) & 1;
        check::equal("gic.icfgr", bit, u32::from(edge));
    }
    if machine.gic == Version::V3 {
        check::equal("gicd.icfgr0-raz", io::read32(layout::GICD + 0xc00), 0);
    }
}

fn v2_only(machine: Machine) {
    let own = gicv2::own_target();
    // A machine with one CPU has ITARGETSR as zero.
    let wanted = if machine.vcpus == 1 { [0, 1] } else { [1, 1] };
    check::that("gicd.itargetsr0", wanted.contains(&own), own);
    io::write8(gicv2::GICD_ITARGETSR, 0xff);
    check::equal("gicd.itargetsr0.read-only", gicv2::own_target(), own);
    if machine.vcpus > 1 {
        io::write8(gicv2::GICD_ITARGETSR + 50, 0xff);
        let all = (1_u32 << machine.vcpus) - 1;
        let read = u32::from(io::read8(gicv2::GICD_ITARGETSR + 50));
        check::equal("gicd.itargetsr.mask", read & all, all);
        io::write32(gicv2::GICD_ITARGETSR + 48, 0x0102_0301);
        check::equal(
            "gicd.itargetsr.word",
            io::read32(gicv2::GICD_ITARGETSR + 48),
            0x0102_0301,
        );
    }
    sysreg::irq_off();
    io::write8(gicv2::GICD_SPENDSGIR + 9, 1);
    check::equal("gicd.spendsgir", io::read8(gicv2::GICD_SPENDSGIR + 9), 1);
    check::that("gicd.spendsgir.ispendr", gic::test(Bits::SetPending, 9), ());
    io::write8(gicv2::GICD_CPENDSGIR + 9, 1);
    check::equal("gicd.cpendsgir", io::read8(gicv2::GICD_SPENDSGIR + 9), 0);
    sysreg::irq_on();
    io::write32(gicv2::GICC_PMR, 0xff);
    let pmr = io::read32(gicv2::GICC_PMR);
    check::that("gicc.pmr", pmr & 0xf0 == 0xf0, pmr);
    gic::set_mask(0xf8);
    check::equal(
        "gicc.iar.spurious",
        io::read32(gicv2::GICC_IAR) & 0x3ff,
        1023,
    );
    check::equal(
        "gicc.hppir.spurious",
        io::read32(gicv2::GICC_HPPIR) & 0x3ff,
        1023,
    );
    check::equal("gicc.rpr.idle", gic::running_priority(), 0xff);
}

fn v3_only(machine: Machine) {
    let control = io::read32(layout::GICD);
    check::that(
        "gicd.ctlr.are",
        control & 0x10 != 0 && control & 2 != 0,
        control,
    );
    for index in 0..machine.vcpus {
        let typer = io::read64(gicv3::redistributor(index) + gicv3::GICR_TYPER);
        check::equal("gicr.typer.affinity", typer >> 32, index as u64);
        check::equal("gicr.typer.number", typer >> 8 & 0xffff, index as u64);
        let last = typer & gicv3::TYPER_LAST != 0;
        check::that(
            "gicr.typer.last",
            last == (index + 1 == machine.vcpus),
            typer,
        );
        let low = io::read32(gicv3::redistributor(index) + gicv3::GICR_TYPER);
        let high = io::read32(gicv3::redistributor(index) + gicv3::GICR_TYPER + 4);
        check::equal(
            "gicr.typer.halves",
            u64::from(high) << 32 | u64::from(low),
            typer,
        );
        let pidr2 = io::read32(gicv3::redistributor(index) + 0xffe8);
        check::equal("gicr.pidr2.revision", pidr2 >> 4 & 0xf, 3);
    }
    let waker = gicv3::redistributor(0) + gicv3::GICR_WAKER;
    check::equal("gicr.waker.awake", io::read32(waker) & 6, 0);
    let router = gicv3::GICD_IROUTER + 50 * 8;
    io::write64(router, 1);
    check::equal("gicd.irouter.64", io::read64(router), 1);
    io::write32(router, 0);
    io::write32(router + 4, 0);
    check::equal("gicd.irouter.32", io::read64(router), 0);
    check::equal(
        "gicd.itargetsr-raz",
        io::read32(layout::GICD + 0x800 + 48),
        0,
    );
    let mask = payload::mrs!("icc_pmr_el1");
    check::that("icc.pmr", mask & 0xf0 == 0xf0, mask);
    check::equal("icc.iar1.spurious", gicv3::acknowledge(), 1023);
    check::equal("icc.hppir1.spurious", gic::highest_pending(), 1023);
    check::equal("icc.rpr.idle", gic::running_priority(), 0xff);
    check::that(
        "icc.sre",
        payload::mrs!("icc_sre_el1") & 1 == 1,
        payload::mrs!("icc_sre_el1"),
    );
    for register in ["icc_ctlr_el1", "icc_bpr1_el1", "icc_igrpen1_el1"] {
        let fault = fault::probe(|| match register {
            "icc_ctlr_el1" => fault::discard(payload::mrs!("icc_ctlr_el1")),
            "icc_bpr1_el1" => fault::discard(payload::mrs!("icc_bpr1_el1")),
            _ => fault::discard(payload::mrs!("icc_igrpen1_el1")),
        });
        check::that(register, fault.is_none(), fault);
    }
}

/// The frames that this machine has.
fn frames(machine: Machine) -> impl Iterator<Item = (usize, usize)> {
    let distributor = if machine.gic == Version::V2 {
        0x1000
    } else {
        0x1_0000
    };
    let redistributors = if machine.gic == Version::V2 {
        0
    } else {
        machine.vcpus
    };
    core::iter::once((layout::GICD, distributor)).chain(
        (0..redistributors)
            .flat_map(|i| [gicv3::redistributor(i), gicv3::redistributor(i) + 0x1_0000])
            .map(|base| (base, 0x1_0000)),
    )
}

/// Reads, then writes zeros and ones to, every offset of every frame with every width. Nothing may
/// hang, and afterwards the controller works again.
fn sweep(machine: Machine) {
    sysreg::irq_off();
    let mut accesses = 0_u32;
    let mut aborts = 0_u32;
    let mut bad = None;
    let mut note = |at: usize, fault: Option<fault::Fault>, may_abort: bool| {
        accesses += 1;
        if let Some(fault) = fault {
            aborts += 1;
            if !may_abort || fault.class() != fault::class::DATA {
                bad = Some((at, fault));
            }
        }
    };
    for (base, bytes) in frames(machine) {
        for at in (base..base + bytes).step_by(8) {
            note(at, fault::probe(|| fault::discard(io::read32(at))), false);
            note(
                at + 4,
                fault::probe(|| fault::discard(io::read32(at + 4))),
                false,
            );
            note(at, fault::probe(|| fault::discard(io::read64(at))), true);
            note(
                at + 2,
                fault::probe(|| fault::discard(io::read16(at + 2))),
                true,
            );
            note(
                at + 5,
                fault::probe(|| fault::discard(io::read8(at + 5))),
                true,
            );
        }
    }
    for value in [0_u64, u64::MAX, 0x5555_5555_5555_5555] {
        for (base, bytes) in frames(machine) {
            for at in (base..base + bytes).step_by(8) {
                note(at, fault::probe(|| io::write32(at, value as u32)), false);
                note(
                    at + 4,
                    fault::probe(|| io::write32(at + 4, value as u32)),
                    false,
                );
                note(at, fault::probe(|| io::write64(at, value)), true);
                note(at, fault::probe(|| io::write16(at, value as u16)), true);
                note(
                    at + 1,
                    fault::probe(|| io::write8(at + 1, value as u8)),
                    true,
                );
            }
        }
        // Whatever that made pending is taken now; handlers end each.
        if value == u64::MAX {
            gic::clear_log(0);
            sysreg::irq_on();
            time::delay(2000);
            sysreg::irq_off();
        }
    }
    check::that("gic.sweep", bad.is_none(), bad);
    payload::println!("   gic.sweep: {accesses} accesses, {aborts} aborts");
    restore();
    sysreg::irq_on();
    gic::clear_log(0);
    gic::enable(5, 0xa0);
    gic::send_sgi(5, 1);
    check::that(
        "gic.sweep.alive",
        time::wait_for(100_000, || gic::taken(0) == 1),
        gic::taken(0),
    );
    gic::reset(5);
}

/// Puts the controller back to where the runtime left it.
pub(crate) fn restore() {
    for intid in (32..gic::lines()).step_by(32) {
        for bits in [Bits::ClearEnable, Bits::ClearPending, Bits::ClearActive] {
            io::write32(gic::word(bits, intid), u32::MAX);
        }
        for byte in (0..32).step_by(4) {
            io::write32(layout::GICD + 0x400 + intid as usize + byte, 0xa0a0_a0a0);
        }
        for half in [0, 4] {
            io::write32(layout::GICD + 0xc00 + intid as usize / 4 + half, 0);
        }
    }
    if gic::version() == Version::V2 {
        for intid in (0..gic::lines()).step_by(32) {
            io::write32(gic::word(Bits::Group, intid), 0);
        }
        for sgi in 0..16 {
            io::write8(gicv2::GICD_CPENDSGIR + sgi, 0xff);
        }
    }
    // GICv3.3: no interrupt is a non-maskable one (GICD_INMIR, GICR_INMIR0).
    if gic::version() == Version::V3 {
        for intid in (0..gic::lines()).step_by(32) {
            io::write32(gic::frame(intid) + 0xf80 + intid as usize / 8, 0);
        }
    }
    gic::init();
}
