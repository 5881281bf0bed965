//! Installation and callbacks.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock};

use penumbra_qemu_plugin::{Registers, Running, ffi};

use crate::blocks;
use crate::calls;
use crate::count::{self, Block};
use crate::report::{self, Moment, Test};

/// The interface version, read by QEMU before it installs the plugin.
#[unsafe(no_mangle)]
#[used]
static qemu_plugin_version: c_int = ffi::VERSION;

struct Options {
    out: String,
    manager: bool,
    calls: bool,
    blocks: bool,
    /// Whether code below EL2 is counted.
    guests: bool,
    /// The cores that windows count, a bit for each.
    cores: u64,
    ranges: Vec<(String, u64, u64)>,
}

struct State {
    tests: Vec<Test>,
    firsts: Vec<String>,
}

static OPTIONS: OnceLock<Options> = OnceLock::new();
static STATE: Mutex<State> = Mutex::new(State {
    tests: Vec::new(),
    firsts: Vec::new(),
});

/// Indices into [`REGISTERS`].
const CPSR: usize = 0;
const VTTBR: usize = 1;
const TPIDR: usize = 2;
const VBAR: usize = 3;
const X0: usize = 4;

static REGISTERS: Registers<{ count::CORES }, 5> = Registers::new(|name| match name {
    b"cpsr" => Some(CPSR),
    b"x0" => Some(X0),
    b"VTTBR_EL2" => Some(VTTBR),
    b"TPIDR_EL2" => Some(TPIDR),
    b"VBAR_EL2" => Some(VBAR),
    _ => None,
});

static RUNNING: Running<{ count::CORES }> = Running::new();

thread_local! {
    /// The core that runs the block of EL2 that this thread is in.
    static CORE: Cell<usize> = const { Cell::new(0) };
}

fn parse(options: &[String]) -> Result<Options, String> {
    let mut parsed = Options {
        out: "eventscope.json".into(),
        manager: false,
        calls: false,
        blocks: false,
        guests: true,
        cores: u64::MAX,
        ranges: Vec::new(),
    };
    for option in options {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "out" => parsed.out = value.into(),
            "manager" => parsed.manager = matches!(value, "on" | "true" | "yes" | ""),
            "blocks" => parsed.blocks = matches!(value, "on" | "true" | "yes" | ""),
            "calls" => parsed.calls = matches!(value, "on" | "true" | "yes" | ""),
            "guests" => parsed.guests = value != "off",
            "cores" => {
                parsed.cores = report::cores(value)
                    .ok_or(format!("eventscope: '{value}' is no list of cores"))?;
            }
            "ranges" => {
                let text = fs::read_to_string(value)
                    .map_err(|error| format!("eventscope: cannot read {value}: {error}"))?;
                for line in text.lines() {
                    let range = report::range(line);
                    parsed
                        .ranges
                        .push(range.ok_or(format!("eventscope: '{line}' is not NAME:LOW:HIGH"))?);
                }
            }
            _ => return Err(format!("eventscope: unknown option '{key}'")),
        }
    }
    Ok(parsed)
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
    let options = unsafe { penumbra_qemu_plugin::options(argc, argv) };
    match parse(&options) {
        Ok(options) => {
            if options.blocks {
                // SAFETY: this is the installation.
                unsafe { blocks::begin() };
            }
            if options.calls {
                calls::watch(options.ranges.iter().map(|(name, ..)| name.as_str()));
            }
            let _ = OPTIONS.set(options);
        }
        Err(message) => {
            eprintln!("{message}");
            return 1;
        }
    }
    if let Ok(mut state) = STATE.lock() {
        state.tests = vec![Test::default(); report::TESTS];
    }
    // SAFETY: `id` is ours and the callback has the type that QEMU wants.
    unsafe { ffi::qemu_plugin_register_vcpu_init_cb(id, vcpu_started) };
    // SAFETY: as above.
    unsafe { ffi::qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    // SAFETY: as above; no data is passed.
    unsafe { ffi::qemu_plugin_register_atexit_cb(id, finished, std::ptr::null_mut()) };
    0
}

/// Remembers the register handles of a vCPU.
extern "C" fn vcpu_started(_id: u64, core: c_uint) {
    // SAFETY: this is the callback for a new vCPU.
    unsafe { REGISTERS.remember(core as usize) };
}

/// Instruments a block: the first callback finds out its level, then each instruction counts.
extern "C" fn translated(_id: u64, tb: *mut ffi::Tb) {
    if OPTIONS.get().is_some_and(|options| options.blocks) {
        return translated_whole(tb);
    }
    // SAFETY: `tb` is valid during this callback.
    let start = unsafe { ffi::qemu_plugin_tb_vaddr(tb) };
    let range = OPTIONS
        .get()
        .and_then(|o| {
            o.ranges
                .iter()
                .position(|(_, low, high)| (*low..*high).contains(&start))
        })
        .and_then(|index| u16::try_from(index).ok())
        .unwrap_or(count::NO_RANGE);
    // A block is never freed: QEMU may run it until the end.
    let block: &'static Block = Box::leak(Box::new(Block {
        start,
        place: AtomicU8::new(count::UNKNOWN),
        range,
        exit: AtomicBool::new(false),
    }));
    let data = std::ptr::from_ref(block).cast_mut().cast::<c_void>();
    let counted = OPTIONS.get().is_some_and(|o| o.guests) || translates_el2();
    if counted {
        // SAFETY: `tb` is valid and `data` lives for ever.
        unsafe {
            ffi::qemu_plugin_register_vcpu_tb_exec_cb(tb, entered, ffi::READS_REGISTERS, data);
        };
    }
    // SAFETY: `tb` is valid.
    let insns = unsafe { ffi::qemu_plugin_tb_n_insns(tb) };
    for index in 0..insns {
        // SAFETY: the index is below the block's number of instructions.
        let insn = unsafe { ffi::qemu_plugin_tb_get_insn(tb, index) };
        if counted {
            // SAFETY: `insn` is valid and `data` lives for ever.
            unsafe {
                ffi::qemu_plugin_register_vcpu_insn_exec_cb(
                    insn,
                    executed,
                    ffi::NO_REGISTERS,
                    data,
                );
            };
        }
        // SAFETY: `insn` is valid.
        let opcode = unsafe { opcode_of(insn) };
        if report::is_hvc(opcode) && OPTIONS.get().is_some_and(|o| o.calls) {
            // SAFETY: `insn` is valid and `data` lives for ever.
            unsafe {
                ffi::qemu_plugin_register_vcpu_insn_exec_cb(
                    insn,
                    calling,
                    ffi::READS_REGISTERS,
                    data,
                );
            }
        }
        // SAFETY: `insn` is valid.
        unsafe { find_marker(insn, opcode) };
    }
}

/// Whether the block that is being translated is EL2's: it is translated because a core is about to run it.
fn translates_el2() -> bool {
    // All cores are alike, and QEMU reads the register of the one that translates.
    read_register(0, CPSR).is_none_or(|cpsr| cpsr >> 2 & 3 >= 2)
}

/// The opcode of an instruction.
///
/// # Safety
/// `insn` is valid: to be called in the callback for the translation of its block.
unsafe fn opcode_of(insn: *mut ffi::Insn) -> u32 {
    let mut opcode = [0_u8; 4];
    // SAFETY: `opcode` has the four bytes that are asked for.
    unsafe { ffi::qemu_plugin_insn_data(insn, opcode.as_mut_ptr().cast(), opcode.len()) };
    u32::from_le_bytes(opcode)
}

/// Has a callback for an instruction that is a marker.
///
/// # Safety
/// As for `opcode_of`.
unsafe fn find_marker(insn: *mut ffi::Insn, opcode: u32) {
    if let Some((test, opens)) = report::marker(opcode) {
        let data = std::ptr::without_provenance_mut(test | usize::from(opens) << 8);
        // SAFETY: `insn` is valid; the data is a number that `marked` takes apart.
        unsafe {
            ffi::qemu_plugin_register_vcpu_insn_exec_cb(insn, marked, ffi::NO_REGISTERS, data);
        };
    }
}

/// Instruments a block that counts as a whole. QEMU translates what it is about to run, so its level and VMID are the
/// vCPU's.
fn translated_whole(tb: *mut ffi::Tb) {
    let (place, new, vmid) = here(0).unwrap_or_default();
    note_first(new, vmid);
    // SAFETY: `tb` is valid.
    let insns = unsafe { ffi::qemu_plugin_tb_n_insns(tb) };
    // SAFETY: `tb` is valid.
    unsafe { blocks::count(tb, usize::from(place), insns as u64) };
    for index in 0..insns {
        // SAFETY: the index is below the block's number of instructions.
        let insn = unsafe { ffi::qemu_plugin_tb_get_insn(tb, index) };
        // SAFETY: `insn` is valid.
        let opcode = unsafe { opcode_of(insn) };
        // SAFETY: `insn` is valid.
        unsafe { find_marker(insn, opcode) };
    }
}

fn block(data: *mut c_void) -> &'static Block {
    // SAFETY: `translated` passes blocks that live for ever, and nothing else, to its callbacks.
    unsafe { &*data.cast::<Block>() }
}

fn read_register(core: usize, index: usize) -> Option<u64> {
    // SAFETY: all callers are within callbacks of that core that may read registers, or in `translated`, before
    // which QEMU has brought the registers of the core that translates up to date.
    unsafe { REGISTERS.read(core, index) }
}

/// Before a block runs: finds its level and VMID the first time, and the core each time it is EL2's.
extern "C" fn entered(core: c_uint, data: *mut c_void) {
    let (core, block) = (core as usize, block(data));
    if block.place.load(Ordering::Relaxed) == count::MANAGER {
        calls::end();
    }
    let first = block.place.load(Ordering::Relaxed) == count::UNKNOWN;
    if first {
        discover(core, block);
    }
    if !block.is_el2() {
        return;
    }
    let tpidr = read_register(core, TPIDR).unwrap_or(0);
    let core = RUNNING.core(tpidr, core, first);
    CORE.set(core);
    if block.exit.load(Ordering::Relaxed) {
        count::exit(core);
    }
}

/// Finds the level and VMID of a block that has not run before.
fn discover(core: usize, block: &Block) {
    let Some((place, new, vmid)) = here(core) else {
        return;
    };
    block.place.store(place, Ordering::Relaxed);
    let vectors = read_register(core, VBAR).unwrap_or(0);
    let exit = block.is_el2() && report::is_exit(block.start, vectors);
    block.exit.store(exit, Ordering::Relaxed);
    note_first(new, vmid);
}

/// The place of what `core` runs, whether its VMID is new, and the VMID.
fn here(core: usize) -> Option<(u8, bool, u64)> {
    let cpsr = read_register(core, CPSR)?;
    let level = u8::try_from((cpsr >> 2) & 3).unwrap_or(0);
    let vmid = read_register(core, VTTBR).map_or(0, |vttbr| vttbr >> 48);
    let (place, new) = count::place(level, u16::try_from(vmid).unwrap_or(0));
    Some((place, new, vmid))
}

fn note_first(new: bool, vmid: u64) {
    if new && let Ok(mut state) = STATE.lock() {
        let line = totals(&format!("\"first\":{vmid}"));
        state.firsts.push(line);
    }
}

/// Instructions of all cores in a place.
fn sum(place: usize) -> u64 {
    count::sum(place) + blocks::sum(place)
}

/// Before an instruction runs.
extern "C" fn executed(core: c_uint, data: *mut c_void) {
    let block = block(data);
    let core = if block.is_el2() {
        CORE.get()
    } else {
        core as usize
    };
    count::instruction(core, block);
}

/// Before an HVC runs: if it is the manager's, what follows at EL2 is this call's.
extern "C" fn calling(core: c_uint, data: *mut c_void) {
    if block(data).place.load(Ordering::Relaxed) == count::MANAGER
        && let Some(function) = read_register(core as usize, X0)
    {
        calls::begin(function);
    }
}

/// Before a marker runs.
extern "C" fn marked(_core: c_uint, data: *mut c_void) {
    let number = data.addr();
    let Some(options) = OPTIONS.get() else { return };
    let sum = |place| count::sum_on(options.cores, place) + blocks::sum(place);
    let below: u64 = (0..count::EL2).map(sum).sum();
    // Of the first VMID, which is the manager's if there is one.
    let first = if options.manager {
        [sum(0), sum(1)]
    } else {
        [0; 2]
    };
    let now = Moment {
        el2: sum(count::EL2),
        manager: first[1],
        guests: below - first[0] - first[1],
    };
    let Ok(mut state) = STATE.lock() else { return };
    let Some(test) = state.tests.get_mut(number & 0xff) else {
        return;
    };
    if number >> 8 == 1 {
        test.begin(now);
        count::forget_stays();
    } else {
        test.end(now, count::longest(options.cores));
    }
}

/// A line with the sums over all cores.
fn totals(head: &str) -> String {
    let mut line = format!("{{{head},\"el2\":{}", sum(count::EL2));
    for (index, vmid) in count::vmids().iter().enumerate() {
        let (el0, el1) = (sum(2 * index), sum(2 * index + 1));
        let _ = write!(line, ",\"vmid{vmid}_el0\":{el0},\"vmid{vmid}_el1\":{el1}");
    }
    for (index, (name, ..)) in OPTIONS
        .get()
        .iter()
        .flat_map(|o| o.ranges.iter())
        .enumerate()
    {
        let sum = count::range_sum(index);
        if sum > 0 {
            let _ = write!(line, ",\"range_{name}\":{sum}");
        }
    }
    line.push('}');
    line
}

/// At the end of the run: writes the file.
extern "C" fn finished(_id: u64, _data: *mut c_void) {
    let Ok(state) = STATE.lock() else { return };
    let mut text = String::new();
    for (number, test) in state.tests.iter().enumerate() {
        if let Some(line) = test.line(number) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    calls::write(&mut text);
    for line in &state.firsts {
        text.push_str(line);
        text.push('\n');
    }
    for core in 0..count::CORES {
        let el2 = count::of(core, count::EL2);
        let below: u64 = (0..count::EL2).map(|place| count::of(core, place)).sum();
        if el2 + below > 0 {
            let _ = writeln!(text, "{{\"core\":{core},\"el2\":{el2},\"below\":{below}}}");
        }
    }
    text.push_str(&totals("\"total\":1"));
    text.push('\n');
    if let Some(options) = OPTIONS.get()
        && let Err(error) = fs::write(&options.out, text)
    {
        eprintln!("eventscope: cannot write {}: {error}", options.out);
    }
}
