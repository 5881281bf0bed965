//! A machine that walks stage-2 tables while they are edited.
//!
//! The model sees every single store and every flush. For a number of IPAs, the *probes*, it keeps
//! all that hardware could hold: each leaf, and each table in a walk cache, that a walk could have
//! read at any moment since a flush covered it; of a contiguous run each of the sixteen descriptors may speak for all
//! of it, and yet a flush has to name the leaf itself. Walks start at the root and at every table held. What
//! must never happen is recorded: two leaves held for one IPA that differ in more than permissions
//! (a missing break-before-make), a table freed while held, a load from or store to a freed table.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use penumbra_paging::{Flushed, TableMemory, TlbScope, TlbSink, TlbWork};
use penumbra_vmsa::{CONTIGUOUS_ENTRIES, Level, PAGE_SIZE, Pa, Stage2Attrs, Stage2Desc, bits};

const FIRST_TABLE: u64 = 0x1000_0000;

/// A leaf as a TLB holds it: for one IPA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// Output for the page of the probe.
    pub pa: u64,
    /// Bytes that the entry covers; a contiguous run counts as one.
    pub bytes: u64,
    /// Bytes of the leaf: a TLB that does not heed the hint holds that.
    pub leaf_bytes: u64,
    /// Attribute bits.
    pub attrs: u64,
}

impl Held {
    /// What two entries for one IPA may not differ in.
    fn fixed(self) -> (u64, u64, u64) {
        let a = Stage2Attrs::decode(self.attrs);
        let plain = Stage2Attrs {
            memory: a.memory,
            share: a.share,
            ..Stage2Attrs::RAM
        };
        (self.pa, self.bytes, plain.encode())
    }
}

#[derive(Clone, Debug, Default)]
struct Probe {
    ipa: u64,
    leaves: BTreeSet<Held>,
    /// Tables that a walk cache may hold: level-2 and level-3 tables.
    tables: [BTreeSet<u64>; 2],
}

/// Ways to break the code under test, to see that the model notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutation {
    /// None.
    #[default]
    Honest,
    /// Flushes inside an edit do nothing.
    SkipFlush,
    /// Flushes of leaves stop one step early.
    ShortFlush,
    /// The invalid descriptor of break-before-make is not written.
    SkipBreak,
    /// Of a run of blocks only the first is broken and made again.
    BreakFirstOfRun,
    /// Each block gets the contiguous hint.
    InventRuns,
}

/// The machine.
#[derive(Debug)]
pub struct World {
    frames: HashMap<u64, Vec<u64>>,
    live: HashSet<u64>,
    free: Vec<u64>,
    next: u64,
    root: u64,
    probes: Vec<Probe>,
    watched: HashSet<u64>,
    mutation: Mutation,
    /// What went wrong.
    pub violations: Vec<String>,
    /// Tables that may still be handed out.
    pub budget: usize,
}

/// A handle on the machine: memory and TLB of the code under test.
#[derive(Clone, Debug)]
pub struct Handle(pub Rc<RefCell<World>>);

impl World {
    /// A machine with the root at `root`, watching `probes`.
    #[must_use]
    pub fn handle(root: Pa, probes: &[u64], mutation: Mutation) -> Handle {
        let mut world = Self {
            frames: HashMap::new(),
            live: HashSet::new(),
            free: Vec::new(),
            next: FIRST_TABLE,
            root: root.raw(),
            probes: probes
                .iter()
                .map(|&ipa| Probe {
                    ipa,
                    ..Probe::default()
                })
                .collect(),
            watched: HashSet::new(),
            mutation,
            violations: Vec::new(),
            budget: usize::MAX,
        };
        world.watched.extend([root.raw(), root.raw() + PAGE_SIZE]);
        Handle(Rc::new(RefCell::new(world)))
    }

    /// All that may be held for each probe.
    #[must_use]
    pub fn held(&self) -> BTreeMap<u64, BTreeSet<Held>> {
        self.probes
            .iter()
            .map(|probe| (probe.ipa, probe.leaves.clone()))
            .collect()
    }

    /// Tables handed out and not freed.
    #[must_use]
    pub fn live_tables(&self) -> usize {
        self.live.len()
    }

    fn word(&self, at: u64) -> u64 {
        let index = (at & (PAGE_SIZE - 1)) as usize / 8;
        self.frames
            .get(&(at & !(PAGE_SIZE - 1)))
            .map_or(0, |frame| frame[index])
    }

    fn is_root(&self, table: u64) -> bool {
        table == self.root || table == self.root + PAGE_SIZE
    }

    fn check_access(&mut self, at: Pa, what: &str) {
        let table = at.raw() & !(PAGE_SIZE - 1);
        if !self.is_root(table) && !self.live.contains(&table) {
            self.violations
                .push(format!("{what} a freed table at {at:?}"));
        }
    }

    /// Lets every probe that can read a changed table fill again.
    fn refill(&mut self) {
        for index in 0..self.probes.len() {
            self.fill(index);
        }
    }

    /// Adds all that walks for a probe can reach now.
    fn fill(&mut self, index: usize) {
        let mut probe = std::mem::take(&mut self.probes[index]);
        let ipa = probe.ipa;
        let root = self.root + (ipa >> Level::L1.shift()) * 8;
        self.step(&mut probe, Level::L1, root);
        for (level, slot) in [(Level::L2, 0), (Level::L3, 1)] {
            for table in probe.tables[slot].clone() {
                self.step(&mut probe, level, table + level.index(ipa) * 8);
            }
        }
        let shapes: BTreeSet<_> = probe.leaves.iter().map(|leaf| leaf.fixed()).collect();
        if shapes.len() > 1 {
            self.violations
                .push(format!("{ipa:#x} may be held as {:x?}", probe.leaves));
        }
        self.probes[index] = probe;
    }

    fn step(&mut self, probe: &mut Probe, level: Level, at: u64) {
        match Stage2Desc::decode(level, self.word(at)) {
            Stage2Desc::Invalid(_) => {}
            Stage2Desc::Table { next } => {
                let slot = level.number() as usize - 1;
                probe.tables[slot].insert(next.raw());
                self.watched.insert(next.raw());
            }
            // A leaf without its access flag faults, and what faults is not held.
            Stage2Desc::Leaf {
                pa,
                attrs,
                contiguous: false,
            } if attrs.accessed => {
                let offset = probe.ipa & (level.entry_bytes() - 1) & !(PAGE_SIZE - 1);
                probe.leaves.insert(Held {
                    pa: pa.raw() + offset,
                    bytes: level.entry_bytes(),
                    leaf_bytes: level.entry_bytes(),
                    attrs: attrs.encode(),
                });
            }
            Stage2Desc::Leaf { .. } => {}
        }
        self.step_run(probe, level, at);
    }

    /// Any descriptor of a run may have been read for an access elsewhere in it.
    fn step_run(&self, probe: &mut Probe, level: Level, at: u64) {
        let Some(frame) = self.frames.get(&(at & !(PAGE_SIZE - 1))) else {
            return;
        };
        let index = (at & (PAGE_SIZE - 1)) / 8;
        let first = (index - index % CONTIGUOUS_ENTRIES) as usize;
        let run = &frame[first..first + CONTIGUOUS_ENTRIES as usize];
        for (other, &raw) in (0_u64..).zip(run) {
            if raw & bits::CONTIGUOUS == 0 {
                continue;
            }
            let Stage2Desc::Leaf {
                pa,
                attrs,
                contiguous: true,
            } = Stage2Desc::decode(level, raw)
            else {
                continue;
            };
            if attrs.accessed {
                let start = pa.raw().wrapping_sub(other << level.shift());
                let offset = probe.ipa & (level.run_bytes() - 1) & !(PAGE_SIZE - 1);
                probe.leaves.insert(Held {
                    pa: start.wrapping_add(offset),
                    bytes: level.run_bytes(),
                    leaf_bytes: level.entry_bytes(),
                    attrs: attrs.encode(),
                });
            }
        }
    }

    fn store(&mut self, at: Pa, raw: u64) {
        self.check_access(at, "store to");
        if self.mutation == Mutation::SkipBreak && raw == 0 && self.word(at.raw()) & 1 != 0 {
            return;
        }
        let table = at.raw() & !(PAGE_SIZE - 1);
        let block = |raw: u64| raw & bits::TABLE == bits::VALID && !self.is_root(table);
        let old = self.word(at.raw());
        let in_run = block(old) && old & bits::CONTIGUOUS != 0;
        let raw = match self.mutation {
            Mutation::BreakFirstOfRun
                if in_run
                    && raw & bits::TABLE != bits::TABLE
                    && !(at.raw() / 8).is_multiple_of(CONTIGUOUS_ENTRIES) =>
            {
                return;
            }
            Mutation::InventRuns if block(raw) => raw | bits::CONTIGUOUS,
            _ => raw,
        };
        let frame = self.frames.entry(table).or_insert_with(|| vec![0; 512]);
        frame[(at.raw() & (PAGE_SIZE - 1)) as usize / 8] = raw;
        if self.watched.contains(&table) {
            self.refill();
        }
    }

    fn flush(&mut self, scope: TlbScope) {
        if self.mutation == Mutation::SkipFlush {
            return;
        }
        match scope {
            TlbScope::None => return,
            TlbScope::Vm => {
                for probe in &mut self.probes {
                    *probe = Probe {
                        ipa: probe.ipa,
                        ..Probe::default()
                    };
                }
            }
            TlbScope::Leaves { start, end, step } => {
                let mut end = end.raw();
                if self.mutation == Mutation::ShortFlush {
                    end = end.saturating_sub(step);
                }
                for probe in &mut self.probes {
                    let ipa = probe.ipa;
                    probe.leaves.retain(|leaf| {
                        let base = ipa & !(leaf.leaf_bytes - 1);
                        // First address at or above the leaf's base that a TLBI names.
                        let skip = base.saturating_sub(start.raw()).div_ceil(step);
                        let named = start.raw() + skip * step;
                        !(named < end && named < base + leaf.leaf_bytes)
                    });
                }
            }
        }
        self.refill();
    }
}

impl TableMemory for Handle {
    fn alloc_table(&mut self) -> Option<Pa> {
        let mut world = self.0.borrow_mut();
        if world.live.len() >= world.budget {
            return None;
        }
        // Hand out what was freed last: the worst case for a stale walker.
        let raw = world.free.pop().unwrap_or_else(|| {
            world.next += PAGE_SIZE;
            world.next
        });
        world.frames.remove(&raw);
        world.live.insert(raw);
        Some(Pa::truncated(raw))
    }

    fn free_table(&mut self, table: Pa) {
        let mut world = self.0.borrow_mut();
        let raw = table.raw();
        if !world.live.remove(&raw) {
            world.violations.push(format!("{table:?} freed twice"));
        }
        let held = world
            .probes
            .iter()
            .any(|probe| probe.tables.iter().any(|t| t.contains(&raw)));
        if held {
            world
                .violations
                .push(format!("{table:?} freed while a walker may hold it"));
        }
        world.free.push(raw);
    }

    fn load(&self, entry: Pa) -> u64 {
        let mut world = self.0.borrow_mut();
        world.check_access(entry, "load from");
        world.word(entry.raw())
    }

    fn store(&mut self, entry: Pa, raw: u64) {
        self.0.borrow_mut().store(entry, raw);
    }

    fn publish(&mut self) {}
}

impl TlbSink for Handle {
    fn flush(&mut self, work: TlbWork) -> Flushed {
        self.0.borrow_mut().flush(work.scope());
        work.completed()
    }
}
