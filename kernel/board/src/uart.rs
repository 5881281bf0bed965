//! Baud rates.

/// What divides a PL011's clock for a baud rate (Arm DDI 0183 G, 3.3.6): UARTIBRD and UARTFBRD, 64ths, so that 16 of
/// the result are one bit. Nearest to `baud`, and in the range that the registers have.
#[must_use]
pub fn pl011_divisor(clock_hz: u32, baud: u32) -> (u32, u32) {
    let (clock, baud) = (u64::from(clock_hz), u64::from(baud.max(1)));
    let nearest = clock.wrapping_mul(4).wrapping_add(baud / 2) / baud;
    // 1.0 to 65535.0.
    let divisor = nearest.clamp(64, 0xffff << 6) as u32;
    (divisor >> 6, divisor & 63)
}
