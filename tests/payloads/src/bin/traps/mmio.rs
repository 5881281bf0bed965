//! Accesses to emulated devices in forms without a syndrome, misaligned, and out of range.

use payload::rt::fault::{self, class};
use payload::rt::{check, gic, gicv3, io, layout};

use super::Machine;

macro_rules! form {
    ($name:literal, $text:literal) => {
        ($name, |address: usize| {
            let mut at = address;
            // SAFETY: the address is a device register, scratch RAM or faults; Rust owns neither.
            unsafe {
                core::arch::asm!(
                    $text,
                    at = inout(reg) at,
                    a = inout(reg) 0_u64 => _,
                    b = inout(reg) 0_u64 => _,
                    s = out(reg) _,
                    options(nostack)
                );
            }
            let _ = at;
        })
    };
}

/// A form of access: its name and the access at an address.
pub(crate) type Form = (&'static str, fn(usize));

/// Loads and stores whose abort carries no syndrome (ISV=0).
pub(crate) const FORMS: [Form; 14] = [
    form!("ldp", "ldp {a}, {b}, [{at}] // {s}"),
    form!("stp", "stp {a}, {b}, [{at}] // {s}"),
    form!("ldp-w", "ldp {a:w}, {b:w}, [{at}] // {s}"),
    form!("ldr-post", "ldr {a:w}, [{at}], #4 // {b} {s}"),
    form!("ldr-pre", "ldr {a:w}, [{at}, #0]! // {b} {s}"),
    form!("str-post", "str {a:w}, [{at}], #4 // {b} {s}"),
    form!("ldrb-post", "ldrb {a:w}, [{at}], #1 // {b} {s}"),
    form!("ldxr", "ldxr {a:w}, [{at}]\nclrex // {b} {s}"),
    form!("ldaxr", "ldaxr {a}, [{at}]\nclrex // {b} {s}"),
    form!("stxr", "ldxr {a:w}, [{at}]\nstxr {s:w}, {b:w}, [{at}]"),
    form!("ldxp", "ldxp {a}, {b}, [{at}]\nclrex // {s}"),
    form!("ldar", "ldar {a:w}, [{at}] // {b} {s}"),
    form!("stlr", "stlr {a:w}, [{at}] // {b} {s}"),
    form!("ldrsw", "ldrsw {a}, [{at}] // {b} {s}"),
];

pub(crate) fn run(machine: Machine) {
    if machine.hypervised {
        without_syndrome();
    }
    misaligned();
    sign_extension();
    zero_register();
    every_register();
    out_of_range(machine);
    cache_maintenance(machine);
}

/// Either the access works (a decoder may know it) or it aborts; the device stays alive.
fn without_syndrome() {
    for (name, form) in FORMS {
        for device in [layout::GICD + 0x104, layout::UART + 0x18] {
            let fault = fault::probe(|| form(device));
            let good = fault.is_none_or(|f| f.class() == class::DATA);
            check::that(name, good, (device, fault));
        }
    }
    check::that("mmio.alive", io::read32(layout::GICD + 4) != 0, ());
}

/// Misaligned accesses to device memory: alignment faults of stage 1 (device type).
fn misaligned() {
    for offset in [0x101, 0x102, 0x103] {
        let fault = fault::probe(|| fault::discard(io::read32(layout::GICD + offset)));
        let good = fault.is_none_or(|f| f.class() == class::DATA);
        check::that("mmio.misaligned-read", good, (offset, fault));
        let fault = fault::probe(|| io::write64(layout::GICD + offset, 0));
        check::that(
            "mmio.misaligned-write",
            fault.is_none_or(|f| f.class() == class::DATA),
            (offset, fault),
        );
    }
    let fault = fault::probe(|| fault::discard(io::read64(layout::GICD + 0xffc)));
    check::that(
        "mmio.crossing",
        fault.is_none_or(|f| f.class() == class::DATA),
        fault,
    );
}

/// Narrow signed loads of a device register extend the sign as the instruction says.
fn sign_extension() {
    gic::set_priority(40, 0xf0);
    let at = gic::frame(40) + 0x400 + 40;
    let (long, word, zero): (u64, u64, u64);
    // SAFETY: loads from the distributor.
    unsafe {
        core::arch::asm!(
            "ldrsb {long}, [{at}]", "ldrsb {word:w}, [{at}]", "ldrb {zero:w}, [{at}]",
            at = in(reg) at, long = out(reg) long, word = out(reg) word, zero = out(reg) zero,
            options(nostack)
        );
    }
    let byte = zero & 0xff;
    check::that("mmio.byte-implemented", byte >= 0x80, byte);
    check::equal("mmio.ldrsb-x", long, byte | 0xffff_ffff_ffff_ff00);
    check::equal("mmio.ldrsb-w", word, byte | 0xffff_ff00);
    check::equal("mmio.ldrb", zero, byte);
    let (half, swapped): (u64, u64);
    // SAFETY: loads from the distributor, whose priority registers allow words.
    unsafe {
        core::arch::asm!(
            "ldr {half:w}, [{at}]", "ldrsw {swapped}, [{at}]",
            at = in(reg) at, half = out(reg) half, swapped = out(reg) swapped,
            options(nostack)
        );
    }
    check::equal("mmio.ldrsw", swapped, half as i32 as i64 as u64);
    gic::set_priority(40, 0xa0);
}

/// Loads into and stores from the zero register.
fn zero_register() {
    let fault = fault::probe(|| {
        // SAFETY: TYPER is read-only and IGROUPR-like registers are not touched.
        unsafe {
            core::arch::asm!("ldr wzr, [{0}]", "str wzr, [{0}]", in(reg) layout::GICD + 4, options(nostack));
        }
    });
    check::that("mmio.zero-register", fault.is_none(), fault);
}

/// Stores from and loads into `$n`, one of X16 to X30 that hold their own numbers, and gives what is in
/// them then.
macro_rules! through {
    ($n:literal) => {{
        let mut found = [0_u64; 16];
        // SAFETY: the divisor and an identification register of the UART, X16 to X30 in `found`; all of
        // these registers are put back.
        unsafe {
            core::arch::asm!(
                "sub sp, sp, #128",
                "stp x16, x17, [sp]",
                "stp x18, x19, [sp, #16]",
                "stp x20, x21, [sp, #32]",
                "stp x22, x23, [sp, #48]",
                "stp x24, x25, [sp, #64]",
                "stp x26, x27, [sp, #80]",
                "stp x28, x29, [sp, #96]",
                "str x30, [sp, #112]",
                ".irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
                "mov x\\n, #\\n",
                ".endr",
                concat!("str w", $n, ", [x0]"),
                concat!("ldr w", $n, ", [x1]"),
                "stp x16, x17, [x2]",
                "stp x18, x19, [x2, #16]",
                "stp x20, x21, [x2, #32]",
                "stp x22, x23, [x2, #48]",
                "stp x24, x25, [x2, #64]",
                "stp x26, x27, [x2, #80]",
                "stp x28, x29, [x2, #96]",
                "str x30, [x2, #112]",
                "ldp x16, x17, [sp]",
                "ldp x18, x19, [sp, #16]",
                "ldp x20, x21, [sp, #32]",
                "ldp x22, x23, [sp, #48]",
                "ldp x24, x25, [sp, #64]",
                "ldp x26, x27, [sp, #80]",
                "ldp x28, x29, [sp, #96]",
                "ldr x30, [sp, #112]",
                "add sp, sp, #128",
                in("x0") layout::UART + 0x24, in("x1") layout::UART + 0xff0, in("x2") &mut found,
            );
        }
        ($n, found)
    }};
}

/// Each of X16 to X30 takes part in an access, and no other changes: some of them are saved only where
/// an access needs that.
fn every_register() {
    const CELL_ID0: u64 = 0x0d;
    let found = [
        through!(16),
        through!(17),
        through!(18),
        through!(19),
        through!(20),
        through!(21),
        through!(22),
        through!(23),
        through!(24),
        through!(25),
        through!(26),
        through!(27),
        through!(28),
        through!(29),
        through!(30),
    ];
    let mut stored = 0;
    for (n, registers) in found {
        for (number, value) in (16..31).zip(registers) {
            let expected = if number == n { CELL_ID0 } else { number };
            check::that("mmio.register-kept", value == expected, (n, number, value));
        }
        stored = n;
    }
    check::equal(
        "mmio.register-stored",
        u64::from(io::read32(layout::UART + 0x24)),
        stored,
    );
}

/// Behind the last redistributor and in the rest of each device's page.
fn out_of_range(machine: Machine) {
    if machine.gic == gic::Version::V3 && machine.hypervised {
        let fault =
            fault::probe(|| fault::discard(io::read32(gicv3::redistributor(machine.vcpus) + 8)));
        check::that(
            "mmio.after-last-redistributor",
            fault.is_some_and(|f| f.is_external_data_abort()),
            fault,
        );
    }
    let mut faults = 0;
    for offset in (0..0x1000).step_by(4) {
        if offset == 0 {
            continue; // Reading the data register would take input.
        }
        faults +=
            u32::from(fault::probe(|| fault::discard(io::read32(layout::UART + offset))).is_some());
    }
    check::equal("mmio.uart-page-reads", faults, 0);
}

/// Cache maintenance by address on a device page: an abort or nothing, never a hang.
fn cache_maintenance(machine: Machine) {
    if !machine.hypervised {
        return;
    }
    let fault = fault::probe(|| {
        // SAFETY: maintenance of a device address changes no memory.
        unsafe {
            core::arch::asm!("dc cvac, {0}", "dc civac, {0}", "dc ivac, {0}", in(reg) layout::GICD, options(nostack));
        }
    });
    check::that(
        "mmio.dc",
        fault.is_none_or(|f| f.class() == class::DATA),
        fault,
    );
    let fault = fault::probe(|| {
        // SAFETY: as above; DC ZVA on device memory faults.
        unsafe { core::arch::asm!("dc zva, {0}", in(reg) layout::GICD, options(nostack)) };
    });
    check::that(
        "mmio.dc-zva",
        fault.is_some_and(|f| f.class() == class::DATA),
        fault,
    );
}
