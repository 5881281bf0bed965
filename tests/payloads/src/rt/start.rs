//! Entry, page tables and vectors (`start.S`), and the hand-over to the payload's `main`.

use super::{console, cpu, elsewhere, fdt, gic};

core::arch::global_asm!(include_str!("start.S"));

unsafe extern "Rust" {
    /// The payload's main function, defined by [`entry!`](crate::entry).
    safe fn payload_main();
}

unsafe extern "C" {
    /// Entry point of a further vCPU, for PSCI CPU_ON; X0 is its index.
    safe fn payload_secondary();
}

/// Names the main function of a payload.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn payload_main() {
            $main()
        }
    };
}

/// Address of the entry point for further vCPUs.
#[must_use]
pub fn secondary_entry() -> u64 {
    (payload_secondary as *const ()).addr() as u64
}

#[unsafe(no_mangle)]
extern "C" fn payload_first(device_tree: usize) -> ! {
    cpu::enter(0);
    fdt::init(device_tree);
    elsewhere::init();
    console::init();
    gic::init();
    payload_main();
    console::power_off()
}

#[unsafe(no_mangle)]
extern "C" fn payload_next(index: usize) -> ! {
    cpu::enter(index);
    cpu::serve()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::break_lock();
    crate::println!("FAIL panic {info}");
    console::power_off()
}
