//! Stores that seem to begin where a page does.
//!
//! A store that is not aligned is made byte by byte (Arm ARM DDI 0487, "Mem\[\] assignment"), so one that crosses from a page into
//! another which refuses it has the first byte of that page in FAR_EL2, and the size of the whole in its
//! syndrome. Whether it began there only the instruction says.

use penumbra_paging::{AccessKind, GuestMemory, Privilege, Stage1Regs};
use penumbra_vmsa::{Ipa, Va};

/// The instruction at a PC, by the guest's own tables.
pub(super) fn instruction<G: GuestMemory>(
    guest: &mut G,
    regs: &Stage1Regs,
    (pc, privilege): (u64, Privilege),
) -> Option<u32> {
    let at = regs.translate(guest, Va::truncated(pc), privilege, AccessKind::Execute);
    let ipa = at.ok()?.ipa;
    let word = guest.read_descriptor(Ipa::truncated(ipa.raw() & !7))?;
    u32::try_from(word >> ((ipa.raw() & 4) * 8) & 0xffff_ffff).ok()
}

/// Whether a 64-bit store begins at a multiple of 8. `false` for what is none of those that have a syndrome, and
/// what goes by SP.
pub(super) fn is_aligned(instruction: u32, register: impl Fn(u8) -> u64) -> bool {
    let field = |shift: u32| u8::try_from(instruction >> shift & 31).unwrap_or(31);
    let offset = match instruction & 0xffe0_0c00 {
        // STUR, STTR, STLUR: imm9.
        0xf800_0000 | 0xf800_0800 | 0xd900_0000 => u64::from(instruction >> 12),
        // STR (register): scaled by 8, or not.
        0xf820_0800 if instruction >> 12 & 1 == 0 => register(field(16)),
        0xf820_0800 => 0,
        // STR (immediate), by 8; STLR.
        _ if instruction & 0xffc0_0000 == 0xf900_0000 => 0,
        _ if instruction & 0xffff_fc00 == 0xc89f_fc00 => 0,
        _ => return false,
    };
    let base = field(5);
    base != 31 && register(base).wrapping_add(offset).is_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_told_by_where_they_begin() {
        // X2 is aligned, X3 lies 4 above.
        let register = |n| {
            [0, 0, 0x1000, 0x1004]
                .get(usize::from(n))
                .copied()
                .unwrap_or(0)
        };
        let aligned = [
            (0xf900_0041, "str x1, [x2]"),
            (0xf900_0441, "str x1, [x2, #8]"),
            (0xf81f_8041, "stur x1, [x2, #-8]"),
            (0xf800_4061, "stur x1, [x3, #4]"),
            (0xf800_8841, "sttr x1, [x2, #8]"),
            (0xf823_6861, "str x1, [x3, x3]"),
            (0xf823_7841, "str x1, [x2, x3, lsl #3]"),
            (0xf823_5841, "str x1, [x2, w3, uxtw #3]"),
            (0xc89f_fc41, "stlr x1, [x2]"),
            (0xd900_8041, "stlur x1, [x2, #8]"),
        ];
        for (instruction, text) in aligned {
            assert!(is_aligned(instruction, register), "{text}");
        }
        let others = [
            (0xf900_0061, "str x1, [x3]"),
            (0xf81f_c041, "stur x1, [x2, #-4]"),
            (0xf800_1841, "sttr x1, [x2, #1]"),
            (0xf823_6841, "str x1, [x2, x3]"),
            (0xf823_7861, "str x1, [x3, x3, lsl #3]"),
            (0xf900_03e1, "str x1, [sp]"),
            (0xb900_0041, "str w1, [x2]"),
            (0xf940_0041, "ldr x1, [x2]"),
            (0xa900_0041, "stp x1, x0, [x2]"),
            (0xf800_8441, "str x1, [x2], #8"),
            (0xfd00_0041, "str d1, [x2]"),
        ];
        for (instruction, text) in others {
            assert!(!is_aligned(instruction, register), "{text}");
        }
    }
}
