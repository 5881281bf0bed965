//! SPIs: what the distributor knows of them, and of the questions that vCPUs ask each other.

use penumbra_abi::{GicVersion, MAX_VCPUS_PER_VM};

use super::private::{PRIORITY_MASK, select_groups};
use super::vcpu_set::Bits;

/// First INTID of an SPI.
pub const FIRST_SPI: u32 = 32;
/// SPIs that a VM's distributor has: INTIDs 32 to 223.
pub const SPI_COUNT: usize = 192;
/// 32-bit words of SPIs. Word 0 holds INTIDs 32 to 63.
pub(super) const SPI_WORDS: usize = SPI_COUNT / 32;
/// No vCPU, in a byte.
const NOBODY: u8 = u8::MAX;

/// An SPI of the distributor, by its number from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spi(usize);

impl Spi {
    /// The SPI with INTID `intid`.
    #[inline]
    pub(super) fn from_intid(intid: u32) -> Option<Self> {
        let index = usize::try_from(intid.checked_sub(FIRST_SPI)?).ok()?;
        (index < SPI_COUNT).then_some(Self(index))
    }

    /// SPI `bit` of word `word`.
    #[inline]
    pub(super) const fn at(word: usize, bit: usize) -> Self {
        Self((word & 7) << 5 | (bit & 31))
    }

    /// The INTID.
    #[inline]
    pub(super) const fn intid(self) -> u32 {
        // Below 256 by construction.
        self.0 as u32 + FIRST_SPI
    }

    /// The word it is in, and its bit there.
    pub(super) const fn position(self) -> (usize, u32) {
        (self.word(), self.mask())
    }

    const fn word(self) -> usize {
        self.0 >> 5
    }

    const fn mask(self) -> u32 {
        1 << (self.0 & 31)
    }
}

/// A bit for every SPI.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words([u32; SPI_WORDS]);

impl Words {
    const ZERO: Self = Self([0; SPI_WORDS]);
    const ONES: Self = Self([u32::MAX; SPI_WORDS]);

    /// Word `word`; zero beyond the last.
    #[inline]
    pub(super) fn word(&self, word: usize) -> u32 {
        self.0.get(word).copied().unwrap_or(0)
    }

    /// Sets bits of a word.
    #[inline]
    pub(super) fn set(&mut self, word: usize, bits: u32) {
        if let Some(slot) = self.0.get_mut(word) {
            *slot |= bits;
        }
    }

    /// Clears bits of a word and returns those that were set.
    #[inline]
    pub(super) fn clear(&mut self, word: usize, bits: u32) -> u32 {
        let Some(slot) = self.0.get_mut(word) else {
            return 0;
        };
        let old = *slot & bits;
        *slot &= !bits;
        old
    }

    /// Whether any bit is set.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.0.iter().fold(0, |all, word| all | word) != 0
    }

    /// The bit of `spi`.
    #[inline]
    pub(super) fn has(&self, spi: Spi) -> bool {
        self.word(spi.word()) & spi.mask() != 0
    }

    /// Sets or clears the bit of `spi` and returns what it was.
    #[inline]
    pub(super) fn put(&mut self, spi: Spi, on: bool) -> bool {
        let old = self.has(spi);
        if on {
            self.set(spi.word(), spi.mask());
        } else {
            self.clear(spi.word(), spi.mask());
        }
        old
    }
}

/// What is asked of one vCPU and what it last answered, for its SGIs and PPIs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialogue {
    /// Counts the vCPU's rebuilds and saves.
    pub(super) folds: u32,
    /// Held interrupts that are to lose their pending state.
    pub(super) clear_pending: u32,
    /// Held interrupts that are to lose their active state.
    pub(super) clear_active: u32,
    /// Sources of a held SGI that are to lose their pending state (GICv2).
    pub(super) clear_sources: [u8; 16],
    /// Pending in a list register after the last rebuild.
    pub(super) seen_pending: u32,
    /// Active in a list register after the last rebuild.
    pub(super) seen_active: u32,
}

impl Dialogue {
    const NONE: Self = Self {
        folds: 0,
        clear_pending: 0,
        clear_active: 0,
        clear_sources: [0; 16],
        seen_pending: 0,
        seen_active: 0,
    };
}

/// State of all SPIs of a VM, and the [`Dialogue`]s of its vCPUs.
#[derive(Debug)]
pub(super) struct Spis {
    pub(super) enabled: Words,
    /// Set: group 1.
    pub(super) group: Words,
    /// Pending latch. While held: set again after it went to its list register.
    pub(super) pending: Words,
    /// Active, and not in a list register; while held, to be made active there too.
    pub(super) active: Words,
    /// Lines.
    pub(super) level: Words,
    /// Set: edge-triggered.
    pub(super) edge: Words,
    /// In a list register of its owner, or was there when the owner's core last looked.
    pub(super) held: Words,
    /// Held and pending because of the latch, although level-triggered.
    pub(super) latched: Words,
    pub(super) seen_pending: Words,
    pub(super) seen_active: Words,
    pub(super) clear_pending: Words,
    pub(super) clear_active: Words,
    /// Linked to a physical interrupt.
    pub(super) linked: Words,
    /// Linked, and the physical interrupt is to be deactivated by the next core that rebuilds.
    pub(super) release: Words,
    /// Per vCPU, the SPIs that go to it.
    routed: [Words; MAX_VCPUS_PER_VM],
    /// Where an SPI is held or active.
    owner: [u8; SPI_COUNT],
    /// Where an SPI goes.
    target: [u8; SPI_COUNT],
    /// GICv3: affinity, one byte per level. GICv2: GICD_ITARGETSR's byte.
    route: [u32; SPI_COUNT],
    priority: [u8; SPI_COUNT],
    physical: [u16; SPI_COUNT],
    dialogues: [Dialogue; MAX_VCPUS_PER_VM],
    vcpus: usize,
    /// Words in which an SPI may be raised or active in memory, as a bitmap: the others need no look.
    busy: u32,
}

impl Spis {
    /// Of a VM that does not exist yet: all zero, and not to be used before [`Self::reset`]. A static
    /// of these takes no room in the image.
    pub(super) const fn vacant() -> Self {
        Self {
            enabled: Words::ZERO,
            group: Words::ZERO,
            pending: Words::ZERO,
            active: Words::ZERO,
            level: Words::ZERO,
            edge: Words::ZERO,
            held: Words::ZERO,
            latched: Words::ZERO,
            seen_pending: Words::ZERO,
            seen_active: Words::ZERO,
            clear_pending: Words::ZERO,
            clear_active: Words::ZERO,
            linked: Words::ZERO,
            release: Words::ZERO,
            routed: [Words::ZERO; MAX_VCPUS_PER_VM],
            owner: [0; SPI_COUNT],
            target: [0; SPI_COUNT],
            route: [0; SPI_COUNT],
            priority: [0; SPI_COUNT],
            physical: [0; SPI_COUNT],
            dialogues: [Dialogue::NONE; MAX_VCPUS_PER_VM],
            vcpus: 0,
            busy: 0,
        }
    }

    /// Resets.
    pub(super) fn reset(&mut self, version: GicVersion, vcpus: usize) {
        *self = Self::vacant();
        self.owner = [NOBODY; SPI_COUNT];
        self.target = [NOBODY; SPI_COUNT];
        self.vcpus = vcpus;
        if version == GicVersion::V3 {
            self.group = Words::ONES;
        }
        // A GICv3 routes to affinity 0 after reset; a GICv2 with one CPU interface has no choice.
        if version == GicVersion::V3 || vcpus == 1 {
            self.target = [0; SPI_COUNT];
            if let Some(routed) = self.routed.first_mut() {
                *routed = Words::ONES;
            }
        }
    }

    /// What is asked of `vcpu`.
    pub(super) fn dialogue(&mut self, vcpu: usize) -> Option<&mut Dialogue> {
        self.dialogues.get_mut(vcpu)
    }

    /// Marks `word`: one of its SPIs is raised or active now.
    #[inline]
    pub(super) fn mark_busy(&mut self, word: usize) {
        self.busy |= 1u32 << (word & 31);
    }

    /// Words in which an SPI may be raised or active in memory.
    #[inline]
    pub(super) fn busy(&self) -> Bits {
        Bits(self.busy)
    }

    /// Forgets words that are no longer busy.
    pub(super) fn prune_busy(&mut self) {
        for word in self.busy() {
            if self.pending.word(word) | self.level.word(word) | self.active.word(word) == 0 {
                self.busy &= !(1u32 << (word & 31));
            }
        }
    }

    /// SPIs of `word` that are pending, by latch or line.
    #[inline]
    pub(super) fn raised(&self, word: usize) -> u32 {
        self.pending.word(word) | (self.level.word(word) & !self.edge.word(word))
    }

    /// SPIs of `word` that could be delivered now if they are not held: raised, enabled, not active.
    #[inline]
    pub(super) fn candidates(&self, word: usize, groups: u32) -> u32 {
        let gate = self.enabled.word(word) & select_groups(self.group.word(word), groups);
        self.raised(word) & gate & !self.active.word(word) & !self.held.word(word)
    }

    /// SPIs of `word` that go to `vcpu`.
    #[inline]
    pub(super) fn routed_to(&self, vcpu: usize, word: usize) -> u32 {
        self.routed.get(vcpu).map_or(0, |words| words.word(word))
    }

    /// Whether `spi` is held, or active, at `vcpu`.
    pub(super) fn is_owner(&self, vcpu: usize, spi: Spi) -> bool {
        self.owner(spi) == Some(vcpu)
    }

    /// Where `spi` is held or active.
    pub(super) fn owner(&self, spi: Spi) -> Option<usize> {
        lookup(&self.owner, spi)
    }

    /// Sets where `spi` is held or active.
    pub(super) fn set_owner(&mut self, spi: Spi, vcpu: usize) {
        if let (Some(slot), Ok(vcpu)) = (self.owner.get_mut(spi.0), u8::try_from(vcpu)) {
            *slot = vcpu;
        }
    }

    /// Where `spi` goes.
    pub(super) fn target(&self, spi: Spi) -> Option<usize> {
        lookup(&self.target, spi)
    }

    /// The route of `spi` as the guest wrote it.
    pub(super) fn route(&self, spi: Spi) -> u32 {
        self.route.get(spi.0).copied().unwrap_or(0)
    }

    /// Records the route of `spi` as the guest wrote it and sends it to vCPU `target`.
    pub(super) fn set_route(&mut self, spi: Spi, route: u32, target: Option<usize>) {
        if let Some(slot) = self.route.get_mut(spi.0) {
            *slot = route;
        }
        if let Some(routed) = self.target(spi).and_then(|old| self.routed.get_mut(old)) {
            routed.put(spi, false);
        }
        let target = target.filter(|&target| target < self.vcpus);
        if let Some(routed) = target.and_then(|new| self.routed.get_mut(new)) {
            routed.put(spi, true);
        }
        if let Some(slot) = self.target.get_mut(spi.0) {
            *slot = target
                .and_then(|new| u8::try_from(new).ok())
                .unwrap_or(NOBODY);
        }
    }

    /// The priority of `spi`.
    pub(super) fn priority(&self, spi: Spi) -> u8 {
        self.priority.get(spi.0).copied().unwrap_or(0)
    }

    /// Sets the priority of `spi`.
    pub(super) fn set_priority(&mut self, spi: Spi, priority: u8) {
        if let Some(slot) = self.priority.get_mut(spi.0) {
            *slot = priority & PRIORITY_MASK;
        }
    }

    /// The physical interrupt that `spi` is linked to.
    pub(super) fn physical(&self, spi: Spi) -> Option<u32> {
        let physical = self.physical.get(spi.0).copied().map(u32::from);
        physical.filter(|_| self.linked.has(spi))
    }

    /// Links `spi` to a physical interrupt, or unlinks it.
    pub(super) fn set_physical(&mut self, spi: Spi, physical: Option<u16>) {
        self.linked.put(spi, physical.is_some());
        if let Some(slot) = self.physical.get_mut(spi.0) {
            *slot = physical.unwrap_or(0);
        }
    }
}

fn lookup(table: &[u8; SPI_COUNT], spi: Spi) -> Option<usize> {
    let vcpu = usize::from(*table.get(spi.0)?);
    (vcpu < MAX_VCPUS_PER_VM).then_some(vcpu)
}
