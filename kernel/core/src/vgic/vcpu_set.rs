//! A set of vCPUs of one VM, by their index in the VM.

use penumbra_abi::MAX_VCPUS_PER_VM;

/// A set of vCPUs of one VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct VcpuSet(u32);

impl VcpuSet {
    /// No vCPU.
    pub const EMPTY: Self = Self(0);

    /// The one vCPU `vcpu`; nothing if a VM cannot have it.
    #[inline]
    pub const fn single(vcpu: usize) -> Self {
        if vcpu < MAX_VCPUS_PER_VM {
            Self(1 << vcpu)
        } else {
            Self::EMPTY
        }
    }

    /// Takes a bitmap, bit n for vCPU n.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::ALL)
    }

    /// The bitmap, bit n for vCPU n.
    #[must_use]
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether it holds no vCPU.
    #[must_use]
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it holds `vcpu`.
    #[must_use]
    #[inline]
    pub const fn contains(self, vcpu: usize) -> bool {
        self.0 & Self::single(vcpu).0 != 0
    }

    /// The one vCPU that it holds, if it is one.
    #[must_use]
    #[inline]
    pub fn only(self) -> Option<usize> {
        if self.0.is_power_of_two() {
            usize::try_from(self.0.trailing_zeros()).ok()
        } else {
            None
        }
    }

    /// The set and those of `other`.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The set except `vcpu`.
    #[inline]
    pub const fn without(self, vcpu: usize) -> Self {
        Self(self.0 & !Self::single(vcpu).0)
    }

    /// The vCPUs, lowest first.
    #[inline]
    pub fn iter(self) -> Bits {
        Bits(self.0)
    }

    const ALL: u32 = (1 << MAX_VCPUS_PER_VM) - 1;
}

/// Numbers of the bits that are set in a word, lowest first.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Bits(pub(super) u32);

impl Iterator for Bits {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let n = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        usize::try_from(n).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in() {
        let set = VcpuSet::single(0).union(VcpuSet::single(3));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 3]);
        assert!(set.contains(3) && !set.contains(1));
        assert_eq!(set.without(0), VcpuSet::single(3));
        assert_eq!(set.only(), None);
        assert_eq!(VcpuSet::single(3).only(), Some(3));
        assert_eq!(VcpuSet::EMPTY.only(), None);
    }

    #[test]
    fn refuses_vcpus_a_vm_cannot_have() {
        assert!(VcpuSet::single(MAX_VCPUS_PER_VM).is_empty());
        assert!(!VcpuSet::from_bits(u32::MAX).contains(32));
        assert!(!VcpuSet::from_bits(u32::MAX).contains(usize::MAX));
    }
}
