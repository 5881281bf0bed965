//! Counting whole blocks (`blocks=on`): several times as fast as instruction by instruction, because QEMU adds by itself
//! and calls nobody. A block counts when it begins, so what an exception leaves of one is counted too much.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use penumbra_qemu_plugin::ffi;

use crate::count::PLACES;

static SCOREBOARD: AtomicPtr<ffi::Scoreboard> = AtomicPtr::new(null_mut());

/// Makes the counters.
///
/// # Safety
/// To be called while the plugin is installed.
pub(crate) unsafe fn begin() {
    // SAFETY: QEMU allows this from installation on.
    let scoreboard = unsafe { ffi::qemu_plugin_scoreboard_new(8 * PLACES) };
    SCOREBOARD.store(scoreboard, Ordering::Release);
}

/// The counter of a place, if there are counters.
fn counter(place: usize) -> Option<ffi::Counter> {
    let scoreboard = SCOREBOARD.load(Ordering::Acquire);
    let counter = ffi::Counter {
        scoreboard,
        offset: 8 * place,
    };
    (!scoreboard.is_null() && place < PLACES).then_some(counter)
}

/// Has QEMU add the instructions of a block to a place whenever it runs.
///
/// # Safety
/// `tb` is valid: to be called in the callback for its translation.
pub(crate) unsafe fn count(tb: *mut ffi::Tb, place: usize, instructions: u64) {
    if let Some(counter) = counter(place) {
        // SAFETY: the caller's promise; the counter lies in its scoreboard.
        unsafe {
            ffi::qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
                tb,
                ffi::ADD,
                counter,
                instructions,
            );
        }
    }
}

/// Instructions of all cores in `place`.
pub(crate) fn sum(place: usize) -> u64 {
    // SAFETY: the counter lies in its scoreboard, which is never freed.
    counter(place).map_or(0, |counter| unsafe { ffi::qemu_plugin_u64_sum(counter) })
}
