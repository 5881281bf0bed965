//! KVM as a system: the release's kernel at EL2 (nVHE) and EL1 as the host, in an initramfs with the guest's files, and `walkload kvm`
//! as the monitor, because Debian has no small one.

use std::path::PathBuf;

use crate::guest::Guest;
use crate::systems::Files;

/// The host's kernel, among the fetched ones.
pub(crate) const HOST: &str = "linux-cloud";
/// The host's command line.
pub(crate) const CMDLINE: &str = "console=ttyAMA0 nokaslr";
/// What the host runs. The monitor opens the window of the boot before the guest's first instruction.
pub(crate) fn script(guest: Guest) -> String {
    let initramfs = if guest.linux() {
        "/guest/initramfs"
    } else {
        "/dev/null"
    };
    format!(
        "#!/bin/busybox sh
/opt/walkload 0 kvm /guest/kernel /guest/tree {initramfs}
poweroff -f
"
    )
}

/// Files of the host's initramfs: where they are, and their path in it.
pub(crate) fn files(files: &Files, guest: Guest, tree: PathBuf) -> Vec<(PathBuf, String)> {
    let mut all = vec![
        (files.load.clone(), "opt/walkload".to_owned()),
        (files.kernel(guest), "guest/kernel".to_owned()),
        (tree, "guest/tree".to_owned()),
    ];
    if guest.linux() {
        all.push((files.initramfs.clone(), "guest/initramfs".to_owned()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_what_its_script_names() {
        let path = PathBuf::new;
        let all = Files {
            plugin: path(),
            kernels: path(),
            payload: path(),
            initramfs: path(),
            load: path(),
            image: path(),
            xen: path(),
        };
        for guest in Guest::ALL {
            let (script, files) = (script(guest), files(&all, guest, path()));
            for (_, to) in &files {
                assert!(script.contains(&format!("/{to}")), "{guest:?}: {to}");
            }
            let named = script.matches("/guest/").count();
            assert_eq!(named + 1, files.len(), "{guest:?}");
        }
    }
}
