//! The PL011 that a guest sees (Arm DDI 0183 G, "Programmers Model"): a UART whose two ends are rings
//! that the manager drains and fills.
//!
//! Pure: no interrupt is raised here, [`Pl011::level`] says what the line should be.
//!
//! **Back-pressure.** When the manager does not drain the output, the guest first sees a full
//! transmit FIFO and waits, so nothing is lost to a manager that is merely slow. A manager that is
//! dead must not stop the guest for ever: once the ring has been full for [`PATIENCE_MS`], the device
//! counts itself *stalled*, and from then on a byte that does not fit pushes out the oldest one. Lost bytes
//! are counted ([`Pl011::lost_bytes`]). The next read by the manager ends the stall.

#[cfg(test)]
mod tests;

/// How long a guest waits for the manager to drain its output.
pub(crate) const PATIENCE_MS: u64 = 100;

/// Bytes of output that wait for the manager.
const TX_BYTES: usize = 2048;
/// Bytes of input that wait for the guest.
const RX_BYTES: usize = 256;

mod reg {
    pub(super) const DR: u64 = 0x00;
    pub(super) const FR: u64 = 0x18;
    pub(super) const ILPR: u64 = 0x20;
    pub(super) const IBRD: u64 = 0x24;
    pub(super) const FBRD: u64 = 0x28;
    pub(super) const LCR_H: u64 = 0x2c;
    pub(super) const CR: u64 = 0x30;
    pub(super) const IFLS: u64 = 0x34;
    pub(super) const IMSC: u64 = 0x38;
    pub(super) const RIS: u64 = 0x3c;
    pub(super) const MIS: u64 = 0x40;
    pub(super) const ICR: u64 = 0x44;
    pub(super) const DMACR: u64 = 0x48;
    pub(super) const PERIPH_ID0: u64 = 0xfe0;
}

/// UARTFR.
mod flag {
    pub(super) const RXFE: u32 = 1 << 4;
    pub(super) const TXFF: u32 = 1 << 5;
    pub(super) const RXFF: u32 = 1 << 6;
    pub(super) const TXFE: u32 = 1 << 7;
    /// CTS, DSR and DCD: the other side is always there.
    pub(super) const MODEM: u32 = 0b111;
}

/// Offset of UARTDR.
pub(crate) const DATA: u64 = reg::DR;
/// Offset of UARTFR.
pub(crate) const FLAGS: u64 = reg::FR;
/// UARTFR while there is room for output and no input.
pub(crate) const CALM_FLAGS: u32 = flag::MODEM | flag::TXFE | flag::RXFE;

/// Interrupts in UARTIMSC, UARTRIS, UARTMIS and UARTICR.
mod interrupt {
    pub(super) const RX: u32 = 1 << 4;
    pub(super) const TX: u32 = 1 << 5;
    pub(super) const ALL: u32 = 0x7ff;
}

/// Loop back enable in UARTCR.
const CR_LBE: u32 = 1 << 7;
/// Reset value of UARTCR: transmit and receive enabled, UART disabled.
const CR_RESET: u32 = 0x300;
/// Reset value of UARTIFLS: both FIFOs at half.
const IFLS_RESET: u32 = 0x12;
/// UARTPeriphID0 to 3 (revision r1p5) and UARTPCellID0 to 3.
const IDENTIFICATION: [u32; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// A ring of bytes.
#[derive(Debug)]
struct Ring<const N: usize> {
    bytes: [u8; N],
    /// Index of the oldest byte, below N.
    start: usize,
    /// Number of bytes held, at most N.
    length: usize,
}

impl<const N: usize> Ring<N> {
    const EMPTY: Self = Self {
        bytes: [0; N],
        start: 0,
        length: 0,
    };

    #[inline]
    fn push(&mut self, byte: u8) -> bool {
        const { assert!(N.is_power_of_two()) };
        if self.length == N {
            return false;
        }
        let at = self.start.wrapping_add(self.length) & (N - 1);
        if let Some(slot) = self.bytes.get_mut(at) {
            *slot = byte;
        }
        self.length = self.length.wrapping_add(1);
        true
    }

    #[inline]
    fn pop(&mut self) -> Option<u8> {
        if self.length == 0 {
            return None;
        }
        let byte = self.bytes.get(self.start).copied();
        self.start = self.start.wrapping_add(1) & (N - 1);
        self.length = self.length.wrapping_sub(1);
        byte
    }

    const fn is_empty(&self) -> bool {
        self.length == 0
    }

    const fn is_full(&self) -> bool {
        self.length == N
    }
}

/// The device.
#[derive(Debug)]
pub(crate) struct Pl011 {
    tx: Ring<TX_BYTES>,
    rx: Ring<RX_BYTES>,
    /// Raw interrupts that are latched; receive is a level and not among them.
    latched: u32,
    mask: u32,
    control: u32,
    line_control: u32,
    fifo_levels: u32,
    divisor: [u32; 2],
    low_power: u32,
    dma: u32,
    /// Counter value since when the output has been full; 0 while it is not.
    full_since: u64,
    stalled: bool,
    lost: u64,
}

impl Pl011 {
    /// A device without power: all zero. [`Self::reset`] brings it to its reset state.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self {
            tx: Ring::EMPTY,
            rx: Ring::EMPTY,
            latched: 0,
            mask: 0,
            control: 0,
            line_control: 0,
            fifo_levels: 0,
            divisor: [0; 2],
            low_power: 0,
            dma: 0,
            full_since: 0,
            stalled: false,
            lost: 0,
        }
    }

    /// The state after reset, nothing received and nothing to send.
    pub(crate) fn reset(&mut self) {
        *self = Self {
            control: CR_RESET,
            fifo_levels: IFLS_RESET,
            ..Self::new()
        };
    }

    /// What a guest reads at `offset`. Registers that do not exist read as zero.
    #[inline]
    pub(crate) fn read(&mut self, offset: u64, time: impl FnOnce() -> Time) -> u32 {
        match offset {
            reg::FR => self.flags(time),
            reg::DR => self.rx.pop().map_or(0, u32::from),
            _ => self.read_other(offset),
        }
    }

    fn read_other(&self, offset: u64) -> u32 {
        match offset {
            reg::ILPR => self.low_power,
            reg::IBRD => self.divisor[0],
            reg::FBRD => self.divisor[1],
            reg::LCR_H => self.line_control,
            reg::CR => self.control,
            reg::IFLS => self.fifo_levels,
            reg::IMSC => self.mask,
            reg::RIS => self.raw(),
            reg::MIS => self.raw() & self.mask,
            reg::DMACR => self.dma,
            reg::PERIPH_ID0.. => {
                let n = usize::try_from(offset.wrapping_sub(reg::PERIPH_ID0) >> 2).unwrap_or(8);
                IDENTIFICATION.get(n).copied().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// What a guest's write does. Registers that do not exist ignore it.
    #[inline]
    pub(crate) fn write(&mut self, offset: u64, value: u32, time: impl FnOnce() -> Time) {
        if offset == reg::DR {
            self.transmit(value.to_le_bytes()[0], time);
        } else {
            self.write_other(offset, value);
        }
    }

    fn write_other(&mut self, offset: u64, value: u32) {
        match offset {
            reg::ILPR => self.low_power = value & 0xff,
            reg::IBRD => self.divisor[0] = value & 0xffff,
            reg::FBRD => self.divisor[1] = value & 0x3f,
            reg::LCR_H => self.line_control = value & 0xff,
            reg::CR => self.control = value & 0xff87,
            reg::IFLS => self.fifo_levels = value & 0x3f,
            reg::IMSC => self.mask = value & interrupt::ALL,
            reg::ICR => self.latched &= !value,
            reg::DMACR => self.dma = value & 0b111,
            _ => {}
        }
    }

    /// The interrupt line.
    #[inline]
    #[must_use]
    pub(crate) const fn level(&self) -> bool {
        self.raw() & self.mask != 0
    }

    /// Gives bytes to the guest; returns how many fitted.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| self.rx.push(**byte)).count()
    }

    /// Takes output away; returns how many bytes.
    pub(crate) fn drain(&mut self, out: &mut [u8]) -> usize {
        let mut count = 0usize;
        for (slot, byte) in out.iter_mut().zip(core::iter::from_fn(|| self.tx.pop())) {
            *slot = byte;
            count = count.wrapping_add(1);
        }
        if self.full_since != 0 && count != 0 {
            self.latched |= interrupt::TX;
            self.full_since = 0;
        }
        self.stalled &= count == 0;
        count
    }

    /// Whether output waits.
    #[must_use]
    pub(crate) const fn has_output(&self) -> bool {
        !self.tx.is_empty()
    }

    /// Bytes of output that were lost because nobody drained them.
    #[must_use]
    pub(crate) const fn lost_bytes(&self) -> u64 {
        self.lost
    }

    /// Looks at the time: output that has been full for too long stops holding the guest up.
    pub(crate) fn check_stall(&mut self, time: Time) {
        if self.tx.is_full() && !self.stalled && self.out_of_patience(time) {
            self.stalled = true;
            self.latched |= interrupt::TX;
        }
    }

    const fn out_of_patience(&self, time: Time) -> bool {
        let patience = (time.hz / 1000).saturating_mul(PATIENCE_MS);
        time.now.saturating_sub(self.full_since) > patience
    }

    /// Whether UARTFR reads as [`CALM_FLAGS`]: there is room for output, and no input.
    #[inline]
    #[must_use]
    pub(crate) const fn is_calm(&self) -> bool {
        !self.tx.is_full() && self.rx.is_empty()
    }

    /// Sends `byte`, if nothing else changes by that: there is output before and room after it, and the
    /// transmit interrupt is pending as it is. False, and nothing done, where it is not so.
    #[inline]
    pub(crate) fn append(&mut self, byte: u8) -> bool {
        let plain = self.control & CR_LBE == 0 && self.latched & interrupt::TX != 0;
        // An empty ring wraps to the far end of the range.
        let fits = self.tx.length.wrapping_sub(1) < TX_BYTES - 2;
        plain && fits && self.tx.push(byte)
    }

    #[inline]
    fn flags(&mut self, time: impl FnOnce() -> Time) -> u32 {
        let mut flags = flag::MODEM;
        if self.tx.is_full() {
            self.check_stall(time());
        }
        flags |= if self.tx.is_full() && !self.stalled {
            flag::TXFF
        } else {
            flag::TXFE
        };
        if self.rx.is_empty() {
            flags |= flag::RXFE;
        } else if self.rx.is_full() {
            flags |= flag::RXFF;
        }
        flags
    }

    #[inline]
    const fn raw(&self) -> u32 {
        if self.rx.is_empty() {
            self.latched
        } else {
            self.latched | interrupt::RX
        }
    }

    #[inline]
    fn transmit(&mut self, byte: u8, time: impl FnOnce() -> Time) {
        if self.control & CR_LBE != 0 {
            self.rx.push(byte);
            self.latched |= interrupt::TX;
            return;
        }
        if self.tx.is_full() {
            // The guest did not look at TXFF, or it does not have to any more.
            self.lost = self.lost.saturating_add(1);
            if !self.stalled {
                return;
            }
            self.tx.pop();
        }
        self.tx.push(byte);
        if self.tx.is_full() && !self.stalled {
            self.full_since = time().now.max(1);
            self.latched &= !interrupt::TX;
        } else {
            self.latched |= interrupt::TX;
        }
    }
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

/// A moment, for what must not last for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    /// CNTPCT_EL0.
    pub(crate) now: u64,
    /// CNTFRQ_EL0.
    pub(crate) hz: u64,
}
