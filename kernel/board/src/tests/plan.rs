//! The division of RAM.

use std::vec::Vec;

use super::facts::{BOARDS, Pi, range};
use crate::facts::read;
use crate::plan::{FREE_RANGES, plan};
use crate::ranges::{Range, Ranges};

const LIMIT: u64 = 1 << 39;

fn image() -> Range {
    range(0x20_0000, 0x10_0000)
}

fn tree_at() -> Range {
    range(0x0a00_0000, 0x8000)
}

fn refusal(pi: &Pi, image: Range) -> &'static str {
    let blob = pi.build();
    plan(&read(&blob).unwrap(), image, tree_at(), LIMIT).unwrap_err()
}

#[test]
fn free_memory_is_ram_without_what_is_in_use() {
    let blob = Pi::default().build();
    let facts = read(&blob).unwrap();
    let plan = plan(&facts, image(), tree_at(), LIMIT).unwrap();
    let free: Vec<Range> = plan.free.iter().collect();
    let ends = |base, end| Range { base, end };
    assert_eq!(
        free,
        [
            ends(0x1000, 0x20_0000),
            ends(0x30_0000, 0x0800_0000),
            ends(0x0900_0000, 0x0a00_0000),
            ends(0x0a00_8000, 0x3b40_0000),
            ends(0x4000_0000, 0xc000_0000),
            ends(0x1_0000_0000, 0x1_8000_0000),
        ]
    );
    assert!(!plan.mapped.overlap(image()));
    assert!(free.iter().all(|&range| plan.mapped.contain(range)));
}

#[test]
fn boards_of_one_to_eight_gibibytes() {
    for (memory, bytes) in BOARDS {
        let pi = Pi {
            memory: memory.into(),
            ..Pi::default()
        };
        let blob = pi.build();
        let facts = read(&blob).unwrap();
        assert_eq!(facts.ram.bytes(), bytes);
        let plan = plan(&facts, image(), tree_at(), LIMIT).unwrap();
        // The VideoCore's part, and the peripherals.
        for hole in [
            range(0x3b40_0000, 0x4c0_0000),
            range(0xfc00_0000, 0x400_0000),
        ] {
            assert!(!plan.mapped.overlap(hole) && !plan.free.overlap(hole));
        }
        let used = 0x1000 + image().bytes() + tree_at().bytes() + 0x100_0000;
        assert_eq!(plan.free.bytes(), bytes - used);
        assert_eq!(plan.mapped.bytes(), bytes - 0x1000 - image().bytes());
        let last = plan.free.iter().map(|range| range.end).max();
        let end = match bytes >> 30 {
            0 => 0x3b40_0000,
            1 => 0x8000_0000,
            3 => 0xfc00_0000,
            _ => 0x2_0000_0000,
        };
        assert_eq!(last, Some(end));
    }
}

#[test]
fn memory_that_is_reserved_is_not_free_and_not_mapped() {
    let pi = Pi {
        memory: [0, 0, 0x4000_0000].into(),
        ..Pi::default()
    };
    let blob = pi.build();
    let plan = plan(&read(&blob).unwrap(), image(), tree_at(), LIMIT).unwrap();
    let reserved = range(0x3ef0_0000, 0x1000);
    assert!(!plan.free.overlap(reserved) && !plan.mapped.overlap(reserved));
}

#[test]
fn what_lies_where_it_may_not_is_said() {
    let pi = Pi::default;
    assert!(refusal(&pi(), range(0x3c00_0000, 0x1000)).contains("image lies outside the RAM"));
    let low = range(0, 0x1000);
    assert!(refusal(&pi(), low).contains("image lies in memory that the device tree reserves"));
    let with = |initrd| Pi { initrd, ..pi() };
    assert!(refusal(&with((0x3c00_0000, 0x3d00_0000)), image()).contains("outside the RAM"));
    assert!(refusal(&with((0x28_0000, 0x40_0000)), image()).contains("overlaps the image"));
    assert!(refusal(&with((0x0a00_4000, 0x0b00_0000)), image()).contains("overlaps the image or"));
    let over = Pi {
        memory: [0, 0, 0x4000_0000].into(),
        initrd: (0x3e00_0000, 0x3f00_0000),
        ..pi()
    };
    assert!(
        refusal(&over, image())
            .contains("bundle (initrd) lies in memory that the device tree reserves")
    );
}

#[test]
fn memory_beyond_the_map_is_left_alone() {
    let blob = Pi::default().build();
    let facts = read(&blob).unwrap();
    let plan = plan(&facts, image(), tree_at(), 0x8000_0000).unwrap();
    assert!(plan.free.iter().all(|range| range.end <= 0x8000_0000));
}

#[test]
fn the_smallest_pieces_are_left_out() {
    let mut ranges = Ranges::<16>::new();
    ranges.push(range(0, 0x100_0000)).unwrap();
    for n in 1..10u64 {
        let hole = range(n * 0x10_0000 - 0x1000 * n, 0x1000);
        ranges.remove(hole).unwrap();
    }
    assert_eq!(ranges.iter().count(), 10);
    let kept = crate::plan::largest(&ranges);
    assert_eq!(kept.iter().count(), FREE_RANGES);
    let least = kept.iter().map(Range::bytes).min().unwrap();
    let left_out = ranges.iter().filter(|&range| !kept.contain(range));
    assert!(left_out.into_iter().all(|range| range.bytes() <= least));
}

#[test]
fn a_hole_cuts_as_it_lies() {
    let cut = |base, end| {
        let mut ranges = Ranges::<4>::new();
        ranges.push(Range { base: 10, end: 20 }).unwrap();
        ranges.remove(Range { base, end }).unwrap();
        ranges.iter().map(|r| (r.base, r.end)).collect::<Vec<_>>()
    };
    assert_eq!(cut(0, 10), [(10, 20)]);
    assert_eq!(cut(20, 30), [(10, 20)]);
    assert_eq!(cut(0, 15), [(15, 20)]);
    assert_eq!(cut(15, 30), [(10, 15)]);
    assert_eq!(cut(12, 14), [(10, 12), (14, 20)]);
    assert_eq!(cut(0, 30), []);
}
