//! The end of the manager: a fault or a panic is reported and EL2 is asked to start it again.
//!
//! PSCI SYSTEM_RESET of the manager's vCPU means exactly that (docs/manager-contract.md). Guests run
//! on meanwhile.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use penumbra_manager::syndrome::Syndrome;

use super::call::{El2, psci_system_reset};

/// Set by the first end, so that a fault while reporting does not report again.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Every exception ends here, on a stack of its own.
pub(super) extern "C" fn fault(esr: u64, far: u64, elr: u64, lr: u64) -> ! {
    if !ENDING.swap(true, Ordering::Relaxed) {
        El2::new().print(format_args!(
            "\r\npenumbra: the manager faulted: {} (syndrome {esr:#x}) at {elr:#x}, address \
             {far:#x}, called from {lr:#x}; it is started again\r\n",
            Syndrome(esr)
        ));
    }
    restart()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if !ENDING.swap(true, Ordering::Relaxed) {
        El2::new().print(format_args!(
            "\r\npenumbra: the manager failed: {info}; it is started again\r\n"
        ));
    }
    restart()
}

fn restart() -> ! {
    loop {
        psci_system_reset();
    }
}
