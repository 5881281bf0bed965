//! A guest that is as much of a nuisance as it can be: floods EL2 and the manager without a pause, for ever.
//!
//! Words of the command line choose what with, several at once: `exits`, `interrupts`, `console`, `faults`,
//! `hypercalls`, `watchdog`; `after_ms=MILLISECONDS` is when to begin, counted from the board's reset. The last arms the guest's watchdog for less than a millisecond, so that it is
//! stopped and, by its scenario, started anew.
#![no_std]
#![no_main]

use penumbra_abi::Call;

use payload::rt::psci::{self, hvc};
use payload::rt::{fault, fdt, gic, io, layout, sysreg, time};
use payload::{insn, mrs, println};

payload::entry!(main);

/// Floods of each kind before it is the turn of the next.
const TIMES: usize = 50;
/// A function of HVC that there is not.
const NO_FUNCTION: u32 = 0x8600_1234;
/// One of the manager's, which a guest is refused.
const MANAGERS: u32 = Call::VmStop.id();
/// The watchdog: control and offset of its control frame.
const WATCHDOG_CONTROL: usize = 0x08f0_0000;
const WATCHDOG_OFFSET: usize = WATCHDOG_CONTROL + 8;
/// How long the watchdog waits, twice.
const WATCHDOG_US: u64 = 200;

type Kind = (&'static str, fn(usize));

const KINDS: [Kind; 5] = [
    ("exits", exits),
    ("interrupts", interrupts),
    ("console", console),
    ("faults", faults),
    ("hypercalls", hypercalls),
];

fn main() {
    sysreg::irq_on();
    let begin = fdt::number("after_ms").unwrap_or(0);
    let now = mrs!("cntpct_el0") / time::ticks(1000);
    time::sleep(begin.saturating_sub(now) * 1000);
    println!("flood: begins");
    gic::enable(1, 0xa0);
    gic::enable(layout::VTIMER_INTID, 0xa0);
    if fdt::has_argument("watchdog") {
        let ticks = u32::try_from(time::ticks(WATCHDOG_US)).unwrap_or(1);
        io::write32(WATCHDOG_OFFSET, ticks);
        io::write32(WATCHDOG_CONTROL, 1);
    }
    let wanted = KINDS.map(|(name, _)| fdt::has_argument(name));
    for round in 0.. {
        for ((_, flood), wanted) in KINDS.iter().zip(wanted) {
            if wanted {
                flood(round);
            }
        }
        // A simulator that runs the cores in turns goes on with the next one.
        insn!("yield");
    }
}

/// Traps of registers and of the distributor.
fn exits(_: usize) {
    for _ in 0..TIMES {
        fault::discard(mrs!("actlr_el1"));
        fault::discard(io::read32(layout::GICD + 4));
        io::write32(layout::GICD + 0x104, 0);
    }
}

/// An SGI to itself and a timer that is late already.
fn interrupts(_: usize) {
    for _ in 0..TIMES {
        gic::clear_log(0);
        gic::send_sgi(1, 1);
        time::arm(0);
    }
}

fn console(round: usize) {
    println!("flood: round {round} of a neighbour that says much and means little");
}

/// Addresses with nothing behind them, and a page that was not used yet as long as there is one.
fn faults(round: usize) {
    let hole = fdt::ram_end() + 0x10_0000;
    for _ in 0..TIMES {
        let _ = fault::probe(|| fault::discard(io::read32(hole)));
    }
    let pages = (fdt::ram_end() - layout::RAM) / 4096 / 2;
    io::write32(fdt::ram_end() - 4096 * (1 + round % pages), 1);
}

/// Calls that are answered, that there are not, and that are the manager's.
fn hypercalls(_: usize) {
    for _ in 0..TIMES {
        hvc(psci::VERSION, [0; 3]);
        hvc(NO_FUNCTION, [0; 3]);
        hvc(MANAGERS, [1, 0, 0]);
    }
}
