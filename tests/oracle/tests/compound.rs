//! Random guests and random decisions to shadow and demote, against the guest's own machine.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test: its panic is a finding"
)]

use penumbra_oracle::compound::{
    Context, GuestTlbi, Handle, Mutation, POOL_PA, RAM_BYTES, RAM_IPA, RAM_PA, STAGE2_ROOT, World,
};
use penumbra_paging::{
    Access, Compound, Counters, Mapping, Parked, Relayout, ShadowError, SpaceId, Stage1Regs,
    Stage2, Stored, SurveyStep,
};
use penumbra_vmsa::{
    Half, Ipa, Level, PAGE_SIZE, Pa, Stage, Stage2Attrs, Tcr, Ttbr, Va, bits, requires_bbm,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// Guest table pages: three roots, four level-2 tables, eight level-3 tables.
const PAGES: usize = 15;
const ROOTS: usize = 3;
const INDICES: [u64; 9] = [0, 1, 2, 7, 15, 16, 17, 31, 511];

fn page(which: usize) -> u64 {
    RAM_IPA + 0x20_0000 + which as u64 * 0x3000
}

fn level_of(which: usize) -> Level {
    match which {
        0..3 => Level::L1,
        3..7 => Level::L2,
        _ => Level::L3,
    }
}

fn probes() -> Vec<u64> {
    let mut probes = Vec::new();
    for high in [0, 1] {
        for middle in [0, 1, 7] {
            for low in [0, 1, 15, 16, 31, 511] {
                probes.push(high << 30 | middle << 21 | low << 12);
            }
        }
    }
    probes
}

/// Regions of the booted guest: context, VA, page of the table.
const TARGETS: [(usize, u64, usize); 4] = [
    (2, 1 << 21, 12),
    (0, (1 << 30) | (7 << 21), 14),
    (0, 1 << 21, 8),
    (2, 1 << 21, 6),
];

/// What a guest writes into a table.
#[derive(Clone, Copy, Debug)]
enum Value {
    Zero,
    Junk,
    Table { to: usize, limits: u8 },
    Leaf { out: u8, attrs: u16 },
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// One store; `decodable` stores are emulated, others demote.
    Store {
        page: usize,
        index: usize,
        value: Value,
        decodable: bool,
        soften: bool,
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
    Tlbi {
        kind: u8,
        probe: usize,
        asid: u16,
    },
    Plant {
        context: usize,
        race: Option<(u8, u8)>,
    },
    Shadow {
        context: usize,
        probe: usize,
        level: u8,
    },
    DemotePage {
        page: usize,
    },
    Evict,
    Drop {
        context: usize,
    },
    Revive {
        context: usize,
    },
    Forget {
        page: usize,
    },
    Survey {
        context: usize,
    },
    /// Shadows a region of the booted guest and, if it still can, begins to re-lay it out.
    Relayout {
        user: bool,
        partner: u8,
    },
    /// Shadows a region of the booted guest and stores to its table.
    Aim {
        target: usize,
        index: usize,
        value: Value,
        soften: bool,
    },
    /// Pages to move, in eighths of the region.
    Move {
        eighths: u8,
    },
}

fn attrs() -> impl Strategy<Value = u16> {
    // Mostly plain, so that tables line up now and then.
    prop_oneof![3 => Just(0), 1 => Just(1), 2 => 0..512_u16]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Zero),
        1 => Just(Value::Junk),
        3 => (0..PAGES, 0..16_u8).prop_map(|(to, limits)| Value::Table { to, limits }),
        3 => (0..32_u8, attrs()).prop_map(|(out, attrs)| Value::Leaf { out, attrs }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let context = || 0..ROOTS;
    let probe = || 0..36_usize;
    prop_oneof![
        24 => (0..PAGES, 0..INDICES.len(), value(), prop::bool::weighted(0.9), any::<bool>())
            .prop_map(|(page, index, value, decodable, soften)| {
                Op::Store { page, index, value, decodable, soften }
            }),
        2 => (3..PAGES, 0..32_u8, attrs()).prop_map(|(page, out, attrs)| Op::Fill { page, out, attrs }),
        1 => (7..PAGES, 0..2_u8, 0..32_u8, attrs())
            .prop_map(|(page, run, out, attrs)| Op::FillRun { page, run, out, attrs }),
        6 => (0..4_u8, probe(), 1..3_u16).prop_map(|(kind, probe, asid)| Op::Tlbi { kind, probe, asid }),
        6 => (context(), prop::option::of((0..9_u8, 0..32_u8)))
            .prop_map(|(context, race)| Op::Plant { context, race }),
        24 => (context(), probe(), 2..4_u8)
            .prop_map(|(context, probe, level)| Op::Shadow { context, probe, level }),
        1 => (0..PAGES).prop_map(|page| Op::DemotePage { page }),
        2 => Just(Op::Evict),
        1 => context().prop_map(|context| Op::Drop { context }),
        2 => context().prop_map(|context| Op::Revive { context }),
        1 => (0..PAGES).prop_map(|page| Op::Forget { page }),
        1 => context().prop_map(|context| Op::Survey { context }),
        4 => (any::<bool>(), 0..4_u8).prop_map(|(user, partner)| Op::Relayout { user, partner }),
        8 => (0..TARGETS.len(), 0..INDICES.len(), value(), any::<bool>()).prop_map(
            |(target, index, value, soften)| Op::Aim { target, index, value, soften }
        ),
        8 => (1..9_u8).prop_map(|eighths| Op::Move { eighths }),

    ]
}

/// Attribute bits of a leaf from a small number: AF unless bit 8 is set.
fn leaf_bits(attrs: u16) -> u64 {
    let attrs = u64::from(attrs);
    let bit = |from: u32, to: u32| (attrs >> from & 1) << to;
    (!attrs >> 8 & 1) << 10
        | 3 << 8
        | bit(0, 11)
        | bit(1, 7)
        | bit(2, 6)
        | bit(3, 2)
        | bit(4, 54)
        | bit(5, 53)
        | bit(6, 55)
        | (attrs >> 7 & attrs >> 6 & 1) << 52
}

fn raw_of(level: Level, value: Value) -> u64 {
    match value {
        Value::Zero => 0,
        Value::Junk => 0xdead_beef_0000 | bits::AF,
        Value::Table { to, limits } if level != Level::L3 => {
            // No limits three times out of four.
            let limits = if limits < 12 {
                0
            } else {
                u64::from(limits & 3) << 61 | 1 << 59
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

fn out_of(level: Level, out: u8) -> u64 {
    match level {
        Level::L3 => RAM_IPA + 0x20_0000 + u64::from(out) * PAGE_SIZE,
        Level::L2 => RAM_IPA + (u64::from(out) << 21),
        _ => RAM_IPA,
    }
}

/// A guest as it may look after boot: shared tables, a linear map, blocks, runs.
fn boot(world: &Handle) {
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
        (6, 0, 11, 0),
        (6, 1, 12, 0),
        (6, 7, 13, 0b0100),
    ] {
        put(which, index, table(to, limits));
    }
    let not_global = 1_u64 << 11;
    let page_at = |ipa: u64, bits_of: u64| ipa | leaf_bits(0) | bits_of | bits::TABLE;
    put(
        4,
        1,
        (RAM_IPA + (4 << 20)) | leaf_bits(0) | not_global | bits::VALID,
    );
    for index in 0..512 {
        put(
            5,
            index,
            (RAM_IPA + (index << 21)) | leaf_bits(0) | not_global | bits::VALID,
        );
        // Two tables in a row, and one in runs of 16 that lie crosswise.
        put(
            8,
            index,
            page_at(RAM_IPA + (6 << 20) + (index << 12), not_global),
        );
        put(11, index, page_at(RAM_IPA + (2 << 20) + (index << 12), 0));
        // A user region whose pages lie anywhere, some of them in partners of re-layouts.
        put(
            14,
            index,
            page_at(RAM_IPA + (20 << 20) + ((index * 5 % 1024) << 12), 1 << 6),
        );
        put(
            12,
            index,
            page_at(RAM_IPA + (8 << 20) + ((index ^ 0x10) << 12), 1 << 54),
        );
    }
    for index in [0, 1, 15, 16, 31, 511] {
        put(7, index, page_at(RAM_IPA + ((index * 7) << 12), not_global));
        put(9, index, page_at(RAM_IPA + ((index * 5) << 12), 1 << 6));
        put(10, index, page_at(page(3 + index as usize % 8), 1 << 7));
        put(
            13,
            index,
            page_at(page(index as usize % PAGES), 1 << 6 | not_global),
        );
    }
}

struct Rig {
    world: Handle,
    stage2: Stage2,
    compound: Compound<4, 20, 1>,
    spaces: [Option<SpaceId>; ROOTS],
    audited: bool,
    work: Option<Relayout>,
}

macro_rules! vm {
    ($rig:expr, $memory:ident, $tlb:ident) => {
        &mut Access {
            stage2: &mut $rig.stage2,
            memory: &mut $memory,
            tlb: &mut $tlb,
        }
    };
}

fn regs() -> Stage1Regs {
    let cached = 0b11_01_01;
    let tcr = 25 | 25 << 16 | cached << 8 | cached << 24 | 2 << 30 | 2 << 32;
    Stage1Regs {
        sctlr: 0b101,
        tcr: Tcr::new(tcr),
        ttbr0: Ttbr::new(page(0)),
        ttbr1: Ttbr::new(page(2)),
    }
}

impl Rig {
    fn new(mutation: Mutation, thin: bool) -> Self {
        let contexts: Vec<_> = (0..ROOTS)
            .map(|which| Context {
                asid: if which == 1 { 2 } else { 1 },
                root: page(which),
                installed: page(which),
            })
            .collect();
        let world = World::handle(&contexts, &probes(), mutation);
        let mut memory = world.clone();
        let mut tlb = world.clone();
        let mut stage2 = Stage2::new(Pa::truncated(STAGE2_ROOT)).unwrap();
        let ram = Mapping {
            largest: if thin { Level::L3 } else { Level::L1 },
            ..Mapping::new(
                Ipa::truncated(RAM_IPA),
                Pa::truncated(RAM_PA),
                RAM_BYTES,
                Stage2Attrs::RAM,
            )
        };
        stage2.map(&mut memory, ram).unwrap();
        boot(&world);
        let mut rig = Self {
            world,
            stage2,
            compound: Compound::new(),
            spaces: [None; ROOTS],
            work: None,
            audited: mutation == Mutation::Honest,
        };
        let pool = Pa::truncated(POOL_PA);
        rig.compound
            .add_pool_block(vm!(rig, memory, tlb), pool)
            .unwrap();
        rig.world.0.borrow_mut().refill();
        rig
    }

    fn word(&self, ipa: u64) -> u64 {
        self.world.0.borrow().guest_word(ipa)
    }

    /// Runs a structural edit with the other vCPUs parked.
    fn parked<R>(&mut self, edit: impl FnOnce(&mut Self, &Parked) -> R) -> R {
        self.world.0.borrow_mut().parked = true;
        let result = edit(self, &Parked::all_others());
        self.world.0.borrow_mut().parked = false;
        self.world.0.borrow_mut().refill();
        result
    }

    /// A store as the guest sees it: done, whatever it takes.
    fn store(&mut self, ipa: u64, value: u64, decodable: bool, soften: bool) {
        for _ in 0..4 {
            let writable = self
                .stage2
                .lookup(&self.world, Ipa::truncated(ipa))
                .unwrap();
            if writable.attrs.access.writes() {
                let mut world = self.world.0.borrow_mut();
                world.guest_put(ipa, value);
                world.refill();
                return;
            }
            let at = Ipa::truncated(ipa);
            let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
            let mut stored = Stored::Structural;
            if decodable {
                self.world.0.borrow_mut().storing = true;
                stored = self.compound.store(vm!(self, memory, tlb), at, value);
                self.world.0.borrow_mut().storing = false;
            }
            match stored {
                Stored::Mirrored => {
                    if self.word(ipa) != value {
                        let lost = format!("the store to {ipa:#x} is lost");
                        self.world.0.borrow_mut().violations.push(lost);
                    }
                    self.world.0.borrow_mut().refill();
                    return;
                }
                Stored::Structural => self.parked(|rig, parked| {
                    let vm = vm!(rig, memory, tlb);
                    if decodable && soften {
                        rig.compound.soften(vm, at, parked);
                    } else {
                        rig.compound.demote_page(vm, at, parked);
                    }
                }),
                Stored::NotWatched => {
                    let stuck = format!("{ipa:#x} is read-only, and nobody watches it");
                    self.world.0.borrow_mut().violations.push(stuck);
                    return;
                }
            }
        }
        let stuck = format!("the store to {ipa:#x} never succeeds");
        self.world.0.borrow_mut().violations.push(stuck);
    }

    fn tlbi(&mut self, tlbi: GuestTlbi) {
        self.world.0.borrow_mut().guest_tlbi(tlbi);
    }

    /// A guest that keeps to break-before-make.
    fn guest_store(&mut self, which: usize, index: u64, new: u64, decodable: bool, soften: bool) {
        let ipa = page(which) + index * 8;
        let level = level_of(which);
        let old = self.word(ipa);
        let hint =
            |raw: u64| bits::kind(level, raw) == bits::Kind::Leaf && raw & bits::CONTIGUOUS != 0;
        if requires_bbm(Stage::One, level, old, new) || hint(old) || hint(new) {
            self.store(ipa, 0, decodable, soften);
            self.tlbi(GuestTlbi::All);
        }
        self.store(ipa, new, decodable, soften);
    }

    fn apply(&mut self, op: Op) -> Result<(), ShadowError> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        match op {
            Op::Store {
                page: which,
                index,
                value,
                decodable,
                soften,
            } => {
                let raw = raw_of(level_of(which), value);
                self.guest_store(which, INDICES[index], raw, decodable, soften);
            }
            Op::Fill {
                page: which,
                out,
                attrs,
            } => {
                self.fill(which, 0..512, out & 31, attrs & !(1 << 6));
            }
            Op::FillRun {
                page: which,
                run,
                out,
                attrs,
            } => {
                let first = u64::from(run) * 16;
                self.fill(which, first..first + 16, out & 16, attrs & !(1 << 6));
            }
            Op::Tlbi { kind, probe, asid } => self.tlbi(match kind {
                0 => GuestTlbi::All,
                1 => GuestTlbi::Asid(asid),
                last => GuestTlbi::Va {
                    va: probes()[probe],
                    asid,
                    last: last == 2,
                },
            }),
            Op::Plant { context, race } => self.plant(context, race)?,
            Op::Shadow {
                context,
                probe,
                level,
            } => {
                let Some(space) = self.spaces[context] else {
                    return Ok(());
                };
                let va = Va::truncated(probes()[probe]);
                let level = Level::new(u32::from(level)).unwrap();
                self.parked(|rig, parked| {
                    rig.compound
                        .shadow(vm!(rig, memory, tlb), space, va, level, parked)
                })?;
            }
            Op::DemotePage { page: which } => self.parked(|rig, parked| {
                let at = Ipa::truncated(page(which));
                rig.compound.demote_page(vm!(rig, memory, tlb), at, parked);
            }),
            Op::Evict => self.parked(|rig, parked| {
                rig.compound.evict(vm!(rig, memory, tlb), parked);
            }),
            Op::Drop { context } => self.drop_space(context),
            Op::Revive { context } => {
                let Some(space) = self.spaces[context] else {
                    return Ok(());
                };
                self.parked(|rig, parked| {
                    rig.compound.revive(vm!(rig, memory, tlb), space, parked)
                })?;
            }
            Op::Forget { page: which } => {
                if which < ROOTS {
                    self.drop_space(which);
                }
                self.parked(|rig, parked| {
                    let at = Ipa::truncated(page(which));
                    rig.compound.forget_page(vm!(rig, memory, tlb), at, parked);
                });
            }
            Op::Survey { context } => self.survey(context),
            Op::Relayout { user, partner } => {
                let (context, va, _) = TARGETS[usize::from(user)];
                self.aim(context, va)?;
                let Some(space) = self.spaces[context] else {
                    return Ok(());
                };
                let partner = Ipa::truncated(RAM_IPA + ((20 + u64::from(partner) * 2) << 20));
                let vm: &Access<'_, _, _> = vm!(self, memory, tlb);
                let va = Va::truncated(va);
                self.work = Some(self.compound.relayout(vm, space, va, partner, !user)?);
            }
            Op::Aim {
                target,
                index,
                value,
                soften,
            } => {
                let (context, va, which) = TARGETS[target];
                self.aim(context, va)?;
                let raw = raw_of(level_of(which), value);
                self.guest_store(which, INDICES[index], raw, true, soften);
            }
            Op::Move { eighths } => self.relayout_some(eighths)?,
        }
        Ok(())
    }

    fn plant(&mut self, context: usize, race: Option<(u8, u8)>) -> Result<(), ShadowError> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let half = if context == 2 { Half::High } else { Half::Low };
        let mut regs = regs();
        if context == 1 {
            regs.ttbr0 = Ttbr::new(page(1));
        }
        // Another vCPU fills an empty slot while the root is being copied.
        self.world.0.borrow_mut().race = race.and_then(|(index, out)| {
            let ipa = page(context) + INDICES[usize::from(index)] * 8;
            let value = raw_of(Level::L1, Value::Leaf { out, attrs: 0 });
            (self.word(ipa) & 1 == 0).then(|| (World::ram(ipa).unwrap(), value))
        });
        let planted = self.compound.plant(vm!(self, memory, tlb), &regs, half);
        self.world.0.borrow_mut().race = None;
        let (space, alias) = planted?;
        self.spaces[context] = Some(space);
        self.world.0.borrow_mut().install(context, alias.raw());
        Ok(())
    }

    fn drop_space(&mut self, context: usize) {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let Some(space) = self.spaces[context].take() else {
            return;
        };
        self.world.0.borrow_mut().install(context, page(context));
        self.parked(|rig, parked| {
            rig.compound
                .drop_space(vm!(rig, memory, tlb), space, parked);
        });
    }

    /// Clears entries, flushes, and fills them with leaves in a row.
    fn fill(&mut self, which: usize, range: std::ops::Range<u64>, out: u8, attrs: u16) {
        let level = level_of(which);
        // Nothing is judged before the guest's flush and the end, so the walkers may rest between.
        self.world.0.borrow_mut().parked = true;
        for index in range.clone() {
            self.quiet(page(which) + index * 8, 0);
        }
        self.tlbi(GuestTlbi::All);
        for index in range.clone() {
            let first = out_of(level, out) & !((CONGRUENT << level.shift()) - 1);
            let step = (index - range.start) << level.shift();
            let leaf = raw_of(level, Value::Leaf { out: 0, attrs }) & !bits::TABLE_ADDRESS;
            self.quiet(
                page(which) + index * 8,
                leaf | (first + step) & bits::TABLE_ADDRESS,
            );
        }
        self.world.0.borrow_mut().parked = false;
        self.world.0.borrow_mut().refill();
    }

    /// A store with the walkers at rest.
    fn quiet(&mut self, ipa: u64, value: u64) {
        let at = Ipa::truncated(ipa);
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        if self.compound.is_watched(at.align_down(PAGE_SIZE)) {
            let parked = Parked::all_others();
            self.compound
                .demote_page(vm!(self, memory, tlb), at, &parked);
        }
        self.world.0.borrow_mut().guest_put(ipa, value);
    }
    /// Shadows the level-3 table of a region, if it is not so already.
    fn aim(&mut self, context: usize, va: u64) -> Result<(), ShadowError> {
        self.plant(context, None)?;
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let Some(space) = self.spaces[context] else {
            return Ok(());
        };
        self.parked(|rig, parked| {
            let vm = vm!(rig, memory, tlb);
            let _ = rig.compound.revive(vm, space, parked);
            let _ = rig
                .compound
                .shadow(vm, space, Va::truncated(va), Level::L3, parked);
        });
        Ok(())
    }

    /// Moves pages; the walkers look on for the first and the last few.
    fn relayout_some(&mut self, eighths: u8) -> Result<(), ShadowError> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let Some(mut work) = self.work.take() else {
            return Ok(());
        };
        let pages = u64::from(eighths) * 64;
        for page in 0..pages {
            self.world.0.borrow_mut().parked = page > 3 && page < pages - 3;
            self.world.0.borrow_mut().moving = true;
            let done = self
                .compound
                .relayout_step(vm!(self, memory, tlb), &mut work);
            self.world.0.borrow_mut().moving = false;
            if !matches!(done, Ok(false)) {
                self.world.0.borrow_mut().parked = false;
                self.world.0.borrow_mut().refill();
                done?;
                return self.parked(|rig, parked| {
                    rig.compound
                        .relayout_finish(vm!(rig, memory, tlb), &work, parked)
                });
            }
        }
        self.world.0.borrow_mut().refill();
        self.work = Some(work);
        Ok(())
    }

    fn survey(&mut self, context: usize) {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let Some(space) = self.spaces[context] else {
            return;
        };
        let mut from = Some(Va::truncated(0));
        for _ in 0..64 {
            let Some(va) = from else { return };
            let vm: &Access<'_, _, _> = vm!(self, memory, tlb);
            match self.compound.survey(vm, space, va) {
                SurveyStep::Found(region, next) => {
                    let table = region.table.raw();
                    let valid = (0..512)
                        .filter(|i| memory.word_of(table + i * 8) & 1 != 0)
                        .count();
                    assert_eq!(usize::from(region.valid), valid);
                    assert!(!region.uniform || region.full && region.runs == 32);
                    from = next;
                }
                SurveyStep::Skipped(va) => from = Some(va),
                SurveyStep::End => return,
            }
        }
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), String> {
        for (step, &op) in ops.iter().enumerate() {
            let _ = self.apply(op);
            let fail = |what: &str| Err(format!("step {step}, {op:?}: {what}"));
            let compound = &self.compound;
            let mut world = self.world.0.borrow_mut();
            world.check(|page| compound.is_watched(Ipa::truncated(page)));
            if let Some(violation) = world.violations.first() {
                return fail(violation);
            }
            drop(world);
            let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
            let vm: &Access<'_, _, _> = vm!(self, memory, tlb);
            let wrong = self.compound.audit(vm);
            // The audit would notice most mutations at once; the machines have to.
            if wrong != 0 && self.audited {
                return fail(&format!("the audit finds {wrong} differences"));
            }
        }
        for context in 0..ROOTS {
            self.drop_space(context);
        }
        if (self.compound.node_count(), self.compound.pool_frames().0) != (0, 0) {
            return Err("nodes or pool frames leak".into());
        }
        Ok(())
    }
}

/// Fills start where 512 entries of the level above begin.
const CONGRUENT: u64 = 16;

trait WordOf {
    fn word_of(&self, ipa: u64) -> u64;
}

impl WordOf for Handle {
    fn word_of(&self, ipa: u64) -> u64 {
        self.0.borrow().guest_word(ipa)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(penumbra_oracle::cases(64))
    })]
    #[test]
    fn compound_is_what_the_guest_could_have_had(
        thin in any::<bool>(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let result = Rig::new(Mutation::Honest, thin).run(&ops);
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}

/// Random sequences, the same in every run.
fn sequences(count: usize) -> impl Iterator<Item = Vec<Op>> {
    let mut runner = TestRunner::deterministic();
    let strategy = prop::collection::vec(op(), 60);
    (0..count).map(move |_| strategy.new_tree(&mut runner).unwrap().current())
}

#[test]
fn the_sequences_reach_what_there_is_to_reach() {
    let mut sum = Counters::default();
    for ops in sequences(24) {
        let mut rig = Rig::new(Mutation::Honest, false);
        rig.run(&ops).unwrap();
        let counters = rig.compound.counters();
        sum.mirrored += counters.mirrored;
        sum.structural += counters.structural;
        sum.shadowed += counters.shadowed;
        sum.coalesced += counters.coalesced;
        sum.demoted += counters.demoted;
        sum.evicted += counters.evicted;
        sum.moved += counters.moved;
        sum.relaid += counters.relaid;
    }
    println!("{sum:?}");
    assert!(sum.moved > 100 && sum.relaid > 1, "{sum:?}");
    assert!(
        sum.mirrored > 50 && sum.structural > 10 && sum.shadowed > 50,
        "{sum:?}"
    );
    assert!(
        sum.coalesced > 10 && sum.demoted > 50 && sum.evicted > 3,
        "{sum:?}"
    );
}

#[test]
fn the_oracle_notices_each_mutation() {
    let mut missed = Vec::new();
    for mutation in Mutation::ALL {
        let found = sequences(64).enumerate().find_map(|(count, ops)| {
            let mut rig = Rig::new(mutation, false);
            rig.run(&ops).err().map(|violation| (count, violation))
        });
        match found {
            Some((count, violation)) => println!("{mutation:?}, sequence {count}: {violation}"),
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
