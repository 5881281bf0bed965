//! Stores to watched tables: what is emulated, what is given up for them.

use penumbra_abi::PagingCounter;
use penumbra_vmsa::PAGE_SIZE;

use super::Bench;
use super::compound::{
    EL1H, KERNEL, LEVEL2, PAGE, PARTLY, TABLE, TABLES, WHOLE, at, planted, settle,
};
use super::fake::{Op, RAM};

#[test]
fn a_plain_store_is_mirrored_and_a_structural_one_demotes() {
    let (mut bench, vm) = planted();
    bench.shadow(vm, KERNEL);
    bench.shadow(vm, TABLES);
    let hole = PARTLY + 8 * 300;
    let value = (RAM + 300 * PAGE_SIZE) | PAGE;
    let pc = bench.cores[1].sysregs.pc;
    bench.program(vm, 0, [Op::StoreBy(at(hole), hole, value)]);
    settle(&mut bench);
    assert_eq!(bench.cores[1].read_guest(hole), value);
    assert_eq!(bench.cores[1].sysregs.pc, pc + 4);
    assert_eq!(bench.counts(vm, PagingCounter::Mirrored), 1);
    assert_eq!(bench.differences(vm), 0);
    // One page of what the leaf stands for goes.
    let page = WHOLE + 8 * 5;
    bench.program(vm, 0, [Op::StoreBy(at(page), page, 0)]);
    settle(&mut bench);
    assert_eq!(bench.cores[1].read_guest(page), 0);
    assert_eq!(bench.counts(vm, PagingCounter::Structural), 1);
    assert!(bench.cores[1].leaf(WHOLE).unwrap().attrs.access.writes());
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn a_mapping_by_which_tables_are_stored_to_is_known_as_long_as_its_registers_are_the_same() {
    let (mut bench, vm) = planted();
    bench.shadow(vm, TABLES);
    let hole = PARTLY + 8 * 300;
    let mut stored = 0;
    let mut store = |bench: &mut Bench, mirrored: u64| {
        // Never valid, so that no translation changes.
        stored += 2;
        bench.program(vm, 0, [Op::StoreBy(at(hole), hole, stored)]);
        settle(bench);
        assert_eq!(bench.cores[1].read_guest(hole), stored);
        assert_eq!(bench.counts(vm, PagingCounter::Mirrored), mirrored);
        assert_eq!(bench.differences(vm), 0);
    };
    store(&mut bench, 1);
    // Known now; once with PSTATE.SS and BTYPE, which an instruction that is done clears.
    bench.cores[1].sysregs.pstate |= 1 << 21 | 1 << 10;
    store(&mut bench, 2);
    assert_eq!(bench.cores[1].sysregs.pstate, EL1H);
    // An ASID is none of its business, PAN is.
    bench.cores[1].sysregs.ttbr1_el1 ^= 0x11 << 48;
    store(&mut bench, 3);
    bench.cores[1].sysregs.pstate |= 1 << 22;
    store(&mut bench, 4);
    // As device memory it is not for EL2 to store to.
    bench.cores[1].sysregs.mair_el1 = 0;
    bench.program(vm, 0, [Op::StoreBy(at(hole), hole, 1)]);
    settle(&mut bench);
    assert_eq!(bench.counts(vm, PagingCounter::Mirrored), 4);
    assert_eq!(bench.counts(vm, PagingCounter::Undecodable), 1);
    assert_eq!(bench.cores[1].read_guest(hole), 1);
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn what_may_not_be_emulated_demotes_the_page() {
    // From EL0, though its page is the kernel's; past the caches; not a whole word.
    let (mut bench, vm) = planted();
    bench.shadow(vm, TABLES);
    bench.cores[1].sysregs.mair_el1 = 0x44;
    let hole = PARTLY + 8 * 300;
    bench.program(vm, 0, [Op::StoreBy(at(hole), hole, 7)]);
    settle(&mut bench);
    assert_eq!(bench.cores[1].read_guest(hole), 7);
    assert_eq!(bench.counts(vm, PagingCounter::Undecodable), 1);
    assert_eq!(bench.counts(vm, PagingCounter::Mirrored), 0);
    assert!(bench.cores[1].leaf(PARTLY).unwrap().attrs.access.writes());
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn a_store_that_the_tables_do_not_explain_is_repeated_then_its_path_is_given_up() {
    let (mut bench, vm) = planted();
    bench.shadow(vm, TABLES);
    // The tables have the VA read-only (or nobody's), and yet the core came from there.
    let read_only = PARTLY + 8 * 0x12;
    let raw = bench.cores[1].read_guest(read_only) | 1 << 7;
    bench.program(vm, 0, [Op::StoreBy(at(read_only), read_only, raw)]);
    settle(&mut bench);
    assert_eq!(bench.counts(vm, PagingCounter::Mirrored), 1);
    let before = bench.cores[1].local_flushes;
    bench.program(vm, 0, [Op::StoreBy(at(WHOLE), LEVEL2, WHOLE | TABLE)]);
    settle(&mut bench);
    assert!(bench.cores[1].local_flushes > before);
    assert!(bench.counts(vm, PagingCounter::Stale) >= 2);
    assert!(bench.cores[1].leaf(LEVEL2).unwrap().attrs.access.writes());
    assert_eq!(bench.differences(vm), 0);
}

/// Its first byte that is refused is the first of the page.
#[test]
fn a_store_that_begins_in_the_page_before_is_not_emulated() {
    // STR X1, [X2]; STUR X1, [X2, #-4], and what is no store: X2 is 0.
    for (instruction, aligned) in [(0xf900_0041, true), (0xf81f_c041, false), (0, false)] {
        let (mut bench, vm) = planted();
        bench.shadow(vm, TABLES);
        let code = RAM + 0x5_0000;
        let core = &mut bench.cores[1];
        core.write_guest(code, 0xd503_201f | instruction << 32);
        core.sysregs.pc = at(code) + 4;
        // A bit that changes no translation.
        let value = core.read_guest(PARTLY) | 1 << 55;
        bench.program(vm, 0, [Op::StoreBy(at(PARTLY), PARTLY, value)]);
        settle(&mut bench);
        assert_eq!(bench.cores[1].read_guest(PARTLY), value);
        let counts = [PagingCounter::Mirrored, PagingCounter::Undecodable];
        let counts = counts.map(|counter| bench.counts(vm, counter));
        assert_eq!(counts, [aligned.into(), (!aligned).into()]);
        let leaf = bench.cores[1].leaf(PARTLY).unwrap();
        assert_eq!(leaf.attrs.access.writes(), !aligned);
        assert_eq!(bench.differences(vm), 0);
    }
}
