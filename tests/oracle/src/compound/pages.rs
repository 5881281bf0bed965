//! What stage-2 caches hold, found by arithmetic.

use penumbra_paging::{ALIAS_BASE, POOL_BASE, WINDOW_BIT};
use penumbra_vmsa::{PAGE_SIZE, Stage2Attrs};

use super::{RAM_BYTES, RAM_IPA};

const RAM_PAGES: u64 = RAM_BYTES / PAGE_SIZE;
/// Regions of IPAs: RAM, aliases of roots, which lie at the start of RAM, the pool, data aliases, of
/// which there are no more than partners.
const REGIONS: [(u64, u64); 4] = [
    (RAM_IPA, RAM_PAGES),
    (RAM_IPA | WINDOW_BIT, 1024),
    (POOL_BASE, 512),
    (ALIAS_BASE, 8 * 512),
];

/// What stage 2 says of one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) pa: u64,
    /// Stores are allowed.
    pub(super) writes: bool,
    /// Type, shareability and fetches are as the guest's RAM has them.
    pub(super) plain: bool,
}

impl Output {
    /// What a leaf says of a page of it, if it may be read.
    pub(super) fn new(pa: u64, attrs: Stage2Attrs) -> Option<Self> {
        let ram = Stage2Attrs {
            access: attrs.access,
            accessed: attrs.accessed,
            ..Stage2Attrs::RAM
        };
        attrs.access.reads().then_some(Self {
            pa,
            writes: attrs.access.writes(),
            plain: attrs == ram,
        })
    }
}

/// Translations of one page that may be held. More than four make no difference any more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    items: [Output; 4],
    length: usize,
}

impl Held {
    pub(super) fn items(&self) -> &[Output] {
        &self.items[..self.length]
    }

    pub(super) fn add(&mut self, item: Output) {
        if !self.items().contains(&item) && self.length < self.items.len() {
            self.items[self.length] = item;
            self.length += 1;
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    held: Held,
    /// Of the last flush that emptied it, by [`Pages::epoch`].
    epoch: u64,
    /// Of stage 2 when it was read last.
    generation: u64,
}

/// The pages that any walk has asked for.
#[derive(Debug)]
pub(super) struct Pages {
    pages: Vec<Page>,
    /// Pages that hold something in this epoch.
    active: Vec<(u64, usize)>,
    epoch: u64,
}

/// Number of a page; pages elsewhere are never mapped.
fn number(page: u64) -> Option<usize> {
    let mut first = 0;
    for (start, pages) in REGIONS {
        let number = page.wrapping_sub(start) / PAGE_SIZE;
        if page >= start && number < pages {
            return Some((first + number) as usize);
        }
        first += pages;
    }
    None
}

impl Pages {
    pub(super) fn new() -> Self {
        let pages: u64 = REGIONS.iter().map(|&(_, pages)| pages).sum();
        Self {
            pages: vec![Page::default(); pages as usize],
            active: Vec::new(),
            epoch: 1,
        }
    }

    /// What is held for a page if stage 2 has not changed since it was read last.
    pub(super) fn fresh(&self, page: u64, generation: u64) -> Option<Held> {
        let Some(number) = number(page) else {
            return Some(Held::default());
        };
        let page = &self.pages[number];
        (page.epoch == self.epoch && page.generation == generation).then_some(page.held)
    }

    /// Adds what stage 2 says now.
    pub(super) fn read(&mut self, at: u64, generation: u64, now: Held) -> Held {
        let Some(number) = number(at) else {
            return Held::default();
        };
        let page = &mut self.pages[number];
        if page.epoch != self.epoch {
            *page = Page {
                epoch: self.epoch,
                ..Page::default()
            };
            self.active.push((at, number));
        }
        page.generation = generation;
        for &item in now.items() {
            page.held.add(item);
        }
        page.held
    }

    pub(super) fn clear(&mut self) {
        self.active.clear();
        self.epoch += 1;
    }

    /// Drops what is held for a range.
    pub(super) fn clear_range(&mut self, start: u64, end: u64) {
        let pages = &mut self.pages;
        self.active.retain(|&(page, number)| {
            let stays = page < start || page >= end;
            if !stays {
                pages[number].epoch = 0;
            }
            stays
        });
    }

    /// All pages that hold something.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[Output])> {
        self.active
            .iter()
            .map(|&(page, number)| (page, self.pages[number].held.items()))
    }
}
