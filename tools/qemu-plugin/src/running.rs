//! Which core runs a block of EL2.
//!
//! With one thread for all cores (`-icount`) QEMU 9.2 and later write the number of the core that *translated* a block into its
//! callbacks (`gen_cpu_index` in `accel/tcg/plugin-gen.c`), and another core that runs the same block reports that number.
//! Guests share no code between cores here, but EL2 does. A hypervisor keeps a pointer for each core in TPIDR_EL2, so its value
//! tells the cores apart. What it stands for is learned where the number is right: a block that runs for the first time
//! runs on the core that translated it.

use std::sync::atomic::{AtomicU64, Ordering};

/// TPIDR_EL2 of each of `CORES` cores; 0 as long as it is not known.
#[derive(Debug)]
pub struct Running<const CORES: usize>([AtomicU64; CORES]);

impl<const CORES: usize> Running<CORES> {
    /// No core is known yet.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "it is made in a static, which Default cannot do"
    )]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; CORES])
    }

    /// The core that runs a block of EL2, from its TPIDR_EL2 and the number that QEMU reports. `first`: the block has not run
    /// before.
    pub fn core(&self, tpidr: u64, reported: usize, first: bool) -> usize {
        if tpidr == 0 {
            return reported;
        }
        let is_it = |slot: &AtomicU64| slot.load(Ordering::Relaxed) == tpidr;
        if let Some(known) = self.0.iter().position(is_it) {
            return known;
        }
        if let Some(slot) = self.0.get(reported).filter(|_| first) {
            slot.store(tpidr, Ordering::Relaxed);
        }
        reported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_known_by_its_pointer_once_that_was_seen_in_a_new_block() {
        let running = Running::<16>::new();
        assert_eq!(running.core(0, 0, true), 0);
        assert_eq!(running.core(0x1000, 0, true), 0);
        // The second core in a block that the first translated: nothing to learn from.
        assert_eq!(running.core(0x2000, 0, false), 0);
        assert_eq!(running.core(0x2000, 1, true), 1);
        // Whatever is reported from now on.
        assert_eq!(running.core(0x2000, 0, false), 1);
        assert_eq!(running.core(0x1000, 1, false), 0);
    }
}
