//! Two machines on one memory: one walks the compound tables under the real stage 2, the other the
//! guest's own tables under an ideal one.
//!
//! Both hoard: for each *probe* (an address in a *context*, that is, a root and an ASID) they keep
//! every leaf, every table in a walk cache and every stage-2 translation that hardware could have
//! read at any moment since a TLBI that covers it. The claim: whatever the compound machine may do,
//! the guest's own machine might have done. So what it holds, and every fault that it could take,
//! must be among what the other holds and could take; leaves of two sizes for one address are a
//! conflict unless the guest made it itself; and no TLB may hold a watched page as writable.

mod handle;
mod mutation;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use penumbra_paging::{IPA_SPACE_BYTES, TlbScope};
use penumbra_vmsa::{
    CONTIGUOUS_BYTES, CONTIGUOUS_ENTRIES, Level, PAGE_SIZE, Stage1Desc, Stage2Desc, bits,
};

pub use mutation::Mutation;

/// First IPA of the guest's RAM.
pub const RAM_IPA: u64 = 0x4000_0000;
/// Bytes of RAM.
pub const RAM_BYTES: u64 = 64 << 20;
/// PA of the RAM.
pub const RAM_PA: u64 = 0x1_4000_0000;
/// PA of the pool block.
pub const POOL_PA: u64 = 0x2_0000_0000;
const POOL_BYTES: u64 = 2 << 20;
/// PA of the root of stage 2.
pub const STAGE2_ROOT: u64 = 0x80_0000;
const FIRST_TABLE: u64 = 0x1000_0000;

/// A context: what a vCPU has in its registers.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// ASID of its non-global entries.
    pub asid: u16,
    /// The guest's root.
    pub root: u64,
    /// What is in TTBRx: the root or its alias.
    pub installed: u64,
}

/// A guest's maintenance operation.
#[derive(Clone, Copy, Debug)]
pub enum GuestTlbi {
    /// VMALLE1IS.
    All,
    /// ASIDE1IS.
    Asid(u16),
    /// VAE1IS, or VALE1IS.
    Va {
        /// Address.
        va: u64,
        /// ASID.
        asid: u16,
        /// Leaf entries only.
        last: bool,
    },
}

/// What an access may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

#[derive(Clone, Debug, Default)]
struct Cell {
    /// Tables that a walk cache may hold, with the limits gathered on the way, by level.
    tables: [BTreeSet<(u64, u64)>; 4],
    /// Leaves with the bytes that a TLBI by VA must cover, and the level they stand at.
    leaves: BTreeSet<(Outcome, u64)>,
    /// What a walk from any table held would find at this moment.
    now: BTreeSet<Outcome>,
}

#[derive(Debug, Default)]
struct Machine {
    cells: HashMap<(usize, u64), Cell>,
    /// Stage-2 translations held: page IPA to PA and whether stores are allowed.
    stage2: HashMap<u64, BTreeSet<(u64, bool)>>,
}

/// The memory and both machines.
#[derive(Debug)]
pub struct World {
    frames: HashMap<u64, Vec<u64>>,
    live: HashSet<u64>,
    free: Vec<u64>,
    next: u64,
    /// Contexts in use.
    pub contexts: Vec<Context>,
    probes: Vec<u64>,
    ours: Machine,
    guests: Machine,
    watched_frames: HashSet<u64>,
    /// The other vCPUs are parked: nothing is filled.
    pub parked: bool,
    /// A store is being mirrored.
    pub storing: bool,
    /// A store that another vCPU makes while a page is copied: PA and value.
    pub race: Option<(u64, u64)>,
    mutation: Mutation,
    delayed: Option<(u64, u64)>,
    split: Option<u64>,
    /// Which page of RAM, by its first PA, lies in a frame, and the reverse; absent: its own.
    inside: HashMap<u64, u64>,
    places: HashMap<u64, u64>,
    /// A page is being moved.
    pub moving: bool,
    /// What went wrong.
    pub violations: Vec<String>,
}

/// A handle: memory and TLB of the code under test.
#[derive(Clone, Debug)]
pub struct Handle(pub Rc<RefCell<World>>);

/// Bits of a leaf that decide about accesses, limits of the tables included.
fn access_bits(raw: u64, limits: u64) -> u64 {
    let mut kept = raw & (0x7 << 2 | 0b11 << 6 | 0b11 << 8 | 1 << 50 | 0b11 << 53);
    // PXNTable, UXNTable, APTable: as Arm ARM D8.4 applies them.
    if limits >> 59 & 1 != 0 {
        kept |= 1 << 53;
    }
    if limits >> 60 & 1 != 0 {
        kept |= 1 << 54;
    }
    if limits >> 61 & 1 != 0 {
        kept &= !(1 << 6);
    }
    if limits >> 62 & 1 != 0 {
        kept |= 1 << 7;
    }
    kept
}

fn frame_of(at: u64) -> u64 {
    at & !(PAGE_SIZE - 1)
}

impl World {
    /// Memory with an empty guest.
    #[must_use]
    pub fn handle(contexts: &[Context], probes: &[u64], mutation: Mutation) -> Handle {
        Handle(Rc::new(RefCell::new(Self {
            frames: HashMap::new(),
            live: HashSet::new(),
            free: Vec::new(),
            next: FIRST_TABLE,
            contexts: contexts.to_vec(),
            probes: probes.to_vec(),
            ours: Machine::default(),
            guests: Machine::default(),
            watched_frames: HashSet::new(),
            parked: false,
            storing: false,
            race: None,
            mutation,
            delayed: None,
            split: None,
            inside: HashMap::new(),
            places: HashMap::new(),
            moving: false,
            violations: Vec::new(),
        })))
    }

    /// Reads a word.
    #[must_use]
    pub fn word(&self, at: u64) -> u64 {
        let index = (at & (PAGE_SIZE - 1)) as usize / 8;
        self.frames
            .get(&frame_of(at))
            .map_or(0, |frame| frame[index])
    }

    /// Writes a word, as a guest or as the test itself.
    pub fn put(&mut self, at: u64, raw: u64) {
        let index = (at & (PAGE_SIZE - 1)) as usize / 8;
        self.frames
            .entry(frame_of(at))
            .or_insert_with(|| vec![0; 512])[index] = raw;
    }

    /// Where a page of RAM, given by its first PA, is now.
    fn place(&self, home: u64) -> u64 {
        let page = frame_of(home);
        self.places.get(&page).copied().unwrap_or(page) | (home & (PAGE_SIZE - 1))
    }

    /// Whether everything lies in its own frame.
    #[must_use]
    pub fn is_home(&self) -> bool {
        self.inside.iter().all(|(pa, home)| pa == home)
    }

    fn inside(&self, pa: u64) -> u64 {
        self.inside.get(&pa).copied().unwrap_or(pa)
    }

    /// Reads a word of the guest's RAM, wherever it is now.
    #[must_use]
    pub fn guest_word(&self, ipa: u64) -> u64 {
        Self::ram(ipa).map_or(0, |home| self.word(self.place(home)))
    }

    /// Writes a word of the guest's RAM, wherever it is now.
    pub fn guest_put(&mut self, ipa: u64, raw: u64) {
        if let Some(home) = Self::ram(ipa) {
            self.put(self.place(home), raw);
        }
    }

    /// PA of an IPA of RAM, before anything was moved.
    #[must_use]
    pub fn ram(ipa: u64) -> Option<u64> {
        (RAM_IPA..RAM_IPA + RAM_BYTES)
            .contains(&ipa)
            .then(|| ipa - RAM_IPA + RAM_PA)
    }

    /// Walks the real stage 2 for a page: PA and whether stores are allowed.
    fn walk_stage2(&mut self, page: u64) -> Option<(u64, bool)> {
        if page >= IPA_SPACE_BYTES {
            return None;
        }
        let mut at = STAGE2_ROOT + (page >> Level::L1.shift()) * 8;
        let mut level = Level::L1;
        loop {
            self.watched_frames.insert(frame_of(at));
            match Stage2Desc::decode(level, self.word(at)) {
                Stage2Desc::Table { next } => {
                    level = level.below()?;
                    at = next.raw() + level.index(page) * 8;
                }
                Stage2Desc::Leaf { pa, attrs, .. } if attrs.access.reads() => {
                    let offset = page & (level.entry_bytes() - 1);
                    return Some((pa.raw() + offset, attrs.access.writes()));
                }
                _ => return None,
            }
        }
    }

    /// All PAs that a machine may take for a page of IPAs; what it reads now is held from now on.
    fn outputs(&mut self, compound: bool, page: u64) -> BTreeSet<(u64, bool)> {
        if !compound {
            return Self::ram(page).map(|pa| (pa, true)).into_iter().collect();
        }
        let now = self.walk_stage2(page);
        let held = self.ours.stage2.entry(page).or_default();
        held.extend(now);
        held.clone()
    }

    /// Fills everything that both machines may fill now.
    pub fn refill(&mut self) {
        self.refill_machines(&[true, false]);
    }

    /// Fills after a store that only the walkers of one machine can see.
    fn refill_machines(&mut self, machines: &[bool]) {
        if self.parked {
            return;
        }
        // Data accesses of the guest to its own tables.
        let ram = RAM_PA..RAM_PA + RAM_BYTES;
        let pages: Vec<u64> = self
            .frames
            .keys()
            .copied()
            .filter(|pa| ram.contains(pa))
            .collect();
        for pa in pages {
            let home = self.inside(pa);
            self.outputs(true, home - RAM_PA + RAM_IPA);
        }
        for &compound in machines {
            for context in 0..self.contexts.len() {
                for probe in 0..self.probes.len() {
                    self.fill(compound, context, self.probes[probe]);
                }
            }
        }
        self.conflicts();
    }

    fn machine(&mut self, compound: bool) -> &mut Machine {
        if compound {
            &mut self.ours
        } else {
            &mut self.guests
        }
    }

    fn fill(&mut self, compound: bool, context: usize, va: u64) {
        let key = (context, va);
        let mut cell = self
            .machine(compound)
            .cells
            .remove(&key)
            .unwrap_or_default();
        cell.now.clear();
        let regs = self.contexts[context];
        let root = if compound { regs.installed } else { regs.root };
        let start = 1;
        for (pa, _) in self.outputs(compound, root) {
            cell.tables[start].insert((pa, 0));
        }
        if cell.tables[start].is_empty() {
            cell.now.insert(Outcome::Stage2(root & ((1 << 39) - 1)));
        }
        for level in [Level::L1, Level::L2, Level::L3] {
            let tables = cell.tables[level.number() as usize].clone();
            for (table, limits) in tables {
                self.read(compound, &mut cell, level, table, limits, va);
            }
        }
        self.machine(compound).cells.insert(key, cell);
    }

    fn read(
        &mut self,
        compound: bool,
        cell: &mut Cell,
        level: Level,
        table: u64,
        limits: u64,
        va: u64,
    ) {
        // The guest's machine names frames by what they hold; ours by where they are.
        let table = if compound { table } else { self.place(table) };
        self.watched_frames.insert(table);
        let index = level.index(va);
        let raw = self.word(table + index * 8);
        match Stage1Desc::decode(level, raw) {
            Stage1Desc::Invalid(_) => {
                cell.now.insert(Outcome::Translation(level.number()));
            }
            Stage1Desc::Table { next, .. } => {
                let limits = limits | raw & (0xf << 59);
                let below = level.number() as usize + 1;
                let outputs = self.outputs(compound, next.raw());
                if outputs.is_empty() {
                    cell.now.insert(Outcome::Stage2(next.raw()));
                }
                cell.tables[below].extend(outputs.into_iter().map(|(pa, _)| (pa, limits)));
            }
            Stage1Desc::Leaf { attrs, .. } if !attrs.accessed => {
                cell.now.insert(Outcome::AccessFlag(level.number()));
            }
            Stage1Desc::Leaf {
                contiguous: false,
                ipa,
                ..
            } => {
                let base = ipa.raw() + (va & (level.entry_bytes() - 1) & !(PAGE_SIZE - 1));
                self.leaf(compound, cell, (raw, limits), base, level.entry_bytes());
            }
            Stage1Desc::Leaf { .. } => {
                // Any entry of the run may speak for all of it.
                let first = index & !(CONTIGUOUS_ENTRIES - 1);
                for other in first..first + CONTIGUOUS_ENTRIES {
                    let raw = self.word(table + other * 8);
                    let Stage1Desc::Leaf {
                        ipa,
                        attrs,
                        contiguous: true,
                    } = Stage1Desc::decode(level, raw)
                    else {
                        continue;
                    };
                    if !attrs.accessed {
                        continue;
                    }
                    let start = ipa.raw().wrapping_sub((other - first) << level.shift());
                    let inside = (index - first) << level.shift();
                    let page = va & (level.entry_bytes() - 1) & !(PAGE_SIZE - 1);
                    let base = start.wrapping_add(inside + page) & bits::TABLE_ADDRESS;
                    let bytes = CONTIGUOUS_BYTES / PAGE_SIZE * level.entry_bytes();
                    self.leaf(compound, cell, (raw, limits), base, bytes);
                }
            }
        }
    }

    fn leaf(
        &mut self,
        compound: bool,
        cell: &mut Cell,
        (raw, limits): (u64, u64),
        page: u64,
        bytes: u64,
    ) {
        let outputs = self.outputs(compound, page);
        if outputs.is_empty() {
            cell.now.insert(Outcome::Stage2(page));
        }
        for (pa, _) in outputs {
            let global = raw & bits::NOT_GLOBAL == 0;
            let outcome = Outcome::Leaf(pa, access_bits(raw, limits), global);
            cell.now.insert(outcome);
            cell.leaves.insert((outcome, bytes));
        }
    }

    /// Looks for leaves of different size held for one address that are not of the guest's making.
    fn conflicts(&mut self) {
        let sizes = |cell: &Cell| -> BTreeSet<u64> {
            cell.leaves.iter().map(|&(_, bytes)| bytes).collect()
        };
        for (key, ours) in &self.ours.cells {
            let guests = self.guests.cells.get(key).map(sizes).unwrap_or_default();
            if sizes(ours).len() > 1 && guests.len() < 2 {
                self.violations
                    .push(format!("{:#x} in {}: {:x?}", key.1, key.0, ours.leaves));
            }
        }
        for (page, held) in &self.ours.stage2 {
            if held
                .iter()
                .any(|&(pa, _)| held.iter().any(|&(other, _)| pa != other))
            {
                self.violations
                    .push(format!("stage 2 of {page:#x} may be held as {held:x?}"));
            }
        }
    }

    /// What the compound machine may do that the guest's own could not.
    pub fn check(&mut self, watched: impl Fn(u64) -> bool) {
        for context in 0..self.contexts.len() {
            for &va in &self.probes {
                let key = (context, va);
                let (Some(ours), Some(guests)) =
                    (self.ours.cells.get(&key), self.guests.cells.get(&key))
                else {
                    continue;
                };
                let theirs: BTreeSet<_> = guests.leaves.iter().map(|&(leaf, _)| leaf).collect();
                let seen = |outcome: Outcome| match outcome {
                    Outcome::Leaf(pa, bits, global) => {
                        Outcome::Leaf(self.inside.get(&pa).copied().unwrap_or(pa), bits, global)
                    }
                    fault => fault,
                };
                for &(leaf, bytes) in &ours.leaves {
                    if !theirs.contains(&seen(leaf)) {
                        self.violations.push(format!(
                            "{va:#x} in {context}: {leaf:x?} of {bytes:#x} bytes is held, the guest \
                             has {theirs:x?}"
                        ));
                    }
                }
                for now in &ours.now {
                    let now = &seen(*now);
                    if !guests.now.contains(now) && !theirs.contains(now) {
                        self.violations.push(format!(
                            "{va:#x} in {context}: {now:x?} now, the guest {:x?}",
                            guests.now
                        ));
                    }
                }
            }
        }
        for (&page, held) in &self.ours.stage2 {
            if watched(page) && held.iter().any(|&(_, writable)| writable) {
                self.violations
                    .push(format!("{page:#x} is watched and held as writable"));
            }
        }
    }

    /// A guest's TLBI, broadcast, on both machines.
    pub fn guest_tlbi(&mut self, tlbi: GuestTlbi) {
        for compound in [true, false] {
            let contexts = self.contexts.clone();
            for (&(context, probe), cell) in &mut self.machine(compound).cells {
                let asid = contexts[context].asid;
                match tlbi {
                    GuestTlbi::All => *cell = Cell::default(),
                    GuestTlbi::Asid(which) if which == asid => {
                        // Tables in a walk cache are tagged with the ASID; global leaves stay.
                        cell.tables = Default::default();
                        cell.leaves
                            .retain(|(leaf, _)| matches!(leaf, Outcome::Leaf(.., true)));
                    }
                    GuestTlbi::Asid(_) => {}
                    GuestTlbi::Va {
                        va,
                        asid: which,
                        last,
                    } => {
                        let tagged = which == asid;
                        cell.leaves.retain(|&(leaf, bytes)| {
                            let covers = va & !(bytes - 1) == probe & !(bytes - 1);
                            let global = matches!(leaf, Outcome::Leaf(.., true));
                            !(covers && (tagged || global))
                        });
                        for level in [Level::L2, Level::L3] {
                            let span = level.above().map_or(0, Level::entry_bytes) - 1;
                            if !last && tagged && va & !span == probe & !span {
                                cell.tables[level.number() as usize].clear();
                            }
                        }
                    }
                }
            }
        }
        self.refill();
    }

    /// The flush that goes with a change of TTBRx by the service: VMALLE1.
    pub fn install(&mut self, context: usize, ipa: u64) {
        self.contexts[context].installed = ipa;
        self.ours.cells.clear();
        self.refill();
    }

    fn flush(&mut self, scope: TlbScope) {
        if self.mutation == Mutation::SkipFlush
            || self.mutation == Mutation::SkipParkedFlush && self.parked
        {
            return;
        }
        match scope {
            TlbScope::None => return,
            TlbScope::Vm => self.ours.stage2.clear(),
            TlbScope::Leaves { start, end, .. } => {
                self.ours
                    .stage2
                    .retain(|&page, _| page < start.raw() || page >= end.raw());
            }
        }
        self.ours.cells.clear();
        self.refill();
    }
}
