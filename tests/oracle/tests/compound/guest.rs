//! A guest: what its tables hold after boot, and what it may do to them.

use penumbra_oracle::compound::{Handle, LOWS, RAM_IPA, REGIONS, VCPUS, World};
use penumbra_vmsa::{Level, PAGE_SIZE, bits};
use proptest::prelude::*;

/// Guest table pages: three tables of level 1, four of level 2, eight of level 3, three of level 0.
pub(crate) const PAGES: usize = 18;
/// The tables of level 0: roots where VAs have 48 bits.
pub(crate) const TOPS: usize = 15;
pub(crate) const ROOTS: usize = 3;
/// Pages of each context that are looked at.
pub(crate) const PROBES: usize = REGIONS * LOWS;
pub(crate) const INDICES: [u64; 9] = [0, 1, 2, 7, 15, 16, 17, 31, 511];

/// Where a table page is: all but one are by themselves, that one is among pages that may be donors.
pub(crate) fn page(which: usize) -> u64 {
    RAM_IPA
        + match which {
            13 => (24 << 20) + 77 * PAGE_SIZE,
            _ => (2 << 20) + which as u64 * 0x3000,
        }
}

pub(crate) fn level_of(which: usize) -> Level {
    match which {
        0..3 => Level::L1,
        3..7 => Level::L2,
        7..TOPS => Level::L3,
        _ => Level::L0,
    }
}

/// Regions of the booted guest: context, VA, page of the table.
pub(crate) const TARGETS: [(usize, u64, usize); 4] = [
    (2, 1 << 21, 12),
    (0, (1 << 30) | (7 << 21), 14),
    (0, 1 << 21, 8),
    (2, 1 << 21, 6),
];

/// What a guest writes into a table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    Zero,
    Junk,
    Table { to: usize, limits: u8 },
    Leaf { out: u8, attrs: u16 },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// One store; `decodable` stores are emulated, others demote. Where the guest has to break
    /// before it makes, it flushes all or, if `precise`, what the entry translates.
    Store {
        page: usize,
        index: usize,
        value: Value,
        how: How,
    },
    /// A table full of leaves in a row.
    Fill {
        page: usize,
        out: u8,
        attrs: u16,
    },
    /// Sixteen leaves in a row.
    FillRun {
        page: usize,
        run: u8,
        out: u8,
        attrs: u16,
    },
    /// On all vCPUs, or on one.
    Tlbi {
        kind: u8,
        probe: usize,
        asid: u16,
        vcpu: Option<usize>,
    },
    /// A vCPU gets the compound root, one is made if there is none.
    Plant {
        vcpu: usize,
        context: usize,
    },
    /// A vCPU flushes and installs the guest's own root.
    Raw {
        vcpu: usize,
        context: usize,
    },
    /// While the next operation works, another vCPU fills an empty slot.
    Race {
        page: usize,
        index: usize,
        out: u8,
        after: u32,
    },
    Shadow {
        context: usize,
        probe: usize,
        level: u8,
    },
    DemotePage {
        page: usize,
    },
    /// Gives up the table of a level around a page.
    DemoteAt {
        context: usize,
        probe: usize,
        level: u8,
    },
    /// Gives up everything.
    Nest,
    /// Gives back so many tables that were given up, all vCPUs running.
    GiveBack {
        tables: u32,
    },
    Evict,
    Drop {
        context: usize,
    },
    Revive {
        context: usize,
    },
    Survey {
        context: usize,
    },
    /// Shadows a region of the booted guest and, if it still can, begins to re-lay it out; `anew` behind the guest has
    /// filled it again as after boot.
    Relayout {
        user: bool,
        partner: u8,
        anew: bool,
    },
    /// Shadows a region of the booted guest and stores to its table.
    Aim {
        target: usize,
        index: usize,
        value: Value,
        how: How,
    },
    /// An entry of the user's region that may be re-laid out shows the page that another one shows.
    Twice {
        index: usize,
        other: usize,
        how: How,
    },
    /// Pages to move, in eighths of the region, and where the walkers look on, in eighths of those.
    Move {
        eighths: u8,
        look: u8,
    },
    /// A space ends, and another one begins at once, while a vCPU links a table into an empty slot of its root.
    Anew {
        context: usize,
        index: usize,
        to: usize,
        after: u32,
    },
    /// Pages to bring home again, from a region on; then the region may merge.
    Home {
        region: u8,
        pages: u8,
    },
    /// All pages that are not there yet come, at the guest's touch.
    Touch,
    /// Samples walks or writes of a region.
    Sample {
        context: usize,
        probe: usize,
        writes: bool,
    },
    EndSamples,
    /// One leaf for 1 GiB of the booted guest, if it still can.
    Raise {
        vcpu: usize,
    },
}

/// How a guest stores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) decodable: bool,
    pub(crate) soften: bool,
    pub(crate) precise: bool,
}

pub(crate) fn how() -> impl Strategy<Value = How> {
    (prop::bool::weighted(0.9), any::<bool>(), any::<bool>()).prop_map(
        |(decodable, soften, precise)| How {
            decodable,
            soften,
            precise,
        },
    )
}

pub(crate) fn attrs() -> impl Strategy<Value = u16> {
    // Mostly plain, so that tables line up now and then.
    prop_oneof![3 => Just(0), 1 => Just(1), 2 => 0..2048_u16]
}

pub(crate) fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Zero),
        1 => Just(Value::Junk),
        3 => (0..PAGES, 0..64_u8).prop_map(|(to, limits)| Value::Table { to, limits }),
        3 => (0..32_u8, attrs()).prop_map(|(out, attrs)| Value::Leaf { out, attrs }),
    ]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![guest_op(), service_op()]
}

fn guest_op() -> impl Strategy<Value = Op> {
    let vcpu = || 0..VCPUS;
    prop_oneof![
        20 => (0..PAGES, 0..INDICES.len(), value(), how())
            .prop_map(|(page, index, value, how)| Op::Store { page, index, value, how }),
        8 => (0..TARGETS.len(), 0..INDICES.len(), value(), how())
            .prop_map(|(target, index, value, how)| Op::Aim { target, index, value, how }),
        2 => (3..TOPS, 0..32_u8, attrs()).prop_map(|(page, out, attrs)| Op::Fill { page, out, attrs }),
        1 => (3..TOPS, 0..2_u8, 0..32_u8, attrs())
            .prop_map(|(page, run, out, attrs)| Op::FillRun { page, run, out, attrs }),
        6 => (0..6_u8, 0..PROBES, 1..3_u16, prop::option::of(vcpu()))
            .prop_map(|(kind, probe, asid, vcpu)| Op::Tlbi { kind, probe, asid, vcpu }),
        1 => (0..INDICES.len(), 0..INDICES.len(), how())
            .prop_map(|(index, other, how)| Op::Twice { index, other, how }),
        2 => (vcpu(), 0..ROOTS).prop_map(|(vcpu, context)| Op::Raw { vcpu, context }),
        4 => (0..PAGES, 0..INDICES.len(), 0..32_u8, 0..700_u32)
            .prop_map(|(page, index, out, after)| Op::Race { page, index, out, after }),
        1 => Just(Op::Touch),
    ]
}

fn service_op() -> impl Strategy<Value = Op> {
    let context = || 0..ROOTS;
    let vcpu = || 0..VCPUS;
    let probe = || 0..PROBES;
    prop_oneof![
        8 => (vcpu(), context()).prop_map(|(vcpu, context)| Op::Plant { vcpu, context }),
        20 => (context(), probe(), prop_oneof![1 => Just(1), 10 => 2..4_u8])
            .prop_map(|(context, probe, level)| Op::Shadow { context, probe, level }),
        1 => (0..PAGES).prop_map(|page| Op::DemotePage { page }),
        2 => Just(Op::Evict),
        1 => Just(Op::Nest),
        4 => (1..6_u32).prop_map(|tables| Op::GiveBack { tables }),
        2 => (context(), probe(), 0..4_u8)
            .prop_map(|(context, probe, level)| Op::DemoteAt { context, probe, level }),
        1 => context().prop_map(|context| Op::Drop { context }),
        2 => context().prop_map(|context| Op::Revive { context }),
        1 => context().prop_map(|context| Op::Survey { context }),
        6 => (any::<bool>(), 0..4_u8, any::<bool>())
            .prop_map(|(user, partner, anew)| Op::Relayout { user, partner, anew }),
        16 => (prop_oneof![4 => Just(8), 1 => 1..9_u8], 0..8_u8)
            .prop_map(|(eighths, look)| Op::Move { eighths, look }),
        1 => (context(), 0..INDICES.len(), 0..PAGES, 0..700_u32)
            .prop_map(|(context, index, to, after)| Op::Anew { context, index, to, after }),
        2 => (0..32_u8, 1..64_u8).prop_map(|(region, pages)| Op::Home { region, pages }),
        6 => (context(), probe(), any::<bool>())
            .prop_map(|(context, probe, writes)| Op::Sample { context, probe, writes }),
        1 => Just(Op::EndSamples),
        2 => vcpu().prop_map(|vcpu| Op::Raise { vcpu }),
    ]
}

/// Attribute bits of a leaf from a small number: AF unless bit 8 is set, nG unless bit 0 is, inner shareable unless
/// bit 9 is.
pub(crate) fn leaf_bits(attrs: u16) -> u64 {
    let attrs = u64::from(attrs);
    let bit = |from: u32, to: u32| (attrs >> from & 1) << to;
    (!attrs >> 8 & 1) << 10
        | 1 << 9
        | (!attrs >> 9 & 1) << 8
        | (!attrs & 1) << 11
        | bit(1, 7)
        | bit(2, 6)
        | bit(3, 2)
        | bit(4, 54)
        | bit(5, 53)
        | bit(6, 55)
        | bit(10, 50)
        | (attrs >> 7 & attrs >> 6 & 1) << 52
}

pub(crate) fn raw_of(level: Level, value: Value) -> u64 {
    match value {
        Value::Zero => 0,
        Value::Junk => 0xdead_beef_0000 | bits::AF,
        Value::Table { to, limits } if level != Level::L3 => {
            // No limits three times out of four.
            let limits = if limits < 48 {
                0
            } else {
                u64::from(limits & 15) << 59
            };
            page(to) | limits | bits::TABLE
        }
        Value::Table { to, .. } => page(to) | leaf_bits(0) | bits::TABLE,
        Value::Leaf { out, attrs } => {
            let kind = if level == Level::L3 {
                bits::TABLE
            } else {
                bits::VALID
            };
            out_of(level, out) | leaf_bits(attrs) | kind
        }
    }
}

pub(crate) fn out_of(level: Level, out: u8) -> u64 {
    match level {
        Level::L3 => RAM_IPA + 0x20_0000 + u64::from(out) * PAGE_SIZE,
        Level::L2 => RAM_IPA + (u64::from(out) << 21),
        _ => RAM_IPA,
    }
}

/// An entry of a table that may be re-laid out: of the kernel's in runs of 16 that lie crosswise, or of a user's
/// whose pages lie anywhere, some of them in partners of re-layouts.
pub(crate) fn scattered(which: usize, index: u64) -> u64 {
    let (mib, number, bits_of) = match which {
        12 => (8, index ^ 0x10, leaf_bits(1) | 1 << 54),
        _ => (20, index * 5 % 1024, leaf_bits(0) | 1 << 6),
    };
    (RAM_IPA + (mib << 20) + (number << 12)) | bits_of | bits::TABLE
}

/// A guest as it may look after boot: shared tables, a linear map, blocks, runs.
pub(crate) fn boot(world: &Handle) {
    let mut world = world.0.borrow_mut();
    let mut put = |which: usize, index: u64, raw: u64| {
        world.put(World::ram(page(which) + index * 8).unwrap(), raw);
    };
    for which in 0..PAGES {
        put(which, 0, 0);
    }
    let table = |to: usize, limits: u64| page(to) | limits << 59 | bits::TABLE;
    for (which, index, to, limits) in [
        (0, 0, 3, 0),
        (0, 1, 4, 0),
        (1, 0, 3, 0),
        (1, 1, 5, 0b0100),
        (2, 0, 6, 0),
        (2, 1, 3, 0b1000),
        (3, 0, 7, 0),
        (3, 1, 8, 0b0001),
        (3, 7, 9, 0b1010),
        (4, 0, 10, 0),
        (4, 7, 14, 0b1000),
        (5, 7, 8, 0),
        (6, 0, 11, 0),
        (6, 1, 12, 0),
        (6, 7, 13, 0b0100),
        (TOPS, 0, 0, 0),
        (TOPS, 1, 1, 0b0010),
        (TOPS + 1, 0, 1, 0),
        (TOPS + 1, 1, 2, 0b0100),
        (TOPS + 2, 0, 2, 0),
        (TOPS + 2, 1, 0, 0b1000),
    ] {
        put(which, index, table(to, limits));
    }
    let page_at = |ipa: u64, bits_of: u64| ipa | leaf_bits(0) | bits_of | bits::TABLE;
    // The kernel's half is global.
    let kernel = |ipa: u64, bits_of: u64| page_at(ipa, bits_of) & !bits::NOT_GLOBAL;
    put(4, 1, (RAM_IPA + (4 << 20)) | leaf_bits(0) | bits::VALID);
    for index in 0..512 {
        let at = |mib: u64, number: u64| RAM_IPA + (mib << 20) + (number << 12);
        // 1 GiB in a row: blocks, and a table where it was linked above.
        if index != 7 {
            let block = RAM_IPA + (index << 21);
            put(5, index, block | leaf_bits(0) | bits::VALID);
        }
        // Two tables in a row, and two that are not.
        put(8, index, page_at(at(14, index), 0));
        put(11, index, kernel(at(2, index), 0));
        for which in [12, 14] {
            put(which, index, scattered(which, index));
        }
    }
    for index in [0, 1, 15, 16, 31, 511] {
        put(7, index, page_at(RAM_IPA + ((index * 7) << 12), 0));
        put(9, index, page_at(RAM_IPA + ((index * 5) << 12), 1 << 6));
        put(10, index, page_at(page(3 + index as usize % 8), 1 << 7));
        put(13, index, page_at(page(index as usize % PAGES), 1 << 6));
    }
}
