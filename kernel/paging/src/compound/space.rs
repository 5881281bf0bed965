//! Address spaces, and the conditions under which one may be shadowed.

use penumbra_vmsa::{Granule, Half, Ipa, Level, PAGE_SIZE, bits};

use super::node::NodeId;
use super::{POOL_BASE, WINDOW_BIT};
use crate::stage1::Stage1Regs;

/// SCTLR_EL1.C: data accesses, walks included, are cached.
const SCTLR_C: u64 = 1 << 2;
const SCTLR_M: u64 = 1 << 0;
const SCTLR_EE: u64 = 1 << 25;

/// A space, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceId(pub(super) u8);

/// Why a root may not be shadowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// MMU or caches are off (SCTLR_EL1.M, C).
    Off,
    /// Big-endian walks (SCTLR_EL1.EE).
    BigEndian,
    /// Not the 4 KiB granule.
    Granule,
    /// The root does not fill a page: VA sizes other than 39 and 48 bits.
    RootSize,
    /// Output addresses of less than 40 bits cannot name the window (TCR_EL1.IPS).
    OutputSize,
    /// Walks are not write-back inner shareable.
    Uncached,
    /// Hardware manages access flag or dirty state (TCR_EL1.HA, HD).
    HardwareFlags,
    /// Common translations (TTBR.CnP).
    CommonNotPrivate,
    /// The root has no alias in the window.
    RootAddress,
    /// The same root is in use with another geometry.
    Geometry,
}

/// The root of a half and its level, if the registers allow it to be shadowed (rule 4 of docs/rules.md).
pub(super) fn eligible(regs: &Stage1Regs, half: Half) -> Result<(Ipa, Level), Refusal> {
    if regs.sctlr & (SCTLR_M | SCTLR_C) != SCTLR_M | SCTLR_C {
        return Err(Refusal::Off);
    }
    if regs.sctlr & SCTLR_EE != 0 {
        return Err(Refusal::BigEndian);
    }
    let tcr = regs.tcr.half(half);
    if tcr.granule != Some(Granule::K4) {
        return Err(Refusal::Granule);
    }
    if tcr.root_bytes() != Some(PAGE_SIZE) {
        return Err(Refusal::RootSize);
    }
    if regs.tcr.ipa_bits() < 40 {
        return Err(Refusal::OutputSize);
    }
    if !tcr.walks_cached {
        return Err(Refusal::Uncached);
    }
    if regs.tcr.hardware_access_flag() || regs.tcr.hardware_dirty() {
        return Err(Refusal::HardwareFlags);
    }
    let ttbr = match half {
        Half::Low => regs.ttbr0,
        Half::High => regs.ttbr1,
    };
    if ttbr.cnp() {
        return Err(Refusal::CommonNotPrivate);
    }
    let (root, start, _) = regs.root(half).map_err(|_| Refusal::Granule)?;
    // What the guest reads back may carry the alias bit already.
    let root = Ipa::truncated(root.raw() & !WINDOW_BIT);
    if root.raw() | WINDOW_BIT >= POOL_BASE || root.raw() >= WINDOW_BIT {
        return Err(Refusal::RootAddress);
    }
    Ok((root, start))
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    /// The number is taken.
    pub(super) used: bool,
    pub(super) root: Ipa,
    pub(super) start: Level,
    /// TCR_EL1.HPD of the half.
    pub(super) flat_hierarchy: bool,
    /// Which half: for the addresses that a survey reports.
    pub(super) half: Half,
    /// `None` once the root was demoted: the alias then shows the guest's own root.
    pub(super) node: Option<NodeId>,
}

impl Space {
    /// A number that is free: all zero, which an `Option` around it would not be.
    pub(super) const FREE: Self = Self {
        used: false,
        root: Ipa::truncated(0),
        start: Level::L0,
        flat_hierarchy: false,
        half: Half::Low,
        node: None,
    };

    /// Whether what `leaf` says may be said by a larger leaf. A global leaf of the low half serves
    /// under every root that TTBR0 takes turns with, where others may say it in the guest's size.
    pub(super) const fn may_merge(&self, leaf: u64) -> bool {
        matches!(self.half, Half::High) || leaf & bits::NOT_GLOBAL != 0
    }
}

#[derive(Debug)]
pub(super) struct Spaces<const SPACES: usize> {
    spaces: [Space; SPACES],
    /// Spaces without a node.
    bare: u8,
}

impl<const SPACES: usize> Spaces<SPACES> {
    pub(super) const fn new() -> Self {
        assert!(SPACES <= 255, "space numbers have 8 bits");
        Self {
            spaces: [Space::FREE; SPACES],
            bare: 0,
        }
    }

    pub(super) fn is_used(&self, id: SpaceId) -> bool {
        let space = self.spaces.get(usize::from(id.0));
        space.is_some_and(|space| space.used)
    }

    pub(super) fn get(&self, id: SpaceId) -> Option<Space> {
        let space = self.spaces.get(usize::from(id.0)).copied();
        space.filter(|space| space.used)
    }

    pub(super) fn set(&mut self, id: SpaceId, space: Option<Space>) {
        if let Some(slot) = self.spaces.get_mut(usize::from(id.0)) {
            *slot = space.unwrap_or(Space::FREE);
        }
        let bare = self
            .spaces
            .iter()
            .filter(|space| space.used && space.node.is_none());
        self.bare = u8::try_from(bare.count()).unwrap_or(u8::MAX);
    }

    fn all(&self) -> impl Iterator<Item = (SpaceId, &Space)> {
        (0..SPACES).filter_map(|number| {
            let id = SpaceId(u8::try_from(number).ok()?);
            Some((id, self.spaces.get(number)?))
        })
    }

    /// Whether a page is a root that was demoted. Others are watched.
    pub(super) fn is_bare_root(&self, page: Ipa) -> bool {
        self.bare > 0 && self.find(page).is_some()
    }

    pub(super) fn find(&self, root: Ipa) -> Option<(SpaceId, Space)> {
        let mut spaces = self.all();
        let found = spaces.find(|(_, space)| space.used && space.root == root);
        found.map(|(id, space)| (id, *space))
    }

    /// Whether a root is mirrored.
    pub(super) fn has_roots(&self) -> bool {
        let mut spaces = self.spaces.iter();
        spaces.any(|space| space.used && space.node.is_some())
    }

    pub(super) fn vacant(&self) -> Option<SpaceId> {
        self.all().find(|(_, space)| !space.used).map(|(id, _)| id)
    }

    /// All numbers are free again.
    pub(super) fn clear(&mut self) {
        self.spaces.fill(Space::FREE);
        self.bare = 0;
    }
}
