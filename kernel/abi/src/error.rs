//! Errors that a hypercall returns in X0.

/// Why a hypercall was refused. The value in X0 is the discriminant, sign-extended to 64 bits.
///
/// -1 to -3 have the meaning that SMCCC gives them (Arm DEN 0028, "Return codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
#[must_use]
pub enum Error {
    /// The caller may not make this call, or it does not exist.
    NotSupported = -1,
    /// The operation does not apply to this object.
    NotRequired = -2,
    /// An argument is out of range, misaligned or overlaps what exists.
    InvalidParameter = -3,
    /// No VM or vCPU has this number.
    NoSuchObject = -4,
    /// The VM's or vCPU's state does not allow the operation.
    BadState = -5,
    /// The board has no free frames of the wanted size.
    NoMemory = -6,
    /// A fixed table of EL2 is full.
    NoSlot = -7,
    /// The VM's quota is used up.
    QuotaExceeded = -8,
    /// The address is already mapped.
    AlreadyMapped = -9,
    /// The address is not mapped.
    NotMapped = -10,
    /// A table of the guest's serves at too many places.
    Crowded = -11,
    /// The VM's vCPUs could not be brought to a stop in time: nothing was done, and the call may be made again.
    Busy = -12,
}

impl Error {
    /// All errors, for tables and tests.
    pub const ALL: [Self; 12] = [
        Self::NotSupported,
        Self::NotRequired,
        Self::InvalidParameter,
        Self::NoSuchObject,
        Self::BadState,
        Self::NoMemory,
        Self::NoSlot,
        Self::QuotaExceeded,
        Self::AlreadyMapped,
        Self::NotMapped,
        Self::Crowded,
        Self::Busy,
    ];

    /// The value for X0.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self as i64).cast_unsigned()
    }

    /// Reads X0: `Ok` for 0, else the error. An unknown value reads as `NotSupported`.
    ///
    /// # Errors
    /// The error that `x0` stands for.
    pub fn check(x0: u64) -> Result<(), Self> {
        if x0 == 0 {
            return Ok(());
        }
        Err(Self::ALL
            .into_iter()
            .find(|e| e.to_bits() == x0)
            .unwrap_or(Self::NotSupported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_a_register() {
        for error in Error::ALL {
            assert_eq!(Error::check(error.to_bits()), Err(error));
        }
        assert_eq!(Error::check(0), Ok(()));
        assert_eq!(Error::check(17), Err(Error::NotSupported));
    }
}
