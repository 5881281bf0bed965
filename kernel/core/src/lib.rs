//! VM and vCPU state, vGIC, run loop and hypercalls over a [`machine`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod exit;
pub mod machine;
pub mod run_loop;
pub mod system;
pub mod vcpu;
pub mod vgic;

pub use machine::Machine;
pub use system::{BootFacts, PaRange, System};
pub use vcpu::Vcpu;
