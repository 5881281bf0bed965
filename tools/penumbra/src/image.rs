//! From a scenario and its payload files to a bundle.

use std::borrow::Cow;
use std::path::Path;

use penumbra_bundle::{
    Backing, GuestSpec, Key, MEMORY_UNIT_BYTES, Payload, PayloadFile, ScenarioSpec, write_bundle,
};

use crate::hardware::{self, Hardware};
use crate::payload::{self, ImageHeader};
use crate::problem::{Problem, Problems};
use crate::scenario::{File, Guest, Scenario, size};

/// Room that the check of a guest's memory leaves for its device tree.
const TREE_BYTES: u64 = MEMORY_UNIT_BYTES;

/// Reads the payloads of a scenario, checks them and writes the bundle.
///
/// `tree` is the board's device tree; a scenario that wants something of the board needs it.
///
/// # Errors
/// All payloads that are missing, are not what they should be or do not fit, or a core or device that
/// the board does not have.
pub fn bundle(
    scenario: &Scenario,
    board_cores: u8,
    tree: Option<&[u8]>,
) -> Result<Vec<u8>, Problems> {
    let placement = scenario.placement(board_cores)?;
    let wanted = match tree {
        Some(tree) => hardware::find(scenario, tree)?,
        None if hardware::is_wanted(scenario) => {
            let problem = Problem::new("the scenario wants devices or memory of a board");
            let help = "name the board's device tree with --board-dtb FILE";
            return Err(problem.help(help).into());
        }
        None => vec![Hardware::default(); scenario.guests.len()],
    };
    let mut problems = Vec::new();
    let mut guests = Vec::new();
    for ((guest, cores), hardware) in scenario.guests.iter().zip(placement).zip(wanted) {
        match guest_spec(guest, cores, hardware) {
            Ok(spec) => guests.push(spec),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(Problems::of(&scenario.source, problems));
    }
    let spec = ScenarioSpec {
        file: scenario.source.path.display().to_string(),
        when_all_off: scenario.when_all_off,
        when_all_off_line: scenario.when_all_off_line,
        guests,
        schedules: scenario.schedules.clone(),
    };
    write_bundle(&spec)
        .map_err(|error| Problem::new(format!("the bundle cannot be written: {error}")).into())
}

fn guest_spec(
    guest: &Guest,
    cores: Vec<u8>,
    hardware: Hardware,
) -> Result<GuestSpec<'static>, Problem> {
    let kernel = read("kernel", &guest.kernel)?;
    let initrd = guest
        .initrd
        .as_ref()
        .map(|file| read("initrd", file))
        .transpose()?;
    let image = match guest.payload {
        Payload::Linux => payload::kernel(&kernel).map_err(|why| {
            guest
                .kernel
                .problem(sentence("kernel", &guest.kernel.path, &why))
        })?,
        Payload::Flat { entry } => flat(&kernel, entry).map_err(|why| {
            guest
                .kernel
                .problem(sentence("kernel", &guest.kernel.path, &why))
        })?,
    };
    if let (Some(bytes), Some(file), Payload::Linux) = (&initrd, &guest.initrd, guest.payload) {
        payload::initrd(bytes).map_err(|why| file.problem(sentence("initrd", &file.path, &why)))?;
    }
    fits(guest, image, initrd.as_ref().map_or(0, Vec::len))?;
    let named = |file: &File, bytes: Vec<u8>| PayloadFile {
        name: file.path.display().to_string(),
        bytes: Cow::Owned(bytes),
    };
    Ok(GuestSpec {
        name: guest.name.clone(),
        lines: guest.lines,
        cores,
        memory_bytes: guest.memory_bytes,
        backing: guest.backing,
        quota_bytes: guest.quota_bytes,
        kernel: named(&guest.kernel, kernel),
        initrd: guest
            .initrd
            .as_ref()
            .zip(initrd)
            .map(|(file, bytes)| named(file, bytes)),
        cmdline: guest.cmdline.clone(),
        payload: guest.payload,
        on_crash: guest.on_crash,
        on_power_off: guest.on_power_off,
        restart_limit: guest.restart_limit,
        restart_delay_ms: guest.restart_delay_ms,
        autostart: guest.autostart,
        paging: guest.paging,
        address: hardware.address,
        dma_trusted: guest.dma_trusted,
        devices: hardware.devices,
        watchdog: guest.watchdog,
    })
}

fn sentence(what: &str, path: &Path, why: &str) -> String {
    format!("the {what} {} {why}", path.display())
}

fn read(what: &str, file: &File) -> Result<Vec<u8>, Problem> {
    std::fs::read(&file.path).map_err(|error| {
        let cached = file.path.components().any(|part| part.as_os_str() == ".cache");
        let path = file.path.display();
        let problem = file.problem(format!("cannot read the {what} {path}: {error}"));
        match file.span {
            _ if cached => problem.help(
                "tools/fetch-arm64 puts Debian's kernels and busybox into .cache; tools/dev setup those \
                 of the default guest",
            ),
            Some(_) => problem.help("paths in a scenario are seen from the scenario's folder"),
            None => problem,
        }
    })
}

/// Checks a flat binary; its memory is its file.
fn flat(file: &[u8], entry: u64) -> Result<ImageHeader, String> {
    let bytes = u64::try_from(file.len()).unwrap_or(u64::MAX);
    if bytes == 0 {
        return Err("is empty".into());
    }
    if file.starts_with(b"\x7fELF") {
        return Err("is an ELF file; flatten it first: llvm-objcopy -O binary".into());
    }
    if entry >= bytes {
        return Err(format!("has {bytes} bytes, but its entry is at {entry}"));
    }
    Ok(ImageHeader {
        text_offset: 0,
        image_size: bytes,
    })
}

/// Checks that everything fits into the guest's memory: the kernel from the start, the initrd from
/// the next multiple of 2 MiB, the device tree behind.
fn fits(guest: &Guest, image: ImageHeader, initrd_bytes: usize) -> Result<(), Problem> {
    let initrd_bytes = u64::try_from(initrd_bytes).unwrap_or(u64::MAX);
    let needed = image
        .text_offset
        .saturating_add(image.image_size)
        .next_multiple_of(MEMORY_UNIT_BYTES)
        .saturating_add(initrd_bytes)
        .saturating_add(TREE_BYTES)
        .checked_next_multiple_of(MEMORY_UNIT_BYTES)
        .unwrap_or(u64::MAX);
    let thin_quota = guest.quota_bytes.filter(|_| guest.backing == Backing::Thin);
    let (room, key) = match thin_quota {
        Some(quota) => (quota, Key::Quota),
        None => (guest.memory_bytes, Key::Memory),
    };
    if needed <= room {
        return Ok(());
    }
    let message = format!(
        "guest \"{}\" needs {} to be loaded, its `{}` (line {}) is {}",
        guest.name,
        size::show(needed),
        key.name(),
        guest.lines.nearest(key),
        size::show(room),
    );
    Err(guest
        .kernel
        .problem(message)
        .help("running takes more than loading: leave some room"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Source;
    use penumbra_bundle::{Bundle, WhenAllOff};

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("penumbra-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, bytes: &[u8]) {
            std::fs::write(self.0.join(name), bytes).unwrap();
        }

        fn bundle(&self, keys: &str) -> Result<Vec<u8>, Vec<String>> {
            let text = format!("[[guest]]\nname = \"a\"\nvcpus = 2\nmemory = \"16 MiB\"\n{keys}");
            let source = Source {
                path: self.0.join("scenario.toml"),
                text: text.into(),
            };
            let scenario = Scenario::read(source).unwrap();
            bundle(&scenario, 4, None)
                .map_err(|problems| problems.list.into_iter().map(|p| p.message).collect())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn kernel(image_size: u64) -> Vec<u8> {
        let mut file = vec![0; 4096];
        file[16..24].copy_from_slice(&image_size.to_le_bytes());
        file[56..60].copy_from_slice(b"ARM\x64");
        file
    }

    #[test]
    fn a_bundle_is_read_back_as_it_was_meant() {
        let folder = Folder::new("whole");
        folder.file("Image", &kernel(8192));
        folder.file("rd", b"070701");
        let bytes = folder
            .bundle("kernel = \"Image\"\ninitrd = \"rd\"\ncmdline = \"quiet\"")
            .unwrap();
        let bundle = Bundle::parse(&bytes).unwrap();
        let manifest = bundle.manifest().unwrap();
        assert_eq!(manifest.when_all_off, WhenAllOff::PowerOff);
        assert!(manifest.file.ends_with("scenario.toml"));
        let guest = manifest.guests().next().unwrap();
        assert_eq!(
            (guest.name, guest.cores, guest.cmdline),
            ("a", &[1, 2][..], "quiet")
        );
        assert_eq!(guest.memory_bytes, 16 << 20);
        assert_eq!(guest.lines.get(Key::Memory), Some(4));
        assert_eq!(
            bundle.part(guest.kernel).unwrap().verified().unwrap(),
            kernel(8192)
        );
        assert_eq!(
            bundle
                .part(guest.initrd.unwrap())
                .unwrap()
                .verified()
                .unwrap(),
            b"070701"
        );
    }

    #[test]
    fn bad_payloads_get_a_sentence() {
        let folder = Folder::new("bad");
        folder.file("Image", &kernel(8192));
        folder.file("big", &kernel(15 << 20));
        folder.file("gz", b"\x1f\x8b\x08 and so on");
        folder.file("elf", b"\x7fELF");
        folder.file("none", b"");
        for (keys, part) in [
            ("kernel = \"missing\"", "cannot read the kernel"),
            ("kernel = \"gz\"", "is compressed with gzip"),
            ("kernel = \"none\"", "is empty"),
            (
                "kernel = \"big\"",
                "needs 18 MiB to be loaded, its `memory` (line 4) is 16 MiB",
            ),
            (
                "kernel = \"Image\"\ninitrd = \"missing\"",
                "cannot read the initrd",
            ),
            ("kernel = \"Image\"\ninitrd = \"elf\"", "is no initramfs"),
            ("kernel = \"elf\"\npayload = \"flat\"", "is an ELF file"),
            (
                "kernel = \"Image\"\npayload = \"flat\"\nentry = 4096",
                "its entry is at 4096",
            ),
            (
                "kernel = \"Image\"\nbacking = \"thin\"\nquota = \"2 MiB\"",
                "its `quota` (line 7) is 2 MiB",
            ),
        ] {
            let problems = folder.bundle(keys).unwrap_err();
            assert!(
                problems.iter().any(|p| p.contains(part)),
                "{part} in {problems:?}"
            );
        }
    }
}
