//! The runtime, in the order in which it comes to work.

mod call;
mod death;
mod entry;
mod heap;
mod mmu;
mod paging;
mod stop;

use penumbra_abi::MANAGER_RAM_IPA;
use penumbra_manager::hypervisor::Revival;
use penumbra_manager::{Ending, Hypervisor, serve};

use call::El2;

/// The first Rust code: MMU on with the boot table, stack valid, BSS zeroed.
///
/// X0 to X5 of the entry are described at [`MANAGER_RAM_IPA`].
extern "C" fn main(abi: u64, ram_ipa: u64, ram_bytes: u64, restarts: u64, end: u64, pc: u64) -> ! {
    let mut el2 = El2::new();
    if ram_ipa != MANAGER_RAM_IPA || abi >> 16 != penumbra_abi::ABI_VERSION.to_bits() >> 16 {
        el2.print(format_args!(
            "penumbra: fatal: the manager's image does not fit this hypervisor \
             (interface {abi:#x}, RAM at {ram_ipa:#x})\r\n"
        ));
        off(&mut el2);
    }
    let Ok(input) = el2.boot_info() else {
        el2.print(format_args!(
            "penumbra: fatal: the manager got no boot information\r\n"
        ));
        off(&mut el2);
    };
    mmu::enable(ram_bytes, &input);
    heap::init(ram_bytes);
    el2.set_tree(input.tree());
    let revival = Revival { restarts, end, pc };
    match serve(&mut el2, input.bundle(), revival) {
        Ending::Off | Ending::Fatal => off(&mut el2),
    }
}

/// Switches the board off. If that fails there is nothing left to do but to wait.
fn off(el2: &mut El2) -> ! {
    let refused = el2.board_off();
    el2.print(format_args!(
        "penumbra: fatal: the board cannot be switched off: {refused:?}\r\n"
    ));
    loop {
        let _ = el2.wait(u64::MAX);
    }
}
