//! For the platforms' build scripts: links the EL2 image by the hal's layout and finds the manager's
//! image to embed.

use std::env;
use std::fs;
use std::path::PathBuf;

/// Bytes between two cores' stacks; `penumbra_hal::image` has the same number.
const STACK_STRIDE: u64 = 0x5000;
/// Cores at most; `penumbra_abi::MAX_CPUS`.
const MAX_CPUS: u64 = 8;

/// `wfi; b .-4`: a manager that does nothing, so that the crate builds by itself.
const IDLE_MANAGER: [u8; 8] = [0x7f, 0x20, 0x03, 0xd5, 0xff, 0xff, 0xff, 0x17];

/// Tells cargo how to link.
pub(crate) fn link() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../common/link.rs");
    println!("cargo:rerun-if-env-changed=PENUMBRA_MANAGER");
    let own = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let layout = own.join("../../kernel/hal/image.ld");
    println!("cargo:rerun-if-changed={}", layout.display());
    for argument in [
        format!("-T{}", layout.display()),
        format!("--defsym=penumbra_stack_stride={STACK_STRIDE:#x}"),
        format!("--defsym=penumbra_max_cpus={MAX_CPUS}"),
        "-pie".into(),
        "--no-dynamic-linker".into(),
        "-znorelro".into(),
        "--pack-dyn-relocs=relr".into(),
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }

    match env::var_os("PENUMBRA_MANAGER") {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo:rerun-if-changed={}", path.display());
            println!("cargo:rustc-env=PENUMBRA_MANAGER={}", path.display());
        }
        None => {
            let path =
                PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("manager.bin");
            if let Err(error) = fs::write(&path, IDLE_MANAGER) {
                println!("cargo:error=cannot write {}: {error}", path.display());
            }
            println!(
                "cargo:warning=PENUMBRA_MANAGER is not set: the image gets a manager that only waits"
            );
            println!("cargo:rustc-env=PENUMBRA_MANAGER={}", path.display());
        }
    }
}
