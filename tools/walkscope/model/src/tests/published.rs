//! The model against figures that others have published.

use super::space::Machine;
use crate::{Access, Column, Core, Mmu, Mode, Scope, walk};

const BASE: u64 = 0x1000_0000_0000;

/// A machine with four levels in both stages, as the papers on x86-64 have it.
fn four_by_four() -> Machine {
    let mut machine = Machine::new(Some(12));
    let top = 0xd000_0000;
    machine
        .ram
        .write(top, machine.regime.vttbr & 0xffff_ffff_f000 | 3);
    // SL0 = 2: stage 2 starts at level 0.
    machine.regime.vtcr = 16 | 2 << 6;
    machine.regime.vttbr = 5 << 48 | top;
    machine
}

/// Reads of a walk that finds the pointers to the first `levels` tables below the root in a cache.
fn reads(machine: &mut Machine, levels: u32) -> u32 {
    // The neighbour shares so many tables with the address that is asked for.
    let neighbour = BASE + [1_u64 << 39, 1 << 30, 1 << 21, 1 << 12][levels as usize];
    machine.map(BASE, 0x1_0000_0000, 12, 0);
    machine.map(neighbour, 0x1_0020_0000, 12, 0);
    let mut core = Core::preset("a76").unwrap();
    core.ipa_entries = 0;
    let mut mmu = Mmu::new(&core, Mode::AsIs);
    let space = machine.regime.space();
    let mut price = |va: u64| {
        let path = walk(&machine.regime, va, &machine.ram).unwrap();
        let miss = mmu.walk(va, space, false, &path);
        miss.stage1_reads + miss.stage2_reads
    };
    price(neighbour);
    price(BASE)
}

/// Gandhi, Hill and Swift, "Agile Paging" (ISCA 2016): 4 references for a walk through a shadow table alone; 8, 12 and 16
/// where the walk leaves it after three, two levels or one; 24 for a nested walk, as in Bhargava et al., "Accelerating
/// Two-Dimensional Page Walks for Virtualized Systems" (ASPLOS 2008). A shadow level costs one reference and yields the
/// host's address of the guest's next table, which is what a cached pointer yields for none.
#[test]
fn a_walk_costs_the_references_of_agile_paging() {
    for (shadow_levels, references) in [(0, 24), (1, 16), (2, 12), (3, 8)] {
        let mut machine = four_by_four();
        let rest = reads(&mut machine, shadow_levels);
        assert_eq!(shadow_levels + rest, references, "{shadow_levels}");
    }
    let mut machine = Machine::new(None);
    assert_eq!(reads(&mut machine, 0), 4);
}

/// Misses of a scope with one core, and entries in its main TLB, after accesses.
fn run(core: &str, machine: &Machine, addresses: &[u64]) -> (u64, u64, u64) {
    let column = Column {
        core: Core::preset(core).unwrap(),
        mode: Mode::AsIs,
    };
    let mut scope = Scope::new(vec![column], 1);
    scope.set_regime(0, machine.regime);
    for &va in addresses {
        scope.access(0, va, Access::Data, &machine.ram);
    }
    let total = scope.partitions()[0].1[0].total();
    let vmid = machine.regime.space().vmid;
    (total.misses, total.reads(), scope.reach(0, 0, vmid).entries)
}

/// Arm DDI 0500, 5.1 "About the MMU" and 5.2 "TLB organization".
#[test]
fn the_cortex_a53_is_built_as_its_manual_says() {
    let core = Core::preset("a53").unwrap();
    assert_eq!((core.micro_fetch, core.micro_data), (10, 10));
    assert_eq!((core.main_entries, core.main_ways), (512, 4));
    assert_eq!((core.walk_entries, core.walk_ways), (64, 4));
    assert_eq!((core.ipa_entries, core.ipa_ways), (64, 4));
    // A block of 1 GiB is split into 512 MiB, and the piece that was asked for is kept.
    let mut machine = Machine::new(None);
    machine.map(BASE, 0x1_0000_0000, 30, 0);
    let half = BASE + (512 << 20);
    let (misses, _, entries) = run("a53", &machine, &[BASE, BASE + (511 << 20), half, BASE]);
    assert_eq!((misses, entries), (2, 2));
    // The walk cache has the result of all levels but the last, and nothing of a walk that ends in a block: the second
    // block under the same tables is a full walk, the second page is one read.
    let mut machine = Machine::new(None);
    machine.map(BASE, 0x1_0000_0000, 21, 0);
    machine.map(BASE + (1 << 21), 0x1_0020_0000, 21, 0);
    let (_, reads, _) = run("a53", &machine, &[BASE, BASE + (1 << 21)]);
    assert_eq!(reads, 3 + 3);
    let mut machine = Machine::new(None);
    machine.map(BASE, 0x1_0000_0000, 12, 0);
    machine.map(BASE + (1 << 12), 0x1_0020_0000, 12, 0);
    let (_, reads, _) = run("a53", &machine, &[BASE, BASE + (1 << 12)]);
    assert_eq!(reads, 4 + 1);
    // The IPA cache holds stage 2's results, so that the nested walk of a neighbour costs what the bare one does: the
    // first reads four descriptors and takes three levels of stage 2 for five IPAs, four of them in pages of their own.
    let mut machine = Machine::new(Some(12));
    machine.map(BASE, 0x1_0000_0000, 12, 0);
    machine.map(BASE + (1 << 12), 0x1_0000_0000, 12, 0);
    let (_, reads, _) = run("a53", &machine, &[BASE, BASE + (1 << 12)]);
    assert_eq!(reads, (4 + 5 * 3) + 1);
}

#[test]
fn every_parameter_of_every_preset_names_a_manual_or_an_assumption() {
    for name in Core::PRESETS {
        let parameters = Core::preset(name).unwrap().parameters();
        assert_eq!(parameters.len(), 15, "{name}");
        for parameter in parameters {
            let source = parameter.source;
            assert!(
                source.starts_with("Arm ") || source.starts_with("assumed: "),
                "{name}: {} by {source}",
                parameter.name
            );
        }
    }
}
