//! What each TLBI removes, and what it leaves.

use super::space::Machine;
use crate::{Access, Column, Core, Mode, Operation, Reach, Scope, Tally};

const USER: u64 = 0x40_0000_0000;
const KERNEL: u64 = 0xffff_0000_4000_0000;

fn opcode(op1: u32, crm: u32, op2: u32) -> u32 {
    0xd508_8000 | op1 << 16 | crm << 8 | op2 << 5 | 3
}

fn decode(op1: u32, crm: u32, op2: u32, operand: u64) -> (Operation, Reach) {
    Operation::decode(opcode(op1, crm, op2), operand).unwrap()
}

struct Bench {
    machine: Machine,
    scope: Scope,
    filler: u64,
}

impl Bench {
    /// One page of user memory, one of the kernel, both used once by ASID 7; two cores.
    fn new() -> Self {
        let mut machine = Machine::new(Some(12));
        machine.set_asid(7);
        machine.map(USER, 0x1_0000_0000, 12, 0);
        machine.map(KERNEL, 0x1_0001_0000, 12, 0);
        let core = Core::preset("a53").unwrap();
        let mut scope = Scope::new(
            vec![Column {
                core,
                mode: Mode::AsIs,
            }],
            2,
        );
        for seat in 0..2 {
            scope.set_regime(seat, machine.regime);
            for va in [USER, KERNEL] {
                scope.access(seat, va, Access::Data, &machine.ram);
            }
        }
        Self {
            machine,
            scope,
            filler: 0,
        }
    }

    fn total(&self) -> Tally {
        self.scope.partitions()[0].1[0].total()
    }

    /// Misses and reads of an access.
    fn cost(&mut self, seat: usize, va: u64) -> (u64, u64) {
        let before = self.total();
        self.scope.access(seat, va, Access::Data, &self.machine.ram);
        let after = self.total();
        (after.misses - before.misses, after.reads() - before.reads())
    }

    fn tlbi(&mut self, what: (Operation, Reach), at_el1: bool) {
        self.filler += 1;
        self.scope.invalidate(0, what.0, what.1, at_el1);
    }
}

#[test]
fn by_address_takes_one_asid_and_what_is_global() {
    let operand = |asid: u64, va: u64| asid << 48 | va >> 12 & 0xfff_ffff_ffff;
    let mut bench = Bench::new();
    bench.tlbi(decode(0, 3, 1, operand(8, USER)), true);
    assert_eq!(bench.cost(0, USER).0, 0);
    bench.tlbi(decode(0, 3, 1, operand(7, USER)), true);
    assert_eq!((bench.cost(0, USER).0, bench.cost(1, USER).0), (1, 1));
    // The kernel's page is global: any ASID removes it.
    bench.tlbi(decode(0, 3, 1, operand(99, KERNEL)), true);
    assert_eq!(bench.cost(0, KERNEL).0, 1);
    // VAA: the ASID does not matter.
    bench.tlbi(decode(0, 3, 3, operand(99, USER)), true);
    assert_eq!(bench.cost(0, USER).0, 1);
}

#[test]
fn last_level_only_leaves_the_table_pointer() {
    let mut bench = Bench::new();
    bench.tlbi(decode(0, 3, 5, 7 << 48 | USER >> 12), true);
    // The walk cache gives the level-3 table, the IPA cache the output: one read.
    assert_eq!(bench.cost(0, USER), (1, 1));
    bench.tlbi(decode(0, 3, 1, 7 << 48 | USER >> 12), true);
    // All four levels again, their IPAs still cached.
    assert_eq!(bench.cost(0, USER), (1, 4));
}

#[test]
fn by_asid_leaves_global_entries() {
    let mut bench = Bench::new();
    bench.tlbi(decode(0, 3, 2, 7 << 48), true);
    assert_eq!((bench.cost(0, USER).0, bench.cost(0, KERNEL).0), (1, 0));
}

#[test]
fn local_forms_stay_on_their_core_unless_broadcast_is_forced() {
    let mut bench = Bench::new();
    bench.tlbi(decode(0, 7, 0, 0), true);
    assert_eq!((bench.cost(0, USER).0, bench.cost(1, USER).0), (1, 0));
    bench.machine.regime.hcr |= 1 << 9;
    for seat in 0..2 {
        bench.scope.set_regime(seat, bench.machine.regime);
    }
    bench.tlbi(decode(0, 7, 0, 0), true);
    assert_eq!((bench.cost(0, USER).0, bench.cost(1, USER).0), (1, 1));
    // EL2's own local form stays local.
    bench.tlbi(decode(0, 7, 0, 0), false);
    assert_eq!((bench.cost(0, USER).0, bench.cost(1, USER).0), (1, 0));
}

#[test]
fn stage_2_by_ipa_leaves_combined_entries() {
    let mut bench = Bench::new();
    bench.tlbi(decode(4, 0, 1, 0x1_0000_0000 >> 12), false);
    assert_eq!(bench.cost(0, USER).0, 0);
    // A stage-1 flush then shows that the IPA has gone: one walk of stage 2 for the output, while
    // the tables' IPAs are still cached.
    bench.tlbi(decode(0, 3, 0, 0), false);
    assert_eq!(bench.cost(0, USER), (1, 4 + 3));
    bench.tlbi(decode(4, 3, 6, 0), false);
    // Everything of the VMID: five IPAs through three levels, and four descriptors.
    assert_eq!(bench.cost(0, USER), (1, 4 + 15));
}

#[test]
fn another_vmid_is_not_touched() {
    let mut bench = Bench::new();
    let mut other = bench.machine.regime;
    other.vttbr = other.vttbr & 0xffff_ffff_ffff | 9 << 48;
    bench.scope.set_regime(0, other);
    bench.tlbi(decode(4, 3, 6, 0), false);
    bench.scope.set_regime(0, bench.machine.regime);
    assert_eq!(bench.cost(0, USER).0, 0);
    bench.tlbi(decode(4, 7, 4, 0), false);
    assert_eq!((bench.cost(0, USER).0, bench.cost(1, USER).0), (1, 0));
}

#[test]
fn a_merged_entry_goes_as_a_whole() {
    let mut machine = Machine::new(None);
    for page in 0..4 {
        machine.map(USER + page * 0x1000, 0x1_0000_0000 + page * 0x1000, 12, 0);
    }
    let core = Core::preset("a76").unwrap();
    let mut scope = Scope::new(
        vec![Column {
            core,
            mode: Mode::Native,
        }],
        1,
    );
    scope.set_regime(0, machine.regime);
    scope.access(0, USER, Access::Data, &machine.ram);
    let (operation, reach) = decode(0, 3, 1, (USER + 0x3000) >> 12);
    scope.invalidate(0, operation, reach, true);
    scope.access(0, USER, Access::Data, &machine.ram);
    assert_eq!(scope.partitions()[0].1[0].total().misses, 2);
}

#[test]
fn opcodes_are_told_apart() {
    // tlbi vmalle1is; tlbi vae1is, x3; tlbi ipas2e1is, x3; tlbi alle2; dsb sy; msr.
    assert_eq!(Operation::operand_register(0xd508_831f), Some(31));
    assert_eq!(
        Operation::decode(0xd508_831f, 0),
        Some((Operation::Vmid { stage2: false }, Reach::Shareable))
    );
    assert_eq!(Operation::operand_register(0xd508_8323), Some(3));
    let expected = Operation::Ipa {
        ipa: 0x1234_5000,
        last_only: false,
    };
    assert_eq!(
        Operation::decode(0xd50c_8023, 0x12345),
        Some((expected, Reach::Shareable))
    );
    assert_eq!(
        Operation::decode(0xd50c_871f, 0),
        Some((Operation::Other, Reach::Local))
    );
    assert_eq!(Operation::decode(0xd503_3f9f, 0), None);
    assert_eq!(Operation::decode(0xd518_2000, 0), None);
    // A kernel address is sign-extended.
    let (operation, _) =
        Operation::decode(0xd508_8323, 0x0fff_0000_4000_0000 >> 12 & 0xfff_ffff_ffff).unwrap();
    assert!(matches!(operation, Operation::Va { asid: Some(0), .. }));
    let (operation, _) = Operation::decode(0xd508_8323, KERNEL >> 12 & 0xfff_ffff_ffff).unwrap();
    assert_eq!(
        operation,
        Operation::Va {
            va: KERNEL,
            asid: Some(0),
            last_only: false
        }
    );
}
