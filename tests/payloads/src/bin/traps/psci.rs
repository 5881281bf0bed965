//! PSCI 1.1: every function, bad arguments, vCPUs on and off and suspended.

use payload::rt::psci::{self, hvc, narrow};
use payload::rt::{check, cpu, gic, layout, start, sysreg, time};

use super::Machine;

const SMC64: u32 = 0x4000_0000;
const CPU_ON_32: u32 = 0x8400_0003;
const AFFINITY_INFO_32: u32 = 0x8400_0004;
const CPU_SUSPEND_32: u32 = 0x8400_0001;

pub(crate) fn run(machine: Machine) {
    versions(machine);
    features(machine);
    affinity(machine);
    cpu_on_arguments(machine);
    if machine.hypervised {
        optional_functions();
    }
    suspend();
    if machine.vcpus > 1 {
        life_cycle(machine);
    }
}

fn versions(machine: Machine) {
    let version = hvc(psci::VERSION, [0; 3]);
    check::that(
        "psci.version",
        (0x1_0000..=0x1_0003).contains(&version),
        version,
    );
    if machine.hypervised {
        let upper = hvc_upper_bits(psci::VERSION);
        check::equal("psci.version.upper-x0-ignored", upper, version);
        check::equal(
            "psci.version.smc",
            psci::smc(psci::VERSION, [0; 3]),
            version,
        );
    }
    let kind = narrow(hvc(psci::MIGRATE_INFO_TYPE, [0; 3]));
    check::that(
        "psci.migrate-info-type",
        kind == 2 || kind == psci::NOT_SUPPORTED,
        kind,
    );
}

/// The identifier is in W0: the upper half of X0 does not count.
fn hvc_upper_bits(function: u32) -> u64 {
    let mut x0 = u64::from(function) | 0xdead_beef << 32;
    // SAFETY: a PSCI query; SMCCC keeps X18 to X30 and memory.
    unsafe {
        core::arch::asm!("hvc #0", inout("x0") x0, clobber_abi("C"), options(nostack));
    }
    x0
}

fn features(machine: Machine) {
    let query = |id: u32| narrow(hvc(psci::FEATURES, [u64::from(id), 0, 0]));
    for (name, id) in [
        ("psci.features.cpu-on", psci::CPU_ON),
        ("psci.features.cpu-off", psci::CPU_OFF),
        ("psci.features.affinity-info", psci::AFFINITY_INFO),
        ("psci.features.system-off", psci::SYSTEM_OFF),
        ("psci.features.system-reset", psci::SYSTEM_RESET),
        ("psci.features.features", psci::FEATURES),
        ("psci.features.version", psci::VERSION),
    ] {
        check::equal(name, query(id), 0);
    }
    check::equal(
        "psci.features.unknown",
        query(0x8400_00ff),
        psci::NOT_SUPPORTED,
    );
    check::equal(
        "psci.features.not-psci",
        query(0x1234_5678),
        psci::NOT_SUPPORTED,
    );
    if machine.hypervised {
        let suspend = query(psci::CPU_SUSPEND);
        check::that("psci.features.cpu-suspend", suspend <= 3, suspend);
    }
}

fn affinity(machine: Machine) {
    let info = |target: u64, level: u64| narrow(hvc(psci::AFFINITY_INFO, [target, level, 0]));
    check::equal("psci.affinity.self", info(0, 0), 0);
    if machine.vcpus > 1 {
        check::equal("psci.affinity.other-off", info(1, 0), 1);
    }
    check::equal(
        "psci.affinity.absent",
        info(machine.vcpus as u64, 0),
        psci::INVALID_PARAMETERS,
    );
    if machine.hypervised {
        for target in [0x100, 1 << 32, 1 << 16, 1 << 31, 0xff, u64::MAX] {
            check::equal(
                "psci.affinity.odd",
                info(target, 0),
                psci::INVALID_PARAMETERS,
            );
        }
        check::equal(
            "psci.affinity.level-9",
            info(0, 9),
            psci::INVALID_PARAMETERS,
        );
        let level1 = info(0, 1);
        check::that(
            "psci.affinity.level-1",
            level1 == 0 || level1 == psci::INVALID_PARAMETERS,
            level1,
        );
    }
    check::equal(
        "psci.affinity.smc32",
        narrow(hvc(AFFINITY_INFO_32, [0, 0, 0])),
        0,
    );
}

fn cpu_on_arguments(machine: Machine) {
    let on = |function: u32, target: u64, entry: u64| narrow(hvc(function, [target, entry, 0]));
    let entry = start::secondary_entry();
    check::equal(
        "psci.cpu-on.self",
        on(psci::CPU_ON, 0, entry),
        psci::ALREADY_ON,
    );
    check::equal(
        "psci.cpu-on.self-32",
        on(CPU_ON_32, 0, entry),
        psci::ALREADY_ON,
    );
    for target in [machine.vcpus as u64, 0x100, 0xff] {
        check::equal(
            "psci.cpu-on.absent",
            on(psci::CPU_ON, target, entry),
            psci::INVALID_PARAMETERS,
        );
    }
    if machine.hypervised {
        for target in [u64::MAX, 1 << 32, 1 << 40] {
            let answer = on(psci::CPU_ON, target, entry);
            check::equal("psci.cpu-on.odd", answer, psci::INVALID_PARAMETERS);
        }
    }
}

/// Functions that a PSCI 1.1 implementation may leave out: an error code, and nothing happens.
fn optional_functions() {
    for low in (0x05..0x1e).filter(|low| !matches!(low, 0x06 | 0x08 | 0x09 | 0x0a | 0x0c | 0x12)) {
        for wide in [0, SMC64] {
            let answer = narrow(hvc(0x8400_0000 | wide | low, [0; 3]));
            let refused = answer > -16_i64 as u64;
            // PSCI_STAT_* may say 0; SYSTEM_SUSPEND and CPU_DEFAULT_SUSPEND may deny.
            check::that("psci.optional", refused || answer == 0, (low, wide, answer));
        }
    }
    let reset2 = narrow(hvc(psci::FEATURES, [0x8400_0012, 0, 0]));
    check::that(
        "psci.features.reset2",
        reset2 == 0 || reset2 == psci::NOT_SUPPORTED,
        reset2,
    );
    if reset2 == 0 {
        let answer = narrow(hvc(0x8400_0012, [5, 0, 0]));
        check::equal("psci.reset2.unknown-type", answer, psci::INVALID_PARAMETERS);
    }
    for function in [
        psci::CPU_OFF,
        psci::SYSTEM_OFF,
        psci::SYSTEM_RESET,
        psci::VERSION,
    ] {
        // The SMC64 twins of functions that have none.
        let answer = narrow(hvc(function | SMC64, [0; 3]));
        check::equal("psci.no-smc64-twin", answer, psci::NOT_SUPPORTED);
    }
}

/// Standby returns when an interrupt is pending, even with interrupts masked.
fn suspend() {
    for function in [psci::CPU_SUSPEND, CPU_SUSPEND_32] {
        sysreg::irq_off();
        gic::enable(layout::VTIMER_INTID, 0xa0);
        time::arm(time::ticks(2000));
        let answer = narrow(hvc(function, [0, 0, 0]));
        let fired = payload::mrs!("cntv_ctl_el0") & time::STATUS != 0;
        time::disarm();
        gic::reset(layout::VTIMER_INTID);
        sysreg::irq_on();
        let refused = answer == psci::NOT_SUPPORTED;
        check::that(
            "psci.cpu-suspend",
            (answer == 0 && fired) || refused || answer == psci::INVALID_PARAMETERS,
            (answer, fired),
        );
    }
}

fn context(_: u64) -> u64 {
    sysreg::affinity()
}

/// Each vCPU goes on and off three times and keeps its identity; then all stay on.
fn life_cycle(machine: Machine) {
    let info = |i: usize| narrow(hvc(psci::AFFINITY_INFO, [i as u64, 0, 0]));
    for round in 0..3 {
        for index in 1..machine.vcpus {
            check::that("psci.on", cpu::start(index), (round, index));
            check::equal("psci.on.info", info(index), 0);
            let entry = start::secondary_entry();
            let again = narrow(hvc(psci::CPU_ON, [index as u64, entry, 0]));
            check::equal("psci.on.again", again, psci::ALREADY_ON);
            let seen = cpu::run(index, context, 0).unwrap_or(u64::MAX);
            check::equal("psci.on.mpidr", seen, index as u64);
        }
        for index in 1..machine.vcpus {
            cpu::give(index, cpu::off, 0);
            let off = time::wait_for(2_000_000, || info(index) == 1);
            check::that("psci.off", off, (round, index));
        }
    }
}
