//! EL2's own walls: its code and constants cannot be written, its data and the board's RAM cannot be
//! executed, and nothing is mapped below a stack. A debugger puts a core that has just entered EL2 at an
//! instruction that tries; EL2 must end in the exception that the architecture has for it.

use std::fs;
use std::time::Duration;

use super::guest;
use crate::case::Case;
use crate::gdb::{self, Debugger};
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(60);

/// Where an IRQ from a lower level with AArch64 enters, from the start of the vectors.
const IRQ_FROM_GUEST: u64 = 0x480;
/// Data Abort of EL2's own, from a store, and why: level 3 in both.
const STORE_PERMISSION: u64 = 0x9600_004f;
const STORE_TRANSLATION: u64 = 0x9600_0047;
/// Instruction Abort of EL2's own for lack of permission, without the level.
const FETCH_PERMISSION: u64 = 0x8600_000c;

/// An attempt: its name, the symbol at whose address it is made, what is added to that, and ESR_EL2 then.
const ATTEMPTS: [(&str, &str, u64, u64); 5] = [
    ("store-text", "penumbra_vectors", 8, STORE_PERMISSION),
    ("store-rodata", "penumbra_text_end", 8, STORE_PERMISSION),
    (
        "store-guard",
        "penumbra_stacks_start",
        0xff8,
        STORE_TRANSLATION,
    ),
    ("fetch-data", "penumbra_rodata_end", 0x40, FETCH_PERMISSION),
    (
        "fetch-ram",
        "penumbra_image_end",
        0x1000_0000,
        FETCH_PERMISSION,
    ),
];

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let case = |(way, symbol, offset, esr)| {
        let name = format!("el2-walls-{way}");
        Case::named(name, true, move |w, name| {
            attempt(w, name, (symbol, offset), esr)
        })
    };
    ATTEMPTS.into_iter().map(case).collect()
}

fn attempt(
    w: &Workshop,
    name: &str,
    (symbol, offset): (&str, u64),
    esr: u64,
) -> Result<(), String> {
    let kernel = format!(
        "cmdline = \"endless-fault\"\nkernel = \"{}\"",
        w.payload("crash").display()
    );
    let socket = w.file(&format!("{name}.gdb"));
    // One of an earlier run would be in the way.
    let _ = fs::remove_file(&socket);
    let setup = Setup {
        cores: 2,
        arguments: gdb::arguments(&socket),
        ..Setup::default()
    };
    let mut board = w.boot(name, &guest("crash", 1, "16 MiB", &kernel), &setup)?;
    board.expect("crash: endless-fault", LIMIT)?;
    let mut debugger = Debugger::attach(&socket)?;
    debugger.run_to(w.el2_symbol("penumbra_vectors")? + IRQ_FROM_GUEST)?;
    let target = w.el2_symbol(symbol)? + offset;
    if esr == FETCH_PERMISSION {
        debugger.set(gdb::PC, target)?;
    } else {
        let (store, register) = store_instruction(w)?;
        debugger.set(register, target)?;
        debugger.set(gdb::PC, store)?;
    }
    debugger.let_go()?;
    board.expect("fatal: EL2 exception", LIMIT)?;
    let line = board.until("image at", LIMIT)?;
    let field = |name: &str| {
        let (_, rest) = line.split_once(name)?;
        let hex = rest.split_whitespace().next()?;
        u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok()
    };
    let (found, far) = (field("ESR="), field("FAR="));
    // The level of a fetch's fault depends on how large the RAM's blocks are.
    let level = if esr == FETCH_PERMISSION { 3 } else { 0 };
    if found.map(|found| found & !level) != Some(esr) || far != Some(target) {
        return Err(format!(
            "an attempt at {target:#x} was to end with ESR {esr:#x}, and EL2 said:{line}"
        ));
    }
    Ok(())
}

/// The address of a `STR Xt, [Xn]` in EL2's code, and n.
fn store_instruction(w: &Workshop) -> Result<(u64, u32), String> {
    let code = fs::read(w.image()).map_err(|error| format!("cannot read the image: {error}"))?;
    let start = w.el2_symbol("penumbra_image_start")?;
    let end = w.el2_symbol("penumbra_text_end")?;
    let words = code
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word));
    let base = |word: u32| (word >> 5) & 31;
    (start..end)
        .step_by(4)
        .zip(words)
        .find(|(_, word)| word & 0xffff_fc00 == 0xf900_0000 && base(*word) != 31)
        .map(|(address, word)| (address, base(word)))
        .ok_or_else(|| "EL2's code has no such store".into())
}
