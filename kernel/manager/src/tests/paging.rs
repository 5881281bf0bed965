//! The paging policy carried out, and the shell's `paging`.

mod roots;

use penumbra_abi::{
    CrashCause, Error, PagingCounter, PagingForm, PagingMode, PagingRefusal, StopReason,
    paging_roots,
};
use penumbra_bundle::{MAX_PAGING_POOL_BYTES, PAGING_POOL_UNIT_BYTES, PagingChanges};

use super::*;

const KERNEL: u64 = 0xffff_0000_4000_0000;

fn compound(name: &str) -> GuestSpec<'static> {
    let mut spec = guest(name);
    spec.paging.mode = penumbra_bundle::PagingMode::Compound;
    spec
}

/// Lets the manager work for so many ms of the fake's clock.
fn work(manager: &mut Manager<'_>, fake: &mut Fake, ms: u64) {
    let until = fake.clock + ms;
    fake.waits = 0;
    while fake.clock < until && manager.deadline(fake) <= until {
        assert_eq!(manager.step(fake), None, "{}", fake.screen);
    }
    fake.clock = fake.clock.max(until);
}

fn typed(manager: &mut Manager<'_>, fake: &mut Fake, text: &str) -> String {
    fake.screen.clear();
    fake.waits = 0;
    fake.keys.extend(text.bytes());
    while !fake.keys.is_empty() {
        assert_eq!(manager.step(fake), None, "{}", fake.screen);
    }
    fake.screen.clone()
}

#[track_caller]
fn shows(screen: &str, parts: &[&str]) {
    for part in parts {
        assert!(screen.contains(part), "{part:?} in\n{screen}");
    }
}

#[test]
fn a_nested_guest_costs_no_call_and_no_deadline() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    let manager = booted(&mut fake, &bundle);
    assert_eq!(fake.count("Paging"), 0);
    assert_eq!(manager.deadline(&mut fake), u64::MAX);
}

#[test]
fn a_compound_guest_has_its_linear_map_shadowed_soon_after_boot() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    assert!(fake.position("VmStart 1") < fake.position("PagingMode compound 1"));
    assert!(fake.position("PagingPool 1") < fake.position("PagingRoots 1"));
    assert_eq!(fake.vm(1).paging.status.roots, paging_roots::STICKY);
    // While it boots there is nothing to see; looks are cheap and rare.
    work(&mut manager, &mut fake, 3000);
    assert!(fake.waits <= 8, "{} waits in 3 s", fake.waits);
    fake.vm(1).paging.linear_map(200);
    work(&mut manager, &mut fake, 3000);
    assert_eq!(fake.vm(1).paging.leaves(), 200);
    assert_eq!(fake.count("PagingDemote"), 0);
    assert_eq!(fake.vm(1).paging.worths.get(&KERNEL), Some(&250));
    assert_eq!(fake.misuse, Vec::<String>::new());
    // Then it is left alone, more and more.
    work(&mut manager, &mut fake, 200_000);
    let surveys = fake.vm(1).paging.surveys;
    work(&mut manager, &mut fake, 640_000);
    let looks = (fake.vm(1).paging.surveys - surveys) / 202;
    assert!((9..=11).contains(&looks), "{looks} looks in ten epochs");
}

#[test]
fn work_comes_in_pieces_between_which_events_are_answered() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(900);
    for _ in 0..100 {
        let before = fake.vm(1).paging.surveys;
        assert_eq!(manager.step(&mut fake), None);
        assert!(fake.vm(1).paging.surveys - before <= 64);
    }
    assert!(fake.vm(1).paging.leaves() > 0);
}

#[test]
fn regions_in_a_row_are_shadowed_in_one_hold() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(200);
    work(&mut manager, &mut fake, 3000);
    let paging = &fake.vm(1).paging;
    assert_eq!(paging.leaves(), 200);
    // 64 steps of a survey a tick: four ranges of 16 each, the last tick's apart.
    assert!(
        (13..=15).contains(&paging.holds),
        "{} holds for 200 regions",
        paging.holds
    );
    // A range that finds room for its beginning only.
    fake.vm(1).paging.linear_map(40);
    fake.vm(1).paging.room = Some(5);
    work(&mut manager, &mut fake, 3000);
    fake.vm(1).paging.room = None;
    work(&mut manager, &mut fake, 60_000);
    assert_eq!(fake.vm(1).paging.leaves(), 199);
    let policy = &manager.slots[0].pager.as_ref().unwrap().policy;
    let knows = policy
        .records()
        .iter()
        .filter(|r| r.seen.form == crate::paging::sample::Form::Leaf);
    assert_eq!(knows.count(), 199);
}

#[test]
fn an_endless_table_ends() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(10_000);
    work(&mut manager, &mut fake, 900);
    let surveys = fake.vm(1).paging.surveys;
    assert!(surveys <= 2 * 4096, "{surveys}");
    let policy = &manager.slots[0].pager.as_ref().unwrap().policy;
    assert!(policy.records().len() <= 1024 && policy.untracked() > 0);
}

#[test]
fn a_store_that_takes_a_leaf_back_is_noticed_and_forgiven_later() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(20);
    work(&mut manager, &mut fake, 3000);
    fake.vm(1).paging.store(KERNEL);
    work(&mut manager, &mut fake, 10_000);
    let screen = typed(&mut manager, &mut fake, "\x1dspaging show linux\r");
    shows(
        &screen,
        &["nested", "EL2 gave it up: its table was written"],
    );
    assert_eq!(fake.vm(1).paging.leaves(), 20, "{screen}");
}

#[test]
fn a_mirror_that_is_uniform_again_becomes_a_leaf_again() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(20);
    work(&mut manager, &mut fake, 3000);
    fake.vm(1).paging.soften(KERNEL);
    work(&mut manager, &mut fake, 10_000);
    assert_eq!(fake.vm(1).paging.leaves(), 20);
    assert_eq!(fake.count("PagingDemote"), 1);
}

#[test]
fn trouble_leaves_a_guest_nested_and_is_told() {
    let mut fake = Fake::new();
    fake.failures.insert("Paging", Error::NotSupported);
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    shows(
        &fake.screen,
        &[
            "'linux' is paged nested: the hypervisor would not change the paging mode: it does not know the call",
        ],
    );
    assert_eq!(manager.deadline(&mut fake), u64::MAX);
    fake.failures.clear();
    fake.failures.insert("PagingPool", Error::QuotaExceeded);
    let screen = typed(&mut manager, &mut fake, "\x1dspaging mode linux compound\r");
    shows(
        &screen,
        &["would not give table memory: the quota is used up"],
    );
    assert_eq!(fake.vm(1).paging.status.mode, PagingMode::Nested);
}

#[test]
fn what_el2_made_nested_stays_nested() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(5);
    work(&mut manager, &mut fake, 2000);
    fake.vm(1).paging.status.mode = PagingMode::Nested;
    fake.vm(1).paging.status.refusal = PagingRefusal::Violation;
    work(&mut manager, &mut fake, 2000);
    shows(
        &fake.screen,
        &["is paged nested: it broke what shadowing relies on"],
    );
    assert_eq!(fake.count("PagingMode compound"), 1);
    // The blocks in which watched tables lay are made whole, once; then there is nothing left to do.
    assert_eq!(fake.vm(1).paging.users.sweeps, 0);
    work(&mut manager, &mut fake, 9_000);
    assert_eq!(fake.vm(1).paging.users.sweeps, 1);
    assert_eq!(manager.deadline(&mut fake), u64::MAX);
}

#[test]
fn room_is_given_up_to_the_limit_and_then_nothing_more_is_asked() {
    let mut fake = Fake::new();
    let mut spec = compound("linux");
    spec.paging.pool_bytes = 2 * PAGING_POOL_UNIT_BYTES;
    let bundle = bundle(vec![spec]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(5);
    fake.vm(1).paging.fails = Some(Error::NoSlot);
    work(&mut manager, &mut fake, 60_000);
    assert_eq!(fake.vm(1).paging.status.frames, 1024);
    // EL2 charges them to the guest; the operator sees them apart from its RAM.
    let list = typed(&mut manager, &mut fake, "\x1dslist\rexit\r");
    shows(
        &list,
        &["64 MiB of 64 MiB reserved, 4 MiB for mirror tables"],
    );
    let asked = fake.count("PagingShadow");
    assert!(asked <= 30, "{asked}: it backs off");
    assert_eq!(fake.vm(1).paging.leaves(), 0);
    fake.vm(1).paging.fails = None;
    work(&mut manager, &mut fake, 200_000);
    assert_eq!(fake.vm(1).paging.leaves(), 5);
}

#[test]
fn the_scenarios_limit_is_el2s() {
    let blocks = u64::try_from(penumbra_abi::PAGING_BLOCKS).unwrap();
    assert_eq!(MAX_PAGING_POOL_BYTES, blocks * PAGING_POOL_UNIT_BYTES);
    assert_eq!(
        crate::paging::policy::MAX_SPACES,
        penumbra_abi::PAGING_SPACES
    );
}

#[test]
fn a_locked_guest_is_looked_at_for_thirty_seconds() {
    let mut fake = Fake::new();
    let mut spec = compound("linux");
    spec.paging.changes = PagingChanges::Lock;
    let bundle = bundle(vec![spec]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(50);
    // What processes do is never settled.
    fake.vm(1).paging.random_reader(10);
    work(&mut manager, &mut fake, 100_000);
    assert_eq!(fake.vm(1).paging.leaves(), 50);
    assert_eq!(fake.vm(1).paging.status.roots, paging_roots::STICKY);
    assert_eq!(manager.deadline(&mut fake), u64::MAX);
    // The operator's wish is carried out, in as much time.
    let screen = typed(&mut manager, &mut fake, "\x1dspaging mode linux nested\r");
    shows(
        &screen,
        &["the operator set the paging of 'linux' to nested"],
    );
    work(&mut manager, &mut fake, 20_000);
    assert!(fake.vm(1).paging.users.sweeps > 0, "blocks are made whole");
    typed(&mut manager, &mut fake, "paging mode linux compound\r");
    work(&mut manager, &mut fake, 40_000);
    assert_eq!(fake.vm(1).paging.leaves(), 50);
    assert_eq!(manager.deadline(&mut fake), u64::MAX);
}

#[test]
fn nothing_is_made_whole_for_a_guest_whose_layout_is_settled() {
    let mut fake = Fake::new();
    let mut spec = compound("linux");
    spec.paging.changes = PagingChanges::Lock;
    let bundle = bundle(vec![spec]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(50);
    work(&mut manager, &mut fake, 29_500);
    for n in 0..50 {
        fake.vm(1).paging.store(KERNEL + n * (2 << 20));
    }
    // A way through memory would begin eight seconds behind this look.
    let pager = manager.slots[0].pager.as_mut().unwrap();
    pager.look_soon(&mut fake);
    work(&mut manager, &mut fake, 100_000);
    assert_eq!(fake.vm(1).paging.users.sweeps, 0);
    assert_eq!(manager.deadline(&mut fake), u64::MAX);
}

#[test]
fn a_restarted_manager_goes_on_with_what_it_finds() {
    let mut fake = Fake::new();
    let mut locked = compound("locked");
    locked.paging.changes = PagingChanges::Lock;
    let bundle = bundle(vec![compound("linux"), guest("bare"), locked]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(50);
    work(&mut manager, &mut fake, 3000);
    drop(manager);
    fake.forget();
    let mut manager =
        Manager::boot(&mut fake, &bundle, revival(1)).unwrap_or_else(|_| panic!("no boot"));
    work(&mut manager, &mut fake, 3000);
    assert_eq!(fake.count("Paging"), 0, "nothing had to be changed");
    let pagers: Vec<_> = manager
        .slots
        .iter()
        .map(|slot| {
            let pager = slot.pager.as_ref().unwrap();
            (pager.policy.config().mode, pager.next().is_some())
        })
        .collect();
    use crate::paging::policy::Mode;
    assert_eq!(
        pagers,
        [
            (Mode::Compound, true),
            (Mode::Nested, false),
            (Mode::Compound, false)
        ]
    );
    fake.vm(1).paging.store(KERNEL);
    work(&mut manager, &mut fake, 30_000);
    assert_eq!(fake.vm(1).paging.leaves(), 50);
}

#[test]
fn the_operator_sees_and_changes_the_mode() {
    let mut fake = Fake::new();
    let mut never = guest("rt");
    never.paging.changes = PagingChanges::Never;
    let bundle = bundle(vec![guest("linux"), never]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(100);
    let mut says = |fake: &mut Fake, line: &str, parts: &[&str]| {
        let screen = typed(&mut manager, fake, &format!("{line}\r"));
        shows(&screen, parts);
    };
    says(
        &mut fake,
        "\x1dspaging show linux",
        &["guest 'linux': nested\r\n"],
    );
    says(
        &mut fake,
        "paging mode rt compound",
        &["'rt' is to stay nested (demo.toml, line 1)"],
    );
    says(
        &mut fake,
        "paging mode linux compound",
        &["the operator set the paging of 'linux' to compound"],
    );
    work(&mut manager, &mut fake, 3000);
    fake.vm(1)
        .paging
        .counters
        .insert(PagingCounter::Mirrored as u64, 77);
    let screen = typed(&mut manager, &mut fake, "paging show linux\r");
    shows(
        &screen,
        &[
            "guest 'linux': compound; kernel root in place on vCPU 0, 1",
            "space 2: kernel, root 0x41200000; compound root planted, no traps",
            "under 2 MiB leaves: 200 MiB of 200 MiB that can be coalesced (100.0 %)",
            "ffff000040000000-ffff00004c7fffff   200 MiB  leaf    2 MiB      pays: saves 5000",
            "ffff00004c800000-ffff00004c9fffff     2 MiB  nested  guest's    has 100 of 512 pages",
            "stores mirrored                 77",
            "leaf        ffff000040000000 100 regions   pays",
        ],
    );
    let screen = typed(&mut manager, &mut fake, "paging audit linux\r");
    shows(&screen, &["every mirror agrees"]);
    fake.differences = 3;
    let screen = typed(&mut manager, &mut fake, "paging audit linux\r");
    shows(&screen, &["3 differences"]);
    let _ = typed(&mut manager, &mut fake, "paging mode linux nested\r");
    assert_eq!(fake.vm(1).paging.leaves(), 0);
    let screen = typed(&mut manager, &mut fake, "paging show linux\r");
    shows(&screen, &["guest 'linux': nested\r\n"]);
    for wrong in ["paging", "paging show", "paging trace linux"] {
        let screen = typed(&mut manager, &mut fake, &format!("{wrong}\r"));
        shows(&screen, &["paging mode GUEST nested|compound|shadow"]);
    }
    let screen = typed(&mut manager, &mut fake, "paging show nobody\r");
    shows(&screen, &["no guest 'nobody'"]);
}

#[test]
fn shadow_mode_takes_everything() {
    let mut fake = Fake::new();
    let mut spec = guest("linux");
    spec.paging.mode = penumbra_bundle::PagingMode::Shadow;
    let bundle = bundle(vec![spec]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(3);
    work(&mut manager, &mut fake, 2000);
    let forms: Vec<_> = fake.vm(1).paging.regions.values().map(|r| r.form).collect();
    let (leaf, mirror) = (PagingForm::Leaf, PagingForm::Mirror);
    assert_eq!(forms, [leaf, leaf, leaf, mirror]);
}

#[test]
fn a_trace_of_the_console_can_be_replayed() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    let _ = typed(&mut manager, &mut fake, "\x1dspaging trace linux on\r");
    fake.vm(1).paging.linear_map(30);
    work(&mut manager, &mut fake, 4000);
    let pager = manager.slots[0].pager.as_ref().unwrap();
    let config = *pager.policy.config();
    let replay = crate::paging::replay::Replay::run(&fake.screen, config).unwrap();
    let leaves = replay.count(crate::paging::sample::Form::Leaf);
    assert_eq!(
        (leaves, replay.early),
        (30, 0),
        "the same policy, the same decisions"
    );
    let _ = typed(&mut manager, &mut fake, "paging trace linux off\r");
    fake.screen.clear();
    work(&mut manager, &mut fake, 60_000);
    assert!(!fake.screen.contains("trace"), "{}", fake.screen);
}

#[test]
fn the_book_has_every_action() {
    let page = include_str!("../../../../docs/consoles.md");
    for (_, usage, _) in crate::shell::PAGING {
        assert!(page.contains(usage), "docs/consoles.md lacks {usage}");
    }
}

#[test]
fn over_thin_memory_that_lies_in_blocks_nothing_is_mirrored_that_stays_pages() {
    for whole in [false, true] {
        let mut fake = Fake::new();
        let mut spec = compound("linux");
        (spec.backing, spec.quota_bytes) = (Backing::Thin, Some(64 << 20));
        let bundle = bundle(vec![spec]);
        let mut manager = booted(&mut fake, &bundle);
        let vm = fake.vm(1);
        (vm.status.held_bytes, vm.whole) = (64 << 20, whole);
        vm.paging.linear_map(20);
        work(&mut manager, &mut fake, 5_000);
        let forms = fake.vm(1).paging.regions.values().map(|region| region.form);
        let (leaves, mirrors): (Vec<_>, Vec<_>) = forms
            .filter(|form| *form != PagingForm::Nested)
            .partition(|form| *form == PagingForm::Leaf);
        assert_eq!((leaves.len(), mirrors.len()), (20, usize::from(!whole)));
    }
}

#[test]
fn blocks_that_are_made_whole_without_a_trial_are_not_charged_to_one() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(50);
    work(&mut manager, &mut fake, 5_000);
    fake.vm(1).paging.store(KERNEL);
    let pager = manager.slots[0].pager.as_mut().unwrap();
    pager.look_soon(&mut fake);
    work(&mut manager, &mut fake, 20_000);
    assert!(fake.vm(1).paging.users.sweeps > 0);
    let pager = manager.slots[0].pager.as_ref().unwrap();
    assert_eq!(pager.policy.budget().spent_ns(), 0);
}

#[test]
fn the_shell_says_so_where_a_guest_does_not_run() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("fragile"), guest("other")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(50);
    work(&mut manager, &mut fake, 5_000);
    let screen = typed(&mut manager, &mut fake, "\x1dspaging show fragile\r");
    shows(&screen, &["guest 'fragile': compound", "next look in "]);
    fake.stop(1, StopReason::Crash, CrashCause::Serror);
    work(&mut manager, &mut fake, 100);
    let screen = typed(&mut manager, &mut fake, "paging show fragile\r");
    shows(&screen, &["nobody looks while it does not run"]);
}
