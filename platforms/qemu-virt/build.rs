//! Links the EL2 image for QEMU virt.

#[path = "../common/link.rs"]
mod link;

fn main() {
    link::link();
}
