//! SMC Calling Convention: which service an HVC or SMC asks for, and the answers that need no state.
//!
//! Source: Arm DEN 0028 G. The function identifier is W0: bits 63:32 of X0 are ignored. Calls of the
//! SMC32 convention take 32-bit arguments, so [`Convention::argument`] drops bits 63:32 of theirs.
//! HVC and SMC mean the same to a guest; a non-zero immediate is reserved and answered with
//! [`NOT_SUPPORTED`].

use penumbra_abi::Call;

use crate::psci;

/// X0 for "not supported": -1, sign-extended, right for callers of either convention.
pub const NOT_SUPPORTED: u64 = u64::MAX;
/// X0 for "not required": -2.
pub const NOT_REQUIRED: u64 = u64::MAX - 1;
/// X0 for "invalid parameters": -3.
pub const INVALID_PARAMETER: u64 = u64::MAX - 2;
/// X0 of `SMCCC_ARCH_FEATURES` for a workaround that this PE does not need.
const UNAFFECTED: u64 = 1;

/// The version reported: 1.1, the first with `SMCCC_ARCH_FEATURES` and without the need to preserve
/// an SVE hint in bit 16 of the identifier.
pub const VERSION: u64 = 0x1_0001;

/// UUID that `VENDOR_HYP_CALL_UID` returns: 5cc2b8c0-43f5-4a9d-9c0e-70656e756d62. The first byte is
/// in the lowest bits of the first word (DEN 0028 G, 6.2).
pub const VENDOR_UID: [u32; 4] = [
    u32::from_le_bytes([0x5c, 0xc2, 0xb8, 0xc0]),
    u32::from_le_bytes([0x43, 0xf5, 0x4a, 0x9d]),
    u32::from_le_bytes([0x9c, 0x0e, 0x70, 0x65]),
    u32::from_le_bytes([0x6e, 0x75, 0x6d, 0x62]),
];

/// How wide the arguments of a call are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Convention {
    /// 32 bits.
    Smc32,
    /// 64 bits.
    Smc64,
}

impl Convention {
    /// The convention of a fast call: bit 30 of the identifier.
    #[inline]
    #[must_use]
    pub const fn of(id: u32) -> Self {
        if id & WIDE != 0 {
            Self::Smc64
        } else {
            Self::Smc32
        }
    }

    /// What the callee sees of an argument register.
    #[inline]
    #[must_use]
    pub const fn argument(self, register: u64) -> u64 {
        match self {
            Self::Smc32 => register & 0xffff_ffff,
            Self::Smc64 => register,
        }
    }
}

/// Bit 30 of an identifier: SMC64.
pub(crate) const WIDE: u32 = 1 << 30;

/// Identifiers of DEN 0028 G and of the documents that it refers to.
mod id {
    pub(super) const VERSION: u32 = 0x8000_0000;
    pub(super) const ARCH_FEATURES: u32 = 0x8000_0001;
    pub(super) const ARCH_SOC_ID: u32 = 0x8000_0002;
    pub(super) const ARCH_SOC_ID_64: u32 = 0xc000_0002;
    pub(super) const WORKAROUND_1: u32 = 0x8000_8000;
    pub(super) const WORKAROUND_2: u32 = 0x8000_7fff;
    pub(super) const WORKAROUND_3: u32 = 0x8000_3fff;
    /// DEN 0098, the TRNG interface: VERSION, FEATURES, GET_UUID, RND32, RND64.
    pub(super) const TRNG_FIRST: u32 = 0x8400_0050;
    pub(super) const TRNG_LAST: u32 = 0x8400_0053;
    pub(super) const TRNG_RND64: u32 = 0xc400_0053;
    pub(super) const VENDOR_CALL_COUNT: u32 = 0x8600_ff00;
    pub(super) const VENDOR_UID: u32 = 0x8600_ff01;
    pub(super) const VENDOR_REVISION: u32 = 0x8600_ff03;
}

/// A service that EL2 knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// A hypercall. Only the manager may make it, and with HVC only.
    Hypercall(Call),
    /// PSCI; decode the arguments with [`psci::Request::decode`].
    Psci(psci::Function, Convention),
    /// `SMCCC_VERSION`.
    Version,
    /// `SMCCC_ARCH_FEATURES`.
    ArchFeatures,
    /// `SMCCC_ARCH_SOC_ID`.
    SocId,
    /// `SMCCC_ARCH_WORKAROUND_1`, 2 or 3.
    Workaround(Workaround),
    /// The TRNG interface.
    Trng,
    /// `VENDOR_HYP_CALL_COUNT`, which is deprecated.
    VendorCallCount,
    /// `VENDOR_HYP_CALL_UID`.
    VendorUid,
    /// `VENDOR_HYP_REVISION`.
    VendorRevision,
    /// No service of ours.
    Unknown,
}

/// A firmware workaround for speculation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workaround {
    /// CVE-2017-5715: invalidates branch predictors.
    One,
    /// CVE-2018-3639: speculative store bypass.
    Two,
    /// CVE-2022-23960: invalidates branch history as well.
    Three,
}

/// What EL2 can say about one workaround.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mitigation {
    /// Nothing is known, or nothing is done.
    #[default]
    NotSupported,
    /// A call does it.
    Available,
    /// No PE that the guest may run on needs it.
    NotNeeded,
}

/// What EL2 can say about the workarounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mitigations {
    /// For [`Workaround::One`].
    pub one: Mitigation,
    /// For [`Workaround::Two`].
    pub two: Mitigation,
    /// For [`Workaround::Three`].
    pub three: Mitigation,
}

impl Mitigations {
    const fn get(&self, workaround: Workaround) -> Mitigation {
        match workaround {
            Workaround::One => self.one,
            Workaround::Two => self.two,
            Workaround::Three => self.three,
        }
    }
}

impl Service {
    /// The service that W0 names; bits above 31:0 of `x0` are ignored.
    #[inline]
    #[must_use]
    pub fn decode(x0: u64) -> Self {
        let id = (x0 & 0xffff_ffff) as u32;
        if let Some((function, convention)) = psci::Function::decode(id) {
            return Self::Psci(function, convention);
        }
        match id {
            id::VERSION => Self::Version,
            id::ARCH_FEATURES => Self::ArchFeatures,
            id::ARCH_SOC_ID | id::ARCH_SOC_ID_64 => Self::SocId,
            id::WORKAROUND_1 => Self::Workaround(Workaround::One),
            id::WORKAROUND_2 => Self::Workaround(Workaround::Two),
            id::WORKAROUND_3 => Self::Workaround(Workaround::Three),
            id::TRNG_FIRST..=id::TRNG_LAST | id::TRNG_RND64 => Self::Trng,
            id::VENDOR_CALL_COUNT => Self::VendorCallCount,
            id::VENDOR_UID => Self::VendorUid,
            id::VENDOR_REVISION => Self::VendorRevision,
            other => Call::from_id(other).map_or(Self::Unknown, Self::Hypercall),
        }
    }

    /// X0 to X3 of the answer, where it depends on nothing but the argument X1 and what is known of
    /// the board. `None` for [`Service::Hypercall`] and [`Service::Psci`], which need state, and for
    /// a workaround that is [`Mitigation::Available`]: it has to be done.
    #[must_use]
    pub fn stateless_reply(self, x1: u64, mitigations: &Mitigations) -> Option<[u64; 4]> {
        let x0 = match self {
            Self::Hypercall(_) | Self::Psci(..) => return None,
            Self::Version => VERSION,
            Self::ArchFeatures => arch_features(x1, mitigations),
            Self::Workaround(workaround) => match mitigations.get(workaround) {
                Mitigation::Available => return None,
                // The call is safe on a PE that does not need it (DEN 0028 G, 7.7.4).
                Mitigation::NotNeeded => 0,
                Mitigation::NotSupported => NOT_SUPPORTED,
            },
            Self::VendorUid => return Some(VENDOR_UID.map(u64::from)),
            Self::VendorRevision => {
                let version = penumbra_abi::ABI_VERSION;
                return Some([version.major.into(), version.minor.into(), 0, 0]);
            }
            Self::SocId | Self::Trng | Self::VendorCallCount | Self::Unknown => NOT_SUPPORTED,
        };
        Some([x0, 0, 0, 0])
    }
}

/// `SMCCC_ARCH_FEATURES` (DEN 0028 G, 7.3): X1 is the identifier asked about.
fn arch_features(x1: u64, mitigations: &Mitigations) -> u64 {
    match Service::decode(x1) {
        Service::Version | Service::ArchFeatures => 0,
        Service::Workaround(workaround) => match (mitigations.get(workaround), workaround) {
            (Mitigation::NotSupported, _) => NOT_SUPPORTED,
            (Mitigation::Available, _) => 0,
            (Mitigation::NotNeeded, Workaround::Two) => NOT_REQUIRED,
            (Mitigation::NotNeeded, _) => UNAFFECTED,
        },
        _ => NOT_SUPPORTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Mitigations = Mitigations {
        one: Mitigation::NotSupported,
        two: Mitigation::NotSupported,
        three: Mitigation::NotSupported,
    };

    fn reply(x0: u64, x1: u64) -> [u64; 4] {
        Service::decode(x0).stateless_reply(x1, &NOTHING).unwrap()
    }

    #[test]
    fn every_row_of_the_identifier_table() {
        let rows = [
            (0x8000_0000, Service::Version),
            (0x8000_0001, Service::ArchFeatures),
            (0x8000_0002, Service::SocId),
            (0xc000_0002, Service::SocId),
            (0x8000_8000, Service::Workaround(Workaround::One)),
            (0x8000_7fff, Service::Workaround(Workaround::Two)),
            (0x8000_3fff, Service::Workaround(Workaround::Three)),
            (0x8400_0050, Service::Trng),
            (0x8400_0051, Service::Trng),
            (0x8400_0052, Service::Trng),
            (0x8400_0053, Service::Trng),
            (0xc400_0053, Service::Trng),
            (0x8600_ff00, Service::VendorCallCount),
            (0x8600_ff01, Service::VendorUid),
            (0x8600_ff03, Service::VendorRevision),
            (
                0x8400_0000,
                Service::Psci(psci::Function::Version, Convention::Smc32),
            ),
            (
                0xc400_0003,
                Service::Psci(psci::Function::CpuOn, Convention::Smc64),
            ),
            // Yielding calls, wrong widths, other owners.
            (0x0000_0000, Service::Unknown),
            (0x0400_0000, Service::Unknown),
            (0xc000_0000, Service::Unknown),
            (0xc400_0050, Service::Unknown),
            (0x8100_0000, Service::Unknown),
            (0xc500_0020, Service::Unknown),
            (0xffff_ffff, Service::Unknown),
        ];
        for (id, service) in rows {
            assert_eq!(Service::decode(id), service, "{id:#x}");
            // Only W0 counts.
            assert_eq!(Service::decode(id | 0xdead_beef << 32), service);
        }
        for call in Call::ALL {
            assert_eq!(Service::decode(call.id().into()), Service::Hypercall(call));
        }
    }

    #[test]
    fn answers_without_state() {
        assert_eq!(reply(0x8000_0000, 0), [VERSION, 0, 0, 0]);
        assert_eq!(reply(0x8000_0001, 0x8000_0000)[0], 0);
        assert_eq!(reply(0x8000_0001, 0x8000_0001)[0], 0);
        // PSCI, TRNG and SOC_ID are not features of the architecture calls here.
        for feature in [0x8000_0002, 0x8400_0000, 0x8400_0050, 0x8000_8000, 0x1234] {
            assert_eq!(
                reply(0x8000_0001, feature)[0],
                NOT_SUPPORTED,
                "{feature:#x}"
            );
        }
        for id in [
            0x8000_0002,
            0x8400_0050,
            0xc400_0053,
            0x8600_ff00,
            0x8000_8000,
            0xffff_ffff,
        ] {
            assert_eq!(reply(id, 0), [NOT_SUPPORTED, 0, 0, 0], "{id:#x}");
        }
        assert_eq!(reply(0x8600_ff01, 0), VENDOR_UID.map(u64::from));
        let penumbra_abi::AbiVersion { major, minor } = penumbra_abi::ABI_VERSION;
        assert_eq!(reply(0x8600_ff03, 0), [major.into(), minor.into(), 0, 0]);
        assert_eq!(
            Service::decode(0x8400_0000).stateless_reply(0, &NOTHING),
            None
        );
    }

    #[test]
    fn workarounds_are_told_as_they_are() {
        let mixed = Mitigations {
            one: Mitigation::Available,
            two: Mitigation::NotNeeded,
            three: Mitigation::NotNeeded,
        };
        let ask = |id| Service::ArchFeatures.stateless_reply(id, &mixed).unwrap()[0];
        assert_eq!(ask(0x8000_8000), 0);
        assert_eq!(ask(0x8000_7fff), NOT_REQUIRED);
        assert_eq!(ask(0x8000_3fff), 1);
        assert_eq!(
            Service::decode(0x8000_8000).stateless_reply(0, &mixed),
            None
        );
        assert_eq!(
            Service::decode(0x8000_3fff).stateless_reply(0, &mixed),
            Some([0; 4])
        );
    }

    #[test]
    fn arguments_have_the_width_of_the_convention() {
        assert_eq!(Convention::of(0x8400_0003).argument(u64::MAX), 0xffff_ffff);
        assert_eq!(Convention::of(0xc400_0003).argument(u64::MAX), u64::MAX);
    }

    #[test]
    fn total_over_the_identifiers() {
        let step = if cfg!(debug_assertions) { 65_521 } else { 251 };
        for id in (0..=0xffff_ffffu64).step_by(step) {
            let service = Service::decode(id);
            // Identifiers with bits 23:17 set are never ours, and a yielding call neither.
            if id & 0xfe_0000 != 0 || id & 0x8000_0000 == 0 {
                assert_eq!(service, Service::Unknown, "{id:#x}");
            }
            let _ = service.stateless_reply(id, &NOTHING);
        }
    }
}
