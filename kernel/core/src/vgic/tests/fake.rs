//! A fake core: list registers with the behaviour that IHI 0069 H, 6 "Virtual interrupt handling"
//! gives them, the guest's CPU interface in front of them, and the physical PPI 27. And a board of
//! such cores with one VM, which does what a run loop does with a [`VcpuSet`].

use penumbra_abi::GicVersion;
use penumbra_vmsa::CpuIndex;

use crate::machine::{
    GuestRegister, GuestRegisters, PhysicalInterrupts, Syndrome, VirtualInterface,
    VirtualInterfaceFrame,
};
use crate::vgic::{CpuInterface, Frame, ListReg, MmioRead, VcpuSet, Vgic};

const EOI: u64 = 1 << 41;
const STATE: u64 = 3 << 62;

/// A core.
pub(in crate::vgic) struct FakeCore {
    pub(in crate::vgic) lr: Vec<u64>,
    pub(in crate::vgic) on: bool,
    pub(in crate::vgic) underflow: bool,
    pub(in crate::vgic) no_pending: bool,
    /// ICC_PMR_EL1 of the guest.
    pub(in crate::vgic) mask: u8,
    /// Priorities of interrupts that were acknowledged and not ended, innermost last.
    pub(in crate::vgic) running: Vec<u8>,
    /// CNTV_CTL_EL0.
    pub(in crate::vgic) timer: u64,
    pub(in crate::vgic) timer_active: bool,
    /// Physical SPIs that were deactivated.
    pub(in crate::vgic) deactivated: Vec<u32>,
    pub(in crate::vgic) writes: usize,
}

impl FakeCore {
    fn new(list_registers: usize) -> Self {
        Self {
            lr: vec![0; list_registers],
            on: false,
            underflow: false,
            no_pending: false,
            mask: 0xff,
            running: vec![],
            timer: 0,
            timer_active: false,
            deactivated: vec![],
            writes: 0,
        }
    }

    /// List registers with a state.
    pub(in crate::vgic) fn valid(&self) -> usize {
        self.lr.iter().filter(|&&lr| lr & STATE != 0).count()
    }

    fn best_pending(&self) -> Option<usize> {
        let ready = self
            .lr
            .iter()
            .enumerate()
            .filter(|&(_, &lr)| lr & STATE == 1 << 62);
        ready
            .map(|(n, &lr)| (ListReg::from_raw(lr).priority(), n))
            .min()
            .map(|(_, n)| n)
    }

    /// The guest acknowledges: INTID and source, if anything is signalled.
    pub(in crate::vgic) fn acknowledge_virtual(&mut self) -> Option<(u32, u32)> {
        let n = self.best_pending().filter(|_| self.on)?;
        let lr = ListReg::from_raw(self.lr[n]);
        let running = self.running.last().copied().unwrap_or(0xff);
        if lr.priority() >= self.mask.min(running) {
            return None;
        }
        self.running.push(lr.priority());
        self.lr[n] = (self.lr[n] & !STATE) | 1 << 63;
        Some((lr.intid(), lr.source()))
    }

    /// The guest ends what it acknowledged last: priority drop and deactivation.
    pub(in crate::vgic) fn end_virtual(&mut self, intid: u32) {
        self.running.pop().expect("an interrupt is being handled");
        self.deactivate_virtual(intid);
    }

    /// The guest deactivates.
    pub(in crate::vgic) fn deactivate_virtual(&mut self, intid: u32) {
        let is_it = |lr: &&mut u64| **lr >> 63 != 0 && ListReg::from_raw(**lr).intid() == intid;
        let lr = self
            .lr
            .iter_mut()
            .find(is_it)
            .unwrap_or_else(|| panic!("{intid} is active"));
        *lr &= !(1 << 63);
        if ListReg::from_raw(*lr).is_linked() {
            match *lr >> 32 & 0x3ff {
                27 => self.timer_active = false,
                physical => self.deactivated.push(physical as u32),
            }
        }
    }

    /// Whether the maintenance interrupt is asserted.
    pub(in crate::vgic) fn maintenance(&self) -> bool {
        let pending = self.lr.iter().any(|&lr| lr & STATE == 1 << 62);
        let underflow = self.underflow && self.valid() <= 1;
        self.on && (self.eoi_list_registers() != 0 || underflow || (self.no_pending && !pending))
    }

    /// Whether the physical timer PPI would fire.
    pub(in crate::vgic) fn timer_fires(&self) -> bool {
        self.timer & 7 == 5 && !self.timer_active
    }

    fn bitmap(&self, test: impl Fn(u64) -> bool) -> u32 {
        self.lr
            .iter()
            .enumerate()
            .fold(0, |map, (n, &lr)| map | u32::from(test(lr)) << n)
    }
}

impl GuestRegisters for FakeCore {
    fn guest(&self, register: GuestRegister) -> u64 {
        assert_eq!(register, GuestRegister::CntvCtlEl0);
        self.timer
    }
    fn set_guest(&mut self, _: GuestRegister, _: u64) {
        unimplemented_here()
    }
    fn syndrome(&self) -> Syndrome {
        unimplemented_here()
    }
    fn id_register(&self, _: u8, _: u8) -> u64 {
        unimplemented_here()
    }
}

impl VirtualInterface for FakeCore {
    fn list_registers(&self) -> usize {
        self.lr.len()
    }
    fn list_register(&self, n: usize) -> u64 {
        self.lr[n]
    }
    fn set_list_register(&mut self, n: usize, value: u64) {
        self.writes += 1;
        self.lr[n] = value;
        let entry = ListReg::from_raw(value);
        assert!(
            !(entry.is_linked() && entry.is_pending() && entry.is_active()),
            "HW=1 and both"
        );
    }
    fn empty_list_registers(&self) -> u32 {
        self.bitmap(|lr| lr & STATE == 0 && (lr >> 61 & 1 != 0 || lr & EOI == 0))
    }
    fn eoi_list_registers(&self) -> u32 {
        self.bitmap(|lr| lr & STATE == 0 && lr >> 61 & 1 == 0 && lr & EOI != 0)
    }
    fn set_underflow_interrupt(&mut self, on: bool) {
        self.underflow = on;
    }
    fn set_no_pending_interrupt(&mut self, on: bool) {
        self.no_pending = on;
    }
    fn save_virtual_interface(&mut self, _: &mut VirtualInterfaceFrame) {
        (self.on, self.underflow, self.no_pending) = (false, false, false);
    }
    fn load_virtual_interface(&mut self, _: &VirtualInterfaceFrame) {
        let all = (1u32 << self.lr.len()) - 1;
        assert_eq!(
            self.empty_list_registers(),
            all,
            "another vCPU's interrupts"
        );
        self.on = true;
    }
}

impl PhysicalInterrupts for FakeCore {
    fn acknowledge(&mut self) -> u32 {
        unimplemented_here()
    }
    fn drop_priority(&mut self, _: u32) {
        unimplemented_here()
    }
    fn deactivate(&mut self, intid: u32) {
        self.deactivated.push(intid);
    }
    fn set_ppi_active(&mut self, intid: u32, active: bool) {
        assert_eq!(intid, 27);
        self.timer_active = active;
    }
    fn kick(&mut self, _: CpuIndex) {
        unimplemented_here()
    }
    fn set_spi_enabled(&mut self, _: u32, _: bool) {
        unimplemented_here()
    }
    fn start_spi(&mut self, _: u32, _: CpuIndex, _: bool) {
        unimplemented_here()
    }
    fn stop_spi(&mut self, _: u32) {
        unimplemented_here()
    }
}

fn unimplemented_here() -> ! {
    panic!("the vGIC has no business with this")
}

/// A VM with a core for each of its vCPUs.
pub(in crate::vgic) struct Board {
    pub(in crate::vgic) gic: Vgic,
    pub(in crate::vgic) cores: Vec<FakeCore>,
    pub(in crate::vgic) interfaces: Vec<CpuInterface>,
    pub(in crate::vgic) resident: Vec<bool>,
}

impl Board {
    /// All vCPUs resident, with four list registers each.
    pub(in crate::vgic) fn new(version: GicVersion, vcpus: usize) -> Self {
        Self::with_list_registers(version, vcpus, 4)
    }

    pub(in crate::vgic) fn with_list_registers(
        version: GicVersion,
        vcpus: usize,
        list_registers: usize,
    ) -> Self {
        let gic = Vgic::new();
        gic.configure(version, vcpus);
        let mut board = Self {
            gic,
            cores: (0..vcpus).map(|_| FakeCore::new(list_registers)).collect(),
            interfaces: (0..vcpus).map(|_| CpuInterface::new()).collect(),
            resident: vec![false; vcpus],
        };
        (0..vcpus).for_each(|vcpu| board.load(vcpu));
        board
    }

    /// As [`new`](Self::new), with both groups enabled and all interrupts of priority 0x80.
    pub(in crate::vgic) fn ready(version: GicVersion, vcpus: usize) -> Self {
        let mut board = Self::new(version, vcpus);
        board.write(0, 0, 3);
        (0..vcpus).for_each(|vcpu| board.enable_all(vcpu));
        board
    }

    pub(in crate::vgic) fn enable_all(&mut self, vcpu: usize) {
        for word in 1..7 {
            self.write(vcpu, 0x100 + 4 * word, 0xffff_ffff);
        }
        for word in 8..56 {
            self.write(vcpu, 0x400 + 4 * word, 0x8080_8080);
        }
        self.write_private(vcpu, 0x100, 0xffff_ffff);
        (0..8).for_each(|word| self.write_private(vcpu, 0x400 + 4 * word, 0x8080_8080));
    }

    /// What a run loop does with vCPUs that must flush; until nothing is left.
    pub(in crate::vgic) fn notify(&mut self, mut set: VcpuSet) {
        for _ in 0..100 {
            let Some(vcpu) = set.iter().next() else {
                return;
            };
            set = set.without(vcpu);
            if self.resident.get(vcpu) == Some(&true) {
                set = set.union(self.flush(vcpu));
            }
        }
        panic!("vCPUs notify each other for ever");
    }

    pub(in crate::vgic) fn flush(&mut self, vcpu: usize) -> VcpuSet {
        let set = self
            .gic
            .flush(vcpu, &mut self.interfaces[vcpu], &mut self.cores[vcpu]);
        self.check(vcpu);
        set
    }

    pub(in crate::vgic) fn load(&mut self, vcpu: usize) {
        self.resident[vcpu] = true;
        let (core, interface) = (&mut self.cores[vcpu], &mut self.interfaces[vcpu]);
        self.gic.load(interface, core);
        let set = self.gic.flush(vcpu, interface, core);
        self.check(vcpu);
        self.notify(set);
    }

    pub(in crate::vgic) fn save(&mut self, vcpu: usize) {
        let set = self
            .gic
            .save(vcpu, &mut self.interfaces[vcpu], &mut self.cores[vcpu]);
        self.resident[vcpu] = false;
        assert!(
            !self.cores[vcpu].timer_active,
            "the next vCPU's timer must be able to fire"
        );
        self.notify(set);
    }

    /// Takes maintenance and timer interrupts as long as there are.
    pub(in crate::vgic) fn settle(&mut self, vcpu: usize) {
        for _ in 0..100 {
            let (core, interface) = (&mut self.cores[vcpu], &mut self.interfaces[vcpu]);
            let set = if core.maintenance() {
                self.gic.on_maintenance(vcpu, interface, core)
            } else if core.timer_fires() {
                core.timer_active = true;
                self.gic.inject_vtimer(vcpu, interface, core)
            } else {
                return;
            };
            self.check(vcpu);
            self.notify(set);
        }
        panic!("interrupt storm at EL2");
    }

    /// As [`settle`](Self::settle), for a guest that may have set things up so that they never settle.
    pub(in crate::vgic) fn settle_at_most(&mut self, vcpu: usize) {
        let (core, interface) = (&mut self.cores[vcpu], &mut self.interfaces[vcpu]);
        if core.timer_fires() {
            core.timer_active = true;
            let set = self.gic.inject_vtimer(vcpu, interface, core);
            self.check(vcpu);
            self.notify(set);
        }
    }

    /// What must hold whenever the guest runs.
    fn check(&self, vcpu: usize) {
        let core = &self.cores[vcpu];
        let valid = core.lr.iter().filter(|&&lr| lr & STATE != 0);
        let mut intids: Vec<_> = valid.map(|&lr| ListReg::from_raw(lr).intid()).collect();
        let count = intids.len();
        intids.sort_unstable();
        intids.dedup();
        assert_eq!(
            intids.len(),
            count,
            "an INTID is in two list registers: {:x?}",
            core.lr
        );
        for &lr in core.lr.iter().filter(|&&lr| lr & STATE != 0) {
            let entry = ListReg::from_raw(lr);
            assert!(
                entry.intid() != 27 || core.timer_active,
                "linked to an inactive interrupt"
            );
        }
    }

    /// The guest acknowledges on `vcpu`.
    pub(in crate::vgic) fn ack(&mut self, vcpu: usize) -> Option<u32> {
        self.settle(vcpu);
        self.cores[vcpu]
            .acknowledge_virtual()
            .map(|(intid, _)| intid)
    }

    /// The guest ends an interrupt on `vcpu`.
    pub(in crate::vgic) fn end(&mut self, vcpu: usize, intid: u32) {
        self.cores[vcpu].end_virtual(intid);
        self.settle(vcpu);
    }

    /// Acknowledges and ends everything; the order in which it came.
    pub(in crate::vgic) fn drain(&mut self, vcpu: usize) -> Vec<u32> {
        let mut taken = vec![];
        while let Some(intid) = self.ack(vcpu) {
            taken.push(intid);
            assert!(taken.len() < 1000, "an interrupt does not end");
            self.end(vcpu, intid);
        }
        taken
    }

    /// Acknowledges and ends one interrupt of the timer's kind, which would come again at once.
    pub(in crate::vgic) fn drain_one(&mut self, vcpu: usize) -> Option<u32> {
        let intid = self.ack(vcpu)?;
        self.cores[vcpu].timer = 1;
        self.end(vcpu, intid);
        Some(intid)
    }

    /// 32-bit write to the distributor.
    pub(in crate::vgic) fn write(&mut self, vcpu: usize, offset: u64, value: u32) {
        self.access(vcpu, Frame::Distributor, offset, 4, u64::from(value));
    }

    pub(in crate::vgic) fn access(
        &mut self,
        vcpu: usize,
        frame: Frame,
        offset: u64,
        size: u32,
        value: u64,
    ) {
        let set = self.gic.mmio_write(vcpu, (frame, offset, size), value);
        self.notify(set);
    }

    /// 32-bit write to the SGIs' and PPIs' registers: banked, or in the vCPU's redistributor.
    pub(in crate::vgic) fn write_private(&mut self, vcpu: usize, offset: u64, value: u32) {
        let (frame, offset) = self.private(vcpu, offset);
        self.access(vcpu, frame, offset, 4, u64::from(value));
    }

    fn private(&self, vcpu: usize, offset: u64) -> (Frame, u64) {
        match self.gic.version() {
            GicVersion::V2 => (Frame::Distributor, offset),
            GicVersion::V3 => (
                Frame::Redistributors,
                0x2_0000 * vcpu as u64 + 0x1_0000 + offset,
            ),
        }
    }

    /// Reads, with the retries.
    pub(in crate::vgic) fn read_any(
        &mut self,
        vcpu: usize,
        frame: Frame,
        offset: u64,
        size: u32,
    ) -> u64 {
        for _ in 0..10 {
            let (core, interface) = (&mut self.cores[vcpu], &mut self.interfaces[vcpu]);
            match self
                .gic
                .mmio_read(vcpu, interface, core, (frame, offset, size))
            {
                MmioRead::Value(value) => {
                    self.check(vcpu);
                    return value;
                }
                MmioRead::Retry(set) => {
                    assert!(!set.is_empty());
                    self.notify(set);
                }
            }
        }
        panic!("a read never ends");
    }

    pub(in crate::vgic) fn read(&mut self, vcpu: usize, offset: u64) -> u32 {
        self.read_any(vcpu, Frame::Distributor, offset, 4) as u32
    }

    pub(in crate::vgic) fn read_private(&mut self, vcpu: usize, offset: u64) -> u32 {
        let (frame, offset) = self.private(vcpu, offset);
        self.read_any(vcpu, frame, offset, 4) as u32
    }

    /// Reads the redistributor of another vCPU.
    pub(in crate::vgic) fn read_redistributor(
        &mut self,
        vcpu: usize,
        owner: usize,
        offset: u64,
    ) -> u32 {
        let (frame, offset) = self.private(owner, offset);
        self.read_any(vcpu, frame, offset, 4) as u32
    }

    pub(in crate::vgic) fn set_line(&mut self, intid: u32, high: bool) {
        let set = self.gic.set_level(intid, high);
        self.notify(set);
    }
}
