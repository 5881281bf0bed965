//! How RAM is divided: what EL2 maps, and what may belong to a VM.

use penumbra_vmsa::PAGE_SIZE;

use crate::facts::Facts;
use crate::ranges::{Range, Ranges};

/// Pieces of RAM that VMs may get, at most; `penumbra_core::system::MAX_RAM_RANGES`.
pub const FREE_RANGES: usize = 8;

/// The division of RAM, in whole pages.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPlan {
    /// What EL2 maps besides its image: no reserved memory, not the bundle.
    pub mapped: Ranges<16>,
    /// What may belong to a VM: mapped, and neither device tree nor bundle. Where it is in more than
    /// [`FREE_RANGES`] pieces, the largest.
    pub free: Ranges<FREE_RANGES>,
}

/// Divides RAM. `image` and `tree` are where EL2's image and the device tree lie; EL2 can map what
/// lies below `limit`.
///
/// # Errors
/// A sentence that says what lies where it may not.
pub fn plan(
    facts: &Facts<'_>,
    image: Range,
    tree: Range,
    limit: u64,
) -> Result<MemoryPlan, &'static str> {
    const TOO_MANY: &str = "RAM is in too many pieces";
    if !facts.ram.contain(image) {
        return Err("the image lies outside the RAM that the device tree describes");
    }
    if facts.reserved.overlap(image) {
        return Err("the image lies in memory that the device tree reserves");
    }
    if let Some(bundle) = facts.bundle {
        check_bundle(facts, bundle, image, tree)?;
    }
    let mut mapped = Ranges::<16>::new();
    for ram in facts.ram.iter() {
        // Page 0 is never used: a null pointer must fault.
        let usable = Range {
            base: ram.base.max(PAGE_SIZE),
            end: ram.end.min(limit),
        };
        if let Some(pages) = usable.pages_within() {
            mapped.push(pages).map_err(|_| TOO_MANY)?;
        }
    }
    for hole in facts.reserved.iter().chain([image]) {
        mapped.remove(hole.pages_around()).map_err(|_| TOO_MANY)?;
    }
    let mut pieces = mapped;
    for hole in facts.bundle.into_iter().chain([tree]) {
        pieces.remove(hole.pages_around()).map_err(|_| TOO_MANY)?;
    }
    Ok(MemoryPlan {
        mapped,
        free: largest(&pieces),
    })
}

fn check_bundle(
    facts: &Facts<'_>,
    bundle: Range,
    image: Range,
    tree: Range,
) -> Result<(), &'static str> {
    if !facts.ram.contain(bundle) {
        return Err("the bundle (initrd) lies outside the RAM that the device tree describes");
    }
    if bundle.overlaps(image) || bundle.overlaps(tree) {
        return Err("the bundle (initrd) overlaps the image or the device tree");
    }
    // A boot loader may reserve the bundle itself; anything else that is reserved is not its place.
    let foreign =
        |range: &Range| range.overlaps(bundle) && range.pages_around() != bundle.pages_around();
    if facts.reserved.iter().any(|range| foreign(&range)) {
        return Err("the bundle (initrd) lies in memory that the device tree reserves");
    }
    Ok(())
}

/// The largest pieces, in their order.
pub(crate) fn largest(pieces: &Ranges<16>) -> Ranges<FREE_RANGES> {
    let larger = |piece: Range| {
        let others = pieces
            .iter()
            .filter(|other| (other.bytes(), other.base) > (piece.bytes(), piece.base));
        others.count()
    };
    let mut kept = Ranges::new();
    for piece in pieces.iter().filter(|&piece| larger(piece) < FREE_RANGES) {
        // At most FREE_RANGES pieces have fewer than FREE_RANGES larger ones.
        let _ = kept.push(piece);
    }
    kept
}
