//! Memory: code made at run time, addresses with nothing behind them, fetches that fail.

use payload::rt::fault::{self, Fault, class};
use payload::rt::{check, fdt, io, layout, psci};

use super::Machine;

const CODE_WORDS: usize = 4096;

#[repr(C, align(4096))]
struct Scratch([u32; CODE_WORDS]);

static mut SCRATCH: Scratch = Scratch([0; CODE_WORDS]);

/// A function made of given instructions and a RET, in the scratch area.
#[derive(Debug)]
pub(crate) struct Code;

impl Code {
    /// Writes the instructions and makes them visible to fetches.
    pub(crate) fn new(instructions: impl Iterator<Item = u32>) -> Self {
        const RET: u32 = 0xd65f_03c0;
        let base = (&raw mut SCRATCH).cast::<u32>().expose_provenance();
        let mut at = base;
        for word in instructions.chain([RET]) {
            assert!(at < base + CODE_WORDS * 4);
            io::write32(at, word);
            at += 4;
        }
        for line in (base..at).step_by(16) {
            // SAFETY: cache maintenance of our own scratch area.
            unsafe {
                core::arch::asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", in(reg) line, options(nostack));
            }
        }
        payload::insn!("dsb ish\nisb");
        Self
    }

    /// Runs it with `x0`; returns X0. Only instructions that keep X18 to X30 are allowed in it.
    pub(crate) fn run(&self, x0: u64) -> u64 {
        call((&raw const SCRATCH).cast::<u8>().addr(), x0)
    }
}

/// Branches to `address` with a return address in X30.
pub(crate) fn call(address: usize, x0: u64) -> u64 {
    let mut x0 = x0;
    // SAFETY: the code there keeps what AAPCS64 says it must, or the fetch fails and is recorded.
    unsafe {
        core::arch::asm!(
            "blr {address}",
            address = in(reg) address,
            inout("x0") x0,
            clobber_abi("C"),
            options(nostack)
        );
    }
    x0
}

/// IPAs that no guest has: below and between the devices, after RAM, high up, at the window and at
/// the end of the 40-bit space.
fn holes() -> [usize; 9] {
    let end = fdt::ram_end();
    [
        0x0a80_0000,
        0x0c00_0000,
        end,
        end + 0x1234_5000,
        0x20_0000_0000,
        0x30_0000_0000,
        0x60_0000_0000,
        0x80_0000_0000,
        0xff_ffff_f000,
    ]
}

pub(crate) fn run(machine: Machine) {
    data(machine);
    fetches(machine);
    beyond();
    crossing();
    forms_on_ram();
    if machine.hypervised {
        bad_entry_points();
        strangers();
    }
}

/// Every hole aborts, for loads and stores of each width, with FAR saying where.
fn data(machine: Machine) {
    for hole in holes() {
        if !machine.hypervised && hole >= 0x80_0000_0000 {
            continue; // QEMU's high PCIe window.
        }
        type Action = (&'static str, fn(usize));
        let actions: [Action; 6] = [
            ("read8", |a| fault::discard(io::read8(a))),
            ("read32", |a| fault::discard(io::read32(a))),
            ("read64", |a| fault::discard(io::read64(a))),
            ("write8", |a| io::write8(a, 1)),
            ("write32", |a| io::write32(a, 1)),
            ("write64", |a| io::write64(a, 1)),
        ];
        let mut good = true;
        let mut last = None;
        for (_, action) in actions {
            last = fault::probe(|| action(hole + 8));
            good &= last.is_some_and(|f| f.is_external_data_abort() && f.far == hole as u64 + 8);
        }
        check::that("memory.hole", good, (hole, last));
    }
}

fn fetches(machine: Machine) {
    for hole in [fdt::ram_end(), 0x0c00_0000, 0x30_0000_0000] {
        let fault = fault::probe(|| {
            call(hole + layout::EXEC_ALIAS, 0);
        });
        let good = |f: Fault| {
            f.class() == class::FETCH
                && f.status() == 0x10
                && f.far == (hole + layout::EXEC_ALIAS) as u64
        };
        check::that("memory.fetch-hole", fault.is_some_and(good), (hole, fault));
    }
    if machine.hypervised {
        for device in [layout::GICD, layout::UART] {
            let fault = fault::probe(|| {
                call(device + layout::EXEC_ALIAS, 0);
            });
            check::that(
                "memory.fetch-device",
                fault.is_some_and(|f| f.class() == class::FETCH),
                (device, fault),
            );
        }
    }
    let fault = fault::probe(|| {
        call(layout::RAM + 2, 0);
    });
    check::that(
        "memory.fetch-misaligned",
        fault.is_some_and(|f| f.class() == class::PC_ALIGNMENT),
        fault,
    );
}

/// Outside the 40-bit space: an abort, whichever stage notices.
fn beyond() {
    for address in [1 << 40, (1 << 40) + 0x4000_0000] {
        let fault = fault::probe(|| fault::discard(io::read32(address)));
        check::that(
            "memory.beyond-40-bits",
            fault.is_some_and(|f| f.class() == class::DATA),
            (address, fault),
        );
    }
}

/// An access that begins in RAM and ends in a hole.
fn crossing() {
    let end = fdt::ram_end();
    let fault = fault::probe(|| fault::discard(io::read64(end - 4)));
    check::that(
        "memory.crossing-end",
        fault.is_some_and(|f| f.class() == class::DATA),
        fault,
    );
    let fault = fault::probe(|| fault::discard(io::read64(end - 8)));
    check::that("memory.last-word", fault.is_none(), fault);
}

/// Pair, write-back and exclusive forms on RAM: they populate thin memory like any other.
fn forms_on_ram() {
    let base = (fdt::ram_end() - 0x40_0000) & !0x1f_ffff;
    let mut bad = None;
    for (index, form) in super::mmio::FORMS.iter().enumerate() {
        let at = base + index * 0x1000;
        let fault = fault::probe(|| (form.1)(at));
        if fault.is_some() {
            bad = Some((form.0, fault));
        }
    }
    check::that("memory.forms-on-ram", bad.is_none(), bad);
    let fault = fault::probe(|| {
        // SAFETY: the page is beyond what the payload and its loader use.
        unsafe {
            core::arch::asm!("dc zva, {0}", "dc civac, {0}", "prfm pldl1keep, [{0}]", in(reg) base + 0x8_0000, options(nostack));
        }
    });
    check::that("memory.cache-maintenance", fault.is_none(), fault);
}

/// Nothing that is not this guest's answers at any address: not the board's flash and devices, not the rest
/// of its RAM, where EL2, the manager and other guests are, not its high PCIe windows, not the window of
/// EL2's own tables. Where EL2's image lies on the board, this guest has memory of its own.
fn strangers() {
    const EL2_IMAGE: usize = 0x4020_0000;
    const MAGIC: usize = 0x38;
    let flash = (0..0x0800_0000).step_by(1 << 20);
    let devices = (layout::UART + 0x1000..0x0a20_0000).step_by(4 << 10);
    let holes = (0x0a20_0000..layout::RAM).step_by(2 << 20);
    let memory = (fdt::ram_end()..0x4_0000_0000).step_by(8 << 20);
    let rest = (0x4_0000_0000..1 << 40).step_by(1 << 30);
    let all = flash.chain(devices).chain(holes).chain(memory).chain(rest);
    let (mut tried, mut answered) = (0, None);
    for address in all {
        let load = fault::probe(|| fault::discard(io::read64(address)));
        let store = fault::probe(|| io::write64(address, 0x5ec2_e700));
        let refused = |fault: Option<Fault>| fault.is_some_and(Fault::is_external_data_abort);
        if !refused(load) || !refused(store) {
            answered = answered.or(Some((address, load, store)));
        }
        tried += 1;
    }
    check::that(
        "memory.strangers",
        answered.is_none() && tried > 7000,
        (tried, answered),
    );
    if fdt::ram_end() > EL2_IMAGE + 0x1000 {
        let found = io::read32(EL2_IMAGE + MAGIC);
        check::that("memory.el2-image", found != 0x644d_5241, found);
    }
}

/// CPU_ON at an entry point that is no RAM: PSCI INVALID_ADDRESS.
fn bad_entry_points() {
    for entry in [0x30_0000_0000, 0x0900_0000, 0, 1 << 39, u64::MAX - 3] {
        let answer = psci::hvc(psci::CPU_ON, [0, entry, 0]);
        check::equal("psci.cpu-on.bad-entry", answer, psci::INVALID_ADDRESS);
    }
}
