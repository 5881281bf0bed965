//! The shadowing service: roots, stores, faults, holds, and what is left behind.

use penumbra_abi::{
    Call, Error, PagingCounter, PagingForm, PagingMode, PagingRefusal, PagingSpace, PagingStatus,
    PagingSurvey, paging_roots,
};
use penumbra_paging::WINDOW_BIT;
use penumbra_vmsa::{MIB, PAGE_SIZE};

use super::Bench;
use super::fake::{Op, RAM};

/// The guest's kernel half starts here (39 bits).
pub(super) const KERNEL: u64 = 0xffff_ff80_0000_0000;
/// Its tables: root, level 2, and two of level 3.
pub(super) const ROOT: u64 = RAM + 0x1_0000;
pub(super) const LEVEL2: u64 = RAM + 0x1_1000;
pub(super) const WHOLE: u64 = RAM + 0x1_2000;
pub(super) const PARTLY: u64 = RAM + 0x1_3000;
/// What it maps: its RAM behind the first 2 MiB by one run, at `KERNEL`; its first 2 MiB but for one
/// page at `TABLES`.
pub(super) const TABLES: u64 = KERNEL + 2 * MIB;
const GUEST_BYTES: u64 = 4 * MIB;

pub(super) const TABLE: u64 = 0b11;
/// A page of the kernel: AF, inner shareable, write-back, global.
pub(super) const PAGE: u64 = 1 << 10 | 0b11 << 8 | 0b11;
/// 39-bit halves, 4 KiB granules, cached walks, 40-bit IPAs.
pub(super) const TCR: u64 =
    25 | 0b11_01_01 << 8 | 25 << 16 | 0b11_01_01 << 24 | 0b10 << 30 | 0b010 << 32;
const MMU_AND_CACHES: u64 = 0b101;
pub(super) const EL0: u64 = 0;
pub(super) const EL1H: u64 = 5;

/// The VA by which the kernel writes a word of its first 2 MiB.
pub(super) fn at(ipa: u64) -> u64 {
    TABLES + (ipa - RAM)
}

/// A guest with its tables, on core 1, and its compound pool; `vcpus` vCPUs, the others off.
pub(super) fn prepared(vcpus: &[u64]) -> (Bench, u64) {
    prepared_on(Bench::new(vcpus.len() + 1), vcpus)
}

/// The same on a given board.
pub(super) fn prepared_on(mut bench: Bench, vcpus: &[u64]) -> (Bench, u64) {
    let vm = bench.guest(vcpus);
    bench.steps(3);
    let core = &mut bench.cores[1];
    core.write_guest(ROOT, LEVEL2 | TABLE);
    core.write_guest(LEVEL2, WHOLE | TABLE);
    core.write_guest(LEVEL2 + 8, PARTLY | TABLE);
    for page in 0..512 {
        core.write_guest(WHOLE + 8 * page, (RAM + 2 * MIB + page * PAGE_SIZE) | PAGE);
        let hole = page == 300;
        let raw = if hole {
            0
        } else {
            (RAM + page * PAGE_SIZE) | PAGE
        };
        core.write_guest(PARTLY + 8 * page, raw);
    }
    core.sysregs.sctlr_el1 |= MMU_AND_CACHES;
    core.sysregs.tcr_el1 = TCR;
    core.sysregs.mair_el1 = 0xff;
    core.sysregs.ttbr1_el1 = ROOT | 0x42 << 48;
    core.sysregs.pstate = EL1H;
    bench.ok(Call::PagingMode, &[vm, PagingMode::Compound as u64]);
    bench.finish(Call::PagingPool, &[vm], 1);
    (bench, vm)
}

/// The same with its root planted.
pub(super) fn planted() -> (Bench, u64) {
    let (mut bench, vm) = prepared(&[1]);
    bench.cores[1].sysregs.pstate = EL0;
    bench.ok(Call::PagingRoots, &[vm, paging_roots::STICKY]);
    settle(&mut bench);
    bench.cores[1].sysregs.pstate = EL1H;
    assert!(bench.is_planted());
    (bench, vm)
}

/// Lets the guest's core take the hint to look around.
pub(super) fn settle(bench: &mut Bench) {
    for _ in 0..5 {
        bench.cores[0].interrupt(1, crate::machine::intid::KICK);
        bench.steps(1);
    }
}

impl Bench {
    pub(super) fn is_planted(&self) -> bool {
        self.cores[1].sysregs.ttbr1_el1 & WINDOW_BIT != 0
    }

    pub(super) fn counts(&mut self, vm: u64, counter: PagingCounter) -> u64 {
        self.ok(Call::PagingCounter, &[vm, counter as u64])
    }

    pub(super) fn paging(&mut self, vm: u64) -> PagingStatus {
        let [_, regs @ ..] = self.call(Call::PagingStatus, &[vm]);
        PagingStatus::from_regs(regs).unwrap()
    }

    pub(super) fn survey(&mut self, vm: u64, from: u64) -> PagingSurvey {
        let [x0, regs @ ..] = self.call(Call::PagingSurvey, &[vm, 0, from]);
        assert_eq!(Error::check(x0), Ok(()));
        PagingSurvey::from_regs(regs).unwrap()
    }

    pub(super) fn shadow(&mut self, vm: u64, va: u64) -> Option<PagingForm> {
        PagingForm::from_bits(self.ok(Call::PagingShadow, &[vm, 0, va, 3]))
    }

    /// Differences between mirrors and tables, and of the frames' owners.
    pub(super) fn differences(&mut self, vm: u64) -> u64 {
        let (mut from, mut wrong) = (0, 0);
        loop {
            let x = self.call(Call::PagingAudit, &[vm, from]);
            assert_eq!(Error::check(x[0]), Ok(()));
            (from, wrong) = (x[1], wrong + x[2]);
            if from == 0 {
                return wrong + self.audit();
            }
        }
    }
}

#[test]
fn a_root_is_planted_where_no_kernel_is_between_reading_and_writing_it() {
    let (mut bench, vm) = prepared(&[1]);
    bench.ok(Call::PagingRoots, &[vm, paging_roots::STICKY]);
    settle(&mut bench);
    assert!(!bench.is_planted(), "at EL1");
    bench.cores[1].sysregs.pstate = EL0;
    bench.cores[0].pass(2000);
    settle(&mut bench);
    let ttbr1 = bench.cores[1].sysregs.ttbr1_el1;
    assert_eq!(ttbr1, ROOT | WINDOW_BIT | 0x42 << 48);
    let status = bench.paging(vm);
    assert_eq!((status.planted, status.nodes_used), (1, 1));
    let [_, regs @ ..] = bench.call(Call::PagingSpace, &[vm, 0]);
    let space = PagingSpace::from_regs(regs).unwrap();
    assert!(space.exists && space.high && space.shadowed);
    assert_eq!((space.root, space.start), (ROOT, KERNEL));
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn a_guest_that_only_waits_is_planted_at_a_wfi() {
    let (mut bench, vm) = prepared(&[1]);
    bench.ok(Call::PagingRoots, &[vm, paging_roots::STICKY]);
    settle(&mut bench);
    bench.program(vm, 0, [Op::Wfi]);
    settle(&mut bench);
    assert!(bench.is_planted());
    // And WFI is its own affair again.
    settle(&mut bench);
    let hcr = bench.cores[1].controls.hcr_el2;
    assert_eq!(hcr & penumbra_trap::controls::hcr::TWI, 0);
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn a_whole_table_becomes_a_leaf_and_another_a_mirror() {
    let (mut bench, vm) = planted();
    let PagingSurvey::Found(region, Some(next)) = bench.survey(vm, KERNEL) else {
        panic!("no region");
    };
    assert_eq!(
        (region.va, region.table, region.valid),
        (KERNEL, WHOLE, 512)
    );
    assert!(region.uniform && region.full && !region.user);
    assert_eq!(bench.shadow(vm, KERNEL), Some(PagingForm::Leaf));
    let PagingSurvey::Found(region, _) = bench.survey(vm, next) else {
        panic!("no second region");
    };
    assert_eq!(
        (region.va, region.valid, region.uniform),
        (TABLES, 511, false)
    );
    assert_eq!(bench.shadow(vm, TABLES), Some(PagingForm::Mirror));
    assert_eq!(
        bench.error(Call::PagingShadow, &[vm, 0, TABLES, 3]),
        Error::AlreadyMapped
    );
    for table in [ROOT, LEVEL2, WHOLE, PARTLY] {
        assert!(!bench.cores[1].leaf(table).unwrap().attrs.access.writes());
    }
    assert_eq!(bench.differences(vm), 0);
    assert_eq!(bench.ok(Call::PagingDemote, &[vm, 0, KERNEL, 2]), 1);
    // The two below it follow, one at each look at the vCPU.
    for _ in 0..3 {
        bench.cores[0].pass(2_000_000);
        settle(&mut bench);
    }
    assert_eq!(bench.paging(vm).nodes_used, 1);
    assert!(bench.cores[1].leaf(WHOLE).unwrap().attrs.access.writes());
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn a_lost_root_is_noticed_and_planting_ends_at_last() {
    let (mut bench, vm) = planted();
    let mut rounds = 0;
    while bench.paging(vm).refusal != PagingRefusal::Storm {
        rounds += 1;
        assert!(rounds < 100, "no end");
        let core = &mut bench.cores[1];
        core.sysregs.ttbr1_el1 &= !WINDOW_BIT;
        core.sysregs.pstate = EL0;
        let before = core.local_flushes;
        bench.cores[0].pass(30_000_000);
        settle(&mut bench);
        assert!(bench.cores[1].local_flushes > before);
    }
    assert_eq!(bench.counts(vm, PagingCounter::Lost), 10);
    assert!(!bench.is_planted());
    assert_eq!(bench.paging(vm).roots, 0);
}

#[test]
fn a_root_computed_from_the_alias_is_put_right() {
    let (mut bench, vm) = planted();
    let core = &mut bench.cores[1];
    core.sysregs.ttbr0_el1 = (ROOT | WINDOW_BIT) - PAGE_SIZE;
    let translation = 0b00_0101;
    let page = (ROOT | WINDOW_BIT) - PAGE_SIZE;
    bench.program(vm, 0, [Op::WalkFault(page, translation)]);
    settle(&mut bench);
    assert_eq!(bench.cores[1].sysregs.ttbr0_el1, ROOT - PAGE_SIZE);
    assert_eq!(bench.counts(vm, PagingCounter::WindowFaults), 1);
    assert_eq!(bench.paging(vm).mode, PagingMode::Compound);
}

#[test]
fn a_held_vm_stands_still_and_a_core_that_does_not_answer_delays_nobody_for_ever() {
    let (mut bench, vm) = prepared(&[1, 2]);
    bench.cores[1].sysregs.pstate = EL0;
    bench.ok(Call::PagingRoots, &[vm, paging_roots::STICKY]);
    settle(&mut bench);
    assert!(bench.is_planted());
    let number = usize::try_from(vm).unwrap();
    let held = bench.system.vm(number).unwrap();
    assert!(held.try_hold());
    bench.program(vm, 0, [Op::Spin(1), Op::Spin(1)]);
    let before = bench.log(vm, 0).len();
    // A kick does not bring it past its core's run loop.
    bench
        .system
        .core(crate::machine::Core::cpu(&bench.cores[1]))
        .unwrap()
        .call_attention();
    settle(&mut bench);
    assert_eq!(bench.log(vm, 0).len(), before);
    assert!(!held.try_hold());
    held.release_hold();
    for index in 0..2 {
        let id = penumbra_vmsa::VmId::new(vm, 8).unwrap();
        let vcpu = crate::vcpu::VcpuId::new(id, index).unwrap();
        bench.system.wake(vcpu, &mut bench.cores[0]);
    }
    settle(&mut bench);
    assert_eq!(bench.log(vm, 0).len(), before + 2);
    bench.cores[0].shared.lock().unwrap().deaf = true;
    assert_eq!(
        bench.error(Call::PagingShadow, &[vm, 0, KERNEL, 3]),
        Error::Busy
    );
    bench.cores[0].shared.lock().unwrap().deaf = false;
    assert_eq!(bench.shadow(vm, KERNEL), Some(PagingForm::Leaf));
    // Those whom the holds kept out go on.
    bench.program(vm, 0, [Op::Spin(1)]);
    settle(&mut bench);
    assert_eq!(bench.log(vm, 0).len(), before + 3);
    assert!(bench.counts(vm, PagingCounter::Holds) >= 2);
}

#[test]
fn nothing_is_left_of_a_vm_that_is_gone() {
    let before = Bench::new(2).cores[0].used_bytes();
    let (mut bench, vm) = planted();
    bench.shadow(vm, KERNEL);
    bench.shadow(vm, TABLES);
    bench.ok(Call::VmStop, &[vm]);
    settle(&mut bench);
    bench.destroy(vm);
    assert_eq!(bench.cores[0].used_bytes(), before);
    let again = bench.guest(&[1]);
    assert_eq!(again, vm);
    assert_eq!(bench.paging(vm), PagingStatus::default());
    assert_eq!(bench.counts(vm, PagingCounter::Shadowed), 0);
    assert_eq!(bench.audit(), 0);
}

#[test]
fn a_pool_block_counts_against_the_quota() {
    let mut bench = Bench::new(2);
    let vm = bench.create(1);
    bench.ok(Call::VmMapRam, &[vm, RAM, 8 * MIB, 1, 4 * MIB]);
    bench.finish(Call::VmStockAdd, &[vm], 1);
    bench.start(vm, &[1]);
    assert_eq!(bench.error(Call::PagingPool, &[vm]), Error::BadState);
    bench.ok(Call::PagingMode, &[vm, PagingMode::Compound as u64]);
    bench.finish(Call::PagingPool, &[vm], 1);
    assert_eq!(bench.status(vm).held_bytes, 4 * MIB);
    assert_eq!(bench.error(Call::PagingPool, &[vm]), Error::QuotaExceeded);
    assert_eq!(bench.audit(), 0);
}

#[test]
fn thin_memory_that_fills_up_keeps_its_tables_protected() {
    let mut bench = Bench::new(2);
    let vm = bench.create(1);
    bench.ok(Call::VmMapRam, &[vm, RAM, GUEST_BYTES, 1, 8 * MIB]);
    bench.finish(Call::VmStockAdd, &[vm], 1);
    bench.start(vm, &[1]);
    bench.program(vm, 0, [Op::Store(ROOT, 8, 0)]);
    settle(&mut bench);
    let core = &mut bench.cores[1];
    core.sysregs.sctlr_el1 |= MMU_AND_CACHES;
    core.sysregs.tcr_el1 = TCR;
    core.sysregs.ttbr1_el1 = ROOT;
    core.sysregs.pstate = EL0;
    bench.ok(Call::PagingMode, &[vm, PagingMode::Compound as u64]);
    bench.finish(Call::PagingPool, &[vm], 1);
    bench.ok(Call::PagingRoots, &[vm, paging_roots::STICKY]);
    settle(&mut bench);
    assert!(bench.is_planted());
    bench.program(
        vm,
        0,
        (0..512)
            .filter(|page| RAM + page * PAGE_SIZE != ROOT)
            .map(|page| Op::Store(RAM + page * PAGE_SIZE, 8, page)),
    );
    settle(&mut bench);
    let leaf = bench.cores[1].leaf(ROOT).unwrap();
    assert!(!leaf.attrs.access.writes());
    assert!(
        bench.cores[1]
            .leaf(RAM + 511 * PAGE_SIZE)
            .unwrap()
            .attrs
            .access
            .writes()
    );
    assert_eq!(bench.differences(vm), 0);
}

/// A thin guest with a stock of eight frames and this many whole blocks, each with what may be a root.
fn thin_with_roots(blocks: u64) -> (Bench, u64) {
    let mut bench = Bench::new(2);
    let vm = bench.create(1);
    bench.ok(Call::VmMapRam, &[vm, RAM, 64 * MIB, 1, 64 * MIB]);
    bench.start(vm, &[1]);
    for block in 0..blocks {
        bench.finish(Call::VmStockAdd, &[vm], 1);
        let base = RAM + block * 2 * MIB;
        bench.program(
            vm,
            0,
            (0..16).map(|page| Op::Store(base + page * PAGE_SIZE, 8, 0)),
        );
        bench.steps(5);
        let core = &mut bench.cores[1];
        assert_eq!(core.leaf(base).unwrap().bytes(), 2 * MIB);
        core.write_guest(root_in(block), LEVEL2 | TABLE);
    }
    for _ in 0..8 {
        bench.finish(Call::VmStockAdd, &[vm], 1);
    }
    let core = &mut bench.cores[1];
    core.sysregs.sctlr_el1 |= MMU_AND_CACHES;
    core.sysregs.tcr_el1 = TCR;
    core.sysregs.mair_el1 = 0xff;
    core.sysregs.pstate = EL0;
    bench.ok(Call::PagingMode, &[vm, PagingMode::Compound as u64]);
    bench.finish(Call::PagingPool, &[vm], 1);
    bench.ok(Call::PagingRoots, &[vm, paging_roots::STICKY]);
    (bench, vm)
}

const fn root_in(block: u64) -> u64 {
    ROOT + block * 2 * MIB
}

#[test]
fn a_guest_that_goes_on_to_plant_roots_has_tables_left_for_what_it_touches() {
    let (mut bench, vm) = thin_with_roots(9);
    let mut planted = 0;
    for block in 0..9 {
        bench.cores[1].sysregs.ttbr1_el1 = root_in(block);
        bench.cores[0].pass(100_000_000);
        settle(&mut bench);
        planted += u64::from(bench.is_planted());
    }
    let before = bench.log(vm, 0).len();
    let new = |number| Op::Store(RAM + (32 + 2 * number) * MIB, 8, number);
    bench.program(vm, 0, (0..8).map(new));
    bench.steps(20);
    assert_eq!(bench.log(vm, 0).len(), before + 8);
    // The last roots found none.
    assert!((2..9).contains(&planted), "{planted}");
    assert_eq!(bench.paging(vm).refusal, PagingRefusal::Full);
    assert_eq!(bench.differences(vm), 0);
}
