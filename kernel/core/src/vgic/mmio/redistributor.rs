//! The redistributors' registers (IHI 0069 H, 12.11 "The GIC Redistributor register descriptions").
//! Each vCPU has two frames of 64 KiB: control, then SGIs and PPIs.

use core::sync::atomic::Ordering::SeqCst;

use penumbra_abi::{GicVersion, MAX_VCPUS_PER_VM};

use super::ask::State;
use super::distributor::{IIDR_VALUE, id_register};
use super::{Bank, MmioRead, lane, word_from};
use crate::vgic::{CpuInterface, Hardware, VcpuSet, Vgic};

/// Where the frame of SGIs and PPIs begins.
const SGI_FRAME: u64 = 0x1_0000;
const IIDR: u64 = 0x4;
const TYPER: u64 = 0x8;
const TYPER_HIGH: u64 = 0xc;
const WAKER: u64 = 0x14;
const TYPER_LAST: u64 = 1 << 4;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;

impl Vgic {
    pub(super) fn read_redistributor<M: Hardware + ?Sized>(
        &self,
        vcpu: usize,
        interface: &mut CpuInterface,
        machine: &mut M,
        (offset, size): (u64, u32),
    ) -> MmioRead {
        let Some((owner, offset)) = self.redistributor(offset) else {
            return MmioRead::Value(0);
        };
        let Some(offset) = offset.checked_sub(SGI_FRAME) else {
            return MmioRead::Value(self.read_control_frame(owner, offset, size));
        };
        if let Some((bank, word)) = Bank::at(offset) {
            if word != 0 || size != 4 {
                return MmioRead::Value(0);
            }
            let state = match bank {
                Bank::SetPending | Bank::ClearPending => State::Pending,
                Bank::SetActive | Bank::ClearActive => State::Active,
                _ => return MmioRead::Value(u64::from(self.read_private_bank(owner, bank))),
            };
            let key = 1 << 16 | (owner as u64) << 12 | u64::from(bank as u8) << 8;
            return self.read_private_state(vcpu, owner, interface, machine, (state, key));
        }
        let (mask, shift) = lane(offset, size);
        let value = match offset {
            0x400..0x420 => self.read_private_priorities(owner, word_from(offset, 0x400)),
            0xc00..0xc08 if size == 4 => self.read_private_config(owner, word_from(offset, 0xc00)),
            _ => 0,
        };
        MmioRead::Value(u64::from((value & mask) >> shift))
    }

    fn read_control_frame(&self, owner: usize, offset: u64, size: u32) -> u64 {
        let typer = self.redistributor_type(owner);
        match (offset, size) {
            (TYPER, 8) => typer,
            (TYPER, 4) => typer & 0xffff_ffff,
            (TYPER_HIGH, 4) => typer >> 32,
            (IIDR, 4) => u64::from(IIDR_VALUE),
            (WAKER, 4) => {
                let asleep = self
                    .private
                    .get(owner)
                    .is_some_and(|irqs| irqs.asleep.load(SeqCst) != 0);
                let bits = WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP;
                if asleep { u64::from(bits) } else { 0 }
            }
            (0xffd0..0x1_0000, 4) => u64::from(id_register([0x93, 0xb4, 0x3b, 0x44], offset)),
            _ => 0,
        }
    }

    /// GICR_TYPER: affinity, processor number, whether it is the last; no LPIs.
    fn redistributor_type(&self, owner: usize) -> u64 {
        let number = owner as u64 & 0xff;
        let above = self
            .vcpu_mask
            .load(SeqCst)
            .checked_shr((owner as u32 & 31) + 1)
            .unwrap_or(0);
        let last = if above == 0 { TYPER_LAST } else { 0 };
        number << 32 | number << 8 | last
    }

    pub(super) fn write_redistributor(&self, (offset, size): (u64, u32), value: u64) -> VcpuSet {
        let Some((owner, offset)) = self.redistributor(offset) else {
            return VcpuSet::EMPTY;
        };
        let (mask, shift) = lane(offset, size);
        let value = ((value & 0xffff_ffff) as u32) << shift & mask;
        let Some(offset) = offset.checked_sub(SGI_FRAME) else {
            if let (WAKER, 4, Some(irqs)) = (offset, size, self.private.get(owner)) {
                // ChildrenAsleep follows ProcessorSleep at once: there is nothing to drain.
                irqs.asleep
                    .store(u32::from(value & WAKER_PROCESSOR_SLEEP != 0), SeqCst);
            }
            return VcpuSet::EMPTY;
        };
        if let Some((bank, word)) = Bank::at(offset) {
            if word != 0 || size != 4 {
                return VcpuSet::EMPTY;
            }
            return self.write_private_bank(owner, bank, value);
        }
        match offset {
            0x400..0x420 => {
                self.write_private_priorities(owner, word_from(offset, 0x400), mask, value)
            }
            0xc00..0xc08 if size == 4 => {
                self.write_private_config(owner, word_from(offset, 0xc00), value)
            }
            _ => VcpuSet::EMPTY,
        }
    }

    /// The vCPU whose redistributor is at `offset`, and the offset in its frames.
    fn redistributor(&self, offset: u64) -> Option<(usize, u64)> {
        let owner = usize::try_from(offset >> 17).ok()?;
        let exists = owner < MAX_VCPUS_PER_VM && self.vcpu_mask.load(SeqCst) >> owner & 1 != 0;
        (exists && self.version() == GicVersion::V3).then_some((owner, offset & 0x1_ffff))
    }
}
