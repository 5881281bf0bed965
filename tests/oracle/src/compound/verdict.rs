//! What the compound machine may not do, and the guest's own TLB maintenance.

use penumbra_vmsa::{Level, PAGE_SIZE};

use super::machine::{Cell, Outcome, place_of};
use super::{GuestTlbi, RAM_BYTES, RAM_IPA, RAM_PA, World};

impl World {
    /// Looks for leaves of different size held for one address that are not of the guest's making:
    /// it holds neither two sizes, nor two pages, nor a global leaf beside one that is not.
    pub(super) fn conflicts(&mut self) {
        for (ours, guests) in self.ours.cells.iter().zip(&self.guests.cells) {
            for (ours, guests) in ours.probes.iter().zip(&guests.probes) {
                let mixed = |leaves: &[(Outcome, u64)]| {
                    leaves.iter().any(|&(_, bytes)| bytes != leaves[0].1)
                };
                let page = |leaf: Outcome| match leaf {
                    Outcome::Leaf(pa, _, global) => Some((pa, global)),
                    _ => None,
                };
                let twice = |leaves: &[(Outcome, u64)]| {
                    leaves
                        .iter()
                        .any(|&(leaf, _)| page(leaf) != page(leaves[0].0))
                };
                if mixed(&ours.leaves) && !mixed(&guests.leaves) && !twice(&guests.leaves) {
                    let held = &ours.leaves;
                    self.violations
                        .push(format!("leaves of different size: {held:x?}"));
                }
            }
        }
        for (page, held) in self.ours.stage2.iter() {
            if held.iter().any(|output| output.pa != held[0].pa) {
                self.violations
                    .push(format!("stage 2 of {page:#x} may be held as {held:x?}"));
            }
        }
    }

    /// What the compound machine may do that the guest's own could not. `watched` says whether a page
    /// may not be written without EL2.
    pub fn check(&mut self, watched: impl Fn(u64) -> bool) {
        self.check_cells();
        self.check_step();
        for (page, held) in self.ours.stage2.iter() {
            // By whatever IPA the frame is reached (rule 8).
            for writable in held.iter().filter(|output| output.writes) {
                let home = self.inside(writable.pa).wrapping_sub(RAM_PA);
                if watched(page) || home < RAM_BYTES && watched(home + RAM_IPA) {
                    self.violations
                        .push(format!("{page:#x} is watched and held as writable"));
                }
            }
        }
    }

    pub(super) fn check_cells(&mut self) {
        let mut found = Vec::new();
        for number in 0..self.ours.cells.len() {
            let (vcpu, context, region) = place_of(number);
            let pairs = self.ours.cells[number]
                .probes
                .iter()
                .zip(&self.guests.cells[number].probes);
            for (low, (ours, guests)) in pairs.enumerate() {
                let name = || format!("{:#x} in {context} on {vcpu}", self.va(region, low));
                let held =
                    |outcome: &Outcome| guests.leaves.iter().any(|(leaf, _)| leaf == outcome);
                for (leaf, bytes) in &ours.leaves {
                    let leaf = self.seen(*leaf);
                    if !held(&leaf) {
                        found.push(format!(
                            "{}: {leaf:x?} of {bytes:#x} bytes is held, the guest has {:x?}",
                            name(),
                            guests.leaves
                        ));
                    }
                }
                for now in &ours.now {
                    let now = self.seen(*now);
                    if !guests.now.contains(&now) && !held(&now) {
                        found.push(format!(
                            "{}: {now:x?} now, the guest {:x?}",
                            name(),
                            guests.now
                        ));
                    }
                }
                if ours.now.is_empty() && self.hits.is_empty() {
                    found.push(format!("{}: nothing now", name()));
                }
            }
        }
        self.violations.extend(found);
    }

    /// Whatever a walk found during the step, if only for a moment, a walk of the guest's own machine found as well.
    /// Stage-2 faults of ours are apart: EL2 answers them.
    fn check_step(&mut self) {
        let cells = self.ours.found.iter().zip(&self.guests.found);
        for (number, (ours, guests)) in cells.enumerate() {
            for (low, (ours, guests)) in ours.iter().zip(guests).enumerate() {
                let held = &self.guests.cells[number].probes[low].leaves;
                let known = |outcome: &Outcome| {
                    guests.contains(outcome) || held.iter().any(|(leaf, _)| leaf == outcome)
                };
                let found = ours
                    .iter()
                    .find(|ours| !matches!(ours, Outcome::Stage2(_)) && !known(ours));
                if let Some(found) = found {
                    let (vcpu, context, region) = place_of(number);
                    let va = self.va(region, low);
                    self.violations.push(format!(
                        "{va:#x} in {context} on {vcpu}: {found:x?} in between, the guest {guests:x?}"
                    ));
                }
            }
        }
    }

    /// An outcome with frames named by what they hold.
    pub(super) fn seen(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Leaf(pa, bits, global) => Outcome::Leaf(self.inside(pa), bits, global),
            fault => fault,
        }
    }

    /// A guest's TLBI on both machines: broadcast, or on one vCPU.
    pub fn guest_tlbi(&mut self, tlbi: GuestTlbi, vcpu: Option<usize>) {
        for compound in [true, false] {
            for number in 0..self.ours.cells.len() {
                let (on, context, region) = place_of(number);
                if vcpu.is_some_and(|vcpu| vcpu != on) {
                    continue;
                }
                let asid = self.contexts[context].asid;
                let first = self.va(region, 0);
                let lows = self.shape.lows;
                let machine = if compound {
                    &mut self.ours
                } else {
                    &mut self.guests
                };
                invalidate(&mut machine.cells[number], tlbi, asid, first, &lows);
            }
        }
        self.refill();
    }
}

/// Drops what a TLBI must drop of a cell; what it may leave stays.
fn invalidate(cell: &mut Cell, tlbi: GuestTlbi, tag: u16, first: u64, lows: &[u64]) {
    match tlbi {
        GuestTlbi::All => *cell = Cell::default(),
        GuestTlbi::Asid(asid) if asid == tag => {
            // Tables in a walk cache are tagged with the ASID; global leaves stay.
            cell.tables = Default::default();
            for probe in &mut cell.probes {
                probe
                    .leaves
                    .retain(|(leaf, _)| matches!(leaf, Outcome::Leaf(_, _, true)));
            }
        }
        GuestTlbi::Asid(_) => {}
        GuestTlbi::Va { va, asid, last } => {
            let tagged = asid.is_none_or(|asid| asid == tag);
            let region = first & !(Level::L2.entry_bytes() - 1);
            for (probe, low) in cell.probes.iter_mut().zip(lows) {
                let page = region + low * PAGE_SIZE;
                probe.leaves.retain(|&(leaf, bytes)| {
                    let covers = va & !(bytes - 1) == page & !(bytes - 1);
                    let global = matches!(leaf, Outcome::Leaf(_, _, true));
                    !(covers && (tagged || global))
                });
            }
            // A root is in a register, and what leads to it is in no table.
            for level in [Level::L1, Level::L2, Level::L3] {
                let span = level.above().map_or(0, Level::entry_bytes) - 1;
                if !last && tagged && va & !span == region & !span {
                    cell.tables[level.number() as usize].clear();
                }
            }
        }
    }
}
