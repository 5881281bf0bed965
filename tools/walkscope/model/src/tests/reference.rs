//! A second model, written apart from the first: slow, with time stamps and one list of entries for each
//! structure, walking the tables itself. Random streams must cost the same in both.

use proptest::prelude::*;

use super::space::{Machine, Ram};
use crate::{Core, Memory, Mmu, Mode, Operation, Regime, WalkCacheHolds, walk};

type Condition = Box<dyn Fn(&Line) -> bool>;

#[derive(Clone, Debug)]
struct Line {
    first: u64,
    bytes: u64,
    vmid: u16,
    /// `None`: global.
    asid: Option<u16>,
    used: u64,
}

#[derive(Clone, Debug)]
struct Table {
    lines: Vec<Line>,
    sets: u64,
    ways: usize,
}

impl Table {
    fn new(entries: usize, ways: usize) -> Self {
        Self {
            lines: Vec::new(),
            sets: (entries / ways) as u64,
            ways,
        }
    }

    fn find(&mut self, at: u64, vmid: u16, asid: u16, bytes: Option<u64>, now: u64) -> bool {
        let found = self.lines.iter_mut().find(|line| {
            at - at % line.bytes == line.first
                && line.vmid == vmid
                && line.asid.is_none_or(|own| own == asid)
                && bytes.is_none_or(|bytes| bytes == line.bytes)
        });
        found.map(|line| line.used = now).is_some()
    }

    fn put(&mut self, line: Line) {
        let set = |line: &Line, sets: u64| line.first / line.bytes % sets;
        let (mine, sets) = (set(&line, self.sets), self.sets);
        self.lines.retain(|old| {
            (old.first, old.bytes, old.vmid, old.asid)
                != (line.first, line.bytes, line.vmid, line.asid)
        });
        let peers = self.lines.iter().filter(|old| set(old, sets) == mine);
        if peers.clone().count() >= self.ways {
            let oldest = peers.map(|old| old.used).min().unwrap();
            self.lines
                .retain(|old| set(old, sets) != mine || old.used != oldest);
        }
        self.lines.push(line);
    }
}

pub(super) struct Reference<'a> {
    core: Core,
    mode: Mode,
    ram: &'a Ram,
    micro: [Table; 2],
    main: Table,
    tables: Table,
    ipas: Table,
    now: u64,
    reads: u32,
}

impl<'a> Reference<'a> {
    pub(super) fn new(core: &Core, mode: Mode, ram: &'a Ram) -> Self {
        Self {
            micro: [
                Table::new(core.micro_data, core.micro_data),
                Table::new(core.micro_fetch, core.micro_fetch),
            ],
            main: Table::new(core.main_entries, core.main_ways),
            tables: Table::new(core.walk_entries, core.walk_ways),
            ipas: Table::new(core.ipa_entries, core.ipa_ways),
            core: core.clone(),
            mode,
            ram,
            now: 0,
            reads: 0,
        }
    }

    /// Through stage 2: the address, and the bytes that the mapping spans.
    fn stage2(&mut self, regime: &Regime, ipa: u64, count: bool) -> (u64, u64) {
        let (pa, bytes, steps) = match self.mode {
            Mode::Native => return (ipa, u64::MAX),
            Mode::Synthetic(log2) => (
                ipa,
                1 << log2,
                match log2 {
                    12 => 3,
                    21 => 2,
                    _ => 1,
                },
            ),
            Mode::AsIs if regime.hcr & 1 == 0 => return (ipa, u64::MAX),
            Mode::AsIs => {
                let root = regime.vttbr & 0xffff_ffff_f000;
                let mut desc = self.ram.read(root + (ipa / (1 << 30)) * 8).unwrap();
                let (mut bytes, mut steps) = (1_u64 << 30, 1);
                while desc % 4 == 3 && bytes > 4096 {
                    bytes /= 512;
                    steps += 1;
                    let at = (desc & 0xffff_ffff_f000) + ipa / bytes % 512 * 8;
                    desc = self.ram.read(at).unwrap();
                }
                let base = desc & 0xffff_ffff_f000;
                (base - base % bytes + ipa % bytes, bytes, steps)
            }
        };
        self.now += 1;
        let vmid = regime.space().vmid;
        if count && !self.ipas.find(ipa, vmid, 0, None, self.now) {
            self.reads += steps;
            if bytes >= 1 << self.core.ipa_min_log2 {
                let line = Line {
                    first: ipa - ipa % bytes,
                    bytes,
                    vmid,
                    asid: None,
                    used: self.now,
                };
                self.ipas.put(line);
            }
        }
        (pa, bytes)
    }

    /// One access: whether it missed both TLBs, and the descriptors read.
    pub(super) fn access(&mut self, regime: &Regime, va: u64, fetch: bool) -> (bool, u32) {
        self.reads = 0;
        self.now += 1;
        let (vmid, asid) = (regime.space().vmid, regime.space().asid);
        let micro = usize::from(fetch);
        if self.micro[micro].find(va, vmid, asid, None, self.now) {
            return (false, 0);
        }
        let upper = va >> 63 == 1;
        let owner = if upper { None } else { Some(asid) };
        if self.main.find(va, vmid, asid, None, self.now) {
            let bytes = self
                .main
                .lines
                .iter()
                .find(|line| line.used == self.now)
                .unwrap()
                .bytes;
            self.put_micro(micro, va, bytes, vmid, owner);
            return (false, 0);
        }
        let bytes = self.walk(regime, va, owner);
        let line = Line {
            first: va - va % bytes,
            bytes,
            vmid,
            asid: owner,
            used: self.now,
        };
        self.main.put(line);
        self.put_micro(micro, va, bytes, vmid, owner);
        (true, self.reads)
    }

    fn put_micro(&mut self, micro: usize, va: u64, bytes: u64, vmid: u16, asid: Option<u16>) {
        let bytes = bytes.min(1 << self.core.micro_max_log2);
        self.now += 1;
        let line = Line {
            first: va - va % bytes,
            bytes,
            vmid,
            asid,
            used: self.now,
        };
        self.micro[micro].put(line);
    }

    /// The walk: bytes that the new entry spans.
    fn walk(&mut self, regime: &Regime, va: u64, owner: Option<u16>) -> u64 {
        let (vmid, asid) = (regime.space().vmid, regime.space().asid);
        // First without counting: where every table lies.
        let root = regime.ttbr[usize::from(va >> 63 == 1)] & 0xffff_ffff_f000;
        let mut slots = Vec::new();
        let (mut table, mut bytes) = (root, 1_u64 << 39);
        let leaf = loop {
            let slot = table + va % (1 << 48) / bytes % 512 * 8;
            slots.push(slot);
            let pa = self.stage2(regime, slot, false).0;
            let desc = self.ram.read(pa).unwrap();
            if bytes == 4096 || desc % 4 == 1 {
                break desc;
            }
            table = desc & 0xffff_ffff_f000;
            bytes /= 512;
        };
        let all = self.core.walk_holds == WalkCacheHolds::AllTables;
        // A table at depth d spans 512^(4-d) pages; the deepest one known is where to begin.
        let spans = |depth: usize| 1_u64 << (48 - 9 * depth);
        let mut begin = 0;
        for depth in (1..slots.len()).rev() {
            self.now += 1;
            if (all || depth == 3)
                && self
                    .tables
                    .find(va, vmid, asid, Some(spans(depth)), self.now)
            {
                begin = depth;
                break;
            }
        }
        for (depth, &slot) in slots.iter().enumerate().skip(begin) {
            if depth > begin || begin == 0 {
                self.stage2(regime, slot, true);
            }
            self.reads += 1;
        }
        let output = (leaf & 0xffff_ffff_f000) + va % bytes;
        let (_, mut under) = self.stage2(regime, output, true);
        if self.core.merge && under == 4096 && self.in_a_run(regime, output) {
            under = 4 * 4096;
        }
        for depth in 1..slots.len() {
            if all || depth == 3 {
                self.now += 1;
                let bytes = spans(depth);
                let line = Line {
                    first: va - va % bytes,
                    bytes,
                    vmid,
                    asid: owner,
                    used: self.now,
                };
                self.tables.put(line);
            }
        }
        self.now += 1;
        let fit = self.core.main_sizes.iter().rev().map(|&log2| 1_u64 << log2);
        fit.into_iter()
            .find(|&size| size <= bytes.min(under))
            .unwrap()
    }

    /// Whether stage 2 maps the 16 KiB around an IPA in one piece (stage 1 never does here).
    fn in_a_run(&mut self, regime: &Regime, ipa: u64) -> bool {
        if matches!(self.mode, Mode::Synthetic(_)) {
            return true;
        }
        let root = regime.vttbr & 0xffff_ffff_f000;
        let middle = self.ram.read(root + ipa / (1 << 30) * 8).unwrap() & 0xffff_ffff_f000;
        let last = self.ram.read(middle + ipa / (1 << 21) % 512 * 8).unwrap() & 0xffff_ffff_f000;
        let group = ipa / 4096 % 512 / 4 * 4;
        let first = ipa - ipa % 0x4000;
        (0..4).all(|index| {
            let desc = self.ram.read(last + (group + index) * 8).unwrap();
            desc & 3 == 3 && desc & 0xffff_ffff_f000 == first + index * 4096
        })
    }

    fn remove(&mut self, regime: &Regime, operation: Operation) {
        let mine = regime.space().vmid;
        let (stage1, stage2): (Condition, bool) = match operation {
            Operation::Vmid { stage2 } => (Box::new(move |line| line.vmid == mine), stage2),
            Operation::Asid(asid) => (
                Box::new(move |line| line.vmid == mine && line.asid == Some(asid)),
                false,
            ),
            Operation::Va { va, asid, .. } => (
                Box::new(move |line| {
                    line.vmid == mine
                        && (line.first..=line.first + (line.bytes - 1)).contains(&va)
                        && (line.asid.is_none() || asid.is_none() || line.asid == asid)
                }),
                false,
            ),
            _ => unreachable!(),
        };
        let keep_pointers = matches!(
            operation,
            Operation::Va {
                last_only: true,
                ..
            }
        );
        for table in self.micro.iter_mut().chain([&mut self.main]) {
            table.lines.retain(|line| !stage1(line));
        }
        if !keep_pointers {
            self.tables.lines.retain(|line| !stage1(line));
        }
        if stage2 {
            self.ipas.lines.retain(|line| line.vmid != mine);
        }
    }
}

/// Two address spaces with pages and blocks, and a kernel that they share.
fn machine(stage2: Option<u8>) -> (Machine, [u64; 2], Vec<u64>) {
    let mut machine = Machine::new(stage2);
    let roots = [machine.regime.ttbr[0], machine.new_root()];
    let mut places = Vec::new();
    for (number, root) in roots.into_iter().enumerate() {
        machine.regime.ttbr[0] = root;
        let base = 0x1_0000_0000 + ((number as u64) << 32);
        for page in 0..48_u64 {
            // Every third page, so that nothing can be merged.
            machine.map(0x40_0000 + page * 0x3000, base + page * 0x5000, 12, 0);
            machine.map(
                0x7f00_0000_0000 + (page << 21),
                base + 0x100_0000 + page * 0x3000,
                12,
                0,
            );
        }
        machine.map(0x10_0000_0000, base + 0x4000_0000, 21, 0);
        machine.map(0x10_0020_0000, base + 0x4020_0000, 21, 0);
    }
    for page in 0..48_u64 {
        places.push(0x40_0000 + page * 0x3000);
        places.push(0x7f00_0000_0000 + (page << 21));
        machine.map(
            0xffff_8000_0000_0000 + page * 0x7000,
            0x3_0000_0000 + page * 0x3000,
            12,
            0,
        );
        places.push(0xffff_8000_0000_0000 + page * 0x7000);
        places.push(0x10_0000_0000 + page * 0x5_3000 % 0x40_0000);
    }
    machine.map(0xffff_0000_0000_0000, 0x4_0000_0000, 21, 0);
    places.push(0xffff_0000_0012_3000);
    (machine, roots, places)
}

#[derive(Clone, Debug)]
enum Event {
    Access {
        place: prop::sample::Index,
        fetch: bool,
    },
    Switch {
        second: bool,
    },
    Remove {
        place: prop::sample::Index,
        kind: u8,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        40 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(place, fetch)| Event::Access { place, fetch }),
        3 => any::<bool>().prop_map(|second| Event::Switch { second }),
        1 => (any::<prop::sample::Index>(), 0..6_u8)
            .prop_map(|(place, kind)| Event::Remove { place, kind }),
    ]
}

/// Small structures, so that short streams fill them.
fn small(name: &str) -> Core {
    let mut core = Core::preset(name).unwrap();
    (core.micro_fetch, core.micro_data) = (3, 5);
    (core.main_entries, core.walk_entries, core.ipa_entries) = (8 * core.main_ways, 8, 8);
    core
}

fn compare(name: &str, mode: Mode, stage2: Option<u8>, events: &[Event]) {
    let (mut machine, roots, places) = machine(stage2);
    let core = small(name);
    let ram = machine.ram.clone();
    let mut slow = Reference::new(&core, mode, &ram);
    let mut fast = Mmu::new(&core, mode);
    machine.regime.ttbr[0] = roots[0];
    for (number, event) in events.iter().enumerate() {
        let regime = machine.regime;
        let space = regime.space();
        match event {
            Event::Access { place, fetch } => {
                let va = *place.get(&places);
                let expected = slow.access(&regime, va, *fetch);
                let found = if fast.micro_hit(va, space, *fetch)
                    || fast.main_hit(va, space, *fetch).is_some()
                {
                    (false, 0)
                } else {
                    let path = walk(&regime, va, &ram).unwrap();
                    let miss = fast.walk(va, space, *fetch, &path);
                    (true, miss.stage1_reads + miss.stage2_reads)
                };
                assert_eq!(
                    found, expected,
                    "{name} {mode:?} {stage2:?}, event {number}: {va:#x}"
                );
            }
            Event::Switch { second } => {
                machine.regime.ttbr[0] = roots[usize::from(*second)];
                machine.set_asid(u16::from(*second) + 1);
            }
            Event::Remove { place, kind } => {
                let va = *place.get(&places);
                let asid = (kind % 2 == 0).then_some(space.asid);
                let operation = match kind {
                    0 | 1 => Operation::Va {
                        va,
                        asid,
                        last_only: false,
                    },
                    2 | 3 => Operation::Va {
                        va,
                        asid,
                        last_only: true,
                    },
                    4 => Operation::Asid(space.asid),
                    _ => Operation::Vmid {
                        stage2: place.index(2) == 1,
                    },
                };
                slow.remove(&regime, operation);
                fast.invalidate(&crate::Invalidation {
                    operation,
                    vmid: space.vmid,
                });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn both_models_cost_the_same(events in prop::collection::vec(event(), 1..1200)) {
        for name in ["a53", "a72", "a76"] {
            compare(name, Mode::Native, None, &events);
            for log2 in [12, 21, 30] {
                compare(name, Mode::Synthetic(log2), None, &events);
            }
            for log2 in [12, 21, 30] {
                compare(name, Mode::AsIs, Some(log2), &events);
            }
        }
    }
}
