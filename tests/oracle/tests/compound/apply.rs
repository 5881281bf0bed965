//! What each operation does to the VM under test.

use penumbra_oracle::compound::{GuestTlbi, Handle, LOWS, RAM_IPA, Race, VCPUS};
use penumbra_paging::{Access, Donor, SampleKind, ShadowError, Stage1Regs, SurveyStep};
use penumbra_vmsa::{Half, Ipa, Level, PAGE_SIZE, Va};

use crate::guest::{INDICES, Op, TARGETS, Value, level_of, page, raw_of, scattered};
use crate::rig::Rig;
use crate::stores::PLAIN;
use crate::vm;

impl Rig {
    /// Arms the race for the operation that `edit` is; afterwards the store is done either way.
    fn raced<R>(&mut self, edit: impl FnOnce(&mut Self) -> R) -> R {
        let race = self.race.take();
        self.world.0.borrow_mut().race = race.map(|(ipa, value, after)| Race { ipa, value, after });
        let result = edit(self);
        let left = self.world.0.borrow_mut().race.take();
        if let Some(race) = left {
            self.store(race.ipa, race.value, PLAIN);
        }
        result
    }

    pub(crate) fn apply(&mut self, op: Op) -> Result<(), ShadowError> {
        match op {
            Op::Race {
                page: which,
                index,
                out,
                after,
            } => {
                let ipa = page(which) + INDICES[index] * 8;
                let value = raw_of(level_of(which), Value::Leaf { out, attrs: 0 });
                self.race = (self.word(ipa) & 1 == 0).then_some((ipa, value, after));
                return Ok(());
            }
            // What may run beside a vCPU that stores.
            Op::Plant { vcpu, context } => {
                return self.raced(|rig| rig.plant(vcpu, context));
            }
            Op::Move { eighths, look } => {
                return self.raced(|rig| rig.relayout_some(eighths, look));
            }
            Op::Anew {
                context,
                index,
                to,
                after,
            } => {
                self.drop_space(context);
                let ipa = self.root(context) + INDICES[index] * 8;
                let value = raw_of(self.shape.start, Value::Table { to, limits: 0 });
                self.race = (self.word(ipa) & 1 == 0).then_some((ipa, value, after));
                return self.raced(|rig| rig.plant(0, context));
            }
            Op::Home { region, pages } => {
                self.raced(|rig| rig.some_home(region, pages));
                return Ok(());
            }
            Op::Sample {
                context,
                probe,
                writes,
            } => return self.raced(|rig| rig.sample(context, probe, writes)),
            _ => {}
        }
        // The race is off: the word may be about to change.
        if let Some((ipa, value, _)) = self.race.take() {
            self.store(ipa, value, PLAIN);
        }
        match op {
            Op::Store { .. }
            | Op::Fill { .. }
            | Op::FillRun { .. }
            | Op::Aim { .. }
            | Op::Twice { .. }
            | Op::Tlbi { .. }
            | Op::Touch
            | Op::Raw { .. } => self.apply_guest(op),
            _ => self.apply_service(op),
        }
    }

    fn apply_guest(&mut self, op: Op) -> Result<(), ShadowError> {
        match op {
            Op::Store {
                page: which,
                index,
                value,
                how,
            } => {
                let raw = raw_of(level_of(which), value);
                self.guest_store(which, INDICES[index], raw, how);
            }
            Op::Fill {
                page: which,
                out,
                attrs,
            } => self.fill_row(which, 0..512, out & 31, attrs & !(1 << 6)),
            Op::FillRun {
                page: which,
                run,
                out,
                attrs,
            } => {
                let first = u64::from(run) * 16;
                self.fill_row(which, first..first + 16, out & 16, attrs & !(1 << 6));
            }
            Op::Aim {
                target,
                index,
                value,
                how,
            } => {
                let (context, va, which) = TARGETS[target];
                self.aim(context, va)?;
                let raw = raw_of(level_of(which), value);
                self.guest_store(which, INDICES[index], raw, how);
            }
            Op::Twice { index, other, how } => {
                let (_, _, which) = TARGETS[1];
                let raw = self.word(page(which) + INDICES[other] * 8);
                self.guest_store(which, INDICES[index], raw, how);
            }
            Op::Tlbi {
                kind,
                probe,
                asid,
                vcpu,
            } => {
                let va = self.probe(probe);
                let tlbi = match kind {
                    0 => GuestTlbi::All,
                    1 => GuestTlbi::Asid(asid),
                    kind => GuestTlbi::Va {
                        va,
                        asid: (kind < 4).then_some(asid),
                        last: kind % 2 == 0,
                    },
                };
                self.tlbi(tlbi, vcpu);
            }
            Op::Raw { vcpu, context } => {
                self.tlbi(GuestTlbi::All, Some(vcpu));
                let root = self.root(context);
                self.world.0.borrow_mut().install(vcpu, context, root);
            }
            _ => self.touch_all(),
        }
        Ok(())
    }

    fn apply_service(&mut self, op: Op) -> Result<(), ShadowError> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        match op {
            Op::Shadow {
                context,
                probe,
                level,
            } => {
                let space = self.spaces[context].ok_or(ShadowError::NoSpace)?;
                let va = Va::truncated(self.probe(probe));
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
            Op::DemoteAt {
                context,
                probe,
                level,
            } => {
                let space = self.spaces[context].ok_or(ShadowError::NoSpace)?;
                let va = Va::truncated(self.probe(probe));
                let level = Level::new(u32::from(level)).unwrap();
                self.parked(|rig, parked| {
                    rig.compound
                        .demote(vm!(rig, memory, tlb), space, va, level, parked);
                });
            }
            Op::Nest => self.parked(|rig, parked| {
                let _all = rig.compound.nest(vm!(rig, memory, tlb), parked);
            }),
            Op::GiveBack { tables } => {
                self.compound.give_back(vm!(self, memory, tlb), tables);
            }
            Op::Evict => self.parked(|rig, parked| {
                rig.compound.evict(vm!(rig, memory, tlb), parked);
            }),
            Op::Drop { context } => self.drop_space(context),
            Op::Revive { context } => {
                let space = self.spaces[context].ok_or(ShadowError::NoSpace)?;
                self.parked(|rig, parked| {
                    rig.compound.revive(vm!(rig, memory, tlb), space, parked)
                })?;
            }
            Op::Survey { context } => self.survey(context),
            Op::Relayout {
                user,
                partner,
                anew,
            } => {
                let (context, va, which) = TARGETS[usize::from(user)];
                if anew {
                    self.fill(which, 0..512, |index| scattered(which, index));
                }
                self.aim(context, va)?;
                let space = self.spaces[context].ok_or(ShadowError::NoSpace)?;
                let partner = match partner {
                    3 => Donor::Own(0),
                    _ => Donor::At(Ipa::truncated(
                        RAM_IPA + ((20 + u64::from(partner) * 2) << 20),
                    )),
                };
                let vm: &Access<'_, _, _> = vm!(self, memory, tlb);
                let va = Va::truncated(va);
                self.work = Some(self.compound.relayout(vm, space, va, partner, !user)?);
            }
            Op::EndSamples => {
                let vm = vm!(self, memory, tlb);
                self.compound.end_samples(vm, |_| {});
                self.world.0.borrow_mut().hits.clear();
            }
            Op::Raise { vcpu } => {
                self.plant(vcpu, 1)?;
                let va = (1 << 30) | (7 << 21);
                self.aim(1, va)?;
                let space = self.spaces[1].ok_or(ShadowError::NoSpace)?;
                self.parked(|rig, parked| {
                    let va = Va::truncated(va);
                    rig.compound.raise(vm!(rig, memory, tlb), space, va, parked)
                })?;
            }
            _ => {}
        }
        Ok(())
    }

    fn probe(&self, probe: usize) -> u64 {
        self.world.0.borrow().va(probe / LOWS, probe % LOWS)
    }

    fn plant(&mut self, vcpu: usize, context: usize) -> Result<(), ShadowError> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let half = if context == 2 { Half::High } else { Half::Low };
        let regs: Stage1Regs = self.regs(context);
        let (space, alias) = self.compound.plant(vm!(self, memory, tlb), &regs, half)?;
        self.spaces[context] = Some(space);
        let mut world = self.world.0.borrow_mut();
        if world.installed(vcpu, context) != alias.raw() {
            world.install(vcpu, context, alias.raw());
        }
        Ok(())
    }

    pub(crate) fn drop_space(&mut self, context: usize) {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let Some(space) = self.spaces[context].take() else {
            return;
        };
        for vcpu in 0..VCPUS {
            let root = self.root(context);
            self.world.0.borrow_mut().install(vcpu, context, root);
        }
        self.parked(|rig, parked| {
            while !rig
                .compound
                .drop_space(vm!(rig, memory, tlb), space, parked)
            {}
        });
    }

    /// Shadows the level-3 table of a region, if it is not so already.
    fn aim(&mut self, context: usize, va: u64) -> Result<(), ShadowError> {
        self.plant(0, context)?;
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let space = self.spaces[context].ok_or(ShadowError::NoSpace)?;
        self.parked(|rig, parked| {
            let vm = vm!(rig, memory, tlb);
            let _ = rig.compound.revive(vm, space, parked);
            let _ = rig
                .compound
                .shadow(vm, space, Va::truncated(va), Level::L3, parked);
        });
        Ok(())
    }

    /// Moves pages; the walkers look on for the first and the last few, and for a few from eighth `look` on.
    fn relayout_some(&mut self, eighths: u8, look: u8) -> Result<(), ShadowError> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let Some(mut work) = self.work.take() else {
            return Ok(());
        };
        let pages = u64::from(eighths) * 64;
        let seen = pages / 8 * u64::from(look)..pages / 8 * u64::from(look) + 4;
        for page in 0..pages {
            let parked = page > 3 && page < pages - 3 && !seen.contains(&page);
            self.world.0.borrow_mut().parked = parked;
            self.world.0.borrow_mut().moving = true;
            let done = self
                .compound
                .relayout_step(vm!(self, memory, tlb), &mut work);
            self.world.0.borrow_mut().moving = false;
            if !matches!(done, Ok(false)) {
                self.world.0.borrow_mut().parked = false;
                self.world.0.borrow_mut().refill();
                done?;
                let finished = self.parked(|rig, parked| {
                    rig.compound
                        .relayout_finish(vm!(rig, memory, tlb), &work, parked)
                })?;
                if !finished {
                    self.work = Some(work);
                }
                return Ok(());
            }
        }
        self.world.0.borrow_mut().refill();
        self.work = Some(work);
        Ok(())
    }

    /// Brings some pages of a region home, as far as that goes, and merges what can be merged.
    fn some_home(&mut self, region: u8, pages: u8) {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let first = RAM_IPA + (u64::from(region) << 21);
        for number in 0..u64::from(pages) {
            self.world.0.borrow_mut().parked = number > 3;
            self.world.0.borrow_mut().moving = true;
            let page = Ipa::truncated(first + number * PAGE_SIZE);
            let _step = self.compound.bring_home(vm!(self, memory, tlb), page);
            self.world.0.borrow_mut().moving = false;
        }
        self.world.0.borrow_mut().parked = false;
        self.world.0.borrow_mut().refill();
        self.compound
            .settle(vm!(self, memory, tlb), Ipa::truncated(first));
    }

    fn sample(&mut self, context: usize, probe: usize, writes: bool) -> Result<(), ShadowError> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let space = self.spaces[context].ok_or(ShadowError::NoSpace)?;
        let kind = if writes {
            SampleKind::Writes
        } else {
            SampleKind::Walks
        };
        let va = Va::truncated(self.probe(probe));
        let vm = vm!(self, memory, tlb);
        let begun = self.compound.sample(vm, space, va, kind, true);
        self.compound.arm_samples(vm);
        begun
    }

    fn survey(&mut self, context: usize) {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let Some(space) = self.spaces[context] else {
            return;
        };
        let absent = self.world.0.borrow().absent();
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
                    assert!(absent.contains(&table) || usize::from(region.valid) == valid);
                    assert!(!region.uniform || region.full && region.runs == 32);
                    from = next;
                }
                SurveyStep::Skipped(va) => from = Some(va),
                SurveyStep::End => return,
            }
        }
    }
}

trait WordOf {
    fn word_of(&self, ipa: u64) -> u64;
}

impl WordOf for Handle {
    fn word_of(&self, ipa: u64) -> u64 {
        self.0.borrow().guest_word(ipa)
    }
}
