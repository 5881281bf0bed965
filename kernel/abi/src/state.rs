//! States, limits and reports that EL2 shows to the manager.

/// VMs at most, the manager's included.
pub const MAX_VMS: usize = 8;
/// vCPUs of one VM at most. GICv2 allows no more (IHI 0048B, "The Distributor").
pub const MAX_VCPUS_PER_VM: usize = 8;
/// Physical cores at most.
pub const MAX_CPUS: usize = 8;
/// Bytes that one console call carries: five registers.
pub const CONSOLE_CHUNK_BYTES: usize = 40;
/// Bytes that EL2 zeroes at most before it takes interrupts again.
pub const ZERO_CHUNK_BYTES: u64 = 64 * 1024;

/// Bytes of a device that one call maps at most.
pub const MAX_DEVICE_BYTES: u64 = 2 << 20;

/// Which interrupt controller a guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum GicVersion {
    /// GICv2 (IHI 0048B).
    V2 = 2,
    /// GICv3 (IHI 0069).
    V3 = 3,
}

impl GicVersion {
    /// Reads a version from a register.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match bits {
            2 => Some(Self::V2),
            3 => Some(Self::V3),
            _ => None,
        }
    }
}

/// How the RAM of a VM is backed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Backing {
    /// Allocated, zeroed and mapped at once, with the largest blocks possible.
    Reserved = 0,
    /// Populated by stage-2 faults, against a quota.
    Thin = 1,
    /// Mapped at once at IPA = PA, out of RAM that was set aside for it.
    Direct = 2,
}

impl Backing {
    /// Reads a backing from a register.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match bits {
            0 => Some(Self::Reserved),
            1 => Some(Self::Thin),
            2 => Some(Self::Direct),
            _ => None,
        }
    }
}

/// The life of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum VmState {
    /// The number is free.
    Free = 0,
    /// Created, being loaded, has never run.
    Created = 1,
    /// At least one vCPU may run.
    Running = 2,
    /// Stopped for good; the reason is in [`StopReason`]. Only `VmDestroy` leads out.
    Stopped = 3,
    /// Being destroyed: its frames are being zeroed.
    Dying = 4,
    /// Held by the manager (`VmPause`).
    Paused = 5,
}

impl VmState {
    /// Reads a state from a register.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            0 => Self::Free,
            1 => Self::Created,
            2 => Self::Running,
            3 => Self::Stopped,
            4 => Self::Dying,
            5 => Self::Paused,
            _ => return None,
        })
    }
}

/// Why a VM stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum StopReason {
    /// It has not stopped.
    None = 0,
    /// PSCI SYSTEM_OFF.
    PowerOff = 1,
    /// PSCI SYSTEM_RESET or SYSTEM_RESET2: the guest asks to be started again.
    Reset = 2,
    /// A vCPU did something that has no answer; see [`CrashCause`].
    Crash = 3,
    /// The manager stopped it.
    Killed = 4,
    /// The last vCPU that was on has left by CPU_OFF: nothing can start the VM again.
    AllOff = 5,
    /// The guest did not refresh its watchdog in time, twice ([`WatchdogStatus`]).
    Watchdog = 6,
}

impl StopReason {
    /// Reads a reason from a register.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            0 => Self::None,
            1 => Self::PowerOff,
            2 => Self::Reset,
            3 => Self::Crash,
            4 => Self::Killed,
            5 => Self::AllOff,
            6 => Self::Watchdog,
            _ => return None,
        })
    }
}

/// What a vCPU did when its VM was stopped by EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum CrashCause {
    /// Nothing.
    None = 0,
    /// The vCPU takes the same exception to EL1 again and again at its own vector (its vectors are
    /// not mapped, or not executable), so it can never run again.
    VectorLoop = 1,
    /// A thin VM touched more memory than its quota allows.
    QuotaExceeded = 2,
    /// A stage-1 table of the guest lies outside its memory and every walk of it aborts.
    TableOutsideMemory = 3,
    /// An SError interrupt was taken while the vCPU ran.
    Serror = 4,
    /// An exception class that no guest can cause while EL2 is configured as it is.
    UnexpectedException = 5,
    /// EL2 could not save what it needed for the vCPU (an internal limit).
    Internal = 6,
    /// The manager used its core for long without a call that was carried out, or without `Wait`.
    Hung = 7,
}

impl CrashCause {
    /// Reads a cause from a register.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            0 => Self::None,
            1 => Self::VectorLoop,
            2 => Self::QuotaExceeded,
            3 => Self::TableOutsideMemory,
            4 => Self::Serror,
            5 => Self::UnexpectedException,
            6 => Self::Internal,
            7 => Self::Hung,
            _ => return None,
        })
    }
}

/// What `VmStatus` returns: X1 packs state, reason, cause and vCPU; X2.. hold the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmStatus {
    /// Life-cycle state.
    pub state: VmState,
    /// Why it stopped.
    pub reason: StopReason,
    /// What the culprit did, for [`StopReason::Crash`].
    pub cause: CrashCause,
    /// The vCPU that stopped the VM.
    pub vcpu: u8,
    /// The stock is empty and a vCPU waits for frames (thin), or it is low: feed it with
    /// `VmStockAdd`.
    pub wants_stock: bool,
    /// 2 MiB frames in the VM's stock.
    pub stock_frames: u64,
    /// ESR_EL2 of the last exit of `vcpu`.
    pub esr: u64,
    /// FAR_EL2 of the last exit of `vcpu`.
    pub far: u64,
    /// IPA of the fault, or `u64::MAX` where there is none.
    pub ipa: u64,
    /// Bytes of RAM the VM holds.
    pub held_bytes: u64,
    /// What the manager gave `VmCreate` to know the VM by, in particular after its own restart.
    pub tag: u64,
}

impl VmStatus {
    /// Registers X1 to X6.
    #[must_use]
    pub const fn to_regs(self) -> [u64; 6] {
        let packed = (self.state as u64)
            | (self.reason as u64) << 8
            | (self.cause as u64) << 16
            | (self.vcpu as u64) << 24
            | (self.wants_stock as u64) << 32
            | self.stock_frames << 40;
        [
            packed,
            self.esr,
            self.far,
            self.ipa,
            self.held_bytes,
            self.tag,
        ]
    }

    /// Reads registers X1 to X6; `None` if a field has no meaning.
    #[must_use]
    pub const fn from_regs(regs: [u64; 6]) -> Option<Self> {
        let [packed, esr, far, ipa, held_bytes, tag] = regs;
        let (Some(state), Some(reason), Some(cause)) = (
            VmState::from_bits(packed & 0xff),
            StopReason::from_bits((packed >> 8) & 0xff),
            CrashCause::from_bits((packed >> 16) & 0xff),
        ) else {
            return None;
        };
        Some(Self {
            state,
            reason,
            cause,
            vcpu: ((packed >> 24) & 0xff) as u8,
            wants_stock: (packed >> 32) & 1 == 1,
            stock_frames: packed >> 40,
            esr,
            far,
            ipa,
            held_bytes,
            tag,
        })
    }
}

/// What `VmWatchdogStatus` returns in X1 to X4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchdogStatus {
    /// The VM has a watchdog.
    pub placed: bool,
    /// Register WCS: bit 0 enabled, bit 1 WS0, bit 2 WS1.
    pub wcs: u32,
    /// Register WOR: counter ticks from a refresh to WS0, and from there to WS1.
    pub offset: u64,
    /// Counter ticks since the last refresh; those during which the VM was paused apart, and none after
    /// the watchdog has stopped it.
    pub age: u64,
    /// How often the guest refreshed it.
    pub refreshes: u64,
}

impl WatchdogStatus {
    /// Registers X1 to X6.
    #[must_use]
    pub const fn to_regs(self) -> [u64; 6] {
        let packed = (self.wcs as u64) << 32 | self.placed as u64;
        [packed, self.offset, self.age, self.refreshes, 0, 0]
    }

    /// Reads registers X1 to X6.
    #[must_use]
    pub const fn from_regs(regs: [u64; 6]) -> Self {
        let [packed, offset, age, refreshes, _, _] = regs;
        Self {
            placed: packed & 1 != 0,
            wcs: (packed >> 32) as u32,
            offset,
            age,
            refreshes,
        }
    }

    /// Whether the guest has enabled it.
    #[must_use]
    pub const fn is_enabled(self) -> bool {
        self.wcs & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_survives_the_registers() {
        let status = VmStatus {
            state: VmState::Stopped,
            reason: StopReason::Crash,
            cause: CrashCause::VectorLoop,
            vcpu: 3,
            wants_stock: true,
            stock_frames: 77,
            esr: 0x8600_0005,
            far: 0xffff_8000_0000_1000,
            ipa: u64::MAX,
            held_bytes: 512 << 20,
            tag: 2,
        };
        assert_eq!(VmStatus::from_regs(status.to_regs()), Some(status));
        assert_eq!(VmStatus::from_regs([9, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn watchdog_status_survives_the_registers() {
        let status = WatchdogStatus {
            placed: true,
            wcs: 7,
            offset: 1 << 47,
            age: 3,
            refreshes: u64::MAX,
        };
        assert_eq!(WatchdogStatus::from_regs(status.to_regs()), status);
    }
}
