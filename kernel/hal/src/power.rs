//! The firmware's power interface: PSCI (Arm DEN 0022 F) by SMC, or what a board has instead.

use core::arch::asm;

use spin::Once;

/// PSCI SYSTEM_OFF.
const SYSTEM_OFF: u64 = 0x8400_0008;
/// PSCI SYSTEM_RESET.
const SYSTEM_RESET: u64 = 0x8400_0009;
/// PSCI CPU_ON, SMC64.
const CPU_ON: u64 = 0xc400_0003;

/// Makes a PSCI call by SMC; returns X0.
///
/// # Safety
/// There is firmware at EL3, and what the call does to this core or another leaves EL2 sound.
unsafe fn smc(function: u64, arguments: [u64; 3]) -> u64 {
    let result: u64;
    let [a, b, c] = arguments;
    // SAFETY: SMCCC preserves X18 to X30 and SP (Arm DEN 0028 G, "Register use in AArch64 SMC and
    // HVC calls"); the rest is declared clobbered.
    unsafe {
        asm!("smc #0",
            inout("x0") function => result, inout("x1") a => _, inout("x2") b => _,
            inout("x3") c => _, out("x4") _, out("x5") _, out("x6") _, out("x7") _,
            out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _,
            out("x14") _, out("x15") _, out("x16") _, out("x17") _,
            options(nostack));
    }
    result
}

/// How a board without PSCI is switched off and reset.
#[derive(Clone, Copy, Debug)]
pub struct Switch {
    /// Powers the board off; returns only if it cannot.
    pub off: fn(),
    /// Resets the board; returns only if it cannot.
    pub reset: fn(),
}

/// The board's own switch, if it has one.
static SWITCH: Once<Switch> = Once::new();

/// Uses the board's own switch instead of PSCI.
pub fn use_switch(switch: Switch) {
    SWITCH.call_once(|| switch);
}

/// Powers the board off; returns if the firmware does not.
pub fn off() {
    if let Some(switch) = SWITCH.get() {
        return (switch.off)();
    }
    // SAFETY: the function ends execution or does nothing.
    unsafe { smc(SYSTEM_OFF, [0; 3]) };
}

/// Resets the board; returns if the firmware does not.
pub fn reset() {
    if let Some(switch) = SWITCH.get() {
        return (switch.reset)();
    }
    // SAFETY: the function ends execution or does nothing.
    unsafe { smc(SYSTEM_RESET, [0; 3]) };
}

/// Starts a core at a physical address with `context` in its X0. Returns PSCI's result, 0 for success.
///
/// # Safety
/// `entry` is code that brings the core into a sound state, and `mpidr` names a core that is off.
pub(crate) unsafe fn cpu_on(mpidr: u64, entry: u64, context: u64) -> u64 {
    // SAFETY: forwarded to the caller.
    unsafe { smc(CPU_ON, [mpidr & 0xff_00ff_ffff, entry, context]) }
}
