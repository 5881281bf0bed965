//! What a scenario says of a guest's translation tables.
//!
//! Encoding: u8 [`PagingMode`], u8 [`PagingChanges`], u64 bytes of table frames, u64 bytes that may be
//! moved each second.

use crate::cursor::Cursor;
use crate::error::{Error, Field};

/// Memory for mirror tables comes in blocks of this size.
pub const PAGING_POOL_UNIT_BYTES: u64 = 2 << 20;
/// Memory for mirror tables of one guest at most, as EL2 takes it.
pub const MAX_PAGING_POOL_BYTES: u64 = 4 * PAGING_POOL_UNIT_BYTES;
/// Bytes that may be moved each second, if the scenario does not say.
pub const DEFAULT_PAGING_COPY_BYTES: u64 = 64 << 20;
/// Bytes that a scenario can allow to be moved each second at most.
pub const MAX_PAGING_COPY_BYTES: u64 = 1 << 30;
const PAGE_BYTES: u64 = 4096;

/// What may stand for a guest's translation tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PagingMode {
    /// Its own tables only.
    #[default]
    Nested,
    /// Everything is mirrored.
    Shadow,
    /// What pays is shadowed.
    Compound,
}

/// When that may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PagingChanges {
    /// At any time.
    #[default]
    Free,
    /// Shortly after the guest's start only.
    Lock,
    /// Never: the guest stays nested, whatever the operator says.
    Never,
}

/// What a scenario says of a guest's translation tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// At the guest's start.
    pub mode: PagingMode,
    /// When it may change.
    pub changes: PagingChanges,
    /// Memory for mirror tables at most, a multiple of [`PAGING_POOL_UNIT_BYTES`].
    pub pool_bytes: u64,
    /// Bytes that may be moved each second, a multiple of 4 KiB; 0: no re-layout.
    pub copy_bytes: u64,
}

impl Default for Paging {
    fn default() -> Self {
        Self {
            mode: PagingMode::default(),
            changes: PagingChanges::default(),
            pool_bytes: PAGING_POOL_UNIT_BYTES,
            copy_bytes: DEFAULT_PAGING_COPY_BYTES,
        }
    }
}

impl Paging {
    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        let mode = match cursor.u8(Field::Paging)? {
            0 => PagingMode::Nested,
            1 => PagingMode::Shadow,
            2 => PagingMode::Compound,
            _ => return Err(Error::ManifestValue(Field::Paging)),
        };
        let changes = match cursor.u8(Field::PagingChanges)? {
            0 => PagingChanges::Free,
            1 => PagingChanges::Lock,
            2 => PagingChanges::Never,
            _ => return Err(Error::ManifestValue(Field::PagingChanges)),
        };
        Ok(Self {
            mode,
            changes,
            pool_bytes: cursor.u64(Field::PagingPool)?,
            copy_bytes: cursor.u64(Field::PagingCopy)?,
        })
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.changes == PagingChanges::Never && self.mode != PagingMode::Nested {
            return Err(Error::ManifestValue(Field::PagingChanges));
        }
        let pool = self.pool_bytes;
        let pool_ok = pool != 0 && pool.is_multiple_of(PAGING_POOL_UNIT_BYTES);
        if !pool_ok || pool > MAX_PAGING_POOL_BYTES {
            return Err(Error::ManifestValue(Field::PagingPool));
        }
        let copy_ok = self.copy_bytes.is_multiple_of(PAGE_BYTES);
        if !copy_ok || self.copy_bytes > MAX_PAGING_COPY_BYTES {
            return Err(Error::ManifestValue(Field::PagingCopy));
        }
        Ok(())
    }

    #[cfg(feature = "std")]
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(match self.mode {
            PagingMode::Nested => 0,
            PagingMode::Shadow => 1,
            PagingMode::Compound => 2,
        });
        out.push(match self.changes {
            PagingChanges::Free => 0,
            PagingChanges::Lock => 1,
            PagingChanges::Never => 2,
        });
        out.extend(self.pool_bytes.to_le_bytes());
        out.extend(self.copy_bytes.to_le_bytes());
    }
}
