//! Surveys: every level-3 table is found once, and what leads nowhere is passed over by rows.

use super::*;

const L2_AT: u64 = 0x2_0000;
/// Level-2 tables, as slots of the root.
const ROOT_SLOTS: [u64; 6] = [0, 63, 64, 65, 200, 511];
/// Level-3 tables, as slots of each.
const SLOTS: [u64; 8] = [0, 1, 62, 63, 64, 127, 128, 511];

/// All steps of a survey from a VA on: the regions found, and how often nothing was.
fn all(rig: &mut Rig, space: SpaceId, from: u64) -> (Vec<Region>, u32) {
    let (mut found, mut skipped) = (Vec::new(), 0);
    let mut at = Some(Va::truncated(from));
    while let Some(va) = at {
        let vm: &Access<'_, _, _> = vm!(rig);
        match rig.compound.survey(vm, space, va) {
            SurveyStep::Found(region, next) => {
                found.push(region);
                at = next;
            }
            SurveyStep::Skipped(next) => {
                assert!(next.raw() > va.raw(), "{va:?} to {next:?}");
                skipped += 1;
                at = Some(next);
            }
            SurveyStep::End => break,
        }
    }
    (found, skipped)
}

fn regions(regions: &[Region]) -> Vec<u64> {
    regions.iter().map(|region| region.va.raw()).collect()
}

#[test]
fn a_survey_finds_each_table_once_and_in_order() {
    for (half, base) in [(Half::Low, 0), (Half::High, 0xffff_ff80_0000_0000)] {
        let mut rig = Rig::new();
        let mut wanted = Vec::new();
        for (number, slot) in (0..).zip(ROOT_SLOTS) {
            let table = L2_AT + number * 4096;
            rig.write(ROOT + slot * 8, table | bits::TABLE);
            for below in SLOTS {
                rig.write(table + below * 8, LEVEL3 | bits::TABLE);
                wanted.push(base + (slot << 30 | below << 21));
            }
            // Blocks lead nowhere, and entries that are none.
            rig.write(table + 8 * 2, 0x1000_0000 | bits::AF | bits::VALID);
            rig.write(table + 8 * 65, 0b10);
        }
        // Nor do tables that are no RAM.
        rig.write(ROOT + 8 * 300, 0x4000_0000 | bits::TABLE);
        let (space, _) = rig.compound.plant(vm!(rig), &regs(), half).unwrap();
        let (found, _) = all(&mut rig, space, base);
        assert_eq!(regions(&found), wanted);
        // From within a region on, and from behind it.
        let (found, _) = all(&mut rig, space, base + (63 << 30 | 62 << 21 | 0x12_3456));
        assert_eq!(regions(&found), wanted[10..]);
        let (found, _) = all(&mut rig, space, base + (511 << 30 | 129 << 21));
        assert_eq!(regions(&found), wanted[47..]);
    }
}

#[test]
fn what_is_empty_is_passed_over_in_few_steps() {
    let mut rig = Rig::new();
    rig.write(ROOT + 8 * 100, LEVEL2 | bits::TABLE);
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let (found, skipped) = all(&mut rig, space, 0);
    assert_eq!((found.len(), skipped), (0, 1));
    // As much of nothing as a guest can make of two pages: 512 tables of 8 rows, 16 rows a step. The last one ends it.
    for slot in 0..512 {
        rig.write(ROOT + slot * 8, LEVEL2 | bits::TABLE);
    }
    let (found, skipped) = all(&mut rig, space, 0);
    assert_eq!((found.len(), skipped), (0, 255));
}

#[test]
fn a_region_is_counted_as_its_table_says() {
    const PAGE: u64 = bits::AF | bits::TABLE;
    let mut rig = Rig::new();
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    rig.write(LEVEL2, LEVEL3 | bits::TABLE);
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let shape = |rig: &mut Rig| {
        let (found, _) = all(rig, space, 0);
        let [region] = found[..] else { panic!() };
        (region.valid, region.runs, region.uniform, region.full)
    };
    assert_eq!(shape(&mut rig), (0, 0, false, false));
    let fill = |rig: &mut Rig, first: u64| {
        for page in 0..512 {
            rig.write(LEVEL3 + page * 8, (first + page * 4096) | PAGE);
        }
    };
    fill(&mut rig, 1 << 30);
    assert_eq!(shape(&mut rig), (512, 32, true, true));
    // In a row, but 64 KiB off; then a page off.
    fill(&mut rig, 1 << 30 | 0x1_0000);
    assert_eq!(shape(&mut rig), (512, 32, false, true));
    fill(&mut rig, 1 << 30 | 0x1000);
    assert_eq!(shape(&mut rig), (512, 0, false, true));
    // A hole, one page of other attributes, one that was not accessed yet.
    for (raw, wanted) in [
        (0, (511, 31, false, false)),
        (1 << 30 | 77 << 12 | PAGE | 1 << 7, (512, 31, false, false)),
        (1 << 30 | 77 << 12 | bits::TABLE, (512, 31, false, false)),
    ] {
        fill(&mut rig, 1 << 30);
        rig.write(LEVEL3 + 77 * 8, raw);
        assert_eq!(shape(&mut rig), wanted);
    }
}

#[test]
fn an_audit_finds_a_hint_that_not_all_sixteen_bear_out() {
    let mut rig = Rig::new();
    rig.write(ROOT, LEVEL2 | bits::TABLE);
    rig.write(LEVEL2, LEVEL3 | bits::TABLE);
    // Two runs, and the table that they lie in is no leaf.
    for page in 0..32 {
        rig.write(
            LEVEL3 + page * 8,
            page << 12 | bits::NOT_GLOBAL | bits::AF | bits::TABLE,
        );
    }
    let parked = Parked::all_others();
    let (space, _) = rig.compound.plant(vm!(rig), &regs(), Half::Low).unwrap();
    let made = rig
        .compound
        .shadow(vm!(rig), space, Va::truncated(0), Level::L3, &parked);
    assert_eq!((made, rig.audit()), (Ok(Form::Mirror), 0));
    let hinted: Vec<u64> = (rig.memory.words.iter())
        .filter(|(at, raw)| **at >= 64 * MIB && **raw & bits::CONTIGUOUS != 0)
        .map(|(at, _)| *at)
        .collect();
    assert_eq!(hinted.len(), 32);
    for at in [hinted[0], hinted[7], hinted[15], hinted[16]] {
        let raw = rig.memory.words[&at];
        rig.write(at, raw ^ bits::CONTIGUOUS);
        assert_eq!(rig.audit(), 15, "the others have it still");
        rig.write(at, raw);
    }
    assert_eq!(rig.audit(), 0);
}
