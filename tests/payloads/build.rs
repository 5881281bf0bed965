//! Links the payloads as position-independent flat images.

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo::rerun-if-changed=payload.ld");
    println!("cargo::rustc-link-arg-bins=-T{directory}/payload.ld");
    for argument in [
        "-pie",
        "--no-dynamic-linker",
        "-znotext",
        "-zmax-page-size=4096",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
