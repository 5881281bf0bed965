//! The lock of what cores share.
//!
//! `spin`'s own is inlined wherever it is taken, whatever the crate is compiled for. This one is a
//! function: at some 250 places that makes EL2 9 KiB smaller.

use spin::MutexGuard;

use crate::machine::Core;

/// A spin lock.
#[derive(Debug)]
pub(crate) struct Mutex<T>(spin::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }

    /// Waits for the lock and takes it.
    // A mere `#[inline]` or nothing leaves it to the compiler, which inlines it before it knows how long it is.
    #[inline(never)]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }

    /// [`lock`](Self::lock), inlined: for what a switch between vCPUs waits for.
    #[inline(always)]
    pub(crate) fn lock_inline(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }

    /// [`lock`](Self::lock), letting others go on meanwhile: for what another core keeps while it waits for something
    /// itself, such as the end of TLB maintenance, or goes through a table. Where cores take turns, as under QEMU's `-icount`,
    /// whoever waits without this uses up its turn while the other stands still.
    #[inline]
    pub(crate) fn lock_patiently(&self, machine: &impl Core) -> MutexGuard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            machine.relax();
        }
    }

    /// Takes the lock if nobody has it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock()
    }
}
