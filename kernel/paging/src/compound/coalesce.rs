//! When one leaf may stand for many.
//!
//! Merging is safe towards the guest's own TLB maintenance, which then clears more than it asked for;
//! splitting a guest's block never is, so nothing here makes a leaf smaller.

use penumbra_vmsa::{
    CONTIGUOUS_ENTRIES, Ipa, Level, Pa, Stage1Desc, TABLE_ENTRIES, TableLimits, bits,
};

use super::IGNORED;
use crate::memory::{TableMemory, entry};

/// The leaf, for the table above, that translates as all 512 descriptors of the guest table at
/// `table`, of `level`, do under the limits of the table descriptor that leads to it.
pub(super) fn leaf_for<M: TableMemory + ?Sized>(
    memory: &M,
    table: Pa,
    level: Level,
    limits: TableLimits,
) -> Option<u64> {
    let above = level.above().filter(|above| above.has_leaves())?;
    let first = memory.load(table) & !(bits::CONTIGUOUS | IGNORED);
    if !starts_run(level, first, above.entry_bytes()) {
        return None;
    }
    let differ = memory.differences(table, TABLE_ENTRIES, first, level.entry_bytes());
    if differ & !(bits::CONTIGUOUS | IGNORED) != 0 {
        return None;
    }
    let Stage1Desc::Leaf { ipa, .. } = Stage1Desc::decode(level, first) else {
        return None;
    };
    as_block(level, first, ipa, limits)
}

/// The leaf of the level above `level` that maps `ipa` as the leaf `raw` would under `limits`.
pub(super) fn as_block(level: Level, raw: u64, ipa: Ipa, limits: TableLimits) -> Option<u64> {
    let above = level.above()?;
    let Stage1Desc::Leaf { mut attrs, .. } = Stage1Desc::decode(level, raw & !IGNORED) else {
        return None;
    };
    attrs.user &= !limits.no_user;
    attrs.read_only |= limits.read_only;
    attrs.pxn |= limits.pxn;
    attrs.uxn |= limits.uxn;
    Some(
        Stage1Desc::Leaf {
            ipa,
            attrs,
            contiguous: false,
        }
        .encode(above),
    )
}

/// Whether a descriptor may be the first of leaves that together cover `bytes`: a leaf that may be
/// cached, on an output address aligned to them.
fn starts_run(level: Level, raw: u64, bytes: u64) -> bool {
    bits::kind(level, raw) == bits::Kind::Leaf
        && raw & bits::AF != 0
        && raw & bits::leaf_address(level) & bytes.wrapping_sub(1) == 0
}

/// Gives the contiguous hint to each run of 16 leaves of a mirror that the guest has lined up: pages as
/// 64 KiB, blocks of level 2 as 32 MiB.
/// Nothing walks the mirror yet, and `may` has to agree. Returns the number of runs.
pub(super) fn mark_runs<M: TableMemory + ?Sized>(
    memory: &mut M,
    mirror: Pa,
    level: Level,
    may: impl Fn(u64) -> bool,
) -> u32 {
    let mut runs: u32 = 0;
    let mut at = 0;
    while at < TABLE_ENTRIES {
        if may(memory.load(entry(mirror, at))) && mark_run(memory, mirror, level, at) {
            runs = runs.saturating_add(1);
        }
        at = at.saturating_add(CONTIGUOUS_ENTRIES);
    }
    runs
}

/// Whether the 16 entries from `at` on are leaves that follow each other, all of them with this contiguous bit.
pub(super) fn are_a_run<M: TableMemory + ?Sized>(
    memory: &M,
    mirror: Pa,
    level: Level,
    at: u64,
    hint: u64,
) -> bool {
    let first = memory.load(entry(mirror, at)) & !IGNORED;
    let bytes = CONTIGUOUS_ENTRIES << level.shift();
    if first & bits::CONTIGUOUS != hint || !starts_run(level, first, bytes) {
        return false;
    }
    (1..CONTIGUOUS_ENTRIES).all(|index| {
        let raw = memory.load(entry(mirror, at | index)) & !IGNORED;
        raw == first.wrapping_add(index << level.shift())
    })
}

fn mark_run<M: TableMemory + ?Sized>(memory: &mut M, mirror: Pa, level: Level, at: u64) -> bool {
    if !are_a_run(memory, mirror, level, at, 0) {
        return false;
    }
    for index in 0..CONTIGUOUS_ENTRIES {
        let slot = entry(mirror, at | index);
        let raw = memory.load(slot);
        memory.store(slot, raw | bits::CONTIGUOUS);
    }
    true
}
