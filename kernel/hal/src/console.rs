//! The board's console: which UART it is, its lock, and the way around the lock.

use spin::mutex::SpinMutex;

use crate::mini_uart::MiniUart;
use crate::mmio::Mmio;
use crate::pl011::Pl011;

/// A UART that can be the console.
#[derive(Clone, Copy, Debug)]
pub enum Uart {
    /// Arm's PL011.
    Pl011(Pl011),
    /// The BCM2835's mini UART.
    Mini(MiniUart),
}

/// The board's console: one UART. Until the device tree says which, it may be two: whoever watches one of them must
/// not miss why the boot ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    /// What is read from, and written to.
    pub(crate) uart: Option<Uart>,
    /// What is written to as well.
    pub(crate) also: Option<Uart>,
}

/// The board's console; its lock keeps lines of different cores apart.
pub(crate) static CONSOLE: SpinMutex<Console> = SpinMutex::new(Console {
    uart: None,
    also: None,
});

impl Uart {
    /// Takes a PL011 by its registers and makes it ready. `divisor` is what firmware would have put into UARTIBRD and
    /// UARTFBRD, if it has not.
    #[must_use]
    pub fn pl011(registers: Mmio, divisor: (u32, u32)) -> Self {
        Self::Pl011(Pl011::new(registers, divisor))
    }

    /// Takes a mini UART by its registers and makes it ready.
    #[must_use]
    pub fn mini(registers: Mmio) -> Self {
        Self::Mini(MiniUart::new(registers))
    }

    /// Lets received bytes interrupt.
    pub(crate) fn enable_receive_interrupt(self) {
        match self {
            Self::Pl011(uart) => uart.enable_receive_interrupt(),
            Self::Mini(uart) => uart.enable_receive_interrupt(),
        }
    }

    /// Sends a byte; whether there was room for it.
    fn send(self, byte: u8) -> bool {
        match self {
            Self::Pl011(uart) => uart.send(byte),
            Self::Mini(uart) => uart.send(byte),
        }
    }

    /// Sends bytes as they are, as many as there is room for; returns how many.
    pub(crate) fn offer(self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| self.send(**byte)).count()
    }

    /// Sends bytes as they are, waiting for room.
    fn write(self, bytes: &[u8]) {
        for byte in bytes {
            while !self.send(*byte) {
                core::hint::spin_loop();
            }
        }
    }

    /// Takes received bytes; returns how many. Whoever gets a full buffer has to call again.
    pub(crate) fn read(self, bytes: &mut [u8]) -> usize {
        match self {
            Self::Pl011(uart) => uart.read(bytes),
            Self::Mini(uart) => uart.read(bytes),
        }
    }
}

/// The console without its lock: for a core that dies, or that holds it itself.
pub(crate) fn emergency() -> Console {
    for _ in 0..1_000_000 {
        if let Some(console) = CONSOLE.try_lock() {
            return *console;
        }
        core::hint::spin_loop();
    }
    // Its holder is stuck: this line is worth more than the other's.
    // SAFETY: the value is a plain copy that is written at boot, on one core.
    unsafe { *CONSOLE.as_mut_ptr() }
}

impl Console {
    /// Sends bytes as they are, waiting for room.
    pub(crate) fn write(self, bytes: &[u8]) {
        for uart in [self.uart, self.also].into_iter().flatten() {
            uart.write(bytes);
        }
    }

    pub(crate) fn write_hex(self, value: u64) {
        self.write(b"0x");
        for shift in (0..16).rev() {
            let digit = ((value >> (4 * shift)) & 0xf) as u8;
            self.write(&[if digit < 10 {
                b'0' + digit
            } else {
                b'a' + digit - 10
            }]);
        }
    }
}
