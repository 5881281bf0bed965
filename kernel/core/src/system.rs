//! All state of EL2 that outlives an exit, in one static.

use core::sync::atomic::{AtomicU8, Ordering};

use penumbra_abi::{GicVersion, MAX_CPUS, MAX_VCPUS_PER_VM, MAX_VMS};
use penumbra_trap::controls::CpuFeatures;
use penumbra_trap::idregs::{GuestFeatures, IdReg, filter};
use penumbra_trap::inject::EntryFeatures;
use penumbra_vmsa::{CpuIndex, PAGE_SIZE, Pa, VmId};
use spin::Once;

use crate::cores::CoreShared;
use crate::events::Sources;
use crate::frames::FrameTable;
use crate::hypercall::AuditProgress;
use crate::lock::Mutex;
use crate::machine::{Core, Machine, PhysicalInterrupts};
use crate::manager::{self, Manager};
use crate::passthrough::Passthrough;
use crate::schedule::Schedule;
use crate::vcpu::{MAX_VCPUS, Place, Vcpu, VcpuId, VcpuShared};
use crate::vgic::VcpuSet;
use crate::vm::Vm;

/// RAM ranges of the board at most.
pub const MAX_RAM_RANGES: usize = 8;
/// Ranges at most that no VM gets as a device.
pub const MAX_KEPT_RANGES: usize = 19;

/// Clocks at most whose rates the board's firmware tells.
pub const MAX_CLOCKS: usize = 4;

/// A clock of the board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Its number at the board's clock controller.
    pub number: u32,
    /// Its rate; 0: not known.
    pub hz: u32,
}

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaRange {
    /// Its first byte.
    pub base: Pa,
    /// Its size in bytes; 0: there is none.
    pub bytes: u64,
}

impl PaRange {
    /// Whether it shares a page with `[base, base + bytes)`, whose ends lie on pages.
    pub(crate) fn shares_page(self, base: u64, bytes: u64) -> bool {
        let (first, own) = self.pages();
        let first = first.raw();
        own != 0 && first < base.saturating_add(bytes) && base < first.saturating_add(own)
    }

    /// The pages that the range touches: base and bytes; nothing for an empty range.
    pub(crate) fn pages(self) -> (Pa, u64) {
        let first = self.base.align_down(PAGE_SIZE);
        let head = self.base.offset_from(first).unwrap_or(0);
        if self.bytes == 0 {
            return (first, 0);
        }
        let bytes = head.saturating_add(self.bytes);
        (
            first,
            bytes.checked_next_multiple_of(PAGE_SIZE).unwrap_or(0),
        )
    }
}

/// What the platform found out about the board.
#[derive(Clone, Copy, Debug)]
pub struct BootFacts {
    /// Cores on line, core 0 included. They call [`run_loop::run`](crate::run_loop::run).
    pub cpus: usize,
    /// The interrupt controller.
    pub gic: GicVersion,
    /// GICv2: the virtual CPU interface (GICV), 8 KiB in two pages that need not be adjacent in
    /// 4 KiB (QEMU: base and base + 4 KiB; GIC-400 with 64 KiB stride: base and base + 64 KiB).
    pub gicv: [Pa; 2],
    /// CNTFRQ_EL0.
    pub counter_hz: u64,
    /// INTID of the console's receive interrupt, level-triggered; 0: none.
    pub console_intid: u32,
    /// The manager's image, flat, entered at its first byte.
    pub manager_image: &'static [u8],
    /// RAM of the manager, a multiple of 2 MiB.
    pub manager_bytes: u64,
    /// The bundle.
    pub bundle: PaRange,
    /// The board's device tree.
    pub device_tree: PaRange,
    /// RAM that may ever belong to a VM.
    pub ram: [PaRange; MAX_RAM_RANGES],
    /// What no VM gets as a device: all RAM, the interrupt controller, the console.
    pub kept: [PaRange; MAX_KEPT_RANGES],
    /// What the board's firmware says of its clocks.
    pub clocks: [Clock; MAX_CLOCKS],
}

/// Why the hypervisor cannot start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum BootError {
    /// There is no free RAM for the manager.
    NoMemory,
    /// The manager's image does not fit its RAM.
    ImageTooLarge,
    /// A fact of the board is out of range.
    BadFacts,
}

/// The board, with what follows from it.
#[derive(Debug)]
pub(crate) struct BoardState {
    pub(crate) facts: BootFacts,
    /// ID registers as guests see them, by [`IdReg::index`].
    pub(crate) id: [u64; IdReg::COUNT],
    pub(crate) features: GuestFeatures,
    pub(crate) entry: EntryFeatures,
    pub(crate) cpu: CpuFeatures,
    /// PMCR_EL0.N.
    pub(crate) event_counters: u64,
}

impl BoardState {
    fn new(machine: &impl Machine, facts: &BootFacts) -> Self {
        let (pfr0, pfr1) = (machine.id_register(4, 0), machine.id_register(4, 1));
        let dfr0 = machine.id_register(5, 0);
        let (mmfr0, mmfr1) = (machine.id_register(7, 0), machine.id_register(7, 1));
        let features = GuestFeatures::new(facts.gic, pfr0, dfr0);
        let mut id = [0; IdReg::COUNT];
        for (index, value) in id.iter_mut().enumerate() {
            if let Some(register) = IdReg::from_index(index) {
                let encoding = register.sysreg();
                let raw = machine.id_register(encoding.crm(), encoding.op2());
                *value = filter(register, raw, &features);
            }
        }
        Self {
            facts: *facts,
            id,
            features,
            entry: EntryFeatures::new(mmfr1, pfr1),
            cpu: CpuFeatures::new(pfr0, pfr1, dfr0, mmfr0, mmfr1),
            event_counters: machine.event_counters(),
        }
    }
}

/// All state of EL2. The platform holds it in a static.
#[derive(Debug)]
pub struct System {
    board: Once<BoardState>,
    vms: [Vm; MAX_VMS],
    slots: [Mutex<Vcpu>; MAX_VCPUS],
    shared: [VcpuShared; MAX_VCPUS],
    cores: [CoreShared; MAX_CPUS],
    schedules: [Mutex<Schedule>; MAX_CPUS],
    places: [Once<Place>; MAX_VCPUS],
    pub(crate) frames: FrameTable,
    pub(crate) passthrough: Passthrough,
    pub(crate) events: Sources,
    pub(crate) manager: Manager,
    pub(crate) audit: Mutex<AuditProgress>,
    vmid: AtomicU8,
}

impl System {
    /// A system with nothing in it; all of it is zero bytes, so it takes no room in the image.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            board: Once::new(),
            vms: [const { Vm::new() }; MAX_VMS],
            slots: [const { Mutex::new(Vcpu::vacant()) }; MAX_VCPUS],
            shared: [const { VcpuShared::new() }; MAX_VCPUS],
            cores: [const { CoreShared::new() }; MAX_CPUS],
            schedules: [const { Mutex::new(Schedule::new()) }; MAX_CPUS],
            places: [const { Once::new() }; MAX_VCPUS],
            frames: FrameTable::new(),
            passthrough: Passthrough::new(),
            events: Sources::new(),
            manager: Manager::new(),
            audit: Mutex::new(AuditProgress::NONE),
            vmid: AtomicU8::new(0),
        }
    }

    /// Creates VM 0, the manager, on core 0. Before any core calls
    /// [`run_loop::run`](crate::run_loop::run).
    ///
    /// # Errors
    /// The board cannot run a manager.
    pub fn boot(
        &'static self,
        machine: &mut impl Machine,
        facts: &BootFacts,
    ) -> Result<(), BootError> {
        if facts.cpus == 0 || facts.cpus > MAX_CPUS || facts.counter_hz == 0 {
            return Err(BootError::BadFacts);
        }
        self.board.call_once(|| BoardState::new(machine, facts));
        manager::create(self, machine, facts)
    }

    #[inline]
    pub(crate) fn board(&self) -> Option<&BoardState> {
        self.board.get()
    }

    /// Cores on line.
    pub(crate) fn cpus(&self) -> usize {
        self.board().map_or(0, |board| board.facts.cpus)
    }

    /// VM `number`, whether it exists or not.
    #[inline]
    pub(crate) fn vm(&self, number: usize) -> Option<&Vm> {
        self.vms.get(number)
    }

    /// All VMs with their numbers.
    pub(crate) fn vms(&self) -> impl Iterator<Item = (VmId, &Vm)> {
        self.vms
            .iter()
            .enumerate()
            .filter_map(|(n, vm)| Some((VmId::new(u64::try_from(n).ok()?, MAX_VMS)?, vm)))
    }

    /// The slot of a vCPU.
    pub(crate) fn slot(&self, id: VcpuId) -> Option<&Mutex<Vcpu>> {
        self.slots.get(id.number())
    }

    /// What all may see of a vCPU.
    #[inline]
    pub(crate) fn shared(&self, id: VcpuId) -> Option<&VcpuShared> {
        self.shared.get(id.number())
    }

    /// What all may see of a core.
    #[inline]
    pub(crate) fn core(&self, cpu: CpuIndex) -> Option<&CoreShared> {
        self.cores.get(cpu.get())
    }

    /// The schedule of a core.
    pub(crate) fn schedule(&self, cpu: CpuIndex) -> Option<&Mutex<Schedule>> {
        self.schedules.get(cpu.get())
    }

    /// All that a vCPU belongs to.
    #[inline]
    pub(crate) fn place(&'static self, id: VcpuId) -> Option<&'static Place> {
        let place = self.places.get(id.number())?;
        place.get().or_else(|| self.make_place(id, place))
    }

    #[cold]
    fn make_place(&'static self, id: VcpuId, once: &'static Once<Place>) -> Option<&'static Place> {
        let vm = self.vm(id.vm())?;
        let place = Place {
            system: self,
            vm,
            shared: self.shared(id)?,
            board: self.board()?,
            generation: vm.paging.generation_cell(),
        };
        Some(once.call_once(|| place))
    }

    /// Makes a vCPU run, or look at its interrupts if it runs already.
    #[inline]
    pub(crate) fn wake<M: PhysicalInterrupts + Core>(&self, id: VcpuId, machine: &mut M) {
        let Some(cpu) = self.shared(id).and_then(VcpuShared::core) else {
            return;
        };
        let Some(core) = self.core(cpu) else { return };
        if core.is_ready(id) {
            // It sees what has come when its turn comes: whoever has the core is not interrupted for that again.
            if !core.is_resident(id) {
                return;
            }
        } else if core.make_ready(id) {
            core.call_attention();
        }
        if cpu != machine.cpu() {
            machine.kick(cpu);
        }
    }

    /// Wakes the vCPUs of `set` in VM number `vm`.
    #[inline]
    pub(crate) fn wake_set<M: PhysicalInterrupts + Core>(
        &self,
        vm: usize,
        set: VcpuSet,
        machine: &mut M,
    ) {
        if !set.is_empty() {
            self.wake_each(vm, set, machine);
        }
    }

    // A function of its own: what has to be quick wakes one vCPU, or none.
    #[inline(never)]
    fn wake_each<M: PhysicalInterrupts + Core>(&self, vm: usize, set: VcpuSet, machine: &mut M) {
        let first = vm.wrapping_mul(MAX_VCPUS_PER_VM);
        for index in set.iter() {
            if let Some(id) = VcpuId::from_number(first.wrapping_add(index)) {
                self.wake(id, machine);
            }
        }
    }

    /// Makes every core of a VM look around: the VM's state has changed.
    pub(crate) fn alert<M: PhysicalInterrupts + Core>(&self, vm: VmId, machine: &mut M) {
        self.cores_of(vm, |cpu| self.alert_core(cpu, machine));
    }

    /// The core of each of a VM's vCPUs that is pinned.
    fn cores_of(&self, vm: VmId, mut each: impl FnMut(CpuIndex)) {
        let count = self.vm(vm.get()).map_or(0, Vm::vcpu_count);
        for index in 0..count {
            let cpu = VcpuId::new(vm, index).and_then(|id| self.shared(id)?.core());
            if let Some(cpu) = cpu {
                each(cpu);
            }
        }
    }

    /// Makes a core look around.
    pub(crate) fn alert_core<M: PhysicalInterrupts + Core>(&self, cpu: CpuIndex, machine: &mut M) {
        let Some(core) = self.core(cpu) else { return };
        core.call_attention_to_change();
        if cpu != machine.cpu() {
            machine.kick(cpu);
        }
    }

    /// The VMID to try next.
    pub(crate) fn next_vmid(&self) -> u8 {
        self.vmid.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Notes that what is trapped of a VM's vCPUs has changed. The cores are told apart.
    pub(crate) fn note_traps(&self, vm: VmId) {
        self.cores_of(vm, |cpu| {
            if let Some(core) = self.core(cpu) {
                core.note_pins();
            }
        });
    }

    /// vCPUs of which any core's hardware holds state.
    pub(crate) fn held(&self) -> u64 {
        self.cores.iter().fold(0, |all, core| all | core.holds())
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}
