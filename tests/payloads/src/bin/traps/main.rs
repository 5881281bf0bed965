//! Exercises every trap on purpose and checks that each ends in the architected answer.
//!
//! Prints `ok NAME` or `FAIL NAME why` for each check and closes with `N passed, N failed`. The
//! command line may name groups (`only-psci`, ...) to run only those. On a machine without EL2 the
//! checks of hypercalls are left out and the rest tells what the real interrupt controller does.
#![no_std]
#![no_main]

mod calls;
mod gicregs;
mod irq;
mod isolation;
mod memory;
mod mmio;
mod psci;
mod smp;
mod sysregs;
mod timer;
mod uart;

use payload::println;
use payload::rt::{check, cpu, fdt, gic, psci as call, sysreg};

payload::entry!(main);

/// What the checks depend on.
#[derive(Clone, Copy, Debug)]
struct Machine {
    /// There is a hypervisor: SMCCC_VERSION answers, which QEMU's own PSCI does not.
    hypervised: bool,
    vcpus: usize,
    gic: gic::Version,
}

/// Microseconds to wait for what has to come. Only what is lost takes so long: with more boards than the host has cores a
/// vCPU may not run for a second.
const SETTLE_US: u64 = 5_000_000;

/// A name, and the checks that it stands for.
type Group = (&'static str, fn(Machine));

const GROUPS: [Group; 11] = [
    ("only-calls", calls::run),
    ("only-psci", psci::run),
    ("only-gicregs", gicregs::run),
    ("only-irq", irq::run),
    ("only-timer", timer::run),
    ("only-smp", smp::run),
    ("only-mmio", mmio::run),
    ("only-memory", memory::run),
    ("only-uart", uart::run),
    ("only-isolation", isolation::run),
    ("only-sysregs", sysregs::run),
];

fn main() {
    let hypervised = call::hvc(call::SMCCC_VERSION, [0; 3]) != call::NOT_SUPPORTED;
    let machine = Machine {
        hypervised,
        vcpus: cpu::count(),
        gic: gic::version(),
    };
    println!("traps: {machine:?}, {} lines", gic::lines());
    sysreg::irq_on();
    let some = GROUPS.iter().any(|(name, _)| fdt::has_argument(name));
    for (name, run) in GROUPS {
        if !some || fdt::has_argument(name) {
            println!("-- {}", name.trim_start_matches("only-"));
            run(machine);
        }
    }
    check::summary();
}
