//! The manager's calls, instantiated here for size ([ADR 0011]).
//!
//! [ADR 0011]: ../../../docs/adr/0011-hypercalls-are-compiled-apart.md

use penumbra_abi::Call;
use penumbra_core::System;
use penumbra_core::hypercall::{Arguments, Reply, answer};
use penumbra_hal::Hardware;

/// What the hal declares by this name, with these types.
#[unsafe(no_mangle)]
fn penumbra_hypercall(
    system: &'static System,
    hardware: &mut Hardware,
    call: Call,
    arguments: Arguments,
) -> Reply {
    answer(system, hardware, call, arguments)
}
