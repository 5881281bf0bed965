//! Ways to die on purpose, so that a person and the tests can see that the guests go on.
//!
//! Each does with machine instructions what a mistake in the manager could do. EL2 must survive all of them.

use core::arch::asm;
use core::hint::{black_box, spin_loop};

use penumbra_abi::MANAGER_WINDOW_IPA;
use penumbra_manager::hypervisor::Death;

/// Dies in the way that is asked for.
#[expect(clippy::panic, reason = "a panic is one of the ways")]
pub(super) fn die(how: Death) -> ! {
    match how {
        Death::Panic => panic!("as the operator wanted"),
        // The first page is not mapped by the manager's own tables.
        Death::Store => store(0),
        // Mapped by these, and not by stage 2 while nothing is lent.
        Death::Steal => store(MANAGER_WINDOW_IPA),
        Death::Jump => jump(),
        Death::Stack => {
            black_box(deeper(black_box(1)));
        }
        Death::Vectors => lose_vectors(),
        Death::Loop => {}
    }
    loop {
        spin_loop();
    }
}

fn store(address: u64) {
    // SAFETY: the address is mapped nowhere, so the store changes nothing. It ends in an exception, and
    // that ends this life of the manager: no code runs that could rely on anything.
    unsafe {
        asm!("str xzr, [{address}]", address = in(reg) address);
    }
}

fn jump() {
    static DATA: u64 = 0;
    let data = &raw const DATA;
    // SAFETY: constants are mapped execute-never, so nothing is executed there. The exception ends this
    // life of the manager.
    unsafe {
        asm!("br {data}", data = in(reg) data);
    }
}

/// Recursion that no compiler can turn into a loop. Below the stack nothing is mapped.
#[expect(unconditional_recursion, reason = "that is its purpose")]
fn deeper(depth: u64) -> u64 {
    let frame = [depth; 64];
    deeper(black_box(frame)[1] + 1) + black_box(frame)[2]
}

fn lose_vectors() {
    // SAFETY: the next exception finds no vectors and is taken again for ever. It comes at once, so no
    // code of the manager runs without them.
    unsafe {
        asm!("msr vbar_el1, xzr", "isb");
    }
    store(0);
}
