//! Going past an instruction that EL2 has carried out, or that would not have executed.
//!
//! The hardware would have moved PC and, with it, the parts of PSTATE that describe the instruction:
//! software step, branch type, IT block (Arm ARM DDI 0487 L.b, D2.12 "Software Step exceptions",
//! D1.2 "PSTATE.BTYPE", F1.2.1 "IT block").

use crate::bits::{bit, byte};

/// PSTATE.SS: the step that was active is done, so that its exception comes next.
const SS: u64 = 1 << STEP_BIT;
/// Where PSTATE.SS is, for assembly.
pub const STEP_BIT: u32 = 21;
/// PSTATE.BTYPE, AArch64.
pub const BTYPE: u64 = 0b11 << 10;
/// PSTATE.nRW: AArch32.
const AARCH32: u32 = 4;
/// PSTATE.IT[7:2], AArch32.
const IT_HIGH: u32 = 10;
/// PSTATE.IT[1:0], AArch32.
const IT_LOW: u32 = 25;
/// All of PSTATE.IT, AArch32.
const IT: u64 = 0x3f << IT_HIGH | 0b11 << IT_LOW;

/// Whether [`past`] adds four to PC and leaves PSTATE as it is.
#[inline]
#[must_use]
pub const fn is_plain(pstate: u64) -> bool {
    pstate & (SS | BTYPE | 1 << AARCH32) == 0
}

/// Whether a software step is active, which ends with the instruction.
#[inline]
#[must_use]
pub const fn is_stepped(pstate: u64) -> bool {
    pstate & SS != 0
}

/// PC and PSTATE after the instruction at `pc`, which has `bytes` bytes
/// ([`Esr::instruction_bytes`](crate::esr::Esr::instruction_bytes)).
#[inline]
#[must_use]
pub const fn past(pc: u64, pstate: u64, bytes: u64) -> (u64, u64) {
    if bit(pstate, AARCH32) {
        return past_aarch32(pc, pstate, bytes);
    }
    (pc.wrapping_add(bytes), pstate & !(SS | BTYPE))
}

const fn past_aarch32(pc: u64, pstate: u64, bytes: u64) -> (u64, u64) {
    let it = next_it(it_state(pstate)) as u64;
    let it = (it >> 2) << IT_HIGH | (it & 0b11) << IT_LOW;
    (
        pc.wrapping_add(bytes) & 0xffff_ffff,
        pstate & !(SS | IT) | it,
    )
}

/// PSTATE.IT of AArch32.
pub(crate) const fn it_state(pstate: u64) -> u8 {
    byte(pstate, IT_HIGH + 5, IT_HIGH) << 2 | byte(pstate, IT_LOW + 1, IT_LOW)
}

/// `AArch32.ITAdvance()`: the next instruction of the block, or none.
const fn next_it(it: u8) -> u8 {
    if it & 0b111 == 0 {
        0
    } else {
        it & 0xe0 | (it << 1) & 0x1f
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_it(it: u64) -> u64 {
        0x30 | it >> 2 << 10 | (it & 3) << 25
    }

    #[test]
    fn aarch64_moves_four_bytes_and_ends_step_and_branch() {
        let pstate = 0x6000_03c5;
        assert_eq!(past(0x1000, pstate, 4), (0x1004, pstate));
        assert_eq!(past(0x1000, pstate | SS | BTYPE, 4), (0x1004, pstate));
        assert_eq!(past(u64::MAX - 3, pstate, 4).0, 0);
    }

    #[test]
    fn aarch32_moves_by_the_instructions_length_and_wraps_at_32_bits() {
        assert_eq!(past(0x1000, 0x30, 2), (0x1002, 0x30));
        assert_eq!(past(0xffff_fffe, 0x30, 4), (2, 0x30));
        assert_eq!(past(0x1000, 0x10 | SS, 4), (0x1004, 0x10));
    }

    #[test]
    fn an_it_block_goes_on_and_ends() {
        // ITTE EQ: 0000 0110 -> 0000 1100 -> 0001 1000 -> none.
        let mut pstate = with_it(0b0000_0110);
        for it in [0b0000_1100, 0b0001_1000, 0] {
            pstate = past(0, pstate, 2).1;
            assert_eq!(pstate, with_it(it), "{it:#b}");
        }
        for it in 0..=0xff {
            assert_eq!(u64::from(it_state(with_it(it))), it);
        }
    }

    #[test]
    fn what_is_plain_moves_four_bytes_and_changes_nothing() {
        for set in 0..64 {
            let bits = [4, 10, 11, 21, 22, 30].into_iter().enumerate();
            let pstate = bits.fold(5, |all, (n, at)| all | (set >> n & 1) << at);
            // The syndrome says 4 for all of AArch64.
            let plain = past(0x1000, pstate, 4) == (0x1004, pstate) && !bit(pstate, AARCH32);
            assert_eq!(is_plain(pstate), plain, "{pstate:#x}");
        }
    }

    #[test]
    fn bits_10_and_11_belong_to_the_state() {
        // BTYPE in AArch64, IT[3:2] in AArch32.
        assert_eq!(past(0, BTYPE, 4).1, 0);
        assert_eq!(past(0, with_it(0b1110_1100), 2).1, with_it(0b1111_1000));
    }
}
