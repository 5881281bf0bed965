//! Every system-register encoding, read and written: a value or an exception, and the vCPU goes on.

use payload::rt::{check, fault, gic, sysreg};
use payload::{mrs, msr};

use super::Machine;
use crate::memory::Code;

/// An encoding: op0, op1, CRn, CRm, op2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Encoding(u32);

impl Encoding {
    const fn new(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Self {
        Self(op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
    }

    const fn read(self) -> u32 {
        0xd520_0000 | self.0 << 5
    }

    const fn write(self) -> u32 {
        0xd500_0000 | self.0 << 5
    }
}

/// Reading these acknowledges an interrupt.
const NOT_READ: [Encoding; 3] = [
    Encoding::new(3, 0, 12, 8, 0),
    Encoding::new(3, 0, 12, 12, 0),
    Encoding::new(3, 0, 12, 9, 5),
];

/// Writing these ends or deactivates an interrupt that is not there, sends one, moves the ground
/// under the runtime or switches on what it does not handle.
const NOT_WRITTEN: [Encoding; 9] = [
    Encoding::new(3, 0, 12, 8, 1),
    Encoding::new(3, 0, 12, 12, 1),
    Encoding::new(3, 0, 12, 11, 1),
    Encoding::new(3, 0, 12, 11, 5),
    Encoding::new(3, 0, 12, 11, 6),
    Encoding::new(3, 0, 12, 11, 7),
    // SPSel and SP_EL0: which stack is in use.
    Encoding::new(3, 0, 4, 2, 0),
    Encoding::new(3, 0, 4, 1, 0),
    // DAIF: kept masked.
    Encoding::new(3, 3, 4, 2, 1),
];

fn encodings(op0: core::ops::Range<u32>) -> impl Iterator<Item = Encoding> {
    op0.flat_map(|op0| (0..1 << 14).map(move |low| Encoding(op0 << 14 | low)))
}

/// Exception classes that an access to a register may end in: undefined, trapped system
/// instruction, FP, SVE, SME, pointer authentication.
fn allowed(esr: u64) -> bool {
    matches!(esr >> 26, 0x00 | 0x18 | 0x07 | 0x19 | 0x1d | 0x09)
}

pub(crate) fn run(machine: Machine) {
    known();
    if machine.hypervised {
        range_tlbis();
    }
    sysreg::irq_off();
    let group = if machine.gic == gic::Version::V3 {
        mrs!("icc_igrpen1_el1")
    } else {
        0
    };
    let (mut values, mut undefined, mut bad) = (0, 0, None);
    for encoding in encodings(2..4).filter(|e| !NOT_READ.contains(e)) {
        let (fault, _) = access(encoding.read(), 0);
        match fault {
            None => values += 1,
            Some(fault) if allowed(fault.esr) => undefined += 1,
            Some(fault) => bad = Some((encoding, fault)),
        }
    }
    check::that("sysregs.read-all", bad.is_none(), bad);
    payload::println!("   sysregs: {values} read, {undefined} undefined");
    let (mut written, mut undefined, mut bad) = (0, 0, None);
    for encoding in encodings(2..4).filter(|e| !NOT_WRITTEN.contains(e)) {
        if NOT_READ.contains(&encoding) {
            continue;
        }
        // What was read goes back, so that nothing changes; write-only registers get zero.
        let (fault, value) = access(encoding.read(), 0);
        let value = if fault.is_none() { value } else { 0 };
        let (fault, _) = access(encoding.write(), value);
        match fault {
            None => written += 1,
            Some(fault) if allowed(fault.esr) => undefined += 1,
            Some(fault) => bad = Some((encoding, fault)),
        }
    }
    check::that("sysregs.write-all", bad.is_none(), bad);
    payload::println!("   sysregs: {written} written, {undefined} undefined");
    if machine.gic == gic::Version::V3 {
        check::equal("sysregs.group-enable-kept", mrs!("icc_igrpen1_el1"), group);
    }
    instructions(machine);
    gic::init_cpu();
    sysreg::irq_on();
}

fn access(opcode: u32, value: u64) -> (Option<fault::Fault>, u64) {
    let code = Code::new([opcode].into_iter());
    let mut result = 0;
    let fault = fault::probe(|| result = code.run(value));
    (fault, result)
}

/// The space of system instructions (op0 = 1): cache, TLB and address translation, with X0 = 0.
fn instructions(machine: Machine) {
    let (mut done, mut faulted, mut bad) = (0, 0, None);
    for encoding in encodings(1..2) {
        let (crn, op1) = (encoding.0 >> 7 & 0xf, encoding.0 >> 11 & 7);
        if !matches!(crn, 7 | 8) || (!machine.hypervised && op1 != 0) {
            continue;
        }
        let (fault, _) = access(encoding.write(), 0);
        match fault {
            None => done += 1,
            Some(f) if allowed(f.esr) || f.class() == fault::class::DATA => faulted += 1,
            Some(fault) => bad = Some((encoding, fault)),
        }
    }
    check::that("sysregs.instructions", bad.is_none(), bad);
    payload::println!("   sysregs: {done} instructions done, {faulted} faulted");
}

/// FEAT_TLBIRANGE is hidden, so its instructions are UNDEFINED also on a core that has them.
fn range_tlbis() {
    // RVAE1OS, RVAE1IS and RVAE1, and their siblings for all ASIDs and the last level.
    for crm in [5, 2, 6] {
        for op2 in [1, 3, 5, 7] {
            let (fault, _) = access(Encoding::new(1, 0, 8, crm, op2).write(), 0);
            check::that(
                "sysregs.tlbi-range",
                fault.is_some_and(|f| f.is_undefined()),
                (crm, op2),
            );
        }
    }
}

/// A few whose answer is known.
fn known() {
    let undefined = |opcode: u32| access(opcode, 0).0.is_some_and(|f| f.is_undefined());
    check::that(
        "sysregs.hcr-el2",
        undefined(Encoding::new(3, 4, 1, 1, 0).read()),
        (),
    );
    check::that(
        "sysregs.vttbr-el2",
        undefined(Encoding::new(3, 4, 2, 1, 0).write()),
        (),
    );
    check::that(
        "sysregs.scr-el3",
        undefined(Encoding::new(3, 6, 1, 1, 0).read()),
        (),
    );
    check::that(
        "sysregs.eret-el2",
        undefined(Encoding::new(3, 4, 4, 0, 1).read()),
        (),
    );
    let read = |opcode: u32| access(opcode, 0);
    for (name, crm, op2) in [
        ("sysregs.id-reserved", 7, 7),
        ("sysregs.id-aa64afr0", 5, 4),
        ("sysregs.id-aa64pfr3", 4, 3),
    ] {
        let (fault, _) = read(Encoding::new(3, 0, 0, crm, op2).read());
        check::that(name, fault.is_none(), fault);
    }
    let (fault, _) = access(Encoding::new(3, 0, 0, 4, 0).write(), 0);
    check::that(
        "sysregs.id-read-only",
        fault.is_some_and(|f| f.is_undefined()),
        fault,
    );
    let mpidr = mrs!("mpidr_el1");
    check::that("sysregs.mpidr-res1", mpidr >> 31 & 1 == 1, mpidr);
    let old = mrs!("actlr_el1");
    msr!("actlr_el1", old);
    check::that("sysregs.midr", mrs!("midr_el1") != 0, ());
}
