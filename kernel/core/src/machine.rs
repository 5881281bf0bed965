//! The hardware as the core logic sees it, one value per physical core.
//!
//! The hal implements these traits with instructions and registers; the tests of this crate
//! implement them with a fake. Nothing here decides anything.
//!
//! **Resident state.** While a vCPU is *resident* on a core its system registers, PC and PSTATE are
//! in the hardware and are reached through [`GuestRegisters`]; its general-purpose registers are in
//! [`GprFrame`]. They move to and from [`SysregFrame`] only when another vCPU is loaded.

use penumbra_abi::Call;
use penumbra_trap::advance;
use penumbra_trap::esr::Esr;
use penumbra_vmsa::{CpuIndex, Half, Ipa, Pa};

use crate::hypercall;
use crate::system::System;
use crate::vcpu::Vcpu;

/// General-purpose registers X0 to X30 of a vCPU, saved at every exit that reaches Rust.
/// The assembly of the hal relies on this layout.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct GprFrame {
    /// X0 to X30.
    pub x: [u64; 31],
    /// Keeps the frame a multiple of 16 bytes.
    pub reserved: u64,
}

impl GprFrame {
    /// All registers zero.
    pub const ZERO: Self = Self {
        x: [0; 31],
        reserved: 0,
    };

    /// Register `n` as an instruction's source: 31 reads as zero (XZR).
    #[must_use]
    #[inline]
    pub fn get(&self, n: u8) -> u64 {
        self.x.get(usize::from(n)).copied().unwrap_or(0)
    }

    /// Register `n` as an instruction's destination: 31 discards (XZR).
    #[inline]
    pub fn set(&mut self, n: u8, value: u64) {
        if let Some(slot) = self.x.get_mut(usize::from(n)) {
            *slot = value;
        }
    }
}

/// System registers of a vCPU that is not resident. Names are Arm's. ACTLR_EL1 is not among them: no guest has
/// access to it (HCR_EL2.TACR).
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    missing_docs,
    reason = "each field is the architectural register of that name"
)]
#[repr(C)]
pub struct SysregFrame {
    /// ELR_EL2: where the vCPU continues.
    pub pc: u64,
    /// SPSR_EL2: its PSTATE.
    pub pstate: u64,
    pub sp_el0: u64,
    pub sp_el1: u64,
    pub elr_el1: u64,
    pub spsr_el1: u64,
    pub sctlr_el1: u64,
    pub cpacr_el1: u64,
    pub ttbr0_el1: u64,
    pub ttbr1_el1: u64,
    pub tcr_el1: u64,
    pub mair_el1: u64,
    pub amair_el1: u64,
    pub vbar_el1: u64,
    pub contextidr_el1: u64,
    pub tpidr_el0: u64,
    pub tpidrro_el0: u64,
    pub tpidr_el1: u64,
    pub esr_el1: u64,
    pub far_el1: u64,
    pub afsr0_el1: u64,
    pub afsr1_el1: u64,
    pub par_el1: u64,
    pub csselr_el1: u64,
    pub mdscr_el1: u64,
    pub cntkctl_el1: u64,
    pub cntv_cval_el0: u64,
    pub cntv_ctl_el0: u64,
}

impl SysregFrame {
    /// All registers zero.
    pub const ZERO: Self = Self {
        pc: 0,
        pstate: 0,
        sp_el0: 0,
        sp_el1: 0,
        elr_el1: 0,
        spsr_el1: 0,
        sctlr_el1: 0,
        cpacr_el1: 0,
        ttbr0_el1: 0,
        ttbr1_el1: 0,
        tcr_el1: 0,
        mair_el1: 0,
        amair_el1: 0,
        vbar_el1: 0,
        contextidr_el1: 0,
        tpidr_el0: 0,
        tpidrro_el0: 0,
        tpidr_el1: 0,
        esr_el1: 0,
        far_el1: 0,
        afsr0_el1: 0,
        afsr1_el1: 0,
        par_el1: 0,
        csselr_el1: 0,
        mdscr_el1: 0,
        cntkctl_el1: 0,
        cntv_cval_el0: 0,
        cntv_ctl_el0: 0,
    };
}

/// What the hardware must be set to for a vCPU besides its own registers.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    missing_docs,
    reason = "each field is the architectural register of that name"
)]
pub struct Controls {
    pub hcr_el2: u64,
    /// `None` on a core without FEAT_FGT.
    pub hfgwtr_el2: Option<u64>,
    pub cptr_el2: u64,
    pub mdcr_el2: u64,
    pub cnthctl_el2: u64,
    pub vttbr_el2: u64,
    pub vmpidr_el2: u64,
}

impl Controls {
    /// All registers zero.
    pub const ZERO: Self = Self {
        hcr_el2: 0,
        hfgwtr_el2: None,
        cptr_el2: 0,
        mdcr_el2: 0,
        cnthctl_el2: 0,
        vttbr_el2: 0,
        vmpidr_el2: 0,
    };
}

/// FP/SIMD state: V0 to V31, FPSR, FPCR.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct FpFrame {
    /// V0 to V31, each as two 64-bit halves, low half first.
    pub v: [[u64; 2]; 32],
    /// FPSR.
    pub fpsr: u64,
    /// FPCR.
    pub fpcr: u64,
}

impl FpFrame {
    /// The state of a vCPU that never used FP.
    pub const ZERO: Self = Self {
        v: [[0; 2]; 32],
        fpsr: 0,
        fpcr: 0,
    };
}

/// Breakpoint and watchpoint registers, as many as the core has, and what else a vCPU that uses debug
/// registers leaves in the core. The debug communication channel is not kept: whoever comes next finds it
/// empty, as if a debugger had read it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DebugFrame {
    /// DBGBVRn_EL1 and DBGBCRn_EL1.
    pub breakpoints: [[u64; 2]; 16],
    /// DBGWVRn_EL1 and DBGWCRn_EL1.
    pub watchpoints: [[u64; 2]; 16],
    /// Claim tags that are set (DBGCLAIMCLR_EL1).
    pub claim_tags: u64,
    /// MDCCINT_EL1.
    pub mdccint_el1: u64,
}

impl DebugFrame {
    /// Nothing set.
    pub const ZERO: Self = Self {
        breakpoints: [[0; 2]; 16],
        watchpoints: [[0; 2]; 16],
        claim_tags: 0,
        mdccint_el1: 0,
    };
}

/// State of the virtual CPU interface of a vCPU that is not resident. List registers are not part of
/// it: they are empty then.
#[derive(Clone, Copy, Debug, Default)]
pub struct VirtualInterfaceFrame {
    /// ICH_VMCR_EL2 or GICH_VMCR, opaque to the core logic.
    pub vmcr: u64,
    /// Active priorities, group 0 (GICv3) or GICH_APR.
    pub ap0r: [u32; 4],
    /// Active priorities, group 1.
    pub ap1r: [u32; 4],
}

/// Why the guest stopped executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum ExitKind {
    /// A synchronous exception; the syndrome is in [`Syndrome`].
    Sync = 0,
    /// A physical interrupt is pending.
    Irq = 1,
    /// An SError interrupt.
    Serror = 2,
}

/// Syndrome registers, read once per exit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Syndrome {
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2, raw. Whether it is valid depends on `esr`: ask `penumbra_trap`.
    pub hpfar: u64,
}

/// Registers of the resident vCPU that the core logic reads or writes one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each variant is the architectural register of that name"
)]
pub enum GuestRegister {
    /// ELR_EL2.
    Pc,
    /// SPSR_EL2.
    Pstate,
    SpEl0,
    SpEl1,
    ElrEl1,
    SpsrEl1,
    EsrEl1,
    FarEl1,
    SctlrEl1,
    VbarEl1,
    Ttbr0El1,
    Ttbr1El1,
    TcrEl1,
    MairEl1,
    AmairEl1,
    Afsr0El1,
    Afsr1El1,
    ContextidrEl1,
    MdscrEl1,
    CntvCtlEl0,
    CntvCvalEl0,
}

/// The resident vCPU's registers and the syndrome of its last exit.
pub trait GuestRegisters {
    /// Reads a register of the resident vCPU.
    fn guest(&self, register: GuestRegister) -> u64;
    /// Writes a register of the resident vCPU; it takes effect at the next entry.
    fn set_guest(&mut self, register: GuestRegister, value: u64);
    /// Goes past the trapped instruction, which is done, as [`advance::past`] has it.
    #[inline]
    fn skip_instruction(&mut self) {
        if advance::is_plain(self.guest(GuestRegister::Pstate)) {
            self.skip_unstepped();
        } else {
            skip_with_state(self);
        }
    }
    /// Whether a debugger in the guest steps through the trapped instruction.
    #[inline]
    fn is_stepped(&self) -> bool {
        advance::is_stepped(self.guest(GuestRegister::Pstate))
    }
    /// [`skip_instruction`](Self::skip_instruction) where each instruction counts, for one of AArch64 that is not
    /// [stepped](Self::is_stepped). A branch type stays: the next instruction looks at it only if it lies in a guarded page,
    /// and this one did not.
    #[inline]
    fn skip_unstepped(&mut self) {
        let pc = self.guest(GuestRegister::Pc);
        self.set_guest(GuestRegister::Pc, pc.wrapping_add(4));
    }
    /// ESR_EL2, FAR_EL2 and HPFAR_EL2 of the last exit.
    fn syndrome(&self) -> Syndrome;
    /// The board's value of an ID register, by its encoding (op0=3, op1=0, CRn=0): `crm`, `op2`.
    /// Values are read from the hardware once at boot.
    fn id_register(&self, crm: u8, op2: u8) -> u64;
}

/// The same where more than the PC moves, or the PC by less.
#[cold]
#[inline(never)]
fn skip_with_state(machine: &mut (impl GuestRegisters + ?Sized)) {
    let esr = Esr::new(machine.syndrome().esr);
    let pc = machine.guest(GuestRegister::Pc);
    let pstate = machine.guest(GuestRegister::Pstate);
    let (pc, pstate) = advance::past(pc, pstate, esr.instruction_bytes());
    machine.set_guest(GuestRegister::Pc, pc);
    machine.set_guest(GuestRegister::Pstate, pstate);
}

/// Moving vCPUs in and out of the hardware.
pub trait Residency {
    /// Saves the resident vCPU's system registers and stops its virtual timer.
    fn save_sysregs(&mut self, frame: &mut SysregFrame);
    /// Loads a vCPU's system registers and controls, with the barriers of rule 13 (docs/rules.md) and the
    /// speculative-AT erratum in mind. When it returns, the next entry runs this vCPU.
    fn load_sysregs(&mut self, frame: &SysregFrame, controls: &Controls);
    /// Changes controls of the resident vCPU (traps); `vttbr_el2` and `vmpidr_el2` unchanged.
    fn set_controls(&mut self, controls: &Controls);
    /// TLBI VMALLE1, IC IALLU, DSB NSH, ISB under the VMID of the resident vCPU: another vCPU of its
    /// VM ran here last (rule 7).
    fn flush_guest_translations(&mut self);
    /// Puts a root into TTBR0_EL1 or TTBR1_EL1 of the resident vCPU where another was, as rule 5 says: DSB
    /// NSH, MSR, ISB, TLBI VMALLE1, DSB NSH, ISB.
    fn set_root(&mut self, half: Half, value: u64);
    /// DSB NSH, TLBI ASIDE1 of `asid`, DSB NSH, ISB under the VMID of the resident vCPU.
    fn flush_asid(&mut self, asid: u64);
    /// Saves FP/SIMD state. CPTR_EL2 allows it while this runs.
    fn save_fp(&mut self, frame: &mut FpFrame);
    /// Loads FP/SIMD state.
    fn load_fp(&mut self, frame: &FpFrame);
    /// Saves breakpoints and watchpoints.
    fn save_debug(&mut self, frame: &mut DebugFrame);
    /// Loads breakpoints and watchpoints.
    fn load_debug(&mut self, frame: &DebugFrame);
}

/// The GIC virtual interface of this core.
pub trait VirtualInterface {
    /// Number of list registers (4 on GIC-400; at most 16). They are empty before the first vCPU is
    /// loaded.
    fn list_registers(&self) -> usize;
    /// Reads list register `n`, in the format of `ICH_LR<n>_EL2` (IHI 0069 H, "`ICH_LR<n>_EL2`"),
    /// whatever the board's GIC; the hal converts.
    fn list_register(&self, n: usize) -> u64;
    /// Writes list register `n`, in the format of `ICH_LR<n>_EL2`.
    fn set_list_register(&mut self, n: usize, value: u64);
    /// Bitmap of list registers that hold nothing (ICH_ELRSR_EL2).
    fn empty_list_registers(&self) -> u32;
    /// Bitmap of list registers that want an EOI handled (ICH_EISR_EL2).
    fn eoi_list_registers(&self) -> u32;
    /// Asks for a maintenance interrupt when at most one list register is in use (UIE).
    fn set_underflow_interrupt(&mut self, on: bool);
    /// Asks for a maintenance interrupt when no list register is pending (NPIE).
    fn set_no_pending_interrupt(&mut self, on: bool);
    /// Saves the interface of the resident vCPU, list registers apart, and switches it off, with its
    /// maintenance interrupts.
    fn save_virtual_interface(&mut self, frame: &mut VirtualInterfaceFrame);
    /// Loads the interface of a vCPU, whose list registers are empty, and switches it on.
    fn load_virtual_interface(&mut self, frame: &VirtualInterfaceFrame);
}

/// The physical interrupt controller, from this core.
///
/// EOI mode is split (priority drop and deactivation apart), so that an interrupt handed to a guest
/// by a list register with HW=1 stays active until the guest deactivates it.
pub trait PhysicalInterrupts {
    /// Acknowledges the highest pending interrupt: its INTID, 1020 to 1023 if there is none.
    fn acknowledge(&mut self) -> u32;
    /// Drops the running priority after `acknowledge`; the interrupt stays active.
    fn drop_priority(&mut self, intid: u32);
    /// Deactivates an interrupt.
    fn deactivate(&mut self, intid: u32);
    /// Drops the running priority after `acknowledge` and deactivates the interrupt.
    fn end(&mut self, intid: u32) {
        self.drop_priority(intid);
        self.deactivate(intid);
    }
    /// Sets or clears the physical active state of a PPI of this core.
    fn set_ppi_active(&mut self, intid: u32, active: bool);
    /// Sends the kick SGI to another core: it leaves its guest and looks at what is asked of it.
    fn kick(&mut self, cpu: CpuIndex);
    /// Enables or disables a physical SPI and routes it to this core.
    fn set_spi_enabled(&mut self, intid: u32, enabled: bool);
    /// Configures a physical SPI that is stopped, routes it to `cpu` and enables it.
    fn start_spi(&mut self, intid: u32, cpu: CpuIndex, edge: bool);
    /// Disables a physical SPI and makes it neither pending nor active. When it returns, no core
    /// will take it any more.
    fn stop_spi(&mut self, intid: u32);
}

/// INTIDs by which EL2 itself is interrupted (Arm BSA, "PPI assignments"; the SGI is ours).
pub mod intid {
    /// EL2's kick, an SGI.
    pub const KICK: u32 = 0;
    /// GIC maintenance interrupt.
    pub const MAINTENANCE: u32 = 25;
    /// EL2 physical timer.
    pub const HYP_TIMER: u32 = 26;
    /// Virtual timer of the guest.
    pub const VIRTUAL_TIMER: u32 = 27;
    /// Physical timer of EL1.
    pub const PHYSICAL_TIMER: u32 = 30;
}

/// Time and the core itself.
pub trait Core {
    /// This core.
    fn cpu(&self) -> CpuIndex;
    /// PMCR_EL0.N of this core; 0 without a PMU.
    fn event_counters(&self) -> u64;
    /// CNTPCT_EL0.
    fn counter(&self) -> u64;
    /// Arms EL2's own timer for a counter value, or disarms it.
    fn set_deadline(&mut self, deadline: Option<u64>);
    /// Waits for an interrupt; returns with it pending, not acknowledged.
    fn idle(&mut self);
    /// Whether an interrupt waits for this core, for work that goes on until one does.
    fn interrupt_waits(&self) -> bool;
    /// Lets other cores go on while this one waits for one of them (spin hint).
    fn relax(&self);
}

/// Stage-2 tables and what TLBs cache of them.
///
/// Everything takes `&self`: tables are reached by atomic accesses, and whoever edits a VM's tables holds
/// the lock of its memory.
pub trait Translations {
    /// Reads the descriptor at `entry`, 8-byte aligned, in a frame of EL2's: one single-copy atomic load.
    fn load_descriptor(&self, entry: Pa) -> u64;
    /// Of `count` descriptors in a row, a multiple of 8, the first at `first`, all in one table: the bits in which any
    /// differs from what it would be if the first were `wanted` and each added `step` to the one before.
    fn descriptor_differences(&self, first: Pa, count: u64, wanted: u64, step: u64) -> u64;
    /// Of 64 descriptors in a row, the first at `first`, aligned to all of them: a bit for each that equals `wanted`
    /// in the bits of `mask`.
    fn equal_descriptors(&self, first: Pa, wanted: u64, mask: u64) -> u64;
    /// Writes the descriptor at `entry`: one single-copy atomic store with release order, so that
    /// a walker which sees a table descriptor also sees the table.
    fn store_descriptor(&self, entry: Pa, raw: u64);
    /// Writes `count` descriptors in a row, a multiple of 8, of a table that no walker knows yet: `value` at `first`, and
    /// each `step` above the one before. Who sees a later [`Self::store_descriptor`] also sees these.
    fn fill_descriptors(&self, first: Pa, count: u64, value: u64, step: u64);
    /// DSB ISH: accesses and walks of the guest that was left are over.
    fn complete_accesses(&self);
    /// DSB ISHST: walkers see all stores.
    fn publish_descriptors(&self);
    /// Under `vttbr`: DSB ISHST; TLBI IPAS2E1IS for each `step` bytes from `start` to `end`; DSB ISH;
    /// TLBI VMALLE1IS; DSB ISH.
    fn invalidate_leaves(&self, vttbr: u64, start: Ipa, end: Ipa, step: u64);
    /// Under `vttbr`: DSB ISHST; TLBI VMALLS12E1IS; DSB ISH.
    fn invalidate_vm(&self, vttbr: u64);
}

/// RAM of the board, by physical address. All of it is mapped at EL2 by the direct map.
pub trait BoardMemory {
    /// Takes `bytes` (a power of two, at least 4 KiB) of frames aligned to their size.
    /// Their content is undefined.
    fn allocate(&self, bytes: u64) -> Option<Pa>;
    /// Takes the `bytes` (a power of two, at least 2 MiB) at `base`, which is aligned to them, if all of
    /// them are free.
    fn allocate_at(&self, base: Pa, bytes: u64) -> bool;
    /// Gives back what `allocate` or `allocate_at` gave, or an aligned power-of-two part of it.
    fn free(&self, base: Pa, bytes: u64);
    /// Free bytes, and bytes of the largest free block.
    fn free_bytes(&self) -> (u64, u64);
    /// Copies `bytes` to RAM at `base` and does for it what [`Self::publish_code`] does. Not for memory that a
    /// guest can reach at the time.
    fn copy_in(&self, base: Pa, bytes: &[u8]);
    /// Zeroes frames and cleans and invalidates them to the point of coherency.
    fn zero(&self, base: Pa, bytes: u64);
    /// Exchanges the contents of two pages that no guest can reach meanwhile, and does for both what
    /// [`Self::publish_code`] does.
    fn exchange_pages(&self, a: Pa, b: Pa);
    /// Cleans and invalidates frames to the point of coherency and makes fetches coherent.
    fn publish_code(&self, base: Pa, bytes: u64);
}

/// The board's console and power.
pub trait Board {
    /// Writes as many bytes to the console as it has room for; returns how many.
    fn console_write(&self, bytes: &[u8]) -> usize;
    /// Reads bytes that the console received; returns how many.
    fn console_read(&self, bytes: &mut [u8]) -> usize;
    /// Powers the board off; returns if that fails.
    fn power_off(&self);
    /// Resets the board; returns if that fails.
    fn reset(&self);
}

/// A physical core with all that the core logic needs of it.
pub trait Machine:
    GuestRegisters
    + Residency
    + VirtualInterface
    + PhysicalInterrupts
    + Core
    + Translations
    + BoardMemory
    + Board
{
    /// Enters the resident vCPU and returns at an exit that neither
    /// [`exit::first_synchronous`](crate::exit::first_synchronous) nor [`exit::fast`](crate::exit::fast) ended.
    fn run(&mut self, vcpu: &mut Vcpu) -> ExitKind;

    /// Calls [`hypercall::answer`]: only the manager waits for it, so that metal compiles it apart, for size.
    ///
    /// # Errors
    /// As the call says.
    fn answer(
        &mut self,
        system: &'static System,
        call: Call,
        arguments: hypercall::Arguments,
    ) -> hypercall::Reply;
}
