//! Links the EL2 image for the Raspberry Pi 4.

#[path = "../common/link.rs"]
mod link;

fn main() {
    link::link();
}
