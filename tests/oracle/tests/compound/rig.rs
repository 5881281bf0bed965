//! A VM under test: the service, the machines that watch it, and what each operation does.

use penumbra_oracle::compound::{
    Context, GuestTlbi, Handle, Mutation, POOL_PA, RAM_BYTES, RAM_IPA, RAM_PA, STAGE2_ROOT, World,
};
use penumbra_paging::{
    Access, Compound, Home, Mapping, Parked, Relayout, ShadowError, SpaceId, Stage1Regs, Stage2,
    Stored, SurveyStep,
};
use penumbra_vmsa::{
    Half, Ipa, Level, PAGE_SIZE, Pa, Stage, Stage2Attrs, Tcr, Ttbr, Va, bits, requires_bbm,
};

use crate::guest::{
    INDICES, Op, ROOTS, TARGETS, Value, boot, level_of, out_of, page, probes, raw_of,
};

pub(crate) struct Rig {
    world: Handle,
    stage2: Stage2,
    pub(crate) compound: Compound<4, 20, 1>,
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

pub(crate) fn regs() -> Stage1Regs {
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
    pub(crate) fn new(mutation: Mutation, thin: bool) -> Self {
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

    pub(crate) fn apply(&mut self, op: Op) -> Result<(), ShadowError> {
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

    /// Undoes all re-layout: every page goes home, and stage 2 has its blocks again.
    fn go_home(&mut self) -> Result<(), String> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        if self.compound.counters().moved == 0 {
            return Ok(());
        }
        let (ipa, pa) = (Ipa::truncated(RAM_IPA), Pa::truncated(RAM_PA));
        let home = Home {
            ipa,
            pa,
            bytes: RAM_BYTES,
        };
        self.world.0.borrow_mut().parked = true;
        for page in (0..RAM_BYTES).step_by(PAGE_SIZE as usize) {
            let ipa = Ipa::truncated(RAM_IPA + page);
            // A cycle is no longer than what two regions have in pages, many times over.
            let mut steps = 0..4096;
            while !self
                .compound
                .bring_home(vm!(self, memory, tlb), ipa, &home)
                .unwrap()
            {
                steps.next().ok_or("a page never comes home")?;
            }
            let leaf = self.stage2.lookup(&self.world, ipa).unwrap();
            assert_eq!(leaf.pa_of(ipa).raw(), RAM_PA + page);
        }
        for region in (0..RAM_BYTES).step_by(2 << 20) {
            let ipa = Ipa::truncated(RAM_IPA + region);
            if !self.compound.settle(vm!(self, memory, tlb), ipa) {
                return Err(format!("{ipa:?} is no block again"));
            }
        }
        if !self.world.0.borrow().is_home() {
            return Err("a page's contents are elsewhere".into());
        }
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

    pub(crate) fn run(&mut self, ops: &[Op]) -> Result<(), String> {
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
        self.go_home()?;
        if (self.compound.node_count(), self.compound.pool_frames().0) != (0, 0) {
            return Err("nodes or pool frames leak".into());
        }
        Ok(())
    }
}

/// Fills start where 512 entries of the level above begin.
pub(crate) const CONGRUENT: u64 = 16;

trait WordOf {
    fn word_of(&self, ipa: u64) -> u64;
}

impl WordOf for Handle {
    fn word_of(&self, ipa: u64) -> u64 {
        self.0.borrow().guest_word(ipa)
    }
}
