//! Descriptors that no sane guest writes, at every level, and accesses through them.

use payload::rt::{fault, fdt, io, layout};

use crate::Part;
use crate::tables::{PAGE_RW, TABLE, WINDOW, entry, flush, other_root, page, root};

/// Addresses for descriptors: our own tables at each level, devices, holes, EL2's image on the board, memory behind
/// ours, where other guests and the manager are, the window's beginning, our root's place in it, where EL2
/// keeps its tables, and beyond 40 bits.
fn places(part: Part) -> [u64; 18] {
    let ram_end = fdt::ram_end() as u64;
    [
        root() as u64,
        page(1) as u64,
        part.round.level2() as u64,
        part.round.level3(5) as u64,
        other_root(part.vcpu) as u64,
        layout::GICD as u64,
        layout::GICC as u64,
        0x0c00_0000,
        0,
        0x4020_0000,
        ram_end,
        ram_end + 0x0800_0000,
        0x7f_ffff_f000,
        WINDOW,
        WINDOW | root() as u64,
        WINDOW | 0x7f_0000_0000,
        0xff_ffff_f000,
        1 << 40 | 0x4000_0000,
    ]
}

/// Puts each place as a table, and as a page where that is one, into an entry of its own at each level, makes
/// it valid for the walkers, and goes through it by loads and, where only tables of ours or nothing can be hit,
/// by stores.
pub(crate) fn descriptors(part: Part) -> u64 {
    let own = part.vcpu;
    let tables = [
        // At the root: entries far from the one that is used.
        (entry(root(), 256 + own), 39, 256 + own, 0),
        (entry(page(1), 490 + own), 30, 490 + own, 0),
        (
            entry(part.round.level2(), 64 + own),
            21,
            64 + own,
            part.round.va(0),
        ),
        (
            entry(part.round.level3(5), 64 + own),
            12,
            64 + own,
            part.round.va(5),
        ),
    ];
    for (number, place) in places(part).into_iter().enumerate() {
        for (at, shift, index, base) in tables {
            let descriptor = place & 0xffff_ffff_f000 | if shift == 12 { PAGE_RW } else { TABLE };
            let old = io::read64(at);
            io::write64(at, descriptor);
            flush();
            let base = if base == 0 { crate::tables::HIGH } else { base };
            // The same index at each level below: loops go round.
            let mut va = base & !((512 << shift) - 1) | index << shift;
            for below in (12..shift).step_by(9) {
                va |= index << below;
            }
            touch(va, number, part.round.spends_root());
            io::write64(at, old);
            flush();
        }
    }
    0
}

/// Loads; and stores where a device is not what may be met. What happens is the guest's own business, but
/// for that it must happen.
fn touch(va: usize, place: usize, spends_root: bool) {
    const ROOT: usize = 0;
    const DEVICES: core::ops::Range<usize> = 5..8;
    /// Where on the board EL2's image is, here is memory of the guest, with its code.
    const IMAGE: usize = 9;
    let _ = fault::probe(|| fault::discard(io::read64(va)));
    if place == ROOT && !spends_root {
        return;
    }
    if !DEVICES.contains(&place) && place != IMAGE {
        let _ = fault::probe(|| io::write64(va + 8, 0));
        let _ = fault::probe(|| io::write32(va + 16, 0));
    }
}
