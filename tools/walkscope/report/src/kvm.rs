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
pub(crate) const SCRIPT: &str = "#!/bin/busybox sh
/opt/walkload 0 kvm /guest/kernel /guest/tree /guest/initramfs
poweroff -f
";

/// Files of the host's initramfs: where they are, and their path in it.
pub(crate) fn files(files: &Files, guest: Guest, tree: PathBuf) -> [(PathBuf, String); 4] {
    [
        (files.load.clone(), "opt/walkload"),
        (files.kernel(guest), "guest/kernel"),
        (tree, "guest/tree"),
        (files.initramfs.clone(), "guest/initramfs"),
    ]
    .map(|(from, to)| (from, to.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_what_its_script_names() {
        let path = PathBuf::new;
        let files = files(
            &Files {
                plugin: path(),
                kernels: path(),
                payload: path(),
                initramfs: path(),
                load: path(),
                image: path(),
                xen: path(),
            },
            Guest::Linux,
            path(),
        );
        for (_, to) in files {
            assert!(SCRIPT.contains(&format!("/{to}")), "{to}");
        }
    }
}
