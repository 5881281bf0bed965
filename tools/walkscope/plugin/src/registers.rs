//! Reading registers of a vCPU from a callback that may.

use std::ffi::c_uint;

use penumbra_qemu_plugin::Registers;

use crate::state::CORES;
use penumbra_walkscope_model::Regime;

/// The registers that are read, by QEMU's names.
const NAMES: [&[u8]; 11] = [
    b"cpsr",
    b"pc",
    b"TTBR0_EL1",
    b"TTBR1_EL1",
    b"TCR_EL1",
    b"SCTLR",
    b"HCR_EL2",
    b"VTTBR_EL2",
    b"VTCR_EL2",
    b"ESR_EL2",
    b"TPIDR_EL2",
];
/// Indices into [`NAMES`].
pub(crate) const CPSR: usize = 0;
pub(crate) const PC: usize = 1;
pub(crate) const ESR_EL2: usize = 9;
pub(crate) const TPIDR_EL2: usize = 10;
const FIRST_GENERAL: usize = NAMES.len();
const COUNT: usize = FIRST_GENERAL + 31;

static REGISTERS: Registers<CORES, COUNT> = Registers::new(index_of);

fn index_of(name: &[u8]) -> Option<usize> {
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return Some(index);
    }
    let number: usize = std::str::from_utf8(name.strip_prefix(b"x")?)
        .ok()?
        .parse()
        .ok()?;
    (number < 31).then_some(FIRST_GENERAL + number)
}

/// Remembers the handles of a vCPU. Only in QEMU's callback for a new vCPU.
pub(crate) fn remember(core: usize) {
    // SAFETY: the only caller is the callback for a new vCPU.
    unsafe { REGISTERS.remember(core) };
}

/// Reads a register; 0 if the machine has none of that name. Only in callbacks that may read registers.
pub(crate) fn read(core: usize, index: usize) -> u64 {
    // SAFETY: all callers are callbacks of that core, registered to read registers.
    unsafe { REGISTERS.read(core, index) }.unwrap_or(0)
}

/// Reads a general register; register 31 is zero.
pub(crate) fn general(core: usize, number: c_uint) -> u64 {
    if number < 31 {
        read(core, FIRST_GENERAL + number as usize)
    } else {
        0
    }
}

/// Reads the translation registers.
pub(crate) fn regime(core: usize) -> Regime {
    Regime {
        ttbr: [read(core, 2), read(core, 3)],
        tcr: read(core, 4),
        sctlr: read(core, 5),
        hcr: read(core, 6),
        vttbr: read(core, 7),
        vtcr: read(core, 8),
    }
}
