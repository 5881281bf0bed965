//! A VM: its life, its devices and its memory, shared by the cores that run its vCPUs.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use penumbra_abi::{CrashCause, StopReason, VmState};
use penumbra_vmsa::Ipa;

use crate::compound::Paging;
use crate::lock::Mutex;
use crate::memory::Memory;
use crate::pl011::Pl011;
use crate::traps::TrapLog;
use crate::vgic::{Frame, Vgic};
use crate::watchdog::{WATCHDOG_BYTES, Watchdog};

/// In a VM's life, beside its state: somebody holds its vCPUs for an edit of its tables.
const HELD: u64 = 1 << 32;

/// A VM. All zero while its number is free.
#[derive(Debug)]
// In this order: what an exit looks at is within reach of one instruction, and the large fields are last.
#[repr(C)]
pub(crate) struct Vm {
    life: AtomicU64,
    /// vCPUs it has.
    vcpus: AtomicU8,
    /// vCPUs that are on or about to be.
    pub(crate) on: AtomicU8,
    /// What the manager knows it by.
    tag: AtomicU64,
    /// VTTBR_EL2.
    vttbr: AtomicU64,
    /// [`Pl011::is_calm`], for readers without the lock.
    uart_calm: AtomicBool,
    pub(crate) devices: Devices,
    pub(crate) gic: Vgic,
    pub(crate) uart: Mutex<Uart>,
    pub(crate) watchdog: Mutex<Watchdog>,
    pub(crate) memory: Mutex<Memory>,
    pub(crate) paging: Paging,
    report: Mutex<Report>,
    pub(crate) traps: Mutex<TrapLog>,
}

/// Where the emulated devices of a VM lie. They are placed before it runs.
#[derive(Debug)]
pub(crate) struct Devices {
    /// Page number plus one; 0: not placed.
    distributor: AtomicU64,
    redistributors: AtomicU64,
    uart: AtomicU64,
    uart_intid: AtomicU32,
    watchdog: AtomicU64,
    watchdog_intid: AtomicU32,
    /// Not emulated: stage 2 maps the board's.
    cpu_interface: AtomicU64,
}

/// The UART and what its interrupt line was last set to.
#[derive(Debug)]
pub(crate) struct Uart {
    pub(crate) device: Pl011,
    pub(crate) line: bool,
}

/// What is no memory and may lie at an IPA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Distributor,
    Redistributors,
    /// GICC of a GICv2.
    CpuInterface,
    Uart,
    Watchdog,
}

/// Syndrome of the exit that stopped a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) esr: u64,
    pub(crate) far: u64,
    pub(crate) ipa: Option<Ipa>,
}

/// State of a VM, and why it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// State.
    pub(crate) state: VmState,
    /// Why it stopped.
    pub(crate) reason: StopReason,
    /// What the culprit did.
    pub(crate) cause: CrashCause,
    /// Index of the vCPU that stopped it.
    pub(crate) vcpu: u8,
}

impl Life {
    const fn new(state: VmState) -> Self {
        Self {
            state,
            reason: StopReason::None,
            cause: CrashCause::None,
            vcpu: 0,
        }
    }

    fn to_bits(self) -> u64 {
        self.state as u64
            | (self.reason as u64) << 8
            | (self.cause as u64) << 16
            | u64::from(self.vcpu) << 24
    }

    const fn from_bits(bits: u64) -> Self {
        let [state, reason, cause, vcpu, ..] = bits.to_le_bytes();
        Self {
            state: match VmState::from_bits(state as u64) {
                Some(state) => state,
                None => VmState::Free,
            },
            reason: match StopReason::from_bits(reason as u64) {
                Some(reason) => reason,
                None => StopReason::None,
            },
            cause: match CrashCause::from_bits(cause as u64) {
                Some(cause) => cause,
                None => CrashCause::None,
            },
            vcpu,
        }
    }
}

impl Vm {
    /// A free number: all zero.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self {
            life: AtomicU64::new(0),
            vcpus: AtomicU8::new(0),
            on: AtomicU8::new(0),
            tag: AtomicU64::new(0),
            vttbr: AtomicU64::new(0),
            devices: Devices {
                distributor: AtomicU64::new(0),
                redistributors: AtomicU64::new(0),
                uart: AtomicU64::new(0),
                uart_intid: AtomicU32::new(0),
                watchdog: AtomicU64::new(0),
                watchdog_intid: AtomicU32::new(0),
                cpu_interface: AtomicU64::new(0),
            },
            gic: Vgic::new(),
            uart: Mutex::new(Uart {
                device: Pl011::new(),
                line: false,
            }),
            uart_calm: AtomicBool::new(false),
            watchdog: Mutex::new(Watchdog::new()),
            memory: Mutex::new(Memory::new()),
            paging: Paging::new(),
            report: Mutex::new(Report {
                esr: 0,
                far: 0,
                ipa: None,
            }),
            traps: Mutex::new(TrapLog::new()),
        }
    }

    /// State and reason.
    #[must_use]
    pub(crate) fn life(&self) -> Life {
        Life::from_bits(self.life.load(Ordering::Acquire))
    }

    /// Whether its vCPUs may run now: it is running and not held. SeqCst: a core that has said that it holds a vCPU relies on it.
    #[inline]
    pub(crate) fn may_run(&self) -> bool {
        self.life.load(Ordering::SeqCst) & (0xff | HELD) == VmState::Running as u64
    }

    /// Whether it is running, held or not.
    pub(crate) fn is_running(&self) -> bool {
        self.life.load(Ordering::Acquire) & 0xff == VmState::Running as u64
    }

    /// Whether somebody holds it.
    pub(crate) fn is_held(&self) -> bool {
        self.life.load(Ordering::Acquire) & HELD != 0
    }

    /// Keeps its vCPUs from being entered, until [`Self::release_hold`]. Those that execute now are
    /// another matter. `false` if somebody else holds it. SeqCst: whoever asks cores afterwards may rely
    /// on their seeing it.
    pub(crate) fn try_hold(&self) -> bool {
        self.life.fetch_or(HELD, Ordering::SeqCst) & HELD == 0
    }

    /// Ends what [`Self::try_hold`] began.
    pub(crate) fn release_hold(&self) {
        self.life.fetch_and(!HELD, Ordering::SeqCst);
    }

    /// Whether it exists.
    pub(crate) fn exists(&self) -> bool {
        self.life().state != VmState::Free
    }

    /// Moves from one state to another; only one of several that try succeeds. Whether it is held does not matter.
    pub(crate) fn change(&self, from: VmState, to: VmState) -> bool {
        let changed = self
            .life
            .fetch_update(Ordering::SeqCst, Ordering::Acquire, |bits| {
                let life = Life::from_bits(bits);
                let next = Life { state: to, ..life }.to_bits() | bits & HELD;
                (life.state == from).then_some(next)
            });
        changed.is_ok()
    }

    /// Stops the VM, unless it has stopped already or never ran. Only the first reason counts.
    pub(crate) fn stop(&self, reason: StopReason, cause: CrashCause, vcpu: u8) -> bool {
        let stopped = Life {
            state: VmState::Stopped,
            reason,
            cause,
            vcpu,
        }
        .to_bits();
        let changed = self
            .life
            .fetch_update(Ordering::SeqCst, Ordering::Acquire, |bits| {
                let running = matches!(
                    Life::from_bits(bits).state,
                    VmState::Running | VmState::Paused
                );
                running.then_some(stopped | bits & HELD)
            });
        changed.is_ok()
    }

    /// [`Self::stop`] with a report of it.
    pub(crate) fn stop_with(
        &self,
        (reason, cause, vcpu): (StopReason, CrashCause, u8),
        news: Report,
    ) -> bool {
        let mut report = self.report.lock();
        let stopped = self.stop(reason, cause, vcpu);
        if stopped {
            *report = news;
        }
        stopped
    }

    /// State and report, of one moment.
    pub(crate) fn seen(&self) -> (Life, Report) {
        // Under the lock no stop comes in between.
        let report = self.report.lock();
        (self.life(), *report)
    }

    /// Sets the state whatever it was, for the only core that may touch the VM then.
    pub(crate) fn set_state(&self, state: VmState) {
        let bits = Life::new(state).to_bits();
        // The closure always gives a value.
        let _ = self
            .life
            .fetch_update(Ordering::SeqCst, Ordering::Acquire, |old| {
                Some(bits | old & HELD)
            });
    }

    /// What the manager knows it by.
    pub(crate) fn tag(&self) -> u64 {
        self.tag.load(Ordering::Relaxed)
    }

    /// Sets the number of vCPUs that are on.
    pub(crate) fn set_on(&self, count: u8) {
        self.on.store(count, Ordering::SeqCst);
    }

    /// VTTBR_EL2.
    pub(crate) fn vttbr(&self) -> u64 {
        self.vttbr.load(Ordering::Relaxed)
    }

    /// Number of vCPUs.
    #[inline]
    pub(crate) fn vcpu_count(&self) -> usize {
        usize::from(self.vcpus.load(Ordering::Relaxed))
    }

    /// Fills in what a new VM is, before it may be seen.
    pub(crate) fn set_up(&self, vcpus: usize, tag: u64, vttbr: u64) {
        self.vcpus
            .store(u8::try_from(vcpus).unwrap_or(0), Ordering::Relaxed);
        self.tag.store(tag, Ordering::Relaxed);
        self.vttbr.store(vttbr, Ordering::Relaxed);
    }

    /// Whether the UART has room for output and no input, as it was last published.
    #[inline]
    pub(crate) fn is_uart_calm(&self) -> bool {
        self.uart_calm.load(Ordering::Relaxed)
    }

    /// Publishes [`Pl011::is_calm`], under the UART's lock.
    #[inline]
    pub(crate) fn set_uart_calm(&self, calm: bool) {
        self.uart_calm.store(calm, Ordering::Relaxed);
    }

    /// Forgets devices and counters. Memory and VM number are another matter.
    pub(crate) fn clear(&self) {
        self.vcpus.store(0, Ordering::Relaxed);
        self.on.store(0, Ordering::Relaxed);
        self.tag.store(0, Ordering::Relaxed);
        self.vttbr.store(0, Ordering::Relaxed);
        for place in [
            &self.devices.distributor,
            &self.devices.redistributors,
            &self.devices.uart,
            &self.devices.watchdog,
            &self.devices.cpu_interface,
        ] {
            place.store(0, Ordering::Relaxed);
        }
        self.paging.clear();
        let mut uart = self.uart.lock();
        self.set_uart_calm(false);
        uart.device.reset();
        uart.line = false;
        drop(uart);
        *self.watchdog.lock() = Watchdog::new();
        *self.report.lock() = Report::default();
        *self.traps.lock() = TrapLog::new();
    }
}

impl Default for Vm {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes of the distributor's frame. A GICv2 distributor has 4 KiB; the rest reads as zero.
pub(crate) const DISTRIBUTOR_BYTES: u64 = 64 * 1024;
/// Bytes of one vCPU's redistributor: RD_base and SGI_base.
pub(crate) const REDISTRIBUTOR_BYTES: u64 = 128 * 1024;
/// Size of GICC of a GICv2: two pages.
pub(crate) const GICC_BYTES: u64 = 8 * 1024;
/// Bytes of the UART.
pub(crate) const UART_BYTES: u64 = 4 * 1024;

impl Devices {
    const fn slot(&self, device: Device) -> &AtomicU64 {
        match device {
            Device::Distributor => &self.distributor,
            Device::Redistributors => &self.redistributors,
            Device::CpuInterface => &self.cpu_interface,
            Device::Uart => &self.uart,
            Device::Watchdog => &self.watchdog,
        }
    }

    /// Places a device at `ipa`.
    pub(crate) fn place(&self, device: Device, ipa: Ipa) {
        self.slot(device)
            .store(ipa.raw() | PLACED, Ordering::Relaxed);
    }

    /// Sets the SPI of the UART.
    pub(crate) fn set_uart_intid(&self, intid: u32) {
        self.uart_intid.store(intid, Ordering::Relaxed);
    }

    /// The SPI of the UART.
    pub(crate) fn uart_intid(&self) -> u32 {
        self.uart_intid.load(Ordering::Relaxed)
    }

    /// Sets the SPI of the watchdog.
    pub(crate) fn set_watchdog_intid(&self, intid: u32) {
        self.watchdog_intid.store(intid, Ordering::Relaxed);
    }

    /// The SPI of the watchdog.
    pub(crate) fn watchdog_intid(&self) -> u32 {
        self.watchdog_intid.load(Ordering::Relaxed)
    }

    /// Whether an emulated device, `but` apart, interrupts by SPI `intid`.
    pub(crate) fn has_intid(&self, intid: u32, but: Option<Device>) -> bool {
        let all = [
            (Device::Uart, self.uart_intid()),
            (Device::Watchdog, self.watchdog_intid()),
        ];
        all.into_iter()
            .any(|(device, own)| Some(device) != but && own == intid && self.base(device).is_some())
    }

    /// Whether there is a watchdog.
    pub(crate) fn has_watchdog(&self) -> bool {
        self.watchdog.load(Ordering::Relaxed) != 0
    }

    /// The offset of `ipa` in the watchdog.
    pub(crate) fn find_watchdog(&self, ipa: Ipa) -> Option<u64> {
        let at = offset(&self.watchdog, ipa);
        (at < WATCHDOG_BYTES).then_some(at)
    }

    /// Where a device lies.
    pub(crate) fn base(&self, device: Device) -> Option<Ipa> {
        let value = self.slot(device).load(Ordering::Relaxed);
        (value & PLACED != 0).then(|| Ipa::truncated(value & !PLACED))
    }

    /// The offset of `ipa` in the UART.
    #[inline]
    pub(crate) fn find_uart(&self, ipa: Ipa) -> Option<u64> {
        let at = offset(&self.uart, ipa);
        (at < UART_BYTES).then_some(at)
    }

    /// The frame of the interrupt controller at `ipa`, and the offset in it.
    #[inline]
    pub(crate) fn find_gic(&self, ipa: Ipa, vcpus: usize) -> Option<(Frame, u64)> {
        let at = offset(&self.distributor, ipa);
        if at < DISTRIBUTOR_BYTES {
            return Some((Frame::Distributor, at));
        }
        let at = offset(&self.redistributors, ipa);
        let vcpus = u64::try_from(vcpus).unwrap_or(0);
        (at < REDISTRIBUTOR_BYTES.wrapping_mul(vcpus)).then_some((Frame::Redistributors, at))
    }
}

/// How far `ipa` lies behind the base of a device; beyond any device's size if that is not placed.
#[inline]
fn offset(slot: &AtomicU64, ipa: Ipa) -> u64 {
    ipa.raw()
        .wrapping_add(PLACED)
        .wrapping_sub(slot.load(Ordering::Relaxed))
}

/// Marks a device as placed, in a bit that no IPA has. Without it an offset comes out beyond any device.
const PLACED: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_seen_with_its_report_or_not_at_all() {
        const ROUNDS: u32 = 200_000;
        const ESR: u64 = 0x9200_0046;
        let vm = Vm::new();
        vm.set_state(VmState::Running);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let news = Report {
                    esr: ESR,
                    ..Report::default()
                };
                while !done.load(Ordering::Relaxed) {
                    assert!(vm.stop_with((StopReason::Crash, CrashCause::Serror, 0), news));
                    let mut report = vm.report.lock();
                    vm.set_state(VmState::Running);
                    *report = Report::default();
                }
            });
            let halves = (0..ROUNDS).filter(|_| {
                let (life, report) = vm.seen();
                (life.state == VmState::Stopped) != (report.esr == ESR)
            });
            let halves = halves.count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(halves, 0);
        });
    }

    #[test]
    fn a_hold_that_comes_or_goes_is_no_reason_to_refuse_a_change() {
        const CHANGES: u32 = 200_000;
        let vm = Vm::new();
        vm.set_state(VmState::Running);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(vm.try_hold());
                    vm.release_hold();
                }
            });
            let refused = (0..CHANGES).filter(|_| {
                let paused = vm.change(VmState::Running, VmState::Paused);
                vm.set_state(VmState::Running);
                !paused
            });
            let refused = refused.count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(refused, 0);
        });
        assert!(!vm.change(VmState::Paused, VmState::Running));
    }
}
