//! EL2 as the policy sees it: one method for each hypercall, with types.
//!
//! The EL1 runtime implements [`Hypervisor`] with `HVC`; the tests implement it with a fake. Calls
//! that are continuations in `penumbra-abi` are so here too; [`finish`] and [`finish_bytes`] repeat them.

mod paging;

use core::fmt;

use penumbra_abi::{
    AbiVersion, Backing, CONSOLE_CHUNK_BYTES, CrashCause, Error, Events, GicVersion,
    ScheduleStatus, ScheduleWindow, StopReason, TrapRecord, TrapsStatus, VmStatus, WatchdogStatus,
};

use crate::report::cause_text;

pub use paging::{PagingService, Place, Sampled, Shadowed};

/// Number of a VM, as `VmCreate` returned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmId(pub u64);

impl VmId {
    /// The manager's own VM: the board's console belongs to it.
    pub const MANAGER: Self = Self(penumbra_abi::MANAGER_VM);
}

/// What the board offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    /// Interrupt controller.
    pub gic: GicVersion,
    /// Cores on line.
    pub cores: u64,
    /// Frequency of the generic timer.
    pub counter_hz: u64,
    /// Free RAM.
    pub free_bytes: u64,
    /// Largest free block.
    pub largest_bytes: u64,
    /// Translation granules of the cores besides 4 KiB.
    pub granules: Granules,
}

/// Translation granules besides 4 KiB, which every core has that Penumbra runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granules {
    /// 16 KiB.
    pub kib16: bool,
    /// 64 KiB.
    pub kib64: bool,
}

/// Console bytes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    bytes: [u8; CONSOLE_CHUNK_BYTES],
    len: usize,
}

impl Default for Chunk {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Chunk {
    /// No bytes.
    pub const EMPTY: Self = Self {
        bytes: [0; CONSOLE_CHUNK_BYTES],
        len: 0,
    };

    /// Takes as many bytes as one call carries.
    #[must_use]
    pub fn take(from: &[u8]) -> Self {
        let mut chunk = Self {
            len: from.len().min(CONSOLE_CHUNK_BYTES),
            ..Self::default()
        };
        for (slot, byte) in chunk.bytes.iter_mut().zip(from) {
            *slot = *byte;
        }
        chunk
    }

    /// Reads count and bytes from registers.
    #[must_use]
    pub fn from_regs(len: u64, regs: [u64; 5]) -> Self {
        let mut chunk = Self::EMPTY;
        for (slot, reg) in chunk.bytes.as_chunks_mut::<8>().0.iter_mut().zip(regs) {
            *slot = reg.to_le_bytes();
        }
        chunk.len = usize::try_from(len)
            .unwrap_or(usize::MAX)
            .min(CONSOLE_CHUNK_BYTES);
        chunk
    }

    /// The bytes as registers.
    #[must_use]
    pub fn to_regs(&self) -> [u64; 5] {
        let mut regs = [0; 5];
        for (reg, bytes) in regs.iter_mut().zip(self.bytes.as_chunks::<8>().0) {
            *reg = u64::from_le_bytes(*bytes);
        }
        regs
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A register of a stopped vCPU, numbered as `VcpuRegister` wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u64);

#[expect(
    missing_docs,
    reason = "each constant is the architectural register of that name"
)]
impl Register {
    pub const SP_EL1: Self = Self(31);
    pub const PC: Self = Self(32);
    pub const PSTATE: Self = Self(33);
    pub const ELR_EL1: Self = Self(34);
    pub const ESR_EL1: Self = Self(35);
    pub const FAR_EL1: Self = Self(36);
    pub const SP_EL0: Self = Self(37);
    pub const SCTLR_EL1: Self = Self(38);
    pub const VBAR_EL1: Self = Self(39);
}

/// A manager that EL2 has started, perhaps not for the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revival {
    /// How often it was started again.
    pub restarts: u64,
    /// Why it was the last time: X4 as EL2 gave it.
    pub end: u64,
    /// Where its last life ended.
    pub pc: u64,
}

impl fmt::Display for Revival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { restarts, end, pc } = self;
        write!(f, "{restarts}")?;
        // What ended by itself has said why.
        if StopReason::from_bits(end & 0xff) == Some(StopReason::Crash) {
            let cause = CrashCause::from_bits((end >> 8) & 0xff).unwrap_or(CrashCause::None);
            write!(f, ": it {}, at {pc:#x}", cause_text(cause))?;
        }
        Ok(())
    }
}

/// A way for the manager to die, on the operator's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// A panic.
    Panic,
    /// A store to an address that its own tables do not map.
    Store,
    /// A store to guest memory that nobody has lent to it.
    Steal,
    /// A jump to data.
    Jump,
    /// Recursion without end.
    Stack,
    /// A fault with the exception vectors gone.
    Vectors,
    /// A loop without end.
    Loop,
}

impl Death {
    /// Every way, with the word for it.
    pub const ALL: [(&'static str, Self); 7] = [
        ("panic", Self::Panic),
        ("store", Self::Store),
        ("steal", Self::Steal),
        ("jump", Self::Jump),
        ("stack", Self::Stack),
        ("vectors", Self::Vectors),
        ("loop", Self::Loop),
    ];
}

/// For how long a vCPU has had its core, in counter ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuTime {
    /// Since its VM was created.
    pub ran: u64,
    /// The counter when that was asked.
    pub now: u64,
    /// Its core.
    pub core: Option<u64>,
}

/// How a guest's memory is mapped: stage-2 leaves by size, and pages of tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaves {
    /// 1 GiB.
    pub gib: u64,
    /// 2 MiB, those in runs included.
    pub mib2: u64,
    /// 4 KiB, those in runs of 64 KiB included.
    pub pages: u64,
    /// Table pages.
    pub tables: u64,
    /// Contiguous runs of 32 MiB.
    pub runs: u64,
}

/// Result of a hypercall.
pub type Result<T> = core::result::Result<T, Error>;

/// EL2, and the little that the runtime must do with machine instructions.
///
/// The methods are the calls of [`penumbra_abi::Call`]; see there for arguments and conditions, and
/// docs/manager-contract.md for what the manager owes. Each fails with the [`Error`] that EL2 returns.
#[expect(
    clippy::missing_errors_doc,
    reason = "one sentence above says it for all"
)]
pub trait Hypervisor: PagingService {
    /// `Version`.
    fn version(&mut self) -> Result<AbiVersion>;
    /// `BoardInfo`, and the granules from ID_AA64MMFR0_EL1.
    fn board(&mut self) -> Result<Board>;
    /// `Wait`; `u64::MAX` is no deadline.
    fn wait(&mut self, deadline: u64) -> Result<Events>;
    /// `BoardOff`. Returns only on failure.
    fn board_off(&mut self) -> Result<()>;
    /// `BoardReset`. Returns only on failure.
    fn board_reset(&mut self) -> Result<()>;
    /// `BoardClock`: Hz, 0 if EL2 does not know.
    fn board_clock(&mut self, number: u32) -> Result<u32>;
    /// `ConsoleRead`.
    fn console_read(&mut self, vm: VmId) -> Result<Chunk>;
    /// `ConsoleWrite`; returns how many bytes were taken.
    fn console_write(&mut self, vm: VmId, chunk: &Chunk) -> Result<usize>;
    /// `VmCreate`.
    fn vm_create(&mut self, vcpus: u64, gic: GicVersion, tag: u64) -> Result<VmId>;
    /// `VmMapRam`; returns the bytes done so far.
    fn vm_map_ram(&mut self, vm: VmId, ram: &RamRequest) -> Result<u64>;
    /// `VmStockAdd`; whether the frame is in the stock.
    fn vm_stock_add(&mut self, vm: VmId) -> Result<bool>;
    /// `VmUart`.
    fn vm_uart(&mut self, vm: VmId, ipa: u64, intid: u64) -> Result<()>;
    /// `VmGic`.
    fn vm_gic(&mut self, vm: VmId, distributor: u64, other: u64) -> Result<()>;
    /// `VmWatchdog`.
    fn vm_watchdog(&mut self, vm: VmId, ipa: u64, intid: u64) -> Result<()>;
    /// `VmWatchdogStatus`.
    fn vm_watchdog_status(&mut self, vm: VmId) -> Result<WatchdogStatus>;
    /// `VcpuPin`.
    fn vcpu_pin(&mut self, vm: VmId, vcpu: u64, core: u64) -> Result<()>;
    /// `GrantBegin`; returns the bytes done so far.
    fn grant_begin(&mut self, vm: VmId, grant: &Grant) -> Result<u64>;
    /// `GrantEnd`; whether it is done.
    fn grant_end(&mut self, vm: VmId) -> Result<bool>;
    /// `VmStart`.
    fn vm_start(&mut self, vm: VmId, entry: u64, x0: u64) -> Result<()>;
    /// `VmStatus`.
    fn vm_status(&mut self, vm: VmId) -> Result<VmStatus>;
    /// `VmStop`.
    fn vm_stop(&mut self, vm: VmId) -> Result<()>;
    /// `VmDestroy`; whether it is done.
    fn vm_destroy(&mut self, vm: VmId) -> Result<bool>;
    /// `VcpuRegister`.
    fn vcpu_register(&mut self, vm: VmId, vcpu: u64, register: Register) -> Result<u64>;
    /// `VcpuCounter`.
    fn vcpu_counter(&mut self, vm: VmId, vcpu: u64, counter: u64) -> Result<u64>;
    /// `VmPause`.
    fn vm_pause(&mut self, vm: VmId) -> Result<()>;
    /// `VmResume`.
    fn vm_resume(&mut self, vm: VmId) -> Result<()>;
    /// `ScheduleSet`.
    fn schedule_set(&mut self, core: u64, place: u64, owner: u64, us: u64) -> Result<()>;
    /// `ScheduleInstall`.
    fn schedule_install(&mut self, core: u64, windows: u64, frame_us: u64) -> Result<()>;
    /// `ScheduleStatus`.
    fn schedule_status(&mut self, core: u64) -> Result<ScheduleStatus>;
    /// `ScheduleWindow`.
    fn schedule_window(&mut self, core: u64, place: u64) -> Result<ScheduleWindow>;
    /// `RamSetAside`.
    fn ram_set_aside(&mut self, base: u64, bytes: u64) -> Result<()>;
    /// `VmMapDevice`.
    fn vm_map_device(&mut self, vm: VmId, base: u64, bytes: u64) -> Result<()>;
    /// `VmAssignSpi`.
    fn vm_assign_spi(&mut self, vm: VmId, intid: u64, physical: u64, edge: bool) -> Result<()>;
    /// `DeviceLend`, a write of 32 bits to a register at `at` of a device of the VM, and the loan's end.
    fn device_write(&mut self, vm: VmId, at: u64, value: u32) -> Result<()>;
    /// The board's device tree that `BootInfo` names; empty if there is none.
    fn board_tree(&mut self) -> &'static [u8];
    /// `Audit`: whether it is done, and the differences found.
    fn audit(&mut self) -> Result<(bool, u64)>;

    /// `VcpuTime`.
    fn vcpu_time(&mut self, vm: VmId, vcpu: u64) -> Result<VcpuTime>;
    /// `VmTraps`.
    fn vm_traps(&mut self, vm: VmId) -> Result<TrapsStatus>;
    /// `VmTrap`.
    fn vm_trap(&mut self, vm: VmId, number: u64) -> Result<TrapRecord>;
    /// `VmLeaves`.
    fn vm_leaves(&mut self, vm: VmId) -> Result<Leaves>;

    /// Copies `bytes` to `at` in memory that a live grant lends.
    ///
    /// # Errors
    /// `NotMapped` if no live grant covers the place.
    fn window_write(&mut self, at: u64, bytes: &[u8]) -> Result<()>;
    /// CNTPCT_EL0.
    fn now(&mut self) -> u64;
    /// Dies.
    fn die(&mut self, how: Death);

    /// Shows EL2 that the manager works, in long work without other calls.
    fn alive(&mut self) {
        // Any call that is carried out does.
        let _ = self.version();
    }
}

/// Arguments of `VmMapRam`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRequest {
    /// IPA in the VM.
    pub ipa: u64,
    /// Bytes.
    pub bytes: u64,
    /// Backing.
    pub backing: Backing,
    /// Quota in bytes, for thin memory.
    pub quota_bytes: u64,
}

/// Arguments of `GrantBegin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// IPA in the VM.
    pub ipa: u64,
    /// Bytes.
    pub bytes: u64,
    /// IPA in the manager.
    pub window: u64,
}

/// Repeats a continuation until it says that it is done.
///
/// # Errors
/// The call's.
pub fn finish(mut call: impl FnMut() -> Result<bool>) -> Result<()> {
    while !call()? {}
    Ok(())
}

/// Repeats a continuation until it has done all bytes.
///
/// # Errors
/// The call's.
pub fn finish_bytes(bytes: u64, mut call: impl FnMut() -> Result<u64>) -> Result<()> {
    while call()? < bytes {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_survive_the_registers() {
        let text = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";
        let chunk = Chunk::take(text);
        assert_eq!(chunk.bytes(), &text[..40]);
        assert_eq!(Chunk::from_regs(40, chunk.to_regs()), chunk);
        let short = Chunk::take(b"hi");
        assert_eq!(short.to_regs(), [0x6968, 0, 0, 0, 0]);
        assert_eq!(Chunk::from_regs(2, short.to_regs()).bytes(), b"hi");
        assert_eq!(Chunk::from_regs(u64::MAX, [0; 5]).bytes().len(), 40);
    }
}
