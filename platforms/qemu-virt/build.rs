//! Links the EL2 image for QEMU virt.

#[path = "../common/link.rs"]
mod link;

/// The PL011 of QEMU virt.
const EARLY_UART: u64 = 0x0900_0000;

fn main() {
    link::link(EARLY_UART);
}
