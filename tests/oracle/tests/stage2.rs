//! Random sequences of stage-2 edits against a plain model, under TLBs that keep all they may.

#![expect(
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test: its panic is a finding"
)]

use std::collections::BTreeSet;

use penumbra_oracle::stage2::{Handle, Mutation, World};
use penumbra_paging::{Mapping, REGION_BYTES, Stage2, Stage2Change, Stage2Error, TlbSink, Touch};
use penumbra_vmsa::{
    GIB, Ipa, KIB, Level, MIB, PAGE_SIZE, Pa, Stage2Access, Stage2Attrs, Stage2Execute,
};
use proptest::prelude::*;

const ROOT: Pa = Pa::truncated(0x80_0000);

/// Edits start and end at these IPAs, so that each interval between two of them is uniform.
const CUTS: [u64; 32] = [
    0,
    4 * KIB,
    8 * KIB,
    60 * KIB,
    64 * KIB,
    68 * KIB,
    128 * KIB,
    MIB,
    2 * MIB - 4 * KIB,
    2 * MIB,
    2 * MIB + 4 * KIB,
    4 * MIB,
    6 * MIB,
    32 * MIB,
    34 * MIB,
    40 * MIB + 4 * KIB,
    64 * MIB,
    96 * MIB,
    GIB - 32 * MIB,
    GIB - 2 * MIB,
    GIB - 64 * KIB,
    GIB - 4 * KIB,
    GIB,
    GIB + 4 * KIB,
    GIB + 64 * KIB,
    GIB + 2 * MIB,
    GIB + 4 * MIB,
    GIB + 32 * MIB,
    2 * GIB - 2 * MIB,
    2 * GIB,
    2 * GIB + 12 * KIB,
    3 * GIB,
];
const INTERVALS: usize = CUTS.len() - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Vacant,
    Mapped(u64, Stage2Attrs),
    Reserved(u64, Stage2Attrs),
}

#[derive(Clone, Debug)]
enum Op {
    Map {
        from: usize,
        to: usize,
        shift: u8,
        attrs: u8,
        largest: u8,
    },
    Unmap {
        from: usize,
        to: usize,
    },
    Protect {
        from: usize,
        to: usize,
        attrs: u8,
    },
    Split {
        at: usize,
    },
    Merge {
        at: usize,
        level: u8,
    },
    SetPage {
        at: usize,
        attrs: u8,
    },
    Reserve {
        at: usize,
    },
    Touch {
        at: usize,
    },
    Untouch {
        at: usize,
    },
    Promote {
        at: usize,
    },
    Vacate {
        at: usize,
    },
}

fn ops() -> impl Strategy<Value = Op> {
    let span = || (0..INTERVALS, 1..=INTERVALS).prop_map(|(a, len)| (a, (a + len).min(INTERVALS)));
    prop_oneof![
        4 => (span(), 0..6_u8, 0..4_u8, 0..4_u8).prop_map(|((from, to), shift, attrs, largest)| {
            Op::Map { from, to, shift, attrs, largest }
        }),
        3 => span().prop_map(|(from, to)| Op::Unmap { from, to }),
        3 => (span(), 0..4_u8).prop_map(|((from, to), attrs)| Op::Protect { from, to, attrs }),
        2 => (0..INTERVALS).prop_map(|at| Op::Split { at }),
        2 => (0..INTERVALS, 1..=2_u8).prop_map(|(at, level)| Op::Merge { at, level }),
        2 => (0..INTERVALS, 0..4_u8).prop_map(|(at, attrs)| Op::SetPage { at, attrs }),
        2 => (0..INTERVALS).prop_map(|at| Op::Reserve { at }),
        3 => (0..INTERVALS).prop_map(|at| Op::Touch { at }),
        2 => (0..INTERVALS).prop_map(|at| Op::Untouch { at }),
        2 => (0..INTERVALS).prop_map(|at| Op::Promote { at }),
        1 => (0..INTERVALS).prop_map(|at| Op::Vacate { at }),
    ]
}

fn attrs_of(which: u8) -> Stage2Attrs {
    match which {
        0 => Stage2Attrs::RAM,
        1 => Stage2Attrs::READ_ONLY,
        2 => Stage2Attrs {
            execute: Stage2Execute::Never,
            ..Stage2Attrs::RAM
        },
        _ => Stage2Attrs {
            access: Stage2Access::Read,
            ..Stage2Attrs::RAM
        },
    }
}

fn change_of(which: u8) -> Stage2Change {
    let attrs = attrs_of(which);
    Stage2Change {
        access: Some(attrs.access),
        execute: Some(attrs.execute),
        accessed: None,
    }
}

fn ipa(raw: u64) -> Ipa {
    Ipa::new(raw).unwrap()
}

struct Rig {
    world: Handle,
    stage2: Stage2,
    model: [State; INTERVALS],
    mutation: Mutation,
}

impl Rig {
    fn new(mutation: Mutation) -> Self {
        let mut probes = BTreeSet::new();
        for pair in CUTS.windows(2) {
            let middle = (pair[0] / 2 + pair[1] / 2) & !(PAGE_SIZE - 1);
            probes.extend([pair[0], middle, pair[1] - PAGE_SIZE]);
        }
        let probes: Vec<_> = probes.into_iter().collect();
        Self {
            world: World::handle(ROOT, &probes, mutation),
            stage2: Stage2::new(ROOT).unwrap(),
            model: [State::Vacant; INTERVALS],
            mutation,
        }
    }

    fn vacant(&self, from: usize, to: usize) -> bool {
        self.model[from..to]
            .iter()
            .all(|&state| state == State::Vacant)
    }

    fn region(at: usize) -> (u64, usize, usize) {
        let base = CUTS[at] & !(REGION_BYTES - 1);
        let inside = |cut: &u64| *cut >= base && *cut < base + REGION_BYTES;
        let from = CUTS.iter().position(inside).unwrap();
        let to = CUTS.iter().rposition(inside).unwrap() + 1;
        (base, from, to.min(INTERVALS))
    }

    fn apply(&mut self, op: &Op) -> Result<(), Stage2Error> {
        let (mut memory, mut tlb) = (self.world.clone(), self.world.clone());
        match *op {
            Op::Map {
                from,
                to,
                shift,
                attrs,
                largest,
            } => {
                let bytes = CUTS[to] - CUTS[from];
                // The less the addresses agree, the smaller the range, or it takes too long.
                let (skew, limit) = match shift {
                    0 => (8 * GIB, u64::MAX),
                    1 => (8 * GIB + 6 * MIB, u64::MAX),
                    // As the frames of regions lie, and so that there are runs and no larger leaves.
                    4 => (32 * GIB, u64::MAX),
                    5 => (8 * GIB + 32 * MIB, u64::MAX),
                    2 => (9 * GIB + 64 * KIB, 4 * MIB),
                    _ => (9 * GIB + 4 * KIB, 4 * MIB),
                };
                let largest = Level::new(u32::from(largest).max(1)).unwrap();
                if bytes > limit || (largest == Level::L3 && bytes > 4 * MIB) {
                    return Ok(());
                }
                let attrs = attrs_of(attrs);
                let pa = Pa::new(CUTS[from] + skew).unwrap();
                let mapping = Mapping {
                    ipa: ipa(CUTS[from]),
                    pa,
                    bytes,
                    attrs,
                    largest,
                };
                let result = self.stage2.map(&mut memory, mapping);
                let vacant = self.vacant(from, to);
                assert_eq!(result.is_ok(), vacant, "{result:?}");
                result?;
                for i in from..to {
                    self.model[i] = State::Mapped(CUTS[i] + skew, attrs);
                }
            }
            Op::Unmap { from, to } => {
                let bytes = CUTS[to] - CUTS[from];
                let work = self
                    .stage2
                    .unmap(&mut memory, &mut tlb, ipa(CUTS[from]), bytes)?;
                let flushed = tlb.flush(work);
                self.stage2.release(&mut memory, &flushed, u32::MAX);
                self.model[from..to].fill(State::Vacant);
            }
            Op::Protect { from, to, attrs } => {
                let bytes = CUTS[to] - CUTS[from];
                let change = change_of(attrs);
                let at = ipa(CUTS[from]);
                let work = self
                    .stage2
                    .protect(&mut memory, &mut tlb, at, bytes, change)?;
                let _ = tlb.flush(work);
                for state in &mut self.model[from..to] {
                    if let State::Mapped(_, old) | State::Reserved(_, old) = state {
                        let new = attrs_of(attrs);
                        *old = Stage2Attrs {
                            access: new.access,
                            execute: new.execute,
                            ..*old
                        };
                    }
                }
            }
            Op::Split { at } => {
                let result = self.stage2.split(&mut memory, &mut tlb, ipa(CUTS[at]));
                assert_eq!(result.is_ok(), matches!(self.model[at], State::Mapped(..)));
                result?;
                let leaf = self.stage2.lookup(&memory, ipa(CUTS[at])).unwrap();
                assert!(leaf.level == Level::L3 && !leaf.contiguous);
            }
            Op::Merge { at, level } => {
                let level = Level::new(u32::from(level)).unwrap();
                self.stage2
                    .merge(&mut memory, &mut tlb, ipa(CUTS[at]), level)?;
            }
            Op::SetPage { at, attrs } => {
                let pa = Pa::new(CUTS[at] + 16 * GIB).unwrap();
                let at0 = ipa(CUTS[at]);
                if CUTS[at + 1] - CUTS[at] != PAGE_SIZE {
                    return Ok(());
                }
                let result = self.stage2.set_page(&mut memory, at0, pa, attrs_of(attrs));
                assert_eq!(result.is_ok(), self.model[at] == State::Vacant);
                result?;
                self.model[at] = State::Mapped(pa.raw(), attrs_of(attrs));
            }
            Op::Reserve { at } => {
                let (base, from, to) = Self::region(at);
                if CUTS[from] != base || CUTS[to] != base + REGION_BYTES {
                    return Ok(());
                }
                let frame = Pa::new(base + 32 * GIB).unwrap();
                let attrs = Stage2Attrs::RAM;
                let result = self
                    .stage2
                    .reserve_region(&mut memory, ipa(base), frame, attrs);
                if result.is_ok() {
                    assert!(self.vacant(from, to));
                    for i in from..to {
                        self.model[i] = State::Reserved(CUTS[i] + 32 * GIB, attrs);
                    }
                }
                result?;
            }
            Op::Touch { at } => self.touch(&mut memory, at)?,
            Op::Untouch { at } => {
                if CUTS[at + 1] - CUTS[at] != PAGE_SIZE {
                    return Ok(());
                }
                let State::Mapped(pa, attrs) = self.model[at] else {
                    return Ok(());
                };
                let (page, work) = self.stage2.untouch(&mut memory, &mut tlb, ipa(CUTS[at]))?;
                let _ = tlb.flush(work);
                assert_eq!(page.raw(), pa);
                self.model[at] = State::Reserved(pa, attrs);
            }
            Op::Promote { at } => {
                self.stage2.promote(&mut memory, &mut tlb, ipa(CUTS[at]))?;
                let (_, from, to) = Self::region(at);
                for state in &mut self.model[from..to] {
                    if let State::Reserved(pa, attrs) = *state {
                        *state = State::Mapped(pa, attrs);
                    }
                }
            }
            Op::Vacate { at } => {
                let (base, from, to) = Self::region(at);
                if CUTS[from] != base || CUTS[to] != base + REGION_BYTES {
                    return Ok(());
                }
                let (frame, work) = self
                    .stage2
                    .vacate_region(&mut memory, &mut tlb, ipa(base))?;
                let flushed = tlb.flush(work);
                self.stage2.release(&mut memory, &flushed, u32::MAX);
                for i in from..to {
                    let (State::Mapped(pa, _) | State::Reserved(pa, _)) = self.model[i] else {
                        panic!("vacated what was vacant");
                    };
                    assert_eq!(pa - CUTS[i], frame.raw() - base);
                    self.model[i] = State::Vacant;
                }
            }
        }
        Ok(())
    }

    fn touch(&mut self, memory: &mut Handle, at: usize) -> Result<(), Stage2Error> {
        let pages = (CUTS[at + 1] - CUTS[at]) / PAGE_SIZE;
        if pages > 256 {
            return Ok(());
        }
        for page in 0..pages {
            let here = CUTS[at] + page * PAGE_SIZE;
            let touch = self.stage2.touch(memory, ipa(here))?;
            match self.model[at] {
                State::Vacant => assert_eq!(touch, Touch::Vacant),
                State::Mapped(..) => assert_eq!(touch, Touch::Present),
                State::Reserved(pa, _) => {
                    let pa = Pa::new(pa + page * PAGE_SIZE).unwrap();
                    assert!(matches!(touch, Touch::Populated { pa: p, .. } if p == pa));
                }
            }
        }
        if let State::Reserved(pa, attrs) = self.model[at] {
            self.model[at] = State::Mapped(pa, attrs);
        }
        Ok(())
    }

    /// What differs from the model, now that all work is done.
    fn difference(&self) -> Option<String> {
        let world = self.world.0.borrow();
        if let Some(violation) = world.violations.first() {
            return Some(violation.clone());
        }
        for (at, held) in world.held() {
            let interval = CUTS.iter().rposition(|&cut| cut <= at).unwrap();
            let want = match self.model[interval] {
                State::Mapped(pa, attrs) => Some((pa + at - CUTS[interval], attrs)),
                _ => None,
            };
            for leaf in held {
                if Some((leaf.pa, Stage2Attrs::decode(leaf.attrs))) != want {
                    return Some(format!(
                        "{at:#x}: {leaf:x?} is held, the model says {want:x?}"
                    ));
                }
            }
        }
        None
    }

    fn run(&mut self, ops: &[Op]) -> Result<(), String> {
        for (step, op) in ops.iter().enumerate() {
            let _ = self.apply(op);
            if let Some(difference) = self.difference() {
                return Err(format!("step {step}, {op:?}: {difference}"));
            }
            self.check_lookup();
        }
        let counts = self.stage2.counts();
        let mut bytes = 0;
        let mut from = Some(ipa(0));
        while let Some(leaf) = from.and_then(|from| self.stage2.next_leaf(&self.world, from)) {
            bytes += leaf.bytes();
            from = leaf.end();
        }
        assert_eq!(counts.bytes(), bytes, "the running counts are off");
        if self.mutation == Mutation::Honest {
            assert_eq!(self.stage2.audit(&self.world), 0, "tables or runs are off");
        }
        let mut world = self.world.clone();
        let flushed = world.flush(self.stage2.flush_all());
        while !self.stage2.teardown(&mut self.world, &flushed, 3).unwrap() {}
        assert_eq!(self.world.0.borrow().live_tables(), 0, "tables leak");
        Ok(())
    }

    fn check_lookup(&self) {
        if self.mutation != Mutation::Honest {
            return;
        }
        for (i, state) in self.model.iter().enumerate() {
            for at in [CUTS[i], CUTS[i + 1] - PAGE_SIZE] {
                let got = self.stage2.lookup(&self.world, ipa(at)).ok();
                let got = got.map(|leaf| (leaf.pa_of(ipa(at)).raw(), leaf.attrs));
                let want = match *state {
                    State::Mapped(pa, attrs) => Some((pa + at - CUTS[i], attrs)),
                    _ => None,
                };
                assert_eq!(got, want, "{at:#x}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(penumbra_oracle::cases(64))
    })]
    #[test]
    fn edits_do_what_the_model_does(ops in prop::collection::vec(ops(), 1..40)) {
        let mut rig = Rig::new(Mutation::Honest);
        if let Err(difference) = rig.run(&ops) {
            prop_assert!(false, "{}", difference);
        }
    }
}

/// A script that a broken builder does not survive.
fn script() -> Vec<Op> {
    let whole = INTERVALS;
    vec![
        Op::Map {
            from: 0,
            to: whole,
            shift: 0,
            attrs: 0,
            largest: 1,
        },
        Op::Protect {
            from: 4,
            to: 5,
            attrs: 1,
        },
        Op::Protect {
            from: 0,
            to: 3,
            attrs: 3,
        },
        Op::Unmap { from: 9, to: 10 },
        Op::Protect {
            from: 0,
            to: 5,
            attrs: 0,
        },
        Op::Merge { at: 0, level: 2 },
        // Blocks of a run and a page of one more; then the run is whole again.
        Op::Protect {
            from: 14,
            to: 15,
            attrs: 1,
        },
        Op::Protect {
            from: 14,
            to: 15,
            attrs: 0,
        },
        Op::Merge { at: 15, level: 2 },
        Op::Unmap { from: 0, to: whole },
        Op::Map {
            from: 0,
            to: whole,
            shift: 1,
            attrs: 2,
            largest: 1,
        },
    ]
}

#[test]
fn the_script_is_fine_when_nothing_is_broken() {
    assert_eq!(Rig::new(Mutation::Honest).run(&script()), Ok(()));
}

#[test]
fn the_script_makes_runs_of_blocks_again() {
    let mut rig = Rig::new(Mutation::Honest);
    let runs = |ops: &[Op], rig: &mut Rig| {
        for op in ops {
            rig.apply(op).unwrap();
        }
        rig.stage2.counts().runs
    };
    let script = script();
    // The first GiB is split by edits in its first run.
    let before = runs(&script[..6], &mut rig);
    assert!(before >= 31, "{before}");
    assert_eq!(runs(&script[6..7], &mut rig), before - 1);
    assert_eq!(runs(&script[7..9], &mut rig), before);
}

#[test]
fn the_model_notices_each_mutation() {
    for mutation in [
        Mutation::SkipFlush,
        Mutation::ShortFlush,
        Mutation::SkipBreak,
        Mutation::BreakFirstOfRun,
        Mutation::InventRuns,
    ] {
        let result = Rig::new(mutation).run(&script());
        assert!(result.is_err(), "{mutation:?} went unnoticed");
    }
}
