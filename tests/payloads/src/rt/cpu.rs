//! vCPUs: their state, starting them and giving them work.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::fault::Guard;
use super::{gic, psci, start, sysreg, time};
use crate::{mrs, msr};

/// vCPUs at most.
pub const MAX: usize = 8;
/// Interrupts that a vCPU's log holds.
pub const LOG: usize = 64;

/// State of one vCPU.
#[derive(Debug)]
pub struct Cpu {
    /// Exceptions being probed.
    pub guard: Guard,
    /// Number of interrupts taken.
    pub irqs: AtomicU32,
    /// The first acknowledged values.
    pub log: [AtomicU32; LOG],
    /// Called with the acknowledged value before the end of interrupt; 0: none.
    pub hook: AtomicUsize,
    work: AtomicUsize,
    argument: AtomicU64,
    result: AtomicU64,
}

impl Cpu {
    const fn new() -> Self {
        Self {
            guard: Guard::new(),
            irqs: AtomicU32::new(0),
            log: [const { AtomicU32::new(0) }; LOG],
            hook: AtomicUsize::new(0),
            work: AtomicUsize::new(0),
            argument: AtomicU64::new(0),
            result: AtomicU64::new(0),
        }
    }
}

static CPUS: [Cpu; MAX] = [const { Cpu::new() }; MAX];
static AFFINITIES: [AtomicU64; MAX] = [const { AtomicU64::new(u64::MAX) }; MAX];

/// Index of this vCPU.
#[must_use]
pub fn index() -> usize {
    mrs!("tpidr_el1") as usize
}

/// This vCPU.
#[must_use]
pub fn this() -> &'static Cpu {
    &CPUS[index()]
}

/// Another vCPU.
#[must_use]
pub fn get(index: usize) -> &'static Cpu {
    &CPUS[index]
}

/// Affinity of a vCPU that has been on.
#[must_use]
pub fn affinity(index: usize) -> u64 {
    AFFINITIES[index].load(Ordering::SeqCst)
}

/// First words of a vCPU in Rust.
pub(super) fn enter(index: usize) {
    msr!("tpidr_el1", index as u64);
    AFFINITIES[index].store(sysreg::affinity(), Ordering::SeqCst);
}

/// Number of vCPUs that PSCI knows, counted along affinity level 0.
#[must_use]
pub fn count() -> usize {
    (0..MAX)
        .take_while(|&i| {
            psci::hvc(psci::AFFINITY_INFO, [i as u64, 0, 0]) != psci::INVALID_PARAMETERS
        })
        .count()
}

/// Starts vCPU `index` and waits until it serves; says whether it came.
pub fn start(index: usize) -> bool {
    CPUS[index].work.store(usize::MAX, Ordering::SeqCst);
    let answer = psci::hvc(
        psci::CPU_ON,
        [index as u64, start::secondary_entry(), index as u64],
    );
    answer == 0 && time::wait_for(2_000_000, || idle(index))
}

/// Whether vCPU `index` waits for work.
#[must_use]
pub fn idle(index: usize) -> bool {
    CPUS[index].work.load(Ordering::SeqCst) == 0
}

/// Gives vCPU `index` work without waiting for it.
pub fn give(index: usize, work: fn(u64) -> u64, argument: u64) {
    let cpu = &CPUS[index];
    cpu.argument.store(argument, Ordering::SeqCst);
    cpu.work.store((work as *const ()).addr(), Ordering::SeqCst);
    crate::insn!("sev");
}

/// Waits for the work of vCPU `index`; its result, or `None` after `microseconds`.
pub fn finish(index: usize, microseconds: u64) -> Option<u64> {
    time::wait_for(microseconds, || idle(index)).then(|| CPUS[index].result.load(Ordering::SeqCst))
}

/// Gives work and waits for its result, at most two seconds.
pub fn run(index: usize, work: fn(u64) -> u64, argument: u64) -> Option<u64> {
    give(index, work, argument);
    finish(index, 2_000_000)
}

/// Turns this vCPU off; work to give to others.
pub fn off(_: u64) -> u64 {
    sysreg::irq_off();
    psci::hvc(psci::CPU_OFF, [0; 3])
}

/// The loop of a further vCPU.
pub(super) fn serve() -> ! {
    gic::init_cpu();
    sysreg::irq_on();
    let cpu = this();
    cpu.work.store(0, Ordering::SeqCst);
    loop {
        let work = cpu.work.load(Ordering::SeqCst);
        if work == 0 {
            crate::insn!("yield");
            continue;
        }
        // SAFETY: `give` is the only writer of a nonzero value after `serve` began, and it stores
        // the address of a function of this type.
        let work = unsafe { core::mem::transmute::<usize, fn(u64) -> u64>(work) };
        let result = work(cpu.argument.load(Ordering::SeqCst));
        cpu.result.store(result, Ordering::SeqCst);
        cpu.work.store(0, Ordering::SeqCst);
    }
}
