//! TLB maintenance as an obligation: an edit returns [`TlbWork`], doing it gives [`Flushed`], and
//! only against [`Flushed`] are tables given back.

use penumbra_vmsa::Ipa;

/// Leaves that are invalidated one by one at most; beyond, the whole VM is.
const MAX_STEPS: u64 = 64;

/// What has to leave the TLBs of all cores, under one VM's VMID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlbScope {
    /// Nothing.
    None,
    /// Stage-2 leaves: DSB ISHST; TLBI IPAS2E1IS for each `step` from `start` to `end`; DSB ISH;
    /// TLBI VMALLE1IS; DSB ISH. A stage-2 invalidation need not hit entries that combine both
    /// stages, hence the VMALLE1IS (Arm ARM DDI 0487 L.b, D8.17 "TLB maintenance").
    Leaves {
        /// First IPA.
        start: Ipa,
        /// IPA behind the last.
        end: Ipa,
        /// Bytes of the smallest leaf: one TLBI for each.
        step: u64,
    },
    /// Everything of the VM, walk caches included, as the removal of a table demands: DSB ISHST;
    /// TLBI VMALLS12E1IS; DSB ISH.
    Vm,
}

/// TLB maintenance that is owed after an edit. Until it is done, the guest may still use what the
/// edit took away.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the guest may use the old translations until this is flushed"]
pub struct TlbWork {
    scope: TlbScope,
    serial: u64,
}

impl TlbWork {
    pub(crate) const fn new(scope: TlbScope, serial: u64) -> Self {
        Self { scope, serial }
    }

    /// What has to be invalidated.
    #[must_use]
    pub const fn scope(&self) -> TlbScope {
        self.scope
    }

    /// Says that the work has been done to its end, DSB included. To be called by implementations
    /// of [`TlbSink`] only.
    pub const fn completed(self) -> Flushed {
        Flushed {
            vm: matches!(self.scope, TlbScope::Vm),
            serial: self.serial,
        }
    }

    /// One obligation for two edits of the same VM.
    pub fn and(self, other: Self) -> Self {
        let serial = self.serial.max(other.serial);
        let scope = match (self.scope, other.scope) {
            (TlbScope::None, scope) | (scope, TlbScope::None) => scope,
            (
                TlbScope::Leaves {
                    start: s0,
                    end: e0,
                    step: p0,
                },
                TlbScope::Leaves {
                    start: s1,
                    end: e1,
                    step: p1,
                },
            ) => leaves(s0.min(s1), e0.max(e1), p0.min(p1)),
            _ => TlbScope::Vm,
        };
        Self { scope, serial }
    }
}

/// The cheaper way to invalidate a range of leaves.
pub(crate) fn leaves(start: Ipa, end: Ipa, step: u64) -> TlbScope {
    let bytes = end.offset_from(start).unwrap_or(0);
    if bytes == 0 {
        TlbScope::None
    } else if step == 0 || bytes / step > MAX_STEPS {
        TlbScope::Vm
    } else {
        TlbScope::Leaves { start, end, step }
    }
}

/// Proof that TLB maintenance was done: comes from [`TlbWork::completed`].
#[derive(Debug, PartialEq, Eq)]
pub struct Flushed {
    vm: bool,
    serial: u64,
}

impl Flushed {
    /// Whether everything that was unlinked up to `serial` is out of all walk caches.
    pub(crate) const fn covers_tables(&self, serial: u64) -> bool {
        self.vm && self.serial >= serial
    }
}

/// Does TLB maintenance for one VM on all cores.
pub trait TlbSink {
    /// Does `work` to its end, under the VMID and VTTBR_EL2 of the VM whose tables were edited.
    fn flush(&mut self, work: TlbWork) -> Flushed;
}
