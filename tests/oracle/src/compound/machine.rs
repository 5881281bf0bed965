//! A machine that hoards: what its TLBs, walk caches and stage-2 caches may hold.

use penumbra_vmsa::{CONTIGUOUS_BYTES, CONTIGUOUS_ENTRIES, Level, PAGE_SIZE, Stage1Desc, bits};

use super::pages::{Held, Output, Pages};
use super::{CONTEXTS, LOWS, NOT_PLAIN, REGIONS, VCPUS, World, access_bits};

/// What an access may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A leaf: PA of the page, bits that decide about accesses, global.
    Leaf(u64, u64, bool),
    /// Stage-1 translation fault at a level.
    Translation(u32),
    /// Access flag fault at a level.
    AccessFlag(u32),
    /// Stage-2 fault for an IPA page.
    Stage2(u64),
}

/// A leaf that a TLB may hold, with the bytes that a TLBI by VA must cover.
pub(super) type Sized = (Outcome, u64);

/// One page of a region.
#[derive(Clone, Debug, Default)]
pub(super) struct Probe {
    pub(super) leaves: Vec<Sized>,
    /// What a walk from any table held would find at this moment.
    pub(super) now: Vec<Outcome>,
}

/// 2 MiB of VAs of a context of a vCPU, of which some pages are looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    /// Tables that a walk cache may hold, with the limits gathered on the way, by level.
    pub(super) tables: [Vec<(u64, u64)>; 4],
    pub(super) probes: [Probe; LOWS],
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) cells: Vec<Cell>,
    pub(super) stage2: Pages,
    /// Stage-2 tables that a walk cache may hold.
    pub(super) stage2_tables: Vec<(u64, Level)>,
    /// What walks found at any moment of this step, by cell and probe, with frames named by what they held.
    pub(super) found: Vec<[Vec<Outcome>; LOWS]>,
}

/// Number of the cell of a vCPU's context and a region.
pub(super) fn cell_of(vcpu: usize, context: usize, region: usize) -> usize {
    (vcpu * CONTEXTS + context) * REGIONS + region
}

/// vCPU, context and region of a cell.
pub(super) fn place_of(cell: usize) -> (usize, usize, usize) {
    let rest = cell / REGIONS;
    (rest / CONTEXTS, rest % CONTEXTS, cell % REGIONS)
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            cells: vec![Cell::default(); VCPUS * CONTEXTS * REGIONS],
            stage2: Pages::new(),
            stage2_tables: Vec::new(),
            found: vec![Default::default(); VCPUS * CONTEXTS * REGIONS],
        }
    }

    /// Drops what both stages' caches hold of one vCPU, or of all.
    pub(super) fn clear(&mut self, vcpu: Option<usize>) {
        for (number, cell) in self.cells.iter_mut().enumerate() {
            if vcpu.is_none_or(|vcpu| place_of(number).0 == vcpu) {
                *cell = Cell::default();
            }
        }
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

impl World {
    /// The PAs that a machine may take for a page of IPAs; what stage 2 says now is held from now on.
    pub(super) fn outputs(&mut self, compound: bool, page: u64) -> Held {
        if !compound {
            let mut held = Held::default();
            if let Some(pa) = self.ideal(page) {
                held.add(Output {
                    pa,
                    writes: true,
                    plain: true,
                });
            }
            return held;
        }
        if let Some(held) = self.ours.stage2.fresh(page, self.generation) {
            return held;
        }
        let now = self.walk_stage2(page);
        self.ours.stage2.read(page, self.generation, now)
    }

    pub(super) fn fill(&mut self, compound: bool, number: usize) {
        let (vcpu, context, region) = place_of(number);
        let machine = if compound {
            &mut self.ours
        } else {
            &mut self.guests
        };
        let mut cell = std::mem::take(&mut machine.cells[number]);
        for probe in &mut cell.probes {
            probe.now.clear();
        }
        let root = if compound {
            self.installed[vcpu][context]
        } else {
            self.contexts[context].root
        };
        let outputs = self.outputs(compound, root);
        if outputs.items().is_empty() && !self.sampled(compound, root) {
            everywhere(&mut cell, Outcome::Stage2(root & ((1 << 39) - 1)));
        }
        for &Output { pa, .. } in outputs.items() {
            add(
                &mut cell.tables[self.shape.start.number() as usize],
                (pa, 0),
            );
        }
        for level in Level::ALL {
            let depth = level.number() as usize;
            let mut at = 0;
            while let Some(&(table, limits)) = cell.tables[depth].get(at) {
                // The guest's machine names frames by what they hold; ours by where they are.
                let table = if compound { table } else { self.place(table) };
                self.read(compound, &mut cell, level, (table, limits), region);
                at += 1;
            }
        }
        self.share(compound, number, &cell);
        self.note(compound, number, &cell);
        let machine = if compound {
            &mut self.ours
        } else {
            &mut self.guests
        };
        machine.cells[number] = cell;
    }

    /// Notes what walks find, for the verdict at the end of the step.
    fn note(&mut self, compound: bool, number: usize, cell: &Cell) {
        let machine = if compound {
            &mut self.ours
        } else {
            &mut self.guests
        };
        let mut found = std::mem::take(&mut machine.found[number]);
        for (probe, found) in cell.probes.iter().zip(&mut found) {
            for &outcome in &probe.now {
                let outcome = if compound {
                    self.seen(outcome)
                } else {
                    outcome
                };
                add(found, outcome);
            }
        }
        let machine = if compound {
            &mut self.ours
        } else {
            &mut self.guests
        };
        machine.found[number] = found;
    }

    /// Global leaves of the low half serve whichever of its roots is installed.
    fn share(&mut self, compound: bool, number: usize, cell: &Cell) {
        let (vcpu, context, region) = place_of(number);
        if context == 2 {
            return;
        }
        let machine = if compound {
            &mut self.ours
        } else {
            &mut self.guests
        };
        let other = cell_of(vcpu, 1 - context, region);
        for (from, to) in cell.probes.iter().zip(&mut machine.cells[other].probes) {
            for &held in &from.leaves {
                if matches!(held.0, Outcome::Leaf(_, _, true)) {
                    add(&mut to.leaves, held);
                }
            }
        }
    }

    fn read(
        &mut self,
        compound: bool,
        cell: &mut Cell,
        level: Level,
        (table, limits): (u64, u64),
        region: usize,
    ) {
        if level == Level::L3 {
            for low in 0..LOWS {
                let va = self.va(region, low);
                for raw in self.words(compound, table + level.index(va) * 8) {
                    let probe = &mut cell.probes[low];
                    self.leaf(compound, probe, level, (table, raw, limits), va);
                }
            }
            return;
        }
        let va = self.va(region, 0);
        for raw in self.words(compound, table + level.index(va) * 8) {
            self.descriptor(compound, cell, level, (table, raw, limits), region);
        }
    }

    /// What a walker may read of a word.
    fn words(&mut self, compound: bool, at: u64) -> impl Iterator<Item = u64> + use<> {
        let now = self.memory.walk(at);
        let before = self.torn.filter(|torn| !compound && torn.0 == at);
        std::iter::once(now).chain(before.map(|(_, old)| old))
    }

    /// What a descriptor above level 3 says.
    fn descriptor(
        &mut self,
        compound: bool,
        cell: &mut Cell,
        level: Level,
        (table, raw, limits): (u64, u64, u64),
        region: usize,
    ) {
        match Stage1Desc::decode(level, raw) {
            Stage1Desc::Table { next, .. } => {
                let limits = limits | self.limits(raw);
                let outputs = self.outputs(compound, next.raw());
                if outputs.items().is_empty() && !self.sampled(compound, next.raw()) {
                    everywhere(cell, Outcome::Stage2(next.raw()));
                }
                let below = &mut cell.tables[level.number() as usize + 1];
                for &Output { pa, .. } in outputs.items() {
                    add(below, (pa, limits));
                }
            }
            _ => {
                for low in 0..LOWS {
                    let va = self.va(region, low);
                    let probe = &mut cell.probes[low];
                    self.leaf(compound, probe, level, (table, raw, limits), va);
                }
            }
        }
    }

    /// What a descriptor that is no table's says of a page.
    fn leaf(
        &mut self,
        compound: bool,
        probe: &mut Probe,
        level: Level,
        (table, raw, limits): (u64, u64, u64),
        va: u64,
    ) {
        let offset = va & (level.entry_bytes() - 1) & !(PAGE_SIZE - 1);
        match Stage1Desc::decode(level, raw) {
            Stage1Desc::Leaf { attrs, .. } if !attrs.accessed => {
                add(&mut probe.now, Outcome::AccessFlag(level.number()));
            }
            Stage1Desc::Leaf {
                contiguous: false,
                ipa,
                ..
            } => {
                let page = ipa.raw() + offset;
                self.hold(compound, probe, (raw, limits), page, level.entry_bytes());
            }
            Stage1Desc::Leaf { .. } => {
                // Any entry of the run may speak for all of it.
                let index = level.index(va);
                let first = index & !(CONTIGUOUS_ENTRIES - 1);
                let bytes = CONTIGUOUS_BYTES / PAGE_SIZE * level.entry_bytes();
                for other in first..first + CONTIGUOUS_ENTRIES {
                    let raw = self.memory.walk(table + other * 8);
                    let Stage1Desc::Leaf {
                        ipa,
                        attrs,
                        contiguous: true,
                    } = Stage1Desc::decode(level, raw)
                    else {
                        continue;
                    };
                    if attrs.accessed {
                        let start = ipa.raw().wrapping_sub((other - first) << level.shift());
                        let inside = (index - first) << level.shift();
                        let page = start.wrapping_add(inside + offset) & bits::TABLE_ADDRESS;
                        self.hold(compound, probe, (raw, limits), page, bytes);
                    }
                }
            }
            _ => add(&mut probe.now, Outcome::Translation(level.number())),
        }
    }

    fn hold(
        &mut self,
        compound: bool,
        probe: &mut Probe,
        (raw, limits): (u64, u64),
        page: u64,
        bytes: u64,
    ) {
        let outputs = self.outputs(compound, page);
        if outputs.items().is_empty() && !self.sampled(compound, page) {
            add(&mut probe.now, Outcome::Stage2(page));
        }
        for &Output { pa, plain, .. } in outputs.items() {
            let global = raw & bits::NOT_GLOBAL == 0;
            let stage2 = if plain { 0 } else { NOT_PLAIN };
            let outcome = Outcome::Leaf(pa, access_bits(raw, limits) | stage2, global);
            add(&mut probe.now, outcome);
            add(&mut probe.leaves, (outcome, bytes));
        }
    }
}

fn everywhere(cell: &mut Cell, outcome: Outcome) {
    for probe in &mut cell.probes {
        add(&mut probe.now, outcome);
    }
}
