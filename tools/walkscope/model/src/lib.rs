//! What a page walk costs: a model of the MMU of named Arm cores, driven by a stream of accesses.
//!
//! - [`Core`]: the structures of a core as parameters, each with its source, the presets, and what a sweep
//!   makes of them.
//! - [`Regime`]: the translation registers of EL1&0; [`walk`] follows the tables in a [`Memory`] and
//!   returns the [`Path`] that hardware would take, both stages, without any cache.
//! - [`Mmu`]: micro-TLBs, main TLB, walk cache and IPA cache of one core. It prices a path: how many
//!   descriptors hardware reads that its caches do not absorb.
//! - [`Invalidation`]: TLBI instructions, decoded.
//! - [`Scope`]: many models side by side on one stream, so that their figures are paired; [`Counts`]
//!   by partition and region, [`Tally`] by [`AddressSpace`]. [`BlockTally`] by 2 MiB of IPA, and the [`Shape`] of each.
//!
//! Only addresses, sizes and tags are modelled; permissions are not, because an access that faults
//! never reaches the model. Limits: `docs/walkscope.md`. Pure: no I/O, no `unsafe`.
#![forbid(unsafe_code)]

mod blocks;
mod cache;
mod core;
mod counts;
mod mmu;
mod path;
mod regime;
mod scope;
mod sweep;
#[cfg(test)]
mod tests;
mod tlbi;

pub use crate::core::{Core, Parameter, WalkCacheHolds};
pub use blocks::{BlockKey, BlockTally, Shape, shape};
pub use cache::{Entry, Tag, TagCache};
pub use counts::{Counts, REGIONS, Region, Tally};
pub use mmu::{Miss, Mmu, Mode, Use};
pub use path::{Leaf, Memory, Path, Stage2Step, Stage2Walk, WalkFault, walk, walk_stage2};
pub use regime::{AddressSpace, Regime, Space};
pub use scope::{Access, Column, Scope};
pub use sweep::Change;
pub use tlbi::{Invalidation, Operation, Reach};
