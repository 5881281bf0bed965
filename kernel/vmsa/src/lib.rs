//! Addresses, granules, levels, descriptors and translation geometry of VMSAv8-64.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod addr;

pub use addr::{AddressError, CpuIndex, Ipa, KIB, MIB, GIB, Pa, PAGE_SIZE, Va, VmId};
