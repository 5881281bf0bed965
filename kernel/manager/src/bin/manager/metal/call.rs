//! The hypercalls, and the memory that EL2 lends.

use alloc::vec::Vec;
use core::arch::asm;
use core::fmt::{self, Write};

use penumbra_abi::{
    AbiVersion, Call, Error, Events, GicVersion, MANAGER_WINDOW_BYTES, MANAGER_WINDOW_IPA,
    ScheduleStatus, ScheduleWindow, TrapRecord, TrapsStatus, VmStatus, WatchdogStatus,
};
use penumbra_manager::hypervisor::{
    Board, Chunk, Death, Grant, Granules, Hypervisor, Leaves, RamRequest, Register, Result,
    VcpuTime, VmId,
};

use super::death;

extern crate alloc;

/// PSCI SYSTEM_RESET (Arm DEN 0022 F, "SYSTEM_RESET").
const PSCI_SYSTEM_RESET: u64 = 0x8400_0009;
const PAGE_BYTES: u64 = 4096;
/// Where EL2 shows a page of a device: the last page of the window, which no guest's RAM reaches.
const DEVICE_WINDOW: u64 = MANAGER_WINDOW_IPA + MANAGER_WINDOW_BYTES - PAGE_BYTES;

/// Makes a call by the SMC Calling Convention (Arm DEN 0028 G) and returns X0 to X6.
fn hvc(x0: u64, args: [u64; 7]) -> [u64; 7] {
    let [a1, a2, a3, a4, a5, a6, a7] = args;
    let (r0, r1, r2, r3, r4, r5, r6);
    // SAFETY: the call changes only the registers that are named here. EL2 writes none of the
    // manager's memory in any call; what calls map and unmap lies outside everything Rust knows of,
    // except for grant windows, which `window_write` checks. Memory is not assumed unchanged.
    unsafe {
        asm!(
            "hvc #0",
            inlateout("x0") x0 => r0,
            inlateout("x1") a1 => r1,
            inlateout("x2") a2 => r2,
            inlateout("x3") a3 => r3,
            inlateout("x4") a4 => r4,
            inlateout("x5") a5 => r5,
            inlateout("x6") a6 => r6,
            inlateout("x7") a7 => _,
            lateout("x8") _, lateout("x9") _, lateout("x10") _, lateout("x11") _,
            lateout("x12") _, lateout("x13") _, lateout("x14") _, lateout("x15") _,
            lateout("x16") _, lateout("x17") _,
            options(nostack),
        );
    }
    [r0, r1, r2, r3, r4, r5, r6]
}

/// Makes one of our calls; X1 to X6 of the answer.
pub(super) fn call(call: Call, args: &[u64]) -> Result<[u64; 6]> {
    let mut regs = [0; 7];
    for (reg, arg) in regs.iter_mut().zip(args) {
        *reg = *arg;
    }
    let [x0, rest @ ..] = hvc(u64::from(call.id()), regs);
    Error::check(x0)?;
    Ok(rest)
}

pub(super) fn call1(which: Call, args: &[u64]) -> Result<u64> {
    call(which, args).map(|[x1, ..]| x1)
}

pub(super) fn call0(which: Call, args: &[u64]) -> Result<()> {
    call(which, args).map(|_| ())
}

/// Asks EL2 to start the manager again.
pub(super) fn psci_system_reset() {
    let _ = hvc(PSCI_SYSTEM_RESET, [0; 7]);
}

/// Where the manager's input lies.
pub(super) struct BootInfo {
    pub(super) bundle_ipa: u64,
    pub(super) bundle_bytes: u64,
    pub(super) tree_ipa: u64,
    pub(super) tree_bytes: u64,
}

impl BootInfo {
    /// The bundle. To be called behind `mmu::enable`.
    pub(super) fn bundle(&self) -> &'static [u8] {
        // SAFETY: what `BootInfo` says of the bundle.
        unsafe { input(self.bundle_ipa, self.bundle_bytes) }
    }

    /// The board's device tree. To be called behind `mmu::enable`.
    pub(super) fn tree(&self) -> &'static [u8] {
        // SAFETY: what `BootInfo` says of the device tree.
        unsafe { input(self.tree_ipa, self.tree_bytes) }
    }
}

/// What EL2 shows the manager at `ipa`.
///
/// # Safety
/// `BootInfo` named the range: EL2 maps it read-only for as long as the board runs, nobody writes it, and
/// `mmu` maps it read-only at the same address.
unsafe fn input(ipa: u64, bytes: u64) -> &'static [u8] {
    if bytes == 0 {
        return &[];
    }
    let start = core::ptr::with_exposed_provenance(ipa as usize);
    // SAFETY: by the contract of this function.
    unsafe { core::slice::from_raw_parts(start, bytes as usize) }
}

/// EL2, reached by `HVC`.
pub(super) struct El2 {
    /// Window ranges that are lent now: first address and first address behind.
    lent: Vec<(u64, u64)>,
    /// The board's device tree.
    tree: &'static [u8],
}

impl El2 {
    pub(super) const fn new() -> Self {
        Self {
            lent: Vec::new(),
            tree: &[],
        }
    }

    /// Notes the board's device tree.
    pub(super) fn set_tree(&mut self, tree: &'static [u8]) {
        self.tree = tree;
    }

    /// `BootInfo`.
    pub(super) fn boot_info(&mut self) -> Result<BootInfo> {
        let [bundle_ipa, bundle_bytes, tree_ipa, tree_bytes, ..] = call(Call::BootInfo, &[])?;
        Ok(BootInfo {
            bundle_ipa,
            bundle_bytes,
            tree_ipa,
            tree_bytes,
        })
    }

    /// Prints without a heap, for the beginning and the end.
    pub(super) fn print(&mut self, text: fmt::Arguments<'_>) {
        let _ = Raw(self).write_fmt(text);
    }
}

/// Prints by hypercalls alone.
struct Raw<'e>(&'e mut El2);

impl Write for Raw<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        /// A board that takes nothing so often takes nothing any more.
        const TRIES: u32 = 1_000_000;
        let mut bytes = text.as_bytes();
        let mut tries = 0;
        while !bytes.is_empty() && tries < TRIES {
            let chunk = Chunk::take(bytes);
            let taken = self
                .0
                .console_write(VmId::MANAGER, &chunk)
                .map_err(|_| fmt::Error)?;
            bytes = bytes.get(taken..).unwrap_or_default();
            tries = if taken == 0 { tries + 1 } else { 0 };
        }
        Ok(())
    }
}

/// ID_AA64MMFR0_EL1 says which granules there are besides 4 KiB.
fn granules() -> Granules {
    let id: u64;
    // SAFETY: reading an identification register has no effect.
    unsafe {
        asm!("mrs {id}, id_aa64mmfr0_el1", id = out(reg) id, options(nomem, nostack, preserves_flags));
    }
    let (tgran16, tgran64) = ((id >> 20) & 0xf, (id >> 24) & 0xf);
    Granules {
        kib16: tgran16 != 0,
        kib64: tgran64 != 0xf,
    }
}

impl Hypervisor for El2 {
    fn version(&mut self) -> Result<AbiVersion> {
        let bits = call1(Call::Version, &[])?;
        Ok(AbiVersion {
            major: (bits >> 16) as u16,
            minor: bits as u16,
        })
    }

    fn board(&mut self) -> Result<Board> {
        let [gic, cores, counter_hz, free_bytes, largest_bytes, _] = call(Call::BoardInfo, &[])?;
        let gic = GicVersion::from_bits(gic).ok_or(Error::NotSupported)?;
        let granules = granules();
        Ok(Board {
            gic,
            cores,
            counter_hz,
            free_bytes,
            largest_bytes,
            granules,
        })
    }

    fn wait(&mut self, deadline: u64) -> Result<Events> {
        call1(Call::Wait, &[deadline]).map(Events)
    }

    fn board_off(&mut self) -> Result<()> {
        call0(Call::BoardOff, &[])
    }

    fn board_reset(&mut self) -> Result<()> {
        call0(Call::BoardReset, &[])
    }

    fn board_clock(&mut self, number: u32) -> Result<u32> {
        let hz = call1(Call::BoardClock, &[u64::from(number)])?;
        Ok(u32::try_from(hz).unwrap_or(0))
    }

    fn console_read(&mut self, vm: VmId) -> Result<Chunk> {
        let [len, bytes @ ..] = call(Call::ConsoleRead, &[vm.0])?;
        Ok(Chunk::from_regs(len, bytes))
    }

    fn console_write(&mut self, vm: VmId, chunk: &Chunk) -> Result<usize> {
        let [a, b, c, d, e] = chunk.to_regs();
        let taken = call1(
            Call::ConsoleWrite,
            &[vm.0, chunk.bytes().len() as u64, a, b, c, d, e],
        )?;
        Ok(usize::try_from(taken).unwrap_or(0).min(chunk.bytes().len()))
    }

    fn vm_create(&mut self, vcpus: u64, gic: GicVersion, tag: u64) -> Result<VmId> {
        call1(Call::VmCreate, &[vcpus, gic as u64, tag]).map(VmId)
    }

    fn vm_map_ram(&mut self, vm: VmId, ram: &RamRequest) -> Result<u64> {
        let args = [
            vm.0,
            ram.ipa,
            ram.bytes,
            ram.backing as u64,
            ram.quota_bytes,
        ];
        call1(Call::VmMapRam, &args)
    }

    fn vm_stock_add(&mut self, vm: VmId) -> Result<bool> {
        call1(Call::VmStockAdd, &[vm.0]).map(|done| done != 0)
    }

    fn vm_uart(&mut self, vm: VmId, ipa: u64, intid: u64) -> Result<()> {
        call0(Call::VmUart, &[vm.0, ipa, intid])
    }

    fn vm_gic(&mut self, vm: VmId, distributor: u64, other: u64) -> Result<()> {
        call0(Call::VmGic, &[vm.0, distributor, other])
    }

    fn vm_watchdog(&mut self, vm: VmId, ipa: u64, intid: u64) -> Result<()> {
        call0(Call::VmWatchdog, &[vm.0, ipa, intid])
    }

    fn vm_watchdog_status(&mut self, vm: VmId) -> Result<WatchdogStatus> {
        call(Call::VmWatchdogStatus, &[vm.0]).map(WatchdogStatus::from_regs)
    }

    fn vcpu_pin(&mut self, vm: VmId, vcpu: u64, core: u64) -> Result<()> {
        call0(Call::VcpuPin, &[vm.0, vcpu, core])
    }

    fn grant_begin(&mut self, vm: VmId, grant: &Grant) -> Result<u64> {
        let done = call1(
            Call::GrantBegin,
            &[vm.0, grant.ipa, grant.bytes, grant.window],
        )?;
        if done >= grant.bytes {
            self.lent
                .push((grant.window, grant.window.saturating_add(grant.bytes)));
        }
        Ok(done)
    }

    fn grant_end(&mut self, vm: VmId) -> Result<bool> {
        // One VM is loaded at a time, so every loan is this VM's.
        self.lent.clear();
        call1(Call::GrantEnd, &[vm.0]).map(|done| done != 0)
    }

    fn vm_start(&mut self, vm: VmId, entry: u64, x0: u64) -> Result<()> {
        call0(Call::VmStart, &[vm.0, entry, x0])
    }

    fn vm_status(&mut self, vm: VmId) -> Result<VmStatus> {
        let regs = call(Call::VmStatus, &[vm.0])?;
        VmStatus::from_regs(regs).ok_or(Error::NotSupported)
    }

    fn vm_stop(&mut self, vm: VmId) -> Result<()> {
        call0(Call::VmStop, &[vm.0])
    }

    fn vm_destroy(&mut self, vm: VmId) -> Result<bool> {
        self.lent.clear();
        call1(Call::VmDestroy, &[vm.0]).map(|done| done != 0)
    }

    fn vcpu_register(&mut self, vm: VmId, vcpu: u64, register: Register) -> Result<u64> {
        call1(Call::VcpuRegister, &[vm.0, vcpu, register.0])
    }

    fn vcpu_counter(&mut self, vm: VmId, vcpu: u64, counter: u64) -> Result<u64> {
        call1(Call::VcpuCounter, &[vm.0, vcpu, counter])
    }

    fn vm_pause(&mut self, vm: VmId) -> Result<()> {
        call0(Call::VmPause, &[vm.0])
    }

    fn vm_resume(&mut self, vm: VmId) -> Result<()> {
        call0(Call::VmResume, &[vm.0])
    }

    fn schedule_set(&mut self, core: u64, place: u64, owner: u64, us: u64) -> Result<()> {
        call0(Call::ScheduleSet, &[core, place, owner, us])
    }

    fn schedule_install(&mut self, core: u64, windows: u64, frame_us: u64) -> Result<()> {
        call0(Call::ScheduleInstall, &[core, windows, frame_us])
    }

    fn schedule_status(&mut self, core: u64) -> Result<ScheduleStatus> {
        call(Call::ScheduleStatus, &[core]).map(ScheduleStatus::from_regs)
    }

    fn schedule_window(&mut self, core: u64, place: u64) -> Result<ScheduleWindow> {
        call(Call::ScheduleWindow, &[core, place]).map(ScheduleWindow::from_regs)
    }

    fn ram_set_aside(&mut self, base: u64, bytes: u64) -> Result<()> {
        call0(Call::RamSetAside, &[base, bytes])
    }

    fn vm_map_device(&mut self, vm: VmId, base: u64, bytes: u64) -> Result<()> {
        call0(Call::VmMapDevice, &[vm.0, base, bytes])
    }

    fn vm_assign_spi(&mut self, vm: VmId, intid: u64, physical: u64, edge: bool) -> Result<()> {
        call0(Call::VmAssignSpi, &[vm.0, intid, physical, edge.into()])
    }

    fn device_write(&mut self, vm: VmId, at: u64, value: u32) -> Result<()> {
        let offset = at % PAGE_BYTES;
        if !offset.is_multiple_of(4) {
            return Err(Error::InvalidParameter);
        }
        call0(Call::DeviceLend, &[vm.0, at - offset, DEVICE_WINDOW])?;
        let register =
            core::ptr::with_exposed_provenance_mut::<u32>((DEVICE_WINDOW + offset) as usize);
        // SAFETY: EL2 shows us the device's page there, by a stage 2 that makes it Device memory, until
        // the call below. The register is aligned, and the device belongs to no guest that runs.
        unsafe { register.write_volatile(value) };
        call0(Call::DeviceLend, &[vm.0, 0, 0])
    }

    fn board_tree(&mut self) -> &'static [u8] {
        self.tree
    }

    fn audit(&mut self) -> Result<(bool, u64)> {
        call(Call::Audit, &[]).map(|[done, differences, ..]| (done != 0, differences))
    }

    fn vcpu_time(&mut self, vm: VmId, vcpu: u64) -> Result<VcpuTime> {
        let [ran, now, core, ..] = call(Call::VcpuTime, &[vm.0, vcpu])?;
        let core = core.checked_sub(1);
        Ok(VcpuTime { ran, now, core })
    }

    fn vm_traps(&mut self, vm: VmId) -> Result<TrapsStatus> {
        call(Call::VmTraps, &[vm.0]).map(TrapsStatus::from_regs)
    }

    fn vm_trap(&mut self, vm: VmId, number: u64) -> Result<TrapRecord> {
        call(Call::VmTrap, &[vm.0, number]).map(TrapRecord::from_regs)
    }

    fn vm_leaves(&mut self, vm: VmId) -> Result<Leaves> {
        let [gib, mib2, pages, tables, runs, ..] = call(Call::VmLeaves, &[vm.0])?;
        Ok(Leaves {
            gib,
            mib2,
            pages,
            tables,
            runs,
        })
    }

    fn window_write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let end = at.checked_add(bytes.len() as u64).ok_or(Error::NotMapped)?;
        if !self
            .lent
            .iter()
            .any(|(start, behind)| *start <= at && end <= *behind)
        {
            return Err(Error::NotMapped);
        }
        let target = core::ptr::with_exposed_provenance_mut(at as usize);
        // SAFETY:
        // 1. EL2 lends this range to us now (checked above), and `mmu` maps it writable.
        // 2. Nothing that Rust knows of lies in the window, so it does not overlap `bytes`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        Ok(())
    }

    fn now(&mut self) -> u64 {
        let count: u64;
        // SAFETY: reading the counter has no effect; ISB keeps it from being read early.
        unsafe {
            asm!("isb", "mrs {count}, cntpct_el0", count = out(reg) count, options(nomem, nostack, preserves_flags));
        }
        count
    }

    fn die(&mut self, how: Death) {
        death::die(how);
    }
}
