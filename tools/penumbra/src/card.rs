//! The SD card of a Raspberry Pi 4: a partition table, and one FAT32 partition with the firmware, its
//! settings, the image, the bundle and the device tree.

use std::fs;
use std::io::{Cursor, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use mbrman::{BOOT_INACTIVE, CHS, MBR, MBRPartitionEntry};

use crate::problem::Problem;
use crate::scenario::size;

/// The hypervisor's image on the card.
pub const KERNEL: &str = "kernel8.img";
/// The bundle on the card.
pub const BUNDLE: &str = "penumbra.bundle";
/// The device tree on the card.
pub const TREE: &str = "bcm2711-rpi-4-b.dtb";
/// Files of the firmware that a Raspberry Pi 4 does not boot without.
pub const FIRMWARE: [&str; 2] = ["start4.elf", "fixup4.dat"];
/// The firmware's licence, if it lies beside them.
const LICENCES: [&str; 2] = ["LICENCE.broadcom", "copyright"];
/// The firmware's settings. docs/rpi4.md explains each line.
pub const CONFIG: &str = include_str!("card/config.txt");

/// Where config.txt has the firmware load the bundle.
const BUNDLE_ADDRESS: u64 = 0x0400_0000;
/// Where the firmware's own memory may begin, on the board and with the settings that leave least.
const BUNDLE_END: u64 = 0x3800_0000;
const SECTOR: usize = 512;
/// The partition begins at 1 MiB.
const FIRST_SECTOR: u32 = 2048;
const MIB: usize = 1 << 20;
/// Below this a file system has too few clusters to be a FAT32.
const LEAST_PARTITION: usize = 64 * MIB;
/// Type of a partition with a FAT32 and logical addresses.
const FAT32_LBA: u8 = 0x0c;
const BOUNDS: &str = "the card's image is larger than a partition can be";

/// A file of the card: its name and its bytes.
pub type File = (String, Vec<u8>);

/// Reads what is needed of a folder with the firmware.
///
/// # Errors
/// A file that is missing, and where it comes from.
pub fn firmware(folder: &Path) -> Result<Vec<File>, Problem> {
    let mut files = Vec::new();
    for name in FIRMWARE {
        let path = folder.join(name);
        let bytes = fs::read(&path).map_err(|error| {
            Problem::new(format!("cannot read the firmware {}: {error}", path.display())).help(
                "`tools/fetch-arm64 rpi4-firmware` fetches Debian's; --firmware names a folder of your own",
            )
        })?;
        files.push((name.to_owned(), bytes));
    }
    for name in LICENCES {
        if let Ok(bytes) = fs::read(folder.join(name)) {
            files.push((name.to_owned(), bytes));
        }
    }
    Ok(files)
}

/// Makes the image of a card.
///
/// # Errors
/// The bundle is too large for the place where it is loaded, or the file system cannot be made.
pub fn build(
    kernel: Vec<u8>,
    bundle: Vec<u8>,
    tree: Vec<u8>,
    firmware: Vec<File>,
) -> Result<Vec<u8>, Problem> {
    let room = BUNDLE_END - BUNDLE_ADDRESS;
    let bytes = u64::try_from(bundle.len()).unwrap_or(u64::MAX);
    if bytes > room {
        return Err(Problem::new(format!(
            "the bundle has {bytes} bytes; the firmware can load {} below its own memory: \
             make kernels and initrds of the scenario smaller",
            size::show(room)
        )));
    }
    let mut files = firmware;
    for (name, bytes) in [
        ("config.txt", CONFIG.as_bytes().to_vec()),
        (KERNEL, kernel),
        (BUNDLE, bundle),
        (TREE, tree),
    ] {
        files.push((name.to_owned(), bytes));
    }
    write(&files).map_err(|error| Problem::new(format!("the card cannot be made: {error}")))
}

fn write(files: &[File]) -> Result<Vec<u8>, String> {
    let content: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    // FAT tables, directory and the rest of the last cluster of each file.
    let wanted = content + content / 16 + 8 * MIB;
    let partition = wanted.next_multiple_of(MIB).max(LEAST_PARTITION);
    let start = usize::try_from(FIRST_SECTOR).map_err(|_| BOUNDS)? * SECTOR;
    let mut card = vec![0; start + partition];
    let sectors = u32::try_from(partition / SECTOR).map_err(|_| BOUNDS)?;
    write_table(&mut card, sectors)?;
    let space = card.get_mut(start..).ok_or(BOUNDS)?;
    write_files(space, files).map_err(|error| error.to_string())?;
    Ok(card)
}

fn write_table(card: &mut [u8], sectors: u32) -> Result<(), String> {
    let mut disk = Cursor::new(card);
    let sector = u32::try_from(SECTOR).map_err(|_| BOUNDS)?;
    let mut table = MBR::new_from(&mut disk, sector, *b"Penu").map_err(|e| e.to_string())?;
    *table.get_mut(1).ok_or(BOUNDS)? = MBRPartitionEntry {
        boot: BOOT_INACTIVE,
        first_chs: CHS::empty(),
        sys: FAT32_LBA,
        last_chs: CHS::empty(),
        starting_lba: FIRST_SECTOR,
        sectors,
    };
    table.write_into(&mut disk).map_err(|e| e.to_string())
}

fn write_files(space: &mut [u8], files: &[File]) -> std::io::Result<()> {
    let mut disk = Cursor::new(space);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .volume_label(*b"PENUMBRA   ");
    fatfs::format_volume(&mut disk, options)?;
    disk.seek(SeekFrom::Start(0))?;
    let system = FileSystem::new(disk, FsOptions::new())?;
    for (name, bytes) in files {
        let mut file = system.root_dir().create_file(name)?;
        file.write_all(bytes)?;
    }
    system.unmount()
}

/// The boot partition of a card's image.
#[must_use]
pub fn partition(card: &[u8]) -> Option<&[u8]> {
    let mut disk = Cursor::new(card);
    let table = MBR::read_from(&mut disk, u32::try_from(SECTOR).ok()?).ok()?;
    let (_, entry) = table.iter().find(|(_, entry)| entry.sys == FAT32_LBA)?;
    let start = usize::try_from(entry.starting_lba).ok()? * SECTOR;
    let bytes = usize::try_from(entry.sectors).ok()? * SECTOR;
    card.get(start..start.checked_add(bytes)?)
}

/// Reads a file back from a card's image.
///
/// # Errors
/// The image is no card, or has no such file.
pub fn read(card: &[u8], name: &str) -> std::io::Result<Vec<u8>> {
    let space = partition(card).ok_or_else(|| std::io::Error::other("no FAT32 partition"))?;
    // The file system wants to write; a copy it may have.
    let system = FileSystem::new(Cursor::new(space.to_vec()), FsOptions::new())?;
    let mut bytes = Vec::new();
    system.root_dir().open_file(name)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bundle: usize) -> Result<Vec<u8>, Problem> {
        let firmware = vec![("start4.elf".to_owned(), vec![3; 3 * MIB])];
        build(vec![1; 300_001], vec![2; bundle], vec![4; 27_000], firmware)
    }

    #[test]
    fn what_is_on_the_card_is_what_was_put_there() {
        let card = sample(70 * MIB + 1).unwrap();
        assert_eq!(read(&card, KERNEL).unwrap(), vec![1; 300_001]);
        assert_eq!(read(&card, BUNDLE).unwrap(), vec![2; 70 * MIB + 1]);
        assert_eq!(read(&card, TREE).unwrap(), vec![4; 27_000]);
        assert_eq!(read(&card, "start4.elf").unwrap(), vec![3; 3 * MIB]);
        assert_eq!(read(&card, "config.txt").unwrap(), CONFIG.as_bytes());
        assert!(read(&card, "cmdline.txt").is_err());
    }

    #[test]
    fn the_table_is_as_the_firmware_wants_it() {
        let card = sample(100).unwrap();
        assert_eq!(card[510..512], [0x55, 0xaa]);
        let entry = &card[446..462];
        assert_eq!(entry[4], 0x0c);
        assert_eq!(entry[8..12], 2048u32.to_le_bytes());
        let sectors = u32::from_le_bytes(entry[12..16].try_into().unwrap());
        assert_eq!(card.len(), (2048 + usize::try_from(sectors).unwrap()) * 512);
        assert_eq!(card[462..510], [0; 48]);
        assert_eq!(&partition(&card).unwrap()[82..90], b"FAT32   ");
    }

    #[test]
    fn a_bundle_that_the_firmware_cannot_load_is_refused() {
        let problem = build(vec![], vec![0; 833 * MIB], vec![], vec![]).unwrap_err();
        assert!(problem.message.contains("832 MiB below its own memory"));
    }

    #[test]
    fn the_settings_name_the_files_and_the_place() {
        for line in [
            "arm_64bit=1",
            "enable_gic=1",
            "enable_uart=1",
            "kernel=kernel8.img",
            "device_tree=bcm2711-rpi-4-b.dtb",
            "initramfs penumbra.bundle 0x04000000",
        ] {
            assert!(CONFIG.lines().any(|own| own == line), "{line}");
        }
        assert_eq!(BUNDLE_ADDRESS, 0x0400_0000);
    }

    #[test]
    fn firmware_that_is_missing_is_named() {
        let problem = firmware(Path::new("/nonexistent")).unwrap_err();
        assert!(problem.message.contains("/nonexistent/start4.elf"));
    }
}
