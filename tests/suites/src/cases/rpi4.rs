//! The Raspberry Pi 4, as QEMU's `raspi4b` models it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
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
    cases.push(Case::new("fatal-rpi4-el1", true, el1));
    cases.push(Case::new("fatal-rpi4-both-uarts", true, both_uarts));
    cases.push(Case::new("fatal-rpi4-pl011", true, fatal_on_pl011));
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
    linux::verdict(&console)
}

fn bundle(w: &Workshop, name: &str) -> Result<PathBuf, String> {
    let kernel = format!("kernel = \"{}\"", w.payload("twin").display());
    w.bundle(name, &guest("g", 1, "64 MiB", &kernel), 4)
}

/// The board says the words after "fatal" and switches itself off.
fn gives_up(command: Command, words: &[&str]) -> Result<(), String> {
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
    let read = |path: &Path| fs::read(path).map_err(|error| error.to_string());
    let tree = read(&w.project().root().join(qemu::RPI4_TREE))?;
    let firmware = card::FIRMWARE.map(|name| (name.to_owned(), vec![0x5a; 2_000_000]));
    let bundle = read(&bundle(w, name)?)?;
    let card = card::build(read(w.rpi4_image())?, bundle, tree, firmware.to_vec())
        .map_err(|problem| problem.message)?;
    let partition = card::partition(&card).ok_or("the card has no partition")?;
    let file = w.file("rpi4-card.fat");
    fs::write(&file, partition).map_err(|error| error.to_string())?;
    let check = Command::new("fsck.fat")
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
    let mut command = Command::new(qemu::program());
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
    let mut command = Command::new(qemu::program());
    command
        .args(["-machine", "raspi4b", "-display", "none"])
        .args(["-serial", "null", "-kernel"])
        .arg(w.rpi4_image());
    gives_up(command, &["no device tree at the address in x0"])
}

/// A board with another name.
fn wrong_board(w: &Workshop, name: &str) -> Result<Setup, String> {
    changed(w, name, |tree| {
        let value = b"raspberrypi,3-model-b\0brcm,bcm2837\0".to_vec();
        set(tree.find_node_mut("/")?, "compatible", value)
    })
}

/// The tree of a board with another name.
fn other_tree(w: &Workshop) -> Result<(), String> {
    let setup = wrong_board(w, "fatal-rpi4-other-tree")?;
    let bundle = bundle(w, "fatal-rpi4-other-tree")?;
    gives_up(
        w.command(&setup, Some(&bundle)),
        &["the device tree is another board's"],
    )
}

/// An ELF file starts all four cores at EL3.
fn elf(w: &Workshop) -> Result<(), String> {
    let mut command = Command::new(qemu::program());
    command
        .args(["-machine", "raspi4b", "-display", "none"])
        .args(["-serial", "null", "-kernel"])
        .arg(w.project().elf(&build::binary("rpi4")));
    gives_up(command, &["entered at EL3, not EL2", "raw Image"])
}

/// The image behind a page of code that runs first, as a raw Image: what another firmware would leave behind. The
/// code leaves X0 alone and ends with a way to the image, which it is given relative to itself.
fn behind(w: &Workshop, name: &str, code: impl FnOnce(u32) -> Vec<u32>) -> Result<PathBuf, String> {
    const PAGE: usize = 0x1000;
    /// The code begins behind the header.
    const CODE: usize = 0x40;
    let image = fs::read(w.rpi4_image()).map_err(|error| error.to_string())?;
    let mut bytes = image.get(..CODE).ok_or("the image is short")?.to_vec();
    let branch = 0x1400_0010_u32; // b .+0x40
    bytes.splice(..4, branch.to_le_bytes());
    bytes.extend(
        code((PAGE - CODE) as u32)
            .iter()
            .flat_map(|word| word.to_le_bytes()),
    );
    bytes.resize(PAGE, 0);
    bytes.extend(image);
    let file = w.file(&format!("{name}.img"));
    fs::write(&file, bytes).map_err(|error| error.to_string())?;
    Ok(file)
}

/// QEMU with this image and tree; the console is the PL011 or the mini UART.
fn with_image(image: &Path, setup: &Setup) -> Result<Command, String> {
    let board = setup.rpi4.as_ref().ok_or("no Raspberry Pi 4")?;
    let mut command = Command::new(qemu::program());
    command.args(["-machine", "raspi4b", "-display", "none"]);
    if !board.pl011 {
        command.args(["-serial", "null"]);
    }
    command
        .arg("-kernel")
        .arg(image)
        .arg("-dtb")
        .arg(&board.tree);
    Ok(command)
}

/// A boot loader that goes on at EL1.
fn el1(w: &Workshop) -> Result<(), String> {
    let name = "fatal-rpi4-el1";
    let image = behind(w, name, |image| {
        let adr = image - 4 * 4;
        vec![
            0xd2b0_0002,                  // mov x2, #1 << 31: HCR_EL2.RW
            0xd51c_1102,                  // msr hcr_el2, x2
            0xd280_78a2,                  // mov x2, #0x3c5: EL1h, DAIF masked
            0xd51c_4002,                  // msr spsr_el2, x2
            0x1000_0001 | (adr / 4) << 5, // adr x1, image
            0xd51c_4021,                  // msr elr_el2, x1
            0xd69f_03e0,                  // eret
        ]
    })?;
    gives_up(
        with_image(&image, &w.rpi4())?,
        &["entered at EL1, not EL2", "arm_64bit=1"],
    )
}

/// Firmware that has enabled both UARTs: nobody knows yet which one is looked at, so the reason goes to both.
fn both_uarts(w: &Workshop) -> Result<(), String> {
    let name = "fatal-rpi4-both-uarts";
    let image = behind(w, name, |image| {
        vec![
            0xd2bf_c402,                         // mov x2, #0xfe200000
            0xf282_0002,                         // movk x2, #0x1000: the PL011
            0x5280_6023,                         // mov w3, #0x301: UARTEN, TXE, RXE
            0xb900_3043,                         // str w3, [x2, #0x30]: UARTCR
            0x1400_0000 | ((image - 4 * 4) / 4), // b image
        ]
    })?;
    let mut setup = wrong_board(w, name)?;
    for pl011 in [false, true] {
        if let Some(board) = &mut setup.rpi4 {
            board.pl011 = pl011;
        }
        gives_up(
            with_image(&image, &setup)?,
            &["the device tree is another board's"],
        )
        .map_err(|why| format!("PL011 {pl011}: {why}"))?;
    }
    Ok(())
}

/// A tree that names the PL011, which the firmware has not enabled: what comes after it was read is said there.
fn fatal_on_pl011(w: &Workshop) -> Result<(), String> {
    let name = "fatal-rpi4-pl011";
    let mut setup = changed(w, name, |tree| {
        set(
            tree.find_node_mut("/chosen")?,
            "stdout-path",
            b"serial0:115200n8\0".to_vec(),
        )?;
        reserve(tree)
    })?;
    if let Some(board) = &mut setup.rpi4 {
        board.pl011 = true;
    }
    let bundle = bundle(w, name)?;
    gives_up(
        w.command(&setup, Some(&bundle)),
        &["the bundle (initrd) lies in memory that the device tree reserves"],
    )
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

/// Reserves memory where QEMU puts the bundle.
fn reserve(tree: &mut DeviceTree) -> Option<()> {
    let mut node = DeviceTreeNode::new("firmware@8000000").ok()?;
    set(&mut node, "reg", cells(&[0, 0x0800_0000, 0x20_0000]))?;
    tree.find_node_mut("/reserved-memory")?.add_child(node);
    Some(())
}

/// Memory that the tree reserves where QEMU puts the bundle.
fn reserved(w: &Workshop) -> Result<(), String> {
    let setup = changed(w, "fatal-rpi4-bundle-reserved", reserve)?;
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
