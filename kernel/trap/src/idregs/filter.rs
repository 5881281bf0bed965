//! The builder with which an allow-list is written down.

use crate::bits::byte;

/// A register value that starts at zero and takes over one allowed field after the other. Fields
/// have four bits and are named by their lowest.
#[derive(Clone, Copy)]
pub(super) struct Filter {
    hardware: u64,
    guest: u64,
}

impl Filter {
    /// Starts with nothing allowed.
    pub(super) const fn of(hardware: u64) -> Self {
        Self { hardware, guest: 0 }
    }

    /// Takes over an unsigned field, up to the value `highest`.
    pub(super) const fn at_most(self, low: u32, highest: u8) -> Self {
        let value = self.hardware_field(low);
        self.fixed(low, if value < highest { value } else { highest })
    }

    /// Takes over a signed field, where 0b1000 and above mean "not implemented" and are passed as
    /// 0b1111; others up to the value `highest`.
    pub(super) const fn signed_at_most(self, low: u32, highest: u8) -> Self {
        if self.hardware_field(low) >= 8 {
            self.fixed(low, 0xf)
        } else {
            self.at_most(low, highest)
        }
    }

    /// Takes over a field as it is: it counts something, or every value is understood.
    pub(super) const fn pass(self, low: u32) -> Self {
        self.at_most(low, 0xf)
    }

    /// Takes over several fields as they are.
    pub(super) const fn pass_all(mut self, lows: &[u32]) -> Self {
        let mut rest = lows;
        while let [low, tail @ ..] = rest {
            self = self.pass(*low);
            rest = tail;
        }
        self
    }

    /// Gives a field a value of EL2's choice.
    pub(super) const fn fixed(self, low: u32, value: u8) -> Self {
        Self {
            guest: self.guest | (value as u64) << low,
            ..self
        }
    }

    /// The guest's value.
    pub(super) const fn value(self) -> u64 {
        self.guest
    }

    const fn hardware_field(self, low: u32) -> u8 {
        byte(self.hardware, low + 3, low)
    }
}
