//! The fake's side of the machine traits.

use std::collections::VecDeque;

use penumbra_abi::Call;
use penumbra_trap::controls::mdcr;
use penumbra_vmsa::{CpuIndex, Half, Ipa, PAGE_SIZE, Pa};

use super::{Fake, RAM, RAM_BYTES};
use crate::machine::*;
use crate::system::System;
use crate::vcpu::{Deferred, Vcpu, VcpuId};
use crate::{exit, hypercall};

impl Machine for Fake {
    fn run(&mut self, vcpu: &mut Vcpu) -> ExitKind {
        if self
            .shared
            .lock()
            .unwrap()
            .blocked
            .remove(&vcpu.id.number())
        {
            self.record(vcpu);
        }
        loop {
            let Some((kind, over)) = self.until_exit(vcpu) else {
                return ExitKind::Irq;
            };
            let first = match kind {
                ExitKind::Sync => exit::first_synchronous(vcpu, self, self.syndrome().esr),
                ExitKind::Irq => exit::first_interrupt(vcpu, self),
                ExitKind::Serror => exit::Next::Fast,
            };
            let back = match first {
                exit::Next::Fast => exit::fast(vcpu, self, kind),
                exit::Next::Enter => true,
                exit::Next::RunLoop => false,
            };
            if !back && matches!(vcpu.deferred, Deferred::Block(_)) {
                // What it waited for is in its registers when it goes on.
                self.shared
                    .lock()
                    .unwrap()
                    .blocked
                    .extend(over.then(|| vcpu.id.number()));
            } else if over {
                self.record(vcpu);
            }
            if !back {
                return kind;
            }
        }
    }

    fn answer(
        &mut self,
        system: &'static System,
        call: Call,
        arguments: hypercall::Arguments,
    ) -> hypercall::Reply {
        hypercall::answer(system, self, call, arguments)
    }
}

impl GuestRegisters for Fake {
    fn guest(&self, register: GuestRegister) -> u64 {
        let frame = &self.sysregs;
        match register {
            GuestRegister::Pc => frame.pc,
            GuestRegister::Pstate => frame.pstate,
            GuestRegister::VbarEl1 => frame.vbar_el1,
            GuestRegister::EsrEl1 => frame.esr_el1,
            GuestRegister::ElrEl1 => frame.elr_el1,
            GuestRegister::SctlrEl1 => frame.sctlr_el1,
            GuestRegister::Ttbr0El1 => frame.ttbr0_el1,
            GuestRegister::Ttbr1El1 => frame.ttbr1_el1,
            GuestRegister::TcrEl1 => frame.tcr_el1,
            GuestRegister::MairEl1 => frame.mair_el1,
            GuestRegister::CntvCtlEl0 => frame.cntv_ctl_el0,
            GuestRegister::CntvCvalEl0 => frame.cntv_cval_el0,
            _ => 0,
        }
    }
    fn set_guest(&mut self, register: GuestRegister, value: u64) {
        let frame = &mut self.sysregs;
        match register {
            GuestRegister::Pc => frame.pc = value,
            GuestRegister::Pstate => frame.pstate = value,
            GuestRegister::VbarEl1 => frame.vbar_el1 = value,
            GuestRegister::EsrEl1 => frame.esr_el1 = value,
            GuestRegister::ElrEl1 => frame.elr_el1 = value,
            GuestRegister::FarEl1 => frame.far_el1 = value,
            GuestRegister::SpsrEl1 => frame.spsr_el1 = value,
            GuestRegister::SctlrEl1 => frame.sctlr_el1 = value,
            GuestRegister::Ttbr0El1 => frame.ttbr0_el1 = value,
            GuestRegister::Ttbr1El1 => frame.ttbr1_el1 = value,
            GuestRegister::TcrEl1 => frame.tcr_el1 = value,
            GuestRegister::MairEl1 => frame.mair_el1 = value,
            GuestRegister::AmairEl1 => frame.amair_el1 = value,
            GuestRegister::Afsr0El1 => frame.afsr0_el1 = value,
            GuestRegister::Afsr1El1 => frame.afsr1_el1 = value,
            GuestRegister::ContextidrEl1 => frame.contextidr_el1 = value,
            _ => {}
        }
    }
    fn syndrome(&self) -> Syndrome {
        self.syndrome
    }
    fn id_register(&self, crm: u8, op2: u8) -> u64 {
        match (crm, op2) {
            (4, 0) => 0x1122,
            (7, 0) => self.shared.lock().unwrap().mmfr0,
            _ => 0,
        }
    }
}

impl Residency for Fake {
    fn save_sysregs(&mut self, frame: &mut SysregFrame) {
        *frame = self.sysregs;
        let mut shared = self.shared.lock().unwrap();
        let (victim, system) = (shared.ambush.take(), shared.system);
        drop(shared);
        if let (Some(vm), Some(system)) = (victim, system) {
            for call in [Call::VmStop, Call::VmDestroy] {
                hypercall::answer(system, self, call, [vm, 0, 0, 0, 0, 0, 0]).unwrap();
            }
        }
    }
    fn load_sysregs(&mut self, frame: &SysregFrame, controls: &Controls) {
        let system = self.shared.lock().unwrap().system.unwrap();
        let index = usize::try_from(controls.vmpidr_el2 & 0xff).unwrap();
        let told = system.vms().any(|(id, vm)| {
            let bit = VcpuId::new(id, index).map_or(0, VcpuId::bit);
            vm.vttbr() == controls.vttbr_el2 && vm.is_running() && system.held() & bit != 0
        });
        assert!(told, "whoever destroys the VM does not know");
        self.sysregs = *frame;
        self.controls = *controls;
    }
    fn set_controls(&mut self, controls: &Controls) {
        self.controls = *controls;
    }
    fn flush_guest_translations(&mut self) {
        self.local_flushes += 1;
    }
    fn set_root(&mut self, half: Half, value: u64) {
        match half {
            Half::Low => self.sysregs.ttbr0_el1 = value,
            Half::High => self.sysregs.ttbr1_el1 = value,
        }
        self.local_flushes += 1;
    }
    fn flush_asid(&mut self, asid: u64) {
        self.asid_flushes.push(asid);
    }
    fn save_fp(&mut self, frame: &mut FpFrame) {
        frame.v[0][0] = self.fp;
    }
    fn load_fp(&mut self, frame: &FpFrame) {
        self.fp = frame.v[0][0];
    }
    fn save_debug(&mut self, _: &mut DebugFrame) {}
    fn load_debug(&mut self, _: &DebugFrame) {
        assert!(self.controls.mdcr_el2 & mdcr::TDE == 0);
    }
}

impl VirtualInterface for Fake {
    fn list_registers(&self) -> usize {
        self.lr.len()
    }
    fn list_register(&self, n: usize) -> u64 {
        self.lr[n]
    }
    fn set_list_register(&mut self, n: usize, value: u64) {
        self.lr[n] = value;
    }
    fn empty_list_registers(&self) -> u32 {
        (0..4)
            .filter(|n| self.lr[*n] >> 62 == 0)
            .fold(0, |set, n| set | 1 << n)
    }
    fn eoi_list_registers(&self) -> u32 {
        0
    }
    fn set_underflow_interrupt(&mut self, _: bool) {}
    fn set_no_pending_interrupt(&mut self, _: bool) {}
    fn save_virtual_interface(&mut self, _: &mut VirtualInterfaceFrame) {}
    fn load_virtual_interface(&mut self, _: &VirtualInterfaceFrame) {
        assert_eq!(
            self.empty_list_registers(),
            0xf,
            "another vCPU's interrupts"
        );
    }
}

impl PhysicalInterrupts for Fake {
    fn acknowledge(&mut self) -> u32 {
        let mut shared = self.shared.lock().unwrap();
        if self.deadline.is_some_and(|at| shared.now >= at) {
            self.deadlines += 1;
            return intid::HYP_TIMER;
        }
        shared
            .pending
            .get_mut(&self.cpu.get())
            .and_then(VecDeque::pop_front)
            .unwrap_or(1023)
    }
    fn drop_priority(&mut self, _: u32) {}
    fn deactivate(&mut self, intid: u32) {
        self.shared.lock().unwrap().deactivated.push(intid);
    }
    fn set_ppi_active(&mut self, _: u32, _: bool) {}
    fn kick(&mut self, cpu: CpuIndex) {
        let mut shared = self.shared.lock().unwrap();
        let pending = shared.pending.entry(cpu.get()).or_default();
        // Pending is pending, however often it was sent.
        if !pending.contains(&intid::KICK) {
            pending.push_back(intid::KICK);
        }
    }
    fn set_spi_enabled(&mut self, _: u32, _: bool) {}
    fn start_spi(&mut self, intid: u32, cpu: CpuIndex, edge: bool) {
        let mut shared = self.shared.lock().unwrap();
        shared.spis.insert(intid, (cpu.get(), edge));
    }
    fn stop_spi(&mut self, intid: u32) {
        self.shared.lock().unwrap().spis.remove(&intid);
    }
}

impl Core for Fake {
    fn cpu(&self) -> CpuIndex {
        self.cpu
    }
    fn event_counters(&self) -> u64 {
        0
    }
    fn counter(&self) -> u64 {
        self.shared.lock().unwrap().now
    }
    fn set_deadline(&mut self, deadline: Option<u64>) {
        self.deadline = deadline;
    }
    fn idle(&mut self) {
        // Time passes until the timer of this core, or a little for the sake of others.
        let mut shared = self.shared.lock().unwrap();
        shared.now += 10;
    }
    fn interrupt_waits(&self) -> bool {
        !self.shared.lock().unwrap().quiet
    }
    fn relax(&self) {
        // The other cores stand between two steps: they could answer who wants to hold a VM.
        let mut shared = self.shared.lock().unwrap();
        shared.now += 1;
        shared.relaxed += 1;
        let system = shared.system.filter(|_| !shared.deaf);
        drop(shared);
        for core in (0..8).filter_map(|n| system?.core(CpuIndex::new(n, 8)?)) {
            core.answer();
        }
    }
}

impl Translations for Fake {
    fn load_descriptor(&self, entry: Pa) -> u64 {
        self.shared
            .lock()
            .unwrap()
            .tables
            .get(&entry.raw())
            .copied()
            .unwrap_or(0)
    }
    fn descriptor_differences(&self, first: Pa, count: u64, wanted: u64, step: u64) -> u64 {
        (0..count).fold(0, |differ, index| {
            let raw = self.load_descriptor(Pa::truncated(first.raw() + 8 * index));
            differ | raw ^ wanted.wrapping_add(index * step)
        })
    }

    fn equal_descriptors(&self, first: Pa, wanted: u64, mask: u64) -> u64 {
        (0..64).fold(0, |found, index| {
            let raw = self.load_descriptor(Pa::truncated(first.raw() + 8 * index));
            found | u64::from((raw ^ wanted) & mask == 0) << index
        })
    }

    fn store_descriptor(&self, entry: Pa, raw: u64) {
        let mut shared = self.shared.lock().unwrap();
        assert!(
            shared.pages.contains(&(entry.raw() / PAGE_SIZE)),
            "a table in a free frame"
        );
        shared.table_pages.insert(entry.raw() / PAGE_SIZE);
        shared.tables.insert(entry.raw(), raw);
    }
    fn fill_descriptors(&self, first: Pa, count: u64, value: u64, step: u64) {
        for index in 0..count {
            let at = Pa::truncated(first.raw() + 8 * index);
            self.store_descriptor(at, value + index * step);
        }
    }
    fn complete_accesses(&self) {}
    fn publish_descriptors(&self) {}
    fn invalidate_leaves(&self, _: u64, start: Ipa, end: Ipa, _: u64) {
        let mut shared = self.shared.lock().unwrap();
        shared.flushes += 1;
        let gone = start.raw()..end.raw();
        let held = shared.held_read_only;
        shared.held_read_only = held.filter(|(page, _)| !gone.contains(page));
    }
    fn invalidate_vm(&self, _: u64) {
        let mut shared = self.shared.lock().unwrap();
        shared.flushes += 1;
        shared.held_read_only = None;
    }
}

impl BoardMemory for Fake {
    fn allocate(&self, bytes: u64) -> Option<Pa> {
        let mut shared = self.shared.lock().unwrap();
        let pages = bytes / PAGE_SIZE;
        let base = (RAM..RAM + RAM_BYTES)
            .step_by(usize::try_from(bytes).unwrap())
            .find(|at| (0..pages).all(|n| !shared.pages.contains(&(at / PAGE_SIZE + n))))?;
        for page in base / PAGE_SIZE..base / PAGE_SIZE + pages {
            shared.pages.insert(page);
            shared.dirty.insert(page);
        }
        Some(Pa::truncated(base))
    }
    fn allocate_at(&self, base: Pa, bytes: u64) -> bool {
        let mut shared = self.shared.lock().unwrap();
        let pages = base.raw() / PAGE_SIZE..(base.raw() + bytes) / PAGE_SIZE;
        let inside = base.raw() >= RAM && base.raw() + bytes <= RAM + RAM_BYTES;
        if !inside || pages.clone().any(|page| shared.pages.contains(&page)) {
            return false;
        }
        for page in pages {
            shared.pages.insert(page);
            shared.dirty.insert(page);
        }
        true
    }
    fn free(&self, base: Pa, bytes: u64) {
        let mut shared = self.shared.lock().unwrap();
        for page in base.raw() / PAGE_SIZE..(base.raw() + bytes) / PAGE_SIZE {
            assert!(shared.pages.remove(&page), "freed twice: {base:?}");
        }
    }
    fn free_bytes(&self) -> (u64, u64) {
        let free = RAM_BYTES - self.used_bytes();
        (free, free)
    }
    fn copy_in(&self, _: Pa, _: &[u8]) {}
    fn zero(&self, base: Pa, bytes: u64) {
        let mut shared = self.shared.lock().unwrap();
        for page in base.raw() / PAGE_SIZE..(base.raw() + bytes) / PAGE_SIZE {
            assert!(shared.pages.contains(&page), "zeroed while free");
            shared.dirty.remove(&page);
            if shared.table_pages.remove(&page) {
                for entry in 0..512 {
                    shared.tables.remove(&(page * PAGE_SIZE + entry * 8));
                }
            }
        }
    }
    fn exchange_pages(&self, a: Pa, b: Pa) {
        for offset in (0..PAGE_SIZE).step_by(8) {
            let at = |page: Pa| Pa::truncated(page.raw() + offset);
            let (of_a, of_b) = (self.load_descriptor(at(a)), self.load_descriptor(at(b)));
            self.store_descriptor(at(a), of_b);
            self.store_descriptor(at(b), of_a);
        }
    }
    fn publish_code(&self, base: Pa, bytes: u64) {
        // EL2's own map has RAM there, and a fault of EL2's is the end.
        let shared = self.shared.lock().unwrap();
        let mut pages = base.raw() / PAGE_SIZE..(base.raw() + bytes).div_ceil(PAGE_SIZE);
        assert!(
            pages.all(|page| shared.pages.contains(&page)),
            "cleaned what is no RAM of a VM: {base:?}"
        );
    }
}

impl Board for Fake {
    fn console_write(&self, bytes: &[u8]) -> usize {
        let mut shared = self.shared.lock().unwrap();
        let count = bytes.len().min(shared.console_room);
        shared.console_room -= count;
        shared.console.extend_from_slice(&bytes[..count]);
        count
    }
    fn console_read(&self, bytes: &mut [u8]) -> usize {
        let mut shared = self.shared.lock().unwrap();
        let count = shared.input.len().min(bytes.len());
        for slot in bytes.iter_mut().take(count) {
            *slot = shared.input.pop_front().unwrap();
        }
        count
    }
    fn power_off(&self) {}
    fn reset(&self) {}
}
