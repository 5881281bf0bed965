//! A VM of the fake EL2.

use std::collections::{BTreeMap, VecDeque};

use penumbra_abi::{Backing, VmStatus};

use super::paging::FakePaging;
use crate::hypervisor::{Grant, RamRequest};

/// A VM of the fake.
#[derive(Debug)]
pub(crate) struct FakeVm {
    pub(crate) status: VmStatus,
    pub(crate) ram: Option<RamRequest>,
    pub(super) mapped: u64,
    pub(super) pins: BTreeMap<u64, u64>,
    pub(super) vcpus: u64,
    pub(super) devices: u32,
    pub(crate) grants: Vec<(Grant, u64)>,
    pub(super) ending: u32,
    pub(super) dying: u32,
    pub(super) zeroing: bool,
    /// What was written through grants: IPA and bytes.
    pub(crate) written: Vec<(u64, Vec<u8>)>,
    pub(crate) entry: Option<(u64, u64)>,
    pub(crate) output: VecDeque<u8>,
    pub(crate) input: Vec<u8>,
    pub(crate) input_room: usize,
    pub(super) unseen: bool,
    pub(crate) paging: FakePaging,
}

impl FakeVm {
    pub(crate) fn backing(&self) -> Option<Backing> {
        self.ram.map(|ram| ram.backing)
    }

    pub(crate) fn pin(&self, vcpu: u64) -> Option<u64> {
        self.pins.get(&vcpu).copied()
    }
}
