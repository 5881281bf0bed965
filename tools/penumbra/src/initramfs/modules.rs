//! Kernel modules for an initramfs: those that are named, and those that they need, in the order in
//! which they are to be loaded.

use std::fs;
use std::path::Path;

/// A module: its name as the kernel has it, and its file.
pub type Module = (String, Vec<u8>);

/// Reads modules of a folder (`NAME.ko`), each behind those that it depends on.
///
/// # Errors
/// A sentence: a module is missing or is none, or modules need each other.
pub fn read(folder: &Path, names: &[String]) -> Result<Vec<Module>, String> {
    let mut done = Vec::new();
    for name in names {
        add(folder, name, &mut Vec::new(), &mut done)?;
    }
    Ok(done)
}

fn add(
    folder: &Path,
    name: &str,
    above: &mut Vec<String>,
    done: &mut Vec<Module>,
) -> Result<(), String> {
    let name = name.replace('-', "_");
    if done.iter().any(|(known, _)| *known == name) {
        return Ok(());
    }
    if above.contains(&name) {
        return Err(format!(
            "the module {name} needs itself: {}",
            above.join(", ")
        ));
    }
    let bytes = [name.clone(), name.replace('_', "-")]
        .into_iter()
        .find_map(|file| fs::read(folder.join(format!("{file}.ko"))).ok())
        .ok_or_else(|| {
            let folder = folder.display();
            format!(
                "there is no module {name} in {folder}; `tools/fetch-arm64 KERNEL` fetches Debian's"
            )
        })?;
    if !bytes.starts_with(b"\x7fELF") {
        return Err(format!(
            "the module {name} is no ELF file; is it compressed?"
        ));
    }
    above.push(name.clone());
    for needed in depends(&bytes) {
        add(folder, &needed, above, done)?;
    }
    above.pop();
    done.push((name, bytes));
    Ok(())
}

/// What a module depends on. The section `.modinfo` holds `key=value` strings (Linux,
/// include/linux/module.h, `MODULE_INFO`).
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let strings = module.split(|byte| *byte == 0);
    let value = strings.filter_map(|text| text.strip_prefix(KEY)).next();
    let text = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    let names = text.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str, modules: &[(&str, &str)]) -> Self {
            let path = std::env::temp_dir().join(format!("penumbra-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            for (name, depends) in modules {
                let bytes = format!("\x7fELF\0name=x\0depends={depends}\0vermagic=1\0");
                fs::write(path.join(format!("{name}.ko")), bytes).unwrap();
            }
            Self(path)
        }

        fn order(&self, names: &[&str]) -> Result<Vec<String>, String> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let modules = read(&self.0, &names)?;
            Ok(modules.into_iter().map(|(name, _)| name).collect())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let folder = Folder::new(
            "modules",
            &[
                ("virtio", ""),
                ("virtio_ring", "virtio"),
                ("virtio-net", "virtio,virtio_ring,net_failover"),
                ("net_failover", ""),
                ("virtio_blk", "virtio_ring,virtio"),
            ],
        );
        assert_eq!(
            folder.order(&["virtio_net", "virtio_blk"]).unwrap(),
            [
                "virtio",
                "virtio_ring",
                "net_failover",
                "virtio_net",
                "virtio_blk"
            ]
        );
    }

    #[test]
    fn missing_and_circular_modules_get_a_sentence() {
        let folder = Folder::new("circle", &[("a", "b"), ("b", "a"), ("c", "d")]);
        assert!(folder.order(&["a"]).unwrap_err().contains("needs itself"));
        assert!(folder.order(&["c"]).unwrap_err().contains("no module d"));
        fs::write(folder.0.join("z.ko"), b"\xfd7zXZ").unwrap();
        assert!(folder.order(&["z"]).unwrap_err().contains("no ELF file"));
    }
}
