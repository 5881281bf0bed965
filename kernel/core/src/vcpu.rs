//! A virtual processor: what the hardware holds of it while it runs and what is kept of it while it
//! does not.

use crate::machine::{Controls, GprFrame, SysregFrame};

/// State of a vCPU. It belongs to one core at a time: the one that holds its slot's lock.
#[derive(Debug)]
#[repr(C)]
pub struct Vcpu {
    /// General-purpose registers. At offset 0: the hal's assembly addresses them through a pointer
    /// to the vCPU.
    pub gpr: GprFrame,
    /// System registers, while not resident.
    pub sysregs: SysregFrame,
    /// Traps and identity.
    pub controls: Controls,
}

const _: () = assert!(core::mem::offset_of!(Vcpu, gpr) == 0);
