//! Roots of the lower half that a VM was seen to use while they are trapped: by its writes, and by what its
//! vCPUs hold.

use penumbra_abi::{PAGING_ROOTS, PagingRefusal, PagingRoot};

#[derive(Clone, Copy, Debug)]
struct Root {
    /// 0: the entry is free.
    root: u64,
    writes: u64,
    wanted: bool,
    refusal: PagingRefusal,
    /// vCPUs that held it when they were last looked at, a bit each.
    held: u8,
}

impl Root {
    const FREE: Self = Self {
        root: 0,
        writes: 0,
        wanted: false,
        refusal: PagingRefusal::None,
        held: 0,
    };

    /// Whether a stranger may take its place.
    const fn may_go(&self) -> bool {
        !self.wanted && self.held == 0
    }
}

/// The roots that are written most, as far as so few entries can tell: a stranger wears down
/// the one that was written least, and takes its place when that is used up. Those that are wanted, or that
/// a vCPU holds, stay.
#[derive(Debug)]
pub(crate) struct Seen([Root; PAGING_ROOTS]);

impl Seen {
    /// None: all zero.
    pub(crate) const EMPTY: Self = Self([Root::FREE; PAGING_ROOTS]);

    /// The place of a root's entry.
    // A function, and so is the next one: written out at each use, the two were 3 KiB.
    #[inline(never)]
    fn place(&self, root: u64) -> Option<usize> {
        let mut entries = self.0.iter();
        entries.position(|entry| root != 0 && entry.root == root)
    }

    /// The entry that was written least of those that may go.
    #[inline(never)]
    fn least(&mut self) -> Option<&mut Root> {
        let others = self.0.iter_mut().filter(|entry| entry.may_go());
        others.min_by_key(|entry| entry.writes)
    }

    fn find(&mut self, root: u64) -> Option<&mut Root> {
        let place = self.place(root)?;
        self.0.get_mut(place)
    }

    /// Adds writes of a root.
    pub(super) fn note(&mut self, root: u64, writes: u64) {
        if root == 0 || writes == 0 {
            return;
        }
        if let Some(entry) = self.find(root) {
            entry.writes = entry.writes.saturating_add(writes);
            return;
        }
        let Some(least) = self.least() else {
            return;
        };
        if least.writes <= writes {
            *least = Root {
                root,
                writes,
                ..Root::FREE
            };
        } else {
            least.writes = least.writes.saturating_sub(writes);
        }
    }

    /// Notes which root vCPU `index` holds; 0: none.
    pub(super) fn hold(&mut self, index: usize, root: u64) {
        let bit = 1_u8 << (index & 7);
        for entry in &mut self.0 {
            entry.held &= !bit;
        }
        if root == 0 {
            return;
        }
        if let Some(entry) = self.make(root) {
            entry.held |= bit;
        }
    }

    /// The entry of a root, in place of the one that was written least if need be.
    fn make(&mut self, root: u64) -> Option<&mut Root> {
        if let Some(place) = self.place(root) {
            return self.0.get_mut(place);
        }
        let least = self.least().filter(|_| root != 0)?;
        *least = Root { root, ..Root::FREE };
        Some(least)
    }

    /// Whether a space is wanted for a root.
    pub(super) fn is_wanted(&self, root: u64) -> bool {
        let entry = self.place(root).and_then(|place| self.0.get(place));
        entry.is_some_and(|entry| entry.wanted)
    }

    /// Wants a space for a root. `false` if every entry is taken by another wish.
    pub(crate) fn want(&mut self, root: u64) -> bool {
        let Some(entry) = self.make(root) else {
            return false;
        };
        entry.wanted = true;
        entry.refusal = PagingRefusal::None;
        true
    }

    /// How many roots are waiting for their spaces.
    pub(crate) fn wishes(&self) -> usize {
        self.0.iter().filter(|entry| entry.wanted).count()
    }

    /// A wish is fulfilled, or not, and why.
    pub(super) fn settle(&mut self, root: u64, refusal: PagingRefusal) {
        if let Some(entry) = self.find(root) {
            entry.wanted = false;
            entry.refusal = refusal;
        }
    }

    /// Takes back a wish.
    pub(crate) fn unwant(&mut self, root: u64) {
        if let Some(entry) = self.find(root) {
            entry.wanted = false;
        }
    }

    /// Takes back all wishes. What vCPUs hold is not looked at any more.
    pub(super) fn want_nothing(&mut self) {
        for entry in &mut self.0 {
            (entry.wanted, entry.held) = (false, 0);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0.fill(Root::FREE);
    }

    /// What the manager is told.
    pub(crate) fn get(&self, number: usize) -> Option<PagingRoot> {
        let entry = self.0.get(number)?;
        Some(PagingRoot {
            exists: entry.root != 0,
            wanted: entry.wanted,
            space: false,
            refusal: entry.refusal,
            held: entry.held,
            root: entry.root,
            writes: entry.writes,
        })
    }
}
