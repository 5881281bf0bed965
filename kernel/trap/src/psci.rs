//! Power State Coordination Interface 1.1: functions, arguments, return codes.
//!
//! Source: Arm DEN 0022 F, 5.1 "Function prototypes" and 5.2 "Return codes". What a guest's PSCI
//! implements is in [`Function::is_implemented`]; the rest returns `NOT_SUPPORTED`.

use crate::bits::{bit, field};
use crate::smccc::{Convention, NOT_SUPPORTED, WIDE};

/// `PSCI_VERSION` returns 1.1.
pub const VERSION: u64 = 0x1_0001;

/// A PSCI function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Function {
    /// `PSCI_VERSION`.
    Version = 0x00,
    /// `CPU_SUSPEND`.
    CpuSuspend = 0x01,
    /// `CPU_OFF`.
    CpuOff = 0x02,
    /// `CPU_ON`.
    CpuOn = 0x03,
    /// `AFFINITY_INFO`.
    AffinityInfo = 0x04,
    /// `MIGRATE`.
    Migrate = 0x05,
    /// `MIGRATE_INFO_TYPE`.
    MigrateInfoType = 0x06,
    /// `MIGRATE_INFO_UP_CPU`.
    MigrateInfoUpCpu = 0x07,
    /// `SYSTEM_OFF`.
    SystemOff = 0x08,
    /// `SYSTEM_RESET`.
    SystemReset = 0x09,
    /// `PSCI_FEATURES`.
    Features = 0x0a,
    /// `CPU_FREEZE`.
    CpuFreeze = 0x0b,
    /// `CPU_DEFAULT_SUSPEND`.
    CpuDefaultSuspend = 0x0c,
    /// `NODE_HW_STATE`.
    NodeHwState = 0x0d,
    /// `SYSTEM_SUSPEND`.
    SystemSuspend = 0x0e,
    /// `PSCI_SET_SUSPEND_MODE`.
    SetSuspendMode = 0x0f,
    /// `PSCI_STAT_RESIDENCY`.
    StatResidency = 0x10,
    /// `PSCI_STAT_COUNT`.
    StatCount = 0x11,
    /// `SYSTEM_RESET2`.
    SystemReset2 = 0x12,
    /// `MEM_PROTECT`.
    MemProtect = 0x13,
    /// `MEM_PROTECT_CHECK_RANGE`.
    MemProtectCheckRange = 0x14,
    /// `SYSTEM_OFF2` (PSCI 1.3).
    SystemOff2 = 0x15,
}

/// First identifier: fast, SMC32, standard secure service.
const BASE: u32 = 0x8400_0000;

impl Function {
    /// Every function, by number.
    pub const ALL: [Self; 22] = [
        Self::Version,
        Self::CpuSuspend,
        Self::CpuOff,
        Self::CpuOn,
        Self::AffinityInfo,
        Self::Migrate,
        Self::MigrateInfoType,
        Self::MigrateInfoUpCpu,
        Self::SystemOff,
        Self::SystemReset,
        Self::Features,
        Self::CpuFreeze,
        Self::CpuDefaultSuspend,
        Self::NodeHwState,
        Self::SystemSuspend,
        Self::SetSuspendMode,
        Self::StatResidency,
        Self::StatCount,
        Self::SystemReset2,
        Self::MemProtect,
        Self::MemProtectCheckRange,
        Self::SystemOff2,
    ];

    /// The function and convention that an identifier names. `None` if PSCI has none, which includes
    /// SMC64 identifiers of functions that exist as SMC32 only.
    #[inline]
    #[must_use]
    pub fn decode(id: u32) -> Option<(Self, Convention)> {
        let number = usize::try_from((id & !WIDE).checked_sub(BASE)?).ok()?;
        let function = *Self::ALL.get(number)?;
        match Convention::of(id) {
            Convention::Smc64 if !function.has_64_bit_form() => None,
            convention => Some((function, convention)),
        }
    }

    /// The identifier of the function's form with this convention.
    #[must_use]
    pub const fn id(self, convention: Convention) -> u32 {
        BASE + self as u32
            + match convention {
                Convention::Smc32 => 0,
                Convention::Smc64 => WIDE,
            }
    }

    /// Whether the function takes an address or an MPIDR, so that it exists as SMC64 as well.
    #[must_use]
    pub const fn has_64_bit_form(self) -> bool {
        matches!(
            self,
            Self::CpuSuspend
                | Self::CpuOn
                | Self::AffinityInfo
                | Self::Migrate
                | Self::MigrateInfoUpCpu
                | Self::CpuDefaultSuspend
                | Self::NodeHwState
                | Self::SystemSuspend
                | Self::StatResidency
                | Self::StatCount
                | Self::SystemReset2
                | Self::MemProtectCheckRange
                | Self::SystemOff2
        )
    }

    /// Whether guests have it: what PSCI 1.1 makes mandatory, and `MIGRATE_INFO_TYPE` and
    /// `SYSTEM_RESET2`.
    #[must_use]
    pub const fn is_implemented(self) -> bool {
        matches!(
            self,
            Self::Version
                | Self::CpuSuspend
                | Self::CpuOff
                | Self::CpuOn
                | Self::AffinityInfo
                | Self::MigrateInfoType
                | Self::SystemOff
                | Self::SystemReset
                | Self::Features
                | Self::SystemReset2
        )
    }
}

/// Aff3 to Aff0 of a vCPU, without MPIDR's other fields.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Affinity(u64);

/// MPIDR_EL1: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
const AFFINITY: u64 = 0x00ff_00ff_ffff;

impl Affinity {
    /// The affinity in a value of MPIDR_EL1; RES1, U and MT are dropped.
    #[inline]
    #[must_use]
    pub const fn from_mpidr(mpidr: u64) -> Self {
        Self(mpidr & AFFINITY)
    }

    /// An argument "target CPU", which must have zeros where MPIDR_EL1 has other fields (DEN 0022 F,
    /// 5.1.4): bits 63:40 and 31:24 (31:24 for SMC32, which has no Aff3).
    ///
    /// # Errors
    /// [`Return::InvalidParameters`] if it does not.
    pub const fn from_argument(argument: u64) -> Result<Self, Return> {
        if argument & !AFFINITY != 0 {
            return Err(Return::InvalidParameters);
        }
        Ok(Self(argument))
    }

    /// The affinity, as MPIDR_EL1 has it.
    #[inline]
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether both agree on every level from `lowest` (0 to 3) up.
    #[must_use]
    pub const fn same_from(self, other: Self, lowest: u8) -> bool {
        let shift = match lowest {
            0 => 0,
            1 => 8,
            2 => 16,
            _ => 32,
        };
        (self.0 ^ other.0) >> shift == 0
    }
}

/// A PSCI call with its arguments decoded; all addresses are IPAs of the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Answer with [`Reply::Value`] at once.
    Done(Reply),
    /// Suspend the calling vCPU until an interrupt. With `power_down` it resumes at `entry` with
    /// `context` in X0, else after the call with `SUCCESS`; PSCI allows to treat a power-down
    /// request as a stand-by.
    CpuSuspend {
        /// `power_state` bit 16: a power-down state, not stand-by or retention.
        power_down: bool,
        /// Where to resume.
        entry: u64,
        /// X0 then.
        context: u64,
    },
    /// Switch the calling vCPU off.
    CpuOff,
    /// Start another vCPU.
    CpuOn {
        /// Which.
        target: Affinity,
        /// Where.
        entry: u64,
        /// X0 then.
        context: u64,
    },
    /// Whether vCPUs are on; see [`AffinityState`].
    AffinityInfo {
        /// Which.
        target: Affinity,
        /// Lowest affinity level that counts, 0 to 3.
        lowest_level: u8,
    },
    /// Stop the VM.
    SystemOff,
    /// Stop the VM, to be started again. Both SYSTEM_RESET and an architectural SYSTEM_RESET2.
    SystemReset,
}

/// The answer to a call that has returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A value.
    Value(u64),
    /// A code.
    Code(Return),
}

impl Reply {
    /// X0.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        match self {
            Self::Value(value) => value,
            Self::Code(code) => code.to_bits(),
        }
    }
}

/// What `AFFINITY_INFO` returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum AffinityState {
    /// At least one PE is on.
    On = 0,
    /// All are off.
    Off = 1,
    /// One is being switched on.
    OnPending = 2,
}

/// Return codes (DEN 0022 F, 5.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum Return {
    /// Done.
    Success = 0,
    /// Not implemented.
    NotSupported = -1,
    /// An argument is out of range.
    InvalidParameters = -2,
    /// Not allowed.
    Denied = -3,
    /// The PE is on.
    AlreadyOn = -4,
    /// The PE is being switched on.
    OnPending = -5,
    /// A failure that is not the caller's.
    InternalFailure = -6,
    /// No such trusted OS or PE.
    NotPresent = -7,
    /// Switched off for good.
    Disabled = -8,
    /// The entry point is not in the caller's memory.
    InvalidAddress = -9,
}

impl Return {
    /// X0: sign-extended, right for callers of either convention.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self as i64).cast_unsigned()
    }
}

/// `MIGRATE_INFO_TYPE`: no trusted OS is there that would need migration.
const NO_MIGRATION_NEEDED: u64 = 2;
/// `power_state`, original format: reserved bits, StateType, PowerLevel and StateID apart.
const POWER_STATE_RESERVED: u64 = 0xfcfe_0000;
/// `SYSTEM_RESET2`: the architectural warm reset.
const SYSTEM_WARM_RESET: u64 = 0;
/// `SYSTEM_RESET2`: set in vendor-specific reset types.
const VENDOR_RESET: u32 = 31;

impl Request {
    /// Decodes the arguments X1 to X3 of `function`.
    #[must_use]
    pub fn decode(function: Function, convention: Convention, arguments: [u64; 3]) -> Self {
        let [x1, x2, x3] = arguments.map(|register| convention.argument(register));
        let code = |code| Self::Done(Reply::Code(code));
        match function {
            Function::Version => Self::Done(Reply::Value(VERSION)),
            Function::CpuSuspend if x1 & POWER_STATE_RESERVED != 0 || x1 >> 32 != 0 => {
                code(Return::InvalidParameters)
            }
            Function::CpuSuspend => Self::CpuSuspend {
                power_down: bit(x1, 16),
                entry: x2,
                context: x3,
            },
            Function::CpuOff => Self::CpuOff,
            Function::CpuOn => match Affinity::from_argument(x1) {
                Ok(target) => Self::CpuOn {
                    target,
                    entry: x2,
                    context: x3,
                },
                Err(error) => code(error),
            },
            Function::AffinityInfo => match (Affinity::from_argument(x1), field(x2, 31, 0)) {
                (Ok(target), level @ 0..=3) => Self::AffinityInfo {
                    target,
                    lowest_level: level.to_le_bytes()[0],
                },
                _ => code(Return::InvalidParameters),
            },
            Function::MigrateInfoType => Self::Done(Reply::Value(NO_MIGRATION_NEEDED)),
            Function::SystemOff => Self::SystemOff,
            Function::SystemReset => Self::SystemReset,
            Function::SystemReset2 => match field(x1, 31, 0) {
                SYSTEM_WARM_RESET => Self::SystemReset,
                other if bit(other, VENDOR_RESET) => code(Return::NotSupported),
                _ => code(Return::InvalidParameters),
            },
            Function::Features => Self::Done(Reply::Value(features(x1))),
            Function::Migrate
            | Function::MigrateInfoUpCpu
            | Function::CpuFreeze
            | Function::CpuDefaultSuspend
            | Function::NodeHwState
            | Function::SystemSuspend
            | Function::SetSuspendMode
            | Function::StatResidency
            | Function::StatCount
            | Function::MemProtect
            | Function::MemProtectCheckRange
            | Function::SystemOff2 => code(Return::NotSupported),
        }
    }
}

/// `PSCI_FEATURES` (DEN 0022 F, 5.1.15): 0 for what exists. For `CPU_SUSPEND` that says: original
/// `power_state` format, platform-coordinated mode only. `SMCCC_VERSION` may be asked for as well.
fn features(argument: u64) -> u64 {
    const SMCCC_VERSION: u32 = 0x8000_0000;
    let id = (argument & 0xffff_ffff) as u32;
    let implemented = match Function::decode(id) {
        Some((function, _)) => function.is_implemented(),
        None => id == SMCCC_VERSION,
    };
    if implemented { 0 } else { NOT_SUPPORTED }
}

#[cfg(test)]
#[path = "psci_tests.rs"]
mod tests;
