//! VM and vCPU state, vGIC, run loop and hypercalls over a [`machine`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod machine;
