//! Links the guest as the payloads are: a position-independent flat image.

use std::path::Path;

fn main() {
    let script = Path::new("../../tests/payloads/payload.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    let Ok(script) = script.canonicalize() else {
        println!("cargo::error={} is not there", script.display());
        return;
    };
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    for argument in [
        "-pie",
        "--no-dynamic-linker",
        "-znotext",
        "-zmax-page-size=4096",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
