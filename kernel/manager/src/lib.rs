//! The policy of the management partition, as a pure library.
//!
//! [`serve`] is the whole of it: check the bundle, load and start its guests, then answer events until
//! the board goes off. It reaches EL2 only through the trait [`Hypervisor`]. The EL1 runtime in
//! `src/bin/manager` implements that trait with hypercalls; the tests do it with a fake. What the
//! manager owes EL2 and may expect from it is in docs/manager-contract.md.
//!
//! The manager may be restarted by EL2 at any moment while guests run. It keeps nothing that it could
//! not find out again: [`manager`] rebuilds its view from `VmStatus`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod boot;
pub mod console;
#[cfg(test)]
mod fake;
pub mod granted;
pub mod hypervisor;
pub mod image;
mod journal;
mod life;
pub mod load;
pub mod manager;
pub mod map;
mod pager;
pub mod paging;
pub mod plan;
pub mod refusal;
pub mod report;
mod restart;
mod schedule;
mod shell;
pub mod syndrome;
#[cfg(test)]
mod tests;
pub mod tree;

pub use hypervisor::Hypervisor;
pub use manager::{Ending, serve};
