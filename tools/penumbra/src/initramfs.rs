//! The initial RAM file system of the default guest: busybox and a few lines of start-up.
//!
//! Process 1 is busybox's `init`, so `poweroff` and `reboot` do what they say. The shell runs on the
//! kernel's console with job control.

mod cpio;
pub mod modules;

use std::io::Write;

use flate2::{Compression, GzBuilder};

pub use cpio::Archive;

/// What `init` runs; see busybox's "inittab" format.
const INITTAB: &str = include_str!("../guest/inittab");
/// Start-up: mounts, applets, banner.
const RC: &str = include_str!("../guest/rc");
/// Settings of the shell.
const PROFILE: &str = include_str!("../guest/profile");

/// What goes into an initramfs besides the standard files.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// A statically linked arm64 busybox.
    pub busybox: Vec<u8>,
    /// A script to run at the end of start-up, before the shell.
    pub script: Option<Vec<u8>>,
    /// More files: path in the guest, content. They are executable.
    pub files: Vec<(String, Vec<u8>)>,
    /// Kernel modules that the start-up loads, in this order.
    pub modules: Vec<modules::Module>,
}

/// Builds the archive, compressed with gzip. Equal contents give equal bytes.
///
/// # Errors
/// A sentence, where a file is not what it should be or a path cannot be packed.
pub fn build(contents: &Contents) -> Result<Vec<u8>, String> {
    if !is_arm64_elf(&contents.busybox) {
        return Err("the busybox is not an arm64 program".into());
    }
    let mut archive = Archive::default();
    for folder in [
        "bin", "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp",
    ] {
        archive.folder(folder);
    }
    archive.link("sbin", "bin");
    // The kernel opens the console before anything is mounted.
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("bin/busybox", 0o755, &contents.busybox);
    for applet in ["init", "sh", "poweroff", "reboot"] {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    archive.link("init", "bin/busybox");
    archive.file("etc/inittab", 0o644, INITTAB.as_bytes());
    archive.file("etc/rc", 0o755, RC.as_bytes());
    archive.file("etc/profile", 0o644, PROFILE.as_bytes());
    if let Some(script) = &contents.script {
        archive.file("etc/rc.local", 0o755, script);
    }
    if !contents.modules.is_empty() {
        archive.parents("lib/modules/order");
        let mut order = String::new();
        for (name, bytes) in &contents.modules {
            let path = format!("lib/modules/{name}.ko");
            archive.file(&path, 0o644, bytes);
            order += &format!("/{path}\n");
        }
        archive.file("lib/modules/order", 0o644, order.as_bytes());
    }
    for (path, bytes) in &contents.files {
        let path = path.trim_start_matches('/');
        archive.parents(path);
        archive.file(path, 0o755, bytes);
    }
    gzip(&archive.finish()?).map_err(|error| format!("cannot compress the initramfs: {error}"))
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// `e_machine` is `EM_AARCH64` (183) in a 64-bit little-endian ELF file.
fn is_arm64_elf(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF\x02\x01") && file.get(18..20) == Some(&[183, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn busybox() -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18] = 183;
        file
    }

    fn unpacked(contents: &Contents) -> Vec<u8> {
        let mut out = Vec::new();
        let bytes = build(contents).unwrap();
        flate2::read::GzDecoder::new(&bytes[..])
            .read_to_end(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn equal_contents_give_equal_bytes() {
        let contents = Contents {
            busybox: busybox(),
            ..Contents::default()
        };
        assert_eq!(build(&contents), build(&contents));
    }

    #[test]
    fn scripts_and_files_are_packed() {
        let archive = unpacked(&Contents {
            busybox: busybox(),
            script: Some(b"echo script".to_vec()),
            files: vec![("/opt/test/load".into(), b"echo load".to_vec())],
            modules: vec![("virtio".into(), b"module".to_vec())],
        });
        let text = String::from_utf8_lossy(&archive);
        for part in [
            "etc/rc.local",
            "echo script",
            "opt/test/load",
            "echo load",
            "/lib/modules/virtio.ko\n",
            "etc/inittab",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }

    #[test]
    fn a_busybox_of_the_host_is_refused() {
        let mut file = busybox();
        file[18] = 0x3e;
        let contents = Contents {
            busybox: file,
            ..Contents::default()
        };
        assert!(
            build(&contents)
                .unwrap_err()
                .contains("not an arm64 program")
        );
    }
}
