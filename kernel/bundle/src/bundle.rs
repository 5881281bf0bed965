//! The container: header, part table and digests.

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::manifest::Manifest;

/// What a bundle starts with.
pub const MAGIC: [u8; 8] = *b"PENUMBRA";
/// Version of the format that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 5;
/// Parts at most.
pub const MAX_PARTS: u32 = 64;
/// Alignment of parts in the bundle.
pub const PART_ALIGN_BYTES: u64 = 4096;
/// Bytes that are digested between two signs of life: a fraction of a second on the slowest core.
const DIGEST_STEP_BYTES: usize = 1 << 20;

pub(crate) const HEADER_BYTES: usize = 64;
/// Header bytes that the table's digest covers.
pub(crate) const HEADER_DIGESTED_BYTES: usize = 32;
pub(crate) const ENTRY_BYTES: usize = 64;

/// What a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PartKind {
    /// The compiled scenario.
    Manifest = 1,
    /// What a guest starts with: an arm64 Linux Image or a flat binary.
    Kernel = 2,
    /// An initial RAM disk.
    Initrd = 3,
}

impl PartKind {
    const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            1 => Some(Self::Manifest),
            2 => Some(Self::Kernel),
            3 => Some(Self::Initrd),
            _ => None,
        }
    }
}

/// One part of a bundle: within bounds, digest not checked yet.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    index: u32,
    kind: PartKind,
    bytes: &'a [u8],
    digest: [u8; 32],
}

impl<'a> Part<'a> {
    /// What the part holds.
    #[must_use]
    pub const fn kind(&self) -> PartKind {
        self.kind
    }

    /// Bytes of the part.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the part is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The content, after its digest was computed and found right. Reads the whole part.
    ///
    /// # Errors
    /// [`Error::PartDigest`].
    pub fn verified(&self) -> Result<&'a [u8], Error> {
        self.verified_with(|| {})
    }

    /// As [`Self::verified`]; `pulse` is called for each MiB, for whoever must show
    /// that it is alive.
    ///
    /// # Errors
    /// [`Error::PartDigest`].
    pub fn verified_with(&self, mut pulse: impl FnMut()) -> Result<&'a [u8], Error> {
        let mut hasher = Sha256::new();
        for step in self.bytes.chunks(DIGEST_STEP_BYTES) {
            hasher.update(step);
            pulse();
        }
        if hasher.finalize().as_slice() == self.digest.as_slice() {
            Ok(self.bytes)
        } else {
            Err(Error::PartDigest(self.index))
        }
    }
}

/// A bundle whose header and part table are whole.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    bytes: &'a [u8],
    table: &'a [u8],
    count: u32,
}

impl<'a> Bundle<'a> {
    /// Checks header and part table: magic, version, bounds, order and the table's digest. The bytes
    /// may go on behind the bundle (a boot loader's padding).
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let have = as_u64(bytes.len());
        if bytes.get(..MAGIC.len()) != Some(MAGIC.as_slice()) {
            return Err(Error::NotABundle);
        }
        let short = Error::Truncated {
            have,
            need: as_u64(HEADER_BYTES),
        };
        let (header, behind) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
        let version = u32_at(header, 8);
        if version != FORMAT_VERSION {
            return Err(Error::Version(version));
        }
        let count = u32_at(header, 12);
        if count == 0 || count > MAX_PARTS {
            return Err(Error::PartCount(count));
        }
        let table_bytes = as_usize(u64::from(count)).saturating_mul(ENTRY_BYTES);
        let total = u64_at(header, 16);
        let need = total.max(as_u64(HEADER_BYTES.saturating_add(table_bytes)));
        if have < need {
            return Err(Error::Truncated { have, need });
        }
        let short = Error::Truncated { have, need };
        let table = behind.get(..table_bytes).ok_or(short)?;
        let mut hasher = Sha256::new();
        hasher.update(header.get(..HEADER_DIGESTED_BYTES).unwrap_or_default());
        hasher.update(table);
        if Some(hasher.finalize().as_slice()) != header.get(HEADER_DIGESTED_BYTES..) {
            return Err(Error::TableDigest);
        }
        if u64_at(header, 24) != 0 {
            return Err(Error::HeaderReserved);
        }
        let bytes = bytes.get(..as_usize(total)).ok_or(short)?;
        let bundle = Self {
            bytes,
            table,
            count,
        };
        bundle.check_parts()?;
        Ok(bundle)
    }

    /// Number of parts.
    #[must_use]
    pub const fn part_count(&self) -> u32 {
        self.count
    }

    /// A part, its digest unchecked.
    ///
    /// # Errors
    /// [`Error::NoSuchPart`].
    pub fn part(&self, index: u32) -> Result<Part<'a>, Error> {
        let (start, entry) = self.entry(index)?;
        let kind = u32_at(entry, 0);
        let len = u64_at(entry, 16);
        let bounds = Error::PartBounds(index);
        let end = start.checked_add(len).ok_or(bounds)?;
        let mut digest = [0; 32];
        digest.copy_from_slice(entry.last_chunk::<32>().map_or(&[0; 32], |d| d));
        Ok(Part {
            index,
            kind: PartKind::from_bits(kind).ok_or(Error::PartKind { part: index, kind })?,
            bytes: self
                .bytes
                .get(as_usize(start)..as_usize(end))
                .ok_or(bounds)?,
            digest,
        })
    }

    /// The manifest, its digest checked and every field of it in range.
    ///
    /// # Errors
    /// [`Error::PartDigest`] or what is wrong in the manifest.
    pub fn manifest(&self) -> Result<Manifest<'a>, Error> {
        Manifest::parse(self.part(0)?.verified()?, self)
    }

    /// Offset and table entry of a part.
    fn entry(&self, index: u32) -> Result<(u64, &'a [u8; ENTRY_BYTES]), Error> {
        let (entries, _) = self.table.as_chunks::<ENTRY_BYTES>();
        let entry = entries
            .get(as_usize(u64::from(index)))
            .ok_or(Error::NoSuchPart(index))?;
        Ok((u64_at(entry, 8), entry))
    }

    /// Checks order, bounds and kinds of all parts.
    fn check_parts(&self) -> Result<(), Error> {
        let mut free = as_u64(HEADER_BYTES.saturating_add(self.table.len()));
        for index in 0..self.count {
            let (start, entry) = self.entry(index)?;
            if u32_at(entry, 4) != 0 || u64_at(entry, 24) != 0 {
                return Err(Error::PartReserved(index));
            }
            if start < free || !start.is_multiple_of(PART_ALIGN_BYTES) {
                return Err(Error::PartOffset(index));
            }
            let part = self.part(index)?;
            if (part.kind == PartKind::Manifest) != (index == 0) {
                return Err(Error::ManifestPlace);
            }
            free = start.saturating_add(as_u64(part.len()));
        }
        Ok(())
    }
}

fn u32_at<const N: usize>(bytes: &[u8; N], offset: usize) -> u32 {
    let field = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

fn u64_at<const N: usize>(bytes: &[u8; N], offset: usize) -> u64 {
    let field = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    field.map_or(0, |field| u64::from_le_bytes(*field))
}

/// A length as 64 bits; `usize` is never wider on what we build for.
pub(crate) fn as_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A value as an index; one too large for `usize` is out of every slice's range anyway.
pub(crate) fn as_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
