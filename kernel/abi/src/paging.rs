//! What the manager and EL2 say to each other about the compound page table of a VM.
//!
//! The service at EL2 builds, mirrors and gives up; what is worth it the manager decides. Its calls
//! have the function numbers 64 to 81.

mod survey;

pub use survey::{PagingForm, PagingRegion, PagingSurvey};

/// Address spaces that EL2 knows of one VM at most: numbers below this name them.
pub const PAGING_SPACES: usize = 16;
/// Guest tables that can be shadowed in one VM at the same time, roots included.
pub const PAGING_NODES: usize = 1024;
/// 2 MiB blocks for mirror tables that one VM can be given.
pub const PAGING_BLOCKS: usize = 4;

/// Roots that EL2 remembers from trapped writes of one VM.
pub const PAGING_ROOTS: usize = 16;
/// Samples that one VM can have at the same time.
pub const PAGING_SAMPLES: usize = 64;
/// Tables that one `PagingShadow` looks at.
pub const PAGING_RANGE: u64 = 16;

/// `PagingRelayout` takes a number below this for one of the 2 MiB frames in which the region's pages lie
/// already, the one with most of them first; all else is an IPA.
pub const PAGING_OWN_FRAMES: u64 = 8;

/// How a VM's stage 1 is walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum PagingMode {
    /// The guest's own tables, two stages: EL2 makes no exits for paging.
    #[default]
    Nested = 0,
    /// Compound: regions that the manager names are shadowed, the rest is nested.
    Compound = 1,
    /// Everything is to be mirrored, the case to compare with. To EL2 it is the same as `Compound`.
    Shadow = 2,
}

impl PagingMode {
    /// Reads a mode from a register.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            0 => Self::Nested,
            1 => Self::Compound,
            2 => Self::Shadow,
            _ => return None,
        })
    }
}

/// Why a guest's root stays nested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum PagingRefusal {
    /// It need not, or nobody has looked yet.
    #[default]
    None = 0,
    /// MMU or caches are off (SCTLR_EL1.M, C).
    Off = 1,
    /// Big-endian walks (SCTLR_EL1.EE).
    BigEndian = 2,
    /// Not the 4 KiB granule.
    Granule = 3,
    /// The root does not fill a page: VA sizes other than 39 and 48 bits.
    RootSize = 4,
    /// Output addresses of less than 40 bits (TCR_EL1.IPS) cannot name the window.
    OutputSize = 5,
    /// Walks are not write-back, inner shareable.
    Uncached = 6,
    /// Hardware manages access flag or dirty state (TCR_EL1.HA, HD).
    HardwareFlags = 7,
    /// Common translations (TTBR.CnP).
    CommonNotPrivate = 8,
    /// The root lies where it has no alias in the window.
    RootAddress = 9,
    /// The same root is in use with another geometry.
    Geometry = 10,
    /// No space, node, pool frame or stage-2 table is free: give the VM a pool block.
    Full = 11,
    /// The root does not lie in RAM that can be write-protected.
    NotRam = 12,
    /// Roots were replaced by the guest or led into the window too often, or written too fast while that
    /// was trapped: what was allowed by `PagingRoots` is not any more.
    Storm = 13,
    /// The guest's walks wrote to protected tables, it stored to one through tables that EL2 cannot walk, or its
    /// TLBs held two entries for one address: the VM was made nested by EL2.
    Violation = 14,
    /// The root has no entry: it stands for no process.
    Empty = 15,
    /// The root's page serves as a table at too many places.
    Crowded = 16,
    /// The guest stored to a protected table again and again by a way that its own tables do not show, as by a root
    /// in the window: the VM was made nested by EL2.
    Astray = 17,
}

impl PagingRefusal {
    /// All, by number.
    pub const ALL: [Self; 18] = [
        Self::None,
        Self::Off,
        Self::BigEndian,
        Self::Granule,
        Self::RootSize,
        Self::OutputSize,
        Self::Uncached,
        Self::HardwareFlags,
        Self::CommonNotPrivate,
        Self::RootAddress,
        Self::Geometry,
        Self::Full,
        Self::NotRam,
        Self::Storm,
        Self::Violation,
        Self::Empty,
        Self::Crowded,
        Self::Astray,
    ];

    /// Reads a reason.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(bits).ok()?).copied()
    }
}

/// Ways to put compound roots in place, bits of `PagingRoots`. Without any, new roots are not planted.
pub mod paging_roots {
    /// The kernel's root (TTBR1_EL1) is planted at an exit from EL0 or a WFI, and stays as long as the
    /// guest leaves it there. No traps.
    pub const STICKY: u64 = 1 << 0;
    /// Writes of the registers that control stage 1 are trapped (HCR_EL2.TVM), and a root that has a
    /// space is exchanged for its compound root. Taken back by EL2, with the spaces of the lower half,
    /// when such writes come too fast (`Storm`).
    pub const TRAPPED: u64 = 1 << 1;
}

/// What `PagingEpoch` is to do.
pub mod paging_epoch {
    /// Samples stores, not walks.
    pub const WRITES: u64 = 1 << 0;
    /// Also tables whose page has no stage-2 entry of its own: a block or run is split for it.
    pub const SPLIT: u64 = 1 << 1;
    /// First ends all samples that the VM has.
    pub const FRESH: u64 = 1 << 2;
    /// Ends all samples, and begins none.
    pub const END: u64 = 1 << 3;
}

/// What `PagingRoot` says of a root of the lower half that EL2 has seen while roots are trapped: written
/// by the guest, or held by a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingRoot {
    /// The number is in use.
    pub exists: bool,
    /// A space is wanted for it: the next write of it makes one, or the next exit from EL0 or by a WFI of a
    /// vCPU that holds it.
    pub wanted: bool,
    /// It has a space.
    pub space: bool,
    /// Why its space was not made when EL2 last tried.
    pub refusal: PagingRefusal,
    /// vCPUs (a bit each) that held it in TTBR0_EL1 when EL2 last looked: once a second at the vCPU that a
    /// core's beat finds in it.
    pub held: u8,
    /// IPA of the root.
    pub root: u64,
    /// Writes of it, as far as EL2 has counted, without a bound on how late.
    /// A root that is seldom written gives its number to others in time, and starts again at 0.
    pub writes: u64,
}

impl PagingRoot {
    /// As X1 to X3.
    #[must_use]
    pub const fn to_regs(self) -> [u64; 6] {
        let flags = self.exists as u64
            | (self.wanted as u64) << 1
            | (self.space as u64) << 2
            | (self.refusal as u64) << 8
            | (self.held as u64) << 16;
        [flags, self.root, self.writes, 0, 0, 0]
    }

    /// From X1 to X3.
    #[must_use]
    pub fn from_regs(regs: [u64; 6]) -> Option<Self> {
        let [flags, root, writes, ..] = regs;
        Some(Self {
            exists: flags & 1 != 0,
            wanted: flags & 1 << 1 != 0,
            space: flags & 1 << 2 != 0,
            refusal: PagingRefusal::from_bits(flags >> 8 & 0xff)?,
            held: (flags >> 16) as u8,
            root,
            writes,
        })
    }
}

/// What `PagingStatus` says of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingStatus {
    /// Its mode. EL2 sets it back to `Nested` when it meets what must not be; `refusal` says what.
    pub mode: PagingMode,
    /// [`paging_roots`] in force.
    pub roots: u64,
    /// Why the kernel's root was not planted when EL2 last tried, or is not any more.
    pub refusal: PagingRefusal,
    /// A re-layout is under way, or a change to nested.
    pub busy: bool,
    /// Frames for mirror tables in use.
    pub frames_used: u32,
    /// Frames for mirror tables in all.
    pub frames: u32,
    /// Guest tables shadowed, roots included, of [`PAGING_NODES`].
    pub nodes_used: u32,
    /// vCPUs (a bit each) whose TTBR1_EL1 held the compound root when EL2 last looked.
    pub planted: u8,
}

impl PagingStatus {
    /// As X1 to X6.
    #[must_use]
    pub const fn to_regs(self) -> [u64; 6] {
        [
            self.mode as u64,
            self.roots,
            self.refusal as u64 | (self.busy as u64) << 8,
            self.frames_used as u64 | (self.frames as u64) << 32,
            self.nodes_used as u64,
            self.planted as u64,
        ]
    }

    /// From X1 to X6.
    #[must_use]
    pub fn from_regs(regs: [u64; 6]) -> Option<Self> {
        let [mode, roots, refusal, frames, nodes, planted] = regs;
        Some(Self {
            mode: PagingMode::from_bits(mode)?,
            roots,
            refusal: PagingRefusal::from_bits(refusal & 0xff)?,
            busy: refusal & 1 << 8 != 0,
            frames_used: low(frames),
            frames: low(frames >> 32),
            nodes_used: low(nodes),
            planted: u8::try_from(planted).ok()?,
        })
    }
}

/// How the root of a space is installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RootInstall {
    /// Its own: nested.
    #[default]
    Nested = 0,
    /// The compound root, planted once.
    Sticky = 1,
    /// The compound root, by trapped writes.
    Trapped = 2,
}

/// What `PagingSpace` says of an address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingSpace {
    /// The number is in use.
    pub exists: bool,
    /// It is the upper half of the VA space (TTBR1_EL1), the kernel's.
    pub high: bool,
    /// Its root is mirrored, so that regions can be shadowed. Otherwise all of it is nested.
    pub shadowed: bool,
    /// How its root is installed.
    pub install: RootInstall,
    /// IPA of the guest's root.
    pub root: u64,
    /// First VA of the half, to survey from.
    pub start: u64,
}

impl PagingSpace {
    /// As X1 to X3.
    #[must_use]
    pub const fn to_regs(self) -> [u64; 6] {
        let flags = self.exists as u64
            | (self.high as u64) << 1
            | (self.shadowed as u64) << 2
            | (self.install as u64) << 8;
        [flags, self.root, self.start, 0, 0, 0]
    }

    /// From X1 to X3.
    #[must_use]
    pub const fn from_regs(regs: [u64; 6]) -> Option<Self> {
        let [flags, root, start, ..] = regs;
        Some(Self {
            exists: flags & 1 != 0,
            high: flags & 1 << 1 != 0,
            shadowed: flags & 1 << 2 != 0,
            install: match flags >> 8 & 0xff {
                0 => RootInstall::Nested,
                1 => RootInstall::Sticky,
                2 => RootInstall::Trapped,
                _ => return None,
            },
            root,
            start,
        })
    }
}

/// Counters of a VM's compound page table, for `PagingCounter`. They count up while the VM exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum PagingCounter {
    /// Stores that went to mirrors and to the guest's table.
    Mirrored = 0,
    /// Stores that changed what a link or a coalesced leaf of EL2's stands for.
    Structural = 1,
    /// Guest tables shadowed.
    Shadowed = 2,
    /// Of these, as one leaf.
    Coalesced = 3,
    /// Guest tables given up.
    Demoted = 4,
    /// Of these, because there was no room.
    Evicted = 5,
    /// Pages exchanged by re-layout.
    Moved = 6,
    /// Regions that one leaf stands for through an alias.
    Relaid = 7,
    /// Times that EL2 put the compound root in place.
    Planted = 8,
    /// Times that it found the guest's own root where it had put the compound root.
    Lost = 9,
    /// Roots computed by the guest that led into the window, put right.
    WindowFaults = 10,
    /// Stores that could not be emulated: their table was given up.
    Undecodable = 11,
    /// Protection faults that the guest's tables do not explain (any more): dropped from the TLB, and
    /// done again.
    Stale = 12,
    /// Holds of the VM's vCPUs.
    Holds = 13,
    /// Counter ticks that holds took, from the wish to the release.
    HoldTicks = 14,
    /// vCPUs that wanted to hold the others while another did.
    HoldsLost = 15,
    /// TLB conflict aborts, table walks that wrote to protected tables, and stores to them through tables that EL2
    /// cannot walk.
    Violations = 16,
    /// Writes of roots that were trapped.
    RootTraps = 17,
    /// Walks sampled.
    Samples = 18,
    /// Counter ticks that vCPUs have spent at EL0, added up, as far as a look at each running vCPU once a
    /// second tells: what passed since the last look counts if this one finds it there.
    UserTicks = 19,
    /// Counter values at which walks were sampled, added up; it wraps. With [`Self::Samples`] it tells how long a sample waits
    /// for its walk, whenever somebody looks.
    SampleTicks = 20,
    /// Counter value at the first walk that was sampled since [`paging_epoch::FRESH`]; 0: there was none yet.
    FirstSample = 21,
}

impl PagingCounter {
    /// All, by number.
    pub const ALL: [Self; 22] = [
        Self::Mirrored,
        Self::Structural,
        Self::Shadowed,
        Self::Coalesced,
        Self::Demoted,
        Self::Evicted,
        Self::Moved,
        Self::Relaid,
        Self::Planted,
        Self::Lost,
        Self::WindowFaults,
        Self::Undecodable,
        Self::Stale,
        Self::Holds,
        Self::HoldTicks,
        Self::HoldsLost,
        Self::Violations,
        Self::RootTraps,
        Self::Samples,
        Self::UserTicks,
        Self::SampleTicks,
        Self::FirstSample,
    ];

    /// Reads a number.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(bits).ok()?).copied()
    }
}

/// The low half of a register.
const fn low(bits: u64) -> u32 {
    bits as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (number, counter) in (0..).zip(PagingCounter::ALL) {
            assert_eq!(counter as u64, number);
            assert_eq!(PagingCounter::from_bits(number), Some(counter));
        }
        for (number, refusal) in (0..).zip(PagingRefusal::ALL) {
            assert_eq!(u64::from(refusal as u8), number);
            assert_eq!(PagingRefusal::from_bits(number), Some(refusal));
        }
        assert_eq!(PagingCounter::from_bits(22), None);
    }

    #[test]
    fn what_is_said_survives_registers() {
        let status = PagingStatus {
            mode: PagingMode::Shadow,
            roots: paging_roots::STICKY,
            refusal: PagingRefusal::Storm,
            busy: true,
            frames_used: 7,
            frames: 512,
            nodes_used: 300,
            planted: 0b11,
        };
        assert_eq!(PagingStatus::from_regs(status.to_regs()), Some(status));
        let space = PagingSpace {
            exists: true,
            high: true,
            shadowed: true,
            install: RootInstall::Sticky,
            root: 0x4123_4000,
            start: 0xffff_0000_0000_0000,
        };
        assert_eq!(PagingSpace::from_regs(space.to_regs()), Some(space));
        let root = PagingRoot {
            exists: true,
            wanted: true,
            space: false,
            refusal: PagingRefusal::RootSize,
            held: 0b101,
            root: 0x4123_4000,
            writes: 1 << 40,
        };
        assert_eq!(PagingRoot::from_regs(root.to_regs()), Some(root));
    }
}
