//! What a person is told when a guest has crashed: who, where, why, and what to change.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use penumbra_abi::{CrashCause, Error, VmStatus};
use penumbra_bundle::{Guest, Key};

use crate::granted::ram_ipa;
use crate::hypervisor::{Board, Hypervisor, Register, VmId};
use crate::map::{self, Place, Region};
use crate::plan::Plan;
use crate::refusal::Line;
use crate::syndrome::Syndrome;

/// A register's value, or that EL2 would not tell.
struct Value(Option<u64>);

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "{value:016x}"),
            None => f.write_str("????????????????"),
        }
    }
}

/// The report of a crash, line by line.
pub fn crash<H: Hypervisor>(
    hv: &mut H,
    board: &Board,
    file: &str,
    guest: &Guest<'_>,
    vm: VmId,
    (status, plan): (&VmStatus, Option<&Plan<'_>>),
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |line: fmt::Arguments<'_>| lines.push(line.to_string());
    let vcpu = u64::from(status.vcpu);
    await_registers(hv, board, vm, vcpu);
    let read = |hv: &mut H, register| Value(hv.vcpu_register(vm, vcpu, register).ok());
    let name = guest.name;
    say(format_args!(
        "guest '{name}' crashed: vCPU {vcpu} {}",
        cause_text(status.cause)
    ));
    let (pc, pstate) = (read(hv, Register::PC), read(hv, Register::PSTATE));
    say(format_args!("  PC {pc}  PSTATE {pstate}"));
    let (esr, far) = (status.esr, status.far);
    say(format_args!(
        "  last exit: {} (syndrome {esr:#x})",
        Syndrome(esr)
    ));
    if status.ipa == u64::MAX {
        say(format_args!("  virtual address {far:#x}"));
    } else {
        let ipa = status.ipa;
        say(format_args!(
            "  virtual address {far:#x}, address in the guest {ipa:#x}"
        ));
        if let Some(place) = map::nearest(&regions(board, guest, plan), ipa) {
            say(format_args!("  that is {}", PlaceText(place)));
        }
    }
    for first in (0..31).step_by(4) {
        let x = [0, 1, 2, 3].map(|n: u64| first + n);
        let [a, b, c, d] = x.map(|n| read(hv, Register(n)));
        let [i, j, k, l] = x;
        if l > 30 {
            say(format_args!("  X{i:<2} {a}  X{j:<2} {b}  X{k:<2} {c}"));
        } else {
            say(format_args!(
                "  X{i:<2} {a}  X{j:<2} {b}  X{k:<2} {c}  X{l:<2} {d}"
            ));
        }
    }
    let (sp1, sp0) = (read(hv, Register::SP_EL1), read(hv, Register::SP_EL0));
    let (sctlr, vbar) = (read(hv, Register::SCTLR_EL1), read(hv, Register::VBAR_EL1));
    say(format_args!(
        "  SP_EL1 {sp1}  SP_EL0 {sp0}  SCTLR_EL1 {sctlr}"
    ));
    let (elr, far1) = (read(hv, Register::ELR_EL1), read(hv, Register::FAR_EL1));
    say(format_args!(
        "  VBAR_EL1 {vbar}  ELR_EL1 {elr}  FAR_EL1 {far1}"
    ));
    if let Some(esr1) = read(hv, Register::ESR_EL1).0 {
        say(format_args!(
            "  ESR_EL1 {esr1:016x}: the guest's own last exception was {}",
            Syndrome(esr1)
        ));
    }
    let (hint, key) = advice(status, guest);
    say(format_args!("  {hint} {}", Line::of(file, guest, key)));
    lines
}

/// The nodes of a guest's device tree that stand for addresses.
pub(crate) fn regions(board: &Board, guest: &Guest<'_>, plan: Option<&Plan<'_>>) -> Vec<Region> {
    let vcpus = u64::try_from(guest.vcpus()).unwrap_or(u64::MAX);
    let ram = (ram_ipa(guest), guest.memory_bytes);
    let mut regions = map::regions(board.gic, vcpus, ram);
    if guest.watchdog.is_some() {
        regions.extend(map::watchdog_regions());
    }
    if let Some(plan) = plan {
        regions.extend(plan.granted.regions());
    }
    regions
}

/// Gives the core that ran the vCPU a moment to save its registers.
fn await_registers<H: Hypervisor>(hv: &mut H, board: &Board, vm: VmId, vcpu: u64) {
    /// A tenth of a second is ages for that.
    const PATIENCE: u64 = 10;
    let until = hv.now().saturating_add(board.counter_hz / PATIENCE);
    while hv.vcpu_register(vm, vcpu, Register::PC) == Err(Error::BadState) {
        let now = hv.now();
        if now >= until {
            return;
        }
        let _ = hv.wait(now.saturating_add(board.counter_hz / 1000));
    }
}

pub(crate) const fn cause_text(cause: CrashCause) -> &'static str {
    match cause {
        CrashCause::None => "stopped without a cause",
        CrashCause::VectorLoop => {
            "faults for ever at its own exception vector, which is not mapped or not executable"
        }
        CrashCause::QuotaExceeded => "touched more memory than its quota allows",
        CrashCause::TableOutsideMemory => "uses translation tables that lie outside its memory",
        CrashCause::Serror => "took an SError interrupt",
        CrashCause::UnexpectedException => "took an exception that no guest can take",
        CrashCause::Hung => "used its core for long and did nothing that shows",
        CrashCause::Internal => "needs more than the hypervisor's fixed tables hold",
    }
}

/// What to change, and the key that it concerns.
fn advice(status: &VmStatus, guest: &Guest<'_>) -> (&'static str, Key) {
    let end = ram_ipa(guest).saturating_add(guest.memory_bytes);
    match status.cause {
        CrashCause::QuotaExceeded => ("to change: raise `quota`", Key::Quota),
        _ if status.ipa != u64::MAX && status.ipa >= end => (
            "it reached beyond its memory; to change: raise `memory`",
            Key::Memory,
        ),
        CrashCause::VectorLoop | CrashCause::TableOutsideMemory => (
            "to change: the payload in `kernel`, or its `cmdline`",
            Key::Kernel,
        ),
        _ => ("this guest is defined here:", Key::Guest),
    }
}

/// Where an address lies, as a clause.
pub(crate) struct PlaceText<'r>(pub(crate) Place<'r>);

impl fmt::Display for PlaceText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Place::Within(node, offset) => {
                write!(f, "{offset:#x} into node /{node} of its device tree")
            }
            Place::Behind(node, distance) => write!(
                f,
                "in no node of its device tree; the nearest, /{node}, ends {distance:#x} before"
            ),
            Place::Before(node, distance) => write!(
                f,
                "in no node of its device tree; the nearest, /{node}, begins {distance:#x} behind"
            ),
        }
    }
}
