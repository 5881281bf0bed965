//! A board of the tests: cores that share RAM, time and interrupts, and guests that are lists of
//! operations instead of programs.

mod hardware;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use penumbra_abi::{Call, GicVersion};
use penumbra_paging::{Stage2, TableMemory};
use penumbra_trap::controls::{cptr, hcr};
use penumbra_vmsa::{CpuIndex, Ipa, MIB, PAGE_SIZE, Pa};

use crate::machine::*;
use crate::system::{BootFacts, Clock, MAX_KEPT_RANGES, MAX_RAM_RANGES, PaRange, System};
use crate::vcpu::Vcpu;

pub(super) const RAM: u64 = 0x4000_0000;
pub(super) const RAM_BYTES: u64 = 256 * MIB;
pub(super) const HZ: u64 = 1_000_000;
pub(super) const UART: u64 = 0x0900_0000;
pub(super) const GICD: u64 = 0x0800_0000;
pub(super) const GICR: u64 = 0x080a_0000;

/// What a guest does next.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// HVC #0 with X0 to X7.
    Hvc([u64; 8]),
    /// SMC #0 with X0.
    Smc(u64),
    /// Load of `bytes` from an IPA into X1, until stage 2 lets it through.
    Load(u64, u64),
    /// Store of X1 = value.
    Store(u64, u64, u64),
    /// A 64-bit store of X1 = value by stage 1: `(va, ipa, value)`, the IPA being what the guest's tables say.
    StoreBy(u64, u64, u64),
    /// A load whose table walk stage 2 refuses at an IPA, with a status code.
    WalkFault(u64, u64),
    /// A fetch from an IPA that stage 2 does not map.
    Fetch(u64),
    /// MSR ICC_SGI1R_EL1.
    Sgi(u64),
    /// MRS of the register (op0, op1, CRn, CRm, op2) into X1.
    Mrs([u32; 5]),
    /// MSR of the register from X1 = value.
    Msr([u32; 5], u64),
    /// Any exception class with an ISS.
    Class(u64, u64),
    Wfi,
    /// Arms the virtual timer.
    Timer(u64),
    /// Uses an FP register: V0's low half becomes the value; what it was goes to the log.
    Fp(u64),
    /// Runs for a number of ticks.
    Spin(u64),
}

/// What all cores share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pages: HashSet<u64>,
    pub(super) dirty: HashSet<u64>,
    tables: HashMap<u64, u64>,
    table_pages: HashSet<u64>,
    pub(super) now: u64,
    pub(super) system: Option<&'static System>,
    /// Cores do not answer who wants to hold a VM.
    pub(super) deaf: bool,
    /// No interrupt waits, so that a call goes on until its work is done; else it does one piece.
    pub(super) quiet: bool,
    pending: HashMap<usize, VecDeque<u32>>,
    pub(super) programs: HashMap<usize, VecDeque<Op>>,
    blocked: HashSet<usize>,
    /// X0 to X6 after each completed operation, by vCPU.
    pub(super) log: HashMap<usize, Vec<[u64; 7]>>,
    pub(super) console: Vec<u8>,
    /// How many bytes more it takes.
    pub(super) console_room: usize,
    pub(super) input: VecDeque<u8>,
    pub(super) flushes: u64,
    /// How often a core let others go on.
    pub(super) relaxed: u64,
    /// A page that TLBs hold as read-only still, by its IPA, whatever stage 2 says of it now, and how many faults of
    /// that are borne.
    pub(super) held_read_only: Option<(u64, u32)>,
    /// Physical SPIs that are enabled: the core, and whether they are edge-triggered.
    pub(super) spis: HashMap<u32, (usize, bool)>,
    pub(super) deactivated: Vec<u32>,
    /// ID_AA64MMFR0_EL1 of every core.
    mmfr0: u64,
    /// A VM that another core stops and begins to destroy while a core takes its vCPU off.
    pub(super) ambush: Option<u64>,
}

/// One core.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) shared: Arc<Mutex<Shared>>,
    cpu: CpuIndex,
    pub(super) sysregs: SysregFrame,
    pub(super) controls: Controls,
    syndrome: Syndrome,
    /// Instructions have 16 bits.
    pub(super) narrow: bool,
    pub(super) lr: [u64; 4],
    fp: u64,
    pub(super) deadline: Option<u64>,
    /// How many were taken.
    pub(super) deadlines: u64,
    pub(super) local_flushes: u64,
    pub(super) asid_flushes: Vec<u64>,
    /// PC of a store that was refused: if it has moved, the store was emulated.
    refused_at: Option<u64>,
}

/// Descriptors for the software walk of the fake itself.
struct Walk<'a>(&'a Shared);

impl TableMemory for Walk<'_> {
    fn alloc_table(&mut self) -> Option<Pa> {
        None
    }
    fn free_table(&mut self, _: Pa) {}
    fn load(&self, entry: Pa) -> u64 {
        self.0.tables.get(&entry.raw()).copied().unwrap_or(0)
    }
    fn store(&mut self, _: Pa, _: u64) {}
    fn publish(&mut self) {}
}

/// RAM, the distributor, the redistributors and the console.
fn kept() -> [PaRange; MAX_KEPT_RANGES] {
    let mut kept = [PaRange::default(); MAX_KEPT_RANGES];
    let all = [
        (RAM, 2 * RAM_BYTES),
        (GICD, 0x1_0000),
        (GICR, 0x10_0000),
        (UART, 0x1000),
    ];
    for (slot, (base, bytes)) in kept.iter_mut().zip(all) {
        let base = Pa::truncated(base);
        *slot = PaRange { base, bytes };
    }
    kept
}

/// GICV of a board with a GICv2.
const GICV: u64 = 0x0804_0000;

pub(super) fn facts(cpus: usize, gic: GicVersion) -> BootFacts {
    let mut ram = [PaRange::default(); MAX_RAM_RANGES];
    ram[0] = PaRange {
        base: Pa::truncated(RAM),
        bytes: RAM_BYTES,
    };
    BootFacts {
        cpus,
        gic,
        gicv: match gic {
            GicVersion::V2 => [GICV, GICV + PAGE_SIZE].map(Pa::truncated),
            GicVersion::V3 => [Pa::truncated(0); 2],
        },
        counter_hz: HZ,
        console_intid: 33,
        manager_image: &[0; 100],
        manager_bytes: 8 * MIB,
        bundle: PaRange {
            base: Pa::truncated(RAM + RAM_BYTES + 0x1234),
            bytes: 5000,
        },
        device_tree: PaRange {
            base: Pa::truncated(RAM + RAM_BYTES + 0x10_0000),
            bytes: 100,
        },
        ram,
        kept: kept(),
        clocks: [
            Clock {
                number: 19,
                hz: 48_000_000,
            },
            Clock::default(),
            Clock::default(),
            Clock::default(),
        ],
    }
}

/// A booted system with this interrupt controller and its cores, which have this ID_AA64MMFR0_EL1.
pub(super) fn board(cpus: usize, mmfr0: u64, gic: GicVersion) -> (&'static System, Vec<Fake>) {
    let system: &'static System = Box::leak(Box::new(System::new()));
    let shared = Arc::new(Mutex::new(Shared {
        now: 1000,
        system: Some(system),
        mmfr0,
        console_room: usize::MAX,
        ..Shared::default()
    }));
    let mut cores: Vec<Fake> = (0..cpus).map(|n| Fake::new(n, &shared)).collect();
    system.boot(&mut cores[0], &facts(cpus, gic)).unwrap();
    (system, cores)
}

impl Fake {
    fn new(cpu: usize, shared: &Arc<Mutex<Shared>>) -> Self {
        Self {
            shared: Arc::clone(shared),
            cpu: CpuIndex::new(cpu, 8).unwrap(),
            sysregs: SysregFrame::ZERO,
            controls: Controls::ZERO,
            syndrome: Syndrome::default(),
            narrow: false,
            lr: [0; 4],
            fp: 0,
            deadline: None,
            deadlines: 0,
            local_flushes: 0,
            asid_flushes: Vec::new(),
            refused_at: None,
        }
    }

    /// Adds operations to the program of vCPU number `vcpu`.
    pub(super) fn program(&self, vcpu: usize, ops: impl IntoIterator<Item = Op>) {
        self.shared
            .lock()
            .unwrap()
            .programs
            .entry(vcpu)
            .or_default()
            .extend(ops);
    }

    pub(super) fn interrupt(&self, cpu: usize, intid: u32) {
        self.shared
            .lock()
            .unwrap()
            .pending
            .entry(cpu)
            .or_default()
            .push_back(intid);
    }

    pub(super) fn log_of(&self, vcpu: usize) -> Vec<[u64; 7]> {
        self.shared
            .lock()
            .unwrap()
            .log
            .get(&vcpu)
            .cloned()
            .unwrap_or_default()
    }

    /// Lets time pass.
    pub(super) fn pass(&self, ticks: u64) {
        self.shared.lock().unwrap().now += ticks;
    }

    /// Bytes of RAM that are allocated.
    pub(super) fn used_bytes(&self) -> u64 {
        self.shared.lock().unwrap().pages.len() as u64 * PAGE_SIZE
    }

    /// Nothing is left to allocate.
    pub(super) fn use_up(&self) {
        let mut shared = self.shared.lock().unwrap();
        let first = RAM / PAGE_SIZE;
        shared.pages.extend(first..first + RAM_BYTES / PAGE_SIZE);
    }

    fn has_interrupt(&self) -> bool {
        let shared = self.shared.lock().unwrap();
        let timer = self.deadline.is_some_and(|at| shared.now >= at);
        timer
            || shared
                .pending
                .get(&self.cpu.get())
                .is_some_and(|queue| !queue.is_empty())
    }

    /// Whether the TLB holds a page as read-only, which faults.
    fn is_held_read_only(&self, page: u64) -> bool {
        let held = &mut self.shared.lock().unwrap().held_read_only;
        let Some((_, faults)) = held.as_mut().filter(|(held, _)| *held == page) else {
            return false;
        };
        *faults = faults.checked_sub(1).expect("the guest stores for ever");
        true
    }

    /// The stage-2 leaf of the resident vCPU's VM at an IPA.
    pub(super) fn leaf(&self, ipa: u64) -> Option<penumbra_paging::Leaf> {
        let shared = self.shared.lock().unwrap();
        let root = Pa::truncated(self.controls.vttbr_el2 & 0xffff_ffff_fffe);
        let stage2 = Stage2::new(root).unwrap();
        stage2.lookup(&Walk(&shared), Ipa::truncated(ipa)).ok()
    }

    /// Writes a word of the resident vCPU's VM.
    pub(super) fn write_guest(&self, ipa: u64, value: u64) {
        let pa = self.translate(ipa).unwrap();
        self.store_descriptor(Pa::truncated(pa), value);
    }

    /// Reads a word of the resident vCPU's VM.
    pub(super) fn read_guest(&self, ipa: u64) -> u64 {
        self.load_descriptor(Pa::truncated(self.translate(ipa).unwrap()))
    }

    fn translate(&self, ipa: u64) -> Option<u64> {
        let shared = self.shared.lock().unwrap();
        let root = Pa::truncated(self.controls.vttbr_el2 & 0xffff_ffff_fffe);
        let stage2 = Stage2::new(root).unwrap();
        let leaf = stage2.lookup(&Walk(&shared), Ipa::truncated(ipa)).ok()?;
        Some(leaf.pa_of(Ipa::truncated(ipa)).raw())
    }

    fn sync(&mut self, class: u64, iss: u64) -> ExitKind {
        self.syndrome.esr = class << 26 | u64::from(!self.narrow) << 25 | iss;
        ExitKind::Sync
    }

    /// A data access: done (`None`), or the exit that it makes.
    fn access(&mut self, ipa: u64, write: bool, size: u64) -> Option<ExitKind> {
        if let Some(pa) = self.translate(ipa) {
            let shared = self.shared.lock().unwrap();
            assert!(
                !shared.dirty.contains(&(pa / PAGE_SIZE)),
                "a guest sees a frame not zeroed"
            );
            return None;
        }
        self.syndrome.far = ipa;
        self.syndrome.hpfar = ipa >> 12 << 4;
        let sas = u64::from(size.trailing_zeros());
        let iss = 1 << 24 | sas << 22 | 1 << 16 | u64::from(write) << 6 | 0b00_0111;
        Some(self.sync(0x24, iss))
    }

    /// One operation of the resident vCPU: the exit that it makes, if any, and whether it is over.
    fn perform(&mut self, vcpu: &mut Vcpu, op: &Op) -> (Option<ExitKind>, bool) {
        let system = |reg: [u32; 5], read: bool| {
            let [op0, op1, crn, crm, op2] = reg;
            let rt = 1;
            u64::from(op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1)
                | u64::from(read)
        };
        let exit = match *op {
            Op::Hvc(x) => {
                for (n, value) in (0..).zip(x) {
                    vcpu.gpr.set(n, value);
                }
                self.sysregs.pc = self.sysregs.pc.wrapping_add(4);
                self.sync(0x16, 0)
            }
            Op::Smc(x0) => {
                vcpu.gpr.set(0, x0);
                self.sync(0x17, 0)
            }
            Op::Load(ipa, size) => match self.access(ipa, false, size) {
                Some(exit) => return (Some(exit), is_device(ipa)),
                None => return (None, true),
            },
            Op::Store(ipa, size, value) => {
                vcpu.gpr.set(1, value);
                match self.access(ipa, true, size) {
                    Some(exit) => return (Some(exit), is_device(ipa)),
                    None => return (None, true),
                }
            }
            Op::StoreBy(va, ipa, value) => {
                vcpu.gpr.set(1, value);
                let refused_at = self.refused_at.take();
                if refused_at.is_some_and(|pc| pc != self.sysregs.pc) {
                    return (None, true);
                }
                let is_held = self.is_held_read_only(ipa & !(PAGE_SIZE - 1));
                if self
                    .leaf(ipa)
                    .is_some_and(|leaf| leaf.attrs.access.writes() && !is_held)
                {
                    self.write_guest(ipa, value);
                    return (None, true);
                }
                self.refused_at = Some(self.sysregs.pc);
                self.syndrome.far = va;
                // UNKNOWN, architecturally.
                self.syndrome.hpfar = 0xdead_bee0;
                let iss = 1 << 24 | 3 << 22 | 1 << 16 | 1 << 6 | 0b00_1111;
                return (Some(self.sync(0x24, iss)), false);
            }
            Op::WalkFault(ipa, status) => {
                self.syndrome.hpfar = ipa >> 12 << 4;
                self.sync(0x24, 1 << 7 | status)
            }
            Op::Fetch(ipa) => {
                self.syndrome.far = ipa;
                self.syndrome.hpfar = ipa >> 12 << 4;
                self.sync(0x20, 0b00_0111)
            }
            Op::Sgi(value) => {
                vcpu.gpr.set(1, value);
                self.sync(0x18, system([3, 0, 12, 11, 5], false))
            }
            Op::Mrs(reg) => self.sync(0x18, system(reg, true)),
            Op::Msr(reg, value) => {
                vcpu.gpr.set(1, value);
                self.sync(0x18, system(reg, false))
            }
            Op::Class(class, iss) => self.sync(class, iss),
            Op::Wfi if self.controls.hcr_el2 & hcr::TWI == 0 => return (None, !self.waits()),
            Op::Wfi => self.sync(0x01, 0),
            Op::Fp(value) => {
                if self.controls.cptr_el2 & cptr::TFP != 0 {
                    return (Some(self.sync(0x07, 0)), false);
                }
                vcpu.gpr.set(1, self.fp);
                self.fp = value;
                return (None, true);
            }
            Op::Timer(at) => {
                self.sysregs.cntv_ctl_el0 = 1;
                self.sysregs.cntv_cval_el0 = at;
                return (None, true);
            }
            Op::Spin(ticks) => {
                self.shared.lock().unwrap().now += ticks;
                return (None, true);
            }
        };
        (Some(exit), true)
    }

    /// An untrapped WFI: whether it goes on waiting. Time passes.
    fn waits(&self) -> bool {
        self.shared.lock().unwrap().now += 10;
        self.lr.iter().all(|lr| lr >> 62 == 0)
    }

    fn record(&self, vcpu: &Vcpu) {
        let mut x = [0; 7];
        for (n, value) in (0..).zip(x.iter_mut()) {
            *value = vcpu.gpr.get(n);
        }
        self.shared
            .lock()
            .unwrap()
            .log
            .entry(vcpu.id.number())
            .or_default()
            .push(x);
    }

    /// The next exit of the resident vCPU.
    ///
    /// `None` at the end of its program: the guest computes for ever, and a test has seen enough.
    fn until_exit(&mut self, vcpu: &mut Vcpu) -> Option<(ExitKind, bool)> {
        assert!(self.controls.vttbr_el2 != 0 && self.controls.hcr_el2 & hcr::VM != 0);
        loop {
            if self.has_interrupt() {
                return Some((ExitKind::Irq, false));
            }
            let number = vcpu.id.number();
            let op = self
                .shared
                .lock()
                .unwrap()
                .programs
                .get(&number)
                .and_then(|p| p.front().cloned());
            let Some(op) = op else {
                self.shared.lock().unwrap().now += 100;
                return None;
            };
            let (exit, over) = self.perform(vcpu, &op);
            if over {
                let mut shared = self.shared.lock().unwrap();
                shared.programs.get_mut(&number).unwrap().pop_front();
                shared.now += 1;
            }
            match exit {
                Some(exit) => return Some((exit, over)),
                None if over => self.record(vcpu),
                None => {}
            }
        }
    }
}

/// An access to a device is over with its exit; one to memory is repeated.
fn is_device(ipa: u64) -> bool {
    ipa < RAM
}

/// HVC of a hypercall.
pub(super) fn call(call: Call, arguments: &[u64]) -> Op {
    let mut x = [0; 8];
    x[0] = call.id().into();
    x[1..=arguments.len()].copy_from_slice(arguments);
    Op::Hvc(x)
}
