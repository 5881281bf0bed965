//! Installation and callbacks.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use penumbra_qemu_plugin::{Running, ffi};
use penumbra_walkscope_model::{Access, BlockKey, Operation, Scope};

use crate::decode::{self, Kind, Written};
use crate::ram::Ram;
use crate::state::{CORES, FileMaps, INTERRUPT, Totals, Window};
use crate::{options, output, registers};

/// The interface version, read by QEMU before it installs the plugin.
#[unsafe(no_mangle)]
#[used]
static qemu_plugin_version: c_int = ffi::VERSION;

/// A level that is not known yet.
const UNKNOWN: u8 = u8::MAX;
const PAGE: u64 = 4096;

/// The models and what belongs to them.
struct State {
    scope: Scope,
    ram: Ram,
    totals: Totals,
    vmids: [u16; CORES],
    open: Vec<Option<Totals>>,
    windows: Vec<Window>,
    file_maps: FileMaps,
    out: String,
    progress: bool,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static RUNNING: Running<CORES> = Running::new();
static FRONTS: [Front; CORES] = [const { Front::new() }; CORES];

/// What lets most callbacks of a core end without the lock. Only the core's own thread writes it (with `-icount` one
/// thread runs all), so plain loads and stores do: an atomic exchange for each access took a fifth of the time.
struct Front {
    /// The registers may have changed since they were read.
    changed: AtomicBool,
    /// Exception level of the block before.
    level: AtomicU8,
    /// Page of the last fetch that went to the models; none at EL2.
    fetch_page: AtomicU64,
    /// Page of the last data access.
    data_page: AtomicU64,
    /// Instructions at EL0, at EL1 and above that are not in the totals yet.
    pending: [AtomicU64; 3],
}

impl Front {
    const fn new() -> Self {
        Self {
            changed: AtomicBool::new(true),
            level: AtomicU8::new(UNKNOWN),
            fetch_page: AtomicU64::new(u64::MAX),
            data_page: AtomicU64::new(u64::MAX),
            pending: [const { AtomicU64::new(0) }; 3],
        }
    }

    fn forget(&self) {
        self.fetch_page.store(u64::MAX, Ordering::Relaxed);
        self.data_page.store(u64::MAX, Ordering::Relaxed);
    }

    /// Notes instructions; whoever looks at the totals takes them.
    fn add(&self, level: u8, instructions: u64) {
        if let Some(count) = self.pending.get(usize::from(level.min(2))) {
            let sum = count.load(Ordering::Relaxed) + instructions;
            count.store(sum, Ordering::Relaxed);
        }
    }
}

/// What the plugin knows of a translation block.
struct Block {
    level: AtomicU8,
    instructions: u64,
    start: u64,
    bytes: u64,
}

/// An instruction of interest and the block that it is in.
struct Special {
    kind: Kind,
    opcode: u32,
    block: &'static Block,
}

fn state() -> Option<MutexGuard<'static, Option<State>>> {
    STATE.lock().ok()
}

/// Installs the plugin.
///
/// # Safety
/// `argv` holds `argc` C strings. QEMU calls this once.
#[unsafe(no_mangle)]
unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    let words = unsafe { penumbra_qemu_plugin::options(argc, argv) };
    if let Err(message) = prepare(&words) {
        eprintln!("{message}");
        return 1;
    }
    // SAFETY: `id` is ours and the callback has the type that QEMU wants.
    unsafe { ffi::qemu_plugin_register_vcpu_init_cb(id, vcpu_started) };
    // SAFETY: as above.
    unsafe { ffi::qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    // SAFETY: as above; no data is passed.
    unsafe { ffi::qemu_plugin_register_atexit_cb(id, finished, std::ptr::null_mut()) };
    0
}

fn prepare(words: &[String]) -> Result<(), String> {
    let options = options::parse(words)?;
    let ram = Ram::open(&options.ram, options.base)?;
    let mut scope = Scope::new(options.columns, options.smp.min(CORES));
    scope.verify = options.verify;
    // Test 0 is what comes before its closing marker: the boot.
    let mut open = vec![None; 32];
    if let Some(first) = open.first_mut() {
        *first = Some(Totals::new());
    }
    let mut state = STATE.lock().map_err(|_| "walkscope: no state")?;
    *state = Some(State {
        scope,
        ram,
        totals: Totals::new(),
        vmids: [0; CORES],
        open,
        windows: Vec::new(),
        file_maps: FileMaps::default(),
        out: options.out,
        progress: options.progress,
    });
    Ok(())
}

extern "C" fn vcpu_started(_id: u64, core: c_uint) {
    registers::remember(core as usize);
}

/// Instruments a block.
extern "C" fn translated(_id: u64, tb: *mut ffi::Tb) {
    // SAFETY: `tb` is valid during this callback.
    let start = unsafe { ffi::qemu_plugin_tb_vaddr(tb) };
    // SAFETY: as above.
    let count = unsafe { ffi::qemu_plugin_tb_n_insns(tb) };
    let instructions = u64::try_from(count).unwrap_or(0);
    // A block is never freed: QEMU may run it until the end.
    let block: &'static Block = Box::leak(Box::new(Block {
        level: AtomicU8::new(UNKNOWN),
        instructions,
        start,
        bytes: 4 * instructions,
    }));
    let data = std::ptr::from_ref(block).cast_mut().cast::<c_void>();
    // SAFETY: `tb` is valid and `data` lives for ever.
    unsafe { ffi::qemu_plugin_register_vcpu_tb_exec_cb(tb, entered, ffi::READS_REGISTERS, data) };
    for index in 0..count {
        // SAFETY: the index is below the block's number of instructions.
        let insn = unsafe { ffi::qemu_plugin_tb_get_insn(tb, index) };
        // SAFETY: `insn` is valid and `data` lives for ever.
        unsafe {
            ffi::qemu_plugin_register_vcpu_mem_cb(
                insn,
                accessed,
                ffi::NO_REGISTERS,
                ffi::LOADS_AND_STORES,
                data,
            );
        };
        let mut bytes = [0_u8; 4];
        // SAFETY: `bytes` has the four bytes that are asked for.
        unsafe { ffi::qemu_plugin_insn_data(insn, bytes.as_mut_ptr().cast(), bytes.len()) };
        let opcode = u32::from_le_bytes(bytes);
        let Some(kind) = decode::kind(opcode) else {
            continue;
        };
        let special: &'static Special = Box::leak(Box::new(Special {
            kind,
            opcode,
            block,
        }));
        let data = std::ptr::from_ref(special).cast_mut().cast::<c_void>();
        // SAFETY: `insn` is valid and `data` lives for ever.
        unsafe {
            ffi::qemu_plugin_register_vcpu_insn_exec_cb(insn, executed, ffi::READS_REGISTERS, data);
        };
    }
}

fn block(data: *mut c_void) -> &'static Block {
    // SAFETY: `translated` passes blocks that live for ever to the callbacks that call this.
    unsafe { &*data.cast::<Block>() }
}

/// Before a block runs.
extern "C" fn entered(core: c_uint, data: *mut c_void) {
    let (mut core, block) = (core as usize, block(data));
    let mut level = block.level.load(Ordering::Relaxed);
    let first = level == UNKNOWN;
    if first {
        level = u8::try_from(registers::read(core, registers::CPSR) >> 2 & 3).unwrap_or(0);
        block.level.store(level, Ordering::Relaxed);
    }
    if level >= 2 {
        core = running(core, first);
    }
    let Some(front) = FRONTS.get(core) else {
        return;
    };
    // Blocks are shared between virtual addresses of one frame, so the address at run time counts.
    // The kernel's upper half has no such aliases, and of EL2 no address is wanted.
    let start = if level >= 2 || level == 1 && block.start >> 55 & 1 != 0 {
        block.start
    } else {
        registers::read(core, registers::PC)
    };
    let last = start + block.bytes.saturating_sub(4);
    let same = |page: u64| start / PAGE == page && last / PAGE == page;
    let known = !front.changed.load(Ordering::Relaxed)
        && front.level.load(Ordering::Relaxed) == level
        && (level >= 2 || same(front.fetch_page.load(Ordering::Relaxed)));
    if known {
        front.add(level, block.instructions);
        return;
    }
    let Some(mut guard) = state() else { return };
    let Some(state) = guard.as_mut() else { return };
    if front.changed.load(Ordering::Relaxed) {
        front.changed.store(false, Ordering::Relaxed);
        state.settle(core);
        let regime = registers::regime(core);
        state.scope.set_regime(core, regime);
        if let Some(vmid) = state.vmids.get_mut(core) {
            *vmid = regime.space().vmid;
        }
        front.forget();
    }
    let before = front.level.load(Ordering::Relaxed);
    if level >= 2 && before < 2 {
        state.exit(core, block);
    }
    front.level.store(level, Ordering::Relaxed);
    front.add(level, block.instructions);
    if level >= 2 {
        return;
    }
    state.scope.access(core, start, Access::Fetch, &state.ram);
    if start / PAGE != last / PAGE {
        state.scope.access(core, last, Access::Fetch, &state.ram);
    }
    front.fetch_page.store(last / PAGE, Ordering::Relaxed);
}

/// The core that runs a block of EL2.
fn running(reported: usize, first: bool) -> usize {
    let tpidr = registers::read(reported, registers::TPIDR_EL2);
    RUNNING.core(tpidr, reported, first)
}

impl State {
    /// Adds what a core's front has counted to the totals.
    fn settle(&mut self, core: usize) {
        let Some(front) = FRONTS.get(core) else {
            return;
        };
        let [el0, el1, el2] = front
            .pending
            .each_ref()
            .map(|count| count.swap(0, Ordering::Relaxed));
        if el0 + el1 > 0 {
            let vmid = self.vmids.get(core).copied().unwrap_or(0);
            let guest = self.totals.guests.entry(vmid).or_default();
            guest.el0 += el0;
            guest.el1 += el1;
            self.totals.ran(self.scope.address_spaces(core), el0 + el1);
        }
        if let Some(count) = self.totals.el2.get_mut(core) {
            *count += el2;
        }
    }

    /// Counts an exit of a guest, at the first block of EL2.
    fn exit(&mut self, core: usize, block: &Block) {
        // The vector says what it is; the syndrome says more of what is synchronous.
        let reason = match block.start & 0x780 {
            0x400 => registers::read(core, registers::ESR_EL2) >> 26 & 63,
            0x480 | 0x500 => INTERRUPT as u64,
            _ => INTERRUPT as u64 + 1,
        };
        self.totals.exit(core, usize::try_from(reason).unwrap_or(0));
    }

    /// The totals as they stand.
    fn now(&mut self) -> Totals {
        (0..CORES).for_each(|core| self.settle(core));
        self.totals.with(&self.scope)
    }

    fn mark(&mut self, core: usize, test: usize, opens: bool) {
        let now = self.now();
        let Some(slot) = self.open.get_mut(test) else {
            return;
        };
        if opens {
            *slot = Some(now);
        } else if let Some(before) = slot.take() {
            let vmid = self.vmids.get(core).copied().unwrap_or(0);
            let columns = 0..self.scope.columns().len();
            let totals = now.since(&before);
            let shape = |key: &BlockKey| self.scope.shape(core, *key, &self.ram);
            let shapes = totals.blocks.keys().map(shape).collect();
            self.scope.forget_file_maps(core);
            self.windows.push(Window {
                test,
                core,
                vmid,
                totals,
                reach: columns.map(|c| self.scope.reach(core, c, vmid)).collect(),
                shapes,
            });
            if self.progress {
                eprintln!("walkscope: closed {test}");
            }
        }
    }
}

/// After a load or store.
extern "C" fn accessed(core: c_uint, _facts: u32, va: u64, data: *mut c_void) {
    let core = core as usize;
    if block(data).level.load(Ordering::Relaxed) >= 2 {
        return;
    }
    let Some(front) = FRONTS.get(core) else {
        return;
    };
    if front.data_page.load(Ordering::Relaxed) == va / PAGE {
        return;
    }
    front.data_page.store(va / PAGE, Ordering::Relaxed);
    let Some(mut guard) = state() else { return };
    let Some(state) = guard.as_mut() else { return };
    state.scope.access(core, va, Access::Data, &state.ram);
}

/// Before an instruction of interest.
extern "C" fn executed(core: c_uint, data: *mut c_void) {
    // SAFETY: `translated` passes instructions that live for ever, and nothing else.
    let special = unsafe { &*data.cast::<Special>() };
    let at_el1 = special.block.level.load(Ordering::Relaxed) < 2;
    let core = if at_el1 {
        core as usize
    } else {
        running(core as usize, false)
    };
    let Some(mut guard) = state() else { return };
    let Some(state) = guard.as_mut() else { return };
    match special.kind {
        Kind::Write(written) => {
            if written != Written::ContextId
                && let Some(front) = FRONTS.get(core)
            {
                front.changed.store(true, Ordering::Relaxed);
            }
            if at_el1 {
                state.totals.write(written);
            }
        }
        Kind::Tlbi(register) => {
            let operand = registers::general(core, register);
            if let Some((operation, reach)) = Operation::decode(special.opcode, operand) {
                state.scope.invalidate(core, operation, reach, at_el1);
                FRONTS.iter().for_each(Front::forget);
            }
            state.totals.tlbi += u64::from(at_el1);
        }
        Kind::Marker(test, opens) => state.mark(core, test, opens),
        Kind::FileMap => {
            let [va, bytes] = [0, 1].map(|number| registers::general(core, number));
            state.scope.file_map(core, va, bytes);
            state.file_maps.told += 1;
        }
        Kind::Call => {
            let [number, protection, flags] = [8, 2, 3].map(|n| registers::general(core, n));
            state.file_maps.made +=
                u64::from(decode::maps_file_writable(number, protection, flags));
        }
    }
}

/// At the end of the run: writes the file.
extern "C" fn finished(_id: u64, _data: *mut c_void) {
    let Some(mut guard) = state() else { return };
    let Some(state) = guard.as_mut() else { return };
    let run = state.now();
    let text = output::json(&state.scope, &state.windows, &run, state.file_maps);
    if let Err(error) = fs::write(&state.out, text) {
        eprintln!("walkscope: cannot write {}: {error}", state.out);
    }
}
