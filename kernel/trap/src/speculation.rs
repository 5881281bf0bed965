//! What EL2 does at an exit about the branch history that the guest has left (CVE-2022-23960, Spectre-BHB).
//!
//! A core that predicts indirect branches by its history may be steered, at EL2, by branches that a guest took before
//! the exit. Arm's answer ("Spectre-BHB: Speculative Target Reuse Attacks Utilizing Branch History", 2022) is to fill
//! the history with known branches before the first indirect one, by a loop whose length is the core's, or by CLRBHB
//! where there is that instruction. Lengths: Arm's list in that paper and its update of 2024, as Linux keeps it in
//! `arch/arm64/kernel/proton-pack.c`.

use crate::bits::field;

/// What clears a core's branch history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryClearing {
    /// Nothing has to: the core is not affected.
    NotNeeded,
    /// CLRBHB (FEAT_CLRBHB).
    Instruction,
    /// So many taken branches.
    Loop(u16),
}

/// Branches on a core that is on none of the lists: the most that any core needs.
const UNKNOWN: u16 = 132;

/// MIDR_EL1.Implementer of Arm's own cores.
const ARM: u64 = 0x41;

impl HistoryClearing {
    /// What a core with these ID registers needs: MIDR_EL1, ID_AA64PFR0_EL1 and ID_AA64ISAR2_EL1.
    #[must_use]
    pub const fn of(midr: u64, pfr0: u64, isar2: u64) -> Self {
        // CSV2 3 (FEAT_CSV2_3): history of one context does not steer another.
        if field(pfr0, 59, 56) >= 3 {
            return Self::NotNeeded;
        }
        if field(isar2, 31, 28) != 0 {
            return Self::Instruction;
        }
        if field(midr, 31, 24) != ARM {
            return Self::Loop(UNKNOWN);
        }
        match field(midr, 15, 4) {
            // Cortex-A35, A53, A55, A510, A520.
            0xd04 | 0xd03 | 0xd05 | 0xd46 | 0xd80 => Self::NotNeeded,
            // Cortex-A57, A72.
            0xd07 | 0xd08 => Self::Loop(8),
            // Cortex-A76, Neoverse N1, Cortex-A77.
            0xd0b..=0xd0d => Self::Loop(24),
            // Cortex-A78, A78AE, A78C, X1, A710, X2, Neoverse N2, V1.
            0xd41 | 0xd42 | 0xd4b | 0xd44 | 0xd47 | 0xd48 | 0xd49 | 0xd40 => Self::Loop(32),
            // Cortex-A715, A720.
            0xd4d | 0xd81 => Self::Loop(38),
            // Cortex-X3, Neoverse V2, and what is not known.
            _ => Self::Loop(UNKNOWN),
        }
    }

    /// What the vectors go by: 0 for nothing, else how often they branch, after CLRBHB, which is a NOP where there is none.
    #[must_use]
    pub const fn branches(self) -> u64 {
        match self {
            Self::NotNeeded => 0,
            Self::Instruction => 1,
            Self::Loop(branches) => branches as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HistoryClearing as H;

    const fn arm(part: u64) -> u64 {
        0x41 << 24 | 0xf << 16 | part << 4 | 3
    }

    #[test]
    fn each_core_has_its_own() {
        for (part, wanted) in [
            (0xd03, H::NotNeeded),
            (0xd05, H::NotNeeded),
            (0xd08, H::Loop(8)),
            (0xd0b, H::Loop(24)),
            (0xd0c, H::Loop(24)),
            (0xd40, H::Loop(32)),
            (0xd81, H::Loop(38)),
            (0xd4f, H::Loop(132)),
            // Cortex-A73: Arm wants its firmware there.
            (0xd09, H::Loop(132)),
        ] {
            assert_eq!(H::of(arm(part), 0, 0), wanted, "{part:#x}");
        }
    }

    #[test]
    fn what_a_core_says_of_itself_comes_first() {
        let (csv2, clrbhb) = (2 << 56, 1 << 28);
        assert_eq!(H::of(arm(0xd08), csv2, 0), H::Loop(8));
        assert_eq!(H::of(arm(0xd08), 3 << 56, 0), H::NotNeeded);
        assert_eq!(H::of(arm(0xd08), csv2, clrbhb), H::Instruction);
        assert_eq!(H::of(0x51 << 24 | 0xd08 << 4, 0, 0), H::Loop(132));
        assert_eq!(H::of(0, 0, 0), H::Loop(132));
    }

    #[test]
    fn the_vectors_branch_as_often_as_needed() {
        assert_eq!(H::NotNeeded.branches(), 0);
        assert_eq!(H::Instruction.branches(), 1);
        assert_eq!(H::Loop(8).branches(), 8);
    }
}
