//! The trees of QEMU and of Debian's kernel package, whole and mutated. A machine without QEMU, or
//! without `tools/fetch-arm64 rpi4-tree`, passes over what it does not have, and says so.

use std::format;
use std::path::Path;
use std::process::Command;
use std::string::String;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::vec::Vec;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node as _, Property as _};
use proptest::prelude::*;

use super::facts::{BOARDS, Pi, range};
use crate::facts::{GicFacts, StartMethod, UartKind, read};
use crate::plan::plan;
use crate::ranges::Range;
use crate::tree::{Token, Tree, text};

/// The tree of QEMU virt.
fn virt(gic: u32, cores: u32) -> Option<Vec<u8>> {
    // Tests run at the same time: each call has its own file.
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let name = format!("penumbra-{}-{call}.dtb", std::process::id());
    let file = std::env::temp_dir().join(name);
    let program = std::env::var_os("PENUMBRA_QEMU").unwrap_or_else(|| "qemu-system-aarch64".into());
    let machine = format!(
        "virt,virtualization=on,gic-version={gic},dumpdtb={}",
        file.display()
    );
    let ran = Command::new(program)
        .args([
            "-M",
            &machine,
            "-cpu",
            "cortex-a72",
            "-m",
            "1G",
            "-nic",
            "none",
        ])
        .args(["-display", "none", "-smp", &format!("{cores}")])
        .output();
    if ran.is_err() {
        std::eprintln!("no QEMU: its trees are not tried");
        return None;
    }
    let tree = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    Some(tree)
}

/// The Raspberry Pi 4's tree as the kernel has it: without memory, which the firmware adds.
fn rpi4() -> Option<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tree = std::fs::read(root.join(".cache/arm64/rpi4/bcm2711-rpi-4-b.dtb"));
    if tree.is_err() {
        std::eprintln!("no tree of the Raspberry Pi 4: `tools/fetch-arm64 rpi4-tree` fetches it");
    }
    tree.ok()
}

#[test]
fn qemu_virt() {
    for (version, cores) in [(2, 1), (2, 4), (3, 4), (3, 8)] {
        let Some(blob) = virt(version, cores) else {
            return;
        };
        let facts = read(&blob).unwrap();
        assert!(facts.is("linux,dummy-virt") && facts.psci_by_smc);
        let ram: Vec<Range> = facts.ram.iter().collect();
        assert_eq!(ram, [range(0x4000_0000, 0x4000_0000)]);
        assert_eq!(facts.cpu_count, usize::try_from(cores).unwrap());
        let cpus = facts.cpus.iter().take(facts.cpu_count);
        assert!(cores == 1 || cpus.into_iter().all(|cpu| cpu.start == StartMethod::Psci));
        assert_eq!(facts.uart.kind, UartKind::Pl011);
        assert_eq!(facts.uart.registers, range(0x0900_0000, 0x1000));
        assert_eq!(facts.uart.intid, 33);
        assert_eq!(
            (facts.timers.el1_virtual, facts.timers.hypervisor),
            (27, 26)
        );
        let msi: Vec<Range> = facts.msi.iter().collect();
        let wanted = [range(0x0802_0000, 0x1000), range(0x0808_0000, 0x2_0000)];
        assert_eq!(msi, [wanted[version as usize - 2]]);
        match facts.gic {
            GicFacts::V2([distributor, _, control, _]) => {
                assert_eq!(version, 2);
                assert_eq!((distributor.base, control.base), (0x0800_0000, 0x0803_0000));
            }
            GicFacts::V3(distributor, [Some(redistributors), None, ..]) => {
                assert_eq!(version, 3);
                assert_eq!(
                    (distributor.base, redistributors.base),
                    (0x0800_0000, 0x080a_0000)
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn raspberry_pi_4() {
    let Some(blob) = rpi4() else { return };
    // The kernel's file says memory@0 with size 0, for the firmware to fill in.
    assert_eq!(
        read(&blob).map(drop).unwrap_err(),
        "the device tree describes no RAM"
    );
    for (cells, bytes) in BOARDS {
        let mut model = dtoolkit::model::DeviceTree::from_fdt(&Fdt::new(&blob).unwrap());
        let memory = model.find_node_mut("/memory@0").unwrap();
        let reg = super::blob::cells(cells);
        memory.remove_property("reg");
        memory.add_property(dtoolkit::model::DeviceTreeProperty::new("reg", reg).unwrap());
        board(&model.to_dtb(), bytes);
    }
}

/// The Raspberry Pi 4's tree, completed, of a board with this much RAM.
fn board(blob: &[u8], bytes: u64) {
    let facts = read(blob).unwrap();
    assert!(facts.is("brcm,bcm2711"));
    assert_eq!(facts.ram.bytes(), bytes);
    assert_eq!(facts.cpu_count, 4);
    for (cpu, slot) in facts.cpus.iter().zip([0xd8, 0xe0, 0xe8, 0xf0]) {
        assert_eq!(cpu.start, StartMethod::SpinTable(slot));
    }
    assert_eq!(facts.uart.kind, UartKind::Mini);
    assert_eq!(
        (facts.uart.registers.base, facts.uart.intid),
        (0xfe21_5040, 125)
    );
    let GicFacts::V2([distributor, _, _, interface]) = facts.gic else {
        panic!("{:?}", facts.gic)
    };
    assert_eq!(
        (distributor.base, interface.base),
        (0xff84_1000, 0xff84_6000)
    );
    assert_eq!(facts.mailbox, Some(range(0xfe00_b880, 0x40)));
    assert!(facts.reserved.contain(range(0, 0x1000)));
}

/// Nodes and properties as this crate's reader gives them.
fn own(blob: &[u8]) -> Option<Vec<String>> {
    let mut tokens = Tree::new(blob).ok()?.tokens();
    let mut lines = Vec::new();
    while let Some(token) = tokens.step().ok()? {
        match token {
            Token::Begin(name) => lines.push(format!("+{}", String::from_utf8_lossy(name))),
            Token::Property(strings, value) => {
                let name = String::from_utf8_lossy(text(strings)?);
                lines.push(format!("{name} {value:?}"));
            }
            Token::End => lines.push("-".into()),
        }
    }
    Some(lines)
}

/// The same as dtoolkit gives them.
fn judge(node: dtoolkit::fdt::FdtNode<'_>, lines: &mut Vec<String>) {
    lines.push(format!("+{}", node.name()));
    for property in node.properties() {
        lines.push(format!("{} {:?}", property.name(), property.value()));
    }
    for child in node.children() {
        judge(child, lines);
    }
    lines.push("-".into());
}

fn all() -> Vec<Vec<u8>> {
    let virt = virt(3, 4).map(|mut blob| {
        // What QEMU leaves free at the end only makes mutants slow.
        blob.truncate(0x4000);
        blob[4..8].copy_from_slice(&0x4000u32.to_be_bytes());
        blob
    });
    [Some(Pi::default().build()), virt, rpi4()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn every_node_and_property_is_as_dtoolkit_reads_it() {
    for blob in all().into_iter().chain(virt(2, 8)) {
        let mut lines = Vec::new();
        judge(Fdt::new(&blob).unwrap().root(), &mut lines);
        assert!(lines.len() > 50);
        assert_eq!(own(&blob), Some(lines));
    }
}

fn try_everything(blob: &[u8]) {
    if let Ok(facts) = read(blob) {
        let _ = plan(
            &facts,
            range(0x20_0000, 0x10_0000),
            range(0x0a00_0000, 0x8000),
            1 << 39,
        );
    }
}

#[test]
fn a_tree_that_is_cut_anywhere_is_damaged() {
    for blob in all() {
        let used = usize::try_from(crate::tree::word(&blob, 4).unwrap()).unwrap();
        for keep in (0..used).step_by(3) {
            assert!(Tree::new(&blob[..keep]).is_err(), "{keep}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Words and bytes of the tree are replaced: nothing panics, and what is accepted is what
    /// dtoolkit accepts, read the same.
    #[test]
    fn mutants_do_no_harm(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), any::<bool>()), 1..4)) {
        use std::sync::LazyLock;
        static TREES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(all);
        for tree in TREES.iter() {
            let mut blob = tree.clone();
            for (place, value, byte) in &edits {
                let words = blob.len() / 4;
                let at = 4 * place.index(words);
                let value = value.to_be_bytes();
                let count = if *byte { 1 } else { 4 };
                blob[at..at + count].copy_from_slice(&value[..count]);
            }
            try_everything(&blob);
            if let (Ok(fdt), Some(own)) = (Fdt::new(&blob), own(&blob)) {
                let mut lines = Vec::new();
                judge(fdt.root(), &mut lines);
                prop_assert_eq!(own, lines);
            }
        }
    }

    /// Small numbers in place of words: those that still look like tokens, lengths and cells.
    #[test]
    fn plausible_mutants_do_no_harm(place in any::<prop::sample::Index>(), value in 0u32..16) {
        use std::sync::LazyLock;
        static TREES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(all);
        for tree in TREES.iter() {
            let mut blob = tree.clone();
            let at = 4 * place.index(blob.len() / 4);
            blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
            try_everything(&blob);
        }
    }
}
