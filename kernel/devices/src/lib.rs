//! Devices of a board that guests are given.
//!
//! [`BoardTree`] reads the board's device tree; [`check`] says which wishes of the guests cannot be
//! granted, and why. The host tool asks it before anything is built, the manager asks again with the tree
//! of the board that it runs on, and nothing of the host's answer is trusted. [`node::copy`] makes the
//! node of a device for a guest's tree.
//!
//! A guest sees a device at the address that it has on the board (IPA = PA). Stage 2 maps pages, so
//! whoever gets a device gets all that lies on its pages.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
mod device;
mod dma;
#[cfg(any(test, feature = "example"))]
pub mod example;
#[cfg(any(test, feature = "example"))]
pub mod example_rpi4;
pub mod node;
mod parts;
mod problem;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_rpi4;
mod tree;

pub use check::{Finding, Wishes, check, highest_free};
pub use device::{Clock, Device, Interrupt, merged};
pub use dma::DmaWindow;
pub use problem::Problem;
pub use tree::BoardTree;

/// Bytes of a page: what one guest or another has, never both.
pub const PAGE_BYTES: u64 = 4096;

/// A range of physical addresses, not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Range {
    /// First byte behind it.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.base.saturating_add(self.bytes)
    }

    /// Whether both have a byte in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.base < other.end() && other.base < self.end()
    }

    /// Whether `other` lies in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.base <= other.base && other.end() <= self.end()
    }

    /// What both have in common; it may be empty.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        let base = self.base.max(other.base);
        let end = self.end().min(other.end());
        Self {
            base,
            bytes: end.saturating_sub(base),
        }
    }

    /// The whole pages around it.
    #[must_use]
    pub fn pages(self) -> Self {
        let base = self.base & !(PAGE_BYTES - 1);
        let end = self
            .end()
            .checked_next_multiple_of(PAGE_BYTES)
            .unwrap_or(!(PAGE_BYTES - 1));
        Self {
            base,
            bytes: end.saturating_sub(base),
        }
    }
}
