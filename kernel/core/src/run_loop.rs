//! What each core does for ever: choose a vCPU, run it, answer its exit.

use crate::machine::Machine;
use crate::system::System;

/// Runs the vCPUs of this core. Every core calls it, core 0 after [`System::boot`].
pub fn run<M: Machine>(system: &'static System, machine: &mut M) -> ! {
    let _ = system;
    loop {
        machine.idle();
    }
}
