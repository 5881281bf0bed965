//! What a guest's tree looks like, and whether ours still agrees with it.

use penumbra_vmsa::{
    CONTIGUOUS_BYTES, CONTIGUOUS_ENTRIES, Half, Ipa, Level, Pa, Stage1Desc, TABLE_ENTRIES,
    TableLimits, Va, bits,
};

use super::access::guest_entry;
use super::build::alias_of;
use super::coalesce::{are_a_run, leaf_for};
use super::node::{Node, NodeId};
use super::sample::SampleKind;
use super::{Access, Compound, Form, IGNORED, SpaceId};
use crate::memory::{TableMemory, entry};
use crate::tlb::TlbSink;

/// A level-3 table of the guest, as a survey found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First VA of the 2 MiB.
    pub va: Va,
    /// The guest's table.
    pub table: Ipa,
    /// Valid descriptors.
    pub valid: u16,
    /// Runs of 16 that could take the contiguous hint.
    pub runs: u16,
    /// One 2 MiB leaf could stand for it as its frames lie now.
    pub uniform: bool,
    /// Full, with equal attributes: frames could be re-laid out for one leaf.
    pub full: bool,
    /// EL0 may access its first page.
    pub user: bool,
    /// How it is shadowed; `None`: nested.
    pub form: Option<Form>,
    /// Stores mirrored since it was surveyed last; where nested, 1 if a sample of stores was hit.
    pub writes: u16,
    /// Stores to it are sampled.
    pub writes_sampled: bool,
    /// Whether a walk has fetched from it since it was sampled; `None`: it is not.
    pub walks: Option<bool>,
}

/// One step through the tables of a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SurveyStep<R> {
    /// What was looked for; go on at this VA.
    Found(R, Option<Va>),
    /// Nothing so far; go on at this VA.
    Skipped(Va),
    /// The half has ended.
    End,
}

/// Entries looked at together.
const ROW: u64 = 64;
/// Rows looked at in one step at most, the region's own apart.
const STEP_ROWS: u32 = 16;

impl<const SPACES: usize, const NODES: usize, const BLOCKS: usize> Compound<SPACES, NODES, BLOCKS> {
    /// Looks for the first level-3 table of the guest at or above `from`, a VA of the space's half.
    /// Work is bounded; [`SurveyStep::Skipped`] says where to go on. Stores counted so far are handed over.
    pub fn survey<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &mut self,
        vm: &Access<'_, M, T>,
        space: SpaceId,
        from: Va,
    ) -> SurveyStep<Region> {
        let (va, table, next) = match self.find_table(vm, space, from) {
            SurveyStep::Found((va, table), next) => (va, table, next),
            SurveyStep::Skipped(next) => return SurveyStep::Skipped(next),
            SurveyStep::End => return SurveyStep::End,
        };
        let mut region = examine(vm, va, table);
        self.describe(space, &mut region);
        region.walks = self.samples.hit(region.table, SampleKind::Walks);
        let writes = self.samples.hit(region.table, SampleKind::Writes);
        region.writes_sampled = writes.is_some();
        region.writes = region.writes.max(writes.map_or(0, u16::from));
        SurveyStep::Found(region, next)
    }

    /// As [`Self::survey`], but only the first VA of the region, and its table.
    pub fn find_table<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        space: SpaceId,
        from: Va,
    ) -> SurveyStep<(Va, Ipa)> {
        let Some(entry) = self.spaces.get(space) else {
            return SurveyStep::End;
        };
        let span = 1_u64 << entry.start.shift() << 9;
        let high = match entry.half {
            Half::Low => 0,
            Half::High => !(span - 1),
        };
        let mut at = from.raw() & (span - 1);
        let root = (entry.start, entry.root, vm.table_pa(entry.root));
        let mut place = root;
        for _ in 0..STEP_ROWS {
            place = descend_from(vm, place, at);
            let (level, table, _) = place;
            if level == Level::L3 {
                let base = at & !(Level::L2.entry_bytes() - 1);
                let end = base.saturating_add(Level::L2.entry_bytes());
                let rest = (end < span).then_some(Va::truncated(end | high));
                return SurveyStep::Found((Va::truncated(base | high), table), rest);
            }
            let next = behind(vm, place, at);
            if next >= span {
                return SurveyStep::End;
            }
            if level.index(next) == 0 {
                // Behind this table's end: from above again.
                place = root;
            }
            at = next;
        }
        SurveyStep::Skipped(Va::truncated(at | high))
    }

    /// Adds to a region what its node knows.
    fn describe(&mut self, space: SpaceId, region: &mut Region) {
        let base = region.va.raw();
        let Some(mut id) = self.spaces.get(space).and_then(|space| space.node) else {
            return;
        };
        for _ in 0..3 {
            let node = self.nodes.get(id);
            let slot = u16::try_from(node.level.index(base)).unwrap_or(0);
            let Some(child) = self.nodes.child(id, slot) else {
                return;
            };
            id = child;
            if self.nodes.get(id).level == Level::L3 {
                region.form = Some(self.nodes.get(id).form());
                if let Some(node) = self.nodes.get_mut(id) {
                    region.writes = core::mem::take(&mut node.writes);
                }
                return;
            }
        }
    }

    /// Tells the service what the policy thinks of the shadowed table of `level` around `va`: what
    /// is worth least is evicted first.
    pub fn set_worth(&mut self, space: SpaceId, va: Va, level: Level, worth: u16) {
        let Some(mut id) = self.spaces.get(space).and_then(|space| space.node) else {
            return;
        };
        for _ in 0..3 {
            let node = self.nodes.get(id);
            if node.level >= level {
                break;
            }
            let slot = u16::try_from(node.level.index(va.raw())).unwrap_or(0);
            let Some(child) = self.nodes.child(id, slot) else {
                return;
            };
            id = child;
        }
        if let Some(node) = self.nodes.get_mut(id) {
            node.worth = worth;
        }
    }

    /// The debug audit: compares every mirror with the guest's tables, and every watched page with
    /// stage 2, and counts pool frames. Returns the number of differences. For a VM whose vCPUs stand still; unbounded but
    /// for the size of the pool.
    pub fn audit<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
    ) -> u32 {
        self.audit_piece(vm, (0, NODES)).0
    }

    /// The audit of the nodes numbered `from` to `from + count`. Returns the differences and where to
    /// go on, if anywhere.
    pub fn audit_piece<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        (from, count): (usize, usize),
    ) -> (u32, Option<usize>) {
        let mirrors = self.nodes.iter().filter(|(_, node)| node.mirror.is_some());
        let mirrors = mirrors.fold(0_u32, |count, _| count.saturating_add(1));
        let leaked = mirrors != self.pool.usage().0;
        // The pool as a whole counts for the first piece.
        let mut wrong = u32::from(leaked && from == 0);
        let end = from.saturating_add(count);
        let piece = self
            .nodes
            .iter()
            .filter(|(id, _)| (from..end).contains(&id.number()));
        for (id, node) in piece {
            let leaf = vm.stage2.lookup(vm.memory, node.guest);
            if node.watches() && leaf.is_ok_and(|leaf| leaf.attrs.access.writes()) {
                wrong = wrong.saturating_add(1);
            }
            if self.nodes.is_detached(id) {
                continue;
            }
            wrong = wrong.saturating_add(match node.mirror {
                Some(_) => self
                    .audit_mirror(vm, id, node)
                    .saturating_add(u32::from(!self.link_is_right(vm, node))),
                None => u32::from(!self.leaf_is_right(vm, node)),
            });
        }
        (wrong, (end < NODES).then_some(end))
    }

    fn audit_mirror<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        id: NodeId,
        node: &Node,
    ) -> u32 {
        let Some(frame) = node.mirror else { return 0 };
        let mirror = self.pool.pa(frame);
        let mut wrong: u32 = 0;
        let mut hinted = false;
        for index in 0..TABLE_ENTRIES {
            let ours = vm.memory.load(entry(mirror, index));
            let guests = guest_entry(vm, node.guest, index);
            let linked = ours != guests
                && self
                    .nodes
                    .child(id, u16::try_from(index).unwrap_or(0))
                    .is_some();
            if index.is_multiple_of(CONTIGUOUS_ENTRIES) {
                hinted = are_a_run(vm.memory, mirror, node.level, index, bits::CONTIGUOUS);
            }
            // A hint of ours has to be borne out by all sixteen.
            let hint =
                ours ^ guests == bits::CONTIGUOUS && (hinted || ours & bits::CONTIGUOUS == 0);
            let agrees = ours == guests || linked || hint;
            wrong = wrong.saturating_add(u32::from(!agrees));
        }
        wrong
    }

    /// Whether the mirror above links a mirror, or the leaf that it was raised to; a root's mirror is what stage 2
    /// shows at its alias, and cannot be written there.
    fn link_is_right<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        node: &Node,
    ) -> bool {
        let Some(parent) = node.parent else {
            let alias = alias_of(node.guest);
            let shown = vm.stage2.lookup(vm.memory, alias).ok();
            let shown = shown.filter(|leaf| !leaf.attrs.access.writes());
            return shown.map(|leaf| leaf.pa_of(alias))
                == node.mirror.map(|frame| self.pool.pa(frame));
        };
        let above = self.nodes.get(parent).mirror;
        let ours = above.map(|frame| {
            let slot = entry(self.pool.pa(frame), u64::from(node.slot));
            vm.memory.load(slot)
        });
        let wanted = if node.raised {
            self.raised_leaf(vm, node)
        } else {
            self.link_of(vm, node)
        };
        ours.is_some() && ours == wanted
    }

    fn leaf_is_right<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
        &self,
        vm: &Access<'_, M, T>,
        node: &Node,
    ) -> bool {
        let Some(parent) = node.parent else {
            return false;
        };
        let above = self.nodes.get(parent);
        let flat = self
            .spaces
            .get(SpaceId(node.space))
            .is_some_and(|space| space.flat_hierarchy);
        let slot = u64::from(node.slot);
        let raw = guest_entry(vm, above.guest, slot);
        let Stage1Desc::Table { next, limits } = Stage1Desc::decode(above.level, raw) else {
            return false;
        };
        let limits = if flat { TableLimits::default() } else { limits };
        let ours = above
            .mirror
            .map(|frame| vm.memory.load(entry(self.pool.pa(frame), slot)));
        let leaf = match node.alias {
            Some(_) => Self::alias_leaf(vm, node, limits),
            None => vm
                .table_pa(next)
                .and_then(|t| leaf_for(vm.memory, t, node.level, limits)),
        };
        next == node.guest && ours.is_some() && ours == leaf
    }
}

/// Walks the guest's own tables towards `at`: level and table where it ends.
pub(super) fn descend<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
    vm: &Access<'_, M, T>,
    root: Ipa,
    start: Level,
    at: u64,
) -> (Level, Ipa) {
    let (level, table, _) = descend_from(vm, (start, root, vm.table_pa(root)), at);
    (level, table)
}

/// The same from a table on, given with where it lies.
fn descend_from<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
    vm: &Access<'_, M, T>,
    mut place: (Level, Ipa, Option<Pa>),
    at: u64,
) -> (Level, Ipa, Option<Pa>) {
    // A level more each time.
    while let (level, _, Some(pa)) = place
        && let Some(below) = level.below()
    {
        let raw = vm.memory.load(entry(pa, level.index(at)));
        if bits::kind(level, raw) != bits::Kind::Table {
            break;
        }
        let next = Ipa::truncated(raw & bits::TABLE_ADDRESS);
        place = (below, next, vm.table_pa(next));
    }
    place
}

/// The first VA above `at`, for which a table has no next one, that it may have a next table for: where the next
/// table descriptor of the same row is, or the row's end; the table's end where it cannot be read.
fn behind<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
    vm: &Access<'_, M, T>,
    (level, _, pa): (Level, Ipa, Option<Pa>),
    at: u64,
) -> u64 {
    let index = level.index(at);
    let row = index & !(ROW - 1);
    let next = pa.map_or(TABLE_ENTRIES, |pa| {
        let tables = vm.memory.equal(entry(pa, row), bits::TABLE, bits::TABLE);
        // A guest may have put one where there was none a moment ago: that counts as before.
        let ahead = tables & (!1 << (index - row));
        row.saturating_add(u64::from(ahead.trailing_zeros()))
    });
    let table = at & !(level.entry_bytes().saturating_mul(TABLE_ENTRIES) - 1);
    table.saturating_add(next.saturating_mul(level.entry_bytes()))
}

/// Counts what a level-3 table holds.
fn examine<M: TableMemory + ?Sized, T: TlbSink + ?Sized>(
    vm: &Access<'_, M, T>,
    va: Va,
    table: Ipa,
) -> Region {
    let pa = vm.table_pa(table);
    let mut region = Region {
        va,
        table,
        valid: 0,
        runs: 0,
        uniform: false,
        full: false,
        user: false,
        form: None,
        writes: 0,
        writes_sampled: false,
        walks: None,
    };
    let Some(pa) = pa else { return region };
    let first = vm.memory.load(pa);
    if let Stage1Desc::Leaf { attrs, .. } = Stage1Desc::decode(Level::L3, first) {
        region.user = attrs.user;
    }
    if leaf_for(vm.memory, pa, Level::L3, TableLimits::default()).is_some() {
        // One leaf for all of them says the rest.
        (region.uniform, region.full) = (true, true);
        (region.valid, region.runs) = (512, 32);
        return region;
    }
    for row in (0..TABLE_ENTRIES).step_by(ROW as usize) {
        let valid = vm.memory.equal(entry(pa, row), bits::VALID, bits::VALID);
        let count = u16::try_from(valid.count_ones()).unwrap_or(0);
        region.valid = region.valid.saturating_add(count);
        for run in (0..ROW).step_by(CONTIGUOUS_ENTRIES as usize) {
            let whole = valid >> run & RUN == RUN;
            let is_run = whole && is_run(vm.memory, entry(pa, row | run));
            region.runs = region.runs.saturating_add(u16::from(is_run));
        }
    }
    // Leaves that may be cached, with the first one's attributes.
    let alike = |row| vm.memory.equal(entry(pa, row), first | USABLE, ATTRIBUTES) == u64::MAX;
    let all_valid = u64::from(region.valid) == TABLE_ENTRIES;
    region.full = all_valid && (0..TABLE_ENTRIES).step_by(ROW as usize).all(alike);
    region
}

/// A bit for each entry of a run.
const RUN: u64 = (1 << CONTIGUOUS_ENTRIES) - 1;
/// What a leaf of level 3 has that may be cached.
const USABLE: u64 = bits::AF | bits::TABLE;
/// What leaves that one larger leaf stands for have alike.
const ATTRIBUTES: u64 = !(IGNORED | bits::CONTIGUOUS | bits::TABLE_ADDRESS);

/// Whether 16 descriptors of level 3 from `at` on could have the contiguous hint.
fn is_run<M: TableMemory + ?Sized>(memory: &M, at: Pa) -> bool {
    let first = memory.load(at);
    if first & USABLE != USABLE || first & bits::TABLE_ADDRESS & (CONTIGUOUS_BYTES - 1) != 0 {
        return false;
    }
    let step = Level::L3.entry_bytes();
    let differ = memory.differences(at, CONTIGUOUS_ENTRIES, first, step);
    differ & !(IGNORED | bits::CONTIGUOUS) == 0
}
