//! Samples of walks and stores, and several tables shadowed in one hold.

use penumbra_abi::{
    Call, Error, PAGING_SAMPLES, PagingCounter, PagingForm, PagingMode, PagingRegion, PagingSurvey,
    paging_epoch,
};
use penumbra_vmsa::MIB;

use super::Bench;
use super::compound::{KERNEL, PARTLY, ROOT, TABLE, TABLES, WHOLE, at, planted, settle};
use super::fake::{Op, RAM};
use crate::machine::Core;

const ACCESS_FLAG: u64 = 0b00_1011;
const PERMISSION: u64 = 0b00_1111;
const FREE: u64 = PAGING_SAMPLES as u64;

impl Bench {
    fn region(&mut self, vm: u64, va: u64) -> PagingRegion {
        match self.survey(vm, va) {
            PagingSurvey::Found(region, _) if region.va == va => region,
            other => panic!("{other:?}"),
        }
    }

    /// An epoch to its end: tables armed, calls that it took, places left.
    fn epoch(&mut self, vm: u64, flags: u64) -> [u64; 3] {
        let (mut from, mut flags, mut armed) = (KERNEL, flags, 0);
        for calls in 1.. {
            let [x0, more, next, goes_on, free, ..] =
                self.call(Call::PagingEpoch, &[vm, 0, from, flags]);
            assert_eq!(Error::check(x0), Ok(()));
            armed += more;
            if goes_on == 0 {
                return [armed, calls, free];
            }
            (from, flags) = (next, flags & !paging_epoch::FRESH);
        }
        unreachable!("it has an end")
    }

    /// Whether no interrupt ever waits.
    fn set_quiet(&mut self, quiet: bool) {
        self.cores[0].shared.lock().unwrap().quiet = quiet;
    }

    fn is_accessed(&self, page: u64) -> bool {
        self.cores[1].leaf(page).unwrap().attrs.accessed
    }
}

#[test]
fn a_walk_that_fetches_from_a_sampled_table_is_seen_once() {
    let (mut bench, vm) = planted();
    // They have entries of their own since the root beside them was protected. An interrupt waits after each step.
    assert_eq!(bench.epoch(vm, 0), [2, 3, FREE - 2]);
    assert!(!bench.is_accessed(WHOLE) && !bench.is_accessed(PARTLY));
    let region = bench.region(vm, KERNEL);
    assert!(region.walks_known && region.walks == 0 && !region.writes_known);
    let pc = bench.cores[1].sysregs.pc;
    let before = bench.cores[1].counter();
    bench.program(vm, 0, [Op::WalkFault(WHOLE, ACCESS_FLAG)]);
    settle(&mut bench);
    let hit = bench.counts(vm, PagingCounter::SampleTicks);
    assert!((before..=bench.cores[1].counter()).contains(&hit), "{hit}");
    assert_eq!(bench.counts(vm, PagingCounter::FirstSample), hit);
    assert_eq!(bench.cores[1].sysregs.pc, pc, "done again");
    assert!(bench.is_accessed(WHOLE) && !bench.is_accessed(PARTLY));
    assert_eq!(bench.region(vm, KERNEL).walks, 1);
    assert_eq!(bench.region(vm, TABLES).walks, 0);
    assert_eq!(bench.counts(vm, PagingCounter::Samples), 1);
    // From a vCPU that had not heard yet.
    bench.program(vm, 0, [Op::WalkFault(WHOLE, ACCESS_FLAG)]);
    settle(&mut bench);
    assert_eq!(bench.counts(vm, PagingCounter::Samples), 1);
    assert_eq!(bench.counts(vm, PagingCounter::SampleTicks), hit);
    assert_eq!(bench.cores[1].sysregs.pc, pc);
    // Next epoch, in one call without interrupts; then none.
    bench.set_quiet(true);
    assert_eq!(
        bench.epoch(vm, paging_epoch::SPLIT | paging_epoch::FRESH),
        [2, 1, FREE - 2]
    );
    assert_eq!(bench.region(vm, KERNEL).walks, 0);
    assert_eq!(bench.epoch(vm, paging_epoch::END), [0, 1, FREE]);
    assert!(bench.is_accessed(WHOLE) && bench.is_accessed(PARTLY));
    assert!(!bench.region(vm, KERNEL).walks_known);
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn a_store_to_a_sampled_table_is_seen_and_done() {
    let (mut bench, vm) = planted();
    let flags = paging_epoch::WRITES | paging_epoch::SPLIT;
    assert_eq!(bench.epoch(vm, flags), [2, 3, FREE - 2]);
    let writable = |bench: &Bench, page| bench.cores[1].leaf(page).unwrap().attrs.access.writes();
    assert!(!writable(&bench, WHOLE));
    let entry = WHOLE + 8 * 5;
    let value = bench.cores[1].read_guest(entry) | 1 << 55;
    bench.program(vm, 0, [Op::StoreBy(at(entry), entry, value)]);
    settle(&mut bench);
    assert_eq!(bench.cores[1].read_guest(entry), value);
    assert!(writable(&bench, WHOLE) && !writable(&bench, PARTLY));
    let region = bench.region(vm, KERNEL);
    assert!(region.writes_known && region.writes == 1);
    assert_eq!(bench.region(vm, TABLES).writes, 0);
    assert_eq!(bench.counts(vm, PagingCounter::Mirrored), 0);
    // A vCPU whose TLB goes on saying that of the page's IPA, as it may: a flush of stage 1 does not help.
    bench.cores[1].shared.lock().unwrap().held_read_only = Some((WHOLE, 9));
    let other = value ^ 1 << 56;
    bench.program(vm, 0, [Op::StoreBy(at(entry), entry, other)]);
    settle(&mut bench);
    assert_eq!(bench.cores[1].read_guest(entry), other);
    assert_eq!(bench.counts(vm, PagingCounter::Stale), 1);
    // A walker that sets the access flag of a page, as TCR_EL1.HA lets it.
    bench.program(vm, 0, [Op::WalkFault(PARTLY, PERMISSION)]);
    settle(&mut bench);
    assert!(writable(&bench, PARTLY));
    assert_eq!(bench.counts(vm, PagingCounter::Violations), 0);
    // Another one, which had not heard yet: its TLB drops the page.
    let pc = bench.cores[1].sysregs.pc;
    bench.program(vm, 0, [Op::WalkFault(PARTLY, PERMISSION)]);
    settle(&mut bench);
    assert_eq!(bench.cores[1].sysregs.pc, pc, "done again");
    assert_eq!(bench.counts(vm, PagingCounter::Stale), 2);
    // A table that is shadowed is no sample any more.
    assert_eq!(bench.shadow(vm, TABLES), Some(PagingForm::Mirror));
    bench.finish(Call::PagingMode, &[vm, PagingMode::Nested as u64], 1);
    assert!(writable(&bench, WHOLE) && writable(&bench, PARTLY));
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn nested_again_a_vm_has_no_samples() {
    let (mut bench, vm) = planted();
    bench.epoch(vm, paging_epoch::SPLIT);
    bench.finish(Call::PagingMode, &[vm, PagingMode::Nested as u64], 1);
    assert!(bench.is_accessed(WHOLE) && bench.is_accessed(PARTLY));
    assert_eq!(
        bench.error(Call::PagingEpoch, &[vm, 0, KERNEL, 0]),
        Error::BadState
    );
    bench.ok(Call::PagingMode, &[vm, PagingMode::Compound as u64]);
    assert_eq!(
        bench.error(Call::PagingEpoch, &[vm, 0, KERNEL, 16]),
        Error::InvalidParameter
    );
    assert_eq!(
        bench.error(Call::PagingEpoch, &[vm, 9, KERNEL, 0]),
        Error::NoSuchObject
    );
}

#[test]
fn tables_in_a_row_are_shadowed_in_one_hold() {
    let (mut bench, vm) = planted();
    let before = bench.counts(vm, PagingCounter::Holds);
    let reply = bench.call(Call::PagingShadow, &[vm, 0, KERNEL, 3, 5]);
    assert_eq!(reply[..5], [0, 2, 1, 5, 0]);
    assert_eq!(bench.counts(vm, PagingCounter::Holds), before + 1);
    assert_eq!(bench.region(vm, KERNEL).form, PagingForm::Leaf);
    assert_eq!(bench.region(vm, TABLES).form, PagingForm::Mirror);
    // A second time there is nothing to do; no more than a bound at once.
    let reply = bench.call(Call::PagingShadow, &[vm, 0, KERNEL, 3, u64::MAX]);
    assert_eq!(reply[..5], [0, 0, 0, 16, 0]);
    let reply = bench.call(Call::PagingShadow, &[vm, 0, KERNEL - 2 * MIB, 3, 2]);
    assert_eq!(reply[..5], [0, 0, 0, 2, 0]);
    assert_eq!(
        bench.error(Call::PagingShadow, &[vm, 9, KERNEL, 3, 2]),
        Error::NoSuchObject
    );
    assert_eq!(bench.differences(vm), 0);
}

#[test]
fn a_survey_goes_on_over_what_is_empty_until_an_interrupt_waits() {
    let (mut bench, vm) = planted();
    // 40 empty tables of level 2; with them, the rest of the one before and the root there are 336 rows of entries to
    // look at, 16 a step.
    for slot in 1..=40 {
        bench.cores[1].write_guest(ROOT + 8 * slot, (RAM + 0x2_0000) | TABLE);
    }
    for (quiet, calls) in [(false, 21), (true, 3)] {
        bench.set_quiet(quiet);
        let (mut from, mut asked) = (TABLES + 2 * MIB, 0);
        loop {
            asked += 1;
            match bench.survey(vm, from) {
                PagingSurvey::Skipped(next) => from = next,
                PagingSurvey::End => break,
                found @ PagingSurvey::Found(..) => panic!("{found:?}"),
            }
        }
        assert_eq!(asked, calls);
    }
}
