//! A set-associative cache of tagged ranges with least-recently-used replacement.
//!
//! All structures of the model are made of it: a fully associative one has a single set. Within a set
//! entries are kept in order of use, so replacement needs no time stamps.

use crate::regime::Space;

/// What an entry answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Address divided by the size.
    pub number: u64,
    /// log2 of the bytes that the entry covers.
    pub log2: u8,
    /// ASID and VMID.
    pub space: Space,
    /// Whether the entry serves every ASID.
    pub global: bool,
}

impl Tag {
    /// The tag of the naturally aligned range of `1 << log2` bytes around `address`.
    #[must_use]
    pub fn around(address: u64, log2: u8, space: Space, global: bool) -> Self {
        let space = Space {
            vmid: space.vmid,
            // One entry for all address spaces, whichever of them filled it.
            asid: if global { 0 } else { space.asid },
        };
        Self {
            number: address >> log2,
            log2,
            space,
            global,
        }
    }

    /// Whether the range holds `address`.
    #[must_use]
    pub fn covers(&self, address: u64) -> bool {
        address >> self.log2 == self.number
    }

    /// Whether a lookup of `address` in `space` hits.
    #[must_use]
    pub fn answers(&self, address: u64, space: Space) -> bool {
        self.covers(address)
            && self.space.vmid == space.vmid
            && (self.global || self.space.asid == space.asid)
    }
}

/// A valid entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it answers to.
    pub tag: Tag,
    /// Where the range begins in the output; only to find stale entries.
    pub output: u64,
}

/// The cache.
#[derive(Clone, Debug)]
pub struct TagCache {
    /// Sets one after another, each in order of use, the latest first.
    slots: Vec<Option<Entry>>,
    ways: usize,
    /// Sets minus one; sets are a power of two.
    mask: u64,
    /// Bit n: an entry of `1 << n` bytes has been put in since the cache was last emptied.
    sizes: u64,
}

impl TagCache {
    /// A cache of `entries` in sets of `ways`. Zero entries: it never hits.
    ///
    /// The number of sets is rounded down to a power of two.
    #[must_use]
    pub fn new(entries: usize, ways: usize) -> Self {
        let ways = ways.clamp(1, entries.max(1));
        let sets = (entries / ways).max(1);
        let sets = 1_usize << sets.ilog2();
        let slots = if entries == 0 { 0 } else { sets * ways };
        Self {
            slots: vec![None; slots],
            ways,
            mask: u64::try_from(sets - 1).unwrap_or(0),
            sizes: 0,
        }
    }

    fn set(&mut self, number: u64) -> Option<&mut [Option<Entry>]> {
        let start = usize::try_from(number & self.mask).ok()? * self.ways;
        self.slots.get_mut(start..start + self.ways)
    }

    /// The entry that answers, which becomes the latest used.
    pub fn lookup(&mut self, address: u64, space: Space) -> Option<Entry> {
        if self.mask == 0 {
            return touch(self.set(0)?, |tag| tag.answers(address, space));
        }
        let mut sizes = self.sizes;
        while sizes != 0 {
            let log2 = sizes.trailing_zeros();
            sizes &= sizes - 1;
            let hit = touch(self.set(address >> log2)?, |tag| {
                u32::from(tag.log2) == log2 && tag.answers(address, space)
            });
            if hit.is_some() {
                return hit;
            }
        }
        None
    }

    /// Like [`TagCache::lookup`], but only among entries of `1 << log2` bytes.
    pub fn lookup_sized(&mut self, address: u64, space: Space, log2: u8) -> Option<Entry> {
        touch(self.set(address >> log2)?, |tag| {
            tag.log2 == log2 && tag.answers(address, space)
        })
    }

    /// Puts an entry in: over one with the same tag, into a free way, or over the least recently used.
    pub fn insert(&mut self, entry: Entry) {
        self.sizes |= 1 << entry.tag.log2;
        let Some(set) = self.set(entry.tag.number) else {
            return;
        };
        let same = set
            .iter()
            .position(|slot| slot.is_some_and(|old| old.tag == entry.tag));
        let place = same
            .or_else(|| set.iter().position(Option::is_none))
            .unwrap_or(set.len() - 1);
        if let Some(head) = set.get_mut(..=place) {
            head.rotate_right(1);
        }
        if let Some(first) = set.first_mut() {
            *first = Some(entry);
        }
    }

    /// Removes entries whose tag satisfies `condition`.
    pub fn remove(&mut self, condition: impl Fn(&Tag) -> bool) {
        for slot in &mut self.slots {
            if slot.is_some_and(|entry| condition(&entry.tag)) {
                *slot = None;
            }
        }
    }

    /// Removes entries that cover `address` and satisfy `condition`.
    pub fn remove_at(&mut self, address: u64, condition: impl Fn(&Tag) -> bool) {
        let mut sizes = self.sizes;
        while sizes != 0 {
            let log2 = sizes.trailing_zeros();
            sizes &= sizes - 1;
            let Some(set) = self.set(address >> log2) else {
                return;
            };
            for slot in set {
                if slot.is_some_and(|entry| entry.tag.covers(address) && condition(&entry.tag)) {
                    *slot = None;
                }
            }
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.slots.fill(None);
        self.sizes = 0;
    }

    /// The valid entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().flatten()
    }
}

/// Moves the entry that satisfies `condition` to the front of its set.
fn touch(set: &mut [Option<Entry>], condition: impl Fn(&Tag) -> bool) -> Option<Entry> {
    let place = set
        .iter()
        .position(|slot| slot.as_ref().is_some_and(|entry| condition(&entry.tag)))?;
    let entry = set.get(place).copied().flatten();
    if place > 0 {
        set.copy_within(..place, 1);
        if let Some(first) = set.first_mut() {
            *first = entry;
        }
    }
    entry
}
