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
