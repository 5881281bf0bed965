//! A VM of the fake EL2.

use std::collections::{BTreeMap, VecDeque};

use penumbra_abi::{
    Backing, CrashCause, Error, Events, StopReason, TrapRecord, TrapsStatus, VmState, VmStatus,
    WatchdogStatus,
};

use super::paging::FakePaging;
use super::{Fake, PIECE_BYTES};
use crate::hypervisor::{Grant, RamRequest, Result, VmId};

/// A VM of the fake.
#[derive(Debug)]
pub(crate) struct FakeVm {
    pub(crate) status: VmStatus,
    pub(crate) ram: Option<RamRequest>,
    pub(super) mapped: u64,
    /// Its memory lies in blocks although it is thin.
    pub(crate) whole: bool,
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
    /// Pages of devices, physical interrupts (INTID, physical, edge) and writes to registers.
    pub(crate) pages: Vec<(u64, u64)>,
    pub(crate) spis: Vec<(u64, u64, bool)>,
    pub(crate) writes: Vec<(u64, u32)>,
    pub(crate) watchdog: WatchdogStatus,
    /// What it was refused; one more was forgotten.
    pub(crate) refused: Vec<TrapRecord>,
}

impl FakeVm {
    /// As `VmCreate` leaves it.
    pub(super) fn new(vcpus: u64, tag: u64) -> Self {
        let status = VmStatus {
            state: VmState::Created,
            reason: StopReason::None,
            cause: CrashCause::None,
            vcpu: 0,
            wants_stock: false,
            stock_frames: 0,
            esr: 0,
            far: 0,
            ipa: u64::MAX,
            held_bytes: 0,
            tag,
        };
        Self {
            status,
            ram: None,
            mapped: 0,
            whole: false,
            pins: BTreeMap::new(),
            vcpus,
            devices: 0,
            grants: Vec::new(),
            ending: 0,
            dying: 0,
            zeroing: false,
            written: Vec::new(),
            entry: None,
            output: VecDeque::new(),
            input: Vec::new(),
            input_room: 1000,
            unseen: false,
            paging: FakePaging::default(),
            pages: Vec::new(),
            spis: Vec::new(),
            writes: Vec::new(),
            watchdog: WatchdogStatus::default(),
            refused: Vec::new(),
        }
    }

    pub(crate) fn backing(&self) -> Option<Backing> {
        self.ram.map(|ram| ram.backing)
    }

    pub(crate) fn pin(&self, vcpu: u64) -> Option<u64> {
        self.pins.get(&vcpu).copied()
    }
}

impl Fake {
    pub(super) fn begin_grant(&mut self, vm: VmId, grant: &Grant) -> Result<u64> {
        self.note("GrantBegin", vm.0)?;
        let fake = self.in_state(vm, VmState::Created, "GrantBegin")?;
        let inside = fake.ram.is_some_and(|ram| {
            fake.mapped == ram.bytes
                && grant.ipa >= ram.ipa
                && grant.ipa + grant.bytes <= ram.ipa + ram.bytes
        });
        if !inside || fake.ending != 0 {
            return self.refuse("GrantBegin: not its memory", Error::NotMapped);
        }
        let known = fake.grants.iter_mut().find(|(known, _)| known == grant);
        let done = match known {
            Some((_, done)) => {
                *done = (*done + PIECE_BYTES).min(grant.bytes);
                *done
            }
            None => {
                fake.grants.push((*grant, 0));
                0
            }
        };
        Ok(done)
    }

    pub(super) fn end_grant(&mut self, vm: VmId) -> Result<bool> {
        self.note("GrantEnd", vm.0)?;
        let fake = self.in_state(vm, VmState::Created, "GrantEnd")?;
        fake.ending += 1;
        if fake.ending < 3 {
            return Ok(false);
        }
        fake.ending = 0;
        fake.grants.clear();
        Ok(true)
    }

    /// A change of state that a person may ask for at any time.
    pub(super) fn change(&mut self, vm: VmId, from: VmState, to: VmState) -> Result<()> {
        let fake = self.vms.get_mut(&vm.0).ok_or(Error::NoSuchObject)?;
        if fake.status.state != from {
            return Err(Error::BadState);
        }
        fake.status.state = to;
        Ok(())
    }

    pub(super) fn refused_by(&self, vm: VmId) -> Result<TrapsStatus> {
        let fake = self.vms.get(&vm.0).ok_or(Error::NoSuchObject)?;
        let records = u64::try_from(fake.refused.len()).unwrap();
        let all: u64 = fake.refused.iter().map(|record| record.count).sum();
        Ok(TrapsStatus {
            records,
            all: all + records.min(1),
            forgotten: records.min(1),
        })
    }

    pub(super) fn refused_record(&self, vm: VmId, number: u64) -> Result<TrapRecord> {
        let fake = self.vms.get(&vm.0).ok_or(Error::NoSuchObject)?;
        let record = fake.refused.get(usize::try_from(number).unwrap());
        record.copied().ok_or(Error::NoSuchObject)
    }

    pub(crate) fn events(&self) -> Events {
        let mut events = Events::default();
        if !self.keys.is_empty() {
            events = events.with(Events::INPUT);
        }
        if self.vms.values().any(|vm| !vm.output.is_empty()) {
            events = events.with(Events::OUTPUT);
        }
        if self
            .vms
            .values()
            .any(|vm| vm.unseen || vm.status.wants_stock)
        {
            events = events.with(Events::STATUS);
        }
        events
    }

    /// Stops a running VM as its guest would.
    pub(crate) fn stop(&mut self, number: u64, reason: StopReason, cause: CrashCause) {
        let vm = self.vm(number);
        assert_eq!(vm.status.state, VmState::Running);
        vm.status = VmStatus {
            state: VmState::Stopped,
            reason,
            cause,
            ..vm.status
        };
        vm.unseen = true;
    }
}
