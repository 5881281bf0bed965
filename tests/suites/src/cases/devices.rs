//! Devices of the board in the hands of guests: a clock, disks with files on them, a network with packets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::guest;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(180);
/// Bytes of the file that goes over disk and network.
const FILE_BYTES: usize = 3_000_000;

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for gic in [3, 2] {
        let name = format!("devices-clock-gicv{gic}");
        cases.push(Case::named(name, true, move |w, name| clock(w, name, gic)));
        let name = format!("devices-disk-gicv{gic}");
        cases.push(Case::named(name, gic == 3, move |w, name| {
            disk(w, name, gic)
        }));
        let name = format!("devices-disk-network-restarts-gicv{gic}");
        cases.push(Case::named(name, false, move |w, name| {
            network(w, name, gic)
        }));
    }
    cases.push(Case::new("refused-device-page", true, page_is_shared));
    cases
}

/// A bare-metal guest with the PL031, through a restart.
fn clock(w: &Workshop, name: &str, gic: u8) -> Result<(), String> {
    let kernel = w.payload("device");
    let keys = format!(
        "devices = [\"/pl031@9010000\"]\nkernel = \"{}\"",
        kernel.display()
    );
    let setup = Setup {
        gic,
        ..Setup::default()
    };
    let toml = guest("clock", 1, "16 MiB", &keys);
    let console = w.boot(name, &toml, &setup)?.off(LIMIT)?;
    let failures: Vec<&str> = console.lines().filter(|l| l.contains("FAIL ")).collect();
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    for wanted in ["first life over", "second life", " passed, 0 failed"] {
        if !console.contains(wanted) {
            return Err(format!("\"{wanted}\" is not said"));
        }
    }
    Ok(())
}

/// The content of the file: bytes that do not repeat soon.
pub(super) fn content() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let bytes = std::iter::repeat_with(|| {
        // xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    bytes.flatten().take(FILE_BYTES).collect()
}

pub(super) fn tool(name: &str, arguments: &[&str], image: &Path) -> Result<Vec<u8>, String> {
    // They lie where the search path of a user need not lead.
    let full = Path::new("/usr/sbin").join(name);
    let program = if full.exists() { full } else { name.into() };
    let output = Command::new(program)
        .args(arguments)
        .arg(image)
        .output()
        .map_err(|error| format!("cannot run {name} (package e2fsprogs): {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{name}: {}", said.trim()));
    }
    Ok(output.stdout)
}

/// A disk with an ext4 file system that holds the file, and more files.
pub(super) fn make_disk(
    w: &Workshop,
    name: &str,
    more: &[(&str, Vec<u8>)],
) -> Result<PathBuf, String> {
    let said = |error: std::io::Error| format!("cannot make a disk: {error}");
    let (folder, image) = (
        w.file(&format!("{name}.files")),
        w.file(&format!("{name}.img")),
    );
    std::fs::create_dir_all(&folder).map_err(said)?;
    std::fs::write(folder.join("data"), content()).map_err(said)?;
    for (path, bytes) in more {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(&folder)).map_err(said)?;
        std::fs::write(&path, bytes).map_err(said)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).map_err(said)?;
    }
    let file = std::fs::File::create(&image).map_err(said)?;
    file.set_len(32 << 20).map_err(said)?;
    let from = folder.display().to_string();
    tool("mke2fs", &["-q", "-F", "-t", "ext4", "-d", &from], &image)?;
    Ok(image)
}

/// Checks the copies that the guest wrote, from outside.
pub(super) fn check_disk(image: &Path, lives: u32) -> Result<(), String> {
    tool("e2fsck", &["-f", "-n"], image)?;
    for life in 1..=lives {
        let request = format!("cat /copy.{life}");
        if tool("debugfs", &["-R", &request], image)? != content() {
            return Err(format!("the copy of life {life} is not what the disk had"));
        }
    }
    Ok(())
}

/// A direct Linux with the last page of virtio transports, and the clock.
fn linux(w: &Workshop, name: &str, arguments: &str) -> Result<String, String> {
    let initramfs = w.device_initramfs(name)?;
    let keys = format!(
        "backing = \"direct\"\ndma = \"trusted\"\ndevices = [\"/virtio_mmio@a003*\", \"/pl031@9010000\"]\ncores = [1]\n\
         kernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"console=ttyAMA0 {arguments}\"",
        w.cached("linux-cloud/vmlinuz").display(),
        initramfs.display(),
    );
    Ok(guest("linux", 1, "256 MiB", &keys))
}

fn with_disk(gic: u8, image: &Path) -> Setup {
    let drive = format!("if=none,id=disk,format=raw,file={}", image.display());
    let device = "virtio-blk-device,drive=disk,bus=virtio-mmio-bus.31";
    let arguments = ["-drive", &drive, "-device", device];
    Setup {
        gic,
        arguments: arguments.map(String::from).into(),
        ..Setup::default()
    }
}

pub(super) fn failures(console: &str) -> Result<(), String> {
    let bad: Vec<&str> = console
        .lines()
        .filter(|l| l.contains("dev: FAIL"))
        .collect();
    if bad.is_empty() {
        Ok(())
    } else {
        Err(bad.join("; "))
    }
}

/// Debian reads and writes files on a disk; the host looks at them afterwards.
fn disk(w: &Workshop, name: &str, gic: u8) -> Result<(), String> {
    let image = make_disk(w, name, &[])?;
    let toml = linux(w, name, "dev.lives=1")?;
    let mut board = w.boot(name, &toml, &with_disk(gic, &image))?;
    board.expect("dev: all lives over", LIMIT)?;
    let console = board.off(LIMIT)?;
    failures(&console)?;
    check_disk(&image, 1)
}

/// What a server has done.
#[derive(Debug, Default)]
struct Served {
    /// Times that the file was asked for.
    sent: AtomicU32,
    /// Files that came back as they should.
    received: AtomicU32,
}

/// Sends the file to who asks for it by HTTP; whatever else comes must be the file.
fn serve(listener: TcpListener, served: &Served) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        if answer(&mut stream, served).is_err() {
            return;
        }
    }
}

fn answer(stream: &mut TcpStream, served: &Served) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes)?;
    if bytes == b"GET " {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request)?;
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {FILE_BYTES}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&content())?;
        served.sent.fetch_add(1, Ordering::SeqCst);
    } else {
        stream.read_to_end(&mut bytes)?;
        let same = bytes == content();
        served.received.fetch_add(u32::from(same), Ordering::SeqCst);
    }
    Ok(())
}

/// Disk and network through three lives of the guest beside another Linux; then everything is given back.
fn network(w: &Workshop, name: &str, gic: u8) -> Result<(), String> {
    const LIVES: u32 = 3;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no port: {e}"))?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    let served = Arc::new(Served::default());
    let own = Arc::clone(&served);
    std::thread::spawn(move || serve(listener, &own));
    let image = make_disk(w, name, &[])?;
    let mut toml = linux(w, name, &format!("dev.lives={LIVES} dev.port={port}"))?;
    let beside = format!(
        "cores = [2]\nkernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"console=ttyAMA0\"",
        w.cached("linux-cloud/vmlinuz").display(),
        w.initramfs().display(),
    );
    toml += &guest("beside", 1, "128 MiB", &beside);
    let mut setup = with_disk(gic, &image);
    let card = "virtio-net-device,netdev=net,bus=virtio-mmio-bus.30";
    let more = ["-netdev", "user,id=net", "-device", card];
    setup.arguments.extend(more.map(String::from));
    let mut board = w.boot(name, &toml, &setup)?;
    for life in 1..=LIVES {
        board.expect(&format!("dev: life {life} over"), LIMIT)?;
    }
    board.expect("dev: all lives over", LIMIT)?;
    for (command, answer) in [
        ("\x1ds", "penumbra> "),
        ("audit", "every frame that a VM sees is its own"),
        ("stop linux", "guest 'linux' was stopped"),
        ("destroy linux", "its memory is free"),
        ("audit", "every frame that a VM sees is its own"),
        ("\x1d2", "# "),
        ("echo still-$((40 + 2))", "still-42"),
        ("\x1ds", "penumbra> "),
        ("poweroff now", "the operator switches the board off"),
    ] {
        board.send(command)?;
        board
            .expect(answer, LIMIT)
            .map_err(|why| format!("`{command}`: {why}"))?;
    }
    let console = board.off(LIMIT)?;
    failures(&console)?;
    check_disk(&image, LIVES)?;
    let counts = [&served.sent, &served.received].map(|count| count.load(Ordering::SeqCst));
    if counts != [LIVES; 2] {
        let [sent, received] = counts;
        return Err(format!(
            "{LIVES} lives, but {sent} files sent and {received} received"
        ));
    }
    Ok(())
}

/// One transport of a page is not to be had alone.
fn page_is_shared(w: &Workshop) -> Result<(), String> {
    let keys = format!(
        "backing = \"direct\"\ndma = \"trusted\"\ndevices = [\"/virtio_mmio@a003e00\"]\nkernel = \"{}\"",
        w.payload("twin").display()
    );
    let toml = guest("g", 1, "16 MiB", &keys);
    let wanted = "it shares the page at 0xa003000 with /virtio_mmio@a003000 and 6 more";
    match w.bundle("refused-device-page", &toml, 4) {
        Ok(_) => Err("it was accepted".into()),
        Err(said) if said.contains(wanted) => Ok(()),
        Err(said) => Err(format!("it says \"{said}\", not \"{wanted}\"")),
    }
}
