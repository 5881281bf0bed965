//! The hardware behind [`penumbra_core::machine`]: the only library of EL2 with unsafe code.
//!
//! Each module owns one piece of hardware or one kind of unsafe operation and offers a safe
//! interface where its own state makes that sound; what moves translation, traps or execution stays
//! `unsafe`. Nothing here decides anything: policy is in `penumbra-core` and above.
//!
//! A platform's binary calls [`boot::begin`] once, adds what it learned from the device tree, and
//! ends every core in [`Hardware::serve`].
#![no_std]
#![cfg(target_arch = "aarch64")]

pub mod boot;
pub mod cache;
pub mod console;
pub mod el2_map;
pub mod epitaph;
pub mod frame_pool;
pub mod gic;
pub mod image;
pub mod logger;
pub mod mmio;
pub mod power;
pub mod secondary;
pub mod tlb;

mod debug_regs;
mod descriptor;
mod fp;

mod hardware;
mod id_table;
mod mini_uart;
mod percpu;
mod pl011;
mod residency;
#[cfg(feature = "mitigations")]
mod speculation;
mod start;
mod switch;
mod sysreg;
mod timer;

pub use hardware::Hardware;
