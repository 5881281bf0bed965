//! The PL011: identification, and its interrupt as a level.

use payload::rt::gic::{self, Bits};
use payload::rt::layout::{UART, UART_INTID};
use payload::rt::{check, io, time};

use super::Machine;

const IMSC: usize = UART + 0x38;
const RIS: usize = UART + 0x3c;
const MIS: usize = UART + 0x40;
const ICR: usize = UART + 0x44;
const TX: u32 = 1 << 5;

pub(crate) fn run(_: Machine) {
    let ids = [0xfe0, 0xfe4, 0xff0, 0xff4, 0xff8, 0xffc].map(|o| io::read32(UART + o) & 0xff);
    check::that("uart.ids", ids == [0x11, 0x10, 0x0d, 0xf0, 0x05, 0xb1], ids);
    transmit_interrupt();
}

/// The transmit interrupt comes while it is unmasked, and again if the handler leaves it so.
fn transmit_interrupt() {
    fn handler(acknowledged: u32) {
        if gic::taken(0) >= 3 {
            io::write32(IMSC, 0);
        }
        gic::end(acknowledged);
    }
    gic::clear_log(0);
    gic::set_hook(Some(handler));
    gic::set_edge(UART_INTID, false);
    gic::enable(UART_INTID, 0xa0);
    payload::print!(" \n");
    check::that("uart.raw", io::read32(RIS) & TX != 0, io::read32(RIS));
    check::equal("uart.masked", io::read32(MIS) & TX, 0);
    io::write32(IMSC, TX);
    let came = time::wait_for(300_000, || gic::taken(0) >= 3);
    time::delay(300);
    check::that("uart.level", came && gic::taken(0) == 3, gic::taken(0));
    check::that("uart.gone", !gic::test(Bits::SetPending, UART_INTID), ());
    io::write32(ICR, TX);
    check::equal("uart.cleared", io::read32(RIS) & TX, 0);
    gic::set_hook(None);
    gic::reset(UART_INTID);
}
