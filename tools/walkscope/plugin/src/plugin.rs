//! Installation and callbacks.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use penumbra_qemu_plugin::ffi;
use penumbra_walkscope_model::{Access, Operation, Scope};

use crate::decode::{self, Kind, Written};
use crate::ram::Ram;
use crate::state::{CORES, INTERRUPT, Totals, Window};
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
    levels: [u8; CORES],
    open: Vec<Option<Totals>>,
    windows: Vec<Window>,
    out: String,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
/// The registers of a core may have changed since they were read.
static CHANGED: [AtomicBool; CORES] = [const { AtomicBool::new(true) }; CORES];
/// Page of each core's last data access, so that most callbacks end without the lock.
static LAST_PAGE: [AtomicU64; CORES] = [const { AtomicU64::new(u64::MAX) }; CORES];

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
        levels: [UNKNOWN; CORES],
        open,
        windows: Vec::new(),
        out: options.out,
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
    let (core, block) = (core as usize, block(data));
    let mut level = block.level.load(Ordering::Relaxed);
    if level == UNKNOWN {
        level = u8::try_from(registers::read(core, registers::CPSR) >> 2 & 3).unwrap_or(0);
        block.level.store(level, Ordering::Relaxed);
    }
    let Some(mut guard) = state() else { return };
    let Some(state) = guard.as_mut() else { return };
    if CHANGED
        .get(core)
        .is_some_and(|flag| flag.swap(false, Ordering::Relaxed))
    {
        let regime = registers::regime(core);
        state.scope.set_regime(core, regime);
        if let Some(vmid) = state.vmids.get_mut(core) {
            *vmid = regime.space().vmid;
        }
        forget(core);
    }
    state.count(core, level, block);
    if level >= 2 {
        return;
    }
    // Blocks are shared between virtual addresses of one frame, so the address at run time counts.
    // The kernel's upper half has no such aliases.
    let start = if level == 1 && block.start >> 55 & 1 != 0 {
        block.start
    } else {
        registers::read(core, registers::PC)
    };
    state.scope.access(core, start, Access::Fetch, &state.ram);
    let last = start + block.bytes.saturating_sub(4);
    if start / PAGE != last / PAGE {
        state.scope.access(core, last, Access::Fetch, &state.ram);
    }
}

impl State {
    /// Counts a block's instructions, and an exit if the core came from a guest.
    fn count(&mut self, core: usize, level: u8, block: &Block) {
        let vmid = self.vmids.get(core).copied().unwrap_or(0);
        let before = self
            .levels
            .get_mut(core)
            .map_or(UNKNOWN, |slot| std::mem::replace(slot, level));
        match level {
            0 | 1 => {
                let guest = self.totals.guests.entry(vmid).or_default();
                let slot = if level == 0 {
                    &mut guest.el0
                } else {
                    &mut guest.el1
                };
                *slot += block.instructions;
            }
            _ => {
                if let Some(count) = self.totals.el2.get_mut(core) {
                    *count += block.instructions;
                }
                if before < 2 {
                    // The vector says what it is; the syndrome says more of what is synchronous.
                    let reason = match block.start & 0x780 {
                        0x400 => registers::read(core, registers::ESR_EL2) >> 26 & 63,
                        0x480 | 0x500 => INTERRUPT as u64,
                        _ => INTERRUPT as u64 + 1,
                    };
                    self.totals.exit(core, usize::try_from(reason).unwrap_or(0));
                }
            }
        }
    }

    fn mark(&mut self, core: usize, test: usize, opens: bool) {
        let now = self.totals.with(&self.scope);
        let Some(slot) = self.open.get_mut(test) else {
            return;
        };
        if opens {
            *slot = Some(now);
        } else if let Some(before) = slot.take() {
            let reach = (0..self.scope.columns().len()).map(|c| self.scope.reach_bytes(c));
            self.windows.push(Window {
                test,
                core,
                vmid: self.vmids.get(core).copied().unwrap_or(0),
                totals: now.since(&before),
                reach: reach.collect(),
            });
        }
    }
}

fn forget(core: usize) {
    if let Some(page) = LAST_PAGE.get(core) {
        page.store(u64::MAX, Ordering::Relaxed);
    }
}

/// After a load or store.
extern "C" fn accessed(core: c_uint, _facts: u32, va: u64, data: *mut c_void) {
    let core = core as usize;
    if block(data).level.load(Ordering::Relaxed) >= 2 {
        return;
    }
    let Some(last) = LAST_PAGE.get(core) else {
        return;
    };
    if last.swap(va / PAGE, Ordering::Relaxed) == va / PAGE {
        return;
    }
    let Some(mut guard) = state() else { return };
    let Some(state) = guard.as_mut() else { return };
    state.scope.access(core, va, Access::Data, &state.ram);
}

/// Before an instruction of interest.
extern "C" fn executed(core: c_uint, data: *mut c_void) {
    // SAFETY: `translated` passes instructions that live for ever, and nothing else.
    let special = unsafe { &*data.cast::<Special>() };
    let core = core as usize;
    let Some(mut guard) = state() else { return };
    let Some(state) = guard.as_mut() else { return };
    let at_el1 = special.block.level.load(Ordering::Relaxed) < 2;
    match special.kind {
        Kind::Write(written) => {
            if written != Written::ContextId
                && let Some(flag) = CHANGED.get(core)
            {
                flag.store(true, Ordering::Relaxed);
            }
            if at_el1 {
                state.totals.write(written);
            }
        }
        Kind::Tlbi(register) => {
            let operand = registers::general(core, register);
            if let Some((operation, reach)) = Operation::decode(special.opcode, operand) {
                state.scope.invalidate(core, operation, reach, at_el1);
                (0..CORES).for_each(forget);
            }
            state.totals.tlbi += u64::from(at_el1);
        }
        Kind::Marker(test, opens) => state.mark(core, test, opens),
    }
}

/// At the end of the run: writes the file.
extern "C" fn finished(_id: u64, _data: *mut c_void) {
    let Some(guard) = state() else { return };
    let Some(state) = guard.as_ref() else { return };
    let text = output::json(
        &state.scope,
        &state.windows,
        &state.totals.with(&state.scope),
    );
    if let Err(error) = fs::write(&state.out, text) {
        eprintln!("walkscope: cannot write {}: {error}", state.out);
    }
}
