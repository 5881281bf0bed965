//! Misses by address space and by partition.

use super::space::Machine;
use crate::{Access, AddressSpace, BlockKey, BlockTally, Column, Core, Mode, Scope, Shape, Use};

const USER: u64 = 0x40_0000_0000;
const KERNEL: u64 = 0xffff_0000_4000_0000;

#[test]
fn misses_go_to_the_root_and_asid_they_walked_from() {
    let mut machine = Machine::new(Some(12));
    machine.set_asid(7);
    machine.map(USER, 0x1_0000_0000, 12, 0);
    machine.map(KERNEL, 0x1_0001_0000, 12, 0);
    let [first, kernel] = machine.regime.ttbr;
    let core = Core::preset("a53").unwrap();
    let columns = [Mode::AsIs, Mode::Native].map(|mode| Column {
        core: core.clone(),
        mode,
    });
    let mut scope = Scope::new(columns.to_vec(), 1);
    let mut visit = |machine: &Machine, addresses: &[u64]| {
        scope.set_regime(0, machine.regime);
        for &va in addresses {
            scope.access(0, va, Access::Data, &machine.ram);
        }
    };
    visit(&machine, &[USER, KERNEL]);
    // Another process: its own page misses, the kernel's is global and hits.
    let second = machine.new_root();
    machine.regime.ttbr[0] = second;
    machine.set_asid(8);
    machine.map(USER, 0x1_0002_0000, 12, 0);
    visit(&machine, &[USER, KERNEL]);
    // The first one's entries are still there.
    machine.regime.ttbr[0] = first;
    machine.set_asid(7);
    visit(&machine, &[USER, KERNEL]);

    let space = |root: u64, asid| AddressSpace {
        vmid: 5,
        root: root & 0xffff_ffff_f000,
        asid,
    };
    let found: Vec<(AddressSpace, [u64; 2])> = scope
        .spaces()
        .iter()
        .map(|(&key, columns)| (key, [columns[0].misses, columns[1].misses]))
        .collect();
    let mut expected = vec![
        (space(first, Some(7)), [1, 1]),
        (space(kernel, None), [1, 1]),
        (space(second, Some(8)), [1, 1]),
    ];
    expected.sort();
    assert_eq!(found, expected);
    // Each space's counts are part of its partition's.
    let total = scope.partitions()[0].1[0].total();
    let sum: u64 = scope.spaces().values().map(|c| c[0].reads()).sum();
    assert_eq!((scope.partitions()[0].0, total.reads()), (5, sum));
    assert_eq!(scope.address_spaces(0)[0], space(first, Some(7)));
}

#[test]
fn the_reach_in_use_is_what_a_vm_has_of_the_main_tlb() {
    let mut machine = Machine::new(Some(21));
    machine.map(USER, 0x1_0000_0000, 21, 0);
    machine.map(KERNEL, 0x1_0020_0000, 12, 0);
    let column = Column {
        core: Core::preset("a72").unwrap(),
        mode: Mode::AsIs,
    };
    let mut scope = Scope::new(vec![column], 1);
    scope.set_regime(0, machine.regime);
    for va in [USER, KERNEL, USER + 0x1000] {
        scope.access(0, va, Access::Data, &machine.ram);
    }
    let expected = Use {
        entries: 2,
        reach_bytes: (2 << 20) + 4096,
    };
    assert_eq!(scope.reach(0, 0, 5), expected);
    // Nobody else has a part of it, and there is no such core.
    assert_eq!(scope.reach(0, 0, 6), Use::default());
    assert_eq!(scope.reach(1, 0, 5), Use::default());
}

#[test]
fn stage_2_is_charged_to_the_block_and_to_what_was_translated() {
    let mut machine = Machine::new(Some(12));
    machine.map(USER, 0x1_0000_0000, 12, 0);
    machine.map(USER + 0x1000, 0x1_0020_0000, 12, 0);
    let columns = [Mode::AsIs, Mode::Synthetic(12)].map(|mode| Column {
        core: Core::preset("a72").unwrap(),
        mode,
    });
    let mut scope = Scope::new(columns.to_vec(), 1);
    scope.set_regime(0, machine.regime);
    for va in [USER, USER + 0x1000] {
        scope.access(0, va, Access::Data, &machine.ram);
    }
    let found = |ipa, tables| {
        let key = BlockKey::around(5, ipa, tables);
        let tallies = &scope.blocks()[&key];
        assert_eq!(tallies[1], BlockTally::default());
        (tallies[0].translations, tallies[0].reads)
    };
    // Each output is a page of its own, 3 reads each; the second walk has the level-3 table's address from the walk cache,
    // and each of the first's four tables is a page of its own.
    assert_eq!(found(0x1_0000_0000, false), (1, 3));
    assert_eq!(found(0x1_0020_0000, false), (1, 3));
    assert_eq!(found(0x8000_0000, true), (4, 12));
    let total = scope.partitions()[0].1[0].total();
    let sum: u64 = scope
        .blocks()
        .values()
        .map(|tallies| tallies[0].reads)
        .sum();
    assert_eq!(total.stage2_reads, sum);
    let key = BlockKey::around(5, 0x1_0000_0000, false);
    assert_eq!(scope.shape(0, key, &machine.ram).name(), "part");
    // Of another VM nothing is known here.
    let other = BlockKey { vmid: 6, ..key };
    assert_eq!(scope.shape(0, other, &machine.ram), Shape::Absent);
}
