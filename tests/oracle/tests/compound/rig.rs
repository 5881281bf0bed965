//! A VM under test: the service, the machines that watch it, and how each step is judged.

use penumbra_oracle::compound::{
    CONTEXTS, Context, Handle, Mutation, POOL_PA, RAM_BYTES, RAM_IPA, RAM_PA, STAGE2_ROOT, Shape,
    World,
};
use penumbra_paging::{
    Access, Compound, Mapping, Parked, Relayout, SpaceId, Stage1Regs, Stage2, TlbSink, WINDOW_BIT,
};
use penumbra_vmsa::{Ipa, Level, PAGE_SIZE, Pa, Stage2Attrs, Tcr, Ttbr};

use crate::guest::{Op, ROOTS, TOPS, boot, page};

/// Steps between two looks at all of stage 2, and two audits by the service itself.
const AUDIT_EVERY: usize = 20;

pub(crate) struct Rig {
    pub(crate) world: Handle,
    pub(crate) stage2: Stage2,
    pub(crate) compound: Compound<4, 20, 1>,
    pub(crate) shape: Shape,
    pub(crate) spaces: [Option<SpaceId>; ROOTS],
    pub(crate) mutation: Mutation,
    pub(crate) work: Option<Relayout>,
    /// A store that races the next operation: IPA, value, stores of the service before it.
    pub(crate) race: Option<(u64, u64, u32)>,
    /// Steps that were begun.
    pub(crate) steps: usize,
}

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// RAM is mapped by pages, not by blocks.
    pub(crate) thin: bool,
    /// Tables that stage 2 may get beyond those that it begins with.
    pub(crate) spare: Option<usize>,
    pub(crate) shape: Shape,
}

/// The VM, lent to the service: the handle is memory and TLB.
#[macro_export]
macro_rules! vm {
    ($rig:expr, $memory:ident, $tlb:ident) => {
        &mut Access {
            stage2: &mut $rig.stage2,
            memory: &mut $memory,
            tlb: &mut $tlb,
        }
    };
}

/// The table page of a context's root.
fn root(shape: Shape, context: usize) -> u64 {
    page(context + if shape.start == Level::L0 { TOPS } else { 0 })
}

impl Rig {
    pub(crate) fn new(mutation: Mutation, setup: Setup) -> Self {
        let contexts: [Context; CONTEXTS] = std::array::from_fn(|which| Context {
            asid: if which == 1 { 2 } else { 1 },
            root: root(setup.shape, which),
        });
        let world = World::handle(contexts, setup.shape, mutation);
        let mut memory = world.clone();
        let mut tlb = world.clone();
        let mut stage2 = Stage2::new(Pa::truncated(STAGE2_ROOT)).unwrap();
        let ram = Mapping {
            largest: if setup.thin { Level::L3 } else { Level::L1 },
            ..Mapping::new(
                Ipa::truncated(RAM_IPA),
                Pa::truncated(RAM_PA),
                RAM_BYTES,
                Stage2Attrs::RAM,
            )
        };
        stage2.map(&mut memory, ram).unwrap();
        boot(&world);
        for page in untouched().filter(|_| setup.thin) {
            let (_, work) = stage2
                .untouch(&mut memory, &mut tlb, Ipa::truncated(page))
                .unwrap();
            tlb.flush(work);
            world.0.borrow_mut().set_absent(page, true);
        }
        let mut rig = Self {
            world,
            stage2,
            compound: Compound::new(),
            shape: setup.shape,
            spaces: [None; ROOTS],
            mutation,
            work: None,
            race: None,
            steps: 0,
        };
        let pool = Pa::truncated(POOL_PA);
        rig.compound
            .add_pool_block(vm!(rig, memory, tlb), pool)
            .unwrap();
        rig.world.0.borrow_mut().limit_tables(setup.spare);
        rig
    }

    pub(crate) fn root(&self, context: usize) -> u64 {
        root(self.shape, context)
    }

    /// What a vCPU's registers say when a context is current.
    pub(crate) fn regs(&self, context: usize) -> Stage1Regs {
        let cached = 0b11_01_01;
        let size = if self.shape.start == Level::L0 {
            16
        } else {
            25
        };
        let flat = if self.shape.flat { 0b11 << 41 } else { 0 };
        let tcr = size | size << 16 | cached << 8 | cached << 24 | 2 << 30 | 2 << 32 | flat;
        Stage1Regs {
            sctlr: 0b101,
            tcr: Tcr::new(tcr),
            ttbr0: Ttbr::new(self.root(usize::from(context == 1))),
            ttbr1: Ttbr::new(self.root(2)),
        }
    }

    pub(crate) fn word(&self, ipa: u64) -> u64 {
        self.world.0.borrow().guest_word(ipa)
    }

    pub(crate) fn violation(&self, what: String) {
        self.world.0.borrow_mut().violations.push(what);
    }

    /// Runs a structural edit with the other vCPUs parked.
    pub(crate) fn parked<R>(&mut self, edit: impl FnOnce(&mut Self, &Parked) -> R) -> R {
        self.world.0.borrow_mut().parked = self.mutation != Mutation::SkipParking;
        let result = edit(self, &Parked::all_others());
        self.world.0.borrow_mut().parked = false;
        self.world.0.borrow_mut().refill();
        result
    }

    /// Gives the guest the pages that it has not touched yet, as touches would.
    pub(crate) fn touch_all(&mut self) {
        let mut memory = self.world.clone();
        let absent = self.world.0.borrow().absent();
        for page in absent {
            // The ideal first: never may ours have what the guest's has not.
            self.world.0.borrow_mut().set_absent(page, false);
            self.stage2
                .touch(&mut memory, Ipa::truncated(page))
                .unwrap();
        }
    }

    /// Undoes all re-layout: every page goes home, and stage 2 has its blocks again.
    fn go_home(&mut self) -> Result<(), String> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        self.world.0.borrow_mut().parked = true;
        self.touch_all();
        while !self.compound.wind_up(vm!(self, memory, tlb), 8) {}
        let mut at = Some(Ipa::truncated(0));
        // No page takes more than one move, and each region some steps.
        for _ in 0..2 * RAM_BYTES / PAGE_SIZE {
            let Some(from) = at else { break };
            at = (self.compound.bring_home(vm!(self, memory, tlb), from)).next;
        }
        if let Some(at) = at {
            return Err(format!("the way home does not end: {at:?}"));
        }
        for region in (0..RAM_BYTES).step_by(2 << 20) {
            let ipa = Ipa::truncated(RAM_IPA + region);
            if !self.compound.settle(vm!(self, memory, tlb), ipa) {
                return Err(format!("{ipa:?} is no block again"));
            }
        }
        let runs = self.stage2.counts().runs;
        if runs != RAM_BYTES / Level::L2.run_bytes() {
            return Err(format!("{runs} runs of blocks again"));
        }
        if !self.world.0.borrow().is_home() {
            return Err("a page's contents are elsewhere".into());
        }
        Ok(())
    }

    /// Answers the walks that met a cleared access flag, as EL2 does on the fault.
    fn answer_samples(&mut self) {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let hits = std::mem::take(&mut self.world.0.borrow_mut().hits);
        if hits.is_empty() {
            return;
        }
        for page in hits {
            self.compound
                .access_fault(vm!(self, memory, tlb), Ipa::truncated(page), true);
        }
        self.world.0.borrow_mut().refill();
        if let Some(page) = self.world.0.borrow().hits.first() {
            self.violation(format!("{page:#x} never gets its access flag back"));
        }
    }

    /// Judges what is now: every probe against its hoard, then every VA without TLBs.
    fn judge(&mut self, step: usize) -> Result<(), String> {
        self.answer_samples();
        let compound = &self.compound;
        let mut world = self.world.0.borrow_mut();
        world.refill();
        world.check(|page| compound.is_watched(Ipa::truncated(page)));
        for context in 0..ROOTS {
            if self.spaces[context].is_some() {
                let root = root(self.shape, context);
                world.compare(root, root | WINDOW_BIT);
            }
        }
        if step.is_multiple_of(AUDIT_EVERY) {
            world.compare_ram();
        }
        if let Some(violation) = world.violations.first() {
            return Err(violation.clone());
        }
        drop(world);
        // The audit would notice most mutations at once; the machines have to.
        if step.is_multiple_of(AUDIT_EVERY) && self.mutation == Mutation::Honest {
            self.audit()?;
        }
        Ok(())
    }

    fn audit(&mut self) -> Result<(), String> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        let vm: &Access<'_, _, _> = vm!(self, memory, tlb);
        let wrong = (self.compound.audit(vm), self.stage2.audit(&self.world));
        if wrong == (0, 0) {
            return Ok(());
        }
        Err(format!(
            "the audits of mirrors and of stage 2 find {wrong:?} differences"
        ))
    }

    pub(crate) fn run(&mut self, ops: &[Op]) -> Result<(), String> {
        for (step, &op) in ops.iter().enumerate() {
            self.world.0.borrow_mut().begin();
            self.steps += 1;
            // What the service refuses is as good as what it does.
            let _ = self.apply(op);
            self.judge(step)
                .map_err(|what| format!("step {step}, {op:?}: {what}"))?;
        }
        self.end().map_err(|what| format!("at the end: {what}"))
    }

    /// Ends all spaces; nothing may be left of them.
    fn end(&mut self) -> Result<(), String> {
        self.world.0.borrow_mut().limit_tables(None);
        for context in 0..ROOTS {
            self.drop_space(context);
        }
        self.go_home()?;
        if (self.compound.node_count(), self.compound.pool_frames().0) != (0, 0) {
            return Err("nodes or pool frames leak".into());
        }
        let work = self.stage2.flush_all();
        let flushed = self.world.flush(work);
        if self.stage2.release(&mut self.world, &flushed, u32::MAX) != 0 {
            return Err("tables stay in quarantine".into());
        }
        match self.mutation {
            Mutation::Honest => self.audit(),
            _ => Ok(()),
        }
    }
}

/// Pages of thin memory that the guest has not touched when a script begins: some that its tables map.
fn untouched() -> impl Iterator<Item = u64> {
    (0..8).map(|which| RAM_IPA + (20 << 20) + which * 0x5000)
}
