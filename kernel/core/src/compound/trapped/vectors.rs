//! Where the hal's vectors find what `known` looks at: they answer a write of a known root by the
//! same rules, before any Rust code runs, and leave all else to it.
//!
//! Offsets are in bytes. What changes here or there changes `kernel/hal/src/vectors.S`, too; the suites
//! `compound-roots-*` compare.

use core::mem::{offset_of, size_of};

use penumbra_trap::esr::ec;
use penumbra_trap::sysreg::SysReg;

use super::{LOOK, RootCache, SLOTS, Slot, WINDOW_BIT};
use crate::vcpu::{Place, Vcpu, VcpuShared};

/// ESR_EL2 of a write of TTBR0_EL1 from X0. Of one of TTBR1_EL1 it has bit [`HIGH_HALF_BIT`] besides, and the
/// number of another register from bit [`RT_SHIFT`] on.
pub const TTBR0_WRITE: u32 = (ec::SYSREG as u32) << 26 | 1 << 25 | SysReg::TTBR0_EL1.write_iss();
/// ISS.Op2, bit 0.
pub const HIGH_HALF_BIT: u32 =
    (SysReg::TTBR1_EL1.write_iss() ^ SysReg::TTBR0_EL1.write_iss()).trailing_zeros();
/// ISS.Rt.
pub const RT_SHIFT: u32 = 5;
/// ISS.CRn, bit 1: set where TTBR0_EL1 and TTBR1_EL1 are written, clear for what is asked for more often.
pub const CANDIDATE_BIT: u32 = 11;
const _: () = assert!(TTBR0_WRITE >> CANDIDATE_BIT & 1 == 1);
const _: () = assert!(SysReg::ICC_SGI1R_EL1.write_iss() >> CANDIDATE_BIT & 1 == 0);

/// In a [`Vcpu`]: its place.
pub const VCPU_PLACE: usize = offset_of!(Vcpu, place);
/// In a [`Vcpu`]: what it knows of its roots.
pub const VCPU_ROOTS: usize = offset_of!(Vcpu, roots);
/// In a place: where the VM's present generation is, 32 bits.
pub const PLACE_GENERATION: usize = offset_of!(Place, generation);
/// In a place: the vCPU's counters.
pub const PLACE_SHARED: usize = offset_of!(Place, shared);
/// In a vCPU's counters: the trapped writes.
pub const ROOT_TRAPS: usize = VcpuShared::ROOT_TRAPS;

/// In what a vCPU knows of its roots: the generation for which it does, and behind it the mask of the ASID.
pub const GENERATION: usize = offset_of!(RootCache, generation);
const _: () = assert!(offset_of!(RootCache, asid_mask) == GENERATION + 8);
/// In what a vCPU knows of its roots: what it has written.
pub const KNOWN: usize = offset_of!(RootCache, slots);
/// One of them: what was written, what is put there, the ASID in TTBR1_EL1, how often.
pub const KNOWN_SHIFT: u32 = size_of::<Slot>().trailing_zeros();
const _: () = assert!(size_of::<Slot>() == 1 << KNOWN_SHIFT);
const _: () = assert!(offset_of!(Slot, value) == 0 && offset_of!(Slot, planted) == 8);
const _: () = assert!(offset_of!(Slot, asid) == 16 && offset_of!(Slot, writes) == 24);
/// Their number, a power of two.
pub const KNOWN_BITS: u32 = SLOTS.trailing_zeros();
const _: () = assert!(SLOTS == 1 << KNOWN_BITS);
/// A count with this bit is for a longer look.
pub const LOOK_BIT: u32 = LOOK.trailing_zeros();
const _: () = assert!(LOOK == 1 << LOOK_BIT);
/// The bit that leads into the window.
pub const WINDOW: u32 = WINDOW_BIT.trailing_zeros();
const _: () = assert!(WINDOW_BIT == 1 << WINDOW);
