//! The header of an arm64 Linux Image (Linux, Documentation/arch/arm64/booting.rst, "Call the kernel
//! image"), and what a file is that is none.

use core::fmt;

use crate::hypervisor::Granules;

const MAGIC_OFFSET: usize = 56;
const MAGIC: [u8; 4] = *b"ARM\x64";
const HEADER_BYTES: usize = 64;
const FLAG_BIG_ENDIAN: u64 = 1 << 0;
const PAGE_SIZE_SHIFT: u32 = 1;
/// Images are placed at a 2 MiB boundary plus `text_offset`, which is less than that.
pub const PLACE_ALIGN_BYTES: u64 = 2 << 20;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Offset of the image from a 2 MiB boundary.
    pub text_offset: u64,
    /// Bytes that the kernel occupies from its start, what it clears and uses behind the file included.
    pub image_bytes: u64,
}

/// Why a file cannot be started as a Linux kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnImage {
    /// Shorter than the header.
    Short(usize),
    /// Compressed by gzip.
    Gzip,
    /// An ELF file, as `vmlinux` is.
    Elf,
    /// A compressed EFI image (CONFIG_EFI_ZBOOT).
    Zboot,
    /// An x86 kernel.
    X86,
    /// None of the above, and without the magic number.
    Unknown,
    /// A kernel from before Linux 3.17: it does not say how much memory it needs.
    NoSize,
    /// Big-endian.
    BigEndian,
    /// `text_offset` is not below 2 MiB.
    TextOffset(u64),
    /// The header's size is less than the file's.
    Size {
        /// Bytes by the header.
        header: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// Built for pages that the cores cannot translate.
    Granule(u32),
}

impl fmt::Display for NotAnImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Short(bytes) => {
                write!(
                    f,
                    "is only {bytes} bytes long, too short for an arm64 kernel"
                )
            }
            Self::Gzip => f.write_str("is compressed by gzip; name the unpacked Image"),
            Self::Elf => f.write_str("is an ELF file; name the Image (arch/arm64/boot/Image)"),
            Self::Zboot => f.write_str("is a compressed EFI image; name the unpacked Image"),
            Self::X86 => f.write_str("is an x86 kernel; name one for arm64"),
            Self::Unknown => f.write_str("is not an arm64 kernel: the magic number is missing"),
            Self::NoSize => {
                f.write_str("does not say how much memory it needs (older than Linux 3.17)")
            }
            Self::BigEndian => f.write_str("is built big-endian; name a little-endian kernel"),
            Self::TextOffset(offset) => {
                write!(f, "is damaged: its header has the text offset {offset:#x}")
            }
            Self::Size { header, file } => write!(
                f,
                "is damaged: its header says {header} bytes, but the file has {file}"
            ),
            Self::Granule(kib) => write!(
                f,
                "is built for {kib} KiB pages, which this board's cores cannot translate; \
                 name a kernel for 4 KiB pages"
            ),
        }
    }
}

impl Image {
    /// Reads and checks the header of a kernel file.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn parse(file: &[u8], granules: Granules) -> Result<Self, NotAnImage> {
        let header = file
            .first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| Self::too_short_or_else(file))?;
        if header.get(MAGIC_OFFSET..MAGIC_OFFSET.saturating_add(4)) != Some(MAGIC.as_slice()) {
            return Err(what_it_is(file));
        }
        let text_offset = u64_at(header, 8);
        let image_bytes = u64_at(header, 16);
        let flags = u64_at(header, 24);
        if flags & FLAG_BIG_ENDIAN != 0 {
            return Err(NotAnImage::BigEndian);
        }
        match (flags >> PAGE_SIZE_SHIFT) & 3 {
            2 if !granules.kib16 => return Err(NotAnImage::Granule(16)),
            3 if !granules.kib64 => return Err(NotAnImage::Granule(64)),
            _ => {}
        }
        if image_bytes == 0 {
            return Err(NotAnImage::NoSize);
        }
        if text_offset >= PLACE_ALIGN_BYTES {
            return Err(NotAnImage::TextOffset(text_offset));
        }
        let file_bytes = u64::try_from(file.len()).unwrap_or(u64::MAX);
        if image_bytes < file_bytes {
            return Err(NotAnImage::Size {
                header: image_bytes,
                file: file_bytes,
            });
        }
        Ok(Self {
            text_offset,
            image_bytes,
        })
    }

    fn too_short_or_else(file: &[u8]) -> NotAnImage {
        match what_it_is(file) {
            NotAnImage::Unknown => NotAnImage::Short(file.len()),
            known => known,
        }
    }
}

/// Recognises what people hand in instead of an Image.
fn what_it_is(file: &[u8]) -> NotAnImage {
    if file.starts_with(&[0x1f, 0x8b]) {
        NotAnImage::Gzip
    } else if file.starts_with(b"\x7fELF") {
        NotAnImage::Elf
    } else if file.get(4..8) == Some(b"zimg") {
        NotAnImage::Zboot
    } else if file.get(0x202..0x206) == Some(b"HdrS") {
        NotAnImage::X86
    } else {
        NotAnImage::Unknown
    }
}

fn u64_at(header: &[u8; HEADER_BYTES], offset: usize) -> u64 {
    let field = header.get(offset..).and_then(<[u8]>::first_chunk);
    field.map_or(0, |field| u64::from_le_bytes(*field))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file of `bytes` bytes with the header of a kernel that needs `image_bytes`.
    pub(crate) fn kernel(bytes: usize, image_bytes: u64, text_offset: u64, flags: u64) -> Vec<u8> {
        let mut file = vec![0xee; bytes];
        file[..8].copy_from_slice(b"MZ\0\x91\0\0\0\x14");
        file[8..16].copy_from_slice(&text_offset.to_le_bytes());
        file[16..24].copy_from_slice(&image_bytes.to_le_bytes());
        file[24..32].copy_from_slice(&flags.to_le_bytes());
        file[56..60].copy_from_slice(&MAGIC);
        file
    }

    fn parse(file: &[u8]) -> Result<Image, NotAnImage> {
        Image::parse(file, Granules::default())
    }

    #[test]
    fn debian_kernels_are_taken() {
        let image = parse(&kernel(4096, 8192, 0, 0xa)).unwrap();
        assert_eq!(
            image,
            Image {
                text_offset: 0,
                image_bytes: 8192
            }
        );
        assert_eq!(
            parse(&kernel(4096, 8192, 0x8_0000, 0)).unwrap().text_offset,
            0x8_0000
        );
    }

    #[test]
    fn each_wrong_file_has_its_name() {
        assert_eq!(
            parse(&kernel(4096, 8192, 0, 0xb)),
            Err(NotAnImage::BigEndian)
        );
        assert_eq!(
            parse(&kernel(4096, 8192, 0, 0xc)),
            Err(NotAnImage::Granule(16))
        );
        assert_eq!(
            parse(&kernel(4096, 8192, 0, 0xe)),
            Err(NotAnImage::Granule(64))
        );
        let all = Granules {
            kib16: true,
            kib64: true,
        };
        assert!(Image::parse(&kernel(4096, 8192, 0, 0xc), all).is_ok());
        assert_eq!(parse(&kernel(4096, 0, 0, 0xa)), Err(NotAnImage::NoSize));
        let size = NotAnImage::Size {
            header: 4095,
            file: 4096,
        };
        assert_eq!(parse(&kernel(4096, 4095, 0, 0xa)), Err(size));
        let offset = 2 << 20;
        assert_eq!(
            parse(&kernel(4096, 8192, offset, 0xa)),
            Err(NotAnImage::TextOffset(offset))
        );
        assert_eq!(parse(b""), Err(NotAnImage::Short(0)));
        assert_eq!(parse(b"\x1f\x8b\x08"), Err(NotAnImage::Gzip));
        assert_eq!(parse(b"\x7fELF"), Err(NotAnImage::Elf));
        assert_eq!(parse(&[0; 64]), Err(NotAnImage::Unknown));
        let mut zboot = [0; 64];
        zboot[4..8].copy_from_slice(b"zimg");
        assert_eq!(parse(&zboot), Err(NotAnImage::Zboot));
        let mut bzimage = [0; 0x300];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(parse(&bzimage), Err(NotAnImage::X86));
    }

    #[test]
    fn reasons_are_sentences_about_the_file() {
        for reason in [
            NotAnImage::Gzip,
            NotAnImage::Granule(16),
            NotAnImage::Short(3),
        ] {
            assert!(reason.to_string().starts_with("is "), "{reason}");
        }
    }
}
