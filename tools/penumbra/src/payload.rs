//! Checks of payload files before they go into a bundle.
//!
//! A guest's kernel is an arm64 *Image*: the header that Linux describes in
//! `Documentation/arch/arm64/booting.rst`, "Call the kernel image". Everything that people give by
//! mistake instead (a compressed kernel, a kernel of another architecture, an ELF file) is named.

/// Bytes of the arm64 Image header.
pub const HEADER_BYTES: usize = 64;
/// The magic number at offset 56 of an arm64 Image.
const IMAGE_MAGIC: &[u8] = b"ARM\x64";

/// What the header of an arm64 Image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// Distance of the image from a 2 MiB aligned base.
    pub text_offset: u64,
    /// Bytes of memory that the image takes, its zeroed data included.
    pub image_size: u64,
}

/// Why a file cannot be a guest's kernel, as the end of a sentence.
type Why = String;

/// Checks a kernel.
///
/// # Errors
/// The end of a sentence that began with the file's name.
pub fn kernel(file: &[u8]) -> Result<ImageHeader, Why> {
    if file.is_empty() {
        return Err("is empty".into());
    }
    if slice(file, 56, 4) != Some(IMAGE_MAGIC) {
        return Err(what_it_is(file));
    }
    let (Some(text_offset), Some(image_size), Some(flags)) =
        (word(file, 8), word(file, 16), word(file, 24))
    else {
        return Err("ends within the header of an arm64 Image".into());
    };
    if file.len() < HEADER_BYTES {
        return Err("ends within the header of an arm64 Image".into());
    }
    if flags & 1 != 0 {
        return Err("is a big-endian arm64 kernel; Penumbra's guests are little-endian".into());
    }
    if image_size == 0 {
        return Err(
            "is an arm64 Image from before Linux 3.17, which does not say how much memory it needs"
                .into(),
        );
    }
    let bytes = u64::try_from(file.len()).unwrap_or(u64::MAX);
    if image_size > 1 << 32 {
        return Err("has an arm64 Image header with an impossible size".into());
    }
    if text_offset >= 2 << 20 || !text_offset.is_multiple_of(4096) {
        return Err("has an arm64 Image header with an impossible text_offset".into());
    }
    // Linux pads neither the file nor image_size; the file never exceeds what it says it takes.
    if bytes > image_size {
        return Err("is longer than its arm64 Image header says: it is damaged".into());
    }
    if let Some(whole) = pe_bytes(file).filter(|&whole| bytes < whole) {
        return Err(format!(
            "is cut short: it has {bytes} bytes of at least {whole}; fetch or copy it again"
        ));
    }
    Ok(ImageHeader {
        text_offset,
        image_size,
    })
}

/// Where the last section of a kernel with an EFI stub ends in its file; `None` for a kernel without. The Image header says
/// only what memory it takes (Microsoft PE Format, "COFF File Header" and "Section Table (Section Headers)").
fn pe_bytes(file: &[u8]) -> Option<u64> {
    const HEADER: usize = 24;
    const SECTION: usize = 40;
    let at = usize::try_from(number(file, 0x3c, 4)?).ok()?;
    if !file.starts_with(b"MZ") || slice(file, at, 4)? != b"PE\0\0" {
        return None;
    }
    let sections = usize::try_from(number(file, at.checked_add(6)?, 2)?).ok()?;
    let optional = usize::try_from(number(file, at.checked_add(20)?, 2)?).ok()?;
    let table = at.checked_add(HEADER + optional)?;
    let ends = (0..sections).map_while(|section| {
        let entry = table.checked_add(SECTION * section)?;
        let size = number(file, entry.checked_add(16)?, 4)?;
        Some(size + number(file, entry.checked_add(20)?, 4)?)
    });
    ends.max()
}

/// Checks an initial RAM file system.
///
/// # Errors
/// The end of a sentence that began with the file's name.
pub fn initrd(file: &[u8]) -> Result<(), Why> {
    const KNOWN: [&[u8]; 9] = [
        b"070701",
        b"070702",
        b"\x1f\x8b",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"\x02\x21\x4c\x18",
        b"BZh",
        b"\x5d\0\0",
        b"\x89LZO",
    ];
    if file.is_empty() {
        return Err("is empty".into());
    }
    if KNOWN.iter().any(|magic| file.starts_with(magic)) {
        return Ok(());
    }
    Err("is no initramfs: neither a newc cpio archive nor one that gzip, xz, zstd, lz4, bzip2, lzma or lzo made".into())
}

/// Names a file that is not an arm64 Image.
fn what_it_is(file: &[u8]) -> Why {
    let elf_machine = || match slice(file, 18, 2) {
        Some([0xb7, 0]) => {
            "an arm64 ELF file; Penumbra needs the flat Image (objcopy -O binary vmlinux Image)"
        }
        Some([0x3e, 0]) => "an x86-64 ELF file, not an arm64 Image",
        Some([0x28, 0]) => "a 32-bit Arm ELF file, not an arm64 Image",
        _ => "an ELF file of another architecture, not an arm64 Image",
    };
    let name = match file {
        _ if file.starts_with(b"\x1f\x8b") => {
            "compressed with gzip; unpack it first: gunzip < FILE > Image"
        }
        _ if slice(file, 4, 4) == Some(b"zimg") => {
            "an EFI zboot kernel, which only EFI firmware can unpack; use the kernel's plain Image"
        }
        _ if slice(file, 0x202, 4) == Some(b"HdrS") => {
            "an x86 kernel (bzImage), not an arm64 Image"
        }
        _ if slice(file, 0x24, 4) == Some(&[0x18, 0x28, 0x6f, 0x01]) => {
            "a 32-bit Arm kernel (zImage), not an arm64 Image"
        }
        _ if file.starts_with(b"\x7fELF") => elf_machine(),
        _ if file.starts_with(b"\xfd7zXZ\0") => "compressed with xz; unpack it first",
        _ if file.starts_with(b"\x28\xb5\x2f\xfd") => "compressed with zstd; unpack it first",
        _ if file.starts_with(b"\x27\x05\x19\x56") => "a U-Boot uImage, not an arm64 Image",
        _ if file.starts_with(b"\xd0\x0d\xfe\xed") => {
            "a device tree or FIT image, not an arm64 Image"
        }
        _ if file.starts_with(b"PENUMBRA") => "a Penumbra bundle, not an arm64 Image",
        _ if file.starts_with(b"!<arch>") => "a package or archive, not an arm64 Image",
        _ if file.len() < HEADER_BYTES => return "is too short to be an arm64 Image".into(),
        _ => return "is not an arm64 Image (no \"ARM\\x64\" at byte 56)".into(),
    };
    format!("is {name}")
}

fn slice(file: &[u8], offset: usize, bytes: usize) -> Option<&[u8]> {
    file.get(offset..offset.checked_add(bytes)?)
}

fn word(file: &[u8], offset: usize) -> Option<u64> {
    number(file, offset, 8)
}

/// A little-endian number of up to 8 bytes.
fn number(file: &[u8], offset: usize, bytes: usize) -> Option<u64> {
    let bytes = slice(file, offset, bytes)?.iter().rev();
    Some(bytes.fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text_offset: u64, image_size: u64, flags: u64, bytes: usize) -> Vec<u8> {
        let mut file = vec![0; bytes.max(HEADER_BYTES)];
        file[8..16].copy_from_slice(&text_offset.to_le_bytes());
        file[16..24].copy_from_slice(&image_size.to_le_bytes());
        file[24..32].copy_from_slice(&flags.to_le_bytes());
        file[56..60].copy_from_slice(IMAGE_MAGIC);
        file
    }

    fn with(magic: &[u8], at: usize) -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[at..at + magic.len()].copy_from_slice(magic);
        file
    }

    #[test]
    fn an_image_is_taken() {
        assert_eq!(
            kernel(&image(0, 0x10_0000, 0xa, 4096)),
            Ok(ImageHeader {
                text_offset: 0,
                image_size: 0x10_0000
            })
        );
        assert!(kernel(&image(0x8_0000, 64, 0, 64)).is_ok());
    }

    #[test]
    fn what_is_no_arm64_image_is_named() {
        let mut arm64_elf = with(b"\x7fELF", 0);
        arm64_elf[18] = 0xb7;
        let mut x86_elf = with(b"\x7fELF", 0);
        x86_elf[18] = 0x3e;
        for (file, part) in [
            (vec![], "is empty"),
            (vec![1, 2, 3], "too short"),
            (vec![0; 4096], "is not an arm64 Image"),
            (with(b"\x1f\x8b", 0), "gzip"),
            (with(b"MZ\0\0zimg", 0), "zboot"),
            (with(b"HdrS", 0x202), "x86 kernel"),
            (with(&[0x18, 0x28, 0x6f, 0x01], 0x24), "32-bit Arm kernel"),
            (arm64_elf, "flat Image"),
            (x86_elf, "x86-64 ELF"),
            (with(b"\x7fELF", 0), "another architecture"),
            (with(b"\x28\xb5\x2f\xfd", 0), "zstd"),
            (with(b"\x27\x05\x19\x56", 0), "uImage"),
            (with(b"PENUMBRA", 0), "bundle"),
            (image(0, 4096, 1, 64), "big-endian"),
            (image(0, 0, 0, 64), "before Linux 3.17"),
            (image(0, 1 << 40, 0, 64), "impossible size"),
            (image(3 << 20, 4096, 0, 64), "impossible text_offset"),
            (image(0, 4096, 0, 8192), "damaged"),
            (
                image(0, 4096, 0, 64)[..60].to_vec(),
                "ends within the header",
            ),
        ] {
            let why = kernel(&file).unwrap_err();
            assert!(why.contains(part), "{why:?} should contain {part:?}");
        }
    }

    /// As the kernels with an EFI stub are: two sections, the second up to byte 0x3000 of the file.
    #[test]
    fn a_kernel_that_is_cut_short_is_refused() {
        let mut file = image(0, 0x10_0000, 0, 0x3000);
        file[..2].copy_from_slice(b"MZ");
        file[0x3c] = 0x40;
        file[0x40..0x44].copy_from_slice(b"PE\0\0");
        file[0x46] = 2;
        file[0x54] = 0xa0;
        let table = 0x40 + 24 + 0xa0;
        for (section, (size, start)) in [(0x1000_u32, 0x1000_u32), (0x1000, 0x2000)]
            .into_iter()
            .enumerate()
        {
            let entry = table + 40 * section;
            file[entry + 16..entry + 20].copy_from_slice(&size.to_le_bytes());
            file[entry + 20..entry + 24].copy_from_slice(&start.to_le_bytes());
        }
        assert!(kernel(&file).is_ok());
        file.push(0);
        assert!(kernel(&file).is_ok(), "a signature may follow");
        for keep in [0x2fff, 0x2000, table + 80] {
            let why = kernel(&file[..keep]).unwrap_err();
            assert!(why.contains("at least 12288"), "{why}");
        }
        // A table that is not whole says nothing, but must not be trusted either.
        for keep in HEADER_BYTES..table + 80 {
            let _ = kernel(&file[..keep]);
        }
    }

    #[test]
    fn an_initrd_is_an_archive() {
        assert_eq!(initrd(b"070701..."), Ok(()));
        assert_eq!(initrd(b"\x1f\x8b\x08"), Ok(()));
        assert!(initrd(b"").unwrap_err().contains("empty"));
        assert!(initrd(b"hello world").unwrap_err().contains("no initramfs"));
    }
}
