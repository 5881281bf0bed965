//! Host side of Penumbra: scenarios, bundles, the default guest, building and running.
//!
//! The binary `penumbra` is a thin command line over these modules; other host crates may use them
//! too.
#![forbid(unsafe_code)]

pub mod build;
pub mod card;
mod disassembly;
pub mod hardware;
pub mod image;
pub mod initramfs;
pub mod paging_sim;
pub mod panics;
pub mod payload;
pub mod problem;
pub mod qemu;
pub mod report;
pub mod scenario;
pub mod stacks;
pub mod toolchain;
