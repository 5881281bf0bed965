//! The PL011, line by line from any vCPU.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use super::{elsewhere, io, layout, psci};

const DATA: usize = 0;
const FLAGS: usize = 0x18;
const LINE_CONTROL: usize = 0x2c;
const CONTROL: usize = 0x30;
const TRANSMIT_FULL: u32 = 1 << 5;
const RECEIVE_EMPTY: u32 = 1 << 4;

static LOCKED: AtomicBool = AtomicBool::new(false);

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            put(byte);
        }
        Ok(())
    }
}

fn put(byte: u8) {
    let uart = elsewhere::uart();
    while io::read32(uart + FLAGS) & TRANSMIT_FULL != 0 {
        core::hint::spin_loop();
    }
    io::write32(uart + DATA, u32::from(byte));
}

/// Sets the UART up: 8 bits, FIFO, transmitter and receiver on. A Generic UART (Arm DEN0029, "SBSA Generic UART") is ready as
/// it is and has no such registers.
pub fn init() {
    let uart = elsewhere::uart();
    if uart == layout::UART {
        io::write32(uart + LINE_CONTROL, 0x70);
        io::write32(uart + CONTROL, 0x301);
    }
}

/// A received byte, if there is one.
#[must_use]
pub fn get() -> Option<u8> {
    let uart = elsewhere::uart();
    (io::read32(uart + FLAGS) & RECEIVE_EMPTY == 0).then(|| io::read32(uart + DATA) as u8)
}

/// Writes formatted text; used by [`print!`](crate::print) and [`println!`](crate::println).
pub fn write(text: fmt::Arguments<'_>) {
    while LOCKED.swap(true, Ordering::Acquire) {
        core::hint::spin_loop();
    }
    // A formatter that fails would be a bug of the caller; there is nobody to tell.
    let _ = Uart.write_fmt(text);
    LOCKED.store(false, Ordering::Release);
}

/// Takes the console from whoever holds it, for a last message.
pub fn break_lock() {
    LOCKED.store(false, Ordering::Release);
}

/// Ends the payload by PSCI SYSTEM_OFF.
pub fn power_off() -> ! {
    psci::hvc(psci::SYSTEM_OFF, [0; 3]);
    println!("FAIL system-off returned");
    loop {
        crate::insn!("wfi");
    }
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::rt::console::write(format_args!($($arg)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::rt::console::write(format_args!("{}\n", format_args!($($arg)*))) };
}
pub use println;
