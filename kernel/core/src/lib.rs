//! VM and vCPU state, vGIC, run loop and hypercalls over a [`machine`].
//!
//! [`System`] is all state of EL2. The platform [boots](System::boot) it on core 0 and enters
//! [`run_loop::run`] on every core. A guest's exit goes to [`exit::first_synchronous`] or [`exit::first_interrupt`] and, from there, to [`exit::fast`]
//! straight from the vectors; what those leave is done by the run loop of the core.
//!
//! # Locks, in the order in which they are taken
//! 1. a vCPU's slot: held by the core while the vCPU is resident. Other cores only try.
//! 2. a VM's report.
//! 3. a guest's memory, then its compound tables, then the manager's memory.
//! 4. a VM's UART.
//! 5. the SPIs of a VM's [vGIC](vgic); nothing is taken under it.
//!
//! The progress of an audit is locked before 3. Everything else that cores share is atomic:
//! [`vcpu::VcpuShared`], ready sets, frame owners, events, the life of a VM. No lock is shared
//! between VMs on an exit path, and none is held while a guest runs but the slot of its own vCPU.
//!
//! Holding a VM (`compound::held`) comes before 2: who waits for the answers of other cores has no
//! lock but its vCPU's slot, and answers others meanwhile. One VM is held at a time by one core.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod compound;
mod controls;
mod cores;
mod events;
pub mod exit;
mod frames;
pub mod hypercall;
mod lock;
pub mod machine;
mod manager;
mod memory;
mod passthrough;
mod pl011;
pub mod run_loop;
mod schedule;
pub mod system;
#[cfg(test)]
mod tests;
mod timer;
mod traps;
pub mod vcpu;
pub mod vgic;
mod vm;
mod watchdog;

pub use compound::vectors;
pub use machine::Machine;
pub use system::{BootFacts, Clock, PaRange, System};
pub use vcpu::Vcpu;
