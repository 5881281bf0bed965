//! HVC and SMC: SMCCC queries, unknown functions, every immediate.

use payload::rt::fault::{self, Fault};
use payload::rt::psci::{self, hvc, narrow, smc};
use payload::rt::{check, io};
use penumbra_abi::Call;

use super::Machine;
use crate::memory::Code;

const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;

pub(crate) fn run(machine: Machine) {
    if machine.hypervised {
        queries();
        unknown_functions("hvc", hvc);
        unknown_functions("smc", smc);
        manager_calls();
        preserved_registers();
        every_immediate("smc", SMC);
    } else {
        let fault = fault::probe(|| {
            smc(psci::VERSION, [0; 3]);
        });
        check::that(
            "smc.undefined",
            fault.is_some_and(Fault::is_undefined),
            fault,
        );
    }
    every_immediate("hvc", HVC);
}

fn queries() {
    let version = hvc(psci::SMCCC_VERSION, [0; 3]);
    check::that(
        "smccc.version",
        (0x1_0001..0x2_0000).contains(&version),
        version,
    );
    check::equal(
        "smccc.version.smc",
        smc(psci::SMCCC_VERSION, [0; 3]),
        version,
    );
    let features = |id: u32| narrow(hvc(psci::SMCCC_ARCH_FEATURES, [u64::from(id), 0, 0]));
    check::equal("smccc.features.version", features(psci::SMCCC_VERSION), 0);
    check::equal(
        "smccc.features.features",
        features(psci::SMCCC_ARCH_FEATURES),
        0,
    );
    check::equal(
        "smccc.features.unknown",
        features(0x8000_1234),
        psci::NOT_SUPPORTED,
    );
    let psci_features = narrow(hvc(psci::FEATURES, [u64::from(psci::SMCCC_VERSION), 0, 0]));
    check::equal("smccc.version.in-psci-features", psci_features, 0);
}

/// One function of each owner, fast and yielding, 32 and 64 bits, and odd ones: all NOT_SUPPORTED.
fn unknown_functions(name: &str, call: fn(u32, [u64; 3]) -> u64) {
    let mut wrong = 0_u64;
    let mut asked = 0_u64;
    for owner in 0..64_u32 {
        for kind in [0_u32, 0x4000_0000, 0x8000_0000, 0xc000_0000] {
            for function in [0x77_u32, 0x1ff, 0xfffe] {
                let id = kind | owner << 24 | function;
                asked += 1;
                if narrow(call(id, [1, 2, 3])) != psci::NOT_SUPPORTED {
                    wrong = wrong << 32 | u64::from(id);
                }
            }
        }
    }
    check::that(name, wrong == 0, (wrong, asked));
    for id in [0_u32, 0xffff_ffff, 0x7fff_ffff, 0x8400_0020, 0xc400_00ff] {
        if narrow(call(id, [0; 3])) != psci::NOT_SUPPORTED {
            check::that("smccc.odd-function", false, id);
        }
    }
}

/// The manager's calls are not for guests.
fn manager_calls() {
    let mut wrong = 0;
    for call in Call::ALL {
        for argument in [0, 1, u64::MAX] {
            if hvc(call.id(), [argument, argument, argument]) != psci::NOT_SUPPORTED {
                wrong = call.id();
            }
        }
    }
    check::equal("manager-calls.refused", wrong, 0);
}

/// A call changes X0 to X3 at most (SMCCC 1.1), the rest survives.
fn preserved_registers() {
    for (name, id) in [
        ("preserved.version", psci::SMCCC_VERSION),
        ("preserved.psci", psci::VERSION),
        ("preserved.unknown", 0x8600_1234),
        ("preserved.affinity", psci::AFFINITY_INFO),
    ] {
        let mut changed: u64 = 0;
        // SAFETY: the call has no effect on memory; all registers it may change are declared.
        unsafe {
            core::arch::asm!(
                "mov x4, #0x1004", "mov x5, #0x1005", "mov x6, #0x1006", "mov x7, #0x1007",
                "mov x8, #0x1008", "mov x9, #0x1009", "mov x10, #0x100a", "mov x11, #0x100b",
                "mov x12, #0x100c", "mov x13, #0x100d", "mov x14, #0x100e", "mov x15, #0x100f",
                "mov x16, #0x1010", "mov x17, #0x1011",
                "hvc #0",
                "mov {t}, #0x1004", "eor {c}, x4, {t}",
                "mov {t}, #0x1005", "eor {t}, x5, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x1006", "eor {t}, x6, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x1007", "eor {t}, x7, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x1008", "eor {t}, x8, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x1009", "eor {t}, x9, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x100a", "eor {t}, x10, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x100b", "eor {t}, x11, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x100c", "eor {t}, x12, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x100d", "eor {t}, x13, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x100e", "eor {t}, x14, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x100f", "eor {t}, x15, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x1010", "eor {t}, x16, {t}", "orr {c}, {c}, {t}",
                "mov {t}, #0x1011", "eor {t}, x17, {t}", "orr {c}, {c}, {t}",
                c = inout(reg) changed, t = out(reg) _,
                inout("x0") u64::from(id) => _, inout("x1") 0_u64 => _,
                inout("x2") 0_u64 => _, inout("x3") 0_u64 => _,
                out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                out("x15") _, out("x16") _, out("x17") _,
                options(nostack)
            );
        }
        check::equal(name, changed, 0);
    }
}

/// All 65536 immediates with an unknown function: NOT_SUPPORTED or undefined, and never a hang.
fn every_immediate(name: &str, opcode: u32) {
    const CHUNK: u32 = 1024;
    let mut undefined = 0;
    let mut bad = None;
    for chunk in 0..65536 / CHUNK {
        let code = Code::new((0..CHUNK).map(|i| opcode | (chunk * CHUNK + i) << 5));
        let fault = fault::probe(|| {
            code.run(0x8600_1234);
        });
        match fault {
            Some(fault) if fault.is_undefined() => undefined += fault.count,
            Some(_) => bad = fault,
            None => {}
        }
        io::barrier();
    }
    check::that(name, bad.is_none(), bad);
    payload::println!("   {name}: {undefined} of 65536 immediates undefined");
}
