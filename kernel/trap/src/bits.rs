//! Bit fields of a register value.

/// Bits `high..=low` of `value`, shifted down.
#[inline]
pub(crate) const fn field(value: u64, high: u32, low: u32) -> u64 {
    (value >> low) & (u64::MAX >> (63 - (high - low)))
}

/// The low byte of a field that has at most eight bits.
#[inline]
pub(crate) const fn byte(value: u64, high: u32, low: u32) -> u8 {
    debug_assert!(high - low < 8);
    field(value, high, low).to_le_bytes()[0]
}

/// Whether bit `number` of `value` is set.
#[inline]
pub(crate) const fn bit(value: u64, number: u32) -> bool {
    (value >> number) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_shifted_down_and_masked() {
        assert_eq!(field(u64::MAX, 63, 0), u64::MAX);
        assert_eq!(field(0xf0, 7, 4), 0xf);
        assert_eq!(byte(0xabcd, 15, 8), 0xab);
        assert!(bit(1 << 63, 63) && !bit(1 << 63, 62));
    }
}
