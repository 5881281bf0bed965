//! The mini UART of the BCM2835 and its successors (BCM2711 ARM Peripherals, "Auxiliaries: UART1 &
//! SPI1, SPI2"). Its registers look like a 16550's; the clock of its baud rate is the VPU's, so the
//! divisor stays as firmware set it. Transmission is polled; reception interrupts.

use crate::mmio::Mmio;

const IO: usize = 0x00;
const IER: usize = 0x04;
const IIR: usize = 0x08;
const LCR: usize = 0x0c;
const LSR: usize = 0x14;
const CNTL: usize = 0x20;

/// LCR: eight bits.
const EIGHT_BITS: u32 = 3;
/// CNTL: receiver and transmitter on, no flow control.
const BOTH_ON: u32 = 3;
/// IIR on writing: clear the receive FIFO.
const CLEAR_RECEIVED: u32 = 1 << 1;
/// IER: received data. Bit 2 has to be set with it, whatever the manual says of it: without it the
/// silicon raises no receive interrupt.
const RECEIVED: u32 = 1 | 1 << 2;
const LSR_DATA: u32 = 1;
const LSR_ROOM: u32 = 1 << 5;

/// A mini UART.
#[derive(Clone, Copy, Debug)]
pub struct MiniUart {
    registers: Mmio,
}

impl MiniUart {
    /// Takes a UART that firmware has enabled and clocked. Interrupts are off.
    pub(crate) fn new(registers: Mmio) -> Self {
        registers.write32(IER, 0);
        registers.write32(LCR, EIGHT_BITS);
        registers.write32(IIR, CLEAR_RECEIVED);
        registers.write32(CNTL, BOTH_ON);
        Self { registers }
    }

    pub(crate) fn enable_receive_interrupt(self) {
        self.registers.write32(IER, RECEIVED);
    }

    /// Sends a byte; whether there was room for it.
    pub(crate) fn send(self, byte: u8) -> bool {
        let room = self.registers.read32(LSR) & LSR_ROOM != 0;
        if room {
            self.registers.write32(IO, u32::from(byte));
        }
        room
    }

    /// The interrupt is a level that follows the FIFO: nothing has to be cleared.
    pub(crate) fn read(self, bytes: &mut [u8]) -> usize {
        let mut count = 0;
        for slot in bytes {
            if self.registers.read32(LSR) & LSR_DATA == 0 {
                break;
            }
            *slot = (self.registers.read32(IO) & 0xff) as u8;
            count += 1;
        }
        count
    }
}
