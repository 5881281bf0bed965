//! PSCI (DEN 0022 F) and SMCCC (DEN 0028 G) from the caller's side.

/// PSCI_VERSION.
pub const VERSION: u32 = 0x8400_0000;
/// CPU_SUSPEND, SMC64.
pub const CPU_SUSPEND: u32 = 0xc400_0001;
/// CPU_OFF.
pub const CPU_OFF: u32 = 0x8400_0002;
/// CPU_ON, SMC64.
pub const CPU_ON: u32 = 0xc400_0003;
/// AFFINITY_INFO, SMC64.
pub const AFFINITY_INFO: u32 = 0xc400_0004;
/// MIGRATE_INFO_TYPE.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// SYSTEM_RESET.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI_FEATURES.
pub const FEATURES: u32 = 0x8400_000a;
/// SMCCC_VERSION.
pub const SMCCC_VERSION: u32 = 0x8000_0000;
/// SMCCC_ARCH_FEATURES.
pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;

/// NOT_SUPPORTED, 64 bits.
pub const NOT_SUPPORTED: u64 = -1_i64 as u64;
/// INVALID_PARAMETERS.
pub const INVALID_PARAMETERS: u64 = -2_i64 as u64;
/// ALREADY_ON.
pub const ALREADY_ON: u64 = -4_i64 as u64;
/// INVALID_ADDRESS.
pub const INVALID_ADDRESS: u64 = -9_i64 as u64;

macro_rules! conduit {
    ($name:ident, $instruction:literal, $doc:literal) => {
        #[doc = $doc]
        #[inline]
        pub fn $name(function: u32, arguments: [u64; 3]) -> u64 {
            let mut x0 = u64::from(function);
            // SAFETY: the callee preserves memory and, by SMCCC, X18 to X30.
            unsafe {
                core::arch::asm!(
                    $instruction,
                    inout("x0") x0,
                    inout("x1") arguments[0] => _,
                    inout("x2") arguments[1] => _,
                    inout("x3") arguments[2] => _,
                    out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                    out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                    out("x15") _, out("x16") _, out("x17") _,
                    options(nostack)
                );
            }
            x0
        }
    };
}

conduit!(hvc, "hvc #0", "Calls `function` by HVC #0; returns X0.");
conduit!(smc, "smc #0", "Calls `function` by SMC #0; returns X0.");

/// A result of the SMC32 convention, sign-extended to compare it with the constants.
#[must_use]
pub const fn narrow(x0: u64) -> u64 {
    x0 as i32 as i64 as u64
}
