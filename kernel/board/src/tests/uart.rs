//! Divisors of a baud rate.

use crate::uart::pl011_divisor;

#[test]
fn divisors_are_the_nearest() {
    // DDI 0183 G, table 3-10: 14.7456 MHz divides without a rest.
    assert_eq!(pl011_divisor(14_745_600, 115_200), (8, 0));
    // The Raspberry Pi's firmware clocks it with 48 MHz, QEMU says 3 MHz.
    assert_eq!(pl011_divisor(48_000_000, 115_200), (26, 3));
    assert_eq!(pl011_divisor(3_000_000, 115_200), (1, 40));
    for hz in [1_000_003, 3_000_000, 24_000_000, 48_000_000, 250_000_000] {
        let (integer, fraction) = pl011_divisor(hz, 9600);
        let divisor = f64::from(integer) + f64::from(fraction) / 64.0;
        let baud = f64::from(hz) / (16.0 * divisor);
        assert!((baud / 9600.0 - 1.0).abs() < 0.005, "{hz}: {baud}");
    }
}

#[test]
fn what_the_registers_cannot_hold_is_the_nearest_that_they_can() {
    assert_eq!(pl011_divisor(0, 115_200), (1, 0));
    assert_eq!(pl011_divisor(1_000_000, 115_200), (1, 0));
    assert_eq!(pl011_divisor(u32::MAX, 0), (0xffff, 0));
}
