//! The manager's image for the board: a thin EL1 runtime below the policy of `penumbra_manager`.
//!
//! This is the only part of the manager with `unsafe` code: the first instructions and the vectors
//! (`entry`), the translation tables (`mmu`), the hypercalls (`call`), the heap and the end (`stop`).
//! It has one vCPU, no interrupts and no second thread.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
mod metal;

/// On the host there is nothing to run; this lets the workspace build and be checked as a whole.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("the manager runs on a board: `tools/dev run` builds it into the hypervisor's image");
}
