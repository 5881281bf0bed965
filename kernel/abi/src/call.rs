//! The hypercalls.

/// Identifier of call 0: fast, SMC64, vendor specific hypervisor service (Arm DEN 0028, "Service
/// call ranges"), function numbers from 0x100 so that the range's general queries stay free.
pub const CALL_BASE: u32 = 0xc600_0100;

/// Function numbers above [`CALL_BASE`] that are or may become calls.
const CALL_NUMBERS: usize = 128;

/// A hypercall of the manager. The value is the function number above [`CALL_BASE`].
///
/// *Continuation*: a call so marked does a bounded piece of work and returns how far it has come;
/// it is to be repeated with the same arguments until X1 says it is done. Interrupts are taken and
/// other vCPUs run between the pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Call {
    /// Interface version. -> X1: [`AbiVersion`](crate::AbiVersion).
    Version = 0,
    /// Where the manager finds its input. -> X1: IPA of the bundle, X2: its size in bytes (0: none),
    /// X3: IPA of the board's device tree, X4: its size in bytes.
    BootInfo = 1,
    /// The board. -> X1: GIC version, X2: number of cores on line, X3: CNTFRQ in Hz, X4: free RAM in
    /// bytes, X5: largest free block in bytes, X6: list registers per core.
    BoardInfo = 2,
    /// Waits for events. X1: deadline as CNTPCT value (`u64::MAX`: none). -> X1: [`Events`](crate::Events).
    Wait = 3,
    /// Powers the board off. Returns only on failure.
    BoardOff = 4,
    /// Resets the board. Returns only on failure.
    BoardReset = 5,
    /// The rate of a clock of the board as its firmware tells it. X1: number of the clock, as device tree nodes
    /// name it at the board's clock controller. -> X1: Hz; 0: not known.
    BoardClock = 6,

    /// Reads console bytes. X1: VM (the manager's own: input of the board's console).
    /// -> X1: number of bytes (0 to 40), X2..X6: the bytes, first in the lowest byte of X2.
    ConsoleRead = 8,
    /// Writes console bytes. X1: VM (the manager's own: output to the board's console), X2: number
    /// of bytes (1 to 40), X3..X7: the bytes. -> X1: number of bytes taken.
    ConsoleWrite = 9,

    /// Creates a VM. X1: vCPUs (1 to 8), X2: GIC version, must be the board's, X3: a tag that
    /// [`VmStatus`](crate::VmStatus) returns. -> X1: VM number.
    VmCreate = 16,
    /// Gives a VM RAM. *Continuation.* X1: VM, X2: IPA, X3: bytes (both multiples of 2 MiB),
    /// X4: [`Backing`](crate::Backing), X5: quota in bytes (thin). State Created. -> X1: bytes done so far.
    VmMapRam = 17,
    /// Adds one zeroed 2 MiB frame to the stock of a thin VM. *Continuation.* X1: VM.
    /// -> X1: 1 when the frame is in the stock, 0 while it is being zeroed.
    VmStockAdd = 18,
    /// Places the emulated PL011. X1: VM, X2: IPA (4 KiB aligned), X3: INTID of its SPI.
    VmUart = 19,
    /// Places the interrupt controller. X1: VM, X2: IPA of the distributor (64 KiB aligned), X3: IPA
    /// of the redistributors (GICv3, 64 KiB aligned) or of the CPU interface (GICv2, 4 KiB aligned).
    VmGic = 20,
    /// Pins a vCPU. X1: VM, X2: vCPU, X3: core. Every vCPU must be pinned before `VmStart`.
    VcpuPin = 21,
    /// Lends guest RAM to the manager for loading. X1: VM, X2: IPA in the VM, X3: bytes, X4: IPA in
    /// the manager (all multiples of 4 KiB). *Continuation.* State Created. Thin memory is populated.
    /// -> X1: bytes done so far. The manager may write there until `GrantEnd`.
    GrantBegin = 22,
    /// Ends all grants of a VM, makes what was written visible to a guest with its caches off and
    /// coherent for fetches. *Continuation.* X1: VM. -> X1: 1 when done.
    GrantEnd = 23,
    /// Starts vCPU 0 of a VM. X1: VM, X2: entry IPA, X3: X0 at entry (device tree).
    /// State Created, no grant live.
    VmStart = 24,
    /// State of a VM. X1: VM. -> X1..X6: [`VmStatus`](crate::VmStatus). Reading it clears
    /// [`Events::STATUS`](crate::Events::STATUS) for this VM unless frames are wanted.
    VmStatus = 25,
    /// Stops a VM for good. X1: VM.
    VmStop = 26,
    /// Frees a stopped or created VM; its frames are zeroed. *Continuation.* X1: VM. -> X1: 1 when done.
    VmDestroy = 27,
    /// A register of a vCPU that does not run. X1: VM, X2: vCPU, X3: 0 to 30: X0 to X30, 31: SP_EL1,
    /// 32: PC, 33: PSTATE, 34: ELR_EL1, 35: ESR_EL1, 36: FAR_EL1, 37: SP_EL0, 38: SCTLR_EL1,
    /// 39: VBAR_EL1. -> X1: value.
    VcpuRegister = 28,
    /// A counter. X1: VM, X2: vCPU, X3: index: exits by reason (1 hypercalls and SMCs, 2 system
    /// registers, 3 MMIO, 4 stage-2 population, 5 interrupts, 6 WFI, 0 anything else; their sum is all exits),
    /// 7 switches in, 8 bytes of console output that the VM lost because nobody read them. -> X1: value.
    VcpuCounter = 29,
    /// Holds a running VM. X1: VM.
    VmPause = 30,
    /// Lets a held VM run again. X1: VM.
    VmResume = 31,
    /// Compares frame ownership with every stage-2 table. *Continuation.* -> X1: 1 when done,
    /// X2: number of differences found.
    Audit = 32,

    /// Sets how a VM's stage 1 is walked. *Continuation* towards nested. X1: VM,
    /// X2: [`PagingMode`](crate::PagingMode). Any state but Stopped and Dying. -> X1: 1 when done.
    PagingMode = 64,
    /// X1: VM. -> X1..X6: [`PagingStatus`](crate::PagingStatus).
    PagingStatus = 65,
    /// Which ways to put compound roots in place are allowed. *Continuation* where it takes `TRAPPED` away.
    /// X1: VM, X2: bits of [`paging_roots`](crate::paging_roots). It also ends a back-off after lost roots
    /// or a storm. -> X1: 1 when done.
    PagingRoots = 66,
    /// Gives the VM a zeroed 2 MiB block for mirror tables, out of its quota. *Continuation.* X1: VM.
    /// -> X1: 1 when it is there.
    PagingPool = 67,
    /// X1: VM, X2: space, below [`PAGING_SPACES`](crate::PAGING_SPACES).
    /// -> X1..X3: [`PagingSpace`](crate::PagingSpace).
    PagingSpace = 68,
    /// Looks for the next level-3 table of a guest. X1: VM, X2: space, X3: VA to look from.
    /// -> X1..X6: [`PagingSurvey`](crate::PagingSurvey).
    PagingSurvey = 69,
    /// Shadows the guest table of a level around a VA, and what leads there, as one leaf where it can.
    /// X1: VM, X2: space, X3: VA, X4: level (1 to 3) of the table, X5: count. Holds the VM's vCPUs, once.
    /// With a count of 0 or 1: -> X1: [`PagingForm`](crate::PagingForm).
    /// With a larger count: that many tables of the level in a row, in VA order, at most
    /// [`PAGING_RANGE`](crate::PAGING_RANGE) in one call; what cannot be shadowed is passed over, but not a
    /// want of room. -> X1: tables shadowed, X2: of these as one leaf, X3: tables looked at, from which
    /// the VA to go on follows; X4: 1 if room was short at the next one.
    PagingShadow = 70,
    /// Gives a shadowed table back, with all below it, whose frames follow. X1: VM, X2: space, X3: VA, X4: level.
    /// Holds the VM's vCPUs. -> X1: 1.
    PagingDemote = 71,
    /// What a shadowed table is worth, for eviction. X1: VM, X2: space, X3: VA, X4: level, X5: worth
    /// (0 to 65,535; the least goes first).
    PagingWorth = 72,
    /// Moves the pages of a mirrored region into one 2 MiB frame, for one leaf. *Continuation.* X1: VM,
    /// X2: space, X3: VA, X4: the frame: a number below [`PAGING_OWN_FRAMES`](crate::PAGING_OWN_FRAMES), or the
    /// IPA of a page that lies in it now; what else lies in it goes to the frames that become free. X5: 1: also if only EL1 may access the region. Not for direct memory.
    /// -> X1: 1 when one leaf stands for the region.
    PagingRelayout = 73,
    /// Merges 2 MiB of the VM's RAM into one stage-2 block, if nothing is in the way. X1: VM, X2: IPA.
    /// -> X1: 1 if it is a block now.
    PagingSettle = 74,
    /// Samples level-3 tables of a guest that are not shadowed, from a VA on. X1: VM, X2: space, X3: VA,
    /// X4: bits of [`paging_epoch`](crate::paging_epoch). [`PAGING_SAMPLES`](crate::PAGING_SAMPLES) at a
    /// time in a VM, a quarter of them in one call. What was seen `PagingSurvey` says.
    /// -> X1: tables armed by this call, X2: VA to go on, if X3 is 1 (0: the half has ended), X4: samples that
    /// are still free.
    PagingEpoch = 75,
    /// X1: VM, X2: [`PagingCounter`](crate::PagingCounter). -> X1: its value.
    PagingCounter = 76,
    /// Compares mirrors with the guest's tables and protected pages with stage 2. *Continuation.* X1: VM,
    /// X2: where to go on (0 at first). Holds the VM's vCPUs for each piece. -> X1: where to go on (0: done),
    /// X2: differences found in this piece.
    PagingAudit = 77,
    /// A root of the lower half that EL2 has seen while roots are trapped. X1: VM, X2: number, below
    /// [`PAGING_ROOTS`](crate::PAGING_ROOTS). -> X1..X3: [`PagingRoot`](crate::PagingRoot).
    PagingRoot = 78,
    /// Wants a space for a root of the lower half (TTBR0_EL1), while roots are trapped: it is made by the
    /// guest's next write of this root, or soon where a vCPU holds it, if the guest's registers allow it and the
    /// root has an entry. X1: VM, X2: IPA of the root.
    /// -> X1: 1 if there is such a space.
    PagingSpaceAdd = 79,
    /// Ends a space of the lower half, or the wish for one: its root is nested from then on. *Continuation.*
    /// X1: VM, X2: IPA of the root. Holds the VM's vCPUs for each piece. -> X1: 1 when done.
    PagingSpaceDrop = 80,
    /// Brings pages back that re-layouts moved, from an IPA on, one at most, and merges what is a block of stage 2 again.
    /// X1: VM, X2: IPA to go on (0 at first). In any mode.
    /// -> X1: where to go on (0: the end of RAM), X2: 1 if a page was moved.
    PagingHome = 81,
    /// Places a Generic Watchdog. X1: VM, X2: IPA of its control frame (64 KiB aligned; the refresh frame
    /// lies 64 KiB behind it), X3: INTID of its SPI (WS0). State Created.
    VmWatchdog = 82,
    /// X1: VM. -> X1..X4: [`WatchdogStatus`](crate::WatchdogStatus).
    VmWatchdogStatus = 83,

    /// Hands in a window of a core's schedule. X1: core, X2: its place (below
    /// [`MAX_WINDOWS`](crate::MAX_WINDOWS)), X3: tag of the VM it belongs to (0: the manager), X4:
    /// microseconds (at least [`MIN_WINDOW_US`](crate::MIN_WINDOW_US)).
    ScheduleSet = 88,
    /// Installs what was handed in at the end of the frame that runs. X1: core, X2: windows (0 ends the
    /// schedule), X3: microseconds of the frame (at most [`MAX_FRAME_US`](crate::MAX_FRAME_US), no less than
    /// the windows together). On the core of the manager one window must be the manager's and have
    /// [`MIN_MANAGER_WINDOW_US`](crate::MIN_MANAGER_WINDOW_US); elsewhere none may be.
    ScheduleInstall = 89,
    /// X1: core. -> X1..X5: [`ScheduleStatus`](crate::ScheduleStatus).
    ScheduleStatus = 90,
    /// A window of the table in force. X1: core, X2: its place.
    /// -> X1..X6: [`ScheduleWindow`](crate::ScheduleWindow).
    ScheduleWindow = 91,

    /// For how long a vCPU has had its core. X1: VM (0: the manager), X2: vCPU. -> X1: CNTPCT ticks since
    /// the VM was created, X2: CNTPCT now, X3: its core plus one (0: not pinned).
    VcpuTime = 96,
    /// How a guest's memory is mapped. X1: VM. -> X1: stage-2 leaves of 1 GiB, X2: of 2 MiB, X3: of 4 KiB
    /// (those in contiguous runs of 64 KiB included), X4: table pages, X5: contiguous runs of sixteen leaves of 2 MiB.
    VmLeaves = 97,

    /// What a VM tried and was refused since it was created. X1: VM.
    /// -> X1..X3: [`TrapsStatus`](crate::TrapsStatus).
    VmTraps = 104,
    /// A record of that; records change while the guest runs. X1: VM, X2: number.
    /// -> X1..X6: [`TrapRecord`](crate::TrapRecord).
    VmTrap = 105,

    /// Takes free RAM out of the board's pool for VMs that need it at this very address
    /// ([`Backing::Direct`](crate::Backing::Direct)), until the board's reset. X1: PA, X2: bytes (both
    /// multiples of 2 MiB). RAM that is set aside already may be named again.
    RamSetAside = 112,
    /// Gives a VM the registers of a device, at IPA = PA. X1: VM, X2: PA, X3: bytes (both multiples of
    /// 4 KiB, at most [`MAX_DEVICE_BYTES`](crate::MAX_DEVICE_BYTES)). State Created.
    VmMapDevice = 113,
    /// Gives a VM a physical shared peripheral interrupt. X1: VM, X2: INTID of its SPI, X3: physical
    /// INTID, X4: 0: level-sensitive, 1: edge-triggered. State Created.
    VmAssignSpi = 114,
    /// Lends the manager a page of a device that a VM was given, to silence the device before the VM
    /// runs. X1: VM, X2: PA (4 KiB aligned), X3: IPA in the manager's window; 0 instead of both ends the
    /// loan. State Created; one page at a time.
    DeviceLend = 115,
}

impl Call {
    /// Every call, for tables and tests.
    pub const ALL: [Self; 58] = [
        Self::Version,
        Self::BootInfo,
        Self::BoardInfo,
        Self::Wait,
        Self::BoardOff,
        Self::BoardReset,
        Self::BoardClock,
        Self::ConsoleRead,
        Self::ConsoleWrite,
        Self::VmCreate,
        Self::VmMapRam,
        Self::VmStockAdd,
        Self::VmUart,
        Self::VmGic,
        Self::VcpuPin,
        Self::GrantBegin,
        Self::GrantEnd,
        Self::VmStart,
        Self::VmStatus,
        Self::VmStop,
        Self::VmDestroy,
        Self::VcpuRegister,
        Self::VcpuCounter,
        Self::VmPause,
        Self::VmResume,
        Self::Audit,
        Self::PagingMode,
        Self::PagingStatus,
        Self::PagingRoots,
        Self::PagingPool,
        Self::PagingSpace,
        Self::PagingSurvey,
        Self::PagingShadow,
        Self::PagingDemote,
        Self::PagingWorth,
        Self::PagingRelayout,
        Self::PagingSettle,
        Self::PagingEpoch,
        Self::PagingCounter,
        Self::PagingAudit,
        Self::PagingRoot,
        Self::PagingSpaceAdd,
        Self::PagingSpaceDrop,
        Self::PagingHome,
        Self::VmWatchdog,
        Self::VmWatchdogStatus,
        Self::ScheduleSet,
        Self::ScheduleInstall,
        Self::ScheduleStatus,
        Self::ScheduleWindow,
        Self::VcpuTime,
        Self::VmLeaves,
        Self::VmTraps,
        Self::VmTrap,
        Self::RamSetAside,
        Self::VmMapDevice,
        Self::VmAssignSpi,
        Self::DeviceLend,
    ];

    /// The SMCCC function identifier for W0.
    #[must_use]
    pub const fn id(self) -> u32 {
        CALL_BASE + self as u32
    }

    /// The call that an SMCCC function identifier names.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        let number = usize::try_from(id.wrapping_sub(CALL_BASE)).ok()?;
        BY_NUMBER.get(number).copied().flatten()
    }
}

/// The calls by their numbers.
static BY_NUMBER: [Option<Call>; CALL_NUMBERS] = {
    let mut table = [None; CALL_NUMBERS];
    let mut rest: &[Call] = &Call::ALL;
    while let [call, others @ ..] = rest {
        let (_, from) = table.split_at_mut(*call as usize);
        if let [slot, ..] = from {
            *slot = Some(*call);
        }
        rest = others;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_fast_smc64_vendor_hypervisor_calls() {
        for call in Call::ALL {
            assert_eq!(Call::from_id(call.id()), Some(call));

            assert_eq!(call.id() >> 24, 0xc6);
        }
        for id in [
            CALL_BASE - 1,
            CALL_BASE + 7,
            CALL_BASE + 127,
            CALL_BASE + 128,
            0,
        ] {
            assert_eq!(Call::from_id(id), None);
        }
    }
}
