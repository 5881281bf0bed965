//! The record of each core that TPIDR_EL2 points at. Only a dying core uses it: what a living core
//! needs is in its [`Hardware`](crate::Hardware), which the run loop owns.

use core::cell::UnsafeCell;

use penumbra_abi::MAX_CPUS;

use crate::epitaph::Epitaph;

/// Bytes of the stack on which a core reports its end.
const EMERGENCY_STACK_BYTES: usize = 2048;

/// One core's record. The vectors write to it by offsets.
#[repr(C, align(64))]
pub(crate) struct PerCpu {
    /// What the core died of.
    pub(crate) epitaph: Epitaph,
    emergency_stack: EmergencyStack,
    /// End of the emergency stack.
    pub(crate) end_of_stack: [u64; 0],
}

#[repr(C, align(16))]
struct EmergencyStack(UnsafeCell<[u8; EMERGENCY_STACK_BYTES]>);

// SAFETY: only the core that owns the record uses the stack, and only from assembly.
unsafe impl Sync for EmergencyStack {}

impl PerCpu {
    const fn new() -> Self {
        Self {
            epitaph: Epitaph::new(),
            emergency_stack: EmergencyStack(UnsafeCell::new([0; EMERGENCY_STACK_BYTES])),
            end_of_stack: [],
        }
    }
}

/// The records, by index of the core. A debugger finds the epitaphs by this symbol.
#[unsafe(no_mangle)]
pub(crate) static penumbra_percpu: [PerCpu; MAX_CPUS] = [const { PerCpu::new() }; MAX_CPUS];
