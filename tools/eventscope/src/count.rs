//! Counters, one row for each core; a core's row is written by the thread that runs the core only.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Cores at most.
pub(crate) const CORES: usize = 16;
/// VMIDs told apart at most; further ones share the last place.
pub(crate) const VMIDS: usize = 8;
/// Address ranges counted apart at most.
pub(crate) const RANGES: usize = 4096;
/// Places for EL0 and EL1 of each VMID, and one each for EL2 and EL3.
pub(crate) const PLACES: usize = 2 * VMIDS + 2;
/// The place of EL2.
pub(crate) const EL2: usize = 2 * VMIDS;
/// The place of EL1 of the first VMID: the manager's, if there is one.
pub(crate) const MANAGER: u8 = 1;

/// A place that is not known yet.
pub(crate) const UNKNOWN: u8 = u8::MAX;
/// No range.
pub(crate) const NO_RANGE: u16 = u16::MAX;

/// What the plugin knows of a translation block.
#[derive(Debug)]
pub(crate) struct Block {
    /// Its address.
    pub(crate) start: u64,
    /// Its place, [`UNKNOWN`] until it runs first.
    pub(crate) place: AtomicU8,
    /// Its range, [`NO_RANGE`] if none.
    pub(crate) range: u16,
    /// Whether a lower level comes to EL2 here.
    pub(crate) exit: AtomicBool,
}

impl Block {
    /// Whether it is known to be EL2's.
    pub(crate) fn is_el2(&self) -> bool {
        usize::from(self.place.load(Ordering::Relaxed)) == EL2
    }
}

/// The counters of one core.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its instructions at EL2 when a lower level last came there.
    came: AtomicU64,
    /// The most from there to the next time.
    longest: AtomicU64,
    places: [AtomicU64; PLACES],
    ranges: [AtomicU64; RANGES],
}

static ROWS: [Row; CORES] = [const {
    Row {
        came: AtomicU64::new(0),
        longest: AtomicU64::new(0),
        places: [const { AtomicU64::new(0) }; PLACES],
        ranges: [const { AtomicU64::new(0) }; RANGES],
    }
}; CORES];

static SEEN_VMIDS: Mutex<Vec<u16>> = Mutex::new(Vec::new());

fn increment(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Counts one instruction of `block` on `core`.
pub(crate) fn instruction(core: usize, block: &Block) {
    let Some(row) = ROWS.get(core) else { return };
    if let Some(counter) = row
        .places
        .get(usize::from(block.place.load(Ordering::Relaxed)))
    {
        increment(counter);
    }
    if let Some(counter) = row.ranges.get(usize::from(block.range)) {
        increment(counter);
    }
}

/// Notes that a lower level comes to EL2 on `core`. What ran there since the last time was one stay.
pub(crate) fn exit(core: usize) {
    let Some(row) = ROWS.get(core) else { return };
    let now = of(core, EL2);
    let came = row.came.swap(now, Ordering::Relaxed);
    // Before the first time comes the boot.
    if came != 0 {
        row.longest.fetch_max(now - came, Ordering::Relaxed);
    }
}

/// Instructions of the longest stay at EL2 of the cores whose bits are set in `cores`, from one exit to the next, since
/// [`forget_stays`].
pub(crate) fn longest(cores: u64) -> u64 {
    let rows = ROWS.iter().enumerate();
    rows.filter(|(core, _)| cores >> core & 1 == 1)
        .map(|(_, row)| row.longest.load(Ordering::Relaxed))
        .max()
        .unwrap_or(0)
}

/// Forgets the longest stays.
pub(crate) fn forget_stays() {
    for row in &ROWS {
        row.longest.store(0, Ordering::Relaxed);
    }
}

/// The place of a level and VMID, and whether the VMID is new.
pub(crate) fn place(level: u8, vmid: u16) -> (u8, bool) {
    if level >= 2 {
        return (u8::try_from(EL2).unwrap_or(UNKNOWN) + (level - 2), false);
    }
    let Ok(mut seen) = SEEN_VMIDS.lock() else {
        return (UNKNOWN, false);
    };
    let known = seen.iter().position(|&v| v == vmid);
    let index = known.unwrap_or_else(|| {
        seen.push(vmid);
        seen.len() - 1
    });
    let index = u8::try_from(index.min(VMIDS - 1)).unwrap_or(0);
    (2 * index + level, known.is_none())
}

/// VMIDs in the order in which they first ran.
pub(crate) fn vmids() -> Vec<u16> {
    SEEN_VMIDS
        .lock()
        .map(|seen| seen.clone())
        .unwrap_or_default()
}

/// Instructions of `core` in `place`.
pub(crate) fn of(core: usize, place: usize) -> u64 {
    ROWS.get(core)
        .and_then(|row| row.places.get(place))
        .map_or(0, |c| c.load(Ordering::Relaxed))
}

/// Instructions of all cores in `place`.
pub(crate) fn sum(place: usize) -> u64 {
    sum_on(u64::MAX, place)
}

/// Instructions in `place` of the cores whose bits are set in `cores`.
pub(crate) fn sum_on(cores: u64, place: usize) -> u64 {
    (0..CORES)
        .filter(|core| cores >> core & 1 == 1)
        .map(|core| of(core, place))
        .sum()
}

/// Instructions of all cores in range `index`.
pub(crate) fn range_sum(index: usize) -> u64 {
    ROWS.iter()
        .filter_map(|row| row.ranges.get(index))
        .map(|c| c.load(Ordering::Relaxed))
        .sum()
}
