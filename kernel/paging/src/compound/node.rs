//! Nodes: guest table pages in their positions, found by page and linked as trees.

use penumbra_vmsa::{Ipa, Level};

use super::alias::AliasId;
use super::pool::PoolFrame;

/// A node, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(u16);

impl NodeId {
    pub(super) const fn number(self) -> usize {
        self.0 as usize
    }
}

/// What stands for a guest table in the compound tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A table of ours, entry by entry like the guest's.
    Mirror,
    /// One leaf in the table above.
    Leaf,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) used: bool,
    /// The guest's table page.
    pub(super) guest: Ipa,
    /// Level of the table.
    pub(super) level: Level,
    pub(super) space: u8,
    /// The node above and the entry there; `None` for a root.
    pub(super) parent: Option<NodeId>,
    pub(super) slot: u16,
    /// The mirror; `None` where a leaf in the parent stands for the table.
    pub(super) mirror: Option<PoolFrame>,
    /// The data alias that the leaf goes through, of a re-laid-out region.
    pub(super) alias: Option<AliasId>,
    /// A leaf in the parent stands for the mirror as well.
    pub(super) raised: bool,
    /// It is not of its page any more: what has been taken out of the tree is forgotten so, before it is given back.
    blind: bool,
    first_child: Option<NodeId>,
    next_sibling: Option<NodeId>,
    prev_sibling: Option<NodeId>,
    next_in_bucket: Option<NodeId>,
    /// Stores seen since the last survey.
    pub(super) writes: u16,
    /// What the policy thinks of it: the least is evicted first.
    pub(super) worth: u16,
}

impl Node {
    const FREE: Self = Self {
        used: false,
        guest: Ipa::truncated(0),
        level: Level::L0,
        space: 0,
        parent: None,
        slot: 0,
        mirror: None,
        alias: None,
        raised: false,
        blind: false,
        first_child: None,
        next_sibling: None,
        prev_sibling: None,
        next_in_bucket: None,
        writes: 0,
        worth: 0,
    };

    /// The root of a space.
    pub(super) const fn root(guest: Ipa, level: Level, space: u8, mirror: PoolFrame) -> Self {
        Self {
            used: true,
            guest,
            level,
            space,
            mirror: Some(mirror),
            ..Self::FREE
        }
    }

    /// A table below an entry of another.
    pub(super) const fn below(
        guest: Ipa,
        level: Level,
        space: u8,
        (parent, slot): (NodeId, u16),
        mirror: Option<PoolFrame>,
    ) -> Self {
        let parent = Some(parent);
        Self {
            used: true,
            guest,
            level,
            space,
            parent,
            slot,
            mirror,
            ..Self::FREE
        }
    }

    /// Whether its page is watched for its sake.
    pub(super) const fn watches(&self) -> bool {
        !self.blind
    }

    pub(super) const fn form(&self) -> Form {
        if self.mirror.is_some() {
            Form::Mirror
        } else {
            Form::Leaf
        }
    }
}

#[derive(Debug)]
pub(super) struct Nodes<const NODES: usize> {
    nodes: [Node; NODES],
    /// Chains of nodes by guest page.
    buckets: [Option<NodeId>; NODES],
    /// Chain of nodes that were in use, by `next_in_bucket`.
    free: Option<NodeId>,
    /// Chain of what was taken out of the tree, by `next_sibling`: each with what was below it.
    detached: Option<NodeId>,
    /// Nodes from here on never were.
    fresh: u16,
    used: usize,
    /// Counts the nodes that were taken out: what was found of nodes before may be wrong since.
    removed: u64,
}

impl<const NODES: usize> Nodes<NODES> {
    pub(super) const fn new() -> Self {
        assert!(NODES > 0 && NODES <= 65_535, "node numbers have 16 bits");
        Self {
            nodes: [Node::FREE; NODES],
            buckets: [None; NODES],
            free: None,
            detached: None,
            fresh: 0,
            used: 0,
            removed: 0,
        }
    }

    pub(super) const fn used(&self) -> usize {
        self.used
    }

    pub(super) const fn removed(&self) -> u64 {
        self.removed
    }

    /// No node is in use any more, in place.
    pub(super) fn clear(&mut self) {
        self.nodes.fill(Node::FREE);
        self.buckets.fill(None);
        self.free = None;
        self.detached = None;
        self.fresh = 0;
        self.used = 0;
    }

    pub(super) const fn is_full(&self) -> bool {
        self.used >= NODES
    }

    pub(super) fn get(&self, id: NodeId) -> Node {
        self.nodes
            .get(usize::from(id.0))
            .copied()
            .unwrap_or(Node::FREE)
    }

    /// The same without a copy.
    pub(super) fn peek(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(usize::from(id.0))
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(usize::from(id.0))
    }

    /// All nodes in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0..NODES).filter_map(|number| {
            let node = self.nodes.get(number).filter(|node| node.used)?;
            Some((NodeId(u16::try_from(number).ok()?), node))
        })
    }

    fn bucket(page: Ipa) -> usize {
        // Neighbouring table pages spread over neighbouring buckets.
        usize::try_from(page.raw() >> 12).unwrap_or(0) % NODES
    }

    /// The first node of a guest page.
    // This and the next two, inlined: a store to a mirrored table waits for them.
    #[inline]
    pub(super) fn first_of(&self, page: Ipa) -> Option<NodeId> {
        let head = self.buckets.get(Self::bucket(page)).copied().flatten();
        self.matching(head, page)
    }

    /// The next node of the same guest page.
    #[inline]
    pub(super) fn next_of(&self, id: NodeId) -> Option<NodeId> {
        let node = self.peek(id)?;
        self.matching(node.next_in_bucket, node.guest)
    }

    /// The number of nodes that are looked at for a guest page: its own, and those of pages that share its bucket.
    pub(super) fn crowd_of(&self, page: Ipa) -> usize {
        let head = self.buckets.get(Self::bucket(page)).copied().flatten();
        core::iter::successors(head, |id| self.peek(*id)?.next_in_bucket).count()
    }

    #[inline]
    fn matching(&self, mut at: Option<NodeId>, page: Ipa) -> Option<NodeId> {
        while let Some(id) = at {
            let node = self.peek(id)?;
            if node.guest == page {
                return Some(id);
            }
            at = node.next_in_bucket;
        }
        None
    }

    /// The child of a node at an entry.
    pub(super) fn child(&self, parent: NodeId, slot: u16) -> Option<NodeId> {
        let mut at = self.peek(parent)?.first_child;
        while let Some(id) = at {
            let node = self.peek(id)?;
            if node.slot == slot {
                return Some(id);
            }
            at = node.next_sibling;
        }
        None
    }

    /// The child of a node at an entry of which it is known to which page the guest's own leads. Shorter than
    /// [`Self::child`] for a node with many.
    pub(super) fn child_on(&self, parent: NodeId, slot: u16, page: Ipa) -> Option<NodeId> {
        let mut on_page = core::iter::successors(self.first_of(page), |id| self.next_of(*id));
        on_page.find(|id| {
            self.peek(*id)
                .is_some_and(|node| node.parent == Some(parent) && node.slot == slot)
        })
    }

    /// A node without children at or below `id`.
    pub(super) fn deepest(&self, mut id: NodeId) -> NodeId {
        while let Some(child) = self.peek(id).and_then(|node| node.first_child) {
            id = child;
        }
        id
    }

    /// Whether a node was taken out of the tree, or is below one that was.
    pub(super) fn is_detached(&self, mut id: NodeId) -> bool {
        // What is in the tree hangs from a root, which is of its page.
        loop {
            match self.peek(id) {
                Some(&Node {
                    parent: Some(parent),
                    ..
                }) => id = parent,
                Some(top) => return top.blind,
                None => return true,
            }
        }
    }

    /// Takes a node out of the tree, with all below it, and out of the chain of its page.
    pub(super) fn detach(&mut self, id: NodeId) {
        self.blind(id);
        let node = self.get(id);
        if let Some(parent) = node.parent {
            self.unlink_child(parent, &node);
        }
        let others = self.detached.replace(id);
        if let Some(node) = self.get_mut(id) {
            (node.parent, node.next_sibling, node.prev_sibling) = (None, others, None);
        }
        self.removed = self.removed.wrapping_add(1);
    }

    /// Takes a node out of the chain of its page.
    pub(super) fn blind(&mut self, id: NodeId) {
        let node = self.get(id);
        if node.blind {
            return;
        }
        self.unlink_chain(Self::bucket(node.guest), id, node.next_in_bucket);
        if let Some(node) = self.get_mut(id) {
            (node.blind, node.next_in_bucket) = (true, None);
        }
    }

    /// Whether anything that was taken out of the tree is there still.
    pub(super) const fn has_detached(&self) -> bool {
        self.detached.is_some()
    }

    /// Whether that is one node.
    pub(super) fn has_detached_one(&self) -> bool {
        let top = self.detached.and_then(|id| self.peek(id));
        top.is_some_and(|top| top.first_child.is_none() && top.next_sibling.is_none())
    }

    /// Removes a node that was taken out of the tree, what is below others first; returns what it was.
    pub(super) fn take_detached(&mut self) -> Option<Node> {
        let top = self.detached?;
        let id = self.deepest(top);
        let node = self.get(id);
        if id == top {
            self.detached = node.next_sibling;
        }
        self.remove(id);
        Some(node)
    }

    /// Adds a node, below its parent and to the chain of its page.
    pub(super) fn insert(&mut self, mut node: Node) -> Option<NodeId> {
        let id = self.take()?;
        let bucket = Self::bucket(node.guest);
        node.next_in_bucket = self.buckets.get(bucket).copied().flatten();
        if let Some(parent) = node.parent.and_then(|parent| self.get_mut(parent)) {
            node.next_sibling = parent.first_child.replace(id);
        }
        if let Some(next) = node.next_sibling.and_then(|next| self.get_mut(next)) {
            next.prev_sibling = Some(id);
        }
        *self.get_mut(id)? = node;
        if let Some(head) = self.buckets.get_mut(bucket) {
            *head = Some(id);
        }
        self.used = self.used.saturating_add(1);
        Some(id)
    }

    fn take(&mut self) -> Option<NodeId> {
        if let Some(id) = self.free {
            self.free = self.get(id).next_in_bucket;
            return Some(id);
        }
        let id = NodeId(self.fresh);
        if usize::from(id.0) >= NODES {
            return None;
        }
        self.fresh = self.fresh.saturating_add(1);
        Some(id)
    }

    /// Removes a node that has no children.
    fn remove(&mut self, id: NodeId) {
        self.blind(id);
        let node = self.get(id);
        debug_assert!(
            node.used && node.first_child.is_none(),
            "a leaf of the tree"
        );
        if let Some(parent) = node.parent {
            self.unlink_child(parent, &node);
        }
        let free = self.free;
        if let Some(slot) = self.get_mut(id) {
            *slot = Node {
                next_in_bucket: free,
                ..Node::FREE
            };
            self.free = Some(id);
        }
        self.used = self.used.saturating_sub(1);
    }

    fn unlink_child(&mut self, parent: NodeId, node: &Node) {
        let (prev, next) = (node.prev_sibling, node.next_sibling);
        if let Some(next) = next.and_then(|next| self.get_mut(next)) {
            next.prev_sibling = prev;
        }
        match prev {
            Some(prev) => {
                if let Some(prev) = self.get_mut(prev) {
                    prev.next_sibling = next;
                }
            }
            None => {
                if let Some(parent) = self.get_mut(parent) {
                    parent.first_child = next;
                }
            }
        }
    }

    fn unlink_chain(&mut self, bucket: usize, id: NodeId, next: Option<NodeId>) {
        let mut at = self.buckets.get(bucket).copied().flatten();
        if at == Some(id) {
            if let Some(head) = self.buckets.get_mut(bucket) {
                *head = next;
            }
            return;
        }
        while let Some(here) = at {
            let after = self.get(here).next_in_bucket;
            if after == Some(id) {
                if let Some(here) = self.get_mut(here) {
                    here.next_in_bucket = next;
                }
                return;
            }
            at = after;
        }
    }
}
