//! What makes a VM nested, and the way back: at once, with what that leaves given back by and by.

use penumbra_abi::{Call, Error, PagingCounter, PagingForm, PagingMode, PagingRefusal};
use penumbra_paging::WINDOW_BIT;
use penumbra_vmsa::PAGE_SIZE;

use super::Bench;
use super::compound::{KERNEL, LEVEL2, PARTLY, ROOT, TABLES, TCR, WHOLE, planted, settle};
use super::fake::{Op, RAM};

impl Bench {
    /// The guest is nested, by its own doing, and nothing is left that would say otherwise.
    fn has_fallen(&mut self, vm: u64, why: PagingRefusal) {
        let status = self.paging(vm);
        assert_eq!(status.mode, PagingMode::Nested);
        assert_eq!(status.refusal, why);
        assert_eq!((status.nodes_used, status.frames_used), (0, 0));
        assert_eq!(self.counts(vm, PagingCounter::Violations), 1);
        for table in [ROOT, LEVEL2, WHOLE, PARTLY] {
            assert!(self.cores[1].leaf(table).unwrap().attrs.access.writes());
        }
        assert_eq!(self.differences(vm), 0);
    }
}

#[test]
fn a_walker_that_writes_makes_the_vm_nested() {
    let (mut bench, vm) = planted();
    bench.shadow(vm, KERNEL);
    bench.shadow(vm, TABLES);
    let permission = 0b00_1111;
    bench.program(vm, 0, [Op::WalkFault(WHOLE, permission)]);
    settle(&mut bench);
    let status = bench.paging(vm);
    assert_eq!(status.mode, PagingMode::Nested);
    assert_eq!(bench.cores[1].sysregs.ttbr1_el1 & WINDOW_BIT, 0);
    // The guest goes on with its own tables; those that were watched wait for the manager, or for their turn.
    assert_eq!(bench.differences(vm), 0);
    bench.finish(Call::PagingMode, &[vm, PagingMode::Nested as u64], 1);
    bench.has_fallen(vm, PagingRefusal::Violation);
    assert_eq!(
        bench.error(Call::PagingShadow, &[vm, 0, KERNEL, 3]),
        Error::BadState
    );
}

/// HCR_EL2.PTW refuses a walk that leads to a device: nothing of the service's, and no entry of a TLB is stale.
#[test]
fn a_walk_that_leads_to_a_device_is_an_abort_of_the_guests() {
    const VECTORS: u64 = 0x7000_0000;
    const DEVICE: u64 = 0x0901_0000;
    let mut bench = Bench::new(2);
    let vm = bench.create(1);
    bench.reserve(vm, 4 << 20);
    bench.ok(Call::VmMapDevice, &[vm, DEVICE, PAGE_SIZE]);
    bench.start(vm, &[1]);
    bench.steps(3);
    bench.ok(Call::PagingMode, &[vm, PagingMode::Compound as u64]);
    bench.cores[1].sysregs.vbar_el1 = VECTORS;
    bench.program(vm, 0, [Op::WalkFault(DEVICE, 0b00_1111)]);
    settle(&mut bench);
    assert_eq!(bench.cores[1].sysregs.pc & !0x7ff, VECTORS);
    assert_eq!(bench.counts(vm, PagingCounter::Stale), 0);
    assert_eq!(bench.paging(vm).mode, PagingMode::Compound);
}

/// A kernel that took over from one that was shadowed, and meets pages that were its tables.
#[test]
fn a_store_through_tables_that_cannot_be_walked_makes_the_vm_nested() {
    const TG1: u64 = 0b11 << 30;
    let unwalkable: [fn(&mut crate::tests::fake::Fake); 4] = [
        |core| core.sysregs.tcr_el1 = TCR & !TG1 | 0b01 << 30,
        |core| core.sysregs.tcr_el1 = TCR & !TG1 | 0b11 << 30,
        |core| core.sysregs.tcr_el1 = TCR | 1 << 59,
        |core| core.sysregs.sctlr_el1 |= 1 << 25,
    ];
    for change in unwalkable {
        let (mut bench, vm) = planted();
        bench.shadow(vm, TABLES);
        change(&mut bench.cores[1]);
        let word = PARTLY + 8 * 300;
        bench.program(vm, 0, [Op::StoreBy(KERNEL, word, 6)]);
        for _ in 0..4 {
            settle(&mut bench);
        }
        assert_eq!(bench.cores[1].read_guest(word), 6);
        // Without the manager: each fault gives some back, and each look at the vCPU.
        for _ in 0..4 {
            bench.cores[0].pass(2_000_000);
            settle(&mut bench);
        }
        bench.has_fallen(vm, PagingRefusal::Violation);
    }
}

/// A root in the window leads to tables that are the service's: what they say the guest's own do not.
#[test]
fn a_guest_that_walks_tables_of_the_window_is_nested_after_some_tries() {
    let (mut bench, vm) = planted();
    bench.shadow(vm, TABLES);
    bench.cores[1].sysregs.ttbr0_el1 = penumbra_paging::POOL_BASE;
    let word = PARTLY + 8 * 300;
    bench.program(vm, 0, [Op::StoreBy(word - RAM, word, 6)]);
    for _ in 0..20 {
        bench.cores[0].pass(2_000);
        settle(&mut bench);
    }
    assert_eq!(bench.cores[1].read_guest(word), 6);
    for _ in 0..4 {
        bench.cores[0].pass(2_000_000);
        settle(&mut bench);
    }
    bench.has_fallen(vm, PagingRefusal::Astray);
}

#[test]
fn a_tlb_conflict_makes_the_vm_nested() {
    let (mut bench, vm) = planted();
    bench.shadow(vm, KERNEL);
    bench.program(vm, 0, [Op::Class(0x24, 0b11_0000)]);
    settle(&mut bench);
    assert_eq!(bench.paging(vm).mode, PagingMode::Nested);
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn nested_and_back_again() {
    let (mut bench, vm) = planted();
    bench.shadow(vm, KERNEL);
    bench.finish(Call::PagingMode, &[vm, PagingMode::Nested as u64], 1);
    assert_eq!(bench.paging(vm).nodes_used, 0);
    // The alias that the guest still has shows its own root.
    assert!(bench.is_planted());
    let alias = bench.cores[1].leaf(ROOT | WINDOW_BIT).unwrap();
    assert_eq!(
        alias.pa,
        bench.cores[1]
            .leaf(ROOT)
            .unwrap()
            .pa_of(penumbra_vmsa::Ipa::truncated(ROOT))
    );
    bench.ok(Call::PagingMode, &[vm, PagingMode::Shadow as u64]);
    assert_eq!(bench.paging(vm).nodes_used, 1);
    assert_eq!(bench.shadow(vm, KERNEL), Some(PagingForm::Leaf));
    assert_eq!(bench.differences(vm), 0);
}
