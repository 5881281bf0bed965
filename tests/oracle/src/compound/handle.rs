//! The machines as the code under test sees them: memory, page copies, TLB maintenance.

use penumbra_paging::{Flushed, FrameMover, TableMemory, TlbSink, TlbWork};
use penumbra_vmsa::{PAGE_SIZE, Pa};

use super::{Handle, Outcome};

impl TableMemory for Handle {
    fn alloc_table(&mut self) -> Option<Pa> {
        let mut world = self.0.borrow_mut();
        let raw = world.free.pop().unwrap_or_else(|| {
            world.next += PAGE_SIZE;
            world.next
        });
        world.frames.remove(&raw);
        world.live.insert(raw);
        Some(Pa::truncated(raw))
    }

    fn free_table(&mut self, table: Pa) {
        let mut world = self.0.borrow_mut();
        if !world.live.remove(&table.raw()) {
            world.violations.push(format!("{table:?} freed twice"));
        }
        world.free.push(table.raw());
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
        let in_leaf = world
            .ours
            .cells
            .values()
            .flat_map(|cell| &cell.leaves)
            .any(|&(leaf, _)| matches!(leaf, Outcome::Leaf(pa, ..) if moved(pa)));
        let held = world
            .ours
            .stage2
            .values()
            .flatten()
            .any(|&(pa, _)| moved(pa));
        if in_leaf || held {
            world
                .violations
                .push(format!("{a:#x} or {b:#x} is held while it moves"));
        }
        let (in_a, in_b) = (world.inside(a), world.inside(b));
        world.inside.insert(a, in_b);
        world.inside.insert(b, in_a);
        world.places.insert(in_a, b);
        world.places.insert(in_b, a);
        let (words_a, words_b) = (world.frames.remove(&a), world.frames.remove(&b));
        if let Some(words) = words_a {
            world.frames.insert(b, words);
        }
        if let Some(words) = words_b {
            world.frames.insert(a, words);
        }
    }
}

impl TlbSink for Handle {
    fn flush(&mut self, work: TlbWork) -> Flushed {
        self.0.borrow_mut().flush(work.scope());
        work.completed()
    }
}
