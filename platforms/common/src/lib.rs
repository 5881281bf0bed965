//! The boot that all platforms share, from the device tree to the run loop.
//!
//! A platform's binary enters from the reset code, names its board in a [`Platform`] and calls
//! [`Platform::run`]. What the device tree says is read by `penumbra-board`; here EL2's map, the frame
//! pool, interrupt controller, console and cores are set up as it says.
#![no_std]
#![cfg(target_arch = "aarch64")]

mod firmware;
mod hypercalls;
mod start;

pub use firmware::{Firmware, uart_divisor};
pub use penumbra_board::Facts;
pub use penumbra_core::Clock;
pub use start::Platform;

/// Bytes that are copied by words.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Aligned<T: ?Sized>(pub T);
