//! Device accesses of every width, always by one plain load or store.
//!
//! Emulated devices need instructions with a valid syndrome (ISV=1), which volatile accesses of the
//! compiler do not promise, so every access here is assembly.

macro_rules! accessors {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal, $width:literal) => {
        /// Loads from a device. A load that faults reads as all ones.
        #[must_use]
        #[inline]
        pub fn $read(address: usize) -> $type {
            let mut value: u64 = u64::MAX;
            // SAFETY: payloads read device registers and addresses that fault, never Rust objects.
            unsafe {
                core::arch::asm!(
                    concat!($load, " {value:", $width, "}, [{address}]"),
                    value = inout(reg) value,
                    address = in(reg) address,
                    options(nostack)
                );
            }
            value as $type
        }

        /// Stores to a device.
        #[inline]
        pub fn $write(address: usize, value: $type) {
            // SAFETY: payloads write device registers and addresses that fault, or scratch RAM.
            unsafe {
                core::arch::asm!(
                    concat!($store, " {value:", $width, "}, [{address}]"),
                    value = in(reg) u64::from(value),
                    address = in(reg) address,
                    options(nostack)
                );
            }
        }
    };
}

accessors!(read8, write8, u8, "ldrb", "strb", "w");
accessors!(read16, write16, u16, "ldrh", "strh", "w");
accessors!(read32, write32, u32, "ldr", "str", "w");
accessors!(read64, write64, u64, "ldr", "str", "x");

/// Waits until earlier accesses are done.
#[inline]
pub fn barrier() {
    crate::insn!("dsb sy\nisb");
}
