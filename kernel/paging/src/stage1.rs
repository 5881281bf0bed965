//! The guest's stage 1, walked in software: VA to IPA under a guest's own registers and tables.
//!
//! EL2 uses no AT instruction (errata on speculative AT), so this is how it finds what a guest's
//! address means. Guest tables are untrusted: every descriptor is read once, the walk has four steps
//! at most, and what the tables say is a claim about IPAs that stage 2 still has to allow.
//!
//! Arm ARM DDI 0487 L.b, D8.2 "Translation process", D8.4 "Memory access control".

use penumbra_vmsa::{
    Half, Ipa, Level, Stage1Attrs, Stage1Desc, TableLimits, Tcr, TcrHalf, Ttbr, Va,
};

/// Reads a guest's memory by IPA.
pub trait GuestMemory {
    /// Reads the descriptor at `ipa`, 8-byte aligned, in one access; `None` where stage 2 does not
    /// let a walker read RAM.
    fn read_descriptor(&mut self, ipa: Ipa) -> Option<u64>;
}

/// The registers of a vCPU that say how its stage 1 translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage1Regs {
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// TCR_EL1.
    pub tcr: Tcr,
    /// TTBR0_EL1, as the guest means it.
    pub ttbr0: Ttbr,
    /// TTBR1_EL1, as the guest means it.
    pub ttbr1: Ttbr,
}

/// SCTLR_EL1.M: stage 1 is on.
const SCTLR_M: u64 = 1 << 0;
/// SCTLR_EL1.WXN: what is writable is not executable.
const SCTLR_WXN: u64 = 1 << 19;
/// SCTLR_EL1.EE: big-endian walks.
const SCTLR_EE: u64 = 1 << 25;

/// Who accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// EL0, and EL1 by LDTR and its kind.
    El0,
    /// EL1.
    El1,
    /// EL1 with PSTATE.PAN set: pages that EL0 may access are closed to its loads and stores.
    El1Pan,
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Instruction fetch.
    Execute,
}

/// Effective permissions of a leaf, hierarchy and WXN included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permissions {
    /// EL0 may load.
    pub el0_read: bool,
    /// EL0 may store.
    pub el0_write: bool,
    /// EL0 may fetch.
    pub el0_execute: bool,
    /// EL1 may store. It may always load.
    pub el1_write: bool,
    /// EL1 may fetch.
    pub el1_execute: bool,
}

impl Permissions {
    /// Permissions of a leaf under limits of the tables above it.
    #[must_use]
    pub const fn of(attrs: Stage1Attrs, limits: TableLimits, wxn: bool, dirty_by_hw: bool) -> Self {
        let read_only = (attrs.read_only && !(dirty_by_hw && attrs.dbm)) || limits.read_only;
        let el0_read = attrs.user && !limits.no_user;
        let el0_write = el0_read && !read_only;
        let el1_write = !read_only;
        let uxn = attrs.uxn || limits.uxn || (wxn && el0_write);
        // What EL0 may write, EL1 never executes.
        let pxn = attrs.pxn || limits.pxn || el0_write || (wxn && el1_write);
        Self {
            el0_read,
            el0_write,
            // Without a data permission EL0 may still execute: AP does not govern fetches.
            el0_execute: !uxn,
            el1_write,
            el1_execute: !pxn,
        }
    }

    /// Whether an access is allowed.
    #[must_use]
    pub const fn allows(self, privilege: Privilege, kind: AccessKind) -> bool {
        match (privilege, kind) {
            (Privilege::El0, AccessKind::Read) => self.el0_read,
            (Privilege::El0, AccessKind::Write) => self.el0_write,
            (Privilege::El0, AccessKind::Execute) => self.el0_execute,
            (Privilege::El1, AccessKind::Read) => true,
            (Privilege::El1, AccessKind::Write) => self.el1_write,
            (Privilege::El1Pan, AccessKind::Read) => !self.el0_read,
            (Privilege::El1Pan, AccessKind::Write) => self.el1_write && !self.el0_read,
            (Privilege::El1 | Privilege::El1Pan, AccessKind::Execute) => self.el1_execute,
        }
    }
}

/// Why stage 1 does not translate, with the level that the syndrome would show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage1Fault {
    /// Translation fault.
    Translation(Level),
    /// Access flag fault.
    AccessFlag(Level),
    /// Permission fault.
    Permission(Level),
    /// Address size fault.
    AddressSize(Level),
    /// Stage 2 does not let the walk read the descriptor of this level, at this IPA.
    Walk(Level, Ipa),
    /// A granule, an address size, a descriptor format or an endianness that this walker does not do.
    Unsupported,
}

/// The descriptors that a walk read on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkPath {
    /// IPA of the descriptor read at each level, by number; `None` where the walk did not pass.
    pub descriptors: [Option<Ipa>; 4],
}

/// A translation by stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage1Translation {
    /// The IPA.
    pub ipa: Ipa,
    /// The leaf; `None` with stage 1 off.
    pub leaf: Option<Stage1Leaf>,
}

/// The leaf that a walk ended at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage1Leaf {
    /// Level: 1 GiB, 2 MiB or a page.
    pub level: Level,
    /// First IPA of the leaf.
    pub base: Ipa,
    /// Attributes as the leaf states them.
    pub attrs: Stage1Attrs,
    /// Limits of the tables passed; none where TCR_EL1.HPD says so.
    pub limits: TableLimits,
    /// Part of a run of 16.
    pub contiguous: bool,
    /// Effective permissions.
    pub permissions: Permissions,
    /// What was read.
    pub path: WalkPath,
}

impl Stage1Regs {
    /// Whether stage 1 is on.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        self.sctlr & SCTLR_M != 0
    }

    /// The root for a half, its level, and what TCR_EL1 says of it.
    ///
    /// # Errors
    /// [`Stage1Fault::Unsupported`].
    pub fn root(&self, half: Half) -> Result<(Ipa, Level, TcrHalf), Stage1Fault> {
        let tcr = self.tcr.half(half);
        let (Some(start), Some(bytes)) = (tcr.start(), tcr.root_bytes()) else {
            return Err(Stage1Fault::Unsupported);
        };
        if self.tcr.wide_addresses() {
            return Err(Stage1Fault::Unsupported);
        }
        let ttbr = match half {
            Half::Low => self.ttbr0,
            Half::High => self.ttbr1,
        };
        Ok((ttbr.root(bytes), start, tcr))
    }

    /// Translates an access, permissions checked.
    ///
    /// # Errors
    /// The fault that hardware would take first.
    pub fn translate<G: GuestMemory + ?Sized>(
        &self,
        guest: &mut G,
        va: Va,
        privilege: Privilege,
        kind: AccessKind,
    ) -> Result<Stage1Translation, Stage1Fault> {
        if !self.enabled() {
            return self.flat(va);
        }
        let tcr = self.tcr.half(Half::of(va));
        if tcr.no_el0 && matches!(privilege, Privilege::El0) {
            return Err(Stage1Fault::Translation(Level::L0));
        }
        let leaf = self.walk(guest, va)?;
        if !leaf.attrs.accessed && !self.tcr.hardware_access_flag() {
            return Err(Stage1Fault::AccessFlag(leaf.level));
        }
        if !leaf.permissions.allows(privilege, kind) {
            return Err(Stage1Fault::Permission(leaf.level));
        }
        let offset = va.raw() & (leaf.level.entry_bytes() - 1);
        Ok(Stage1Translation {
            ipa: Ipa::truncated(leaf.base.raw() | offset),
            leaf: Some(leaf),
        })
    }

    /// Finds the leaf for `va`; access flag and permissions are the caller's to judge. Four
    /// descriptors at most are read, each once.
    ///
    /// # Errors
    /// Translation, address size and walk faults, and [`Stage1Fault::Unsupported`].
    pub fn walk<G: GuestMemory + ?Sized>(
        &self,
        guest: &mut G,
        va: Va,
    ) -> Result<Stage1Leaf, Stage1Fault> {
        let half = Half::of(va);
        if self.sctlr & SCTLR_EE != 0 {
            return Err(Stage1Fault::Unsupported);
        }
        let (root, start, tcr) = self.root(half)?;
        if !tcr.contains(va) || tcr.walks_disabled {
            return Err(Stage1Fault::Translation(Level::L0));
        }
        let limit_bits = self.tcr.ipa_bits();
        if root.raw() >> limit_bits != 0 {
            return Err(Stage1Fault::AddressSize(Level::L0));
        }
        let mut path = WalkPath::default();
        let mut limits = TableLimits::default();
        let mut table = root;
        let mut level = start;
        // The start level's table may have fewer entries than 512.
        let mut index = (va.raw() & ((1 << tcr.va_bits) - 1)) >> start.shift();
        loop {
            let at = Ipa::truncated(table.raw() | index << 3);
            if let Some(step) = path.descriptors.get_mut(level.number() as usize) {
                *step = Some(at);
            }
            let raw = guest
                .read_descriptor(at)
                .ok_or(Stage1Fault::Walk(level, at))?;
            match Stage1Desc::decode(level, raw) {
                Stage1Desc::Invalid(_) => return Err(Stage1Fault::Translation(level)),
                Stage1Desc::Leaf {
                    ipa,
                    attrs,
                    contiguous,
                } => {
                    if ipa.raw() >> limit_bits != 0 {
                        return Err(Stage1Fault::AddressSize(level));
                    }
                    let wxn = self.sctlr & SCTLR_WXN != 0;
                    let permissions =
                        Permissions::of(attrs, limits, wxn, self.tcr.hardware_dirty());
                    return Ok(Stage1Leaf {
                        level,
                        base: ipa,
                        attrs,
                        limits,
                        contiguous,
                        permissions,
                        path,
                    });
                }
                Stage1Desc::Table { next, limits: more } => {
                    if next.raw() >> limit_bits != 0 {
                        return Err(Stage1Fault::AddressSize(level));
                    }
                    if !tcr.hierarchy_disabled {
                        limits = limits.and(more);
                    }
                    let Some(below) = level.below() else {
                        return Err(Stage1Fault::Translation(level));
                    };
                    (table, level, index) = (next, below, below.index(va.raw()));
                }
            }
        }
    }

    /// Translation with stage 1 off: the VA, its top byte ignored where TCR_EL1 says so, is the IPA.
    fn flat(&self, va: Va) -> Result<Stage1Translation, Stage1Fault> {
        let tcr = self.tcr.half(Half::of(va));
        let raw = if tcr.top_byte_ignored {
            va.raw() << 8 >> 8
        } else {
            va.raw()
        };
        let ipa = Ipa::new(raw).map_err(|_| Stage1Fault::AddressSize(Level::L0))?;
        Ok(Stage1Translation { ipa, leaf: None })
    }
}

#[cfg(test)]
mod tests;
