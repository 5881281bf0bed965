//! Models that translation is held against, with TLBs that keep whatever they were ever allowed to.
//!
//! [`stage2`] models the walkers and TLBs of a machine under a stage 2 that is being edited. The
//! property tests are in `tests/`. [`compound`] holds the compound page table against a machine that
//! runs on the guest's own tables.
#![forbid(unsafe_code)]
#![expect(
    clippy::indexing_slicing,
    reason = "a model for tests: its panic is a finding"
)]

pub mod compound;
pub mod stage2;

/// Cases for a property test: `PROPTEST_CASES`, or a quick default.
#[must_use]
pub fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(default)
}
