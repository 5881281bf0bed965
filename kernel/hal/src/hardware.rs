//! One core: [`Machine`] and the traits it is made of, forwarded to the modules that do the work.

use penumbra_abi::Call;
use penumbra_core::machine::{
    Board, BoardMemory, Controls, Core, DebugFrame, ExitKind, FpFrame, GuestRegister,
    GuestRegisters, Machine, PhysicalInterrupts, Residency, Syndrome, SysregFrame, Translations,
    VirtualInterface, VirtualInterfaceFrame,
};
use penumbra_core::{System, Vcpu, hypercall, run_loop};
use penumbra_vmsa::{CpuIndex, Half, Ipa, Pa};

use crate::gic::{Gic, GicCore};
use crate::id_table::IdTable;
use crate::{
    cache, console, debug_regs, descriptor, fp, frame_pool, power, residency, secondary, switch,
    sysreg, timer, tlb,
};

/// The core that executes. There is one value per core; the run loop owns it.
#[derive(Debug)]
pub struct Hardware {
    gic: GicCore,
    cpu: CpuIndex,
    board_gic: Gic,
    ids: IdTable,
    /// How often the vectors branch at an exit, to clear the branch history.
    #[cfg(feature = "mitigations")]
    pub(crate) history: u64,
}

impl Hardware {
    pub(crate) fn new(cpu: CpuIndex, board_gic: Gic, gic: GicCore) -> Self {
        let ids = IdTable::read();
        Self {
            gic,
            cpu,
            board_gic,
            #[cfg(feature = "mitigations")]
            history: crate::speculation::branches(cpu, &ids),
            ids,
        }
    }
}

/// The core logic is generic over its machine. This makes it here, where the vectors' entry points make it,
/// too, so that the image holds it once and not a second time for the platform.
impl Hardware {
    /// [`run_loop::run`] on this core.
    #[inline(never)]
    pub fn serve(&mut self, system: &'static System) -> ! {
        run_loop::run(system, self)
    }
}

unsafe extern "Rust" {
    /// [`hypercall::answer`], compiled for size: generic code is compiled as the crate that instantiates
    /// it, and this one is compiled for speed.
    fn penumbra_hypercall(
        system: &'static System,
        hardware: &mut Hardware,
        call: Call,
        arguments: hypercall::Arguments,
    ) -> hypercall::Reply;
}

impl GuestRegisters for Hardware {
    #[inline(always)]
    fn guest(&self, register: GuestRegister) -> u64 {
        residency::read(register)
    }

    #[inline(always)]
    fn set_guest(&mut self, register: GuestRegister, value: u64) {
        residency::write(register, value);
    }

    #[inline(always)]
    fn syndrome(&self) -> Syndrome {
        Syndrome {
            esr: sysreg::esr_el2::read(),
            far: sysreg::far_el2::read(),
            hpfar: sysreg::hpfar_el2::read(),
        }
    }

    #[inline]
    fn id_register(&self, crm: u8, op2: u8) -> u64 {
        self.ids.get(crm, op2)
    }
}

impl Residency for Hardware {
    fn save_sysregs(&mut self, frame: &mut SysregFrame) {
        residency::save(frame);
    }

    fn load_sysregs(&mut self, frame: &SysregFrame, controls: &Controls) {
        residency::load(frame, controls);
    }

    fn set_controls(&mut self, controls: &Controls) {
        residency::set_controls(controls);
    }

    fn flush_guest_translations(&mut self) {
        tlb::invalidate_local();
    }

    fn set_root(&mut self, half: Half, value: u64) {
        residency::set_root(half, value);
    }

    fn flush_asid(&mut self, asid: u64) {
        tlb::invalidate_asid_local(asid);
    }

    fn save_fp(&mut self, frame: &mut FpFrame) {
        fp::save(frame);
    }

    fn load_fp(&mut self, frame: &FpFrame) {
        fp::load(frame);
    }

    fn save_debug(&mut self, frame: &mut DebugFrame) {
        debug_regs::save(frame);
    }

    fn load_debug(&mut self, frame: &DebugFrame) {
        debug_regs::load(frame);
    }
}

impl VirtualInterface for Hardware {
    #[inline]
    fn list_registers(&self) -> usize {
        self.gic.list_registers()
    }

    #[inline]
    fn list_register(&self, n: usize) -> u64 {
        self.gic.list_register(n)
    }

    #[inline(always)]
    fn set_list_register(&mut self, n: usize, value: u64) {
        self.gic.set_list_register(n, value);
    }

    #[inline]
    fn empty_list_registers(&self) -> u32 {
        self.gic.empty_list_registers()
    }

    #[inline]
    fn eoi_list_registers(&self) -> u32 {
        self.gic.eoi_list_registers()
    }

    #[inline]
    fn set_underflow_interrupt(&mut self, on: bool) {
        self.gic.set_underflow_interrupt(on);
    }

    #[inline]
    fn set_no_pending_interrupt(&mut self, on: bool) {
        self.gic.set_no_pending_interrupt(on);
    }

    fn save_virtual_interface(&mut self, frame: &mut VirtualInterfaceFrame) {
        self.gic.save(frame);
    }

    fn load_virtual_interface(&mut self, frame: &VirtualInterfaceFrame) {
        self.gic.load(frame);
    }
}

impl PhysicalInterrupts for Hardware {
    #[inline]
    fn acknowledge(&mut self) -> u32 {
        self.gic.acknowledge()
    }

    #[inline]
    fn drop_priority(&mut self, intid: u32) {
        self.gic.drop_priority(intid);
    }

    #[inline]
    fn deactivate(&mut self, intid: u32) {
        self.gic.deactivate(intid);
    }

    #[inline]
    fn end(&mut self, intid: u32) {
        self.gic.end(intid);
    }

    fn set_ppi_active(&mut self, intid: u32, active: bool) {
        self.gic.set_ppi_active(intid, active);
    }

    #[inline]
    fn kick(&mut self, cpu: CpuIndex) {
        self.gic.kick(secondary::kick_value(cpu));
    }

    fn set_spi_enabled(&mut self, intid: u32, enabled: bool) {
        let own = secondary::target(self.cpu);
        self.board_gic
            .set_spi_enabled(intid, own.mpidr, own.mask, enabled);
    }

    fn start_spi(&mut self, intid: u32, cpu: CpuIndex, edge: bool) {
        let target = secondary::target(cpu);
        self.board_gic.stop_spi(intid);
        self.board_gic.set_spi_edge(intid, edge);
        self.board_gic
            .set_spi_enabled(intid, target.mpidr, target.mask, true);
    }

    fn stop_spi(&mut self, intid: u32) {
        self.board_gic.stop_spi(intid);
    }
}

impl Core for Hardware {
    #[inline]
    fn cpu(&self) -> CpuIndex {
        self.cpu
    }

    fn event_counters(&self) -> u64 {
        debug_regs::event_counters()
    }

    #[inline]
    fn counter(&self) -> u64 {
        timer::counter()
    }

    #[inline]
    fn set_deadline(&mut self, deadline: Option<u64>) {
        timer::set_deadline(deadline);
    }

    fn idle(&mut self) {
        sysreg::wait_for_interrupt();
    }

    fn interrupt_waits(&self) -> bool {
        sysreg::isr_el1::read() != 0
    }

    #[inline]
    fn relax(&self) {
        sysreg::relax();
    }
}

impl Translations for Hardware {
    #[inline]
    fn load_descriptor(&self, entry: Pa) -> u64 {
        // SAFETY: the core logic names entries of table frames that it owns.
        unsafe { descriptor::load(entry) }
    }

    #[inline]
    fn descriptor_differences(&self, first: Pa, count: u64, wanted: u64, step: u64) -> u64 {
        // SAFETY: the core logic names entries of table frames that it owns.
        unsafe { descriptor::differences(first, count, wanted, step) }
    }

    fn equal_descriptors(&self, first: Pa, wanted: u64, mask: u64) -> u64 {
        // SAFETY: as above.
        unsafe { descriptor::equal(first, wanted, mask) }
    }

    fn store_descriptor(&self, entry: Pa, raw: u64) {
        // SAFETY: the core logic names entries of table frames that it owns.
        unsafe { descriptor::store(entry, raw) };
    }

    fn fill_descriptors(&self, first: Pa, count: u64, value: u64, step: u64) {
        // SAFETY: the core logic names entries of a table frame that it owns and has linked nowhere.
        unsafe { descriptor::fill(first, count, value, step) };
    }

    fn complete_accesses(&self) {
        sysreg::dsb_ish();
    }

    fn publish_descriptors(&self) {
        sysreg::dsb_ishst();
    }

    fn invalidate_leaves(&self, vttbr: u64, start: Ipa, end: Ipa, step: u64) {
        tlb::invalidate_leaves(vttbr, start, end, step);
    }

    fn invalidate_vm(&self, vttbr: u64) {
        tlb::invalidate_vm(vttbr);
    }
}

impl BoardMemory for Hardware {
    fn allocate(&self, bytes: u64) -> Option<Pa> {
        frame_pool::allocate(bytes)
    }

    fn allocate_at(&self, base: Pa, bytes: u64) -> bool {
        frame_pool::allocate_at(base, bytes)
    }

    fn free(&self, base: Pa, bytes: u64) {
        frame_pool::free(base, bytes);
    }

    fn free_bytes(&self) -> (u64, u64) {
        frame_pool::free_bytes()
    }

    fn copy_in(&self, base: Pa, bytes: &[u8]) {
        // SAFETY: the core logic owns the frames it names, and no guest can reach them meanwhile.
        unsafe { cache::copy_in(base.raw() as usize, bytes) };
    }

    fn zero(&self, base: Pa, bytes: u64) {
        // SAFETY: the core logic owns the frames it names; nobody else refers to them.
        unsafe { cache::zero(base.raw() as usize, bytes as usize) };
    }

    fn exchange_pages(&self, a: Pa, b: Pa) {
        // SAFETY: the core logic owns the frames it names, and no guest can reach them meanwhile.
        unsafe { cache::exchange_pages(a.raw() as usize, b.raw() as usize) };
    }

    fn publish_code(&self, base: Pa, bytes: u64) {
        cache::publish_code(base.raw() as usize, bytes as usize);
    }
}

impl Board for Hardware {
    fn console_write(&self, bytes: &[u8]) -> usize {
        (console::CONSOLE.lock().uart).map_or(bytes.len(), |uart| uart.offer(bytes))
    }

    fn console_read(&self, bytes: &mut [u8]) -> usize {
        (console::CONSOLE.lock().uart).map_or(0, |uart| uart.read(bytes))
    }

    fn power_off(&self) {
        power::off();
    }

    fn reset(&self) {
        power::reset();
    }
}

impl Machine for Hardware {
    #[inline]
    fn run(&mut self, vcpu: &mut Vcpu) -> ExitKind {
        switch::run(self, vcpu)
    }

    #[inline]
    fn answer(
        &mut self,
        system: &'static System,
        call: Call,
        arguments: hypercall::Arguments,
    ) -> hypercall::Reply {
        // SAFETY: a function of Rust's with these types, which the platforms' common crate defines.
        unsafe { penumbra_hypercall(system, self, call, arguments) }
    }
}
