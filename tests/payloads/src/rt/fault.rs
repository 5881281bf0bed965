//! Exceptions: recorded inside [`probe`], fatal outside; interrupts go to [`super::gic`].

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{console, cpu, gic};
use crate::{mrs, println};

/// An exception that [`probe`] recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// ELR_EL1.
    pub elr: u64,
    /// How many exceptions were taken; the other fields describe the first.
    pub count: u32,
}

/// Exception classes that payloads meet (Arm ARM DDI 0487 L.b, "ESR_EL1").
pub mod class {
    /// Unknown reason: an undefined instruction.
    pub const UNKNOWN: u64 = 0x00;
    /// Instruction abort from the current level.
    pub const FETCH: u64 = 0x21;
    /// PC alignment fault.
    pub const PC_ALIGNMENT: u64 = 0x22;
    /// Data abort from the current level.
    pub const DATA: u64 = 0x25;
}

impl Fault {
    /// The exception class.
    #[must_use]
    pub const fn class(self) -> u64 {
        self.esr >> 26
    }

    /// The fault status code of an abort.
    #[must_use]
    pub const fn status(self) -> u64 {
        self.esr & 0x3f
    }

    /// Whether this is an undefined instruction.
    #[must_use]
    pub const fn is_undefined(self) -> bool {
        self.class() == class::UNKNOWN
    }

    /// Whether this is a synchronous external abort of a data access.
    #[must_use]
    pub const fn is_external_data_abort(self) -> bool {
        self.class() == class::DATA && self.status() == 0x10
    }
}

/// What a vCPU records while it probes.
#[derive(Debug)]
pub struct Guard {
    on: AtomicU32,
    count: AtomicU32,
    esr: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
}

impl Guard {
    /// Not probing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            on: AtomicU32::new(0),
            count: AtomicU32::new(0),
            esr: AtomicU64::new(0),
            far: AtomicU64::new(0),
            elr: AtomicU64::new(0),
        }
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `action`; a synchronous exception in it is recorded and its instruction skipped, a failed
/// fetch returns to X30.
pub fn probe(action: impl FnOnce()) -> Option<Fault> {
    let guard = &cpu::this().guard;
    guard.count.store(0, Ordering::SeqCst);
    guard.on.store(1, Ordering::SeqCst);
    action();
    guard.on.store(0, Ordering::SeqCst);
    let count = guard.count.load(Ordering::SeqCst);
    (count != 0).then(|| Fault {
        esr: guard.esr.load(Ordering::SeqCst),
        far: guard.far.load(Ordering::SeqCst),
        elr: guard.elr.load(Ordering::SeqCst),
        count,
    })
}

/// Takes a value that was read for its effect.
pub fn discard<T>(_: T) {}

/// General-purpose registers and return state that the vectors saved.
#[derive(Debug)]
#[repr(C)]
struct Frame {
    x: [u64; 31],
    elr: u64,
    spsr: u64,
    reserved: u64,
}

const _: () = assert!(size_of::<Frame>() == 272);

const SYNC: u64 = 4;
const IRQ: u64 = 5;

#[unsafe(no_mangle)]
extern "C" fn payload_exception_taken(frame: &mut Frame, vector: u64) {
    match vector {
        IRQ => gic::interrupted(),
        SYNC if cpu::this().guard.on.load(Ordering::SeqCst) == 1 => record(frame),
        _ => fatal(frame, vector),
    }
}

fn record(frame: &mut Frame) {
    let guard = &cpu::this().guard;
    let esr = mrs!("esr_el1");
    if guard.count.fetch_add(1, Ordering::SeqCst) == 0 {
        guard.esr.store(esr, Ordering::SeqCst);
        guard.far.store(mrs!("far_el1"), Ordering::SeqCst);
        guard.elr.store(frame.elr, Ordering::SeqCst);
    }
    if !frame.elr.is_multiple_of(4) || matches!(esr >> 26, class::FETCH | class::PC_ALIGNMENT) {
        frame.elr = frame.x[30];
    } else {
        frame.elr += 4;
    }
    // BTYPE and the single-step state belong to the skipped instruction.
    frame.spsr &= !(3 << 10 | 1 << 21);
}

fn fatal(frame: &Frame, vector: u64) -> ! {
    console::break_lock();
    println!(
        "FAIL unexpected-exception vector {vector} esr {:#x} far {:#x} elr {:#x} x30 {:#x} vcpu {}",
        mrs!("esr_el1"),
        mrs!("far_el1"),
        frame.elr,
        frame.x[30],
        cpu::index()
    );
    console::power_off()
}
