//! What a board's device tree says that EL2 has to know, and how its RAM is divided at boot.
//!
//! [`tree`] reads the flattened form in one pass and never panics; [`facts`] collects what EL2 needs from
//! it; [`plan`] divides RAM into what EL2 maps and what may belong to a VM. The platforms do what
//! follows from that. Everything here runs once, at boot, on the tree of the firmware.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod facts;
mod node;
pub mod plan;
pub mod ranges;
pub mod revision;
pub mod tree;
pub mod uart;

#[cfg(test)]
mod tests;

pub use facts::{Cpu, Facts, GicFacts, StartMethod, Uart, UartKind, read};
pub use plan::MemoryPlan;
pub use ranges::{Range, Ranges};
