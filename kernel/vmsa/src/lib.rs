//! Addresses, granules, levels, descriptors and translation geometry of VMSAv8-64.
//!
//! - [`Va`], [`Ipa`], [`Pa`]: the three kinds of address, which never convert by themselves.
//! - [`Level`], [`Granule`]: where in a walk a descriptor stands.
//! - [`Stage1Desc`], [`Stage2Desc`]: descriptors decoded with their level, for the 4 KiB granule;
//!   [`bits`] for paths that must be short.
//! - [`Tcr`], [`Ttbr`], [`Mair`]: a guest's stage-1 registers; [`Stage2Geometry`]: VTCR_EL2.
//! - [`requires_bbm`]: when a change of a live descriptor needs break-before-make.
//!
//! Pure: no register is touched here.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod addr;
mod bbm;
pub mod bits;
mod level;
mod stage1;
mod stage2;
mod tcr;
mod vtcr;

pub use addr::{AddressError, CpuIndex, GIB, Ipa, KIB, MIB, PAGE_SIZE, Pa, Va, VmId};
pub use bbm::{Stage, requires_bbm};
pub use level::{CONTIGUOUS_BYTES, CONTIGUOUS_ENTRIES, Granule, Level, TABLE_ENTRIES};
pub use stage1::{Stage1Attrs, Stage1Desc, TableLimits};
pub use stage2::{
    Shareability, Stage2Access, Stage2Attrs, Stage2Desc, Stage2Execute, Stage2Memory,
};
pub use tcr::{Half, Mair, MemoryType, Tcr, TcrHalf, Ttbr};
pub use vtcr::{IPA_BITS, Stage2Geometry, physical_size, size_field};
