//! Translation tables of a VM: its stage 2, and its own stage 1 as EL2 sees it.
//!
//! Everything here is pure: memory for tables comes through [`TableMemory`], guest memory through
//! [`GuestMemory`], TLB maintenance goes out through [`TlbSink`] or comes back as [`TlbWork`].
//!
//! # Stage 2
//! [`Stage2::new`] takes a zeroed root of [`ROOT_BYTES`]. Then, under the VM's lock:
//!
//! | call | does | TLB |
//! |---|---|---|
//! | [`Stage2::map`], [`Stage2::prepare_map`] + [`MapPlan::commit`] | maps a range with the largest leaves that fit | none |
//! | [`Stage2::set_page`] | maps one page where nothing is | none |
//! | [`Stage2::protect`], [`Stage2::unmap`] | changes or removes a range, splitting what sticks out | returns [`TlbWork`] |
//! | [`Stage2::split`], [`Stage2::merge`] | changes the size of leaves, break-before-make inside | done through [`TlbSink`] |
//! | [`Stage2::reserve_region`], [`Stage2::touch`], [`Stage2::promote`], [`Stage2::untouch`], [`Stage2::vacate_region`] | thin memory | see there |
//! | [`Stage2::lookup`], [`Stage2::next_leaf`], [`Stage2::counts`] | reads | none |
//! | [`Stage2::release`], [`Stage2::teardown`] | frees tables against [`Flushed`] | needs a flush |
//!
//! [`TlbWork`] says by [`TlbWork::scope`] what to invalidate; `TlbSink::flush` does it and returns
//! `work.completed()`. While an edit breaks a leaf to remake it, another vCPU may fault on it: its
//! handler takes the VM's lock, finds the leaf mapped ([`Touch::Present`], `AlreadyMapped`, or
//! [`Stage2::lookup`] says so) and resumes the guest.
//!
//! # Compound table
//! [`Compound`] mirrors a guest's stage-1 tables where that pays and leaves the rest nested:
//!
//! | call | does | others |
//! |---|---|---|
//! | [`Compound::plant`], [`Compound::revive`] | a root of ours, and the IPA for TTBRx | run / parked |
//! | [`Compound::shadow`] | mirrors a table, or lets one leaf stand for it | parked |
//! | [`Compound::store`] | a guest's store to a watched page, mirrored | run |
//! | [`Compound::soften`], [`Compound::demote_page`], [`Compound::evict`], [`Compound::drop_space`] | gives the guest's tables their place back | parked |
//! | [`Compound::give_back`], [`Compound::wind_up`] | gives back what that left, piece by piece | run |
//! | [`Compound::store_known`], [`Compound::remember`] | a guest's store through a mapping that is known | run |
//! | [`Compound::relayout`], [`Compound::relayout_step`], [`Compound::relayout_finish`] | moves frames so that one leaf can do | run, run, parked |
//! | [`Compound::bring_home`], [`Compound::settle`] | undoes moves and splits | run |
//! | [`Compound::demote`], [`Compound::nest`] | gives up by VA, or all there is | parked |
//! | [`Compound::raise`] | one 1 GiB leaf for a level-2 table | parked |
//! | [`Compound::sample`], [`Compound::arm_samples`], [`Compound::access_fault`], [`Compound::end_samples`] | samples walks and writes | run |
//! | [`Compound::survey`], [`Compound::audit`] | reads | run / parked |
//!
//! *Parked* means that the caller shows a [`Parked`]. No page may be taken from a guest while the VM has spaces: nobody
//! does, and there is no call for it. [`Compound::clear`] is for a VM that is gone.
//!
//! # Guest stage 1
//! [`Stage1Regs::translate`] answers what hardware would for an access; [`Stage1Regs::walk`] finds the
//! leaf and the descriptors that led there.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod compound;
#[cfg(test)]
mod fake;
mod memory;
mod stage1;
mod stage2;
mod thin;
mod tlb;

pub use compound::{
    ALIAS_BASE, Access, Accessed, Compound, Counters, Donor, Form, FrameMover, HomeStep,
    MAX_SAMPLES, Noted, OWN_FRAMES, POOL_BASE, Parked, Refusal, Region, Relayout, Sample,
    SampleKind, ShadowError, SpaceId, SpaceView, Stored, StoredBy, SurveyStep, WINDOW_BIT,
    WalkRead,
};
pub use memory::TableMemory;
pub use stage1::{
    AccessKind, GuestMemory, Permissions, Privilege, Stage1Fault, Stage1Leaf, Stage1Regs,
    Stage1Translation, WalkPath,
};
pub use stage2::{
    IPA_SPACE_BYTES, Leaf, LeafCounts, MapPlan, Mapping, Miss, ROOT_BYTES, Stage2, Stage2Change,
    Stage2Error,
};
pub use thin::{REGION_BYTES, Touch};
pub use tlb::{Flushed, TlbScope, TlbSink, TlbWork};
