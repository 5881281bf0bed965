//! The policy told of a few regions, step by step, and of any.

use super::*;
use crate::paging::policy::{LOCK_AFTER_MS, MAX_SPACES};

/// A policy that is told of one kernel region again and again.
struct One {
    policy: Policy,
    now_ms: u64,
    sample: RegionSample,
    neighbour: bool,
}

impl One {
    fn new(config: Config) -> Self {
        let sample = RegionSample {
            va: KERNEL,
            table: 0x5000_0000,
            valid: 512,
            runs: 32,
            uniform: true,
            full: true,
            ..RegionSample::default()
        };
        Self {
            policy: Policy::new(config),
            now_ms: 0,
            sample,
            neighbour: false,
        }
    }

    fn pass(&mut self) -> Option<Action> {
        let counters = VmSample {
            frames: 512,
            ..VmSample::default()
        };
        self.policy.begin(self.now_ms, &counters);
        let known = SpaceSample {
            space: 0,
            half: Half::Kernel,
            root: 0x4100_0000,
            mirrored: true,
        };
        assert_eq!(self.policy.space(self.now_ms, &known), None);
        if self.neighbour {
            let neighbour = RegionSample {
                va: KERNEL + REGION_BYTES,
                form: Form::Leaf,
                uniform: true,
                ..self.sample
            };
            assert_eq!(self.policy.region(self.now_ms, &neighbour), None);
        }
        let action = self.policy.region(self.now_ms, &self.sample);
        let _ = self.policy.end(self.now_ms);
        self.now_ms += 500;
        action
    }

    fn tries_until_shadowed(&mut self) -> u32 {
        for tries in 0..10_000 {
            if self.pass().is_some() {
                return tries;
            }
        }
        panic!("never shadowed");
    }

    fn done(&mut self, form: Form) {
        let action = Action::Shadow {
            space: 0,
            va: KERNEL,
        };
        let next = self.policy.done(self.now_ms, action, Ok(form));
        assert_eq!(next, None);
        self.sample.form = form;
    }
}

#[test]
fn a_second_store_within_an_interval_demotes_and_doubles_probation() {
    let mut one = One::new(config(true));
    let mut waits = Vec::new();
    for _ in 0..5 {
        waits.push(one.tries_until_shadowed());
        one.done(Form::Mirror);
        one.sample.uniform = false;
        one.sample.writes = 1;
        // The shape changed with the store: that is one store.
        let first = one.pass();
        let action = first.or_else(|| one.pass());
        let demote = Action::Demote {
            space: 0,
            va: KERNEL,
        };
        assert_eq!(action, Some(demote));
        assert_eq!(one.policy.why(demote), Reason::Busy);
        assert_eq!(one.policy.done(one.now_ms, demote, Ok(Form::Nested)), None);
        (one.sample.form, one.sample.writes) = (Form::Nested, 0);
        one.sample.uniform = true;
    }
    assert!(
        waits.windows(2).all(|pair| pair[1] * 2 > pair[0] * 3),
        "{waits:?}"
    );
}

#[test]
fn a_leaf_that_a_store_softened_is_made_again_or_given_up() {
    for (uniform, wanted) in [
        (
            true,
            Action::Shadow {
                space: 0,
                va: KERNEL,
            },
        ),
        (
            false,
            Action::Demote {
                space: 0,
                va: KERNEL,
            },
        ),
    ] {
        let mut one = One::new(config(false));
        // Its neighbour's table lies in the same 2 MiB and is protected already.
        one.neighbour = true;
        assert_eq!(one.tries_until_shadowed(), 2);
        one.done(Form::Leaf);
        one.sample.form = Form::Mirror;
        one.sample.uniform = uniform;
        assert_eq!(one.pass(), None, "one store is borne");
        let decision = *one.policy.decisions().last().unwrap();
        assert_eq!(
            (decision.deed, decision.why),
            (Deed::Mirror, Reason::TakenBack)
        );
        let next = (0..20).find_map(|_| one.pass());
        assert_eq!(next, Some(wanted));
    }
}

#[test]
fn a_locked_layout_is_left_alone_and_nobody_looks_any_more() {
    let mut one = One::new(Config {
        changes: Changes::Lock,
        ..config(true)
    });
    assert_eq!(one.tries_until_shadowed(), 2);
    one.done(Form::Mirror);
    one.now_ms = LOCK_AFTER_MS;
    one.sample.writes = 5;
    assert_eq!(one.pass(), None, "stores are mirrored, for ever");
    assert!(!one.policy.is_active(one.now_ms));
    let never = Policy::new(Config {
        changes: Changes::Never,
        ..config(true)
    });
    assert!(!never.is_active(0));
}

#[test]
fn room_is_taken_from_what_is_worth_half() {
    let mut policy = Policy::new(config(true));
    let region = |n: u64, walked| RegionSample {
        va: KERNEL + n * REGION_BYTES,
        table: 0x5000_0000,
        valid: 512,
        runs: 32,
        uniform: true,
        full: true,
        walked: Some(walked),
        ..RegionSample::default()
    };
    let mut idle = region(0, false);
    let mut asked = None;
    for pass in 0..8 {
        let now = pass * 500;
        policy.begin(
            now,
            &VmSample {
                frames: 512,
                ..VmSample::default()
            },
        );
        let known = SpaceSample {
            space: 0,
            half: Half::Kernel,
            root: 0,
            mirrored: true,
        };
        assert_eq!(policy.space(now, &known), None);
        if let Some(action) = policy.region(now, &idle) {
            assert_eq!(policy.done(now, action, Ok(Form::Leaf)), None);
            idle.form = Form::Leaf;
        }
        if pass > 3
            && let Some(action) = policy.region(now, &region(1, true))
        {
            asked = policy.done(now, action, Err(Failure::Full));
            break;
        }
        let _ = policy.end(now);
    }
    assert_eq!(
        asked,
        Some(Action::Demote {
            space: 0,
            va: KERNEL
        })
    );
}

#[test]
fn room_is_not_taken_for_what_is_worth_as_little() {
    let mut policy = Policy::new(Config {
        mode: Mode::Shadow,
        ..config(true)
    });
    let region = |n: u64, form| RegionSample {
        space: 1,
        va: USER + n * REGION_BYTES,
        table: 0x5000_0000,
        valid: 512,
        form,
        ..RegionSample::default()
    };
    policy.begin(
        0,
        &VmSample {
            frames: 512,
            ..VmSample::default()
        },
    );
    let known = SpaceSample {
        space: 1,
        half: Half::User,
        root: 0x4100_0000,
        mirrored: true,
    };
    let root = RootSample {
        root: known.root,
        space: true,
        ..RootSample::default()
    };
    assert_eq!(policy.root(0, &root), None);
    assert_eq!(policy.space(0, &known), None);
    assert_eq!(policy.region(0, &region(0, Form::Mirror)), None);
    let action = policy.region(0, &region(1, Form::Nested));
    let action = action.expect("shadow mode wants every region");
    assert_eq!(policy.done(0, action, Err(Failure::Full)), None);
    assert_eq!(policy.records()[0].seen.form, Form::Mirror);
}

#[test]
fn a_root_mirror_that_stood_for_long_starts_from_the_shortest_wait() {
    let mut policy = Policy::new(config(false));
    let mut now = 0;
    let mut known = SpaceSample {
        space: 0,
        half: Half::Kernel,
        root: 0,
        mirrored: true,
    };
    let mut waits = Vec::new();
    for stands_ms in [1_000, 1_000, 1_000, 100_000, 1_000] {
        assert_eq!(policy.space(now, &known), None);
        now += stands_ms;
        known.mirrored = false;
        assert_eq!(policy.space(now, &known), None, "not at once");
        let lost = now;
        let action = loop {
            now += 100;
            if let Some(action) = policy.space(now, &known) {
                break action;
            }
        };
        assert_eq!(action, Action::Revive { space: 0 });
        assert_eq!(policy.done(now, action, Ok(Form::Nested)), None);
        waits.push(now - lost);
        known.mirrored = true;
    }
    assert_eq!(waits, [2_000, 4_000, 8_000, 2_000, 4_000]);
}

#[test]
fn nested_mode_never_looks() {
    let mut none = config(false);
    none.mode = Mode::Nested;
    let mut policy = Policy::new(none);
    assert!(!policy.is_active(0));
    policy.set_mode(0, Mode::Compound);
    assert!(policy.is_active(0));
}

#[test]
fn memory_is_bounded_whatever_a_guest_maps() {
    let mut policy = Policy::new(config(false));
    policy.begin(0, &VmSample::default());
    for space in 0..=255 {
        let known = SpaceSample {
            space,
            half: Half::Kernel,
            root: 0,
            mirrored: true,
        };
        assert_eq!(policy.space(0, &known), None);
        for n in 0..100 {
            let sample = RegionSample {
                space,
                va: n * REGION_BYTES,
                ..RegionSample::default()
            };
            let _ = policy.region(0, &sample);
        }
    }
    assert_eq!(policy.records().len(), MAX_REGIONS);
    assert_eq!(policy.spaces().count(), MAX_SPACES);
    let _ = policy.end(0);
    assert!(policy.untracked() > 0);
}

proptest::proptest! {
    /// Whatever EL2 says, the policy answers, keeps its bounds, and asks for nothing that makes no sense.
    #[test]
    fn any_samples_are_borne(
        samples in proptest::collection::vec(
            (0_u8..20, 0_u64..40, 0_u16..600, 0_u8..3, 0_u8..4, 0_u16..3, 0_u64..5000, 0_u8..4),
            1..400,
        )
    ) {
        let mut free = config(true);
        free.may_trap = true;
        let mut policy = Policy::new(free);
        let mut now = 0_u64;
        for (space, n, valid, shape, form, writes, wait, outcome) in samples {
            now += wait;
            policy.begin(now, &VmSample { traps: now, frames: n, ..VmSample::default() });
            let half = if space % 2 == 0 { Half::Kernel } else { Half::User };
            let mirrored = valid % 2 == 0;
            if let Some(action) = policy.space(now, &SpaceSample { space, half, root: n, mirrored }) {
                let gone = half == Half::User;
                let wanted = if gone { Action::DropSpace { root: n } } else { Action::Revive { space } };
                proptest::prop_assert_eq!(action, wanted);
                let result = if outcome > 1 { Ok(Form::Nested) } else { Err(Failure::Storm) };
                let _ = policy.done(now, action, result);
            }
            let forms = [Form::Nested, Form::Mirror, Form::Leaf, Form::Relaid];
            let sample = RegionSample {
                space,
                va: n * REGION_BYTES,
                table: n * 4096,
                valid,
                runs: valid % 33,
                uniform: shape == 2,
                full: shape >= 1,
                form: forms[usize::from(form)],
                writes,
                walked: Some(shape == 1),
            };
            let mut action = policy.region(now, &sample);
            for _ in 0..3 {
                let Some(asked) = action else { break };
                let known = |s, v| policy.records().iter().any(|r| (r.seen.space, r.seen.va) == (s, v));
                match asked {
                    Action::Shadow { space, va } | Action::Relayout { space, va }
                    | Action::Demote { space, va } => proptest::prop_assert!(known(space, va)),
                    _ => {
                        proptest::prop_assert!(false, "not for a region");
                    }
                }
                let result = match outcome {
                    0 => Err(Failure::Full),
                    1 => Err(Failure::Busy),
                    _ => Ok(forms[usize::from(outcome)]),
                };
                action = policy.done(now, asked, result);
            }
            proptest::prop_assert!(action.is_none(), "an answer to an answer");
            if let Some(action) = policy.trap_roots(now) {
                let _ = policy.done(now, action, Ok(Form::Nested));
            }
            if let Some(next) = policy.end(now) {
                proptest::prop_assert!(next > now && next <= now + LAST_EPOCH_MS);
            }
        }
    }
}
