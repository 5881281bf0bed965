//! The machines as the code under test sees them: memory, page copies, TLB maintenance.

use penumbra_paging::{Flushed, FrameMover, TableMemory, TlbSink, TlbWork};
use penumbra_vmsa::Pa;

use super::{Handle, Outcome};

impl TableMemory for Handle {
    fn alloc_table(&mut self) -> Option<Pa> {
        self.0.borrow_mut().memory.alloc().map(Pa::truncated)
    }

    fn free_table(&mut self, table: Pa) {
        let mut world = self.0.borrow_mut();
        if !world.memory.give(table.raw()) {
            world.violations.push(format!("{table:?} freed twice"));
        }
        let mut tables = world.ours.stage2_tables.iter();
        if tables.any(|&(held, _)| held == table.raw()) {
            let held = format!("{table:?} is freed, and walk caches may hold it");
            world.violations.push(held);
        }
    }

    fn load(&self, entry: Pa) -> u64 {
        self.0.borrow().word(entry.raw())
    }

    fn store(&mut self, entry: Pa, raw: u64) {
        self.0.borrow_mut().store(entry.raw(), raw);
    }

    fn publish(&mut self) {}
}

impl FrameMover for Handle {
    fn exchange(&mut self, a: Pa, b: Pa) {
        let mut world = self.0.borrow_mut();
        let (a, b) = (a.raw(), b.raw());
        let moved = |pa: u64| pa == a || pa == b;
        let probes = world.ours.cells.iter().flat_map(|cell| &cell.probes);
        let in_leaf = probes
            .flat_map(|probe| &probe.leaves)
            .any(|&(leaf, _)| matches!(leaf, Outcome::Leaf(pa, ..) if moved(pa)));
        let pages = world.ours.stage2.iter();
        let in_page = pages
            .flat_map(|(_, held)| held)
            .any(|output| moved(output.pa));
        if in_leaf || in_page {
            world
                .violations
                .push(format!("{a:#x} or {b:#x} is held while it moves"));
        }
        let (in_a, in_b) = (world.inside(a), world.inside(b));
        world.put_inside(a, in_b);
        world.put_inside(b, in_a);
        world.memory.exchange(a, b);
    }
}

impl TlbSink for Handle {
    fn flush(&mut self, work: TlbWork) -> Flushed {
        self.0.borrow_mut().flush(work.scope());
        work.completed()
    }
}
