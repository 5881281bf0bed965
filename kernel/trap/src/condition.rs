//! Conditions of trapped AArch32 instructions.
//!
//! A conditional A32 or T32 instruction whose condition fails may trap all the same: it is
//! IMPLEMENTATION DEFINED (Arm ARM DDI 0487 L.b, G1.16 "Configurable instruction controls"). EL2 must
//! then skip it instead of answering. A guest's EL1 is AArch64, so this concerns AArch32 EL0 only.

use crate::advance::it_state;
use crate::bits::{bit, byte};

/// Whether the trapped AArch32 instruction would execute.
///
/// `iss` is the syndrome of a class that carries CV and COND (CP14, CP15, VMRS, FP, WFx), `pstate`
/// is SPSR_EL2.
#[must_use]
pub const fn passed(iss: u32, pstate: u64) -> bool {
    let iss = iss as u64;
    let condition = if bit(iss, 24) {
        byte(iss, 23, 20)
    } else {
        it_condition(pstate)
    };
    holds(condition, pstate)
}

/// The condition of a T32 instruction for which the syndrome gives none: that of its IT block, or
/// always.
const fn it_condition(pstate: u64) -> u8 {
    let it = it_state(pstate);
    if it == 0 { ALWAYS } else { it >> 4 }
}

/// Condition AL.
const ALWAYS: u8 = 0b1110;

/// Whether `condition` holds for the flags in `pstate` (F1.5.1 "Condition codes").
const fn holds(condition: u8, pstate: u64) -> bool {
    let (n, z, c, v) = (
        bit(pstate, 31),
        bit(pstate, 30),
        bit(pstate, 29),
        bit(pstate, 28),
    );
    let base = match condition >> 1 {
        0 => z,
        1 => c,
        2 => n,
        3 => v,
        4 => c && !z,
        5 => n == v,
        6 => n == v && !z,
        _ => return true,
    };
    base != (condition & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: u64 = 1 << 31;
    const Z: u64 = 1 << 30;
    const C: u64 = 1 << 29;
    const V: u64 = 1 << 28;

    fn with_condition(condition: u32, pstate: u64) -> bool {
        passed(1 << 24 | condition << 20, pstate)
    }

    #[test]
    fn every_condition_and_its_opposite() {
        let rows: [(u32, u64, u64); 7] = [
            (0, Z, N | C | V),
            (2, C, N | Z | V),
            (4, N, Z | C | V),
            (6, V, N | Z | C),
            (8, C, C | Z),
            (10, N | V, N),
            (12, N | V, N | V | Z),
        ];
        for (condition, holds, fails) in rows {
            assert!(with_condition(condition, holds), "{condition}");
            assert!(!with_condition(condition, fails), "{condition}");
            assert!(!with_condition(condition + 1, holds), "{condition}");
            assert!(with_condition(condition + 1, fails), "{condition}");
        }
        for flags in 0..16u64 {
            assert!(with_condition(14, flags << 28) && with_condition(15, flags << 28));
        }
    }

    #[test]
    fn without_a_condition_the_it_block_decides() {
        assert!(passed(0, 0));
        // IT = 0b0000_1000: EQ, last instruction of its block.
        let it_eq = 0b10 << 10;
        assert!(!passed(0, it_eq));
        assert!(passed(0, it_eq | Z));
    }
}
