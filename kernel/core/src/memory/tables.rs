//! Frames for stage-2 tables and TLB maintenance, as `penumbra-paging` wants them.

use penumbra_paging::{Flushed, FrameMover, TableMemory, TlbScope, TlbSink, TlbWork};
use penumbra_vmsa::{PAGE_SIZE, Pa};

use super::MAX_STOCK;
use crate::machine::Machine;

/// Tables above those of the stock's frames.
const ABOVE: usize = 2;
/// Tables that a VM keeps ready for compound roots that its exits put in place: the first splits a block twice at most and makes
/// two tables in the window.
pub(crate) const ROOT_TABLES: usize = 6;
/// What each further one takes, mostly: a table of the block that it splits, and one in the window.
pub(crate) const FURTHER_ROOT_TABLES: usize = 2;
/// Tables that a VM keeps ready at most.
pub(super) const MAX_SPARE: usize = MAX_STOCK + ABOVE + ROOT_TABLES + 4 * FURTHER_ROOT_TABLES;

/// Zeroed frames for tables, of one VM. A guest's fault takes from here only, so no guest's exit
/// waits for the board's pool.
#[derive(Debug)]
pub(crate) struct Spare {
    frames: [Pa; MAX_SPARE],
    count: usize,
}

impl Spare {
    pub(super) const NONE: Self = Self {
        frames: [Pa::truncated(0); MAX_SPARE],
        count: 0,
    };

    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Takes one, if more than `kept` are there.
    pub(super) fn pop(&mut self, kept: usize) -> Option<Pa> {
        if self.count <= kept {
            return None;
        }
        self.count = self.count.checked_sub(1)?;
        self.frames.get(self.count).copied()
    }

    pub(super) fn push(&mut self, frame: Pa) -> bool {
        let Some(slot) = self.frames.get_mut(self.count) else {
            return false;
        };
        *slot = frame;
        self.count = self.count.saturating_add(1);
        true
    }
}

/// Tables that first touches take for so many frames in stock: one for each, and those above them. What else an exit makes takes
/// none of these, or the guest would wait for a table where it has frames.
pub(super) const fn kept_for(stocked: usize) -> usize {
    if stocked == 0 {
        return 0;
    }
    stocked.saturating_add(ABOVE)
}

/// A zeroed frame out of the board's pool.
pub(super) fn allocate_table(machine: &impl Machine) -> Option<Pa> {
    let table = machine.allocate(PAGE_SIZE)?;
    machine.zero(table, PAGE_SIZE);
    Some(table)
}

/// Where tables come from and go to.
#[derive(Debug)]
pub(crate) struct TableFrames<'a, M> {
    machine: &'a M,
    /// The VM's own frames, if the pool may not be asked, and how many of them are to be left.
    spare: Option<(&'a mut Spare, usize)>,
}

impl<'a, M: Machine> TableFrames<'a, M> {
    /// Out of the board's pool, for the manager's calls.
    pub(crate) const fn of_pool(machine: &'a M) -> Self {
        Self {
            machine,
            spare: None,
        }
    }

    /// Out of the VM's own frames but for the last `kept`, for a guest's exits.
    pub(super) const fn of_vm(machine: &'a M, spare: &'a mut Spare, kept: usize) -> Self {
        Self {
            machine,
            spare: Some((spare, kept)),
        }
    }
}

impl<M: Machine> TableMemory for TableFrames<'_, M> {
    fn alloc_table(&mut self) -> Option<Pa> {
        match &mut self.spare {
            Some((spare, kept)) => spare.pop(*kept),
            None => allocate_table(self.machine),
        }
    }

    fn free_table(&mut self, table: Pa) {
        if let Some((spare, _)) = &mut self.spare {
            self.machine.zero(table, PAGE_SIZE);
            if spare.push(table) {
                return;
            }
        }
        self.machine.free(table, PAGE_SIZE);
    }

    #[inline]
    fn load(&self, entry: Pa) -> u64 {
        self.machine.load_descriptor(entry)
    }

    #[inline]
    fn differences(&self, first: Pa, count: u64, wanted: u64, step: u64) -> u64 {
        self.machine
            .descriptor_differences(first, count, wanted, step)
    }

    #[inline]
    fn equal(&self, first: Pa, wanted: u64, mask: u64) -> u64 {
        self.machine.equal_descriptors(first, wanted, mask)
    }

    #[inline]
    fn store(&mut self, entry: Pa, raw: u64) {
        self.machine.store_descriptor(entry, raw);
    }

    #[inline]
    fn fill(&mut self, first: Pa, count: u64, value: u64, step: u64) {
        self.machine.fill_descriptors(first, count, value, step);
    }

    #[inline]
    fn publish(&mut self) {
        self.machine.publish_descriptors();
    }
}

impl<M: Machine> FrameMover for TableFrames<'_, M> {
    fn exchange(&mut self, a: Pa, b: Pa) {
        self.machine.exchange_pages(a, b);
    }
}

/// TLB maintenance under the VTTBR of one VM.
pub(crate) struct VmTlb<'a, M> {
    machine: &'a M,
    vttbr: u64,
}

impl<'a, M: Machine> VmTlb<'a, M> {
    pub(crate) const fn new(machine: &'a M, vttbr: u64) -> Self {
        Self { machine, vttbr }
    }
}

impl<M: Machine> TlbSink for VmTlb<'_, M> {
    fn flush(&mut self, work: TlbWork) -> Flushed {
        match work.scope() {
            TlbScope::None => {}
            TlbScope::Leaves { start, end, step } => {
                self.machine.invalidate_leaves(self.vttbr, start, end, step);
            }
            TlbScope::Vm => self.machine.invalidate_vm(self.vttbr),
        }
        work.completed()
    }
}
