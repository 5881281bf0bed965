//! The streams whose counts follow from arithmetic, and one of a program's kind, through both models at the sizes of every preset.

use super::reference::Reference;
use super::space::Machine;
use crate::{Core, Mmu, Mode, walk};

const DATA: u64 = 0x1000_0000_0000;
const CODE: u64 = 0x2000_0000_0000;
/// Pages of data, each third of them in a row with the one before.
const PAGES: u64 = 4096;

fn machine(stage2: Option<u8>) -> Machine {
    let mut machine = Machine::new(stage2);
    for page in 0..PAGES {
        let ipa = 0x1_0000_0000 + (page + page / 3) * 0x1000;
        machine.map(DATA + page * 0x1000, ipa, 12, 0);
    }
    for page in 0..96 {
        machine.map(CODE + page * 0x1000, 0x2_0000_0000 + page * 0x3000, 12, 0);
    }
    machine
}

/// Data pages in order, beyond the main TLB; by strides that fall into one set; at random, with code that runs beside it.
fn stream(core: &Core) -> Vec<(u64, bool)> {
    let entries = core.main_entries as u64;
    let sets = entries / core.main_ways as u64;
    let page = |page: u64| (DATA + page % PAGES * 0x1000 + page % 64 * 8, false);
    let chase = (0..2).flat_map(|_| 0..entries + sets / 2).map(page);
    let strides = (0..4)
        .flat_map(|_| 0..core.main_ways as u64 + 1)
        .map(|step| page(step * sets));
    let mut state = 1_u64;
    let random = (0..6000).map(|turn| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        match turn % 3 {
            0 => (CODE + (state >> 40) % 96 * 0x1000, true),
            _ => page(state >> 40),
        }
    });
    chase.chain(strides).chain(random).collect()
}

#[test]
fn both_models_cost_the_same_at_the_sizes_of_the_cores() {
    let modes = [
        (Mode::Native, None),
        (Mode::Synthetic(12), None),
        (Mode::Synthetic(21), None),
        (Mode::AsIs, Some(12)),
        (Mode::AsIs, Some(21)),
    ];
    for core in Core::PRESETS.iter().filter_map(|name| Core::preset(name)) {
        for (mode, stage2) in modes {
            let machine = machine(stage2);
            let (regime, space) = (machine.regime, machine.regime.space());
            let mut slow = Reference::new(&core, mode, &machine.ram);
            let mut fast = Mmu::new(&core, mode);
            let mut misses = 0;
            for (number, (va, fetch)) in stream(&core).into_iter().enumerate() {
                let hit =
                    fast.micro_hit(va, space, fetch) || fast.main_hit(va, space, fetch).is_some();
                let found = if hit {
                    (false, 0)
                } else {
                    let path = walk(&regime, va, &machine.ram).unwrap();
                    let miss = fast.walk(va, space, fetch, &path);
                    misses += 1;
                    (true, miss.stage1_reads + miss.stage2_reads)
                };
                let name = &core.name;
                let expected = slow.access(&regime, va, fetch);
                assert_eq!(
                    found, expected,
                    "{name} {mode:?} {stage2:?}, access {number}: {va:#x}"
                );
            }
            assert!(misses > core.main_entries, "{}: {misses}", core.name);
        }
    }
}
