//! Many models on one stream of accesses.
//!
//! Each [`Column`] is a core model with a mode; each core of the machine has one [`Mmu`] for every column. An
//! access goes to all of them at the same instant, with the same tables, so columns can be compared
//! row by row. The path through the tables is walked once and priced by each column that misses.
//!
//! A recency filter stands in front: accesses to the page that was fetched from last, or to one of the
//! last few data pages, hit every micro-TLB and skip the models. It changes nothing but the order of use
//! among those few entries.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::blocks::{BlockKey, BlockTally, Shape, shape};
use crate::core::Core;
use crate::counts::{Counts, Region, Tally};
use crate::mmu::{Miss, Mmu, Mode, Use};
use crate::path::{Memory, Path, walk};
use crate::regime::{AddressSpace, Regime, Space};
use crate::tlbi::{Invalidation, Operation, Reach};

/// Data pages that the filter remembers; fewer than the smallest micro-TLB has entries.
const RECENT: usize = 4;
/// No page: addresses are divided by 4096, so this never occurs.
const NONE: u64 = u64::MAX;

/// A core model with a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The core.
    pub core: Core,
    /// Stage 2.
    pub mode: Mode,
}

/// Kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Instruction fetch.
    Fetch,
    /// Load or store.
    Data,
}

/// One core of the machine.
#[derive(Clone, Debug)]
struct Seat {
    regime: Regime,
    space: Space,
    last_fetch: u64,
    recent: [u64; RECENT],
    next: usize,
    mmus: Vec<Mmu>,
}

impl Seat {
    fn forget(&mut self) {
        self.last_fetch = NONE;
        self.recent = [NONE; RECENT];
    }
}

/// The models of all cores of a machine.
#[derive(Clone, Debug)]
pub struct Scope {
    columns: Vec<Column>,
    seats: Vec<Seat>,
    /// For each VMID seen, the counts of each column.
    partitions: Vec<(u16, Vec<Counts>)>,
    /// For each address space that missed, the counts of each column.
    spaces: BTreeMap<AddressSpace, Vec<Tally>>,
    /// For each 2 MiB that misses took through stage 2, what each column with the tables as they are found.
    blocks: BTreeMap<BlockKey, Vec<BlockTally>>,
    /// VAs of files that are mapped shared and writable, with the VMID of who said so.
    file_maps: Vec<(u16, Range<u64>)>,
    /// Accesses that no walk could explain: it should stay at zero.
    pub faults: u64,
    /// Accesses that passed the filter.
    pub events: u64,
    /// Compare each main-TLB hit with a fresh walk (slow).
    pub verify: bool,
}

impl Scope {
    /// Models for a machine with `cores` cores.
    #[must_use]
    pub fn new(columns: Vec<Column>, cores: usize) -> Self {
        let seat = Seat {
            regime: Regime::default(),
            space: Space::default(),
            last_fetch: NONE,
            recent: [NONE; RECENT],
            next: 0,
            mmus: columns
                .iter()
                .map(|column| Mmu::new(&column.core, column.mode))
                .collect(),
        };
        Self {
            columns,
            seats: vec![seat; cores],
            partitions: Vec::new(),
            spaces: BTreeMap::new(),
            blocks: BTreeMap::new(),
            file_maps: Vec::new(),
            faults: 0,
            events: 0,
            verify: false,
        }
    }

    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The registers of a core change.
    pub fn set_regime(&mut self, core: usize, regime: Regime) {
        if let Some(seat) = self.seats.get_mut(core)
            && seat.regime != regime
        {
            if seat.regime.stage1() != regime.stage1() {
                // Flat entries do not serve once stage 1 is on, nor the other way round.
                let invalidation = Invalidation {
                    operation: Operation::Vmid { stage2: false },
                    vmid: seat.space.vmid,
                };
                for mmu in &mut seat.mmus {
                    mmu.invalidate(&invalidation);
                }
            }
            seat.regime = regime;
            seat.space = regime.space();
            seat.forget();
        }
    }

    /// Whether the filter would stop this access; cheap, for the fast path of a caller.
    #[must_use]
    pub fn filtered(&self, core: usize, va: u64, access: Access) -> bool {
        let page = va >> 12;
        self.seats.get(core).is_none_or(|seat| match access {
            Access::Fetch => seat.last_fetch == page,
            Access::Data => seat.recent.contains(&page),
        })
    }

    /// An access by EL0 or EL1 of a core.
    pub fn access(&mut self, core: usize, va: u64, access: Access, memory: &impl Memory) {
        if self.filtered(core, va, access) {
            return;
        }
        let Some(seat) = self.seats.get_mut(core) else {
            return;
        };
        let fetch = access == Access::Fetch;
        if fetch {
            seat.last_fetch = va >> 12;
        } else if let Some(slot) = seat.recent.get_mut(seat.next) {
            *slot = va >> 12;
            seat.next = (seat.next + 1) % RECENT;
        }
        self.events += 1;
        let va = Regime::canonical(va);
        let (regime, space) = (seat.regime, seat.space);
        let counts = partition(&mut self.partitions, space.vmid, self.columns.len());
        let mut found: Option<Path> = None;
        let key = regime.address_space(va >> 55 & 1 != 0);
        for (column, (mmu, counts)) in seat.mmus.iter_mut().zip(counts).enumerate() {
            if mmu.micro_hit(va, space, fetch) {
                continue;
            }
            let hit = mmu.main_hit(va, space, fetch);
            if hit.is_some() {
                counts.main_hits += 1;
                if !self.verify {
                    continue;
                }
            }
            let path = match found {
                Some(path) => path,
                None => match walk(&regime, va, memory) {
                    Ok(path) => *found.insert(path),
                    Err(_) => {
                        self.faults += 1;
                        return;
                    }
                },
            };
            if let Some(entry) = hit {
                let start = va & !((1 << entry.tag.log2) - 1);
                counts.stale += u64::from(entry.output + (va - start) != mmu.output(&path));
                continue;
            }
            let miss = mmu.walk(va, space, fetch, &path);
            let mut maps = self.file_maps.iter();
            let shared = maps.any(|(vmid, range)| *vmid == space.vmid && range.contains(&va));
            counts.miss(Region::of(&regime, va, &path, shared), fetch, miss);
            let empty = || vec![Tally::default(); self.columns.len()];
            let tallies = self.spaces.entry(key).or_insert_with(empty);
            if let Some(tally) = tallies.get_mut(column) {
                tally.note(fetch, miss);
            }
            if path.output.is_some() && mmu.is_as_is() {
                let columns = self.columns.len();
                note_blocks(&mut self.blocks, space.vmid, &path, miss, (column, columns));
            }
        }
    }

    /// A TLBI executed by a core, at EL1 or EL2.
    pub fn invalidate(&mut self, core: usize, operation: Operation, reach: Reach, at_el1: bool) {
        let Some(seat) = self.seats.get(core) else {
            return;
        };
        // EL2 acts on the VMID in VTTBR_EL2 even where stage 2 is off at the moment.
        let vmid = if at_el1 {
            seat.space.vmid
        } else {
            u16::try_from(seat.regime.vttbr >> 48).unwrap_or(0)
        };
        let everywhere = reach == Reach::Shareable || at_el1 && seat.regime.force_broadcast();
        let invalidation = Invalidation { operation, vmid };
        for (index, seat) in self.seats.iter_mut().enumerate() {
            if everywhere || index == core {
                seat.forget();
                for mmu in &mut seat.mmus {
                    mmu.invalidate(&invalidation);
                }
            }
        }
    }

    /// The program that a core runs says that it has mapped a file there, shared and writable.
    pub fn file_map(&mut self, core: usize, va: u64, bytes: u64) {
        if let Some(seat) = self.seats.get(core) {
            let range = va..va.saturating_add(bytes);
            self.file_maps.push((seat.space.vmid, range));
        }
    }

    /// What the programs of a core's VM said of their mappings holds no longer.
    pub fn forget_file_maps(&mut self, core: usize) {
        if let Some(seat) = self.seats.get(core) {
            self.file_maps.retain(|(vmid, _)| *vmid != seat.space.vmid);
        }
    }

    /// VMIDs seen, with the counts of each column.
    #[must_use]
    pub fn partitions(&self) -> &[(u16, Vec<Counts>)] {
        &self.partitions
    }

    /// Address spaces that missed, with the counts of each column.
    #[must_use]
    pub fn spaces(&self) -> &BTreeMap<AddressSpace, Vec<Tally>> {
        &self.spaces
    }

    /// 2 MiB of IPA that misses took through stage 2, with what each column found; columns with other tables found nothing.
    #[must_use]
    pub fn blocks(&self) -> &BTreeMap<BlockKey, Vec<BlockTally>> {
        &self.blocks
    }

    /// What maps a block of the VM that runs on a core.
    #[must_use]
    pub fn shape(&self, core: usize, block: BlockKey, memory: &impl Memory) -> Shape {
        let seat = self.seats.get(core);
        match seat.filter(|seat| seat.space.vmid == block.vmid && seat.regime.stage2()) {
            Some(seat) => shape(&seat.regime, block.ipa, memory),
            None => Shape::Absent,
        }
    }

    /// The address spaces of a core's lower and upper half.
    #[must_use]
    pub fn address_spaces(&self, core: usize) -> [AddressSpace; 2] {
        let regime = self.seats.get(core).map(|seat| seat.regime);
        [false, true].map(|upper| regime.unwrap_or_default().address_space(upper))
    }

    /// What a VM has in the main TLB of a core in a column at this moment.
    #[must_use]
    pub fn reach(&self, core: usize, column: usize, vmid: u16) -> Use {
        let mmu = self.seats.get(core).and_then(|seat| seat.mmus.get(column));
        mmu.map(|mmu| mmu.main_use(vmid)).unwrap_or_default()
    }
}

/// Notes what a miss found of stage 2, in the column of so many.
fn note_blocks(
    blocks: &mut BTreeMap<BlockKey, Vec<BlockTally>>,
    vmid: u16,
    path: &Path,
    miss: Miss,
    (column, columns): (usize, usize),
) {
    let tables = path.descriptors.iter().map(|&ipa| (ipa, true));
    let steps = tables.chain([(path.leaf.ipa, false)]).zip(miss.steps);
    for ((ipa, tables), reads) in steps {
        let Some(reads) = reads else { continue };
        let found = blocks.entry(BlockKey::around(vmid, ipa, tables));
        let tallies = found.or_insert_with(|| vec![BlockTally::default(); columns]);
        if let Some(tally) = tallies.get_mut(column) {
            tally.translations += 1;
            tally.reads += u64::from(reads);
        }
    }
}

fn partition(all: &mut Vec<(u16, Vec<Counts>)>, vmid: u16, columns: usize) -> &mut [Counts] {
    let place = all.iter().position(|(known, _)| *known == vmid);
    let place = place.unwrap_or_else(|| {
        all.push((vmid, vec![Counts::default(); columns]));
        all.len() - 1
    });
    all.get_mut(place)
        .map_or(&mut [], |(_, counts)| counts.as_mut_slice())
}
