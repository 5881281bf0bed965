//! Devices of the Raspberry Pi 4, as far as QEMU's `raspi4b` has them, in the hands of Debian.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use penumbra::card;

use super::devices::{check_disk, failures, make_disk};
use super::guest;
use super::rpi4::{changed, set};
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(240);
/// A card has a number of bytes that is a power of two (QEMU, hw/sd/sd.c).
const CARD_BYTES: usize = 256 << 20;
const SECTOR: usize = 512;
/// Where a partition table has its second entry.
const SECOND_ENTRY: usize = 462;
/// The drivers of the card, and of the file systems on it.
const CARD_DRIVERS: [&str; 6] = [
    "sdhci_iproc",
    "ext4",
    "crc32c_generic",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];
/// The drivers of a USB stick.
const STICK_DRIVERS: [&str; 5] = ["dwc2", "usb_storage", "sd_mod", "ext4", "crc32c_generic"];

/// The tests. They need Debian's full kernel, which the quick suite does without.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("rpi4-devices-card", false, |w| {
            card_root(w, "rpi4-devices-card")
        }),
        Case::new("rpi4-devices-stick", false, |w| {
            stick(w, "rpi4-devices-stick")
        }),
        Case::new("rpi4-devices-pins", false, |w| pins(w, "rpi4-devices-pins")),
        Case::new("refused-rpi4-devices", true, refused),
    ]
}

/// A direct Linux with these devices.
fn direct(w: &Workshop, initramfs: &Path, devices: &[&str], cmdline: &str) -> String {
    let keys = format!(
        "backing = \"direct\"\ndma = \"trusted\"\ndevices = {devices:?}\ncores = [1]\n\
         kernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"console=ttyAMA0 {cmdline}\"",
        w.cached("linux/vmlinuz").display(),
        initramfs.display(),
    );
    guest("linux", 1, "256 MiB", &keys)
}

/// A card as it would lie in the board: the boot partition of `tools/dev image rpi4`, and behind it a root
/// file system. Returns the place of the latter.
fn make_card(w: &Workshop, name: &str) -> Result<(PathBuf, usize), String> {
    let said = |error: std::io::Error| format!("cannot make a card: {error}");
    let kernel = fs::read(w.rpi4_image()).map_err(said)?;
    let firmware = card::FIRMWARE.map(|name| (name.to_owned(), vec![0x5a; 2_000_000]));
    let mut bytes = card::build(kernel, vec![1; 1000], vec![2; 1000], firmware.to_vec())
        .map_err(|problem| problem.message)?;
    let busybox = fs::read(w.cached("busybox/busybox")).map_err(said)?;
    let hello = b"echo \"dev: root of $(/bin/busybox ls / | /bin/busybox wc -w) names\"\n".to_vec();
    let files = [("bin/busybox", busybox), ("hello", hello)];
    let root = fs::read(make_disk(w, name, &files)?).map_err(said)?;
    let start = bytes.len().next_multiple_of(1 << 20);
    let number = |bytes: usize| u32::try_from(bytes / SECTOR).map_err(|error| error.to_string());
    // The second entry of the partition table: Linux (0x83), first sector and sectors behind the old geometry.
    let place = [number(start)?, number(root.len())?].map(u32::to_le_bytes);
    let entry = [[0; 4], [0x83, 0, 0, 0], place[0], place[1]].concat();
    bytes.resize(start, 0);
    bytes.splice(SECOND_ENTRY..SECOND_ENTRY + entry.len(), entry);
    bytes.extend(root);
    bytes.resize(CARD_BYTES, 0);
    let file = w.file(&format!("{name}.card"));
    fs::write(&file, bytes).map_err(said)?;
    Ok((file, start))
}

fn with_drive(mut setup: Setup, arguments: &[&str]) -> Setup {
    setup.arguments = arguments.iter().copied().map(String::from).collect();
    setup
}

/// QEMU has the card at the controller that is the wireless chip's on a board; the one that has the card
/// there is given along with it, and found empty.
fn card_root(w: &Workshop, name: &str) -> Result<(), String> {
    let (image, start) = make_card(w, name)?;
    let initramfs = w.disk_initramfs(name, &CARD_DRIVERS)?;
    let devices = ["/soc/mmc@7e300000", "/emmc2bus/mmc@7e340000"];
    let cmdline = "dev.lives=2 dev.disk=/dev/mmcblk*p2 dev.boot=/dev/mmcblk*p1";
    let toml = direct(w, &initramfs, &devices, cmdline);
    let drive = format!("if=sd,format=raw,file={}", image.display());
    let mut board = w.boot(name, &toml, &with_drive(w.rpi4(), &["-drive", &drive]))?;
    board.expect("dev: all lives over", LIMIT)?;
    let console = board.off(LIMIT)?;
    failures(&console)?;
    if console.matches("dev: root of").count() != 2 {
        return Err("nothing ran from the root file system".into());
    }
    let wanted = format!("dev: boot {}", sum(w.rpi4_image())?);
    if console.matches(&wanted).count() != 2 {
        return Err("the hypervisor's image on the boot partition is not what it was".into());
    }
    let bytes = fs::read(&image).map_err(|error| error.to_string())?;
    let root = w.file(&format!("{name}.root"));
    fs::write(&root, bytes.get(start..).unwrap_or_default()).map_err(|error| error.to_string())?;
    check_disk(&root, 2)
}

/// A stick at the USB controller, which reads and writes memory through the addresses of its bus. The
/// board's tree makes the controller a peripheral: an overlay of the firmware makes it a host. One life: QEMU's
/// controller sees nothing connected once a driver has switched its port off.
fn stick(w: &Workshop, name: &str) -> Result<(), String> {
    let image = make_disk(w, name, &[])?;
    let initramfs = w.disk_initramfs(name, &STICK_DRIVERS)?;
    let setup = changed(w, name, |tree| {
        let usb = tree.find_node_mut("/soc/usb@7e980000")?;
        set(usb, "dr_mode", b"host\0".to_vec())
    })?;
    let cmdline = "dev.lives=1 dev.disk=/dev/sda";
    let toml = direct(w, &initramfs, &["/soc/usb@7e980000"], cmdline);
    let drive = format!("if=none,id=stick,format=raw,file={}", image.display());
    // Without a port QEMU puts a hub before it.
    let device = "usb-storage,drive=stick,port=1";
    let arguments = ["-drive", &drive, "-device", device];
    let mut board = w.boot(name, &toml, &with_drive(setup, &arguments))?;
    board.expect("dev: all lives over", LIMIT)?;
    let console = board.off(LIMIT)?;
    failures(&console)?;
    // 1 GiB of RAM from 0 on is at 0xc0000000 for what hangs on this bus; the guest is in its last quarter.
    if !["dev: DMA 0xe", "dev: DMA 0xf"]
        .iter()
        .any(|said| console.contains(said))
    {
        return Err("the controller does not use the addresses of its bus".into());
    }
    check_disk(&image, 1)
}

/// What `sha256sum` says of a file.
fn sum(file: &Path) -> Result<String, String> {
    let output = std::process::Command::new("sha256sum").arg(file).output();
    let output = output.map_err(|error| format!("cannot run sha256sum (coreutils): {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sum = text.split(' ').next().unwrap_or_default();
    Ok(sum.to_owned())
}

/// Pins, the PL011, an I2C and an SPI bus, as far as QEMU has them. On a board the PL011 is wired to the Bluetooth chip; the tree says here
/// what an overlay makes of it that puts it on pins of the header, and what `dtparam=spi=on` makes of the SPI bus. A thermometer
/// hangs on one bus, a flash chip on the other.
fn pins(w: &Workshop, name: &str) -> Result<(), String> {
    let drivers = ["i2c_bcm2835", "i2c_dev"];
    let initramfs = w.pins_initramfs(name, &drivers)?;
    let mut setup = changed(w, name, |tree| {
        let uart = tree.find_node_mut("/soc/serial@7e201000")?;
        uart.remove_child("bluetooth")?;
        let spi = tree.find_node_mut("/soc/spi@7e204000")?;
        set(spi, "status", b"okay\0".to_vec())
    })?;
    // The first serial port of QEMU is the PL011, the second the console.
    if let Some(board) = &mut setup.rpi4 {
        board.pl011 = true;
    }
    let socket = w.file(&format!("{name}.socket"));
    let _ = fs::remove_file(&socket);
    let serial = format!("unix:{},server=on,wait=off", socket.display());
    let thermometer = "tmp105,bus=i2c-bus.1,address=0x48";
    let arguments = [
        "-serial",
        &serial,
        "-device",
        thermometer,
        "-device",
        "w25q32,bus=spi",
    ];
    let setup = with_drive(setup, &arguments);
    let devices = [
        "/soc/gpio@7e200000",
        "/soc/serial@7e201000",
        "/soc/i2c@7e804000",
        "/soc/spi@7e204000",
    ];
    let toml = direct(w, &initramfs, &devices, "");
    let mut board = w.boot(name, &toml, &setup)?;
    let said = |error: std::io::Error| format!("the second UART: {error}");
    board.expect("penumbra: ", LIMIT)?;
    // QEMU throws away what the UART sends while nobody listens.
    let stream = UnixStream::connect(&socket).map_err(said)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(said)?;
    board.expect("pi: pin 21 goes up and down", LIMIT)?;
    let mut reader = BufReader::new(stream.try_clone().map_err(said)?);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(said)?;
    if line.trim_end() != "hello from the guest" {
        return Err(format!("the second UART said \"{line}\""));
    }
    (&stream).write_all(b"hello from outside\n").map_err(said)?;
    board.expect("pi: the second UART says hello from outside", LIMIT)?;
    board.expect("pi: the clocks run as the firmware says", LIMIT)?;
    board.expect("pi: I2C reads 80 0", LIMIT)?;
    // Winbond (0xef), 0x4016.
    board.expect("pi: SPI reads 239 64 22", LIMIT)?;
    board.expect("pi: over", LIMIT)?;
    let console = board.off(LIMIT)?;
    match console.lines().find(|line| line.contains("pi: FAIL")) {
        None => Ok(()),
        Some(line) => Err(line.trim().to_owned()),
    }
}

/// What cannot be had is told with its reason.
fn refused(w: &Workshop) -> Result<(), String> {
    let kernel = format!("kernel = \"{}\"", w.payload("twin").display());
    let plain = |devices: &str| format!("devices = {devices}\n{kernel}");
    let trusted = |devices: &str| {
        format!(
            "backing = \"direct\"\ndma = \"trusted\"\n{}",
            plain(devices)
        )
    };
    for (keys, wanted) in [
        (
            plain("[\"/soc/mmc@7e300000\"]"),
            "may be a bus master (brcm,bcm2835-sdhci)",
        ),
        (
            plain("[\"/soc/gpio@7e200000\"]"),
            "it sets the pins of /soc/serial@7e215040, which is the board's console",
        ),
        (
            trusted("[\"/soc/cprman@7e101000\"]"),
            "it is a clock controller, which the hypervisor keeps",
        ),
        (
            trusted("[\"/soc/watchdog@7e100000\"]"),
            "it is the board's watchdog and power switch",
        ),
        (
            trusted("[\"/soc/spi@7e204000\"]"),
            "the board's device tree says that it is not there",
        ),
        (
            trusted("[\"/soc/pwm@7e20c800\"]"),
            "it needs the clock /soc/cprman@7e101000, which is not a fixed one and is shared",
        ),
    ] {
        let toml = guest("g", 1, "16 MiB", &keys);
        match w.bundle_for("refused-rpi4-devices", &toml, &w.rpi4()) {
            Ok(_) => return Err(format!("it was accepted, without \"{wanted}\"")),
            Err(said) if said.contains(wanted) => {}
            Err(said) => return Err(format!("it says \"{said}\", not \"{wanted}\"")),
        }
    }
    let second = guest("h", 1, "16 MiB", &trusted("[\"/emmc2bus/mmc@7e340000\"]"));
    let toml = guest("g", 1, "16 MiB", &trusted("[\"/soc/mmc@7e300000\"]")) + &second;
    match w.bundle_for("refused-rpi4-devices", &toml, &w.rpi4()) {
        Err(said) if said.contains("it shares interrupt 158 with /soc/mmc@7e300000") => Ok(()),
        other => Err(format!("two owners of one interrupt: {other:?}")),
    }
}
