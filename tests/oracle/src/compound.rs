//! Two machines on one memory: one walks the compound tables under the real stage 2, the other the
//! guest's own tables under an ideal one.
//!
//! Both have several vCPUs, and both hoard: for each *probe* (a page, in a *context* of a vCPU: a
//! half, an ASID and a root) they keep every leaf, every table in a walk cache and every stage-2
//! translation that hardware could have read at any moment since a TLBI that covers it. Walkers look after every store
//! to a word that a walk has read, and after every flush, unless the vCPUs are parked. The claim:
//! whatever the compound machine may do, the guest's own machine might have done. So what it holds,
//! and every fault that it could take, at the end of a step and at any moment of it, must be among what the other
//! holds and could take; leaves of
//! two sizes for one address are a conflict unless the guest made it itself; no TLB may hold a
//! watched page as writable, a page that moves, or a freed stage-2 table.
//!
//! [`World::check`] judges that for the probes; [`World::compare`] holds the two trees against each
//! other, descriptor by descriptor, for every VA, as a walk without TLBs would find them.

mod compare;
mod handle;
mod machine;
mod memory;
mod mutation;
mod pages;
mod verdict;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use penumbra_paging::{IPA_SPACE_BYTES, TlbScope, WINDOW_BIT};
use penumbra_vmsa::{CONTIGUOUS_ENTRIES, Level, PAGE_SIZE, Stage2Desc, bits};

use machine::Machine;
pub use machine::Outcome;
use memory::Memory;
pub use mutation::Mutation;
use pages::{Held, Output};

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

/// vCPUs.
pub const VCPUS: usize = 2;
/// Contexts of each: 0 and 1 take turns in TTBR0 with ASIDs of their own, 2 is in TTBR1.
pub const CONTEXTS: usize = 3;
/// Regions of 2 MiB that are looked at in each context.
pub const REGIONS: usize = 6;
/// Pages looked at in each region.
pub const LOWS: usize = 6;
/// Slots of the tables at levels 0 to 2 that lead to the regions; without a level 0 all lie below its first.
const REGION_SLOTS: [(u64, u64, u64); REGIONS] = [
    (0, 0, 0),
    (0, 0, 1),
    (1, 0, 7),
    (1, 1, 0),
    (0, 1, 1),
    (0, 1, 7),
];
/// PXNTable, UXNTable and APTable.
const LIMITS: u64 = 0xf << 59;

/// What TCR_EL1 says of both halves, and which pages the machines look at.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Level of the roots: 0 or 1.
    pub start: Level,
    /// Tables' limits on permissions are ignored (HPD0, HPD1).
    pub flat: bool,
    /// Pages to look at in each region.
    pub lows: [u64; LOWS],
}

/// What a vCPU's registers say in one context.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// ASID of its non-global entries.
    pub asid: u16,
    /// The guest's root.
    pub root: u64,
}

/// A guest's maintenance operation, EL1.
#[derive(Clone, Copy, Debug)]
pub enum GuestTlbi {
    /// VMALLE1.
    All,
    /// ASIDE1.
    Asid(u16),
    /// VAE1, or VALE1 if `last`; VAAE1, or VAALE1, without an ASID.
    Va {
        /// Address.
        va: u64,
        /// ASID.
        asid: Option<u16>,
        /// Leaf entries only.
        last: bool,
    },
}

/// A store by another vCPU, while the service works.
#[derive(Clone, Copy, Debug)]
pub struct Race {
    /// IPA of the word.
    pub ipa: u64,
    /// What is stored.
    pub value: u64,
    /// Stores of the service before it.
    pub after: u32,
}

/// The memory and both machines.
#[derive(Debug)]
pub struct World {
    memory: Memory,
    contexts: [Context; CONTEXTS],
    installed: [[u64; CONTEXTS]; VCPUS],
    shape: Shape,
    ours: Machine,
    guests: Machine,
    /// Counts changes of stage 2.
    generation: u64,
    /// The other vCPUs are parked: nothing is filled.
    pub parked: bool,
    /// A store is being mirrored.
    pub storing: bool,
    /// A page is being moved.
    pub moving: bool,
    /// A store that another vCPU makes; gone once it was made.
    pub race: Option<Race>,
    /// Pages whose walk met a cleared access flag in stage 2: EL2 gets the fault.
    pub hits: BTreeSet<u64>,
    /// Pages that the hypervisor has taken from the guest.
    absent: BTreeSet<u64>,
    mutation: Mutation,
    delayed: Vec<(u64, u64)>,
    /// A word that a mirrored store has just changed, and what it was: while that lasts, the guest's own walkers may read
    /// either.
    torn: Option<(u64, u64)>,
    split: Option<u64>,
    /// Which page of RAM, by its first PA, lies in a frame, and the reverse, by number of the frame.
    inside: Vec<u64>,
    places: Vec<u64>,
    /// What went wrong.
    pub violations: Vec<String>,
    /// Times that the walkers looked.
    pub looks: u64,
}

/// Of a leaf's bits: stage 2 takes away from what stage 1 says of type, shareability or fetches. No guest has it.
const NOT_PLAIN: u64 = 1;

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
    pub fn handle(contexts: [Context; CONTEXTS], shape: Shape, mutation: Mutation) -> Handle {
        Handle(Rc::new(RefCell::new(Self {
            memory: Memory::new(),
            contexts,
            installed: [contexts.map(|context| context.root); VCPUS],
            shape,
            ours: Machine::new(),
            guests: Machine::new(),
            generation: 1,
            parked: false,
            storing: false,
            moving: false,
            race: None,
            hits: BTreeSet::new(),
            absent: BTreeSet::new(),
            mutation,
            delayed: Vec::new(),
            torn: None,
            split: None,
            inside: (RAM_PA..RAM_PA + RAM_BYTES)
                .step_by(PAGE_SIZE as usize)
                .collect(),
            places: (RAM_PA..RAM_PA + RAM_BYTES)
                .step_by(PAGE_SIZE as usize)
                .collect(),
            violations: Vec::new(),
            looks: 0,
        })))
    }

    /// Limits that a table descriptor puts on what is below it.
    fn limits(&self, raw: u64) -> u64 {
        if self.shape.flat { 0 } else { raw & LIMITS }
    }

    /// The page number `low` that is looked at in a region.
    #[must_use]
    pub fn va(&self, region: usize, low: usize) -> u64 {
        let (top, high, middle) = REGION_SLOTS[region];
        let top = if self.shape.start == Level::L0 {
            top
        } else {
            0
        };
        top << 39 | high << 30 | middle << 21 | self.shape.lows[low] << 12
    }

    /// Lets stage 2 have so many tables more than it has now; without a number as many as it likes.
    pub fn limit_tables(&mut self, more: Option<usize>) {
        self.memory.most = more.map_or(usize::MAX, |more| self.memory.live.len() + more);
    }

    /// Reads a word.
    #[must_use]
    pub fn word(&self, at: u64) -> u64 {
        self.memory.word(at)
    }

    /// Writes a word, as a guest or as the test itself.
    pub fn put(&mut self, at: u64, raw: u64) {
        self.memory.put(at, raw);
    }

    /// Where a page of RAM, given by its first PA, is now.
    fn place(&self, home: u64) -> u64 {
        let number = home.wrapping_sub(RAM_PA) / PAGE_SIZE;
        let frame = self.places.get(number as usize).copied();
        frame.map_or(home, |frame| frame | (home & (PAGE_SIZE - 1)))
    }

    /// Whether everything lies in its own frame.
    #[must_use]
    pub fn is_home(&self) -> bool {
        self.inside == self.places && self.inside.is_sorted()
    }

    fn inside(&self, pa: u64) -> u64 {
        let number = pa.wrapping_sub(RAM_PA) / PAGE_SIZE;
        self.inside.get(number as usize).copied().unwrap_or(pa)
    }

    /// Says which page of RAM lies in a frame.
    fn put_inside(&mut self, pa: u64, home: u64) {
        let number = |at: u64| (at.wrapping_sub(RAM_PA) / PAGE_SIZE) as usize;
        self.inside[number(pa)] = home;
        self.places[number(home)] = pa;
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

    /// What the ideal stage 2 says of a page.
    fn ideal(&self, page: u64) -> Option<u64> {
        Self::ram(page).filter(|_| !self.absent.contains(&page))
    }

    /// Walks the real stage 2 for a page. There are several outputs only where runs are not what they should be.
    fn walk_stage2(&mut self, page: u64) -> Held {
        let mut held = Held::default();
        if page >= IPA_SPACE_BYTES {
            return held;
        }
        let mut at = STAGE2_ROOT + (page >> Level::L1.shift()) * 8;
        let mut level = Level::L1;
        loop {
            if level > Level::L1 {
                self.walk_run(page, level, at, &mut held);
            }
            match Stage2Desc::decode(level, self.memory.walk(at)) {
                Stage2Desc::Table { next } => {
                    let Some(below) = level.below() else { break };
                    level = below;
                    let table = (next.raw(), level);
                    if !self.ours.stage2_tables.contains(&table) {
                        self.ours.stage2_tables.push(table);
                    }
                    at = next.raw() + level.index(page) * 8;
                    continue;
                }
                Stage2Desc::Leaf { pa, attrs, .. } if attrs.access.reads() => {
                    let offset = page & (level.entry_bytes() - 1);
                    if !attrs.accessed {
                        self.hits.insert(page);
                    } else if let Some(output) = Output::new(pa.raw() + offset, attrs) {
                        held.add(output);
                    }
                }
                _ => {}
            }
            break;
        }
        held
    }

    /// Each descriptor of a contiguous run may speak for all of it, for an access elsewhere in it.
    fn walk_run(&mut self, page: u64, level: Level, at: u64, held: &mut Held) {
        let first = at & !(CONTIGUOUS_ENTRIES * 8 - 1);
        for other in 0..CONTIGUOUS_ENTRIES {
            let raw = self.memory.walk(first + other * 8);
            if raw & bits::CONTIGUOUS == 0 {
                continue;
            }
            if let Stage2Desc::Leaf { pa, attrs, .. } = Stage2Desc::decode(level, raw)
                && attrs.accessed
            {
                let start = pa.raw().wrapping_sub(other << level.shift());
                let offset = page & (level.run_bytes() - 1);
                if let Some(output) = Output::new(start.wrapping_add(offset), attrs) {
                    held.add(output);
                }
            }
        }
    }

    /// Whether a page cannot be reached only because its access flag is being sampled.
    fn sampled(&self, compound: bool, page: u64) -> bool {
        compound && self.hits.contains(&page)
    }

    /// Begins a step: from here on, walkers look after stores to words that they read in it.
    pub fn begin(&mut self) {
        self.memory.forget();
        self.generation += 1;
        for machine in [&mut self.ours, &mut self.guests] {
            for found in machine.found.iter_mut().flatten() {
                found.clear();
            }
        }
        self.refill();
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
        self.looks += 1;
        for &compound in machines {
            for cell in 0..self.ours.cells.len() {
                self.fill(compound, cell);
            }
        }
        // Between the mirror's store and the guest's own, ours is ahead.
        if !self.storing || machines.len() == 2 {
            self.conflicts();
        }
    }

    /// Notes what a walk of the guest's own may find that reads a word twice, as that of a table which maps itself
    /// does, and meets it once before the store and once behind it. Nothing of it is held.
    fn note_torn(&mut self, at: u64, old: u64) {
        if self.parked {
            return;
        }
        let held = self.guests.cells.clone();
        self.torn = Some((at, old));
        for cell in 0..held.len() {
            self.fill(false, cell);
        }
        self.torn = None;
        self.guests.cells = held;
    }

    /// Data accesses of the guest to a page, by its own IPA.
    pub fn access(&mut self, page: u64) {
        if !self.parked {
            self.outputs(true, page);
        }
    }

    /// Puts a root into TTBRx of a vCPU's context, with VMALLE1 on that vCPU. What the guest reads
    /// back may be an alias; the guest's own machine has the root in both cases.
    pub fn install(&mut self, vcpu: usize, context: usize, ipa: u64) {
        self.installed[vcpu][context] = ipa;
        if self.mutation != Mutation::PlantWithoutFlush {
            self.ours.clear(Some(vcpu));
        }
        self.refill();
    }

    /// What is in TTBRx.
    #[must_use]
    pub fn installed(&self, vcpu: usize, context: usize) -> u64 {
        self.installed[vcpu][context]
    }

    /// Says that the guest has not touched a page yet, or does now.
    pub fn set_absent(&mut self, page: u64, absent: bool) {
        if absent {
            self.absent.insert(page);
            // Nobody has walked there yet.
            self.guests.clear(None);
            self.ours.clear(None);
        } else {
            self.absent.remove(&page);
        }
        self.refill();
    }

    /// Pages that the guest has not touched yet.
    #[must_use]
    pub fn absent(&self) -> Vec<u64> {
        self.absent.iter().copied().collect()
    }

    /// Drops all that ours holds, as a flush of everything does.
    fn flush_all(&mut self) {
        self.ours.stage2.clear();
        self.ours.stage2_tables.clear();
        self.ours.clear(None);
        self.generation += 1;
        self.refill();
    }

    fn flush(&mut self, scope: TlbScope) {
        let skipped = match self.mutation {
            Mutation::SkipFlush => true,
            Mutation::SkipParkedFlush => self.parked,
            Mutation::SkipMoveFlush => self.moving,
            Mutation::SkipWholeFlush => scope == TlbScope::Vm,
            _ => false,
        };
        if skipped || scope == TlbScope::None {
            return;
        }
        if self.mutation != Mutation::FlushStage1Only {
            match scope {
                TlbScope::Leaves { start, end, .. } => {
                    self.ours.stage2.clear_range(start.raw(), end.raw());
                }
                _ => {
                    self.ours.stage2.clear();
                    self.ours.stage2_tables.clear();
                }
            }
        }
        self.generation += 1;
        match self.mutation {
            Mutation::FlushStage2Only => {}
            Mutation::FlushOneVcpu => self.ours.clear(Some(0)),
            _ => self.ours.clear(None),
        }
        self.refill();
    }
}

/// Whether an IPA is a root's alias in the window.
fn is_alias(ipa: u64) -> bool {
    ipa & WINDOW_BIT != 0
}
