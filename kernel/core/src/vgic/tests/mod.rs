//! Tests of the vGIC: fake cores whose guests acknowledge and end interrupts.

mod delivery;
mod fake;
mod mmio;
pub(crate) mod random;
mod remote;
mod sgi;
mod threads;
mod timer;

use fake::Board;
