//! The end of a core: a record of fixed layout and one line on the console.
//!
//! An exception that EL2 takes from itself, and a panic, are errors of the hypervisor. The core writes
//! its [`Epitaph`] (symbol `penumbra_percpu`, one record per core), prints one line without the
//! formatting machinery, and stops. A second exception while reporting stops it at once.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{console, sysreg};

/// What a core died of. Fields are atomics because assembly writes them; nothing races.
#[repr(C)]
#[derive(Debug)]
pub struct Epitaph {
    /// 0: the core lives; 1: being written; [`COMPLETE`]: complete.
    pub magic: AtomicU64,
    /// Index of the vector; 0x100 for a panic.
    pub vector: AtomicU64,
    /// ESR_EL2.
    pub esr: AtomicU64,
    /// ELR_EL2.
    pub elr: AtomicU64,
    /// FAR_EL2.
    pub far: AtomicU64,
    /// SPSR_EL2.
    pub spsr: AtomicU64,
    /// X0 to X30, then SP.
    pub x: [AtomicU64; 32],
}

/// [`Epitaph::magic`] of a complete record: "EPITAPH!" in ASCII, first letter lowest.
pub const COMPLETE: u64 = u64::from_le_bytes(*b"EPITAPH!");

/// Set when any core has died; the others can see that what the core owned is lost.
static ANY_DEAD: AtomicBool = AtomicBool::new(false);

impl Epitaph {
    pub(crate) const fn new() -> Self {
        Self {
            magic: AtomicU64::new(0),
            vector: AtomicU64::new(0),
            esr: AtomicU64::new(0),
            elr: AtomicU64::new(0),
            far: AtomicU64::new(0),
            spsr: AtomicU64::new(0),
            x: [const { AtomicU64::new(0) }; 32],
        }
    }
}

/// Whether a core has died since boot.
#[must_use]
pub fn any_core_dead() -> bool {
    ANY_DEAD.load(Ordering::Relaxed)
}

/// Continues the vectors: the record is filled in, SP is the emergency stack.
#[unsafe(no_mangle)]
extern "C" fn penumbra_epitaph(epitaph: &Epitaph) -> ! {
    ANY_DEAD.store(true, Ordering::Relaxed);
    let console = console::emergency();
    console.write(b"\r\npenumbra: fatal: EL2 exception ");
    console.write_hex(epitaph.vector.load(Ordering::Relaxed));
    for (name, field) in [
        (&b" ESR="[..], &epitaph.esr),
        (b" ELR=", &epitaph.elr),
        (b" FAR=", &epitaph.far),
    ] {
        console.write(name);
        console.write_hex(field.load(Ordering::Relaxed));
    }
    console.write(b" image at ");
    console.write_hex(crate::image::start() as u64);
    console.write(b"\r\n");
    epitaph.magic.store(COMPLETE, Ordering::Release);
    stop()
}

/// Reports a panic: an invariant of EL2 is broken.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    ANY_DEAD.store(true, Ordering::Relaxed);
    let console = console::emergency();
    console.write(b"\r\npenumbra: fatal: panic");
    if let Some(location) = info.location() {
        console.write(b" at ");
        console.write(location.file().as_bytes());
        console.write(b" line ");
        console.write_hex(u64::from(location.line()));
    }
    console.write(b"\r\n");
    stop()
}

/// Stops this core for ever.
pub fn stop() -> ! {
    loop {
        sysreg::dsb_sy();
        // SAFETY: waits; interrupts are masked and nothing depends on this core any more.
        unsafe { core::arch::asm!("wfi", options(nostack, preserves_flags)) }
    }
}

/// Ends the boot with one sentence: the board powers off, so that whoever started it sees an end.
pub fn fatal(sentence: &str) -> ! {
    let console = console::emergency();
    console.write(b"penumbra: fatal: ");
    console.write(sentence.as_bytes());
    console.write(b"\r\n");
    crate::power::off();
    stop()
}
