//! Trapped roots: what is exchanged, what is flushed, and how it ends.

use penumbra_abi::{
    Call, Error, PAGING_ROOTS, PagingCounter, PagingForm, PagingMode, PagingRefusal, PagingRoot,
    PagingSpace, RootInstall, paging_roots,
};
use penumbra_paging::WINDOW_BIT;
use penumbra_trap::controls::{hcr, hfgwtr};
use penumbra_vmsa::PAGE_SIZE;

use super::Bench;
use super::compound::{LEVEL2, ROOT, TABLE, TCR, WHOLE, prepared_on, settle};
use super::fake::{Op, RAM};
use crate::machine::SysregFrame;

pub(super) const TTBR0: [u32; 5] = [3, 0, 2, 0, 0];
const TTBR1: [u32; 5] = [3, 0, 2, 0, 1];
const TCR_EL1: [u32; 5] = [3, 0, 2, 0, 2];
const CONTEXTIDR: [u32; 5] = [3, 0, 13, 0, 1];
const SCTLR: [u32; 5] = [3, 0, 1, 0, 0];
const NOT_GLOBAL: u64 = 1 << 11;
/// TCR_EL1.A1.
const A1: u64 = 1 << 22;
/// Another root, empty.
pub(super) const OTHER: u64 = RAM + 0x3_0000;

pub(super) fn asid(number: u64) -> u64 {
    number << 48
}

/// Its pages are not global.
pub(super) fn make_private(bench: &mut Bench) {
    for page in 0..512 {
        let at = WHOLE + 8 * page;
        let raw = bench.cores[1].read_guest(at) | NOT_GLOBAL;
        bench.cores[1].write_guest(at, raw);
    }
}

/// A guest whose roots are trapped, with a space wanted for `ROOT` in the lower half.
pub(super) fn trapped() -> (Bench, u64) {
    trapped_on(Bench::new(2))
}

fn trapped_on(bench: Bench) -> (Bench, u64) {
    let (mut bench, vm) = prepared_on(bench, &[1]);
    make_private(&mut bench);
    bench.cores[1].sysregs.ttbr1_el1 = OTHER | asid(1);
    assert_eq!(
        bench.error(Call::PagingSpaceAdd, &[vm, ROOT]),
        Error::BadState
    );
    let done = bench.ok(Call::PagingRoots, &[vm, paging_roots::TRAPPED]);
    assert_eq!(done, 1);
    settle(&mut bench);
    assert!(bench.is_trapping());
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, ROOT]), 0);
    (bench, vm)
}

impl Bench {
    pub(super) fn is_trapping(&self) -> bool {
        let controls = &self.cores[1].controls;
        let fine = controls.hfgwtr_el2.is_some_and(|traps| traps != 0);
        controls.hcr_el2 & hcr::TVM != 0 || fine
    }

    /// The guest writes a register. Returns TTBR0_EL1 then.
    pub(super) fn msr(&mut self, vm: u64, register: [u32; 5], value: u64) -> u64 {
        self.program(vm, 0, [Op::Msr(register, value)]);
        self.steps(2);
        self.cores[1].sysregs.ttbr0_el1
    }

    pub(super) fn root(&mut self, vm: u64, root: u64) -> Option<PagingRoot> {
        (0..u64::try_from(PAGING_ROOTS).unwrap()).find_map(|number| {
            let [_, regs @ ..] = self.call(Call::PagingRoot, &[vm, number]);
            PagingRoot::from_regs(regs).filter(|seen| seen.root == root && seen.exists)
        })
    }

    pub(super) fn flushes(&self) -> (u64, usize) {
        let core = &self.cores[1];
        (core.local_flushes, core.asid_flushes.len())
    }
}

#[test]
fn a_root_with_a_space_is_exchanged_and_others_are_not() {
    let (mut bench, vm) = trapped();
    let pc = bench.cores[1].sysregs.pc;
    assert_eq!(bench.msr(vm, TTBR0, OTHER | asid(5)), OTHER | asid(5));
    assert_eq!(bench.cores[1].sysregs.pc, pc + 4);
    let before = bench.flushes();
    // The first time behind a flush, then by what the vCPU knows.
    let alias = ROOT | WINDOW_BIT | asid(7);
    assert_eq!(bench.msr(vm, TTBR0, ROOT | asid(7)), alias);
    assert_eq!(bench.flushes(), (before.0 + 1, before.1));
    for _ in 0..3 {
        assert_eq!(bench.msr(vm, TTBR0, OTHER | asid(5)), OTHER | asid(5));
        assert_eq!(bench.msr(vm, TTBR0, ROOT | asid(7)), alias);
    }
    // An alias that was read means the root.
    assert_eq!(bench.msr(vm, TTBR0, alias), alias);
    assert_eq!(
        bench.msr(vm, TTBR0, OTHER | WINDOW_BIT | asid(5)),
        OTHER | asid(5)
    );
    assert_eq!(bench.flushes(), (before.0 + 1, before.1));
    // Another ASID of the same root.
    assert_eq!(
        bench.msr(vm, TTBR0, ROOT | asid(8)),
        ROOT | WINDOW_BIT | asid(8)
    );
    assert_eq!(bench.flushes(), (before.0 + 1, before.1 + 1));
    assert_eq!(bench.counts(vm, PagingCounter::RootTraps), 11);
    assert_eq!(bench.ok(Call::VcpuCounter, &[vm, 0, 2]), 11);
    let [_, regs @ ..] = bench.call(Call::PagingSpace, &[vm, 0]);
    let space = PagingSpace::from_regs(regs).unwrap();
    assert!(space.exists && !space.high && space.shadowed);
    assert_eq!((space.root, space.install), (ROOT, RootInstall::Trapped));
    let seen = bench.root(vm, ROOT).unwrap();
    assert!(seen.space && !seen.wanted);
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, ROOT]), 1);
    assert_eq!(bench.shadow(vm, 0), Some(PagingForm::Leaf));
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn where_writes_can_be_trapped_one_by_one_only_roots_and_their_conditions_are() {
    const FGT: u64 = 1 << 56;
    let (mut bench, vm) = trapped_on(Bench::on(2, FGT));
    let controls = bench.cores[1].controls;
    assert_eq!(controls.hcr_el2 & hcr::TVM, 0);
    let all = hfgwtr::SCTLR_EL1 | hfgwtr::TCR_EL1 | hfgwtr::TTBR0_EL1 | hfgwtr::TTBR1_EL1;
    assert_eq!(controls.hfgwtr_el2, Some(all));
    let written = bench.msr(vm, TTBR0, ROOT | asid(7));
    assert_eq!(written, ROOT | WINDOW_BIT | asid(7));
    bench.finish(Call::PagingRoots, &[vm, 0], 1);
    settle(&mut bench);
    assert!(!bench.is_trapping());
    assert_eq!(bench.cores[1].controls.hfgwtr_el2, Some(0));
}

#[test]
fn two_compound_roots_under_one_asid_do_not_meet_in_a_tlb() {
    let (mut bench, vm) = trapped();
    bench.cores[1].write_guest(OTHER, LEVEL2 | TABLE);
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, OTHER]), 0);
    bench.msr(vm, TCR_EL1, TCR | A1);
    bench.msr(vm, TTBR1, OTHER | asid(3));
    bench.msr(vm, TTBR0, ROOT);
    bench.msr(vm, TTBR0, OTHER);
    bench.msr(vm, TTBR0, ROOT);
    bench.msr(vm, TTBR0, OTHER);
    let before = bench.flushes();
    assert_eq!(bench.msr(vm, TTBR0, ROOT), ROOT | WINDOW_BIT);
    assert_eq!(bench.flushes(), (before.0, before.1 + 1));
    assert_eq!(bench.cores[1].asid_flushes.last(), Some(&3));
    // The ASID moves to TTBR1_EL1, whose root stays as it is.
    bench.msr(vm, TTBR1, OTHER | asid(4));
    assert_eq!(bench.cores[1].sysregs.ttbr1_el1, OTHER | asid(4));
    bench.msr(vm, TTBR0, OTHER);
    bench.msr(vm, TTBR1, OTHER | asid(3));
    let before = bench.flushes();
    bench.msr(vm, TTBR0, ROOT);
    bench.msr(vm, TTBR1, OTHER | asid(4));
    bench.msr(vm, TTBR0, OTHER);
    assert_eq!(bench.flushes(), before, "each has its ASID");
}

#[test]
fn an_asid_that_goes_to_another_compound_root_is_flushed_whatever_was_known() {
    let (mut bench, vm) = trapped();
    bench.cores[1].write_guest(OTHER, LEVEL2 | TABLE);
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, OTHER]), 0);
    for root in [ROOT, OTHER, ROOT] {
        bench.msr(vm, TTBR0, root | asid(7));
    }
    let before = bench.flushes();
    for number in 1..=4 {
        // The same value as the last time but one, and not known any more.
        let root = if number % 2 == 0 { ROOT } else { OTHER };
        assert_eq!(
            bench.msr(vm, TTBR0, root | asid(7)),
            root | WINDOW_BIT | asid(7)
        );
        assert_eq!(bench.flushes(), (before.0, before.1 + number));
        assert_eq!(bench.cores[1].asid_flushes.last(), Some(&7));
    }
    bench.msr(vm, TTBR0, OTHER | asid(8));
    let before = bench.flushes();
    for root in [ROOT | asid(7), OTHER | asid(8), ROOT | asid(7)] {
        bench.msr(vm, TTBR0, root);
    }
    assert_eq!(bench.flushes(), before, "each has its own again");
}

#[test]
fn a_root_is_not_known_under_the_asid_of_another_half() {
    let (mut bench, vm) = trapped();
    bench.msr(vm, TCR_EL1, TCR | A1);
    bench.msr(vm, TTBR1, OTHER | asid(3));
    bench.msr(vm, TTBR0, ROOT);
    let before = bench.flushes();
    bench.msr(vm, TTBR1, OTHER | asid(4));
    assert_eq!(bench.msr(vm, TTBR0, ROOT), ROOT | WINDOW_BIT);
    assert_eq!(bench.flushes(), (before.0, before.1 + 1));
    // What stands for nothing in TTBR0_EL1 is carried all the same.
    let odd = ROOT | asid(9);
    assert_eq!(bench.msr(vm, TTBR0, odd), odd | WINDOW_BIT);
    assert_eq!(bench.msr(vm, TTBR0, ROOT), ROOT | WINDOW_BIT);
    assert_eq!(bench.flushes(), (before.0, before.1 + 1));
}

#[test]
fn the_guests_own_roots_come_back_before_walks_change() {
    let (mut bench, vm) = trapped();
    bench.msr(vm, TTBR0, ROOT | asid(7));
    let on = bench.cores[1].sysregs.sctlr_el1;
    let before = bench.flushes().0;
    assert_eq!(bench.msr(vm, SCTLR, on & !1), ROOT | asid(7));
    assert_eq!(bench.cores[1].sysregs.sctlr_el1, on & !1);
    assert_eq!(bench.flushes().0, before + 1);
    // Off, it is not exchanged; on again, it is.
    assert_eq!(bench.msr(vm, TTBR0, ROOT | asid(7)), ROOT | asid(7));
    bench.msr(vm, SCTLR, on);
    let alias = ROOT | WINDOW_BIT | asid(7);
    assert_eq!(bench.msr(vm, TTBR0, ROOT | asid(7)), alias);
    // UCI means nothing to walks.
    assert_eq!(bench.msr(vm, SCTLR, on ^ 1 << 26), alias);
    // A root that is smaller than a page cannot be exchanged.
    assert_eq!(bench.msr(vm, TCR_EL1, TCR + 1), ROOT | asid(7));
    assert_eq!(bench.cores[1].sysregs.tcr_el1, TCR + 1);
    assert_eq!(bench.msr(vm, TTBR0, ROOT | asid(7)), ROOT | asid(7));
    let seen = bench.root(vm, ROOT).unwrap();
    assert_eq!(seen.refusal, PagingRefusal::RootSize);
    assert_eq!(bench.differences(vm), 0);
}

/// A register and where the fake keeps it.
type Written = ([u32; 5], fn(&SysregFrame) -> u64);

#[test]
fn every_register_of_the_set_is_written() {
    let (mut bench, vm) = trapped();
    let registers: [Written; 8] = [
        ([3, 0, 5, 1, 0], |frame| frame.afsr0_el1),
        ([3, 0, 5, 1, 1], |frame| frame.afsr1_el1),
        ([3, 0, 5, 2, 0], |frame| frame.esr_el1),
        ([3, 0, 6, 0, 0], |frame| frame.far_el1),
        ([3, 0, 10, 2, 0], |frame| frame.mair_el1),
        ([3, 0, 10, 3, 0], |frame| frame.amair_el1),
        ([3, 0, 13, 0, 1], |frame| frame.contextidr_el1),
        (TTBR1, |frame| frame.ttbr1_el1),
    ];
    for ((register, read), value) in registers.into_iter().zip(0x1000..) {
        bench.msr(vm, register, value);
        assert_eq!(read(&bench.cores[1].sysregs), value);
    }
}

#[test]
fn a_space_that_ends_leaves_the_guest_its_own_root() {
    let (mut bench, vm) = trapped();
    bench.msr(vm, TTBR0, ROOT | asid(7));
    assert_eq!(bench.shadow(vm, 0), Some(PagingForm::Leaf));
    bench.finish(Call::PagingSpaceDrop, &[vm, ROOT], 1);
    assert!(bench.cores[1].leaf(ROOT | WINDOW_BIT).is_none());
    assert_eq!(bench.paging(vm).nodes_used, 0);
    // The vCPU still has the alias, and finds out.
    let before = bench.flushes().0;
    bench.program(vm, 0, [Op::WalkFault(ROOT | WINDOW_BIT, 0b00_0101)]);
    bench.steps(2);
    assert_eq!(bench.cores[1].sysregs.ttbr0_el1, ROOT | asid(7));
    assert_eq!(bench.flushes().0, before + 1);
    assert_eq!(bench.msr(vm, TTBR0, ROOT | asid(7)), ROOT | asid(7));
    assert_eq!(bench.paging(vm).refusal, PagingRefusal::None);
    assert_eq!(bench.differences(vm), 0);
}

/// The guest's own root came back because a walk met a page of the window that nothing stands for: what it walks
/// now may differ in size from what the compound root says.
#[test]
fn a_root_that_a_window_fault_put_back_is_exchanged_behind_a_flush() {
    let (mut bench, vm) = trapped();
    let alias = ROOT | WINDOW_BIT | asid(7);
    for _ in 0..2 {
        assert_eq!(bench.msr(vm, TTBR0, ROOT | asid(7)), alias);
    }
    let elsewhere = (ROOT + 0x10_0000) | WINDOW_BIT;
    bench.program(vm, 0, [Op::WalkFault(elsewhere, 0b00_0101)]);
    bench.steps(2);
    assert_eq!(bench.cores[1].sysregs.ttbr0_el1, ROOT | asid(7));
    let before = bench.flushes().0;
    assert_eq!(bench.msr(vm, TTBR0, ROOT | asid(7)), alias);
    assert_eq!(bench.flushes().0, before + 1);
}

#[test]
fn taken_away_it_leaves_no_space_and_no_trap() {
    for nested in [false, true] {
        let (mut bench, vm) = trapped();
        bench.msr(vm, TTBR0, ROOT | asid(7));
        bench.shadow(vm, 0);
        if nested {
            bench.finish(Call::PagingMode, &[vm, PagingMode::Nested as u64], 1);
        } else {
            bench.finish(Call::PagingRoots, &[vm, 0], 1);
        }
        settle(&mut bench);
        assert!(!bench.is_trapping());
        assert!(bench.cores[1].leaf(ROOT | WINDOW_BIT).is_none());
        let [_, regs @ ..] = bench.call(Call::PagingSpace, &[vm, 0]);
        assert!(!PagingSpace::from_regs(regs).unwrap().exists);
        // A write that was on its way.
        assert_eq!(bench.msr(vm, TTBR0, ROOT | asid(7)), ROOT | asid(7));
        assert_eq!(bench.differences(vm), 0);
    }
}

#[test]
fn roots_of_a_vm_that_fell_are_exchanged_until_their_spaces_are_gone() {
    let (mut bench, vm) = trapped();
    bench.cores[1].write_guest(OTHER, LEVEL2 | TABLE);
    bench.msr(vm, TTBR0, ROOT | asid(7));
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, OTHER]), 0);
    let roots = [ROOT | asid(7), OTHER | asid(5)];
    let exchanged = |bench: &mut Bench| roots.map(|root| bench.msr(vm, TTBR0, root));
    let aliases = roots.map(|root| root | WINDOW_BIT);
    assert_eq!(exchanged(&mut bench), aliases);
    // A TLB conflict. One root is given up, the other one is for the manager.
    bench.program(vm, 0, [Op::Class(0x24, 0b11_0000)]);
    settle(&mut bench);
    assert_eq!(bench.paging(vm).mode, PagingMode::Nested);
    assert!(bench.paging(vm).nodes_used > 0);
    bench.cores[0].pass(2_000_000);
    settle(&mut bench);
    // A TLB may hold what its leaves say under its ASID.
    assert!(bench.is_trapping());
    assert_eq!(exchanged(&mut bench), aliases);
    bench.finish(Call::PagingMode, &[vm, PagingMode::Nested as u64], 1);
    settle(&mut bench);
    assert!(!bench.is_trapping());
    assert_eq!(bench.paging(vm).roots, 0, "not again of itself");
    assert_eq!(exchanged(&mut bench), roots);
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn to_take_it_away_needs_no_memory() {
    let (mut bench, vm) = trapped();
    bench.msr(vm, TTBR0, ROOT | asid(7));
    bench.cores[0].use_up();
    assert_eq!(
        bench.error(Call::PagingSpaceAdd, &[vm, OTHER]),
        Error::NoMemory
    );
    bench.finish(Call::PagingRoots, &[vm, 0], 1);
    settle(&mut bench);
    assert!(!bench.is_trapping());
}

#[test]
fn contextidr_is_written_at_the_first_look_and_counts() {
    use crate::exit::{Next, first_synchronous};
    let (mut bench, vm) = trapped();
    let before = bench.counts(vm, PagingCounter::RootTraps);
    bench.msr(vm, CONTEXTIDR, 77);
    assert_eq!(bench.cores[1].sysregs.contextidr_el1, 77);
    assert_eq!(bench.counts(vm, PagingCounter::RootTraps), before + 1);
    // MSR CONTEXTIDR_EL1, X1.
    let esr = 0x18 << 26 | 1 << 25 | 3 << 20 | 1 << 17 | 13 << 10 | 1 << 5;
    let id = crate::vcpu::VcpuId::new(penumbra_vmsa::VmId::new(vm, 8).unwrap(), 0).unwrap();
    let place = bench.system.place(id).unwrap();
    let mut vcpu = crate::vcpu::Vcpu::vacant();
    vcpu.place = Some(place);
    let answers: Vec<Next> = (0..2048)
        .map(|number| {
            vcpu.gpr.set(1, number);
            let next = first_synchronous(&mut vcpu, &mut bench.cores[1], esr);
            if next == Next::Fast {
                place.shared.count(crate::vcpu::Counter::RootTraps);
            }
            next
        })
        .collect();
    // Two of them for a longer look.
    let looks = answers.iter().filter(|next| **next == Next::Fast);
    assert_eq!(looks.count(), 2);
    assert_eq!(bench.cores[1].sysregs.contextidr_el1, 2047);
}

#[test]
fn roots_that_share_their_first_place_take_turns_without_the_tables() {
    let (mut bench, vm) = trapped();
    // As far from each other as there are places, and another that shares them.
    let sharing = [ROOT | asid(7), (ROOT + 0x1_0000) | asid(5)];
    let third = ROOT + 0x2_0000;
    let there = [sharing[0] | WINDOW_BIT, sharing[1]];
    for _ in 0..2 {
        for (root, value) in sharing.into_iter().zip(there) {
            assert_eq!(bench.msr(vm, TTBR0, root), value);
        }
    }
    // A root that is not known is told of at once, one that is with others.
    let told = |bench: &mut Bench, root: u64| bench.root(vm, root & !asid(0xffff)).unwrap().writes;
    let before = sharing.map(|root| told(&mut bench, root));
    for _ in 0..10 {
        for (root, value) in sharing.into_iter().zip(there) {
            assert_eq!(bench.msr(vm, TTBR0, root), value);
        }
    }
    assert_eq!(sharing.map(|root| told(&mut bench, root)), before);
    // The third takes the place of the first, which is told of.
    bench.msr(vm, TTBR0, third);
    assert_eq!(told(&mut bench, sharing[0]), before[0] + 11);
    bench.msr(vm, TTBR0, sharing[1]);
    assert_eq!(told(&mut bench, sharing[1]), before[1]);
    assert_eq!(bench.msr(vm, TTBR0, sharing[0]), there[0]);
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn a_storm_ends_it() {
    let (mut bench, vm) = trapped();
    let pair = [Op::Msr(TTBR0, OTHER), Op::Msr(TTBR0, ROOT)];
    // One write in a tick of the fake's clock, a million in a second.
    for _ in 0..20 {
        bench.program(vm, 0, std::iter::repeat_n(pair.clone(), 500).flatten());
        bench.steps(2);
    }
    settle(&mut bench);
    let status = bench.paging(vm);
    assert_eq!((status.roots, status.refusal), (0, PagingRefusal::Storm));
    assert_eq!(status.nodes_used, 0);
    assert!(!bench.is_trapping());
    assert_eq!(bench.msr(vm, TTBR0, ROOT), ROOT);
    assert_eq!(bench.differences(vm), 0);
}

/// The kernel's root is lost ten times while trapping ends: one space goes with each write all the same.
#[test]
fn losses_do_not_keep_a_storm_from_its_end() {
    let (mut bench, vm) = trapped();
    bench.cores[1].write_guest(OTHER, LEVEL2 | TABLE);
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, OTHER]), 0);
    for root in [ROOT | asid(7), OTHER | asid(5)] {
        bench.msr(vm, TTBR0, root);
    }
    let place = bench.system.vm(usize::try_from(vm).unwrap()).unwrap();
    place.paging.begin_to_end();
    let elsewhere = (ROOT + 0x10_0000) | WINDOW_BIT;
    for _ in 0..10 {
        bench.cores[1].sysregs.ttbr0_el1 |= WINDOW_BIT;
        bench.program(vm, 0, [Op::WalkFault(elsewhere, 0b00_0101)]);
        bench.steps(2);
    }
    for _ in 0..4 {
        bench.msr(vm, TTBR0, OTHER | asid(5));
    }
    settle(&mut bench);
    assert!(!bench.is_trapping());
    assert_eq!(bench.paging(vm).roots, 0);
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn few_writes_in_much_time_are_no_storm() {
    let (mut bench, vm) = trapped();
    for _ in 0..20 {
        let slow = [Op::Msr(TTBR0, OTHER), Op::Msr(TTBR0, ROOT), Op::Spin(50)];
        bench.program(vm, 0, std::iter::repeat_n(slow, 500).flatten());
        bench.steps(2);
    }
    assert_eq!(bench.paging(vm).roots, paging_roots::TRAPPED);
    let seen = bench.root(vm, OTHER).unwrap();
    assert!(seen.writes > 8000 && !seen.space, "{seen:?}");
}

#[test]
fn the_roots_that_are_written_most_are_remembered() {
    let (mut bench, vm) = trapped();
    for round in 0..64 {
        bench.msr(vm, TTBR0, OTHER);
        bench.msr(vm, TTBR0, RAM + (0x100 + round) * PAGE_SIZE);
    }
    settle(&mut bench);
    bench.cores[0].pass(2_000_000);
    settle(&mut bench);
    assert!(bench.root(vm, OTHER).unwrap().writes >= 48);
    assert!(bench.root(vm, ROOT).unwrap().wanted, "a wish stays");
}

#[test]
fn bad_arguments_are_refused() {
    let (mut bench, vm) = trapped();
    for root in [0, ROOT + 8, WINDOW_BIT | ROOT] {
        assert_eq!(
            bench.error(Call::PagingSpaceAdd, &[vm, root]),
            Error::InvalidParameter
        );
        assert_eq!(
            bench.error(Call::PagingSpaceDrop, &[vm, root]),
            Error::InvalidParameter
        );
    }
    assert_eq!(
        bench.error(Call::PagingRoot, &[vm, 16]),
        Error::InvalidParameter
    );
    assert_eq!(
        bench.error(Call::PagingRoots, &[vm, 4]),
        Error::InvalidParameter
    );
    // A wish for what is no RAM is taken, and refused by the write.
    let nowhere = RAM - PAGE_SIZE;
    assert_eq!(bench.ok(Call::PagingSpaceAdd, &[vm, nowhere]), 0);
    assert_eq!(bench.msr(vm, TTBR0, nowhere), nowhere);
    let seen = bench.root(vm, nowhere).unwrap();
    assert_eq!((seen.wanted, seen.refusal), (false, PagingRefusal::NotRam));
}
