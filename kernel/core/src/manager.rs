//! VM 0, the management partition: a VM like others, but for where it comes from and what it may ask.
//!
//! Its image is part of EL2's. When it crashes it starts anew from that; guests do not notice.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use penumbra_abi::{
    ABI_VERSION, CrashCause, MANAGER_BUNDLE_IPA, MANAGER_RAM_IPA, MANAGER_TREE_IPA, MAX_VMS,
    StopReason, VmState,
};
use penumbra_paging::Mapping;
use penumbra_vmsa::{CpuIndex, Ipa, PAGE_SIZE, Pa, Stage2Attrs, VmId};

use crate::events::Source;
use crate::exit;
use crate::frames::{FRAME_BYTES, Owner};
use crate::hypercall::{create_in, pin_to};
use crate::machine::Machine;
use crate::system::{BootError, BootFacts, PaRange, System};
use crate::vcpu::{Blocked, Vcpu, VcpuId};
use crate::vm::Life;

/// Before the first restart in a row, EL2 waits so long; before each further one twice as long.
const FIRST_BACK_OFF_MS: u64 = 10;
/// Doublings of the back-off at most: a manager that always crashes is tried about every 10 s.
const MAX_DOUBLINGS: u32 = 10;
/// A manager that lived so long has come to work: its end begins a new row.
const STEADY_MS: u64 = 2000;
/// A manager that has used its core for so long without a call that was carried out hangs.
const SILENT_MS: u64 = 5000;
/// Likewise without a `Wait`, whatever else it calls: it goes in circles.
const BUSY_MS: u64 = 300_000;
/// What one look at it counts at most: a board that stood still (a debugger, a stopped emulator) has
/// made the counter jump, and that is not the manager's fault.
const LOOK_MS: u64 = 2000;

/// What EL2 remembers of the manager from one of its lives to the next. Only core 0 writes.
#[derive(Debug)]
pub(crate) struct Manager {
    /// Where its RAM is, in units of a page.
    ram: AtomicU32,
    restarts: AtomicU32,
    /// Restarts without a steady life in between.
    row: AtomicU32,
    /// Counter value at which this life begins.
    began: AtomicU64,
    /// Why the last life ended: reason in bits 7:0, cause in bits 15:8; and where.
    end: AtomicU32,
    end_pc: AtomicU64,
    /// Since the last look: a call was carried out, a `Wait` was made.
    called: AtomicBool,
    waited: AtomicBool,
    /// Core time that it had until the last look, and of that without a call and without a `Wait`.
    ran: AtomicU64,
    silent: AtomicU64,
    busy: AtomicU64,
}

impl Manager {
    pub(crate) const fn new() -> Self {
        Self {
            ram: AtomicU32::new(0),
            restarts: AtomicU32::new(0),
            row: AtomicU32::new(0),
            began: AtomicU64::new(0),
            end: AtomicU32::new(0),
            end_pc: AtomicU64::new(0),
            called: AtomicBool::new(false),
            waited: AtomicBool::new(false),
            ran: AtomicU64::new(0),
            silent: AtomicU64::new(0),
            busy: AtomicU64::new(0),
        }
    }

    /// A call of the manager was carried out.
    #[inline]
    pub(crate) fn note_call(&self) {
        self.called.store(true, Ordering::Relaxed);
    }

    /// The manager waits for events.
    #[inline]
    pub(crate) fn note_wait(&self) {
        self.waited.store(true, Ordering::Relaxed);
        self.note_call();
    }

    /// How often it was restarted.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// A life begins at counter value `at`.
    fn begin(&self, at: u64) {
        self.began.store(at, Ordering::Relaxed);
        for flag in [&self.called, &self.waited] {
            flag.store(false, Ordering::Relaxed);
        }
        for sum in [&self.silent, &self.busy] {
            sum.store(0, Ordering::Relaxed);
        }
    }

    /// A life has ended, with the manager out of its hardware.
    fn ended(&self, system: &System, life: Life, now: u64) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        let lived = now.saturating_sub(self.began.load(Ordering::Relaxed));
        let row = match lived >= ticks(system, STEADY_MS) {
            true => 0,
            false => self.row.load(Ordering::Relaxed),
        };
        self.row.store(row.saturating_add(1), Ordering::Relaxed);
        let end = u32::from(life.reason as u8) | u32::from(life.cause as u8) << 8;
        self.end.store(end, Ordering::Relaxed);
        let slot = system
            .slot(VcpuId::MANAGER)
            .and_then(|slot| slot.try_lock());
        let pc = slot.map_or(0, |vcpu| vcpu.sysregs.pc);
        self.end_pc.store(pc, Ordering::Relaxed);
    }

    fn ram(&self) -> Pa {
        Pa::truncated(u64::from(self.ram.load(Ordering::Relaxed)).saturating_mul(PAGE_SIZE))
    }
}

/// Creates VM 0 on core 0 and turns its vCPU on.
pub(crate) fn create(
    system: &'static System,
    machine: &mut impl Machine,
    facts: &BootFacts,
) -> Result<(), BootError> {
    let bytes = facts.manager_bytes;
    if !bytes.is_power_of_two() || bytes < FRAME_BYTES {
        return Err(BootError::BadFacts);
    }
    if u64::try_from(facts.manager_image.len()).map_or(true, |image| image > bytes) {
        return Err(BootError::ImageTooLarge);
    }
    let (Some(id), Some(vm)) = (VmId::new(0, MAX_VMS), system.vm(0)) else {
        return Err(BootError::BadFacts);
    };
    create_in(system, machine, (id, vm), 1, 0).map_err(|_| BootError::NoMemory)?;
    let ram = machine.allocate(bytes).ok_or(BootError::NoMemory)?;
    let page = u32::try_from(ram.raw() / PAGE_SIZE).map_err(|_| BootError::NoMemory)?;
    let owned = system
        .frames
        .move_owner(ram, bytes, Owner::Hypervisor, Owner::Vm(id));
    owned.map_err(|_| BootError::NoMemory)?;
    machine.zero(ram, bytes);
    machine.copy_in(ram, facts.manager_image);
    system.manager.ram.store(page, Ordering::Relaxed);
    {
        let mut memory = vm.memory.lock();
        let at = |ipa| Ipa::truncated(ipa);
        let ram = Mapping::new(at(MANAGER_RAM_IPA), ram, bytes, Stage2Attrs::RAM);
        memory
            .adopt(machine, ram, bytes)
            .map_err(|_| BootError::NoMemory)?;
        for (base, range) in [
            (MANAGER_BUNDLE_IPA, facts.bundle),
            (MANAGER_TREE_IPA, facts.device_tree),
        ] {
            let (pa, bytes) = range.pages();
            if bytes != 0 {
                let ipa = at(shown_at(base, pa));
                let mapping = Mapping::new(ipa, pa, bytes, Stage2Attrs::READ_ONLY);
                memory
                    .adopt(machine, mapping, 0)
                    .map_err(|_| BootError::BadFacts)?;
            }
        }
    }
    let cpu = CpuIndex::new(0, facts.cpus).ok_or(BootError::BadFacts)?;
    pin_to(system, VcpuId::MANAGER, cpu);
    turn_on(system, machine);
    if facts.console_intid != 0 {
        machine.set_spi_enabled(facts.console_intid, true);
    }
    Ok(())
}

/// Where a page at `pa` is shown: congruent in 2 MiB, so that blocks can be used.
const fn shown_at(base: u64, pa: Pa) -> u64 {
    base | pa.raw() & (FRAME_BYTES - 1)
}

/// Makes the vCPU start at its first instruction when the run loop gets to it.
fn turn_on(system: &'static System, machine: &mut impl Machine) {
    if let (Some(shared), Some(vm)) = (system.shared(VcpuId::MANAGER), system.vm(0)) {
        shared.turn_off();
        let _ = shared.request(MANAGER_RAM_IPA, ABI_VERSION.to_bits());
        vm.set_on(1);
        vm.set_state(VmState::Running);
        system.events.set_waiting(false);
        system.wake(VcpuId::MANAGER, machine);
    }
}

/// Registers beyond X0 that the manager starts with.
pub(crate) fn greet(system: &System, vcpu: &mut Vcpu, now: u64) {
    let Some(board) = system.board() else { return };
    vcpu.gpr.set(1, MANAGER_RAM_IPA);
    vcpu.gpr.set(2, board.facts.manager_bytes);
    let manager = &system.manager;
    vcpu.gpr.set(3, manager.restarts().into());
    vcpu.gpr.set(4, manager.end.load(Ordering::Relaxed).into());
    vcpu.gpr.set(5, manager.end_pc.load(Ordering::Relaxed));
    let mut begin = now;
    if let Some(doublings) = manager.row.load(Ordering::Relaxed).checked_sub(1) {
        let ms = FIRST_BACK_OFF_MS << doublings.min(MAX_DOUBLINGS);
        begin = now.saturating_add(ticks(system, ms));
        vcpu.blocked = Blocked::Restart(begin);
    }
    manager.begin(begin);
}

/// Milliseconds in counter ticks.
fn ticks(system: &System, ms: u64) -> u64 {
    let hz = system.board().map_or(0, |board| board.facts.counter_hz);
    (hz / 1000).saturating_mul(ms)
}

/// Looks whether the manager still does anything, and ends its life if not. Called on its core, about
/// once in a second in which anything runs there.
pub(crate) fn check_life(system: &'static System, machine: &mut impl Machine, now: u64) {
    let (Some(vm), Some(shared)) = (system.vm(0), system.shared(VcpuId::MANAGER)) else {
        return;
    };
    let manager = &system.manager;
    let ran = shared.ran(now);
    let used = ran.saturating_sub(manager.ran.swap(ran, Ordering::Relaxed));
    let used = used.min(ticks(system, LOOK_MS));
    let adds_up = |flag: &AtomicBool, sum: &AtomicU64, limit| {
        let before = if flag.swap(false, Ordering::Relaxed) {
            0
        } else {
            sum.load(Ordering::Relaxed)
        };
        sum.store(before.saturating_add(used), Ordering::Relaxed);
        before.saturating_add(used) >= ticks(system, limit)
    };
    let silent = adds_up(&manager.called, &manager.silent, SILENT_MS);
    let busy = adds_up(&manager.waited, &manager.busy, BUSY_MS);
    if (silent || busy) && vm.stop(StopReason::Crash, CrashCause::Hung, 0) {
        exit::announce_stop(system, 0, machine);
    }
}

/// Starts the manager anew if it has stopped, whatever the reason. Only core 0 does, with the manager
/// out of its hardware.
pub(crate) fn revive(system: &'static System, machine: &mut impl Machine) {
    let (Some(vm), Some(board)) = (system.vm(0), system.board()) else {
        return;
    };
    if machine.cpu().get() != 0 || vm.life().state != VmState::Stopped {
        return;
    }
    if let Some(id) = VmId::new(0, MAX_VMS) {
        system.events.clear(Source::Status, id);
    }
    system.manager.ended(system, vm.life(), machine.counter());
    let ram = system.manager.ram();
    machine.copy_in(ram, board.facts.manager_image);
    vm.gic.configure(board.facts.gic, 1);
    turn_on(system, machine);
}

/// Ends the manager's `Wait` if there are events or its deadline has passed.
pub(crate) fn end_wait(system: &System, vcpu: &mut Vcpu, deadline: bool) -> bool {
    let mut events = system.events.pending();
    if deadline {
        events = events.with(penumbra_abi::Events::DEADLINE);
    }
    if events.0 == 0 {
        return false;
    }
    system.events.set_waiting(false);
    vcpu.blocked = Blocked::No;
    vcpu.gpr.set(0, 0);
    vcpu.gpr.set(1, events.0);
    true
}

/// `BootInfo`: where the manager finds its input.
pub(crate) fn boot_info(system: &System) -> [u64; 6] {
    let Some(board) = system.board() else {
        return [0; 6];
    };
    let place = |base, range: PaRange| {
        let (page, bytes) = range.pages();
        if bytes == 0 {
            return (0, 0);
        }
        let offset = range.base.offset_from(page).unwrap_or(0);
        (shown_at(base, page).saturating_add(offset), range.bytes)
    };
    let (bundle, bundle_bytes) = place(MANAGER_BUNDLE_IPA, board.facts.bundle);
    let (tree, tree_bytes) = place(MANAGER_TREE_IPA, board.facts.device_tree);
    [bundle, bundle_bytes, tree, tree_bytes, 0, 0]
}
