//! Root mirrors that are given up, and user spaces.

use super::*;
use crate::pager::Pager;

/// The ways to put roots in place while user spaces are tried.
const BOTH: u64 = paging_roots::STICKY | paging_roots::TRAPPED;

/// A guest in compound mode that may have all of its memory.
fn thin() -> GuestSpec<'static> {
    let mut spec = compound("linux");
    (spec.backing, spec.quota_bytes) = (Backing::Thin, Some(64 << 20));
    spec
}

/// A guest in the middle of a trial, with a process of so few regions that they are sampled, gain nothing, and are left where they
/// are.
fn tried_in_vain<'a>(fake: &mut Fake, bundle: &'a [u8]) -> Manager<'a> {
    fake.pace = 64;
    let mut manager = booted(fake, bundle);
    fake.vm(1).paging.linear_map(20);
    fake.vm(1).paging.random_reader(2);
    work(&mut manager, fake, 20_000);
    assert_eq!(fake.vm(1).paging.status.roots, BOTH);
    manager
}

#[test]
fn a_root_mirror_that_was_given_up_is_made_anew_later_and_later() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(20);
    work(&mut manager, &mut fake, 3000);
    fake.forget();
    fake.vm(1).paging.lose_root();
    // The loss shows at the next look; 2 s later the mirror is made, and then the leaves.
    work(&mut manager, &mut fake, 2000);
    let screen = typed(&mut manager, &mut fake, "\x1dspaging show linux\r");
    shows(
        &screen,
        &["its mirror was given up 1 times: tried again at"],
    );
    work(&mut manager, &mut fake, 6000);
    assert_eq!(fake.count("PagingMode compound"), 1);
    assert_eq!(fake.vm(1).paging.leaves(), 20);
    let screen = typed(&mut manager, &mut fake, "paging show linux\r");
    shows(
        &screen,
        &[
            "its mirror was given up 1 times\r\n",
            "root lost",
            "root anew",
        ],
    );
    // A guest that does it again at once is left alone longer each time.
    fake.forget();
    for _ in 0..600 {
        fake.vm(1).paging.lose_root();
        work(&mut manager, &mut fake, 1000);
    }
    let policy = &manager.slots[0].pager.as_ref().unwrap().policy;
    let lost = policy.spaces().next().unwrap().lost;
    assert!((8..=10).contains(&lost), "{lost} in ten minutes");
    assert_eq!(fake.misuse, Vec::<String>::new());
}

#[test]
fn roots_that_are_replaced_too_often_stay_as_they_are() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![compound("linux")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(20);
    work(&mut manager, &mut fake, 3000);
    fake.forget();
    fake.vm(1).paging.lose_root();
    fake.vm(1).paging.status.refusal = PagingRefusal::Storm;
    fake.vm(1).paging.status.roots = 0;
    work(&mut manager, &mut fake, 60_000);
    assert_eq!(fake.count("PagingMode"), 0);
    let screen = typed(&mut manager, &mut fake, "\x1dspaging show linux\r");
    shows(
        &screen,
        &["EL2 refused: the guest replaces its roots too often"],
    );
}

#[test]
fn a_busy_reader_of_scattered_pages_ends_under_leaves_by_trapped_roots() {
    let mut fake = Fake::new();
    fake.pace = 64;
    let mut spec = compound("linux");
    spec.backing = Backing::Thin;
    spec.quota_bytes = Some(64 << 20);
    let bundle = bundle(vec![spec]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(20);
    work(&mut manager, &mut fake, 20_000);
    assert_eq!(fake.vm(1).paging.status.roots, paging_roots::STICKY);
    fake.vm(1).paging.random_reader(10);
    fake.vm(1).paging.users.switches = 10;
    let ram = crate::map::RAM_IPA;
    let middle = ram + fake.vm(1).ram.unwrap().bytes / 2;
    let bad = [0, 1, 2, middle];
    fake.vm(1).paging.users.bad_partners.extend(bad);
    work(&mut manager, &mut fake, 15_000);
    let users = &fake.vm(1).paging.users;
    let leaves = users
        .regions
        .values()
        .filter(|r| r.form == PagingForm::Leaf);
    assert_eq!(leaves.count(), 10);
    assert_eq!(users.partners.len(), 10);
    assert!(users.partners.iter().all(|partner| *partner > middle));
    // What was moved serves; nobody looks for pages that could go home.
    assert_eq!((users.away > 0, users.sweeps), (true, 0));
    let screen = typed(&mut manager, &mut fake, "\x1dspaging show linux\r");
    shows(
        &screen,
        &[
            "space 3: user, root 0x49900000; compound root by trapped writes",
            "relaid  2 MiB      pays",
            "user roots: trapped since",
            "root 0x49900000: has a space",
            "the guest is busy: a trial",
        ],
    );
    assert_eq!(fake.misuse, Vec::<String>::new());
    // The process switches so often now that it does not pay: its root is nested again, and
    // then nothing is trapped.
    fake.vm(1).paging.users.switches = 250_000;
    work(&mut manager, &mut fake, 50_000);
    let screen = typed(&mut manager, &mut fake, "paging show linux\r");
    // Because it paid, it is tried again at the full rate.
    shows(&screen, &["no space", "no traps"]);
    // Nothing serves any more: all pages have gone home.
    let users = &fake.vm(1).paging.users;
    assert!(users.away == 0 && users.sweeps > 0);
}

#[test]
fn on_a_busy_host_a_look_costs_no_more_than_its_calls() {
    // Each look at the clock takes a millisecond, and a look at the guest takes some of those.
    let mut fake = Fake::new();
    let bundle = bundle(vec![thin()]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(20);
    fake.vm(1).paging.random_reader(10);
    work(&mut manager, &mut fake, 35_000);
    let regions = fake.vm(1).paging.users.regions.values();
    let leaves = regions.filter(|region| region.form == PagingForm::Leaf);
    assert_eq!(leaves.count(), 10);
}

#[test]
fn the_first_samples_of_an_epoch_tell_how_soon_walks_come() {
    let mut fake = Fake::new();
    fake.pace = 64;
    let mut spec = thin();
    spec.paging.copy_bytes = 4096;
    let bundle = bundle(vec![spec]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(20);
    fake.vm(1).paging.random_reader(60);
    typed(&mut manager, &mut fake, "\x1dspaging trace linux on\r");
    work(&mut manager, &mut fake, 22_000);
    // All 60 are sampled in each epoch, but for the moment in which hits are counted there are 16.
    shows(&fake.screen, &["trace window 16 15 "]);
    assert!(!fake.screen.contains("trace window 60 "));
    let walked = fake.screen.matches(" full nested 0 1\r").count();
    assert!(walked > 60, "{walked}");
}

#[test]
fn a_storm_that_ended_traps_is_not_the_kernel_roots() {
    let mut fake = Fake::new();
    fake.pace = 64;
    let mut spec = thin();
    spec.paging.copy_bytes = 4 << 20;
    let bundle = bundle(vec![spec]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(20);
    fake.vm(1).paging.random_reader(3);
    work(&mut manager, &mut fake, 19_000);
    let screen = typed(&mut manager, &mut fake, "\x1dspaging show linux\r");
    assert_eq!(fake.vm(1).paging.status.roots, BOTH, "{screen}");
    fake.vm(1).paging.status.roots = paging_roots::STICKY;
    fake.vm(1).paging.status.refusal = PagingRefusal::Storm;
    work(&mut manager, &mut fake, 3000);
    assert_eq!(fake.vm(1).paging.status.roots, paging_roots::STICKY);
    let screen = typed(&mut manager, &mut fake, "paging show linux\r");
    shows(&screen, &["user roots: nested", "a storm of root writes"]);
    // A root mirror is still made anew, and traps are tried again.
    fake.forget();
    fake.vm(1).paging.status.refusal = PagingRefusal::None;
    fake.vm(1).paging.lose_root();
    work(&mut manager, &mut fake, 80_000);
    assert_eq!(fake.vm(1).paging.leaves(), 20);
    let screen = typed(&mut manager, &mut fake, "paging show linux\r");
    assert!(screen.matches("trap roots").count() >= 2, "{screen}");
}

#[test]
fn a_guest_whose_memory_must_not_be_moved_keeps_its_user_memory_nested() {
    let mut fake = Fake::new();
    fake.pace = 64;
    let mut spec = compound("linux");
    spec.paging.copy_bytes = 0;
    let bundle = bundle(vec![spec]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(20);
    fake.vm(1).paging.random_reader(3);
    work(&mut manager, &mut fake, 60_000);
    assert_eq!(fake.vm(1).paging.status.roots, paging_roots::STICKY);
}

#[test]
fn a_reader_that_begins_is_seen_sampled_and_moved_within_nine_seconds() {
    // Wherever between two looks it begins.
    for idle in [29_300, 28_100, 30_700] {
        let mut fake = Fake::new();
        fake.pace = 64;
        let mut spec = compound("linux");
        spec.backing = Backing::Thin;
        spec.quota_bytes = Some(64 << 20);
        spec.paging.copy_bytes = 256 << 20;
        let bundle = bundle(vec![spec]);
        let mut manager = booted(&mut fake, &bundle);
        fake.vm(1).paging.linear_map(200);
        work(&mut manager, &mut fake, idle);
        fake.vm(1).paging.random_reader(128);
        work(&mut manager, &mut fake, 9_000);
        let regions = fake.vm(1).paging.users.regions.values();
        let leaves = regions.filter(|region| region.form == PagingForm::Leaf);
        assert_eq!(leaves.count(), 128, "{idle}");
    }
}

#[test]
fn a_guest_that_has_computed_for_days_is_still_tried() {
    let mut fake = Fake::new();
    fake.pace = 64;
    let bundle = bundle(vec![thin()]);
    let mut manager = booted(&mut fake, &bundle);
    fake.vm(1).paging.linear_map(20);
    // Three days of four vCPUs at 62.5 MHz: a million times that is more than 64 bits hold.
    fake.vm(1).paging.users.looked = (fake.clock, 1 << 46);
    work(&mut manager, &mut fake, 20_000);
    fake.vm(1).paging.random_reader(10);
    work(&mut manager, &mut fake, 15_000);
    let regions = fake.vm(1).paging.users.regions.values();
    let leaves = regions.filter(|region| region.form == PagingForm::Leaf);
    assert_eq!(leaves.count(), 10);
}

#[test]
fn what_a_trial_has_split_is_made_whole_behind_a_storm() {
    let (mut fake, bundle) = (Fake::new(), bundle(vec![thin()]));
    let mut manager = tried_in_vain(&mut fake, &bundle);
    assert_eq!(fake.vm(1).paging.users.sweeps, 0);
    fake.vm(1).paging.status.roots = paging_roots::STICKY;
    work(&mut manager, &mut fake, 3_000);
    assert_eq!(fake.vm(1).paging.users.sweeps, 1);
}

#[test]
fn traps_that_el2_goes_on_with_are_ended_later() {
    let (mut fake, bundle) = (Fake::new(), bundle(vec![thin()]));
    let mut manager = tried_in_vain(&mut fake, &bundle);
    fake.failures.insert("PagingRoots", Error::NoMemory);
    work(&mut manager, &mut fake, 20_000);
    let screen = typed(&mut manager, &mut fake, "\x1dspaging show linux\r");
    shows(&screen, &["user roots: trapped since"]);
    fake.failures.clear();
    work(&mut manager, &mut fake, 3_000);
    assert_eq!(fake.vm(1).paging.status.roots, paging_roots::STICKY);
}

#[test]
fn traps_that_a_new_manager_cannot_end_at_once_it_ends_later() {
    let (mut fake, bundle) = (Fake::new(), bundle(vec![thin()]));
    drop(tried_in_vain(&mut fake, &bundle));
    fake.vm(1).paging.users.busy = false;
    fake.failures.insert("PagingRoots", Error::Busy);
    let mut manager =
        Manager::boot(&mut fake, &bundle, revival(1)).unwrap_or_else(|_| panic!("no boot"));
    fake.failures.clear();
    assert_eq!(fake.vm(1).paging.status.roots, BOTH);
    work(&mut manager, &mut fake, 3_000);
    assert_eq!(fake.vm(1).paging.status.roots, paging_roots::STICKY);
}

#[test]
fn pages_go_home_whenever_the_operator_ends_a_trial() {
    let timed = |pager: &Pager, away: u32| away > 0 && pager.is_timing();
    // The first region's: none is in order that could be missed.
    let moving = |pager: &Pager, away: u32| away == 0 && pager.is_moving();
    for is_soon in [timed, moving] {
        let mut fake = Fake::new();
        fake.pace = 64;
        let mut spec = thin();
        spec.paging.copy_bytes = 4 << 20;
        let bundle = bundle(vec![spec]);
        let mut manager = booted(&mut fake, &bundle);
        fake.vm(1).paging.random_reader(10);
        let is_now = |manager: &Manager<'_>, away| {
            let pager = manager.slots[0].pager.as_ref();
            pager.is_some_and(|pager| is_soon(pager, away))
        };
        while !is_now(&manager, fake.vm(1).paging.users.away) {
            assert_eq!(manager.step(&mut fake), None, "{}", fake.screen);
            assert!(fake.clock < 60_000, "{}", fake.screen);
        }
        fake.vm(1).paging.users.sweeps = 0;
        typed(&mut manager, &mut fake, "\x1dspaging mode linux nested\r");
        work(&mut manager, &mut fake, 20_000);
        let users = &fake.vm(1).paging.users;
        assert_eq!((users.away, users.sweeps > 0), (0, true));
    }
}
