//! What is given up at once, and given back by and by.

use super::*;

/// Tables of level 3 below one of level 2.
const TABLES: u64 = 40;

fn table(number: u64) -> Ipa {
    Ipa::truncated(LEVEL3 + number * 0x1000)
}

fn writable(rig: &Rig<64>, page: Ipa) -> bool {
    let leaf = rig.stage2.lookup(&rig.memory, page).unwrap();
    leaf.attrs.access.writes()
}

/// A root of which one entry leads to 41 mirrors.
fn grown() -> (Rig<64>, SpaceId) {
    let mut rig = Rig::with_nodes();
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    for number in 0..TABLES {
        rig.write(LEVEL2 + number * 8, table(number).raw() | bits::TABLE);
    }
    let parked = Parked::all_others();
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    for number in 0..TABLES {
        let va = Va::truncated(number << 21);
        let made = rig.compound.shadow(vm!(rig), space, va, Level::L3, &parked);
        assert_eq!(made, Ok(Form::Mirror));
    }
    assert_eq!(rig.compound.node_count(), 42);
    rig.memory.loads.set(0);
    rig.tlb.flushed.clear();
    (rig, space)
}

/// Nothing is left but so many mirrored roots.
fn all_given_back(rig: &mut Rig<64>, roots: u32) {
    assert_eq!(rig.compound.give_back(vm!(rig), 1), 0);
    let nodes = u32::try_from(rig.compound.node_count()).unwrap();
    assert_eq!((nodes, rig.compound.pool_frames().0), (roots, roots));
    for number in 0..TABLES {
        assert!(writable(rig, table(number)), "{number}");
    }
    assert!(writable(rig, Ipa::truncated(LEVEL2)));
    assert_eq!(writable(rig, Ipa::truncated(ROOT)), roots == 0);
    assert_eq!(rig.audit(), 0);
}

#[test]
fn a_store_above_many_tables_takes_no_longer_than_one_above_few() {
    let (mut rig, _) = grown();
    let parked = Parked::all_others();
    let entry = Ipa::truncated(ROOT);
    assert_eq!(rig.compound.store(vm!(rig), entry, 0), Stored::Structural);
    rig.compound.soften(vm!(rig), entry, &parked);
    assert_eq!(rig.tlb.flushed.len(), 1, "one flush, whatever is below");
    assert!(rig.memory.loads.get() < 60, "{}", rig.memory.loads.get());
    assert_eq!(rig.compound.store(vm!(rig), entry, 0), Stored::Mirrored);
    // The table that the entry led to is the guest's again, those below it wait.
    assert!(writable(&rig, Ipa::truncated(LEVEL2)));
    assert_eq!(rig.compound.node_count(), 42);
    assert_eq!(rig.audit(), 0);
    rig.tlb.flushed.clear();
    let mut pieces = 0;
    while rig.compound.give_back(vm!(rig), 4) != 0 {
        pieces += 1;
        assert_eq!(rig.audit(), 0);
    }
    assert_eq!(pieces, 11);
    assert!(rig.tlb.flushed.is_empty(), "nobody can come there");
    all_given_back(&mut rig, 1);
}

#[test]
fn stores_to_what_waits_are_done_or_let_its_protection_go() {
    let (mut rig, space) = grown();
    let parked = Parked::all_others();
    rig.compound
        .demote_page(vm!(rig), Ipa::truncated(LEVEL2), &parked);
    let [plain, odd, linked] = [3, 4, 5].map(table);
    assert!(
        [plain, odd, linked]
            .iter()
            .all(|page| !writable(&rig, *page))
    );
    // As before, though nobody walks its mirror.
    let hole = Ipa::truncated(plain.raw() + 80);
    assert_eq!(rig.compound.store(vm!(rig), hole, 6), Stored::Mirrored);
    assert_eq!(rig.memory.load(Pa::truncated(hole.raw())), 6);
    // One that cannot be done is let through at once, with its mirror waiting still.
    rig.compound.demote_page(vm!(rig), odd, &parked);
    assert!(writable(&rig, odd));
    assert_eq!(rig.audit(), 0);
    // A table that waits may be shadowed anew, at another place, and has to stay protected then.
    let (at, link) = (Ipa::truncated(ROOT + 8), LEVEL2 | bits::TABLE);
    assert_eq!(rig.compound.store(vm!(rig), at, link), Stored::Mirrored);
    let va = |number: u64| Va::truncated(1 << 30 | number << 21);
    let parked = Parked::all_others();
    let made = rig
        .compound
        .shadow(vm!(rig), space, va(5), Level::L3, &parked);
    assert_eq!(made, Ok(Form::Mirror));
    while rig.compound.give_back(vm!(rig), 3) != 0 {
        assert!(!writable(&rig, linked));
        assert_eq!(rig.audit(), 0);
    }
    assert_eq!(rig.compound.node_count(), 3);
    assert_eq!(rig.compound.store(vm!(rig), linked, 0), Stored::Mirrored);
    while !rig.compound.drop_space(vm!(rig), space, &parked) {}
    while rig.compound.give_back(vm!(rig), 3) != 0 {}
    all_given_back(&mut rig, 0);
}

#[test]
fn what_waits_makes_room_for_what_is_new() {
    let (mut rig, space) = grown();
    let parked = Parked::all_others();
    // The rest of the nodes.
    let (at, link) = (Ipa::truncated(ROOT + 8), LEVEL2 | bits::TABLE);
    assert_eq!(rig.compound.store(vm!(rig), at, link), Stored::Mirrored);
    let va = |number: u64| Va::truncated(1 << 30 | number << 21);
    let mut made = 0;
    while rig
        .compound
        .shadow(vm!(rig), space, va(made), Level::L3, &parked)
        .is_ok()
    {
        made += 1;
    }
    assert_eq!((made, rig.compound.node_count()), (21, 64));
    rig.compound.soften(vm!(rig), Ipa::truncated(ROOT), &parked);
    for number in made..TABLES {
        let form = rig
            .compound
            .shadow(vm!(rig), space, va(number), Level::L3, &parked);
        assert_eq!(form, Ok(Form::Mirror), "{number}");
        assert_eq!(rig.audit(), 0);
    }
    // No more is evicted than has to be.
    assert_eq!(rig.compound.counters().evicted, 0);
}

#[test]
fn a_vm_is_nested_by_one_flush_and_wound_up_in_pieces() {
    let (mut rig, space) = grown();
    let parked = Parked::all_others();
    let samples = TABLES + 10;
    for number in 0..10 {
        let at = TABLES + number;
        rig.write(LEVEL2 + at * 8, table(at).raw() | bits::TABLE);
        let kind = [SampleKind::Walks, SampleKind::Writes][usize::from(number % 2 == 1)];
        let va = Va::truncated(at << 21);
        let begun = rig.compound.sample(vm!(rig), space, va, kind, true);
        assert_eq!(begun, Ok(()));
    }
    rig.memory.loads.set(0);
    assert!(rig.compound.has_roots());
    assert!(rig.compound.nest(vm!(rig), &parked));
    assert!(!rig.compound.has_roots());
    assert!(rig.memory.loads.get() < 60, "{}", rig.memory.loads.get());
    assert_eq!(rig.audit(), 0);
    let mut pieces = 0;
    while !rig.compound.wind_up(vm!(rig), 2) {
        pieces += 1;
        assert!(rig.compound.is_used());
        assert_eq!(rig.audit(), 0);
    }
    assert!((22..26).contains(&pieces), "{pieces}");
    assert!(!rig.compound.is_used());
    assert!((TABLES..samples).all(|number| writable(&rig, table(number))));
    all_given_back(&mut rig, 0);
}

#[test]
fn a_page_at_many_places_is_given_up_at_some_of_them_at_once() {
    let parked = Parked::all_others();
    for soften in [true, false] {
        let mut rig = Rig::<64>::with_nodes();
        // 16 entries of the root lead to one table, and that one to another.
        for slot in 0..16 {
            rig.write(ROOT + slot * 8, LEVEL2 | bits::TABLE);
        }
        rig.write(LEVEL2, LEVEL3 | bits::TABLE);
        let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
        for slot in 0..16 {
            let va = Va::truncated(slot << 30);
            let made = rig.compound.shadow(vm!(rig), space, va, Level::L3, &parked);
            assert_eq!(made, Ok(Form::Mirror));
        }
        let entry = Ipa::truncated(LEVEL2);
        let mut times = 0;
        while rig.compound.is_watched(entry)
            && rig.compound.store(vm!(rig), entry, 0) == Stored::Structural
        {
            times += 1;
            rig.memory.loads.set(0);
            if soften {
                rig.compound.soften(vm!(rig), entry, &parked);
            } else {
                rig.compound.demote_page(vm!(rig), entry, &parked);
            }
            assert!(rig.memory.loads.get() < 90, "{}", rig.memory.loads.get());
            assert_eq!(rig.audit(), 0);
        }
        assert_eq!(times, 6);
        assert_eq!(rig.compound.is_watched(entry), soften);
        while rig.compound.give_back(vm!(rig), 1) != 0 {}
        assert_eq!(rig.compound.node_count(), if soften { 17 } else { 1 });
        assert_eq!(rig.audit(), 0);
    }
}

#[test]
fn pages_that_are_looked_up_together_are_not_many() {
    let mut rig = Rig::<64>::with_nodes();
    // Pages that share a chain of the 64.
    const RAM: u64 = 0x1000_0000;
    const STRIDE: u64 = 64 * 4096;
    let ram = Mapping::new(
        Ipa::truncated(RAM),
        Pa::truncated(RAM),
        16 * MIB,
        Stage2Attrs::RAM,
    );
    rig.stage2.map(&mut rig.memory, ram).unwrap();
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    for number in 0..33 {
        rig.memory.live.insert(RAM + number * STRIDE);
        rig.write(LEVEL2 + number * 8, (RAM + number * STRIDE) | bits::TABLE);
    }
    let parked = Parked::all_others();
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    for number in 0..33 {
        let va = Va::truncated(number << 21);
        let made = rig.compound.shadow(vm!(rig), space, va, Level::L3, &parked);
        let wanted = if number < 32 {
            Ok(Form::Mirror)
        } else {
            Err(ShadowError::Crowded)
        };
        assert_eq!(made, wanted, "{number}");
    }
    assert_eq!(rig.audit(), 0);
}
