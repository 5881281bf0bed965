//! The compound page table of one VM: stage-1 tables of ours that mirror the guest's, slot by slot,
//! down to where a region is *shadowed* or left *nested*.
//!
//! With stage 2 on, every address in a stage-1 table is an IPA, whoever wrote the table. So a table
//! of ours may hold a table descriptor that points at the guest's own next table (nested), at
//! another table of ours, or a leaf of ours that stands for a whole guest table (coalesced).
//!
//! - A *space* is an address space, by its guest root `R`. Its compound root answers at the IPA
//!   `R | WINDOW_BIT`, so that a guest which reads TTBRx and writes it back goes on working.
//! - A *node* is a guest table page in one position of one space, with the form that stands for it:
//!   a mirror table, or one leaf. A page that serves at several positions has as many nodes.
//! - A node that is given up is *detached* with all below it: the guest's own table is in its place, no walker
//!   comes there any more, and it is given back by and by.
//! - A page is *watched* as long as it has a node; then stage 2 makes it read-only, so that every
//!   store to it comes to EL2: [`Compound::store`] mirrors it or asks for [`Compound::soften`] or
//!   [`Compound::demote_page`], after which the guest's own table is in place again.
//!
//! Invariant, at every moment that the guest can run: an entry of a mirror equals the guest's own
//! descriptor bit for bit, or points at a node, or is part of a contiguous run or a leaf that
//! translates exactly as the guest's descriptors do. Hence a store is *structural*, and needs the other vCPUs parked, exactly
//! when the entry it changes differs from the guest's.
//!
//! Structural edits take a [`Parked`]: no vCPU of the VM but the caller's may run, so that no walker
//! fills a TLB between an edit and its flush, and no stage-1 break is ever visible.

//!
//! Leaves are made larger, never smaller; global ones only in the high half, whose root stays, or
//! changes with a flush: in the low half TTBR0 goes from root to root without one, and a TLB could
//! come to hold a global leaf of two sizes (rule 6 of docs/rules.md).
//!
//! tests/oracle holds it against a
//! machine that runs on the guest's tables alone.

mod access;
mod alias;
mod build;
mod coalesce;
mod demote;
mod known;
mod manage;
mod node;
mod placing;
mod pool;
mod raise;
mod relayout;
mod sample;
mod settle;
mod space;
mod store;
mod survey;

use penumbra_vmsa::{Ipa, Level};

use crate::stage2::Stage2Error;
use alias::Aliases;
use known::KnownWalks;
use node::Nodes;
use placing::Residents;
use pool::Pool;
use relayout::Guarded;
use sample::Samples;
use space::Spaces;

pub use access::Access;
pub use known::{Noted, StoredBy, WalkRead};
pub use manage::SpaceView;
pub use node::Form;
pub use placing::{Donor, OWN_FRAMES};
pub use relayout::{FrameMover, Relayout};
pub use sample::{Accessed, MAX_SAMPLES, Sample, SampleKind};
pub use settle::HomeStep;
pub use space::{Refusal, SpaceId};
pub use store::Stored;
pub use survey::{Region, SurveyStep};

/// The IPA bit that separates the guest's half of the IPA space from the window.
pub const WINDOW_BIT: u64 = 1 << 39;
/// Where table pools are mapped, behind all aliases of roots. A root whose alias would reach here
/// (RAM beyond 256 GiB) is refused.
pub const POOL_BASE: u64 = WINDOW_BIT | 1 << 38;
/// Where data aliases of re-laid-out regions go.
pub const ALIAS_BASE: u64 = POOL_BASE | 1 << 37;

/// Says that no vCPU of the VM but the caller's can run, or walk, until this is dropped: each of the
/// others is parked in EL2 after a DSB, or is on no core.
#[derive(Debug)]
pub struct Parked(());

impl Parked {
    /// To be called by what parked them, and by tests.
    #[must_use]
    pub const fn all_others() -> Self {
        Self(())
    }
}

/// Why the service did not do what was asked. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ShadowError {
    /// The registers do not allow it: the space stays nested.
    Refused(Refusal),
    /// No such space, or it was demoted to its root.
    NoSpace,
    /// All spaces, nodes or pool frames are in use: evict, or add a pool block.
    Full,
    /// The guest has no table there.
    NoTable,
    /// The guest's table, or a page to move, does not lie in RAM that may be write-protected or moved.
    NotRam,
    /// The guest's table serves at too many places, or too many others lie where they are looked up with it.
    Crowded,
    /// The region is not full of leaves with equal attributes.
    NotUniform,
    /// It is shadowed already.
    Already,
    /// A stage-2 edit failed.
    Stage2(Stage2Error),
}

impl From<Stage2Error> for ShadowError {
    fn from(error: Stage2Error) -> Self {
        Self::Stage2(error)
    }
}

/// Counters for the operator and for policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Stores that went to mirror and guest.
    pub mirrored: u64,
    /// Stores that needed a structural change.
    pub structural: u64,
    /// Nodes made.
    pub shadowed: u64,
    /// Nodes made as one leaf.
    pub coalesced: u64,
    /// Nodes given up.
    pub demoted: u64,
    /// Nodes given up for want of room.
    pub evicted: u64,
    /// Pages exchanged for a re-layout, or to undo one.
    pub moved: u64,
    /// Regions that one leaf stands for through an alias.
    pub relaid: u64,
    /// Level-2 tables that one 1 GiB leaf came to stand for.
    pub raised: u64,
    /// Walk samples that were hit.
    pub walked: u64,
    /// Write samples that were hit.
    pub wrote: u64,
}

/// The compound page tables of one VM, of fixed capacity. Used under the VM's lock.
#[derive(Debug)]
pub struct Compound<const SPACES: usize, const NODES: usize, const BLOCKS: usize> {
    spaces: Spaces<SPACES>,
    nodes: Nodes<NODES>,
    pool: Pool<BLOCKS>,
    aliases: Aliases,
    residents: Residents,
    guarded: Guarded,
    known: KnownWalks,
    samples: Samples,
    counters: Counters,
}

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// No spaces, no pool.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            spaces: Spaces::new(),
            nodes: Nodes::new(),
            pool: Pool::new(),
            aliases: Aliases::new(),
            residents: Residents::new(),
            guarded: Guarded::NOTHING,
            known: KnownWalks::new(),
            samples: Samples::new(),
            counters: Counters {
                mirrored: 0,
                structural: 0,
                shadowed: 0,
                coalesced: 0,
                demoted: 0,
                evicted: 0,
                moved: 0,
                relaid: 0,
                raised: 0,
                walked: 0,
                wrote: 0,
            },
        }
    }

    /// The counters.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether stores to a page of the guest come to EL2 because it holds a mirrored table.
    #[must_use]
    pub fn is_watched(&self, page: Ipa) -> bool {
        self.nodes.first_of(page).is_some()
    }

    /// Pool frames in use and in all.
    #[must_use]
    pub fn pool_frames(&self) -> (u32, u32) {
        self.pool.usage()
    }

    /// Number of nodes in use.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.used()
    }
}

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Default
    for Compound<SPACES, NODES, BLOCKS>
{
    fn default() -> Self {
        Self::new()
    }
}

/// Address of entry `index` of the table at `page`, as an IPA.
const fn entry_ipa(page: Ipa, index: u64) -> Ipa {
    Ipa::truncated(page.raw() | (index & 0x1ff) << 3)
}

/// Bits of a leaf that change no translation: software bits, PBHA, and DBM, which means nothing
/// while TCR_EL1.HD is 0, as it is in every space.
const IGNORED: u64 = 0x1ff << 55 | penumbra_vmsa::bits::DBM;

/// Whether two descriptors of a table of `level` translate alike.
const fn translates_alike(level: Level, a: u64, b: u64) -> bool {
    use penumbra_vmsa::bits::{Kind, kind};
    match (kind(level, a), kind(level, b)) {
        (Kind::Invalid, Kind::Invalid) => true,
        (Kind::Leaf, Kind::Leaf) => (a ^ b) & !IGNORED == 0,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
