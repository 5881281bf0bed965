//! The functions of QEMU's plugin interface, version 4, that our plugins call.
//!
//! Written from the interface's documentation (QEMU 10.0, "QEMU TCG Plugins"): names, arguments and
//! constants only. The symbols are resolved against the QEMU process that loads the plugin, and
//! `g_byte_array_*` against the GLib it is linked to.
#![expect(
    missing_docs,
    reason = "names, arguments and fields are QEMU's and GLib's, which document them"
)]

use std::ffi::{c_char, c_int, c_uint, c_void};

/// Interface version that QEMU 8.2 to 10.0 accept.
pub const VERSION: c_int = 4;
/// A callback that touches no registers.
pub const NO_REGISTERS: c_int = 0;
/// A callback that may read registers.
pub const READS_REGISTERS: c_int = 1;
/// An operation without a callback: adds to a counter.
pub const ADD: c_int = 0;
/// Loads and stores.
pub const LOADS_AND_STORES: c_int = 3;

/// A translation block, during translation.
#[derive(Debug)]
#[repr(C)]
pub struct Tb {
    opaque: [u8; 0],
}

/// Counters of ours, a row for each vCPU.
#[derive(Debug)]
#[repr(C)]
pub struct Scoreboard {
    opaque: [u8; 0],
}

/// A counter: its scoreboard, and its place in a row in bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Counter {
    pub scoreboard: *mut Scoreboard,
    pub offset: usize,
}

/// An instruction, during translation.
#[derive(Debug)]
#[repr(C)]
pub struct Insn {
    opaque: [u8; 0],
}

/// A register of a vCPU.
#[derive(Debug)]
#[repr(C)]
pub struct Register {
    opaque: [u8; 0],
}

/// What `qemu_plugin_get_registers` returns an array of.
#[derive(Debug)]
#[repr(C)]
pub struct RegisterDescriptor {
    pub handle: *mut Register,
    pub name: *const c_char,
    pub feature: *const c_char,
}

/// GLib's GArray, as far as it is public.
#[derive(Debug)]
#[repr(C)]
pub struct Array {
    pub data: *mut c_char,
    pub len: c_uint,
}

/// GLib's GByteArray.
#[derive(Debug)]
#[repr(C)]
pub struct ByteArray {
    pub data: *mut u8,
    pub len: c_uint,
}

/// Callback with a vCPU and a pointer of ours.
pub type ExecCallback = extern "C" fn(c_uint, *mut c_void);
/// Callback with a vCPU, facts of the access, its address and a pointer of ours.
pub type MemoryCallback = extern "C" fn(c_uint, u32, u64, *mut c_void);

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_init_cb(id: u64, callback: extern "C" fn(u64, c_uint));
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, callback: extern "C" fn(u64, *mut Tb));
    pub fn qemu_plugin_register_atexit_cb(
        id: u64,
        callback: extern "C" fn(u64, *mut c_void),
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_tb_exec_cb(
        tb: *mut Tb,
        callback: ExecCallback,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
        tb: *mut Tb,
        operation: c_int,
        counter: Counter,
        operand: u64,
    );
    pub fn qemu_plugin_scoreboard_new(element_size: usize) -> *mut Scoreboard;
    pub fn qemu_plugin_u64_sum(counter: Counter) -> u64;
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut Insn,
        callback: ExecCallback,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_mem_cb(
        insn: *mut Insn,
        callback: MemoryCallback,
        flags: c_int,
        kind: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_tb_n_insns(tb: *const Tb) -> usize;
    pub fn qemu_plugin_tb_vaddr(tb: *const Tb) -> u64;
    pub fn qemu_plugin_tb_get_insn(tb: *const Tb, index: usize) -> *mut Insn;
    pub fn qemu_plugin_insn_data(insn: *const Insn, to: *mut c_void, len: usize) -> usize;
    pub fn qemu_plugin_get_registers() -> *mut Array;
    pub fn qemu_plugin_read_register(handle: *mut Register, to: *mut ByteArray) -> c_int;
    pub fn g_byte_array_new() -> *mut ByteArray;
    pub fn g_byte_array_set_size(array: *mut ByteArray, length: c_uint) -> *mut ByteArray;
}
