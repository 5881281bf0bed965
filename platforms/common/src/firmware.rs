//! What a board's firmware says when it is asked.

use core::fmt;

use penumbra_board::revision;
use penumbra_board::uart::pl011_divisor;
use penumbra_core::Clock;
use penumbra_core::system::MAX_CLOCKS;

/// The rate of every console.
const BAUD: u32 = 115_200;
/// The clock of a PL011 where nobody says: the Raspberry Pi's firmware gives it this one, a model does not care.
const UART_HZ: u32 = 48_000_000;

/// The firmware's answers; 0 for what it did not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Firmware {
    /// Revision code of a Raspberry Pi.
    pub revision: u32,
    /// Clock of the cores, Hz.
    pub cores_hz: u32,
    /// Temperature, thousandths of a degree Celsius.
    pub millicelsius: u32,
    /// Clock of the PL011, Hz.
    pub uart_hz: u32,
    /// Clocks of devices, the PL011's included.
    pub clocks: [Clock; MAX_CLOCKS],
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All as u64: each type that is written takes its own code in the image.
        write!(
            f,
            "board revision {:x} ({} MiB), cores at {} MHz, {} C; clocks by number, in Hz:",
            u64::from(self.revision),
            u64::from(revision::mebibytes(self.revision).unwrap_or(0)),
            u64::from(self.cores_hz / 1_000_000),
            u64::from(self.millicelsius / 1000)
        )?;
        let known = self.clocks.iter().filter(|clock| clock.hz != 0);
        known.into_iter().try_for_each(|clock| {
            let (number, hz) = (u64::from(clock.number), u64::from(clock.hz));
            write!(f, " {number}={hz}")
        })
    }
}

/// What divides a PL011's clock of `hz`, 0 for one that nobody names, for the console's baud rate.
#[must_use]
pub fn uart_divisor(hz: u32) -> (u32, u32) {
    pl011_divisor(if hz == 0 { UART_HZ } else { hz }, BAUD)
}
