//! Passes the linker script to the image for the board; a build for the host needs none.

fn main() {
    println!("cargo::rerun-if-changed=manager.ld");
    let os = std::env::var("CARGO_CFG_TARGET_OS");
    let folder = std::env::var("CARGO_MANIFEST_DIR");
    if let (Ok("none"), Ok(folder)) = (os.as_deref(), folder) {
        println!("cargo::rustc-link-arg-bin=manager=-T{folder}/manager.ld");
        println!("cargo::rustc-link-arg-bin=manager=--no-dynamic-linker");
    }
}
