//! Misses by region of the address space.

use super::space::Machine;
use crate::{Access, Column, Core, Mode, REGIONS, Region, Scope};

const USER: u64 = 0x40_0000_0000;
const KERNEL: u64 = 0xffff_0000_4000_0000;

/// Descriptor bits: AP\[2\], read-only; UXN; Linux's PTE_DIRTY and PTE_SPECIAL.
const READ_ONLY: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 54;
const DIRTY: u64 = 1 << 55;
const SPECIAL: u64 = 1 << 56;

/// The region in which the first access to each of the pages misses.
fn regions(scope: &mut Scope, machine: &Machine, pages: &[u64]) -> Vec<Region> {
    let missed = |scope: &Scope| scope.partitions()[0].1[0].regions.map(|tally| tally.misses);
    let mut before = [0; REGIONS.len()];
    let mut found = Vec::new();
    for &va in pages {
        scope.access(0, va, Access::Data, &machine.ram);
        let after = missed(scope);
        let grown = (0..REGIONS.len()).find(|&index| after[index] > before[index]);
        found.push(REGIONS[grown.unwrap()]);
        before = after;
    }
    found
}

fn scope(machine: &Machine) -> Scope {
    let column = Column {
        core: Core::preset("a72").unwrap(),
        mode: Mode::AsIs,
    };
    let mut scope = Scope::new(vec![column], 1);
    scope.set_regime(0, machine.regime);
    scope
}

#[test]
fn linux_says_in_the_leaf_whether_a_page_is_anonymous() {
    use Region::{KernelLinear, KernelOther, UserAnonymous, UserFile};
    let mut machine = Machine::new(None);
    let cases = [
        (0, UserAnonymous),
        (NO_EXECUTE, UserAnonymous),
        // Written to, then protected: by a fork, or by a linker that has done its work.
        (READ_ONLY | DIRTY | NO_EXECUTE, UserAnonymous),
        // Never written to: the page of zeroes.
        (READ_ONLY | SPECIAL | NO_EXECUTE, UserAnonymous),
        (READ_ONLY | NO_EXECUTE, UserFile),
        (READ_ONLY, UserFile),
    ];
    let mut pages = Vec::new();
    for (bits, _) in cases {
        let va = USER + 0x1000 * pages.len() as u64;
        machine.map(va, 0x1_0000_0000 + 0x2000 * pages.len() as u64, 12, bits);
        pages.push(va);
    }
    let others = [(KERNEL, KernelLinear), (0xffff_8000_0000_0000, KernelOther)];
    for (va, _) in others {
        machine.map(va, 0x2_0000_0000, 12, DIRTY);
        pages.push(va);
    }
    let expected: Vec<Region> = cases.iter().chain(&others).map(|case| case.1).collect();
    assert_eq!(regions(&mut scope(&machine), &machine, &pages), expected);
    // What no stage 1 translates is neither.
    machine.regime.sctlr = 0;
    let flat = regions(&mut scope(&machine), &machine, &[0x1_0000_0000]);
    assert_eq!(flat, [Region::Flat]);
}

#[test]
fn a_file_that_is_written_through_a_mapping_is_known_by_what_the_program_says() {
    use Region::{UserAnonymous, UserFile};
    let mut machine = Machine::new(Some(12));
    let pages: Vec<u64> = (0..4).map(|page| USER + 0x1000 * page).collect();
    for (number, &va) in pages.iter().enumerate() {
        let bits = if number == 2 { READ_ONLY | DIRTY } else { 0 };
        machine.map(va, 0x1_0000_0000 + 0x2000 * number as u64, 12, bits);
    }
    let told = |scope: &mut Scope| scope.file_map(0, USER + 0x1000, 0x2000);
    let expected = [UserAnonymous, UserFile, UserFile, UserAnonymous];
    let mut scope = scope(&machine);
    told(&mut scope);
    assert_eq!(regions(&mut scope, &machine, &pages), expected);
    // Only of that VM, and not for ever.
    let forgotten = [UserAnonymous; 4];
    let mut other = scope_of(6, &mut machine);
    told(&mut other);
    machine.regime.vttbr = 5 << 48 | machine.regime.vttbr & 0xffff_ffff_ffff;
    other.set_regime(0, machine.regime);
    assert_eq!(regions(&mut other, &machine, &pages), forgotten);
    let mut over = scope_of(5, &mut machine);
    told(&mut over);
    over.forget_file_maps(0);
    assert_eq!(regions(&mut over, &machine, &pages), forgotten);
}

/// Models for the machine as the VM with this VMID.
fn scope_of(vmid: u64, machine: &mut Machine) -> Scope {
    machine.regime.vttbr = vmid << 48 | machine.regime.vttbr & 0xffff_ffff_ffff;
    scope(machine)
}
