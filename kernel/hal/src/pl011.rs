//! PL011 (Arm DDI 0183 G). Transmission is polled; reception interrupts.

use tock_registers::register_bitfields;

use crate::mmio::Mmio;

const DR: usize = 0x00;
const FR: usize = 0x18;
const IBRD: usize = 0x24;
const FBRD: usize = 0x28;
const LCR_H: usize = 0x2c;
const CR: usize = 0x30;
const IFLS: usize = 0x34;
const IMSC: usize = 0x38;
const ICR: usize = 0x44;

register_bitfields![u32,
    Flag [TXFF OFFSET(5) NUMBITS(1) [], RXFE OFFSET(4) NUMBITS(1) [], BUSY OFFSET(3) NUMBITS(1) []],
    LineControl [FEN OFFSET(4) NUMBITS(1) [], WLEN OFFSET(5) NUMBITS(2) [EightBits = 3]],
    Control [UARTEN OFFSET(0) NUMBITS(1) [], TXE OFFSET(8) NUMBITS(1) [], RXE OFFSET(9) NUMBITS(1) []],
    Interrupt [RX OFFSET(4) NUMBITS(1) [], RT OFFSET(6) NUMBITS(1) []],
];

/// A PL011.
#[derive(Clone, Copy, Debug)]
pub struct Pl011 {
    registers: Mmio,
}

impl Pl011 {
    /// Takes a UART that firmware may have left enabled, sets 8N1 with FIFOs and enables it; the
    /// baud rate divisor stays as firmware set it, and is `divisor` (UARTIBRD, UARTFBRD) where firmware has set
    /// none. Interrupts are off.
    pub(crate) fn new(registers: Mmio, divisor: (u32, u32)) -> Self {
        let uart = Self { registers };
        let running = registers.read32(CR);
        if running & Control::UARTEN::SET.value != 0 {
            uart.wait_idle();
        }
        registers.write32(CR, 0);
        registers.write32(IMSC, 0);
        registers.write32(ICR, 0x7ff);
        if registers.read32(IBRD) == 0 {
            let (integer, fraction) = divisor;
            registers.write32(IBRD, integer);
            registers.write32(FBRD, fraction);
        }
        registers.write32(
            LCR_H,
            (LineControl::FEN::SET + LineControl::WLEN::EightBits).value,
        );
        // Receive interrupt at 1/8 full; the timeout interrupt brings the rest.
        registers.write32(IFLS, 0);
        let on = Control::UARTEN::SET + Control::TXE::SET + Control::RXE::SET;
        registers.write32(CR, on.value);
        uart
    }

    /// Lets received bytes interrupt.
    pub(crate) fn enable_receive_interrupt(self) {
        self.registers
            .write32(IMSC, (Interrupt::RX::SET + Interrupt::RT::SET).value);
    }

    fn wait_idle(self) {
        // A UART that never drains must not stop the boot.
        for _ in 0..100_000 {
            if self.registers.read32(FR) & Flag::BUSY::SET.value == 0 {
                return;
            }
        }
    }

    /// Sends a byte; whether there was room for it.
    pub(crate) fn send(self, byte: u8) -> bool {
        let room = self.registers.read32(FR) & Flag::TXFF::SET.value == 0;
        if room {
            self.registers.write32(DR, u32::from(byte));
        }
        room
    }

    /// Takes received bytes; returns how many. The interrupt is cleared first: a byte that arrives
    /// while this runs raises it again. Whoever gets a full buffer has to call again.
    pub(crate) fn read(self, bytes: &mut [u8]) -> usize {
        self.registers
            .write32(ICR, (Interrupt::RX::SET + Interrupt::RT::SET).value);
        let mut count = 0;
        for slot in bytes {
            if self.registers.read32(FR) & Flag::RXFE::SET.value != 0 {
                break;
            }
            *slot = (self.registers.read32(DR) & 0xff) as u8;
            count += 1;
        }
        count
    }
}
