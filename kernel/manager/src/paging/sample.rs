//! What EL2 reports and the policy learns from. docs/manager-contract.md says where each comes from.

use super::reason::Failure;

/// Which half of the address space a root serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    /// TTBR0_EL1: user memory.
    User,
    /// TTBR1_EL1: the kernel.
    Kernel,
}

/// What stands for a guest's level-3 table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// The guest's own table.
    #[default]
    Nested,
    /// A table of ours, entry by entry.
    Mirror,
    /// One 2 MiB leaf over frames that lie in order by themselves.
    Leaf,
    /// One 2 MiB leaf over frames that were put in order.
    Relaid,
}

/// A 2 MiB region, as a survey found it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionSample {
    /// The address space, by EL2's number.
    pub space: u8,
    /// First VA.
    pub va: u64,
    /// IPA of the guest's table.
    pub table: u64,
    /// Valid descriptors, 0 to 512.
    pub valid: u16,
    /// Runs of 16 that could take the contiguous hint, 0 to 32.
    pub runs: u16,
    /// One leaf could stand for it as its frames lie.
    pub uniform: bool,
    /// Full, with equal attributes: its frames could be put in order.
    pub full: bool,
    /// What stands for it.
    pub form: Form,
    /// Stores to its table since it was sampled last, as far as EL2 saw them.
    pub writes: u16,
    /// Whether a walk fetched from its table since the epoch began; `None` where nobody samples.
    pub walked: Option<bool>,
}

/// An address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceSample {
    /// EL2's number.
    pub space: u8,
    /// Which half it serves.
    pub half: Half,
    /// The guest's root.
    pub root: u64,
    /// Its root is mirrored, so that regions can be shadowed.
    pub mirrored: bool,
}

/// A root of the lower half that EL2 has seen while roots are trapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootSample {
    /// Its IPA.
    pub root: u64,
    /// Writes of it so far.
    pub writes: u64,
    /// It has a space.
    pub space: bool,
    /// It gets a space as soon as it is written, or seen in a vCPU.
    pub wanted: bool,
    /// A vCPU holds it.
    pub held: bool,
    /// Why EL2 did not make a space when it tried. Not in traces.
    pub refusal: Option<Failure>,
}

/// Counters of a VM, all since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmSample {
    /// Trapped writes of translation registers.
    pub traps: u64,
    /// Walks that were sampled, a fault each.
    pub samples: u64,
    /// Stores that were mirrored.
    pub mirrored: u64,
    /// Shadowed tables that were given up, for whatever cause.
    pub demoted: u64,
    /// Table frames in use.
    pub frames_used: u64,
    /// Table frames in all.
    pub frames: u64,
    /// For how many ms its vCPUs were in user mode, added up.
    pub busy_ms: u64,
}
