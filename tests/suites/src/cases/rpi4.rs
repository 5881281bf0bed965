//! The Raspberry Pi 4, as QEMU's `raspi4b` models it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use penumbra::qemu;
use penumbra::{build, card};

use super::{guest, linux, payload};
use crate::board::Board;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(60);

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.push(Case::new("rpi4-shell-mini-uart", true, |w| {
        linux::shell_on(w, "rpi4-shell-mini-uart", &w.rpi4())
    }));
    cases.push(Case::new("rpi4-shell-pl011", true, pl011));
    cases.push(Case::new("rpi4-two-guests", true, two_guests));
    cases.push(Case::new("rpi4-card", true, card));
    cases.push(Case::new("fatal-rpi4-no-bundle", true, no_bundle));
    cases.push(Case::new("fatal-rpi4-no-tree", true, no_tree));
    cases.push(Case::new("fatal-rpi4-other-tree", true, other_tree));
    cases.push(Case::new("fatal-rpi4-elf", true, elf));
    cases.push(Case::new("fatal-rpi4-gic", true, gic));
    cases.push(Case::new("fatal-rpi4-bundle-reserved", true, reserved));
    cases.push(Case::new("fatal-rpi4-little-ram", true, little_ram));
    cases
}

/// The board with its device tree changed.
pub(super) fn changed(
    w: &Workshop,
    name: &str,
    change: impl FnOnce(&mut DeviceTree) -> Option<()>,
) -> Result<Setup, String> {
    let mut setup = w.rpi4();
    let board = setup.rpi4.as_mut().ok_or("no Raspberry Pi 4")?;
    let bytes = fs::read(&board.tree)
        .map_err(|error| format!("cannot read {}: {error}", board.tree.display()))?;
    let tree = Fdt::new(&bytes).map_err(|error| error.to_string())?;
    let mut model = DeviceTree::from_fdt(&tree);
    change(&mut model).ok_or("the tree has no such node")?;
    board.tree = w.file(&format!("{name}.dtb"));
    fs::write(&board.tree, model.to_dtb()).map_err(|error| error.to_string())?;
    Ok(setup)
}

pub(super) fn set(node: &mut DeviceTreeNode, name: &str, value: Vec<u8>) -> Option<()> {
    node.remove_property(name);
    node.add_property(DeviceTreeProperty::new(name, value).ok()?);
    Some(())
}

pub(super) fn cells(cells: &[u32]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

/// stdout-path names the PL011: the console, with its input, goes on there.
fn pl011(w: &Workshop) -> Result<(), String> {
    let name = "rpi4-shell-pl011";
    let mut setup = changed(w, name, |tree| {
        let chosen = tree.find_node_mut("/chosen")?;
        set(chosen, "stdout-path", b"serial0:115200n8\0".to_vec())
    })?;
    if let Some(board) = &mut setup.rpi4 {
        board.pl011 = true;
    }
    linux::shell_on(w, name, &setup)
}

/// Linux and a payload at once, each to its own end.
fn two_guests(w: &Workshop) -> Result<(), String> {
    let more = linux::linux(
        w,
        linux::CLOUD,
        "load.seconds=4 load.vcpus=2",
        "reserved",
        "cores = [1, 2]",
    );
    let mut toml = guest("linux", 2, "512 MiB", &more);
    let kernel = w.payload("traps");
    let more = format!("cores = [3]\nkernel = \"{}\"", kernel.display());
    toml += &guest("traps", 1, "64 MiB", &more);
    let console = w
        .boot("rpi4-two-guests", &toml, &w.rpi4())?
        .off(Duration::from_secs(300))?;
    payload::verdict(&console, 1)?;
    if !console.contains("load: verdict good") {
        return Err("Linux's verdict is not good".into());
    }
    Ok(())
}

fn bundle(w: &Workshop, name: &str) -> Result<PathBuf, String> {
    let kernel = format!("kernel = \"{}\"", w.payload("twin").display());
    w.bundle(name, &guest("g", 1, "64 MiB", &kernel), 4)
}

/// The board says the words after "fatal" and switches itself off.
fn gives_up(command: std::process::Command, words: &[&str]) -> Result<(), String> {
    let console = Board::start(command)?.off(LIMIT)?;
    let said = console
        .split("penumbra: fatal: ")
        .nth(1)
        .ok_or_else(|| format!("it gave no reason: {}", console.trim()))?;
    match words.iter().find(|word| !said.contains(**word)) {
        None => Ok(()),
        Some(word) => Err(format!("\"{word}\" is not said: {}", said.trim())),
    }
}

/// The image of a card: its file system is clean, and the board boots from what is on it. The firmware
/// is a stand-in: QEMU does its part.
fn card(w: &Workshop) -> Result<(), String> {
    let name = "rpi4-card";
    let read = |path: &std::path::Path| fs::read(path).map_err(|error| error.to_string());
    let tree = read(&w.project().root().join(qemu::RPI4_TREE))?;
    let firmware = card::FIRMWARE.map(|name| (name.to_owned(), vec![0x5a; 2_000_000]));
    let bundle = read(&bundle(w, name)?)?;
    let card = card::build(read(w.rpi4_image())?, bundle, tree, firmware.to_vec())
        .map_err(|problem| problem.message)?;
    let partition = card::partition(&card).ok_or("the card has no partition")?;
    let file = w.file("rpi4-card.fat");
    fs::write(&file, partition).map_err(|error| error.to_string())?;
    let check = std::process::Command::new("fsck.fat")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-n", "-v"])
        .arg(&file)
        .output()
        .map_err(|error| format!("cannot run fsck.fat (dosfstools): {error}"))?;
    if !check.status.success() {
        let said = String::from_utf8_lossy(&check.stdout);
        return Err(format!("fsck.fat finds faults: {}", said.trim()));
    }
    let take = |what: &str| {
        let file = w.file(&format!("rpi4-card.{what}"));
        let bytes = card::read(&card, what).map_err(|error| format!("{what}: {error}"))?;
        fs::write(&file, bytes).map_err(|error| error.to_string())?;
        Ok::<_, String>(file)
    };
    let mut command = std::process::Command::new(qemu::program());
    command
        .args(["-machine", "raspi4b", "-display", "none", "-serial", "null"])
        .arg("-kernel")
        .arg(take(card::KERNEL)?)
        .arg("-initrd")
        .arg(take(card::BUNDLE)?)
        .arg("-dtb")
        .arg(take(card::TREE)?);
    payload::verdict(&Board::start(command)?.off(LIMIT)?, 1)
}

fn no_bundle(w: &Workshop) -> Result<(), String> {
    gives_up(w.command(&w.rpi4(), None), &["there is no bundle"])
}

/// QEMU without -dtb hands over what firmware handed over before device trees.
fn no_tree(w: &Workshop) -> Result<(), String> {
    let mut command = std::process::Command::new(qemu::program());
    command
        .args(["-machine", "raspi4b", "-display", "none"])
        .args(["-serial", "null", "-kernel"])
        .arg(w.rpi4_image());
    gives_up(command, &["no device tree at the address in x0"])
}

/// The tree of a board with another name.
fn other_tree(w: &Workshop) -> Result<(), String> {
    let setup = changed(w, "fatal-rpi4-other-tree", |tree| {
        let value = b"raspberrypi,3-model-b\0brcm,bcm2837\0".to_vec();
        set(tree.find_node_mut("/")?, "compatible", value)
    })?;
    let bundle = bundle(w, "fatal-rpi4-other-tree")?;
    gives_up(
        w.command(&setup, Some(&bundle)),
        &["the device tree is another board's"],
    )
}

/// An ELF file starts all four cores at EL3.
fn elf(w: &Workshop) -> Result<(), String> {
    let mut command = std::process::Command::new(qemu::program());
    command
        .args(["-machine", "raspi4b", "-display", "none"])
        .args(["-serial", "null", "-kernel"])
        .arg(w.project().elf(&build::binary("rpi4")));
    gives_up(command, &["entered at EL3, not EL2", "raw Image"])
}

/// A distributor that reads as zero, as it does where firmware has left it to the Secure side.
fn gic(w: &Workshop) -> Result<(), String> {
    let setup = changed(w, "fatal-rpi4-gic", |tree| {
        let gic = tree.find_node_mut("/soc/interrupt-controller@40041000")?;
        let reg = [
            0x7e91_0000,
            0x1000,
            0x4004_2000,
            0x2000,
            0x4004_4000,
            0x2000,
            0x4004_6000,
            0x2000,
        ];
        set(gic, "reg", cells(&reg))
    })?;
    let bundle = bundle(w, "fatal-rpi4-gic")?;
    gives_up(
        w.command(&setup, Some(&bundle)),
        &["does not let EL2 enable interrupts", "enable_gic=1"],
    )
}

/// Memory that the tree reserves where QEMU puts the bundle.
fn reserved(w: &Workshop) -> Result<(), String> {
    let setup = changed(w, "fatal-rpi4-bundle-reserved", |tree| {
        let mut node = DeviceTreeNode::new("firmware@8000000").ok()?;
        set(&mut node, "reg", cells(&[0, 0x0800_0000, 0x20_0000]))?;
        tree.find_node_mut("/reserved-memory")?.add_child(node);
        Some(())
    })?;
    let bundle = bundle(w, "fatal-rpi4-bundle-reserved")?;
    gives_up(
        w.command(&setup, Some(&bundle)),
        &["the bundle (initrd) lies in memory that the device tree reserves"],
    )
}

fn little_ram(w: &Workshop) -> Result<(), String> {
    let kernel = format!("kernel = \"{}\"", w.payload("twin").display());
    let bundle = w.bundle("fatal-rpi4-little-ram", &guest("g", 1, "1 GiB", &kernel), 4)?;
    gives_up(
        w.command(&w.rpi4(), Some(&bundle)),
        &["guest 'g'", "need 1024 MiB", "lower `memory`"],
    )
}
